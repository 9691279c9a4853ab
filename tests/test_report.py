"""benchmark/report.py and what it draws on: statistics against independent calculations, files against their runs."""

import csv
import importlib
import itertools
import json
import math
import os
import re
import shutil
import subprocess
import sys
from functools import partial

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT, command, environment, read_metrics
from scipy import stats

sys.path.insert(0, str(ROOT / "benchmark"))
report = importlib.import_module("report")
tables = importlib.import_module("tables")
figures = importlib.import_module("figures")
statistics = importlib.import_module("statistics_of_runs")

STEPS = 4096
TASK = f"CartPole-v1-{STEPS}-steps"
RUNS = {  # what a sweep would name CartPole-v1__<variant>__<seed>
    ("ppo-matched", 3): ("ppo_baseline",),
    ("prefpoe", 3): ("prefpoe_lunarlander", "--norm-obs", "--norm-reward"),
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with runs/CartPole-v1__<variant>__3 of PPO and of PrefPoE, both trained."""
    folder = tmp_path_factory.mktemp("trained")
    flags = (
        f"--env-id CartPole-v1 --total-timesteps {STEPS} --no-compile --eval-every 4 --eval-episodes 3 --num-steps 256"
    )
    flags = f"{flags} --num-minibatches 4 --update-epochs 1".split()
    processes = []
    for (variant, seed), (script, *own) in RUNS.items():
        named = ["--seed", seed, "--run-name", f"CartPole-v1__{variant}__{seed}"]
        started = command(script, *flags, *named, *own)
        processes.append(subprocess.Popen(started, cwd=folder, env=environment(), stderr=subprocess.PIPE, text=True))
    for process in processes:
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
    return folder


@pytest.fixture
def runs(trained, tmp_path):
    """Copies of the trained runs, to change."""
    shutil.copytree(trained / "runs", tmp_path / "runs")
    return tmp_path / "runs"


def copy(folder, name, **changes):
    """A run like that one with another name and seed, and with changes to its evaluation."""
    new = folder.parent / name
    shutil.copytree(folder, new)
    rewrite(new / "config.json", seed=int(name.split("__")[-1]))
    rewrite(new / "evaluation.json", **changes)
    return new


def rewrite(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def make(results, *folders, figures=False, **options):
    options = {"commit": "0123abc"} | options
    report.main(report.Args(folders=folders, results=results, figures=figures, **options))


def rows_of(results, kind, task=TASK):
    with open(results / f"{task}_{kind}.csv", newline="") as file:
        return list(csv.DictReader(file))


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def evaluation_rows(**runs_of):
    """A frame of evaluations for each variant (- written _) and the evaluations of its runs."""
    return pd.DataFrame(
        {
            "variant": variant.replace("_", "-"),
            "seed": seed,
            "evaluation": x,
            "training_return": x,
            "returns": f"{x};{x}",
        }
        for variant, evaluations in runs_of.items()
        for seed, x in enumerate(evaluations, 1)
    )


def write_metrics(folder, rows):
    with open(folder / "metrics.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


# Statistics


@pytest.mark.parametrize("n", range(1, 13))
def test_iqm_drops_the_lowest_and_the_highest_quarter_of_the_runs(n):
    scores = np.random.default_rng(n).normal(size=(5, n))
    kept = [sorted(row)[n // 4 : n - n // 4] for row in scores.tolist()]
    assert statistics.iqm(scores) == pytest.approx([sum(row) / len(row) for row in kept])
    # what rliable.metrics.aggregate_iqm computes from the runs of one task
    assert statistics.iqm(scores[0]) == stats.trim_mean(scores[0][:, None], proportiontocut=0.25, axis=None)


@pytest.mark.parametrize("n, m", [(1, 1), (3, 5), (10, 10)])
def test_improvement_counts_pairs_and_ties_half(n, m):
    rng = np.random.default_rng(n)
    x, y = rng.integers(0, 4, n).astype(float), rng.integers(0, 4, m).astype(float)
    wins = sum(1.0 if a > b else 0.5 if a == b else 0.0 for a in x for b in y)
    assert statistics.improvement(x, y) == pytest.approx(wins / (n * m))
    # what rliable.metrics.probability_of_improvement computes for one task
    assert statistics.improvement(x, y) == pytest.approx(stats.mannwhitneyu(x, y, alternative="greater")[0] / (n * m))


def test_a_profile_is_the_share_of_runs_above_tau_averaged_over_tasks():
    rng = np.random.default_rng(3)
    tasks = [rng.normal(size=n).round(1) for n in (3, 10, 5)]
    taus = np.array([-2.0, tasks[0][0], 0.0, 0.1, 0.5, 3.0])
    brute = [sum(sum(1 for x in runs if x > tau) / len(runs) for runs in tasks) / len(tasks) for tau in taus.tolist()]
    assert statistics.profile(taus, *tasks) == pytest.approx(brute)
    resamples = [rng.choice(runs, (4, len(runs))) for runs in tasks]
    each = [statistics.profile(taus, *(x[i] for x in resamples)) for i in range(4)]
    assert statistics.profile(taus, *resamples) == pytest.approx(np.transpose(each))


def test_the_band_of_a_profile_is_the_interval_of_each_share():
    samples, taus = (np.array([0.1, 0.4, 0.9]), np.array([0.2, 0.3])), np.array([0.15, 0.25, 0.5])
    for tau, low, high in zip(taus, *statistics.bootstrap(partial(statistics.profile, taus), *samples), strict=True):
        shares = [np.array(list(itertools.product((x > tau).tolist(), repeat=len(x)))).mean(-1) for x in samples]
        values = (shares[0][:, None] + shares[1]).ravel() / 2  # of all 27 * 4 resamples
        for bound, share in ((low, 0.025), (high, 0.975)):
            assert (values < bound - 1e-9).mean() - 0.006 < share < (values <= bound + 1e-9).mean() + 0.006


def test_improvement_over_several_tasks_is_the_mean_over_tasks_not_over_pairs():
    one = np.ones(2), np.zeros(2)
    other = np.zeros(9), np.ones(9)
    assert statistics.improvement(*one, *other) == 0.5
    assert statistics.improvement(*one, *one, *other) == pytest.approx(2 / 3)


def test_statistics_of_resamples_are_those_of_each_alone():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(4, 6)), rng.normal(size=(4, 3))
    assert statistics.improvement(x, y) == pytest.approx(
        [statistics.improvement(a, b) for a, b in zip(x, y, strict=True)]
    )


def test_bootstrap_is_the_percentile_interval_of_all_resamples():
    x, y = np.array([1.0, 2.0, 4.0, 8.0]), np.array([0.0, 3.0, 5.0])
    for statistic, samples in [(statistics.iqm, (x,)), (statistics.effect, (x, y)), (statistics.improvement, (x, y))]:
        resamples = itertools.product(*(itertools.product(sample, repeat=len(sample)) for sample in samples))
        values = np.array([statistic(*map(np.array, resample)) for resample in resamples])  # 256, or 256 * 27
        for bound, share in zip(statistics.bootstrap(statistic, *samples), (0.025, 0.975), strict=True):
            below, upto = (values < bound - 1e-9).mean(), (values <= bound + 1e-9).mean()
            assert below - 0.006 < share < upto + 0.006  # four standard errors of 10,000 resamples
    assert statistics.bootstrap(statistics.iqm, x[:1]) == (1.0, 1.0)


def test_bootstrap_gives_the_intervals_that_were_published():
    rng, x = np.random.default_rng(0), np.random.default_rng(1).gamma(2.0, size=12)
    y = x[:5] ** 2
    resamples = [rng.choice(sample, (10_000, len(sample))) for sample in (x, y)]
    theirs = np.percentile(statistics.effect(*resamples), (2.5, 97.5))
    assert statistics.bootstrap(statistics.effect, x, y) == pytest.approx(tuple(theirs), rel=1e-12)


def test_bootstrap_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(5)
    intervals = [statistics.bootstrap(statistics.iqm, rng.normal(3.0, 1.0, 25), resamples=500) for _ in range(400)]
    covered = np.mean([low <= 3.0 <= high for low, high in intervals])
    assert 0.88 < covered < 0.98  # a percentile interval of 25 runs is a little narrow


def test_each_sample_is_resampled_on_its_own():
    samples = np.full(5, 3.0), np.full(2, 1.0), np.full(3, 7.0)
    assert statistics.bootstrap(lambda *s: sum(x.mean(-1) for x in s), *samples) == (11.0, 11.0)


# Tables


def test_a_change_is_in_per_cent_only_from_positive_returns():
    assert tables.change(np.array([300.0]), np.array([200.0])) == "+50 %"
    assert tables.change(np.array([-50.0]), np.array([-150.0])) == "+100"
    assert tables.change(np.array([60.0, 60.0]), np.array([-1.0, 41.0])) == "+40 [+19, +61]"
    assert tables.change(np.array([]), np.array([200.0])) == "–"


def test_every_variant_has_its_place():
    parts = ["", "-logstd", "-squash", "-shared", "-logstd-squash", "-logstd-shared", "-squash-shared"]
    ladder = [f"{base}{part}" for base in ("ppo-cleanrl", "ppo") for part in parts]
    noise = ["prefpoe-noise-0.5", "prefpoe-noise-1", "prefpoe-noise-2", "prefpoe-noise-10"]
    varied = ["prefpoe-beta1-0.1", "prefpoe-beta1-0.4", "prefpoe-alpha-0.4", "prefpoe-w-pref-0.005"]
    varied += ["prefpoe-w-cons-0.02", "prefpoe-lambda-pref-0.5", "ppo-ent-coef--0.002", "ppo-ent-coef-0.01"]
    varied += ["ppo-matched-ent-coef--0.002", "ppo-matched-ent-coef-0.002", "ppo-matched-logstd--1.35"]
    main = ["ppo-cleanrl", "ppo", "ppo-matched", "prefpoe", "prefpoe-anneal"]
    fusion = ["prefpoe", "prefpoe-linear", "prefpoe-none", "ppo-matched"]
    ladder.insert(7, "ppo-cleanrl-logstd-squash-shared")
    bonus = ["ppo-matched", "ppo-matched-ent-coef-0.01", "ppo-matched-ent-coef-0.01-anneal", *main[3:]]
    schedule = ["prefpoe", "prefpoe-lambda-falling", "prefpoe-lambda-rising", "prefpoe-lambda-guided"]
    found = tables.sweeps(
        {*main, *ladder, *noise, *varied, *fusion, *bonus, *schedule, "prefpoe-modes-4", "sac", "mine"}
    )
    assert found.pop("reproduce") == main
    assert found.pop("attribution") == [*ladder, "ppo-matched", "prefpoe"]
    assert found.pop("fusion") == fusion
    assert found.pop("advantage-noise") == ["prefpoe", *noise]
    assert sorted(found.pop("sensitivity")) == sorted(["ppo", "ppo-matched", "prefpoe", bonus[1], *varied])
    assert found.pop("entropy-bonus") == bonus
    assert found.pop("lambda-schedule") == schedule
    assert found.pop("multimodal") == ["prefpoe", "prefpoe-modes-4"]
    assert found.pop("sac") == ["sac"]
    assert found == {"other": ["mine"]}
    assert list(tables.sweeps({"ppo", "prefpoe"})) == ["reproduce"]
    assert list(tables.sweeps({*main, bonus[1]})) == ["reproduce", "sensitivity"]
    assert tables.settings("ppo-ent-coef-", {"ppo", *varied}) == {
        -0.002: "ppo-ent-coef--0.002",
        0.0: "ppo",
        0.01: "ppo-ent-coef-0.01",
    }


def listed(sweep):
    """Task -> the variants that a sweep trains on it, in its order."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    argv = ["bash", sweep, "--list"]
    process = subprocess.run(argv, env=kept, capture_output=True, text=True, timeout=60, check=True)
    found = {}
    for line in process.stdout.splitlines():
        task, variant, _ = line.split()[0].split("__")
        found.setdefault(task, {})[variant] = None
    return {task: [*variants] for task, variants in found.items()}


def test_the_sweeps_and_the_tables_name_the_same_variants():
    scripts = [path for path in (ROOT / "benchmark").glob("*.sh") if "\nrun_sweep " in path.read_text()]
    names = set()
    for script in scripts:
        sweep = script.stem.replace("_", "-")
        for variants in listed(script).values():
            found = tables.sweeps({*variants})
            assert "other" not in found
            if sweep in found:
                # These have a column or a table of their own.
                others = {"ppo", "ppo-matched", *found.get("entropy-bonus", [])}
                assert {*variants} - {*found[sweep]} <= others
            names |= {*variants}
    assert {"reproduce", "attribution", "fusion", "sensitivity"} <= {script.stem for script in scripts}
    assert {*tables.REPRODUCE, *tables.ATTRIBUTION.values()} <= names
    for prefix, (default, *_) in tables.COEFFICIENTS.items():
        assert len(tables.settings(prefix, names)) >= 2
        assert default in figures.STYLE
    assert {*figures.STYLE} == {*tables.REPRODUCE, *tables.BONUS, *tables.SCHEDULES, *tables.SAC, figures.PUBLISHED}


def cells_of(table):
    """A Markdown table's rows, each by column."""
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    return [dict(zip(cells[0], line, strict=True)) for line in cells[2:]]


def test_tables_hold_what_the_rows_say():
    cheetah = evaluation_rows(ppo_cleanrl=[100], ppo_matched=[400, 400], prefpoe=[300, 500])
    lander = evaluation_rows(ppo_matched=[250, 150], prefpoe=[200, 220, 199, 260])
    made = tables.make_tables({"HalfCheetah-v4": cheetah, "LunarLander-v3": lander, "CartPole-v1": lander[:1]}, {})
    names = ["headline", "differences", "improvement", "cleanrl", "comparisons", "readme", "changes"]
    assert list(made) == [*names, "HalfCheetah-v4-reproduce", "LunarLander-v3-reproduce", "CartPole-v1-reproduce"]

    rows = cells_of(made["headline"])
    assert rows[0] == {
        "task": "HalfCheetah-v4",
        "return": "evaluation",
        "ppo-cleanrl": "100",
        "ppo-matched": "400 [400, 400]",
        "prefpoe": "400 [300, 500]",
        "seeds": "1–2",
    }
    tasks = "HalfCheetah-v4", "LunarLander-v3"  # CartPole-v1 has a single seed
    lines = [(task, m) for task in tasks for m in ("evaluation", "training return")]
    assert [(row["task"], row["return"]) for row in rows] == lines
    changes = cells_of(made["changes"])
    assert [(row["task"], row["return"]) for row in changes] == lines[:4]
    assert changes[0]["the paper"] == "1,276 → 5,375 (+321 %)"
    assert (changes[0]["ppo-matched vs ppo-cleanrl"], changes[0]["prefpoe vs ppo-cleanrl"]) == ("+300 %", "+300 %")
    assert changes[0]["prefpoe vs ppo-matched"] == "+0 % [-25 %, +25 %]"
    assert cells_of(made["readme"])[2] == {
        "task": "LunarLander-v3",
        "return": "evaluation",
        "CleanRL's PPO": "–",
        "matched PPO": "200 [150, 250]",
        "PrefPoE": rows[2]["prefpoe"],
        "PrefPoE annealed": "–",
        "seeds": "2–4",
    }
    assert "| prefpoe | 4 | 210 [" in made["LunarLander-v3-reproduce"]  # without 199 and 260
    assert "| 75 % [25 %, 100 %] |" in made["LunarLander-v3-reproduce"]
    assert "landed" not in made["HalfCheetah-v4-reproduce"]
    assert "| prefpoe | 2 of the paper | 0.56 [" in made["improvement"]  # 2 of 4 pairs, and 5 of 8


def test_differences_are_marked_by_whether_they_exclude_zero_and_own_intervals_are_apart():
    low, high = np.arange(10) * 10.0, np.arange(10) * 10.0 + 1000
    rows = evaluation_rows(
        ppo_cleanrl=low, ppo_matched=low + 1, prefpoe=low + 40, **{"ppo_matched_ent_coef_0.01": high}
    )
    made = tables.make_tables({"Ant-v4": rows, "Hopper-v4": rows}, {})
    (row, *_, other) = cells_of(made["differences"])
    means = {x: np.mean(rows[rows["variant"] == x]["evaluation"].sort_values()[2:-2]) for x in {*rows["variant"]}}
    bonus = "ppo-matched-ent-coef-0.01"
    assert row["ppo-matched − ppo-cleanrl"].startswith("+1 [-")
    assert row["ppo-matched − ppo-cleanrl"].endswith("]")
    assert row["prefpoe − ppo-cleanrl"].startswith(f"{means['prefpoe'] - means['ppo-cleanrl']:+.0f} [+")
    assert row["prefpoe − ppo-cleanrl"].endswith("] †")
    assert re.fullmatch(r"\*\*-960 \[-\d+, -\d+\]\*\*", row[f"prefpoe − {bonus}"])
    assert f"prefpoe-anneal − {bonus}-anneal" not in row
    assert other["task"] == "Hopper-v4"

    wide = evaluation_rows(prefpoe=low, prefpoe_none=high, prefpoe_linear=[7.0])
    row = cells_of(tables.make_tables({"Ant-v4": wide}, {})["fusion"])[0]
    assert row["prefpoe"][0] != "*"
    assert (row["prefpoe-none"][:2], row["prefpoe-none"][-2:]) == ("**", "**")
    assert row["prefpoe-linear"] == "7"


def test_own_intervals_are_apart_where_neither_holds_an_end_of_the_other():
    rng = np.random.default_rng(0)
    x = rng.normal(size=10)
    for shift in np.linspace(-4, 4, 41):
        ends = statistics.bootstrap(statistics.iqm, x)
        other = statistics.bootstrap(statistics.iqm, x + shift)
        inside = [ends[0] <= end <= ends[1] for end in other] + [other[0] <= end <= other[1] for end in ends]
        assert statistics.apart(x, x + shift) == (not any(inside))


@pytest.mark.parametrize("variant", [*tables.REPRODUCE, "prefpoe-none", "prefpoe-noise-2", "ppo-shared", "mine"])
def test_a_variant_alone_makes_tables(variant):
    rows = evaluation_rows(**{variant: [100, -200]})
    made = tables.make_tables({"HalfCheetah-v4": rows, "LunarLander-v3": rows}, {})
    assert "changes" in made
    for task in ("HalfCheetah-v4", "LunarLander-v3"):
        (text,) = (text for name, text in made.items() if name.startswith(f"{task}-"))
        assert (
            f"| {variant} | 2 | -50 [-200, 100] | -50 [-200, 100] |" + " – | – |" * (variant == tables.MATCHED) in text
        )
        assert ("P(better than" in text) == (variant == tables.MATCHED)


def test_effects_are_differences_between_the_right_variants():
    worth = {"bootstrap": 100, "logstd": 1000, "squash": 10, "shared": -5, "preference": 50}
    rng, truth = np.random.default_rng(0), {}
    for bits in itertools.product((False, True), repeat=4):
        parts = {part for part, present in zip(worth, bits, strict=False) if present}
        name = "ppo" if "bootstrap" in parts else "ppo-cleanrl"
        name += "".join(f"-{part}" for part in ("logstd", "squash", "shared") if part in parts)
        name = {"ppo-logstd-squash-shared": "ppo-matched"}.get(name, name)
        truth[name] = 2000 + sum(worth[part] for part in parts) + 800 * ({"logstd", "squash"} <= parts)
    truth["prefpoe"] = truth["ppo-matched"] + worth["preference"]
    runs = {name: x + rng.permutation([-10, 0, 10]) for name, x in truth.items()}
    lines = tables.make_tables({"Ant-v4": evaluation_rows(**runs)}, {})["Ant-v4-effects"].splitlines()
    cells = {tuple(line.strip("| ").split(" | ")[:2]): line.strip("| ").split(" | ")[2:] for line in lines[2:]}
    for name in {cell[0] for cell in cells}:
        assert cells[name, "evaluation"] == cells[name, "training return"]
    values = [[cell.split(" [")[0] for cell in cells[name, "evaluation"]] for name in tables.INGREDIENTS.values()]
    assert values == [
        ["+100", "+100", "+100"],
        ["+1,000", "+1,800", "+1,400"],
        ["+10", "+810", "+410"],
        ["-5", "-5", "-5"],
        ["–", "+50", "–"],
    ]
    # each difference is of two means of three runs, the grid's the mean of eight of them: intervals a third as wide
    bounds = [re.findall(r"[+-]\d+", cell)[1:] for cell in cells["shared backbone", "evaluation"]]
    one, _, grid = (int(high) - int(low) for low, high in bounds)
    assert grid == pytest.approx(one / math.sqrt(8), rel=0.4)

    del runs["ppo-squash"]
    lines = tables.make_tables({"Ant-v4": evaluation_rows(**runs)}, {})["Ant-v4-effects"].splitlines()
    assert [line.strip("| ").split(" | ")[4] for line in lines[2::2]] == ["–"] * 5
    assert "effects" not in "".join(tables.make_tables({"Ant-v4": evaluation_rows(ppo=[1], ppo_matched=[2])}, {}))


def test_experts_are_those_of_trainings_end_averaged_run_by_run():
    def curve(variant, seed, **of_step):
        steps = range(1, 101)
        columns = dict.fromkeys(report.AVERAGED, math.nan) | {
            name: [x(i) for i in steps] for name, x in of_step.items()
        }
        return [pd.DataFrame({"variant": variant, "seed": seed, "global_step": steps} | columns)]

    curves = curve("ppo", 1, trace_main=lambda step: 7) + curve("ppo-matched", 1, trace_main=lambda step: step)
    for seed, level in enumerate((0, 10, 20, 90), 1):  # the interquartile mean of four drops the lowest and the highest
        guidance = {"guidance": lambda step: math.nan if step == 95 else step / 1000}
        guidance |= {"trace_fused": lambda step: 2 * step, "trace_pref": lambda step, seed=seed: 2 * step * 4**seed}
        curves += curve("prefpoe", seed, trace_main=lambda step, level=level: level + step * (step > 90), **guidance)
    rows, all_curves = evaluation_rows(ppo=[1], prefpoe=[3]), pd.concat(curves)
    lines = tables.make_tables({"Ant-v4": rows}, {"Ant-v4": all_curves})["Ant-v4-experts"].splitlines()
    matched, prefpoe = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:])
    assert matched == ["ppo-matched", "1", "–", "–", "95.50", *["–"] * 4]
    values = ["3.00", "3.00", "110.50", "7640.00", "191.00", "0.04", "0.096"]
    assert [cell.split(" [")[0] for cell in prefpoe] == ["prefpoe", "4", *values]
    made = tables.make_tables({"Ant-v4": evaluation_rows(ppo=[1])}, {"Ant-v4": pd.concat(curves[:2])})
    assert "Ant-v4-experts" not in made


def test_the_headline_is_of_every_task_of_the_usual_length_the_papers_first():
    one = evaluation_rows(**{"ppo_matched_ent_coef_0.01_anneal": [0.25, 0.75]})
    names = ["Ant-v4", "FrozenLake-v1", "HalfCheetah-v4", "long-Ant-v4-2000000-steps", "short-Hopper-v4"]
    rows = cells_of(tables.make_tables(dict.fromkeys(names, one), {})["headline"])
    assert [row["task"] for row in rows[::2]] == ["HalfCheetah-v4", "Ant-v4", "FrozenLake-v1"]
    shown = {"return": "evaluation", tables.ENT_COEF_ANNEAL: "0.50 [0.25, 0.75]", "seeds": "2"}
    assert rows[-2] == {"task": "FrozenLake-v1"} | shown


def test_runs_of_another_length_have_tables_of_their_own():
    usual = evaluation_rows(ppo_matched=[1, 3], prefpoe=[2, 4])
    longer = dict(
        ppo_cleanrl=[100, 100], ppo_matched=[400, 420], prefpoe=[500, 500], prefpoe_anneal=[600, 600], ppo=[7]
    )
    longer = evaluation_rows(**longer, **{"ppo_matched_ent_coef_0.01_anneal": [640, 640]})
    made = tables.make_tables({"Ant-v4": usual, "long-Ant-v4-2000000-steps": longer}, {})
    assert cells_of(made["length"])[0] == {
        "task": "long-Ant-v4-2000000-steps",
        "return": "evaluation",
        "ppo-cleanrl": "100 [100, 100]",
        "ppo-matched": "410 [400, 420]",
        tables.ENT_COEF_ANNEAL: "640 [640, 640]",
        "prefpoe": "500 [500, 500]",
        "prefpoe-anneal": "600 [600, 600]",
        "seeds": "2",
    }
    assert cells_of(made["length-differences"])[0] == {
        "task": "long-Ant-v4-2000000-steps",
        "return": "evaluation",
        "ppo-matched − ppo-cleanrl": "**+310 [+300, +320]**",
        "prefpoe − ppo-cleanrl": "**+400 [+400, +400]**",
        "prefpoe − ppo-matched": "**+90 [+80, +100]**",
        "prefpoe-anneal − ppo-matched": "**+190 [+180, +200]**",
        f"prefpoe-anneal − {tables.ENT_COEF_ANNEAL}": "**-40 [-40, -40]**",
        f"{tables.ENT_COEF_ANNEAL} − ppo-matched": "**+230 [+220, +240]**",
    }
    changes = cells_of(made["changes"])
    assert [row["task"] for row in changes] == ["Ant-v4"] * 2 + ["long-Ant-v4-2000000-steps"] * 2
    assert [row["the paper"] for row in changes] == ["+69 %"] * 4
    assert changes[2]["prefpoe vs ppo-cleanrl"] == "+400 % [+400 %, +400 %]"


def test_the_baseline_stands_beside_what_cleanrl_publishes_in_its_own_statistic():
    """Mean ± std over seeds, training return; a task that has neither a published figure nor the exact variant is out."""
    walker = evaluation_rows(ppo_cleanrl=[1000, 3000, 2000, 2000], ppo_cleanrl_exact=[9000, 9000], ppo=[1])
    walker["training_return"] += 10
    frames = {
        "Walker2d-v4": walker,
        "Hopper-v4": evaluation_rows(ppo_cleanrl=[7, 9]),
        "Ant-v4": evaluation_rows(ppo=[1]),
    }
    frames |= {"BipedalWalker-v3": evaluation_rows(ppo_cleanrl=[7, 9])}
    rows = cells_of(tables.make_tables(frames, {})["cleanrl"])
    assert [(row["task"], row["CleanRL publishes"]) for row in rows] == [
        ("Hopper-v4", "–"),
        ("Hopper-v4", "2,383 ± 272"),
        ("Walker2d-v4", "–"),
        ("Walker2d-v4", "2,288 ± 572"),
    ]
    assert rows[3] == {
        "task": "Walker2d-v4",
        "return": "training return",
        "CleanRL publishes": "2,288 ± 572",
        "ppo-cleanrl, likewise": f"2,010 ± {np.std([1000, 3000, 2000, 2000]):,.0f}",
        "ppo-cleanrl": "2,010 [1,010, 3,010]",
        "ppo-cleanrl-exact": "**9,010 [9,010, 9,010]**",
        "seeds": "2–4",
    }
    assert (rows[1]["ppo-cleanrl-exact"], rows[1]["seeds"]) == ("–", "2")


def test_tables_over_tasks_leave_out_tasks_and_variants_that_there_are_none_of():
    cheetah = evaluation_rows(ppo_matched=[400, 400], prefpoe=[300, 500, 400], prefpoe_none=[100])
    lander = evaluation_rows(ppo_matched=[250, 150], prefpoe=[200, 220])
    made = tables.make_tables({"HalfCheetah-v4": cheetah, "LunarLander-v3": lander, "long-Hopper-v4": cheetah}, {})
    assert "advantages" not in made
    rows = cells_of(made["fusion"])
    assert [*rows[0]] == ["task", "return", "prefpoe", "prefpoe-none", "ppo-matched", "seeds"]
    assert [row["task"] for row in rows] == ["HalfCheetah-v4"] * 2
    assert (rows[0]["prefpoe-none"], rows[0]["seeds"]) == ("100", "1–3")


@pytest.mark.parametrize(
    "variant, ratio",
    {"prefpoe": 0.9, "prefpoe-beta1-0": 0.9, "prefpoe-alpha-0.4": 0.8, "prefpoe-w-pref-0.2": 0.6}.items(),
)
def test_the_ratio_at_rest_is_that_of_the_variants_own_coefficients(variant, ratio):
    assert tables.ratio_at_rest(variant) == pytest.approx(ratio)


def test_rest_compares_the_acting_policys_variance_with_the_preferences():
    nan = math.nan
    variances = {"ppo-matched": (0.1, nan, nan), "prefpoe-w-cons-0.02": (1.0, 0.8, 0.4)}
    curves = pd.DataFrame(
        dict.fromkeys(report.AVERAGED, nan)
        | {"variant": name, "seed": 1, "global_step": 1000}
        | dict(zip(("trace_main", "trace_pref", "trace_fused"), x, strict=True))
        for name, x in variances.items()
    )
    rows = evaluation_rows(ppo_matched=[10], prefpoe_w_cons_0=[1]).replace("prefpoe-w-cons-0", "prefpoe-w-cons-0.02")
    made = cells_of(tables.make_tables({"Ant-v4": rows}, {"Ant-v4": curves})["rest"])
    assert [[*row.values()][1:6] for row in made] == [
        ["ppo-matched", "1", "–", "–", "0.10"],
        ["prefpoe-w-cons-0.02", "1", "0.50", "0.50", "0.40"],
    ]


def flat_curves(**traces_of):
    """Curves of two seeds, constant over training: by variant (- written _) tr Sigma of the main expert, of the preference
    and of the fused policy, the second seed's twice the first's."""
    columns = ("trace_main", "trace_pref", "trace_fused")
    return pd.DataFrame(
        dict.fromkeys(report.AVERAGED, 1.0)
        | {"variant": variant.replace("_", "-"), "seed": seed, "global_step": step, "guidance": math.nan}
        | {name: seed * x for name, x in zip(columns, traces, strict=True)}
        for variant, traces in traces_of.items()
        for seed in (1, 2)
        for step in (100, 950, 1000)
    )


def test_widths_are_those_of_the_policy_that_acts_and_of_the_resting_place():
    nan, bonus = math.nan, "ppo_matched_ent_coef_0.01"
    curves = flat_curves(ppo_matched=(0.2, nan, nan), prefpoe=(8.0, 2.0, 1.6), **{bonus: (0.4, nan, nan)})
    other = flat_curves(ppo_matched=(0.2, nan, nan), prefpoe=(8.0, 2.0, 1.6))
    frames = {"Walker2d-v4": curves, "LunarLander-v3": curves, "Ant-v4": other, "long-Ant-v4": curves}
    lander, walker = cells_of(tables.make_tables({"Ant-v4": evaluation_rows(ppo=[1])}, frames)["entropy-bonus"])
    assert walker == {
        "task": "Walker2d-v4",
        "ppo-matched": "0.30 [0.20, 0.40]",
        tables.ENT_COEF: "0.60 [0.40, 0.80]",
        tables.ENT_COEF_ANNEAL: "–",
        "prefpoe": "2.40 [1.60, 3.20]",
        "prefpoe-anneal": "–",
        "prefpoe: 0.9 tr Σ_p": "2.70 [1.80, 3.60]",
        "prefpoe-anneal: 0.9 tr Σ_p": "–",
        "seeds": "2",
    }
    assert lander == walker | {"task": "LunarLander-v3", "prefpoe: 0.9 tr Σ_p": "–"}

    figure = figures.make_figures({}, frames)["entropy-bonus"]()
    drawn = [{line.get_label(): line.get_ydata()[-1] for line in axis.lines} for axis in figure.axes]
    assert [axis.get_title() for axis in figure.axes] == ["Walker2d-v4", "LunarLander-v3", *[""] * 4]
    acting = {"ppo-matched": 0.3, tables.ENT_COEF: 0.6, "prefpoe": 2.4}
    assert drawn[:4] == [dict.fromkeys(acting, 1.0)] * 4
    assert drawn[4:] == [pytest.approx(acting | {figures.REST: 2.7}), pytest.approx(acting)]


def test_the_guidance_table_is_in_the_order_of_beta_1_with_the_default_among_them():
    curves = flat_curves(prefpoe_beta1_4=(9, 3, 2.5), prefpoe=(9, 2, 1.5), prefpoe_beta1_0=(9, 2, 0.5))
    curves["guidance"] = curves["variant"].map({"prefpoe-beta1-4": 0.25, "prefpoe": 0.02, "prefpoe-beta1-0": 0.0})
    rows = evaluation_rows(prefpoe_beta1_4=[30], prefpoe=[20, 20], prefpoe_beta1_0=[10], ppo_matched=[5])
    frames = {"Walker2d-v4": rows, "long-Ant-v4": rows, "Ant-v4": evaluation_rows(prefpoe=[1])}
    made = cells_of(tables.make_tables(frames, dict.fromkeys(frames, curves))["beta1"])
    assert [[cell.split(" [")[0] for cell in row.values()] for row in made] == [
        ["Walker2d-v4", "0", "prefpoe-beta1-0", "1", "10", "10", "0.75", "0.000"],
        ["Walker2d-v4", "0.2 (default)", "prefpoe", "2", "20", "20", "2.25", "0.020"],
        ["Walker2d-v4", "4", "prefpoe-beta1-4", "1", "30", "30", "3.75", "0.250"],
    ]


def test_schedules_are_compared_on_the_tasks_that_have_one():
    frames = {
        "Walker2d-v4": evaluation_rows(prefpoe=[20, 20], prefpoe_lambda_rising=[10], ppo=[3]),
        "HalfCheetah-v4": evaluation_rows(prefpoe=[9]),
        "long-Ant-v4": evaluation_rows(prefpoe=[20, 20], prefpoe_lambda_rising=[10]),
    }
    curves = flat_curves(prefpoe=(9, 2, 1.5), prefpoe_lambda_rising=(9, 2, 1.5), ppo=(9, 2, 1.5))
    curves["episodic_return"] = 7.0 * curves["seed"] * (curves["variant"] == "prefpoe-lambda-rising")
    assert cells_of(tables.make_tables(frames, {})["schedules"])[0] == {
        "task": "Walker2d-v4",
        "return": "evaluation",
        "prefpoe": "20 [20, 20]",
        "prefpoe-lambda-rising": "10",
        "seeds": "1–2",
    }
    figure = figures.make_figures({}, {"Walker2d-v4": curves, "long-Ant-v4": curves})["schedules"]()
    evaluation, training = figure.axes
    for axis, rising in ((evaluation, 1.0), (training, 10.5)):
        drawn = {line.get_label(): line.get_ydata()[-1] for line in axis.lines}
        assert drawn == {"prefpoe": 1.0 if rising == 1.0 else 0.0, "prefpoe-lambda-rising": rising}


def test_sac_and_several_modes_have_tables_of_their_own_tasks():
    frames = {
        "sac-Ant-v4-30000-steps": evaluation_rows(sac=[20], prefpoe_sac_own=[30, 40]),
        "HalfCheetah-v4": evaluation_rows(prefpoe=[90, 90], prefpoe_modes_4=[50, 70], ppo=[3]),
        "Walker2d-v4": evaluation_rows(prefpoe=[9, 9]),
    }
    made = tables.make_tables(frames, {})
    assert cells_of(made["sac"])[0] == {
        "task": "sac-Ant-v4-30000-steps",
        "return": "evaluation",
        "sac": "20",
        "prefpoe-sac-own": "35 [30, 40]",
        "seeds": "1–2",
    }
    rows = cells_of(made["modes"])
    assert [(row["task"], row["prefpoe"], row["prefpoe-modes-4"]) for row in rows] == [
        ("HalfCheetah-v4", "90 [90, 90]", "**60 [50, 70]**")
    ] * 2
    curves = flat_curves(sac=(9, 2, 1.5), prefpoe_sac=(9, 2, 1.5))
    figure = figures.make_figures({}, {"sac-Ant-v4-30000-steps": curves, "Ant-v4": curves})["sac"]()
    assert [axis.get_title() for axis in figure.axes] == ["Ant-v4", ""]
    assert {line.get_label() for line in figure.axes[0].lines} == {"sac", "prefpoe-sac"}


def test_the_picture_of_sac_has_the_longest_runs_beside_what_cleanrl_has_published():
    short, long = flat_curves(sac=(9, 2, 1.5), prefpoe_sac=(9, 2, 1.5)), flat_curves(sac=(9, 2, 1.5))
    long = long.assign(global_step=long["global_step"] * 20, episodic_return=7.0)
    frames = {"sac-HalfCheetah-v4-20000-steps": long, "sac-HalfCheetah-v4-1000-steps": short}
    training, _ = figures.make_figures({}, frames)["sac"]().axes
    drawn = {line.get_label(): [*zip(*line.get_data(), strict=True)] for line in training.lines}
    assert drawn["sac"] == [(2, 7), (19, 7), (20, 7)] and drawn["prefpoe-sac"] == [(0.1, 1), (0.95, 1), (1, 1)]
    assert drawn[figures.PUBLISHED] == [(10, -177), (20, 462)]  # thousands of steps, as read off the picture


def test_tasks_of_unequal_length_are_drawn_on_one_axis_in_one_unit():
    curves = flat_curves(sac=(9, 2, 1.5))
    long = curves.assign(global_step=curves["global_step"] * 300)
    ant, cheetah, *_ = figures.make_figures({}, {"sac-Ant-v4": curves, "sac-HalfCheetah-v4": long})["sac"]().axes
    assert (ant.get_title(), cheetah.get_title()) == ("Ant-v4", "HalfCheetah-v4")
    assert [line.get_xdata().max() for axis in (ant, cheetah) for line in axis.lines if line.get_label() == "sac"] == [
        0.001,
        0.3,
    ]


def test_the_tables_and_the_sweeps_agree_on_which_tasks_have_continuous_actions():
    argv = ["bash", ROOT / "benchmark" / "breadth.sh", "--list"]
    lines = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True).stdout.splitlines()
    scripts = {words[0].split("__")[0]: words[1] for line in lines if "__prefpoe__" in (words := line.split())[0]}
    assert len(scripts) == 6
    for task, script in scripts.items():
        assert tables.continuous(task) == (script == "prefpoe_continuous.py")
    assert not tables.continuous("LunarLander-v3")


def test_improvement_is_averaged_over_the_papers_tasks_and_over_all_unprefixed_ones():
    better, worse = (
        evaluation_rows(prefpoe=[3, 3], ppo_matched=[2, 1]),
        evaluation_rows(prefpoe=[1, 0], ppo_matched=[2, 2]),
    )
    others = {"Hopper-v4": worse, "Walker2d-v4": worse, "short-Ant-v4": worse, "Hopper-v4-4096-steps": worse}
    lines = tables.make_tables({"Ant-v4": better} | others, {})["improvement"].splitlines()
    assert len(lines) == 4
    assert lines[2].startswith("| prefpoe | 1 of the paper | 1.00 [")
    assert lines[3].startswith("| prefpoe | 3 in all | 0.33")
    lake = tables.make_tables({"FrozenLake-v1": evaluation_rows(ppo=[1 / 3])}, {})
    assert "| 0.33 |" in lake["FrozenLake-v1-reproduce"]


def test_comparisons_are_by_task_and_averaged_over_those_that_have_both():
    bonus, falling = "ppo_matched_ent_coef_0.01", "ppo_matched_ent_coef_0.01_anneal"
    ant = evaluation_rows(ppo_matched=[2, 4], prefpoe=[1, 3, 5], prefpoe_anneal=[3], **{bonus: [0, 1], falling: [3]})
    hopper = evaluation_rows(ppo_matched=[9, 9], prefpoe=[8, 10])
    lake, once = evaluation_rows(ppo_cleanrl=[1], prefpoe=[1]), evaluation_rows(ppo_matched=[9], prefpoe=[10])
    frames = {"Hopper-v4": hopper, "Walker2d-v4": once, "Ant-v4": ant, "long-Ant-v4": ant, "FrozenLake-v1": lake}
    made = tables.make_tables(frames, {})
    rows = cells_of(made["comparisons"])
    over = (
        "P(prefpoe > ppo-matched)",
        f"P(prefpoe > {tables.ENT_COEF})",
        f"P(prefpoe-anneal > {tables.ENT_COEF_ANNEAL})",
    )
    means = "**mean over the paper's tasks**", "**mean over all tasks**"
    assert [row["task"] for row in rows[::2]] == ["Ant-v4", "Hopper-v4", *means]
    assert [[row[name].split(" [")[0].split(",")[0] for name in over] for row in rows[::2]] == [
        ["0.50", "0.92", "0.50"],  # 3 of 6 pairs; 5 and a half of 6; a tie
        ["0.50", "–", "–"],
        ["0.50", "0.92", "–"],
        ["0.50", "0.92", "–"],  # Walker2d-v4 has a single seed
    ]
    assert [rows[-3][name].split(", ")[-1] for name in over] == ["1 task", "1 task", "–"]
    assert [rows[-1][name].split(", ")[-1] for name in over] == ["2 tasks", "1 task", "–"]
    assert [row["seeds"] for row in rows[::2]] == ["1–3", "2", "", ""]
    two = next(
        row for row in cells_of(made["improvement"]) if row["tasks"] == "2 in all"
    )  # the same in the other table
    assert rows[-2][over[0]] == two["P(better than ppo-matched), evaluation"] + ", 2 tasks"

    (axis, *_) = figures.draw_comparisons(frames).axes
    points = {line.get_label(): line.get_xydata().tolist() for line in axis.lines if line.get_marker() == "D"}
    assert [*points] == ["prefpoe, evaluation", "prefpoe, training return"]
    assert [[x, round(y)] for x, y in points["prefpoe, evaluation"]] == [[0.5, 0], [0.5, 1], [0.5, 2]]
    labels = ["Ant-v4", "Hopper-v4", "mean over tasks"]
    assert [text.get_text() for text in axis.get_yticklabels()] == labels


def test_normalised_returns_are_0_at_published_ppo_and_1_at_the_best_variant():
    two = {"ppo_matched": [40] * 2, "prefpoe_anneal": [20] * 2}
    ant = evaluation_rows(ppo_cleanrl=[10, 30], prefpoe=[60, 80, 100], **two)
    pole = evaluation_rows(**{name: [500] * 2 for name in ("ppo_cleanrl", "prefpoe", *two)})
    hopper = evaluation_rows(ppo_cleanrl=[5] * 2, ppo_matched=[10] * 2, prefpoe=[7] * 2, prefpoe_anneal=[0] * 2)
    extra = evaluation_rows(**{"ppo_matched_ent_coef_0.01": [999] * 2})  # on one task of three, so not in the profile
    lacking = hopper[1:]  # has one run of ppo-cleanrl, so is not either
    frames = {"Ant-v4": pd.concat([ant, extra]), "CartPole-v1": pole, "Hopper-v4": hopper, "Walker2d-v4": lacking}
    found = tables.normalised(frames, "evaluation")
    assert {variant: [x.tolist() for x in samples] for variant, samples in found.items()} == {
        "ppo-cleanrl": [pytest.approx([-1 / 6, 1 / 6]), [0, 0]],
        "ppo-matched": [pytest.approx([1 / 3] * 2), [1, 1]],
        "prefpoe": [pytest.approx([2 / 3, 1, 4 / 3]), pytest.approx([0.4] * 2)],
        "prefpoe-anneal": [[0, 0], [-1, -1]],
    }
    axis = figures.draw_profile(frames).axes[0]
    line = next(line for line in axis.lines if line.get_label() == "prefpoe")
    for tau, share in line.get_xydata().tolist():
        ant_share = sum(x > tau for x in (2 / 3, 1, 4 / 3)) / 3
        assert share == pytest.approx((ant_share + (0.4 > tau)) / 2) or min(abs(tau - 1), abs(tau - 0.4)) < 1e-9
    assert axis.get_title() == "evaluation, 2 tasks"
    rows = cells_of(tables.make_tables(frames, {})["profile"])
    assert [[*row.values()][2:] for row in rows[::2]] == [
        ["20", "80", "prefpoe", "2–3"],
        ["500", "none: left out", "–", "2"],
        ["5", "10", "ppo-matched", "2"],
    ]


def test_blocks_are_filled_in_and_unknown_ones_reported(tmp_path, capsys):
    path = tmp_path / "page.md"
    path.write_text("a\n<!-- report: one -->old\n\nlines<!-- /report -->\nb\n<!-- report: two --><!-- /report -->\n")
    filled = report.fill_in(path, {"one": "1", "two": "2"})
    assert filled == (
        "a\n<!-- report: one -->\n\n1\n\n<!-- /report -->\nb\n<!-- report: two -->\n\n2\n\n<!-- /report -->\n"
    )
    path.write_text(filled)
    assert report.fill_in(path, {"one": "1", "two": "2"}) == filled
    path.write_text("<!-- report: schedules --><!-- /report --><!-- report: profile --><!-- /report -->")
    assert "schedules -->\n\n*No such runs yet.*\n\n<!--" in report.fill_in(path, {"profile": "1"})
    assert "\n\n1\n\n![Performance profiles of both returns](profile.png)\n\n<!--" in report.fill_in(
        path, {"profile": "1"}, ["profile"]
    )
    path.write_text(filled)
    with pytest.raises(SystemExit):
        report.fill_in(path, {"one": "1"})
    assert "page.md: there is no table two; there are: one" in capsys.readouterr().err


def test_update_readme_fills_both_pages(runs, tmp_path, monkeypatch):
    pages = tmp_path / "one.md", tmp_path / "results" / "two.md"
    (tmp_path / "results").mkdir()
    for page in pages:
        page.write_text(f"<!-- report: {TASK}-reproduce --><!-- /report -->")
    monkeypatch.setattr(report, "FILLED", pages)
    make(tmp_path / "results", *runs.iterdir())
    assert all("prefpoe" not in page.read_text() for page in pages)
    make(tmp_path / "results", update_readme=True)
    assert all("| prefpoe | 1 |" in page.read_text() for page in pages)
    filled = [page.read_text() for page in pages]
    with pytest.raises(SystemExit):  # of other results
        make(tmp_path / "others", *runs.iterdir(), update_readme=True)
    assert filled == [page.read_text() for page in pages]


def refused(capsys, *folders, **options):
    """What report.py says as it refuses these runs."""
    with pytest.raises(SystemExit) as caught:
        make(*folders, **options)
    error = capsys.readouterr().err
    assert caught.value.code == 2
    return error.splitlines()[-1]


def test_a_run_named_after_another_task_is_not_taken_in(runs, tmp_path, capsys):
    renamed = shutil.copytree(runs / "CartPole-v1__prefpoe__3", tmp_path / "LunarLander-v3__prefpoe__3")
    refused(capsys, tmp_path / "results", renamed)
    assert not (tmp_path / "results").exists()


def test_a_row_says_the_commits_and_the_flags_of_its_run(runs, tmp_path, capsys):
    """As the sweep wrote them, or as --commit and the run's own arguments say."""
    matched, prefpoe = runs / "CartPole-v1__ppo-matched__3", runs / "CartPole-v1__prefpoe__3"
    assert prefpoe.name in refused(capsys, tmp_path / "results", prefpoe, commit="")
    make(tmp_path / "own", prefpoe)
    own = rows_of(tmp_path / "own", "evaluations")[0]
    flags = "--norm-obs --norm-reward --num-minibatches 4 --num-steps 256 --update-epochs 1"
    assert (own["commit"], own["args"]) == ("0123abc", f"prefpoe_lunarlander.py --eval-every 4 {flags}")

    told = "ppo_baseline.py --squash_mean --logstd-init -1 --env-id CartPole-v1 --seed 3 --no-compile --w-cons=0.1"
    matched.with_name(f"{matched.name}.args").write_text(f"{told} --exp-name 'a  b' --logstd-init -1.35\n")
    matched.with_name(f"{matched.name}.commit").write_text("0000000\n1111111-dirty\n")
    make(tmp_path / "sweep", matched)
    swept = rows_of(tmp_path / "sweep", "evaluations")[0]
    assert swept["commit"] == "0000000 1111111-dirty"
    assert swept["args"] == "ppo_baseline.py --logstd-init -1.35 --squash-mean --w-cons 0.1"

    rewrite(prefpoe / "config.json", exp_name="nowhere")
    assert "nowhere.py" in refused(capsys, tmp_path / "results", prefpoe)


def test_runs_of_one_variant_have_the_same_flags(runs, tmp_path, capsys):
    run, results = runs / "CartPole-v1__prefpoe__3", tmp_path / "results"
    other = copy(run, "CartPole-v1__prefpoe__4")
    rewrite(other / "config.json", beta1=4.0)
    make(results, run)
    before = contents(results)
    said = refused(capsys, results, other)
    assert "prefpoe" in said and "--beta1 4" in said
    assert contents(results) == before
    rewrite(run / "config.json", beta1=4.0)
    make(results, run, other)  # once none has the old ones
    assert run.name.replace("v1", f"v1-{STEPS}-steps") in capsys.readouterr().err
    make(results, run, other)  # the same rows
    assert run.name.replace("v1", f"v1-{STEPS}-steps") not in capsys.readouterr().err

    path = results / f"{TASK}_evaluations.csv"
    pd.read_csv(path).assign(args="").to_csv(path, index=False)  # as an old row may be
    make(results, copy(run, "CartPole-v1__prefpoe__5"))
    assert [bool(row["args"]) for row in rows_of(results, "evaluations")] == [False, False, True]


def test_a_row_is_of_a_run_that_has_trained_as_far_as_its_evaluation_says(runs, tmp_path, capsys):
    run = runs / "CartPole-v1__prefpoe__3"
    write_metrics(run, read_metrics(run)[:-1])
    assert str(STEPS) in refused(capsys, tmp_path / "results", run)


def test_every_page_says_what_the_committed_results_say():
    results = ROOT / "benchmark" / "results"
    evaluations, curves = (report.read_results(results, kind) for kind in ("evaluations", "curves"))
    made, drawn = tables.make_tables(evaluations, curves), figures.make_figures(evaluations, curves)
    marked = {path for path in ROOT.glob("**/*.md") if "<!-- report: " in path.read_text(encoding="utf-8")}
    assert {*report.FILLED} == {path for path in marked if ".venv" not in path.parts}
    for path in report.FILLED:
        assert report.fill_in(path, made, drawn) == path.read_text(encoding="utf-8")
    page = report.page(evaluations, made, drawn)
    assert (results / "tables.md").read_text(encoding="utf-8") == page


def test_the_committed_csv_files_are_written_again_to_the_byte(tmp_path):
    results = ROOT / "benchmark" / "results"
    for kind in ("evaluations", "curves"):
        for task, rows in report.read_results(results, kind, text=True).items():
            report.write_rows(tmp_path, task, kind, rows.sample(frac=1, random_state=1))
    assert contents(tmp_path) == {path.name: path.read_bytes() for path in results.glob("*_*.csv")}


# From runs to files


def test_rows_hold_the_numbers_of_the_runs(runs, tmp_path):
    make(tmp_path / "results", *runs.iterdir())
    evaluations = rows_of(tmp_path / "results", "evaluations")
    curves = rows_of(tmp_path / "results", "curves")
    assert [(row["variant"], row["seed"]) for row in evaluations] == [("ppo-matched", "3"), ("prefpoe", "3")]
    for row in evaluations:
        folder = runs / f"CartPole-v1__{row['variant']}__3"
        evaluation, metrics = json.loads((folder / "evaluation.json").read_text()), read_metrics(folder)
        assert [float(x) for x in row["returns"].split(";")] == evaluation["returns"]
        assert float(row["evaluation"]) == evaluation["mean"]
        assert float(row["evaluation_std"]) == evaluation["std"]
        assert int(row["global_step"]) == evaluation["global_step"] == STEPS
        assert float(row["training_return"]) == pytest.approx(float(metrics[-1]["episodic_return"]), rel=1e-4)
        assert float(row["SPS"]) == pytest.approx(np.median([float(x["SPS"]) for x in metrics]), rel=1e-4)
        versions = json.loads((folder / "config.json").read_text())["versions"]
        assert [row[name] for name in ("torch", "gymnasium")] == [versions[name] for name in ("torch", "gymnasium")]
        curve = [x for x in curves if x["variant"] == row["variant"]]
        for ours, theirs in zip(curve, metrics, strict=True):  # 16 iterations: a row each
            for name in report.AVERAGED:
                expected = float(theirs.get(name, "nan"))
                assert (
                    ours[name] == "" if np.isnan(expected) else float(ours[name]) == pytest.approx(expected, rel=1e-4)
                )
    assert all(x["guidance"] == "" for x in curves if x["variant"] == "ppo-matched")
    assert all(x["guidance"] != "" for x in curves if x["variant"] == "prefpoe")


def test_long_runs_are_averaged_over_bins_of_iterations():
    rng = np.random.default_rng(0)
    returns = np.where(rng.random(488) < 0.3, np.nan, rng.normal(1000, 300, 488))
    returns[20:30] = np.nan
    rows = report.thinned(pd.DataFrame({"global_step": 2048 * np.arange(1, 489), "episodic_return": returns}), 10)
    assert len(rows) == 49
    for i, row in rows.iterrows():
        part = returns[10 * i : 10 * i + 10]
        assert int(row["global_step"]) == 2048 * (10 * i + (len(part) + 1) / 2)
        if i == 2:
            assert math.isnan(row["episodic_return"])
        else:
            assert float(row["episodic_return"]) == pytest.approx(np.nanmean(part), rel=1e-4)


def test_a_run_taken_in_again_replaces_its_rows_and_nothing_else(runs, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    prefpoe, matched = runs / "CartPole-v1__prefpoe__3", runs / "CartPole-v1__ppo-matched__3"
    folders = prefpoe, matched, copy(prefpoe, "CartPole-v1__prefpoe__11", mean=11.0)
    make(first, *folders, figures=True)
    before = contents(first)
    make(first, *folders)
    assert contents(first) == before
    make(first)
    assert contents(first) == before
    make(second, folders[2])
    make(second, *folders[1::-1], figures=True)  # in other steps and another order
    assert contents(second) == before

    rewrite(prefpoe / "evaluation.json", mean=123.5)
    make(first, prefpoe)
    old, new = (
        list(csv.DictReader(text.decode().splitlines()))
        for text in (before[f"{TASK}_evaluations.csv"], (first / f"{TASK}_evaluations.csv").read_bytes())
    )
    assert [(row["variant"], row["seed"]) for row in new] == [("ppo-matched", "3"), ("prefpoe", "3"), ("prefpoe", "11")]
    assert [row["evaluation"] for row in new] == [old[0]["evaluation"], "123.5", "11.0"]
    assert (first / f"{TASK}_curves.csv").read_bytes() == before[f"{TASK}_curves.csv"]


def test_runs_of_other_lengths_and_prefixes_do_not_mix(runs, tmp_path):
    usual = copy(runs / "CartPole-v1__prefpoe__3", "CartPole-v1__prefpoe__4")
    rewrite(usual / "config.json", total_timesteps=1_000_000)
    rows = itertools.islice(itertools.cycle(read_metrics(usual)), 1_000_000 // 256)
    rewrite(usual / "evaluation.json", global_step=1_000_000 // 256 * 256)
    write_metrics(usual, [row | {"global_step": 256 * i} for i, row in enumerate(rows, 1)])
    copy(usual, "short-CartPole-v1__prefpoe__5")
    make(tmp_path / "results", *runs.iterdir())
    seeds = {
        task: [row["seed"] for row in rows_of(tmp_path / "results", "evaluations", task)]
        for task in (TASK, "CartPole-v1", "short-CartPole-v1")
    }
    assert seeds == {TASK: ["3", "3"], "CartPole-v1": ["4"], "short-CartPole-v1": ["5"]}


def test_figures_are_small_pngs(runs, tmp_path):
    prefpoe, ppo = runs / "CartPole-v1__prefpoe__3", runs / "CartPole-v1__ppo-matched__3"
    for variant in ("prefpoe-noise-1", "prefpoe-alpha-0.1", "prefpoe-alpha-0.4", "prefpoe-anneal"):
        copy(prefpoe, f"CartPole-v1__{variant}__3")
    for variant in ("ppo", "ppo-logstd", "ppo-ent-coef--0.002"):
        copy(ppo, f"CartPole-v1__{variant}__3")
    make(tmp_path / "results", *runs.iterdir(), figures=True)
    names = ["learning", "entropy", "trace", "guidance", "attribution", "advantage-noise", "sensitivity"]
    assert {path.name for path in (tmp_path / "results").glob("*.png")} == {f"{TASK}_{name}.png" for name in names}
    page = (tmp_path / "results" / "tables.md").read_text(encoding="utf-8")
    for name in names:
        data = (tmp_path / "results" / f"{TASK}_{name}.png").read_bytes()
        assert data[:8] == b"\x89PNG\r\n\x1a\n"
        assert 5_000 < len(data) < 150_000
        assert b"Matplotlib" not in data
        assert f"({TASK}_{name}.png)" in page


def test_what_there_is_nothing_of_gets_no_columns_and_no_figure(runs, tmp_path):
    prefpoe = runs / "CartPole-v1__prefpoe__3"
    sac = copy(prefpoe, "sac-CartPole-v1__sac__3")  # measures a preference that it does not train
    ours = copy(prefpoe, "sac-CartPole-v1__prefpoe-sac-own__3")
    two_values = copy(prefpoe, "CartPole-v1__prefpoe-alpha-0.4__3")
    make(tmp_path / "results", prefpoe, sac, ours, two_values, figures=True)
    page = (tmp_path / "results" / "tables.md").read_text(encoding="utf-8")
    assert "| prefpoe-alpha-0.4 | 1 |" in page and "P(better than" not in page
    experts = page.partition(f"## sac-{TASK}")[2].partition("### experts")[2]
    assert "| prefpoe-sac-own | 1 |" in experts and "| sac | 1 |" not in experts
    assert not (tmp_path / "results" / f"{TASK}_sensitivity.png").exists()
    make(tmp_path / "of-sac", sac)
    assert "experts" not in (tmp_path / "of-sac" / "tables.md").read_text(encoding="utf-8")


def test_a_panel_without_numbers_is_left_out():
    """Runs too short for an evaluation, or even for an episode's end."""
    curves = flat_curves(prefpoe=(9, 2, 1.5), ppo_matched=(9, math.nan, math.nan)).assign(eval_return=math.nan)
    rows = evaluation_rows(prefpoe=[1, 2], ppo_matched=[1, 2])
    figure = figures.make_figures({"Ant-v4": rows}, {"Ant-v4": curves})["Ant-v4_learning"]()
    (axis,) = figure.axes
    (legend,) = figure.legends
    assert len(axis.lines) == len(legend.get_texts()) == 2
    curves["episodic_return"] = math.nan
    assert "Ant-v4_learning" not in figures.make_figures({"Ant-v4": rows}, {"Ant-v4": curves})
    sac = flat_curves(sac=(9, 2, 1.5)).assign(eval_return=math.nan)
    assert len(figures.make_figures({}, {"sac-Ant-v4-100-steps": sac})["sac"]().axes) == 1


def test_figures_need_neither_the_default_nor_matched_ppo(runs, tmp_path):
    alone = copy(runs / "CartPole-v1__prefpoe__3", "CartPole-v1__prefpoe-noise-2__3")
    make(tmp_path / "results", alone, figures=True)
    assert [path.name for path in (tmp_path / "results").glob("*.png")] == [f"{TASK}_advantage-noise.png"]


# A user's mistakes


def test_the_command_line_takes_all_of_a_runs_folder(runs, tmp_path):
    unfinished = copy(runs / "CartPole-v1__prefpoe__3", "CartPole-v1__prefpoe__5")
    (unfinished / "evaluation.json").unlink()
    for unnamed in ("cart", "CartPole-v1__prefpoe_lunarlander__3__1763900000"):  # a script's own name for a run
        shutil.copytree(runs / "CartPole-v1__prefpoe__3", runs / unnamed)
    (runs / "CartPole-v1__prefpoe__3.log").write_text("step=256\n")
    (runs / "CartPole-v1__prefpoe__3.args").write_text("prefpoe_lunarlander.py --seed 3\n")
    argv = [
        sys.executable,
        ROOT / "benchmark" / "report.py",
        *sorted(runs.iterdir()),
        "--results",
        tmp_path / "results",
    ]
    argv += ["--no-figures", "--commit", "0123abc"]
    process = subprocess.run(argv, env=environment(), capture_output=True, text=True, timeout=60, check=True)
    first, second = process.stderr.splitlines()
    assert re.findall(r"\d+", first) == ["1", "2"]
    assert re.search(TASK, second)
    assert process.stdout.strip() == (tmp_path / "results" / "tables.md").read_text(encoding="utf-8").strip()
    assert len(rows_of(tmp_path / "results", "evaluations")) == 2


def test_mistakes_get_one_line(runs, tmp_path, capsys):
    results, prefpoe = tmp_path / "results", runs / "CartPole-v1__prefpoe__3"
    damaged = copy(prefpoe, "CartPole-v1__prefpoe__5", mean=None)
    header = ",".join(report.COLUMNS["curves"])
    for folder, text in {
        "other": "<<<<<<< HEAD\n",
        "cut": f"{header}\nppo,1\n",
        "words": f"{header}\nppo,1,many{(header.count(',') - 2) * ','}\n",
    }.items():
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "CartPole-v1_curves.csv").write_text(text)
    mistakes = [
        dict(folders=()),
        dict(folders=(tmp_path / "nowhere",)),
        dict(folders=(tmp_path,)),
        dict(folders=(damaged,)),
        dict(folders=(prefpoe,), results=tmp_path / "other"),
        dict(folders=(prefpoe,), results=tmp_path / "cut"),
        dict(folders=(prefpoe,), results=tmp_path / "words"),
    ]
    for options in mistakes:
        with pytest.raises(SystemExit) as caught:
            report.main(report.Args(**{"results": results, "figures": False, "commit": "0123abc"} | options))
        assert caught.value.code == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert error.count("\n") == 1
