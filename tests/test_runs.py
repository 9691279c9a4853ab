"""Whole runs in processes of their own: what they leave, repeat, survive and learn."""

import ast
import dataclasses
import fcntl
import itertools
import json
import os
import platform
import re
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, SCRIPTS, command, environment, evaluation_line, own_signals, read_metrics

TASK = dict(zip(SCRIPTS, ["InvertedPendulum-v4", "CartPole-v1", "InvertedPendulum-v4"], strict=True))
NORMALISED = {"prefpoe_lunarlander": ["--norm-obs", "--norm-reward"]}  # where it is not the default
ITERATIONS, BATCH = 40, 64
SMALL = f"--no-compile --num-steps {BATCH} --num-minibatches 4 --update-epochs 2 --eval-episodes 3"
SMALL = f"{SMALL} --total-timesteps {ITERATIONS * BATCH} --eval-every 10".split()
WALL_CLOCK = {"SPS", "seconds"}
IN_THE_SAME_SECOND = """
import runpy, sys, time
time.time = lambda: 1_800_000_000.0
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
A_SIGNAL_IN_A_CALLBACK = """
import os, pathlib, runpy, signal, sys, weakref
import gymnasium as gym

class Watched: pass

watched, step = [Watched()], gym.wrappers.TimeLimit.step

def callback(_):
    pathlib.Path("signalled").touch()
    os.kill(os.getpid(), signal.SIGTERM)

reference = weakref.ref(watched[0], callback)

def step_after_a_collection(*arguments):
    watched.clear()
    return step(*arguments)

gym.wrappers.TimeLimit.step = step_after_a_collection
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""

# What two scripts both define and yet mean differently: the kind of action space, its defaults, and the preference.
ACTION_SPACE = {"Agent", "PPO", "check_action_space", "clip_action", "make_batch", "numpy_policy", "sample_noise"}
PREFERENCE = {"Args", "Batch", "LIMITS", "Log", "Losses", "PROGRESS", "SCHEDULED", "evaluate_only", "main"}
PREFERENCE |= {"make_learner", "normalized", "parse_args", "scheduled", "total_loss"}
MULTIMODAL, SAC = "open_questions/prefpoe_multimodal", "open_questions/prefpoe_sac"
FAMILY = [*itertools.combinations(SCRIPTS, 2), *(("prefpoe_continuous", x) for x in (MULTIMODAL, SAC))]
MEANT_TO_DIFFER = {
    ("prefpoe_continuous", "prefpoe_lunarlander"): ACTION_SPACE
    | {"Run", "compare", "failure_signatures", "fuse", "total_loss"}
    | {"LIMITS", "Preference", "make_learner"},  # --logstd-init, of Gaussians only
    ("prefpoe_continuous", "ppo_baseline"): ACTION_SPACE | PREFERENCE,
    ("prefpoe_lunarlander", "ppo_baseline"): ACTION_SPACE | PREFERENCE | {"Run"},
    ("prefpoe_continuous", MULTIMODAL): {"Agent", "Preference", "Run", "compare", "failure_signatures", "fuse"}
    | {"LIMITS", "Logging", "shares", "make_batch", "make_learner", "numpy_policy", "sample_noise"},
    ("prefpoe_continuous", SAC): {
        "Agent",
        "Batch",
        "LIMITS",
        "Learner",
        "Log",
        "Logging",
        "Losses",
        "PROGRESS",
        "STD_BOUNDS",
        "update",
    }
    | {"Args", "Preference", "check_action_space", "check_args", "evaluate", "evaluate_only", "failure_signatures"}
    | {"final_evaluation", "first_obs", "load_checkpoint", "main", "make_learner", "make_step", "normalized"}
    | {"numpy_policy", "preference_loss", "restore", "save_checkpoint", "shares", "total_loss"},
}


def start(name, *flags, cwd, **options):
    """A script's process, its output in pipes."""
    usual = dict(env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    return subprocess.Popen(command(name, *flags), cwd=cwd, **usual | options)


def small(name):
    return ["--env-id", TASK[name], *SMALL, *NORMALISED.get(name, [])]


def train(name, *flags, cwd, run_name="run", **options):
    return start(name, *small(name), "--run-name", run_name, *flags, cwd=cwd, **options)


def in_a_process(argv, cwd, **changes):
    return subprocess.run(
        argv, check=False, cwd=cwd, env=environment(**changes), capture_output=True, text=True, timeout=120
    )


def finish(process, code=0):
    """(stdout, stderr) of a process that must end with this exit code."""
    out, err = process.communicate(timeout=120)
    assert process.returncode == code, err
    return out, err


def checkpoint(folder):
    return torch.load(folder / "checkpoint.pt", weights_only=True)


def evaluation(folder):
    return json.loads((folder / "evaluation.json").read_text())


def without(rows, *columns):
    """Rows of metrics.csv less the columns of the wall clock and these."""
    return [{key: x for key, x in row.items() if key not in WALL_CLOCK | {*columns}} for row in rows]


def assert_complete(folder, iterations=ITERATIONS):
    """One row an iteration, none doubled and none missing."""
    steps = [int(row["global_step"]) for row in read_metrics(folder)]
    assert steps == [BATCH * i for i in range(1, iterations + 1)]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """`finished(script)`: the folder and stdout of a run by a copy of the script, alone in its folder."""
    done = {}

    def finished(name):
        if name not in done:
            alone = tmp_path_factory.mktemp(name)
            shutil.copy(ROOT / f"{name}.py", alone)
            process = in_a_process([sys.executable, f"{name}.py", *small(name)], alone, PYTHONPATH="")
            assert process.returncode == 0, process.stderr
            (folder,) = (alone / "runs").iterdir()
            assert {path.name for path in alone.iterdir()} == {f"{name}.py", "runs"}
            done[name] = folder, process
        return done[name]

    return finished


def paused(process, folder):
    """Stop a training by SIGSTOP where a few rows are written that its last checkpoint lacks."""
    metrics = folder / "metrics.csv"
    while process.poll() is None:
        if metrics.exists() and metrics.read_bytes().count(b"\n") > 11:
            process.send_signal(signal.SIGSTOP)
            os.waitpid(process.pid, os.WUNTRACED)
            if 1 <= (metrics.read_bytes().count(b"\n") - 1) % 10 <= 7:
                return process
            process.send_signal(signal.SIGCONT)
        time.sleep(0.002)
    raise AssertionError(process.stderr.read())


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """The folder of a run that SIGKILL ended between two checkpoints."""
    cwd = tmp_path_factory.mktemp("killed")
    process = paused(train("prefpoe_continuous", cwd=cwd), cwd / "runs/run")
    process.kill()
    process.communicate()
    return cwd / "runs/run"


@pytest.fixture(scope="module")
def nearly_done(tmp_path_factory):
    """As `killed`, of a run that has fewer than 10 iterations to go."""
    cwd = tmp_path_factory.mktemp("nearly_done")
    process = paused(train("prefpoe_continuous", "--total-timesteps", 20 * BATCH, cwd=cwd), cwd / "runs/run")
    process.kill()
    process.communicate()
    return cwd / "runs/run"


def definitions(name):
    """Source of what each top-level function, class, assignment and `if` defines, decorators and all."""
    text, found = (ROOT / f"{name}.py").read_text(), {}
    for node in ast.parse(text).body:
        match node:
            case ast.FunctionDef(name=defined) | ast.ClassDef(name=defined):
                pass
            case ast.Assign(targets=[target]) | ast.AnnAssign(target=target) | ast.AugAssign(target=target):
                defined = ast.unparse(target)
            case ast.If(test=test):
                defined = ast.unparse(test)
            case ast.Import() | ast.ImportFrom() | ast.Expr(value=ast.Constant()):
                continue
            case ast.Expr():
                defined = ast.unparse(node)
        first = min(part.lineno for part in [node, *getattr(node, "decorator_list", [])]) - 1
        found[defined] = found.get(defined, []) + text.splitlines()[first : node.end_lineno]
    return found


@pytest.mark.parametrize(("one", "other"), MEANT_TO_DIFFER)
def test_what_two_scripts_share_is_the_same_text(one, other):
    """What is defined under one name is equal but for what is meant to differ, which does differ."""
    assert set(MEANT_TO_DIFFER) == {*FAMILY}
    a, b = definitions(one), definitions(other)
    assert {"fuse", "SCHEDULED", "Batch", "__name__ == '__main__'"} <= a.keys() | b.keys()
    assert {name for name in a.keys() & b.keys() if a[name] != b[name]} == MEANT_TO_DIFFER[one, other]


@pytest.mark.parametrize("name", [*SCRIPTS, MULTIMODAL, SAC])
def test_the_script_metadata_name_every_import_and_none_is_of_the_repository(name):
    """PEP 723, by the expression that it gives."""
    tomllib = pytest.importorskip("tomllib")
    text = (ROOT / f"{name}.py").read_text()
    block = re.search(r"(?m)^# /// script$\s(?P<content>(^#(| .*)$\s)+)^# ///$", text)["content"]
    metadata = tomllib.loads("".join(line[2:] for line in block.splitlines(keepends=True)))
    assert metadata["requires-python"] == ">=3.10"
    imported = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level
            imported.add(node.module.split(".")[0])
    ours = {path.stem for pattern in ("*.py", "*/*.py") for path in ROOT.glob(pattern)} | {"tests", "benchmark"}
    assert not imported & ours
    dependencies = {re.match(r"[\w.-]+", dependency)[0] for dependency in metadata["dependencies"]}
    held_back = {"mujoco"}  # 4.0 says that a later one will refuse the model of HalfCheetah-v4
    assert dependencies == (imported - sys.stdlib_module_names) | held_back


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_alone_in_a_folder_leaves_a_whole_run(name, finished):
    """Named <env>__<script>__<seed>__<time>-<ns>, with every argument and version, and nothing half-written."""
    folder, process = finished(name)
    assert re.fullmatch(rf"{TASK[name]}__{name}__1__\d{{10}}-\d+", folder.name)
    files = {"config.json", "metrics.csv", "checkpoint.pt", "evaluation.json", ".lock"}
    assert {path.name for path in folder.iterdir()} == files

    config, saved = json.loads((folder / "config.json").read_text()), checkpoint(folder)
    versions = config.pop("versions")
    assert config.pop("id") == saved["id"]
    packages = ("torch", "gymnasium", "mujoco", "numpy")
    expected = {"python": platform.python_version()} | {package: version(package) for package in packages}
    assert expected.items() <= versions.items()
    assert saved["args"] == config
    assert config["total_timesteps"] == ITERATIONS * BATCH and config["norm_obs"] is True and not config["compile"]

    result = evaluation(folder)
    assert len(result["returns"]) == result["episodes"] == 3
    assert (result["mean"], result["std"]) == pytest.approx((np.mean(result["returns"]), np.std(result["returns"])))
    last = f"evaluation: mean={result['mean']:.2f} std={result['std']:.2f} episodes=3"
    assert evaluation_line(process.stdout) == last
    lines, sizes = process.stdout.splitlines(), f"{ITERATIONS} iterations of {BATCH} steps"
    assert lines[0] == f"{TASK[name]}, seed 1: {sizes}, on the CPU, into runs/{folder.name}"
    assert lines[-1] == f"film it:  python {name}.py --evaluate runs/{folder.name} --capture-video"


def test_no_checkpoint_is_without_its_arguments(script, tmp_path, monkeypatch):
    """A kill while the first one is written leaves config.json, not the other way round."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(script.torch, "save", lambda *_: sys.exit("killed"))
    args = script.parse_args([*small(script.__name__), "--run-name", "x"])
    with pytest.raises(SystemExit, match="killed"):
        script.main(args)
    assert json.loads((tmp_path / "runs/x/config.json").read_text())["total_timesteps"] == args.total_timesteps


def test_config_holds_every_argument(script, finished):
    config = json.loads((finished(script.__name__)[0] / "config.json").read_text())
    assert config.keys() == {*script.Args.__dataclass_fields__, "id", "versions"}


@pytest.mark.parametrize("name", SCRIPTS)
def test_metrics_have_a_row_an_iteration_with_every_column(name, finished):
    folder, _ = finished(name)
    assert_complete(folder)
    rows = [{key: float(x) for key, x in row.items()} for row in read_metrics(folder)]
    columns = "global_step episodic_return episodic_length eval_return loss policy_loss value_loss approx_kl clipfrac "
    columns += "explained_variance lr SPS seconds entropy_main sigma_main trace_main"
    if name != "ppo_baseline":
        columns += " pref_loss cons_loss entropy_pref sigma_pref trace_pref entropy_fused sigma_fused trace_fused"
        columns += " variance_reduced kl_fused_pref kl_fused_main mean_difference guidance lambda_pref"
    assert rows[0].keys() == {*columns.split()}
    for i, row in enumerate(rows):
        gaps = {key for key, x in row.items() if not np.isfinite(x)} - {"episodic_return", "episodic_length"}
        assert gaps == (set() if (i + 1) % 10 == 0 else {"eval_return"})
        assert row["lr"] == pytest.approx(3e-4 * (1 - i / ITERATIONS))
    seconds = np.array([row["seconds"] for row in rows])
    assert np.allclose([row["SPS"] for row in rows[1:]], BATCH / np.diff(seconds), rtol=1e-3)


@pytest.mark.parametrize("name", SCRIPTS)
def test_logged_returns_are_the_environments_own(name, finished):
    """These tasks pay 1 a step, so return equals length, while learning sees scaled rewards."""
    folder, _ = finished(name)
    assert checkpoint(folder)["return_stats"]["count"].item() == pytest.approx(ITERATIONS * BATCH + 1e-4)
    rows = [row for row in read_metrics(folder) if row["episodic_return"] != "nan"]
    assert len(rows) > ITERATIONS / 2
    for row in rows:
        assert row["episodic_return"] == row["episodic_length"]


@pytest.mark.parametrize("name", SCRIPTS)
def test_metrics_repeat_to_the_last_digit_and_evaluating_does_not_change_them(name, finished, tmp_path):
    """In another process; only the wall clock differs. Another seed gives other rows."""
    processes = [
        train(name, cwd=tmp_path),
        train(name, "--eval-every", 0, "--eval-episodes", 1, cwd=tmp_path, run_name="without"),
    ]
    for process in processes:
        finish(process)
    rows = read_metrics(finished(name)[0])
    assert without(read_metrics(tmp_path / "runs/run")) == without(rows)
    assert without(read_metrics(tmp_path / "runs/without"), "eval_return") == without(rows, "eval_return")


def test_a_checkpoints_rows_are_on_the_disk_before_it(script, tmp_path, monkeypatch):
    """Or a crash of the machine could leave it without them; the order in which files are synchronised."""
    monkeypatch.chdir(tmp_path)
    order, fsync = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (order.append(Path(f"/proc/self/fd/{fd}").readlink().name), fsync(fd)))
    few = (
        "--num-steps 64 --num-minibatches 2 --total-timesteps 256 --checkpoint-every 2 --eval-every 0 --eval-episodes 1"
    )
    script.main(script.parse_args(["--no-compile", "--env-id", TASK[script.__name__], *few.split()]))
    written = [name for name in order if name in ("metrics.csv", "checkpoint.pt.tmp")]
    assert written == ["checkpoint.pt.tmp", *["metrics.csv", "checkpoint.pt.tmp"] * 2]


def test_another_seed_gives_other_rows(finished, tmp_path):
    finish(train("prefpoe_continuous", "--seed", 2, cwd=tmp_path))
    rows, others = (
        without(read_metrics(finished("prefpoe_continuous")[0])),
        without(read_metrics(tmp_path / "runs/run")),
    )
    assert all(row["loss"] != other["loss"] for row, other in zip(rows, others, strict=True))


def test_a_killed_run_goes_on_as_if_it_had_not_been(finished, killed, tmp_path):
    """Up to its checkpoint byte for byte; then random streams, Adam and statistics count on, none restarted."""
    name, folder = "prefpoe_continuous", shutil.copytree(killed, tmp_path / "run")
    before, kept = (folder / "metrics.csv").read_bytes().splitlines(keepends=True), checkpoint(folder)["iteration"]
    assert kept == (len(before) - 1) // 10 * 10 > 0, "no more is lost than since the last checkpoint"
    assert len(before) - 1 > kept, "the resumed run must have rows to drop"
    with open(folder / "metrics.csv", "a") as file:
        file.write("9999,1.0,2")  # as a full disk or a power cut leaves it

    out, _ = finish(start(name, "--resume", folder, cwd=tmp_path))
    assert_complete(folder)
    assert (folder / "metrics.csv").read_bytes().splitlines(keepends=True)[: kept + 1] == before[: kept + 1]
    whole_folder, _ = finished(name)
    rows, whole_rows = read_metrics(folder), read_metrics(whole_folder)
    assert without(rows[:kept]) == without(whole_rows[:kept])
    assert [row["lr"] for row in rows] == [row["lr"] for row in whole_rows]
    seconds = [float(row["seconds"]) for row in rows]
    assert seconds == sorted(seconds)
    assert evaluation_line(out)

    # How many random numbers, updates and observations a run takes does not depend on their values.
    resumed, whole = checkpoint(folder), checkpoint(whole_folder)
    assert resumed["numpy_rng"] == whole["numpy_rng"]
    assert torch.equal(resumed["torch_rng"], whole["torch_rng"])
    assert torch.equal(resumed["adam"]["powers"], whole["adam"]["powers"])
    steps = ITERATIONS * 2 * 4
    assert whole["adam"]["powers"].tolist() == pytest.approx([0.9**steps, 0.999**steps])
    assert resumed["return_stats"]["count"].item() == pytest.approx(ITERATIONS * BATCH + 1e-4, abs=1e-6)
    assert whole["obs_stats"]["count"].item() == pytest.approx(ITERATIONS * BATCH + 1 + 1e-4, abs=1e-6)
    assert resumed["obs_stats"]["count"].item() == pytest.approx(
        ITERATIONS * BATCH + 2 + 1e-4, abs=1e-6
    )  # a reset more


def test_restore_gives_back_every_tensor_of_a_checkpoint(continuous, finished):
    """Weights, optimizer, statistics and random streams, into the very objects that training uses."""
    folder, _ = finished("prefpoe_continuous")
    saved = checkpoint(folder)
    args = continuous.Args(**saved["args"])
    learner, _ = continuous.make_learner(args)
    rest = continuous.restore(learner, dataclasses.replace(args, resume=str(folder)))
    for group in ("agent", "obs_stats", "return_stats"):
        state = getattr(learner, group).state_dict()
        assert state.keys() == saved[group].keys()
        assert all(torch.equal(value, saved[group][key]) for key, value in state.items())
    assert all(torch.equal(*pair) for pair in zip(learner.adam, saved["adam"].values(), strict=True))
    assert torch.equal(learner.params, torch.cat([x.flatten() for x in learner.agent.parameters()]))
    np.testing.assert_array_equal(learner.obs_stats.mean[0], saved["obs_stats"]["mean"].numpy())
    assert learner.rng.bit_generator.state == json.loads(saved["numpy_rng"])
    assert torch.equal(torch.get_rng_state(), saved["torch_rng"])
    assert rest == {name: saved[name] for name in continuous.PROGRESS} and rest["iteration"] == ITERATIONS


def test_a_run_killed_in_its_last_evaluation_only_evaluates_again(finished, tmp_path):
    original, process = finished("prefpoe_lunarlander")
    folder = shutil.copytree(original, tmp_path / "run")
    (folder / "evaluation.json").unlink()
    out, _ = finish(start("prefpoe_lunarlander", "--resume", folder, cwd=tmp_path))
    assert evaluation_line(out) == evaluation_line(process.stdout) and "step=" not in out
    assert evaluation(folder) == evaluation(original)
    assert (folder / "metrics.csv").read_bytes() == (original / "metrics.csv").read_bytes()


DAMAGES = {  # what is done to the lines of metrics.csv, and how many rows before the checkpoint that costs
    "cut in mid-row": (lambda lines, kept: [*lines[: kept - 1], lines[kept - 1][:20]], 2),
    "cut in the last number": (lambda lines, kept: [*lines[:kept], lines[kept][:-2]], 1),
    "emptied": (lambda lines, kept: [], None),
    "deleted": (None, None),
    "without a header": (lambda lines, kept: lines[1:], 0),
    "rows missing": (lambda lines, kept: lines[:3] + lines[5:], 2),
    "a row of other columns": (
        lambda lines, kept: [*lines[:4], b"9" + lines[4][1:].replace(b",", b"", 1), *lines[5:]],
        1,
    ),
    "rows doubled": (lambda lines, kept: lines + lines[1:], 0),
    "not text": (lambda lines, kept: [*lines[:4], b"\xff\x00\n", *lines[4:]], 0),
}


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_metrics_csv_keeps_its_whole_rows_and_a_gap_is_said(how, continuous, nearly_done, tmp_path, capsys):
    """Resumed in this process: under one header, no row glued, doubled or invented."""
    folder = shutil.copytree(nearly_done, tmp_path / "run")
    lines, kept = (folder / "metrics.csv").read_bytes().splitlines(keepends=True), checkpoint(folder)["iteration"]
    change, lost = DAMAGES[how]
    if change:
        (folder / "metrics.csv").write_bytes(b"".join(change(lines, kept)))
    else:
        (folder / "metrics.csv").unlink()
    with own_signals():
        assert continuous.main(continuous.parse_args(["--resume", str(folder)])) == 0
    lost = kept if lost is None else lost
    said = capsys.readouterr().err
    assert said.count("\n") == bool(lost) and f"lacks {lost} of its first {kept} rows" in said or not lost
    after = (folder / "metrics.csv").read_bytes().splitlines(keepends=True)
    assert after[0] == lines[0] and len(after) == 1 + 20 - lost
    assert set(after[: kept - lost + 1]) <= set(lines)
    steps = [int(row["global_step"]) for row in read_metrics(folder)]
    assert steps == sorted(set(steps)) and steps[kept - lost :] == [BATCH * i for i in range(kept + 1, 21)]


@pytest.mark.parametrize(
    "change", [lambda names: [*names[:9], "more", *names[9:]], lambda names: names[:9] + names[:8:-1]]
)
def test_a_run_whose_metrics_have_other_columns_is_not_gone_on_with(change, continuous, nearly_done, tmp_path, capsys):
    """As after the script was changed: no row is lost, and none comes under another name."""
    folder = shutil.copytree(nearly_done, tmp_path / "run")
    names, *rows = (folder / "metrics.csv").read_text().splitlines()
    before = "\n".join([",".join(change(names.split(","))), *rows, ""])
    (folder / "metrics.csv").write_text(before)
    with own_signals(), pytest.raises(SystemExit) as end:
        continuous.main(continuous.parse_args(["--resume", str(folder)]))
    (line,) = capsys.readouterr().err.splitlines()
    assert end.value.code == 2 and "other columns" in line and (folder / "metrics.csv").read_text() == before


def test_a_run_that_trains_is_not_resumed_by_another_process(continuous, tmp_path, capsys):
    folder = tmp_path / "runs/run"
    process = paused(train("prefpoe_continuous", cwd=tmp_path), folder)
    try:
        before = {path.name: path.read_bytes() for path in folder.iterdir()}
        with pytest.raises(SystemExit) as end:
            continuous.main(continuous.parse_args(["--resume", str(folder)]))
        error = capsys.readouterr().err
        assert end.value.code == 2 and error.count("\n") == 1
        assert "--resume" in error and "another process" in error and str(folder) in error
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    finally:
        process.kill()
        process.communicate()


def test_a_run_trained_further_while_it_is_loaded_is_not_set_back(continuous, nearly_done, tmp_path, capsys):
    """Another process saves and ends after this one has read the checkpoint, and before it has the folder's lock."""
    folder = shutil.copytree(nearly_done, tmp_path / "run")
    args = continuous.parse_args(["--resume", str(folder)])
    learner, progress = continuous.make_learner(args)
    continuous.save_checkpoint(folder, learner, progress | {"iteration": progress["iteration"] + 1}, args)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(SystemExit) as end:
        continuous.Log(learner, progress, args)
    assert end.value.code == 2 and "another process" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"} == {
        name: data for name, data in before.items() if name != ".lock"
    }


def test_two_runs_started_in_the_same_second_have_folders_of_their_own(tmp_path):
    words = [*small("prefpoe_lunarlander"), "--total-timesteps", 10 * BATCH]
    argv = [sys.executable, "-c", IN_THE_SAME_SECOND, *command("prefpoe_lunarlander", *words)[1:]]
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for process in [subprocess.Popen(argv, cwd=tmp_path, env=environment(), **pipes) for _ in range(2)]:
        finish(process)
    folders = list((tmp_path / "runs").iterdir())
    assert len(folders) == 2
    for folder in folders:
        assert_complete(folder, 10)
        assert (folder / "evaluation.json").exists()


@pytest.mark.parametrize("ending", ["| head -1", ">&- 2>&-"])
def test_a_run_that_nobody_reads_goes_on_to_its_end(ending, tmp_path):
    words = [*small("prefpoe_lunarlander"), "--total-timesteps", 10 * BATCH, "--run-name", "run"]
    shell = ["bash", "-c", f'"$@" {ending}; exit ${{PIPESTATUS[0]}}', "-"]
    process = in_a_process([*shell, *command("prefpoe_lunarlander", *words)], tmp_path)
    assert process.returncode == 0 and process.stderr == "", process.stderr
    assert_complete(tmp_path / "runs/run", 10)
    assert len(evaluation(tmp_path / "runs/run")["returns"]) == 3


def test_resuming_a_finished_run_says_so_and_changes_nothing(finished, tmp_path):
    """Repeating an argument with the value it has is no contradiction."""
    folder, _ = finished("ppo_baseline")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    out, _ = finish(start("ppo_baseline", "--resume", folder, "--seed", 1, "--gamma", 0.99, cwd=tmp_path))
    assert "finished" in out and len(out.splitlines()) == 1
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize("flags", [["--gamma", "0.5"], ["--seed", "2"], ["--no-anneal-lr"], ["--env-id", "Ant-v4"]])
def test_an_argument_that_contradicts_the_run_is_named(script, flags, finished, capsys):
    with pytest.raises(SystemExit) as end:
        script.parse_args(["--resume", str(finished(script.__name__)[0]), *flags])
    error = capsys.readouterr().err
    assert end.value.code == 2
    assert error.count("\n") == 1 and flags[0].removeprefix("--no-").removeprefix("--") in error


@pytest.mark.parametrize(
    ("name", "number", "code"),
    [("prefpoe_lunarlander", signal.SIGTERM, 143), ("ppo_baseline", signal.SIGINT, 130)],
)
def test_a_signal_ends_the_iteration_with_a_checkpoint(name, number, code, tmp_path):
    """At the row last written; resuming then completes the run."""
    folder = tmp_path / "runs/run"
    process = paused(train(name, cwd=tmp_path), folder)
    rows_before = len(read_metrics(folder))
    process.send_signal(number)
    process.send_signal(signal.SIGCONT)
    out, err = finish(process, code)
    assert "Traceback" not in err and "--resume" in out.splitlines()[-1]
    rows = read_metrics(folder)
    assert checkpoint(folder)["iteration"] == len(rows) and rows_before <= len(rows) <= rows_before + 1
    assert not (folder / "evaluation.json").exists()
    finish(start(name, "--resume", folder, cwd=tmp_path))
    assert_complete(folder)
    assert without(read_metrics(folder)[: len(rows)]) == without(rows)


def test_a_signal_in_the_last_iteration_is_not_lost(tmp_path):
    """It ends the run before its last evaluation, which --resume then makes up for."""
    folder, steps = tmp_path / "runs/run", 10_000
    sizes = ("--num-steps", steps, "--total-timesteps", 2 * steps, "--checkpoint-every", 1)
    process = train("prefpoe_lunarlander", *sizes, cwd=tmp_path)
    while process.poll() is None and not ((folder / "checkpoint.pt").exists() and checkpoint(folder)["iteration"] == 1):
        time.sleep(0.01)  # the row alone would not do: until the first iteration has saved, a signal is still its own
    process.terminate()
    out, err = finish(process, 143)
    assert "once more" in err and f"stopped at step {2 * steps}" in out.splitlines()[-1]
    assert checkpoint(folder)["iteration"] == 2 and not (folder / "evaluation.json").exists()
    finish(start("prefpoe_lunarlander", "--resume", folder, cwd=tmp_path))
    assert evaluation(folder)["global_step"] == 2 * steps


@pytest.mark.parametrize(("name", "number"), [("prefpoe_lunarlander", signal.SIGTERM), ("ppo_baseline", signal.SIGINT)])
def test_a_signal_while_compiling_ends_the_run_within_seconds(name, number, tmp_path):
    """SIGINT reaches the whole process group, as from a terminal."""
    env = environment(TORCHINDUCTOR_CACHE_DIR=str(tmp_path / "cache"))
    process = train(name, "--compile", cwd=tmp_path, env=env, start_new_session=True)
    while not (line := process.stdout.readline()).startswith("compiling the update"):
        assert line, process.stderr.read()
    time.sleep(3)
    sent = time.monotonic()
    (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
    out, err = finish(process, 128 + number)
    assert time.monotonic() - sent < 15, "a machine under load takes a few of them"
    assert "compiled" not in out and "Traceback" not in err


def test_a_signal_ends_the_run_even_where_exceptions_are_swallowed(tmp_path):
    """In the callback of a weak reference, of which torch has many while it compiles."""
    argv = [sys.executable, "-c", A_SIGNAL_IN_A_CALLBACK, *command("ppo_baseline", *small("ppo_baseline"))[1:]]
    result = in_a_process(argv, tmp_path)
    assert result.returncode == 143 and "Exception ignored" not in result.stderr
    assert (tmp_path / "signalled").exists() and "step=" not in result.stdout


def test_a_signal_also_ends_the_last_evaluation(tmp_path):
    process = train("prefpoe_lunarlander", "--eval-episodes", 1_000_000, "--total-timesteps", BATCH, cwd=tmp_path)
    metrics = tmp_path / "runs/run/metrics.csv"
    while process.poll() is None and not (metrics.exists() and metrics.read_bytes().count(b"\n") == 2):
        time.sleep(0.01)
    time.sleep(0.5)
    process.terminate()
    try:
        assert process.wait(10) == 143
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("starved", ["checkpoint.pt", "metrics.csv"])
def test_a_full_disk_leaves_the_last_checkpoint(starved, killed, tmp_path):
    """Exit code 1 and one line, no temporary file. A limit on the size of files stands for the disk."""
    folder = shutil.copytree(killed, tmp_path / "run")
    old = (folder / "checkpoint.pt").read_bytes()
    kilobytes = {"checkpoint.pt": len(old) // 2048, "metrics.csv": (folder / "metrics.csv").stat().st_size // 1024 + 1}
    limited = [
        "bash",
        "-c",
        f'ulimit -f {kilobytes[starved]} && exec "$@"',
        "-",
        *command("prefpoe_continuous", "--resume", folder),
    ]
    process = in_a_process(limited, tmp_path)
    assert process.returncode == 1
    assert process.stderr.startswith("error: ") and process.stderr.count("\n") == 1
    assert (folder / "checkpoint.pt").read_bytes() == old
    assert {path.name for path in folder.iterdir()} == {"config.json", "metrics.csv", "checkpoint.pt", ".lock"}


@pytest.mark.parametrize("name", SCRIPTS)
def test_evaluate_prints_the_runs_own_evaluation(name, finished, tmp_path):
    """Of the folder as of the checkpoint alone, with as many episodes as asked; it writes nothing."""
    folder, trained = finished(name)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    shutil.copy(folder / "checkpoint.pt", tmp_path)
    of_folder = start(name, "--evaluate", folder, cwd=tmp_path)
    of_checkpoint = start(name, "--evaluate", "checkpoint.pt", "--eval-episodes", 2, cwd=tmp_path)
    assert finish(of_folder)[0].splitlines() == [evaluation_line(trained.stdout)]
    first_two = evaluation(folder)["returns"][:2]
    expected = f"evaluation: mean={np.mean(first_two):.2f} std={np.std(first_two):.2f} episodes=2"
    assert finish(of_checkpoint)[0].splitlines() == [expected]
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint.pt"}


def test_prefpoe_learns_to_balance_the_pole(discrete, run, tmp_path):
    """Compiled or not, to a return, in training as in evaluation, that samples of an untrained policy never reach.

    (The mode of an untrained network can balance by luck: 2 of 100 initialisations reach 500.)
    """
    flags = "--env-id CartPole-v1 --num-envs 4 --num-steps 256 --num-minibatches 4 --update-epochs 8 --eval-every 0"
    flags += " --learning-rate 1e-3 --norm-obs --norm-reward --total-timesteps 30720"
    first_rows = []
    for path in ("compile", "no-compile"):
        process = run("prefpoe_lunarlander", *flags.split(), f"--{path}", "--run-name", path)
        assert process.returncode == 0 and "failed" not in process.stdout, process.stderr
        announced = re.search(r"\ncompiling the update, .*\ncompiled in \d+ s\n", process.stdout)
        assert bool(announced) == (path == "compile")
        folder = tmp_path / "runs" / path
        assert evaluation(folder)["mean"] > 400
        returns = [float(row["episodic_return"]) for row in read_metrics(folder)]
        assert np.nanmean(returns[-5:]) > 200
        first_rows.append({name: float(x) for name, x in read_metrics(folder)[0].items() if name not in WALL_CLOCK})
    assert first_rows[0] == pytest.approx(first_rows[1], rel=1e-4, abs=1e-6, nan_ok=True)

    untrained, env = [], discrete.make_env("CartPole-v1")
    for seed in range(10):
        torch.manual_seed(seed)
        args = discrete.Args(env_id="CartPole-v1", seed=seed, eval_deterministic=False)
        act = discrete.numpy_policy(discrete.Agent(4, env.action_space), args)
        untrained.append(np.mean(discrete.evaluate(act, env, discrete.RunningMeanStd((4,), False), 10, args)))
    assert max(untrained) < 60 and returns[0] < 60


def test_without_a_terminal_one_plain_line_is_printed_every_10_iterations(finished):
    _, process = finished("prefpoe_continuous")
    steps = [line.split()[0] for line in process.stdout.splitlines()[1:-2]]
    assert steps == [f"step={BATCH * i}" for i in range(10, ITERATIONS + 1, 10)]
    assert process.stderr == ""


def test_on_a_terminal_a_bar_shows_progress(tmp_path):
    """Steps, time left, SPS and return on stderr; no plain lines then."""
    terminal, stderr = os.openpty()
    fcntl.ioctl(stderr, termios.TIOCSWINSZ, struct.pack("4H", 24, 120, 0, 0))
    process = train("prefpoe_lunarlander", "--total-timesteps", 10 * BATCH, cwd=tmp_path, stderr=stderr)
    os.close(stderr)
    shown = b""
    try:
        while part := os.read(terminal, 4096):
            shown += part
    except OSError:  # how Linux says that the other end is closed
        os.close(terminal)
    assert re.search(rf"{10 * BATCH}/{10 * BATCH} \[[\d:]+<[\d:]+.*return=[\d.]+ SPS=\d+", shown.decode())
    assert not re.search("^step=", finish(process)[0], re.MULTILINE)


def test_memory_stays_flat_over_a_run(tmp_path):
    """On LunarLander, whose small arrays once fragmented the heap by 2 MB an iteration."""
    flags = ["--env-id", "LunarLander-v3", "--total-timesteps", 26 * 2048, "--eval-every", 0, "--run-name", "x"]
    metrics, resident = tmp_path / "runs" / "x" / "metrics.csv", {}
    options = dict(cwd=tmp_path, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with subprocess.Popen(command("ppo_baseline", *flags), **options) as process:
        deadline = time.monotonic() + 240
        while process.poll() is None:
            assert time.monotonic() < deadline
            rows = len(metrics.read_bytes().splitlines()) - 1 if metrics.exists() else 0
            status = Path(f"/proc/{process.pid}/status").read_text()
            if rows < 26 and (size := re.search(r"VmRSS:\s+(\d+) kB", status)):
                resident[rows] = int(size[1]) / 1024
            time.sleep(0.02)
    assert process.returncode == 0
    assert resident[25] < min(700, resident[8] + 8)
