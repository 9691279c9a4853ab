"""open_questions/prefpoe_multimodal.py: mixtures against integrals, one mode against prefpoe_continuous.py."""

import importlib
import json
import re
import shutil
import subprocess
import sys
import warnings

import gymnasium as gym
import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch
import torch.distributions as D
from conftest import ROOT, command, environment, evaluation_line, read_metrics
from gymnasium.utils.env_checker import check_env

sys.path[:0] = [str(ROOT / "open_questions"), str(ROOT / "benchmark")]
multimodal = importlib.import_module("prefpoe_multimodal")
goals = importlib.import_module("multimodal")
Args, Gaussian, Mixture = multimodal.Args, multimodal.Gaussian, multimodal.Mixture

SCRIPT = "open_questions/prefpoe_multimodal"
PAGE = (ROOT / "open_questions" / "README.md").read_text(encoding="utf-8")
BOX, OBS_DIM = gym.spaces.Box(-1, 1, (2,)), 5
MODES = pytest.mark.parametrize("K", [1, 2, 5])
AXIS = np.linspace(-9, 9, 151)
GRID, CELL = np.stack(np.meshgrid(AXIS, AXIS), axis=-1).reshape(-1, 1, 2), (AXIS[1] - AXIS[0]) ** 2
NEW_COLUMNS = {"modes_pref", "modes_fused", "mode_distance", "mode_sigma", "mode_share"}
FEW = dict(total_timesteps=1024, num_steps=256, num_minibatches=4, update_epochs=3, learning_rate=3e-3, seed=3)
FEW |= dict(env_id="MultiGoal-v0", compile=False, eval_every=2, eval_episodes=2)
weights = lambda policy: scipy.special.softmax(np.asarray(policy.logits), -1)
integral = lambda values: values.sum(0) * CELL
mixture = lambda K: Mixture(torch.randn(4, K), Gaussian(1.2 * torch.randn(4, K, 2), 0.3 + 0.6 * torch.rand(4, K, 2)))


@pytest.fixture(autouse=True)
def precision(request):
    """Runs are of float32, as a user's; sums are compared in float64."""
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float32 if "tmp_path" in request.fixturenames else torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a short run with two modes from start to end, and what was printed."""
    folder = tmp_path_factory.mktemp("finished")
    flags = "--no-compile --num-steps 128 --num-minibatches 4 --total-timesteps 512 --eval-episodes 3 --eval-every 2"
    flags += " --num-modes 2 --seed 3 --run-name MultiGoal-v0__prefpoe-modes-2__3"
    words = command(SCRIPT, *flags.split())
    done = subprocess.run(words, check=True, cwd=folder, env=environment(), capture_output=True, text=True)
    assert not done.stderr and "warning" not in done.stdout and "numpy_policy" not in done.stdout
    return folder / "runs" / words[-1], done.stdout


def single(std, batch=1, dim=1):
    return Mixture(torch.zeros(batch, 1), Gaussian(torch.zeros(batch, 1, dim), torch.full((batch, 1, dim), std)))


def densities(policy, power=1.0):
    """w_k N(a; mu_k, s_k^2 / power) of each mode on the grid, from scipy: (points, batch, K)."""
    mean, std = map(np.asarray, policy.modes)
    return weights(policy) * scipy.stats.norm.pdf(GRID[:, None], mean, std / np.sqrt(power)).prod(-1)


def true_kl(policy, other):
    p, q = densities(policy).sum(-1), densities(other).sum(-1)
    return integral(p * (np.log(p + 1e-300) - np.log(q + 1e-300)))


@MODES
@pytest.mark.parametrize("lam", [0.5, 1.0, 2.0])
def test_fusion_is_the_normalised_product_and_its_weights_are_the_shares_of_the_modes(K, lam):
    """pi_theta sum_k w_k N(mu_k, s_k^2/lambda), over its integral; that of each mode is its weight."""
    main, pref = mixture(1), mixture(K)
    product = densities(main) * densities(pref, lam)
    share = integral(product)
    arrays = (Mixture(x.logits.numpy(), Gaussian(*(y.numpy() for y in x.modes))) for x in (main, pref))
    for experts in (arrays, (main, pref)):
        fused = multimodal.fuse(*experts, Args(lambda_pref=lam))
        np.testing.assert_allclose(np.exp(fused.log_weight), share / share.sum(-1, keepdims=True), rtol=1e-8)
        expected = product.sum(-1) / share.sum(-1)
        np.testing.assert_allclose(densities(fused).sum(-1), expected, rtol=1e-7, atol=1e-10)
    if 1 in (lam, K):  # then it is the paper's product
        power = densities(main)[..., 0] * densities(pref).sum(-1) ** lam
        np.testing.assert_allclose(densities(fused).sum(-1), power / integral(power), rtol=1e-7, atol=1e-10)
    excess = fused.kl(pref).numpy() - true_kl(fused, pref)
    assert (excess > 1e-3).any() if lam != 1 and K > 1 else np.allclose(excess, 0, atol=1e-8)
    assert (excess > -1e-8).all()
    for changes in (dict(lambda_pref=0.0), dict(fusion="none")):  # the main expert acts
        fused = multimodal.fuse(main, pref, Args(**changes))
        np.testing.assert_allclose(densities(fused).sum(-1), densities(main)[..., 0])


@MODES
def test_a_mixture_is_torchs_with_bounds_on_entropy_and_kl_that_are_exact_for_one_mode(K):
    """The entropy's also for equal modes and distant ones; it is that of Kolchinsky & Tracey, with torch's KL."""
    policy, other = mixture(K), mixture(K)
    density = densities(policy).sum(-1)
    action = torch.tensor(GRID[::97]).expand(-1, 4, 2)
    modes = D.Independent(D.Normal(*policy.modes), 1)
    truth = D.MixtureSameFamily(D.Categorical(logits=policy.logits), modes).log_prob(action)
    torch.testing.assert_close(torch.stack([policy.log_prob(a) for a in action]), truth)
    np.testing.assert_allclose(truth.exp(), density[::97], rtol=1e-9, atol=1e-300)
    np.testing.assert_allclose(policy.mean, integral(density[..., None] * GRID), rtol=1e-8)
    square = integral(density[..., None] * (GRID - policy.mean.numpy()) ** 2)
    np.testing.assert_allclose(policy.std, np.sqrt(square), rtol=1e-8)
    w = weights(policy)
    modes = [D.Independent(D.Normal(*(x[:, k] for x in policy.modes)), 1) for k in range(K)]
    near = [sum(w[:, j] * (-D.kl_divergence(p, q)).exp().numpy() for j, q in enumerate(modes)) for p in modes]
    estimate = sum(w[:, k] * (p.entropy().numpy() - np.log(near[k])) for k, p in enumerate(modes))
    np.testing.assert_allclose(policy.entropy(), estimate, rtol=1e-9)
    true_entropy = lambda p: integral(-p * np.log(p + 1e-300))
    for excess in (policy.entropy().numpy() - true_entropy(density), policy.kl(other).numpy() - true_kl(policy, other)):
        assert (excess > 0.01).all() if K > 1 else np.allclose(excess, 0, atol=1e-9)
    mean = 3.5 * torch.tensor([[0.0, 0.0], [-1.0, 1.0], [1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]])[:K].expand(4, K, 2)
    same = Gaussian(*(x[:, :1].expand(4, K, 2) for x in policy.modes))
    for special in (same, Gaussian(mean, torch.full_like(mean, 0.35))):
        policy = Mixture(policy.logits, special)
        np.testing.assert_allclose(policy.entropy(), true_entropy(densities(policy).sum(-1)), rtol=1e-7)


@pytest.mark.parametrize("K", [2, 5])
def test_kl_between_a_gaussian_and_a_mixture_is_the_least_that_splitting_it_gives(K):
    """And so an upper bound; of two modes all shares are tried, and of five shares at random."""
    one, many = mixture(1), mixture(K)
    share = torch.linspace(0, 1, 10_001)[1:-1, None, None]
    shares = torch.cat([share, 1 - share], dim=-1) if K == 2 else D.Dirichlet(torch.ones(K)).sample((10_000, 1))
    w, modes = torch.tensor(weights(many)), D.Independent(D.Normal(*many.modes), 1)
    copies = D.Independent(D.Normal(*(x.expand(4, K, 2) for x in one.modes)), 1)
    to_many = (shares * ((shares / w).log() + D.kl_divergence(copies, modes))).sum(-1).amin(0)
    to_one = (w * ((w / shares).log() + D.kl_divergence(modes, copies))).sum(-1).amin(0)
    for policy, other, least in ((one, many, to_many), (many, one, to_one)):
        kl = policy.kl(other)
        assert K > 2 or (kl >= least - 1e-3).all()
        assert (kl <= least + 1e-9).all() and (kl.numpy() >= true_kl(policy, other) - 1e-9).all()


@pytest.mark.parametrize("changes", [dict(lambda_pref=0.5, ent_coef=0.01), dict(fusion="none")])
def test_one_mode_trains_as_prefpoe_continuous_does(continuous, changes, tmp_path, monkeypatch, capsys):
    """With the same noise: the uniform number that chooses the mode, the only one, is not drawn."""
    monkeypatch.chdir(tmp_path)

    def normal(rng, size, space):
        return np.pad(rng.standard_normal((*size, *space.shape), dtype=np.float32), [(0, 0)] * len(size) + [(0, 1)])

    monkeypatch.setattr(multimodal, "sample_noise", normal)
    continuous.main(continuous.Args(run_name="continuous", **FEW | changes))
    multimodal.main(Args(run_name="one", num_modes=1, **FEW | changes))
    assert "no gradient" not in capsys.readouterr().out  # though the logits of a single mode get none
    rows, expected = (read_metrics(tmp_path / "runs" / name) for name in ("one", "continuous"))
    assert len(rows) == len(expected) == 4 and rows[0].keys() - expected[0].keys() == NEW_COLUMNS
    for row, theirs in zip(rows, expected, strict=True):
        assert (float(row["modes_pref"]), float(row["mode_distance"])) == (1.0, 0.0)
        for name in theirs.keys() - {"SPS", "seconds"}:
            assert float(row[name]) == pytest.approx(float(theirs[name]), rel=2e-3, abs=2e-5, nan_ok=True), name


@pytest.mark.parametrize("changes", [dict(lambda_pref=0.5), dict(fusion="none")])
@torch.no_grad()
def test_actions_are_those_of_the_mixture_in_torch_and_numpy(changes):
    """Without noise its heaviest mode's mean; with it 20 000 in one state pass a Kolmogorov-Smirnov test."""
    args = Args(num_modes=5, **changes)
    agent = multimodal.Agent(OBS_DIM, BOX, args)
    for parameter in agent.parameters():  # far from where they start, but so that the experts overlap in several modes
        parameter += 0.2 * torch.randn_like(parameter)
    rng = np.random.default_rng(1)
    obs = np.concatenate([rng.normal(size=(50, OBS_DIM)), np.repeat(rng.normal(size=(1, OBS_DIM)), 20_000, axis=0)])
    noise = multimodal.sample_noise(rng, (20_050,), BOX)
    policy = multimodal.fuse(*agent(torch.tensor(obs))[:2], args)
    w, mean, std = weights(policy), *(x.numpy() for x in policy.modes)
    act, slow = (make(agent, args) for make in (multimodal.numpy_policy, multimodal.torch_policy))
    for policy in (act, slow):
        np.testing.assert_allclose(policy(obs, 0.0), mean[np.arange(20_050), w.argmax(-1)], rtol=1e-9)
    np.testing.assert_allclose(act(obs, noise), slow(obs, noise), rtol=1e-9)
    assert "fusion" in changes or 0.05 < np.sort(w[-1])[-2]  # at least two modes matter
    for direction in np.array([[1, 0], [0, 1], [1, 1]]):
        along, wide = mean[-1] @ direction, np.sqrt(std[-1] ** 2 @ direction)
        cdf = lambda x, m=along, s=wide: (w[-1] * scipy.stats.norm.cdf(x[:, None], m, s)).sum(-1)
        assert scipy.stats.kstest(act(obs, noise)[50:] @ direction, cdf).pvalue > 0.001


@pytest.mark.parametrize(("K", "action_dim"), [(1, 2), (2, 1), (4, 2), (5, 8)])
def test_the_modes_start_apart_in_every_dimension_in_orders_that_differ(K, action_dim):
    """By at least 0.15, where their sigma is exp(-1)."""
    agent = multimodal.Agent(OBS_DIM, gym.spaces.Box(-1, 1, (action_dim,)), Args(num_modes=K))
    mean = agent(torch.randn(20, OBS_DIM))[1].modes.mean
    assert mean.abs().max() < 0.1 or K > 1
    assert (mean.sort(1)[0].diff(dim=1) > 0.15).all()
    assert len({*map(tuple, mean[0].argsort(0).T.tolist())}) > 3 or action_dim < 8


def test_a_network_changed_in_torch_alone_acts_in_torch(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    forward = multimodal.Agent.forward

    def other(self, obs):
        main, pref, value = forward(self, obs)
        return main, Mixture(2 * pref.logits, Gaussian(-pref.modes.mean, pref.modes.std)), value

    monkeypatch.setattr(multimodal.Agent, "forward", other)
    multimodal.main(Args(run_name="x", **FEW))
    assert capsys.readouterr().out.count("acting in torch") == 1 and len(read_metrics(tmp_path / "runs/x")) == 4
    returns = json.loads((tmp_path / "runs/x/evaluation.json").read_text())["returns"]
    assert returns == pytest.approx(evaluated_by_hand(tmp_path / "runs/x")[0], rel=1e-3)


@torch.no_grad()
def evaluated_by_hand(folder):
    """Returns of the heaviest mode's mean, and the policy in the middle."""
    learner, env, args = goals.load(folder)
    mean, std = learner.obs_stats.mean, np.sqrt(learner.obs_stats.m2 / learner.obs_stats.count + 1e-8)
    fused = lambda x: multimodal.fuse(*learner.agent(torch.tensor(np.float32((x - mean) / std)[None]))[:2], args)
    returns = []
    for episode in range(args.eval_episodes):
        (obs, _), rewards, over = env.reset(seed=2**30 + episode), [], (False,)
        while not any(over):
            policy = fused(obs)
            obs, reward, *over, _ = env.step(policy.modes.mean[0, policy.logits[0].argmax()].numpy())
            rewards.append(reward)
        returns.append(sum(rewards))
    return returns, fused(np.zeros(2))


def diagnosed(s_theta, logits, mean, std, **changes):
    """The columns of a batch of noise, with those that leave their bounds."""
    logits, mean = torch.tensor(logits), torch.tensor(mean)
    pref = Mixture(logits, Gaussian(mean, torch.tensor(std)[:, None].expand(mean.shape)))
    args = Args(num_modes=logits.shape[1], **changes)
    batch = multimodal.Batch(None, torch.rand(len(mean), mean.shape[-1]), *torch.rand(5, len(mean)))
    main = single(s_theta, len(mean), mean.shape[-1])
    row = multimodal.diagnose(main, pref, pref, batch, torch.full(mean.shape[2:], 2.0), args)
    return row, {x for x, low, high, _ in multimodal.SIGNATURES if not low <= (row | {"approx_kl": 0.0})[x] <= high}


def test_the_columns_of_modes_are_what_the_page_says_and_warnings_look_at_the_modes():
    """Three modes in two states, by hand; and warnings whatever the modes' distance, or a mode without weight."""
    mean = np.array([[[0.0, 0.0], [3.0, 4.0], [0.0, 8.0]], [[0.0, 0.0], [0.0, 1.0], [0.0, 3.0]]])
    w, std, s_theta, lam = np.array([[0.5, 0.25, 0.25], [1.0, 0.0, 0.0]]), np.array([0.2, 0.3, 0.6]), 0.4, 0.5
    row, _ = diagnosed(s_theta, np.log(w + 1e-30), mean, std, lambda_pref=lam)
    assert row["modes_pref"] == row["modes_fused"] == pytest.approx((np.exp(1.5 * np.log(2)) + 1) / 2)
    assert row["mode_distance"] == pytest.approx(((5 + 8 + 5) / 3 + (1 + 3 + 2) / 3) / 2)
    assert row["mode_sigma"] == pytest.approx((0.5 * 0.2 + 0.25 * 0.3 + 0.25 * 0.6 + 0.2) / 2)
    assert row["mode_share"] == pytest.approx((std**2 / (std**2 + lam * s_theta**2)).mean())
    for std in ([0.01, 0.01], [1.95, 1.95], [1.7, 1.7]):  # as a mixture the first one's is 0.5, the last one's 1.92
        at = {0.01: 0.5, 1.95: 0.0, 1.7: 0.9}[std[0]]
        left = diagnosed(0.4, [[0.0, 0.0]] * 9, [[[at], [-at]]] * 9, std)[1]
        assert left == ({"mode_sigma"} if at < 0.9 else set())
    assert diagnosed(0.4, [[0.0, -50.0]] * 9, np.zeros((9, 2, 1)), [0.01, 0.4])[1] == {"mode_sigma"}


@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="torch.compile needs a C++ compiler")
def test_the_compiled_step_is_the_eager_one_and_modes_that_start_equal_stay_equal(capsys):
    results = []
    for compiled in (False, True):
        torch.manual_seed(1)
        args = Args(num_modes=2, compile=compiled, w_pref=0.7, w_cons=0.4, learning_rate=3e-3, lambda_pref=0.8)
        learner = multimodal.Learner(gym.make("MultiGoal-v0"), args)
        for name, x in learner.agent.named_parameters():
            x.data += 0.4 * torch.randn_like(x)
            if name.startswith("preference"):
                x.data[len(x) // 2 :] = x.data[: len(x) // 2]
        start = learner.params.clone()
        step = multimodal.make_step(learner.agent, args)
        for _ in range(3):
            batch = multimodal.Batch(torch.randn(64, 2), 0.5 * torch.randn(64, 2), *torch.randn(5, 64))
            losses = step(learner.params, learner.adam, batch, torch.arange(64), {"alpha": torch.tensor(args.alpha)})
        weight = learner.agent.preference_mean.weight
        torch.testing.assert_close(weight[:2], weight[2:], rtol=0, atol=1e-12)
        results.append((learner.params - start, losses))
    printed = capsys.readouterr().out
    assert "compiling" in printed and "failed" not in printed and results[0][0].norm() > 1e-3
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("gain", "changes"), [(0.02, {}), (0.03, {}), (0.1, dict(alpha=0.8))])
def test_of_two_modes_apart_the_better_one_gets_all_but_exp_of_the_gain_over_the_entropys_weight(gain, changes):
    """In one state, where A is better by `gain` stds in one mode: log(w_1/w_2) = gain / (alpha w_pref). That is where
    the gradient of L_total on the weights is zero, by bisection. Actions are quantiles of the modes."""
    args = Args(**changes)
    modes = Gaussian(torch.tensor([[[1.0], [-1.0]]]), torch.full((1, 2, 1), 0.2))

    def slope(log_odds):
        logits = torch.tensor([[log_odds, 0.0]], requires_grad=True)
        fused = multimodal.fuse(single(0.6), Mixture(logits, modes), args)
        first = round(4000 * torch.sigmoid(torch.tensor(log_odds)).item())
        quantiles = [torch.tensor(scipy.stats.norm.ppf((np.arange(n) + 0.5) / n)) for n in (first, 4000 - first)]
        mean, std = (x[0, :, 0].detach() for x in fused.modes)
        action = torch.cat([mean[k] + std[k] * z for k, z in enumerate(quantiles)]).repeat(2)[:, None]
        A = gain * (action[:, 0] > 0) + torch.tensor([-1.0, 1.0]).repeat_interleave(4000)  # scatter of std 1
        A_norm, zeros = (A - A.mean()) / A.std(), torch.zeros(8000)
        pref = Mixture(logits.expand(8000, -1), Gaussian(*(x.expand(8000, -1, 1) for x in modes)))
        batch = multimodal.Batch(None, action, fused.log_prob(action).detach(), zeros, A, zeros, A_norm)
        loss = multimodal.total_loss((single(0.6, 8000), pref, zeros), batch, args)["loss"]
        return torch.autograd.grad(loss, logits)[0][0, 0].item()

    low, high = -1.0, 8.0
    assert slope(low) < 0 < slope(high)
    for _ in range(12):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    assert low == pytest.approx(gain / (args.alpha * args.w_pref), rel=0.05)


def test_two_modes_below_rho_of_0_45_come_to_rest_a_finite_distance_apart():
    """Without advantages, by brute force over distances: 1.6 sigma at rho = 0.29, and all distances beyond pull in."""
    args, std = Args(), 0.33
    half = torch.linspace(0.0, 1.5, 1501)
    mean = torch.stack([half, -half], 1).unsqueeze(-1)
    pref = Mixture(torch.zeros(1501, 2), Gaussian(mean, torch.full_like(mean, std)))

    def distance(rho):
        main = single(std * (1 / rho - 1) ** 0.5, 1501)
        loss = args.w_cons * multimodal.fuse(main, pref, args).kl(pref) - args.w_pref * args.alpha * pref.entropy()
        assert (loss[(2 * half / std > 2) & (half < 1)].diff() > 0).all()
        return (2 * half[loss.argmin()] / std).item()

    assert distance(0.29) == pytest.approx(1.6, abs=0.05)
    assert distance(0.44) == pytest.approx(0.4, abs=0.1)
    assert distance(0.46) == 0


def test_multi_goal_is_an_environment_as_gymnasium_wants_it_and_its_pictures_show_the_point_where_it_is():
    env = gym.make("MultiGoal-v0", render_mode="rgb_array")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env.unwrapped)
    env.reset(seed=0)
    outcomes = [env.step(np.array([0.0, t < 5], np.float32))[2:4] for t in range(40)]
    assert outcomes == [(False, False)] * 39 + [(False, True)]
    red = (env.render() == (200, 0, 0)).all(-1).nonzero()
    x, y = np.mean(red[1]) / 191 * 3 - 1.5, 1.5 - np.mean(red[0]) / 191 * 3
    np.testing.assert_allclose((x, y), env.unwrapped.position, atol=0.02)


def test_from_the_middle_every_goal_is_worth_the_same_and_else_the_nearest_is_worth_more():
    """Straight there at full speed: 0.9 to go after a step, and so on, but for up to 0.05 of the start."""
    env, places = gym.make("MultiGoal-v0"), np.array([[1, 0], [0, 1], [-1, 0], [0, -1]])

    def earned(choose, episodes=500, **options):
        returns = []
        for episode in range(episodes):
            obs, _ = env.reset(seed=episode, options=options)
            assert np.abs(obs).max() <= 0.05
            goal, rewards, over = choose(obs), [], False
            while not over:
                action = np.clip(10 * (places[goal] - obs), -1, 1).astype(np.float32)
                position = obs + 0.1 * action
                obs, reward, over, _, info = env.step(action)
                np.testing.assert_allclose(obs, position, atol=1e-6)
                distance = np.linalg.norm(position - places[goal])
                assert (info["goal"], over) == ((goal, True) if distance < 0.1 else (-1, False))
                rewards.append(reward)
                assert reward == pytest.approx(10 * over - distance, abs=1e-5)
            returns.append(sum(rewards))
        return np.mean(returns)

    nearest = lambda at: np.hypot(*(at - places).T).argmin()
    assert {f"{earned(nearest):.1f}", f"{earned(lambda _: 0):.1f}"} <= {*re.findall(r"\d\.\d\b", PAGE)}
    from_the_middle = [earned(lambda _, goal=goal: goal, 1, position=(0, 0)) for goal in range(4)]
    assert from_the_middle == pytest.approx([from_the_middle[0]] * 4)


def test_a_run_is_evaluated_again_as_it_was_and_goes_on_with_the_same_modes_alone(finished, run, tmp_path):
    folder, printed = finished
    rows = read_metrics(folder)
    assert len(rows) == 4
    for row in rows:
        assert 1 < float(row["modes_fused"]) <= 2.001 and float(row["mode_distance"]) > 0.3
    returns = json.loads((folder / "evaluation.json").read_text())["returns"]
    assert returns == pytest.approx(evaluated_by_hand(folder)[0], rel=1e-3)
    again = run(SCRIPT, "--evaluate", folder)
    assert again.returncode == 0 and evaluation_line(again.stdout) == evaluation_line(printed)
    for flags in (("--resume", folder, "--num-modes", 3), ("--num-modes", 65)):
        done = run(SCRIPT, *flags)
        assert done.returncode == 2 and re.search("num.modes", done.stderr) and len(done.stderr.splitlines()) == 1
    shutil.copytree(folder, tmp_path / "longer")
    assert run(SCRIPT, "--resume", tmp_path / "longer", "--total-timesteps", 768).returncode == 0
    longer = read_metrics(tmp_path / "longer")
    assert longer[:4] == rows and len(longer) == 6


def test_a_runs_episodes_are_those_of_its_policy_and_their_goals_are_where_the_paths_end(finished, run, tmp_path):
    folder, _ = finished
    ends, returns, paths = goals.sample_episodes(folder, 5)
    sampled = run(SCRIPT, "--evaluate", folder, "--no-eval-deterministic", "--eval-episodes", 5)
    assert f"mean={np.mean(returns):.2f} std={np.std(returns):.2f} episodes=5" in evaluation_line(sampled.stdout)
    middle = goals.sample_episodes(folder, 3, position=(0.0, 0.0))[2]
    assert all((path[0] == 0).all() for path in middle) and not any((path[0] == 0).any() for path in paths)
    for end, path in zip(ends, paths, strict=True):
        near = np.linalg.norm(path[-1] - multimodal.MultiGoal.GOALS, axis=1) < 0.1
        assert (np.flatnonzero(near).tolist() or [-1]) == [end] and (len(path) == 41 or end >= 0)
    goals.main((folder,), tmp_path)
    (row,) = pd.read_csv(tmp_path / "multimodal.csv").to_dict("records")
    assert (row["variant"], row["seed"], row["steps"]) == ("prefpoe-modes-2", 3, 512)
    assert row["mode_distance"] == pytest.approx(float(read_metrics(folder)[-1]["mode_distance"]), 1e-4)
    _, fused = evaluated_by_hand(folder)
    x, y = fused.modes.mean[0].numpy().T
    quarters = (np.arctan2(y, x) / (np.pi / 2)).round() % 4  # the goals are a quarter turn apart
    w = fused.logits[0].softmax(-1).numpy()
    assert row["goals_start"] == len({*quarters[w > 0.05]})
    assert row["modes_start"] == pytest.approx(np.exp(scipy.stats.entropy(w)), 1e-4)
    assert (tmp_path / "multimodal.png").read_bytes()[:4] == b"\x89PNG"


def test_the_answer_has_the_numbers_of_the_committed_results():
    """Those of the table, and how many runs reach two goals."""
    rows = pd.read_csv(ROOT / "benchmark" / "results" / "multimodal.csv")
    assert (rows.groupby("variant")["seed"].apply(sorted).map(len) == 10).all()
    assert goals.summary(rows) in PAGE and len(PAGE.splitlines()) <= 60
    two = rows[rows["goals"] == 2]
    of_four = two[two["variant"].str.contains("modes-4")]
    assert (len(of_four), len(two) - len(of_four), rows["goals"].max()) == (4, 3, 2)
    assert (of_four["goals_start"] > 1).sum() == 2
