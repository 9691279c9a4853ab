"""Stepping, collecting and evaluating, against gymnasium's own vector environment and plain loops."""

import importlib
import itertools

import gymnasium as gym
import numpy as np
import pytest
import scipy.stats
import torch
from conftest import SCRIPTS
from gymnasium.wrappers.utils import RunningMeanStd
from torch.distributions import Categorical, Normal

for task, limit in {"CartPole-v1": 15, "Hopper-v4": 15, "HalfCheetah-v4": 30}.items():
    gym.register(f"Short{task}", gym.spec(task).entry_point, max_episode_steps=limit)


class Habit(gym.Wrapper):
    """What some environments do: flags as 0 and 1, no valid observation at the end, one buffer for all of them."""

    def __init__(self, env, habit):
        super().__init__(env)
        self.habit = habit
        self.buffer = np.zeros(env.observation_space.shape, env.observation_space.dtype)

    def observed(self, obs):
        if self.habit != "Buffer":
            return obs
        self.buffer[:] = obs
        return self.buffer

    def reset(self, **options):
        obs, info = self.env.reset(**options)
        return self.observed(obs), info

    def step(self, action):
        obs, reward, *flags, info = self.env.step(action)
        if self.habit == "Nan" and flags[0]:
            obs = np.full_like(obs, np.nan)
        return self.observed(obs), reward, *map(int if self.habit == "Int" else bool, flags), info


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


HABITS = ["Int", "Nan", "Buffer"]
for habit, task in itertools.product(HABITS, ["ShortCartPole-v1", "ShortHopper-v4"]):
    gym.register(f"{habit}{task}", lambda habit=habit, task=task: Habit(gym.make(task), habit))
gym.register("EndlessPendulum-v1", gym.spec("Pendulum-v1").entry_point)
gym.register("OnlyOne-v0", OnlyOne, max_episode_steps=15)

CONTINUOUS, LUNARLANDER, BASELINE = SCRIPTS
SCRIPT_AND_TASK = pytest.mark.parametrize(
    ("script", "env_id"),
    [
        (CONTINUOUS, "ShortHopper-v4"),
        (LUNARLANDER, "ShortCartPole-v1"),
        (BASELINE, "ShortHopper-v4"),
        (BASELINE, "ShortCartPole-v1"),
    ],
    indirect=["script"],
)


def plain_env(env_id):
    env = gym.make(env_id)
    return env if env.observation_space.shape else gym.wrappers.FlattenObservation(env)


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
    learner.policy = script.numpy_policy
    return learner


def collected(script, env_id, norm_obs, num_steps=100, **options):
    """Two rollouts, the second going on where the first ended, as one; with their episodes and the seeds."""
    args = script.Args(env_id=env_id, num_envs=2, num_steps=num_steps // 2, norm_obs=norm_obs, **options)
    learner = make_learner(script, args)
    envs = script.VecEnv(2, args)
    obs = script.normalize_obs(envs.reset(1, 0), learner.obs_stats, args, update=True)
    seeds = [env.unwrapped.np_random_seed for env in envs.envs]
    rollouts = []
    episodes = []
    for _ in range(2):
        act = script.numpy_policy(learner.agent, args)
        rollout, obs, ended = script.collect(envs, obs, act, learner.obs_stats, learner.rng, args)
        rollouts.append(rollout)
        episodes += ended
    whole = script.Rollout._make(map(np.concatenate, zip(*rollouts, strict=True)))
    return args, learner, whole, episodes, seeds


def make_batch(script, learner, rollout, args):
    return script.make_batch(learner, rollout, rollout.reward, args)[0]


def replay(env_id, rollout, seeds):
    """What fresh environments answer to its actions, clipped: what the policy acts on, what follows, …, and episodes."""
    envs = [plain_env(env_id) for _ in seeds]
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


@pytest.mark.parametrize(
    ("env_id", "flag"),
    [("CartPole-v1", 0), ("Hopper-v4", 0), ("LunarLander-v3", 0), ("ShortHalfCheetah-v4", 1), ("Taxi-v4", 1)],
)
def test_vec_env_steps_as_gymnasium_in_same_step_mode(baseline, env_id, flag):
    """Bit by bit: observations, rewards, flags and final observations, over ends of both kinds."""
    ours = baseline.VecEnv(3, baseline.Args(env_id=env_id))
    same_step = gym.vector.AutoresetMode.SAME_STEP
    truth = gym.vector.SyncVectorEnv([lambda: plain_env(env_id)] * 3, autoreset_mode=same_step)
    truth.action_space.seed(0)
    first = ours.reset(1, 0)
    seeds = [env.unwrapped.np_random_seed for env in ours.envs]
    assert len({*seeds}) == 3
    assert max(seeds) < 2**30  # evaluation's begin there
    np.testing.assert_array_equal(first, truth.reset(seed=seeds)[0])
    totals = np.zeros(3)
    lengths = np.zeros(3, int)
    ends = np.zeros(2, int)
    for _ in range(450):
        actions = truth.action_space.sample()
        obs, rewards, terminated, done, final_obs, episodes = ours.step(actions)
        expected_obs, expected_rewards, *flags, info = truth.step(actions)
        np.testing.assert_array_equal(obs, expected_obs)
        np.testing.assert_array_equal(rewards, expected_rewards)
        np.testing.assert_array_equal(terminated, flags[0])
        np.testing.assert_array_equal(done, flags[0] | flags[1])
        totals += expected_rewards
        lengths += 1
        ended = np.flatnonzero(done)
        assert episodes == [(pytest.approx(totals[i]), lengths[i]) for i in ended]
        assert list(final_obs) == list(ended)
        for i in ended:
            np.testing.assert_array_equal(final_obs[i], info["final_obs"][i])
        totals[ended] = 0
        lengths[ended] = 0
        ends += [flags[0].sum(), flags[1].sum()]
    assert ends[flag] >= 6


@SCRIPT_AND_TASK
def test_a_reset_starts_the_totals_of_episodes_anew(script, env_id):
    envs = script.VecEnv(1, script.Args(env_id=env_id))
    actions = np.zeros((1, *envs.action_space.shape), dtype=envs.action_space.dtype)
    envs.reset(1, 0)
    envs.step(actions)
    envs.reset(1, 1)
    steps = 0
    ended = []
    while not ended:
        *_, ended = envs.step(actions)
        steps += 1
    assert ended[0][1] == steps


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


@pytest.mark.parametrize("habit", HABITS)
@SCRIPT_AND_TASK
def test_habits_of_environments_change_neither_a_rollout_nor_its_advantages(script, env_id, habit):
    """But for the observation at a termination where the environment gives none, whose value counts for nothing."""
    args, learner, plain, episodes, _ = collected(script, env_id, norm_obs=True)
    _, _, rollout, theirs, _ = collected(script, f"{habit}{env_id}", norm_obs=True)
    assert plain.terminated.any() and (plain.done & ~plain.terminated).any()
    assert theirs == episodes
    assert np.isnan(rollout.next_obs).any() == (habit == "Nan")
    unknown = rollout.terminated[..., None] & (habit == "Nan")
    for ours, expected in zip(rollout, plain._replace(next_obs=np.where(unknown, np.nan, plain.next_obs)), strict=True):
        assert ours.dtype == expected.dtype
        np.testing.assert_array_equal(ours, expected)
    advantage, expected = (make_batch(script, learner, x, args).advantage for x in (rollout, plain))
    assert torch.equal(advantage, expected)
    assert advantage.isfinite().all()


@SCRIPT_AND_TASK
def test_the_log_probability_is_that_of_the_unclipped_sample(script, env_id):
    args, learner, rollout, *_ = collected(script, env_id, norm_obs=False)
    *experts, _ = learner.agent(torch.as_tensor(rollout.obs))
    policy = script.fuse(*experts, args) if len(experts) == 2 else experts[0]
    action = torch.as_tensor(rollout.action)
    if action.ndim == 3:
        assert (action.abs() > 1).float().mean() > 0.1, "clipping must matter here"
        log_prob = Normal(policy.mean, policy.std).log_prob(action).sum(-1)
    else:
        log_prob = Categorical(logits=policy.log_p).log_prob(action)
    batch = make_batch(script, learner, rollout, args)
    torch.testing.assert_close(batch.log_prob, log_prob.flatten(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("bootstrap", [True, False])
@SCRIPT_AND_TASK
def test_a_time_limit_bootstraps_from_the_final_observation_and_a_termination_does_not(script, env_id, bootstrap):
    """The baseline's --no-bootstrap-truncated alone takes a time limit for a termination."""
    if not bootstrap and script.__name__ != BASELINE:
        pytest.skip("only the baseline can")
    options = {} if bootstrap else dict(bootstrap_truncated=False)
    args, learner, rollout, _, seeds = collected(script, env_id, norm_obs=False, **options)
    advantage = make_batch(script, learner, rollout, args).advantage.reshape(rollout.done.shape).numpy()
    seen, after, reward, terminated, truncated, _ = replay(env_id, rollout, seeds)
    with torch.no_grad():
        inputs = [torch.as_tensor(x, dtype=torch.float32) for x in (seen[:-1], after)]
        value, value_after = (learner.agent(x)[-1].numpy() for x in inputs)
    cut = reward - value
    bootstrapped = cut + args.gamma * value_after
    time_limit = truncated & ~terminated
    assert terminated.any() and time_limit.any()
    assert (np.abs(bootstrapped - cut)[time_limit] > 0.01).all(), "the two must be told apart"
    np.testing.assert_allclose(advantage[terminated], cut[terminated], atol=1e-4)
    expected = bootstrapped if bootstrap else cut
    np.testing.assert_allclose(advantage[time_limit], expected[time_limit], atol=1e-4)
    open_end = ~rollout.done[-1]
    np.testing.assert_allclose(advantage[-1][open_end], bootstrapped[-1][open_end], atol=1e-4)


@pytest.mark.parametrize("script", [LUNARLANDER, BASELINE], indirect=True)
def test_lunar_lander_v2_moves_as_v3(script):
    gym.registry.pop("LunarLander-v2", None)
    v2 = script.make_env(script.Args(env_id="LunarLander-v2"))
    v3 = gym.make("LunarLander-v3")
    assert v2.spec.max_episode_steps == v3.spec.max_episode_steps == 1000
    v3.action_space.seed(0)
    np.testing.assert_array_equal(v2.reset(seed=1)[0], v3.reset(seed=1)[0])
    done = False
    while not done:
        action = v3.action_space.sample()
        (obs, *answer, _), (true_obs, *true_answer, _) = v2.step(action), v3.step(action)
        np.testing.assert_array_equal(obs, true_obs)
        assert answer == true_answer
        done = answer[1]


@SCRIPT_AND_TASK
def test_evaluation_repeats_samples_on_request_and_leaves_the_statistics_alone(script, env_id):
    args = script.Args(env_id=env_id, norm_obs=True)
    learner = make_learner(script, args)
    learner.obs_stats.update(np.ones((50, *script.make_env(args).observation_space.shape)))
    before = learner.obs_stats.state_dict()
    sampling = script.Args(env_id=env_id, norm_obs=True, eval_deterministic=False)
    modes, again, sampled, sampled_again = (
        script.evaluate(learner, script.make_env(args), 3, how) for how in (args, args, sampling, sampling)
    )
    assert modes == again
    assert sampled == sampled_again != modes
    torch.testing.assert_close(learner.obs_stats.state_dict(), before, rtol=0, atol=0)


@pytest.mark.parametrize("changes", ["", "--learning-rate 1e6 --max-grad-norm 1e6"])
@pytest.mark.parametrize("name", [CONTINUOUS, BASELINE])
def test_without_evaluation_there_is_one_environment_at_a_time_and_each_is_closed(name, changes, tmp_path, monkeypatch):
    """Also where the run ends at numbers that are not finite."""
    monkeypatch.chdir(tmp_path)
    script = importlib.import_module(name)
    argv = "--env-id OnlyOne-v0 --total-timesteps 64 --num-steps 32 --num-minibatches 2 --no-compile --eval-every 0"
    args = script.parse_args([*argv.split(), *changes.split()])
    if changes:
        with pytest.raises(SystemExit):
            script.main(args)
    else:
        script.main(args)
    assert OnlyOne.opened == 0
