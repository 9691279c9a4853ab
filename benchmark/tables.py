"""The variants that the sweeps name, in words, and the tables of their runs, as Markdown."""

import math
import re
from collections.abc import Callable, Iterable, Iterator
from itertools import combinations, product

import numpy as np
import pandas as pd
import statistics_of_runs as statistics
from statistics_of_runs import bootstrap, effect, improvement, iqm

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
    "prefpoe-beta1-0": "PrefPoE, β₁ = 0",
    "prefpoe-linear": "PrefPoE, the heads' average acts",
    "prefpoe-none": "PrefPoE, the main expert acts",
    "sac": "SAC",
    "prefpoe-sac": "PrefPoE on SAC, replayed actions",
    "prefpoe-sac-own": "PrefPoE on SAC, own actions",
}
STARTS = {  # of the first figure, by their sigma
    "starts wide, σ = 1": (CLEANRL, WIDE, WIDE_PREFPOE),
    "starts narrow": (MATCHED, NARROW, NARROW_BONUS, "prefpoe", "prefpoe-beta1-0"),
}
BETA1 = {0: "prefpoe-beta1-0", 0.1: "prefpoe-beta1-0.1", 0.2: "prefpoe", 0.4: "prefpoe-beta1-0.4"}
BETA1 |= {value: f"prefpoe-beta1-{value}" for value in (1, 2, 4)}
ONE_CHANGED = re.compile(r"(prefpoe|ppo-matched|ppo)-(alpha|w-pref|w-cons|lambda-pref|ent-coef|logstd)-(-?[\d.]+)")
RESTING = re.compile(r"prefpoe(-anneal|-(logstd|noise|alpha|beta1|w-pref|w-cons|lambda-pref)-[\d.]+)*")
PAIRS = [
    *(("prefpoe", other) for other in (CLEANRL, MATCHED, NARROW, NARROW_BONUS, BONUS, FALLING, "prefpoe-beta1-0")),
    *(("prefpoe-anneal", other) for other in (MATCHED, NARROW, BONUS, FALLING)),
    *((bonus, MATCHED) for bonus in (BONUS, FALLING)),
    *((WIDE_PREFPOE, other) for other in (WIDE, CLEANRL)),
]
AGAINST = {  # a table's name: what its tasks begin with, the variant that the others are compared with, and these
    "cleanrl": ("", CLEANRL, ["ppo-cleanrl-exact"]),
    "bonus": ("", "prefpoe", [NARROW, NARROW_BONUS]),
    "length": ("long-", MATCHED, [CLEANRL, BONUS, FALLING, "prefpoe", "prefpoe-anneal"]),
    "network": ("", "ppo", ["ppo-squash", "ppo-shared", WIDE]),
    "fusion": ("", "prefpoe", ["prefpoe-linear", "prefpoe-none"]),
    "schedules": ("", "prefpoe", ["prefpoe-lambda-falling", "prefpoe-lambda-rising", "prefpoe-lambda-guided"]),
    "modes": ("", "prefpoe", ["prefpoe-modes-4"]),
    "sac": ("sac-", "sac", ["prefpoe-sac", "prefpoe-sac-own"]),
    "beta1": ("", "prefpoe", [variant for variant in BETA1.values() if variant != "prefpoe"]),
    "advantages": ("", "prefpoe", [f"prefpoe-noise-{std}" for std in ("0.5", "1", "2", "4")]),
}
INGREDIENTS = {"logstd": "narrow start, σ = 0.37", "bootstrap": "time limits bootstrapped"}
INGREDIENTS |= {"squash": "means through tanh", "shared": "shared backbone"}
ATTRIBUTION = {}  # the ingredients of each variant -> its name
for size, first in product(range(4), ("", "bootstrap")):
    for others in combinations(("logstd", "squash", "shared"), size):
        ATTRIBUTION[frozenset((first, *others)) - {""}] = "-".join(("ppo" if first else CLEANRL, *others))
ATTRIBUTION[frozenset(INGREDIENTS)] = MATCHED

Frames = dict[str, pd.DataFrame]  # by task
MEASURES = {"evaluation": "evaluation", "training_return": "training return"}  # a quantity of a run -> its name
COLUMNS = MEASURES | {
    "whole": "return over all of training",
    "trace_acting": "tr Σ at the end",
    "ratio": "tr Σ_f / tr Σ_p",
    "resting": "1 − α w_pref / w_cons",
    "solving": "runs that solve it",
    "first_success": "steps to the first success",
    "args": "script and flags",
    "seeds": "seeds",
}
FORMS = {"trace_acting": "{:.2f}", "ratio": "{:.2f}"}  # the others' is {:,.0f}
PAPER = {"HalfCheetah-v4": "1,276 → 5,375 (+321 %)", "Ant-v4": "+69 %", "LunarLander-v3": "+276 % (LunarLander-v2)"}
EASY = ("CartPole-v1", "FrozenLake-v1")  # all variants come out alike
BALANCING = ("Hopper-v4", "Walker2d-v4", "BipedalWalker-v3", "Humanoid-v4")
SOLVED = {"MountainCarContinuous-v0": 90, "MountainCar-v0": -110, "Acrobot-v1": -100, "SparseHalfCheetah-v4": 500}
DISCRETE = ("LunarLander-v3", "MountainCar-v0", "Acrobot-v1", *EASY)


def in_words(variant: str) -> str:
    """Its name, or that of the CSV files."""
    return NAMES.get(variant, variant)


def task_and_length(name: str) -> tuple[str, str]:
    """The task without prefix, and the length if it is another than 1M."""
    task, _, length = re.fullmatch(r"(?:long-|sac-|sparse-)?(.*?)(-(\d+)-steps)?", name).groups()
    return task, f", {int(length):,} steps" if length else ""


class Runs(dict):
    """Samples (runs,) by task, variant and quantity; empty if there are none."""

    def __missing__(self, key: tuple[str, str, str]) -> np.ndarray:
        return np.empty(0)

    def tasks(self, *variants: str, prefix: str = "", easy: bool = False) -> list[str]:
        """Those with one of the variants; without a prefix those of 1M steps, the paper's first and the easy ones last."""
        found = {task for task, variant, _ in self if variant in variants}
        if prefix:
            return sorted(task for task in found if task.startswith(prefix))
        found = {task for task in found if re.fullmatch(r"\w+-v\d+", task)}
        order = [*PAPER, *sorted(found.difference(PAPER, EASY)), *(EASY if easy else ())]
        return [task for task in order if task in found]

    def variants(self, task: str = "") -> list[str]:
        """Of one task or of all: in the order of NAMES, and then of the alphabet."""
        found = {variant for name, variant, _ in self if task in ("", name)}
        return [*(variant for variant in NAMES if variant in found), *sorted(found.difference(NAMES))]


def acting(curves: pd.DataFrame) -> pd.DataFrame:
    """Curves with tr Sigma of the policy that acts, the fused one, or the main one if there is no other."""
    return curves.assign(trace_acting=curves["trace_fused"].fillna(curves["trace_main"]))


def runs_of(evaluations: Frames, curves: Frames) -> Runs:
    """What there is of each run: its row, means of its curves over the last tenth of training, and what COLUMNS adds."""
    runs = Runs()
    run = ["variant", "seed"]
    for task, rows in evaluations.items():
        curve = acting(curves[task]).set_index(run)
        last = curve[curve["global_step"] > 0.9 * curve["global_step"].max()].groupby(run).mean()
        solved = curve["episodic_return"] >= SOLVED.get(task_and_length(task)[0], math.inf)
        last["ratio"] = last["trace_fused"] / last["trace_pref"]
        last["whole"] = curve.groupby(run)["episodic_return"].mean()
        last["first_success"] = curve[solved].groupby(run)["global_step"].min()
        joined = rows.set_index(run).join(last.drop(columns="global_step"))
        for variant, of_variant in joined.groupby("variant"):
            runs |= {(task, variant, quantity): x.dropna().to_numpy() for quantity, x in of_variant.items()}
    return runs


# Cells


def with_interval(form: str, statistic: Callable, *samples: np.ndarray) -> str:
    """The statistic and its interval as text; one run has no interval, and none at all gives a dash."""
    if not samples or not all(map(len, samples)):
        return "–"
    numbers = [statistic(*samples)]
    if min(map(len, samples)) > 1:
        numbers += bootstrap(statistic, *samples)
    texts = [re.sub(r"^[-+](?=[0.]+( %)?$)", "", form.format(x)).replace("-", "−") for x in numbers]  # no −0
    return texts[0] if len(texts) == 1 else f"{texts[0]} [{texts[1]}, {texts[2]}]"


def marked(text: str, x: np.ndarray, base: np.ndarray) -> str:
    """Bold if x differs from base and their own intervals are apart, with † if these overlap."""
    if min(len(x), len(base)) < 2 or not statistics.differ(x, base):
        return text
    (low, high), (base_low, base_high) = bootstrap(iqm, x), bootstrap(iqm, base)
    return f"**{text}**" if low > base_high or high < base_low else f"{text} †"


def mean(runs: Runs, task: str, variant: str, quantity: str, base: str = "") -> str:
    """IQM of a quantity, marked if it differs from the base's."""
    form = "{:.2f}" if task == "FrozenLake-v1" else FORMS.get(quantity, "{:,.0f}")
    x = runs[task, variant, quantity]
    return marked(with_interval(form, iqm, x), x, runs[task, base, quantity])


def cell(runs: Runs, task: str, variant: str, column: str) -> str:
    evaluations = runs[task, variant, "evaluation"]
    if column == "seeds":
        return str(len(evaluations))
    if column == "args":
        return runs[task, variant, column][0]
    if column == "resting":
        return ratio_at_rest(variant) if variant.startswith("prefpoe") else "–"
    if column == "solving":
        return f"{(evaluations >= SOLVED[task_and_length(task)[0]]).sum()} of {len(evaluations)}"
    return mean(runs, task, variant, column)


def ratio_at_rest(variant: str) -> str:
    """1 - alpha w_pref / w_cons, the variance of Gaussian experts' product at rest, in shares of the preference's."""
    weights = {"alpha": "0.2", "w-pref": "0.05", "w-cons": "0.1"}
    weights |= dict(re.findall(r"-(alpha|w-pref|w-cons)-([\d.]+)", variant))
    ratio = 1 - float(weights["alpha"]) * float(weights["w-pref"]) / float(weights["w-cons"])
    return f"{ratio:.2f}" if ratio > 0 else "none"


def difference(runs: Runs, task: str, variant: str, base: str, quantity: str) -> str:
    x, y = runs[task, variant, quantity], runs[task, base, quantity]
    return "–" if variant == base else marked(with_interval("{:+,.0f}", effect, x, y), x, y)


def seeds(runs: Runs, task: str, *variants: str) -> str:
    """The fewest and the most runs of these variants, of those that there are."""
    counts = {len(runs[task, variant, "evaluation"]) for variant in variants} - {0}
    return "–".join(str(count) for count in sorted({min(counts), max(counts)}))


def pairs_of(runs: Runs, variant: str, base: str, quantity: str, tasks: Iterable[str]) -> list[np.ndarray]:
    """Both variants' runs of each of those tasks that have several of both, one after the other."""
    samples = []
    for task in sorted(tasks):
        pair = [runs[task, name, quantity] for name in (variant, base)]
        all_alike = task == "FrozenLake-v1" and quantity == "evaluation"  # on its ten fixed starts
        if min(map(len, pair)) > 1 and not all_alike:
            samples += pair
    return samples


def probability(runs: Runs, variant: str, base: str, quantity: str, tasks: Iterable[str]) -> str:
    """P(a run of the variant beats one of the base), averaged over those tasks."""
    samples = pairs_of(runs, variant, base, quantity, tasks)
    text = with_interval("{:.2f}", improvement, *samples)
    return f"{text}, {len(samples) // 2} tasks" if len(samples) > 2 else text


# Tables


def table(rows: Iterable[dict[str, object]]) -> str:
    """Markdown; the columns are the keys of the first row."""
    rows = [*rows]
    if not rows:
        return ""
    lines = ["| " + " | ".join(map(str, line)) + " |" for line in (rows[0], *(row.values() for row in rows))]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def rows_of(runs: Runs, chosen: Iterable[tuple[str, str]], columns: Iterable[str], base: str = "") -> Iterator[dict]:
    """A row a task and variant that there are; `less X` is the difference from the base, or else from the default."""
    for task, variant in chosen:
        if len(runs[task, variant, "evaluation"]):
            row = {"task": "".join(task_and_length(task)), "variant": in_words(variant)}
            for column in columns:
                quantity = column.removeprefix("less ")
                if quantity == column:
                    row[COLUMNS[column]] = cell(runs, task, variant, column)
                else:
                    name = f"{COLUMNS[quantity]}, less {in_words(base) or 'the default'}"
                    row[name] = difference(runs, task, variant, base or ONE_CHANGED.match(variant)[1], quantity)
            yield row


def returns(runs: Runs, *variants: str, readme: bool) -> Iterator[dict]:
    """Two rows a task: README.md's beside the paper's figures, or with marks and a difference."""
    base = "" if readme else CLEANRL
    for task, (quantity, name) in product(runs.tasks(*variants), MEASURES.items()):
        row = {"task": task, "return": name}
        row |= {in_words(variant): mean(runs, task, variant, quantity, base) for variant in variants}
        if readme:
            row["the paper"] = PAPER.get(task, "–") if quantity == "evaluation" else ""
        else:
            row["PrefPoE − matched PPO"] = difference(runs, task, "prefpoe", MATCHED, quantity)
        yield row | {"seeds": seeds(runs, task, *variants)}


def share(runs: Runs) -> Iterator[dict]:
    """A row a task on which PrefPoE gains in evaluation."""
    variants = ("prefpoe", MATCHED, CLEANRL)
    for task in runs.tasks("prefpoe"):
        x, matched, base, narrow = (runs[task, variant, "evaluation"] for variant in (*variants, NARROW))
        if min(len(x), len(matched), len(base)) > 1 and statistics.differ(x, base) and effect(x, base) > 0:
            row = {"task": task, "PrefPoE's gain over CleanRL's PPO": with_interval("{:+,.0f}", effect, x, base)}
            row["in per cent"] = with_interval("{:+,.0f} %", statistics.gain, x, base)
            row["the preference's share of it"] = with_interval("{:.2f}", statistics.share, x, matched, base)
            row["the same at equal starts"] = with_interval("{:.2f}", statistics.share, x, narrow, base)
            yield row | {"seeds": seeds(runs, task, *variants)}


def ingredients(runs: Runs) -> Iterator[dict]:
    """What each ingredient adds, averaged over the combinations of the others."""
    tasks = runs.tasks("ppo-logstd")
    for part, ingredient in INGREDIENTS.items() if tasks else ():
        row = {"ingredient": ingredient}
        for task, quantity in product(tasks, MEASURES):
            samples = []
            for others in ATTRIBUTION:
                if part not in others:
                    samples += [runs[task, ATTRIBUTION[parts], quantity] for parts in (others | {part}, others)]
            row[f"{task}, {MEASURES[quantity]}"] = with_interval("{:+,.0f}", effect, *samples)
        yield row


def improvements(runs: Runs) -> Iterator[dict]:
    """P(X > Y), averaged over tasks."""
    tasks = runs.tasks("prefpoe", easy=True)
    groups = {"all tasks": tasks, "continuous actions": [task for task in tasks if task not in DISCRETE]}
    groups["balancing tasks"] = [task for task in tasks if task in BALANCING]
    for (variant, base), quantity in product(PAIRS, MEASURES):
        row = {"X": in_words(variant), "Y": in_words(base), "return": MEASURES[quantity]}
        row |= {name: probability(runs, variant, base, quantity, group) for name, group in groups.items()}
        if row["all tasks"] != "–":
            yield row


def detectable(runs: Runs) -> Iterator[dict]:
    """A row a pair that is undecided on a task."""
    for task, pair, quantity in product(runs.tasks("prefpoe"), PAIRS, MEASURES):
        x, y = (runs[task, variant, quantity] for variant in pair)
        if min(len(x), len(y)) > 1 and not statistics.differ(x, y):
            row = {"task": task, "pair": " − ".join(map(in_words, pair)), "return": MEASURES[quantity]}
            row["difference"] = difference(runs, task, *pair, quantity)
            row["smallest that would be seen"] = f"{statistics.detectable(x, y):,.0f}"
            yield row | {"seeds": seeds(runs, task, *pair)}


def make_tables(runs: Runs) -> dict[str, str]:
    """Every table by its name, empty if it has no runs yet; `tasks` is one for each task, below its name."""
    main = (CLEANRL, MATCHED, "prefpoe")
    less = ("less evaluation", "less training_return", "trace_acting", "seeds")
    sparse = product(runs.tasks(*runs.variants(), prefix="sparse-"), runs.variants())
    changed = [variant for variant in runs.variants() if ONE_CHANGED.fullmatch(variant) and variant not in NAMES]
    resting = [MATCHED, BONUS, FALLING, NARROW_BONUS, *filter(RESTING.fullmatch, runs.variants())]
    resting = [(task, variant) for task, variant in product(runs.tasks(*resting), resting) if task not in DISCRETE]
    whole = product(runs.tasks("prefpoe"), ("prefpoe", MATCHED))
    tables = {
        "readme": returns(runs, *main, "prefpoe-anneal", readme=True),
        "returns": returns(runs, *main, readme=False),
        "share": share(runs),
        "ingredients": ingredients(runs),
        "sparse": rows_of(runs, sparse, ["solving", "first_success", *MEASURES]),
        "sensitivity": rows_of(runs, product(runs.tasks(*changed), changed), [*MEASURES, *less]),
        "rest": rows_of(runs, resting, ["resting", "ratio", "trace_acting", "seeds"]),
        "whole": rows_of(runs, whole, ["whole", "less whole", "less training_return", "seeds"], MATCHED),
        "improvement": improvements(runs),
        "detectable": detectable(runs),
    }
    for name, (prefix, base, others) in AGAINST.items():
        chosen = product(runs.tasks(*others, prefix=prefix), (base, *others))
        tables[name] = rows_of(runs, chosen, [*MEASURES, *less], base)
    texts = {name: table(rows) for name, rows in tables.items()}
    of_tasks = []
    for task in dict.fromkeys(task for task, _, _ in runs):
        rows = rows_of(runs, product([task], runs.variants(task)), [*MEASURES, "seeds", "args"])
        of_tasks.append(f"### {task}\n\n{table(rows)}")
    return texts | {"tasks": "\n\n".join(of_tasks)}
