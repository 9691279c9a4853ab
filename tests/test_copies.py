"""Changes that a researcher makes to a copy: each does as one expects, or says that it does not."""

import ast
import difflib
import json
import re
import subprocess
import sys
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
import torch
from conftest import ROOT, SCRIPTS, environment, read_metrics

CONTINUOUS, LUNARLANDER, BASELINE = SCRIPTS
FLAGS = "--total-timesteps 192 --num-steps 64 --num-minibatches 2 --update-epochs 2 --learning-rate 0.01"
FLAGS += " --eval-every 3 --eval-episodes 3 --no-compile --run-name x"
LEARN = "        rewards = scale_rewards("
RECORD = LEARN, f"        RECORDED.append((rollout, __import__('copy').deepcopy(learner), scheduled))\n{LEARN}"


@pytest.fixture
def trial(copied, tmp_path, monkeypatch, capsys):
    """`trial(name, changes, *flags)` makes those changes to a copy and trains: what came of it, and with which agents."""

    def train(name, changes, *flags):
        monkeypatch.chdir(tmp_path)
        module = copied(name, RECORD, *changes)
        module.RECORDED = []
        env_id = "CartPole-v1" if name == LUNARLANDER else "Pendulum-v1"
        module.main(module.parse_args([*FLAGS.split(), "--env-id", env_id, *map(str, flags)]))
        folder = tmp_path / "runs/x"
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
        total, over = 0.0, False
        while not over:
            obs = ((obs - mean) / std).clip(-10, 10) if args.norm_obs else obs
            fused = fused_of(done.module, agent, np.float32(obs)[None], args)
            action = fused.mean[0].numpy() if hasattr(fused, "mean") else fused.logits[0].numpy().argmax()
            obs, reward, terminated, truncated, _ = env.step(action)
            total, over = total + reward, terminated or truncated
        returns.append(total)
    assert done.evaluation["returns"] == pytest.approx(returns, rel=2e-3)
    assert float(done.rows[-1]["eval_return"]) == pytest.approx(np.mean(returns), rel=2e-3)
    assert len(done.rows) == len(done.recorded) == 3


WIDER = [("linear(obs_dim, 64), nn.Tanh(), linear(64, 64), nn.Tanh()",) * 2]
WIDER = [
    ("linear(obs_dim, 64), nn.Tanh(), linear(64, 64), nn.Tanh()", "linear(obs_dim, 256), nn.ReLU(), last, nn.ReLU()"),
    ("linear(64, ", "linear(256, "),
    ("last, nn.ReLU()", "linear(256, 256), nn.ReLU()"),
]
STD = [
    ("actor_logstd = nn.Parameter(torch.full((1, action_dim), args.logstd_init))", "actor_logstd = linear(64, action_dim)"),
    ("self.actor_logstd.exp().expand_as(main_mean)", "(self.actor_logstd(hidden) - 1).exp()"),
]
PLAIN_STD = [
    (
        "actor_logstd = nn.Parameter(torch.full((1, action_space.shape[0]), args.logstd_init))",
        "actor_logstd = linear(64, action_space.shape[0])",
    ),
    ("self.actor_logstd.exp().expand_as(mean)", "(self.actor_logstd(hidden) - 1).exp()"),
]
LAMBDA = [
    ("        self.critic = ", "        self.log_lambda = nn.Parameter(torch.zeros(1))\n        self.critic = "),
    ("return main, pref, self", "return main, pref, self.log_lambda.exp(), self"),
    ("def fuse(main: Gaussian, pref: Gaussian, args", "def fuse(main: Gaussian, pref: Gaussian, weight, args"),
    ("pref_precision = args.lambda_pref *", "pref_precision = weight *"),
    ("main, pref, value = ", "main, pref, weight, value = "),
    ("main, pref, _ = ", "main, pref, weight, _ = "),
    ("    fused = fuse(main, pref, args)", "    fused = fuse(main, pref, weight, args)"),
    ("return fuse(main, pref, args).sample(torch", "return fuse(main, pref, weight, args).sample(torch"),
]
THIRD = [
    ("        self.preference_mean = ", "        self.third = linear(64, action_dim, gain=1.0)\n        self.preference_mean = "),
    ("return main, pref, self", "return main, pref, Gaussian(self.third(hidden), 0 * main_mean + 1), self"),
    ("def fuse(main: Gaussian, pref: Gaussian, args", "def fuse(main: Gaussian, pref: Gaussian, third, args"),
    ("    precision = main_precision + pref_precision\n", "    precision = main_precision + pref_precision + third.std**-2\n"),
    ("pref_precision / precision * pref.mean\n", "pref_precision / precision * pref.mean + third.mean / precision\n"),
    ("main, pref, value = ", "main, pref, third, value = "),
    ("main, pref, _ = ", "main, pref, third, _ = "),
    ("    fused = fuse(main, pref, args)", "    fused = fuse(main, pref, third, args)"),
    ("return fuse(main, pref, args).sample(torch", "return fuse(main, pref, third, args).sample(torch"),
]
CRITIC = [
    ("self.critic = linear(64, 1, gain=1.0)", "self.V = nn.Sequential(linear(64, 8), nn.Tanh(), linear(8, 1))"),
    ("self.critic(", "self.V("),
]
RELU = [
    ("nn.Tanh()", "nn.ReLU()"),
    ("np.tanh(np.tanh(obs.dot(W1) + b1).dot(W2) + b2)", "np.maximum(np.maximum(obs.dot(W1) + b1, 0).dot(W2) + b2, 0)"),
]
HEAD = [("torch.tanh(self.preference_mean(hidden))", "self.preference_mean(hidden)")]
TWIN = [("means = np.tanh(hidden.dot(W_heads) + b_heads)", "means = 0 * np.tanh(hidden.dot(W_heads) + b_heads)")]


@pytest.mark.parametrize(
    ("name", "changes", "twin_acts"),
    [
        *((name, WIDER, False) for name in SCRIPTS),
        (CONTINUOUS, STD, False),
        (BASELINE, PLAIN_STD, False),
        (CONTINUOUS, LAMBDA, False),
        (CONTINUOUS, THIRD, False),
        (CONTINUOUS, HEAD, False),
        (CONTINUOUS, TWIN, False),
        *((name, CRITIC, True) for name in SCRIPTS),
        *((name, RELU, True) for name in SCRIPTS),
    ],
)
def test_acting_is_that_of_the_network_whoever_changes_it(name, changes, twin_acts, trial):
    """In torch where numpy_policy isn't changed too, which is said in one line, once."""
    done = trial(name, changes)
    assert_learned_from_samples_of_its_policy(done)
    assert done.said.count("acting in torch") == (not twin_acts)
    policies = [learner.policy for _, learner, _ in done.recorded]
    assert policies[-1] is (done.module.numpy_policy if twin_acts else done.module.torch_policy)
    assert "no gradient" not in done.said
