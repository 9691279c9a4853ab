"""Turn a finished run into pretrained/<task>.pt: weights, observation statistics, arguments and its evaluation.

python benchmark/release.py runs/Ant-v4__prefpoe__1
"""

import json
import sys
from pathlib import Path

import torch
import tyro

KEPT = ("agent", "obs_stats", "args", "iteration", "trust")


def main(run: tyro.conf.Positional[Path]) -> None:
    try:
        checkpoint = torch.load(run / "checkpoint.pt", weights_only=True)
        evaluation = json.loads((run / "evaluation.json").read_text())
    except OSError as error:
        sys.exit(f"error: {run} is no finished run ({error})")
    agent = {name: checkpoint[name] for name in KEPT if name in checkpoint} | {"evaluation": evaluation}
    path = Path(__file__).resolve().parent.parent / "pretrained" / f"{agent['args']['env_id']}.pt"
    path.parent.mkdir(exist_ok=True)
    torch.save(agent, path)
    print(f"{path}: {path.stat().st_size / 1000:.0f} KB, evaluation {evaluation['mean']:.2f}")


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
