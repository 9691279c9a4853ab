"""open_questions/prefpoe_sac.py: its losses and steps against torch's own, its replay memory, and runs that go on."""

import collections
import dataclasses
import importlib
import json
import os
import signal
import subprocess
import sys
import time

import gymnasium as gym
import numpy as np
import pytest
import scipy.stats
import torch
import torch.distributions as D
import torch.nn.functional as F
from conftest import ROOT, command, environment, evaluation_line, read_metrics

sys.path.insert(0, str(ROOT / "open_questions"))
sac = importlib.import_module("prefpoe_sac")

SCRIPT = "open_questions/prefpoe_sac"
OBS_DIM, ACTION_DIM, BATCH = 5, 3, 16
FEW = ("--env-id", "Pendulum-v1", "--total-timesteps", 1200, "--num-steps", 200, "--learning-starts", 200)
FEW = (*FEW, "--eval-every", 0, "--eval-episodes", 2, "--minibatch-size", 8, "--no-compile")
VARIANTS = {
    "product": dict(),
    "own": dict(pref_actions="own", lambda_pref=0.7),
    "average": dict(fusion="linear", num_actions=3),
    "sac": dict(fusion="none", w_pref=0.0, w_cons=0.0),
}


@pytest.fixture(autouse=True)
def double_precision():
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def make(**changes):
    """Arguments, an agent, target critics other than its critics, and a batch with noise."""
    args = sac.Args(**dict(compile=False) | changes)
    agent, target = sac.Agent(OBS_DIM, ACTION_DIM), sac.Critics(OBS_DIM, ACTION_DIM)
    with torch.no_grad():
        agent.log_temperature.fill_(-0.7)
    x = (torch.randn(BATCH, OBS_DIM), torch.randn(BATCH, ACTION_DIM), torch.randn(BATCH), torch.randn(BATCH, OBS_DIM))
    batch = sac.Batch(*x, (torch.rand(BATCH) < 0.3).double())
    return args, agent, target, batch, torch.randn(2 + args.num_actions, BATCH, ACTION_DIM)


def q_of(critics, obs, action):
    """Q of each critic by torch's functions, one network at a time."""
    values = []
    for i in range(2):
        x = torch.cat([obs, action], -1)
        for layer in range(3):
            W, b = getattr(critics, f"W{layer}")[i], getattr(critics, f"b{layer}")[i, 0]
            x = F.linear(x, W.T, b)
            x = F.relu(x) if layer < 2 else x
        values.append(x.squeeze(-1))
    return torch.stack(values)


def squashed(policy):
    base = D.Independent(D.Normal(*policy), 1)
    return D.TransformedDistribution(base, D.TanhTransform(cache_size=1))


def reference(args, agent, target, batch, noise):
    """The same losses from torch.distributions and separate networks: of the critics, the actor and the temperature."""
    temperature = agent.log_temperature.exp()
    policy = squashed(fused := sac.fuse(*agent.actor(batch.next_obs), args))
    action = torch.tanh(fused.mean + fused.std * noise[0])
    value = q_of(target, batch.next_obs, action).min(0).values - temperature * policy.log_prob(action)
    y = (batch.reward + args.gamma * (1 - batch.terminated) * value).detach()
    q = q_of(agent.critics, batch.obs, torch.tanh(batch.u))
    critic_loss = F.mse_loss(q[0], y) + F.mse_loss(q[1], y)

    main, pref = agent.actor(batch.obs)
    fused = sac.fuse(main, pref, args)
    q_own, log_prob = [], []
    for x in noise[2:]:
        action = torch.tanh(fused.mean + fused.std * x)
        q_own.append(q_of(agent.critics, batch.obs, action).min(0).values)
        log_prob.append(squashed(fused).log_prob(action))
    q_own, log_prob = torch.stack(q_own), torch.stack(log_prob)
    u, q_weighed = batch.u, q.min(0).values
    if args.pref_actions == "own":
        u = (fused.mean + fused.std * noise[1]).detach()
        q_weighed = q_of(agent.critics, batch.obs, torch.tanh(u)).min(0).values
    advantage = (q_weighed - q_own.mean(0)).detach()
    A_norm = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
    expert = D.Independent(D.Normal(*pref), 1)
    pref_loss = -args.beta1 * (A_norm * expert.log_prob(u)).mean() - args.alpha * expert.entropy().mean()
    cons_loss = D.kl_divergence(D.Independent(D.Normal(*fused), 1), expert).mean()
    actor_loss = (temperature.detach() * log_prob - q_own).mean()
    temperature_loss = -(temperature * (log_prob.detach() - ACTION_DIM)).mean()
    return critic_loss, actor_loss + args.w_pref * pref_loss + args.w_cons * cons_loss, temperature_loss


def step_of(args, agent, target):
    params = torch.nn.utils.parameters_to_vector(agent.parameters()).detach()
    flat = torch.nn.utils.parameters_to_vector(target.parameters()).detach()
    adam = sac.Adam(torch.zeros_like(params), torch.zeros_like(params), torch.ones(2, dtype=torch.float64))
    return sac.make_step(agent, args), params, flat, adam


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
def test_steps_are_those_of_autograd_and_three_optimizers(changes):
    """Each loss reaches its own weights alone; the target critics follow."""
    args, agent, target, batch, noise = make(**changes)
    step, params, flat, adam = step_of(args, agent, target)
    groups = [agent.critics, agent.actor], [agent.log_temperature]
    parts = [[*groups[0][0].parameters()], [*groups[0][1].parameters()], groups[1]]
    rates = args.q_lr, args.learning_rate, args.q_lr
    optimizers = [torch.optim.Adam(part, lr=rate) for part, rate in zip(parts, rates, strict=True)]
    for _ in range(3):
        losses = sac.Losses(*step(params, flat, adam, batch, noise))
        expected = reference(args, agent, target, batch, noise)
        assert losses.critic_loss.item() == pytest.approx(expected[0].item())
        assert losses.loss.item() == pytest.approx(sum(expected).item())
        gradients = [
            torch.autograd.grad(x, part, retain_graph=True, allow_unused=True)
            for x, part in zip(expected, parts, strict=True)
        ]
        for optimizer, part, gradient in zip(optimizers, parts, gradients, strict=True):
            for x, g in zip(part, gradient, strict=True):
                x.grad = torch.zeros_like(x) if g is None else g
            optimizer.step()
        with torch.no_grad():
            for x, new in zip(target.parameters(), agent.critics.parameters(), strict=True):
                x += args.tau * (new - x)
        assert torch.allclose(params, torch.nn.utils.parameters_to_vector(agent.parameters()), atol=1e-9)
        assert torch.allclose(flat, torch.nn.utils.parameters_to_vector(target.parameters()), atol=1e-12)


def test_without_a_preference_it_is_sac_and_the_preference_stays_as_it_was():
    args, agent, target, batch, noise = make(**VARIANTS["sac"])
    step, params, flat, adam = step_of(args, agent, target)
    torch.nn.utils.vector_to_parameters(params, agent.parameters())
    before = (
        [x.clone() for x in agent.actor.preference.parameters()],
        [x.clone() for x in agent.actor.actor.parameters()],
    )
    step(params, flat, adam, batch, noise)
    assert all(map(torch.equal, before[0], agent.actor.preference.parameters()))
    assert not any(map(torch.equal, before[1], agent.actor.actor.parameters()))


def test_the_squashed_density_is_torchs_and_finite_far_out():
    policy = sac.Gaussian(torch.randn(8, 2), torch.rand(8, 2) + 0.1)
    u = policy.mean + policy.std * torch.randn(8, 2)
    assert torch.allclose(sac.log_prob_squashed(policy, u), squashed(policy).log_prob(torch.tanh(u)))
    assert sac.log_prob_squashed(policy, u + 100).isfinite().all()


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
def test_numpy_policy_is_the_policy_in_torch(changes):
    args, agent, *_ = make(**changes)
    obs, noise = torch.randn(7, OBS_DIM), torch.randn(7, ACTION_DIM)
    fused = sac.fuse(*agent.actor(obs), args)
    ours = sac.numpy_policy(agent, args)(obs.numpy(), noise.numpy())
    assert np.allclose(ours, (fused.mean + fused.std * noise).detach(), atol=1e-12)


@pytest.mark.parametrize("action_dim", [1, 2, 6])
def test_an_advantage_that_is_the_log_density_weighs_z2_by_the_formula(action_dim):
    """A softmax of Q has A = temperature (log pi + H): E[A_norm z^2] = -sqrt(2 / action_dim), by quadrature."""
    x, w = np.polynomial.hermite_e.hermegauss(20)
    w = w / w.sum()
    second, fourth = (w * x**2).sum(), (w * x**4).sum()
    # A = -(sum_d z_d^2 - action_dim) / 2, of variance action_dim (E z^4 - 1) / 4
    std = np.sqrt(action_dim * (fourth - second**2) / 4)
    assert -(fourth - second**2) / 2 / std == pytest.approx(-np.sqrt(2 / action_dim))
    z = torch.randn(400_000, action_dim)
    A_norm = sac.normalized(D.Normal(0.0, 1.0).log_prob(z).sum(-1))
    assert (A_norm[:, None] * z**2).mean().item() == pytest.approx(-np.sqrt(2 / action_dim), abs=0.02)


@pytest.mark.parametrize("action_dim", [1, 2, 6])
def test_the_column_of_own_actions_has_the_value_of_a_softmax_of_q(action_dim):
    """Both experts alike, and Q the log density before the tanh; V of one action doubles the advantage's variance."""
    agent, replay = sac.Agent(OBS_DIM, action_dim), sac.Replay(64, OBS_DIM, action_dim)
    for _ in range(64):
        replay.add(np.zeros(OBS_DIM), np.ones(action_dim), 0.0, np.zeros(OBS_DIM), 0.0)
    policy = D.Normal(0.3, 0.2)
    gaussian = sac.Gaussian(*(torch.full((40_000, action_dim), x) for x in (0.3, 0.2)))
    agent.actor.forward = lambda obs: (gaussian, gaussian)
    agent.critics.forward = lambda obs, action: policy.log_prob(torch.atanh(action)).sum(-1).expand(2, -1)
    args = sac.Args(lambda_pref=0.0, minibatch_size=4000)
    found = sac.diagnose(agent, replay, np.random.default_rng(0), args)["A_z2_own"]
    assert found == pytest.approx(-(action_dim**-0.5), abs=0.03)


def test_the_columns_of_replayed_actions_see_the_same_advantage():
    """The same with actions from a memory of the policy's own: corr(A, log pi) is that of log pi with itself less
    another's, and E[A_norm z^2] as above."""
    agent, replay = sac.Agent(OBS_DIM, 2), sac.Replay(40_000, OBS_DIM, 2)
    replay.columns.u[:] = 0.3 + 0.2 * torch.randn(40_000, 2).numpy()
    replay.count = 40_000
    policy, gaussian = D.Normal(0.3, 0.2), sac.Gaussian(*(torch.full((40_000, 2), x) for x in (0.3, 0.2)))
    agent.actor.forward = lambda obs: (gaussian, gaussian)
    agent.critics.forward = lambda obs, action: policy.log_prob(torch.atanh(action)).sum(-1).expand(2, -1)
    row = sac.diagnose(agent, replay, np.random.default_rng(0), sac.Args(lambda_pref=0.0, minibatch_size=4000))
    assert row["A_z2"] == pytest.approx(-(2**-0.5), abs=0.03)
    assert row["guidance"] == pytest.approx(2**-0.5, abs=0.02)


def test_actions_are_uniform_until_learning_starts_and_pi_f_s_from_then_on():
    args, agent, *_ = make(learning_starts=3)
    replay, space = sac.Replay(10, OBS_DIM, ACTION_DIM), gym.spaces.Box(-1, 1, (ACTION_DIM,))
    obs, rng = np.ones((4000, OBS_DIM)), np.random.default_rng(0)
    fused = sac.fuse(*agent.actor(torch.tensor(obs)), args)
    for replay.count in range(5):
        u = sac.explore(obs, agent, replay, space, rng, args)
        z = ((torch.tensor(u) - fused.mean) / fused.std).detach().numpy()
        fits = [scipy.stats.kstest(*x).pvalue for x in ((np.tanh(u).ravel(), "uniform", (-1, 2)), (z.ravel(), "norm"))]
        assert [x > 0.001 for x in fits] == [replay.count < 3, replay.count >= 3]


def test_an_update_gets_a_minibatch_of_its_own_and_standard_normal_noise():
    args, replay, seen = sac.Args(minibatch_size=500, num_actions=2), sac.Replay(1000, OBS_DIM, ACTION_DIM), []
    replay.columns.reward[:], replay.count = np.arange(1000), 1000
    step = lambda *inputs: seen.append(inputs)
    step.args = args
    rng, params = np.random.default_rng(0), torch.zeros(1)
    for _ in range(2):
        sac.update(step, params, "target", "adam", replay, rng, args)
    batches, noises = ([x[i] for x in seen] for i in (3, 4))
    assert [x[:3] for x in seen] == [(params, "target", "adam")] * 2
    assert all(x.reward.unique().numel() > 350 for x in batches)
    assert not torch.equal(batches[0].reward, batches[1].reward)
    noise = torch.cat(noises).flatten()
    assert noise.shape == (2 * 4 * 500 * ACTION_DIM,)
    assert scipy.stats.kstest(noise.numpy(), "norm").pvalue > 0.001
    with pytest.raises(AssertionError, match="built with its arguments"):
        sac.update(step, params, "target", "adam", replay, rng, dataclasses.replace(args, lambda_pref=0.0))


def test_a_learner_starts_with_targets_that_are_its_critics_and_a_temperature_of_1():
    torch.set_default_dtype(torch.float32)
    learner, _ = sac.make_learner(sac.Args(env_id="Pendulum-v1"))
    assert torch.equal(learner.target, torch.nn.utils.parameters_to_vector(learner.agent.critics.parameters()))
    assert learner.agent.log_temperature.exp().item() == 1
    assert learner.target.abs().min() > 0


def test_the_memory_holds_the_last_transitions_and_gives_each_as_often():
    rng, replay = np.random.default_rng(0), sac.Replay(10, 2, 1)
    truth = collections.deque(maxlen=10)
    for i in range(23):
        replay.add(np.full(2, i), np.full(1, i), i, np.full(2, i + 0.5), i % 2)
        truth.append(i)
        batch = replay.sample(rng, 400, torch.device("cpu"))
        assert {*batch.reward.tolist()} == {*truth} if i > 1 else {*batch.reward.tolist()} <= {*truth}
    batch = replay.sample(rng, 20_000, torch.device("cpu"))
    assert torch.equal(batch.obs[:, 0], batch.reward)
    assert torch.equal(batch.next_obs[:, 0], batch.reward + 0.5)
    assert torch.equal(batch.terminated, batch.reward % 2)
    counts = np.bincount(batch.reward.int())[13:]
    assert (np.abs(counts - 2000) < 5 * np.sqrt(2000)).all()


def test_a_time_limit_is_no_termination_and_what_follows_is_the_episodes_own():
    """Pendulum never terminates; its 200th step is followed by its own last observation, not the next one's first."""
    env, replay = sac.VecEnv("Pendulum-v1", 1), sac.Replay(500, 3, 1)
    obs = sac.first_obs(env, 0, sac.Args(env_id="Pendulum-v1"))
    ended = []
    for _ in range(401):
        obs, episodes = sac.interact(env, obs, np.zeros((1, 1), np.float32), replay)
        ended += episodes
    x = replay.columns
    assert [length for _, length in ended] == [200, 200]
    assert not x.terminated.any()
    assert np.array_equal(x.next_obs[:199], x.obs[1:200])
    assert not np.allclose(x.next_obs[199], x.obs[200])
    cosine, sine, speed = x.obs[199]
    faster = np.clip(speed + 15 * sine * 0.05, -8, 8)  # gymnasium's pendulum without torque
    assert x.next_obs[199][2] == pytest.approx(faster, abs=1e-5)
    assert cosine**2 + sine**2 == pytest.approx(1, abs=1e-5)


def test_each_of_several_environments_is_followed_by_its_own_last_observation():
    """Three poles, of which the first stays up longer than the others, which fall to either side."""
    env, replay = sac.VecEnv("InvertedPendulum-v4", 3), sac.Replay(90, 4, 1)
    obs = sac.first_obs(env, 0, sac.Args(env_id="InvertedPendulum-v4", num_envs=3))
    for _ in range(30):
        obs, _ = sac.interact(env, obs, np.array([[0.0], [-1.0], [1.0]], np.float32), replay)
    x = sac.Batch(*(column.reshape(30, 3, -1) for column in replay.columns))
    ended = x.terminated[..., 0] > 0
    assert ended.sum(0)[0] < min(ended.sum(0)[1:]) and len({*np.flatnonzero(ended)}) > 3
    assert np.array_equal(x.next_obs[:-1][~ended[:-1]], x.obs[1:][~ended[:-1]])
    angle = x.next_obs[..., 1]
    assert (np.sign(angle[:, 1])[ended[:, 1]] == 1).all() and (np.sign(angle[:, 2])[ended[:, 2]] == -1).all()
    assert ((np.abs(angle) > 0.2) == ended).all()


def test_a_termination_is_remembered_where_it_happened():
    """The pole falls within a hundred steps, long before the time limit."""
    env, replay = sac.VecEnv("InvertedPendulum-v4", 1), sac.Replay(100, 4, 1)
    obs, ends = sac.first_obs(env, 0, sac.Args(env_id="InvertedPendulum-v4")), []
    for i in range(100):
        obs, episodes = sac.interact(env, obs, np.ones((1, 1), np.float32), replay)
        ends += [i] * len(episodes)
    assert len(ends) > 2
    assert np.flatnonzero(replay.columns.terminated).tolist() == ends
    assert (np.abs(replay.columns.next_obs[ends, 1]) > 0.2).all()  # the angle that ends it


def test_actions_fill_the_environments_range():
    space = sac.make_env("Pendulum-v1").action_space
    u = np.array([[-20.0], [0.0], [0.5], [20.0]], np.float32)
    assert np.allclose(sac.to_action(u, space)[:, 0], [-2, 0, 2 * np.tanh(0.5), 2])
    bounds = np.sort(np.random.default_rng(0).normal(size=(2, 1000)), axis=0).astype(np.float32)
    for space in (gym.spaces.Box(*bounds), gym.spaces.Box(-128, 127, (1000,), np.int8)):
        low, high = (space.low.astype(float), space.high.astype(float))
        for u, end in ((-20.0, low), (20.0, high)):
            action = sac.to_action(np.full((1, 1000), u, np.float32), space)[0]
            assert ((low <= action) & (action <= high)).all()
            assert np.allclose(action, end, atol=1e-5)


def test_an_evaluation_acts_with_tanh_in_the_environments_range():
    class Paid(gym.Env):  # its action, for three steps
        action_space, observation_space = gym.spaces.Box(2, 6, (1,)), gym.spaces.Box(-1, 1, (1,))

        def reset(self, seed=None, options=None):
            self.left = 3
            return np.zeros(1, np.float32), {}

        def step(self, action):
            self.left -= 1
            return np.zeros(1, np.float32), float(action[0]), False, not self.left, {}

    gym.register("Paid-v0", Paid, max_episode_steps=5)
    act = lambda obs, noise: np.full((1, 1), 0.5) + noise
    returns = sac.evaluate(act, gym.make("Paid-v0"), 2, sac.Args(env_id="Paid-v0"))
    assert returns == pytest.approx([3 * (4 + 2 * np.tanh(0.5))] * 2)
    sampled = sac.evaluate(act, gym.make("Paid-v0"), 200, sac.Args(env_id="Paid-v0", eval_deterministic=False))
    expected = D.Normal(0.5, 1.0).sample((100_000,)).tanh().mean().item()
    assert np.mean(sampled) == pytest.approx(3 * (4 + 2 * expected), abs=0.6) and np.std(sampled) > 1


def test_a_transition_that_is_not_finite_ends_the_run_before_it_is_saved(run, tmp_path):
    flags = ("--env-id", "odd_environments:NotFinite-v0", "--num-steps", 100, "--learning-starts", 900)
    flags = (*flags, "--total-timesteps", 1000, "--checkpoint-every", 2, "--eval-every", 0, "--no-compile")
    done = run(SCRIPT, *flags, "--run-name", "x", PYTHONPATH=str(ROOT / "tests"))
    assert done.returncode == 1
    assert "not finite at step 700" in done.stderr  # the seventh hundred of random actions, before learning starts
    assert sac.load_checkpoint(str(tmp_path / "runs/x"))["replay_count"] == 600
    saved = np.load(tmp_path / "runs/x/replay-600.npz")
    assert all(np.isfinite(saved[name]).all() for name in saved)


def test_only_saved_memories_are_removed_and_all_of_them_at_the_end(run, tmp_path):
    folder = tmp_path / "runs/x"
    folder.mkdir(parents=True)
    (folder / "replay-mine").mkdir()
    (folder / "replay-notes.txt").touch()
    (folder / "replay-7.npz.tmp").touch()  # as a kill leaves it
    done = run(SCRIPT, *FEW, "--run-name", "x")
    assert done.returncode == 0, done.stderr
    assert {path.name for path in folder.glob("replay-*")} == {"replay-mine", "replay-notes.txt"}


@pytest.mark.skipif(not (sac.Path("/usr/bin/g++").exists() or sac.Path("/usr/bin/clang++").exists()), reason="compiles")
def test_the_compiled_step_is_the_eager_one(capsys):
    torch.set_default_dtype(torch.float32)
    results = []
    for compile_it in (False, True):
        torch.manual_seed(0)
        args, agent, target, batch, noise = make(compile=compile_it)
        batch = sac.Batch(*(x.float() for x in batch))
        step, params, flat, adam = step_of(args, agent, target)
        for _ in range(5):
            losses = step(params, flat, adam, batch, noise)
        results.append((params, flat, losses))
    assert "compiled in" in capsys.readouterr().out
    for eager, fast in zip(*results, strict=True):
        assert torch.allclose(eager, fast, rtol=1e-3, atol=1e-5)


def test_a_run_that_was_stopped_goes_on_with_its_memory(run, tmp_path):
    done = run(SCRIPT, *FEW, "--run-name", "whole")
    assert done.returncode == 0, done.stderr
    whole = read_metrics(tmp_path / "runs/whole")
    assert [row["global_step"] for row in whole] == [str(200 * i) for i in range(1, 7)]

    words = command(SCRIPT, *FEW, "--run-name", "x")
    process = subprocess.Popen(words, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    metrics = tmp_path / "runs/x/metrics.csv"
    while not metrics.exists() or metrics.read_bytes().count(b"\n") < 3:
        time.sleep(0.05)
        assert process.poll() is None, process.stdout.read()
    process.send_signal(signal.SIGTERM)
    process.wait(60)
    rows = read_metrics(tmp_path / "runs/x")
    assert 2 <= len(rows) < 6
    saved = np.load(tmp_path / f"runs/x/replay-{200 * len(rows)}.npz")
    assert len(saved["reward"]) == 200 * len(rows)
    os.rename(tmp_path / "runs/x", tmp_path / "runs/moved")
    everything_is_restored(tmp_path / "runs/moved")
    done = run(SCRIPT, "--resume", "runs/moved")
    assert done.returncode == 0, done.stderr
    assert evaluation_line(done.stdout)
    resumed = read_metrics(tmp_path / "runs/moved")
    columns = [name for name in whole[0] if name not in ("SPS", "seconds")]
    for i in range(len(rows)):  # the same run up to where it was stopped
        assert [resumed[i][name] for name in columns] == [whole[i][name] for name in columns]
    assert len(resumed) == 6
    assert not [*(tmp_path / "runs/moved").glob("replay*")]  # nothing goes on with it any more

    again = run(SCRIPT, "--evaluate", "runs/moved")
    assert evaluation_line(again.stdout) == evaluation_line(done.stdout)
    (tmp_path / "runs/moved/replay-1200.npz").touch()  # as a kill leaves it before it is removed
    again = run(SCRIPT, "--resume", "runs/moved")
    assert (again.returncode, again.stderr) == (0, "")
    assert again.stdout == "runs/moved is finished, nothing to resume\n"
    assert not [*(tmp_path / "runs/moved").glob("replay*")]


def everything_is_restored(folder):
    """A resumed learner holds every number of the checkpoint and of the memory."""
    torch.set_default_dtype(torch.float32)
    saved = torch.load(folder / "checkpoint.pt", weights_only=True)
    learner, progress = sac.make_learner(sac.parse_args(["--resume", str(folder)]))
    assert torch.equal(learner.params, torch.cat([x.flatten() for x in saved["agent"].values()]))
    assert torch.equal(learner.target, saved["target"])
    assert all(torch.equal(getattr(learner.adam, name), saved["adam"][name]) for name in ("m", "v", "powers"))
    assert (0 < saved["adam"]["powers"]).all() and (saved["adam"]["powers"] < 1).all()
    assert not any(torch.equal(saved["adam"][name], torch.zeros_like(saved["adam"][name])) for name in ("m", "v"))
    assert learner.rng.bit_generator.state == json.loads(saved["numpy_rng"])
    assert torch.equal(torch.get_rng_state(), saved["torch_rng"])
    assert progress["global_step"] == saved["global_step"] == learner.replay.count
    with np.load(folder / f"replay-{learner.replay.count}.npz") as memory:
        for name, column in learner.replay.columns._asdict().items():
            assert np.array_equal(column[: len(memory[name])], memory[name])
            assert not column[len(memory[name]) :].any()


def test_a_run_without_its_memory_or_with_a_broken_one_says_so(run, tmp_path):
    done = run(SCRIPT, *FEW, "--run-name", "x")
    assert done.returncode == 0, done.stderr
    (tmp_path / "runs/x/evaluation.json").unlink()
    memory = tmp_path / "runs/x/replay-1200.npz"
    for make_it, said in ((lambda: memory.write_bytes(b""), "damaged"), (memory.unlink, f"{memory.name} is missing")):
        make_it()
        done = run(SCRIPT, "--resume", "runs/x")
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1
        assert said in done.stderr


def test_a_kill_between_memory_and_checkpoint_leaves_the_old_two(tmp_path, monkeypatch):
    """Of a memory that is full and has begun to overwrite its oldest transitions."""
    torch.set_default_dtype(torch.float32)
    args = sac.Args(env_id="Pendulum-v1", buffer_size=10, total_timesteps=1000, learning_starts=1)
    learner, progress = sac.make_learner(args)

    def fill(count):
        for i in range(learner.replay.count, count):
            learner.replay.add(np.full(3, i), np.full(1, i), i, np.full(3, i), 0.0)

    fill(13)
    sac.save_checkpoint(tmp_path, learner, progress, args)
    fill(17)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", lambda *_: sys.exit("killed"))
        with pytest.raises(SystemExit, match="killed"):
            sac.save_checkpoint(tmp_path, learner, progress, args)
    again, _ = sac.make_learner(sac.parse_args(["--resume", str(tmp_path)]))
    assert again.replay.count == 13
    assert sorted(again.replay.columns.reward) == list(range(3, 13))
    sac.save_checkpoint(tmp_path, learner, progress, args)
    assert [path.name for path in tmp_path.glob("replay*")] == ["replay-17.npz"]


def test_acting_that_differs_from_the_losses_is_refused(monkeypatch):
    """A network changed in torch alone, and a fusion that differs between one state and a batch."""
    torch.set_default_dtype(torch.float32)
    args, forward, fuse = sac.Args(env_id="Pendulum-v1"), sac.Actor.forward, sac.fuse
    sac.make_learner(args)

    def wider(self, obs):
        main, pref = forward(self, obs)
        return sac.Gaussian(main.mean, 3 * main.std), pref

    def clipped(self, obs):
        return forward(self, obs.clip(-10, 10))

    def skipping(self, obs):  # by a layer that is 0 at the start
        main, pref = forward(self, obs)
        return sac.Gaussian(main.mean + self.skip(obs), main.std), pref

    init = sac.Actor.__init__

    def with_skip(self, obs_dim, action_dim):
        init(self, obs_dim, action_dim)
        self.skip = torch.nn.Linear(obs_dim, action_dim)
        torch.nn.init.zeros_(self.skip.weight), torch.nn.init.zeros_(self.skip.bias)

    def spread(main, pref, args):  # over a batch, of which acting has one row
        fused = fuse(main, pref, args)
        return sac.Gaussian(fused.mean, fused.std + abs(main.mean).sum())

    for changes in (
        [(sac.Actor, "forward", wider)],
        [(sac.Actor, "forward", clipped)],
        [(sac.Actor, "forward", skipping), (sac.Actor, "__init__", with_skip)],
        [(sac, "fuse", spread)],
    ):
        with monkeypatch.context() as patch:
            for change in changes:
                patch.setattr(*change)
            with pytest.raises(AssertionError, match="acting differs"):
                sac.make_learner(args)


def test_critics_that_do_not_come_last_are_refused():
    agent = sac.Agent(OBS_DIM, ACTION_DIM)
    agent.more = torch.nn.Linear(2, 2)
    with pytest.raises(AssertionError, match="critics come last"):
        sac.make_step(agent, sac.Args(compile=False))


def test_before_learning_starts_there_are_no_losses(run, tmp_path):
    done = run(SCRIPT, *FEW, "--run-name", "x")
    assert done.returncode == 0, done.stderr
    rows = read_metrics(tmp_path / "runs/x")
    assert [row["loss"] == "nan" for row in rows] == [True] + [False] * 5
    assert 0.8 < float(rows[1]["temperature"]) < 1.2  # from 1, by up to 0.1 % at each of 200 updates: a mean over them


def test_the_warning_names_the_cause_where_the_preference_has_run_away():
    for A_z2, advised in ((-5e8, True), (2e3, True), (-7.0, False), (500.0, False)):
        advice = sac.failure_signatures(row := {"A_z2": A_z2, "sigma_pref": 4.9}, sac.Args())
        assert ["--pref-actions own" in x for x in advice] == [True] * advised
        assert not sac.failure_signatures(row, sac.Args(w_pref=0.0))  # SAC itself, whose preference is not trained
        assert not sac.failure_signatures(row, sac.Args(pref_actions="own"))  # which follows the advice
    (advice,) = sac.failure_signatures({"A_z2": -0.1, "sigma_pref": 0.008}, sac.Args(pref_actions="own"))
    assert "--beta1" in advice


def softmax_of_q(trace, entropy, squashed, ratio, action_dim=6):
    """E[A_norm z^2] on own actions of a policy that is a softmax of Q, tanh included, by sampling: sigmas lognormal and
    means normal over states, spread so that tr Sigma_f, the Gaussian's entropy and the squashed one's are these."""
    rng, log_sigma = np.random.default_rng(0), entropy / action_dim - 0.5 * np.log(2 * np.pi * np.e)
    spread = np.sqrt((np.log(trace / action_dim) - 2 * log_sigma) / 2)
    std = np.exp(log_sigma + spread * rng.standard_normal((200_000, action_dim)))
    mean, z, other = rng.standard_normal((3, *std.shape))

    def log_prob(z, scale):
        u = scale * mean + std * z
        return sac.log_prob_squashed(sac.Gaussian(*map(torch.tensor, (scale * mean, std))), torch.tensor(u)).numpy()

    low, high = 0.0, 4.0
    for _ in range(12):  # the further out the means, the less entropy
        middle = (low + high) / 2
        low, high = (middle, high) if -log_prob(z, middle).mean() > squashed else (low, middle)
    A = log_prob(z, low) - log_prob(other, low)
    return ((A - A.mean()) / A.std() * ratio * (z**2).T).mean()


def test_what_a_softmax_of_q_would_have_is_as_the_page_says():
    import pandas as pd

    curves = pd.read_csv(ROOT / "benchmark/results/sac-HalfCheetah-v4-300000-steps_curves.csv")
    late = curves.query("variant == 'prefpoe-sac-own' and global_step > 270000").groupby("seed").mean(numeric_only=True)
    found = [softmax_of_q(row.trace_fused, row.entropy_fused, -6, 0.9) for row in late.itertuples()]
    assert np.mean(found) == pytest.approx(-0.235, abs=0.005) and np.ptp(found) < 0.03
    assert softmax_of_q(1e-6, 6 * np.log(np.sqrt(1e-6 / 6 * 2 * np.pi * np.e)), -100, 0.94) == pytest.approx(
        -0.38, abs=0.02
    )
    for page in ("open_questions/sac.md", "benchmark/results/README.md"):
        assert "about −0.24" in (ROOT / page).read_text(encoding="utf-8")


def experts(states=400):
    """Main and preference expert with widths and means that differ between states and dimensions."""
    mean, log_std = torch.randn(2, states, ACTION_DIM), 0.4 * torch.randn(2, states, ACTION_DIM)
    return (sac.Gaussian(mu, (log_s + i - 1).exp()) for i, (mu, log_s) in enumerate(zip(mean, log_std, strict=True)))


def test_its_fusion_has_the_bounds_of_the_ppo_scripts(continuous):
    assert sac.STD_BOUNDS == continuous.STD_BOUNDS


def moved(policy, by):
    return sac.Gaussian(policy.mean, policy.std * by.exp())


def test_where_the_losses_of_the_preference_rest_by_themselves():
    """By one shift of all its log sigmas, at fixed pi_f; and q from the columns that a run has."""
    args, (main, pref) = sac.Args(alpha=0.3, beta1=0.7, w_pref=0.11, w_cons=0.23), experts()
    fused, by = sac.fuse(main, pref, args), torch.zeros(1, requires_grad=True)
    u, A_norm = fused.mean + fused.std * torch.randn_like(fused.std), sac.normalized(torch.randn(400))
    pref_loss = sac.preference_loss(moved(pref, by), u, A_norm, args.beta1, args.alpha)
    (args.w_pref * pref_loss + args.w_cons * fused.kl(moved(pref, by)).mean()).backward()
    q = ((fused.std**2 + (fused.mean - pref.mean) ** 2) / pref.std**2).mean()
    A_z2 = (A_norm[:, None] * ((u - pref.mean) / pref.std) ** 2).mean()
    pull = -(args.alpha + args.beta1 * A_z2) * args.w_pref + args.w_cons * (1 - q)
    torch.testing.assert_close(by.grad.squeeze(), ACTION_DIM * pull)
    columns = fused.kl(pref).mean(), fused.entropy().mean(), pref.entropy().mean()
    torch.testing.assert_close(1 + 2 * (columns[0] + columns[1] - columns[2]) / ACTION_DIM, q)


def test_the_heads_share_the_gradient_that_reaches_pi_f():
    """Of any loss of it, with equal means: r = s_f^2 / s_p^2 goes to log s_p, the rest to log s_theta."""
    args, (main, pref) = sac.Args(), experts()
    main = sac.Gaussian(pref.mean, main.std)
    by = torch.zeros(2, *pref.mean.shape, requires_grad=True)
    fused = sac.fuse(moved(main, by[0]), moved(pref, by[1]), args)
    fused.std.retain_grad()
    (torch.sin(3 * fused.std) * torch.cos(fused.mean) + fused.log_prob(pref.mean + 0.3)[:, None]).sum().backward()
    g, r = fused.std.grad * fused.std.detach(), (fused.std / pref.std).detach() ** 2
    torch.testing.assert_close(by.grad, torch.stack([(1 - r) * g, r * g]))


@pytest.mark.parametrize("bound", [3.4e38, 1e300, np.inf])
def test_actions_without_bounds_that_float32_can_hold_are_refused(bound, capsys):
    space = gym.spaces.Box(-bound, bound, (2,), np.float64)
    with pytest.raises(SystemExit):
        sac.check_action_space(space, sac.Args())
    (line,) = capsys.readouterr().err.splitlines()
    assert "bounded Box" in line
    sac.check_action_space(gym.spaces.Box(-1e30, 1, (2,)), sac.Args())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--minibatch-size", 1), "--minibatch-size"),
        (("--total-timesteps", 5000), "--learning-starts"),
        (("--total-timesteps", 5999), "less than the 5000 steps"),  # of five whole iterations
        (("--env-id", "CarRacing-v3", "--buffer-size", 10**9, "--total-timesteps", 10**9), "--buffer-size"),
        (("--env-id", "CartPole-v1"), "Box"),
        (("--total-timesteps", 100), "num_steps"),
        (("--evaluate", "nowhere"), "nowhere"),
        (("--tau", 2), "--tau"),
        (("--num-actions", 10**10), "--num-actions"),
        (("--minibatch-size", 10**10), "--minibatch-size"),
    ],
)
def test_a_mistake_is_one_line(words, said, run, tmp_path):
    done = run(SCRIPT, *words)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert said in done.stderr
    assert not (tmp_path / "runs").exists()
