"""What the Markdown files say: commands work, links lead somewhere, numbers are those of the results."""

import csv
import fnmatch
import functools
import importlib
import itertools
import os
import re
import shlex
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import tyro
from conftest import ROOT, SCRIPTS, environment

sys.path.insert(0, str(ROOT / "benchmark"))
report = importlib.import_module("report")
tables = importlib.import_module("tables")
statistics = importlib.import_module("statistics_of_runs")

LIST = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
FILES = subprocess.run(LIST, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
FILES = [name for name in FILES if (ROOT / name).is_file()]
PAGES = [name for name in FILES if name.endswith(".md")]
BONUS = "ppo-matched-ent-coef-0.01"
GUIDE, PAPER = "benchmark/README.md", "benchmark/results/README.md"
QUESTIONS = "open_questions.prefpoe_multimodal", "open_questions.prefpoe_sac"
SWEEPS = {path.name for path in (ROOT / "benchmark").glob("*.sh") if "\nrun_sweep " in path.read_text()}


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


def blocks(name, language):
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", read(name), flags=re.DOTALL | re.MULTILINE)
    return [block for kind, block in fenced if kind == language]


def without_blocks(name):
    return re.sub(r"^```.*?^```$", "", read(name), flags=re.DOTALL | re.MULTILINE)


def spans(name):
    """What stands in backquotes in the prose and in tables."""
    return spans_of(without_blocks(name))


def spans_of(text):
    return re.findall(r"`([^`\n]+)`", text)


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
    sys.path[:0] = [str(ROOT)]
    module = importlib.import_module(script.removeprefix("benchmark/").removesuffix(".py").replace("/", "."))
    if module.__name__ in SCRIPTS:
        module.read_flags(argv, module.Args())
    elif hasattr(module, "Args"):
        tyro.cli(module.Args, args=argv)
    else:
        tyro.cli(functools.wraps(module.main)(lambda **values: None), args=argv)


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
        assert rest[-2] == "-r"
        assert rest[-1] in FILES
    else:
        venv = ["-m", "venv"], ["-m", "pytest"]
        assert words == ["source", ".venv/bin/activate"] or rest[:2] in venv


def test_every_flag_in_the_prose_is_one():
    modules = [importlib.import_module(name) for name in (*SCRIPTS, "report", "plot", "speed", *QUESTIONS)]
    names = {name.replace("_", "-") for module in modules for name in vars(module.Args()) if name[0] != "_"}
    known = {f"--{no}{name}" for name in names for no in ("", "no-")} | {"--help", "--list"}
    found = {(name, span.split()[0]) for name in PAGES for span in spans(name) if span.startswith("--") and span[2:]}
    assert [(name, flag) for name, flag in sorted(found) if flag not in known] == []
    assert len(found) > 10


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    """A copy of the repository in which README.md's commands for use have run, in their order, with few steps."""
    folder = tmp_path_factory.mktemp("session")
    for name in FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    (block,) = (block for block in blocks("README.md", "") if "--resume" in block)
    for _, (program, *words) in itertools.chain.from_iterable(map(split, block.splitlines())):
        assert program == "python"
        if words[0].startswith("pref"):
            few = {"--run-name": "--total-timesteps 4096 --no-compile", "--evaluate": "--eval-episodes 1"}
            few |= {"--track": "--total-timesteps 4096 --no-compile --eval-episodes 1"}
            command = " ".join(words).replace("--total-timesteps 40960", "")
            words = shlex.split(command) + [x for flag in few if flag in words for x in few[flag].split()]
        argv = [sys.executable, *words]
        environ = environment(WANDB_MODE="offline")
        process = subprocess.run(argv, cwd=folder, env=environ, capture_output=True, text=True, check=False)
        assert process.returncode == 0, (words, process.stderr)
    return folder


def test_readmes_commands_do_what_it_says(session):
    run = session / "runs" / "cheetah"
    assert {"config.json", "metrics.csv", "checkpoint.pt", "evaluation.json"} <= {path.name for path in run.iterdir()}
    assert (run / "plot.png").read_bytes()[:4] == b"\x89PNG"
    assert [*(session / "runs").glob("LunarLander-v3__*/wandb/offline-run-*")]


def test_every_column_of_metrics_csv_is_described_and_no_other(session):
    with open(session / "runs" / "cheetah" / "metrics.csv", newline="") as file:
        columns = next(csv.reader(file))
    section = read(GUIDE).split("## The columns of metrics.csv\n")[1].split("\n## ")[0]
    described = [x for line in section.splitlines() for x in re.findall(r"`([a-zA-Z_*]+)`", line.split(" | ")[0])]
    described = [name for name in described if name not in ("main", "nan")]
    for column in columns:
        assert sum(fnmatch.fnmatchcase(column, name) for name in described) == 1, column
    for name in described:
        assert fnmatch.filter(columns, name), name


def test_the_changed_fusion_follows_the_preference_less_where_the_experts_disagree(continuous):
    (code,) = blocks("README.md", "python")
    exec(code, namespace := dict(vars(continuous)))  # noqa: S102 (README.md's own)
    args = continuous.Args(lambda_pref=0.7)
    for xp in (np, importlib.import_module("torch")):
        main, agreeing, other = (
            continuous.Gaussian(xp.full((3, 2), mean), xp.full((3, 2), std))
            for mean, std in ((0.1, 0.5), (0.1, 0.3), (0.9, 0.3))
        )
        new, old = namespace["fuse"](main, agreeing, args), continuous.fuse(main, agreeing, args)
        assert xp.allclose(new.mean, old.mean)
        assert xp.allclose(new.std, old.std)
        new, old = namespace["fuse"](main, other, args), continuous.fuse(main, other, args)
        assert ((main.mean < new.mean) & (new.mean < old.mean)).all()
        assert ((old.std < new.std) & (new.std < main.std)).all()


# Links and names


def anchors(name):
    """Of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", without_blocks(name), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name):
    targets = re.findall(r"\]\(([^)\s]+)\)", without_blocks(name))
    folder = (ROOT / name).parent
    for target in [target for target in targets if not target.startswith("https://")]:
        path, _, anchor = target.partition("#")
        file = (folder / path).resolve() if path else ROOT / name
        assert file.exists(), target
        if anchor:
            assert anchor in anchors(file.relative_to(ROOT)), target


def test_every_figure_is_shown_and_every_page_is_linked():
    linked = {
        ((ROOT / name).parent / target).resolve()
        for name in PAGES
        for target in re.findall(r"\]\(([^)#\s]+)", without_blocks(name))
        if not target.startswith("https://")
    }
    linked |= {path / "README.md" for path in linked if path.is_dir()}
    shown = [*PAGES, *(name for name in FILES if name.endswith((".png", ".webp"))), "CITATION.cff"]
    assert [name for name in shown if name != "README.md" and ROOT / name not in linked] == []


def test_readme_is_short():
    assert len(read("README.md").splitlines()) <= 130


def test_the_guide_lists_every_sweep_and_no_other():
    assert {*re.findall(r"^\| `(\w+\.sh)` \|", read(GUIDE), flags=re.MULTILINE)} == SWEEPS


# Numbers of the paper beside the results


@pytest.fixture(scope="module")
def results():
    """The committed evaluations and curves, by task."""
    return [report.read_results(ROOT / "benchmark" / "results", kind) for kind in ("evaluations", "curves")]


CHEETAH, ANT, LANDER, MATCHED = "HalfCheetah-v4", "Ant-v4", "LunarLander-v3", tables.MATCHED
HOPPER, WALKER, BIPED, HUMANOID = "Hopper-v4", "Walker2d-v4", "BipedalWalker-v3", "Humanoid-v4"
SAC = "sac-HalfCheetah-v4-300000-steps"
LONG = "long-HalfCheetah-v4-2000000-steps"
BONUSES = {"prefpoe": BONUS, "prefpoe-anneal": f"{BONUS}-anneal"}
NARROW, WIDE = "ppo-matched-logstd--1.35", "prefpoe-logstd-0.35"
NARROW_BONUS = f"{NARROW}-ent-coef-0.01"
BOXES = (CHEETAH, ANT, HOPPER, WALKER, BIPED, HUMANOID)  # continuous actions
UPRIGHT = (HOPPER, WALKER, BIPED, HUMANOID)
EVERY = (*BOXES, LANDER, *tables.EASY)


def test_every_number_of_the_paper_is_that_of_the_results(results):
    evaluations, curves = results

    def value(task, variant):
        return tables.with_interval("{:,.0f}", statistics.iqm, runs(task, variant))

    def difference(task, variant, base, measure="evaluation"):
        samples = runs(task, variant, measure), runs(task, base, measure)
        return tables.with_interval("{:+,.0f}", statistics.effect, *samples)

    def runs(task, variant, measure="evaluation"):
        return statistics.scores(evaluations[task], variant, measure)

    def of_seeds(first, last, measure="evaluation"):
        rows = evaluations[CHEETAH].query("@first <= seed <= @last")
        samples = statistics.scores(rows, "prefpoe-beta1-2", measure), runs(CHEETAH, "prefpoe", measure)
        return tables.with_interval("{:+,.0f}", statistics.effect, *samples)

    def at_the_end(variant, *columns, form="{:.2f}", task=CHEETAH):
        x = [statistics.late(curves[task], variant, column) for column in columns]
        return tables.with_interval(form, statistics.iqm, x[0] / x[1] if x[1:] else x[0])

    def landed(variant):
        share = functools.partial(np.mean, axis=-1)
        return tables.with_interval("{:.0f} %", share, statistics.landed(evaluations[LANDER], variant))

    def added(task, ingredient, return_="evaluation"):
        lines = [line.strip("| ").split(" | ") for line in tables.effects_table(evaluations[task]).splitlines()]
        (cell,) = (line[4] for line in lines if line[:2] == [ingredient, return_])
        return cell

    torn = dict(iter(pd.read_csv(ROOT / "benchmark" / "results" / "torn-loose.csv").groupby("w_cons")))

    def first(w_cons):
        return f"{torn[w_cons].query('approx_kl > 0.2')['global_step'].iloc[0]:,}"

    def fallen(w_cons):
        returns = torn[w_cons]["episodic_return"]
        return f"{returns.max():,.0f}", f"{returns.tail(len(returns) // 10).mean():,.0f}"

    warned = (torn[0.1]["approx_kl"] > 0.2).to_numpy()
    assert warned[:75].sum() == 2 and warned[75:].mean() > 0.5
    training = "training_return"

    def probability(base, measure, tasks):
        pairs = [runs(task, x, measure) for task in sorted(tasks) for x in ("prefpoe", base)]
        return tables.with_interval("{:.2f}", statistics.improvement, *pairs)

    def spread(variant, column):
        """Root mean square over Humanoid's dimensions of the acting policy's sigma."""
        return tables.with_interval(
            "{:.2f}", statistics.iqm, np.sqrt(statistics.late(curves[HUMANOID], variant, column) / 17)
        )

    started = CHEETAH, HOPPER, WALKER  # on which there is PPO from log sigma = -1.35
    claims = [
        f"of {probability(MATCHED, 'evaluation', EVERY)} in evaluation",
        f"and of {probability(MATCHED, training, EVERY)} while training; one of PPO that starts as narrow",
        f"with {probability(NARROW, 'evaluation', started)} and {probability(NARROW, training, started)}. Where such",
        f"with {probability(NARROW_BONUS, 'evaluation', started)} and {probability(NARROW_BONUS, training, started)}: not",
        f"with a probability of {probability('ppo-cleanrl', 'evaluation', UPRIGHT)} in evaluation",
        f"and of {probability('ppo-cleanrl', training, UPRIGHT)} while training. Beside",
        f"over the 17 dimensions, at {spread('prefpoe', 'trace_fused')}",
        f"with the constant bonus at {spread(BONUS, 'trace_main')}, and",
        f"that of matched PPO at {spread(MATCHED, 'trace_main')}.",
        f"averages {torn[0.1]['A_z2_before'].mean():.3f}".replace("-", "−"),
        f"below −1 in {(torn[0.1]['A_z2_after'] < -1).mean():.0%} of all iterations".replace("%", " %"),
        f"first exceeds 0.2 after {first(0.1)} steps and in two of the first 75 iterations, then in most",
        "best of {}, and σ_p ends at {:.3f}, the return at {}.".format(
            fallen(0.1)[0], torn[0.1]["sigma_pref"].iloc[-1], fallen(0.1)[1]
        ),
        "after {0} steps, and ends alike, at {2} after a best of {1}.".format(first(0.4), *fallen(0.4)),
        f"`prefpoe` lands in {landed('prefpoe')}",
        f"`ppo-matched` in {landed(MATCHED)}: means over runs.",
        f"`prefpoe-beta1-0` is {difference(LANDER, 'prefpoe-beta1-0', 'prefpoe')} from `prefpoe`",
        f"and {difference(LANDER, 'prefpoe-beta1-0', BONUS)} from the bonus in evaluation",
        f"and {difference(LANDER, 'prefpoe-beta1-0', BONUS, training)} in training return: †.",
        f"it adds {difference(ANT, 'prefpoe-anneal', 'prefpoe', training)} to the training return: †.",
        f"add to them on Ant-v4 as well, {added(ANT, 'time limits bootstrapped', 'training return')} over the grid",
        f"the preference on HalfCheetah-v4, {difference(CHEETAH, 'prefpoe', MATCHED, training)}, ends too near to 0",
        f"on HalfCheetah-v4 with β₁ = 2 at {at_the_end('prefpoe-beta1-2', 'trace_fused', 'trace_pref')}",
        f"PrefPoE evaluates at {value(LONG, 'prefpoe')}, an interval that holds the paper's 5,375,",
        f"log σ = −1 at the start brings {added(CHEETAH, 'log σ = −1 at the start')} of evaluation",
        f"bootstrapped time limits {added(CHEETAH, 'time limits bootstrapped')}",
        f"On Ant-v4 log σ brings {added(ANT, 'log σ = −1 at the start')}",
        f"less `prefpoe` it is {difference(CHEETAH, 'ppo-logstd', 'prefpoe')} in evaluation",
        f"and {difference(CHEETAH, 'ppo-logstd', 'prefpoe', training)} in training return.",
        f"which brings {difference(LANDER, MATCHED, 'ppo')} in evaluation",
        f"and {difference(LANDER, MATCHED, 'ppo', training)} in training return: †.",
        f"ends with {at_the_end('prefpoe-modes-4', 'modes_pref')} in use on HalfCheetah-v4",
        f"and with {at_the_end('prefpoe-modes-4', 'modes_pref', task=ANT)} on Ant-v4",
        f"its tr Σ ends at {at_the_end('prefpoe-modes-4', 'trace_fused', task=ANT)}, that of `prefpoe`",
        f"at {at_the_end('prefpoe', 'trace_fused', task=ANT)}.",
        "changes the return of 300,000 steps of HalfCheetah-v4 and of Ant-v4 no more than seeds do, five of each",
        f"stays near 0, at {at_the_end('prefpoe-sac-own', 'A_z2_own', form='{:.3f}', task=SAC)} on HalfCheetah-v4",
        f"tr Σ is {at_the_end('ppo-matched-ent-coef-0.01', 'trace_main')} with the bonus",
        f"and {at_the_end('prefpoe', 'trace_fused')} with the product",
        f"against {at_the_end(MATCHED, 'trace_main')} with neither",
        f"from log σ = −1.35 with the bonus ends at {at_the_end(NARROW_BONUS, 'trace_main')}, not told from",
        f"from σ = 0.37, ends at {at_the_end('prefpoe-none', 'trace_fused')}",
        f"from σ = 1, at {at_the_end(WIDE, 'trace_fused')}",
        f"is {at_the_end('prefpoe', 'guidance', form='{:.3f}')} at the end of training on HalfCheetah-v4",
        f"and {at_the_end('prefpoe-beta1-0', 'guidance', form='{:.3f}')} in `prefpoe-beta1-0`",
        (
            f"acting policy ends at {at_the_end('prefpoe-lambda-falling', 'trace_fused')}, that of `prefpoe` at "
            f"{at_the_end('prefpoe', 'trace_fused')}. Rising"
        ),
        f"first five seeds, which picked it, evaluate {of_seeds(1, 5)} from `prefpoe`, but five fresh ones {of_seeds(6, 10)}.",
        f"the fresh ones is higher, by {of_seeds(6, 10, training)}: that is the level",
        f"Doubled by α it evaluates at {value(CHEETAH, 'prefpoe-alpha-0.4')}",
        f"fourfold by w_pref at {value(CHEETAH, 'prefpoe-w-pref-0.2')}",
        f"with {value(CHEETAH, 'prefpoe-lambda-pref-2')} and {value(CHEETAH, 'prefpoe-lambda-pref-4')}",
        f"−2 gives {value(CHEETAH, 'ppo-matched-logstd--2')}",
        f"−0.5 gives {value(CHEETAH, 'ppo-matched-logstd--0.5')}",
    ]
    prose = re.sub(r"<!-- report: .*?<!-- /report -->", "", without_blocks(PAPER), flags=re.DOTALL)
    prose = " ".join(prose.split())
    for claim in claims:
        assert claim in prose
        prose = prose.replace(claim, "")
    assert re.findall(r"\[[^\]]*\d[^\]]*\](?!\()", prose) == []  # no interval is left, and no such number without one
    assert {*re.findall(r"\d+,\d{3}", prose)} == {"2,048", "3,000", "5,000", "10,000"}


def test_the_paper_says_no_more_than_the_intervals_do(results):
    evaluations = results[0]

    def interval(task, variant, measure):
        return statistics.bootstrap(statistics.iqm, statistics.scores(evaluations[task], variant, measure))

    def apart(task, variant, base, measure="evaluation"):
        (low, high), (base_low, base_high) = (interval(task, x, measure) for x in (variant, base))
        return low > base_high or high < base_low

    def differs(task, variant, base, measure="evaluation"):
        samples = (statistics.scores(evaluations[task], x, measure) for x in (variant, base))
        low, high = statistics.bootstrap(statistics.effect, *samples)
        return max(low, -high) > 0.02 * (high - low)

    def apart_in_width(task):
        """Of the falling bonus and the annealed preference, the acting policies' tr Sigma at the end."""
        pairs = ((f"{BONUS}-anneal", "trace_main"), ("prefpoe-anneal", "trace_fused"))
        return statistics.apart(*(statistics.late(results[1][task], *pair) for pair in pairs))

    def probability(variant, base, measure, tasks):
        pairs = itertools.product(sorted(tasks), (variant, base))
        samples = [statistics.scores(evaluations[task], x, measure) for task, x in pairs]
        return statistics.bootstrap(statistics.improvement, *samples)

    falling = f"{BONUS}-anneal"
    for variant, base, measure, above in (
        ("prefpoe", MATCHED, "evaluation", True),
        ("prefpoe-anneal", MATCHED, "evaluation", True),
        (falling, MATCHED, "evaluation", True),
        ("prefpoe", MATCHED, "training_return", False),
        ("prefpoe-anneal", MATCHED, "training_return", False),
        ("prefpoe-anneal", falling, "evaluation", False),
        ("prefpoe-anneal", falling, "training_return", False),
    ):
        low, high = probability(variant, base, measure, tables.PAPER)
        near = 0.02 * (high - low)
        assert low - 0.5 > near if above else max(low - 0.5, 0.5 - high) <= near
    both = ("evaluation", "training_return")
    for task, variant, m in itertools.product((HOPPER, WALKER, BIPED), tables.BONUS, both):
        assert interval(task, variant, m)[0] <= interval(task, "ppo-cleanrl", m)[1]  # none is ahead of CleanRL's
    assert not any(differs(WALKER, x, "ppo-cleanrl") for x in tables.BONUS)
    for task in (HOPPER, WALKER):
        assert not any(differs(task, "ppo-cleanrl-exact", "ppo-cleanrl", m) for m in both)
        assert len(statistics.scores(evaluations[task], "ppo-cleanrl-exact", "evaluation")) == 10
    for task, position in {CHEETAH: 0, HOPPER: 0, HUMANOID: 0, WALKER: -1}.items():
        low, high = interval(task, "ppo-cleanrl", "training_return")
        published = float(tables.PUBLISHED[task].split(" ± ")[0].replace(",", ""))
        assert int(published > high) - int(published < low) == position
    assert published < interval(WALKER, "ppo-cleanrl-exact", "training_return")[0]
    low, high = interval(WALKER, "prefpoe", "training_return")
    assert low < published < high
    for variant, own in {
        "prefpoe": True,
        BONUS: True,
        "ppo-squash-shared": True,
        "prefpoe-anneal": False,
        MATCHED: False,
    }.items():
        pair = WALKER, variant, "ppo-cleanrl", "training_return"
        assert differs(*pair) and apart(*pair) == own
    pairs = (ANT, "prefpoe-anneal", "prefpoe", "training_return"), (LANDER, MATCHED, "ppo", "training_return")
    assert not any(apart(*pair) for pair in pairs)
    assert apart(CHEETAH, "ppo-logstd", "prefpoe", "training_return") and apart(LANDER, MATCHED, "ppo")
    assert apart(ANT, "prefpoe-modes-4", "prefpoe", "training_return")
    for task in (*tables.PAPER, HOPPER, WALKER):
        assert {*evaluations[task].groupby("variant").size().reindex(tables.COMPARED)} == {10}
    assert all(len(statistics.scores(evaluations[WALKER], x, "evaluation")) == 10 for x in ("ppo", *tables.SCALE))
    for m in both:
        assert differs(WALKER, "ppo-squash-shared", "ppo", m) and apart(WALKER, "ppo-squash-shared", "ppo", m)
        assert not any(differs(task, "ppo", "ppo-cleanrl", m) for task in (HOPPER, WALKER))
        assert not differs(HOPPER, "ppo", "ppo-squash-shared", m)
    assert {*evaluations[LONG].groupby("variant").size()} == {5}
    for variant in ("prefpoe", MATCHED):
        low, high = interval(LONG, variant, "evaluation")
        assert low < 5375 < high
    assert not any(differs(LONG, "prefpoe", MATCHED, m) for m in both)
    for task in (CHEETAH, LONG):
        earned = [
            statistics.iqm(statistics.scores(evaluations[task], x, "evaluation")) for x in ("prefpoe", "ppo-cleanrl")
        ]
        assert earned[0] / earned[1] == pytest.approx(3.4, abs=0.05)
    assert all(apart(LONG, x, "ppo-cleanrl", m) for x in ("prefpoe", MATCHED) for m in both)
    assert apart(LONG, "prefpoe-anneal", MATCHED)
    assert all(apart(LONG, "prefpoe-anneal", "prefpoe", m) for m in both)
    assert [differs(LONG, BONUS, MATCHED, m) for m in both] == [False, True]
    assert not apart(LONG, BONUS, MATCHED, "training_return")
    assert not any(differs(LONG, *pair, m) for pair in (("prefpoe-anneal", falling), (falling, MATCHED)) for m in both)
    assert probability("prefpoe-anneal", BONUS, "training_return", tables.PAPER)[0] > 0.5
    assert apart(HOPPER, falling, "ppo-cleanrl") and not differs(HOPPER, BONUS, "ppo-cleanrl")
    for variant in BONUSES:
        pair = HOPPER, variant, BONUS, "training_return"
        assert differs(*pair) and not apart(*pair)
    assert not any(differs(WALKER, "prefpoe", BONUS, m) for m in both)
    assert apart(HOPPER, WIDE, MATCHED) and not differs(HOPPER, WIDE, "ppo-squash-shared")
    for task, m in itertools.product((HOPPER, WALKER), both):
        assert apart(task, NARROW, "ppo-cleanrl", m)
    assert differs(WALKER, "ppo-squash-shared", "ppo-cleanrl") and not apart(WALKER, "ppo-squash-shared", "ppo-cleanrl")
    narrow = [differs(CHEETAH, f"{MATCHED}-logstd-{x}", MATCHED, "training_return") for x in ("-2", "-0.5")]
    assert narrow == [False, False]
    grid = [
        [
            len(statistics.scores(evaluations[task], x, "evaluation"))
            for x in tables.ATTRIBUTION.values()
            if x != "prefpoe"
        ]
        for task in (CHEETAH, ANT)
    ]
    assert [sum(n == 3 for n in x) for x in grid] == [8, 9] and {n for x in grid for n in x} == {3, 5, 10}
    for m in both:
        assert not differs(CHEETAH, WIDE, "ppo-cleanrl", m) and not differs(WALKER, WIDE, "prefpoe", m)
        assert apart(CHEETAH, WIDE, "prefpoe", m) and apart(HOPPER, NARROW, "ppo-cleanrl", m)
        assert not differs(HOPPER, WIDE, "ppo-cleanrl", m)
        for pair in ((WIDE, "prefpoe"), ("prefpoe", NARROW)):
            assert differs(HOPPER, *pair, m) and not apart(HOPPER, *pair, m)
        assert differs(HOPPER, NARROW_BONUS, NARROW, m) and not apart(HOPPER, NARROW_BONUS, NARROW, m)
    for pair in (("prefpoe", NARROW), (NARROW, MATCHED, "training_return"), (NARROW_BONUS, NARROW)):
        assert differs(WALKER, *pair) and not apart(WALKER, *pair)
    assert apart(WALKER, WIDE, "ppo-cleanrl", "training_return")
    assert apart(HOPPER, NARROW, "ppo-squash-shared") and not differs(HOPPER, MATCHED, "ppo-squash-shared")
    assert all(apart(CHEETAH, WIDE, "ppo", m) for m in both)
    assert apart(CHEETAH, WIDE, "ppo-squash-shared", "training_return")
    fallen = evaluations[HOPPER].query("training_return < 500")["variant"].value_counts()
    expected = {NARROW: 8, "prefpoe-anneal": 4, NARROW_BONUS: 3, "prefpoe": 2, MATCHED: 1, f"{BONUS}-anneal": 1}
    assert fallen.to_dict() == expected
    for variant in ("prefpoe", "prefpoe-anneal"):
        assert apart(HOPPER, variant, "ppo-cleanrl", "training_return")
        assert differs(HOPPER, variant, "ppo-cleanrl") and not apart(HOPPER, variant, "ppo-cleanrl")
    assert differs(HOPPER, MATCHED, "ppo-cleanrl") and not apart(HOPPER, MATCHED, "ppo-cleanrl")
    assert differs(HOPPER, "prefpoe", BONUS, "training_return") and not apart(
        HOPPER, "prefpoe", BONUS, "training_return"
    )
    assert not differs(HOPPER, "prefpoe", MATCHED, "training_return")
    for variant, base, measure, tasks, side in (  # 1: above one half, -1: below, 0: not told from it
        *(("prefpoe", MATCHED, m, EVERY, side) for m, side in zip(both, (0, -1), strict=True)),
        *(("prefpoe-anneal", MATCHED, m, EVERY, side) for m, side in zip(both, (1, 0), strict=True)),
        ("prefpoe-anneal", MATCHED, "evaluation", [task for task in EVERY if task not in tables.EASY], 0),
        *((BONUS, MATCHED, m, EVERY, side) for m, side in zip(both, (1, -1), strict=True)),
        *((falling, MATCHED, m, EVERY, 0) for m in both),
        *((x, bonus, m, EVERY, 0) for x, bonus in BONUSES.items() for m in both),
        *(("prefpoe", BONUS, m, BOXES, side) for m, side in zip(both, (-1, 0), strict=True)),
        *(("prefpoe-anneal", falling, m, BOXES, -1) for m in both),
        *(("prefpoe", "ppo-cleanrl", m, EVERY, 0) for m in both),
        *((x, "ppo-cleanrl", m, EVERY, 1) for x in ("prefpoe-anneal", MATCHED, falling) for m in both),
        *(
            (annealed, constant, m, EVERY, int(m != "evaluation"))
            for annealed, constant in (("prefpoe-anneal", "prefpoe"), (falling, BONUS))
            for m in both
        ),
        *(("prefpoe", MATCHED, m, UPRIGHT, side) for m, side in zip(both, (0, -1), strict=True)),
        *(("prefpoe", MATCHED, m, UPRIGHT[:3], 0) for m in both),
        *((x, MATCHED, "evaluation", (CHEETAH, ANT), 0) for x in BONUSES),
        ("prefpoe", MATCHED, "training_return", (CHEETAH, ANT), -1),
        ("prefpoe-anneal", MATCHED, "training_return", (CHEETAH, ANT), 0),
        ("prefpoe", NARROW, "evaluation", (CHEETAH, HOPPER, WALKER), 1),
        ("prefpoe", NARROW, "training_return", (CHEETAH, HOPPER, WALKER), 0),
        *(("prefpoe", NARROW_BONUS, m, (CHEETAH, HOPPER, WALKER), 0) for m in both),
    ):
        low, high = probability(variant, base, measure, tasks)
        near = 0.02 * (high - low)  # as of differences
        assert int(low - 0.5 > near) - int(0.5 - high > near) == side, (variant, base, measure, tasks)
    for task in (CHEETAH, HOPPER, WALKER):
        ends = (("prefpoe", "trace_fused"), (NARROW_BONUS, "trace_main"))
        assert not statistics.differ(*(statistics.late(results[1][task], *x) for x in ends))
        assert not any(differs(task, "prefpoe", NARROW_BONUS, m) for m in both)
    told = [(task, m) for task in EVERY for m in both if differs(task, "prefpoe", MATCHED, m)]
    assert sorted(told) == [(HUMANOID, "training_return"), (LANDER, "evaluation")]
    assert {*evaluations[HUMANOID].groupby("variant").size()} == {5}
    for variant, m in itertools.product(("prefpoe", BONUS), both):
        assert differs(HUMANOID, variant, MATCHED, m) == apart(HUMANOID, variant, MATCHED, m) == (m != "evaluation")
    earned = [statistics.scores(evaluations[HUMANOID], x, "training_return") for x in ("prefpoe", MATCHED)]
    assert max(earned[0]) < min(earned[1])
    assert not any(differs(HUMANOID, x, "ppo-cleanrl", m) for x in (*BONUSES, BONUS) for m in both)
    assert all(differs(HUMANOID, x, "ppo-cleanrl", m) for x in (MATCHED, falling) for m in both)
    assert [apart(HUMANOID, falling, "ppo-cleanrl", m) for m in both] == [True, False]
    assert not any(apart(HUMANOID, MATCHED, "ppo-cleanrl", m) for m in both)
    assert not any(differs(HUMANOID, "prefpoe", BONUS, m) for m in both)
    assert not any(differs(HUMANOID, falling, MATCHED, m) for m in both)
    assert apart(HUMANOID, "prefpoe", falling, "training_return") and not differs(HUMANOID, "prefpoe", falling)
    best = max(float(x) for row in evaluations[HUMANOID]["returns"] for x in row.split(";"))
    assert best < 0.6 * 5 * 1000  # of the 1,000 steps to the time limit
    assert importlib.import_module("gymnasium").make(HUMANOID).action_space.high.tolist() == pytest.approx([0.4] * 17)
    assert {*evaluations[BIPED].groupby("variant").size()} == {5}
    for variant, expected in {
        "prefpoe": {"evaluation": False, "training_return": True},
        "prefpoe-anneal": {"evaluation": True, "training_return": False},
        MATCHED: {"training_return": False},
    }.items():
        assert {
            m: apart(BIPED, variant, "ppo-cleanrl", m) for m in both if differs(BIPED, variant, "ppo-cleanrl", m)
        } == expected
    bases = [(BONUS, "ppo-cleanrl"), (falling, "ppo-cleanrl")]
    bases += [(x, y) for x in BONUSES for y in (MATCHED, BONUS, falling)]
    assert not any(differs(BIPED, *pair, m) for pair in bases for m in both)
    assert not apart_in_width(CHEETAH) and all(map(apart_in_width, (ANT, HOPPER, WALKER, HUMANOID)))
    assert apart(ANT, falling, MATCHED) and not differs(ANT, "prefpoe-anneal", MATCHED)
    assert differs(ANT, falling, "prefpoe-anneal") and not apart(ANT, falling, "prefpoe-anneal")
    assert apart(ANT, MATCHED, "ppo-cleanrl")
    for task, (variant, bonus) in itertools.product(BOXES, BONUSES.items()):
        wide, *x = (
            statistics.late(results[1][task], *column)
            for column in ((bonus, "trace_main"), (variant, "trace_fused"), (variant, "trace_pref"))
        )
        assert abs(statistics.iqm(x[0] / x[1]) - 0.9) < 0.01
        low, high = statistics.bootstrap(statistics.effect, wide, x[0])
        assert (low > 0.02 * (high - low)) == (task != BIPED)
    for task in (SAC, SAC.replace("HalfCheetah", "Ant")):
        assert not any(differs(task, "prefpoe-sac-own", "sac", m) for m in both)
        assert {*evaluations[task].groupby("variant").size()} == {5}
    for task in (CHEETAH, ANT):
        torn = results[1][f"sac-{task}-12000-steps"].query("abs(A_z2) > 1000").groupby("seed")["global_step"].min()
        assert len(torn) == 5 and torn.max() <= 5_000 + 3_000
    assert all(apart(task, "prefpoe", "ppo-cleanrl") for task in (CHEETAH, ANT, LANDER))
    assert [differs(task, "prefpoe", MATCHED) for task in (CHEETAH, ANT, LANDER)] == [False, False, True]
    assert apart(LANDER, "prefpoe", MATCHED)
    assert [differs(task, "prefpoe", MATCHED, "training_return") for task in (CHEETAH, ANT)] == [False, False]
    assert differs(CHEETAH, "ppo-logstd", "prefpoe", "training_return") and not differs(
        CHEETAH, "ppo-logstd", "prefpoe"
    )
    assert all(differs(LANDER, MATCHED, "ppo", m) for m in both)
    matched, *bases = (statistics.scores(evaluations[LANDER], x, "evaluation") for x in (MATCHED, "ppo-cleanrl", "ppo"))
    lead = (
        "Of the {:.0f} points of return by which matched PPO leads CleanRL's there, the shared backbone brings {:.0f}."
    )
    assert lead.format(*(statistics.effect(matched, x) for x in bases)) in read("README.md")

    def width(task, variant):
        return statistics.late(tables.acting(results[1][task]), variant, "trace_acting")

    for task, above in {CHEETAH: True, ANT: False}.items():
        bonus, none, product = (width(task, x) for x in (BONUS, "prefpoe-none", "prefpoe"))
        assert not statistics.differ(none, bonus) and statistics.differ(none, product) == above
    for task, wider in {CHEETAH: False, HOPPER: True, WALKER: True}.items():
        assert statistics.differ(width(task, WIDE), width(task, BONUS)) == wider
        assert statistics.effect(width(task, WIDE), width(task, "prefpoe")) > 0
    assert not any(statistics.differ(width(LONG, x), width(LONG, bonus)) for x, bonus in BONUSES.items())

    def ratio(task, variant):
        trace = (statistics.late(results[1][task], variant, f"trace_{x}") for x in ("fused", "pref"))
        return statistics.iqm(np.divide(*trace))

    changing = [
        ratio(task, f"prefpoe-lambda-{x}") for task in (CHEETAH, WALKER) for x in ("falling", "rising", "guided")
    ]
    assert (min(changing), max(changing)) == pytest.approx((0.77, 0.92), abs=0.005)
    guided = [(CHEETAH, 1), (CHEETAH, 2), (CHEETAH, 4), (ANT, 2), (WALKER, 1), (WALKER, 2), (WALKER, 4)]
    assert all(ratio(task, f"prefpoe-beta1-{x}") > 0.905 for task, x in guided)
    assert not any(differs(task, "prefpoe-anneal", "prefpoe") for task in (CHEETAH, ANT, LANDER))
    assert differs(ANT, "prefpoe-anneal", "prefpoe", "training_return")
    assert not any(differs(task, BONUS, "prefpoe", m) for task in (CHEETAH, ANT) for m in both)
    assert all(differs(LANDER, BONUS, "prefpoe", m) and apart(LANDER, BONUS, "prefpoe", m) for m in both)
    assert not differs(LANDER, "prefpoe-beta1-0", "prefpoe") and not differs(LANDER, "prefpoe-beta1-0", BONUS)
    assert not differs(LANDER, "prefpoe-anneal", f"{BONUS}-anneal")
    assert not any(differs(task, "prefpoe-none", "prefpoe", m) for task in (CHEETAH, ANT) for m in both)
    assert differs(LANDER, "prefpoe-none", "prefpoe") and apart(LANDER, "prefpoe-none", "prefpoe")
    for m, expected in dict(zip(both, ([False, False, False], [False, True, True]), strict=True)).items():
        assert [differs(task, "prefpoe-linear", "prefpoe", m) for task in (CHEETAH, ANT, LANDER)] == expected
        assert [apart(task, "prefpoe-linear", "prefpoe", m) for task in (CHEETAH, LANDER)] == expected[::2]
    assert not apart(ANT, "prefpoe-linear", "prefpoe", "training_return")
    for telling in (differs, apart):
        noises = [telling(CHEETAH, f"prefpoe-noise-{std}", "prefpoe") for std in ("0.5", "1", "2", "4")]
        assert noises == [False, True, False, False]
    noisy = (
        np.concatenate([statistics.scores(evaluations[CHEETAH], x, "evaluation") for x in tables.NOISES[1:5]]),
        statistics.scores(evaluations[CHEETAH], "prefpoe", "evaluation"),
    )
    assert statistics.differ(*noisy) and not statistics.apart(*noisy) and statistics.effect(*noisy) < 0
    assert not any(differs(task, "prefpoe-beta1-0", "prefpoe", m) for task in (CHEETAH, LANDER, WALKER) for m in both)
    assert all(apart(task, falling, "ppo-cleanrl") for task in (*tables.PAPER, HOPPER, HUMANOID))
    assert not any(differs(task, falling, "ppo-cleanrl") for task in (WALKER, BIPED))
    assert (
        statistics.effect(*(statistics.scores(evaluations[HOPPER], x, "evaluation") for x in (falling, "ppo-cleanrl")))
        < 0
    )
    assert not any(differs(WALKER, f"prefpoe-beta1-{x}", "prefpoe", m) for x in "01" for m in both)
    more = "prefpoe-beta1-2"
    assert not any(differs(task, more, "prefpoe", m) for task in (ANT, WALKER) for m in both)
    assert not differs(CHEETAH, more, "prefpoe") and apart(CHEETAH, more, "prefpoe", "training_return")
    assert not any(differs(CHEETAH, more, MATCHED, m) for m in both)
    traces = [statistics.late(results[1][CHEETAH], x, "trace_fused") for x in (more, "prefpoe")]
    assert statistics.differ(*traces) and statistics.effect(*traces) < 0
    values = {
        x: statistics.scores(evaluations[CHEETAH].query("seed <= 5"), x, "evaluation")
        for x in ("prefpoe", *(f"prefpoe-beta1-{y}" for y in ("0", "0.1", "0.4", "1", "2", "4")))
    }
    assert max(values, key=lambda x: statistics.iqm(values[x])) == more
    assert (values["prefpoe-beta1-4"] < 1000).sum() == 4
    torn = statistics.scores(evaluations[WALKER], "prefpoe-beta1-4", "evaluation")
    assert len(torn) == 5 and max(torn) < 250 < min(statistics.scores(evaluations[WALKER], "prefpoe", "evaluation"))
    below = {"alpha-0.4", "w-pref-0.2", "lambda-pref-2", "lambda-pref-4"}
    lower = "alpha-0.1", "w-pref-0.005", "w-cons-0.02", "w-cons-0.2"
    assert not any(differs(CHEETAH, f"prefpoe-{x}", "prefpoe", m) for x in lower for m in both)
    for x in below | {*lower, "lambda-pref-0.25", "lambda-pref-0.5"}:
        assert differs(CHEETAH, f"prefpoe-{x}", "prefpoe") == apart(CHEETAH, f"prefpoe-{x}", "prefpoe") == (x in below)
    for telling in (differs, apart):
        scales = {x: telling(CHEETAH, f"{MATCHED}-logstd-{x}", MATCHED) for x in ("-2", "-1.35", "-0.5")}
        assert scales == {"-2": True, "-1.35": False, "-0.5": True}
    assert not any(differs(CHEETAH, "prefpoe", f"{MATCHED}-logstd--1.35", m) for m in both)
    assert not any(differs(CHEETAH, "prefpoe-modes-4", "prefpoe", m) for m in both)
    assert [differs(ANT, "prefpoe-modes-4", "prefpoe", m) for m in both] == [False, True]
    spread = (statistics.late(results[1][ANT], x, "trace_fused") for x in ("prefpoe-modes-4", "prefpoe"))
    assert statistics.bootstrap(statistics.effect, *spread)[0] > 0
    for kind, expected in {"falling": True, "rising": False, "guided": False}.items():
        for task in (CHEETAH, LANDER):
            pair = f"prefpoe-lambda-{kind}", "prefpoe"
            assert all(differs(task, *pair, m) == expected for m in both)
            assert apart(task, *pair, "training_return") == expected and not apart(task, *pair)
        assert not any(differs(WALKER, *pair, m) for m in both)
    earned = evaluations["FrozenLake-v1"]
    assert [len(scores) for _, scores in earned.groupby("variant")] == [5] * 6
    shares = [statistics.iqm(x["training_return"]) for _, x in earned.groupby("variant")]
    assert {round(float(share), 2) for share in shares} == {0.72, 0.73}
    pole = evaluations["CartPole-v1"]
    assert {*pole.groupby("variant").size()} == {5} and sorted(pole["evaluation"] == 500)[:2] == [False, True]
    whole, halves = "ppo-squash-shared", ("ppo-squash", "ppo-shared")
    for m in both:
        assert not any(differs(WALKER, half, "ppo", m) for half in halves)
        assert differs(WALKER, whole, "ppo-squash", m) and apart(WALKER, whole, "ppo-squash", m) == (m == "evaluation")
        assert differs(WALKER, whole, "ppo-shared", m) == (m != "evaluation") and not apart(
            WALKER, whole, "ppo-shared", m
        )
        told = [pair for pair in tables.DIFFERENCES["network-differences"] if differs(CHEETAH, *pair, m)]
        assert told == [(whole, x) for x in (("ppo-shared",) if m == "evaluation" else ("ppo", "ppo-shared"))]
        assert not any(apart(CHEETAH, *pair, m) for pair in told)
        assert not any(differs(ANT, *pair, m) for pair in tables.DIFFERENCES["network-differences"])
    assert apart(WALKER, "ppo-squash", "prefpoe")
    assert {len(statistics.scores(evaluations[WALKER], half, "evaluation")) for half in halves} == {10}
    means = {x: statistics.scores(evaluations[CHEETAH], x, "evaluation") for x in tables.ATTRIBUTION.values()}
    assert max(means, key=lambda x: statistics.iqm(means[x])) == "ppo-logstd"
    made = {
        x: (sum(means[x] > 3000), len(means[x])) for x in means if "logstd" not in x and x not in (MATCHED, "prefpoe")
    }
    assert {x: n for x, n in made.items() if n[0]} == {
        "ppo-cleanrl": (1, 10),
        "ppo-cleanrl-shared": (1, 5),
        "ppo-squash": (1, 3),
        "ppo-shared": (2, 3),
    }
    assert max(statistics.scores(evaluations[CHEETAH], WIDE, "evaluation")) < 3000


def test_what_is_said_of_sac_is_what_its_runs_show(results):
    text = " ".join(read("open_questions/sac.md").split())
    of_sac = results[1][SAC].query("variant == 'sac'")
    of_replayed = results[1]["sac-HalfCheetah-v4-12000-steps"].query("variant == 'prefpoe-sac'")

    def earned(rows, first, last):
        """Of each seed on average from the step `first` to `last`."""
        return rows.query("@first <= global_step <= @last").groupby("seed")["episodic_return"].mean().to_numpy()

    folder = ROOT / "benchmark" / "results"
    peer = pd.read_csv(folder / "cleanrl-sac.csv")
    assert "earn {:,.0f} and {:,.0f} in the episodes".format(*sorted(earned(peer, 13_000, 18_000))) in text
    assert (
        "ours {:,.0f}, {:,.0f}, {:,.0f}, {:,.0f} and {:,.0f}.".format(*sorted(earned(of_sac, 13_000, 18_000))) in text
    )
    published = pd.read_csv(folder / "cleanrl-sac-published.csv").set_index("global_step")["episodic_return"]
    steps = (50_000, 100_000, 200_000, 300_000)
    ours = [earned(of_sac, step - 3000, step + 2999) for step in steps]
    for name, numbers in (
        ("CleanRL's published curve", [published[step] for step in steps]),
        ("`--fusion none --w-pref 0 --w-cons 0`", [x.mean() for x in ours]),
    ):
        assert f"| {name} | " + " | ".join(f"{x:,.0f}" for x in numbers) + " |" in text
    assert {len(x) for x in ours} == {5}
    at_first = (
        tables.with_interval("{:,.0f}", statistics.iqm, earned(rows, 7000, 12_000)) for rows in (of_replayed, of_sac)
    )
    assert "they earn {}, SAC {} (interquartile mean over seeds).".format(*at_first) in text
    found, met = {"q is": [], "at": [], "E[A_norm z²] is": []}, []
    for task, action_dim in {SAC: 6, "sac-Ant-v4-300000-steps": 8}.items():
        columns = ("kl_fused_pref", "entropy_fused", "entropy_pref", "A_z2_own")
        kl, of_fused, of_pref, own = (statistics.late(results[1][task], "prefpoe-sac-own", x) for x in columns)
        q, rest = 1 + 2 * (kl + of_fused - of_pref) / action_dim, 1 - (0.2 + 0.2 * own) * 0.05 / 0.1
        for numbers, x in zip(found.values(), (q, rest, own), strict=True):
            numbers.append(tables.with_interval("{:.3f}", statistics.iqm, x))
        met += [*((1 - q) / (1 - rest))]
        low, high = statistics.bootstrap(statistics.iqm, q - rest)
        assert low > 0.02 * (high - low) and len(q) == 5
    assert "q is {} on HalfCheetah-v4 and {} on Ant-v4".format(*found["q is"]) in text
    assert "by themselves would rest at {} and {}.".format(*found["at"]) in text
    assert "E[A_norm z²] is {} and {}, where a softmax".format(*found["E[A_norm z²] is"]) in text
    assert f"takes back only {min(met):.2f} to {max(met):.2f}, by run," in text
    assert "give −0.38 and q = 0.94, and a preference worth 0.006" in text
    ratio = (1 - 0.2 / 2) / (1 - 0.2 * 6**-0.5 / 2)  # r = 1 - (0.2 - 0.2 r / sqrt(6)) 0.05 / 0.1
    assert ratio == pytest.approx(0.94, abs=0.005) and -ratio * 6**-0.5 == pytest.approx(-0.38, abs=0.005)
    assert 0.1 * (1 - ratio) == pytest.approx(0.006, abs=0.0005)


@pytest.mark.parametrize("task", [CHEETAH, ANT])
def test_the_prediction_from_the_preference_holds_and_equal_widths_do_not(results, task):
    def trace(variant, column):
        return statistics.late(results[1][task], variant, column)

    for variant in ("prefpoe", "prefpoe-anneal"):
        low, high = statistics.bootstrap(statistics.iqm, trace(variant, "trace_fused") / trace(variant, "trace_pref"))
        assert 0.88 < low <= high < 0.91
    _, high = statistics.bootstrap(statistics.iqm, trace("prefpoe", "trace_fused"))
    low, _ = statistics.bootstrap(statistics.iqm, trace("ppo-matched-ent-coef-0.01", "trace_main"))
    assert low > high


def test_the_paper_knows_every_variant_that_it_names(results):
    known = {name for rows in results[0].values() for name in rows["variant"]}
    known |= {*tables.BONUS, *tables.SCHEDULES, *tables.MODES}
    named = {span for span in spans(PAPER) if re.fullmatch(r"(ppo|prefpoe)[\w.-]*(?<!\.py)", span)}
    assert named - known == set()
    before, after = read(PAPER).split("| variant | script and flags |")
    assert not re.findall(r"`(?:ppo|prefpoe)[\w.-]*(?<!\.py)`", before)
    defined = {*spans_of(after.split("\n\n")[0])}
    alike = {"prefpoe-alpha-0.4"}  # "another value of that coefficient"; and "one of the two with" an ingredient
    alike |= {"ppo-logstd", "ppo-squash", "ppo-shared", "ppo-cleanrl-shared"}
    assert {name for name in named if name not in defined} <= alike
