"""Stepping, collecting and evaluating, against gymnasium's own vector environment and plain loops."""

import itertools
from typing import ClassVar

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.wrappers.utils import RunningMeanStd
from torch.distributions import Categorical, Normal

for task, limit in {"CartPole-v1": 15, "Hopper-v4": 15, "HalfCheetah-v4": 30}.items():
    gym.register(f"Short{task}", gym.spec(task).entry_point, max_episode_steps=limit)


class Habit(gym.Wrapper):
    """What some environments do: flags as 0 and 1, no valid observation at the end, one buffer for all of them."""

    def __init__(self, env, habit):
        super().__init__(env)
        self.habit, self.buffer = habit, np.zeros(env.observation_space.shape, env.observation_space.dtype)

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


HABITS = ["Int", "Nan", "Buffer"]
for habit, task in itertools.product(HABITS, ["ShortCartPole-v1", "ShortHopper-v4"]):
    gym.register(f"{habit}{task}", lambda habit=habit, task=task: Habit(gym.make(task), habit))
gym.register("EndlessPendulum-v1", gym.spec("Pendulum-v1").entry_point)

SEEDS = [3, 5]
SCRIPT_AND_TASK = [
    ("continuous", "ShortHopper-v4"),
    ("discrete", "ShortCartPole-v1"),
    ("baseline", "ShortHopper-v4"),
    ("baseline", "ShortCartPole-v1"),
]


def plain_env(env_id):
    env = gym.make(env_id)
    return env if env.observation_space.shape else gym.wrappers.FlattenObservation(env)


def make_agent(script, env_id, args):
    """An agent whose actions depend on the state, as after training, and often leave [-1, 1]."""
    torch.manual_seed(0)
    env = plain_env(env_id)
    options = (args,) if script.__name__ == "ppo_baseline" else ()
    agent = script.Agent(env.observation_space.shape[0], env.action_space, *options)
    with torch.no_grad():
        for name, value in agent.named_parameters():
            if "logstd" in name:
                value.fill_(0.3)
            elif name.startswith(("actor", "preference")):
                value.mul_(100)
    return agent


def acting_policy(script, agent, obs, args):
    """The policy that acts as a torch distribution, from the forward pass that training differentiates."""
    *experts, _ = agent(torch.as_tensor(obs, dtype=torch.float32))
    policy = script.fuse(*experts, args) if len(experts) == 2 else experts[0]
    return Categorical(logits=policy.log_p) if hasattr(policy, "log_p") else Normal(policy.mean, policy.std)


def collected(script, env_id, norm_obs, num_steps=100, **options):
    """Two rollouts, the second going on where the first ended, as one; with their episodes."""
    args = script.Args(env_id=env_id, num_envs=2, num_steps=num_steps // 2, **options)
    agent, envs, rng = make_agent(script, env_id, args), script.VecEnv(env_id, 2), np.random.default_rng(0)
    stats = script.RunningMeanStd(envs.single_observation_space.shape, norm_obs)
    obs, rollouts, episodes = script.observe(envs.reset(seed=SEEDS)[0], stats, update=True), [], []
    for _ in range(2):
        rollout, obs, ended = script.collect(envs, obs, script.numpy_policy(agent, args), stats, rng, args)
        rollouts.append(rollout)
        episodes += ended
    return args, agent, script.Rollout(*map(np.concatenate, zip(*rollouts, strict=True))), episodes


def make_batch(script, agent, rollout, args):
    rng = () if script.__name__ == "ppo_baseline" else (np.random.default_rng(0),)
    return script.make_batch(agent, rollout, rollout.reward, *rng, args)[0]


def normalized(obs, stats):
    return ((obs - stats.mean) / np.sqrt(stats.var + 1e-8)).clip(-10, 10)


def replay(env_id, rollout):
    """What fresh environments answer to a rollout's actions, clipped, by a plain loop.

    seen[t] is what the policy acts on, `after` what its action led to; they part at an episode's end.
    """
    envs, episodes, totals = [plain_env(env_id) for _ in SEEDS], [], [(0.0, 0), (0.0, 0)]
    space = envs[0].action_space
    actions = rollout.action.clip(space.low, space.high) if isinstance(space, gym.spaces.Box) else rollout.action
    seen = [[env.reset(seed=seed)[0] for env, seed in zip(envs, SEEDS, strict=True)]]
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
                seen[-1][i], totals[i] = env.reset()[0], (0.0, 0)
    terminated, truncated = np.moveaxis(np.array(flags), -1, 0)
    return np.array(seen), np.array(after), np.array(rewards), terminated, truncated, episodes


@pytest.mark.parametrize(
    ("env_id", "flag"),
    [("CartPole-v1", 0), ("Hopper-v4", 0), ("LunarLander-v3", 0), ("ShortHalfCheetah-v4", 1), ("Taxi-v4", 1)],
)
def test_vec_env_steps_as_gymnasium_in_same_step_mode(continuous, env_id, flag):
    """Bit by bit: observations, rewards, flags and final observations, over ends of both kinds."""
    same_step = gym.vector.AutoresetMode.SAME_STEP
    ours = continuous.VecEnv(env_id, 3)
    truth = gym.vector.SyncVectorEnv([lambda: plain_env(env_id)] * 3, autoreset_mode=same_step)
    truth.action_space.seed(0)
    np.testing.assert_array_equal(ours.reset(seed=[3, 5, 8])[0], truth.reset(seed=[3, 5, 8])[0])
    totals, lengths, ends = np.zeros(3), np.zeros(3, int), np.zeros(2, int)
    for _ in range(450):
        actions = truth.action_space.sample()
        *transition, info = ours.step(actions)
        *expected, expected_info = truth.step(actions)
        for x, y in zip(transition, expected, strict=True):
            np.testing.assert_array_equal(x, y)
        totals, lengths = totals + expected[1], lengths + 1
        ended = np.flatnonzero(expected[2] | expected[3])
        assert info["episodes"] == [(totals[i], lengths[i]) for i in ended]
        assert list(info["final_obs"]) == list(ended)
        for i in ended:
            np.testing.assert_array_equal(info["final_obs"][i], expected_info["final_obs"][i])
        totals[ended], lengths[ended] = 0, 0
        ends += [expected[2].sum(), expected[3].sum()]
    assert ends[flag] >= 6


@pytest.mark.parametrize(("name", "env_id"), SCRIPT_AND_TASK)
def test_a_rollout_is_what_the_environment_really_did(name, env_id, request):
    """Every stored action, clipped, leads a fresh environment through the very same transitions.

    So none is ignored at a reset. What the network sees is that, normalised by gymnasium's own
    running statistics of all observations acted on so far.
    """
    script = request.getfixturevalue(name)
    _, _, rollout, episodes = collected(script, env_id, norm_obs=True)
    seen, after, reward, terminated, truncated, true_episodes = replay(env_id, rollout)
    assert terminated.any() and (truncated & ~terminated).any()
    np.testing.assert_array_equal(rollout.reward, reward)
    np.testing.assert_array_equal(rollout.terminated, terminated)
    np.testing.assert_array_equal(rollout.done, terminated | truncated)
    assert episodes == true_episodes

    stats = RunningMeanStd(shape=seen.shape[2:])
    stats.update(seen[0])
    for t in range(len(reward)):
        np.testing.assert_allclose(rollout.obs[t], normalized(seen[t], stats), rtol=1e-4, atol=1e-4)
        stats.update(seen[t + 1])
        np.testing.assert_allclose(rollout.next_obs[t], normalized(after[t], stats), rtol=1e-4, atol=1e-4)
    goes_on = ~rollout.done[:-1]
    np.testing.assert_array_equal(rollout.obs[1:][goes_on], rollout.next_obs[:-1][goes_on])


@pytest.mark.parametrize("habit", HABITS)
@pytest.mark.parametrize(("name", "env_id"), SCRIPT_AND_TASK)
def test_habits_of_environments_change_neither_a_rollout_nor_its_advantages(name, env_id, habit, request):
    """But for the observation at a termination where the environment gives none, whose value counts for nothing."""
    script = request.getfixturevalue(name)
    args, agent, plain, episodes = collected(script, env_id, norm_obs=True)
    _, _, rollout, theirs = collected(script, f"{habit}{env_id}", norm_obs=True)
    assert plain.terminated.any() and (plain.done & ~plain.terminated).any() and theirs == episodes
    assert np.isnan(rollout.next_obs).any() == (habit == "Nan")
    unknown = rollout.terminated[..., None] & (habit == "Nan")
    for ours, expected in zip(rollout, plain._replace(next_obs=np.where(unknown, np.nan, plain.next_obs)), strict=True):
        assert ours.dtype == expected.dtype
        np.testing.assert_array_equal(ours, expected)
    advantage, expected = (make_batch(script, agent, x, args).advantage for x in (rollout, plain))
    assert torch.equal(advantage, expected) and advantage.isfinite().all()


@pytest.mark.parametrize(("name", "env_id"), SCRIPT_AND_TASK)
def test_the_log_probability_is_that_of_the_unclipped_sample(name, env_id, request):
    script = request.getfixturevalue(name)
    args, agent, rollout, _ = collected(script, env_id, norm_obs=False)
    batch = make_batch(script, agent, rollout, args)
    log_prob = acting_policy(script, agent, rollout.obs, args).log_prob(torch.as_tensor(rollout.action))
    if rollout.action.ndim == 3:
        assert (np.abs(rollout.action) > 1).mean() > 0.1, "clipping must matter here"
        log_prob = log_prob.sum(-1)
    torch.testing.assert_close(batch.log_prob, log_prob.flatten(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "env_id", "options"),
    [(*case, {}) for case in SCRIPT_AND_TASK]
    + [(*case, {"bootstrap_truncated": False}) for case in SCRIPT_AND_TASK[2:]],
)
def test_a_time_limit_bootstraps_from_the_final_observation_and_a_termination_does_not(name, env_id, options, request):
    """The baseline's --no-bootstrap-truncated alone takes a time limit for a termination."""
    script = request.getfixturevalue(name)
    args, agent, rollout, _ = collected(script, env_id, norm_obs=False, **options)
    advantage = make_batch(script, agent, rollout, args).advantage.reshape(rollout.done.shape).numpy()
    seen, after, reward, terminated, truncated, _ = replay(env_id, rollout)
    with torch.no_grad():
        value, value_after = (agent(torch.as_tensor(x, dtype=torch.float32))[-1].numpy() for x in (seen[:-1], after))
    cut = reward - value
    bootstrapped = cut + args.gamma * value_after
    time_limit = truncated & ~terminated
    assert terminated.any() and time_limit.any()
    assert (np.abs(bootstrapped - cut)[time_limit] > 0.01).all(), "the two must be told apart"
    np.testing.assert_allclose(advantage[terminated], cut[terminated], atol=1e-4)
    expected = bootstrapped if options == {} else cut
    np.testing.assert_allclose(advantage[time_limit], expected[time_limit], atol=1e-4)
    open_end = ~rollout.done[-1]
    np.testing.assert_allclose(advantage[-1][open_end], bootstrapped[-1][open_end], atol=1e-4)


@pytest.mark.parametrize(("name", "env_id"), [("continuous", "ShortHopper-v4"), ("discrete", "Taxi-v4")])
def test_rewards_are_scaled_for_learning_and_kept_as_they_are_for_the_log(name, env_id, request):
    """Scaled by gymnasium's running variance of the discounted return; Taxi's rewards are integers."""
    script = request.getfixturevalue(name)
    args, _, rollout, episodes = collected(script, env_id, norm_obs=False, num_steps=410)
    *_, reward, terminated, truncated, true_episodes = replay(env_id, rollout)
    ours, under_way = script.RunningMeanStd((), True), np.zeros(2)
    halves = zip(np.split(rollout.reward, 2), np.split(rollout.done, 2), strict=True)
    scaled = np.concatenate([script.scale_rewards(*half, ours, under_way, args.gamma) for half in halves])
    stats, discounted, expected = RunningMeanStd(shape=()), np.zeros(2), np.zeros(reward.shape)
    for t in range(len(reward)):
        discounted = args.gamma * discounted + reward[t]
        stats.update(discounted)
        expected[t] = (reward[t] / np.sqrt(stats.var + 1e-8)).clip(-10, 10)
        discounted[terminated[t] | truncated[t]] = 0
    np.testing.assert_allclose(scaled, expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(rollout.reward, reward)
    assert episodes == true_episodes and len(episodes) >= 4


class Recorded(gym.Wrapper):
    """Keeps what each of its instances was told."""

    instances: ClassVar = []

    def __init__(self):
        super().__init__(gym.make("ShortHopper-v4"))
        self.told = []
        self.instances.append(self.told)

    def reset(self, **options):
        self.told.append(("reset", options))
        return self.env.reset(**options)

    def step(self, action):
        self.told.append(("step", dict(action=np.array(action))))
        return self.env.step(action)


gym.register("RecordedHopper-v4", Recorded)


@pytest.mark.parametrize("flag", ["--gymnasium-statistics", "--no-gymnasium-statistics"])
def test_with_gymnasium_statistics_they_are_those_that_its_wrappers_keep(baseline, flag, tmp_path, monkeypatch):
    """As on CleanRL's environments, over terminations and time limits, and over the ends of iterations; else they differ."""
    monkeypatch.chdir(tmp_path)
    Recorded.instances.clear()
    argv = "--env-id RecordedHopper-v4 --total-timesteps 640 --num-steps 4 --num-minibatches 2 --update-epochs 1 --no-compile"
    baseline.main(baseline.parse_args([*argv.split(), "--eval-every", "0", "--run-name", "x", flag]))
    (told,) = (told for told in Recorded.instances if sum(name == "step" for name, _ in told) == 640)
    env = gym.wrappers.NormalizeReward(gym.wrappers.NormalizeObservation(gym.make("ShortHopper-v4")), gamma=0.99)
    ends = []
    for name, options in told:
        happened = getattr(env, name)(**options)
        ends += [happened[2:4]] if name == "step" else []
    assert np.sum(ends, axis=0).min() >= 3 and any(terminated for terminated, _ in ends[4::4]), "each must happen"
    saved = torch.load("runs/x/checkpoint.pt", weights_only=True)
    for ours, theirs in (("obs_stats", env.env.obs_rms), ("return_stats", env.return_rms)):
        ours = saved[ours]
        same = [
            np.allclose(x, y, rtol=1e-4, atol=1e-5)
            for x, y in ((ours["mean"], theirs.mean), (ours["m2"] / ours["count"], theirs.var))
        ]
        assert same == [flag == "--gymnasium-statistics"] * 2


def test_discrete_observations_are_one_hot(discrete):
    ours, truth = discrete.make_env("FrozenLake-v1"), gym.make("FrozenLake-v1")
    assert ours.observation_space.shape == (16,)
    truth.action_space.seed(0)
    np.testing.assert_array_equal(ours.reset(seed=1)[0], np.eye(16)[truth.reset(seed=1)[0]])
    for _ in range(100):
        action = truth.action_space.sample()
        obs, *_ = ours.step(action)
        state, _, terminated, truncated, _ = truth.step(action)
        np.testing.assert_array_equal(obs, np.eye(16)[state])
        if terminated or truncated:
            np.testing.assert_array_equal(ours.reset()[0], np.eye(16)[truth.reset()[0]])


def test_lunar_lander_v2_says_it_is_v3_and_moves_as_v3(discrete, capsys):
    gym.registry.pop("LunarLander-v2", None)
    v2, v3 = discrete.make_env("LunarLander-v2"), gym.make("LunarLander-v3")
    assert "v3" in capsys.readouterr().out
    assert v2.spec.max_episode_steps == v3.spec.max_episode_steps == 1000
    v3.action_space.seed(0)
    np.testing.assert_array_equal(v2.reset(seed=1)[0], v3.reset(seed=1)[0])
    ends = 0
    for _ in range(400):
        action = v3.action_space.sample()
        (obs, *answer, _), (true_obs, *true_answer, _) = v2.step(action), v3.step(action)
        np.testing.assert_array_equal(obs, true_obs)
        assert answer == true_answer
        if any(answer[1:]):
            ends += 1
            np.testing.assert_array_equal(v2.reset()[0], v3.reset()[0])
    assert ends >= 3


@pytest.mark.parametrize(
    ("name", "env_id"),
    [
        ("continuous", "Pendulum-v1"),
        ("discrete", "CartPole-v1"),
        ("baseline", "Pendulum-v1"),
        ("baseline", "CartPole-v1"),
    ],
)
def test_evaluation_is_frozen_repeatable_and_what_the_mode_of_the_policy_earns(name, env_id, request):
    """As a loop around the torch network earns it, on seeds from 2**30 on, statistics unchanged."""
    script = request.getfixturevalue(name)
    args, env = script.Args(env_id=env_id), script.make_env(env_id)
    agent = make_agent(script, env_id, args)
    stats = script.RunningMeanStd(env.observation_space.shape, True)
    stats.update(np.random.default_rng(0).normal(0.1, 0.5, (50, *env.observation_space.shape)))
    before = {key: value.clone() for key, value in stats.state_dict().items()}
    act = script.numpy_policy(agent, args)
    returns = script.evaluate(act, env, stats, 3, args)
    assert env.unwrapped.np_random_seed == 2**30 + 2
    assert script.evaluate(act, env, stats, 3, args) == returns
    for key, value in stats.state_dict().items():
        assert torch.equal(value, before[key])

    mean, std = before["mean"].numpy(), np.sqrt((before["m2"] / before["count"]).numpy() + 1e-8)
    expected, env = [], gym.make(env_id)
    for episode in range(3):
        obs, _ = env.reset(seed=2**30 + episode)
        total, done = 0.0, False
        while not done:
            with torch.no_grad():
                action = acting_policy(script, agent, ((obs - mean) / std).clip(-10, 10)[None], args).mode[0].numpy()
            if isinstance(env.action_space, gym.spaces.Box):
                action = action.clip(env.action_space.low, env.action_space.high)
            obs, reward, terminated, truncated, _ = env.step(action)
            total, done = total + reward, terminated or truncated
        expected.append(total)
    assert returns == pytest.approx(expected, rel=1e-3)

    sampling = script.Args(env_id=env_id, eval_deterministic=False)
    sampled = script.evaluate(act, script.make_env(env_id), stats, 3, sampling)
    assert sampled == script.evaluate(act, script.make_env(env_id), stats, 3, sampling) != returns


def test_evaluation_ends_where_no_time_limit_does(script, capsys):
    """After 1,000 steps, and it says so."""
    env_id, stats = "EndlessPendulum-v1", script.RunningMeanStd((3,), False)
    args = script.Args(env_id=env_id)
    returns = script.evaluate(lambda obs, noise: np.zeros((1, 1)), script.make_env(env_id), stats, 2, args)
    assert "2 of 2 evaluations cut off at 1000 steps" in capsys.readouterr().err
    for episode, value in enumerate(returns):
        env = gym.make(env_id)
        env.reset(seed=2**30 + episode)
        assert value == pytest.approx(sum(env.step(np.zeros(1))[1] for _ in range(1000)))
