"""Turn finished runs into the tables (tables.md) and figures of benchmark/results/.

    python benchmark/report.py runs/*                     # take in every finished run, then write tables and figures
    python benchmark/report.py                            # only write them again, from the CSV files in results/
    python benchmark/report.py --update-readme            # and write tables between the report marks of README.md and
                                                          # of benchmark/results/README.md

A run is a folder [prefix]<task>__<variant>__<seed>, as the sweeps name it. A run taken in before under the same name is
replaced, and all others stay, so sweeps can be taken in one after the other and from several machines. Tables and
figures depend on the CSV files alone: <task>_evaluations.csv (a row a run) and <task>_curves.csv (up to 50 rows a run).
Runs of other lengths than 1,000,000 steps get files of their own, so that they never mix.
"""

import io
import json
import math
import re
import sys
from collections.abc import Container, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np
import pandas as pd
import tyro
from figures import OVER_TASKS as FIGURES_OVER_TASKS
from figures import make_figures
from tables import DIFFERENCES, MEASURES, OVER_TASKS, Frames, compared, make_tables, sweeps

ROOT = Path(__file__).resolve().parent.parent
RUN = ["variant", "seed"]
BOOKKEEPING = {"seed", "run_name", "resume", "evaluate", "cuda", "compile", "eval_episodes", "checkpoint_every"}
BOOKKEEPING |= {"capture_video", "track", "wandb_project_name", "wandb_entity", "versions", "id"}
AVERAGED = ["episodic_return", "eval_return", "entropy_main", "entropy_pref", "entropy_fused"]
AVERAGED += ["trace_main", "trace_pref", "trace_fused", "kl_fused_pref", "guidance"]
AVERAGED += ["A_z2", "A_z2_own", "modes_pref"]  # of SAC, and of several modes
VERSIONS = ["torch", "gymnasium", "mujoco"]
COLUMNS = {  # of <task>_<kind>.csv
    "evaluations": [*RUN, "global_step", *MEASURES, "evaluation_std", "SPS", *VERSIONS, "returns"],
    "curves": [*RUN, "global_step", *AVERAGED],
}
TEXT = ["variant", *VERSIONS, "returns"]  # the columns of these that hold no numbers
FILLED = (ROOT / "README.md", ROOT / "benchmark" / "results" / "README.md")
EXPLANATION = """`python benchmark/report.py` writes this from the CSV files beside it; what it means is in [README.md](README.md).
Interquartile means over seeds, with 95 % bootstrap intervals, which are too narrow where seeds are few."""


@dataclass
class Args:
    folders: tyro.conf.Positional[tuple[Path, ...]] = ()
    """run folders to take in; whatever is no finished run is skipped"""
    results: Path = ROOT / "benchmark" / "results"
    """folder of the CSV files, tables and figures"""
    figures: bool = True
    """draw the figures"""
    update_readme: bool = False
    """write tables into README.md and benchmark/results/README.md, between <!-- report: NAME --> and <!-- /report -->"""


def fail(message: str) -> NoReturn:
    """End the program with one line on stderr."""
    print("error: " + " ".join(message.split()), file=sys.stderr)
    raise SystemExit(2)


# Runs


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Inside, whatever a damaged file of a run raises becomes one line that names the file."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = error if isinstance(error, ValueError) else repr(error)
        fail(f"{path}: {reason}; leave this run out, or remove it and train it again")


def read_cells(text: str) -> pd.DataFrame:
    """The cells of a CSV file as text, an empty one as ""; ValueError where a line is longer or shorter than the first."""
    widths = [line.count(",") for line in text.splitlines()]
    if wrong := [i for i, width in enumerate(widths, 1) if width != widths[0]]:
        raise ValueError(f"line {wrong[0]} has {widths[wrong[0] - 1] + 1} cells, but the first has {widths[0] + 1}")
    return pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False, skip_blank_lines=False)


def read_metrics(folder: Path, config: dict) -> pd.DataFrame:
    """metrics.csv as numbers, a row an iteration; without rows while a run's first iteration is under way.

    ValueError says what is broken. The last row of a run under way may be half-written, and is then left out.
    """
    finished, path = (folder / "evaluation.json").exists(), folder / "metrics.csv"
    text = path.read_text(encoding="utf-8") if finished or path.exists() else ""
    if not finished and not (text := text[: text.rfind("\n") + 1]):
        return pd.DataFrame()
    cells = read_cells(text)
    if missing := {"global_step", "episodic_return", "SPS"}.difference(cells.columns):
        raise ValueError(f"its first line names no column {min(missing)}")
    numbers = cells.apply(pd.to_numeric, errors="coerce")
    bad = (numbers.isna() & ((cells != "nan") | cells.columns.isin(["global_step", "SPS"]))).to_numpy()
    if bad.any():
        line, column = np.argwhere(bad)[0]
        raise ValueError(f"line {line + 2}: {cells.columns[column]} is {cells.iat[line, column]!r}, which is no number")
    size = config["num_envs"] * config["num_steps"]
    due = size * np.arange(1, config["total_timesteps"] // size + 1)
    for line, (step, expected) in enumerate(zip(numbers["global_step"], due, strict=False), 2):
        if step != expected:
            raise ValueError(f"line {line} is of step {step:.0f}, where that of step {expected} should be")
    if len(numbers) > len(due) or (finished and len(numbers) < len(due)):
        raise ValueError(f"it has {len(numbers)} iterations, but the run has {len(due)}")
    return numbers


def read_config(folder: Path) -> dict:
    """A run's arguments and versions."""
    with reading(folder / "config.json"):
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return config | {name: int(config[name]) for name in ("seed", "num_envs", "num_steps", "total_timesteps")}


def thinned(metrics: pd.DataFrame, size: int) -> pd.DataFrame:
    """Rows of metrics.csv averaged over bins of so many iterations; global_step is a bin's middle."""
    return metrics.groupby(np.arange(len(metrics)) // size).mean()


def parse_name(folder: Path, config: dict) -> tuple[str, str, str] | None:
    """Task, variant and seed; None where the folder is named otherwise than its run. A length other than 1M is part of
    the task."""
    parts = re.fullmatch(r'(.+)__([^,"]+)__(\d+)', folder.name)
    env_id = str(config["env_id"]).replace("/", "_")
    if not parts or int(parts[3]) != config["seed"] or not parts[1].endswith(env_id):
        return None
    steps = config["total_timesteps"]
    return parts[1] + (f"-{steps}-steps" if steps != 1_000_000 else ""), parts[2], parts[3]


# CSV files, whose cells stay text until they are counted with, so that a file written again keeps every digit


def short(x: float) -> str:
    """Five significant digits; an empty cell for nan."""
    return "" if math.isnan(x) else f"{x:.5g}"


def rows_of_run(folder: Path) -> tuple[str, pd.DataFrame, pd.DataFrame] | None:
    """A finished run's task, row of evaluations and rows of curves; None where its name is no sweep's."""
    config = read_config(folder)
    if not (parts := parse_name(folder, config)):
        return None
    task, run = parts[0], dict(zip(RUN, parts[1:], strict=True))
    with reading(folder / "metrics.csv"):
        metrics = read_metrics(folder, config)
    with reading(folder / "evaluation.json"):
        evaluation = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
        row = run | {
            "global_step": str(int(evaluation["global_step"])),
            "evaluation": repr(float(evaluation["mean"])),
            "evaluation_std": repr(float(evaluation["std"])),
            "training_return": short(metrics["episodic_return"].tail(max(1, len(metrics) // 10)).mean()),
            "SPS": short(metrics["SPS"].median()),
            "returns": ";".join(repr(float(x)) for x in evaluation["returns"]),
        }
    row |= {name: config.get("versions", {}).get(name, "") for name in VERSIONS}
    means = thinned(metrics, math.ceil(len(metrics) / 50)).reindex(columns=["global_step", *AVERAGED])
    curve = means.map(short).assign(**run, global_step=means["global_step"].map("{:.0f}".format))
    return task, pd.DataFrame([row])[COLUMNS["evaluations"]], curve[COLUMNS["curves"]]


def read_results(results: Path, kind: str, text: bool = False) -> Frames:
    """Every <task>_<kind>.csv, by task, its numbers as numbers or as text."""
    tables = {}
    for path in sorted(results.glob(f"*_{kind}.csv")):
        try:
            cells = read_cells(path.read_text(encoding="utf-8"))
            if [*cells.columns] != COLUMNS[kind]:
                raise ValueError(f"its columns are not {', '.join(COLUMNS[kind])}")
            numeric = [name for name in COLUMNS[kind] if name not in TEXT]
            numbers = cells.assign(**cells[numeric].replace("", "nan").astype(float))
        except ValueError as error:
            fail(f"{path}: {error}; remove it and take the runs in again")
        tables[path.name.removesuffix(f"_{kind}.csv")] = cells if text else numbers
    return tables


def write_rows(results: Path, task: str, kind: str, rows: pd.DataFrame) -> None:
    """Write <task>_<kind>.csv, run by run and step by step, whatever the order they came in."""
    results.mkdir(parents=True, exist_ok=True)
    rows = rows.sort_values([*RUN, "global_step"], key=lambda x: x if x.name == "variant" else x.astype(int))
    rows.to_csv(results / f"{task}_{kind}.csv", index=False, lineterminator="\n")


def take_in(folders: tuple[Path, ...], results: Path) -> None:
    """Bring the finished runs into the CSV files; says how many others it skipped."""
    tables = {kind: read_results(results, kind, text=True) for kind in COLUMNS}
    tasks, unfinished, misnamed, seen = set(), 0, 0, {}
    for folder in folders:
        if not folder.exists():
            fail(f"{folder}: there is no such folder; give run folders, such as runs/*")
        if not (folder / "evaluation.json").exists():
            unfinished += (folder / "config.json").exists()  # and else no run at all
        elif not (run := rows_of_run(folder)):
            misnamed += 1
        else:
            task, *rows_of = run
            check_twins(folder, (task, *rows_of[0][RUN].iloc[0]), seen)
            for kind, rows in zip(COLUMNS, rows_of, strict=True):
                old = tables[kind].get(task, rows[:0])
                same = (old[RUN] == rows[RUN].iloc[0]).all(axis=1)
                tables[kind][task] = pd.concat([old[~same], rows])
            tasks.add(task)
    if unfinished or misnamed:
        print(f"skipped: {unfinished} unfinished runs, {misnamed} not <task>__<variant>__<seed>", file=sys.stderr)
    if apart := [task for task in sorted(tasks) if not compared(task) and not task.startswith(("sac-", "long-"))]:
        print(f"in no table over tasks, by name or length: {', '.join(apart)}", file=sys.stderr)
    if folders and not tasks:
        fail("no finished run <task>__<variant>__<seed> is among the folders; give run folders, such as runs/*")
    for task in sorted(tasks):
        for kind in COLUMNS:
            write_rows(results, task, kind, tables[kind][task])


def check_twins(folder: Path, name: tuple[str, str, str], seen: dict) -> None:
    """Fail where a run of this task, variant and seed was there before, warn where those of other seeds are of another
    kind; `seen` holds the folders by name and the arguments of a variant's first run."""
    if seen.get(name, folder).resolve() != folder.resolve():
        fail(f"{seen[name]} and {folder} are both seed {name[2]} of {name[1]} on {name[0]}: leave one out")
    seen[name], config = folder, learned(read_config(folder))
    first = seen.setdefault(name[:2], (folder, config))
    differing = [key for key in config if config[key] != first[1].get(key, config[key])]
    if differing:
        print(f"warning: {first[0]} and {folder} differ in {', '.join(differing)}", file=sys.stderr)


def learned(config: dict) -> dict:
    """What of a run's arguments changes what is learned, and the checksum of its script."""
    script = (config.get("versions") or {}).get("script")
    return {key: x for key, x in config.items() if key not in BOOKKEEPING} | ({"script": script} if script else {})


# What is made of them


def show(name: str) -> str:
    """Markdown of a figure over tasks."""
    return f"![{FIGURES_OVER_TASKS[name]}]({name}.png)"


def fill_in(path: Path, tables: dict[str, str], figures: Container[str] = ()) -> str:
    """The file's text with a table between each <!-- report: NAME --> and <!-- /report -->, and with the figure over
    tasks of that name below; the file is in the figures' folder, if it shows any."""

    def block(match: re.Match) -> str:
        name = match[1]
        if name not in tables and name not in OVER_TASKS:
            fail(f"{path}: there is no table {name}; there are: {', '.join(tables)}")
        shown = f"\n\n{show(name)}" if name in FIGURES_OVER_TASKS and name in figures else ""
        return f"<!-- report: {name} -->\n\n{tables.get(name, '*No such runs yet.*')}{shown}\n\n<!-- /report -->"

    return re.sub(
        r"<!-- report: (\S+) -->.*?<!-- /report -->", block, path.read_text(encoding="utf-8"), flags=re.DOTALL
    )


def page(evaluations: Frames, tables: dict[str, str], figures: Iterable[str]) -> str:
    """tables.md: every table but those that only put some of their rows together, and task by task the figures."""
    lines = ["# Every table and figure", "", EXPLANATION, ""]
    for key in ("headline", *DIFFERENCES, "changes", "improvement", *FIGURES_OVER_TASKS):
        lines += [f"## {key}", "", tables[key], ""] if key in tables else []
        lines += [show(key), ""] if key in FIGURES_OVER_TASKS and key in figures else []
    for task, rows in evaluations.items():
        lines += [f"## {task}", ""]
        for sweep in sweeps({*rows["variant"]}):
            lines += [f"### {sweep}", "", tables[f"{task}-{sweep}"], ""]
            if sweep == "attribution" and (effects := tables.get(f"{task}-effects")):
                lines += ["### effects: the return that each ingredient adds", "", effects, ""]
        if experts := tables.get(f"{task}-experts"):
            lines += ["### experts: the policies over the last tenth of training", "", experts, ""]
        lines += [f"![{key}]({key}.png)\n" for key in figures if key.rpartition("_")[0] == task]
    return "\n".join(lines)


def main(args: Args) -> None:
    if args.update_readme and args.results.resolve() != FILLED[-1].parent:
        fail("--update-readme writes of what is in benchmark/results: leave out --results")
    take_in(args.folders, args.results)
    evaluations, curves = (read_results(args.results, kind) for kind in COLUMNS)
    if not evaluations:
        fail(f"{args.results} holds no results yet: give run folders, such as runs/*")
    tables = make_tables(evaluations, curves)
    figures = make_figures(evaluations, curves)
    text = page(evaluations, tables, figures)
    (args.results / "tables.md").write_text(text, encoding="utf-8")
    print(text)
    filled = {path: fill_in(path, tables, figures) for path in FILLED} if args.update_readme else {}
    for path, text in filled.items():
        path.write_text(text, encoding="utf-8")
    for key, draw in figures.items() if args.figures else ():
        draw().savefig(args.results / f"{key}.png", metadata={"Software": None})


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
