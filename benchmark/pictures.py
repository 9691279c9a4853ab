"""Draw the pictures of README.md from the scripts, the results and the trained agents themselves.

python benchmark/pictures.py method        # docs/method.png: the network, and the densities that `fuse` computes
python benchmark/pictures.py learning      # docs/learning.png: the paper's three tasks, from results/*_curves.csv
python benchmark/pictures.py agents        # docs/agents.webp: films of pretrained/*.pt, side by side (2 minutes)
"""

import importlib
import sys
import tempfile
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import torch
import tyro
from figures import POLICIES, WIDTH, add_legend, draw_curves
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image, ImageOps
from report import RESULTS, ROOT
from tables import CLEANRL, MATCHED

sys.path.insert(0, str(ROOT))
TASKS = ("HalfCheetah-v4", "Ant-v4", "LunarLander-v3")
SKIPPED, FRAMES, HEIGHT = 20, 90, 200  # steps before the film, its frames, a frame's pixels


def draw_network(axis) -> None:
    """Boxes and arrows: state -> backbone -> two heads and the value -> fused policy -> action."""
    axis.set(xlim=(0, 10.4), ylim=(-0.1, 2.2))
    axis.set_axis_off()
    boxes = {  # text -> left, bottom, width, face, ink
        "state $s$": (0.05, 0.8, 1.15, "white", "black"),
        "backbone": (1.7, 0.8, 1.4, "#e4e4e4", "black"),
        r"main expert $\pi_\theta$": (3.7, 1.6, 2.2, POLICIES["main"]["color"], "white"),
        r"preference $\pi_p$": (3.7, 0.8, 2.2, POLICIES["pref"]["color"], "black"),
        "value $V$": (3.7, 0.0, 2.2, "#e4e4e4", "black"),
        r"fused $\pi_f \propto \pi_\theta \, \pi_p^{\lambda}$": (6.5, 1.2, 2.3, POLICIES["fused"]["color"], "white"),
        "action $a$": (9.25, 1.2, 1.1, "white", "black"),
    }
    for text, (left, bottom, width, face, ink) in boxes.items():
        axis.add_patch(Rectangle((left, bottom), width, 0.52, facecolor=face, edgecolor="#555555"))
        axis.text(left + width / 2, bottom + 0.26, text, ha="center", va="center", color=ink)
    arrows = [(1.2, 1.06, 1.7, 1.06), (3.1, 1.06, 3.7, 1.86), (3.1, 1.06, 3.7, 1.06), (3.1, 1.06, 3.7, 0.26)]
    arrows += [(5.9, 1.86, 6.5, 1.55), (5.9, 1.06, 6.5, 1.37), (8.8, 1.46, 9.25, 1.46)]
    for x, y, to_x, to_y in arrows:
        style = dict(arrowstyle="-|>", color="#555555", shrinkA=0, shrinkB=0)
        axis.annotate("", (to_x, to_y), (x, y), arrowprops=style)
    axis.text(7.65, 1.95, "PPO trains this policy", ha="center", va="center")
    axis.text(6.1, 0.7, r"$L_\mathrm{pref}$ draws $\pi_p$ to actions of high advantage", va="center", fontsize=9)
    axis.text(6.1, 0.35, r"$L_\mathrm{cons}$ keeps $\pi_p$ and $\pi_f$ together", va="center", fontsize=9)


def draw_method() -> Figure:
    """The network, and below it the densities of two experts and of their fused policy for three lambdas."""
    script = importlib.import_module("prefpoe_continuous")
    figure = Figure((WIDTH, 4.6), layout="constrained")
    axes = figure.subplot_mosaic([["network"] * 3, [0.25, 1.0, 4.0]], height_ratios=(1, 1.1))
    draw_network(axes.pop("network"))
    main = script.Gaussian(torch.tensor([[-0.4]]), torch.tensor([[0.5]]))
    pref = script.Gaussian(torch.tensor([[0.5]]), torch.tensor([[0.35]]))
    action = torch.linspace(-2, 1.7, 400)[:, None]
    for lam, axis in axes.items():
        fused = script.fuse(main, pref, script.Args(lambda_pref=lam))
        for policy, style in zip((main, pref, fused), POLICIES.values(), strict=True):
            axis.plot(action, policy.log_prob(action).exp(), lw=2, **style)
        axis.fill_between(action[:, 0], fused.log_prob(action).exp(), color=POLICIES["fused"]["color"], alpha=0.2, lw=0)
        axis.spines[["top", "right"]].set_visible(False)
        axis.set(xlabel="action", yticks=[], ylim=(0, 2.6), ylabel="density" if lam == 0.25 else None)
        axis.set_title(rf"$\lambda = {lam:g}$, $\sigma_f = {fused.std.item():.2f}$", fontsize=10)
    add_legend(figure, ncols=3)
    return figure


def draw_learning() -> Figure:
    """Return of the evaluations over training on the paper's three tasks."""
    curves = {task: pd.read_csv(RESULTS / f"{task}_curves.csv") for task in TASKS}
    figure = draw_curves(curves, [CLEANRL, MATCHED, "prefpoe"], "eval_return", "evaluation return")
    figure.axes[2].set_ylim(100, 300)  # below, all learn alike
    return figure


def film(path: Path) -> list[Image.Image]:
    """Square pictures of a trained agent in its first evaluation episode."""
    script = importlib.import_module(torch.load(path, weights_only=True)["args"]["exp_name"])
    args = script.parse_args(["--evaluate", str(path)])
    env = script.make_env(args, film=Path(tempfile.mkdtemp()))  # the camera and the floor of a film
    learner = script.Learner(env, args)
    learner.load(args.evaluate, args)
    act = script.torch_policy(learner.agent, args)
    obs, _ = env.reset(seed=2**30)
    pictures = []
    for step in range(SKIPPED + 2 * FRAMES):
        action = act(script.normalize_obs(obs[None], learner.obs_stats, args), 0.0)[0]
        if hasattr(env.action_space, "low"):
            action = action.clip(env.action_space.low, env.action_space.high)
        obs, _, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            obs, _ = env.reset()
        if step >= SKIPPED and step % 2 == 0:
            picture = Image.fromarray(env.render())
            pictures.append(ImageOps.fit(picture, (HEIGHT, HEIGHT), centering=(0.5, 1.0)))
    env.close()
    return pictures


def write_agents(path: Path) -> None:
    """The films side by side, as one animated picture."""
    films = [film(ROOT / "pretrained" / f"{task}.pt") for task in TASKS]
    frames = [Image.fromarray(np.hstack(pictures)) for pictures in zip(*films, strict=True)]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=40, loop=0, quality=60, method=6)


def main(picture: tyro.conf.Positional[Literal["method", "learning", "agents"]]) -> None:
    if picture == "agents":
        write_agents(ROOT / "docs" / "agents.webp")
    else:
        figure = draw_method() if picture == "method" else draw_learning()
        figure.savefig(ROOT / "docs" / f"{picture}.png", dpi=220, metadata={"Software": None})


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
