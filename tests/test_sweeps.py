"""The sweeps in benchmark/, as a user starts, repeats, mistypes and interrupts them."""

import fcntl
import os
import pty
import re
import shlex
import shutil
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest
from conftest import ROOT, SCRIPTS, environment, read_metrics

SWEEPS = sorted(path.stem for path in (ROOT / "benchmark").glob("*.sh") if "\nrun_sweep " in path.read_text())
CELL = dict(TASKS="LunarLander-v3", VARIANTS="ppo", SEEDS="1")  # of reproduce.sh
FLAGS = "--no-compile --num-steps 64 --num-minibatches 2 --update-epochs 1 --eval-every 0 --eval-episodes 1".split()
RUN = "LunarLander-v3__ppo__1"


@pytest.fixture
def copy(tmp_path) -> Path:
    """A copy of the scripts and sweeps, without runs."""
    shutil.copytree(ROOT / "benchmark", tmp_path / "benchmark", ignore=shutil.ignore_patterns("results"))
    for script in SCRIPTS:
        shutil.copy(ROOT / f"{script}.py", tmp_path)
    return tmp_path


def options(**changes: str) -> dict[str, str]:
    """This process's environment with the sweeps' options, those of one tiny run where not given."""
    return environment(**dict(PYTHON=sys.executable, STEPS="128", WORKERS="2") | changes)


def sweep(copy: Path, *argv: object, **changes: str) -> subprocess.CompletedProcess:
    """A finished benchmark/<argv>."""
    command, pipes = [copy / "benchmark" / str(argv[0]), *map(str, argv[1:])], dict(capture_output=True, text=True)
    return subprocess.run(command, env=options(**changes), cwd=copy.parent, **pipes, timeout=120, check=False)


def processes(copy: Path) -> list[str]:
    """Command lines of what runs in the copy."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if process.joinpath("cwd").resolve(strict=True) == copy:
                found.append(process.joinpath("cmdline").read_text().replace("\0", " "))
        except OSError:
            pass  # it has ended
    return found


def until(condition, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds} seconds"
        time.sleep(0.05)


def rows(copy: Path, name: str = RUN) -> int:
    """Whole rows of a run's metrics.csv."""
    metrics = copy / "runs" / name / "metrics.csv"
    return max(0, metrics.read_bytes().count(b"\n") - 1) if metrics.exists() else 0


def test_a_finished_sweep_is_skipped_also_with_track_but_not_with_other_flags(copy):
    first = sweep(copy, "reproduce.sh", *FLAGS, **CELL)
    assert (first.returncode, rows(copy)) == (0, 2), first.stdout + first.stderr
    log = (copy / f"runs/{RUN}.log").read_text()
    for flags in ([], ["--track"]):
        for argv in ([*FLAGS, *flags], [*flags, *FLAGS]):
            again = sweep(copy, "reproduce.sh", *argv, **CELL)
            assert (again.returncode, again.stdout, again.stderr) == (0, "", "")
    assert (copy / f"runs/{RUN}.log").read_text() == log

    other = sweep(copy, "reproduce.sh", *FLAGS, "--gamma", "0.9", **CELL)
    assert other.returncode == 1
    assert other.stdout.startswith(f"runs/{RUN} was made with other arguments, see runs/{RUN}.args")


def test_a_sweep_made_with_track_before_it_was_left_out_of_args_is_skipped(copy):
    """The .args of sweeps up to now hold --track."""
    (copy / "runs" / RUN).mkdir(parents=True)
    (copy / "runs" / RUN / "evaluation.json").touch()
    listed = sweep(copy, "reproduce.sh", "--list", "--track", "--num-envs", "2", **CELL).stdout
    (copy / f"runs/{RUN}.args").write_text(listed.split(" ", 1)[1])
    for flags in (["--num-envs", "2"], ["--track", "--num-envs", "2"], ["--num-envs", "2", "--track"]):
        again = sweep(copy, "reproduce.sh", *flags, **CELL)
        assert (again.returncode, again.stdout, again.stderr) == (0, "", "")


def test_a_first_try_that_fails_does_not_block_the_corrected_one(copy):
    wrong = sweep(copy, "reproduce.sh", *FLAGS, "--gamma", "2", **CELL)
    assert wrong.returncode == 1
    assert f"not finished: runs/{RUN}.log: " in wrong.stdout
    assert "--gamma 2" in wrong.stdout
    right = sweep(copy, "reproduce.sh", *FLAGS, **CELL)
    assert (right.returncode, rows(copy)) == (0, 2), right.stdout
    assert "--gamma" not in (copy / f"runs/{RUN}.args").read_text()


def test_a_run_without_a_row_is_started_again_and_one_with_a_row_is_resumed(copy):
    """What the script is told where the folder of an earlier try is there; a stand-in for it notes that."""
    python = copy / "python"
    python.write_text('#!/bin/sh\necho "told $*"\nexit 1\n')
    python.chmod(0o755)
    folder = copy / "runs" / RUN
    folder.mkdir(parents=True)
    (folder / "config.json").touch()

    def told(*flags: str) -> str:
        sweep(copy, "reproduce.sh", *flags, **CELL, PYTHON=str(python))
        return (copy / f"runs/{RUN}.log").read_text().splitlines()[-1]

    assert told("--gamma", "2").endswith(f"--gamma 2 --run-name {RUN}")
    (folder / "metrics.csv").write_text("global_step,SPS\n")
    assert told().endswith(f"--total-timesteps 128 --run-name {RUN}")
    (folder / "metrics.csv").write_text("global_step,SPS\n64,1000\n")
    assert told() == f"told ppo_baseline.py --resume runs/{RUN}"
    refused = sweep(copy, "reproduce.sh", "--gamma", "0.9", **CELL, PYTHON=str(python))
    assert (refused.returncode, "made with other arguments" in refused.stdout) == (1, True)


@pytest.mark.parametrize("name", SWEEPS)
@pytest.mark.parametrize("flags", [["--help"], ["--track", "-h"]])
def test_help_prints_the_header_and_the_options_and_starts_nothing(copy, name, flags):
    process = sweep(copy, f"{name}.sh", *flags)
    assert (process.returncode, process.stderr) == (0, "")
    header = [line[2:] for line in (ROOT / f"benchmark/{name}.sh").read_text().splitlines()[1:] if line.startswith("# ")]
    assert process.stdout.splitlines()[0] == header[0]
    assert "?" in process.stdout.split("Options of every sweep:")[0]
    assert "SEEDS=" in process.stdout.split("Options of every sweep:")[1]
    assert "shellcheck" not in process.stdout
    assert not (copy / "runs").exists()


def test_help_of_what_is_no_sweep(copy):
    for flags in (["--help"], ["reproduce", "-h"], ["reproduce", "--", "--help"]):
        process = sweep(copy, "slurm.sh", *flags)
        assert (process.returncode, process.stderr) == (0, "")
        assert process.stdout.startswith("Submits the runs of a sweep")
    process = sweep(copy, "run.sh", "--help")
    assert (process.returncode, process.stdout) == (2, "")
    assert process.stderr.startswith("usage: benchmark/run.sh NAME SCRIPT")
    assert not (copy / "runs").exists()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (dict(TASKS="Nope"), "TASKS: there is no Nope, only: HalfCheetah-v4 LunarLander-v3 Ant-v4"),
        (dict(TASKS="Ant-v4 Nope"), "TASKS: there is no Nope, only: "),
        (dict(VARIANTS="Nope"), "VARIANTS: there is no Nope, only: ppo-cleanrl ppo-matched prefpoe "),
        (dict(VARIANTS="ppo prefpo*"), "VARIANTS: there is no prefpo*, only: "),
        (dict(SEEDS="a"), 'SEEDS=a: give numbers, as in SEEDS="1 2 3"'),
        (dict(SEEDS="1,2"), "SEEDS=1,2: give numbers"),
        (dict(SEEDS=" "), "there are no runs with these TASKS, VARIANTS and SEEDS"),
        (dict(WORKERS="0"), "WORKERS=0: give the number of runs"),
        (dict(WORKERS="x"), "WORKERS=x: give the number of runs"),
        (dict(STEPS="1e6"), "STEPS=1e6: give the number of environment steps"),
        (dict(PREFIX="a b"), "PREFIX=a b: give letters"),
        (dict(PYTHON="/no/such python"), "there is no program /no/such python: "),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(copy, changes, says):
    process = sweep(copy, "reproduce.sh", **changes)
    assert (process.returncode, process.stdout) == (2, "")
    assert re.fullmatch(r"benchmark/(reproduce|workers)\.sh: " + re.escape(says) + ".*\n", process.stderr)
    assert not (copy / "runs").exists()


@pytest.mark.parametrize("text", ["my name", "a  'b' \"c\" $HOME ; & \\ *", " end ", ""])
def test_a_flags_value_is_one_word_whatever_it_holds(copy, text):
    """In what the script is told; a stand-in for it notes that."""
    python = copy / "a python"
    python.write_text('#!/bin/sh\nprintf "<%s>\\n" "$@"\n')
    python.chmod(0o755)
    sweep(copy, "reproduce.sh", "--exp-name", text, **CELL, PYTHON=str(python))
    told = (copy / f"runs/{RUN}.log").read_text().splitlines()
    assert told[-4:] == ["<--exp-name>", f"<{text}>", "<--run-name>", f"<{RUN}>"]
    listed = sweep(copy, "reproduce.sh", "--list", "--exp-name", text, **CELL).stdout
    assert shlex.split(listed)[-2:] == ["--exp-name", text]
    assert shlex.split((copy / f"runs/{RUN}.args").read_text()) == shlex.split(listed)[1:]


def test_two_sweeps_at_once_train_a_run_once(copy):
    both = [
        subprocess.Popen(
            [copy / "benchmark/reproduce.sh", *FLAGS],
            env=options(**CELL | {"STEPS": "2048"}),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for _ in range(2)
    ]
    output = "".join(process.communicate(timeout=120)[0] for process in both)
    assert [process.returncode for process in both] == [0, 0], output
    assert output.count(f"{RUN} finished") == 1
    assert output.count(f"{RUN}: waiting for another sweep") == 1
    assert [int(row["global_step"]) for row in read_metrics(copy / "runs" / RUN)] == list(range(64, 2049, 64))


LONG = CELL | dict(SEEDS="1 2", STEPS="1000000", WORKERS="1")


def stop_and_check(process: subprocess.Popen, copy: Path, stop, code: int) -> None:
    """Stop a sweep of LONG in its first run: that one has its checkpoint, and no other starts."""
    until(lambda: rows(copy) > 2)
    stop()
    assert process.wait(30) == code
    assert processes(copy) == []
    assert "stopped at step" in (copy / f"runs/{RUN}.log").read_text()
    assert not (copy / "runs/LunarLander-v3__ppo__2.log").exists()
    done = rows(copy)
    time.sleep(1)
    assert rows(copy) == done


def test_ctrl_c_stops_a_sweep_and_its_runs_and_it_goes_on_when_started_again(copy):
    """In a terminal of its own, whose every process gets the signal."""
    master, terminal = pty.openpty()

    def control():
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    command, env = [copy / "benchmark/reproduce.sh", *FLAGS], options(**LONG)
    output = dict(stdin=terminal, stdout=terminal, stderr=terminal)
    with subprocess.Popen(command, env=env, **output, preexec_fn=control) as process:
        stop_and_check(process, copy, lambda: os.write(master, b"\x03"), 130)
    assert b"stopped; start it again to go on" in os.read(master, 4096)
    before = (copy / "runs" / RUN / "metrics.csv").read_bytes()

    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE) as process:
        until(lambda: rows(copy) > before.count(b"\n") + 1)
        process.send_signal(signal.SIGINT)
        process.wait(30)
    assert (copy / "runs" / RUN / "metrics.csv").read_bytes().startswith(before)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 143), (signal.SIGINT, 130)])
def test_a_signal_to_the_sweep_alone_stops_its_runs_too(copy, number, code):
    command = [copy / "benchmark/reproduce.sh", *FLAGS]
    with subprocess.Popen(command, env=options(**LONG), stdout=subprocess.DEVNULL) as process:
        stop_and_check(process, copy, lambda: process.send_signal(number), code)
