"""Plot runs, finished or still training, of any of the three scripts.

    python benchmark/plot.py runs/cheetah                 # one run: runs/cheetah/plot.png
    python benchmark/plot.py runs/a runs/b runs/c         # several: plot.png in the folder that holds them, runs/plot.png
    python benchmark/plot.py runs/* --output seeds.pdf    # elsewhere, and in any format of matplotlib's

Runs that differ in nothing but their seed become one line, the interquartile mean, with its 95 % bootstrap band; other
runs become lines of their own, named by the arguments that differ. A panel without numbers is left out: PPO has no
preference, and a short run may have had no evaluation. Files among the folders are skipped.
"""

import json
import math
import os
import sys
from dataclasses import dataclass
from pathlib import Path

try:
    import pandas as pd
    import tyro
    from figures import ENTROPY, GUIDANCE, POLICIES, RETURN, STYLE, TRACE, draw_band, panels, plain_log_ticks
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from report import BOOKKEEPING, fail, read_config, read_metrics, reading, thinned
    from tables import MATCHED
except ModuleNotFoundError as error:
    sys.exit(f"error: there is no {error.name}: run python -m pip install -r benchmark/requirements.txt")

PANELS = {  # title -> column of metrics.csv, or what stands before _main, _pref and _fused; label of its axis
    "training return": ("episodic_return", RETURN),
    "return of the evaluations": ("eval_return", RETURN),
    "entropy": ("entropy", ENTROPY),
    "variance": ("trace", TRACE),
    "distance to the preference": ("kl_fused_pref", r"KL($\pi_f$ ‖ $\pi_p$) (nats)"),
    "quality of the guidance": ("guidance", GUIDANCE),
    "weight of the preference": ("lambda_pref", r"$\lambda$"),
    "critic": ("explained_variance", "explained variance (share)"),
    "speed": ("SPS", "environment steps a second"),
}
COLORS = [STYLE[variant]["color"] for variant in ("prefpoe", MATCHED, "prefpoe-anneal", "ppo", "ppo-cleanrl")]
MARKERS = "Dos^vPX"  # not as many, so that where a colour comes again it does with another


@dataclass
class Args:
    runs: tyro.conf.Positional[tuple[Path, ...]] = ()
    """run folders, named in any way"""
    output: Path | None = None
    """file to write (default: plot.png in the run's folder, or in the one that holds all runs)"""


def read_runs(paths: tuple[Path, ...]) -> dict[Path, tuple[dict, pd.DataFrame]]:
    """Arguments and metrics of each run that has a row; exits with one line where there is none."""
    runs = {}
    for path in paths:
        if not path.exists():
            fail(f"{path}: there is no such folder; give run folders, such as runs/*")
        if path.is_dir():
            if not (path / "config.json").exists():
                fail(f"{path}: this is no run, it has no config.json; give run folders, such as runs/*")
            config = read_config(path)
            with reading(path / "metrics.csv"):
                runs[path.resolve()] = config, read_metrics(path)
    if not runs:
        fail("no run to plot; give run folders, such as runs/*")
    if waiting := [path for path, (_, metrics) in runs.items() if metrics.empty]:
        names = ", ".join(path.name for path in waiting)
        if len(waiting) == len(runs):
            fail(f"{names}: no iteration has ended yet; plot again in a minute")
        print(f"skipped, since no iteration has ended yet: {names}", file=sys.stderr)
    return {path: run for path, run in runs.items() if path not in waiting}


def names(configs: list[dict]) -> list[str]:
    """For each run its task and script, where there are several, and the arguments in which runs of its script differ."""
    keys = [key for key in dict.fromkeys(key for config in configs for key in config) if key not in BOOKKEEPING]
    values = {}  # of each argument, for each script
    for config in configs:
        for key in config.keys() & {*keys}:
            script = "any" if key in ("env_id", "exp_name") else (config["exp_name"], "fusion" in config)
            values.setdefault(key, {}).setdefault(script, set()).add(json.dumps(config[key]))
    differing = [key for key in keys if any(len(seen) > 1 for seen in values[key].values())]
    parts = [[(key, config[key]) for key in differing if key in config] for config in configs]
    return [", ".join(str(x) if key in ("env_id", "exp_name") else f"{key}={x}" for key, x in part) for part in parts]


def curves_of(runs: dict[Path, tuple[dict, pd.DataFrame]]) -> pd.DataFrame:
    """Up to 100 rows a run, with its line's name as variant and its number as seed, in the form of benchmark/results/.

    The runs of a line are averaged over the same bins of iterations, so that they have their steps in common.
    """
    lines = {}
    for name, (config, metrics) in zip(names([config for config, _ in runs.values()]), runs.values(), strict=True):
        lines.setdefault((name, "PrefPoE" if "fusion" in config else "PPO"), []).append(metrics)
    frames = []
    for (name, kind), line in lines.items():
        longest = max(line, key=len)
        size = math.ceil(len(longest) / 100)
        steps = thinned(longest, size)["global_step"]
        if sum(name == other for other, _ in lines) > 1:  # an --exp-name for both methods
            name = f"{name}, {kind}".removeprefix(", ")
        label = name + f" ({len(line)} runs)" * (len(line) > 1)
        for number, metrics in enumerate(line):
            curve = thinned(metrics, size)
            frames.append(curve.assign(variant=label, seed=number, global_step=steps[: len(curve)]))
    return pd.concat(frames, ignore_index=True)


def draw(title: str, curves: pd.DataFrame) -> Figure:
    """A panel for each quantity that there is, a line for each variant, dashes for each policy.

    With a single variant, colours tell the policies apart. PPO's only policy is the acting one.
    """
    if "lambda_pref" in curves and curves.groupby("variant")["lambda_pref"].std().fillna(0).lt(1e-6).all():
        curves = curves.drop(columns="lambda_pref")
    curves = curves.dropna(axis="columns", how="all")
    variants = [*dict.fromkeys(curves["variant"])]
    guided = {*curves.dropna(subset=["entropy_fused"])["variant"]} if "entropy_fused" in curves else set()
    shown = {name: x for name, x in PANELS.items() if x[0] in curves or f"{x[0]}_main" in curves}
    figure, axes = panels(len(shown), title, 3.8, 2.9, most=3)
    unit, unit_name = (1e6, "millions") if curves["global_step"].max() >= 5e5 else (1e3, "thousands")
    looks = [dict(color=COLORS[i % 5], marker=MARKERS[i % 7], markersize=4) for i in range(len(variants))]
    for axis, (name, (quantity, ylabel)) in zip(axes, shown.items(), strict=True):
        for i, (variant, look) in enumerate(zip(variants, looks, strict=True)):
            for policy in ("", *POLICIES):
                if (column := f"{quantity}_{policy}".rstrip("_")) in curves:
                    style = POLICIES[policy] if policy and variant in guided else {}
                    style = style if len(variants) == 1 else {"linestyle": style.get("linestyle", "-")}
                    steps = curves.dropna(subset=[column]).loc[curves["variant"] == variant, "global_step"].nunique()
                    marks = dict(markevery=(i * steps // 64, math.ceil(steps / 8)))  # apart, so that none hides another
                    draw_band(axis, curves, variant, column, unit, **look | style | marks)
        axis.set_title(name, fontsize="medium")
        axis.set_xlabel(f"environment steps ({unit_name})", fontsize="small")
        axis.set_ylabel(ylabel, fontsize="small")
        if quantity == "trace":
            plain_log_ticks(axis)
    handles = [Line2D([], [], label=x, **look) for x, look in zip(variants, looks, strict=True) if len(variants) > 1]
    if guided:
        handles += [Line2D([], [], **(x if len(variants) == 1 else x | {"color": "black"})) for x in POLICIES.values()]
    if handles:
        ncols = max(1, 150 // (10 + max(len(handle.get_label()) for handle in handles)))
        figure.set_figheight(figure.get_figheight() + 0.2 * math.ceil(len(handles) / ncols))
        figure.legend(handles=handles, loc="outside lower center", ncols=ncols, fontsize="small")
    return figure


def main(args: Args) -> None:
    runs = read_runs(args.runs)
    folder = os.path.commonpath(runs)
    curves = curves_of(runs)
    title = ", ".join(dict.fromkeys(config["env_id"] for config, _ in runs.values()))
    if len(runs) == 1:
        title = f"{Path(folder).name}, {title}"
    elif curves["seed"].any():
        title += ": IQM over runs, 95 % bootstrap band"
    output = args.output or Path(os.path.relpath(Path(folder) / "plot.png"))
    try:
        draw(title, curves).savefig(output)
    except (OSError, ValueError) as error:
        fail(f"{output} cannot be written ({error}); give another file with --output")
    print(output)


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
