"""The three scripts as modules, and a way to run them as a user does, in a second process."""

import csv
import importlib
import os
import re
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SCRIPTS = ("prefpoe_continuous", "prefpoe_lunarlander", "ppo_baseline")
sys.path.insert(0, str(ROOT))


@pytest.fixture(scope="session")
def continuous():
    return importlib.import_module("prefpoe_continuous")


@pytest.fixture(scope="session")
def discrete():
    return importlib.import_module("prefpoe_lunarlander")


@pytest.fixture(scope="session")
def baseline():
    return importlib.import_module("ppo_baseline")


@pytest.fixture(params=SCRIPTS)
def script(request):
    """Each of the three scripts in turn, as a module."""
    return importlib.import_module(request.param)


def command(script: str, *flags: object) -> list[str]:
    return [sys.executable, str(ROOT / f"{script}.py"), *map(str, flags)]


def environment(**changes: str) -> dict[str, str]:
    """This process's environment with one thread, no W&B login, and `changes`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    return kept | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"} | changes


@pytest.fixture
def run(tmp_path):
    """`run(script, *flags)` runs a script in an empty folder and returns the finished process."""

    def run(script: str, *flags: object, cwd: Path = tmp_path, **changes: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            command(script, *flags),
            cwd=cwd,
            env=environment(**changes),
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )

    return run


@contextmanager
def own_signals():
    """Handlers as they were, whatever a run in this process sets."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def read_metrics(folder: Path) -> list[dict[str, str]]:
    with open(folder / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def evaluation_line(stdout: str) -> str:
    """The run's last result; after it come only the commands to go on with."""
    lines = stdout.splitlines()
    (at,) = [i for i, line in enumerate(lines) if line.startswith("evaluation: mean=")]
    assert all(re.match("(film|plot) it:  python ", line) for line in lines[at + 1 :])
    return lines[at]
