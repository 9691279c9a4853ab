"""How many of the four goals of MultiGoal-v0 do finished runs of benchmark/multimodal.sh still reach?

    python benchmark/multimodal.py runs/*       # results/multimodal.csv, a row a run, results/multimodal.png, a summary
    python benchmark/multimodal.py              # only the summary, from results/multimodal.csv

Each run's acting policy is sampled for 100 episodes, which all start in the middle, so that no start decides which goal
is near. A goal is reached if one of them ends there; the entropy (nats) is that of the shares of the goals among the
episodes that end at one, from 0 for a single goal to log 4 = 1.39. Modes in use, exp of the entropy of the weights, are
those of the acting policy in the middle, and of preference and acting policy averaged over the states visited in the
last tenth of training, as what follows them. The picture has the paths of the first 20 episodes, a colour a run.

A run taken in again replaces its row, all others stay. The picture is drawn anew where all of them are given.
"""

import importlib
import sys
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import tyro
from figures import panels
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from report import fail, parse_name, read_config, read_metrics, reading
from statistics_of_runs import scores
from tables import table, with_interval

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "open_questions"))
script = importlib.import_module("prefpoe_multimodal")

EPISODES, DRAWN = 100, 20
TITLES = {"prefpoe-modes-1": "a preference of one mode", "prefpoe-modes-4": "of four modes"}
TITLES |= {f"{variant}-raised": f"{title}, λ and α raised" for variant, title in TITLES.items()}
TITLES |= {f"prefpoe-modes-4-{x}": f"of four modes, {y} raised" for x, y in (("lambda-8", "λ"), ("alpha-1", "α"))}
COLUMNS = {  # of multimodal.csv -> name and form in the summary
    "goals": ("goals reached, of 4", "{:.2f}"),
    "goal_entropy": ("entropy over goals (nats)", "{:.2f}"),
    "reached": ("episodes that reach one (%)", "{:.0f}"),
    "return": ("return", "{:.2f}"),
    "modes_start": ("modes in use at the start", "{:.2f}"),
    "goals_start": ("goals that these point at", "{:.2f}"),
    "modes_pref": ("modes in use, preference", "{:.2f}"),
    "modes_fused": ("modes in use, acting policy", "{:.2f}"),
    "mode_distance": ("distance between modes", "{:.2f}"),
    "mode_sigma": ("σ of a mode, by weight", "{:.2f}"),
    "mode_share": ("ρ", "{:.2f}"),
}
MODES = [*COLUMNS][6:]  # columns of metrics.csv, of which the last tenth of training is averaged


@dataclass
class Args:
    folders: tyro.conf.Positional[tuple[Path, ...]] = ()
    """run folders; whatever is no finished run of MultiGoal-v0 is skipped"""
    results: Path = ROOT / "benchmark" / "results"
    """folder of multimodal.csv and multimodal.png"""


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
    goals, returns, paths = [], [], []
    for episode in range(episodes):
        obs, info = env.reset(seed=2**30 + episode, options=start)
        path, rewards, ended = [obs], [], False
        while not ended:
            noise = script.sample_noise(rng, (1,), env.action_space)
            action = act(script.normalize_obs(obs[None], learner.obs_stats, args), noise)[0]
            obs, reward, terminated, truncated, info = env.step(action.clip(-1, 1))
            path.append(obs)
            rewards.append(reward)
            ended = terminated or truncated
        goals.append(info["goal"])
        returns.append(sum(rewards))
        paths.append(np.array(path))
    return goals, returns, paths


@torch.no_grad()
def modes_at_the_start(folder: Path) -> dict[str, float]:
    """In the middle: exp of the entropy of the acting policy's weights, and how many goals its modes point at, of those
    with a weight of 0.05 or more."""
    learner, _, args = load(folder)
    obs = script.normalize_obs(np.zeros((1, 2)), learner.obs_stats, args)
    main, pref, _ = learner.agent(torch.from_numpy(obs))
    fused = script.fuse(main, pref, args)
    log_w = fused.log_weight[0]
    mean = fused.modes.mean[0].numpy()
    aims = (mean @ script.MultiGoal.GOALS.T).argmax(-1)[log_w.exp().numpy() >= 0.05]
    return {"modes_start": (-(log_w.exp() * log_w).sum()).exp().item(), "goals_start": len({*aims.tolist()})}


def entropy_of(counts: np.ndarray) -> float:
    """Of the distribution that these counts are, in nats; 0 where all are 0."""
    p = counts[counts > 0] / max(1, counts.sum())
    return float(-(p * np.log(p)).sum()) + 0.0  # no -0.0


def measure(folder: Path, variant: str, seed: str) -> tuple[dict[str, object], list[np.ndarray]]:
    """A run's row of multimodal.csv, and the paths of its episodes."""
    goals, returns, paths = sample_episodes(folder, EPISODES, position=(0.0, 0.0))
    counts = np.bincount([goal for goal in goals if goal >= 0], minlength=4)
    row = {"variant": variant, "seed": int(seed), "goals": int((counts > 0).sum()), "goal_entropy": entropy_of(counts)}
    row |= {"reached": 100 * counts.sum() / EPISODES, "return": np.mean(returns)}
    row |= modes_at_the_start(folder)
    with reading(folder / "metrics.csv"):
        metrics = read_metrics(folder)
    return row | metrics[MODES].tail(max(1, len(metrics) // 10)).mean().to_dict(), paths


def draw(paths: dict[str, dict[int, list[np.ndarray]]]) -> Figure:
    """A panel a variant: paths of sampled episodes, a colour a seed, among the goals."""
    figure, axes = panels(
        len(paths), f"MultiGoal-v0 after training: {DRAWN} sampled episodes a run, a colour a run", most=3
    )
    for axis, (variant, runs) in zip(axes, sorted(paths.items()), strict=True):
        for seed, drawn in runs.items():
            for path in drawn[:DRAWN]:
                axis.plot(*path.T, color=colormaps["tab10"]((seed - 1) % 10), lw=0.7, alpha=0.6)
        for goal in script.MultiGoal.GOALS:
            axis.add_patch(Circle(goal, script.MultiGoal.RADIUS, fill=False, color="black", lw=1.5, zorder=3))
        axis.set(xlim=(-1.25, 1.25), ylim=(-1.25, 1.25), aspect="equal", xlabel="x", ylabel="y")
        axis.set_title(f"{TITLES.get(variant, variant)}: {len(runs)} seeds", fontsize="medium")
    return figure


def summary(rows: pd.DataFrame) -> str:
    """Markdown, a row a quantity and a column a variant: means over seeds with 95 % bootstrap intervals."""
    variants, mean = [*dict.fromkeys(rows["variant"])], partial(np.mean, axis=-1)
    lines = [{"mean over seeds": "seeds"} | {v: (rows["variant"] == v).sum() for v in variants}]
    for column, (name, form) in COLUMNS.items():
        cells = {v: with_interval(form, mean, scores(rows, v, column)) for v in variants}
        lines.append({"mean over seeds": name} | cells)
    return table(lines)


def main(args: Args) -> None:
    path, rows, paths = args.results / "multimodal.csv", [], {}
    known = pd.read_csv(path) if path.exists() else pd.DataFrame(columns=["variant", "seed", "steps"])
    args.results.mkdir(parents=True, exist_ok=True)
    for folder in sorted(args.folders):
        config = read_config(folder) if (folder / "evaluation.json").exists() else {}
        if config and (name := parse_name(folder, config)):
            task, variant, seed = name
            if task.startswith("MultiGoal-v0"):
                if len(lengths := {config["total_timesteps"], *known["steps"], *(row["steps"] for row in rows)}) > 1:
                    fail(f"runs of {sorted(lengths)} steps do not mix in {path}: give another --results")
                row, episodes = measure(folder, variant, seed)
                rows.append(row | {"steps": config["total_timesteps"]})
                paths.setdefault(variant, {})[int(seed)] = episodes
    if args.folders and not rows:
        fail("no finished run MultiGoal-v0__<variant>__<seed> is among the folders; give run folders, such as runs/*")
    if rows:
        new = pd.DataFrame(rows)
        frame = pd.concat([new, known]).drop_duplicates(["variant", "seed"]).sort_values(["variant", "seed"])
        frame.to_csv(path, index=False, float_format="%.5g", lineterminator="\n")
        if len(frame) == len(new):
            draw(paths).savefig(args.results / "multimodal.png", metadata={"Software": None})
        else:
            print("multimodal.png is left as it is: to draw it, give all runs at once", file=sys.stderr)
    if not path.exists():
        fail(f"{path} is not there yet: give run folders, such as runs/*")
    print(summary(pd.read_csv(path)))


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
