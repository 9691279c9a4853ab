"""Figures of runs, drawn without pyplot, which keeps state."""

import itertools
import math
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator
from statistics_of_runs import bootstrap, improvement, iqm, profile, scores
from tables import (
    BONUS,
    COEFFICIENTS,
    COMPARED,
    COMPARISONS,
    ENT_COEF,
    ENT_COEF_ANNEAL,
    MATCHED,
    MEASURES,
    NARROW,
    NARROW_BONUS,
    NOISE,
    REPRODUCE,
    SAC,
    SCALE,
    SCHEDULES,
    SENSITIVITY,
    Frames,
    acting,
    all_tasks,
    continuous,
    long_tasks,
    normalised,
    pairs_of,
    repeated,
    sac_tasks,
    scale_tasks,
    settings,
    sweeps,
)

PUBLISHED = "CleanRL's SAC, published"
STYLE = {  # colour and marker of a variant; colours differ in lightness too, for greyscale and for the colour-blind
    "ppo-cleanrl": dict(color="#7fb2d6", marker="v"),
    "ppo": dict(color="#2f7fb8", marker="s"),
    MATCHED: dict(color="#06264f", marker="o"),
    "prefpoe": dict(color="#b2182b", marker="D"),
    "prefpoe-anneal": dict(color="#f2a32c", marker="^"),
    ENT_COEF: dict(color="#178f80", marker="P"),
    ENT_COEF_ANNEAL: dict(color="#7ccfbf", marker="X"),
    "prefpoe-lambda-falling": dict(color="#3b0a14", marker="v"),
    "prefpoe-lambda-rising": dict(color="#e58a76", marker="s"),
    "prefpoe-lambda-guided": dict(color="#6f7f8f", marker="P"),
    "sac": dict(color="#06264f", marker="o"),
    "prefpoe-sac": dict(color="#b2182b", marker="D"),
    "prefpoe-sac-own": dict(color="#f2a32c", marker="^"),
    PUBLISHED: dict(color="#777777", marker=""),
}
DASHES = {"ppo-cleanrl": "-.", MATCHED: ":", ENT_COEF: "--", ENT_COEF_ANNEAL: (0, (5, 1, 1, 1, 1, 1))}
DASHES |= {"prefpoe-lambda-falling": "--", "prefpoe-lambda-rising": "-.", "prefpoe-lambda-guided": ":"}
LINES = {"evaluation": dict(linestyle="-"), "training_return": dict(linestyle="--", markerfacecolor="white")}
POLICIES = {
    "main": dict(color="#2f7fb8", linestyle="--", label=r"main expert $\pi_\theta$"),
    "pref": dict(color="#f2a32c", linestyle="-.", label=r"preference $\pi_p$"),
    "fused": dict(color="#b2182b", linestyle="-", label=r"acting policy $\pi_f$"),
}
OVER_TASKS = {  # figures over tasks, each with a table of that name -> what they show
    "comparisons": "Probabilities of improvement by task",
    "profile": "Performance profiles of both returns",
    "entropy-bonus": "Returns and widths of PrefPoE and of the entropy bonuses over training",
    "scale": "Returns against the width of the acting policy at the start, with and without a preference",
    "schedules": "Returns over training under each schedule of λ",
    "sac": "Returns over training of SAC and of PrefPoE on SAC, beside CleanRL's published SAC",
}
EVALUATIONS = "evaluation (3 episodes)"  # while training; the tables' are of 10 episodes after it
RETURN, ENTROPY = "return (environment's reward)", "entropy (nats)"
TRACE, TRACE_DISCRETE = r"tr $\Sigma$ (squared units of the action)", r"tr $\Sigma$ of the one-hot action"
ACTING_TRACE = r"tr $\Sigma$ of the acting policy"
REST, THIN = r"0.9 tr $\Sigma_p$, the prediction", dict(color="black", linestyle="-", lw=0.7)
KINDS = (
    ("HalfCheetah-v4",),
    ("Ant-v4",),
    ("Walker2d-v4", "Hopper-v4"),
    ("LunarLander-v3",),
)  # one task of each is drawn
GUIDANCE = r"corr($A_\mathrm{norm}$, $\log\,\pi_p(a|s)$)"


def panels(count: int, title: str, width: float = 4.2, height: float = 3.5, most: int | None = None, **share):
    """A figure with so many panels, up to `most` in a row, each of that size in inches; and its axes."""
    columns = min(count, most or (3 if count <= 6 else 4))
    rows = math.ceil(count / columns)
    figure = Figure((width * columns, height * rows), dpi=110, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **share).ravel()
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
    for axis in axes[count:]:
        axis.set_axis_off()
    for axis in axes[max(0, count - columns) : count]:  # those with no panel below, also where a row shares its numbers
        axis.tick_params(labelbottom=True)
    figure.suptitle(title, fontsize="medium")
    return figure, axes[:count]


def add_legend(figure: Figure, axis, ncols: int) -> None:
    figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=ncols, fontsize="small")


def draw_band(
    axis, curves: pd.DataFrame, variant: str, column: str, unit: float = 1e6, band: bool = True, **line
) -> None:
    """IQM over seeds and its interval against environment steps; nothing where there are no such numbers."""
    found = curves[curves["variant"] == variant].dropna(subset=[column]).groupby("global_step")[column]
    if steps := [step / unit for step in found.groups]:
        samples = [x.to_numpy() for _, x in found]
        axis.plot(steps, [iqm(x) for x in samples], **line)
        if band:
            low, high = zip(*(bootstrap(iqm, x, resamples=1000) for x in samples), strict=True)
            axis.fill_between(steps, low, high, color=line["color"], alpha=0.18, lw=0)


def fit_to_lines(axis) -> None:
    """Cut bands that reach further than half the lines' range beyond it: one of a few runs can flatten all lines."""
    values = np.concatenate([line.get_ydata() for line in axis.lines] or [[]])
    if len(values) and (spread := 0.5 * np.ptp(values)):
        low, high = axis.get_ylim()
        axis.set_ylim(max(low, values.min() - spread), min(high, values.max() + spread))


def plain_log_ticks(axis) -> None:
    """Plain numbers on a logarithmic axis, also where they span less than a decade."""
    axis.set_yscale("log")
    axis.minorticks_off()
    low, high = axis.get_ylim()
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 4, 6) if high < 50 * low else (1, 3)))
    axis.yaxis.set_major_formatter("{x:g}")


def with_numbers(curves: pd.DataFrame, lines: dict[str, list]) -> dict[str, list]:
    """The panels of `draw_curves` that show anything: a short run has had no evaluation, and maybe no episode's end."""
    known = {column: {*curves.dropna(subset=[column])["variant"]} for drawn in lines.values() for _, column, _ in drawn}
    return {title: x for title, drawn in lines.items() if (x := [line for line in drawn if line[0] in known[line[1]]])}


def draw_curves(task: str, curves: pd.DataFrame, lines: dict[str, list], ylabel: str, log: bool = False) -> Figure:
    """Over training, a panel for each of `lines`: its title and its lines, each (variant, column, style)."""
    width = 6.0 if len(lines) == 1 else 4.2
    figure, axes = panels(len(lines), f"{task}: IQM over seeds, 95 % bootstrap band", width, sharey=True)
    for axis, (title, drawn) in zip(axes, lines.items(), strict=True):
        for variant, column, style in drawn:
            draw_band(axis, curves, variant, column, **style)
        axis.set_title(title, fontsize="medium")
        axis.set(xlabel="environment steps (millions)", ylabel=ylabel)
        if log:
            plain_log_ticks(axis)
        axis.label_outer()
    few = len(axes[0].get_legend_handles_labels()[0]) <= 5
    add_legend(figure, axes[0], ncols=5 if few and len(lines) > 1 else 3)
    return figure


def of_variants(variants: list[str], column: str, every: int, **style) -> list[tuple[str, str, dict]]:
    """Lines of `draw_curves` for a column, with a marker at every so many points, apart so that none hides another."""
    marks = [dict(markevery=(i * every // len(variants), every), markersize=5) for i in range(len(variants))]
    return [(v, column, dict(label=v, **STYLE[v], **mark, **style)) for v, mark in zip(variants, marks, strict=True)]


def of_policies(variant: str, quantity: str) -> list[tuple[str, str, dict]]:
    """Lines of `draw_curves` for that quantity of the three policies, and of matched PPO's only one."""
    lines = [(variant, f"{quantity}_{policy}", style) for policy, style in POLICIES.items()]
    return [*lines, (MATCHED, f"{quantity}_main", dict(color=STYLE[MATCHED]["color"], linestyle=":", label=MATCHED))]


def draw_over_tasks(curves: Frames, variants: list[str], quantities: dict[str, str]) -> Figure:
    """Over training, a column a task and a row for each of `quantities`, a column of the curves -> its axis' label; of
    those but the training return without one that no curve has."""
    known = {column for rows in curves.values() for column in acting(rows).dropna(axis="columns", how="all")}
    quantities = {column: label for column, label in quantities.items() if column in {*known, "episodic_return"}}
    title = "IQM over seeds, 95 % bootstrap band"
    width, longest = 6.0 if len(curves) == 1 else 4.0, max(rows["global_step"].max() for rows in curves.values())
    unit, of_steps = (1e6, "millions") if longest > 1e5 else (1e3, "thousands")  # of all panels, which share the axis
    figure, axes = panels(len(quantities) * len(curves), title, width, 2.6, len(curves), sharex=True)
    for i, (column, task) in enumerate(itertools.product(quantities, curves)):
        axis, top, left, bottom = axes[i], i < len(curves), i % len(curves) == 0, i >= len(axes) - len(curves)
        rows, trace = acting(curves[task]), column == "trace_acting"
        shown = [variant for variant in variants if variant in {*rows["variant"]}]
        for j, variant in enumerate(shown):
            looks = STYLE[variant] | dict(linestyle=DASHES.get(variant, "-"), markevery=(2 * j, 2 * len(shown)))
            draw_band(axis, rows, variant, column, unit, label=variant, markersize=5, **looks)
        if trace and continuous(task):
            for variant in shown:
                draw_band(axis, rows, variant, "trace_rest", unit, band=False, label=REST, **THIN)
        if trace:
            plain_log_ticks(axis)
        else:
            fit_to_lines(axis)
        axis.set_title(task if top else "", fontsize="medium")
        axis.set_xlabel(f"environment steps ({of_steps})" if bottom else "")
        axis.set_ylabel(quantities[column] if left else "")
    handles = {label: handle for axis in axes for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    labels = [label for label in (*variants, REST) if label in handles]
    figure.legend([handles[label] for label in labels], labels, loc="outside lower center", ncols=3, fontsize="small")
    return figure


def bar_looks(color: str) -> tuple[dict, dict]:
    """Of an evaluation's bar and a training return's."""
    return dict(color=color), dict(color="white", edgecolor=color, hatch="////")


def draw_bars(task: str, rows: pd.DataFrame, variants: list[str]) -> Figure:
    """Two bars a variant, evaluation above training return, with intervals."""
    figure, (axis,) = panels(1, f"{task}: IQM over seeds, 95 % bootstrap interval", 7.0, 1.2 + 0.36 * len(variants))
    for y, variant in enumerate(variants):
        looks = bar_looks(STYLE.get(variant, {"color": "#777777"})["color"])
        for measure, look, shift in zip(MEASURES, looks, (-0.2, 0.2), strict=True):
            if len(x := scores(rows, variant, measure)):
                axis.barh(y + shift, iqm(x), 0.38, **look)
                for color, width in (("white", 3.0), ("black", 1.2)):  # outlined, to be seen on dark bars
                    axis.plot(bootstrap(iqm, x), [y + shift] * 2, color=color, lw=width)
    axis.set_yticks(range(len(variants)), variants)
    axis.set(xlabel=RETURN, ylim=(len(variants) - 0.4, -0.6))
    for label, look in zip(MEASURES.values(), bar_looks("#777777"), strict=True):
        axis.bar(np.nan, np.nan, **look, label=label)
    add_legend(figure, axis, ncols=2)
    return figure


def draw_response(task: str, rows: pd.DataFrame, prefixes: list[str]) -> Figure:
    """Both returns against the values of each coefficient, a panel each, the values at equal distances."""
    size = (6.0, 3.5) if len(prefixes) == 1 else (2.8, 2.8)
    figure, axes = panels(len(prefixes), f"{task}: IQM over seeds, 95 % bootstrap interval", *size, 3, sharey=True)
    for axis, prefix in zip(axes, prefixes, strict=True):
        default, default_value, label = COEFFICIENTS[prefix]
        variants, style = settings(prefix, {*rows["variant"]}), STYLE[default]
        for (measure, line), shift in zip(LINES.items(), (-0.06, 0.06), strict=True):
            if len(matched := scores(rows, MATCHED, measure)):
                reference = dict(color=STYLE[MATCHED]["color"], linestyle=line["linestyle"], lw=1)
                axis.axhline(iqm(matched), **reference, label=f"{MATCHED}, {MEASURES[measure]}")
            points = [(x + shift, scores(rows, variant, measure)) for x, variant in enumerate(variants.values())]
            points = [(x, y) for x, y in points if len(y)]
            axis.plot([x for x, _ in points], [iqm(y) for _, y in points], label=MEASURES[measure], **style, **line)
            for x, y in points:
                axis.plot([x, x], bootstrap(iqm, y), color=style["color"], lw=1.2)
        ticks = [f"{value:g}" + "\n(default)" * (value == default_value) for value in variants]
        axis.set_xticks(range(len(variants)), ticks)
        axis.set_xlabel(label)
    figure.supylabel(RETURN, fontsize="medium")
    add_legend(figure, axes[0], ncols=2 if len(prefixes) <= 2 else 4)
    return figure


def draw_scale(evaluations: Frames) -> Figure:
    """Returns against log sigma of the acting policy at the start, a column a task and a row a measure."""
    tasks = scale_tasks(evaluations)
    figure, axes = panels(2 * len(tasks), "IQM over seeds, 95 % bootstrap interval", 4.0, 2.6, len(tasks), sharex=True)
    for axis, (m, task) in zip(axes, itertools.product(MEASURES, tasks), strict=True):
        rows, reference = evaluations[task], dict(color=STYLE["ppo-cleanrl"]["color"], linestyle="-.")
        if len(cleanrl := scores(rows, "ppo-cleanrl", m)):
            axis.axhline(iqm(cleanrl), label="ppo-cleanrl, from 0", **reference)
            axis.axhspan(*bootstrap(iqm, cleanrl), color=reference["color"], alpha=0.18, lw=0)
        for default, label, shift in ((MATCHED, "PPO with PrefPoE's network", -0.012), ("prefpoe", "PrefPoE", 0.012)):
            family = {v: x + shift for v, x in SCALE.items() if v.startswith("prefpoe") == (default == "prefpoe")}
            points = [(x, y) for v, x in family.items() if len(y := scores(rows, v, m))]
            axis.plot([x for x, _ in points], [iqm(y) for _, y in points], label=label, **STYLE[default])
            for x, y in points:
                axis.plot([x, x], bootstrap(iqm, y), color=STYLE[default]["color"], lw=1.2)
        if len(y := scores(rows, NARROW_BONUS, m)):
            looks, x = STYLE[ENT_COEF] | dict(linestyle=""), SCALE[NARROW] + 0.04
            axis.plot([x], [iqm(y)], label="that PPO with an entropy bonus", **looks)
            axis.plot([x, x], bootstrap(iqm, y), color=looks["color"], lw=1.2)
        axis.set_title(task if m == "evaluation" else "", fontsize="medium")
        axis.set_xlabel("log σ of the acting policy at the start" if m != "evaluation" else "")
        axis.set_ylabel(MEASURES[m] if task == tasks[0] else "")
        axis.set_xticks(ticks := [0, -1, -1.35], [f"{x:g}" for x in ticks])
        axis.set_ylim(bottom=min(0, axis.get_ylim()[0]))
    add_legend(figure, axes[0], ncols=3)
    return figure


def draw_profile(evaluations: Frames) -> Figure:
    """Performance profile (Agarwal et al. 2021) of normalised returns, a panel a measure."""
    title = "performance profile over tasks, 95 % bootstrap band; 0: IQM of ppo-cleanrl, 1: highest IQM of the others"
    figure, axes = panels(len(MEASURES), title, 4.6, sharey=True)
    taus = np.linspace(-1, 2, 151)
    for axis, (m, measure) in zip(axes, MEASURES.items(), strict=True):
        shown, count = normalised(evaluations, m), 0
        for i, (variant, samples) in enumerate(shown.items()):
            count, looks = len(samples), STYLE[variant] | dict(linestyle=DASHES.get(variant, "-"), markersize=5)
            axis.plot(taus, profile(taus, *samples), markevery=(4 * i, 24), label=variant, **looks)
            low, high = bootstrap(partial(profile, taus), *samples, resamples=1000)
            axis.fill_between(taus, low, high, color=looks["color"], alpha=0.15, lw=0)
        axis.set_title(f"{measure}, {count} task{'s' * (count != 1)}", fontsize="medium")
        axis.set(xlabel=r"normalised return $\tau$", ylabel=r"share of runs above $\tau$", ylim=(-0.02, 1.02))
        axis.label_outer()
    add_legend(figure, axes[0], ncols=3)
    return figure


def draw_comparisons(evaluations: Frames) -> Figure:
    """Probabilities of improvement, a panel for each variant that is compared with, a line a task and one their mean."""
    bases = [*dict.fromkeys(base for others in COMPARISONS.values() for base in others)]
    found = {
        (variant, base, m): pairs
        for m, (variant, others) in itertools.product(MEASURES, COMPARISONS.items())
        for base in others
        if (pairs := pairs_of(evaluations, variant, base, m))
    }
    bases = [base for base in bases if any(base == key[1] for key in found)]
    tasks = [task for task in all_tasks(evaluations) if any(task in pairs for pairs in found.values())]
    title = "probability that a run beats one of the variant named, 95 % bootstrap interval"
    figure, axes = panels(len(bases), title, 3.9, 1.9 + 0.6 * len(tasks), most=3, sharex=True, sharey=True)
    for axis, base in zip(axes, bases, strict=True):
        axis.axvline(0.5, color="black", lw=1)
        axis.axhline(len(tasks) - 0.5, color="#999999", lw=0.8)
        for i, (variant, m) in enumerate(itertools.product(COMPARISONS, MEASURES)):
            pairs = found.get((variant, base, m), {})
            rows = [(tasks.index(task), pair) for task, pair in pairs.items()]
            rows += [(len(tasks), [*itertools.chain(*several.values())])] if (several := repeated(pairs)) else []
            heights = [y + 0.1 * (i - len(COMPARISONS) + 0.5) for y, _ in rows]
            looks = STYLE[variant] | LINES[m] | dict(linestyle="", markersize=5)
            for y, (_, samples) in zip(heights, rows, strict=True):
                axis.plot(bootstrap(improvement, *samples), [y, y], color=looks["color"], lw=1.2)
            values = [float(improvement(*samples)) for _, samples in rows]
            label = f"{variant}, {MEASURES[m]}"
            axis.plot(values, heights, label=label, **looks)
        axis.set_title(f"over {base}", fontsize="medium")
        axis.set(xlim=(-0.03, 1.03), ylim=(len(tasks) + 0.6, -0.6), xlabel="P(improvement)")
        axis.set_yticks(range(len(tasks) + 1), [*tasks, "mean over tasks"])
    add_legend(figure, axes[0], ncols=2)
    return figure


def figures_over_tasks(evaluations: Frames) -> dict[str, Callable[[], Figure]]:
    """For each figure over tasks that there is data for, its name, that of its table, and how to draw it."""
    figures = {}
    if any(normalised(evaluations, m) for m in MEASURES):
        figures["profile"] = partial(draw_profile, evaluations)
    if any(
        pairs_of(evaluations, variant, base, m)
        for variant in COMPARISONS
        for base in COMPARISONS[variant]
        for m in MEASURES
    ):
        figures["comparisons"] = partial(draw_comparisons, evaluations)
    if scale_tasks(evaluations):
        figures["scale"] = partial(draw_scale, evaluations)
    return figures


def figures_over_training(curves: Frames) -> dict[str, Callable[[], Figure]]:
    """The same of those over training."""
    figures = {}
    with_bonus = {
        task: rows for task in all_tasks(curves) if {ENT_COEF, "prefpoe"} <= {*(rows := curves[task])["variant"]}
    }
    chosen = [next((task for task in kind if task in with_bonus), None) for kind in KINDS]
    if shown := {task: with_bonus[task] for task in chosen if task}:
        quantities = {"eval_return": EVALUATIONS, "episodic_return": "training return", "trace_acting": ACTING_TRACE}
        figures["entropy-bonus"] = partial(draw_over_tasks, shown, [*BONUS], quantities)
    scheduled = {task: curves[task] for task in all_tasks(curves) if {*SCHEDULES[1:]} & {*curves[task]["variant"]}}
    quantities = {"eval_return": EVALUATIONS, "episodic_return": "training return"}
    if scheduled:
        figures["schedules"] = partial(draw_over_tasks, scheduled, [*SCHEDULES], quantities)
    if of_sac := {task: curves[task] for task in sac_tasks(curves)}:
        figures["sac"] = partial(
            draw_over_tasks, with_published(of_sac), [*SAC, PUBLISHED], dict(reversed(quantities.items()))
        )
    return figures


def with_published(curves: Frames) -> Frames:
    """A frame a task of SAC, of each variant its longest runs, and as far as these go CleanRL's own published curve."""
    found: dict[str, dict[str, pd.DataFrame]] = {}
    for task in sorted(curves, key=lambda task: curves[task]["global_step"].max()):
        name = re.fullmatch(r"sac-(.*?)(-\d+-steps)?", task)[1]
        found.setdefault(name, {}).update({variant: rows for variant, rows in curves[task].groupby("variant")})
    published = pd.read_csv(Path(__file__).with_name("results") / "cleanrl-sac-published.csv").assign(variant=PUBLISHED)
    for task, rows in found.items():
        last = max(x["global_step"].max() for x in rows.values())
        rows[PUBLISHED] = published[(published["task"] == task) & (published["global_step"] <= last)]
    return {task: pd.concat(rows.values(), ignore_index=True) for task, rows in found.items()}


def make_figures(evaluations: Frames, curves: Frames) -> dict[str, Callable[[], Figure]]:
    """For each figure that there is data for, its name, <task>_<kind> or that of a table over tasks, and how to draw it."""
    figures = figures_over_tasks(evaluations) | figures_over_training(curves)
    for task in [task for task in curves if task in evaluations]:
        rows, variants = evaluations[task], {*evaluations[task]["variant"]}
        found, draw = sweeps(variants), partial(draw_curves, task, curves[task])
        compared = [x for x in COMPARED if x in variants]  # with the bonuses, which no other picture has at that length
        if shown := compared if task in long_tasks(curves) else found.get("reproduce"):
            lines = {
                EVALUATIONS: of_variants(shown, "eval_return", 4, **LINES["evaluation"]),
                "training return": of_variants(shown, "episodic_return", 12, **LINES["training_return"]),
            }
            if shown := with_numbers(curves[task], lines):
                figures[f"{task}_learning"] = partial(draw, shown, RETURN)
        with_guidance = {*curves[task].dropna(subset=["guidance"])["variant"]}
        if guided := [variant for variant in REPRODUCE if variant in with_guidance]:
            for quantity, ylabel in {
                "entropy": ENTROPY,
                "trace": TRACE if continuous(task) else TRACE_DISCRETE,
            }.items():
                lines = {variant: of_policies(variant, quantity) for variant in guided}
                figures[f"{task}_{quantity}"] = partial(draw, lines, ylabel, log=quantity == "trace")
            lines = {"advantage and preference": of_variants(guided, "guidance", 8)}
            figures[f"{task}_guidance"] = partial(draw, lines, GUIDANCE)
        if {*found.get("attribution", ())} - {"ppo-cleanrl", *SCALE}:  # the others are in scale.png
            figures[f"{task}_attribution"] = partial(draw_bars, task, rows, found["attribution"])
        if "advantage-noise" in found:
            figures[f"{task}_advantage-noise"] = partial(draw_response, task, rows, [NOISE])
        if varied := [prefix for prefix in SENSITIVITY if len(settings(prefix, variants)) > 2]:  # two fill a table only
            figures[f"{task}_sensitivity"] = partial(draw_response, task, rows, varied)
    return figures
