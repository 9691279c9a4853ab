"""Turn a finished run into pretrained/<task>.pt: weights, observation statistics, arguments, and what it evaluates to.

python benchmark/release.py runs/Ant-v4__prefpoe__1
"""

import json
from pathlib import Path

import torch
import tyro
from report import ROOT, fail

KEPT = ("agent", "obs_stats", "args", "iteration", "explained_variance", "trust")  # trust: its former name


def main(run: tyro.conf.Positional[Path]) -> None:
    if not (run / "evaluation.json").exists():
        fail(f"{run} is no finished run, it has no evaluation.json")
    checkpoint = torch.load(run / "checkpoint.pt", weights_only=True)
    agent = {name: checkpoint[name] for name in KEPT if name in checkpoint}
    evaluation = json.loads((run / "evaluation.json").read_text(encoding="utf-8"))
    agent["evaluation"] = {"mean": evaluation["mean"], "std": evaluation["std"]}
    torch.save(agent, ROOT / "pretrained" / f"{agent['args']['env_id']}.pt")


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
