"""Turn finished runs into the CSV files, tables and figures of benchmark/results/.

    python benchmark/report.py runs/*            # take in every finished run, then write tables.md and figures
    python benchmark/report.py                   # only write these again, from the CSV files
    python benchmark/report.py --update-readme   # and the tables of README.md and of benchmark/results/README.md

A run is a folder [prefix]<task>__<variant>__<seed> of a sweep, which writes <folder>.args and <folder>.commit beside it.
It replaces a run of that name. All runs of a variant on one task must have the same script and flags. Each task and length
has two files: <task>_evaluations.csv (a row a run) and <task>_curves.csv (up to 50 rows a run).
"""

import io
import json
import math
import re
import sys
from itertools import product
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


def fail(message: str) -> NoReturn:
    """End the program with one line on stderr."""
    print("error: " + " ".join(message.split()), file=sys.stderr)
    raise SystemExit(2)


def read_metrics(folder: Path) -> pd.DataFrame:
    """metrics.csv, a row an iteration; without what a run under way has half written, and empty before its first row."""
    path = folder / "metrics.csv"
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    whole = text[: text.rfind("\n") + 1]
    return pd.read_csv(io.StringIO(whole)) if whole else pd.DataFrame()


def read_config(folder: Path) -> dict:
    """A run's arguments and versions."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return config | {name: int(config[name]) for name in ("seed", "total_timesteps")}


def task_of(folder: Path, config: dict) -> str:
    """With its prefix, and with a length other than 1M; empty if the folder is named otherwise than its run."""
    task, *rest = folder.name.split("__")
    env_id = str(config["env_id"]).rpartition(":")[2].replace("/", "_")
    if rest[1:] != [str(config["seed"])] or not task.endswith(env_id):
        return ""
    steps = config["total_timesteps"]
    return task if steps == 1_000_000 else f"{task}-{steps}-steps"


# CSV files, whose cells stay text until they are counted with, so that a file written again keeps every digit


def script_and_flags(args: str) -> str:
    """What a sweep wrote down, in one order: of a flag given twice the last, without the task, the length and BOOKKEEPING."""
    script, *flags = re.split(r"\s--", args.strip())
    kept = {}
    for flag in flags:
        name, *value = re.split("[ =]", flag, maxsplit=1)
        kept[name.removeprefix("no-").replace("-", "_")] = " ".join([f"--{name}", *value])
    names = kept.keys() - BOOKKEEPING - {"env_id", "total_timesteps", "exp_name"}
    return " ".join([script, *sorted(kept[name] for name in names)])


def rows_of_run(folder: Path) -> tuple[str, pd.DataFrame, pd.DataFrame] | None:
    """A finished run's task, row of evaluations and rows of curves; None if its name is no sweep's."""
    config = read_config(folder)
    task = task_of(folder, config)
    if not task:
        return None
    run = dict(zip(RUN, folder.name.split("__")[1:], strict=True))
    metrics = read_metrics(folder)
    evaluation = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    args, commits = (folder.with_name(f"{folder.name}.{x}").read_text(encoding="utf-8") for x in ("args", "commit"))
    last = metrics["global_step"].iloc[-1]
    if last != evaluation["global_step"]:
        raise ValueError(f"evaluated at step {evaluation['global_step']}, but metrics.csv ends at {last}")
    row = run | {
        "global_step": str(last),
        "evaluation": repr(float(evaluation["mean"])),
        "training_return": f"{metrics['episodic_return'].tail(max(1, len(metrics) // 10)).mean():.5g}",
        "evaluation_std": repr(float(evaluation["std"])),
        "SPS": f"{metrics['SPS'].median():.5g}",
        "commit": " ".join(commits.split()),
        "args": script_and_flags(args),
        "returns": ";".join(repr(float(x)) for x in evaluation["returns"]),
    }
    row |= {name: config.get("versions", {}).get(name, "") for name in VERSIONS}
    size = math.ceil(len(metrics) / 50)  # of a bin
    means = metrics.groupby(np.arange(len(metrics)) // size).mean().reindex(columns=["global_step", *AVERAGED])
    curve = (
        means.map("{:.5g}".format)
        .replace("nan", "")
        .assign(**run, global_step=means["global_step"].map("{:.0f}".format))
    )
    return task, pd.DataFrame([row])[COLUMNS["evaluations"]], curve[COLUMNS["curves"]]


def read_results(results: Path, kind: str, text: bool = False) -> Frames:
    """Every <task>_<kind>.csv, by task, its numbers as numbers or as text."""
    tables = {}
    for path in sorted(results.glob(f"*_{kind}.csv")):
        try:
            cells = pd.read_csv(path, dtype=str, keep_default_na=False)[COLUMNS[kind]]
            numeric = [name for name in COLUMNS[kind] if name not in TEXT]
            numbers = cells.assign(**cells[numeric].replace("", "nan").astype(float))
            numbers = numbers.astype({"seed": int, "global_step": int})
        except (ValueError, KeyError) as error:
            fail(f"{path}: {error}; remove it and take the runs in again")
        tables[path.name.removesuffix(f"_{kind}.csv")] = cells if text else numbers
    return tables


def write_rows(results: Path, task: str, kind: str, rows: pd.DataFrame) -> None:
    """Write <task>_<kind>.csv, run by run and step by step, whatever the order they came in."""
    results.mkdir(parents=True, exist_ok=True)
    rows = rows.sort_values([*RUN, "global_step"], key=lambda x: x if x.name == "variant" else x.astype(int))
    rows.to_csv(results / f"{task}_{kind}.csv", index=False, lineterminator="\n")


def take_in(folders: tuple[Path, ...], results: Path) -> None:
    """Bring the finished runs into the CSV files; says which others it skipped."""
    found = {}  # by task, and there by name
    skipped = []
    for folder in folders:
        if not folder.exists():
            fail(f"{folder}: there is no such folder; give run folders, such as runs/*")
        try:
            run = rows_of_run(folder) if (folder / "evaluation.json").exists() else None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            fail(f"{folder}: {type(error).__name__}: {error}; leave this run out, or remove it and train it again")
        if run:
            found.setdefault(run[0], {})[folder.name] = run[1:]
        elif (folder / "config.json").exists():  # and else no run at all
            skipped.append(folder.name)
    if skipped:
        print(f"skipped, unfinished or not <task>__<variant>__<seed>: {', '.join(skipped)}", file=sys.stderr)
    if folders and not found:
        fail("no finished run <task>__<variant>__<seed> is among the folders; give run folders, such as runs/*")
    tables = {kind: read_results(results, kind, text=True) for kind in COLUMNS}
    for task, runs in found.items():
        for kind, new in zip(COLUMNS, map(pd.concat, zip(*runs.values(), strict=True)), strict=True):
            old = tables[kind].get(task, new[:0])
            replaced = old.set_index(RUN).index.isin(new.set_index(RUN).index)
            changed = old[replaced].merge(new, how="left", indicator=True).query("_merge == 'left_only'")
            if kind == "evaluations" and len(changed):
                print(f"replaced on {task}: {' '.join(changed['variant'] + '__' + changed['seed'])}", file=sys.stderr)
            tables[kind][task] = pd.concat([old[~replaced], new])
        for variant, args in tables["evaluations"][task].groupby("variant")["args"]:
            if args.nunique() > 1:
                runs_of_both = " and of ".join(args.unique())
                fail(f"{variant} on {task} would have runs of {runs_of_both}: name one of them otherwise")
    for task, kind in product(found, COLUMNS):
        write_rows(results, task, kind, tables[kind][task])


# Pages


def fill_in(path: Path, tables: dict[str, str]) -> str:
    """The file's text with a table between each <!-- report: NAME --> and <!-- /report -->."""

    def block(match: re.Match) -> str:
        return f"<!-- report: {match[1]} -->\n\n{tables[match[1]] or '*No such runs yet.*'}\n\n<!-- /report -->"

    text = path.read_text(encoding="utf-8")
    return re.sub(r"<!-- report: (\S+) -->.*?<!-- /report -->", block, text, flags=re.DOTALL)


def main(
    folders: tyro.conf.Positional[tuple[Path, ...]] = (),
    results: Path = RESULTS,
    figures: bool = True,
    update_readme: bool = False,
) -> None:
    take_in(folders, results)
    evaluations, curves = (read_results(results, kind) for kind in COLUMNS)
    runs = runs_of(evaluations, curves)
    tables = make_tables(runs)
    filled = {path: fill_in(path, tables) for path in PAGES if update_readme}
    filled[results / "tables.md"] = fill_in(RESULTS / "tables.md", tables)
    for path, text in filled.items():
        path.write_text(text, encoding="utf-8")
        print(path)
    for name, figure in make_figures(runs, curves).items() if figures else ():
        figure.savefig(results / f"{name}.png", metadata={"Software": None})


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
