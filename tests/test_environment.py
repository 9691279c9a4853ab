"""Stepping, collecting and evaluating, against gymnasium's own vector environment and plain loops."""

import contextlib
import importlib

import gymnasium as gym
import numpy as np
import pytest
import scipy.stats
import torch
from conftest import SCRIPTS
from gymnasium.wrappers.utils import RunningMeanStd
from torch.distributions import Categorical, Normal

for task in ("Hopper-v4", "CartPole-v1"):
    gym.register(f"Short{task}", gym.spec(task).entry_point, max_episode_steps=15)


class Habits(gym.Wrapper):
    """What some environments do: flags as 0 and 1, no valid observation at the end, one buffer for all of them."""

    def reset(self, **options):
        obs, info = self.env.reset(**options)
        vars(self).setdefault("buffer", np.array(obs))[:] = obs
        return self.buffer, info

    def step(self, action):
        self.buffer[:], reward, *flags, info = self.env.step(action)
        self.buffer[:] = np.nan if flags[0] else self.buffer
        return self.buffer, reward, *map(int, flags), info


class OnlyOne(gym.Wrapper):
    """A second instance is refused while there is one."""

    opened = 0

    def __init__(self):
        assert OnlyOne.opened == 0
        OnlyOne.opened = 1
        super().__init__(gym.make("ShortHopper-v4"))

    def close(self):
        OnlyOne.opened = 0
        super().close()


CONTINUOUS, LUNARLANDER, BASELINE = SCRIPTS
TASKS = ("ShortHopper-v4", "ShortCartPole-v1")
for task in TASKS:
    gym.register(f"Habits{task}", lambda task=task: Habits(gym.make(task)))
gym.register("OnlyOne-v0", OnlyOne, max_episode_steps=15)
ROWS = [*zip(SCRIPTS, TASKS), *((BASELINE, task) for task in TASKS)]
SCRIPT_AND_TASK = pytest.mark.parametrize(("script", "env_id"), ROWS, indirect=["script"])


def make_learner(script, args):
    """A learner whose actions depend on the state, as after training, and often leave [-1, 1]."""
    torch.manual_seed(0)
    learner = script.Learner(script.make_env(args), args)
    with torch.no_grad():
        for name, value in learner.agent.named_parameters():
            if "logstd" in name:
                value.fill_(0.3)
            elif name.startswith(("actor", "preference")):
                value.mul_(100)
    learner.make_act = script.numpy_policy
    return learner


def collected(script, env_id, norm_obs, num_steps=100, **options):
    """Two rollouts, the second going on where the first ended, as one; with their episodes and the seeds."""
    args = script.Args(env_id=env_id, num_envs=2, num_steps=num_steps // 2, norm_obs=norm_obs, **options)
    learner = make_learner(script, args)
    envs = script.VecEnv(2, args)
    envs.reset(0, 0)
    envs.step(np.zeros((2, *envs.action_space.shape), dtype=envs.action_space.dtype))  # no part of any episode below
    obs = script.normalize_obs(envs.reset(1, 0), learner.obs_stats, args, update=True)
    seeds = [env.unwrapped.np_random_seed for env in envs.envs]
    assert seeds[0] != seeds[1] and max(seeds) < 2**30  # evaluation's begin there
    rollouts = []
    episodes = []
    for _ in range(2):
        act = script.numpy_policy(learner.agent, args)
        rollout, obs, ended = script.collect(envs, obs, act, learner.obs_stats, learner.rng, args)
        rollouts.append(rollout)
        episodes += ended
    whole = script.Rollout._make(map(np.concatenate, zip(*rollouts, strict=True)))
    return args, learner, whole, episodes, seeds


def replay(env_id, rollout, seeds):
    """What fresh environments answer to its actions, clipped: what the policy acts on, what follows, …, and episodes."""
    envs = [gym.make(env_id) for _ in seeds]
    episodes = []
    totals = [(0.0, 0), (0.0, 0)]
    space = envs[0].action_space
    actions = rollout.action.clip(space.low, space.high) if isinstance(space, gym.spaces.Box) else rollout.action
    seen = [[env.reset(seed=seed)[0] for env, seed in zip(envs, seeds, strict=True)]]
    after, rewards, flags = [], [], []
    for row in actions:
        answers = [env.step(action) for env, action in zip(envs, row, strict=True)]
        after.append([obs for obs, *_ in answers])
        rewards.append([reward for _, reward, *_ in answers])
        flags.append([(terminated, truncated) for _, _, terminated, truncated, _ in answers])
        seen.append(after[-1].copy())
        for i, (env, ended) in enumerate(zip(envs, flags[-1], strict=True)):
            totals[i] = (totals[i][0] + rewards[-1][i], totals[i][1] + 1)
            if any(ended):
                episodes.append(totals[i])
                seen[-1][i] = env.reset()[0]
                totals[i] = (0.0, 0)
    terminated, truncated = np.moveaxis(np.array(flags), -1, 0)
    return np.array(seen), np.array(after), np.array(rewards), terminated, truncated, episodes


@SCRIPT_AND_TASK
def test_a_rollout_is_what_the_environment_really_did(script, env_id):
    """Its actions lead fresh environments through the very same transitions, so none is ignored at a reset.

    What the network sees is that, normalised by gymnasium's statistics so far; noise is standard normal or Gumbel.
    """
    _, _, rollout, episodes, seeds = collected(script, env_id, norm_obs=True, num_steps=400)
    seen, after, reward, terminated, truncated, true_episodes = replay(env_id, rollout, seeds)
    assert terminated.any() and (truncated & ~terminated).any()
    np.testing.assert_array_equal(rollout.reward, reward)
    np.testing.assert_array_equal(rollout.terminated, terminated)
    np.testing.assert_array_equal(rollout.done, terminated | truncated)
    assert episodes == [(pytest.approx(total), length) for total, length in true_episodes]
    kind = "gumbel_r" if "CartPole" in env_id else "norm"
    assert scipy.stats.kstest(rollout.noise.ravel(), kind).pvalue > 0.001

    stats = RunningMeanStd(shape=seen.shape[2:])
    stats.update(seen[0])
    for t in range(len(reward)):
        for ours, theirs in ((rollout.obs, seen), (rollout.next_obs, after)):
            expected = ((theirs[t] - stats.mean) / np.sqrt(stats.var + 1e-8)).clip(-10, 10)
            np.testing.assert_allclose(ours[t], expected, rtol=1e-4, atol=1e-4)
            if ours is rollout.obs:
                stats.update(seen[t + 1])
    goes_on = ~rollout.done[:-1]
    np.testing.assert_array_equal(rollout.obs[1:][goes_on], rollout.next_obs[:-1][goes_on])


@SCRIPT_AND_TASK
def test_habits_of_environments_change_neither_a_rollout_nor_its_advantages(script, env_id):
    """But for the observation at a termination where the environment gives none, whose value counts for nothing."""
    args, learner, plain, episodes, _ = collected(script, env_id, norm_obs=True)
    _, _, rollout, theirs, _ = collected(script, f"Habits{env_id}", norm_obs=True)
    assert plain.terminated.any() and (plain.done & ~plain.terminated).any()
    assert theirs == episodes
    next_obs = np.where(plain.terminated[..., None], np.nan, plain.next_obs)
    for ours, expected in zip(rollout, plain._replace(next_obs=next_obs), strict=True):
        assert ours.dtype == expected.dtype
        np.testing.assert_array_equal(ours, expected)
    advantages = [script.make_batch(learner, x, x.reward, args)[0].advantage for x in (rollout, plain)]
    np.testing.assert_array_equal(*advantages)
    assert advantages[0].isfinite().all()


@SCRIPT_AND_TASK
def test_what_a_batch_says_of_clipped_actions_time_limits_and_terminations(script, env_id):
    """The log-probability is that of the unclipped sample; a time limit bootstraps from the final observation."""
    options = dict(bootstrap_truncated="Hopper" in env_id) if script.__name__ == BASELINE else {}
    args, learner, rollout, _, seeds = collected(script, env_id, norm_obs=False, **options)
    batch, _, _ = script.make_batch(learner, rollout, rollout.reward, args)
    with torch.no_grad():
        *experts, value = learner.agent(torch.as_tensor(rollout.obs))
        policy = script.fuse(*experts, args) if len(experts) == 2 else experts[0]
    action = torch.as_tensor(rollout.action)
    if action.ndim == 3:
        assert (action.abs() > 1).float().mean() > 0.1, "clipping must matter here"
        log_prob = Normal(policy.mean, policy.std).log_prob(action).sum(-1)
    else:
        log_prob = Categorical(logits=policy.log_p).log_prob(action)
    torch.testing.assert_close(batch.log_prob, log_prob.flatten(), rtol=1e-4, atol=1e-4)

    _, after, reward, terminated, truncated, _ = replay(env_id, rollout, seeds)
    value_after = learner.agent(torch.as_tensor(after, dtype=torch.float32))[-1].detach().numpy()
    cut = reward - value.numpy()
    bootstrapped = cut + args.gamma * value_after
    time_limit = truncated & ~terminated
    assert terminated.any() and time_limit.any()
    assert (np.abs(bootstrapped - cut)[time_limit] > 0.01).all(), "the two must be told apart"
    advantage = batch.advantage.reshape(rollout.done.shape).numpy()
    np.testing.assert_allclose(advantage[terminated], cut[terminated], atol=1e-4)
    expected = bootstrapped if options.get("bootstrap_truncated", True) else cut
    np.testing.assert_allclose(advantage[time_limit], expected[time_limit], atol=1e-4)
    open_end = ~rollout.done[-1]
    np.testing.assert_allclose(advantage[-1][open_end], bootstrapped[-1][open_end], atol=1e-4)


@SCRIPT_AND_TASK
def test_evaluation_repeats_its_samples(script, env_id):
    modes = script.Args(env_id=env_id)
    samples = script.Args(env_id=env_id, eval_deterministic=False)
    learner = make_learner(script, modes)
    learner.obs_stats.update(np.random.default_rng(0).normal(size=(9, *learner.obs_stats.mean.shape)))
    returns = [script.evaluate(learner, script.make_env(args), 3, args) for args in (samples, samples, modes)]
    assert returns[0] == returns[1] != returns[2]


@pytest.mark.parametrize("changes", ["", "--learning-rate 1e6 --max-grad-norm 1e6"])
@pytest.mark.parametrize("name", [CONTINUOUS, BASELINE])
def test_without_evaluation_there_is_one_environment_at_a_time_and_each_is_closed(name, changes, tmp_path, monkeypatch):
    """Also where the run ends at numbers that are not finite."""
    monkeypatch.chdir(tmp_path)
    script = importlib.import_module(name)
    argv = "--env-id OnlyOne-v0 --total-timesteps 64 --num-steps 32 --num-minibatches 2 --no-compile --eval-every 0"
    args = script.parse_args([*argv.split(), *changes.split()])
    with pytest.raises(SystemExit) if changes else contextlib.nullcontext():
        script.main(args)
    assert OnlyOne.opened == 0
