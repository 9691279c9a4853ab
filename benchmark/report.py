"""Turn finished runs into the tables and figures of benchmark/results/.

    python benchmark/report.py runs/*                     # take in every finished run, then write tables and figures
    python benchmark/report.py                            # only write them again, from the CSV files in results/
    python benchmark/report.py --batch runs/<run>         # act for 2048 steps, for the scatter of log pi_p against A_norm
    python benchmark/report.py --update-readme            # and write the tables between the report marks of README.md

A run is a folder [prefix]<task>__<variant>__<seed>, as the sweeps name it. A run taken in before under the same name is
replaced, and all others stay, so sweeps can be taken in one after the other and from several machines. Tables and
figures depend on the CSV files alone: <task>_evaluations.csv (a row a run), <task>_curves.csv (up to 50 rows a run),
<task>_batch.csv. Runs of other lengths than 1,000,000 steps get files of their own, so that they never mix.

The statistics are those of Agarwal et al. 2021 (arXiv 2108.13264) and equal rliable's: interquartile means over runs,
probabilities of improvement, and 95 % percentile intervals of a bootstrap stratified by variant and task.
"""

import csv
import importlib
import itertools
import json
import math
import re
import sys
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NoReturn

import numpy as np
import tyro
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator
from scipy import stats

ROOT = Path(__file__).resolve().parent.parent
MATCHED = "ppo-matched"  # what every variant is compared with
PAPER = {  # what the paper reports, by the task here
    "HalfCheetah-v4": "1,276 → 5,375 (+321 %)",
    "Ant-v4": "+69 %",
    "LunarLander-v3": "+276 % (LunarLander-v2)",
}
REPRODUCE = ("ppo-cleanrl", "ppo", MATCHED, "prefpoe", "prefpoe-anneal")
INGREDIENTS = {
    "bootstrap": "time limits bootstrapped",
    "logstd": "log σ = −1 at the start",
    "squash": "means through tanh",
    "shared": "shared backbone",
    "preference": "preference",
}
ATTRIBUTION = {  # the ingredients of each variant -> its name
    frozenset(first + others): "-".join((base, *others))
    for base, first in {"ppo-cleanrl": (), "ppo": ("bootstrap",)}.items()
    for size in range(4)
    for others in itertools.combinations(("logstd", "squash", "shared"), size)
}
ATTRIBUTION[frozenset([*INGREDIENTS][:4])] = MATCHED
ATTRIBUTION[frozenset(INGREDIENTS)] = "prefpoe"
FUSION = ("prefpoe", "prefpoe-linear", "prefpoe-none", MATCHED)
COEFFICIENTS = {  # variants <prefix><value>: the variant with the default value, that value, what it is
    "prefpoe-noise-": ("prefpoe", 0.0, r"std of the noise on $A_\mathrm{norm}$"),
    "prefpoe-beta1-": ("prefpoe", 0.2, r"$\beta_1$, weight of the advantages"),
    "prefpoe-alpha-": ("prefpoe", 0.2, r"$\alpha$, weight of the entropy"),
    "prefpoe-w-pref-": ("prefpoe", 0.05, r"$w_\mathrm{pref}$, weight of $L_\mathrm{pref}$"),
    "prefpoe-w-cons-": ("prefpoe", 0.1, r"$w_\mathrm{cons}$, weight of $L_\mathrm{cons}$"),
    "prefpoe-lambda-pref-": ("prefpoe", 1.0, r"$\lambda$, weight of the preference"),
    "ppo-ent-coef-": ("ppo", 0.0, "ppo: weight of the entropy bonus"),
    "ppo-matched-ent-coef-": (MATCHED, 0.0, f"{MATCHED}: weight of the entropy bonus"),
    "ppo-matched-logstd-": (MATCHED, -1.0, rf"{MATCHED}: initial $\log\,\sigma$"),
}
NOISE, *SENSITIVITY = COEFFICIENTS

MEASURES = {  # column -> name: of the mean action after training; of the acting policy in training's last tenth
    "evaluation": "evaluation",
    "training_return": "training return",
}
EXPERTS = {  # column of the curves, or the ratio of two -> name and form
    "trace_main": ("tr Σ_θ, main expert", "{:.2f}"),
    "trace_pref": ("tr Σ_p, preference", "{:.2f}"),
    "trace_fused": ("tr Σ_f, acting policy", "{:.2f}"),
    "trace_ratio": ("tr Σ_f / tr Σ_p", "{:.2f}"),
    "guidance": ("corr(A_norm, log π_p)", "{:.3f}"),
}
RUN = ("variant", "seed")
AVERAGED = ("episodic_return", "eval_return", "entropy_main", "entropy_pref", "entropy_fused")
AVERAGED += ("trace_main", "trace_pref", "trace_fused", "kl_fused_pref", "guidance")
VERSIONS = ("torch", "gymnasium", "mujoco")
COLUMNS = {  # of <task>_<kind>.csv
    "evaluations": (*RUN, "global_step", *MEASURES, "evaluation_std", "SPS", *VERSIONS, "returns"),
    "curves": (*RUN, "global_step", *AVERAGED),
    "batch": (*RUN, "A_norm", "log_prob_pref"),
}

Row = dict[str, str]  # a row of a CSV file, an empty cell where a run has no such number


@dataclass
class Args:
    folders: tyro.conf.Positional[tuple[Path, ...]] = ()
    """run folders to take in; whatever is no finished run is skipped"""
    results: Path = ROOT / "benchmark" / "results"
    """folder of the CSV files, tables and figures"""
    batch: Path | None = None
    """finished PrefPoE run to act with for 2048 steps"""
    figures: bool = True
    """draw the figures"""
    update_readme: bool = False
    """write the tables into README.md, between <!-- report: NAME --> and <!-- /report -->"""


def fail(message: str) -> NoReturn:
    """End the program with one line on stderr."""
    print("error: " + " ".join(message.split()), file=sys.stderr)
    raise SystemExit(2)


# Runs and CSV files


def parse_name(folder: Path, config: dict) -> tuple[str, str, str] | None:
    """Task, variant and seed; None where the folder is named otherwise. A length other than 1M is part of the task."""
    parts = re.fullmatch(r"(.+)__(.+)__(\d+)", folder.name)
    if not parts or int(parts[3]) != config["seed"]:
        return None
    steps = config["total_timesteps"]
    return parts[1] + (f"-{steps}-steps" if steps != 1_000_000 else ""), parts[2], parts[3]


def mean(cells: Iterable[str]) -> float:
    """Mean of the cells that hold a number; nan where none does."""
    numbers = [x for x in map(float, cells) if not math.isnan(x)]
    return float(np.mean(numbers)) if numbers else math.nan


def short(x: float) -> str:
    """Five significant digits; an empty cell for nan."""
    return "" if math.isnan(x) else f"{x:.5g}"


def thinned(metrics: list[Row], most: int = 50) -> list[Row]:
    """Rows of metrics.csv averaged over bins of equally many iterations; global_step is a bin's middle."""
    size = math.ceil(len(metrics) / most)
    bins = [metrics[i : i + size] for i in range(0, len(metrics), size)]
    return [
        {"global_step": f"{mean(row['global_step'] for row in rows):.0f}"}
        | {name: short(mean(row.get(name, "nan") for row in rows)) for name in AVERAGED}
        for rows in bins
    ]


def read_run(folder: Path) -> tuple[str, Row, list[Row]] | None:
    """A finished run's task, row of evaluations and rows of curves; None where its name is no sweep's."""
    try:
        config, evaluation = (json.loads((folder / f"{name}.json").read_text()) for name in ("config", "evaluation"))
        if not (parts := parse_name(folder, config)):
            return None
        with open(folder / "metrics.csv", newline="") as file:
            metrics = list(csv.DictReader(file))
        curve = thinned(metrics)
        task, run = parts[0], dict(zip(RUN, parts[1:], strict=True))
        last_tenth = metrics[-max(1, len(metrics) // 10) :]
        row = run | {
            "global_step": str(evaluation["global_step"]),
            "evaluation": repr(evaluation["mean"]),
            "evaluation_std": repr(evaluation["std"]),
            "training_return": short(mean(row["episodic_return"] for row in last_tenth)),
            "SPS": short(float(np.median([float(row["SPS"]) for row in metrics]))),
            "returns": ";".join(map(repr, evaluation["returns"])),
        }
        row |= {name: config["versions"].get(name, "") for name in VERSIONS}
        return task, row, [run | averages for averages in curve]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        fail(f"{folder}: this run cannot be read ({error!r}); leave it out, or remove it and train it again")


def read_results(results: Path, kind: str) -> dict[str, list[Row]]:
    """The rows of every <task>_<kind>.csv, by task."""
    tables = {}
    for path in sorted(results.glob(f"*_{kind}.csv")):
        with open(path, newline="") as file:
            reader = csv.DictReader(file)
            tables[path.name.removesuffix(f"_{kind}.csv")] = list(reader)
            if tuple(reader.fieldnames or ()) != COLUMNS[kind]:
                fail(f"{path}: its columns are not {', '.join(COLUMNS[kind])}; remove it and take the runs in again")
    return tables


def write_rows(results: Path, task: str, kind: str, rows: list[Row]) -> None:
    """Write <task>_<kind>.csv, run by run and step by step, whatever the order they came in."""
    results.mkdir(parents=True, exist_ok=True)
    with open(results / f"{task}_{kind}.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS[kind], lineterminator="\n")
        writer.writeheader()
        writer.writerows(
            sorted(rows, key=lambda row: (row["variant"], int(row["seed"]), int(row.get("global_step", 0))))
        )


def replaced(rows: list[Row], run: list[Row]) -> list[Row]:
    """The rows with those of a run in place of what they held of its variant and seed."""
    key = run[0]["variant"], run[0]["seed"]
    return [row for row in rows if (row["variant"], row["seed"]) != key] + run


def take_in(folders: tuple[Path, ...], results: Path) -> None:
    """Bring the finished runs into the CSV files; says how many others it skipped."""
    evaluations, curves = read_results(results, "evaluations"), read_results(results, "curves")
    tasks, unfinished, misnamed = set(), 0, 0
    for folder in folders:
        if not folder.exists():
            fail(f"{folder}: there is no such folder; give run folders, such as runs/*")
        if not (folder / "evaluation.json").exists():
            unfinished += (folder / "config.json").exists()  # and else no run at all
        elif not (run := read_run(folder)):
            misnamed += 1
        else:
            task, evaluation, curve = run
            evaluations[task] = replaced(evaluations.get(task, []), [evaluation])
            curves[task] = replaced(curves.get(task, []), curve)
            tasks.add(task)
    if unfinished or misnamed:
        print(f"skipped: {unfinished} unfinished runs, {misnamed} not <task>__<variant>__<seed>", file=sys.stderr)
    if folders and not tasks:
        fail("no finished run <task>__<variant>__<seed> is among the folders; give run folders, such as runs/*")
    for task in sorted(tasks):
        write_rows(results, task, "evaluations", evaluations[task])
        write_rows(results, task, "curves", curves[task])


# Statistics: each takes runs in the last axis and is vectorised over the others, which hold resamples


def iqm(scores: np.ndarray) -> np.ndarray:
    """Interquartile mean (..., runs) -> (...): without the lowest and the highest quarter, floor(runs / 4) each."""
    return stats.trim_mean(scores, 0.25, axis=-1)


def improvement(*samples: np.ndarray) -> np.ndarray:
    """P(X > Y) + P(X = Y) / 2 of X_1 (..., n), Y_1 (..., m), X_2, Y_2, ... of several tasks, averaged over them."""
    pairs = [(x[..., :, None], y[..., None, :]) for x, y in zip(samples[::2], samples[1::2], strict=True)]
    return np.mean([((x > y) + 0.5 * (x == y)).mean((-2, -1)) for x, y in pairs], axis=0)


def effect(*samples: np.ndarray) -> np.ndarray:
    """IQM of X_1 (..., n) less that of Y_1 (..., m), of X_2 less that of Y_2, ...: the mean of these differences."""
    return np.mean([iqm(x) - iqm(y) for x, y in zip(samples[::2], samples[1::2], strict=True)], axis=0)


def bootstrap(statistic: Callable, *samples: np.ndarray, resamples: int = 10_000) -> tuple[float, float]:
    """95 % percentile interval; each sample (runs,) is a stratum, so it is resampled on its own."""
    rng = np.random.default_rng(0)  # the same interval every time
    low, high = np.percentile(statistic(*(rng.choice(x, (resamples, len(x))) for x in samples)), (2.5, 97.5))
    return float(low), float(high)


def scores(rows: list[Row], variant: str, measure: str) -> np.ndarray:
    """That measure of each of the variant's runs: (runs,)."""
    return np.array([float(row[measure]) for row in rows if row["variant"] == variant and row[measure]])


def late(curves: list[Row], variant: str, column: str) -> np.ndarray:
    """That column's mean over the last tenth of training, of each of the variant's runs: (runs,)."""
    runs, start = defaultdict(list), 0.9 * max(int(row["global_step"]) for row in curves)
    for row in curves:
        if row["variant"] == variant and row[column] and int(row["global_step"]) > start:
            runs[row["seed"]].append(float(row[column]))
    return np.array([np.mean(x) for x in runs.values()])


def landed(rows: list[Row], variant: str) -> np.ndarray:
    """Per cent of each run's evaluation episodes with a return of at least 200, which solves LunarLander: (runs,)."""
    returns = [np.array(row["returns"].split(";"), float) for row in rows if row["variant"] == variant]
    return np.array([100 * (x >= 200).mean() for x in returns])


# Tables

EXPLANATION = """Interquartile means over seeds, with 95 % bootstrap intervals, which are too narrow where seeds are few.
Evaluation is of the mean action after training, training return is that of the acting policy over training's last
tenth."""


def with_interval(form: str, statistic: Callable, *samples: np.ndarray) -> str:
    """The statistic and its interval as text; one run has no interval, and none at all gives a dash."""
    if not samples or not all(map(len, samples)):
        return "–"
    text = form.format(statistic(*samples))
    if min(map(len, samples)) == 1:
        return text
    return f"{text} [{', '.join(map(form.format, bootstrap(statistic, *samples)))}]"


def change(x: np.ndarray, base: np.ndarray) -> str:
    """From the IQM of base to that of x, in per cent; as a difference where a return of base is not positive."""
    if (base > 0).all():
        return with_interval("{:+,.0f} %", lambda x, base: 100 * (iqm(x) / iqm(base) - 1), x, base)
    return with_interval("{:+,.0f}", lambda x, base: iqm(x) - iqm(base), x, base)


def table(rows: list[dict[str, object]]) -> str:
    """Markdown; the columns are the keys of the first row."""
    lines = ["| " + " | ".join(map(str, line)) + " |" for line in (rows[0], *(row.values() for row in rows))]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def settings(prefix: str, variants: Iterable[str]) -> dict[float, str]:
    """Value of a coefficient -> the variant that has it, the default's too; empty where there is only that one."""
    default, value, _ = COEFFICIENTS[prefix]
    found = {float(v.removeprefix(prefix)): v for v in variants if re.fullmatch(prefix + r"-?\d+(\.\d+)?", v)}
    if found and default in variants:
        found[value] = default
    return dict(sorted(found.items()))


def sweeps(variants: set[str]) -> dict[str, list[str]]:
    """Each sweep that has a variant which `reproduce` lacks, and its variants that there are, in its order."""
    sensitivity = dict.fromkeys(v for prefix in SENSITIVITY for v in settings(prefix, variants).values())
    sensitivity = sorted(sensitivity, key=lambda variant: variant not in REPRODUCE)  # the defaults first
    members = {"reproduce": REPRODUCE, "attribution": ATTRIBUTION.values(), "fusion": FUSION}
    members |= {"advantage-noise": settings(NOISE, variants).values(), "sensitivity": sensitivity}
    members["other"] = sorted(variants.difference(*members.values()))
    found = {name: [v for v in order if v in variants] for name, order in members.items()}
    return {name: order for name, order in found.items() if order and (name == "reproduce" or {*order} - {*REPRODUCE})}


def returns_of(rows: list[Row], variant: str) -> dict[str, str]:
    """Cells of both returns of a variant."""
    largest = max(abs(float(row["evaluation"])) for row in rows)
    form = "{:,.0f}" if largest >= 10 else "{:.2f}"  # FrozenLake's returns are at most 1
    return {MEASURES[m]: with_interval(form, iqm, scores(rows, variant, m)) for m in MEASURES}


def sweep_table(task: str, rows: list[Row], variants: list[str]) -> str:
    """A row a variant: what it reaches, and how likely one of its runs beats one of matched PPO."""
    lines = []
    for variant in variants:
        line = {"variant": variant, "seeds": len(scores(rows, variant, "evaluation"))} | returns_of(rows, variant)
        for m, measure in MEASURES.items():
            pair = scores(rows, variant, m), scores(rows, MATCHED, m)
            text = "–" if variant == MATCHED else with_interval("{:.2f}", improvement, *pair)
            line[f"P(better than {MATCHED}), {measure}"] = text
        if "LunarLander" in task:
            line["landed (return ≥ 200)"] = with_interval("{:.0f} %", partial(np.mean, axis=-1), landed(rows, variant))
        lines.append(line)
    return table(lines)


def effects_table(rows: list[Row]) -> str:
    """Two rows an ingredient, one a measure: what it adds alone, when it comes last, and on average over the grid.

    Without those that cannot be told yet. A preference comes last only.
    """
    lines = []
    for (part, ingredient), measure in itertools.product(INGREDIENTS.items(), MEASURES):
        pairs = [
            (ATTRIBUTION[others | {part}], without)
            for others, without in ATTRIBUTION.items()
            if part not in others and others | {part} in ATTRIBUTION
        ]
        contrasts = {
            "alone, on ppo-cleanrl": [pair for pair in pairs if pair[1] == "ppo-cleanrl"],
            "on top of the others": pairs[-1:],
            "mean over the grid": pairs if len(pairs) > 1 else [],
        }
        cells = {
            name: with_interval("{:+,.0f}", effect, *(scores(rows, variant, measure) for variant in sum(chosen, ())))
            for name, chosen in contrasts.items()
        }
        if {*cells.values()} != {"–"}:
            lines.append({"ingredient": ingredient, "return": MEASURES[measure]} | cells)
    return table(lines) if lines else ""


def headline_table(evaluations: dict[str, list[Row]]) -> str:
    """Two rows a task of the paper, one a measure: its claim and what was measured here."""
    lines = []
    for task, measure in itertools.product([task for task in PAPER if task in evaluations], MEASURES):
        x = {variant: scores(evaluations[task], variant, measure) for variant in REPRODUCE}
        counts = [len(runs) for runs in x.values() if len(runs)] or [0]
        line = {"task": task, "the paper": PAPER[task], "return": MEASURES[measure]}
        line |= {variant: with_interval("{:,.0f}", iqm, runs) for variant, runs in x.items()}
        line |= {f"prefpoe vs {base}": change(x["prefpoe"], x[base]) for base in ("ppo-cleanrl", MATCHED)}
        lines.append(line | {"seeds": "–".join(map(str, sorted({min(counts), max(counts)})))})
    return table(lines)


def improvement_table(evaluations: dict[str, list[Row]]) -> str:
    """A row a variant: probability of improvement over matched PPO, averaged over the paper's tasks, and over all."""
    lines = {}  # by variant and tasks, so that none is there twice
    groups = {"of the paper": PAPER, "in all": [task for task in evaluations if re.fullmatch(r"\w+-v\d+", task)]}
    for (group, tasks), variant in itertools.product(groups.items(), (v for v in REPRODUCE if v != MATCHED)):
        found = [t for t in tasks if {variant, MATCHED} <= {row["variant"] for row in evaluations.get(t, [])}]
        line = {"variant": variant, "tasks": f"{len(found)} {group}"}
        for m, measure in MEASURES.items():
            samples = [scores(evaluations[task], v, m) for task in sorted(found) for v in (variant, MATCHED)]
            line[f"P(better than {MATCHED}), {measure}"] = (
                with_interval("{:.2f}", improvement, *samples) if found else "–"
            )
        if found:
            lines.setdefault((variant, *sorted(found)), line)
    return table([*lines.values()]) if lines else ""


def experts_table(rows: list[Row], curves: list[Row]) -> str:
    """A row a variant with a preference, or of matched PPO, whose only policy is its main one, at the end of training."""
    lines = []
    for variant in dict.fromkeys(itertools.chain(*sweeps({row["variant"] for row in curves}).values())):
        x = {column: late(curves, variant, column) for column in EXPERTS if column != "trace_ratio"}
        x["trace_ratio"] = x["trace_fused"] / x["trace_pref"]
        if len(x["guidance"]) or variant.startswith(MATCHED):
            line = {"variant": variant, "seeds": len(x["trace_main"])} | returns_of(rows, variant)
            lines.append(line | {name: with_interval(form, iqm, x[c]) for c, (name, form) in EXPERTS.items()})
    return table(lines) if any(row["guidance"] for row in curves) else ""


def make_tables(evaluations: dict[str, list[Row]], curves: dict[str, list[Row]]) -> dict[str, str]:
    """Every table by its name: headline, improvement, <task>-<sweep>, <task>-effects (of attribution), <task>-experts."""
    tables = {"improvement": improvement_table(evaluations)}
    if any(task in evaluations for task in PAPER):
        tables = {"headline": headline_table(evaluations)} | tables
    for task, rows in evaluations.items():
        found = sweeps({row["variant"] for row in rows})
        tables |= {f"{task}-{sweep}": sweep_table(task, rows, variants) for sweep, variants in found.items()}
        if "attribution" in found:
            tables[f"{task}-effects"] = effects_table(rows)
        tables[f"{task}-experts"] = experts_table(rows, curves.get(task, []))
    return {key: text for key, text in tables.items() if text}


def fill_in(text: str, tables: dict[str, str]) -> str:
    """The text with a table between each <!-- report: NAME --> and <!-- /report -->."""

    def block(match: re.Match) -> str:
        if match[1] not in tables:
            fail(f"README.md: there is no table {match[1]}; there are: {', '.join(tables)}")
        return f"<!-- report: {match[1]} -->\n\n{tables[match[1]]}\n\n<!-- /report -->"

    return re.sub(r"<!-- report: (\S+) -->.*?<!-- /report -->", block, text, flags=re.DOTALL)


# Figures, without pyplot, which keeps state

STYLE = {  # colour and marker of a variant; colours differ in lightness too, for greyscale and for the colour-blind
    "ppo-cleanrl": dict(color="#7fb2d6", marker="v"),
    "ppo": dict(color="#2f7fb8", marker="s"),
    MATCHED: dict(color="#06264f", marker="o"),
    "prefpoe": dict(color="#b2182b", marker="D"),
    "prefpoe-anneal": dict(color="#f2a32c", marker="^"),
}
LINES = {"evaluation": dict(linestyle="-"), "training_return": dict(linestyle="--", markerfacecolor="white")}
POLICIES = {
    "main": dict(color="#2f7fb8", linestyle="--", label=r"main expert $\pi_\theta$"),
    "pref": dict(color="#f2a32c", linestyle="-.", label=r"preference $\pi_p$"),
    "fused": dict(color="#b2182b", linestyle="-", label=r"acting policy $\pi_f$"),
}
RETURN = "return (environment's reward)"


def panels(count: int, title: str, width: float = 4.2, height: float = 3.5, **share) -> tuple[Figure, np.ndarray]:
    """A figure with so many panels, up to four in a row, each of that size in inches."""
    columns = min(count, 3 if count <= 6 else 4)
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
    figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=ncols, fontsize="small")


def draw_band(axis, curves: list[Row], variant: str, column: str, **line) -> None:
    """IQM over seeds and its interval against environment steps; nothing where there are no such numbers."""
    by_step = defaultdict(list)
    for row in curves:
        if row["variant"] == variant and row[column]:
            by_step[int(row["global_step"])].append(float(row[column]))
    if by_step:
        steps, samples = zip(*((step / 1e6, np.array(x)) for step, x in sorted(by_step.items())), strict=True)
        axis.plot(steps, [iqm(x) for x in samples], **line)
        low, high = zip(*(bootstrap(iqm, x, resamples=1000) for x in samples), strict=True)
        axis.fill_between(steps, low, high, color=line["color"], alpha=0.18, lw=0)


def draw_curves(task: str, curves: list[Row], lines: dict[str, list[tuple[str, str, dict]]], **labels: str) -> Figure:
    """Over training, a panel for each of `lines`: its title and its lines, each variant, column and style."""
    width = 6.0 if len(lines) == 1 else 4.2
    figure, axes = panels(len(lines), f"{task}: IQM over seeds, 95 % bootstrap band", width, sharey=True)
    for axis, (title, drawn) in zip(axes, lines.items(), strict=True):
        for variant, column, style in drawn:
            draw_band(axis, curves, variant, column, **style)
        axis.set_title(title, fontsize="medium")
        axis.set(xlabel="environment steps (millions)", **labels)
        if axis.get_yscale() == "log":  # plain numbers, also where they span less than a decade
            axis.minorticks_off()
            axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 4, 6)))
            axis.yaxis.set_major_formatter("{x:g}")
        axis.label_outer()
    add_legend(figure, axes[0], ncols=3 if len(lines) == 1 else 5)
    return figure


def of_variants(variants: list[str], column: str, every: int, **style) -> list[tuple[str, str, dict]]:
    """Lines of `draw_curves` for a column, with a marker at every so many points, apart so that none hides another."""
    marks = [dict(markevery=(i * every // len(variants), every), markersize=5) for i in range(len(variants))]
    return [(v, column, dict(label=v, **STYLE[v], **mark, **style)) for v, mark in zip(variants, marks, strict=True)]


def of_policies(variant: str, quantity: str) -> list[tuple[str, str, dict]]:
    """Lines of `draw_curves` for that quantity of the three policies, and of matched PPO's only one."""
    lines = [(variant, f"{quantity}_{policy}", style) for policy, style in POLICIES.items()]
    return [*lines, (MATCHED, f"{quantity}_main", dict(color=STYLE[MATCHED]["color"], linestyle=":", label=MATCHED))]


def bar_looks(color: str) -> tuple[dict, dict]:
    """Of an evaluation's bar and a training return's."""
    return dict(color=color), dict(color="white", edgecolor=color, hatch="////")


def draw_bars(task: str, rows: list[Row], variants: list[str]) -> Figure:
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


def draw_response(task: str, rows: list[Row], prefixes: list[str]) -> Figure:
    """Both returns against the values of each coefficient, a panel each, the values at equal distances."""
    size = (6.0, 3.5) if len(prefixes) == 1 else (3.2, 2.9)
    figure, axes = panels(len(prefixes), f"{task}: IQM over seeds, 95 % bootstrap interval", *size, sharey=True)
    for axis, prefix in zip(axes, prefixes, strict=True):
        default, default_value, label = COEFFICIENTS[prefix]
        variants, style = settings(prefix, {row["variant"] for row in rows}), STYLE[default]
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
    add_legend(figure, axes[0], ncols=2 if len(prefixes) == 1 else 4)
    return figure


def draw_batch(task: str, rows: list[Row]) -> Figure:
    """log pi_p of each action of a rollout against its advantage."""
    x, y = (np.array([float(row[column]) for row in rows]) for column in ("A_norm", "log_prob_pref"))
    run = f"{task}, {rows[0]['variant']}, seed {rows[0]['seed']}"
    figure, (axis,) = panels(1, f"{run}: {len(x)} steps, correlation {np.corrcoef(x, y)[0, 1]:.3f}", 6.0, 3.8)
    axis.scatter(x, y, s=6, color=STYLE["prefpoe"]["color"], alpha=0.35, linewidths=0)
    axis.set(xlabel=r"$A_\mathrm{norm}$ (standard deviations)", ylabel=r"$\log\,\pi_p(a|s)$ (nats)")
    return figure


def make_figures(results: Path, evaluations: dict[str, list[Row]]) -> dict[str, Callable[[], Figure]]:
    """For each figure that there is data for, its name, <task>_<kind>, and how to draw it."""
    batches, figures = read_results(results, "batch"), {}
    for task, curves in read_results(results, "curves").items():
        rows = evaluations.get(task, [])
        variants = {row["variant"] for row in rows}
        found, draw = sweeps(variants), partial(draw_curves, task, curves)
        if shown := found.get("reproduce"):
            lines = {
                "evaluation": of_variants(shown, "eval_return", 4, **LINES["evaluation"]),
                "training return": of_variants(shown, "episodic_return", 12, **LINES["training_return"]),
            }
            figures[f"{task}_learning"] = partial(draw, lines, ylabel=RETURN)
        if guided := [v for v in REPRODUCE if any(row["variant"] == v and row["guidance"] for row in curves)]:
            lines = {variant: of_policies(variant, "entropy") for variant in guided}
            figures[f"{task}_entropy"] = partial(draw, lines, ylabel="entropy (nats)")
            lines = {variant: of_policies(variant, "trace") for variant in guided}
            figures[f"{task}_trace"] = partial(
                draw, lines, ylabel=r"tr $\Sigma$ (squared units of the action)", yscale="log"
            )
            lines = {"quality of the guidance": of_variants(guided, "guidance", 8)}
            figures[f"{task}_guidance"] = partial(draw, lines, ylabel=r"corr($A_\mathrm{norm}$, $\log\,\pi_p(a|s)$)")
        if batches.get(task):
            figures[f"{task}_batch"] = partial(draw_batch, task, batches[task])
        if "attribution" in found:
            figures[f"{task}_attribution"] = partial(draw_bars, task, rows, found["attribution"])
        if "advantage-noise" in found:
            figures[f"{task}_advantage-noise"] = partial(draw_response, task, rows, [NOISE])
        if varied := [prefix for prefix in SENSITIVITY if settings(prefix, variants)]:
            figures[f"{task}_sensitivity"] = partial(draw_response, task, rows, varied)
    return figures


# The batch behind the scatter


def act(folder: Path, results: Path) -> None:
    """Act with a finished PrefPoE run for 2048 steps, its observation statistics frozen, and write <task>_batch.csv."""
    if not (folder / "evaluation.json").exists():
        fail(f"--batch {folder}: no finished run, one with an evaluation.json; give the folder of one")
    import torch

    torch.set_num_threads(1)
    sys.path.insert(0, str(ROOT))
    heads = {"preference_mean.weight": "prefpoe_continuous", "preference_logits.weight": "prefpoe_lunarlander"}
    weights = importlib.import_module("prefpoe_continuous").load_checkpoint(str(folder))["agent"]
    scripts = [script for head, script in heads.items() if head in weights]
    if not scripts:
        fail(f"--batch {folder}: this run has no preference; give one of PrefPoE")
    if not (parts := parse_name(folder, json.loads((folder / "config.json").read_text()))):
        fail(f"--batch {folder}: give a run of a sweep, a folder <task>__<variant>__<seed>")

    script = importlib.import_module(scripts[0])
    warnings.filterwarnings("ignore", message=".*is out of date.*")  # the published results are on -v4
    flags = ["--num-envs", "1", "--num-steps", "2048", "--num-minibatches", "1"]
    args = script.parse_args(["--evaluate", str(folder), *flags])
    rng, envs = np.random.default_rng(args.seed), script.VecEnv(args.env_id, 1)
    agent = script.Agent(envs.single_observation_space.shape[0], envs.single_action_space)
    obs_stats = script.RunningMeanStd(envs.single_observation_space.shape, args.norm_obs)
    return_stats = script.RunningMeanStd((), args.norm_reward)
    statistics = dict(obs_stats=obs_stats.state_dict(), return_stats=return_stats.state_dict())
    script.restore(dict(agent=agent.state_dict(), **statistics), rng, args)
    obs_stats.update = lambda rows: None  # frozen
    obs = script.observe(envs.reset(seed=[2**30])[0], obs_stats, update=False)  # a seed that training never uses
    rollout, _, _ = script.collect(envs, obs, script.numpy_policy(agent, args), obs_stats, rng, args)
    rewards = script.scale_rewards(rollout.reward, rollout.done, return_stats, np.zeros(1), args.gamma)
    batch, _ = script.make_batch(agent, rollout, rewards, rng, args)
    with torch.no_grad():
        log_prob = agent(batch.obs)[1].log_prob(batch.action)
    numbers = zip(batch.A_norm.tolist(), log_prob.tolist(), strict=True)
    rows = [dict(zip(COLUMNS["batch"], (*parts[1:], f"{x:.4g}", f"{y:.4g}"), strict=True)) for x, y in numbers]
    write_rows(results, parts[0], "batch", rows)


def page(evaluations: dict[str, list[Row]], tables: dict[str, str], figures: Iterable[str]) -> str:
    """The results' README.md: the tables, and task by task the figures."""
    lines = ["# Results", "", "Written by `benchmark/report.py` from the CSV files beside this. " + EXPLANATION, ""]
    for key in ("headline", "improvement"):
        lines += [f"## {key}", "", tables[key], ""] if key in tables else []
    for task, rows in evaluations.items():
        lines += [f"## {task}", ""]
        for sweep in sweeps({row["variant"] for row in rows}):
            lines += [f"### {sweep}", "", tables[f"{task}-{sweep}"], ""]
            if sweep == "attribution" and (effects := tables.get(f"{task}-effects")):
                lines += ["### effects: the return that each ingredient adds", "", effects, ""]
        if experts := tables.get(f"{task}-experts"):
            lines += ["### experts: the policies over the last tenth of training", "", experts, ""]
        lines += [f"![{key}]({key}.png)\n" for key in figures if key.rpartition("_")[0] == task]
    return "\n".join(lines)


def main(args: Args) -> None:
    take_in(args.folders, args.results)
    if args.batch:
        act(args.batch, args.results)
    evaluations = read_results(args.results, "evaluations")
    if not evaluations:
        fail(f"{args.results} holds no results yet: give run folders, such as runs/*")
    tables = make_tables(evaluations, read_results(args.results, "curves"))
    figures = make_figures(args.results, evaluations)
    text = page(evaluations, tables, figures)
    (args.results / "README.md").write_text(text, encoding="utf-8")
    print(text)
    if args.update_readme:
        readme = ROOT / "README.md"
        readme.write_text(fill_in(readme.read_text(encoding="utf-8"), tables), encoding="utf-8")
    for key, draw in figures.items() if args.figures else ():
        draw().savefig(args.results / f"{key}.png", metadata={"Software": None})


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
