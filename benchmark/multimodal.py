"""How many of the four goals of MultiGoal-v0 do finished runs of benchmark/multimodal.sh still reach?

    python benchmark/multimodal.py runs/*       # results/multimodal.csv, a row a run, results/multimodal.png, a summary
    python benchmark/multimodal.py              # only the summary, from results/multimodal.csv

Each run's fused policy is sampled for 100 episodes, which all start in the middle, so that no start decides which goal
is near. A goal is reached if one of them ends there. Modes in use are exp of the entropy of the weights, at the start or
averaged over the last tenth of training, as what follows them. The picture has the paths of the first 20 episodes. Give
all runs at once; others than of MultiGoal-v0 are skipped.
"""

import importlib
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import tyro
from figures import WIDTH, panels
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from report import RESULTS, ROOT, fail, read_config, read_metrics
from scipy.stats import entropy
from tables import table, with_interval

sys.path.insert(0, str(ROOT / "open_questions"))
script = importlib.import_module("prefpoe_multimodal")

EPISODES, DRAWN = 100, 20
COLUMNS = {  # of multimodal.csv -> name in the summary
    "goals": "goals reached, of 4",
    "goal_entropy": "entropy over goals (nats)",
    "reached": "episodes that reach one (%)",
    "return": "return",
    "modes_start": "modes in use at the start",
    "goals_start": "goals that these point at",
    "modes_pref": "modes in use, preference",
    "modes_fused": "modes in use, fused policy",
    "mode_distance": "distance between modes",
    "mode_sigma": "σ of a mode, by weight",
    "mode_share": "ρ",
}
MODES = [*COLUMNS][6:]  # columns of metrics.csv, of which the last tenth of training is averaged


def load(folder: Path) -> tuple:
    """A run's learner and its environment, and its arguments as its last iteration had them."""
    args = script.parse_args(["--evaluate", str(folder)])
    env = script.make_env(args)
    learner = script.Learner(env, args)
    learner.load(folder, args)
    return learner, env, replace(args, **script.schedule(args, learner))


def sample_episodes(folder: Path, episodes: int, **start: tuple) -> tuple[list[int], list[float], list[np.ndarray]]:
    """Goal (-1: none), return and path (steps + 1, 2) of each sampled episode of a run, from `position` if given."""
    learner, env, args = load(folder)
    act = script.torch_policy(learner.agent, args)
    rng = np.random.default_rng(args.seed)
    goals = []
    returns = []
    paths = []
    for episode in range(episodes):
        obs, info = env.reset(seed=2**30 + episode, options=start)
        path = [obs]
        returns.append(0.0)
        ended = False
        while not ended:
            noise = script.sample_noise(rng, (1,), env.action_space)
            action = act(script.normalize_obs(obs[None], learner.obs_stats, args), noise)[0]
            obs, reward, terminated, truncated, info = env.step(action.clip(-1, 1))
            path.append(obs)
            returns[-1] += reward
            ended = terminated or truncated
        goals.append(info["goal"])
        paths.append(np.array(path))
    return goals, returns, paths


@torch.no_grad()
def modes_at_the_start(folder: Path) -> dict[str, float]:
    """In the middle: exp of the entropy of the fused policy's weights, and how many goals its modes point at, of those
    with a weight of 0.05 or more."""
    learner, _, args = load(folder)
    obs = script.normalize_obs(np.zeros((1, 2)), learner.obs_stats, args)
    main, pref, _ = learner.agent(torch.from_numpy(obs))
    fused = script.fuse(main, pref, args)
    weights = fused.log_weight[0].exp().numpy()
    aims = (fused.modes.mean[0].numpy() @ script.MultiGoal.GOALS.T).argmax(-1)
    return {"modes_start": np.exp(entropy(weights)), "goals_start": len(np.unique(aims[weights >= 0.05]))}


def measure(folder: Path) -> tuple[dict[str, object], list[np.ndarray]]:
    """A run's row of multimodal.csv, and the paths of its episodes."""
    _, variant, seed = folder.name.split("__")
    goals, returns, paths = sample_episodes(folder, EPISODES, position=(0.0, 0.0))
    counts = np.bincount([goal for goal in goals if goal >= 0], minlength=4)
    row = {"variant": variant, "seed": int(seed), "goals": np.count_nonzero(counts)}
    row["goal_entropy"] = entropy(counts) if counts.any() else 0.0
    row |= {"reached": 100 * counts.sum() / EPISODES, "return": np.mean(returns)}
    row |= modes_at_the_start(folder)
    metrics = read_metrics(folder)
    row |= metrics[MODES].tail(max(1, len(metrics) // 10)).mean()
    return row | {"steps": read_config(folder)["total_timesteps"]}, paths


def draw(rows: pd.DataFrame, paths: list[list[np.ndarray]]) -> Figure:
    """A panel a variant: paths of sampled episodes among the goals, dark if their run reaches several."""
    variants = rows.groupby("variant").groups
    figure, axes = panels(len(variants), "", WIDTH / 3, WIDTH / 3 + 0.2)
    for axis, (variant, runs) in zip(axes, variants.items(), strict=True):
        for run in runs:
            look = dict(color="#b2182b", lw=1) if rows["goals"][run] > 1 else dict(color="#999999", lw=0.6)
            for path in paths[run][:DRAWN]:
                axis.plot(*path.T, **look)
        for goal in script.MultiGoal.GOALS:
            axis.add_patch(Circle(goal, script.MultiGoal.RADIUS, fill=False, lw=1.5, zorder=3))
        axis.set(xlim=(-1.25, 1.25), ylim=(-1.25, 1.25), aspect="equal", xticks=[-1, 0, 1], yticks=[-1, 0, 1])
        axis.set_title(variant, fontsize=9)
    return figure


def summary(rows: pd.DataFrame) -> str:
    """Markdown, a row a quantity and a column a variant: means over seeds with 95 % bootstrap intervals."""
    variants = rows.groupby("variant", sort=False)
    lines = [{"mean over seeds": "seeds", **variants.size()}]
    for column, name in COLUMNS.items():
        form = "{:.0f}" if column == "reached" else "{:.2f}"
        cells = {v: with_interval(form, partial(np.mean, axis=-1), x.dropna().to_numpy()) for v, x in variants[column]}
        lines.append({"mean over seeds": name, **cells})
    return table(lines)


def main(folders: tyro.conf.Positional[tuple[Path, ...]] = (), results: Path = RESULTS) -> None:
    path = results / "multimodal.csv"
    runs = [x for x in sorted(folders) if x.match("MultiGoal-v0__*__*") and (x / "evaluation.json").exists()]
    if folders and not runs:
        fail("no finished run MultiGoal-v0__<variant>__<seed> is among the folders; give run folders, such as runs/*")
    if runs:
        measured = [measure(run) for run in runs]
        rows = pd.DataFrame([row for row, _ in measured])
        if rows["steps"].nunique() > 1:
            fail(f"runs of {rows['steps'].unique()} steps do not mix: give those of one length")
        rows.sort_values(["variant", "seed"]).to_csv(path, index=False, float_format="%.5g")
        figure = draw(rows, [paths for _, paths in measured])
        figure.savefig(results / "multimodal.png", dpi=220, metadata={"Software": None})
    print(summary(pd.read_csv(path)))


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
