"""How runs on HalfCheetah-v4 end beside the agent that the authors released: numbers and figure of which-prefpoe.md.

    python benchmark/which_prefpoe.py rows PrefPoE.cleanrl_model RUN... > benchmark/results/which-prefpoe.csv
    python benchmark/which_prefpoe.py seeds PrefPoE.cleanrl_model      # the seed that the authors trained with
    python benchmark/which_prefpoe.py protocol PrefPoE.cleanrl_model RUN...     # returns as the authors evaluate
    python benchmark/which_prefpoe.py figure PrefPoE.cleanrl_model     # which-prefpoe.png, from the committed curves

A row is a checkpoint: the released weights, a run's last, or one of RUN/snapshots/<step>.pt. Means are compared on the
states of two episodes of the fused mean; the released weights come without statistics of observations, so those are
gathered over two episodes before. `moved` is the distance of a layer from its initial weights by the run's seed.
"""

import json
import math
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pandas as pd
import torch
import tyro
from tyro.conf import Positional

RESULTS = Path(__file__).parent / "results"
LAYERS = ("backbone.0", "backbone.2", "actor_mean", "preference_mean", "critic")
OLD, CANDIDATE = "prefpoe", "prefpoe-w-cons-0.0083-w-pref-0.2-beta1-0.3"


def load(path: Path) -> tuple[dict, dict | None]:
    """Weights by name, and statistics of observations where there are any."""
    state = torch.load(path, map_location="cpu", weights_only=True)
    weights = {
        name.replace("critic.1.", "critic."): x.double().numpy() for name, x in state.get("agent", state).items()
    }
    return weights, state.get("obs_stats")


def precisions(weights: dict) -> tuple[np.ndarray, np.ndarray]:
    """1 / variance of the main expert and of the preference: (6,), (6,)."""
    return np.exp(weights["actor_logstd"][0]) ** -2, np.exp(weights["preference_logstd"][0]).clip(1e-3, 2) ** -2


def initial(seed: int) -> list[np.ndarray]:
    """The backbone's two layers and the critic as `--seed` initialises them."""
    torch.manual_seed(seed)
    weights = []
    for size_in, size_out, gain in ((17, 64, math.sqrt(2)), (64, 64, math.sqrt(2)), (64, 1, 1.0)):
        layer = torch.nn.Linear(size_in, size_out)
        torch.nn.init.orthogonal_(layer.weight, gain)
        weights.append(layer.weight.detach().double().numpy())
    return weights


def episodes(weights: dict, stats: dict | None, seeds: range) -> tuple[list[float], np.ndarray]:
    """Returns of the fused mean, and the experts' means (steps, 2, 6); without stats they are gathered meanwhile."""
    precision_main, precision_pref = precisions(weights)
    count, mean, m2 = 1e-4, np.zeros(17), np.full(17, 1e-4)
    if stats:
        count, mean, m2 = float(stats["count"]), stats["mean"].numpy().reshape(17), stats["m2"].numpy().reshape(17)
    means, returns = [], []
    env = gym.make("HalfCheetah-v4")
    for seed in seeds:
        obs, _ = env.reset(seed=seed)
        returns.append(0.0)
        for _ in range(1000):
            if not stats:
                count += 1
                delta = obs - mean
                mean = mean + delta / count
                m2 = m2 + delta * (obs - mean)
            hidden = ((obs - mean) / np.sqrt(m2 / count + 1e-8)).clip(-10, 10)
            for layer in LAYERS[:2]:
                hidden = np.tanh(weights[f"{layer}.weight"] @ hidden + weights[f"{layer}.bias"])
            main, pref = (np.tanh(weights[f"{x}.weight"] @ hidden + weights[f"{x}.bias"]) for x in LAYERS[2:4])
            fused = (main * precision_main + pref * precision_pref) / (precision_main + precision_pref)
            means.append((main, pref))
            obs, reward, *_ = env.step(fused)
            returns[-1] += reward
    env.close()
    return returns, np.array(means)


def measure(path: Path, seed: int) -> dict[str, float]:
    weights, stats = load(path)
    precision_main, precision_pref = precisions(weights)
    returns, means = episodes(weights, stats, range(100, 102 if stats else 104))
    means = means[-2000:]
    row = {f"past_bound_{i}": 1e3 * (weights["preference_logstd"][0, i] - math.log(2)) for i in range(6)}
    row |= {f"sigma_{i}": precision_main[i] ** -0.5 for i in range(6)}
    row["trace_fused"] = (1 / (precision_main + precision_pref)).sum()
    row["apart"] = np.abs(means[:, 0] - means[:, 1]).mean() / 2
    row |= {f"slope_{i}": np.polyfit(means[:, 0, i], means[:, 1, i], 1)[0] for i in range(6)}
    row |= {f"norm_{layer}": np.linalg.norm(weights[f"{layer}.weight"]) for layer in LAYERS}
    for layer, before in zip(LAYERS[:2], initial(seed)[:2], strict=True):
        row[f"moved_{layer}"] = np.linalg.norm(weights[f"{layer}.weight"] - before)
        row[f"bias_{layer}"] = np.linalg.norm(weights[f"{layer}.bias"])
    return row | {"return": np.mean(returns[-2:])}


def rows(released: Positional[Path], runs: Positional[tuple[Path, ...]] = ()) -> None:
    """The released agent's figures and those of each run, as CSV."""
    table = [{"run": "released", "seed": 10, "step": "", "script": "", "args": ""} | measure(released, 10)]
    for folder in runs:
        config = json.loads((folder / "config.json").read_text())
        script, *flags = folder.with_name(f"{folder.name}.args").read_text().split()
        name = {"run": folder.name.split("__")[1], "seed": config["seed"], "script": script}
        snapshots = sorted((folder / "snapshots").glob("*.pt"), key=lambda path: int(path.stem))
        for path in snapshots or [folder / "checkpoint.pt"]:
            step = path.stem if snapshots else torch.load(path, weights_only=True)["global_step"]
            table.append(name | {"step": step, "args": " ".join(flags)} | measure(path, config["seed"]))
    pd.DataFrame(table).to_csv(sys.stdout, index=False, float_format="%.4g")


def seeds(released: Positional[Path], last: int = 20_000) -> None:
    """How the released layers correlate with those that each seed initialises, the seeds with the largest first."""
    weights, _ = load(released)
    trained = [weights[f"{layer}.weight"].ravel() for layer in ("backbone.0", "backbone.2", "critic")]
    found = []
    for seed in range(last + 1):
        found.append([np.corrcoef(x, y.ravel())[0, 1] for x, y in zip(trained, initial(seed), strict=True)])
    table = pd.DataFrame(found, columns=["backbone.0", "backbone.2", "critic"])
    print(table.sort_values("backbone.0", ascending=False).head(3).to_string(float_format="%.2f"))


def protocol(released: Positional[Path], runs: Positional[tuple[Path, ...]] = ()) -> None:
    """Returns by the authors' protocol, 3 environments of 6 episodes, statistics gathered meanwhile; then by a run's."""
    for path in (released, *(folder / "checkpoint.pt" for folder in runs)):
        weights, stats = load(path)
        gathered = []
        for number in range(3):
            gathered += episodes(weights, None, range(100 * number, 100 * number + 6))[0]
        line = f"{path}: {np.mean(gathered):.0f} +- {np.std(gathered):.0f}"
        if stats:
            line += f", with the run's own statistics {np.mean(episodes(weights, stats, range(10))[0]):.0f}"
        print(line, flush=True)


def figure(released: Positional[Path]) -> None:
    """Widths and entropies over training, seeds as thin lines; the released agent's as dashed lines."""
    import matplotlib.pyplot as plt

    curves = pd.read_csv(RESULTS / "HalfCheetah-v4_curves.csv")
    precision_main, precision_pref = precisions(load(released)[0])
    variances = {"main": 1 / precision_main, "pref": 1 / precision_pref, "fused": 1 / (precision_main + precision_pref)}
    names = {"main": r"main, $\sigma_\theta$", "pref": r"preference, $\sigma_p$", "fused": r"fused, $\sigma_f$"}
    colors = {"main": "tab:blue", "pref": "tab:orange", "fused": "tab:green"}
    fig, axes = plt.subplots(2, 2, figsize=(9, 5.5), sharex=True, sharey="row", layout="constrained")
    titles = {OLD: "default coefficients", CANDIDATE: r"$w_{cons}=0.0083,\ w_{pref}=0.2,\ \beta_1=0.3$"}
    for column, (variant, title) in enumerate(titles.items()):
        for policy, color in colors.items():
            for _, run in curves[curves["variant"] == variant].groupby("seed"):
                steps = run["global_step"] / 1e6
                axes[0, column].plot(steps, np.sqrt(run[f"trace_{policy}"] / 6), color=color, lw=0.6, alpha=0.6)
                axes[1, column].plot(steps, run[f"entropy_{policy}"], color=color, lw=0.6, alpha=0.6)
            entropy = 0.5 * np.log(2 * np.pi * np.e * variances[policy]).sum()
            axes[0, column].axhline(np.sqrt(variances[policy].mean()), color=color, ls="--")
            axes[1, column].axhline(entropy, color=color, ls="--", label=names[policy])
        axes[0, column].set(title=title, yscale="log")
        axes[1, column].set(xlabel="millions of steps")
    axes[0, 0].set_ylabel("σ, root mean square of 6 dimensions")
    axes[1, 0].set_ylabel("entropy (nats)")
    axes[1, 1].legend(title="dashed: released agent", fontsize=8)
    fig.savefig(RESULTS / "which-prefpoe.png", dpi=130)


if __name__ == "__main__":
    torch.set_num_threads(1)
    tyro.extras.subcommand_cli_from_dict({"rows": rows, "seeds": seeds, "protocol": protocol, "figure": figure})
