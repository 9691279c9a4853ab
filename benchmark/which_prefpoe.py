"""How runs on HalfCheetah-v4 end beside the agent that the authors released: numbers and figure of which-prefpoe.md.

    python benchmark/which_prefpoe.py rows PrefPoE.cleanrl_model RUN... > benchmark/results/which-prefpoe.csv
    python benchmark/which_prefpoe.py protocol PrefPoE.cleanrl_model RUN...     # returns as the authors evaluate
    python benchmark/which_prefpoe.py figure PrefPoE.cleanrl_model     # which-prefpoe.png, from the committed curves

A row is a checkpoint: the released weights, a run's last, or one of RUN/snapshots/<step>.pt. Means are compared on the
states of two episodes of the fused mean; the released weights come without statistics of observations, so those are
gathered over two episodes before. `moved` is the distance of a layer from its initial weights by the run's seed.
"""

import math
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pandas as pd
import torch
import tyro
from figures import POLICIES, WIDTH, add_legend, panels
from report import RESULTS, ROOT, read_config
from tyro.conf import Positional

sys.path.insert(0, str(ROOT))
import prefpoe_continuous as script

LAYERS = ("backbone.0", "backbone.2", "actor_mean", "preference_mean", "critic")
NEAREST = "prefpoe-w-cons-0.0083-w-pref-0.2-beta1-0.3"


def load(path: Path) -> tuple[dict[str, np.ndarray], dict | None]:
    """Weights by name, and statistics of observations, which the released agent lacks."""
    state = script.load_checkpoint(str(path))
    return {name: x.double().numpy() for name, x in state["agent"].items()}, state.get("obs_stats")


def precisions(weights: dict) -> tuple[np.ndarray, np.ndarray]:
    """1 / variance of the main expert and of the preference: (6,), (6,)."""
    return np.exp(weights["actor_logstd"][0]) ** -2, np.exp(weights["preference_logstd"][0]).clip(1e-3, 2) ** -2


def initial(seed: int) -> dict[str, np.ndarray]:
    """The layers of the backbone and the critic as `--seed` initialises them."""
    torch.manual_seed(seed)
    agent = script.Agent(17, gym.spaces.Box(-1, 1, (6,)), script.Args())
    layers = ("backbone.0", "backbone.2", "critic")
    return {layer: agent.get_submodule(layer).weight.detach().double().numpy() for layer in layers}


def episodes(weights: dict, stats: dict | None, seeds: range) -> tuple[list[float], np.ndarray]:
    """Returns of the fused mean, and the experts' means (steps, 2, 6); without stats they are gathered meanwhile.

    In float64, unlike the scripts: another rounding gives other returns, and those of the page were computed so.
    """
    precision_main, precision_pref = precisions(weights)
    running = script.RunningMeanStd((17,))
    if stats:
        vars(running).update({name: x.numpy() for name, x in stats.items()})
    means = []
    returns = []
    env = gym.make("HalfCheetah-v4")
    for seed in seeds:
        obs, _ = env.reset(seed=seed)
        returns.append(0.0)
        for _ in range(1000):
            if not stats:
                running.update(obs[None])
            hidden = ((obs - running.mean) / np.sqrt(running.m2 / running.count + 1e-8)).clip(-10, 10)
            for layer in ("backbone.0", "backbone.2"):
                hidden = np.tanh(weights[f"{layer}.weight"] @ hidden + weights[f"{layer}.bias"])
            main = np.tanh(weights["actor_mean.weight"] @ hidden + weights["actor_mean.bias"])
            pref = np.tanh(weights["preference_mean.weight"] @ hidden + weights["preference_mean.bias"])
            means.append((main, pref))
            fused = (main * precision_main + pref * precision_pref) / (precision_main + precision_pref)
            obs, reward, *_ = env.step(fused)
            returns[-1] += reward
    return returns, np.array(means)


def measure(path: Path, seed: int) -> dict[str, float]:
    weights, stats = load(path)
    precision_main, precision_pref = precisions(weights)
    returns, means = episodes(weights, stats, range(100, 102 if stats else 104))
    main, pref = means[-2000:].swapaxes(0, 1)
    row = {f"past_bound_{i}": 1e3 * (x - math.log(2)) for i, x in enumerate(weights["preference_logstd"][0])}
    row |= {f"sigma_{i}": x**-0.5 for i, x in enumerate(precision_main)}
    row["trace_fused"] = (1 / (precision_main + precision_pref)).sum()
    row["apart"] = np.abs(main - pref).mean() / 2
    row |= {f"slope_{i}": np.polyfit(main[:, i], pref[:, i], 1)[0] for i in range(6)}
    row |= {f"norm_{layer}": np.linalg.norm(weights[f"{layer}.weight"]) for layer in LAYERS}
    before = initial(seed)
    for layer in ("backbone.0", "backbone.2"):
        row[f"moved_{layer}"] = np.linalg.norm(weights[f"{layer}.weight"] - before[layer])
        row[f"bias_{layer}"] = np.linalg.norm(weights[f"{layer}.bias"])
    return row | {"return": np.mean(returns[-2:])}


def rows(released: Positional[Path], runs: Positional[tuple[Path, ...]] = ()) -> None:
    """The released agent's figures and those of each run, as CSV."""
    table = [{"run": "released", "seed": 10, "step": "", "script": "", "args": ""} | measure(released, 10)]
    for folder in runs:
        seed = read_config(folder)["seed"]
        name, flags = folder.with_name(f"{folder.name}.args").read_text().strip().split(maxsplit=1)
        snapshots = sorted((folder / "snapshots").glob("*.pt"), key=lambda path: int(path.stem))
        for path in snapshots or [folder / "checkpoint.pt"]:
            step = path.stem if snapshots else torch.load(path, weights_only=True)["global_step"]
            row = {"run": folder.name.split("__")[1], "seed": seed, "step": step, "script": name, "args": flags}
            table.append(row | measure(path, seed))
    pd.DataFrame(table).to_csv(sys.stdout, index=False, float_format="%.4g")


def protocol(released: Positional[Path], runs: Positional[tuple[Path, ...]] = ()) -> None:
    """Returns by the authors' protocol, 3 environments of 6 episodes, statistics gathered meanwhile; then by a run's."""
    for path in (released, *(folder / "checkpoint.pt" for folder in runs)):
        weights, stats = load(path)
        returns = []
        for number in range(3):
            returns += episodes(weights, None, range(100 * number, 100 * number + 6))[0]
        print(f"{path}: {np.mean(returns):.0f} +- {np.std(returns):.0f}", flush=True)
        if stats:
            print(f"  with its own statistics: {np.mean(episodes(weights, stats, range(10))[0]):.0f}", flush=True)


def figure(released: Positional[Path]) -> None:
    """Widths over training, seeds as thin lines, and beside them the released agent's as markers."""
    curves = pd.read_csv(RESULTS / "HalfCheetah-v4_curves.csv")
    main, pref = precisions(load(released)[0])
    variances = {"main": 1 / main, "pref": 1 / pref, "fused": 1 / (main + pref)}
    titles = {"prefpoe": "default coefficients", NEAREST: "the nearest setting"}
    picture, axes = panels(2, width=WIDTH / 2, height=3.6, sharey=True)
    for axis, (variant, title) in zip(axes, titles.items(), strict=True):
        for place, marker, (policy, look) in zip((1.06, 1.12, 1.18), "s^D", POLICIES.items(), strict=True):
            runs = curves[curves["variant"] == variant].pivot(index="global_step", columns="seed")[f"trace_{policy}"]
            axis.plot(runs.index / 1e6, np.sqrt(runs / 6), lw=0.7, color=look["color"], linestyle=look["linestyle"])
            axis.plot(place, np.sqrt(variances[policy].mean()), marker=marker, markersize=6, **look)
        axis.text(1.12, 1.4, "released\nagent", ha="center")
        axis.set(title=title, xlabel="environment steps (millions)", xticks=np.linspace(0, 1, 6), yscale="log")
        axis.set_yticks([0.2, 0.5, 1, 2], ["0.2", "0.5", "1", "2"])
        axis.minorticks_off()
    axes[0].set_ylabel("σ, root mean square of 6 dimensions")
    add_legend(picture, ncols=3)
    picture.savefig(RESULTS / "which-prefpoe.png", dpi=220, metadata={"Software": None})


if __name__ == "__main__":
    torch.set_num_threads(1)
    commands = (rows, protocol, figure)
    tyro.extras.subcommand_cli_from_dict({command.__name__: command for command in commands})
