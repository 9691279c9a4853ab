"""Figures of runs, drawn without pyplot, which keeps state. The report's are 838 pixels wide, so that GitHub shows them at
their own size, with no type below 9 pt."""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator
from statistics_of_runs import bootstrap, improvement, iqm, scores
from tables import BETA1, BONUS, CLEANRL, MATCHED, MEASURES, NAMES, NARROW, NARROW_BONUS, WIDE, WIDE_PREFPOE
from tables import Frames, acting, pairs_of_samples, task_and_length, tasks_with

RESULTS = Path(__file__).with_name("results")
PUBLISHED = "CleanRL's SAC, published"
STYLE = {  # colour and marker of a variant; colours differ in lightness too, for greyscale and for the colour-blind
    CLEANRL: dict(color="#7fb2d6", marker="v"),
    "ppo": dict(color="#2f7fb8", marker="s"),
    MATCHED: dict(color="#06264f", marker="o"),
    BONUS: dict(color="#178f80", marker="P"),
    NARROW_BONUS: dict(color="#7ccfbf", marker="X"),
    "prefpoe": dict(color="#b2182b", marker="D"),
    "prefpoe-anneal": dict(color="#f2a32c", marker="^"),
    "sac": dict(color="#06264f", marker="o"),
    "prefpoe-sac": dict(color="#b2182b", marker="D"),
    "prefpoe-sac-own": dict(color="#f2a32c", marker="^"),
    PUBLISHED: dict(color="#777777", marker=""),
}
POLICIES = {
    "main": dict(color="#2f7fb8", linestyle="--", label=r"main expert $\pi_\theta$"),
    "pref": dict(color="#f2a32c", linestyle="-.", label=r"preference $\pi_p$"),
    "fused": dict(color="#b2182b", linestyle="-", label=r"fused policy $\pi_f$"),
}
RETURN, ENTROPY, TRACE = "return (environment's reward)", "entropy (nats)", r"tr $\Sigma$ (squared units of the action)"
GUIDANCE = r"corr($A_\mathrm{norm}$, $\log\,\pi_p(a|s)$)"
WIDTH = 7.62  # inches
FILLED, OPEN = dict(linestyle="-"), dict(linestyle="--", markerfacecolor="white")  # evaluation, training return
STARTS = {
    "starts wide, σ = 1": {CLEANRL: "CleanRL's PPO", WIDE: "PPO, PrefPoE's network", WIDE_PREFPOE: "PrefPoE"},
    "starts narrow": {
        MATCHED: "matched PPO (σ = 0.37)",
        NARROW: "… from σ = 0.26",
        NARROW_BONUS: "… and an entropy bonus",
        "prefpoe": "PrefPoE (σ = 0.26)",
        "prefpoe-beta1-0": "… without advantages",
    },
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


def add_legend(figure: Figure, axis, ncols: int) -> None:
    figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=ncols, fontsize=9)


def draw_band(axis, curves: pd.DataFrame, variant: str, column: str, unit: float = 1e6, **line) -> None:
    """IQM over seeds and its interval against environment steps; nothing where there are no such numbers."""
    found = curves[curves["variant"] == variant].dropna(subset=[column]).groupby("global_step")[column]
    if steps := [step / unit for step in found.groups]:
        samples = [x.to_numpy() for _, x in found]
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


def draw_curves(curves: Frames, variants: list[str], column: str, label: str, unit: float = 1e6):
    """Over training, a panel a task; a figure and its axes."""
    figure, axes = panels(len(curves), width=WIDTH / len(curves), height=3.4)
    for axis, (task, rows) in zip(axes, curves.items(), strict=True):
        shown = [variant for variant in variants if (rows["variant"] == variant).any()]
        for i, variant in enumerate(shown):
            marks = dict(markevery=(2 * i, 2 * len(shown)), markersize=5)
            draw_band(axis, rows, variant, column, unit, label=NAMES.get(variant, variant), **STYLE[variant] | marks)
        axis.set_title(task, fontsize="medium")
        axis.set_xlabel(f"environment steps ({'millions' if unit == 1e6 else 'thousands'})")
    axes[0].set_ylabel(label)
    return figure, axes


def draw_widths(curves: Frames) -> Figure:
    """tr Sigma of the policy that acts, and what PrefPoE's should be, given its preference."""
    variants = [MATCHED, BONUS, NARROW_BONUS, "prefpoe"]
    figure, axes = draw_curves(curves, variants, "trace_acting", "tr Σ of the acting policy")
    for axis, rows in zip(axes, curves.values(), strict=True):
        pref = rows[rows["variant"] == "prefpoe"].groupby("global_step")["trace_pref"]
        predicted = [0.9 * iqm(x.to_numpy()) for _, x in pref]
        label = "0.9 tr Σ of PrefPoE's preference"
        axis.plot([step / 1e6 for step in pref.groups], predicted, "--", color="black", lw=1.2, zorder=3, label=label)
        plain_log_ticks(axis)
    add_legend(figure, axes[0], ncols=2)
    return figure


def draw_balance(curves: Frames) -> Figure:
    figure, axes = draw_curves(curves, [CLEANRL, MATCHED, "prefpoe"], "episodic_return", "training return")
    add_legend(figure, axes[0], ncols=3)
    return figure


def draw_sac(curves: Frames) -> Figure:
    """Each variant's longest runs, and as far as these go CleanRL's own curve."""
    published = pd.read_csv(RESULTS / "cleanrl-sac-published.csv").assign(variant=PUBLISHED)
    tasks = {}
    for name in sorted(curves, key=lambda name: curves[name]["global_step"].max()):
        task, _ = task_and_length(name)
        last = curves[name]["global_step"].max()
        before = tasks.get(task, curves[name][:0])
        before = before[~before["variant"].isin([*curves[name]["variant"], PUBLISHED])]
        theirs = published[(published["task"] == task) & (published["global_step"] <= last)]
        tasks[task] = pd.concat([before, curves[name], theirs], ignore_index=True)
    variants = ["sac", "prefpoe-sac", "prefpoe-sac-own", PUBLISHED]
    figure, axes = draw_curves(tasks, variants, "episodic_return", "training return", unit=1e3)
    add_legend(figure, axes[0], ncols=2)
    return figure


def draw_beta1(evaluations: Frames) -> Figure:
    """Both returns against beta_1, whose values stand at equal distances."""
    figure, axes = panels(len(evaluations), width=WIDTH / len(evaluations), height=3.4)
    for axis, (task, rows) in zip(axes, evaluations.items(), strict=True):
        known = {value: variant for value, variant in BETA1.items() if (rows["variant"] == variant).any()}
        for (measure, name), look, shift in zip(MEASURES.items(), (FILLED, OPEN), (-0.07, 0.07), strict=True):
            samples = [scores(rows, variant, measure) for variant in known.values()]
            places = [x + shift for x in range(len(known))]
            axis.plot(places, [iqm(x) for x in samples], label=name, **STYLE["prefpoe"] | look)
            for x, sample in zip(places, samples, strict=True):
                axis.plot([x, x], bootstrap(iqm, sample), color=STYLE["prefpoe"]["color"], lw=1.2)
        axis.set_xticks(range(len(known)), [f"{value:g}" + "\n(default)" * (value == 0.2) for value in known])
        axis.set_title(task, fontsize="medium")
        axis.set_xlabel("β₁, the weight of the advantages")
    axes[0].set_ylabel(RETURN)
    add_legend(figure, axes[0], ncols=2)
    return figure


def draw_starts(axis, rows: pd.DataFrame) -> None:
    """Evaluations, a line a variant, by how narrow it starts."""
    labels = []
    for head, variants in STARTS.items():
        labels.append(head)
        for variant, label in variants.items():
            x = scores(rows, variant, "evaluation")
            if len(x) > 0:
                look = STYLE[CLEANRL if variant == CLEANRL else "prefpoe" if "prefpoe" in variant else MATCHED]
                low, high = bootstrap(iqm, x)
                axis.plot([low, high], [len(labels)] * 2, color=look["color"], lw=1.6)
                axis.plot(iqm(x), len(labels), markersize=7, **look)
                axis.text(high + 250, len(labels), f"{iqm(x):,.0f}", va="center", fontsize=9)
                labels.append(label)
    axis.axvline(5375, color="#777777", linestyle=":")
    axis.text(5250, 0, "the paper: 5,375", ha="right", va="center", fontsize=9, color="#555555")
    axis.set_yticks(range(len(labels)), labels)
    for tick in axis.get_yticklabels():
        tick.set_fontweight("bold" if tick.get_text() in STARTS else "normal")
    axis.set(xlim=(0, 7600), ylim=(len(labels) - 0.4, -0.6), xlabel="evaluation after 1M steps")
    axis.set_title("(a) HalfCheetah: the start decides", loc="left", fontsize="medium")


def draw_beaten(axis, evaluations: Frames) -> None:
    """How often PrefPoE beats matched PPO, a line a task and one their mean."""
    tasks = [task for task in tasks_with(evaluations, MATCHED) if task in tasks_with(evaluations, "prefpoe")]
    places = [*range(len(tasks)), len(tasks) + 0.5]
    for (measure, name), look, shift in zip(MEASURES.items(), (FILLED, OPEN), (-0.17, 0.17), strict=True):
        for y, chosen in zip(places, [*([task] for task in tasks), tasks], strict=True):
            samples = pairs_of_samples(evaluations, "prefpoe", MATCHED, measure, chosen)
            if samples:
                look = dict(color=STYLE["prefpoe"]["color"]) | look
                axis.plot(bootstrap(improvement, *samples), [y + shift] * 2, lw=1.4, **look)
                label = name if chosen == tasks else None
                axis.plot(improvement(*samples), y + shift, "D", markersize=6, label=label, **look | {"linestyle": ""})
    axis.axvline(0.5, color="black", lw=1)
    axis.axhline(len(tasks) - 0.25, color="#777777", lw=0.8)
    axis.set_yticks(places, [*(task.rpartition("-")[0] for task in tasks), "mean"])
    axis.set(xlim=(-0.03, 1.03), ylim=(len(tasks) + 1.1, -0.6), xlabel="P(PrefPoE beats matched PPO)")
    axis.set_title(f"(b) All {len(tasks)} tasks", loc="left", fontsize="medium")


def draw_verdict(evaluations: Frames) -> Figure:
    figure, axes = panels(2, width=WIDTH / 2, height=4.3)
    draw_starts(axes[0], evaluations["HalfCheetah-v4"])
    draw_beaten(axes[1], evaluations)
    figure.legend(*axes[1].get_legend_handles_labels(), loc="outside lower right", ncols=2, fontsize=9, frameon=False)
    return figure


def make_figures(evaluations: Frames, curves: Frames) -> dict[str, Callable[[], Figure]]:
    """For each figure that there are runs for, its name and how to draw it."""
    curves = {task: acting(rows) for task, rows in curves.items()}
    tasks = tasks_with(evaluations, "prefpoe")
    chosen = {
        "verdict": (draw_verdict, evaluations, [task for task in tasks if task == "HalfCheetah-v4"]),
        "widths": (
            draw_widths,
            curves,
            [task for task in ("HalfCheetah-v4", "Ant-v4", "Walker2d-v4") if task in tasks],
        ),
        "balance": (draw_balance, curves, [task for task in ("Hopper-v4", "Walker2d-v4") if task in tasks]),
        "beta1": (draw_beta1, evaluations, tasks_with(evaluations, "prefpoe-beta1-1", "prefpoe-beta1-4")),
        "sac": (draw_sac, curves, [task for task in curves if task.startswith("sac-")]),
    }
    figures = {}
    for name, (draw, frames, shown) in chosen.items():
        if name == "verdict" and shown:
            figures[name] = partial(draw, frames)
        elif shown:
            figures[name] = partial(draw, {task: frames[task] for task in shown})
    return figures
