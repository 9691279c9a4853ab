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
FLAGS = f"--env-id CartPole-v1 --total-timesteps {STEPS} --no-compile --eval-every 4 --eval-episodes 3 --num-steps 256"
FLAGS = [*f"{FLAGS} --num-minibatches 4 --update-epochs 1 --seed 3".split()]
SCRIPTS = {"ppo-matched": ["ppo_baseline"], "prefpoe": ["prefpoe_lunarlander", "--norm-obs", "--norm-reward"]}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with runs/CartPole-v1__<variant>__3 of PPO and of PrefPoE, both trained."""
    folder = tmp_path_factory.mktemp("trained")
    for variant, (script, *own) in SCRIPTS.items():
        argv = command(script, *FLAGS, *own, "--run-name", f"CartPole-v1__{variant}__3")
        subprocess.run(argv, cwd=folder, env=environment(), stdout=subprocess.DEVNULL, timeout=120, check=True)
    return folder


@pytest.fixture
def runs(trained, tmp_path):
    """Copies of the trained runs, to change."""
    shutil.copytree(trained / "runs", tmp_path / "runs")
    return tmp_path / "runs"


def copy(folder, name, **changes):
    """A run like that one with another name and seed, and with changes to its evaluation."""
    new = shutil.copytree(folder, folder.parent / name)
    rewrite(new / "config.json", seed=int(name.split("__")[-1]))
    rewrite(new / "evaluation.json", **changes)
    return new


def rewrite(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def make(results, *folders, figures=False, **options):
    options = {"commit": "0123abc"} | options
    report.main(report.Args(folders=folders, results=results, figures=figures, **options))


def refused(capsys, *folders, **options):
    """The last line that report.py says as it refuses these runs."""
    with pytest.raises(SystemExit) as caught:
        make(*folders, **options)
    *_, error = capsys.readouterr().err.splitlines()
    assert caught.value.code == 2 and error.startswith("error: ")
    return error


def rows_of(results, kind, task=TASK):
    with open(results / f"{task}_{kind}.csv", newline="") as file:
        return list(csv.DictReader(file))


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def write_metrics(folder, rows):
    with open(folder / "metrics.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def evaluation_rows(**runs_of):
    """A frame of evaluations for each variant (- written _) and the evaluations of its runs."""
    rows = []
    for variant, evaluations in runs_of.items():
        for seed, x in enumerate(evaluations, 1):
            row = dict(variant=variant.replace("_", "-"), seed=seed, evaluation=x, training_return=x)
            rows.append(row | {"returns": f"{x};{x}"})
    return pd.DataFrame(rows)


def flat_curves(**traces_of):
    """Curves of two seeds, constant over training: by variant (- written _) tr Sigma of the main expert, of the preference
    and of the fused policy, the second seed's twice the first's."""
    columns = ("trace_main", "trace_pref", "trace_fused")
    rows = []
    for (variant, traces), seed, step in itertools.product(traces_of.items(), (1, 2), (100, 950, 1000)):
        row = dict.fromkeys(report.AVERAGED, 1.0) | dict(variant=variant.replace("_", "-"), seed=seed, global_step=step)
        row |= {"guidance": math.nan} | {name: seed * x for name, x in zip(columns, traces, strict=True)}
        rows.append(row)
    return pd.DataFrame(rows)


def cells_of(table):
    """A Markdown table's rows, each by column."""
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    return [dict(zip(cells[0], line, strict=True)) for line in cells[2:]]


def heads(row):
    """A row's cells, without their intervals."""
    return [cell.split(" [")[0].split(",")[0] for cell in row.values()]


# Statistics


@pytest.mark.parametrize("n", [1, 2, 4, 7, 12])
def test_iqm_drops_the_lowest_and_the_highest_quarter_of_the_runs(n):
    scores = np.random.default_rng(n).normal(size=(5, n))
    kept = [sorted(row)[n // 4 : n - n // 4] for row in scores.tolist()]
    assert statistics.iqm(scores) == pytest.approx([sum(row) / len(row) for row in kept])
    # what rliable.metrics.aggregate_iqm computes from the runs of one task
    assert statistics.iqm(scores[0]) == stats.trim_mean(scores[0][:, None], proportiontocut=0.25, axis=None)


@pytest.mark.parametrize("n, m", [(1, 1), (3, 5), (10, 10)])
def test_improvement_counts_pairs_and_ties_half(n, m):
    rng = np.random.default_rng(n)
    x, y = rng.integers(0, 4, (4, n)).astype(float), rng.integers(0, 4, (4, m)).astype(float)
    for a, b, ours in zip(x, y, statistics.improvement(x, y), strict=True):
        wins = sum(1.0 if i > j else 0.5 if i == j else 0.0 for i in a for j in b)
        assert ours == pytest.approx(wins / (n * m))
        # what rliable.metrics.probability_of_improvement computes for one task
        assert ours == pytest.approx(stats.mannwhitneyu(a, b, alternative="greater")[0] / (n * m))
    tasks = [np.ones(2), np.zeros(2), np.ones(2), np.zeros(2), np.zeros(9), np.ones(9)]
    assert statistics.improvement(*tasks) == pytest.approx(2 / 3)  # the mean over tasks, not over pairs


def test_a_profile_is_the_share_of_runs_above_tau_averaged_over_tasks():
    rng = np.random.default_rng(3)
    tasks = [rng.normal(size=n).round(1) for n in (3, 10, 5)]
    taus = np.array([-2.0, tasks[0][0], 0.0, 0.1, 0.5, 3.0])
    brute = [sum(sum(1 for x in runs if x > tau) / len(runs) for runs in tasks) / len(tasks) for tau in taus.tolist()]
    assert statistics.profile(taus, *tasks) == pytest.approx(brute)
    resamples = [rng.choice(runs, (4, len(runs))) for runs in tasks]
    each = [statistics.profile(taus, *(x[i] for x in resamples)) for i in range(4)]
    assert statistics.profile(taus, *resamples) == pytest.approx(np.transpose(each))


def holds(low, high, values):
    """Whether these are the 2.5th and the 97.5th percentile, to four standard errors of 10,000 resamples."""
    for bound, share in ((low, 0.025), (high, 0.975)):
        assert (values < bound - 1e-9).mean() - 0.006 < share < (values <= bound + 1e-9).mean() + 0.006


def test_bootstrap_is_the_percentile_interval_of_all_resamples():
    x, y = np.array([1.0, 2.0, 4.0, 8.0]), np.array([0.0, 3.0, 5.0])
    for statistic, samples in [(statistics.iqm, (x,)), (statistics.effect, (x, y)), (statistics.improvement, (x, y))]:
        resamples = itertools.product(*(itertools.product(sample, repeat=len(sample)) for sample in samples))
        values = np.array([statistic(*map(np.array, resample)) for resample in resamples])  # 256, or 256 * 27
        holds(*statistics.bootstrap(statistic, *samples), values)
    assert statistics.bootstrap(statistics.iqm, x[:1]) == (1.0, 1.0)

    samples, taus = (np.array([0.1, 0.4, 0.9]), np.array([0.2, 0.3])), np.array([0.15, 0.25, 0.5])
    for tau, low, high in zip(taus, *statistics.bootstrap(partial(statistics.profile, taus), *samples), strict=True):
        shares = [np.array(list(itertools.product((x > tau).tolist(), repeat=len(x)))).mean(-1) for x in samples]
        holds(low, high, (shares[0][:, None] + shares[1]).ravel() / 2)  # all 27 * 4 resamples


def test_own_intervals_are_apart_where_neither_holds_an_end_of_the_other():
    x = np.random.default_rng(0).normal(size=10)
    for shift in np.linspace(-4, 4, 17):
        ends, other = (statistics.bootstrap(statistics.iqm, sample) for sample in (x, x + shift))
        inside = [ends[0] <= end <= ends[1] for end in other] + [other[0] <= end <= other[1] for end in ends]
        assert statistics.apart(x, x + shift) == (not any(inside))


# Tables


def listed(sweep):
    """Task -> variant -> script of the runs that a sweep lists."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    lines = subprocess.check_output(["bash", sweep, "--list"], env=kept, text=True, timeout=60).splitlines()
    found = {}
    for name, script, *_ in map(str.split, lines):
        task, variant, _ = name.split("__")
        found.setdefault(task, {})[variant] = script
    return found


def test_the_sweeps_and_the_tables_name_the_same_variants():
    names = set()
    for path in (ROOT / "benchmark").glob("*.sh"):
        if "\nrun_sweep " in path.read_text():
            for task, variants in listed(path).items():
                found, sweep = tables.sweeps({*variants}), path.stem.replace("_", "-")
                assert "other" not in found
                # These have a column or a table of their own.
                others = {"ppo", "ppo-matched", *found.get("entropy-bonus", [])}
                assert sweep not in found or {*variants} - {*found[sweep]} <= others
                names |= {*variants}
                if task[0] not in "ls" and "prefpoe" in variants:  # neither long- nor sac-
                    assert tables.continuous(task) == (variants["prefpoe"] == "prefpoe_continuous.py")
    assert {*tables.REPRODUCE, *tables.ATTRIBUTION.values()} <= names
    assert all(len(tables.settings(prefix, names)) >= 2 for prefix in tables.COEFFICIENTS)
    assert [*tables.settings("ppo-ent-coef-", names)] == [-0.002, 0.0, 0.002, 0.01]
    assert {*figures.STYLE} == {*tables.REPRODUCE, *tables.BONUS, *tables.SCHEDULES, *tables.SAC, figures.PUBLISHED}
    assert tables.sweeps({"prefpoe", "mine"})["other"] == ["mine"]


def test_tables_hold_what_the_rows_say():
    cheetah = evaluation_rows(ppo_cleanrl=[100], ppo_matched=[400, 400], prefpoe=[300, 500])
    lander = evaluation_rows(ppo_matched=[250, 150], prefpoe=[200, 220, 199, 260])
    frames = {"LunarLander-v3": lander, "HalfCheetah-v4": cheetah, "CartPole-v1": lander[:1], "long-Ant-v4": cheetah}
    made = tables.make_tables(frames, {})
    rows = cells_of(made["headline"])
    tasks = "HalfCheetah-v4", "LunarLander-v3"  # the paper's order; CartPole-v1 has a single seed
    lines = [(task, m) for task in tasks for m in ("evaluation", "training return")]
    assert [(row["task"], row["return"]) for row in rows] == lines
    assert [*rows[0].values()][2:] == ["100", "400 [400, 400]", "400 [300, 500]", "1–2"]
    changes = cells_of(made["changes"])
    assert [(row["task"], row["return"]) for row in changes[:4]] == lines
    assert (changes[0]["ppo-matched vs ppo-cleanrl"], changes[0]["prefpoe vs ppo-cleanrl"]) == ("+300 %", "+300 %")
    assert changes[0]["prefpoe vs ppo-matched"] == "+0 % [-25 %, +25 %]"
    assert "| prefpoe | 4 | 210 [" in made["LunarLander-v3-reproduce"]  # without 199 and 260
    assert "| 75 % [25 %, 100 %] |" in made["LunarLander-v3-reproduce"]
    assert "| prefpoe | 2 of the paper | 0.56 [" in made["improvement"]  # 2 of 4 pairs, and 5 of 8


def test_differences_are_marked_by_whether_they_exclude_zero_and_own_intervals_are_apart():
    low, high, bonus = np.arange(10) * 10.0, np.arange(10) * 10.0 + 1000, "ppo-matched-ent-coef-0.01"
    rows = evaluation_rows(ppo_cleanrl=low, ppo_matched=low + 1, prefpoe=low + 40, **{bonus: high})
    row = cells_of(tables.make_tables({"Ant-v4": rows}, {})["differences"])[0]
    assert re.fullmatch(r"\+1 \[-\d+, \+\d+\]", row["ppo-matched − ppo-cleanrl"])
    assert re.fullmatch(r"\+40 \[\+\d+, \+\d+\] †", row["prefpoe − ppo-cleanrl"])
    assert re.fullmatch(r"\*\*-960 \[-\d+, -\d+\]\*\*", row[f"prefpoe − {bonus}"])
    assert f"prefpoe-anneal − {bonus}-anneal" not in row


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
    rows = cells_of(tables.make_tables({"Ant-v4": evaluation_rows(**runs)}, {})["Ant-v4-effects"])
    assert [heads(row)[2:] for row in rows[::2]] == [heads(row)[2:] for row in rows[1::2]]  # of both returns
    values = [[cell.split(" [")[0] for cell in [*row.values()][2:]] for row in rows[::2]]
    assert values[:2] == [["+100", "+100", "+100"], ["+1,000", "+1,800", "+1,400"]]
    assert values[2:] == [["+10", "+810", "+410"], ["-5", "-5", "-5"], ["–", "+50", "–"]]
    # each difference is of two means of three runs, the grid's the mean of eight of them: intervals a third as wide
    bounds = [re.findall(r"[+-]\d+", cell)[1:] for cell in [*rows[6].values()][2:]]
    one, _, grid = (int(high) - int(low) for low, high in bounds)
    assert grid == pytest.approx(one / math.sqrt(8), rel=0.4)


def test_experts_are_those_of_trainings_end_averaged_run_by_run():
    def curve(variant, seed, **of_step):
        steps = range(1, 101)
        columns = {name: [x(i) for i in steps] for name, x in of_step.items()}
        columns = dict.fromkeys(report.AVERAGED, math.nan) | columns
        return pd.DataFrame({"variant": variant, "seed": seed, "global_step": steps} | columns)

    curves = [curve("ppo", 1, trace_main=lambda step: 7), curve("ppo-matched", 1, trace_main=lambda step: step)]
    for seed, level in enumerate((0, 10, 20, 90), 1):  # the interquartile mean of four drops the lowest and the highest
        guidance = {"guidance": lambda step: math.nan if step == 95 else step / 1000}
        guidance |= {"trace_fused": lambda step: 2 * step, "trace_pref": lambda step, seed=seed: 2 * step * 4**seed}
        guidance |= {"trace_main": lambda step, level=level: level + step * (step > 90)}
        curves.append(curve("prefpoe", seed, **guidance))
    made = tables.make_tables({"Ant-v4": evaluation_rows(ppo=[1], prefpoe=[3])}, {"Ant-v4": pd.concat(curves)})
    matched, prefpoe = cells_of(made["Ant-v4-experts"])
    assert heads(matched) == ["ppo-matched", "1", "–", "–", "95.50", *["–"] * 4]
    assert heads(prefpoe) == ["prefpoe", "4", "3.00", "3.00", "110.50", "7640.00", "191.00", "0.04", "0.096"]


def test_widths_are_those_of_the_policy_that_acts_and_of_the_resting_place():
    nan, bonus = math.nan, "ppo_matched_ent_coef_0.01"
    curves = flat_curves(ppo_matched=(0.2, nan, nan), prefpoe=(8.0, 2.0, 1.6), **{bonus: (0.4, nan, nan)})
    other = flat_curves(ppo_matched=(0.2, nan, nan), prefpoe=(8.0, 2.0, 1.6))
    frames = {"Walker2d-v4": curves, "LunarLander-v3": curves, "Ant-v4": other, "long-Ant-v4": curves}
    lander, walker = cells_of(tables.make_tables({"Ant-v4": evaluation_rows(ppo=[1])}, frames)["entropy-bonus"])
    assert heads(walker) == ["Walker2d-v4", "0.30", "0.60", "–", "2.40", "–", "2.70", "–", "2"]  # 2.70: 0.9 tr Σ_p
    assert lander == walker | {"task": "LunarLander-v3", "prefpoe: 0.9 tr Σ_p": "–"}


def test_comparisons_and_improvement_are_by_task_and_averaged_over_those_that_have_both():
    bonus, falling = "ppo_matched_ent_coef_0.01", "ppo_matched_ent_coef_0.01_anneal"
    ant = evaluation_rows(ppo_matched=[2, 4], prefpoe=[1, 3, 5], prefpoe_anneal=[3], **{bonus: [0, 1], falling: [3]})
    hopper = evaluation_rows(ppo_matched=[9, 9], prefpoe=[8, 10])
    lake, once = evaluation_rows(ppo_cleanrl=[1], prefpoe=[1]), evaluation_rows(ppo_matched=[9], prefpoe=[10])
    frames = {"Hopper-v4": hopper, "Walker2d-v4": once, "Ant-v4": ant, "long-Ant-v4": ant, "FrozenLake-v1": lake}
    frames |= {"Hopper-v4-4096-steps": evaluation_rows(prefpoe=[1, 0], ppo_matched=[2, 2])}
    made = tables.make_tables(frames, {})
    rows = cells_of(made["comparisons"])
    pairs = "prefpoe > ppo-matched", f"prefpoe > {tables.ENT_COEF}", f"prefpoe-anneal > {tables.ENT_COEF_ANNEAL}"
    means = "**mean over the paper's tasks**", "**mean over all tasks**"
    assert [row["task"] for row in rows[::2]] == ["Ant-v4", "Hopper-v4", *means]
    assert [heads({pair: row[f"P({pair})"] for pair in pairs}) for row in rows[::2]] == [
        ["0.50", "0.92", "0.50"],  # 3 of 6 pairs; 5 and a half of 6; a tie
        ["0.50", "–", "–"],
        ["0.50", "0.92", "–"],
        ["0.50", "0.92", "–"],  # Walker2d-v4 has a single seed
    ]
    assert [rows[-1][f"P({pair})"].split(", ")[-1] for pair in pairs] == ["2 tasks", "1 task", "–"]


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


def test_blocks_are_filled_in_and_unknown_ones_refused(tmp_path):
    path = tmp_path / "page.md"
    page = "a\n<!-- report: one -->{}<!-- /report -->\nb\n<!-- report: profile -->{}<!-- /report -->\n"
    path.write_text(page.format("old\n\nlines", ""))
    made = {"one": "1", "profile": "2"}
    assert report.fill_in(path, made) == page.format("\n\n1\n\n", "\n\n2\n\n")
    path.write_text(report.fill_in(path, made, ["profile"]))
    assert "2\n\n![" in path.read_text() and "](profile.png)\n\n<!-- /report -->" in path.read_text()
    assert report.fill_in(path, made, ["profile"]) == path.read_text()
    with pytest.raises(SystemExit):
        report.fill_in(path, {"two": "1"})


def test_update_readme_fills_both_pages(runs, tmp_path, monkeypatch):
    pages = tmp_path / "one.md", tmp_path / "results" / "two.md"
    (tmp_path / "results").mkdir()
    for page in pages:
        page.write_text(f"<!-- report: {TASK}-reproduce --><!-- /report -->")
    monkeypatch.setattr(report, "FILLED", pages)
    for update_readme in (False, True):
        make(tmp_path / "results", *runs.iterdir(), update_readme=update_readme)
        assert ["| prefpoe | 1 |" in page.read_text() for page in pages] == [update_readme] * 2
    with pytest.raises(SystemExit):  # of other results
        make(tmp_path / "others", *runs.iterdir(), update_readme=True)


def test_every_page_says_what_the_committed_results_say():
    results = ROOT / "benchmark" / "results"
    evaluations, curves = (report.read_results(results, kind) for kind in ("evaluations", "curves"))
    made, pictures = tables.make_tables(evaluations, curves), figures.make_figures(evaluations, curves)
    marked = {path for path in ROOT.glob("**/*.md") if "<!-- report: " in path.read_text(encoding="utf-8")}
    assert {*report.FILLED} == {path for path in marked if ".venv" not in path.parts}
    for path in report.FILLED:
        assert report.fill_in(path, made, pictures) == path.read_text(encoding="utf-8")
    page = report.page(evaluations, made, pictures)
    assert (results / "tables.md").read_text(encoding="utf-8") == page


def test_the_committed_csv_files_are_written_again_to_the_byte(tmp_path):
    results = ROOT / "benchmark" / "results"
    for kind in ("evaluations", "curves"):
        for task, rows in report.read_results(results, kind, text=True).items():
            report.write_rows(tmp_path, task, kind, rows.sample(frac=1, random_state=1))
    assert contents(tmp_path) == {path.name: path.read_bytes() for path in results.glob("*_*.csv")}


# From runs to files


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
    name = run.name.replace("v1", f"v1-{STEPS}-steps")
    other = copy(run, "CartPole-v1__prefpoe__4")
    rewrite(other / "config.json", beta1=4.0)
    make(results, run)
    before = contents(results)
    said = refused(capsys, results, other)
    assert "prefpoe" in said and "--beta1 4" in said
    assert contents(results) == before
    rewrite(run / "config.json", beta1=4.0)
    for replaced in (True, False):  # once none has the old ones, and then the same rows
        make(results, run, other)
        assert (name in capsys.readouterr().err) == replaced

    path = results / f"{TASK}_evaluations.csv"
    pd.read_csv(path).assign(args="").to_csv(path, index=False)  # as an old row may be
    make(results, copy(run, "CartPole-v1__prefpoe__5"))
    assert [bool(row["args"]) for row in rows_of(results, "evaluations")] == [False, False, True]


def test_rows_hold_the_numbers_of_the_runs(runs, tmp_path):
    make(tmp_path / "results", *runs.iterdir())
    evaluations, curves = (rows_of(tmp_path / "results", kind) for kind in ("evaluations", "curves"))
    assert [(row["variant"], row["seed"]) for row in evaluations] == [("ppo-matched", "3"), ("prefpoe", "3")]
    for row in evaluations:
        folder = runs / f"CartPole-v1__{row['variant']}__3"
        evaluation, metrics = json.loads((folder / "evaluation.json").read_text()), read_metrics(folder)
        assert [float(x) for x in row["returns"].split(";")] == evaluation["returns"]
        assert (float(row["evaluation"]), float(row["evaluation_std"])) == (evaluation["mean"], evaluation["std"])
        assert int(row["global_step"]) == evaluation["global_step"] == STEPS
        assert float(row["training_return"]) == pytest.approx(float(metrics[-1]["episodic_return"]), rel=1e-4)
        assert float(row["SPS"]) == pytest.approx(np.median([float(x["SPS"]) for x in metrics]), rel=1e-4)
        versions = json.loads((folder / "config.json").read_text())["versions"]
        assert [row[name] for name in ("torch", "gymnasium")] == [versions[name] for name in ("torch", "gymnasium")]
        curve = [x for x in curves if x["variant"] == row["variant"]]
        for ours, theirs in zip(curve, metrics, strict=True):  # 16 iterations: a row each
            known = {name: float(theirs.get(name, "nan")) for name in report.AVERAGED}
            known = {name: x for name, x in known.items() if not math.isnan(x)}
            assert {name: float(ours[name]) for name in known} == pytest.approx(known, rel=1e-4)
            assert all(ours[name] == "" for name in {*report.AVERAGED} - known.keys())
            assert ("guidance" in known) == (row["variant"] == "prefpoe")


def test_a_run_taken_in_again_replaces_its_rows_and_nothing_else(runs, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    prefpoe, matched = runs / "CartPole-v1__prefpoe__3", runs / "CartPole-v1__ppo-matched__3"
    folders = prefpoe, matched, copy(prefpoe, "CartPole-v1__prefpoe__11", mean=11.0)
    make(first, *folders, figures=True)
    before = contents(first)
    for again in (folders, ()):
        make(first, *again)
        assert contents(first) == before
    make(second, folders[2])
    make(second, *folders[1::-1], figures=True)  # in other steps and another order
    assert contents(second) == before

    old = rows_of(first, "evaluations")
    rewrite(prefpoe / "evaluation.json", mean=123.5)
    make(first, prefpoe)
    new = rows_of(first, "evaluations")
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
    for task, seeds in {TASK: ["3", "3"], "CartPole-v1": ["4"], "short-CartPole-v1": ["5"]}.items():
        assert [row["seed"] for row in rows_of(tmp_path / "results", "evaluations", task)] == seeds


def test_figures_are_small_pngs_of_what_there_is(runs, tmp_path):
    prefpoe, ppo = runs / "CartPole-v1__prefpoe__3", runs / "CartPole-v1__ppo-matched__3"
    alone = copy(prefpoe, "CartPole-v1__prefpoe-noise-1__3")  # with neither the default nor matched PPO
    make(tmp_path / "alone", alone, figures=True)
    assert [path.name for path in (tmp_path / "alone").glob("*.png")] == [f"{TASK}_advantage-noise.png"]
    for variant in ("prefpoe-alpha-0.1", "prefpoe-alpha-0.4", "prefpoe-anneal"):
        copy(prefpoe, f"CartPole-v1__{variant}__3")
    for variant in ("ppo", "ppo-logstd", "ppo-ent-coef--0.002"):
        copy(ppo, f"CartPole-v1__{variant}__3")
    make(tmp_path / "results", *runs.iterdir(), figures=True)
    names = "learning", "entropy", "trace", "guidance", "attribution", "advantage-noise", "sensitivity"
    pictures = {path.name: path.read_bytes() for path in (tmp_path / "results").glob("*.png")}
    assert pictures.keys() == {f"{TASK}_{name}.png" for name in names}
    assert all(data[:4] == b"\x89PNG" and 5_000 < len(data) < 150_000 for data in pictures.values())
    page = (tmp_path / "results" / "tables.md").read_text(encoding="utf-8")
    assert all(f"({name})" in page for name in pictures)


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


# A user's mistakes


def test_the_command_line_takes_all_of_a_runs_folder(runs, tmp_path):
    unfinished = copy(runs / "CartPole-v1__prefpoe__3", "CartPole-v1__prefpoe__5")
    (unfinished / "evaluation.json").unlink()
    for unnamed in ("cart", "CartPole-v1__prefpoe_lunarlander__3__1763900000"):  # a script's own name for a run
        shutil.copytree(runs / "CartPole-v1__prefpoe__3", runs / unnamed)
    (runs / "CartPole-v1__prefpoe__3.log").write_text("step=256\n")
    (runs / "CartPole-v1__prefpoe__3.args").write_text("prefpoe_lunarlander.py --seed 3\n")
    argv = [sys.executable, ROOT / "benchmark" / "report.py", *sorted(runs.iterdir()), "--no-figures"]
    argv += ["--results", tmp_path / "results", "--commit", "0123abc"]
    process = subprocess.run(argv, env=environment(), capture_output=True, text=True, timeout=60, check=True)
    first, second = process.stderr.splitlines()
    assert re.findall(r"\d+", first) == ["1", "2"]
    assert re.search(TASK, second)
    assert process.stdout.strip() == (tmp_path / "results" / "tables.md").read_text(encoding="utf-8").strip()
    assert len(rows_of(tmp_path / "results", "evaluations")) == 2


def test_mistakes_get_one_line(runs, tmp_path, capsys):
    results, prefpoe = tmp_path / "results", runs / "CartPole-v1__prefpoe__3"
    damaged = copy(prefpoe, "CartPole-v1__prefpoe__5", mean=None)
    short = copy(prefpoe, "CartPole-v1__prefpoe__6")  # its evaluation is of a step that it has not trained to
    write_metrics(short, read_metrics(short)[:-1])
    other_task = shutil.copytree(prefpoe, tmp_path / "LunarLander-v3__prefpoe__3")
    for folders in ((), (tmp_path / "nowhere",), (tmp_path,), (damaged,), (short,), (other_task,)):
        refused(capsys, results, *folders)
    header = ",".join(report.COLUMNS["curves"])
    words = f"{header}\nppo,1,many{(header.count(',') - 2) * ','}\n"
    for text in ("<<<<<<< HEAD\n", f"{header}\nppo,1\n", words):
        results.mkdir(exist_ok=True)
        (results / "CartPole-v1_curves.csv").write_text(text)
        assert "CartPole-v1_curves.csv" in refused(capsys, results, prefpoe)
