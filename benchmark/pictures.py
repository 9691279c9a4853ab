"""Draw the pictures of README.md from the scripts, the results and the trained agents themselves.

python benchmark/pictures.py method        # docs/method.png: the network, and the densities that `fuse` computes
python benchmark/pictures.py learning      # docs/learning.png: the paper's three tasks, from results/*_curves.csv
python benchmark/pictures.py agents        # docs/agents.webp: films of pretrained/*.pt, side by side (5 minutes)
"""

import importlib
import sys
import tempfile
from pathlib import Path
from typing import Literal

import numpy as np
import tyro
from figures import POLICIES, RETURN, STYLE, draw_band, panels
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from report import read_results
from tables import NAMES

ROOT = Path(__file__).resolve().parent.parent
TASKS = {
    "HalfCheetah-v4": "prefpoe_continuous",
    "Ant-v4": "prefpoe_continuous",
    "LunarLander-v3": "prefpoe_lunarlander",
}
FILM = dict(skip=20, frames=90, every=2, height=200)  # steps left out, frames, steps between two, pixels


def draw_network(axis) -> None:
    """Boxes and arrows: state -> backbone -> two heads and the value -> fused policy -> action."""
    axis.set(xlim=(0, 10.4), ylim=(-0.15, 2.15))
    axis.set_axis_off()
    colors = {policy: style["color"] for policy, style in POLICIES.items()}
    boxes = [  # left, bottom, width, text, face, ink
        (0.1, 0.75, 1.0, "state $s$", "white", "black"),
        (1.6, 0.75, 1.5, "backbone", "#e4e4e4", "black"),
        (3.8, 1.5, 2.0, r"main expert $\pi_\theta$", colors["main"], "white"),
        (3.8, 0.75, 2.0, r"preference $\pi_p$", colors["pref"], "black"),
        (3.8, 0.0, 2.0, "value $V$", "#e4e4e4", "black"),
        (6.9, 1.12, 1.9, r"$\pi_f \propto \pi_\theta \, \pi_p^{\lambda}$", colors["fused"], "white"),
        (9.4, 1.12, 0.9, "action $a$", "white", "black"),
    ]
    for left, bottom, width, text, face, ink in boxes:
        shape = dict(boxstyle="round,pad=0,rounding_size=0.08", facecolor=face, edgecolor="#555555")
        axis.add_patch(FancyBboxPatch((left, bottom), width, 0.5, **shape))
        axis.text(left + width / 2, bottom + 0.25, text, ha="center", va="center", color=ink)
    arrows = [(1.1, 1.0, 1.6, 1.0), (3.1, 1.0, 3.8, 1.75), (3.1, 1.0, 3.8, 1.0), (3.1, 1.0, 3.8, 0.25)]
    arrows += [(5.8, 1.75, 6.9, 1.45), (5.8, 1.0, 6.9, 1.28), (8.8, 1.37, 9.4, 1.37)]
    for x, y, to_x, to_y in arrows:
        axis.annotate(
            "", (to_x, to_y), (x, y), arrowprops=dict(arrowstyle="-|>", color="#555555", shrinkA=0, shrinkB=0)
        )
    axis.text(7.85, 1.85, "PPO trains this policy", ha="center", va="center", fontsize="small")
    axis.text(
        6.0, 0.72, "$L_\\mathrm{pref}$ draws $\\pi_p$ to actions of high advantage,", va="center", fontsize="small"
    )
    axis.text(6.0, 0.42, "$L_\\mathrm{cons}$ keeps $\\pi_p$ and $\\pi_f$ together", va="center", fontsize="small")


def draw_method() -> Figure:
    """The network, and below it the densities of two experts and of their fused policy for three lambdas."""
    import torch

    script = importlib.import_module("prefpoe_continuous")
    figure = Figure((10.4, 5.2), dpi=110, layout="constrained")
    axes = figure.subplot_mosaic([["network"] * 3, [0.25, 1.0, 4.0]], height_ratios=(1, 1.15))
    draw_network(axes.pop("network"))
    main, pref = (script.Gaussian(*torch.tensor([[[mean]], [[std]]])) for mean, std in ((-0.4, 0.5), (0.5, 0.35)))
    action = torch.linspace(-2, 1.7, 400)[:, None]
    for lam, axis in axes.items():
        fused = script.fuse(main, pref, script.Args(lambda_pref=lam))
        for policy, style in zip((main, pref, fused), POLICIES.values(), strict=True):
            label = style["label"].replace("acting", "fused")
            axis.plot(action[:, 0], policy.log_prob(action).exp(), lw=2, **style | {"label": label})
        axis.fill_between(action[:, 0], fused.log_prob(action).exp(), color=POLICIES["fused"]["color"], alpha=0.2, lw=0)
        axis.spines[["top", "right"]].set_visible(False)
        axis.set(xlabel="action", yticks=[], ylim=(0, 2.6), ylabel="density" if lam == 0.25 else None)
        axis.set_title(rf"$\lambda = {lam:g}$, $\sigma_f = {fused.std.item():.2f}$", fontsize="medium")
    figure.legend(*axes[1.0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def draw_learning() -> Figure:
    """Return of the evaluations over training on the paper's three tasks."""
    curves = read_results(ROOT / "benchmark" / "results", "curves")
    figure, axes = panels(
        3,
        "return of 3 episodes of the mean (or likeliest) action: interquartile mean over seeds, 95 % bootstrap band",
        3.5,
        3.0,
    )
    for axis, task in zip(axes, TASKS, strict=True):
        for i, (variant, name) in enumerate([*NAMES.items()][:3]):
            style = dict(label=name, markevery=(2 * i, 6), markersize=5, **STYLE[variant])
            draw_band(axis, curves[task], variant, "eval_return", **style)
        axis.set_title(task, fontsize="medium")
        axis.set(xlabel="environment steps (millions)", ylabel=RETURN if axis is axes[0] else None)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def film(task: str, name: str) -> list:
    """Pictures of a trained agent in its first evaluation episode, each (height, height) pixels."""
    from PIL import Image

    script, pictures = importlib.import_module(name), []
    args = script.parse_args(["--evaluate", str(ROOT / "pretrained" / f"{task}.pt")])
    env = script.make_env(args, film=Path(tempfile.mkdtemp()))  # the camera and the floor of a film
    learner = script.Learner(env, args)
    learner.load(args.evaluate, args)
    act = script.torch_policy(learner.agent, args)
    obs, _ = env.reset(seed=2**30)
    for step in range(FILM["skip"] + FILM["frames"] * FILM["every"]):
        action = act(script.normalize_obs(obs[None], learner.obs_stats, args), 0.0)[0]
        if hasattr(env.action_space, "low"):
            action = action.clip(env.action_space.low, env.action_space.high)
        obs, _, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            obs, _ = env.reset()
        if step >= FILM["skip"] and step % FILM["every"] == 0:
            picture = Image.fromarray(env.render())
            side, middle = min(picture.size), picture.size[0] / 2
            box = (middle - side / 2, picture.size[1] - side, middle + side / 2, picture.size[1])
            pictures.append(picture.crop(box).resize((FILM["height"],) * 2))
    env.close()
    return pictures


def write_agents(path: Path) -> None:
    """The films side by side, as one animated picture."""
    from PIL import Image

    films = [film(task, name) for task, name in TASKS.items()]
    frames = [Image.fromarray(np.hstack([np.asarray(picture) for picture in row])) for row in zip(*films, strict=True)]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=40, loop=0, quality=60, method=6)


def main(picture: tyro.conf.Positional[Literal["method", "learning", "agents"]]) -> None:
    sys.path.insert(0, str(ROOT))
    docs = ROOT / "docs"
    docs.mkdir(exist_ok=True)
    if picture == "agents":
        write_agents(docs / "agents.webp")
    else:
        figure = draw_method() if picture == "method" else draw_learning()
        figure.savefig(docs / f"{picture}.png", metadata={"Software": None})


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
