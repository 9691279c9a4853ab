"""open_questions/prefpoe_sac.py: its losses and steps against torch's own, its replay memory, and runs that go on."""

import collections
import importlib
import json
import shutil
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import odd_environments
import pandas as pd
import pytest
import scipy.stats
import torch
import torch.distributions as D
import torch.nn.functional as F
from conftest import ROOT, command, environment, evaluation_line, read_metrics
from torch.nn.utils import parameters_to_vector

sys.path.insert(0, str(ROOT / "open_questions"))
sac = importlib.import_module("prefpoe_sac")

SCRIPT = "open_questions/prefpoe_sac"
OBS_DIM, ACTION_DIM, BATCH = 5, 3, 16
FEW = ("--env-id", "Pendulum-v1", "--total-timesteps", 600, "--num-steps", 100, "--learning-starts", 100)
FEW = (*FEW, "--eval-every", 0, "--eval-episodes", 2, "--minibatch-size", 8, "--checkpoint-every", 2, "--no-compile")
VARIANTS = {
    "product": dict(),
    "own": dict(pref_actions="own", lambda_pref=0.7),
    "average": dict(fusion="linear", num_actions=3),
    "sac": dict(fusion="none", w_pref=0.0, w_cons=0.0),
}


@pytest.fixture(autouse=True)
def precision(request):
    """Runs are of float32, as a user's; sums are compared in float64."""
    torch.manual_seed(0)
    as_a_user = {"tmp_path", "capsys"} & {*request.fixturenames}
    torch.set_default_dtype(torch.float32 if as_a_user else torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a short run from start to end, in which files of its user's lie too."""
    folder = tmp_path_factory.mktemp("finished") / "runs/x"
    (folder / "replay-mine").mkdir(parents=True)
    (folder / "replay-notes.txt").touch()
    (folder / "replay-7.npz.tmp").touch()  # as a kill leaves it
    words = command(SCRIPT, *FEW, "--run-name", "x")
    done = subprocess.run(words, check=True, cwd=folder.parents[1], env=environment(), capture_output=True, text=True)
    assert evaluation_line(done.stdout) and not done.stderr and "numpy_policy" not in done.stdout
    return folder


def make(**changes):
    """Arguments, an agent, target critics other than its critics, and a batch with noise."""
    args = sac.Args(**dict(compile=False) | changes)
    agent, target = sac.Agent(OBS_DIM, ACTION_DIM), sac.Critics(OBS_DIM, ACTION_DIM)
    with torch.no_grad():
        agent.log_temperature.fill_(-0.7)
    x = (torch.randn(BATCH, OBS_DIM), torch.randn(BATCH, ACTION_DIM), torch.randn(BATCH), torch.randn(BATCH, OBS_DIM))
    batch = sac.Batch(*x, (torch.rand(BATCH) < 0.3).to(x[0].dtype))
    return args, agent, target, batch, torch.randn(2 + args.num_actions, BATCH, ACTION_DIM)


def small_learner(**changes):
    """A learner of Pendulum-v1, its environments, and its arguments."""
    args = sac.Args(**dict(env_id="Pendulum-v1", compile=False) | changes)
    envs = sac.VecEnv(args.num_envs, args)
    return sac.Learner(envs.envs[0], args), envs, args


def q_of(critics, obs, action):
    """Q of each critic by torch's functions, one network at a time."""
    values = []
    for i in range(2):
        x = torch.cat([obs, action], -1)
        for layer in range(3):
            x = F.linear(x, getattr(critics, f"W{layer}")[i].T, getattr(critics, f"b{layer}")[i, 0])
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
    actions = [torch.tanh(fused.mean + fused.std * x) for x in noise[2:]]
    q_own = torch.stack([q_of(agent.critics, batch.obs, x).min(0).values for x in actions])
    log_prob = torch.stack([squashed(fused).log_prob(x) for x in actions])
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
    actor_loss = actor_loss + args.w_pref * pref_loss + args.w_cons * cons_loss
    return critic_loss, actor_loss, -(temperature * (log_prob.detach() - ACTION_DIM)).mean()


def step_of(args, agent, target):
    """A step, the agent's weights, the target's, and Adam's state."""
    params, flat = (parameters_to_vector(x.parameters()).detach() for x in (agent, target))
    adam = dict(m=torch.zeros_like(params), v=torch.zeros_like(params), powers=torch.ones(2, dtype=torch.float64))
    return sac.make_step(agent, args), params, flat, adam


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
def test_steps_are_those_of_autograd_and_adam(changes):
    """Each loss reaches its own weights alone; the target follows the critics, whatever stands behind them."""
    args, agent, target, batch, noise = make(**changes)
    agent.more = torch.nn.Linear(2, 2)
    step, params, flat, adam = step_of(args, agent, target)
    parts = [[*agent.critics.parameters()], [*agent.actor.parameters()], [agent.log_temperature]]
    rates = args.q_lr, args.learning_rate, args.q_lr
    optimizer = torch.optim.Adam([dict(params=part, lr=rate) for part, rate in zip(parts, rates, strict=True)])
    for _ in range(3):
        losses = sac.Losses(*step(params, flat, adam, batch, noise, {}))
        expected = reference(args, agent, target, batch, noise)
        assert losses.critic_loss.item() == pytest.approx(expected[0].item())
        assert losses.loss.item() == pytest.approx(sum(expected).item())
        for part, loss in zip(parts, expected, strict=True):
            gradient = torch.autograd.grad(loss, part, retain_graph=True, materialize_grads=True, allow_unused=True)
            for x, g in zip(part, gradient, strict=True):
                x.grad = g
        optimizer.step()
        with torch.no_grad():
            for x, new in zip(target.parameters(), agent.critics.parameters(), strict=True):
                x += args.tau * (new - x)
        assert torch.allclose(params, parameters_to_vector(agent.parameters()), atol=1e-9)
        assert torch.allclose(flat, parameters_to_vector(target.parameters()), atol=1e-12)


@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="compiles")
def test_the_compiled_step_is_the_eager_one_and_sees_coefficients_that_change(capsys):
    results = []
    for compile_it in (False, True):
        torch.manual_seed(0)
        args, agent, target, batch, noise = make(compile=compile_it)
        step, params, flat, adam = step_of(args, agent, target)
        for i in range(5):
            coefficients = dict(learning_rate=1e-3 / (i + 1), tau=0.1 * i, gamma=0.9 + 0.01 * i, w_pref=0.5 * i)
            tensors = {name: torch.tensor(x) for name, x in coefficients.items()}
            losses = step(params, flat, adam, batch, noise, tensors)
        results.append((params, flat, losses))
    assert "fail" not in capsys.readouterr().out
    for eager, fast in zip(*results, strict=True):
        assert torch.allclose(eager, fast, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("action_dim", [1, 2, 6])
def test_diagnostics_have_the_values_of_a_softmax_of_q(action_dim):
    """Experts alike, Q the log density before the tanh, replayed actions the policy's own. Then A is that density less
    another's, so that corr(A, log pi) = 2^-0.5; and E[A_norm z^2], of A = -z^2 / 2 + ..., is -action_dim^-0.5."""
    agent, replay = sac.Agent(OBS_DIM, action_dim), sac.Replay(40_000, OBS_DIM, action_dim)
    replay.columns.u[:] = 0.3 + 0.2 * torch.randn(40_000, action_dim).numpy()
    replay.count = 40_000
    policy, gaussian = D.Normal(0.3, 0.2), sac.Gaussian(*(torch.full((40_000, action_dim), x) for x in (0.3, 0.2)))
    agent.actor.forward = lambda obs: (gaussian, gaussian)
    agent.critics.forward = lambda obs, action: policy.log_prob(torch.atanh(action)).sum(-1).expand(2, -1)
    assert sac.log_prob_squashed(gaussian, gaussian.mean + 100).isfinite().all()
    row = sac.diagnose(agent, replay, np.random.default_rng(0), sac.Args(lambda_pref=0.0, minibatch_size=4000))
    assert [row["A_z2"], row["A_z2_own"]] == pytest.approx([-(action_dim**-0.5)] * 2, abs=0.03)
    assert row["guidance"] == pytest.approx(2**-0.5, abs=0.02)


def test_actions_are_uniform_until_learning_starts_and_pi_f_s_from_then_on():
    args, agent, *_ = make(learning_starts=8000)
    envs = SimpleNamespace(action_space=gym.spaces.Box(-1, 1, (ACTION_DIM,)))
    learner = SimpleNamespace(agent=agent, replay=sac.Replay(10, OBS_DIM, ACTION_DIM), make_act=sac.numpy_policy)
    learner.rng = np.random.default_rng(0)
    obs = np.ones((4000, OBS_DIM))
    fused = sac.fuse(*agent.actor(torch.tensor(obs)), args)
    for learner.replay.count in range(0, 16_000, 4000):
        u = sac.explore(envs, obs, learner, args)
        z = ((torch.tensor(u) - fused.mean) / fused.std).detach().numpy()
        fits = [scipy.stats.kstest(*x).pvalue for x in ((np.tanh(u).ravel(), "uniform", (-1, 2)), (z.ravel(), "norm"))]
        assert [x > 0.001 for x in fits] == [learner.replay.count < 8000, learner.replay.count >= 8000]


def test_the_first_updates_start_from_the_critics_and_get_a_minibatch_each_and_normal_noise():
    learner, _, args = small_learner(minibatch_size=500, num_actions=2, buffer_size=1000)
    assert torch.equal(learner.target, parameters_to_vector(learner.agent.critics.parameters()))
    assert learner.target.data_ptr() != learner.params.data_ptr() and learner.agent.log_temperature == 0
    learner.replay.columns.reward[:], learner.replay.count, calls = np.arange(1000), 1000, []
    for _ in range(2):
        sac.update(lambda *inputs: calls.append(inputs), learner, "coefficients", args)
    assert [(*x[:3], x[5]) for x in calls] == [(learner.params, learner.target, learner.adam, "coefficients")] * 2
    rewards = [x[3].reward for x in calls]
    assert all(x.unique().numel() > 350 for x in rewards) and not torch.equal(*rewards)
    noise = torch.cat([x[4] for x in calls]).flatten()
    assert noise.shape == (2 * 4 * 500,)
    assert scipy.stats.kstest(noise.numpy(), "norm").pvalue > 0.001


def test_the_memory_holds_the_last_transitions_and_gives_each_as_often():
    rng, replay = np.random.default_rng(0), sac.Replay(10, 2, 1)
    truth = collections.deque(maxlen=10)
    for i in range(23):
        replay.add(np.full(2, i), np.full(1, i), i, np.full(2, i + 0.5), i % 2)
        truth.append(i)
        assert {*replay.sample(rng, 400).reward.tolist()} == {*truth}
    batch = replay.sample(rng, 20_000)
    assert torch.equal(batch.obs[:, 0], batch.reward) and torch.equal(batch.u[:, 0], batch.reward)
    assert torch.equal(batch.next_obs[:, 0], batch.reward + 0.5)
    assert torch.equal(batch.terminated, batch.reward % 2)
    counts = np.bincount(batch.reward.int())[13:]
    assert (np.abs(counts - 2000) < 5 * np.sqrt(2000)).all()


def test_a_time_limit_is_no_termination_and_what_follows_is_the_episodes_own():
    """Pendulum never terminates; its 200th step is followed by its own last observation, not the next one's first."""
    envs, replay, ended = sac.VecEnv(1, sac.Args(env_id="Pendulum-v1")), sac.Replay(500, 3, 1), []
    obs = envs.reset(1, 0)
    for _ in range(401):
        obs, episodes = sac.interact(envs, obs, np.zeros((1, 1), np.float32), replay)
        ended += episodes
    x = replay.columns
    assert [length for _, length in ended] == [200, 200]
    assert not x.terminated.any()
    assert np.array_equal(x.next_obs[:199], x.obs[1:200])
    assert not np.allclose(x.next_obs[199], x.obs[200])
    faster = np.clip(x.obs[199][2] + 15 * x.obs[199][1] * 0.05, -8, 8)  # gymnasium's pendulum without torque
    assert x.next_obs[199][2] == pytest.approx(faster, abs=1e-5)


def test_each_of_several_environments_is_followed_by_its_own_last_observation():
    """Three poles, of which the first stays up longer than the others, which fall to either side."""
    envs, replay = sac.VecEnv(3, sac.Args(env_id="InvertedPendulum-v4")), sac.Replay(90, 4, 1)
    obs = envs.reset(1, 0)
    for _ in range(30):
        obs, _ = sac.interact(envs, obs, np.array([[0.0], [-1.0], [1.0]], np.float32), replay)
    x = sac.Batch(*(column.reshape(30, 3, -1) for column in replay.columns))
    ended = x.terminated[..., 0] > 0
    assert ended.sum(0)[0] < min(ended.sum(0)[1:]) and len({*np.flatnonzero(ended)}) > 3
    assert np.array_equal(x.next_obs[:-1][~ended[:-1]], x.obs[1:][~ended[:-1]])
    angle = x.next_obs[..., 1]
    assert (np.sign(angle[:, 1])[ended[:, 1]] == 1).all() and (np.sign(angle[:, 2])[ended[:, 2]] == -1).all()
    assert ((np.abs(angle) > 0.2) == ended).all()  # the angle that ends an episode


def test_an_evaluation_acts_with_tanh_in_the_environments_range():
    class Paid(odd_environments.Steps):  # its action, for three steps
        action_space = gym.spaces.Box(-0.5, 1.9, (1,))  # of which rounding would leave the upper end
        length = 3

        def step(self, action):
            assert self.action_space.contains(action)
            obs, _, *outcome = super().step(action)
            return obs, float(action[0]), *outcome

    gym.register("Paid-v0", Paid, max_episode_steps=5)
    learner = SimpleNamespace(
        agent=None, make_act=lambda agent, args: lambda obs, noise: np.full((1, 1), 0.5, np.float32) + noise
    )
    returns = sac.evaluate(learner, gym.make("Paid-v0"), 2, sac.Args(env_id="Paid-v0"))
    assert returns == pytest.approx([3 * (0.7 + 1.2 * np.tanh(0.5))] * 2)
    sampled = sac.evaluate(learner, gym.make("Paid-v0"), 200, sac.Args(env_id="Paid-v0", eval_deterministic=False))
    expected = D.Normal(0.5, 1.0).sample((100_000,)).tanh().mean().item()
    assert np.mean(sampled) == pytest.approx(3 * (0.7 + 1.2 * expected), abs=0.4) and np.std(sampled) > 0.6
    learner.make_act = lambda agent, args: lambda obs, noise: np.full((1, 1), 20, np.float32)
    assert sac.evaluate(learner, gym.make("Paid-v0"), 1, sac.Args(env_id="Paid-v0")) == pytest.approx([5.7])


def test_a_network_changed_in_torch_alone_acts_as_it_is_trained(monkeypatch, tmp_path, capsys):
    """By a layer that is 0 at the start, so that only training makes the twin differ; and one that nothing reads."""
    init, forward = sac.Actor.__init__, sac.Actor.forward

    def with_more(self, obs_dim, action_dim):
        init(self, obs_dim, action_dim)
        self.skip = torch.nn.Parameter(torch.zeros(obs_dim, action_dim))
        self.idle = torch.nn.Parameter(torch.zeros(2))

    def skipping(self, obs):
        main, pref = forward(self, obs)
        return sac.Gaussian(main.mean + obs @ self.skip, main.std), pref

    monkeypatch.setattr(sac.Actor, "__init__", with_more)
    monkeypatch.setattr(sac.Actor, "forward", skipping)
    monkeypatch.chdir(tmp_path)
    sac.main(sac.parse_args([*map(str, FEW), "--run-name", "x", "--total-timesteps", "300"]))
    out = capsys.readouterr().out
    assert out.count("numpy_policy") == 1
    assert out.count("warning: no gradient") == 1 and "actor.idle" in out
    sac.main(sac.parse_args(["--evaluate", "runs/x"]))
    assert evaluation_line(capsys.readouterr().out) == evaluation_line(out)


def test_actions_that_are_not_samples_of_the_policy_end_a_run(monkeypatch):
    learner, envs, args = small_learner(learning_starts=0)
    obs = envs.reset(1, 0).astype(np.float64)
    learner.make_act = lambda agent, args: lambda obs, noise: sac.torch_policy(agent, args)(obs, 2 * noise)
    u = sac.explore(envs, obs, learner, args)
    assert learner.make_act is sac.torch_policy
    noise = np.random.default_rng(args.seed).standard_normal(u.shape, dtype=np.float32)
    assert np.array_equal(u, sac.torch_policy(learner.agent, args)(obs, noise))  # and not the other's
    with pytest.raises(SystemExit) as ended:
        sac.acted_by_agent(obs, noise, u + noise, learner, args)
    assert isinstance(ended.value.code, str)  # exit code 1, on stderr


def test_a_transition_that_is_not_finite_ends_a_run_before_it_is_saved(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    flags = "--env-id odd_environments:NotFinite-v0 --num-steps 100 --learning-starts 900 --total-timesteps 1000"
    with pytest.raises(SystemExit, match="700"):  # the seventh hundred of random actions, before learning starts
        sac.main(sac.parse_args(f"{flags} --checkpoint-every 2 --eval-every 0 --no-compile --run-name x".split()))
    assert sac.load_checkpoint("runs/x")["replay_count"] == 600
    saved = np.load("runs/x/replay-600.npz")
    assert all(np.isfinite(saved[name]).all() for name in saved)


def test_a_run_that_was_stopped_goes_on_with_its_memory(run, finished, tmp_path):
    whole, stopped = read_metrics(finished), tmp_path / "runs/x"
    words = command(SCRIPT, *FEW, "--run-name", "x")
    process = subprocess.Popen(words, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    while not (stopped / "metrics.csv").exists() or (stopped / "metrics.csv").read_bytes().count(b"\n") < 4:
        time.sleep(0.02)
        assert process.poll() is None, process.stdout.read()
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 128 + signal.SIGTERM
    what_is_loaded_is_what_was_saved(stopped, tmp_path)
    done = run(SCRIPT, "--resume", "runs/x", "--total-timesteps", 800, "--q-lr", 5e-4)
    assert done.returncode == 0, done.stderr
    resumed = read_metrics(stopped)
    assert [int(row["global_step"]) for row in resumed] == list(range(100, 801, 100))
    for name in whole[0].keys() - {"SPS", "seconds"}:
        assert [row[name] for row in resumed[:2]] == [row[name] for row in whole[:2]]  # up to the checkpoint
    assert json.loads((stopped / "config.json").read_text())["q_lr"] == 5e-4
    assert evaluation_line(run(SCRIPT, "--evaluate", "runs/x").stdout) == evaluation_line(done.stdout)
    (stopped / "replay-800.npz").touch()  # as a kill leaves it before it is removed
    again = run(SCRIPT, "--resume", "runs/x")
    assert (again.returncode, again.stderr, [*stopped.glob("replay*")]) == (0, "", [])


def what_is_loaded_is_what_was_saved(folder, other):
    """Into a learner that is loaded and saved again; from a checkpoint that has flags which are gone, too."""
    saved = torch.load(folder / "checkpoint.pt", weights_only=True)
    assert all(x.any() for x in saved["adam"].values()) and saved["replay_count"] == 100 * saved["iteration"]
    torch.save(saved | {"args": saved["args"] | dict(cuda=False, video_episodes=1)}, folder / "checkpoint.pt")
    args = sac.parse_args(["--resume", str(folder)])
    learner, *_ = small_learner()
    learner.load(str(folder), args)
    learner.save(other, args)
    again = torch.load(other / "checkpoint.pt", weights_only=True)
    assert torch.equal(learner.params, torch.cat([x.flatten() for x in saved["agent"].values()]))
    leaves = [torch.utils._pytree.tree_flatten_with_path(x)[0] for x in (saved, again)]
    for x, y in zip(*leaves, strict=True):
        assert torch.equal(x[1], y[1]) if torch.is_tensor(x[1]) else x == y
    memories = [np.load(x / f"replay-{saved['replay_count']}.npz") for x in (folder, other)]
    assert all(np.array_equal(*(memory[name] for memory in memories)) for name in sac.Batch._fields)


def test_random_steps_have_no_losses_and_a_finished_run_has_no_memory(finished, tmp_path, capsys):
    rows = read_metrics(finished)
    assert [row["loss"] == "nan" for row in rows] == [True] + [False] * 5
    assert 0.9 < float(rows[1]["temperature"]) < 1.1  # from 1, by up to 0.1 % at each of 100 updates: a mean over them
    assert {path.name for path in finished.glob("replay-*")} == {"replay-mine", "replay-notes.txt"}
    shutil.copytree(finished, tmp_path / "x")
    for content in (None, b"", b"PK"):
        if content is not None:
            (tmp_path / "x/replay-600.npz").write_bytes(content)
        with pytest.raises(SystemExit) as ended:
            sac.main(sac.parse_args(["--resume", str(tmp_path / "x"), "--total-timesteps", "700"]))
        assert ended.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "replay-600.npz" in line if content is None else str(tmp_path / "x") in line


def test_a_kill_between_memory_and_checkpoint_leaves_the_old_two(tmp_path, monkeypatch):
    """Of a memory that is full and has begun to overwrite its oldest transitions."""
    learner, envs, args = small_learner(buffer_size=10, total_timesteps=1000, learning_starts=1)

    for i in range(17):
        learner.replay.add(np.full(3, i), np.full(1, i), i, np.full(3, i), 0.0)
        if i == 12:
            learner.save(tmp_path, args)
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(torch, "save", lambda *_: sys.exit())
        learner.save(tmp_path, args)
    again = sac.Learner(envs.envs[0], args)
    again.load(str(tmp_path), sac.parse_args(["--resume", str(tmp_path)]))
    assert again.replay.count == 13 and sorted(again.replay.columns.reward) == list(range(3, 13))
    learner.save(tmp_path, args)
    assert [path.name for path in tmp_path.glob("replay*")] == ["replay-17.npz"]


def test_signatures_speak_in_all_runs_that_diverge_and_in_no_other():
    bounds = {column: (low, high) for column, low, high, _ in sac.SIGNATURES}
    for path in (ROOT / "benchmark/results").glob("sac-*_curves.csv"):
        for (variant, _), rows in pd.read_csv(path).groupby(["variant", "seed"]):
            assert rows["A_z2"].between(*bounds["A_z2"]).all() == (variant != "prefpoe-sac")


MISTAKES = ["--minibatch-size 1", "--learning-starts 5000 --total-timesteps 5999", "--buffer-size 100000000000000"]
MISTAKES += ["--env-id CartPole-v1", "--env-id odd_environments:Unbounded-v0", "--num-actions 1025", "--tau 2"]


@pytest.mark.parametrize("words", MISTAKES)
def test_a_mistake_is_one_line(words, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        sac.main(sac.parse_args(words.split()))
    (line,) = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2 and words.split()[0] in line and not (tmp_path / "runs").exists()
