"""benchmark/plot.py: what it draws against the metrics.csv of real runs, and what it answers to folders that are none."""

import importlib
import json
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT, command, environment, read_metrics

sys.path.insert(0, str(ROOT / "benchmark"))
plot = importlib.import_module("plot")

RUNS = {
    "one": ("prefpoe_continuous", "--seed", 1),
    "two": ("prefpoe_continuous", "--seed", 2),
    "plain": ("ppo_baseline", "--seed", 1),
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with runs/one and runs/two, which differ in their seed, and runs/plain of PPO."""
    folder = tmp_path_factory.mktemp("trained")
    flags = "--env-id InvertedPendulum-v4 --total-timesteps 4096 --no-compile --eval-every 4 --num-steps 256"
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
    """Of each panel, by what it shows, its axes; and the names in the legend."""
    curves = plot.curves_of(plot.read_runs(folders))
    figure = plot.draw("title", curves)
    panels = {title: quantity for quantity, title in plot.PANELS.items()}
    names = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    return {panels[axis.get_title()]: axis for axis in figure.axes if axis.get_title()}, names


def lines_of(axis):
    """Steps and values of each line of a panel."""
    return [(1000 * np.array(line.get_xdata()), np.array(line.get_ydata())) for line in axis.get_lines()]


def metrics_of(folder):
    return pd.DataFrame(read_metrics(folder)).astype(float)


def rewrite(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_run_is_drawn_as_its_metrics_say(runs):
    axes, names = draw(runs / "one")
    metrics = metrics_of(runs / "one")
    assert [*axes] == [*plot.PANELS]
    for quantity, axis in axes.items():
        columns = [x for x in (quantity, *(f"{quantity}_{x}" for x in ("main", "pref", "fused"))) if x in metrics]
        for (steps, values), name in zip(lines_of(axis), columns, strict=True):
            known = metrics[metrics[name].notna()]
            assert steps == pytest.approx(known["global_step"])
            assert values == pytest.approx(known[name])
    looks = {(line.get_linestyle(), line.get_color()) for line in axes["entropy"].get_lines()}
    assert len({dashes for dashes, _ in looks}) == len({color for _, color in looks}) == len(names) == 3


def test_seeds_become_a_band_and_other_arguments_other_lines(runs):
    rewrite(runs / "two" / "config.json", run_name="other", versions={}, id="xyz", track=True)
    wide = shutil.copytree(runs / "one", runs / "wide")
    rewrite(wide / "config.json", alpha=0.4, anneal_pref=True)
    axes, names = draw(runs / "one", runs / "plain", runs / "two", wide, runs / "one" / ".." / "one")
    common = ["prefpoe_continuous, alpha=0.2, anneal_pref=False (runs: 2)", "ppo_baseline (runs: 1)"]
    assert names[:3] == [*common, "prefpoe_continuous, alpha=0.4, anneal_pref=True (runs: 1)"]
    one, two, alone = (metrics_of(runs / name)["SPS"].to_numpy() for name in ("one", "two", "plain"))
    (_, both), (_, plain), (_, other) = lines_of(axes["SPS"])
    assert both == pytest.approx((one + two) / 2)
    assert plain == pytest.approx(alone)
    assert other == pytest.approx(one)
    band = axes["SPS"].collections[0].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == pytest.approx((min(one.min(), two.min()), max(one.max(), two.max())))
    assert len(axes["trace"].get_lines()) == 3 + 1 + 3  # PPO has its one policy
    assert len({line.get_color() for line in axes["SPS"].get_lines()}) == 3


def test_a_run_under_way_is_drawn_up_to_its_last_whole_row(runs):
    path = runs / "two" / "metrics.csv"
    rows = path.read_text().splitlines(keepends=True)
    for cut in ("".join(rows[:8]) + rows[8][:40], "".join(rows[:9])[:-1], "".join(rows[:8])):
        path.write_text(cut)
        ((steps, _),) = lines_of(draw(runs / "two")[0]["SPS"])
        assert steps == pytest.approx(256 * np.arange(1, 8))
    ((steps, values),) = lines_of(draw(runs / "one", runs / "two")[0]["SPS"])
    one, two = (metrics_of(runs / name)["SPS"].to_numpy() for name in ("one", "two"))
    assert steps == pytest.approx(256 * np.arange(1, 17))  # a band as far as both go, and one run from there
    assert values == pytest.approx([*(one[:7] + two) / 2, *one[7:]])


def test_long_runs_of_one_line_share_their_bins(runs):
    for name, size in {"one": 488, "two": 243}.items():
        metrics = pd.concat([metrics_of(runs / name)] * 31, ignore_index=True)[:size]
        metrics["global_step"], metrics["SPS"] = 256 * np.arange(1, size + 1), np.arange(size)
        metrics.to_csv(runs / name / "metrics.csv", index=False, na_rep="nan")
    ((steps, values),) = lines_of(draw(runs / "one", runs / "two")[0]["SPS"])
    assert steps[:97] == pytest.approx(256 * (5 * np.arange(97) + 3))  # the middles of five iterations
    assert values[:48] == pytest.approx(5 * np.arange(48) + 2)
    assert values[48] == pytest.approx((242 + 241) / 2)  # the bin that the shorter run has not filled


def plotted(folder, *argv):
    argv = [sys.executable, ROOT / "benchmark" / "plot.py", *argv]
    return subprocess.run(argv, cwd=folder, env=environment(), capture_output=True, text=True, timeout=60, check=False)


def test_the_command_writes_a_png_beside_the_runs_and_prints_its_path(runs, tmp_path):
    (runs / "note.txt").write_text("")  # as runs/* holds files too
    waiting = shutil.copytree(runs / "one", runs / "waiting")
    (waiting / "metrics.csv").unlink()
    done = plotted(tmp_path, *runs.iterdir())
    assert done.stdout == "runs/plot.png\n" and "waiting" in done.stderr
    assert (runs / "plot.png").read_bytes()[:4] == b"\x89PNG"
    assert plotted(tmp_path, "runs/one", "--output", "a.svg").stdout == "a.svg\n"
    assert "<svg" in (tmp_path / "a.svg").read_text()
    for mistake in ("nowhere", "runs", "runs/note.txt", "runs/waiting"):
        done = plotted(tmp_path, mistake)
        assert (done.returncode, done.stdout) == (2, "") and "Traceback" not in done.stderr
