"""benchmark/report.py and what it draws on: statistics against independent calculations, files against their runs."""

import importlib
import itertools
import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT, command, environment
from matplotlib.text import Text
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
        (folder / f"runs/CartPole-v1__{variant}__3.args").write_text(f"{script}.py {' '.join(own)}\n")
        (folder / f"runs/CartPole-v1__{variant}__3.commit").write_text("0123abc\n")
    return folder


@pytest.fixture
def runs(trained, tmp_path):
    """Copies of the trained runs, to change."""
    shutil.copytree(trained / "runs", tmp_path / "runs")
    return tmp_path / "runs"


def copy(folder, name, **changes):
    """A run like that one with another name and seed, and with changes to its evaluation."""
    new = shutil.copytree(folder, folder.parent / name)
    for kind in ("args", "commit"):
        shutil.copy(f"{folder}.{kind}", f"{new}.{kind}")
    rewrite(new / "config.json", seed=int(name.split("__")[-1]))
    rewrite(new / "evaluation.json", **changes)
    return new


def rewrite(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def make(results, *folders, figures=False, **options):
    report.main(folders, results, figures, **options)


def refused(capsys, *folders, **options):
    """The last line that report.py says as it refuses these runs."""
    with pytest.raises(SystemExit) as caught:
        make(*folders, **options)
    *_, error = capsys.readouterr().err.splitlines()
    assert caught.value.code == 2 and error.startswith("error: ")
    return error


def rows_of(results, kind, task=TASK):
    return pd.read_csv(results / f"{task}_{kind}.csv", dtype=str, keep_default_na=False).to_dict("records")


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def frames_of(**evaluations_of):
    """Evaluations and curves of a task, by variant (- written _): of each run the return, which it has all along."""
    runs = [(name.replace("_", "-"), *run) for name, x in evaluations_of.items() for run in enumerate(x, 1)]
    rows = pd.DataFrame(runs, columns=["variant", "seed", "evaluation"]).assign(args="script.py")
    steps = pd.DataFrame({"global_step": [100, 950, 1000]})
    curves = rows.rename(columns={"evaluation": "episodic_return"}).drop(columns="args").merge(steps, how="cross")
    rows["training_return"] = rows["evaluation"]
    return rows, curves.reindex(columns=report.COLUMNS["curves"])


def made_of(**tasks):
    """The tables, each a list of rows by column, of such frames by task (- written _)."""
    tasks = {name.replace("_", "-"): frames for name, frames in tasks.items()}
    runs = tables.runs_of({name: x for name, (x, _) in tasks.items()}, {name: x for name, (_, x) in tasks.items()})
    return {name: cells_of(text) for name, text in tables.make_tables(runs).items() if name != "tasks"}


def cells_of(table):
    """A Markdown table's rows, each by column."""
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    return [dict(zip(cells[0], line, strict=True)) for line in cells[2:]]


def heads(row, *columns):
    """A row's cells, without marks and intervals."""
    return [row[column].strip("*† ").split(" [")[0].split(",")[0] for column in columns]


# Statistics


@pytest.mark.parametrize("n", [1, 2, 4, 7, 12])
def test_iqm_drops_the_lowest_and_the_highest_quarter_of_the_runs(n):
    scores = np.random.default_rng(n).normal(size=(5, n))
    kept = [sorted(row)[n // 4 : n - n // 4] for row in scores.tolist()]
    assert statistics.iqm(scores) == pytest.approx([sum(row) / len(row) for row in kept])


@pytest.mark.parametrize("n, m", [(1, 1), (3, 5), (10, 10)])
def test_improvement_counts_pairs_and_ties_half(n, m):
    rng = np.random.default_rng(n)
    x, y = rng.integers(0, 4, (4, n)).astype(float), rng.integers(0, 4, (4, m)).astype(float)
    for a, b, ours in zip(x, y, statistics.improvement(x, y), strict=True):
        assert ours == pytest.approx(stats.mannwhitneyu(a, b, alternative="greater")[0] / (n * m))
    tasks = [np.ones(2), np.zeros(2), np.ones(2), np.zeros(2), np.zeros(9), np.ones(9)]
    assert statistics.improvement(*tasks) == pytest.approx(2 / 3)  # the mean over tasks, not over pairs


def test_bootstrap_is_the_percentile_interval_of_all_resamples():
    x, y, z = np.array([11.0, 12.0, 14.0, 18.0]), np.array([10.0, 13.0, 15.0]), np.array([1.0, 3.0])
    of = {statistics.iqm: (x,), statistics.effect: (x, y), statistics.improvement: (x, y), statistics.share: (x, y, z)}
    for statistic, samples in of.items():
        resamples = itertools.product(*(itertools.product(sample, repeat=len(sample)) for sample in samples))
        values = np.array([statistic(*map(np.array, resample)) for resample in resamples])
        for bound, percent in zip(statistics.bootstrap(statistic, *samples), (0.025, 0.975), strict=True):
            # to four standard errors of 10,000 resamples
            assert (values < bound - 1e-9).mean() - 0.006 < percent < (values <= bound + 1e-9).mean() + 0.006
    assert statistics.bootstrap(statistics.iqm, x[:1]) == (11.0, 11.0)


def test_a_detectable_difference_is_found_in_four_of_five_experiments():
    rng = np.random.default_rng(0)
    size = np.mean([statistics.detectable(*rng.normal(size=(2, 30))) for _ in range(10)])
    experiments = rng.normal(size=(300, 2, 30)) + np.array([size, 0])[:, None]
    intervals = [statistics.bootstrap(statistics.effect, x, y, resamples=1000) for x, y in experiments]
    assert 0.7 < np.mean([low > 0 for low, _ in intervals]) < 0.9


# Tables


def test_the_sweeps_and_the_tables_name_the_same_variants_and_tasks():
    names, tasks = {"ppo-cleanrl-exact"}, set()  # of a flag that there was
    for path in (ROOT / "benchmark").glob("*.sh"):
        if "\nrun_sweep " in path.read_text():
            listed = subprocess.check_output(["bash", path, "--list"], env=environment(), text=True, timeout=60)
            for name, script, *_ in map(str.split, listed.splitlines()):
                task, variant, _ = name.split("__")
                task, _ = tables.task_and_length(task)
                names |= {variant}
                tasks |= {task}
                if variant == "prefpoe":
                    assert (task in tables.DISCRETE) == (script == "prefpoe_lunarlander.py")
    assert names >= {*tables.NAMES, *tables.ATTRIBUTION.values(), *tables.BETA1.values()}
    assert names >= {variant for pair in tables.PAIRS for variant in pair}
    assert names >= {variant for _, base, others in tables.AGAINST.values() for variant in (base, *others)}
    assert tasks >= {*tables.PAPER, *tables.SOLVED, *tables.BALANCING, *tables.EASY}


def test_tables_hold_what_the_rows_say():
    ant = frames_of(ppo_cleanrl=[100, 100], ppo_matched=[350, 450], prefpoe=[400, 600])
    lander = frames_of(ppo_cleanrl=[200, 200], ppo_matched=[250], prefpoe=[200, 220, 199, 260])
    pole = frames_of(ppo_cleanrl=[1, 1], ppo_matched=[2, 2], prefpoe=[3, 3])
    made = made_of(LunarLander_v3=lander, Ant_v4=ant, CartPole_v1=pole, long_Hopper_v4_2000000_steps=ant)
    returns = [(task, name) for task in ("Ant-v4", "LunarLander-v3") for name in ("evaluation", "training return")]
    for name in ("readme", "returns"):
        assert [(row["task"], row["return"]) for row in made[name]] == returns
        assert [row["seeds"] for row in made[name]] == ["2", "2", "1–4", "1–4"]
        assert heads(made[name][0], "CleanRL's PPO", "matched PPO", "PrefPoE") == ["100", "400", "500"]
        assert heads(made[name][2], "CleanRL's PPO", "matched PPO", "PrefPoE") == ["200", "250", "210"]
    (share,) = made["share"]  # without a gain, or with a single seed of matched PPO, there is none
    columns = "task", "PrefPoE's gain over CleanRL's PPO", "in per cent", "the preference's share of it", "seeds"
    assert heads(share, *columns) == ["Ant-v4", "+400", "+400 %", "0.25", "2"]
    assert [heads(row, "evaluation, less matched PPO") for row in made["length"]] == [["–"], ["−300"], ["+100"]]


def test_differences_are_marked_by_whether_they_exclude_zero_and_own_intervals_are_apart():
    low = np.arange(10) * 10.0
    runs = dict(ppo_cleanrl=low + 1, ppo_matched=low, prefpoe=low + 40, prefpoe_linear=low + 1000)
    made = made_of(Ant_v4=frames_of(**runs, prefpoe_beta1_0=low + 41))
    text = {row["variant"]: row["evaluation, less PrefPoE"] for row in made["fusion"]}
    assert re.fullmatch(r"\*\*\+960 \[\+\d+, \+\d+\]\*\*", text["PrefPoE, the heads' average acts"])
    row = made["returns"][0]
    assert re.fullmatch(r"\+40 \[\+\d+, \+\d+\] †", row["PrefPoE − matched PPO"])
    assert row["PrefPoE"].endswith("†") and row["matched PPO"].endswith("]")
    undecided = [(row["pair"], *heads(row, "difference")) for row in made["detectable"]]
    assert undecided == [("PrefPoE − PrefPoE, β₁ = 0", "−1")] * 2  # of both returns


def test_ingredients_are_what_each_adds_over_the_grid():
    worth = {"bootstrap": 100, "logstd": 500, "squash": 10, "shared": -5}
    truth = {}
    for bits in itertools.product((False, True), repeat=4):
        parts = {part for part, present in zip(worth, bits, strict=True) if present}
        name = "_".join(["ppo" if bits[0] else "ppo_cleanrl", *(part for part in [*worth][1:] if part in parts)])
        truth[name] = 900 + sum(worth[part] for part in parts) + 80 * ({"logstd", "squash"} <= parts)
    truth["ppo_matched"] = truth.pop("ppo_logstd_squash_shared")
    rows = made_of(Ant_v4=frames_of(**{name: [x - 10, x, x + 10] for name, x in truth.items()}))["ingredients"]
    assert [heads(row, "Ant-v4, evaluation") for row in rows] == [["+540"], ["+100"], ["+50"], ["−5"]]


def test_widths_are_those_of_the_acting_policy_at_trainings_end_and_their_ratio_is_beside_the_prediction():
    changed = {"prefpoe_w_pref_0.2_alpha_0.6": [1]}
    rows, curves = frames_of(ppo_matched=[1, 2], prefpoe=[1, 2], prefpoe_alpha_0=[3], **changed)
    late, seed = curves["global_step"] > 900, curves["seed"]
    product = curves["variant"] != "ppo-matched"
    curves["trace_main"] = 0.3 * seed + 100.0 * ~late
    curves.loc[product, "trace_fused"] = 0.8 * seed + 100.0 * ~late
    curves.loc[product, "trace_pref"] = 1.0 * seed
    curves.loc[~late, "episodic_return"] = 0
    made = made_of(Ant_v4=(rows, curves), LunarLander_v3=(rows, curves))
    assert {row["task"] for row in made["rest"]} == {"Ant-v4"}  # LunarLander-v3 has no Gaussians
    columns = "1 − α w_pref / w_cons", "tr Σ_f / tr Σ_p", "tr Σ at the end"
    found = [heads(row, *columns) for row in made["rest"]]
    assert found[:2] == [["–", "–", "0.45"], ["0.90", "0.80", "1.20"]]
    assert found[2:] == [["1.00", "0.80", "0.80"], ["none", "0.80", "0.80"]]
    returns = heads(made["whole"][0], "return over all of training", "training return, less matched PPO")
    assert returns == ["1", "0"]  # two thirds of 1.5


def test_sparse_rewards_count_the_runs_that_solve_the_task_and_when_they_first_did():
    rows, curves = frames_of(ppo_cleanrl=[0, 0, 0], prefpoe=[90, 95, 89.9, 0])
    runs = [(curves["variant"] == "prefpoe") & (curves["seed"] == seed) for seed in range(5)]
    curves.loc[runs[1] & (curves["global_step"] < 1000), "episodic_return"] = 0
    curves.loc[runs[4] & (curves["global_step"] == 950), "episodic_return"] = 91
    cleanrl, prefpoe = made_of(sparse_MountainCarContinuous_v0_200000_steps=(rows, curves))["sparse"]
    assert prefpoe["task"] == "MountainCarContinuous-v0, 200,000 steps"
    columns = "runs that solve it", "steps to the first success"
    assert heads(prefpoe, *columns) == ["2 of 4", "683"]  # of 1000, 100 and 950
    assert heads(cleanrl, *columns) == ["0 of 3", "–"]


def test_probabilities_are_averaged_over_the_tasks_that_have_both():
    bonus = "ppo_matched_ent_coef_0.01"
    ant = frames_of(ppo_matched=[2, 4], prefpoe=[1, 3, 5], **{bonus: [0, 1]})
    lander, lake = frames_of(ppo_matched=[9, 9], prefpoe=[10, 10]), frames_of(ppo_matched=[9, 9], prefpoe=[1, 1])
    made = made_of(Ant_v4=ant, LunarLander_v3=lander, FrozenLake_v1=lake, long_Ant_v4=lake)
    rows = [row for row in made["improvement"] if row["X"] == "PrefPoE"]
    found = {(row["Y"], row["return"]): heads(row, "all tasks", "continuous actions") for row in rows}
    assert found["matched PPO", "evaluation"] == ["0.75", "0.50"]  # 3 of 6 pairs, and all; FrozenLake's do not count
    assert found["matched PPO", "training return"] == ["0.50", "0.50"]  # here they do
    assert found["matched PPO with the bonus", "evaluation"] == ["0.92", "0.92"]  # 5 of 6 pairs, and a tie


# Pages and figures


def test_every_page_says_what_the_committed_results_say():
    frames = [report.read_results(report.RESULTS, kind) for kind in ("evaluations", "curves")]
    made = tables.make_tables(tables.runs_of(*frames))
    marked = {path for path in ROOT.glob("**/*.md") if "<!-- report: " in path.read_text(encoding="utf-8")}
    assert {path for path in marked if ".venv" not in path.parts} == {*report.PAGES, report.RESULTS / "tables.md"}
    for path in marked:
        assert report.fill_in(path, made) == path.read_text(encoding="utf-8")


def test_the_committed_csv_files_are_written_again_to_the_byte(tmp_path):
    for kind in ("evaluations", "curves"):
        for task, rows in report.read_results(report.RESULTS, kind, text=True).items():
            report.write_rows(tmp_path, task, kind, rows.sample(frac=1, random_state=1))
    assert contents(tmp_path) == {path.name: path.read_bytes() for path in report.RESULTS.glob("*_*.csv")}


def test_figures_are_as_wide_as_github_shows_them_without_small_type():
    names = ["ppo-cleanrl", "ppo-matched", tables.NARROW_BONUS, "prefpoe", "prefpoe-beta1-1", "prefpoe-beta1-4"]
    frames = {task: frames_of(**{name: [1, 2, 3] for name in names}) for task in ("HalfCheetah-v4", "Hopper-v4")}
    frames["sac-Ant-v4-12000-steps"] = frames_of(sac=[1, 2])
    evaluations = {task: rows for task, (rows, _) in frames.items()}
    curves = {task: rows.assign(trace_main=1.0) for task, (_, rows) in frames.items()}
    drawn = figures.make_figures(tables.runs_of(evaluations, curves), curves)
    assert {*drawn} == {"verdict", "widths", "beta1", "balance", "sac"}
    for figure in drawn.values():
        assert figure.get_figwidth() * figure.dpi == pytest.approx(838, abs=1)
        assert min(text.get_fontsize() for text in figure.findobj(Text) if text.get_text()) >= 9


# From runs to files


def test_a_row_says_the_commits_and_the_flags_that_the_sweep_wrote_down(runs, tmp_path):
    run = runs / "CartPole-v1__ppo-matched__3"
    told = "ppo_baseline.py --squash-mean --logstd-init -1 --env-id CartPole-v1 --seed 3 --no-compile --w-cons=0.1"
    run.with_name(f"{run.name}.args").write_text(f"{told} --exp-name 'a  b' --logstd-init -1.35\n")
    run.with_name(f"{run.name}.commit").write_text("0000000\n1111111-dirty\n")
    make(tmp_path / "results", run)
    (row,) = rows_of(tmp_path / "results", "evaluations")
    assert row["commit"] == "0000000 1111111-dirty"
    assert row["args"] == "ppo_baseline.py --logstd-init -1.35 --squash-mean --w-cons 0.1"


def test_runs_of_one_variant_have_the_same_flags(runs, tmp_path, capsys):
    run, results = runs / "CartPole-v1__prefpoe__3", tmp_path / "results"
    other = copy(run, "CartPole-v1__prefpoe__4")
    other.with_name(f"{other.name}.args").write_text("prefpoe_lunarlander.py --beta1 4\n")
    make(results, run)
    assert "--beta1 4" in refused(capsys, results, other)
    assert len(rows_of(results, "evaluations")) == 1


def test_rows_hold_the_numbers_of_the_runs(runs, tmp_path):
    make(tmp_path / "results", *runs.iterdir())
    evaluations, curves = (rows_of(tmp_path / "results", kind) for kind in ("evaluations", "curves"))
    assert [(row["variant"], row["seed"]) for row in evaluations] == [("ppo-matched", "3"), ("prefpoe", "3")]
    for row in evaluations:
        folder = runs / f"CartPole-v1__{row['variant']}__3"
        evaluation, metrics = json.loads((folder / "evaluation.json").read_text()), pd.read_csv(folder / "metrics.csv")
        assert [float(x) for x in row["returns"].split(";")] == evaluation["returns"]
        assert (float(row["evaluation"]), float(row["evaluation_std"])) == (evaluation["mean"], evaluation["std"])
        assert int(row["global_step"]) == evaluation["global_step"] == STEPS
        assert float(row["training_return"]) == pytest.approx(metrics["episodic_return"].iloc[-1], rel=1e-4)
        assert row["torch"] == json.loads((folder / "config.json").read_text())["versions"]["torch"]
        ours = pd.DataFrame([x for x in curves if x["variant"] == row["variant"]])  # 16 iterations: a row each
        theirs = metrics.reindex(columns=report.AVERAGED).to_numpy(float)
        assert ours[report.AVERAGED].replace("", "nan").to_numpy(float) == pytest.approx(theirs, rel=1e-4, nan_ok=True)


def test_a_run_taken_in_again_replaces_its_rows_and_nothing_else_and_is_named_if_it_changed(runs, tmp_path, capsys):
    first, second = tmp_path / "first", tmp_path / "second"
    prefpoe, matched = runs / "CartPole-v1__prefpoe__3", runs / "CartPole-v1__ppo-matched__3"
    folders = prefpoe, matched, copy(prefpoe, "CartPole-v1__prefpoe__11", mean=11.0)
    make(first, *folders, figures=True)
    before = contents(first)
    make(first, *folders)
    assert contents(first) == before
    make(second, folders[2])
    make(second, *folders[1::-1], figures=True)  # in other steps and another order
    assert contents(second) == before

    old = rows_of(first, "evaluations")
    assert "prefpoe__" not in capsys.readouterr().err
    rewrite(prefpoe / "evaluation.json", mean=123.5)
    make(first, *folders)
    err = capsys.readouterr().err
    assert "prefpoe__3" in err and "prefpoe__11" not in err and "matched" not in err
    assert rows_of(first, "evaluations") == [old[0], old[1] | {"evaluation": "123.5"}, old[2]]


# A user's mistakes


def test_the_command_line_takes_all_of_a_runs_folder(runs, tmp_path):
    unfinished = copy(runs / "CartPole-v1__prefpoe__3", "CartPole-v1__prefpoe__5")
    (unfinished / "evaluation.json").unlink()
    misnamed = ["cart", "CartPole-v1__prefpoe_lunarlander__3__1763900000"]  # a script's own name for a run
    for unnamed in misnamed:
        shutil.copytree(runs / "CartPole-v1__prefpoe__3", runs / unnamed)
    usual = copy(runs / "CartPole-v1__prefpoe__3", "short-CartPole-v1__prefpoe__4")
    rewrite(usual / "config.json", total_timesteps=1_000_000)
    argv = [sys.executable, ROOT / "benchmark" / "report.py", *sorted(runs.iterdir()), "--no-figures"]
    argv += ["--results", tmp_path / "results"]
    process = subprocess.run(argv, env=environment(), capture_output=True, text=True, timeout=60, check=True)
    assert all(name in process.stderr for name in (unfinished.name, *misnamed))
    for task, count in {TASK: 2, "short-CartPole-v1": 1}.items():  # runs of another prefix or length do not mix
        assert len(rows_of(tmp_path / "results", "evaluations", task)) == count


def test_mistakes_get_one_line(runs, tmp_path, capsys):
    results, prefpoe = tmp_path / "results", runs / "CartPole-v1__prefpoe__3"
    damaged = copy(prefpoe, "CartPole-v1__prefpoe__5", mean=None)
    short = copy(prefpoe, "CartPole-v1__prefpoe__6")  # its evaluation is of a step that it has not trained to
    pd.read_csv(short / "metrics.csv")[:-1].to_csv(short / "metrics.csv", index=False)
    other_task = shutil.copytree(prefpoe, tmp_path / "LunarLander-v3__prefpoe__3")
    lonely = shutil.copytree(prefpoe, runs / "CartPole-v1__lonely__3")  # without what a sweep writes
    for folders in ((tmp_path / "nowhere",), (tmp_path,), (damaged,), (short,), (other_task,), (lonely,)):
        refused(capsys, results, *folders)
    results.mkdir()
    for text in ("<<<<<<< HEAD\n", ",".join(report.COLUMNS["curves"]) + "\nppo,1\n"):
        (results / "CartPole-v1_curves.csv").write_text(text)
        assert "CartPole-v1_curves.csv" in refused(capsys, results, prefpoe)
