"""Turn finished runs into the CSV files, tables and figures of benchmark/results/.

    python benchmark/report.py runs/*            # take in every finished run, then write tables.md and figures
    python benchmark/report.py                   # only write these again, from the CSV files
    python benchmark/report.py --update-readme   # and the tables of README.md and of benchmark/results/README.md
    python benchmark/report.py runs/Ant-v4__mine__1 --commit 221185a   # a run made without a sweep

A run is a folder [prefix]<task>__<variant>__<seed>, as the sweeps name it; it replaces one of that name taken in before.
All runs of a variant on one task must have the same script and flags. Each task, and each length other than 1,000,000
steps, has two files: <task>_evaluations.csv (a row a run) and <task>_curves.csv (up to 50 rows a run).
"""

import importlib
import io
import json
import math
import os
import re
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np
import pandas as pd
import tyro
from figures import make_figures
from tables import MEASURES, Frames, make_tables, runs_of

ROOT = Path(__file__).resolve().parent.parent
RUN = ["variant", "seed"]
BOOKKEEPING = {"seed", "run_name", "resume", "evaluate", "compile", "eval_episodes", "capture_video", "track"}
BOOKKEEPING |= {"wandb_project_name", "wandb_entity", "versions", "id"}
AVERAGED = ["episodic_return", "eval_return", "entropy_main", "entropy_pref", "entropy_fused"]
AVERAGED += ["trace_main", "trace_pref", "trace_fused", "kl_fused_pref", "guidance"]
AVERAGED += ["A_z2", "A_z2_own", "modes_pref"]  # of SAC, and of several modes
VERSIONS = ["torch", "gymnasium", "mujoco"]
COLUMNS = {  # of <task>_<kind>.csv
    "evaluations": [*RUN, "global_step", *MEASURES, "evaluation_std", "SPS", *VERSIONS, "commit", "args", "returns"],
    "curves": [*RUN, "global_step", *AVERAGED],
}
TEXT = ["variant", *VERSIONS, "commit", "args", "returns"]  # the columns of these that hold no numbers
RESULTS = ROOT / "benchmark" / "results"
PAGES = (ROOT / "README.md", RESULTS / "README.md")


@dataclass
class Args:
    folders: tyro.conf.Positional[tuple[Path, ...]] = ()
    """run folders to take in; whatever is no finished run is skipped"""
    results: Path = RESULTS
    """folder of the CSV files, tables and figures"""
    commit: str = ""
    """commit of the runs whose sweep has not written it down in <run>.commit"""
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


def read_metrics(folder: Path) -> pd.DataFrame:
    """metrics.csv, a row an iteration; without what a run under way has half written, and empty before its first row."""
    path = folder / "metrics.csv"
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    whole = text[: text.rfind("\n") + 1]
    return pd.read_csv(io.StringIO(whole)) if whole else pd.DataFrame()


def read_config(folder: Path) -> dict:
    """A run's arguments and versions."""
    with reading(folder / "config.json"):
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return config | {name: int(config[name]) for name in ("seed", "total_timesteps")}


def thinned(metrics: pd.DataFrame, size: int) -> pd.DataFrame:
    """Rows of metrics.csv averaged over bins of so many iterations; global_step is a bin's middle."""
    return metrics.groupby(np.arange(len(metrics)) // size).mean()


def parse_name(folder: Path, config: dict) -> tuple[str, str, str] | None:
    """Task, variant and seed; None where the folder is named otherwise than its run. A length other than 1M is part of
    the task."""
    parts = re.fullmatch(r'(.+)__([^,"]+)__(\d+)', folder.name)
    env_id = str(config["env_id"]).rpartition(":")[2].replace("/", "_")
    if not parts or int(parts[3]) != config["seed"] or not parts[1].endswith(env_id):
        return None
    steps = config["total_timesteps"]
    return parts[1] + (f"-{steps}-steps" if steps != 1_000_000 else ""), parts[2], parts[3]


# CSV files, whose cells stay text until they are counted with, so that a file written again keeps every digit


def short(x: float) -> str:
    """Five significant digits; an empty cell for nan."""
    return "" if math.isnan(x) else f"{x:.5g}"


def script_and_flags(folder: Path, config: dict) -> str:
    """As the run's sweep wrote them down in <run>.args; else what of its config.json differs from the script's defaults.

    The flags are sorted, without the task, the length and BOOKKEEPING.
    """
    path = folder.with_name(f"{folder.name}.args")
    if path.exists():
        script, *words = shlex.split(path.read_text(encoding="utf-8"))
    else:
        sys.path[:0] = [str(ROOT), str(ROOT / "open_questions")]
        try:
            module = importlib.import_module(config["exp_name"])
        except ImportError:
            fail(f"{folder}: there is no {config['exp_name']}.py here: write script and flags into {path}")
        script, words = os.path.relpath(module.__file__, ROOT), []
        defaults = vars(module.parse_args(["--env-id", config["env_id"]]))
        for name in [name for name in defaults if config.get(name, defaults[name]) != defaults[name]]:
            value = config[name]
            words.append(f"--no-{name}" if value is False else f"--{name}")
            if not isinstance(value, bool):
                words.append(f"{value:g}" if isinstance(value, float) else str(value))
    flags = {}  # by name, so that of a flag given twice the last counts
    for word in words:
        if word.startswith("--"):
            flag, *value = word.split("=", 1)
            flag = flag.replace("_", "-")
            name = flag.removeprefix("--").removeprefix("no-").replace("-", "_")
            flags[name] = [flag, *value]
        else:
            flags[name].append(word)
    kept = [flags[name] for name in flags.keys() - BOOKKEEPING - {"env_id", "total_timesteps", "exp_name"}]
    return shlex.join([script, *(word for words in sorted(kept) for word in words)])


def rows_of_run(folder: Path, commit: str) -> tuple[str, pd.DataFrame, pd.DataFrame] | None:
    """A finished run's task, row of evaluations and rows of curves; None where its name is no sweep's."""
    config = read_config(folder)
    if not (parts := parse_name(folder, config)):
        return None
    task, run = parts[0], dict(zip(RUN, parts[1:], strict=True))
    with reading(folder / "metrics.csv"):
        metrics = read_metrics(folder)
        last = metrics["global_step"].iloc[-1]
    with reading(folder / "evaluation.json"):
        evaluation = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
        if last != evaluation["global_step"]:
            raise ValueError(f"it is of step {evaluation['global_step']}, but metrics.csv ends at {last}")
        row = run | {
            "global_step": str(int(evaluation["global_step"])),
            "evaluation": repr(float(evaluation["mean"])),
            "evaluation_std": repr(float(evaluation["std"])),
            "training_return": short(metrics["episodic_return"].tail(max(1, len(metrics) // 10)).mean()),
            "SPS": short(metrics["SPS"].median()),
            "returns": ";".join(repr(float(x)) for x in evaluation["returns"]),
        }
    path = folder.with_name(f"{folder.name}.commit")  # by its sweep
    if path.exists():
        commit = " ".join(path.read_text(encoding="utf-8").split())
    if not commit:
        fail(f"{path} is missing: name the commit that the run was made at with --commit")
    row |= {name: config.get("versions", {}).get(name, "") for name in VERSIONS}
    row |= {"commit": commit, "args": script_and_flags(folder, config)}
    means = thinned(metrics, math.ceil(len(metrics) / 50)).reindex(columns=["global_step", *AVERAGED])
    curve = means.map(short).assign(**run, global_step=means["global_step"].map("{:.0f}".format))
    return task, pd.DataFrame([row])[COLUMNS["evaluations"]], curve[COLUMNS["curves"]]


def read_results(results: Path, kind: str, text: bool = False) -> Frames:
    """Every <task>_<kind>.csv, by task, its numbers as numbers or as text."""
    tables = {}
    for path in sorted(results.glob(f"*_{kind}.csv")):
        try:
            cells = pd.read_csv(path, dtype=str, keep_default_na=False)
            if [*cells.columns] != COLUMNS[kind]:
                raise ValueError(f"its columns are not {', '.join(COLUMNS[kind])}")
            if (cells[[*RUN, "global_step"]] == "").any(axis=None):
                raise ValueError("a line of it is of no run or no step")
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


def take_in(folders: tuple[Path, ...], results: Path, commit: str) -> None:
    """Bring the finished runs into the CSV files; says which others it skipped and whose rows changed."""
    found = {}  # by task, and there by variant and seed
    skipped = []
    for folder in folders:
        if not folder.exists():
            fail(f"{folder}: there is no such folder; give run folders, such as runs/*")
        run = rows_of_run(folder, commit) if (folder / "evaluation.json").exists() else None
        if run:
            task, *rows = run
            found.setdefault(task, {})[tuple(rows[0][RUN].iloc[0])] = rows
        elif (folder / "config.json").exists():  # and else no run at all
            skipped.append(folder.name)
    if skipped:
        print(f"skipped, unfinished or not <task>__<variant>__<seed>: {', '.join(skipped)}", file=sys.stderr)
    if folders and not found:
        fail("no finished run <task>__<variant>__<seed> is among the folders; give run folders, such as runs/*")
    old = {kind: read_results(results, kind, text=True) for kind in COLUMNS}
    for task, runs in found.items():
        for kind, new in zip(COLUMNS, zip(*runs.values(), strict=True), strict=True):
            new = pd.concat(new)
            rows = old[kind].get(task, new[:0])
            same = rows.set_index(RUN).index.isin([*runs])
            if kind == "evaluations":
                changed = pd.concat([rows[same], new]).drop_duplicates(keep=False)
                for run in changed[changed.duplicated(RUN)][RUN].to_numpy():
                    print(f"replaced rows that were there: {'__'.join((task, *run))}", file=sys.stderr)
            old[kind][task] = pd.concat([rows[~same], new])
        known = old["evaluations"][task].query("args != ''")  # those of old rows may be unknown
        for variant, args in known.groupby("variant")["args"]:
            if args.nunique() > 1:
                runs_of_both = " and of ".join(args.unique())
                fail(f"{variant} on {task} would have runs of {runs_of_both}: name one of them otherwise")
    for task in found:
        for kind in COLUMNS:
            write_rows(results, task, kind, old[kind][task])


# Pages


def fill_in(path: Path, tables: dict[str, str]) -> str:
    """The file's text with a table between each <!-- report: NAME --> and <!-- /report -->."""

    def block(match: re.Match) -> str:
        name = match[1]
        if name not in tables:
            fail(f"{path}: there is no table {name}; there are: {', '.join(tables)}")
        return f"<!-- report: {name} -->\n\n{tables[name] or '*No such runs yet.*'}\n\n<!-- /report -->"

    text = path.read_text(encoding="utf-8")
    return re.sub(r"<!-- report: (\S+) -->.*?<!-- /report -->", block, text, flags=re.DOTALL)


def main(args: Args) -> None:
    if args.update_readme and args.results.resolve() != RESULTS:
        fail("--update-readme writes of what is in benchmark/results: leave out --results")
    take_in(args.folders, args.results, args.commit)
    evaluations, curves = (read_results(args.results, kind) for kind in COLUMNS)
    if not evaluations:
        fail(f"{args.results} holds no results yet: give run folders, such as runs/*")
    if evaluations.keys() != curves.keys():
        fail(f"{args.results}: every task needs both files; {', '.join(evaluations.keys() ^ curves.keys())} has one")
    runs = runs_of(evaluations, curves)
    tables = make_tables(runs)
    filled = {path: fill_in(path, tables) for path in PAGES if args.update_readme}
    filled[args.results / "tables.md"] = fill_in(RESULTS / "tables.md", tables)
    for path, text in filled.items():
        path.write_text(text, encoding="utf-8")
        print(path)
    figures = make_figures(runs, curves) if args.figures else {}
    for name, draw in figures.items():
        draw().savefig(args.results / f"{name}.png", metadata={"Software": None})


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
