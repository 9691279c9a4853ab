"""Tables of finished runs, and the sweeps' variants, their order and what they are called in tables and figures."""

import itertools
import re
from collections.abc import Callable, Iterable
from functools import partial

import numpy as np
import pandas as pd
from statistics_of_runs import bootstrap, effect, improvement, iqm, landed, late, scores

# The sweeps name the variants, and here they are again, since tables have an order, parts and labels of their own: to read
# them from the sweeps' --list would take more lines than the names do. tests/test_report.py holds the two together.
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
Frames = dict[str, pd.DataFrame]  # by task

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
    bonus = (MATCHED, "ppo-matched-ent-coef-0.01", "ppo-matched-ent-coef-0.01-anneal")
    members = {
        "reproduce": REPRODUCE,
        "attribution": ATTRIBUTION.values(),
        "fusion": ("prefpoe", "prefpoe-linear", "prefpoe-none", MATCHED),
        "advantage-noise": settings(NOISE, variants).values(),
        "sensitivity": sorted(sensitivity, key=lambda variant: variant not in REPRODUCE),  # the defaults first
        "entropy-bonus": (*bonus, "prefpoe", "prefpoe-anneal"),
        "lambda-schedule": ("prefpoe", *(f"prefpoe-lambda-{kind}" for kind in ("falling", "rising", "guided"))),
    }
    members["other"] = sorted(variants.difference(*members.values()))
    found, seen = {}, set()
    for sweep, order in members.items():
        here = [variant for variant in order if variant in variants]
        if not seen.issuperset(here):
            found[sweep] = here
            seen |= {*here}
    return found


def returns_of(rows: pd.DataFrame, variant: str) -> dict[str, str]:
    """Cells of both returns of a variant."""
    form = "{:,.0f}" if rows["evaluation"].abs().max() >= 10 else "{:.2f}"  # FrozenLake's returns are at most 1
    return {MEASURES[m]: with_interval(form, iqm, scores(rows, variant, m)) for m in MEASURES}


def sweep_table(task: str, rows: pd.DataFrame, variants: list[str]) -> str:
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


def headline_table(evaluations: Frames) -> str:
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


def improvement_table(evaluations: Frames) -> str:
    """A row a variant: probability of improvement over matched PPO, averaged over the paper's tasks, and over all."""
    lines = {}  # by variant and tasks, so that none is there twice
    groups = {"of the paper": PAPER, "in all": [task for task in evaluations if re.fullmatch(r"\w+-v\d+", task)]}
    for (group, tasks), variant in itertools.product(groups.items(), (v for v in REPRODUCE if v != MATCHED)):
        found = [t for t in tasks if t in evaluations and {variant, MATCHED} <= {*evaluations[t]["variant"]}]
        line = {"variant": variant, "tasks": f"{len(found)} {group}"}
        for m, measure in MEASURES.items():
            samples = [scores(evaluations[task], v, m) for task in sorted(found) for v in (variant, MATCHED)]
            line[f"P(better than {MATCHED}), {measure}"] = with_interval("{:.2f}", improvement, *samples)
        if found:
            lines.setdefault((variant, *sorted(found)), line)
    return table([*lines.values()]) if lines else ""


def experts_table(rows: pd.DataFrame, curves: pd.DataFrame) -> str:
    """A row a variant with a preference, or of matched PPO, whose only policy is its main one, at the end of training."""
    lines = []
    for variant in dict.fromkeys(itertools.chain(*sweeps({*curves["variant"]}).values())):
        x = {column: late(curves, variant, column) for column in EXPERTS if column != "trace_ratio"}
        x["trace_ratio"] = x["trace_fused"] / x["trace_pref"]
        if len(x["guidance"]) or variant.startswith(MATCHED):
            line = {"variant": variant, "seeds": len(x["trace_main"])} | returns_of(rows, variant)
            lines.append(line | {name: with_interval(form, iqm, x[c]) for c, (name, form) in EXPERTS.items()})
    return table(lines) if curves["guidance"].notna().any() else ""


def make_tables(evaluations: Frames, curves: Frames) -> dict[str, str]:
    """Every table by its name: headline, improvement, <task>-<sweep>, <task>-effects (of attribution), <task>-experts."""
    tables = {"improvement": improvement_table(evaluations)}
    if any(task in evaluations for task in PAPER):
        tables = {"headline": headline_table(evaluations)} | tables
    for task, rows in evaluations.items():
        found = sweeps({*rows["variant"]})
        tables |= {f"{task}-{sweep}": sweep_table(task, rows, variants) for sweep, variants in found.items()}
        if "attribution" in found:
            tables[f"{task}-effects"] = effects_table(rows)
        if task in curves:
            tables[f"{task}-experts"] = experts_table(rows, curves[task])
    return {key: text for key, text in tables.items() if text}
