"""benchmark/speed.py on short trainings of two scripts, beside a peer that notes what it is asked, and takes long."""

import importlib
import itertools
import subprocess
import sys

import pytest
from conftest import ROOT, environment

sys.path.insert(0, str(ROOT / "benchmark"))
module = importlib.import_module("speed")

PPO = "num-steps=256:num-minibatches=4:update-epochs=1:no-compile:gamma=0.9"
CELLS = (
    f"prefpoe_continuous:InvertedPendulum-v4:{PPO}",
    f"prefpoe_lunarlander:LunarLander-v3:{PPO}",
)
PEER = """
import argparse, sys
parser = argparse.ArgumentParser()
for flag in ("env-id", "seed", "total-timesteps", "gamma"):
    parser.add_argument(f"--{flag}")
parser.parse_args()
print(*sys.argv[1:], file=open(f"{__file__}.asked", "a"))
sum(range(20_000 * int(sys.argv[-1])))
"""


def speed(*argv):
    argv = [sys.executable, ROOT / "benchmark/speed.py", *argv]
    return subprocess.run(argv, env=environment(), capture_output=True, text=True, timeout=240, check=False)


def test_every_part_takes_time_and_a_peer_runs_in_turn_with_the_flags_it_knows(tmp_path):
    peer = tmp_path / "peer.py"
    peer.write_text(PEER)
    done = speed("--cells", *CELLS, "--steps", "768", "--peer", peer, "--turns", "2")
    head, _, *lines = [line.strip("| ").split(" | ") for line in done.stdout.splitlines()]
    assert len(lines) == len(CELLS), done.stderr
    for line in lines:
        row = dict(zip(head, line, strict=True))
        shares = [float(row[f"{part} %"]) for part in ("acting", "environment", "normalisation", "update")]
        assert sum(shares) == pytest.approx(100, abs=2)
        assert min(shares[0], shares[1], shares[3]) > 0  # LunarLander-v3 has nothing to normalise
        rate, alone, ratio = (float(row[name].replace(",", "")) for name in ("steps/s", "env alone", "ratio"))
        assert ratio == pytest.approx(rate / alone, abs=0.006) and rate > 2
        median, low, high = (float(x.strip("()")) for x in row["peer's CPU time (range)"].replace("–", " ").split())
        assert low <= median <= high  # of so few steps mostly noise; what is counted: the test below
    asked = (tmp_path / "peer.py.asked").read_text().splitlines()
    runs = itertools.product(("InvertedPendulum-v4", "LunarLander-v3"), (1, 2), (768, 768, 1536))
    assert asked == [
        f"--env-id {task} --gamma=0.9 --seed={seed} --total-timesteps {steps}" for task, seed, steps in runs
    ]


def test_cpu_seconds_leaves_out_what_comes_before_and_after(tmp_path):
    """A program that works a millisecond a step, and a third of a second for its start."""
    peer = tmp_path / "peer.py"
    peer.write_text("import sys, time\nwhile time.process_time() < 0.3 + int(sys.argv[-1]) / 1000: pass")
    assert module.cpu_seconds([sys.executable, str(peer)], 400, str(tmp_path)) == pytest.approx(0.4, abs=0.1)


def test_sac_is_measured_too():
    cell = "prefpoe_sac:InvertedPendulum-v4:no-compile:num-steps=128:learning-starts=300"
    done = speed("--cells", cell, "--steps", "512")
    head, _, line = [line.strip("| ").split(" | ") for line in done.stdout.splitlines()]
    row = dict(zip(head, line, strict=True))
    assert float(row["acting %"]) > 0 and float(row["update %"]) > 50, done.stderr


def test_a_wrong_flag_ends_it_as_it_ends_the_script():
    done = speed("--cells", "ppo_baseline:InvertedPendulum-v4:gamma=3")
    assert done.returncode == 2 and "--gamma 3" in done.stderr and "Traceback" not in done.stderr
