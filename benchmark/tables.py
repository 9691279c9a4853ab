"""Tables of finished runs, and the sweeps' variants, their order and what they are called in tables and figures."""

import itertools
import re
from collections.abc import Callable, Iterable
from functools import partial

import numpy as np
import pandas as pd
from statistics_of_runs import apart, bootstrap, differ, effect, improvement, iqm, landed, late, scores

# The sweeps name the variants, and here they are again, since tables have an order, parts and labels of their own: to read
# them from the sweeps' --list would take more lines than the names do. tests/test_report.py holds the two together.
MATCHED = "ppo-matched"  # what every variant is compared with
PAPER = {  # what the paper reports, by the task here
    "HalfCheetah-v4": "1,276 → 5,375 (+321 %)",
    "Ant-v4": "+69 %",
    "LunarLander-v3": "+276 % (LunarLander-v2)",
}
# What CleanRL publishes of ppo_continuous_action.py, in docs/benchmark/ppo_continuous_action.md: mean ± std of 3 seeds.
PUBLISHED = {"HalfCheetah-v4": "1,443 ± 46", "Hopper-v4": "2,383 ± 272", "Walker2d-v4": "2,288 ± 572"}
PUBLISHED |= {"Humanoid-v4": "716 ± 49"}
CLEANRL = ("ppo-cleanrl", "ppo-cleanrl-exact")
EASY = ("FrozenLake-v1", "CartPole-v1")  # tasks on which all variants come out alike
REPRODUCE = ("ppo-cleanrl", "ppo", MATCHED, "prefpoe", "prefpoe-anneal")
NAMES = {  # what README.md calls those that it shows
    "ppo-cleanrl": "CleanRL's PPO",
    MATCHED: "matched PPO",
    "prefpoe": "PrefPoE",
    "prefpoe-anneal": "PrefPoE annealed",
}
FUSION = ("prefpoe", "prefpoe-linear", "prefpoe-none", MATCHED)
ENT_COEF, ENT_COEF_ANNEAL = "ppo-matched-ent-coef-0.01", "ppo-matched-ent-coef-0.01-anneal"  # of weight alpha w_pref
BONUS = (MATCHED, ENT_COEF, ENT_COEF_ANNEAL, "prefpoe", "prefpoe-anneal")
COMPARED = ("ppo-cleanrl", *BONUS)  # over all tasks
NARROW = "ppo-matched-logstd--1.35"  # matched PPO that starts as narrow as PrefPoE's product
NARROW_BONUS = f"{NARROW}-ent-coef-0.01"  # and has the bonus
PAIRS = {  # PrefPoE with the default coefficients: each is compared with those, over all tasks
    "prefpoe": (MATCHED, NARROW, NARROW_BONUS, ENT_COEF, ENT_COEF_ANNEAL),
    "prefpoe-anneal": (MATCHED, NARROW, ENT_COEF, ENT_COEF_ANNEAL),
}
COMPARISONS = PAIRS | dict.fromkeys((ENT_COEF, ENT_COEF_ANNEAL), (MATCHED,))  # and the bonuses themselves
SCHEDULES = ("prefpoe", *(f"prefpoe-lambda-{kind}" for kind in ("falling", "rising", "guided")))
MODES = ("prefpoe", "prefpoe-modes-4")
SCALE = {  # log sigma of the acting policy at the start
    "ppo-squash-shared": 0.0,
    MATCHED: -1.0,
    NARROW: -1.35,
    "prefpoe-logstd-0.35": 0.0,
    "prefpoe": -1.35,
}
NETWORK = ("ppo", "ppo-squash", "ppo-shared", "ppo-squash-shared")  # from log sigma = 0, bootstrapped
DIFFERENCES = {  # a table's name: the pairs of variants whose difference is a column of it
    "differences": (
        (MATCHED, "ppo-cleanrl"),
        ("prefpoe", "ppo-cleanrl"),
        ("prefpoe", MATCHED),
        ("prefpoe", ENT_COEF),
        ("prefpoe-anneal", ENT_COEF_ANNEAL),
        (ENT_COEF_ANNEAL, MATCHED),
    ),
    "scale-differences": (
        *(("prefpoe-logstd-0.35", base) for base in ("ppo-cleanrl", "ppo", MATCHED, "ppo-squash-shared", "prefpoe")),
        *(("prefpoe", base) for base in (NARROW, NARROW_BONUS)),
        *((NARROW_BONUS, base) for base in (NARROW, ENT_COEF, "ppo-cleanrl")),
        *((NARROW, base) for base in (MATCHED, "ppo-squash-shared")),
        *((variant, "ppo-cleanrl") for variant in (NARROW, "ppo-squash-shared")),
        ("ppo-squash-shared", "ppo"),
        ("ppo", "ppo-cleanrl"),
    ),
    "network-differences": (
        *((variant, "ppo") for variant in NETWORK[1:]),
        *(("ppo-squash-shared", base) for base in NETWORK[1:3]),
    ),
    "length-differences": (
        (MATCHED, "ppo-cleanrl"),
        *(("prefpoe", base) for base in ("ppo-cleanrl", MATCHED)),
        ("prefpoe-anneal", MATCHED),
        ("prefpoe-anneal", ENT_COEF_ANNEAL),
        *((bonus, MATCHED) for bonus in (ENT_COEF, ENT_COEF_ANNEAL)),
    ),
}
SAC = ("sac", "prefpoe-sac", "prefpoe-sac-own")
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
COEFFICIENTS = {  # variants <prefix><value>: the variant with the default value, that value, what it is
    "prefpoe-noise-": ("prefpoe", 0.0, r"std of the noise on $A_\mathrm{norm}$"),
    "prefpoe-beta1-": ("prefpoe", 0.2, r"$\beta_1$, weight of the advantages"),
    "prefpoe-alpha-": ("prefpoe", 0.2, r"$\alpha$, weight of the entropy"),
    "prefpoe-w-pref-": ("prefpoe", 0.05, r"$w_\mathrm{pref}$, weight of $L_\mathrm{pref}$"),
    "prefpoe-w-cons-": ("prefpoe", 0.1, r"$w_\mathrm{cons}$, weight of $L_\mathrm{cons}$"),
    "prefpoe-lambda-pref-": ("prefpoe", 1.0, r"$\lambda$, weight of the preference"),
    "ppo-ent-coef-": ("ppo", 0.0, "ppo:\nweight of the entropy bonus"),
    "ppo-matched-ent-coef-": (MATCHED, 0.0, f"{MATCHED}:\nweight of the entropy bonus"),
    "ppo-matched-logstd-": (MATCHED, -1.0, MATCHED + ":\n" + r"initial $\log\,\sigma$"),
}
NOISE, *SENSITIVITY = COEFFICIENTS
NOISES = ("prefpoe", *(f"{NOISE}{std}" for std in ("0.5", "1", "2", "4")), "prefpoe-beta1-0")
WEIGHTS = ("alpha", "w-pref", "w-cons")
REST = (MATCHED, ENT_COEF, ENT_COEF_ANNEAL, "prefpoe", "prefpoe-anneal", "prefpoe-beta1-0", "prefpoe-beta1-2")
REST += tuple(
    f"prefpoe-{x}" for x in ("alpha-0.1", "alpha-0.4", "w-pref-0.005", "w-pref-0.2", "w-cons-0.02", "w-cons-0.2")
)
REST += ("prefpoe-lambda-pref-2", "prefpoe-lambda-pref-4")
Frames = dict[str, pd.DataFrame]  # by task
# Tables of README.md and of the paper beside the results, whose runs may lack yet.
OVER_TASKS = ("headline", "improvement", "readme", "changes", "comparisons", "profile", "entropy-bonus", "rest")
OVER_TASKS += ("cleanrl", "scale", "network", "fusion", "advantages", "beta1", "schedules", "modes", "sac", "sac-rest")
OVER_TASKS += ("length", *DIFFERENCES)

# column -> name: of the mean action after training; of the acting policy in training's last tenth
MEASURES = {"evaluation": "evaluation", "training_return": "training return"}
EXPERTS = {  # column of the curves, or the ratio of two -> name and form
    "trace_main": ("tr Σ_θ, main expert", "{:.2f}"),
    "trace_pref": ("tr Σ_p, preference", "{:.2f}"),
    "trace_fused": ("tr Σ_f, acting policy", "{:.2f}"),
    "trace_ratio": ("tr Σ_f / tr Σ_p", "{:.2f}"),
    "guidance": ("corr(A_norm, log π_p)", "{:.3f}"),
}


def with_interval(form: str, statistic: Callable, *samples: np.ndarray) -> str:
    """The statistic and its interval as text; one run has no interval, and none at all gives a dash."""
    if not samples or not all(map(len, samples)):
        return "–"
    text = form.format(statistic(*samples))
    if min(map(len, samples)) == 1:
        return text
    return f"{text} [{', '.join(map(form.format, bootstrap(statistic, *samples)))}]"


def marked(text: str, x: np.ndarray, base: np.ndarray) -> str:
    """A cell about x: bold where x differs from base and their own intervals are apart, with † where those overlap."""
    if not min(len(x), len(base)) > 1 or not differ(x, base):
        return text
    return f"**{text}**" if apart(x, base) else f"{text} †"


def change(x: np.ndarray, base: np.ndarray) -> str:
    """From the IQM of base to that of x, in per cent; as a difference where a return of base is not positive."""
    if (base > 0).all():
        return with_interval("{:+,.0f} %", lambda x, base: 100 * (iqm(x) / iqm(base) - 1), x, base)
    return with_interval("{:+,.0f}", effect, x, base)


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
    """Each sweep that has a variant which those before it lack, and its variants that there are, in its order."""
    sensitivity = dict.fromkeys(v for prefix in SENSITIVITY for v in settings(prefix, variants).values())
    members = {
        "reproduce": REPRODUCE,
        "attribution": ATTRIBUTION.values(),
        "fusion": FUSION,
        "advantage-noise": settings(NOISE, variants).values(),
        "sensitivity": sorted(sensitivity, key=lambda variant: variant not in REPRODUCE),  # the defaults first
        "entropy-bonus": BONUS,
        "lambda-schedule": SCHEDULES,
        "multimodal": (
            "prefpoe",
            *(f"prefpoe-modes-{modes}{raised}" for raised in ("", "-raised") for modes in (1, 4)),
            "prefpoe-modes-4-lambda-8",
            "prefpoe-modes-4-alpha-1",
        ),
        "sac": SAC,
        "scale": (*SCALE, NARROW_BONUS),
        "cleanrl": CLEANRL,
    }
    members["other"] = sorted(variants.difference(*members.values()))
    found, seen = {}, set()
    for sweep, order in members.items():
        here = [variant for variant in order if variant in variants]
        if not seen.issuperset(here):
            found[sweep] = here
            seen |= {*here}
    return found


def compared(task: str) -> bool:
    """Whether a task's name is a Gymnasium id, with the module that registers it or not, without prefix and length."""
    return bool(re.fullmatch(r"([\w.]+:)?\w+-v\d+", task))


def all_tasks(evaluations: Frames) -> list[str]:
    """Those of 1M steps that no prefix sets apart and that have two seeds or more: the paper's, then the others."""
    found = [task for task, x in evaluations.items() if compared(task) and x["seed"].nunique() > 1]
    return [*(task for task in PAPER if task in found), *sorted({*found}.difference(PAPER))]


def sac_tasks(evaluations: Frames) -> list[str]:
    """Those of SAC, whose runs begin with sac-: the prefix of benchmark/sac.sh."""
    return [task for task in evaluations if task.startswith("sac-")]


def long_tasks(evaluations: Frames) -> list[str]:
    """Those of other lengths, whose runs begin with long-: the prefix of benchmark/length.sh."""
    return [task for task in evaluations if task.startswith("long-")]


def scale_tasks(evaluations: Frames) -> list[str]:
    """Those where PrefPoE was run from another width than its own."""
    return [task for task in all_tasks(evaluations) if "prefpoe-logstd-0.35" in {*evaluations[task]["variant"]}]


def form_of(rows: pd.DataFrame) -> str:
    """How a task's returns are written."""
    return "{:,.0f}" if rows["evaluation"].abs().max() >= 10 else "{:.2f}"  # FrozenLake's are at most 1


def returns_of(rows: pd.DataFrame, variant: str) -> dict[str, str]:
    """Cells of both returns of a variant."""
    return {MEASURES[m]: with_interval(form_of(rows), iqm, scores(rows, variant, m)) for m in MEASURES}


def sweep_table(task: str, rows: pd.DataFrame, variants: list[str]) -> str:
    """A row a variant: what it reaches, and how likely one of its runs beats one of matched PPO, where there are such."""
    lines, compared = [], MEASURES if MATCHED in {*rows["variant"]} else {}
    for variant in variants:
        line = {"variant": variant, "seeds": len(scores(rows, variant, "evaluation"))} | returns_of(rows, variant)
        for m, measure in compared.items():
            pair = scores(rows, variant, m), scores(rows, MATCHED, m)
            text = "–" if variant == MATCHED else with_interval("{:.2f}", improvement, *pair)
            line[f"P(better than {MATCHED}), {measure}"] = text
        if "LunarLander" in task:
            line["landed (return ≥ 200)"] = with_interval("{:.0f} %", partial(np.mean, axis=-1), landed(rows, variant))
        lines.append(line)
    return table(lines)


def effects_table(rows: pd.DataFrame) -> str:
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


def number_of_seeds(rows: pd.DataFrame, variants: Iterable[str]) -> str:
    """The fewest and the most seeds of these variants, of those that there are."""
    counts = [count for variant in variants if (count := len(scores(rows, variant, "evaluation")))] or [0]
    return "–".join(map(str, sorted({min(counts), max(counts)})))


def readme_table(evaluations: Frames) -> str:
    """Two rows a task, one a measure: what README.md shows, without the easy tasks."""
    lines = []
    for task, m in itertools.product(tasks_with(evaluations, NAMES), MEASURES):
        rows = evaluations[task]
        cells = {name: with_interval(form_of(rows), iqm, scores(rows, v, m)) for v, name in NAMES.items()}
        if task not in EASY:
            lines.append({"task": task, "return": MEASURES[m]} | cells | {"seeds": number_of_seeds(rows, NAMES)})
    return table(lines) if lines else ""


def returns_table(evaluations: Frames, variants: tuple[str, ...], tasks: list[str], base: str = "") -> str:
    """Two rows a task, one a measure: what the variants reach, without those that there are none of, each marked where it
    differs from the variant `base`, if there is one."""
    shown = [v for v in variants if any(len(scores(evaluations[task], v, "evaluation")) for task in tasks)]
    lines = []
    for task, (m, measure) in itertools.product(tasks, MEASURES.items()):
        rows, cells = evaluations[task], {}
        for variant in shown:
            x, beside = scores(rows, variant, m), scores(rows, base, m)
            cells[variant] = marked(with_interval(form_of(rows), iqm, x), x, beside)
        lines.append({"task": task, "return": measure} | cells | {"seeds": number_of_seeds(rows, shown)})
    return table(lines) if lines else ""


def differences_table(evaluations: Frames, pairs: tuple[tuple[str, str], ...], tasks: list[str]) -> str:
    """Two rows a task, one a measure: the IQM of each pair's first variant less that of its second, marked where they
    differ; without pairs that no task has."""
    samples = {
        (task, m, pair): [scores(evaluations[task], variant, m) for variant in pair]
        for task, m, pair in itertools.product(tasks, MEASURES, pairs)
    }
    shown = [pair for pair in pairs if any(key[2] == pair and all(map(len, x)) for key, x in samples.items())]
    lines = []
    for task, (m, measure) in itertools.product(tasks if shown else (), MEASURES.items()):
        form = "{:+" + form_of(evaluations[task])[2:]
        cells = {pair: with_interval(form, effect, *samples[task, m, pair]) for pair in shown}
        cells = {" − ".join(pair): marked(text, *samples[task, m, pair]) for pair, text in cells.items()}
        if {*cells.values()} != {"–"}:
            lines.append({"task": task, "return": measure} | cells)
    return table(lines) if lines else ""


def cleanrl_table(evaluations: Frames) -> str:
    """Two rows a task that has `ppo-cleanrl-exact` or that CleanRL publishes, one a measure: `ppo-cleanrl` as CleanRL
    writes returns, and beside it as the other tables do; `ppo-cleanrl-exact` is marked where it differs from it."""
    base, exact = CLEANRL
    lines = []
    for task in tasks_with(evaluations, CLEANRL):
        rows = evaluations[task]
        for m, measure in MEASURES.items() if task in PUBLISHED or exact in {*rows["variant"]} else ():
            x, y = (scores(rows, variant, m) for variant in CLEANRL)
            line = {"task": task, "return": measure, "CleanRL publishes": "–"}
            line |= {f"{base}, likewise": f"{x.mean():,.0f} ± {x.std():,.0f}" if len(x) else "–"}
            if m == "training_return":
                line["CleanRL publishes"] = PUBLISHED.get(task, "–")
            cells = {base: with_interval("{:,.0f}", iqm, x), exact: marked(with_interval("{:,.0f}", iqm, y), y, x)}
            lines.append(line | cells | {"seeds": number_of_seeds(rows, CLEANRL)})
    return table(lines) if lines else ""


def tasks_with(evaluations: Frames, variants: Iterable[str]) -> list[str]:
    """Of all tasks, those that have one of the variants."""
    return [task for task in all_tasks(evaluations) if {*variants} & {*evaluations[task]["variant"]}]


def changes_table(evaluations: Frames) -> str:
    """Two rows a task of the paper, of any length, one a measure: its claim, and how far PrefPoE and its baselines are
    apart here."""
    lines, claims = [], {task: PAPER[task] for task in PAPER if task in evaluations}
    claims |= {task: PAPER[name] for task in long_tasks(evaluations) for name in PAPER if f"-{name}-" in task}
    for task, (m, measure) in itertools.product(claims, MEASURES.items()):
        x = {variant: scores(evaluations[task], variant, m) for variant in REPRODUCE}
        line = {"task": task, "the paper": claims[task], "return": measure}
        pairs = [(MATCHED, "ppo-cleanrl"), ("prefpoe", "ppo-cleanrl"), ("prefpoe", MATCHED)]
        lines.append(line | {f"{variant} vs {base}": change(x[variant], x[base]) for variant, base in pairs})
    return table(lines)


def improvement_table(evaluations: Frames) -> str:
    """A row a variant: probability of improvement over matched PPO, averaged over the paper's tasks, and over all, of
    those with several runs."""
    lines = {}  # by variant and tasks, so that none is there twice
    groups = {"of the paper": PAPER, "in all": all_tasks(evaluations)}
    for (group, tasks), variant in itertools.product(groups.items(), (v for v in REPRODUCE if v != MATCHED)):
        line = {"variant": variant, "tasks": ""}
        for m, measure in MEASURES.items():
            pairs = repeated(pairs_of(evaluations, variant, MATCHED, m))
            found = {task: pair for task, pair in pairs.items() if task in tasks}
            line["tasks"] = f"{len(found)} {group}"
            line[f"P(better than {MATCHED}), {measure}"] = over_tasks(found)
        if found:
            lines.setdefault((variant, *found), line)
    return table([*lines.values()]) if lines else ""


def pairs_of(evaluations: Frames, variant: str, base: str, measure: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Both variants' runs by task: all tasks on which there are both."""
    tasks = sorted(all_tasks(evaluations))  # the order in which the bootstrap draws
    pairs = {task: tuple(scores(evaluations[task], v, measure) for v in (variant, base)) for task in tasks}
    return {task: (x, y) for task, (x, y) in pairs.items() if len(x) and len(y)}


def repeated(pairs: dict[str, tuple[np.ndarray, np.ndarray]]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Those with two runs of both and more, so that a mean over tasks has an interval."""
    return {task: pair for task, pair in pairs.items() if min(map(len, pair)) > 1}


def over_tasks(pairs: dict[str, tuple[np.ndarray, np.ndarray]]) -> str:
    """Cell of the probability of improvement averaged over tasks."""
    return with_interval("{:.2f}", improvement, *itertools.chain(*pairs.values()))


def comparisons_table(evaluations: Frames) -> str:
    """Two rows a task, one a measure: how probably PrefPoE beats matched PPO and the entropy bonuses, and the falling one
    matched PPO; then the means over tasks with several runs, the paper's and all."""
    columns = {}
    for m, (variant, bases) in itertools.product(MEASURES, COMPARISONS.items()):
        for base in bases:
            columns.setdefault(f"P({variant} > {base})", {})[m] = pairs_of(evaluations, variant, base, m)
    columns = {name: found for name, found in columns.items() if any(found.values())}
    lines = []
    for task, (m, measure) in itertools.product(all_tasks(evaluations), MEASURES.items()):
        cells = {name: with_interval("{:.2f}", improvement, *found[m].get(task, ())) for name, found in columns.items()}
        if {*cells.values()} != {"–"}:
            seeds = number_of_seeds(evaluations[task], BONUS)
            lines.append({"task": task, "return": measure} | cells | {"seeds": seeds})
    groups = {"mean over the paper's tasks": PAPER, "mean over all tasks": all_tasks(evaluations)}
    for (group, tasks), (m, measure) in itertools.product(groups.items() if lines else (), MEASURES.items()):
        cells = {}
        for name, found in columns.items():
            pairs = {task: pair for task, pair in repeated(found[m]).items() if task in tasks}
            cells[name] = over_tasks(pairs) + (f", {len(pairs)} task" + "s" * (len(pairs) > 1)) * bool(pairs)
        lines.append({"task": f"**{group}**", "return": measure} | cells | {"seeds": ""})
    return table(lines) if lines else ""


def profiled(evaluations: Frames) -> tuple[list[str], list[str]]:
    """Tasks and variants of the performance profile: tasks with several runs of all of the headline's but the bonuses, and
    variants with several runs on each of these tasks."""

    def several(task: str, variant: str) -> bool:
        return min(len(scores(evaluations[task], variant, m)) for m in MEASURES) > 1

    needed = [variant for variant in COMPARED if variant in REPRODUCE]
    tasks = [task for task in all_tasks(evaluations) if all(several(task, variant) for variant in needed)]
    return tasks, [variant for variant in COMPARED if tasks and all(several(task, variant) for task in tasks)]


def scale(rows: pd.DataFrame, variants: list[str], measure: str) -> tuple[float, float, str]:
    """What is 0 and what is 1 in a task's normalised returns, the IQM of the first variant and the highest of the
    others'; and whose that is, "" where it is not ahead by more than seeds differ."""
    samples = [scores(rows, variant, measure) for variant in variants]
    zero, *others = (float(iqm(x)) for x in samples)
    best = 1 + int(np.argmax(others))
    ahead = differ(samples[best], samples[0]) and others[best - 1] > zero
    return zero, others[best - 1], variants[best] if ahead else ""


def normalised(evaluations: Frames, measure: str) -> dict[str, list[np.ndarray]]:
    """Each variant's normalised returns, an array (runs,) a task; without tasks on which none is ahead of the first."""
    tasks, variants = profiled(evaluations)
    found = {variant: [] for variant in variants}
    for rows in (evaluations[task] for task in tasks):
        zero, one, best = scale(rows, variants, measure)
        for variant in variants if best else ():
            found[variant].append((scores(rows, variant, measure) - zero) / (one - zero))
    return {variant: samples for variant, samples in found.items() if samples}


def profile_table(evaluations: Frames) -> str:
    """Two rows a task, one a measure: what is 0 and what is 1 in the performance profile."""
    (tasks, variants), lines = profiled(evaluations), []
    for task, (m, measure) in itertools.product(tasks, MEASURES.items()):
        zero, one, best = scale(rows := evaluations[task], variants, m)
        cells = (form_of(rows).format(one), best) if best else ("none: left out", "–")
        line = {"task": task, "return": measure, "0: IQM of ppo-cleanrl": form_of(rows).format(zero)}
        line |= dict(zip(("1: highest IQM of the others", "reached by"), cells, strict=True))
        lines.append(line | {"seeds": number_of_seeds(rows, variants)})
    return table(lines) if lines else ""


def experts_table(rows: pd.DataFrame, curves: pd.DataFrame) -> str:
    """A row a variant with a preference, or of matched PPO, whose only policy is its main one, at the end of training."""
    lines = []
    for variant in dict.fromkeys(itertools.chain(*sweeps({*curves["variant"]}).values())):
        x = {column: late(curves, variant, column) for column in EXPERTS if column != "trace_ratio"}
        x["trace_ratio"] = x["trace_fused"] / x["trace_pref"]
        if variant != SAC[0] and (len(x["guidance"]) or variant.startswith(MATCHED)):  # SAC's preference is not trained
            line = {"variant": variant, "seeds": len(x["trace_main"])} | returns_of(rows, variant)
            lines.append(line | {name: with_interval(form, iqm, x[c]) for c, (name, form) in EXPERTS.items()})
    return table(lines) if lines and curves["guidance"].notna().any() else ""


def ratio_at_rest(variant: str) -> float:
    """1 - alpha w_pref / w_cons, which is sigma_f^2 / sigma_p^2 where the preference of Gaussian experts comes to rest."""
    weights = {name: COEFFICIENTS[f"prefpoe-{name}-"][1] for name in WEIGHTS}
    weights |= {x: float(variant[len(f"prefpoe-{x}-") :]) for x in WEIGHTS if variant.startswith(f"prefpoe-{x}-")}
    return 1 - weights["alpha"] * weights["w-pref"] / weights["w-cons"]


def continuous(task: str) -> bool:
    """Whether its actions are, so that experts are Gaussians; as benchmark/cells.sh tells the two scripts apart."""
    return not re.search("(LunarLander-v|CartPole-|FrozenLake-)", task)  # a prefix before it or not


def acting(curves: pd.DataFrame) -> pd.DataFrame:
    """Curves with tr Sigma of the policy that acts: the fused one, or the main one where there is no other; and, where
    the preference has a place to rest, what it would be there, given the preference."""
    rest = curves["trace_pref"].where(curves["variant"].isin(PAIRS)) * ratio_at_rest("prefpoe")
    return curves.assign(trace_acting=curves["trace_fused"].fillna(curves["trace_main"]), trace_rest=rest)


def guidance_table(evaluations: Frames, curves: Frames) -> str:
    """A row a value of beta_1 on each task that has several: what the acting policy is like at the end, and reaches, marked
    where that differs from the default's."""
    lines = []
    for task in [task for task in all_tasks(evaluations) if task in curves]:
        rows, traces = evaluations[task], acting(curves[task])
        for value, variant in settings("prefpoe-beta1-", {*rows["variant"]}).items():
            line = {"task": task, "β₁": f"{value:g}" + " (default)" * (variant == "prefpoe"), "variant": variant}
            line |= {"seeds": len(scores(rows, variant, "evaluation"))}
            for m, (measure, text) in zip(MEASURES, returns_of(rows, variant).items(), strict=True):
                line[measure] = marked(text, scores(rows, variant, m), scores(rows, "prefpoe", m))
            line["tr Σ_f"] = with_interval("{:.2f}", iqm, late(traces, variant, "trace_acting"))
            line["corr(A_norm, log π_p)"] = with_interval("{:.3f}", iqm, late(traces, variant, "guidance"))
            lines.append(line)
    return table(lines) if lines else ""


def widths_table(curves: Frames) -> str:
    """A row a task: tr Sigma of the acting policy at the end of training, with neither preference nor bonus, with the
    bonuses and with PrefPoE; and for Gaussians what PrefPoE's would be at rest, given the preference."""
    lines = []
    for task in all_tasks(curves):
        rows, predicted = acting(curves[task]), {}
        cells = {variant: with_interval("{:.2f}", iqm, late(rows, variant, "trace_acting")) for variant in BONUS}
        for variant in PAIRS:
            x = late(rows, variant, "trace_rest")
            predicted[f"{variant}: 0.9 tr Σ_p"] = with_interval("{:.2f}", iqm, x) if continuous(task) else "–"
        if any(len(late(rows, variant, "trace_acting")) for variant in (ENT_COEF, ENT_COEF_ANNEAL)):
            counts = [len(x) for variant in BONUS if len(x := late(rows, variant, "trace_acting"))]
            seeds = "–".join(map(str, sorted({min(counts), max(counts)})))
            lines.append({"task": task} | cells | predicted | {"seeds": seeds})
    return table(lines) if lines else ""


def rest_table(evaluations: Frames, curves: Frames) -> str:
    """A row a variant on the paper's tasks of continuous actions: where its policies should come to rest, and do."""
    lines = []
    for task, variant in itertools.product(["HalfCheetah-v4", "Ant-v4"], REST):
        if task not in evaluations or not len(scores(evaluations[task], variant, "evaluation")):
            continue
        x = {column: late(curves[task], variant, column) for column in ("trace_main", "trace_pref", "trace_fused")}
        ratio, acting = x["trace_fused"] / x["trace_pref"], x["trace_fused" if len(x["trace_fused"]) else "trace_main"]
        line = {"task": task, "variant": variant, "seeds": len(x["trace_main"])}
        line["1 − α w_pref / w_cons"] = f"{ratio_at_rest(variant):.2f}" if len(ratio) else "–"
        line["tr Σ_f / tr Σ_p"] = with_interval("{:.2f}", iqm, ratio)
        line["tr Σ of the acting policy"] = with_interval("{:.2f}", iqm, acting)
        lines.append(line | returns_of(evaluations[task], variant))
    return table(lines) if lines else ""


def sac_rest_table(curves: Frames) -> str:
    """A row a variant with a preference on each of SAC's tasks: where its policies are at the end of training.

    The mean of (σ_f² + (μ_f − μ_p)²) / σ_p² over states and dimensions follows from KL(π_f || π_p) and the entropies.
    """
    names = {"A_z2": "E[A_norm z²], replayed actions", "A_z2_own": "the same, own actions"}
    lines = []
    for task, variant in itertools.product(sac_tasks(curves), SAC[1:]):
        trace, fused, kl, of_fused, of_pref, *x = (
            late(curves[task], variant, column)
            for column in ("trace_pref", "trace_fused", "kl_fused_pref", "entropy_fused", "entropy_pref", *names)
        )
        if len(trace):
            spread = 1 + 2 * (kl + of_fused - of_pref) / ACTION_DIM.get(task.split("-")[1], np.nan)
            of_its_own = 1 - (0.2 + 0.2 * x[variant == "prefpoe-sac-own"]) * 0.05 / 0.1  # by β₁, α, w_pref and w_cons
            line = {"task": task, "variant": variant, "seeds": len(trace)}
            line |= {"tr Σ_f / tr Σ_p": with_interval("{:.2f}", iqm, fused / trace)}
            line |= {SPREAD: or_diverges("{:.3f}", spread)}
            line |= {"where L_pref and L_cons rest": or_diverges("{:.3f}", of_its_own)}
            line |= {"tr Σ_p": with_interval("{:.3g}", iqm, trace)}
            line |= {name: or_diverges("{:.3g}", y) for name, y in zip(names.values(), x, strict=True)}
            lines.append(line)
    return table(lines) if lines else ""


def or_diverges(form: str, y: np.ndarray) -> str:
    return with_interval(form, iqm, y) if not (np.abs(y) > 1e3).any() else "diverges"


ACTION_DIM = {"HalfCheetah": 6, "Ant": 8}
SPREAD = "E[(σ_f² + (μ_f − μ_p)²) / σ_p²]"


def make_tables(evaluations: Frames, curves: Frames) -> dict[str, str]:
    """Every table by its name: first those over tasks, of README.md and of the paper beside the results; then
    <task>-<sweep>, <task>-effects (of attribution) and <task>-experts."""
    groups = {"schedules": SCHEDULES, "fusion": FUSION, "advantages": NOISES, "modes": MODES}
    tasks = {name: tasks_with(evaluations, {*variants}.difference(REPRODUCE)) for name, variants in groups.items()}
    groups, tasks = groups | {"headline": COMPARED, "sac": SAC}, tasks | {"sac": sac_tasks(evaluations)}
    tasks["headline"] = tasks["differences"] = tasks_with(evaluations, COMPARED)
    groups, tasks["scale"] = groups | {"scale": ("ppo-cleanrl", "ppo", *SCALE, NARROW_BONUS)}, scale_tasks(evaluations)
    groups, tasks["network"] = groups | {"network": NETWORK}, tasks_with(evaluations, NETWORK[1:2])
    groups, tasks["length"] = groups | {"length": COMPARED}, long_tasks(evaluations)
    bases = dict.fromkeys(("schedules", "fusion", "advantages", "modes"), "prefpoe") | {"sac": SAC[0]}
    tables = {name: returns_table(evaluations, x, tasks[name], bases.get(name, "")) for name, x in groups.items()}
    for name, pairs in DIFFERENCES.items():
        tables[name] = differences_table(evaluations, pairs, tasks[name.removesuffix("-differences")])
    tables |= {"improvement": improvement_table(evaluations), "cleanrl": cleanrl_table(evaluations)}
    tables |= {"comparisons": comparisons_table(evaluations), "profile": profile_table(evaluations)}
    tables |= {"entropy-bonus": widths_table(curves), "beta1": guidance_table(evaluations, curves)}
    tables |= {"readme": readme_table(evaluations), "sac-rest": sac_rest_table(curves)}
    if any(task in evaluations for task in PAPER):
        tables["changes"] = changes_table(evaluations)
        tables["rest"] = rest_table({task: evaluations[task] for task in curves if task in evaluations}, curves)
    for task, rows in evaluations.items():
        found = sweeps({*rows["variant"]})
        tables |= {f"{task}-{sweep}": sweep_table(task, rows, variants) for sweep, variants in found.items()}
        if "attribution" in found:
            tables[f"{task}-effects"] = effects_table(rows)
        if task in curves:
            tables[f"{task}-experts"] = experts_table(rows, curves[task])
    return {key: text for key, text in tables.items() if text}
