"""How runs on HalfCheetah-v4 end beside the agent that the authors released: the rows of results/which-prefpoe.csv.

    python benchmark/which_prefpoe.py PrefPoE.cleanrl_model RUN... > benchmark/results/which-prefpoe.csv

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

LAYERS = ("backbone.0", "backbone.2", "actor_mean", "preference_mean", "critic")


def load(path: Path) -> tuple[dict, dict | None]:
    """Weights by name, and statistics of observations where there are any."""
    state = torch.load(path, map_location="cpu", weights_only=True)
    weights = {
        name.replace("critic.1.", "critic."): x.double().numpy() for name, x in state.get("agent", state).items()
    }
    return weights, state.get("obs_stats")


def initial(seed: int) -> list[np.ndarray]:
    """The backbone's two layers as `--seed` initialises them."""
    torch.manual_seed(seed)
    layers = [torch.nn.Linear(17, 64), None]
    torch.nn.init.orthogonal_(layers[0].weight, math.sqrt(2))
    layers[1] = torch.nn.Linear(64, 64)
    torch.nn.init.orthogonal_(layers[1].weight, math.sqrt(2))
    return [layer.weight.detach().double().numpy() for layer in layers]


def measure(path: Path, seed: int) -> dict[str, float]:
    weights, stats = load(path)
    precision_main = np.exp(weights["actor_logstd"][0]) ** -2
    precision_pref = np.exp(weights["preference_logstd"][0]).clip(1e-3, 2) ** -2
    count, mean, m2 = 1e-4, np.zeros(17), np.full(17, 1e-4)
    if stats:
        count, mean, m2 = float(stats["count"]), stats["mean"].numpy().reshape(17), stats["m2"].numpy().reshape(17)
    means, returns = [], []
    env = gym.make("HalfCheetah-v4")
    for episode in range(2 if stats else 4):
        obs, _ = env.reset(seed=100 + episode)
        rewards = []
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
            if stats or episode > 1:
                means.append((main, pref))
            obs, reward, *_ = env.step(fused)
            rewards.append(reward)
        returns.append(sum(rewards))
    env.close()
    means = np.array(means)
    row = {f"past_bound_{i}": 1e3 * (weights["preference_logstd"][0, i] - math.log(2)) for i in range(6)}
    row |= {f"sigma_{i}": precision_main[i] ** -0.5 for i in range(6)}
    row["trace_fused"] = (1 / (precision_main + precision_pref)).sum()
    row["apart"] = np.abs(means[:, 0] - means[:, 1]).mean() / 2
    row |= {f"slope_{i}": np.polyfit(means[:, 0, i], means[:, 1, i], 1)[0] for i in range(6)}
    row |= {f"norm_{layer}": np.linalg.norm(weights[f"{layer}.weight"]) for layer in LAYERS}
    for layer, before in zip(LAYERS, initial(seed), strict=False):
        row[f"moved_{layer}"] = np.linalg.norm(weights[f"{layer}.weight"] - before)
        row[f"bias_{layer}"] = np.linalg.norm(weights[f"{layer}.bias"])
    return row | {"return": np.mean(returns[-2:])}


def main(released: str, *folders: str) -> None:
    torch.set_num_threads(1)
    rows = [{"run": "released", "seed": 10, "step": "", "script": "", "args": ""} | measure(Path(released), 10)]
    for folder in map(Path, folders):
        config = json.loads((folder / "config.json").read_text())
        script, *flags = folder.with_name(f"{folder.name}.args").read_text().split()
        name = {"run": folder.name.split("__")[1], "seed": config["seed"], "script": script}
        snapshots = sorted((folder / "snapshots").glob("*.pt"), key=lambda path: int(path.stem))
        for path in snapshots or [folder / "checkpoint.pt"]:
            step = path.stem if snapshots else torch.load(path, weights_only=True)["global_step"]
            rows.append(name | {"step": step, "args": " ".join(flags)} | measure(path, config["seed"]))
    pd.DataFrame(rows).to_csv(sys.stdout, index=False, float_format="%.4g")


if __name__ == "__main__":
    main(*sys.argv[1:])
