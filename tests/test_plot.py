"""benchmark/plot.py: what it draws against the metrics.csv of real runs, and what it answers to folders that are none."""

import importlib
import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT, command, environment, read_metrics
from PIL import Image

sys.path.insert(0, str(ROOT / "benchmark"))
plot = importlib.import_module("plot")

STEPS = 4096
RUNS = {
    "one": ("prefpoe_continuous", "--seed", 1),
    "two": ("prefpoe_continuous", "--seed", 2),
    "plain": ("ppo_baseline", "--seed", 1),
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with runs/one and runs/two, which differ in their seed, and runs/plain of PPO."""
    folder = tmp_path_factory.mktemp("trained")
    flags = f"--env-id InvertedPendulum-v4 --total-timesteps {STEPS} --no-compile --eval-every 4 --num-steps 256"
    flags = f"{flags} --eval-episodes 1 --num-minibatches 4 --update-epochs 1".split()
    for name, (script, *own) in RUNS.items():
        argv = command(script, *flags, *own, "--run-name", name)
        subprocess.run(argv, cwd=folder, env=environment(), stdout=subprocess.DEVNULL, timeout=120, check=True)
    return folder


@pytest.fixture
def runs(trained, tmp_path):
    """Copies of the trained runs, to change."""
    shutil.copytree(trained / "runs", tmp_path / "runs")
    return tmp_path / "runs"


def draw(*folders):
    """The figure of these runs, as a dictionary of its axes by title."""
    figure = plot.draw("title", plot.curves_of(plot.read_runs(folders)))
    return {axis.get_title(): axis for axis in figure.axes}, figure


def lines_of(axis):
    """Steps and values of each line of a panel."""
    return [(1000 * line.get_xdata(), line.get_ydata()) for line in axis.get_lines()]


def legend(figure):
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def metrics_of(folder):
    return pd.DataFrame(read_metrics(folder)).astype(float)


def rewrite(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def unfinished(folder, text):
    """A run still training, with that much of its metrics.csv."""
    (folder / "evaluation.json").unlink()
    (folder / "metrics.csv").write_text(text)
    return folder


def test_a_run_is_drawn_as_its_metrics_say(runs):
    axes, figure = draw(runs / "one")
    metrics = metrics_of(runs / "one")
    policies = {name: [f"{name}_{policy}" for policy in ("main", "pref", "fused")] for name in ("entropy", "trace")}
    columns = {
        "training return": ["episodic_return"],
        "return of the evaluations": ["eval_return"],
        "entropy": policies["entropy"],
        "variance": policies["trace"],
        "distance to the preference": ["kl_fused_pref"],
        "quality of the guidance": ["guidance"],
        "critic": ["explained_variance"],
        "speed": ["SPS"],
    }
    assert [*axes] == [*columns, ""]  # and an empty place in the grid
    for title, names in columns.items():
        for (steps, values), name in zip(lines_of(axes[title]), names, strict=True):
            known = metrics[metrics[name].notna()]
            assert steps == pytest.approx(known["global_step"])
            assert values == pytest.approx(known[name])
    assert len(legend(figure)) == 3
    looks = {(line.get_linestyle(), line.get_color()) for line in axes["entropy"].get_lines()}
    assert len({dashes for dashes, _ in looks}) == len({color for _, color in looks}) == 3


def test_seeds_become_a_band_and_other_arguments_other_lines(runs):
    rewrite(runs / "one" / "config.json", id="abc")
    rewrite(runs / "two" / "config.json", run_name="other", versions={}, id="xyz", track=True)
    wide = shutil.copytree(runs / "one", runs / "wide")
    rewrite(wide / "config.json", alpha=0.4, anneal_pref=True, id="wide")
    axes, figure = draw(runs / "one", runs / "plain", runs / "two", wide, runs / "one" / ".." / "one")
    common = ["prefpoe_continuous, alpha=0.2, anneal_pref=False (2 runs)", "ppo_baseline"]
    assert legend(figure)[:3] == [*common, "prefpoe_continuous, alpha=0.4, anneal_pref=True"]
    one, two = (metrics_of(runs / name)["SPS"].to_numpy() for name in ("one", "two"))
    (_, both), (_, plain), (_, other) = lines_of(axes["speed"])
    assert both == pytest.approx((one + two) / 2)
    assert plain == pytest.approx(metrics_of(runs / "plain")["SPS"])
    assert other == pytest.approx(one)
    band = axes["speed"].collections[0].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == pytest.approx((min(one.min(), two.min()), max(one.max(), two.max())))
    assert len(axes["variance"].get_lines()) == 3 + 1 + 3  # PPO has its one policy
    colors = [line.get_color() for line in axes["speed"].get_lines()]
    assert len({*colors}) == 3
    assert len({line.get_marker() for line in axes["speed"].get_lines()}) == 3


def test_lambda_is_drawn_where_it_varies(runs):
    for name, weights in {"one": np.linspace(1, 0, 16), "two": np.full(16, 0.3)}.items():
        metrics = metrics_of(runs / name).assign(lambda_pref=weights)
        metrics.astype({"global_step": int}).to_csv(runs / name / "metrics.csv", index=False, na_rep="nan")
    assert "weight of the preference" not in draw(runs / "two")[0]
    ((_, values),) = lines_of(draw(runs / "one")[0]["weight of the preference"])
    assert values == pytest.approx(np.linspace(1, 0, 16))


def test_a_run_under_way_is_drawn_up_to_its_last_whole_row(runs):
    text = (runs / "two" / "metrics.csv").read_text()
    rows = text.splitlines(keepends=True)
    for cut in (len("".join(rows[:8])) + 40, len("".join(rows[:9])) - 1, len("".join(rows[:8]))):
        shutil.copytree(runs / "two", runs / f"cut-{cut}")
        axes, _ = draw(unfinished(runs / f"cut-{cut}", text[:cut]))
        ((steps, _),) = lines_of(axes["speed"])
        assert steps == pytest.approx(256 * np.arange(1, 8))
    axes, _ = draw(runs / "one", runs / f"cut-{cut}")  # a band as far as both go, and one run from there
    ((steps, values),) = lines_of(axes["speed"])
    one, two = (metrics_of(runs / name)["SPS"].to_numpy() for name in ("one", "two"))
    assert steps == pytest.approx(256 * np.arange(1, 17))
    assert values == pytest.approx([*(one[:7] + two[:7]) / 2, *one[7:]])


def test_long_runs_of_one_line_share_their_bins(runs):
    sizes, folders = {"one": 488, "two": 243}, []
    for name, size in sizes.items():
        metrics = pd.concat([metrics_of(runs / name)] * 31, ignore_index=True)[:size]
        metrics["global_step"], metrics["SPS"] = 256 * np.arange(1, size + 1), np.arange(size)
        folders.append(unfinished(runs / name, metrics.to_csv(index=False, na_rep="nan")))
        rewrite(runs / name / "config.json", total_timesteps=488 * 256)
    ((steps, values),) = lines_of(draw(*folders)[0]["speed"])
    assert len(steps) == 98  # of five iterations each
    assert values[:48] == pytest.approx(5 * np.arange(48) + 2)
    assert values[48] == pytest.approx((242 + 241) / 2)  # the bin that the shorter run has not filled
    assert steps[:97] == pytest.approx(256 * (5 * np.arange(97) + 3))


def test_the_command_writes_a_png_beside_the_runs_and_prints_its_path(runs, tmp_path):
    def run(*argv):
        argv = [sys.executable, ROOT / "benchmark" / "plot.py", *argv]
        return subprocess.check_output(argv, cwd=tmp_path, env=environment(), text=True, timeout=60)

    everything = sorted(runs.iterdir())
    assert run(*everything, everything[0] / "config.json") == "runs/plot.png\n"  # as runs/* holds files too
    with Image.open(runs / "plot.png") as image:
        assert image.size[0] > 1000
    assert (runs / "plot.png").stat().st_size < 300_000
    assert run("runs/one", "--output", "a.svg") == "a.svg\n"
    assert "<svg" in (tmp_path / "a.svg").read_text()


def test_without_its_requirements_it_says_what_to_install(tmp_path):
    (tmp_path / "pandas.py").write_text("raise ModuleNotFoundError(name='pandas')")
    argv = [sys.executable, ROOT / "benchmark" / "plot.py", "runs/one"]
    changed = environment(PYTHONPATH=str(tmp_path))
    process = subprocess.run(argv, env=changed, capture_output=True, text=True, timeout=60, check=False)
    assert (process.returncode, process.stderr.count("\n")) == (1, 1)
    assert "pandas" in process.stderr and "pip install -r benchmark/requirements.txt" in process.stderr


def test_mistakes_get_one_line(runs, tmp_path, capsys):
    waiting = [shutil.copytree(runs / "one", runs / f"waiting{i}") for i in range(2)]
    unfinished(waiting[0], "")
    unfinished(waiting[1], (runs / "one" / "metrics.csv").read_text().splitlines(keepends=True)[0])
    (runs / "note.txt").write_text("")
    broken = shutil.copytree(runs / "one", runs / "broken")
    (broken / "config.json").write_text("{")
    mistakes = [((), None), ((tmp_path / "nowhere",), None), ((runs,), None), ((runs / "note.txt",), None)]
    mistakes += [((folder,), None) for folder in (broken, *waiting)]
    mistakes += [((runs / "one",), tmp_path / name) for name in ("nowhere/a.png", "a.word")]
    for folders, output in mistakes:
        with pytest.raises(SystemExit) as caught:
            plot.main(plot.Args(runs=folders, output=output))
        error = capsys.readouterr().err
        assert (caught.value.code, error.count("\n")) == (2, 1)
        assert all(path.name in error for path in (output, *folders) if path not in (None, runs / "note.txt"))
    rewrite(waiting[0] / "config.json", alpha=0.4, id="waiting")  # the only run of its line
    plot.main(plot.Args(runs=(waiting[0], runs / "one"), output=tmp_path / "a.png"))
    assert re.search(r"\bwaiting0\n$", capsys.readouterr().err)
