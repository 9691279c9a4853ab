"""The sweeps in benchmark/, as a user starts, repeats, mistypes and interrupts them."""

import contextlib
import fcntl
import importlib
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
from functools import partial
from pathlib import Path

import gymnasium as gym
import pytest
from conftest import ROOT, SCRIPTS, environment, read_metrics

SWEEPS = sorted(path.stem for path in (ROOT / "benchmark").glob("*.sh") if "\nrun_sweep " in path.read_text())
CELL = dict(TASKS="LunarLander-v3", VARIANTS="ppo", SEEDS="1")  # of reproduce.sh
FLAGS = "--no-compile --num-steps 64 --num-minibatches 2 --update-epochs 1 --eval-every 0 --eval-episodes 1"
FLAGS = [*FLAGS.split()]
RUN = "LunarLander-v3__ppo__1"


@pytest.fixture
def copy(tmp_path):
    """A copy of the scripts and sweeps, without runs; nothing that runs in it outlives the test."""
    shutil.copytree(ROOT / "benchmark", tmp_path / "benchmark", ignore=shutil.ignore_patterns("results"))
    for script in SCRIPTS:
        shutil.copy(ROOT / f"{script}.py", tmp_path)
    yield tmp_path
    while left := processes(tmp_path):
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.1)


def options(**changes: str) -> dict[str, str]:
    """This process's environment with the sweeps' options, those of one tiny run where not given."""
    return environment(**dict(PYTHON=sys.executable, STEPS="128", WORKERS="2") | changes)


def sweep(copy: Path, *argv: object, **changes: str) -> subprocess.CompletedProcess:
    """A finished benchmark/<argv>."""
    command, pipes = [copy / "benchmark" / str(argv[0]), *map(str, argv[1:])], dict(capture_output=True, text=True)
    return subprocess.run(command, env=options(**changes), cwd=copy.parent, **pipes, timeout=120, check=False)


def processes(copy: Path) -> list[int]:
    """What runs in the copy."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended
            if process.joinpath("cwd").readlink() == copy:
                found.append(int(process.name))
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
            assert (again.returncode, again.stderr) == (0, "")
    assert (copy / f"runs/{RUN}.log").read_text() == log

    other = sweep(copy, "reproduce.sh", *FLAGS, "--gamma", "0.9", **CELL)
    assert other.returncode == 2
    assert f"{RUN}.args" in other.stdout
    (copy / f"runs/{RUN}.args").unlink()  # of a folder that was copied here alone
    assert sweep(copy, "reproduce.sh", *FLAGS, **CELL).returncode == 2


def test_a_wrong_flag_stops_the_sweep_and_does_not_block_the_corrected_one(copy):
    for flag, value in {"--gamma": "2", "--nope": "3"}.items():
        wrong = sweep(copy, "reproduce.sh", *FLAGS, flag, value, **CELL | dict(SEEDS="1 2", WORKERS="1"))
        assert wrong.returncode == 2
        (line,) = [line for line in wrong.stdout.splitlines() if RUN in line]
        assert "[1/2]" in line and flag in line
        assert not (copy / "runs/LunarLander-v3__ppo__2.log").exists()
    right = sweep(copy, "reproduce.sh", *FLAGS, **CELL)
    assert (right.returncode, rows(copy)) == (0, 2), right.stdout
    assert "--nope" not in (copy / f"runs/{RUN}.args").read_text()


def stand_in(copy: Path, code: str) -> str:
    """A program in place of Python's."""
    python = copy / "a python"
    python.write_text(f"#!/bin/sh\n{code}\n")
    python.chmod(0o755)
    return str(python)


def test_a_sweep_counts_what_has_ended_and_goes_on_past_a_run_that_fails(copy):
    python = stand_in(copy, "echo 'step=1'\necho 'error: no room'\necho ---\ncase $* in *__2) exit 1 ;; esac")
    process = sweep(copy, "reproduce.sh", **CELL | dict(SEEDS="1\n 2\t3"), PYTHON=python)
    assert process.returncode == 1
    first, *ended, report, failed = process.stdout.splitlines()
    assert re.findall(r"\d+", first) == ["3", "2"]
    assert [line.split()[0] for line in ended] == ["[1/3]", "[2/3]", "[3/3]"]
    assert [line.endswith("error: no room") for line in sorted(ended, key=lambda line: "__2" in line)] == [0, 0, 1]
    assert "benchmark/report.py runs/*" in report
    assert re.findall(r"\S+__\d", failed) == ["LunarLander-v3__ppo__2"]


def test_a_run_without_metrics_is_started_again_and_one_with_metrics_is_resumed(copy):
    """What the script is told where the folder of an earlier try is there; a stand-in for it notes that."""
    python = stand_in(copy, 'echo "told $*"\nexit 1')
    folder = copy / "runs" / RUN
    folder.mkdir(parents=True)
    (folder / "config.json").touch()

    def told(*flags: str) -> str:
        sweep(copy, "reproduce.sh", *flags, **CELL, PYTHON=python)
        return (copy / f"runs/{RUN}.log").read_text().splitlines()[-1]

    assert told("--gamma", "2").endswith(f"--gamma 2 --run-name {RUN}")
    assert told().endswith(f"--total-timesteps 128 --run-name {RUN}")
    (folder / "metrics.csv").write_text("global_step,SPS\n64,1000\n")
    assert told() == f"told ppo_baseline.py --resume runs/{RUN} --no-track"
    assert told("--track") == f"told ppo_baseline.py --resume runs/{RUN} --track"
    assert sweep(copy, "reproduce.sh", "--gamma", "0.9", **CELL, PYTHON=python).returncode == 2


def test_the_commits_of_a_run_are_those_that_it_was_made_at(copy):
    def git(*argv: str) -> str:
        names = "-c", "user.name=a", "-c", "user.email=a@example.org"
        return subprocess.check_output(["git", *names, *argv], cwd=copy, text=True).strip()

    def commits(python: str) -> list[str]:
        sweep(copy, "reproduce.sh", **CELL, PYTHON=python)
        return (copy / f"runs/{RUN}.commit").read_text().split()

    row = f"echo global_step >runs/{RUN}/metrics.csv; echo 64 >>runs/{RUN}/metrics.csv"
    failing, training = stand_in(copy, "exit 1"), shutil.which("true")
    git("init", "--quiet")
    git("add", "benchmark")
    git("commit", "--quiet", "--message", "one")
    one = git("describe", "--always")
    assert commits(failing) == [one]
    with open(copy / "benchmark/README.md", "a") as file:
        file.write("changed\n")
    assert commits(stand_in(copy, f"mkdir -p runs/{RUN}; {row}; exit 1")) == [f"{one}-dirty"]  # a fresh start
    git("commit", "--quiet", "--all", "--message", "two")
    two = git("describe", "--always")
    for _ in range(2):
        assert commits(training) == [f"{one}-dirty", two]


@pytest.mark.parametrize("name", SWEEPS)
def test_help_prints_the_header_and_the_options_and_starts_nothing(copy, name):
    header = (ROOT / f"benchmark/{name}.sh").read_text().splitlines()[1]
    for flags in (["--help"], ["--track", "-h"]):
        process = sweep(copy, f"{name}.sh", *flags)
        assert (process.returncode, process.stderr) == (0, "")
        own, options = process.stdout.split("\nOptions ")
        assert f"# {own.splitlines()[0]}" == header
        assert "SEEDS=" in options and "shellcheck" not in process.stdout
    assert not (copy / "runs").exists()


MISTAKES = ["TASKS=Nope", "TASKS=Ant-v4 Nope", "VARIANTS=Nope", "VARIANTS=ppo prefpo*", "SEEDS=a", "SEEDS=1,2"]
MISTAKES += ["SEEDS=01 1", "SEEDS= ", "WORKERS=0", "WORKERS=x", "PREFIX=a b", "PREFIX=mine_", "STEPS=1e6"]
MISTAKES += ["PYTHON=/no/such python", "--env-id CartPole-v1", "--seed=3", "--run_name x", "--resume x"]


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_that_names_it(copy, mistake):
    flags = mistake.split() if mistake.startswith("--") else []
    option, _, value = mistake.partition("=")
    process = sweep(copy, "reproduce.sh", *flags, **({} if flags else {option: value}))
    assert (process.returncode, process.stdout, process.stderr.count("\n")) == (2, "", 1)
    assert option.split()[0] in process.stderr
    assert not (copy / "runs").exists()


@pytest.mark.parametrize("text", ["my name", "a  'b' \"c\" $HOME ; & \\ *", " end ", ""])
def test_a_flags_value_is_one_word_whatever_it_holds(copy, text):
    """In what the script is told; a stand-in for it notes that."""
    python = stand_in(copy, 'printf "<%s>\\n" "$@"')
    sweep(copy, "reproduce.sh", "--exp-name", text, **CELL, PYTHON=python)
    told = (copy / f"runs/{RUN}.log").read_text().splitlines()
    assert told[-4:] == ["<--exp-name>", f"<{text}>", "<--run-name>", f"<{RUN}>"]
    listed = sweep(copy, "reproduce.sh", "--list", "--exp-name", text, **CELL).stdout
    assert shlex.split(listed)[-2:] == ["--exp-name", text]
    assert shlex.split((copy / f"runs/{RUN}.args").read_text()) == shlex.split(listed)[1:]


def start(copy: Path, **options_and_pipes) -> subprocess.Popen:
    """benchmark/reproduce.sh, begun."""
    pipes = {name: value for name, value in options_and_pipes.items() if name.islower()}
    changes = {name: value for name, value in options_and_pipes.items() if name.isupper()}
    argv = [copy / "benchmark/reproduce.sh", *FLAGS]
    hear = partial(signal.signal, signal.SIGHUP, signal.SIG_DFL)  # bash cannot trap what nohup, around pytest, ignores
    return subprocess.Popen(argv, env=options(**changes), cwd=copy, **dict(preexec_fn=hear) | pipes)


def test_two_sweeps_at_once_train_a_run_once(copy):
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    both = [start(copy, **CELL | {"STEPS": "2048"}, **pipes) for _ in range(2)]
    output = "".join(process.communicate(timeout=120)[0] for process in both)
    assert [process.returncode for process in both] == [0, 0], output
    assert [int(row["global_step"]) for row in read_metrics(copy / "runs" / RUN)] == list(range(64, 2049, 64))


LONG = CELL | dict(SEEDS="1 2", STEPS="1000000", WORKERS="1")


def stop_and_check(process: subprocess.Popen, copy: Path, stop, code: int) -> None:
    """Stop a sweep of LONG in its first run: no other starts."""
    until(lambda: rows(copy) > 2)
    stop()
    assert process.wait(30) == code
    assert processes(copy) == []
    assert not (copy / "runs/LunarLander-v3__ppo__2.log").exists()


def test_ctrl_c_stops_a_sweep_and_its_runs_and_it_goes_on_when_started_again(copy):
    """In a terminal of its own, whose every process gets the signal."""
    master, terminal = pty.openpty()
    pipes = dict(stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True)
    process = start(copy, **LONG, **pipes, preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0))
    stop_and_check(process, copy, lambda: os.write(master, b"\x03"), 130)
    before = (copy / "runs" / RUN / "metrics.csv").read_bytes().splitlines()[:-1]  # the last may lack its checkpoint

    process = start(copy, **LONG, stdout=subprocess.PIPE)
    until(lambda: rows(copy) > len(before) + 2)
    process.terminate()
    assert process.wait(30) == 143
    assert (copy / "runs" / RUN / "metrics.csv").read_bytes().splitlines()[: len(before)] == before


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 143), (signal.SIGINT, 130)])
def test_a_signal_to_the_sweep_alone_stops_its_runs_too(copy, number, code):
    process = start(copy, **LONG, stdout=subprocess.DEVNULL)
    stop_and_check(process, copy, lambda: process.send_signal(number), code)


def test_prefpoe_names_the_script_for_a_tasks_kind_of_actions():
    """As the environments say, for every task of the sweeps and one with a name alike."""
    sys.path.insert(0, str(ROOT / "open_questions"))
    importlib.import_module("prefpoe_multimodal")  # registers MultiGoal-v0
    tasks = {words[words.index("--env-id") + 1] for name in SWEEPS for words in listed(name).values()}
    assert "BipedalWalker-v3" in tasks
    for task in [*tasks, "LunarLanderContinuous-v3"]:
        space = gym.make(task).action_space
        script = "prefpoe_lunarlander.py" if isinstance(space, gym.spaces.Discrete) else "prefpoe_continuous.py"
        shell = f"source benchmark/cells.sh && prefpoe {task}"
        assert subprocess.check_output(["bash", "-c", shell], cwd=ROOT, text=True) == f"{script}\n"


def listed(name: str) -> dict[str, list[str]]:
    """The words of a sweep's runs, by run."""
    lines = subprocess.check_output([ROOT / f"benchmark/{name}.sh", "--list"], env=options(STEPS=""), text=True)
    return {line.split()[0]: shlex.split(line)[1:] for line in lines.splitlines()}


def test_sweeps_mean_the_same_by_a_name_and_their_headers_count_their_runs():
    """A name stands for one training, or the second sweep that has it would be refused."""
    words = {}
    for name in SWEEPS:
        runs = listed(name)
        for run, argv in runs.items():
            assert words.setdefault(run, argv) == argv
        header = (ROOT / f"benchmark/{name}.sh").read_text().split("# shellcheck")[0].replace("\n#", "")
        assert re.search(rf"\b{len(runs)} runs of ", header), (name, len(runs))
