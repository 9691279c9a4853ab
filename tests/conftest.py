"""The three scripts as modules, copies of them with changes, and a way to run them as a user does."""

import csv
import importlib
import importlib.util
import os
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
    return importlib.import_module(SCRIPTS[0])


@pytest.fixture(scope="session")
def discrete():
    return importlib.import_module(SCRIPTS[1])


@pytest.fixture(scope="session")
def baseline():
    return importlib.import_module(SCRIPTS[2])


@pytest.fixture(params=SCRIPTS)
def script(request):
    """Each of the three scripts in turn, as a module."""
    return importlib.import_module(request.param)


@pytest.fixture
def copied(tmp_path, monkeypatch):
    """`copied(name, (old, new), …)`: the script as a researcher has it who copied it and made these changes."""

    def copy(name, *changes):
        source = (ROOT / f"{name}.py").read_text()
        for old, new in changes:
            assert old in source
            source = source.replace(old, new)
        path = tmp_path / f"copy_of_{name}.py"
        path.write_text(source)
        spec = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
        return module

    return copy


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
        options = dict(cwd=cwd, env=environment(**changes), capture_output=True, text=True, timeout=240)
        return subprocess.run(command(script, *flags), check=False, **options)

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
    """The last line of results, wherever it stands."""
    (line,) = [line for line in stdout.splitlines() if line.startswith("evaluation: mean=")]
    return line
