"""Plot runs, finished or still training, of any of the scripts.

    python benchmark/plot.py runs/cheetah                 # one run: runs/cheetah/plot.png
    python benchmark/plot.py runs/a runs/b runs/c         # several: plot.png in the folder that holds them, runs/plot.png
    python benchmark/plot.py runs/* --output seeds.pdf    # elsewhere, and in any format of matplotlib's

Runs that differ in nothing but their seed become one line, the interquartile mean, with its 95 % bootstrap band. Other
runs become lines of their own, named by the arguments that differ. Panels without numbers and files among the folders
are left out.
"""

import math
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import tyro
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from report import BOOKKEEPING, fail, read_config, read_metrics
from statistics_of_runs import bootstrap, iqm

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
POLICIES = {
    "main": dict(color="#2f7fb8", linestyle="--", label=r"main expert $\pi_\theta$"),
    "pref": dict(color="#f2a32c", linestyle="-.", label=r"preference $\pi_p$"),
    "fused": dict(color="#b2182b", linestyle="-", label=r"fused policy $\pi_f$"),
}
COLORS = ("#b2182b", "#06264f", "#f2a32c", "#2f7fb8", "#7fb2d6")  # they differ in lightness too, for greyscale
MARKERS = "Dos^vPX"  # not as many, so that if a colour comes again it does with another


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
        frames.append(metrics.assign(line=names[number], run=number, iteration=range(len(metrics))))
    rows = pd.concat(frames)
    size = rows.groupby("line")["iteration"].transform("max") // 100 + 1
    rows["bin"] = rows["iteration"] // size
    curves = rows.groupby(["line", "run", "bin"], sort=False).mean().reset_index()
    curves["global_step"] = curves.groupby(["line", "bin"])["global_step"].transform("max")
    return curves


def draw_band(axis, curves: pd.DataFrame, column: str, unit: float = 1e6, shift: float = 0.0, **look) -> None:
    """Interquartile mean over runs against environment steps, and its interval; six markers, shifted by that share."""
    samples = curves.dropna(subset=[column]).groupby("global_step")[column].agg(list)
    if len(samples):
        steps = samples.index / unit
        low, high = np.transpose([bootstrap(iqm, x, resamples=1000) for x in samples])
        every = math.ceil(len(samples) / 6)
        axis.plot(steps, samples.map(iqm), markevery=(int(shift * every), every), **look)
        axis.fill_between(steps, low, high, color=look["color"], alpha=0.18, lw=0)


def draw(title: str, curves: pd.DataFrame) -> Figure:
    """A panel for each quantity. Colours tell policies apart if there is a single line, else lines."""
    curves = curves.dropna(axis="columns", how="all")
    panels = [quantity for quantity in PANELS if {quantity, f"{quantity}_fused"} & {*curves}]
    unit, unit_name = (1e6, "millions") if curves["global_step"].max() >= 5e5 else (1e3, "thousands")
    rows = math.ceil(len(panels) / 3)
    figure = Figure((11.4, 2.9 * rows + 0.3), dpi=110, layout="constrained")
    figure.suptitle(title)
    axes = figure.subplots(rows, 3, squeeze=False).ravel()
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    axes = dict(zip(panels, axes, strict=False))
    for quantity, axis in axes.items():
        axis.set(title=PANELS[quantity], xlabel=f"environment steps ({unit_name})")
        axis.set_yscale("log" if quantity == "trace" else "linear")
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
    lines = curves.groupby("line", sort=False)
    handles = []
    for i, (name, line) in enumerate(lines):
        look = dict(color=COLORS[i % len(COLORS)])
        if len(lines) > 1:
            count = line["run"].nunique()
            look |= dict(marker=MARKERS[i % len(MARKERS)], markersize=4)
            handles.append(Line2D([], [], label=f"{name} ({count} runs)" if count > 1 else name, **look))
        for quantity, axis in axes.items():
            for policy, style in {"": {}, **POLICIES}.items():
                column = f"{quantity}_{policy}".removesuffix("_")
                own = style if len(lines) == 1 else {**style, **look}
                if column in line:
                    draw_band(axis, line, column, unit, 0.3 * i % 1, **look | own)
    if "entropy_pref" in curves:
        handles += [Line2D([], [], **x if len(lines) == 1 else x | {"color": "black"}) for x in POLICIES.values()]
    if handles:
        longest = max(len(handle.get_label()) for handle in handles)
        figure.legend(handles=handles, loc="outside lower center", ncols=max(1, 150 // (10 + longest)))
    return figure


def main(args: Args) -> None:
    runs = read_runs(args.runs)
    curves = curves_of(runs)
    folder = Path(os.path.commonpath([*runs]))
    title = ", ".join(sorted({config["env_id"] for config, _ in runs.values()}))
    if len(runs) == 1:
        title = f"{folder.name}, {title}"
    elif curves["line"].nunique() < len(runs):
        title += ": interquartile mean over runs, 95 % bootstrap band"
    output = args.output or Path(os.path.relpath(folder / "plot.png"))
    draw(title, curves).savefig(output)
    print(output)


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
