"""The variants that the sweeps name, in words, and the tables of their runs, as Markdown. A table, row or cell without
runs is left out, or is a dash. A variant's script and flags are the sweeps', and its rows have them in `args`."""

import math
import re
from collections.abc import Callable, Iterable
from functools import partial
from itertools import combinations, product

import numpy as np
import pandas as pd
import statistics_of_runs as statistics
from scipy.stats import binomtest
from statistics_of_runs import bootstrap, effect, improvement, iqm, late, over_training, scores

# Variants

CLEANRL = "ppo-cleanrl"
MATCHED = "ppo-matched"  # all of PrefPoE but the preference
WIDE = "ppo-squash-shared"  # matched PPO that starts with CleanRL's sigma, 1
NARROW = "ppo-matched-logstd--1.35"  # with the sigma of PrefPoE's product
NARROW_BONUS = f"{NARROW}-ent-coef-0.01"
BONUS = "ppo-matched-ent-coef-0.01"  # its weight is alpha w_pref
FALLING = f"{BONUS}-anneal"
WIDE_PREFPOE = "prefpoe-logstd-0.35"  # its product starts with sigma = 1
NAMES = {
    CLEANRL: "CleanRL's PPO",
    MATCHED: "matched PPO",
    "prefpoe": "PrefPoE",
    "prefpoe-anneal": "PrefPoE annealed",
    "ppo-cleanrl-exact": "CleanRL's PPO with its own statistics",
    "ppo": "PPO with bootstrapping",
    WIDE: "matched PPO, wide start",
    NARROW: "matched PPO, PrefPoE's start",
    NARROW_BONUS: "matched PPO, PrefPoE's start and bonus",
    BONUS: "matched PPO with the bonus",
    FALLING: "matched PPO with a falling bonus",
    WIDE_PREFPOE: "PrefPoE, wide start",
    "prefpoe-beta1-0": "PrefPoE without advantages",
    "prefpoe-linear": "PrefPoE, the heads' average acts",
    "prefpoe-none": "PrefPoE, the main expert acts",
    "prefpoe-lambda-falling": "PrefPoE, λ falls to 0",
    "prefpoe-lambda-rising": "PrefPoE, λ rises from 0",
    "prefpoe-lambda-guided": "PrefPoE, λ follows the critic",
    "prefpoe-modes-4": "PrefPoE, four modes",
    "sac": "SAC",
    "prefpoe-sac": "PrefPoE on SAC, replayed actions",
    "prefpoe-sac-own": "PrefPoE on SAC, own actions",
}
PARTS = {  # of the names of other variants
    "logstd": "σ = {}",
    "squash": "tanh means",
    "shared": "shared backbone",
    "ent-coef": "bonus {}",
    "noise": "noise {}",
    "alpha": "α = {}",
    "beta1": "β₁ = {}",
    "w-pref": "w_pref = {}",
    "w-cons": "w_cons = {}",
    "lambda-pref": "λ = {}",
}
PART = re.compile(rf"-({'|'.join(PARTS)})(?:-(-?\d[\d.]*))?")
BETA1 = {0: "prefpoe-beta1-0", 0.1: "prefpoe-beta1-0.1", 0.2: "prefpoe", 0.4: "prefpoe-beta1-0.4"}
BETA1 |= {value: f"prefpoe-beta1-{value}" for value in (1, 2, 4)}
ONE_CHANGED = re.compile(r"(prefpoe|ppo-matched|ppo)-(alpha|w-pref|w-cons|lambda-pref|ent-coef|logstd)-(-?[\d.]+)")
INGREDIENTS = {
    "logstd": "narrow start, σ = 0.37",
    "bootstrap": "time limits bootstrapped",
    "squash": "means through tanh",
    "shared": "shared backbone",
}
ATTRIBUTION = {}  # the ingredients of each variant -> its name
for base, first in {CLEANRL: (), "ppo": ("bootstrap",)}.items():
    for size in range(4):
        for others in combinations(("logstd", "squash", "shared"), size):
            ATTRIBUTION[frozenset(first + others)] = "-".join((base, *others))
ATTRIBUTION[frozenset(INGREDIENTS)] = MATCHED
PAIRS = [
    *(("prefpoe", other) for other in (CLEANRL, MATCHED, NARROW, NARROW_BONUS, BONUS, FALLING, "prefpoe-beta1-0")),
    *(("prefpoe-anneal", other) for other in (MATCHED, NARROW, BONUS, FALLING)),
    *((bonus, MATCHED) for bonus in (BONUS, FALLING)),
    *((WIDE_PREFPOE, other) for other in (WIDE, CLEANRL)),
]
AT_THE_END = {  # a column of acting curves -> its name and form
    "trace_acting": ("tr Σ at the end", "{:.2f}"),
    "ratio": ("tr Σ_f / tr Σ_p", "{:.2f}"),
    "guidance": ("corr(A_norm, log π_p)", "{:.3f}"),
}
SCHEDULES = [f"prefpoe-lambda-{kind}" for kind in ("falling", "rising", "guided")]
NOISES = [f"prefpoe-noise-{std}" for std in ("0.5", "1", "2", "4")]
AGAINST = {  # a table's name: what its tasks begin with, the variant that the others are compared with, and these
    "length": ("long-", MATCHED, [CLEANRL, BONUS, FALLING, "prefpoe", "prefpoe-anneal"]),
    "network": ("", "ppo", ["ppo-squash", "ppo-shared", WIDE]),
    "fusion": ("", "prefpoe", ["prefpoe-linear", "prefpoe-none"]),
    "schedules": ("", "prefpoe", SCHEDULES),
    "modes": ("", "prefpoe", ["prefpoe-modes-4"]),
    "sac": ("sac-", "sac", ["prefpoe-sac", "prefpoe-sac-own"]),
    "advantages": ("", "prefpoe", [*NOISES, "prefpoe-beta1-0"]),
}


def in_words(variant: str) -> str:
    """What tables call it; a variant of no sweep keeps its name."""
    if variant in NAMES:
        return NAMES[variant]
    base = max((name for name in NAMES if variant.startswith(f"{name}-")), key=len, default=variant)
    words = [NAMES.get(base, base)]
    for part, value in PART.findall(variant.removeprefix(base)):
        if part == "logstd":
            value = f"{math.exp(float(value or -1)):.2f}"
        words.append(PARTS[part].format(value.replace("-", "−")))
    return variant if PART.sub("", variant.removeprefix(base)) else ", ".join(words)


def ordered(variants: Iterable[str]) -> list[str]:
    """In the order of NAMES, and then of the alphabet."""
    order = [*NAMES]
    return sorted({*variants}, key=lambda name: (order.index(name) if name in order else len(order), name))


def ratio_at_rest(variant: str) -> float:
    """1 - alpha w_pref / w_cons, which is sigma_f^2 / sigma_p^2 where the preference of Gaussian experts comes to rest."""
    weights = {"alpha": "0.2", "w-pref": "0.05", "w-cons": "0.1"} | dict(PART.findall(variant))
    return 1 - float(weights["alpha"]) * float(weights["w-pref"]) / float(weights["w-cons"])


# Tasks

Frames = dict[str, pd.DataFrame]  # by task
MEASURES = {"evaluation": "evaluation", "training_return": "training return"}  # column of the rows -> its name
PAPER = {  # what the paper reports
    "HalfCheetah-v4": "1,276 → 5,375 (+321 %)",
    "Ant-v4": "+69 %",
    "LunarLander-v3": "+276 % (LunarLander-v2)",
}
EASY = ("CartPole-v1", "FrozenLake-v1")  # all variants come out alike
BALANCING = ("Hopper-v4", "Walker2d-v4", "BipedalWalker-v3", "Humanoid-v4")
SOLVED = {"MountainCarContinuous-v0": 90, "MountainCar-v0": -110, "Acrobot-v1": -100, "SparseHalfCheetah-v4": 500}
DISCRETE = ("LunarLander-v3", "MountainCar-v0", "Acrobot-v1", *EASY)


def task_and_length(name: str) -> tuple[str, str]:
    """The task without prefix, and the length if it is another than 1M."""
    task, _, length = re.fullmatch(r"(?:long-|sac-|sparse-)?(.*?)(-(\d+)-steps)?", name).groups()
    return task, f", {int(length):,} steps" if length else ""


def continuous(name: str) -> bool:
    """Whether its actions are, so that experts are Gaussians."""
    return task_and_length(name)[0] not in DISCRETE


def tasks_with(evaluations: Frames, *variants: str, prefix: str = "") -> list[str]:
    """Those with one of the variants; without a prefix those of 1M steps, the paper's first and the easy ones last."""
    found = [task for task, rows in evaluations.items() if rows["variant"].isin(variants).any()]
    if prefix:
        return [task for task in found if task.startswith(prefix)]
    found = [task for task in found if re.fullmatch(r"\w+-v\d+", task)]
    order = [*PAPER, *sorted({*found}.difference(PAPER, EASY)), *EASY]
    return [task for task in order if task in found]


def hard_tasks(evaluations: Frames, *variants: str) -> list[str]:
    return [task for task in tasks_with(evaluations, *variants) if task not in EASY]


def acting(curves: pd.DataFrame) -> pd.DataFrame:
    """Curves with tr Sigma of the policy that acts, the fused one, or the main one if there is no other; and its ratio to
    the preference's."""
    trace = curves["trace_fused"].fillna(curves["trace_main"])
    return curves.assign(trace_acting=trace, ratio=curves["trace_fused"] / curves["trace_pref"])


# Cells


def with_interval(form: str, statistic: Callable, *samples: np.ndarray) -> str:
    """The statistic and its interval as text; one run has no interval, and none at all gives a dash."""
    if not samples or not all(map(len, samples)):
        return "–"
    numbers = [statistic(*samples)]
    if min(map(len, samples)) > 1:
        numbers += bootstrap(statistic, *samples)
    texts = [re.sub(r"^-(?=[0.]+( %)?$)", "", form.format(x)).replace("-", "−") for x in numbers]  # no −0
    return texts[0] if len(texts) == 1 else f"{texts[0]} [{texts[1]}, {texts[2]}]"


def marked(text: str, x: np.ndarray, base: np.ndarray) -> str:
    """Bold if x differs from base and their own intervals are apart, with † if these overlap."""
    if min(len(x), len(base)) < 2 or not statistics.differ(x, base):
        return text
    return f"**{text}**" if statistics.apart(x, base) else f"{text} †"


def return_of(rows: pd.DataFrame, variant: str, measure: str, base: str = "") -> str:
    """Marked if it differs from that of the base."""
    form = "{:,.0f}" if rows["evaluation"].abs().max() > 1 else "{:.2f}"  # FrozenLake's are at most 1
    x = scores(rows, variant, measure)
    return marked(with_interval(form, iqm, x), x, scores(rows, base, measure))


def difference(rows: pd.DataFrame, variant: str, base: str, measure: str) -> str:
    x, y = scores(rows, variant, measure), scores(rows, base, measure)
    return "–" if variant == base else marked(with_interval("{:+,.0f}", effect, x, y), x, y)


def seeds(rows: pd.DataFrame, *variants: str) -> str:
    """The fewest and the most of these variants, of those that there are."""
    counts = rows.loc[rows["variant"].isin(variants), "variant"].value_counts()
    return "–".join(str(count) for count in sorted({counts.min(), counts.max()}))


def pairs_of_samples(evaluations: Frames, variant: str, base: str, measure: str, tasks: Iterable[str]) -> list:
    """Both variants' runs of each of those tasks that have several of both, one after the other."""
    samples = []
    for task in sorted(tasks):
        pair = [scores(evaluations[task], name, measure) for name in (variant, base)]
        all_alike = task == "FrozenLake-v1" and measure == "evaluation"  # on its ten fixed starts
        if min(map(len, pair)) > 1 and not all_alike:
            samples += pair
    return samples


def probability(evaluations: Frames, variant: str, base: str, measure: str, tasks: Iterable[str]) -> str:
    """P(a run of the variant beats one of the base), averaged over those tasks."""
    samples = pairs_of_samples(evaluations, variant, base, measure, tasks)
    text = with_interval("{:.2f}", improvement, *samples)
    return f"{text}, {len(samples) // 2} tasks" if len(samples) > 2 else text


# Cells of a row, by column: each function takes a task, its rows and curves, and a variant


def both_returns(task: str, rows: pd.DataFrame, curves: pd.DataFrame, variant: str, base: str = "") -> dict[str, str]:
    return {name: return_of(rows, variant, measure, base) for measure, name in MEASURES.items()}


def less(task: str, rows: pd.DataFrame, curves: pd.DataFrame, variant: str, base: str = "") -> dict[str, str]:
    """Without a base, what differs in one coefficient from the variant."""
    name = in_words(base) if base else "the default"
    base = base or ONE_CHANGED.match(variant)[1]
    return {f"{text}, less {name}": difference(rows, variant, base, measure) for measure, text in MEASURES.items()}


def mean_and_std(task: str, rows: pd.DataFrame, curves: pd.DataFrame, variant: str) -> dict[str, str]:
    x = scores(rows, variant, "training_return")
    return {"training return, mean ± std": f"{x.mean():,.0f} ± {x.std():,.0f}"}


def at_the_end(task: str, rows: pd.DataFrame, curves: pd.DataFrame, variant: str, column: str) -> dict[str, str]:
    name, form = AT_THE_END[column]
    return {name: with_interval(form, iqm, late(acting(curves), variant, column))}


def predicted(task: str, rows: pd.DataFrame, curves: pd.DataFrame, variant: str) -> dict[str, str]:
    ratio = "–" if variant.startswith("ppo") else f"{ratio_at_rest(variant):.2f}"
    return {"1 − α w_pref / w_cons": ratio if ratio[0] != "-" else "none"}


def beaten(task: str, rows: pd.DataFrame, curves: pd.DataFrame, variant: str) -> dict[str, str]:
    cells = {}
    for measure, name in MEASURES.items():
        text = "–" if variant == "prefpoe" else probability({task: rows}, "prefpoe", variant, measure, [task])
        cells[f"P(PrefPoE better), {name}"] = text
    return cells


def solved(task: str, rows: pd.DataFrame, curves: pd.DataFrame, variant: str) -> dict[str, str]:
    """How many runs solve the task, and when training episodes first do, in those runs."""
    goal = SOLVED[task_and_length(task)[0]]
    x = scores(rows, variant, "evaluation")
    test = binomtest(int((x >= goal).sum()), len(x))
    shares = [100 * share for share in (test.statistic, *test.proportion_ci(method="wilson"))]
    found = curves[(curves["variant"] == variant) & (curves["episodic_return"] >= goal)]
    first = found.groupby("seed")["global_step"].min().to_numpy()
    cells = {"runs that solve it": "{:.0f} % [{:.0f} %, {:.0f} %]".format(*shares)}
    cells["steps to the first success"] = with_interval("{:,.0f}", iqm, first)
    return cells | {"in so many runs": f"{len(first)} of {len(x)}"}


def script_and_flags(task: str, rows: pd.DataFrame, curves: pd.DataFrame, variant: str) -> dict[str, str]:
    return {"script and flags": rows.loc[rows["variant"] == variant, "args"].max()}  # of old rows some are unknown


# Tables


def table(rows: list[dict[str, object]]) -> str:
    """Markdown; the columns are the keys of the first row."""
    if not rows:
        return ""
    lines = ["| " + " | ".join(map(str, line)) + " |" for line in (rows[0], *(row.values() for row in rows))]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def table_of(evaluations: Frames, curves: Frames, chosen: Iterable[tuple[str, str]], *columns: Callable) -> str:
    """A row for each task and variant of which there are runs."""
    lines = []
    for task, variant in chosen:
        rows = evaluations[task]
        if (rows["variant"] == variant).any():
            line = {"task": "".join(task_and_length(task)), "variant": in_words(variant)}
            for cells in columns:
                line |= cells(task, rows, curves[task], variant)
            lines.append(line | {"seeds": seeds(rows, variant)})
    return table(lines)


def returns(evaluations: Frames, variants: list[str], base: str = "", **columns: Callable) -> str:
    """Two rows a task, one a measure, and a column a variant; then the others, of task, rows and measure."""
    lines = []
    for task, (measure, name) in product(hard_tasks(evaluations, *variants), MEASURES.items()):
        rows = evaluations[task]
        line = {"task": task, "return": name}
        line |= {NAMES[variant]: return_of(rows, variant, measure, base) for variant in variants}
        line |= {column: cell(task, rows, measure) for column, cell in columns.items()}
        lines.append(line | {"seeds": seeds(rows, *variants)})
    return table(lines)


def the_paper(task: str, rows: pd.DataFrame, measure: str) -> str:
    return PAPER.get(task, "–") if measure == "evaluation" else ""


def prefpoe_less_matched(task: str, rows: pd.DataFrame, measure: str) -> str:
    return difference(rows, "prefpoe", MATCHED, measure)


def share(evaluations: Frames) -> str:
    """A row a task on which PrefPoE gains in evaluation."""
    variants = ["prefpoe", MATCHED, CLEANRL]
    lines = []
    for task in hard_tasks(evaluations, "prefpoe"):
        x, matched, base = (scores(evaluations[task], variant, "evaluation") for variant in variants)
        if min(len(x), len(matched), len(base)) > 1 and statistics.differ(x, base) and effect(x, base) > 0:
            line = {"task": task, "PrefPoE's gain over CleanRL's PPO": with_interval("{:+,.0f}", effect, x, base)}
            line["in per cent"] = with_interval("{:+,.0f} %", statistics.gain, x, base)
            line["the preference's share of it"] = with_interval("{:.2f}", statistics.share, x, matched, base)
            lines.append(line | {"seeds": seeds(evaluations[task], *variants)})
    return table(lines)


def ingredients(evaluations: Frames) -> str:
    """What each ingredient adds, averaged over the combinations of the others."""
    lines = []
    for part, ingredient in INGREDIENTS.items():
        line = {"ingredient": ingredient}
        for task, measure in product(tasks_with(evaluations, "ppo-logstd"), MEASURES):
            samples = []
            for others in [others for others in ATTRIBUTION if part not in others]:
                samples.append(scores(evaluations[task], ATTRIBUTION[others | {part}], measure))
                samples.append(scores(evaluations[task], ATTRIBUTION[others], measure))
            line[f"{task}, {MEASURES[measure]}"] = with_interval("{:+,.0f}", effect, *samples)
        lines.append(line)
    return table(lines) if len(lines[0]) > 1 else ""


def whole(evaluations: Frames, curves: Frames) -> str:
    """The return averaged over all of training, beside that of the last tenth."""
    variants = ["prefpoe", MATCHED]
    lines = []
    for task in [task for task in hard_tasks(evaluations, MATCHED) if task in hard_tasks(evaluations, "prefpoe")]:
        x, base = (over_training(curves[task], variant, "episodic_return") for variant in variants)
        line = {"task": task, "PrefPoE": with_interval("{:,.0f}", iqm, x)}
        line["matched PPO"] = with_interval("{:,.0f}", iqm, base)
        line["difference"] = marked(with_interval("{:+,.0f}", effect, x, base), x, base)
        line["difference in the last tenth"] = difference(evaluations[task], *variants, "training_return")
        lines.append(line | {"seeds": seeds(evaluations[task], *variants)})
    return table(lines)


def improvements(evaluations: Frames) -> str:
    """P(X > Y), averaged over tasks."""
    tasks = tasks_with(evaluations, "prefpoe")
    groups = {"all tasks": tasks, "continuous actions": [task for task in tasks if continuous(task)]}
    groups["balancing tasks"] = [task for task in tasks if task in BALANCING]
    lines = []
    for (variant, base), measure in product(PAIRS, MEASURES):
        line = {"X": in_words(variant), "Y": in_words(base), "return": MEASURES[measure]}
        line |= {name: probability(evaluations, variant, base, measure, group) for name, group in groups.items()}
        if line["all tasks"] != "–":
            lines.append(line)
    return table(lines)


def detectable(evaluations: Frames) -> str:
    """A row a pair that is undecided on a task."""
    lines = []
    for task, pair, measure in product(hard_tasks(evaluations, "prefpoe"), PAIRS, MEASURES):
        x, y = (scores(evaluations[task], variant, measure) for variant in pair)
        if min(len(x), len(y)) > 1 and not statistics.differ(x, y):
            line = {"task": task, "pair": " − ".join(map(in_words, pair)), "return": MEASURES[measure]}
            line["difference"] = difference(evaluations[task], *pair, measure)
            line["smallest that would be seen"] = f"{statistics.detectable(x, y):,.0f}"
            lines.append(line | {"seeds": seeds(evaluations[task], *pair)})
    return table(lines)


def make_tables(evaluations: Frames, curves: Frames) -> dict[str, str]:
    """Every table by its name, empty if it has no runs yet; `tasks` are several, each with a heading."""
    every = [(task, variant) for task, rows in evaluations.items() for variant in ordered(rows["variant"])]
    usual = [(task, variant) for task, variant in every if task in tasks_with(evaluations, variant)]
    rows_of = partial(table_of, evaluations, curves)
    main = [CLEANRL, MATCHED, "prefpoe"]
    tables = {
        "readme": returns(evaluations, [*main, "prefpoe-anneal"], **{"the paper": the_paper}),
        "returns": returns(evaluations, main, CLEANRL, **{"PrefPoE − matched PPO": prefpoe_less_matched}),
        "share": share(evaluations),
        "ingredients": ingredients(evaluations),
        "whole": whole(evaluations, curves),
        "improvement": improvements(evaluations),
        "detectable": detectable(evaluations),
    }
    width = partial(at_the_end, column="trace_acting")
    chosen = product(tasks_with(evaluations, NARROW_BONUS), (NARROW, NARROW_BONUS, "prefpoe"))
    tables["bonus"] = rows_of(chosen, both_returns, width, beaten)
    chosen = [(task, variant) for task, variant in every if task.startswith("sparse-")]
    tables["sparse"] = rows_of(chosen, solved, both_returns)
    chosen = product(hard_tasks(evaluations, CLEANRL), (CLEANRL, "ppo-cleanrl-exact"))
    tables["cleanrl"] = rows_of(chosen, mean_and_std, both_returns, partial(less, base=CLEANRL))
    for name, (prefix, base, others) in AGAINST.items():
        chosen = product(tasks_with(evaluations, *others, prefix=prefix), (base, *others))
        tables[name] = rows_of(chosen, both_returns, partial(less, base=base), width)
    chosen = [(task, variant) for task, variant in usual if ONE_CHANGED.fullmatch(variant) and variant not in NAMES]
    tables["sensitivity"] = rows_of(chosen, both_returns, less, width)
    chosen = product(tasks_with(evaluations, *{*BETA1.values()} - {"prefpoe"}), BETA1.values())
    guidance = partial(at_the_end, column="guidance")
    tables["beta1"] = rows_of(chosen, partial(both_returns, base="prefpoe"), width, guidance)
    settled = [variant for _, variant in usual if PART.sub("", variant) in ("prefpoe", "prefpoe-anneal")]
    settled = [MATCHED, BONUS, FALLING, NARROW_BONUS, *ordered(settled)]
    chosen = product(filter(continuous, tasks_with(evaluations, *settled)), settled)
    tables["rest"] = rows_of(chosen, predicted, partial(at_the_end, column="ratio"), width)
    tables["tasks"] = ""
    for task, rows in evaluations.items():
        text = rows_of(product([task], ordered(rows["variant"])), both_returns, script_and_flags)
        tables["tasks"] += f"### {task}\n\n{text}\n\n"
    return tables
