"""What the Markdown files say: commands work, links lead somewhere, numbers are those of the results."""

import fnmatch
import functools
import importlib
import inspect
import itertools
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tyro
from conftest import ROOT, SCRIPTS, environment, own_signals
from scipy import stats

sys.path.insert(0, str(ROOT / "benchmark"))
report = importlib.import_module("report")
tables = importlib.import_module("tables")
statistics = importlib.import_module("statistics_of_runs")

LIST = subprocess.check_output(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, text=True).splitlines()
FILES = [name for name in LIST if (ROOT / name).is_file()]
PAGES = [name for name in FILES if name.endswith(".md")]
GUIDE, PAPER, TABLES = (f"benchmark/{name}.md" for name in ("README", "results/README", "results/tables"))
SWEEPS = {path.name for path in (ROOT / "benchmark").glob("*.sh") if "\nrun_sweep " in path.read_text()}


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


def blocks(name, language):
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", read(name), flags=re.DOTALL | re.MULTILINE)
    return [block for kind, block in fenced if kind == language]


def without_blocks(name):
    return re.sub(r"^```.*?^```$", "", read(name), flags=re.DOTALL | re.MULTILINE)


def spans(name):
    return re.findall(r"`([^`\n]+)`", without_blocks(name))


def split(line):
    """The commands of a line of shell, each as (variables set for it, words)."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    for separator, words in itertools.groupby(lexer, lambda word: set(word) <= set("&;")):
        words = [*words]
        variables = [*itertools.takewhile(lambda word: re.match(r"[A-Z]+=", word), words)]
        if not separator:
            yield dict(x.split("=", 1) for x in variables), words[len(variables) :]


def commands():
    """Every command of every page: blocks without a language hold nothing else, and so do spans that call a script."""
    call = re.compile(r"([A-Z]+=\S+ )*(\S*python3? \S|diff |\S+\.py -|benchmark/\S+\.sh)")
    for name in PAGES:
        lines = [line for block in blocks(name, "") for line in block.replace("\\\n", " ").splitlines()]
        for line in [*lines, *filter(call.match, spans(name))]:
            for variables, words in split(line):
                yield pytest.param(variables, words, id=f"{name}: {' '.join(words)}")


def check_flags(script, argv):
    """SystemExit where the script does not know these flags."""
    module = importlib.import_module(script.removeprefix("benchmark/").removesuffix(".py").replace("/", "."))
    tyro.cli(getattr(module, "Args", None) or functools.wraps(module.main)(lambda **values: None), args=argv)


def check_sweep(script, flags, variables):
    """The sweep lists runs, and the first one's script knows their flags."""
    argv = ["bash", str(ROOT / script), "--list", *flags]
    listed = subprocess.run(argv, env=environment(**variables), capture_output=True, text=True, timeout=60, check=True)
    name, run, *flags = shlex.split(listed.stdout.splitlines()[0])
    assert name.startswith(variables.get("PREFIX", ""))
    check_flags(run, flags)


@pytest.mark.parametrize("variables, words", commands())
def test_every_command_is_one(variables, words, capsys):
    program, *rest = words
    if re.fullmatch(r"(.*/)?python3?", program) and rest[0].endswith(".py"):
        program, *rest = rest
    if program.endswith(".py"):
        assert program in FILES
        check_flags(program, rest)
    elif program == "benchmark/slurm.sh":
        own = rest.index("--") if "--" in rest else len(rest)
        assert f"{rest[0]}.sh" in SWEEPS
        check_sweep(f"benchmark/{rest[0]}.sh", rest[own + 1 :], variables)
    elif program.endswith(".sh"):
        assert os.access(ROOT / program, os.X_OK)
        if program.removeprefix("benchmark/") in SWEEPS:
            check_sweep(program, [flag for flag in rest if flag != "--list"], variables)
    elif program == "diff":
        assert {*rest} <= {*FILES}
    elif "install" in rest:
        assert rest[-2] == "-r" and rest[-1] in FILES
    else:
        assert words == ["source", ".venv/bin/activate"] or rest[:2] in (["-m", "venv"], ["-m", "pytest"])


def test_every_flag_in_the_prose_is_one():
    scripts = *SCRIPTS, "plot", "speed", *(f"open_questions.prefpoe_{name}" for name in ("multimodal", "sac"))
    modules = map(importlib.import_module, scripts)
    names = {name.replace("_", "-") for module in modules for name in vars(module.Args()) if name[0] != "_"}
    names |= {name.replace("_", "-") for name in inspect.signature(report.main).parameters}
    known = {f"--{no}{name}" for name in names for no in ("", "no-")} | {"--help", "--list"}
    found = {(name, span.split()[0]) for name in PAGES for span in spans(name) if span.startswith("--") and span[2:]}
    assert [(name, flag) for name, flag in sorted(found) if flag not in known] == []


def test_readmes_commands_do_what_it_says_and_the_guide_describes_every_column_and_no_other(tmp_path, monkeypatch):
    for name in FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    short = "--total-timesteps 2048 --no-compile --eval-episodes 1"
    few = {"--run-name": short, "--track": short, "--evaluate": "--eval-episodes 1"}
    few["--resume"] = "--total-timesteps 4096 --eval-episodes 1"
    (my_env,) = (block for block in blocks("README.md", "python") if "gym.register" in block)
    Path("my_env.py").write_text(my_env)
    monkeypatch.syspath_prepend(tmp_path)
    (block,) = (block for block in blocks("README.md", "") if "--resume" in block)
    for _, (_, script, *words) in itertools.chain.from_iterable(map(split, block.splitlines())):
        flags = " ".join([*words, *(few[word] for word in words if word in few and script.startswith("pref"))])
        monkeypatch.setattr(sys, "argv", [script, *re.sub(r"--total-timesteps \d{5,}", "", flags).split()])
        try:
            with own_signals():
                runpy.run_path(script, run_name="__main__")
        except SystemExit as end:
            assert not end.code
    run = tmp_path / "runs" / "cheetah"
    assert {"config.json", "metrics.csv", "checkpoint.pt", "evaluation.json", "plot.png"} <= {*os.listdir(run)}
    assert [*run.parent.glob("LunarLander-v3__*/wandb/offline-run-*")]
    columns = [*pd.read_csv(run / "metrics.csv")]
    (table,) = re.findall(r"^\| `global_step` .*?\n\n", read(GUIDE), flags=re.DOTALL | re.MULTILINE)
    described = [x for line in table.splitlines() for x in re.findall(r"`([^`]+)`", line.split(" | ")[0])]
    assert [column for column in columns if sum(fnmatch.fnmatchcase(column, x) for x in described) != 1] == []
    assert [x for x in described if not fnmatch.filter(columns, x)] == []


@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_the_changed_fusion_follows_the_preference_less_where_the_experts_disagree(continuous, library):
    (code,) = (block for block in blocks("README.md", "python") if "def fuse" in block)
    namespace, full = dict(vars(continuous)), importlib.import_module(library).full
    exec(code, namespace)  # noqa: S102 (README.md's own)
    for disagree in (False, True):
        main, pref = (continuous.Gaussian(full((3,), x), full((3,), x)) for x in (0.5, 0.9 if disagree else 0.5))
        new, old = (fuse(main, pref, continuous.Args(lambda_pref=0.7)) for fuse in (namespace["fuse"], continuous.fuse))
        assert ((new.mean < old.mean) == disagree).all() and ((new.std > old.std) == disagree).all()


def test_readmes_lines_act_as_an_evaluation_in_a_second_process_does(run, monkeypatch):
    (code,) = (block for block in blocks("README.md", "python") if "torch_policy" in block)
    monkeypatch.chdir(ROOT)
    names = {}
    exec(code.replace("seed=1", f"seed={2**30}"), names)  # noqa: S102 (README.md's own)
    done = run(names["script"].__name__, "--evaluate", ROOT / names["args"].evaluate, "--eval-episodes", 1)
    assert f"mean={names['info']['episode']['r']:.2f} " in done.stdout


# Links and names


def links(name):
    """Files or folders of the repository that a page links to, each with the part of it."""
    for target in re.findall(r"\]\(([^)\s]+)\)", without_blocks(name)):
        if not target.startswith("https://"):
            path, _, anchor = target.partition("#")
            yield ((ROOT / name).parent / path).resolve() if path else ROOT / name, anchor


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name):
    for file, anchor in links(name):
        assert file.exists()
        if anchor:  # as GitHub makes them of headings
            headings = re.findall(r"^#+ (.*)$", without_blocks(file.relative_to(ROOT)).lower(), flags=re.MULTILINE)
            assert anchor in [re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in headings]


def test_every_figure_is_shown_and_every_page_is_linked():
    linked = {file for name in PAGES for file, _ in links(name)}
    linked |= {path / "README.md" for path in linked if path.is_dir()}
    shown = {name for name in FILES if name.endswith((".md", ".png", ".webp", ".cff"))}
    assert [name for name in sorted(shown) if name != "README.md" and ROOT / name not in linked] == []


def test_the_guide_lists_every_sweep_and_no_other():
    assert {*re.findall(r"^\| `(\w+\.sh)` \|", read(GUIDE), flags=re.MULTILINE)} == SWEEPS


# Numbers: words are free

NUMBER = r"[−+-]?\d+(?:,\d{3})*(?:\.\d+)?(?: %)?"
WITH_INTERVAL = re.compile(rf"({NUMBER}) \[({NUMBER}), ({NUMBER})\]")
FILLED_IN = re.compile("<!-- report: .*?<!-- /report -->", flags=re.DOTALL)  # which tests/test_report.py looks at
RESULTS = ROOT / "benchmark" / "results"
EVALUATIONS, CURVES = (report.read_results(RESULTS, kind) for kind in ("evaluations", "curves"))
RUNS = tables.runs_of(EVALUATIONS, CURVES)
SAC = CURVES["sac-HalfCheetah-v4-300000-steps"].query("variant == 'sac'")
DIVERGING = CURVES["sac-HalfCheetah-v4-12000-steps"]
CHEETAH, ANT, LANDER, HUMANOID = "HalfCheetah-v4", "Ant-v4", "LunarLander-v3", "Humanoid-v4"
GROUPS = {CHEETAH, ANT}, {CHEETAH, ANT, LANDER}, {*tables.BALANCING} - {HUMANOID}, {*tables.BALANCING}
ARMS = dict.fromkeys(variant for pair in tables.PAIRS for variant in pair)


def prose(name):
    return " ".join(FILLED_IN.sub("", without_blocks(name)).split())


def plain(number):
    """Without what pages may write or leave out."""
    return re.sub(r"[+,]| %", "", number.replace("−", "-"))


def stated(text):
    """Every number with its interval, as (number, low, high)."""
    return [tuple(map(plain, found)) for found in WITH_INTERVAL.findall(text)]


def runs(task, variant, measure="evaluation"):
    return RUNS[task, variant, measure]


def earned(rows, first, last):
    return rows.query("@first <= global_step <= @last").groupby("seed")["episodic_return"].mean().to_numpy()


CELLS = {numbers for name in PAGES for table in FILLED_IN.findall(read(name)) for numbers in stated(table)}


ACTION_DIM = {"HalfCheetah": 6, "Ant": 8}


def quotient_and_rest(task):
    """Of SAC's runs: (σ_f² + (μ_f − μ_p)²) / σ_p², by KL(π_f || π_p) and the entropies; where L_pref and L_cons rest."""
    columns = "kl_fused_pref", "entropy_fused", "entropy_pref", "A_z2_own"
    kl, of_fused, of_pref, own = (runs(f"sac-{task}-v4-300000-steps", "prefpoe-sac-own", x) for x in columns)
    return 1 + 2 * (kl + of_fused - of_pref) / ACTION_DIM[task], 1 - (0.2 + 0.2 * own) * 0.05 / 0.1


def of_seeds(task, variant, some, measure="evaluation"):
    """One return of some seeds, of which benchmark/fresh_seeds.sh has those above 10."""
    return EVALUATIONS[task].query(some).query("variant == @variant")[measure].to_numpy()


@functools.cache
def quantities():
    """As (statistic, samples), and the value of each: some that pages give, then all of a few kinds."""
    found, differences, samples = [], {}, {}
    for some, measure in itertools.product((slice(5), slice(5, 10)), tables.MEASURES):  # seeds 1-5 and 6-10
        of_few = runs(CHEETAH, "prefpoe-beta1-2", measure)[some]
        found.append((statistics.effect, [of_few, runs(CHEETAH, "prefpoe", measure)]))
    noisy = np.concatenate([runs(CHEETAH, f"prefpoe-noise-{std}") for std in ("0.5", "1", "2", "4")])
    found.append((statistics.effect, [runs(CHEETAH, "prefpoe"), noisy]))
    for variant, expert in {"prefpoe": "fused", tables.BONUS: "main", tables.MATCHED: "main"}.items():
        widths = runs(HUMANOID, variant, f"trace_{expert}") / 17  # dimensions
        found.append((statistics.iqm, [np.sqrt(widths)]))
    of_fresh_seeds = itertools.permutations(("prefpoe", tables.MATCHED, tables.BONUS, "prefpoe-beta1-0"), 2)
    for pair, task, some in itertools.product(of_fresh_seeds, (LANDER, ANT), ("seed <= 10", "seed > 10")):
        for measure in tables.MEASURES:
            found.append((statistics.effect, [of_seeds(task, variant, some, measure) for variant in pair]))
    episodes = EVALUATIONS[LANDER]["returns"].str.split(";", expand=True).astype(float)
    landed = 100 * (episodes >= 200).mean(axis="columns")
    shares = [x.to_numpy() for _, x in landed.groupby(EVALUATIONS[LANDER]["variant"])]
    found += [(functools.partial(np.mean, axis=-1), [x]) for x in shares]
    for task in ACTION_DIM:
        found += [(statistics.iqm, [x]) for x in quotient_and_rest(task)]
    for task in RUNS.tasks(tables.NARROW_BONUS):
        widths = [runs(task, name, "trace_acting") for name in (tables.NARROW_BONUS, "prefpoe")]
        found.append((statistics.effect, widths))
    found += [(statistics.iqm, [earned(rows, 7000, 12_000)]) for rows in (DIVERGING, SAC)]
    for (task, variant, quantity), x in RUNS.items():
        if quantity in report.AVERAGED or quantity in ("ratio", "trace_acting", "first_success"):
            found.append((statistics.iqm, [x]))
        if quantity in ("evaluation", "training_return", "whole") and len(x) > 1:
            samples[task, quantity, variant] = x
    means = {key: statistics.iqm(x) for key, x in samples.items()}
    differences = {(x, y): means[x] - means[y] for x, y in itertools.permutations(samples, 2) if x[:2] == y[:2]}
    for variant in ("prefpoe", "prefpoe-anneal"):
        of_long = [runs("long-HalfCheetah-v4-2000000-steps", name) for name in (variant, "ppo-cleanrl")]
        found.append((statistics.gain, of_long))
    for task in tables.PAPER:
        of_task = [runs(task, variant) for variant in ("prefpoe", tables.MATCHED, "ppo-cleanrl")]
        found += [(statistics.share, of_task), (lambda *x: 100 * statistics.share(*x), of_task)]
        found += [(statistics.gain, [x, of_task[2]]) for x in of_task[:2]]
    every = RUNS.tasks(*ARMS, easy=True)
    for (base, variant), measure in itertools.product(itertools.permutations(ARMS, 2), tables.MEASURES):
        both = {task for task in every if {(task, measure, base), (task, measure, variant)} <= {*samples}}
        counted = both - ({"FrozenLake-v1"} if measure == "evaluation" else set())
        groups = [counted, both - {*tables.EASY}, both - {*tables.DISCRETE}]
        groups += [group for group in GROUPS if group <= both]
        for tasks in filter(None, groups):
            pairs = itertools.product(sorted(tasks), (variant, base))
            found.append((statistics.improvement, [samples[task, measure, x] for task, x in pairs]))
    for _, x in pd.read_csv(RESULTS / "multimodal.csv").drop(columns=["seed", "steps"]).groupby("variant"):
        found += [(functools.partial(np.mean, axis=-1), [x[column].to_numpy()]) for column in x.columns[1:]]
    found = [(statistic, x) for statistic, x in found if min(map(len, x)) > 1]
    values = [statistic(*x) for statistic, x in found]
    found += [(statistics.effect, [samples[x], samples[y]]) for x, y in differences]
    return found, np.array([*values, *differences.values()])


def written(x, like):
    return f"{x:.{len(like.partition('.')[2])}f}"


@functools.cache
def known(numbers):
    """Whether some quantity is written like that."""
    found, values = quantities()
    near = np.flatnonzero(np.round(values, len(numbers[0].partition(".")[2])) == float(numbers[0]))
    intervals = (statistics.bootstrap(found[i][0], *found[i][1]) for i in near)
    return numbers in CELLS or any(tuple(written(x, numbers[0]) for x in ends) == numbers[1:] for ends in intervals)


def released_agent():
    """Beside the settings that were tried: figures outside the range of seeds, and how near single runs come."""
    rows = pd.read_csv(RESULTS / "which-prefpoe.csv")
    figures = rows.set_index(["run", "step"]).loc[:, "past_bound_0":"bias_backbone.2"]
    released = figures.loc["released"].iloc[0]

    def outside(run, step):
        seeds = figures.loc[[(run, step)]]
        return ((released < seeds.min()) | (released > seeds.max())).sum()

    A, C = "prefpoe-w-cons-0.0083-w-pref-0.2-beta1-0.3", "snap-bold-2M"
    found = {"outside-A-C": [outside(A, 999_424), outside(C, 1_998_848)], "outside-C-picked": [outside(C, 884_736)]}
    apart = np.log((figures / released).abs()).abs().mean(axis=1)
    single = sorted(apart[rows["run"].str.contains("-minibatch|-G-").to_numpy()].xs(999_424, level="step"))
    return found | {"log-F-G": [single[0], single[3]], "log-A": [apart[A].min(), apart[A].max()]}


@functools.cache
def marked():
    """Numbers without an interval, each list by the name that a page gives it in a comment behind: <!-- = NAME -->."""
    found = {}
    for variant in ("prefpoe", tables.MATCHED):
        pairs = [(runs(task, variant), runs(task, "ppo-cleanrl")) for task in (CHEETAH, ANT, LANDER)]
        found[f"gain-of-{variant}"] = [statistics.gain(*pair) for pair in pairs]
    fresh = [of_seeds(LANDER, variant, "seed > 10") for variant in ("prefpoe", tables.MATCHED)]
    shuffled = stats.permutation_test(
        fresh, lambda x, y: statistics.iqm(x) - statistics.iqm(y), n_resamples=20_000, rng=0
    )
    found["lander-p"] = [shuffled.pvalue, stats.mannwhitneyu(*fresh)[1], stats.ttest_ind(*fresh, equal_var=False)[1]]
    for w_cons, rows in pd.read_csv(RESULTS / "torn-loose.csv").groupby("w_cons"):
        found[f"torn-{w_cons}-before"] = [rows["A_z2_before"].mean()]
        found[f"torn-{w_cons}-after"] = [100 * (rows["A_z2_after"] < -0.2 / 4).mean()]
        found[f"torn-{w_cons}-step"] = [rows.query("approx_kl > 0.2")["global_step"].iloc[0]]
        found[f"torn-{w_cons}-best"] = [rows["episodic_return"].max()]
        found[f"torn-{w_cons}-sigma"] = [rows["sigma_pref"].iloc[-1]]
        found[f"torn-{w_cons}-end"] = [rows["episodic_return"].tail(len(rows) // 10).mean()]
    found |= released_agent()
    found["sac-early"] = sorted(earned(SAC, 13_000, 18_000))
    found["cleanrl-sac-early"] = sorted(earned(pd.read_csv(RESULTS / "cleanrl-sac.csv"), 13_000, 18_000))
    published, steps = pd.read_csv(RESULTS / "cleanrl-sac-published.csv"), [50_000, 100_000, 200_000, 300_000]
    found["cleanrl-sac-published"] = published.query("global_step in @steps")["episodic_return"]
    found["sac"] = [earned(SAC, step - 3000, step + 2999).mean() for step in steps]
    shares = []  # 1 - q, of what it is where L_pref and L_cons rest
    for quotient, rest in map(quotient_and_rest, ACTION_DIM):
        shares += [*(1 - quotient) / (1 - rest)]
    return found | {"sac-taken-back": [min(shares), max(shares)]}


def wrong(text):
    """The numbers in it that are not those of the results."""
    found = [numbers for numbers in stated(text) if not known(numbers)]
    for mark in re.finditer(r"<!-- = (\S+) -->", text):
        right, before = marked()[mark[1]], re.sub("<!--.*?-->", "", text[: mark.start()][-300:])
        numbers = [plain(number) for number in re.findall(rf"(?<![\w.]){NUMBER}", before)[-len(right) :]]
        if len(numbers) < len(right) or numbers != [*map(written, right, numbers)]:
            found.append((mark[1], numbers))
    return found


@pytest.mark.parametrize("name", PAGES)
def test_every_number_with_an_interval_is_one_of_the_results(name):
    assert wrong(prose(name)) == []
    alone = re.findall(rf"\[{NUMBER}, {NUMBER}\]", WITH_INTERVAL.sub("", prose(name)))
    assert alone == []


def test_a_changed_digit_is_seen():
    """Of the number or of a bound, in turn; but for few that by chance make another quantity."""
    missed = []
    for text in (prose(name) for name in PAGES if name != TABLES):
        ends = [found.end(1 + i % 3) for i, found in enumerate(WITH_INTERVAL.finditer(text))]
        ends += [found.start() for found in re.finditer(r"(?<=\d|%)<!-- = ", text)]
        for at in (len(text[:end].rstrip(" %")) - 1 for end in ends[::2]):
            missed.append(not wrong(text[:at] + str((int(text[at]) + 1) % 10) + text[at + 1 :]))
    assert sum(missed) <= 0.1 * len(missed)


def test_the_paper_names_only_variants_that_there_are():
    there_are = {name for rows in EVALUATIONS.values() for name in rows["variant"]}
    assert {span for span in spans(PAPER) if re.fullmatch(r"(ppo|prefpoe)-[\w.-]*", span)} - there_are == set()
