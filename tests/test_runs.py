"""Whole runs in processes of their own: what they leave, repeat, survive and learn."""

import ast
import errno
import fcntl
import json
import multiprocessing
import os
import re
import resource
import runpy
import shlex
import shutil
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, SCRIPTS, environment, evaluation_line, own_signals, read_metrics

CONTINUOUS, DISCRETE, BASELINE = SCRIPTS
EVERY_SCRIPT = [*SCRIPTS, "open_questions/prefpoe_multimodal", "open_questions/prefpoe_sac"]
TASK = {name: f"odd_environments:{'Hop' if name == DISCRETE else 'Walk'}-v0" for name in SCRIPTS}
GUIDED = "--lambda-schedule guided --advantage-noise 0.1 --anneal-pref"
MORE = {CONTINUOUS: GUIDED, DISCRETE: GUIDED, BASELINE: "--ent-coef 0.01 --anneal-ent"}
ITERATIONS = 40
BATCH = 64
# Observations as they are: each start of a process begins its episodes anew, which the statistics count.
SMALL = f"--no-compile --num-envs 2 --num-steps {BATCH // 2} --num-minibatches 2 --update-epochs 1 --no-norm-obs"
SMALL += f" --norm-reward --eval-every 20 --eval-episodes 3 --total-timesteps {ITERATIONS * BATCH}"
FORKS = multiprocessing.get_context("forkserver")


def small(name, *flags):
    return ["--env-id", TASK[name], *SMALL.split(), *MORE[name].split(), *map(str, flags)]


def become(argv, cwd, kill_at=None):
    """Run a script as `python` would, its output in files; with `kill_at`, until that operation on a file of its run."""
    os.chdir(cwd)
    sys.path.insert(0, str(ROOT / "tests"))
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    if kill_at is not None:
        operations = iter(range(kill_at))

        def count(event, arguments):
            of_the_run = event in ("open", "os.rename", "os.remove") and "runs/" in str(arguments[0])
            if of_the_run and next(operations, None) is None:
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(count)
    sys.argv = [*argv]
    runpy.run_path(argv[0], run_name="__main__")


class Start:
    """A script in a process that is forked from one where torch is imported already, which saves seconds each time."""

    def __init__(self, argv, cwd, **options):
        self.cwd = cwd
        self.process = FORKS.Process(target=become, args=([str(word) for word in argv], cwd), kwargs=options)
        self.process.start()

    def until(self, condition):
        deadline = time.monotonic() + 60
        while not condition():
            assert self.process.is_alive() and time.monotonic() < deadline, (self.cwd / "stderr").read_text()
            time.sleep(0.001)

    def send(self, number):
        os.kill(self.process.pid, number)

    def end(self, code=0):
        """(stdout, stderr) of the process, which must end with this code."""
        self.process.join(120)
        out, err = ((self.cwd / name).read_text() for name in ("stdout", "stderr"))
        assert self.process.exitcode == code, err
        return out, err


@pytest.fixture(scope="module", autouse=True)
def forks():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        FORKS.set_forkserver_preload(["torch._dynamo", "torch.func", "gymnasium.envs.mujoco", "tyro", "filelock"])
        yield


def path(name):
    return ROOT / f"{name}.py"


def begin(name, *flags, cwd, run_name="run", **options):
    return Start([path(name), *small(name, "--run-name", run_name, *flags)], cwd, **options)


def rows_of(folder):
    """How many lines stand below the header."""
    metrics = folder / "metrics.csv"
    return metrics.read_bytes().count(b"\n") - 1 if metrics.exists() else 0


def checkpoint(folder):
    return torch.load(folder / "checkpoint.pt", weights_only=True)


def evaluation(folder):
    return json.loads((folder / "evaluation.json").read_text())


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def learned(folder, *less):
    """The rows of metrics.csv without the wall clock."""
    return [{key: x for key, x in row.items() if key not in {"SPS", "seconds", *less}} for row in read_metrics(folder)]


def assert_sound(folder):
    """Whole rows, one an iteration, and a checkpoint that lacks the last one at most."""
    rows = read_metrics(folder) if rows_of(folder) else []
    assert checkpoint(folder)["iteration"] in (len(rows), len(rows) - 1)
    assert [row["global_step"] for row in rows] == [str(BATCH * (i + 1)) for i in range(len(rows))]
    assert all(None not in row and None not in row.values() for row in rows)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """`finished(script)`: the folder and stdout of a run."""
    done = {}

    def finished(name):
        if name not in done:
            cwd = tmp_path_factory.mktemp(name)
            out, err = Start([path(name), *small(name)], cwd).end()
            (folder,) = (cwd / "runs").iterdir()
            assert {path.name for path in cwd.iterdir()} == {"runs", "stdout", "stderr"} and not err
            done[name] = folder, out
        return done[name]

    return finished


@pytest.fixture
def copied(finished, tmp_path):
    """`copied(script)`: a copy of that run, without its evaluation."""

    def copied(name):
        folder = Path(shutil.copytree(finished(name)[0], tmp_path / "copied"))
        (folder / "evaluation.json").unlink()
        return folder

    return copied


def call(script, *words):
    """That script with these words, in this process."""
    with own_signals():
        script.main(script.parse_args([str(word) for word in words]))


@pytest.mark.parametrize("name", EVERY_SCRIPT)
def test_the_script_metadata_name_every_import_and_none_is_of_the_repository(name):
    """PEP 723, by the expression that it gives; Pythons for which box2d has no wheel are not asked for it."""
    tomllib = pytest.importorskip("tomllib")
    requirements = pytest.importorskip("packaging.requirements")
    text = path(name).read_text()
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
    dependencies = [requirements.Requirement(x) for x in metadata["dependencies"]]
    held_back = {"mujoco"}  # a later one will refuse the model of HalfCheetah-v4
    assert {x.name for x in dependencies} == (imported - sys.stdlib_module_names) | held_back
    for python, has_box2d in (("3.10", True), ("3.13", True), ("3.14", False)):
        asked = [x for x in dependencies if x.marker is None or x.marker.evaluate({"python_version": python})]
        assert any("box2d" in x.extras for x in asked) == has_box2d


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_run_leaves_a_whole_folder(name, finished):
    """With every argument and version, each column of each row, and nothing half-written."""
    folder, out = finished(name)
    assert re.fullmatch(rf"{TASK[name].replace(':', '_')}__{name}__1__\d{{19}}", folder.name)
    assert contents(folder).keys() == {"config.json", "metrics.csv", "checkpoint.pt", "evaluation.json", ".lock"}

    config = json.loads((folder / "config.json").read_text())
    saved = checkpoint(folder)
    versions = config.pop("versions")
    assert {x: version(x) for x in ("torch", "gymnasium", "mujoco", "numpy")}.items() <= versions.items()
    assert config.pop("id") == saved["id"]
    assert saved["args"] == config
    assert config["total_timesteps"] == ITERATIONS * BATCH and config["norm_obs"] is False and not config["compile"]

    result = evaluation(folder)
    assert len(result["returns"]) == result["episodes"] == 3 and result["global_step"] == ITERATIONS * BATCH
    assert (result["mean"], result["std"]) == pytest.approx((np.mean(result["returns"]), np.std(result["returns"])))
    line = f"evaluation: mean={result['mean']:.2f} std={result['std']:.2f} episodes=3"
    assert evaluation_line(out).startswith(line)
    steps = re.findall(r"^step=(\d+) ", out, re.MULTILINE)
    assert [int(x) for x in steps] == [BATCH * i for i in range(10, ITERATIONS + 1, 10)]

    columns = "global_step episodic_return episodic_length eval_return loss policy_loss value_loss approx_kl clipfrac "
    columns += "explained_variance lr SPS seconds entropy_main sigma_main trace_main"
    if name != BASELINE:
        columns += " pref_loss cons_loss entropy_pref sigma_pref trace_pref entropy_fused sigma_fused trace_fused"
        columns += " variance_reduced kl_fused_pref kl_fused_main mean_difference guidance lambda_pref"
    rows = [{key: float(x) for key, x in row.items()} for row in read_metrics(folder)]
    assert rows[0].keys() == {*columns.split()} and len(rows) == ITERATIONS
    for i, row in enumerate(rows):
        gaps = {key for key, x in row.items() if not np.isfinite(x)}
        assert gaps == (set() if (i + 1) % 20 == 0 else {"eval_return"})
        assert row["lr"] == pytest.approx(3e-4 * (1 - i / ITERATIONS))
        assert row["episodic_length"] == 16
    seconds = np.array([row["seconds"] for row in rows])
    assert np.allclose([row["SPS"] for row in rows[1:]], BATCH / np.diff(seconds), rtol=1e-3)


@pytest.mark.parametrize("name", SCRIPTS)
def test_metrics_repeat_to_the_last_digit_and_evaluating_does_not_change_them(name, finished, tmp_path):
    """In another process; only the wall clock differs. Another seed gives other rows."""
    folder, _ = finished(name)
    begin(name, "--eval-every", 0, "--eval-episodes", 1, cwd=tmp_path).end()
    assert learned(tmp_path / "runs/run", "eval_return") == learned(folder, "eval_return")
    begin(name, "--seed", 2, "--total-timesteps", 20 * BATCH, cwd=tmp_path, run_name="other").end()
    others = learned(tmp_path / "runs/other")
    assert all(row["loss"] != other["loss"] for row, other in zip(learned(folder), others, strict=False))


def test_an_environment_that_draws_from_the_global_generators_repeats(tmp_path):
    for run_name in ("one", "two"):
        words = ("--env-id", "odd_environments:Dice-v0", "--total-timesteps", 4 * BATCH)
        begin(BASELINE, *words, cwd=tmp_path, run_name=run_name).end()
    assert learned(tmp_path / "runs/one") == learned(tmp_path / "runs/two")


# --- what ends a run ---------------------------------------------------------------------------


def test_a_run_killed_at_any_operation_on_its_files_goes_on(continuous, finished, tmp_path, monkeypatch):
    """Before the first checkpoint the name can be used anew; after it, no row is lost, doubled or different."""
    flags = ["--eval-every", 0, "--total-timesteps", 3 * BATCH]
    begin(CONTINUOUS, *flags, cwd=tmp_path, run_name="whole").end()
    monkeypatch.chdir(tmp_path)
    operations = 0
    while True:
        folder = tmp_path / f"runs/{operations}"
        process = begin(CONTINUOUS, *flags, cwd=tmp_path, run_name=str(operations), kill_at=operations)
        process.process.join(60)
        if process.process.exitcode == 0:
            break
        process.end(-signal.SIGKILL)
        if (folder / "checkpoint.pt").exists():
            assert_sound(folder)
            call(continuous, "--resume", folder)
        else:
            call(continuous, *small(CONTINUOUS, "--run-name", folder.name, *flags))
        assert learned(folder) == learned(tmp_path / "runs/whole"), operations
        returns = evaluation(tmp_path / "runs/whole")["returns"]  # a run that was trained already is evaluated in torch
        assert evaluation(folder)["returns"] == pytest.approx(returns, abs=1e-6)
        operations += 1
    assert operations >= 15


KILL, INT, TERM, HUP = signal.SIGKILL, signal.SIGINT, signal.SIGTERM, signal.SIGHUP
CODES = {KILL: -9, INT: 130, TERM: 143, HUP: 129}


@pytest.mark.parametrize(
    ("name", "signals"), [(CONTINUOUS, (KILL, INT, TERM, KILL)), (DISCRETE, (INT, HUP, INT)), (BASELINE, (TERM, INT))]
)
def test_a_run_that_signals_end_again_and_again_gives_the_rows_of_one_that_nothing_ended(
    name, signals, finished, tmp_path
):
    """The first signal comes before the first iteration. After Ctrl-C the printed command is what goes on."""
    folder = tmp_path / "runs/a run"
    argv = [path(name), *small(name, "--run-name", "a run")]
    for i, number in enumerate(signals):
        process = Start(argv, tmp_path)
        process.until((folder / "checkpoint.pt").exists)
        process.until(lambda rows=5 * i: rows_of(folder) >= rows)
        process.send(number)
        out, err = process.end(CODES[number])
        assert err == "" and not (folder / "evaluation.json").exists()
        assert_sound(folder)
        argv = [path(name), "--resume", "runs/a run"]
        if number == INT:
            argv = shlex.split(out.splitlines()[-1].partition(": python ")[2])
    Start(argv, tmp_path).end()
    whole, _ = finished(name)
    assert learned(folder) == learned(whole)
    assert evaluation(folder) == evaluation(whole)
    seconds = [float(row["seconds"]) for row in read_metrics(folder)]
    assert seconds == sorted(seconds)
    one, other = checkpoint(folder), checkpoint(whole)
    for group in ("agent", "adam", "obs_stats", "return_stats"):
        for key, value in other[group].items():
            assert torch.equal(one[group][key], value)
    assert one["numpy_rng"] == other["numpy_rng"]


def test_under_nohup_a_script_alone_in_a_folder_outlives_its_terminal(tmp_path):
    shutil.copy(path(BASELINE), tmp_path)
    argv = ["nohup", sys.executable, f"{BASELINE}.py", *small(BASELINE, "--run-name", "run")]
    pipes = dict(stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    process = subprocess.Popen(argv, cwd=tmp_path, env=environment(PYTHONPATH=str(ROOT / "tests")), **pipes)
    deadline = time.monotonic() + 60
    while rows_of(tmp_path / "runs/run") < 2:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(HUP)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0 and rows_of(tmp_path / "runs/run") == ITERATIONS, err


@pytest.mark.parametrize("room", [100, 3000])
def test_a_full_disk_loses_no_more_than_the_iteration(room, finished, tmp_path):
    """A limit on the size of files, set while the run stands still, tears the next row or forbids the checkpoint."""
    folder = tmp_path / "runs/run"
    process = begin(CONTINUOUS, cwd=tmp_path)
    process.until(lambda: rows_of(folder) >= 7)
    process.send(signal.SIGSTOP)
    time.sleep(0.05)
    limit = (folder / "metrics.csv").stat().st_size + room
    resource.prlimit(process.process.pid, resource.RLIMIT_FSIZE, (limit, limit))
    process.send(signal.SIGCONT)
    process.end(1)
    saved = checkpoint(folder)["iteration"]
    assert 7 <= saved + 1 < ITERATIONS
    Start([path(CONTINUOUS), "--resume", folder], tmp_path).end()
    assert learned(folder) == learned(finished(CONTINUOUS)[0])


def test_two_processes_do_not_train_in_one_folder(continuous, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "runs/run"
    monkeypatch.chdir(tmp_path)
    process = begin(CONTINUOUS, cwd=tmp_path)
    process.until(lambda: rows_of(folder) >= 1)
    process.send(signal.SIGSTOP)
    time.sleep(0.05)
    before = contents(folder)
    for words in (["--resume", "runs/run"], small(CONTINUOUS, "--run-name", "run")):
        with pytest.raises(SystemExit) as end:
            call(continuous, *words)
        error = capsys.readouterr().err
        assert end.value.code == 2 and error.count("\n") == 1 and "runs/run/.lock" in error
        assert contents(folder) == before
    process.send(signal.SIGKILL)
    process.end(-9)


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.ENOLCK, 524, errno.ENOSYS])
def test_a_file_system_without_locks_is_said_and_trained_on(number, baseline, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def flock(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    call(baseline, *small(BASELINE, "--run-name", "run", "--total-timesteps", BATCH))
    assert "runs/run/.lock" in capsys.readouterr().out
    call(baseline, "--resume", "runs/run", "--total-timesteps", 2 * BATCH)
    assert rows_of(Path("runs/run")) == 2


def test_rows_are_on_the_disk_before_their_checkpoint_and_files_are_closed_before_they_are_renamed(
    script, tmp_path, monkeypatch
):
    """An open file cannot be renamed on Windows."""
    monkeypatch.chdir(tmp_path)
    order = []
    fsync = os.fsync
    replace = os.replace

    def noted_fsync(number):
        order.append(os.path.basename(os.readlink(f"/proc/self/fd/{number}")))
        fsync(number)

    def checked_replace(*paths):
        opened = [os.readlink(x) for x in Path("/proc/self/fd").iterdir() if os.path.exists(x)]
        assert not {os.path.abspath(x) for x in paths} & {*opened}
        replace(*paths)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", checked_replace)
    call(script, *small(script.__name__, "--total-timesteps", 3 * BATCH, "--eval-every", 0))
    written = [name for name in order if name in ("metrics.csv", "checkpoint.pt.tmp")]
    assert written == ["checkpoint.pt.tmp", *["metrics.csv", "checkpoint.pt.tmp"] * 3]


@pytest.mark.parametrize(("name", "number"), [(CONTINUOUS, None), (BASELINE, TERM), (BASELINE, INT)])
def test_no_simulator_outlives_its_run(name, number, tmp_path):
    """Whose environments have processes of their own, also in evaluations."""
    folder = tmp_path / "runs/run"
    flags = ("--env-id", "odd_environments:Parent-v0", "--eval-every", 2, "--total-timesteps", 8 * BATCH)
    process = begin(name, *flags, cwd=tmp_path)
    process.until(lambda: rows_of(folder) >= 1)
    children = Path(f"/proc/{process.process.pid}/task/{process.process.pid}/children").read_text().split()
    assert len(children) >= 2
    if number:
        process.send(number)
    process.end(CODES[number] if number else 0)
    for child in children:
        assert not Path(f"/proc/{child}").exists()


# --- going on ----------------------------------------------------------------------------------


def test_going_on_with_a_finished_run_says_so_and_changes_nothing(script, finished, capsys):
    folder, _ = finished(script.__name__)
    before = contents(folder)
    with pytest.raises(SystemExit) as end:
        call(script, "--resume", folder, "--seed", 1, "--gamma", 0.99)
    assert not end.value.code and capsys.readouterr().err == "" and contents(folder) == before


def test_a_finished_run_goes_on_as_the_longer_run_would_have(script, tmp_path, monkeypatch):
    """To the last digit where nothing follows a schedule."""
    monkeypatch.chdir(tmp_path)
    constant = ["--no-anneal-lr", "--eval-every", 0]
    constant += ["--no-anneal-ent"] if script.__name__ == BASELINE else ["--no-anneal-pref"]
    words = small(script.__name__, *constant)
    call(script, *words, "--run-name", "short", "--total-timesteps", 3 * BATCH)
    call(script, "--resume", "runs/short", "--total-timesteps", 6 * BATCH)
    call(script, *words, "--run-name", "long", "--total-timesteps", 6 * BATCH)
    assert learned(Path("runs/short")) == learned(Path("runs/long"))
    assert evaluation(Path("runs/short")) == evaluation(Path("runs/long"))


def test_changed_flags_hold_from_there_on_and_are_saved(script, copied, capsys):
    """Schedules are those of the new length. Going on once more needs no flags."""
    folder = copied(script.__name__)
    before = read_metrics(folder)
    longer = ITERATIONS + 20
    flags = ["--clip-coef", 0.1, "--target-kl", 0.5]
    call(script, "--resume", folder, "--total-timesteps", (ITERATIONS + 10) * BATCH, "--gamma", 0.9)
    call(script, "--resume", folder, "--total-timesteps", longer * BATCH, *flags)
    (folder / "evaluation.json").unlink()
    capsys.readouterr()
    call(script, "--resume", folder)
    rows = read_metrics(folder)
    assert rows[:ITERATIONS] == before and len(rows) == longer
    for i in range(ITERATIONS, longer):
        length = ITERATIONS + 10 if i < ITERATIONS + 10 else longer
        assert float(rows[i]["lr"]) == pytest.approx(3e-4 * (1 - i / length))
    expected = dict(total_timesteps=longer * BATCH, gamma=0.9, clip_coef=0.1, target_kl=0.5, seed=1)
    for saved in (checkpoint(folder)["args"], json.loads((folder / "config.json").read_text())):
        assert expected.items() <= saved.items()


def test_what_would_be_another_run_is_refused(script, copied, capsys):
    """The task, the seed, and what changes the shapes of the data or of the network."""
    folder = copied(script.__name__)
    before = contents(folder)
    changes = [("--env-id", "CartPole-v1"), ("--seed", 2), ("--num-envs", 1), ("--num-steps", 64)]
    if script.__name__ == BASELINE:
        changes.append(("--shared-backbone",))
    for change in changes:
        with pytest.raises(SystemExit) as end:
            call(script, "--resume", folder, *change, "--total-timesteps", 100 * BATCH)
        assert end.value.code == 2 and capsys.readouterr().err.count("\n") == 1
        assert contents(folder) == before


def of_b31b767(state):
    """A checkpoint as that commit wrote it: flags that are gone, no newer ones, and other names."""
    state["args"] |= dict(cuda=True, video_episodes=1, checkpoint_every=10)
    state["args"].pop("target_kl")
    state["torch_rng"] = torch.get_rng_state()
    if "explained_variance" in state:
        state["trust"] = state.pop("explained_variance")
    else:
        state["args"]["gymnasium_statistics"] = False
    return state


def test_a_checkpoint_of_former_scripts_goes_on(script, finished, tmp_path):
    """Which saved each tenth iteration, so that rows beyond it are cut."""
    name = script.__name__
    folder = tmp_path / "runs/run"
    process = begin(name, cwd=tmp_path)
    process.until(lambda: rows_of(folder) >= 5)
    process.send(KILL)
    process.end(-9)
    whole, out = finished(name)
    torch.save(of_b31b767(checkpoint(folder)), folder / "checkpoint.pt")
    shutil.copy(whole / "metrics.csv", folder)
    call(script, "--resume", folder)
    assert learned(folder) == learned(whole)
    assert evaluation(folder) == evaluation(whole)
    torch.save(of_b31b767(checkpoint(folder)), tmp_path / "checkpoint.pt")
    said, _ = Start([path(name), "--evaluate", "checkpoint.pt"], tmp_path).end()
    assert evaluation_line(said) == evaluation_line(out)


@pytest.mark.parametrize("name", SCRIPTS)
def test_evaluate_prints_the_runs_own_evaluation_and_writes_nothing(name, finished, tmp_path):
    """Of the folder as of the checkpoint alone, with as many episodes as asked, whatever the seed."""
    folder, out = finished(name)
    before = contents(folder)
    shutil.copy(folder / "checkpoint.pt", tmp_path)
    said, _ = Start([path(name), "--evaluate", folder, "--seed", 3], tmp_path).end()
    assert evaluation_line(said) == evaluation_line(out)
    said, _ = Start([path(name), "--evaluate", "checkpoint.pt", "--eval-episodes", 2], tmp_path).end()
    first_two = evaluation(folder)["returns"][:2]
    expected = f"evaluation: mean={np.mean(first_two):.2f} std={np.std(first_two):.2f} episodes=2"
    assert evaluation_line(said).startswith(expected)
    assert contents(folder) == before
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint.pt", "stdout", "stderr"}


# --- learning ----------------------------------------------------------------------------------


def test_prefpoe_learns_to_balance_the_pole(tmp_path):
    """Compiled, to a return, in training as in evaluation, that samples of an untrained policy never reach."""
    flags = "--env-id CartPole-v1 --num-envs 4 --num-steps 256 --num-minibatches 4 --update-epochs 8 --eval-every 0"
    flags += " --learning-rate 1e-3 --norm-obs --norm-reward --total-timesteps 30720"
    out, _ = Start([path(DISCRETE), *flags.split(), "--run-name", "run"], tmp_path).end()
    assert "failed" not in out
    assert evaluation(tmp_path / "runs/run")["mean"] > 400
    returns = [float(row["episodic_return"]) for row in read_metrics(tmp_path / "runs/run")]
    assert np.nanmean(returns[-5:]) > 200 and returns[0] < 60


def test_memory_stays_flat_over_a_run(tmp_path):
    """On LunarLander, whose small arrays once fragmented the heap by 2 MB an iteration."""
    flags = "--env-id LunarLander-v3 --no-compile --num-minibatches 4 --update-epochs 1 --eval-every 0 --run-name run"
    process = Start([path(BASELINE), *flags.split(), "--total-timesteps", 15 * 2048, "--eval-episodes", 1], tmp_path)
    resident = {}
    for rows in (5, 14):
        process.until(lambda rows=rows: rows_of(tmp_path / "runs/run") >= rows)
        status = Path(f"/proc/{process.process.pid}/status").read_text()
        resident[rows] = int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) / 1024
    process.end()
    assert resident[14] < min(700, resident[5] + 8)
