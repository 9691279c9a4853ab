"""How fast are the scripts, and where does the time go? Prints a Markdown table, a row as soon as it is measured.

    python benchmark/speed.py                                       # every script and task, about 8 minutes
    python benchmark/speed.py --cells prefpoe_continuous:Ant-v4 --steps 40960
    python benchmark/speed.py --peer ../cleanrl/cleanrl/ppo_continuous_action.py --peer-python ../cleanrl/.venv/bin/python

Each cell is a process on one thread, which after each iteration steps the environment alone 1,000 times, so that `ratio`
compares rates of the same minute. Rates and percentages leave out the first iteration, which compiles: `start-up` is the
seconds to its end, on an empty compile cache. Diagnostics are a part of the update.

A peer is any script that, as CleanRL's, takes --env-id, --seed and --total-timesteps. Of the cell's other flags it gets
those that its text names. Its CPU time is how much longer twice the steps take, in multiples of the script's.
"""

import collections
import dataclasses
import functools
import importlib
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import gymnasium as gym
import numpy as np
import pandas as pd
import tyro
from report import ROOT
from tables import table

sys.path[:0] = [str(ROOT), str(ROOT / "open_questions")]
PARTS = ("acting", "environment", "normalisation", "update")
FUNCTIONS = {"normalize_obs": "normalisation", "scale_rewards": "normalisation", "make_batch": "update"}
FUNCTIONS |= {"update": "update", "diagnose": "diagnostics"}


@dataclasses.dataclass
class Args:
    cells: tuple[str, ...] = (
        "ppo_baseline:HalfCheetah-v4",
        "prefpoe_continuous:HalfCheetah-v4",
        "prefpoe_continuous:HalfCheetah-v4:num-envs=8:num-steps=256",
        "ppo_baseline:Ant-v4",
        "prefpoe_continuous:Ant-v4",
        "ppo_baseline:LunarLander-v3",
        "prefpoe_lunarlander:LunarLander-v3",
    )
    """what to measure: script:task, and :flag=value for further flags of the script"""
    steps: int = 102_400
    """environment steps of each training, at least two iterations"""
    peer: str = ""
    """script to compare with, in turn, on the task of each cell"""
    peer_python: str = sys.executable
    """interpreter of the peer"""
    turns: int = 5
    """turns of the script and of the peer"""
    worker: bool = False
    """measure the one cell in this process (the program calls itself so)"""


def split(cell: str) -> tuple[str, list[str]]:
    """A cell's script and flags."""
    name, task, *more = cell.split(":")
    return name, ["--env-id", task, *(f"--{flag}" for flag in more)]


def make_stepper(env_id: str) -> Callable[[], float]:
    """A function that steps an environment of its own 1,000 times, with random actions, and returns the seconds."""
    env = gym.make(env_id)
    env.action_space.seed(0)
    actions = [env.action_space.sample() for _ in range(1_000)]
    env.reset(seed=0)

    def step() -> float:
        start = time.perf_counter()
        for action in actions:
            _, _, terminated, truncated, _ = env.step(action)
            if terminated or truncated:
                env.reset()
        return time.perf_counter() - start

    return step


def time_parts(script) -> collections.Counter:
    """Wrap the parts of a script's iteration, so that each adds its seconds to what is returned."""
    seconds = collections.Counter()

    def timed(function: Callable, part: str) -> Callable:
        @functools.wraps(function)
        def wrapper(*inputs, **options):
            start = time.perf_counter()
            result = function(*inputs, **options)
            seconds[part] += time.perf_counter() - start
            return result

        return wrapper

    def timed_policy(make_policy: Callable) -> Callable:
        return lambda *inputs: timed(make_policy(*inputs), "acting")

    script.VecEnv.step = timed(script.VecEnv.step, "environment")
    script.numpy_policy = timed_policy(script.numpy_policy)
    script.torch_policy = timed_policy(script.torch_policy)
    for name in FUNCTIONS.keys() & vars(script).keys():  # SAC lacks some
        setattr(script, name, timed(getattr(script, name), FUNCTIONS[name]))
    return seconds


def measure(cell: str, steps: int) -> dict[str, str]:
    """A row of the table, measured in this process, which the parent started at SPEED_START."""
    name, flags = split(cell)
    script = importlib.import_module(name)
    args = script.parse_args([*flags, "--total-timesteps", str(steps), "--eval-every", "0", "--run-name", "measured"])
    running = time_parts(script)
    step_alone = make_stepper(args.env_id)
    end_iteration = script.Log.end_iteration
    ends = []
    parts = []
    alone = []

    def end_and_step_alone(log, *inputs):
        end_iteration(log, *inputs)
        ends.append(time.time())
        parts.append(running.copy())
        alone.append(step_alone())
        log.started += alone[-1]  # for the run's clock it took no time

    script.Log.end_iteration = end_and_step_alone
    script.main(args)
    trained = pd.read_csv("runs/measured/metrics.csv")[["global_step", "seconds"]]
    steps_a_second = np.divide(*(trained.iloc[-1] - trained.iloc[0]))
    alone_a_second = 1_000 / np.mean(alone[1:])
    seconds = parts[-1] - parts[0]
    total = sum(seconds[part] for part in PARTS)
    row = {"script": name, "task": " ".join(cell.split(":")[1:])}
    row |= {"steps/s": f"{steps_a_second:,.0f}", "env alone": f"{alone_a_second:,.0f}"}
    row["ratio"] = f"{steps_a_second / alone_a_second:.2f}"
    row |= {f"{part} %": f"{100 * seconds[part] / total:.0f}" for part in PARTS}
    row["diagnostics %"] = f"{100 * seconds['diagnostics'] / total:.1f}"
    row["peak MB"] = f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f}"
    return row | {"start-up s": f"{ends[0] - float(os.environ['SPEED_START']):.0f}"}


def run(command: list[str], folder: str) -> str:
    """Stdout of a finished command, run on one thread in that folder."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "SPEED_START": str(time.time())}
    done = subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(done.returncode)  # the command has said why
    return done.stdout


def cpu_seconds(command: list[str], steps: int, folder: str) -> float:
    """CPU time by which a training of twice the steps takes longer."""
    clock = [os.times()]
    for length in (steps, steps, 2 * steps):  # the first fills caches
        run([*command, "--total-timesteps", str(length)], folder)
        clock.append(os.times())
    _, short, long = np.diff([x.children_user + x.children_system for x in clock])
    return long - short


def against_peer(cell: str, args: Args, folder: str) -> str:
    """How many times the script's CPU time the peer takes: the median over pairs of turns, and their range."""
    name, flags = split(cell)
    peer = Path(args.peer).resolve()
    text = peer.read_text(encoding="utf-8")
    known = [flag for flag in flags[2:] if re.search(rf"\b{flag[2:].split('=')[0].replace('-', '_')}\b", text)]
    module = importlib.import_module(name).__file__
    ratios = []
    for turn in range(1, args.turns + 1):
        ours = cpu_seconds([sys.executable, module, *flags, f"--seed={turn}", "--eval-every=0"], args.steps, folder)
        theirs = cpu_seconds([args.peer_python, str(peer), *flags[:2], *known, f"--seed={turn}"], args.steps, folder)
        ratios.append(theirs / ours)
    return f"{np.median(ratios):.1f} ({min(ratios):.1f}–{max(ratios):.1f})"


def main(args: Args) -> None:
    if args.worker:
        print(json.dumps(measure(args.cells[0], args.steps)))
        return
    for cell in args.cells:
        command = [sys.executable, __file__, "--worker", "--cells", cell, "--steps", str(args.steps)]
        with tempfile.TemporaryDirectory() as folder:  # with an empty cache, as on a machine that never ran the script
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder
            row = json.loads(run(command, folder).splitlines()[-1])
            if args.peer:
                row["peer's CPU time (range)"] = against_peer(cell, args, folder)
        head, rule, line = table([row]).splitlines()
        if cell == args.cells[0]:
            print(head, rule, sep="\n")
        print(line, flush=True)


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
