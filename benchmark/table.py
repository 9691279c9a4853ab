"""Print finished runs as a Markdown table, a row a variant: `python benchmark/table.py runs/compare__Ant-v4__*`.

A folder is named <sweep>__<task>__<variant>__<seed>. Evaluation is of the mean action after training; training
return is the mean over the last tenth of the iterations. Both are means over seeds with a 95 % t-interval.
"""

import csv
import json
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
from scipy import stats


def interval(values: list[float]) -> str:
    """Mean and half-width of the 95 % t-interval; no interval for a single value."""
    half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values) if len(values) > 1 else float("nan")
    return f"{np.mean(values):,.0f} ± {half:,.0f}"


def main(folders: list[str]) -> None:
    cells = defaultdict(list)
    for folder in map(Path, folders):
        if not (folder / "evaluation.json").exists():
            continue
        _, task, variant, seed = folder.name.split("__")
        evaluation = json.loads((folder / "evaluation.json").read_text())
        with open(folder / "metrics.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        training = np.nanmean([float(row["episodic_return"]) for row in rows[-max(1, len(rows) // 10) :]])
        cells[task, evaluation["global_step"], variant].append((int(seed), evaluation["mean"], training))
    print("| task | steps | variant | seeds | evaluation | training return | evaluation by seed |")
    print("|---|---|---|---|---|---|---|")
    for (task, steps, variant), runs in sorted(cells.items()):
        _, evaluations, trainings = zip(*sorted(runs), strict=True)
        by_seed = ", ".join(f"{value:,.0f}" for value in evaluations)
        row = [task, f"{steps:,}", variant, len(runs), interval(evaluations), interval(trainings), by_seed]
        print("| " + " | ".join(map(str, row)) + " |")


if __name__ == "__main__":
    main(sys.argv[1:])
