"""Plot runs, finished or still training, of any of the scripts.

    python benchmark/plot.py runs/cheetah                 # one run: runs/cheetah/plot.png
    python benchmark/plot.py runs/a runs/b runs/c         # several: plot.png in the folder that holds them, runs/plot.png
    python benchmark/plot.py runs/* --output seeds.pdf    # elsewhere, and in any format of matplotlib's

Runs that differ in nothing but their seed become one line, the interquartile mean, with its 95 % bootstrap band. Other
runs become lines of their own, named by the arguments that differ. Panels without numbers are left out.
"""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import tyro
from figures import POLICIES, draw_band, panels, plain_log_ticks
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from report import BOOKKEEPING, fail, read_config, read_metrics

PANELS = {  # column of metrics.csv, or what stands before _main, _pref and _fused -> title
    "episodic_return": "training return",
    "eval_return": "return of the evaluations",
    "entropy": "entropy (nats)",
    "trace": r"variance: tr $\Sigma$",
    "kl_fused_pref": r"KL($\pi_f$ ‖ $\pi_p$) (nats)",
    "guidance": r"guidance: corr($A_\mathrm{norm}$, $\log\,\pi_p(a|s)$)",
    "lambda_pref": r"weight of the preference $\lambda$",
    "explained_variance": "variance that the critic explains (share)",
    "SPS": "environment steps a second",
}


@dataclass
class Args:
    runs: tyro.conf.Positional[tuple[Path, ...]] = ()
    """run folders, named in any way"""
    output: Path | None = None
    """file to write (default: plot.png in the run's folder, or in the one that holds all runs)"""


def read_runs(paths: tuple[Path, ...]) -> dict[Path, tuple[dict, pd.DataFrame]]:
    """Arguments and metrics of each run that has a row."""
    runs = {}
    for path in paths:
        if path.is_file():
            continue
        if not (path / "config.json").exists():
            fail(f"{path}: this is no run, it has no config.json; give run folders, such as runs/*")
        metrics = read_metrics(path)
        if metrics.empty:
            print(f"skipped, since no iteration has ended yet: {path.name}", file=sys.stderr)
        else:
            runs[path.resolve()] = read_config(path), metrics
    if not runs:
        fail("no run to plot; give run folders, such as runs/*")
    return runs


def name_lines(configs: list[dict]) -> list[str]:
    """For each run its task and script, if there are several, and the arguments in which runs of its script differ."""
    table = pd.DataFrame(configs).drop(columns=[*BOOKKEEPING], errors="ignore").map(str)
    differ = table.groupby("exp_name").nunique().gt(1).any()
    for key in ("exp_name", "env_id"):
        differ[key] = table[key].nunique() > 1
    names = []
    for config in configs:
        parts = {key: config[key] for key in table if differ[key] and key in config}
        names.append(", ".join(x if key in ("exp_name", "env_id") else f"{key}={x}" for key, x in parts.items()))
    return names


def curves_of(runs: dict[Path, tuple[dict, pd.DataFrame]]) -> pd.DataFrame:
    """Up to 100 rows a run, means over bins of iterations; the runs of a line have bins and steps in common."""
    names = name_lines([config for config, _ in runs.values()])
    frames = []
    for number, (_, metrics) in enumerate(runs.values()):
        if "entropy_fused" not in metrics:  # PPO's only policy, main, is the one that acts
            metrics = metrics.rename(columns={"entropy_main": "entropy_fused", "trace_main": "trace_fused"})
        frames.append(metrics.assign(variant=names[number], run=number, iteration=range(len(metrics))))
    rows = pd.concat(frames)
    size = rows.groupby("variant")["iteration"].transform("max") // 100 + 1
    rows["bin"] = rows["iteration"] // size
    curves = rows.groupby(["variant", "run", "bin"], sort=False).mean().reset_index()
    curves["global_step"] = curves.groupby(["variant", "bin"])["global_step"].transform("max")
    return curves


def draw(title: str, curves: pd.DataFrame) -> Figure:
    """A panel for each quantity. Dashes tell policies apart, and colours lines, or the policies of a single line."""
    curves = curves.dropna(axis="columns", how="all")
    shown = [quantity for quantity in PANELS if {quantity, f"{quantity}_fused"} & {*curves}]
    unit, unit_name = (1e6, "millions") if curves["global_step"].max() >= 5e5 else (1e3, "thousands")
    counts = curves.groupby("variant", sort=False)["run"].nunique()
    colors = {name: colormaps["viridis"](0.9 * i / len(counts)) for i, name in enumerate(counts.index)}
    figure, axes = panels(len(shown), title, 3.8, 2.9)
    for axis, quantity in zip(axes, shown, strict=True):
        for name, color in colors.items():
            if quantity in curves:
                draw_band(axis, curves, name, quantity, unit, color=color)
            for policy, style in POLICIES.items():
                look = style | {"color": style["color"] if len(counts) == 1 else color}
                if f"{quantity}_{policy}" in curves:
                    draw_band(axis, curves, name, f"{quantity}_{policy}", unit, **look)
        axis.set(title=PANELS[quantity], xlabel=f"environment steps ({unit_name})")
        if quantity == "trace":
            plain_log_ticks(axis)
    handles = []
    if len(counts) > 1:
        handles += [Line2D([], [], color=color, label=f"{x} (runs: {counts[x]})") for x, color in colors.items()]
    if "entropy_pref" in curves:
        handles += [Line2D([], [], **x if len(counts) == 1 else x | {"color": "black"}) for x in POLICIES.values()]
    if handles:
        longest = max(len(handle.get_label()) for handle in handles)
        figure.legend(handles=handles, loc="outside lower center", ncols=max(1, 150 // (10 + longest)))
    return figure


def main(args: Args) -> None:
    runs = read_runs(args.runs)
    curves = curves_of(runs)
    folder = Path(os.path.commonpath([*runs]))
    title = ", ".join(sorted({config["env_id"] for config, _ in runs.values()}))
    if curves["variant"].nunique() < len(runs):
        title += ": interquartile mean over runs, 95 % bootstrap band"
    output = args.output or Path(os.path.relpath(folder / "plot.png"))
    draw(title, curves).savefig(output)
    print(output)


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
