"""Figures of runs, without pyplot, which keeps state: 838 pixels wide, as GitHub shows them, and no type below 9 pt."""

import math
from itertools import product

import pandas as pd
import tables
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator
from statistics_of_runs import bootstrap, improvement, iqm
from tables import BETA1, BONUS, CLEANRL, MATCHED, MEASURES, NARROW, NARROW_BONUS, STARTS, Runs, in_words, pairs_of

STYLE = {  # colour and marker of a variant; colours differ in lightness too, for greyscale and for the colour-blind
    CLEANRL: dict(color="#7fb2d6", marker="v"),
    MATCHED: dict(color="#06264f", marker="o"),
    NARROW: dict(color="#06264f", marker="o"),
    BONUS: dict(color="#178f80", marker="P"),
    NARROW_BONUS: dict(color="#8fe3d0", marker="X", linestyle="--"),
    "prefpoe": dict(color="#b2182b", marker="D"),
}
STYLE |= {"sac": STYLE[MATCHED], "prefpoe-sac": STYLE["prefpoe"], "prefpoe-sac-own": dict(color="#f2a32c", marker="^")}
POLICIES = {
    "main": dict(color="#2f7fb8", linestyle="--", label=r"main expert $\pi_\theta$"),
    "pref": dict(color="#f2a32c", linestyle="-.", label=r"preference $\pi_p$"),
    "fused": dict(color="#b2182b", linestyle="-", label=r"fused policy $\pi_f$"),
}
WIDTH = 7.62  # inches
RETURNS = {  # where and how each return of PrefPoE is drawn
    "evaluation": (-0.16, STYLE["prefpoe"] | dict(linestyle="")),
    "training_return": (0.16, STYLE["prefpoe"] | dict(linestyle="", markerfacecolor="white")),
}


def panels(count: int, title: str = "", width: float = 4.2, height: float = 3.5, most: int = 3, **share):
    """A figure with so many panels, up to `most` in a row, each of that size in inches; and its axes."""
    columns = min(count, most)
    rows = math.ceil(count / columns)
    figure = Figure((width * columns, height * rows), dpi=110, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **share).ravel()
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
    for axis in axes[count:]:
        axis.set_axis_off()
    figure.suptitle(title, fontsize="medium")
    return figure, axes[:count]


def add_legend(figure: Figure, ncols: int) -> None:
    """Below, of what all axes show."""
    handles = {}
    for axis in figure.axes:
        handles |= {handle.get_label(): handle for handle in axis.get_legend_handles_labels()[0]}
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=ncols, fontsize=9)


def draw_band(axis, curves: pd.DataFrame, variant: str, column: str, unit: float = 1e6, **line) -> None:
    """IQM over seeds and its interval against environment steps; nothing where there are no such numbers."""
    found = curves[curves["variant"] == variant].dropna(subset=[column]).groupby("global_step")[column]
    samples = [x.to_numpy() for _, x in found]
    if samples:
        steps = [step / unit for step in found.groups]
        axis.plot(steps, [iqm(x) for x in samples], **line)
        low, high = zip(*(bootstrap(iqm, x, resamples=1000) for x in samples), strict=True)
        axis.fill_between(steps, low, high, color=line["color"], alpha=0.18, lw=0)


def plain_log_ticks(axis) -> None:
    """Plain numbers on a logarithmic axis, also where they span less than a decade."""
    axis.set_yscale("log")
    axis.minorticks_off()
    low, high = axis.get_ylim()
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 4, 6) if high < 50 * low else (1, 3)))
    axis.yaxis.set_major_formatter("{x:g}")


def draw_curves(curves: tables.Frames, variants: list[str], column: str, label: str) -> Figure:
    """Over training, a panel a task; and where PrefPoE's width should be, given its preference's."""
    columns = 2 if len(curves) == 4 else len(curves)
    figure, axes = panels(len(curves), width=WIDTH / columns, height=3.4, most=columns)
    longest = max(rows["global_step"].max() for rows in curves.values())
    unit, name = (1e6, "millions") if longest > 5e5 else (1e3, "thousands")
    for axis, (task, rows) in zip(axes, curves.items(), strict=True):
        for i, variant in enumerate(variants):
            marks = dict(markevery=(2 * i, 2 * len(variants)), markersize=5)
            draw_band(axis, rows, variant, column, unit, label=in_words(variant), **STYLE[variant] | marks)
        if column == "trace_acting":
            predicted = 0.9 * rows[rows["variant"] == "prefpoe"].groupby("global_step")["trace_pref"].agg(iqm)
            axis.plot(predicted.index / unit, predicted, "k:", zorder=3, label="0.9 tr Σ of PrefPoE's preference")
            plain_log_ticks(axis)
        axis.set(title=task, xlabel=f"environment steps ({name})")
    axes[0].set_ylabel(label)
    add_legend(figure, ncols=3 if len(variants) == 3 else 2)
    return figure


def draw_beta1(runs: Runs, tasks: list[str]) -> Figure:
    """Both returns of each run against beta_1, whose values stand at equal distances, and their IQMs."""
    figure, axes = panels(len(tasks), width=WIDTH / len(tasks), height=3.4)
    for axis, task in zip(axes, tasks, strict=True):
        known = {value: variant for value, variant in BETA1.items() if len(runs[task, variant, "evaluation"])}
        for (quantity, (shift, look)), (x, variant) in product(RETURNS.items(), enumerate(known.values())):
            returns = runs[task, variant, quantity]
            axis.plot([x + shift] * len(returns), returns, **look | dict(marker="o", markersize=3, alpha=0.6))
            axis.plot(x + shift, iqm(returns), label=MEASURES[quantity], **look)
        axis.set_xticks(range(len(known)), [f"{value:g}" + "\n(default)" * (value == 0.2) for value in known])
        axis.set(title=task, xlabel="β₁, the weight of the advantages")
    axes[0].set_ylabel("return (environment's reward)")
    add_legend(figure, ncols=2)
    return figure


def draw_starts(axis, runs: Runs) -> None:
    """Evaluations on HalfCheetah, a line a variant, by how narrow it starts."""
    labels = []
    for head, variants in STARTS.items():
        labels.append(head)
        for variant in variants:
            x = runs["HalfCheetah-v4", variant, "evaluation"]
            if len(x):
                look = STYLE["prefpoe" if variant.startswith("prefpoe") else variant if variant == CLEANRL else MATCHED]
                low, high = bootstrap(iqm, x)
                axis.hlines(len(labels), low, high, color=look["color"])
                axis.plot(iqm(x), len(labels), markersize=7, **look)
                axis.text(max(high, iqm(x) + 150) + 250, len(labels), f"{iqm(x):,.0f}", va="center", fontsize=9)
                labels.append(in_words(variant).replace(", ", ",\n"))
    axis.axvline(5375, color="#777777", linestyle=":", label="the paper's PrefPoE, 5,375 after 2M steps")
    axis.set_yticks(range(len(labels)), labels)
    for tick in axis.get_yticklabels():
        tick.set_fontweight("bold" if tick.get_text() in STARTS else "normal")
    axis.set(xlim=(0, 7800), ylim=(len(labels) - 0.4, -0.6), xlabel="evaluation after 1M steps")
    axis.set_title("(a) HalfCheetah: the start decides", loc="left", fontsize="medium")


def draw_beaten(axis, runs: Runs, tasks: list[str]) -> None:
    """How often PrefPoE beats matched PPO, a line a task and one their mean."""
    rows = {task.rpartition("-")[0]: [task] for task in tasks} | {"mean": tasks}
    for (quantity, (shift, look)), (y, of_row) in product(RETURNS.items(), enumerate(rows.values())):
        samples = pairs_of(runs, "prefpoe", MATCHED, quantity, of_row)
        if samples:
            low, high = bootstrap(improvement, *samples)
            axis.hlines(y + shift, low, high, color=look["color"], linestyle="-" if shift < 0 else "--", lw=1.3)
            axis.plot(improvement(*samples), y + shift, label=MEASURES[quantity], **look)
    axis.axvline(0.5, color="black", lw=1)
    axis.set_yticks(range(len(rows)), rows)
    axis.set(xlim=(-0.03, 1.03), ylim=(len(tasks) + 0.6, -0.6), xlabel="P(PrefPoE beats matched PPO)")
    axis.set_title("(b) PrefPoE against matched PPO", loc="left", fontsize="medium")


def draw_verdict(runs: Runs, tasks: list[str]) -> Figure:
    figure, axes = panels(2, width=WIDTH / 2, height=4.9)
    draw_starts(axes[0], runs)
    draw_beaten(axes[1], runs, tasks)
    add_legend(figure, ncols=3)
    return figure


def make_figures(runs: Runs, curves: tables.Frames) -> dict[str, Figure]:
    """Those that there are runs for, by name."""
    every = [task for task in runs.tasks("prefpoe", easy=True) if task in runs.tasks(MATCHED, easy=True)]
    widths = {task: tables.acting(curves[task]) for task in runs.tasks(NARROW_BONUS)}
    balance = {task: curves[task] for task in ("Hopper-v4", "Walker2d-v4") if task in every}
    guided = runs.tasks("prefpoe-beta1-1", "prefpoe-beta1-4")
    sac = {}
    for name in runs.tasks("sac", "prefpoe-sac", prefix="sac-"):
        task, _ = tables.task_and_length(name)
        sac[task] = pd.concat([curves[name], sac.get(task)])  # of all lengths
    calls = {
        "widths": (widths, [NARROW, BONUS, "prefpoe", NARROW_BONUS], "trace_acting", "tr Σ of the acting policy"),
        "balance": (balance, [CLEANRL, MATCHED, "prefpoe"], "episodic_return", "training return"),
        "sac": (sac, ["sac", "prefpoe-sac", "prefpoe-sac-own"], "episodic_return", "training return"),
    }
    figures = {name: draw_curves(*call) for name, call in calls.items() if call[0]}
    if guided:
        figures["beta1"] = draw_beta1(runs, guided)
    if every[:1] == ["HalfCheetah-v4"]:
        figures["verdict"] = draw_verdict(runs, every)
    return figures
