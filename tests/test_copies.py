"""Changes that a researcher makes to a copy: each does as one expects, or says that it does not."""

import ast
import json
import re
import subprocess
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import ROOT, SCRIPTS, read_metrics

CONTINUOUS, LUNARLANDER, BASELINE = SCRIPTS
FLAGS = "--total-timesteps 192 --num-steps 64 --num-minibatches 2 --update-epochs 2 --learning-rate 0.01"
FLAGS += " --eval-every 3 --eval-episodes 3 --no-compile"
REWARDS = "        rewards = scale_rewards("
LEARN = "        losses = update("
RECORD = LEARN, f"        RECORDED.append((rollout, __import__('copy').deepcopy(learner), scheduled))\n{LEARN}"


@pytest.fixture
def trial(copied, tmp_path, monkeypatch, capsys):
    """`trial(name, changes, *flags)` makes those changes to a copy and trains: what came of it, and with which agents."""
    monkeypatch.chdir(tmp_path)

    def train(name, changes, *flags):
        module = copied(name, RECORD, *changes)
        module.RECORDED = []
        env_id = "CartPole-v1" if name == LUNARLANDER else "Pendulum-v1"
        module.main(module.parse_args([*FLAGS.split(), "--env-id", env_id, *map(str, flags)]))
        folder = max(tmp_path.glob("runs/*"), key=lambda path: path.stat().st_ctime_ns)
        evaluation = json.loads((folder / "evaluation.json").read_text())
        result = dict(module=module, said=capsys.readouterr().out, rows=read_metrics(folder), folder=folder)
        return SimpleNamespace(**result, evaluation=evaluation, recorded=module.RECORDED)

    return train


def fused_of(module, agent, obs, args):
    *experts, _ = agent(torch.from_numpy(obs))
    return module.fuse(*experts, args) if hasattr(module, "fuse") else experts[0]


@torch.no_grad()
def assert_learned_from_samples_of_its_policy(done):
    """In each rollout, by the formula of sampling and by Agent.forward; and evaluated are its modes."""
    for rollout, learner, args in done.recorded:
        obs, noise, action = (x[:, 0] for x in (rollout.obs, rollout.noise, rollout.action))
        fused = fused_of(done.module, learner.agent, obs, args)
        if hasattr(fused, "mean"):
            np.testing.assert_allclose(action, fused.mean.numpy() + fused.std.numpy() * noise, atol=1e-4)
        else:
            assert (action == (fused.logits.numpy() + noise).argmax(-1)).mean() > 0.98  # ties and rounding
    saved = torch.load(done.folder / "checkpoint.pt", weights_only=True)
    args = done.module.Args(**saved["args"])
    env = done.module.make_env(args)
    agent = done.module.Agent(env.observation_space.shape[0], env.action_space, args)
    agent.load_state_dict(saved["agent"])
    mean = saved["obs_stats"]["mean"].numpy()
    std = (saved["obs_stats"]["m2"] / saved["obs_stats"]["count"]).sqrt().numpy()
    returns = []
    for episode in range(3):
        obs, _ = env.reset(seed=2**30 + episode)
        total = 0.0
        over = False
        while not over:
            obs = ((obs - mean) / std).clip(-10, 10) if args.norm_obs else obs
            fused = fused_of(done.module, agent, np.float32(obs)[None], args)
            action = fused.mean[0].numpy() if hasattr(fused, "mean") else fused.logits[0].numpy().argmax()
            obs, reward, terminated, truncated, _ = env.step(action)
            total += reward
            over = terminated or truncated
        returns.append(total)
    assert done.evaluation["returns"] == pytest.approx(returns, rel=2e-3)
    assert float(done.rows[-1]["eval_return"]) == pytest.approx(np.mean(returns), rel=2e-3)
    assert len(done.rows) == len(done.recorded) == 3


FIRST = '    if args.fusion == "none":\n'
WIDER = [
    ("layer(obs_dim, 64), nn.Tanh(), layer(64, 64), nn.Tanh()", "layer(obs_dim, 256), nn.ReLU(), last, nn.ReLU()"),
    ("layer(64, ", "layer(256, "),
    ("last, nn.ReLU()", "layer(256, 256), nn.ReLU()"),
]


def state_dependent_std(dim, mean):
    made = (
        f"actor_logstd = nn.Parameter(torch.full((1, {dim}), args.logstd_init))",
        f"actor_logstd = layer(64, {dim})",
    )
    return [made, (f"self.actor_logstd.exp().expand_as({mean})", "(self.actor_logstd(hidden) - 1).exp()")]


def handed_to_fuse(x, made, value):
    """The changes by which Agent.forward hands something more to `fuse`."""
    return [
        ("self.critic = ", f"self.{x} = {made}; self.critic = "),
        ("return main, pref, self", f"return main, pref, {value}, self"),
        ("def fuse(main: Gaussian, pref: Gaussian, args", f"def fuse(main: Gaussian, pref: Gaussian, {x}, args"),
        ("main, pref, value = ", f"main, pref, {x}, value = "),
        ("main, pref, _ = ", f"main, pref, {x}, _ = "),
        ("_, _, next_value = ", "_, _, _, next_value = "),
        ("    fused = fuse(main, pref, args)", f"    fused = fuse(main, pref, {x}, args)"),
        ("return fuse(main, pref, args).sample(torch", f"return fuse(main, pref, {x}, args).sample(torch"),
    ]


LAMBDA = handed_to_fuse("weight", "nn.Parameter(torch.zeros(1))", "self.weight.exp()")
LAMBDA += [("pref_precision = args.lambda_pref *", "pref_precision = weight *")]
THIRD = handed_to_fuse("third", "layer(64, action_dim)", "Gaussian(self.third(hidden), 0 * main_mean + 1)")
THIRD += [
    ("precision = main_precision + pref_precision\n", "precision = main_precision + pref_precision + third.std**-2\n"),
    ("pref_precision / precision * pref.mean\n", "pref_precision / precision * pref.mean + third.mean / precision\n"),
]
CRITIC = [
    ("self.critic = layer(64, 1, gain=1.0)", "self.V = nn.Sequential(layer(64, 8), nn.Tanh(), layer(8, 1))"),
    ("self.critic(", "self.V("),
]
RELU = [
    ("nn.Tanh()", "nn.ReLU()"),
    ("np.tanh(np.tanh(obs.dot(W1) + b1).dot(W2) + b2)", "np.maximum(np.maximum(obs.dot(W1) + b1, 0).dot(W2) + b2, 0)"),
]
GATE = "    args = replace(args, lambda_pref=args.lambda_pref / (1 + ((main.{x} - pref.{x}) ** 2).sum(-1)[:, None]))"
GATES = [[(FIRST, f"{GATE.replace('{x}', x)}\n{FIRST}")] for x in ("mean", "logits")]
HEAD = [("torch.tanh(self.preference_mean(hidden))", "self.preference_mean(hidden)")]
TWIN = [("means = np.tanh(hidden.dot(W_heads) + b_heads)", "means = 0 * np.tanh(hidden.dot(W_heads) + b_heads)")]


@pytest.mark.parametrize(
    ("name", "changes", "twin_acts"),
    [
        *((name, WIDER, False) for name in SCRIPTS),
        (CONTINUOUS, state_dependent_std("action_dim", "main_mean"), False),
        (BASELINE, state_dependent_std("action_space.shape[0]", "mean"), False),
        (CONTINUOUS, LAMBDA, False),
        (CONTINUOUS, THIRD, False),
        (CONTINUOUS, HEAD, False),
        (CONTINUOUS, TWIN, False),
        *((name, CRITIC, True) for name in SCRIPTS),
        *((name, RELU, True) for name in SCRIPTS),
        (CONTINUOUS, GATES[0], True),
        (LUNARLANDER, GATES[1], True),
    ],
)
def test_acting_is_that_of_the_network_whoever_changes_it(name, changes, twin_acts, trial):
    """In torch where numpy_policy isn't changed too, which is said in one line, once."""
    done = trial(name, changes)
    assert_learned_from_samples_of_its_policy(done)
    assert done.said.count("acting in torch") == (not twin_acts)
    policies = [learner.make_act for _, learner, _ in done.recorded]
    assert policies[-1] is (done.module.numpy_policy if twin_acts else done.module.torch_policy)
    assert "no gradient" not in done.said


SAMPLING = [*((name, "act(obs, noise[t])", "act(obs, 2 * noise[t])") for name in SCRIPTS)]
SAMPLING += [(name, ".sample(torch.as_tensor(noise))", ".sample(2 * torch.as_tensor(noise))") for name in SCRIPTS]
SAMPLING += [
    (name, "self.mean + self.std * noise", "self.mean + 2 * self.std * noise") for name in (CONTINUOUS, BASELINE)
]
LOSS_ALONE = "    fused = fuse(main, pref, args)", "    fused = fuse(main, pref, replace(args, lambda_pref=2.0))"
SAMPLING += [(name, *LOSS_ALONE) for name in (CONTINUOUS, LUNARLANDER)]  # and make_batch
SAMPLING += [(name, "(self.logits + noise)", "(5 * self.logits + noise)") for name in (LUNARLANDER, BASELINE)]


@pytest.mark.parametrize(("name", "old", "new"), SAMPLING)
def test_actions_that_are_no_samples_of_the_policy_stop_the_run(name, old, new, trial):
    env_id = "CartPole-v1" if name == LUNARLANDER or "logits" in old else "Pendulum-v1"
    with pytest.raises(SystemExit) as ended:
        trial(name, [(old, new)], "--env-id", env_id, "--total-timesteps", 1536, "--num-steps", 512)
    assert isinstance(ended.value.code, str)  # so stderr, and exit code 1
    assert "\n" not in ended.value.code


def test_evaluating_alone_acts_in_torch(trial, capsys):
    """Where numpy_policy is another policy; of a checkpoint, and of a run that was killed before its evaluation."""
    done = trial(CONTINUOUS, HEAD)
    done.module.main(done.module.parse_args(["--evaluate", str(done.folder), "--eval-episodes", "3"]))
    assert f"mean={done.evaluation['mean']:.2f} " in capsys.readouterr().out
    (done.folder / "evaluation.json").unlink()
    done.module.main(done.module.parse_args(["--resume", str(done.folder)]))
    assert json.loads((done.folder / "evaluation.json").read_text()) == done.evaluation


UNUSED = [("self.critic = ", "self.unused = nn.Parameter(torch.ones(3)); self.critic = ")]
NO_PREFERENCE = ["--fusion", "none", "--w-pref", 0, "--w-cons", 0]


@pytest.mark.parametrize(("changes", "named"), [(UNUSED, ["unused"]), ([], [])])
@pytest.mark.parametrize("name", SCRIPTS)
def test_a_parameter_without_gradient_is_named_once(name, changes, named, trial):
    done = trial(name, changes, *([] if name == BASELINE else NO_PREFERENCE))
    assert re.findall(r"no gradient has reached (\S+)", done.said) == named


def test_stacked_frames_are_those_before(trial):
    flat = "gym.wrappers.FlattenObservation(env)"
    stacked = flat.replace("env", "gym.wrappers.FrameStackObservation(env, 4)")
    done = trial(CONTINUOUS, [(flat, stacked)], "--no-norm-obs", "--env-id", "InvertedPendulum-v4")
    assert_learned_from_samples_of_its_policy(done)
    for rollout, _, _ in done.recorded:
        frames = rollout.obs.reshape(64, 4, 4)
        following = rollout.next_obs.reshape(64, 4, 4)
        np.testing.assert_array_equal(following[:, :3], frames[:, 1:])
        starts = np.flatnonzero(rollout.done[:-1]) + 1
        assert starts.size
        np.testing.assert_array_equal(frames[starts], frames[starts][:, :1].repeat(4, axis=1))


def test_an_environment_of_ones_own_with_a_dict_of_observations(trial):
    done = trial(CONTINUOUS, [], "--env-id", "odd_environments:Named-v0", "--no-norm-obs")
    rollout = done.recorded[0][0]
    time = np.arange(64) % 10
    np.testing.assert_array_equal(rollout.obs[:, 0], np.column_stack([time, np.eye(3)[time % 3]]))
    np.testing.assert_array_equal(rollout.next_obs[:, 0], np.column_stack([time + 1, np.eye(3)[(time + 1) % 3]]))
    assert done.evaluation["returns"] == [10, 10, 10]


@pytest.mark.parametrize(("name", "env_id"), [(CONTINUOUS, "InvertedPendulum-v4"), (LUNARLANDER, "CartPole-v1")])
def test_an_intrinsic_bonus_is_learned_from_and_not_reported(name, env_id, trial):
    """Returns are the environment's own, in training and in evaluation."""
    bonus = f"        rollout = rollout._replace(reward=rollout.reward + 5 * rollout.obs[..., 0] ** 2)\n{REWARDS}"
    with_bonus, plain = (trial(name, changes, "--env-id", env_id) for changes in ([(REWARDS, bonus)], []))
    returns, losses = ([done.rows[0][x] for done in (with_bonus, plain)] for x in ("episodic_return", "value_loss"))
    assert returns[0] == returns[1]
    assert losses[0] != losses[1]
    assert_learned_from_samples_of_its_policy(with_bonus)


def test_the_best_model_is_kept(trial, capsys):
    """By four lines more in end_iteration; it is evaluated as any run is."""
    row = "        row = dict(global_step"
    keep = """        if eval_return > getattr(self, "best", -1e9):
            self.best = eval_return
            (self.folder / "best").mkdir(exist_ok=True)
            learner.save(self.folder / "best", self.args)
"""
    done = trial(CONTINUOUS, [(row, keep + row)], "--eval-every", 1, "--total-timesteps", 384, "--learning-rate", 0.03)
    returns = [float(row["eval_return"]) for row in done.rows]
    assert np.argmax(returns) < 5
    done.module.main(done.module.parse_args(["--evaluate", str(done.folder / "best"), "--eval-episodes", "3"]))
    assert float(re.search("mean=(.*?) ", capsys.readouterr().out)[1]) == pytest.approx(max(returns), rel=2e-3)


@pytest.mark.parametrize(("target", "epochs"), [(1e-9, 1), (1e6, 2)])
@pytest.mark.parametrize("name", SCRIPTS)
def test_epochs_end_at_the_target_kl(name, target, epochs, trial):
    """The steps taken are those that Adam's decay counts."""
    done = trial(name, [], "--target-kl", target, "--learning-rate", 1e-4)
    saved = torch.load(done.folder / "checkpoint.pt", weights_only=True)
    assert saved["adam"]["powers"][0].item() == pytest.approx(0.9 ** (3 * 2 * epochs))


@pytest.mark.parametrize(("name", "env_id"), [(CONTINUOUS, "Pendulum-v1"), (LUNARLANDER, "CartPole-v1")])
def test_a_guided_lambda_follows_the_explained_variance(name, env_id, trial):
    """The running mean of those so far, between 0 and 1; the rollouts are of that lambda."""
    flags = ["--lambda-schedule", "guided", "--lambda-pref", 2, "--total-timesteps", 640, "--env-id", env_id]
    done = trial(name, [], *flags)
    mean = 0.0
    for row, (_, _, args) in zip(done.rows, done.recorded, strict=True):
        assert float(row["lambda_pref"]) == args.lambda_pref == pytest.approx(2 * mean, abs=1e-9)
        mean = 0.9 * mean + 0.1 * np.clip(float(row["explained_variance"]), 0, 1)
    assert mean > 0.01


@pytest.mark.parametrize("fusion", ["poe", "linear"])
def test_fuse_serves_a_loop_of_ones_own(fusion, continuous, discrete):
    """Gradients reach both experts, as differences say."""
    x = [torch.rand(5, 3, dtype=torch.float64).add(0.1).requires_grad_() for _ in range(4)]

    def gaussian(mean, std, pref_mean, pref_std):
        experts = continuous.Gaussian(mean, std), continuous.Gaussian(pref_mean, pref_std)
        return tuple(continuous.fuse(*experts, continuous.Args(fusion=fusion)))

    def categorical(logits, pref_logits):
        experts = discrete.Categorical(logits), discrete.Categorical(pref_logits)
        return discrete.fuse(*experts, discrete.Args(fusion=fusion)).log_p

    assert torch.autograd.gradcheck(gaussian, x)
    assert torch.autograd.gradcheck(categorical, x[:2])


FEW = "--total-timesteps 2048 --num-steps 512 --num-minibatches 8 --update-epochs 4 --eval-every 0 --eval-episodes 1"
NO_HOLD = "--beta1 40 --alpha 0 --w-pref 1 --w-cons 0"


@pytest.mark.parametrize(
    ("name", "flags", "columns"),
    [
        (CONTINUOUS, f"{FEW} --env-id Hopper-v4 --learning-rate 0.1", {"approx_kl"}),
        (CONTINUOUS, f"{FEW} --env-id Hopper-v4 {NO_HOLD}", {"approx_kl", "mean_difference"}),
        (CONTINUOUS, f"{FEW} --env-id Hopper-v4 --logstd-init -4 --learning-rate 1e-4", {"sigma_pref"}),
        (LUNARLANDER, f"{FEW} --learning-rate 0.1", {"approx_kl"}),
        (LUNARLANDER, f"{FEW} {NO_HOLD}", {"approx_kl", "mean_difference"}),
        (BASELINE, f"{FEW} --env-id CartPole-v1 --learning-rate 0.1", {"approx_kl"}),
        (CONTINUOUS, "--total-timesteps 4096 --eval-episodes 1", set()),
        (LUNARLANDER, "--total-timesteps 4096 --eval-episodes 1", set()),
        (BASELINE, "--total-timesteps 4096 --eval-episodes 1 --env-id Hopper-v4", set()),
    ],
)
def test_failure_signatures_speak_in_broken_runs_and_not_in_healthy_ones(name, flags, columns, trial):
    done = trial(name, [], "--learning-rate", 0.01 if "beta1" in flags else 3e-4, *flags.split())
    named = {*re.findall(r"warning: (\w+) is ", done.said)}
    assert named >= columns
    assert columns or not named


def definitions(name):
    """Each top-level function, class and assignment, and the script's text."""
    source = (ROOT / f"{name}.py").read_text()
    kinds = ast.FunctionDef, ast.ClassDef, ast.Assign, ast.If
    nodes = [node for node in ast.parse(source).body if isinstance(node, kinds)]
    return {getattr(x, "name", ast.get_source_segment(source, x).split(" = ")[0]): x for x in nodes}, source


SPACES = {
    "Args",
    "Agent",
    "SIGNATURES",
    "VecEnv",
    "collect",
    "diagnose",
    "evaluate",
    "make_env",
    "numpy_policy",
    "make_batch",
}
SPACES |= {"parse_args", "total_loss", "acted_by", "fuse", "preference_loss"}
METHOD = {"Batch", "Gaussian", "Learner", "Log", "make_batch", "schedule", "torch_policy", "train"}


@pytest.mark.parametrize(("other", "may_differ"), [(LUNARLANDER, SPACES), (BASELINE, SPACES | METHOD)])
def test_what_the_scripts_share_is_the_same_text(other, may_differ):
    (one, source), (two, other_source) = definitions(CONTINUOUS), definitions(other)
    shared = (one.keys() & two.keys()) - may_differ
    assert {"gae", "update", "make_step", "main", "RunningMeanStd", "Rollout"} <= shared
    for name in shared:
        assert ast.get_source_segment(source, one[name]) == ast.get_source_segment(other_source, two[name])


def test_the_scripts_are_short_and_one_reads_from_the_top():
    for name in SCRIPTS:
        at, source = definitions(name)
        assert len(source.splitlines()) <= 820, name
        assert at["train"].end_lineno < 300
        assert name == BASELINE or at["fuse"].lineno < 170
    command = ["diff", ROOT / f"{BASELINE}.py", ROOT / f"{CONTINUOUS}.py"]
    assert len(subprocess.run(command, capture_output=True, check=False).stdout.splitlines()) <= 330
