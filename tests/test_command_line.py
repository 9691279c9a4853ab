"""The command line as a user meets it: bad input, W&B, video, warnings, and weights from elsewhere."""

import base64
import hashlib
import importlib
import inspect
import itertools
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import get_type_hints

import gymnasium as gym
import pytest
import torch
from conftest import ROOT, SCRIPTS, command, environment, evaluation_line, read_metrics

TASKS = dict(zip(SCRIPTS, ("Pendulum-v1", "CartPole-v1", "CartPole-v1"), strict=True))
SHORT = dict(num_steps=64, total_timesteps=128, num_minibatches=4, update_epochs=1, eval_episodes=1, compile=False)
HANDLERS = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
WEIGHTS = ROOT.parent / "shared" / "upstream" / "PrefPoE.cleanrl_model"
BLOCKED = """
import runpy, sys
blocked, script, *flags = sys.argv[1:]
sys.modules[blocked] = None
sys.argv = [script, *flags]
runpy.run_path(script, run_name="__main__")
"""
ODD = "odd_environments"
WANDB_NAME = "café x" + "y" * 130  # longer than an artifact's name may be, and of other letters
IS_IMPORTED = """
import runpy, sys
module, script, *flags = sys.argv[1:]
sys.argv = [script, *flags]
try:
    runpy.run_path(script, run_name="__main__")
finally:
    print(module, "imported:", module in sys.modules)
"""


@pytest.fixture(autouse=True)
def clean_process(tmp_path, monkeypatch):
    """Each test starts in an empty folder and takes back what `main` set in this process."""
    monkeypatch.chdir(tmp_path)
    yield
    for number, handler in HANDLERS.items():
        signal.signal(number, handler)
    gym.registry.pop("LunarLander-v2", None)


def flags(name: str, **changes: object) -> list[str]:
    """The flags of a run of two iterations of that script, with `changes`."""
    words = []
    for argument, value in ({"env_id": TASKS[name]} | SHORT | changes).items():
        flag = argument.replace("_", "-")
        words += [f"--{flag}" if value else f"--no-{flag}"] if isinstance(value, bool) else [f"--{flag}", str(value)]
    return words


def call(script, *words: object) -> int:
    """The exit code of that script with these words, in this process."""
    module = importlib.import_module(script) if isinstance(script, str) else script
    return module.main(module.parse_args([str(word) for word in words]))


def is_one_line(stderr: str, *named: str) -> bool:
    return stderr.count("\n") == 1 and stderr.endswith("\n") and all(name in stderr for name in named)


@pytest.fixture
def rejected(capsys):
    """`rejected(script, *words, naming=...)`: exit code 2, one line on stderr, nothing new under runs/."""

    def rejected(script, *words: object, naming: tuple[str, ...]) -> str:
        before = sorted(Path("runs").rglob("*"))
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            call(script, *words)
        stderr = capsys.readouterr().err
        assert stop.value.code == 2, stderr
        assert is_one_line(stderr, *naming), stderr
        for flag in {"--resume", "--evaluate"} - {*map(str, words)}:
            assert flag not in stderr or flag in naming, "named though it was not given"
        assert sorted(Path("runs").rglob("*")) == before
        return stderr

    return rejected


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished run of each script, by the script's name."""
    cwd = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(cwd)
        for name in SCRIPTS:
            assert call(name, *flags(name, run_name=name)) == 0
    return {name: cwd / "runs" / name for name in SCRIPTS}


@pytest.fixture
def unfinished(trained, tmp_path):
    """`unfinished(name)`: a copy of that script's run that --resume would go on with."""

    def unfinished(name: str) -> Path:
        folder = Path(shutil.copytree(trained[name], tmp_path / "unfinished"))
        (folder / "evaluation.json").unlink()
        return folder

    return unfinished


# --- bad input ---------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["-1", "nan", "inf", "-inf", "1e300"])
def test_a_negative_or_non_finite_coefficient_is_named(script, value, rejected):
    coefficients = {name for name, kind in get_type_hints(script.Args).items() if kind is float}
    known = "learning_rate clip_coef ent_coef vf_coef max_grad_norm gamma gae_lambda"
    if script.__name__ != "ppo_baseline":
        known += " lambda_pref beta1 alpha w_pref w_cons advantage_noise"
    assert coefficients >= set(known.split())
    signed = {"logstd_init"} | ({"ent_coef"} if script.__name__ == "ppo_baseline" else set())  # as in the sweeps
    for name in coefficients - (signed if value == "-1" else set()):
        rejected(script, *flags(script.__name__, **{name: value}), naming=(f"--{name.replace('_', '-')} ",))


def test_a_count_that_is_too_small_is_named(script, rejected):
    counts = {name for name, kind in get_type_hints(script.Args).items() if kind is int}
    may_be_0 = {"seed", "eval_every"}
    known = "total_timesteps num_envs num_steps update_epochs num_minibatches eval_episodes checkpoint_every"
    assert counts >= set(known.split()) | may_be_0
    for name, value in [(name, -1) for name in counts] + [(name, 0) for name in counts - may_be_0]:
        words = flags(script.__name__, **{name: value})
        rejected(script, *words, naming=(f"--{name.replace('_', '-')} {value}",))


@pytest.mark.parametrize("name", ["gamma", "gae_lambda"])
def test_discounts_lie_between_0_and_1(script, name, rejected):
    rejected(script, *flags(script.__name__, **{name: 1.01}), naming=(f"--{name.replace('_', '-')} 1.01",))
    for value in (0.0, 1.0):
        assert getattr(script.parse_args(flags(script.__name__, **{name: value})), name) == value


def test_the_smallest_values_are_accepted(script):
    smallest = dict(seed=0, eval_every=0, num_steps=2, num_minibatches=1, total_timesteps=2, checkpoint_every=1)
    zeros = {name: 0.0 for name, kind in get_type_hints(script.Args).items() if kind is float}
    args = script.parse_args(flags(script.__name__, **smallest, **zeros))
    assert {name: getattr(args, name) for name in smallest | zeros} == smallest | zeros


@pytest.mark.parametrize(
    ("changes", "flag"),
    [
        (dict(num_envs=2, num_steps=32, num_minibatches=3), "--num-minibatches 3"),
        (dict(num_minibatches=128), "--num-minibatches 128"),
        (dict(num_envs=2, total_timesteps=127), "--total-timesteps 127"),
    ],
)
def test_sizes_that_do_not_fit_together_are_named(script, changes, flag, rejected):
    rejected(script, *flags(script.__name__, **changes), naming=(flag,))


@pytest.mark.parametrize("name", ["../x", "a/b", "/tmp/x", "..", ".", "a/", "/"])
def test_a_run_name_that_leaves_runs_is_refused(script, name, rejected):
    rejected(script, *flags(script.__name__, run_name=name), naming=("--run-name", name, "runs/"))


def test_an_existing_run_is_not_overwritten(script, trained, rejected, monkeypatch):
    folder = trained[script.__name__]
    monkeypatch.chdir(folder.parent.parent)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    rejected(script, *flags(script.__name__, run_name=folder.name), naming=("--run-name", folder.name, "--resume"))
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize(
    ("env_id", "near"),
    [
        ("CartPol-v1", "CartPole-v1"),
        ("HalfCheeta-v4", "HalfCheetah-v4"),
        ("Pendulum-v9", "Pendulum-v1"),
        ("Pusher-v4", "Pusher-v5"),  # v4 needs another mujoco
        ("", ""),
    ],
)
def test_an_unknown_task_is_answered_with_near_names(script, env_id, near, rejected):
    rejected(script, *flags(script.__name__, env_id=env_id), naming=(f"--env-id {env_id}", near))


@pytest.mark.parametrize("capture_video", [False, True])
@pytest.mark.parametrize(
    ("wrong", "env_id", "right"),
    [("prefpoe_continuous", "CartPole-v1", SCRIPTS[1]), ("prefpoe_lunarlander", "Pendulum-v1", SCRIPTS[0])],
)
def test_a_task_for_the_other_script_names_it(wrong, env_id, right, capture_video, rejected):
    words = flags(wrong, env_id=env_id, capture_video=capture_video)
    rejected(wrong, *words, naming=(f"--env-id {env_id}", f"{right}.py"))


@pytest.fixture
def damaged(trained, tmp_path):
    """`damaged(how, name)`: a path that holds no readable checkpoint of that script."""

    def damaged(how: str, name: str) -> Path:
        good = (trained[name] / "checkpoint.pt").read_bytes()
        path = tmp_path / f"{how}.pt"
        contents = {"half": good[: len(good) // 2], "garbage": b"not a checkpoint\n" * 99, "empty": b""}
        if how == "folder":
            path.mkdir()
        elif how == "code":
            torch.save({"agent": Path("would need to run code")}, path)
        elif how != "missing":
            path.write_bytes(contents[how])
        return path

    return damaged


@pytest.mark.parametrize("how", ["missing", "half", "garbage", "empty", "folder", "code"])
def test_a_checkpoint_that_cannot_be_read_is_named(script, how, damaged, rejected):
    path = damaged(how, script.__name__)
    rejected(script, "--evaluate", path, naming=(str(path),))


@pytest.mark.parametrize("how", ["missing", "half"])
def test_a_run_whose_checkpoint_cannot_be_read_is_named(script, how, damaged, unfinished, rejected):
    folder = unfinished(script.__name__)
    (folder / "checkpoint.pt").unlink()
    if how == "half":
        damaged(how, script.__name__).rename(folder / "checkpoint.pt")
    rejected(script, "--resume", folder, naming=(str(folder),))


@pytest.mark.parametrize("file", ["missing", "checkpoint.pt"])
def test_resume_takes_a_folder(script, file, unfinished, rejected):
    path = unfinished(script.__name__) / file
    rejected(script, "--resume", path, naming=(f"--resume {path}", "folder"))


@pytest.mark.parametrize("flag", ["--resume", "--evaluate"])
def test_a_run_that_is_an_unset_variable_is_refused(script, flag, rejected):
    rejected(script, *flags(script.__name__), flag, "", naming=("--resume", "--evaluate", "folder"))


@pytest.mark.parametrize("flag", ["--resume", "--evaluate"])
@pytest.mark.parametrize(("name", "other"), list(itertools.permutations(SCRIPTS, 2)))
def test_a_run_of_another_script_is_refused(name, other, flag, unfinished, rejected):
    stderr = rejected(name, flag, unfinished(other), naming=())
    assert re.search(f"^error: {Path.cwd()}/unfinished is of another script|use {other}.py", stderr), stderr


def test_weights_of_another_script_are_refused_where_the_observations_fit(trained, rejected):
    words = ("--evaluate", trained["prefpoe_lunarlander"], "--env-id", "InvertedPendulum-v4")
    rejected("prefpoe_continuous", *words, naming=(str(words[1]), "another script"))


@pytest.mark.parametrize(
    ("name", "env_id"),
    [(SCRIPTS[0], "MountainCarContinuous-v0"), (SCRIPTS[1], "Acrobot-v1"), (SCRIPTS[2], "Acrobot-v1")],
)
def test_weights_of_another_tasks_shape_are_refused(name, env_id, trained, rejected):
    words = ("--evaluate", trained[name], "--env-id", env_id)
    rejected(name, *words, naming=(str(trained[name]), f"--env-id {env_id}"))


def edit(folder: Path, **changes: object) -> None:
    """Put these into config.json, as a hand does."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


@pytest.mark.parametrize(
    ("changes", "warned"),
    [
        ({}, ()),
        (dict(gamma="0.5", num_steps=None), ("gamma", "num_steps")),
        (dict(versions={"torch": "1.0"}), (f"{{'torch': '{torch.__version__}'}}",)),
        ("[1, 2]", ()),
        ("{", ()),
        (None, ()),
    ],
)
def test_a_run_goes_on_by_its_checkpoint_whatever_config_json_says(
    script, changes, warned, trained, unfinished, capsys
):
    """One line tells where the two differ, in arguments or in versions; the result is that of the checkpoint."""
    folder = unfinished(script.__name__)
    if isinstance(changes, dict):
        edit(folder, **changes)
    else:
        (folder / "config.json").unlink() if changes is None else (folder / "config.json").write_text(changes)
    assert call(script, "--resume", folder) == 0
    said = capsys.readouterr().err
    assert is_one_line(said, "warning: ", "config.json", *warned) if warned else said == ""
    evaluation = (trained[script.__name__] / "evaluation.json").read_text()
    assert (folder / "evaluation.json").read_text() == evaluation


@pytest.mark.parametrize("flag", ["--resume", "--evaluate"])
def test_a_copy_with_another_fusion_says_that_a_run_is_not_its_own(flag, unfinished, tmp_path):
    """Arguments and weights are the same, so that nothing else tells."""
    script, folder = importlib.import_module("prefpoe_continuous"), unfinished("prefpoe_continuous")
    source, rule = Path(script.__file__).read_text(), '    if args.fusion == "none":'
    assert source.count(rule) == 1
    (tmp_path / "mine.py").write_text(source.replace(rule, "    return pref\n" + rule))
    for name, warned in ((script.__file__, False), (tmp_path / "mine.py", True)):
        words = [sys.executable, name, flag, shutil.copytree(folder, tmp_path / f"run-{warned}")]
        process = subprocess.run(words, env=environment(), capture_output=True, text=True, timeout=120, check=True)
        assert is_one_line(process.stderr, "warning: ", "{'script': 'mine.py ") if warned else not process.stderr


def test_resume_refuses_an_argument_that_contradicts_the_run(script, unfinished, rejected):
    folder = unfinished(script.__name__)
    rejected(script, "--resume", folder, "--learning-rate", 0.5, naming=("--learning-rate 0.5", str(folder)))


def test_resume_takes_arguments_that_change_nothing_that_is_learned(script, trained, unfinished, capsys):
    """--no-capture-video where films cannot be made, say; one line tells where config.json says otherwise."""
    folder = unfinished(script.__name__)
    assert call(script, "--resume", folder, "--eval-episodes", 3, "--no-capture-video", "--compile") == 0
    assert is_one_line(capsys.readouterr().err, "warning: ", "config.json", "'eval_episodes': 3", "'compile': True")
    before, after = (json.loads((x / "evaluation.json").read_text()) for x in (trained[script.__name__], folder))
    assert after["returns"][:1] == before["returns"] and len(after["returns"]) == 3


def test_resume_refuses_a_flag_that_the_run_is_older_than(unfinished, rejected):
    folder = unfinished("ppo_baseline")
    checkpoint = torch.load(folder / "checkpoint.pt", weights_only=True)
    del checkpoint["args"]["gymnasium_statistics"]
    torch.save(checkpoint, folder / "checkpoint.pt")
    naming = ("--gymnasium-statistics True contradicts False", str(folder))
    rejected("ppo_baseline", "--resume", folder, "--gymnasium-statistics", naming=naming)


def test_evaluate_with_track_says_that_nothing_would_be_logged(script, trained, rejected):
    folder = trained[script.__name__]
    rejected(script, "--evaluate", folder, "--track", naming=("--track", "logs nothing", "leave it out"))


@pytest.mark.parametrize("name", ["total_timesteps", "num_envs", "num_steps"])
def test_evaluate_refuses_another_length_of_training_which_a_schedule_would_follow(script, name, trained, rejected):
    folder, flag = trained[script.__name__], f"--{name.replace('_', '-')}"
    rejected(script, "--evaluate", folder, flag, 4096, naming=(flag, "4096", "leave it out"))


def test_resume_and_evaluate_exclude_each_other(script, trained, rejected):
    folder = trained[script.__name__]
    rejected(script, "--resume", folder, "--evaluate", folder, naming=("--resume", "--evaluate"))


@pytest.mark.parametrize("capture_video", [False, True])
@pytest.mark.parametrize("file", ["runs", "runs/x"])
def test_a_run_folder_that_cannot_be_written_is_named(script, file, capture_video, rejected):
    Path(file).parent.mkdir(exist_ok=True)
    Path(file).write_text("in the way")
    words = flags(script.__name__, run_name="x", capture_video=capture_video)
    rejected(script, *words, naming=("--run-name x", "runs/x", "write"))
    assert Path(file).read_text() == "in the way"


def test_a_run_that_never_trained_does_not_block_its_name(script, capsys):
    """Its folder is used again, whatever ended the first one."""
    name = script.__name__
    with pytest.raises(SystemExit) as stop:
        call(script, *flags(name, run_name="x", learning_rate=1e20, update_epochs=4))
    assert stop.value.code == 1
    first = json.loads(Path("runs/x/config.json").read_text())
    assert call(script, *flags(name, run_name="x")) == 0
    second = json.loads(Path("runs/x/config.json").read_text())
    assert len(read_metrics(Path("runs/x"))) == 2 and second["learning_rate"] == 3e-4
    assert first["id"] != second["id"], "or both write into one run of Weights & Biases"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_run_of_a_gpu_goes_on_where_there_is_none_and_says_so(script, unfinished, capsys):
    folder = unfinished(script.__name__)
    checkpoint = torch.load(folder / "checkpoint.pt", weights_only=True)
    checkpoint["args"]["cuda"] = True
    torch.save(checkpoint, folder / "checkpoint.pt")
    edit(folder, cuda=True)
    assert call(script, "--evaluate", folder) == 0
    evaluated = capsys.readouterr().out
    assert call(script, "--resume", folder) == 0
    resumed, said = capsys.readouterr()
    assert is_one_line(said, "warning: ", "{'cuda': False}") and "on the CPU" in resumed.splitlines()[0]
    assert evaluation_line(resumed) == evaluation_line(evaluated)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_without_a_gpu_is_named(script, rejected):
    rejected(script, *flags(script.__name__, cuda=True), naming=("--cuda",))


@pytest.mark.parametrize(
    ("name", "changes", "flag"),
    [
        ("prefpoe_continuous", dict(env_id="LunarLander-v3"), "--env-id LunarLander-v3"),
        ("prefpoe_lunarlander", dict(evaluate="runs/missing"), "runs/missing"),
        ("ppo_baseline", dict(gamma=2), "--gamma 2"),
    ],
)
def test_bad_input_ends_a_real_process_with_code_2_and_one_line(name, changes, flag, run, tmp_path):
    process = run(name, *flags(name, **changes), PYTHONWARNINGS="")
    assert process.returncode == 2 and not process.stdout
    assert is_one_line(process.stderr, flag), process.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("package", "name", "changes", "named"),
    [
        ("mujoco", "prefpoe_continuous", dict(env_id="HalfCheetah-v4"), ("--env-id HalfCheetah-v4", "mujoco")),
        ("Box2D", "prefpoe_lunarlander", dict(env_id="LunarLander-v3"), ("--env-id LunarLander-v3", "box2d")),
        ("moviepy", "ppo_baseline", dict(capture_video=True), ("--capture-video", "moviepy")),
    ],
)
def test_a_missing_package_is_named_before_training(package, name, changes, named, tmp_path):
    words = [sys.executable, "-c", BLOCKED, package, ROOT / f"{name}.py", *flags(name, **changes)]
    process = subprocess.run(
        words, check=False, env=environment(PYTHONWARNINGS=""), capture_output=True, text=True, timeout=120
    )
    assert process.returncode == 2 and not process.stdout
    assert is_one_line(process.stderr, *named, "pip install"), process.stderr
    assert "near names" not in process.stderr or package != "moviepy"
    assert not list(tmp_path.iterdir())


def test_a_tracked_run_is_evaluated_without_wandb(script, trained, tmp_path):
    folder = shutil.copytree(trained[script.__name__], tmp_path / "run")
    checkpoint = torch.load(folder / "checkpoint.pt", weights_only=True)
    checkpoint["args"]["track"] = True
    torch.save(checkpoint, folder / "checkpoint.pt")
    words = [sys.executable, "-c", BLOCKED, "wandb", script.__file__, "--evaluate", folder]
    process = subprocess.run(words, check=False, env=environment(), capture_output=True, text=True, timeout=120)
    assert process.returncode == 0 and evaluation_line(process.stdout), process.stderr


# --- what is accepted --------------------------------------------------------------------------


def test_help_shows_every_argument_with_its_comment_in_its_group(script, capsys):
    """A box for each class that Args is made of, in the order of the script."""
    with pytest.raises(SystemExit) as stop:
        script.parse_args(["--help"])
    assert stop.value.code == 0
    *_, groups = capsys.readouterr().out.partition("Run options")
    third = "Baseline" if script.__name__ == "ppo_baseline" else "Preference"
    shown = re.split("PPO options|Baseline options|Preference options|Logging options", groups)
    assert re.findall(r"\w+ options", groups) == [f"{name} options" for name in ("PPO", third, "Logging")]
    described = []
    for kind, box in zip(("Run", "PPO", third, "Logging"), shown, strict=True):
        text = re.sub(r"[\s│]", "", box)
        for name, comment in re.findall(
            r"^    (\w+): .*?  # (.*)$", inspect.getsource(getattr(script, kind)), re.MULTILINE
        ):
            assert f"--{name.replace('_', '-')}" in text and re.sub(r"\s", "", comment) in text, name
            described.append(name)
    assert sorted(described) == sorted(get_type_hints(script.Args))


@pytest.mark.parametrize("name", ["open_questions.prefpoe_multimodal", "open_questions.prefpoe_sac"])
def test_help_shows_every_argument_of_the_open_questions_with_its_comment(name, capsys):
    question = importlib.import_module(name)
    with pytest.raises(SystemExit):
        question.parse_args(["--help"])
    text = re.sub(r"[\s│]", "", capsys.readouterr().out)
    source = "".join(inspect.getsource(kind) for kind in question.Args.__mro__[1:-1])
    comments = dict(re.findall(r"^    (\w+): .*?  # (.*)$", source, re.MULTILINE))
    assert comments.keys() == get_type_hints(question.Args).keys()
    assert [x for x, comment in comments.items() if re.sub(r"\s", "", comment) not in text] == []


@pytest.mark.parametrize("name", ["prefpoe_lunarlander", "ppo_baseline"])
def test_lunarlander_v2_runs_as_v3_and_says_so_once(name, capsys):
    assert call(name, *flags(name, env_id="LunarLander-v2", run_name="x")) == 0
    out = capsys.readouterr().out
    assert len([line for line in out.splitlines() if "LunarLander-v2" in line and "v3" in line]) == 1
    assert evaluation_line(out)


def test_without_a_compiler_the_update_runs_eagerly_and_says_so(run, tmp_path):
    nothing = dict(CXX="/nonexistent", PATH=str(tmp_path / "empty"), TORCHINDUCTOR_CACHE_DIR=str(tmp_path / "cache"))
    process = run("prefpoe_lunarlander", *flags("prefpoe_lunarlander", compile=True), PYTHONWARNINGS="", **nothing)
    assert process.returncode == 0 and not process.stderr, process.stderr
    _, before, said, *_ = process.stdout.splitlines()
    assert before.startswith("compiling the update") and "compile" in said and "eager" in said
    assert evaluation_line(process.stdout)


def test_wandb_is_imported_only_to_track(script, tmp_path):
    """A whole run without --track leaves wandb out of sys.modules."""
    words = [sys.executable, "-c", IS_IMPORTED, "wandb", script.__file__, *flags(script.__name__)]
    process = subprocess.run(words, check=False, env=environment(), capture_output=True, text=True, timeout=120)
    assert process.returncode == 0, process.stderr
    said, _, imported = process.stdout.rstrip("\n").rpartition("\n")
    assert evaluation_line(said) and imported == "wandb imported: False"


@pytest.mark.parametrize(("name", "more"), [("prefpoe_continuous", []), ("ppo_baseline", ["--squash-mean"])])
def test_an_action_range_out_of_reach_is_warned_of(name, more, capsys):
    """The policy's means lie within +-1, this range within 2 and 5, or 0 and 5; unbounded means may reach it."""
    assert call(name, *flags(name, env_id=f"{ODD}:Unreachable-v0", run_name="x"), *more) == 0
    assert is_one_line(capsys.readouterr().err, "warning: ", "+-1", "Box(2.0, 5.0", "RescaleAction")
    assert call(name, *flags(name, env_id=f"{ODD}:Wide-v0", run_name="z"), *more) == 0
    assert is_one_line(capsys.readouterr().err, "warning: ", "+-1", "Box(-1000.0, 1000.0", "RescaleAction")
    assert call(name, *flags(name, env_id=f"{ODD}:Positive-v0", run_name="w"), *more) == 0
    assert is_one_line(capsys.readouterr().err, "warning: ", "+-1", "Box(0.0, 5.0", "RescaleAction")
    module, args = importlib.import_module(name), ["--squash-mean"] if more else []
    module.check_action_space(gym.spaces.Box(-0.02, 0.02, (2,)), module.parse_args(args))
    assert is_one_line(capsys.readouterr().err, "warning: ", "+-1", "Box(-0.02", "RescaleAction")
    for env_id in ("Pendulum-v1", "InvertedPendulum-v4", f"{ODD}:Unbounded-v0"):
        assert call(name, *flags(name, env_id=env_id, run_name=env_id[-7:]), *more) == 0
        assert capsys.readouterr().err == ""
    if more:
        assert call(name, *flags(name, env_id=f"{ODD}:Unreachable-v0", run_name="y")) == 0
        assert capsys.readouterr().err == ""


def test_an_environment_without_render_mode_is_trained_and_not_filmed(rejected):
    name, env_id = "prefpoe_lunarlander", f"{ODD}:NoRenderMode-v0"
    assert call(name, *flags(name, env_id=env_id, run_name="x")) == 0
    assert json.loads(Path("runs/x/evaluation.json").read_text())["returns"] == [10.0]
    rejected(name, *flags(name, env_id=env_id, capture_video=True), naming=(env_id, "render_mode"))


def test_observations_of_no_fixed_size_are_refused(rejected):
    for name in SCRIPTS:
        rejected(name, *flags(name, env_id=(env_id := f"{ODD}:Listed-v0")), naming=(env_id, "Sequence", "wrapper"))


@pytest.mark.parametrize("name", ["prefpoe_lunarlander", "ppo_baseline"])
def test_observations_that_are_lists_are_trained_on_and_evaluated(name):
    assert call(name, *flags(name, env_id=f"{ODD}:Lists-v0", run_name="x")) == 0
    assert json.loads(Path("runs/x/evaluation.json").read_text())["returns"] == [10.0]


def test_where_no_film_can_be_written_one_line_says_so(capsys):
    name = "prefpoe_lunarlander"
    assert call(name, *flags(name, run_name="x")) == 0
    Path("runs/x/videos").touch()
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        call(name, "--evaluate", "runs/x", "--capture-video", "--eval-episodes", 1)
    assert stop.value.code == 1
    assert is_one_line(capsys.readouterr().err, "--capture-video: cannot write to runs/x/videos", "exists")


def test_an_environment_without_pictures_is_not_filmed(rejected):
    name, env_id = "prefpoe_lunarlander", f"{ODD}:NoPicture-v0"
    rejected(name, *flags(name, env_id=env_id, capture_video=True), naming=("--capture-video", env_id, "picture"))


def test_where_no_time_limit_ends_an_episode_evaluation_and_film_are_bounded_and_say_so(capsys):
    name = "prefpoe_lunarlander"
    words = flags(name, env_id=f"{ODD}:Endless-v0", run_name="x", capture_video=True, eval_every=1, eval_episodes=2)
    assert call(name, *words) == 0
    *_, last = capsys.readouterr().err.splitlines()
    assert last.startswith("warning: ") and "2 of 2 evaluations cut off at 1000 steps" in last
    assert json.loads(Path("runs/x/evaluation.json").read_text())["returns"] == [1000.0] * 2
    (film,) = Path("runs/x/videos").iterdir()
    assert len(frames(film)) in (1000, 1001)


def test_an_error_of_the_environment_keeps_its_traceback(run):
    """It is no file of the run that is missing."""
    name = "prefpoe_lunarlander"
    process = run(name, *flags(name, env_id=f"{ODD}:NoModelFile-v0"), PYTHONPATH=str(ROOT / "tests"))
    assert process.returncode == 1 and process.stderr.startswith("Traceback")
    assert "/nonexistent/model.xml" in process.stderr.splitlines()[-1] and "write" not in process.stderr


def test_no_warning_says_that_v4_is_out_of_date(script, recwarn):
    """Of any task that a version after v4 replaces, in training as in evaluation."""
    gym.register("Old-v0", "odd_environments:Steps")
    gym.register("Old-v1", "odd_environments:Steps")
    env_id = "Old-v0" if script.__name__ == "prefpoe_lunarlander" else "InvertedPendulum-v4"
    warnings.simplefilter("always")
    with pytest.warns(DeprecationWarning, match="out of date"):
        gym.make(env_id)
    assert call(script, *flags(script.__name__, env_id=env_id, run_name="x")) == 0
    assert call(script, "--evaluate", "runs/x") == 0
    assert not [warning for warning in recwarn if "out of date" in str(warning.message)]


def test_of_mujocos_warnings_only_the_one_about_halfcheetahs_model_is_left_out(script, monkeypatch, tmp_path, capfd):
    mujoco = pytest.importorskip("mujoco")
    monkeypatch.chdir(tmp_path)
    mujoco.set_mju_user_warning(None)
    gym.make("HalfCheetah-v4")
    if "settotalmass" not in capfd.readouterr().err:
        pytest.skip(f"mujoco {mujoco.__version__} does not warn of it")
    Path("MUJOCO_LOG.TXT").unlink()
    env = script.make_env("HalfCheetah-v4").unwrapped
    assert "settotalmass" not in "".join(capfd.readouterr()) and not Path("MUJOCO_LOG.TXT").exists()
    env.reset(seed=0)
    env.data.qvel[:] = math.nan
    mujoco.mj_step(env.model, env.data)
    said = capfd.readouterr().err.splitlines()
    assert said and all(line.startswith("warning: Nan, Inf or huge value in QVEL") for line in said)


def test_evaluations_are_on_the_same_episodes_whatever_the_seed(script, trained, capsys):
    """As --seed's help says."""
    lines = set()
    for seed in (1, 2):
        assert call(script, "--evaluate", trained[script.__name__], "--eval-episodes", 2, "--seed", seed) == 0
        lines.add(evaluation_line(capsys.readouterr().out))
    assert len(lines) == 1
    assert "evaluations always start alike" in inspect.getsource(script.Run)


def test_the_last_lines_are_commands_that_work(script, capsys):
    """Ready to paste: what they name exists, and is read as it is meant."""
    assert call(script, *flags(script.__name__, run_name="copied")) == 0
    assert "plot it" not in capsys.readouterr().out  # a script copied into another project has no benchmark/ there
    shutil.copytree(ROOT / "benchmark", "benchmark", ignore=shutil.ignore_patterns("results", "__pycache__"))
    assert call(script, *flags(script.__name__, run_name="x")) == 0
    *_, film, plot = capsys.readouterr().out.splitlines()
    python, _, *words = film.removeprefix("film it:  ").split()
    args = script.parse_args(words)
    assert (python, args.evaluate, args.capture_video) == ("python", "runs/x", True)
    assert plot == "plot it:  python benchmark/plot.py runs/x"


# --- Weights & Biases --------------------------------------------------------------------------


def wandb_records(folder: Path) -> list:
    """The records of a run's offline logs in the order written: LevelDB logs of protobufs, 7 bytes of header."""
    from wandb.proto.wandb_internal_pb2 import Record

    records = []
    for path in sorted(folder.glob("wandb/offline-run-*/run-*.wandb")):
        data, offset, parts = path.read_bytes(), 7, b""
        while offset < len(data):
            if (left := 32768 - offset % 32768) < 7:  # a block's end has no room for a header
                offset += left
                continue
            size, kind = int.from_bytes(data[offset + 4 : offset + 6], "little"), data[offset + 6]
            parts += data[offset + 7 : offset + 7 + size]
            offset += 7 + size
            if kind in (1, 4):  # a whole record, or the last part of one
                records.append(Record.FromString(parts))
                parts = b""
    return records


def record(folder: Path, kind: str) -> list:
    """The records of that kind, in the order written."""
    return [getattr(x, kind) for x in wandb_records(folder) if x.WhichOneof("record_type") == kind]


@pytest.fixture(scope="module")
def tracked(tmp_path_factory):
    """A run with --track and without a login: stopped by SIGTERM, then resumed to its end."""
    name, cwd = "prefpoe_lunarlander", tmp_path_factory.mktemp("tracked")
    folder, home = cwd / "runs" / WANDB_NAME, cwd / "home"
    home.mkdir()
    env = environment(HOME=str(home), NETRC=str(home / ".netrc"))
    options = dict(cwd=cwd, env=env, stdin=subprocess.DEVNULL, text=True)
    words = flags(name, run_name=WANDB_NAME, track=True, eval_every=1, num_steps=256, total_timesteps=256 * 24)
    with subprocess.Popen(command(name, *words), stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options) as process:
        deadline = time.monotonic() + 60
        while not ((folder / "metrics.csv").exists() and len((folder / "metrics.csv").read_bytes().splitlines()) > 3):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        process.terminate()
        stdout, stderr = process.communicate(timeout=60)
    first = subprocess.CompletedProcess(words, process.returncode, stdout, stderr)
    second = subprocess.run(
        command(name, "--resume", f"runs/{WANDB_NAME}"), check=False, capture_output=True, timeout=120, **options
    )
    return first, second, folder


def test_tracking_without_a_login_goes_offline_and_says_how_to_sync(tracked):
    first, second, folder = tracked
    assert (first.returncode, second.returncode) == (143, 0), first.stderr + second.stderr
    for process in (first, second):
        assert f"wandb sync runs/{WANDB_NAME}/wandb/offline-run-" in process.stdout
        assert "Traceback" not in process.stderr
    assert len(list(folder.glob("wandb/offline-run-*/*.wandb"))) == 2
    assert evaluation_line(second.stdout)


def test_wandb_gets_every_column_of_every_row_across_a_resume(tracked):
    folder = tracked[2]
    logged = [
        {item.nested_key[0] if item.nested_key else item.key: item.value_json for item in row.item}
        for row in record(folder, "history")
    ]
    logged = [{key: float(x) for key, x in row.items() if not key.startswith("_")} for row in logged]
    rows = [{key: float(x) for key, x in row.items() if x != "nan"} for row in read_metrics(folder)]
    assert logged == rows and len(rows) == 24
    assert {key for row in logged for key in row} == read_metrics(folder)[0].keys()


def test_wandb_gets_the_config_and_the_final_checkpoint(tracked):
    folder = tracked[2]
    *_, run = record(folder, "run")
    config = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert {key: x for key, x in config.items() if key != "_wandb"} == json.loads((folder / "config.json").read_text())
    (artifact,) = record(folder, "artifact")
    (file,) = artifact.manifest.contents
    digest = base64.b64encode(hashlib.md5((folder / "checkpoint.pt").read_bytes()).digest()).decode()
    assert (artifact.type, file.path, file.digest) == ("model", "checkpoint.pt", digest)
    assert re.fullmatch(r"caf--x[\w.-]{,122}", artifact.name, re.ASCII)


def test_wandb_gets_the_runs_own_id_and_how_each_process_ended(tracked):
    """The id is not the folder's name: a folder of that name on another machine is another run."""
    folder, config = tracked[2], json.loads((tracked[2] / "config.json").read_text())
    assert {run.run_id for run in record(folder, "run")} == {config["id"]} and config["id"] not in WANDB_NAME
    assert [end.exit_code for end in record(folder, "exit")] == [143, 0]


@pytest.fixture
def track(run, tmp_path):
    """`track(**variables)`: a finished process of a run "x" with --track, in a home without a login."""

    def track(*words: object, **variables: str) -> subprocess.CompletedProcess:
        home = dict(HOME=str(tmp_path), NETRC=str(tmp_path / ".netrc"))
        return run(
            "prefpoe_lunarlander", *flags("prefpoe_lunarlander", run_name="x", track=True), *words, **home | variables
        )

    return track


@pytest.mark.parametrize("setting", [dict(WANDB_API_KEY="abc"), dict(WANDB_MODE="banana")])
def test_a_setting_that_wandb_refuses_is_one_line_and_does_not_block_the_name(setting, track):
    process = track(**setting)
    assert process.returncode == 2 and is_one_line(process.stderr, "error: --track: "), process.stderr
    assert "banana" in process.stderr or "WANDB_API_KEY" in process.stderr
    assert call("prefpoe_lunarlander", *flags("prefpoe_lunarlander", run_name="x")) == 0


def test_a_server_that_cannot_be_reached_is_said_and_the_run_logged_offline(track, tmp_path):
    key, started = "0123456789" * 4, time.monotonic()
    process = track(WANDB_BASE_URL="http://127.0.0.1:9", WANDB_API_KEY=key)
    assert process.returncode == 0 and time.monotonic() - started < 100, process.stderr
    assert re.search("connection refused.*: logging offline; .*wandb sync runs/x/wandb/offline-run-", process.stdout)
    assert evaluation_line(process.stdout) and "Traceback" not in process.stderr
    assert [end.exit_code for end in record(tmp_path / "runs/x", "exit")] == [0]


def test_wandb_learns_that_a_run_ended_with_numbers_that_are_not_finite(track, tmp_path):
    process = track("--learning-rate", 1e20, "--update-epochs", 4, WANDB_MODE="offline")
    assert process.returncode == 1 and "not finite" in process.stderr
    assert [end.exit_code for end in record(tmp_path / "runs/x", "exit")] == [1]


def test_a_run_outlives_the_process_of_wandb(tmp_path):
    """A cluster's SIGTERM reaches that process too; here it alone is killed, and the run goes on to its end."""
    words = flags("ppo_baseline", run_name="x", track=True, num_steps=256, total_timesteps=256 * 24)
    options = dict(cwd=tmp_path, env=environment(HOME=str(tmp_path)), stdin=subprocess.DEVNULL, text=True)
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    with subprocess.Popen(command("ppo_baseline", *words), **pipes, **options) as process:
        metrics, deadline = tmp_path / "runs" / "x" / "metrics.csv", time.monotonic() + 60
        while not (metrics.exists() and len(metrics.read_bytes().splitlines()) > 3):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        killed = [child for child in children if "wandb" in Path(f"/proc/{child}/cmdline").read_text()]
        for child in killed:
            os.kill(int(child), signal.SIGKILL)
        _, stderr = process.communicate(timeout=60)
    assert killed and process.returncode == 0, stderr
    assert stderr.count("warning: Weights & Biases has stopped") == 1  # wandb's own exit hook adds a traceback
    assert len(read_metrics(metrics.parent)) == 24 and (metrics.parent / "evaluation.json").exists()


# --- video, warnings, losses that are not finite -----------------------------------------------


def frames(film: Path) -> list:
    """The pictures (height, width, 3) of an mp4."""
    from moviepy import VideoFileClip

    with VideoFileClip(str(film)) as clip:
        return list(clip.iter_frames())


def test_capture_video_films_as_many_evaluation_episodes_as_asked_and_keeps_earlier_films(discrete, capsys):
    """One unless more are asked for, of the last evaluation only; evaluating such a run films nothing unasked."""
    words = flags("prefpoe_lunarlander", run_name="x", capture_video=True, eval_every=1, eval_episodes=2)
    assert call(discrete, *words) == 0
    said = capsys.readouterr().out
    assert said.index("filming into runs/x/videos") < said.index(evaluation_line(said))
    (first,) = Path("runs/x/videos").iterdir()
    before = first.read_bytes()
    assert call(discrete, "--evaluate", "runs/x") == 0
    assert [*Path("runs/x/videos").iterdir()] == [first]
    more = ("--capture-video", "--eval-episodes", 3, "--video-episodes", 2)
    time.sleep(1)  # films are named by the second
    assert call(discrete, "--evaluate", "runs/x", *more) == 0
    films = list(Path("runs/x/videos").iterdir())
    assert len(films) == 3 and first.read_bytes() == before
    assert all(film.suffix == ".mp4" and film.read_bytes()[4:8] == b"ftyp" for film in films)


def test_the_agent_is_in_the_last_frame_of_its_film_wherever_it_went(run, tmp_path):
    """Hopper is the only thing there of a warm colour. A display that cannot be reached is not needed either."""
    words = flags("prefpoe_continuous", env_id=f"{ODD}:FarHopper-v4", run_name="x", capture_video=True, eval_every=0)
    process = run("prefpoe_continuous", *words, DISPLAY=":99", PYTHONPATH=str(ROOT / "tests"))
    assert process.returncode == 0, process.stderr
    (film,) = (tmp_path / "runs/x/videos").iterdir()
    *_, last = frames(film)
    red, _, blue = last.astype(int).transpose(2, 0, 1)
    rows, columns = (red - blue > 60).nonzero()
    assert len(rows) > 1000 and 120 < columns.mean() < 360


def test_a_renderer_that_does_not_exist_is_named(run, tmp_path):
    words = flags("prefpoe_continuous", env_id="Hopper-v4", capture_video=True)
    process = run("prefpoe_continuous", *words, MUJOCO_GL="bogus")
    assert process.returncode == 2 and is_one_line(process.stderr, "MUJOCO_GL", "bogus"), process.stderr
    assert not list(tmp_path.iterdir())


LONGER = dict(num_steps=128, update_epochs=4, total_timesteps=1280, eval_every=0, anneal_lr=False)
SIGNATURES = {
    "prefpoe_continuous": {
        r"entropy.* --alpha": lambda row: row["sigma_pref"] < 0.05,
        r"bound.*lower --alpha or --w-pref, or raise --w-cons": lambda row: row["sigma_pref"] > 1.9,
        r"15 %.* --w-cons": lambda row: row["mean_difference"] > 0.15,
        r"approx_kl.* --beta1": lambda row: row["approx_kl"] > 0.2,
    },
    "prefpoe_lunarlander": {
        r"entropy.* --alpha": lambda row: row["entropy_pref"] < 0.05 * math.log(2),
        r"15 %.* --w-cons": lambda row: row["mean_difference"] > 0.15,
        r"approx_kl.* --beta1": lambda row: row["approx_kl"] > 0.2,
    },
}
COLLAPSE = dict(alpha=0, beta1=20, w_pref=1, learning_rate=0.05, seed=2, total_timesteps=2560)
BOUND = dict(alpha=5, beta1=0, w_pref=1, learning_rate=0.05)
APART = dict(w_cons=0, beta1=2, w_pref=1, learning_rate=0.02)


@pytest.mark.parametrize(
    ("name", "changes", "expected"),
    [
        ("prefpoe_continuous", COLLAPSE, "entropy"),
        ("prefpoe_continuous", BOUND, "bound"),
        ("prefpoe_continuous", APART | dict(env_id="HalfCheetah-v4"), "15 %"),
        ("prefpoe_continuous", {}, None),
        ("prefpoe_lunarlander", COLLAPSE, "entropy"),
        ("prefpoe_lunarlander", APART, "15 %"),
        ("prefpoe_lunarlander", {}, None),
    ],
)
def test_a_failure_signature_is_warned_of_once_with_the_flag_to_turn(name, changes, expected, capsys):
    """Exactly the signatures that rows of metrics.csv show are printed, each once though rows repeat it."""
    assert call(name, *flags(name, **LONGER | dict(run_name="x") | changes)) == 0
    warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    rows = [{key: float(x) for key, x in row.items()} for row in read_metrics(Path("runs/x"))]
    shown = {pattern: sum(present(row) for row in rows) for pattern, present in SIGNATURES[name].items()}
    for pattern, count in shown.items():
        assert sum(bool(re.search(pattern, line)) for line in warnings) == (count > 0)
        assert count > 1 or not (expected and pattern.startswith(expected))
    assert len(warnings) == sum(count > 0 for count in shown.values())
    assert bool(warnings) == bool(expected)


def test_a_non_finite_loss_stops_with_code_1_and_the_step_and_keeps_the_checkpoint(script, capsys):
    with pytest.raises(SystemExit) as stop:
        call(script, *flags(script.__name__, run_name="x", learning_rate=1e20, update_epochs=4, checkpoint_every=1))
    stderr = capsys.readouterr().err
    assert stop.value.code == 1 and is_one_line(stderr, "step 64", "runs/x"), stderr
    assert torch.load("runs/x/checkpoint.pt")["global_step"] == 0
    assert call(script, "--evaluate", "runs/x") == 0
    assert evaluation_line(capsys.readouterr().out)


def test_no_checkpoint_ever_holds_weights_that_are_not_finite(script, unfinished, capsys):
    """Here the loss of the only minibatch is finite and the step taken on it is not, for Adam's moments."""
    folder = unfinished(script.__name__)
    checkpoint = torch.load(folder / "checkpoint.pt", weights_only=True)
    checkpoint["args"] |= dict(num_minibatches=1, checkpoint_every=1, learning_rate=1.0)
    checkpoint["iteration"] -= 1
    checkpoint["adam"]["m"] += 1e38
    checkpoint["adam"]["v"] *= 0
    torch.save(checkpoint, folder / "checkpoint.pt")
    before = (folder / "checkpoint.pt").read_bytes()
    with pytest.raises(SystemExit) as stop:
        call(script, "--resume", folder)
    *_, last = capsys.readouterr().err.splitlines()
    assert stop.value.code == 1 and re.match(r"error: not finite at step 128 \(loss -?\d", last)
    assert (folder / "checkpoint.pt").read_bytes() == before


# --- weights from elsewhere --------------------------------------------------------------------


@pytest.mark.skipif(not WEIGHTS.exists(), reason="the authors' weights are not here")
def test_the_authors_weights_score_as_published_with_sigma_p_at_its_clamp(continuous, capsys):
    """5,854 +- 1,165 measured for the fused mean over 18 episodes; the paper says 5,616."""
    words = ("--env-id", "HalfCheetah-v4", "--evaluate", WEIGHTS, "--eval-episodes", 6)
    assert call(continuous, *words) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    assert any("statistics" in line and "on the fly" in line for line in lines)
    mean, episodes = re.fullmatch(r"evaluation: mean=(\S+) std=\S+ episodes=(\d+)", last).groups()
    assert float(mean) > 3500 and episodes == "6"

    agent = continuous.Agent(17, gym.spaces.Box(-1, 1, (6,)))
    agent.load_state_dict(continuous.load_checkpoint(str(WEIGHTS))["agent"])
    _, preference, _ = agent(torch.randn(5, 17))
    assert preference.std.shape == (5, 6) and (preference.std == 2.0).all()


def authors_form(obs_dim: int, action_dim: int) -> dict[str, torch.Tensor]:
    """Random weights under the names of the authors' state dict, whose critic repeats the backbone."""
    torch.manual_seed(0)
    shapes = {"0": (64, obs_dim), "2": (64, 64)}
    layers = {f"backbone.{i}": shape for i, shape in shapes.items()} | {"critic.1": (1, 64)}
    layers |= {f"{head}_mean": (action_dim, 64) for head in ("actor", "preference")}
    state = {f"{name}.weight": torch.randn(shape) for name, shape in layers.items()}
    state |= {f"{name}.bias": torch.randn(shape[0]) for name, shape in layers.items()}
    state |= {f"{head}_logstd": torch.randn(1, action_dim) for head in ("actor", "preference")}
    return state | {f"critic.0.{i}.{x}": state[f"backbone.{i}.{x}"] for i in shapes for x in ("weight", "bias")}


def test_a_plain_state_dict_of_the_authors_form_is_accepted(continuous, capsys):
    torch.save(state := authors_form(3, 1), "weights.pt")
    assert call(continuous, "--env-id", "Pendulum-v1", "--evaluate", "weights.pt", "--eval-episodes", 2) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    assert any("statistics" in line and "on the fly" in line for line in lines)
    assert re.fullmatch(r"evaluation: mean=-\d+\.\d\d std=\S+ episodes=2", last)

    agent = continuous.Agent(3, gym.spaces.Box(-2, 2, (1,)))
    agent.load_state_dict(continuous.load_checkpoint("weights.pt")["agent"])
    obs = torch.randn(7, 3)
    hidden = obs
    for i in ("0", "2"):
        hidden = torch.tanh(hidden @ state[f"critic.0.{i}.weight"].T + state[f"critic.0.{i}.bias"])
    main, preference, value = agent(obs)
    torch.testing.assert_close(value, (hidden @ state["critic.1.weight"].T + state["critic.1.bias"]).squeeze(-1))
    for expert, head in ((main, "actor"), (preference, "preference")):
        mean = torch.tanh(hidden @ state[f"{head}_mean.weight"].T + state[f"{head}_mean.bias"])
        torch.testing.assert_close(expert.mean, mean)


def test_a_plain_state_dict_that_lacks_a_head_is_refused(continuous, rejected):
    state = authors_form(3, 1)
    torch.save({name: x for name, x in state.items() if not name.startswith("preference")}, "weights.pt")
    naming = ("weights.pt", "preference_mean.weight")
    rejected(continuous, "--env-id", "Pendulum-v1", "--evaluate", "weights.pt", naming=naming)
