"""Turn a finished run into pretrained/<task>.pt: weights, observation statistics, arguments, and what it evaluates to.

python benchmark/release.py runs/Ant-v4__prefpoe__1
"""

import importlib
import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import tyro

ROOT = Path(__file__).resolve().parent.parent
KEPT = ("agent", "obs_stats", "args", "iteration", "explained_variance", "trust")  # trust: its former name


def main(run: tyro.conf.Positional[Path]) -> None:
    if not (run / "evaluation.json").exists():
        sys.exit(f"error: {run} is no finished run, it has no evaluation.json")
    checkpoint = torch.load(run / "checkpoint.pt", weights_only=True)
    args = checkpoint["args"]
    path = ROOT / "pretrained" / f"{args['env_id']}.pt"
    path.parent.mkdir(exist_ok=True)
    agent = {name: checkpoint[name] for name in KEPT if name in checkpoint}
    sys.path.insert(0, str(ROOT))
    try:
        script = importlib.import_module(args["exp_name"])
    except ImportError:
        sys.exit(f"error: {run} is of no script here: there is no {args['exp_name']}.py")
    new = path.with_suffix(".new")
    torch.save(agent, new)
    args = script.parse_args(["--evaluate", str(new)])
    env = script.make_env(args)
    learner = script.Learner(env, args)
    learner.load(args.evaluate, args)
    returns = script.evaluate(learner, env, args.eval_episodes, replace(args, **script.schedule(args, learner)))
    torch.save(agent | {"evaluation": {"mean": float(np.mean(returns)), "std": float(np.std(returns))}}, new)
    os.replace(new, path)


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
