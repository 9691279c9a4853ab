"""How fast are the scripts, and where does the time go? Prints a Markdown table, then the same as JSON.

    python benchmark/speed.py                                       # every script and task, about 12 minutes
    python benchmark/speed.py --cells prefpoe_continuous:Ant-v4 --steps 40960
    python benchmark/speed.py --peer cleanrl/ppo_continuous_action.py --peer-python ../cleanrl/.venv/bin/python
    python benchmark/speed.py --cells prefpoe_sac:HalfCheetah-v4:learning-starts=256 --steps 4000 \
        --peer cleanrl/sac_continuous_action.py --peer-steps 3072 --turns 2

Each cell is one process on one thread that trains and, after each iteration, steps the environment alone 1,000 times,
so that `ratio` compares rates of the same process and the same minute. Rates leave out the first iteration, which
compiles and is in `start-up`, the seconds from the process's start to the end of the first iteration on an empty
compile cache; `10k steps` is a whole run of 10,240 steps, likewise. Training runs with all diagnostics and the
default evaluations. The split comes from a second, timed training in that process; diagnostics are a part of the
update. Memory is the peak, and what was added after the third iteration. A peer is any script that, as CleanRL's,
takes --env-id, --seed and --total-timesteps and prints `SPS: <number>`, its own rate; ours beside it is from the end
of the first iteration. Of the cell's further flags it gets those that its text names.
"""

import collections
import contextlib
import csv
import dataclasses
import importlib.metadata
import io
import json
import os
import platform
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import numpy as np
import tyro

ROOT = Path(__file__).resolve().parent.parent
NAMES = ("ppo_baseline", "prefpoe_continuous", "prefpoe_lunarlander")
QUESTIONS = ("open_questions/prefpoe_multimodal", "open_questions/prefpoe_sac")
SCRIPTS = {Path(name).name: ROOT / f"{name}.py" for name in (*NAMES, *QUESTIONS)}
WHOLE_RUN = 10_240  # environment steps


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
    """environment steps of each training"""
    peer: str = ""
    """script to compare with, in turn, on the task of each cell"""
    peer_python: str = sys.executable
    """interpreter of the peer"""
    peer_steps: int = 20_480
    """environment steps of each turn of the peer and of the script beside it"""
    turns: int = 5
    """pairs of turns"""
    worker: bool = False
    """measure the one cell in this process (the program calls itself so)"""


def fail(message: str) -> NoReturn:
    """End the program with one line on stderr."""
    print("error: " + " ".join(message.split()), file=sys.stderr)
    raise SystemExit(2)


def check_cell(cell: str, steps: int) -> None:
    """Exit with one line where the cell names nothing that can be measured in so many steps."""
    import gymnasium as gym

    name, *rest = cell.split(":")
    if name not in SCRIPTS or not rest:
        fail(f"--cells {cell}: give script:task and, behind further colons, flags; scripts are {', '.join(SCRIPTS)}")
    task, *flags = rest
    try:
        gym.spec(task)
    except (gym.error.Error, ImportError) as error:
        fail(f"--cells {cell}: {error}")
    sys.path.insert(0, str(SCRIPTS[name].parent))
    script, said = importlib.import_module(name), io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            args = script.parse_args(["--env-id", task, *(f"--{flag}" for flag in flags)])
    except SystemExit:
        lines = [line.strip("│| ") for line in said.getvalue().splitlines() if re.search("[a-z]", line)]
        lines = [line for line in lines if line.startswith("error: ")] or lines[1:]  # tyro draws a box with a title
        fail(f"--cells {cell}: {lines[0].removeprefix('error: ')}")
    batch_size = args.num_envs * args.num_steps
    if steps < 3 * batch_size:
        fail(f"--steps {steps}: give at least {3 * batch_size}, three iterations of {cell}")
    if batch_size > WHOLE_RUN:
        fail(f"--cells {cell}: give num-envs times num-steps of at most {WHOLE_RUN}")


def check_args(args: Args) -> None:
    """Exit with one line before anything is measured where an argument cannot work."""
    if args.turns < 1 or args.peer_steps < 2048:
        fail(f"--turns {args.turns} --peer-steps {args.peer_steps}: give at least 1 and 2048")
    if args.peer and not Path(args.peer).is_file():
        fail(f"--peer {args.peer}: there is no such file")
    if args.peer and not shutil.which(args.peer_python):
        fail(f"--peer-python {args.peer_python}: there is no such program")
    for cell in args.cells:
        check_cell(cell, args.steps)


def make_stepper(env_id: str, steps: int = 1_000) -> Callable[[], float]:
    """A function that steps an environment of its own with random actions, chosen here, and returns the seconds."""
    import gymnasium as gym

    env = gym.make(env_id)
    env.action_space.seed(0)
    actions = [env.action_space.sample() for _ in range(steps)]
    env.reset(seed=0)

    def step() -> float:
        start = time.perf_counter()
        for action in actions:
            _, _, terminated, truncated, _ = env.step(action)
            if terminated or truncated:
                env.reset()
        return time.perf_counter() - start

    return step


def rate(folder: Path) -> float:
    """Steps a second of a run, from the end of its first iteration."""
    with open(folder / "metrics.csv", newline="") as file:
        rows = [(int(row["global_step"]), float(row["seconds"])) for row in csv.DictReader(file)]
    return (rows[-1][0] - rows[0][0]) / (rows[-1][1] - rows[0][1])


def timed(script, totals: collections.Counter) -> None:
    """Wrap the parts of a script's iteration so that each adds its seconds to `totals`."""

    def wrap(owner, name: str, part: str) -> None:
        function = getattr(owner, name)

        def wrapper(*inputs, **options):
            start = time.perf_counter()
            evaluated = totals["evaluation"]
            result = function(*inputs, **options)
            totals[part] += time.perf_counter() - start
            if part == "logging":  # which evaluates now and then
                totals[part] -= totals["evaluation"] - evaluated
            return result

        setattr(owner, name, wrapper)

    def wrap_policy(name: str) -> None:
        policy = getattr(script, name)

        def timed_policy(*inputs):
            holder = type("Policy", (), {"act": policy(*inputs)})
            wrap(holder, "act", "acting")
            return holder.act

        setattr(script, name, timed_policy)

    if not hasattr(script, "explore"):  # that of SAC builds its policy anew at each step
        for name in {"numpy_policy", "torch_policy"} & vars(script).keys():
            wrap_policy(name)
    for owner, name, part in (
        (script, "explore", "acting"),
        (script.VecEnv, "step", "environment"),
        (script, "normalize_obs", "normalisation"),  # not of SAC, whose observations and rewards go in as they are
        (script, "scale_rewards", "normalisation"),
        (script, "diagnose", "diagnostics"),
        (script, "make_batch", "update"),
        (script, "update", "update"),
        (script, "evaluate", "evaluation"),
        (script.Log, "end_iteration", "logging"),
    ):
        if hasattr(owner, name):
            wrap(owner, name, part)


def measure(cell: str, args: Args) -> dict:
    """All figures of one cell, in this process, which the parent started at SPEED_START."""
    name, task, *flags = cell.split(":")
    sys.path.insert(0, str(SCRIPTS[name].parent))
    script = importlib.import_module(name)
    end_iteration = script.Log.end_iteration
    step_alone = make_stepper(task)
    written = []
    alone = []

    def end_and_note(log, *inputs):
        end_iteration(log, *inputs)
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        written.append((time.time(), pages * resource.getpagesize() / 2**20))
        alone.append(step_alone())
        log.started += alone[-1]  # for the run's clock it took no time

    script.Log.end_iteration = end_and_note
    flags = ["--env-id", task, "--total-timesteps", str(args.steps), *(f"--{flag}" for flag in flags)]
    script.main(script.parse_args([*flags, "--run-name", "plain"]))
    start_up, growth = written[0][0] - float(os.environ["SPEED_START"]), written[-1][1] - written[2][1]
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    sps, sps_alone = rate(Path("runs/plain")), 1_000 / np.mean(alone[1:])

    script.Log.end_iteration = end_iteration
    totals = collections.Counter()
    timed(script, totals)
    start = time.perf_counter()
    script.main(script.parse_args([*flags, "--run-name", "timed", "--eval-episodes", "1"]))
    wall = time.perf_counter() - start
    evaluation = totals.pop("evaluation")  # contains acting, environment and normalisation of its own
    diagnostics = totals.pop("diagnostics")
    split = {part: round(100 * seconds / sum(totals.values())) for part, seconds in totals.items()}
    return {
        "script": name,
        "task": " ".join([task, *cell.split(":")[2:]]),
        "sps": round(sps),
        "env_alone": round(sps_alone),
        "ratio": round(sps / sps_alone, 2),
        "split_percent": split,
        "evaluation_percent": round(100 * evaluation / wall),
        "diagnostics_percent": round(100 * diagnostics / wall, 1),
        "peak_mb": round(memory),
        "growth_mb": round(growth),
        "start_up_s": round(start_up, 1),
    }


def run(command: list[str], **options) -> str:
    """A finished command's stdout, run on one thread in the folder `cwd`."""
    environ = os.environ | {"OMP_NUM_THREADS": "1", "SPEED_START": str(time.time())}
    result = subprocess.run(command, env=environ, stdout=subprocess.PIPE, text=True, check=True, **options)
    return result.stdout


def against_peer(cell: str, args: Args) -> dict:
    """Steps a second of the script and of the peer, in turn, and the ratio pair by pair."""
    name, task, *more = cell.split(":")
    peer, ours, theirs = Path(args.peer).resolve(), [], []
    known = [flag for flag in more if re.search(rf"\b{flag.split('=')[0].replace('-', '_')}\b", peer.read_text())]
    for turn in range(args.turns):
        with tempfile.TemporaryDirectory() as folder:
            flags = ["--env-id", task, "--seed", str(turn + 1), "--total-timesteps"]
            script = [sys.executable, str(SCRIPTS[name]), *(f"--{flag}" for flag in more), *flags]
            run([*script, str(2 * args.peer_steps), "--run-name", "turn"], cwd=folder)
            ours.append(rate(Path(folder) / "runs/turn"))
            theirs_flags = [*(f"--{flag}" for flag in known), *flags, str(args.peer_steps)]
            output = run([args.peer_python, str(peer), *theirs_flags], cwd=folder)
            theirs.append(float(re.findall(r"SPS: *([0-9.]+)", output)[-1]))
    ratios = np.divide(ours, theirs)
    return {
        "peer": Path(args.peer).name,
        "peer_sps": round(np.median(theirs)),
        "sps_beside_peer": round(np.median(ours)),
        "peer_ratio_median": round(np.median(ratios), 1),
        "peer_ratio_range": [round(ratios.min(), 1), round(ratios.max(), 1)],
    }


def table(rows: list[dict]) -> str:
    parts = ("acting", "environment", "normalisation", "update", "logging")
    head = ["script", "task", "steps/s", "env alone", "ratio", *(f"{part} %" for part in parts), "diagnostics %"]
    head += ["peak MB", "added MB", "start-up s", "10k steps s"] + ["× peer (range)"] * any(
        "peer" in row for row in rows
    )
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for row in rows:
        values = [row["script"], row["task"], f"{row['sps']:,}", f"{row['env_alone']:,}", f"{row['ratio']:.2f}"]
        values += [row["split_percent"].get(part, 0) for part in parts] + [row["diagnostics_percent"]]
        values += [row["peak_mb"], row["growth_mb"], round(row["start_up_s"]), row["10k_steps_s"]]
        if "peer" in row:
            low, high = row["peer_ratio_range"]
            values.append(f"{row['peer_ratio_median']:.1f} ({low:.1f}–{high:.1f})")
        values += [""] * (len(head) - len(values))
        lines.append("| " + " | ".join(map(str, values)) + " |")
    return "\n".join(lines)


def machine() -> str:
    model = (
        re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text()) if Path("/proc/cpuinfo").exists() else None
    )
    cpu = model.group(1) if model else platform.processor()
    versions = " ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch", "gymnasium", "numpy"))
    return f"{cpu}, {os.cpu_count()} cores, one thread a run; Python {platform.python_version()}, {versions}"


def main(args: Args) -> None:
    if args.worker:
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            print(json.dumps(measure(args.cells[0], args)))
        return
    check_args(args)
    rows = []
    for cell in args.cells:
        command = [sys.executable, __file__, "--worker", "--cells", cell, "--steps", str(args.steps)]
        with tempfile.TemporaryDirectory() as cache:  # a cold start, as on a machine that never ran the script
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
            row = json.loads(run(command).splitlines()[-1])
        with tempfile.TemporaryDirectory() as cache, tempfile.TemporaryDirectory() as folder:
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
            name, task, *flags = cell.split(":")
            flags = ["--env-id", task, "--total-timesteps", str(WHOLE_RUN), *(f"--{flag}" for flag in flags)]
            start = time.perf_counter()
            run([sys.executable, str(SCRIPTS[name]), *flags], cwd=folder)
            row["10k_steps_s"] = round(time.perf_counter() - start)
        del os.environ["TORCHINDUCTOR_CACHE_DIR"]
        if args.peer:
            try:
                row |= against_peer(cell, args)
            except (subprocess.CalledProcessError, IndexError):
                print(f"no comparison on {cell}: the peer failed, or printed no SPS: <number>", file=sys.stderr)
        rows.append(row)
        print(f"measured {cell}: {rows[-1]['sps']} steps/s", file=sys.stderr)
    print(table(rows))
    print(f"\n{machine()}\n")
    print(json.dumps({"machine": machine(), "rows": rows}, indent=1))


if __name__ == "__main__":
    try:
        main(tyro.cli(Args, description=__doc__))
    except subprocess.CalledProcessError as error:  # one of our scripts: it has said why
        raise SystemExit(error.returncode if error.returncode > 0 else 128 - error.returncode) from None
