"""open_questions/prefpoe_multimodal.py: mixtures against integrals, one mode against prefpoe_continuous.py."""

import dataclasses
import functools
import importlib
import itertools
import json
import multiprocessing
import shutil
import sys
import warnings
from concurrent.futures import ProcessPoolExecutor

import gymnasium as gym
import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch
import torch.distributions as D
from conftest import ROOT, evaluation_line, read_metrics
from gymnasium.utils.env_checker import check_env
from torch.nn.utils import parameters_to_vector, vector_to_parameters

sys.path[:0] = [str(ROOT / "open_questions"), str(ROOT / "benchmark")]
multimodal = importlib.import_module("prefpoe_multimodal")
goals = importlib.import_module("multimodal")
statistics = importlib.import_module("statistics_of_runs")
tables = importlib.import_module("tables")

SCRIPT = "open_questions/prefpoe_multimodal"
BOX, OBS_DIM = gym.spaces.Box(-1, 1, (2,)), 5
MODES, LAMBDAS = pytest.mark.parametrize("K", [1, 2, 5]), pytest.mark.parametrize("lam", [0.5, 1.0, 2.0])
AXIS = np.linspace(-9, 9, 301)
GRID, CELL = np.stack(np.meshgrid(AXIS, AXIS), axis=-1).reshape(-1, 1, 2), (AXIS[1] - AXIS[0]) ** 2
COMPILER = shutil.which("g++") or shutil.which("clang++")
NEW_COLUMNS = {"modes_pref", "modes_fused", "mode_distance", "mode_sigma", "mode_share"}


@pytest.fixture(autouse=True)
def double_precision():
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def mixture(K, batch=4):
    """A random one of K modes over two dimensions."""
    modes = multimodal.Gaussian(1.2 * torch.randn(batch, K, 2), 0.3 + 0.6 * torch.rand(batch, K, 2))
    return multimodal.Mixture(torch.randn(batch, K), modes)


def in_numpy(policy):
    return multimodal.Mixture(policy.logits.numpy(), multimodal.Gaussian(*(x.numpy() for x in policy.modes)))


def weights(policy):
    return np.exp(policy.logits) / np.exp(policy.logits).sum(-1, keepdims=True)


def densities(policy, power=1.0):
    """w_k N(a; mu_k, s_k^2 / power) of each mode on the grid, from scipy: (points, batch, K)."""
    policy = in_numpy(policy) if isinstance(policy.logits, torch.Tensor) else policy
    mean, std = policy.modes
    return weights(policy) * scipy.stats.norm.pdf(GRID[:, None], mean, std / np.sqrt(power)).prod(-1)


def integral(values):
    return values.sum(0) * CELL


def as_torch(policy):
    return D.MixtureSameFamily(D.Categorical(logits=policy.logits), D.Independent(D.Normal(*policy.modes), 1))


def test_the_grid_is_fine_and_wide_enough():
    np.testing.assert_allclose(integral(densities(mixture(5), 2.0).sum(-1)), 1, rtol=1e-10)


@MODES
@LAMBDAS
def test_fusion_is_the_normalised_product_and_its_weights_are_the_shares_of_the_modes(K, lam):
    """pi_theta sum_k w_k N(mu_k, s_k^2/lambda), over its integral; that of each mode is its weight."""
    main, pref = mixture(1), mixture(K)
    product = densities(main) * densities(pref, lam)
    share = integral(product)
    for experts in ((main, pref), map(in_numpy, (main, pref))):
        fused = multimodal.fuse(*experts, multimodal.Args(lambda_pref=lam))
        np.testing.assert_allclose(np.exp(fused.log_weight), share / share.sum(-1, keepdims=True), rtol=1e-8)
        expected = product.sum(-1) / share.sum(-1)
        np.testing.assert_allclose(densities(fused).sum(-1), expected, rtol=1e-7, atol=1e-10)
    if 1 in (lam, K):  # then it is the paper's product
        power = densities(main)[..., 0] * densities(pref).sum(-1) ** lam
        np.testing.assert_allclose(densities(fused).sum(-1), power / integral(power), rtol=1e-7, atol=1e-10)


def test_without_weight_or_with_fusion_none_the_main_expert_acts():
    main, pref = mixture(1), mixture(3)
    for args in (multimodal.Args(lambda_pref=0.0), multimodal.Args(fusion="none")):
        np.testing.assert_allclose(densities(multimodal.fuse(main, pref, args)).sum(-1), densities(main)[..., 0])


@MODES
def test_log_probability_mean_and_std_are_those_of_the_mixture(K):
    policy = mixture(K)
    density = densities(policy).sum(-1)
    action = torch.tensor(GRID[::97]).expand(-1, 4, 2)
    log_prob = torch.stack([policy.log_prob(a) for a in action])
    np.testing.assert_allclose(log_prob.exp(), density[::97], rtol=1e-9, atol=1e-300)
    torch.testing.assert_close(log_prob, as_torch(policy).log_prob(action))
    np.testing.assert_allclose(policy.mean, integral(density[..., None] * GRID), rtol=1e-8)
    square = integral(density[..., None] * (GRID - policy.mean.numpy()) ** 2)
    np.testing.assert_allclose(policy.std, np.sqrt(square), rtol=1e-8)


def true_entropy(policy):
    p = densities(policy).sum(-1)
    return integral(-p * np.log(p + 1e-300))


def true_kl(policy, other):
    p, q = densities(policy).sum(-1), densities(other).sum(-1)
    return integral(p * (np.log(p + 1e-300) - np.log(q + 1e-300)))


@MODES
def test_entropy_is_an_upper_bound_exact_for_one_mode_equal_modes_and_distant_ones(K):
    """And mode by mode it is the formula of Kolchinsky & Tracey, with torch's KL."""
    policy = mixture(K)
    w, modes = (
        weights(in_numpy(policy)),
        [D.Independent(D.Normal(*(x[:, k] for x in policy.modes)), 1) for k in range(K)],
    )
    near = [sum(w[:, j] * (-D.kl_divergence(p, q)).exp().numpy() for j, q in enumerate(modes)) for p in modes]
    estimate = sum(w[:, k] * (p.entropy().numpy() - np.log(near[k])) for k, p in enumerate(modes))
    np.testing.assert_allclose(policy.entropy(), estimate, rtol=1e-9)
    excess = policy.entropy().numpy() - true_entropy(policy)
    assert (excess > 0.01).all() if K > 1 else np.allclose(excess, 0, atol=1e-9)
    same = policy._replace(modes=multimodal.Gaussian(*(x[:, :1].expand(4, K, 2) for x in policy.modes)))
    np.testing.assert_allclose(same.entropy(), true_entropy(same), rtol=1e-9)
    mean = 3.5 * torch.tensor([[0.0, 0.0], [-1.0, 1.0], [1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]])[:K].expand(4, K, 2)
    apart = policy._replace(modes=multimodal.Gaussian(mean, torch.full((4, K, 2), 0.35)))
    np.testing.assert_allclose(apart.entropy(), true_entropy(apart), rtol=1e-7)


@MODES
def test_kl_is_an_upper_bound_exact_for_one_mode(K):
    policy, other = mixture(K), mixture(K)
    excess = policy.kl(other).numpy() - true_kl(policy, other)
    assert (excess > 0.01).all() if K > 1 else np.allclose(excess, 0, atol=1e-9)


@MODES
@LAMBDAS
def test_kl_of_the_fused_policy_to_the_preference_is_exact_with_lambda_1(K, lam):
    main, pref = mixture(1), mixture(K)
    fused = multimodal.fuse(main, pref, multimodal.Args(lambda_pref=lam))
    excess = fused.kl(pref).numpy() - true_kl(fused, pref)
    assert (excess > 1e-3).any() if lam != 1 and K > 1 else np.allclose(excess, 0, atol=1e-8)
    assert (excess > -1e-8).all()


@pytest.mark.parametrize("K", [2, 5])
def test_kl_between_a_gaussian_and_a_mixture_is_the_least_that_splitting_it_gives(K):
    """And so an upper bound; of two modes all shares are tried, and of five shares at random."""
    one, many = mixture(1), mixture(K)
    share = torch.linspace(0, 1, 10_001)[1:-1, None, None]
    shares = torch.cat([share, 1 - share], dim=-1) if K == 2 else D.Dirichlet(torch.ones(K)).sample((10_000, 1))
    w, modes = torch.tensor(weights(in_numpy(many))), D.Independent(D.Normal(*many.modes), 1)
    copies = D.Independent(D.Normal(*(x.expand(4, K, 2) for x in one.modes)), 1)
    to_many = (shares * ((shares / w).log() + D.kl_divergence(copies, modes))).sum(-1)
    to_one = (w * ((w / shares).log() + D.kl_divergence(modes, copies))).sum(-1)
    for ours, tried, pair in ((one.kl(many), to_many, (one, many)), (many.kl(one), to_one, (many, one))):
        assert (ours <= tried.amin(0) + 1e-9).all()
        if K == 2:
            torch.testing.assert_close(ours, tried.amin(0), rtol=0, atol=1e-3)
        assert (ours.numpy() >= true_kl(*pair) - 1e-9).all()


# Training


FEW = dict(env_id="MultiGoal-v0", total_timesteps=1024, num_steps=256, num_minibatches=4, update_epochs=3)
FEW |= dict(compile=False, eval_every=2, eval_episodes=2, learning_rate=3e-3, seed=3)


@pytest.mark.parametrize("changes", [{}, dict(lambda_pref=0.5, ent_coef=0.01), dict(fusion="none")])
def test_one_mode_trains_as_prefpoe_continuous_does(continuous, changes, tmp_path, monkeypatch):
    """With the same noise, of which the uniform number that chooses the mode is left out there."""
    torch.set_default_dtype(torch.float32)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(continuous, "sample_noise", lambda *inputs: multimodal.sample_noise(*inputs)[..., :-1])
    assert continuous.main(continuous.Args(run_name="continuous", **FEW | changes)) == 0
    assert multimodal.main(multimodal.Args(run_name="one", num_modes=1, **FEW | changes)) == 0
    rows, expected = (read_metrics(tmp_path / "runs" / name) for name in ("one", "continuous"))
    assert len(rows) == len(expected) == 4
    for row, theirs in zip(rows, expected, strict=True):
        assert row.keys() - theirs.keys() == NEW_COLUMNS
        assert (float(row["modes_pref"]), float(row["mode_distance"])) == (1.0, 0.0)
        for name in theirs.keys() - {"SPS", "seconds"}:
            assert float(row[name]) == pytest.approx(float(theirs[name]), rel=2e-3, abs=2e-5, nan_ok=True), name
    ours, theirs = (torch.load(tmp_path / "runs" / x / "checkpoint.pt")["agent"] for x in ("one", "continuous"))
    for name, weight in theirs.items():
        torch.testing.assert_close(ours[name], weight, rtol=1e-3, atol=1e-4)


def make_agent(K, **changes):
    """An agent all of whose parameters are far from their initial values, and its arguments."""
    args = multimodal.Args(num_modes=K, compile=False, **changes)
    agent = multimodal.Agent(OBS_DIM, BOX, K)
    with torch.no_grad():
        for parameter in agent.parameters():
            parameter += 0.4 * torch.randn_like(parameter)
    return agent, args


@MODES
@pytest.mark.parametrize("changes", [{}, dict(lambda_pref=0.5), dict(fusion="none")])
def test_the_policy_in_numpy_is_that_in_torch(K, changes):
    """Without noise it is the mean of the heaviest mode; else that of the mode which the uniform number falls on."""
    agent, args = make_agent(K, **changes)
    obs = np.random.default_rng(0).normal(size=(50, OBS_DIM))
    with torch.no_grad():
        policy = in_numpy(multimodal.fuse(*agent(torch.tensor(obs))[:2], args))
    act = multimodal.numpy_policy(agent, args)
    w, (mean, std) = weights(policy), policy.modes
    mode = [row[np.argmax(x)] for row, x in zip(mean, w, strict=True)]
    np.testing.assert_allclose(act(obs, 0.0), mode, rtol=1e-9)
    for k in range(w.shape[1]):
        low, heavy = w[:, :k].sum(-1), w[:, k] > 1e-6
        assert heavy.any()
        for uniform in (low + 1e-9, low + 0.5 * w[:, k], low + w[:, k] - 1e-9):
            for z in (0.0, 1.3):
                noise = np.column_stack([np.full((50, 2), z), uniform])
                expected = (mean[:, k] + z * np.broadcast_to(std, mean.shape)[:, k])[heavy]
                np.testing.assert_allclose(act(obs, noise)[heavy], expected, rtol=1e-6, atol=1e-9)


def test_sampled_actions_follow_the_mixture():
    """20 000 in one state: a Kolmogorov-Smirnov test of each component, and of their sum."""
    agent, args = make_agent(5)
    for parameter in (*agent.preference_mean.parameters(), *agent.preference_logits.parameters()):
        parameter.data *= 0.3  # modes near enough to each other that the experts overlap in several
    obs, rng = np.random.default_rng(1).normal(size=(1, OBS_DIM)), np.random.default_rng(2)
    noise = multimodal.sample_noise(rng, (20_000,), BOX)
    actions = multimodal.numpy_policy(agent, args)(np.repeat(obs, 20_000, axis=0), noise)
    with torch.no_grad():
        policy = in_numpy(multimodal.fuse(*agent(torch.tensor(obs))[:2], args))
    assert 0.05 < np.sort(weights(policy)[0])[-2]  # at least two modes matter
    for direction in np.array([[1, 0], [0, 1], [1, 1]]):
        mean, std = policy.modes.mean[0] @ direction, np.sqrt(policy.modes.std[0] ** 2 @ direction)
        cdf = lambda x, m=mean, s=std: (weights(policy)[0] * scipy.stats.norm.cdf(x[:, None], m, s)).sum(-1)
        assert scipy.stats.kstest(actions @ direction, cdf).pvalue > 0.001


@pytest.mark.parametrize("K", [2, 4, 5])
@pytest.mark.parametrize("action_dim", [1, 2, 8])
def test_the_modes_start_apart_in_every_dimension(K, action_dim):
    """By at least 0.15, where their sigma is exp(-1); without biases by less than 0.1, as the weights are small."""
    agent = multimodal.Agent(OBS_DIM, gym.spaces.Box(-1, 1, (action_dim,)), K)
    obs = torch.randn(20, OBS_DIM)
    for apart in (True, False):
        if not apart:
            torch.nn.init.zeros_(agent.preference_mean.bias)
        mean = agent(obs)[1].modes.mean
        assert mean.shape == (20, K, action_dim)
        for i, j in itertools.combinations(range(K), 2):
            gap = (mean[:, i] - mean[:, j]).abs()
            assert (gap > 0.15).all() if apart else (gap < 0.1).all()
    assert multimodal.Agent(OBS_DIM, BOX, 1).preference_mean.bias.abs().max() == 0


def test_the_modes_do_not_start_on_a_diagonal():
    """Which mode is lowest, second lowest and so on is drawn for each dimension."""
    orders = multimodal.Agent(OBS_DIM, gym.spaces.Box(-1, 1, (8,)), 5).preference_mean.bias.view(5, 8).argsort(0).T
    assert len({tuple(order) for order in orders.tolist()}) > 3


def test_a_network_changed_in_torch_alone_is_refused(monkeypatch):
    torch.set_default_dtype(torch.float32)
    args, forward = multimodal.Args(env_id="Pendulum-v1"), multimodal.Agent.forward
    multimodal.make_learner(args)

    def surer(self, obs):
        main, pref, value = forward(self, obs)
        return main, multimodal.Mixture(2 * pref.logits, pref.modes), value

    monkeypatch.setattr(multimodal.Agent, "forward", surer)
    with pytest.raises(AssertionError, match="acting differs"):
        multimodal.make_learner(args)


def test_the_columns_of_modes_are_what_the_page_says():
    """Three modes in two states, by hand."""
    mean = np.array([[[0.0, 0.0], [3.0, 4.0], [0.0, 8.0]], [[0.0, 0.0], [0.0, 1.0], [0.0, 3.0]]])
    w, std, s_theta, lam = np.array([[0.5, 0.25, 0.25], [1.0, 0.0, 0.0]]), np.array([0.2, 0.3, 0.6]), 0.4, 0.5
    modes = multimodal.Gaussian(torch.tensor(mean), torch.tensor(std)[:, None].expand(2, 3, 2))
    pref = multimodal.Mixture(torch.tensor(w + 1e-30).log(), modes)
    one = multimodal.Gaussian(torch.zeros(2, 1, 2), torch.full((2, 1, 2), s_theta))
    main, args = multimodal.Mixture(torch.zeros(2, 1), one), multimodal.Args(lambda_pref=lam)
    batch = multimodal.Batch(None, torch.rand(2, 2), *torch.rand(5, 2))
    row = multimodal.compare(main, pref, pref, batch, torch.tensor(2.0), args)
    assert row["modes_pref"] == row["modes_fused"] == pytest.approx((np.exp(1.5 * np.log(2)) + 1) / 2)
    assert row["mode_distance"] == pytest.approx(((5 + 8 + 5) / 3 + (1 + 3 + 2) / 3) / 2)
    assert row["mode_sigma"] == pytest.approx((0.5 * 0.2 + 0.25 * 0.3 + 0.25 * 0.6 + 0.2) / 2)
    assert row["mode_share"] == pytest.approx((std**2 / (std**2 + lam * s_theta**2)).mean())


def test_more_than_64_modes_are_refused(run):
    done = run(SCRIPT, "--num-modes", 65)
    assert done.returncode == 2 and "--num-modes 65" in done.stderr and len(done.stderr.splitlines()) == 1


def minibatch(agent, args, size=64):
    obs = torch.randn(size, OBS_DIM)
    with torch.no_grad():
        main, pref, value = agent(obs)
        policy = multimodal.fuse(main, pref, args)
        action = as_torch(policy).sample()
        A = 3 * torch.randn(size)
        log_prob = policy.log_prob(action) + 0.3 * torch.randn(size)
    return multimodal.Batch(obs, action, log_prob, value, A, A + value, A)


def steps(agent, args, batches):
    """What the script's own steps change of the agent's parameters, which are views of one vector."""
    params = parameters_to_vector(agent.parameters()).detach()
    vector_to_parameters(params, agent.parameters())
    adam = multimodal.Adam(torch.zeros_like(params), torch.zeros_like(params), params.new_ones(2, dtype=torch.float64))
    before, step = params.clone(), multimodal.make_step(agent, args)
    now = {name: torch.tensor(getattr(args, name)) for name in multimodal.SCHEDULED}
    for batch in batches:
        losses = step(params, adam, batch, now)
    return params - before, losses


def test_modes_that_start_equal_stay_equal():
    agent, args = make_agent(2, w_pref=0.7, w_cons=0.4)
    with torch.no_grad():
        for name in ("mean.weight", "mean.bias", "logits.weight", "logits.bias", "logstd"):
            weight = agent.get_parameter(f"preference_{name}")
            weight[len(weight) // 2 :] = weight[: len(weight) // 2]
    change, _ = steps(agent, args, [minibatch(agent, args) for _ in range(3)])
    weight = agent.preference_mean.weight
    assert change.abs().max() > 1e-4
    torch.testing.assert_close(weight[:2], weight[2:], rtol=0, atol=1e-12)
    agent, args = make_agent(2)
    assert (agent.preference_mean.weight[:2] - agent.preference_mean.weight[2:]).abs().max() > 0.1


def compiled_against_eager(K, fusion):
    """In a process of its own: what three steps of either kind change, and what was printed."""
    import contextlib
    import copy
    import io

    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    agent, args = make_agent(K, fusion=fusion, w_pref=0.7, w_cons=0.4, learning_rate=3e-3, lambda_pref=0.8)
    batches, results = [minibatch(agent, args) for _ in range(3)], []
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        for compiled in (False, True):
            args = dataclasses.replace(args, compile=compiled)
            results.append([x.numpy() for x in steps(copy.deepcopy(agent), args, batches)])
    return *results, printed.getvalue()


@pytest.mark.skipif(not COMPILER, reason="torch.compile needs a C++ compiler")
@pytest.mark.parametrize(("K", "fusion"), [(4, "poe"), (2, "none")])
def test_the_compiled_step_is_the_eager_one(K, fusion):
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        eager, compiled, printed = pool.submit(compiled_against_eager, K, fusion).result()
    assert "compiled in" in printed and "failed" not in printed
    for x, y in zip(eager, compiled, strict=True):
        assert np.linalg.norm(x) > 1e-3
        np.testing.assert_allclose(y, x, rtol=1e-4, atol=1e-6)


# When modes collapse, as open_questions/README.md derives


@pytest.mark.parametrize("ratio", [0.9, 1.1])
@pytest.mark.parametrize(("K", "lam", "s_theta", "s_k"), [(2, 1.0, 0.4, 0.4), (3, 0.5, 0.7, 0.3), (5, 2.0, 0.3, 0.6)])
def test_modes_without_advantages_move_apart_where_the_entropy_weighs_enough(K, lam, s_theta, s_k, ratio):
    """alpha w_pref > w_cons rho^2 / 2: spreading them a little then lowers L_total, and else raises it."""
    rho = s_k**2 / (s_k**2 + lam * s_theta**2)
    args = multimodal.Args(w_cons=0.3, w_pref=0.5, alpha=ratio * 0.3 * rho**2 / 2 / 0.5, lambda_pref=lam, beta1=0.0)
    gaussian = lambda mean, std: multimodal.Gaussian(mean, torch.full_like(mean, std))

    def loss(spread):
        mean = spread * torch.linspace(-1, 1, K)[None, :, None].expand(2, K, 1)
        main = multimodal.Mixture(torch.zeros(2, 1), gaussian(torch.zeros(2, 1, 1), s_theta))
        pref = multimodal.Mixture(torch.zeros(2, K), gaussian(mean, s_k))
        batch = multimodal.Batch(None, torch.zeros(2, 1), *torch.zeros(5, 2))
        losses = multimodal.total_loss((main, pref, torch.zeros(2)), batch, args)
        return losses.loss - losses.policy_loss

    change = (loss(0.02) - loss(0.0)).item()
    assert (change < 0) == (ratio > 1) and abs(change) > 1e-9


@pytest.mark.parametrize(("gain", "changes"), [(0.02, {}), (0.03, {}), (0.1, dict(alpha=0.8))])
def test_of_two_modes_apart_the_better_one_gets_all_but_exp_of_the_gain_over_the_entropys_weight(gain, changes):
    """In one state, where A is better by `gain` standard deviations in one mode: log(w_1/w_2) = gain / (alpha w_pref).

    That is where the gradient of L_total on the weights is zero, by bisection. Actions are quantiles of the modes.
    """
    args = multimodal.Args(**changes)
    main = multimodal.Mixture(torch.zeros(1, 1), multimodal.Gaussian(torch.zeros(1, 1, 1), torch.full((1, 1, 1), 0.6)))
    modes = multimodal.Gaussian(torch.tensor([[[1.0], [-1.0]]]), torch.full((1, 2, 1), 0.2))

    def slope(log_odds):
        logits = torch.tensor([[log_odds, 0.0]], requires_grad=True)
        fused = multimodal.fuse(main, multimodal.Mixture(logits, modes), args)
        first = round(4000 * torch.sigmoid(torch.tensor(log_odds)).item())
        quantiles = [torch.tensor(scipy.stats.norm.ppf((np.arange(n) + 0.5) / n)) for n in (first, 4000 - first)]
        mean, std = (x[0, :, 0].detach() for x in fused.modes)
        action = torch.cat([mean[k] + std[k] * z for k, z in enumerate(quantiles)]).repeat(2)[:, None]
        A = gain * (action[:, 0] > 0) + torch.tensor([-1.0, 1.0]).repeat_interleave(4000)  # scatter of std 1
        A_norm, zeros = (A - A.mean()) / A.std(), torch.zeros(8000)
        experts = [
            multimodal.Mixture(x.expand(8000, -1), multimodal.Gaussian(*(y.expand(8000, -1, 1) for y in of)))
            for x, of in (main, (logits, modes))
        ]
        batch = multimodal.Batch(None, action, fused.log_prob(action).detach(), zeros, A, zeros, A_norm)
        loss = multimodal.total_loss((*experts, zeros), batch, args).loss
        return torch.autograd.grad(loss, logits)[0][0, 0].item()

    low, high = -1.0, 8.0
    assert slope(low) < 0 < slope(high)
    for _ in range(12):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    expected = gain / (args.alpha * args.w_pref)
    assert low == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize(("std", "at", "flag"), [(0.01, 0.5, "--alpha"), (1.7, 0.9, None), (1.95, 0.0, "--w-cons")])
def test_the_warnings_look_at_the_modes_and_not_at_how_far_apart_they_are(std, at, flag):
    """Two modes of that std at +-at: as a mixture their std is 0.5, 1.92 and 1.95."""
    modes = multimodal.Gaussian(torch.tensor([[[at], [-at]]]).expand(9, 2, 1), torch.full((9, 2, 1), std))
    main, pref = (
        multimodal.Mixture(torch.zeros(9, k), multimodal.Gaussian(*(x[:, :k] for x in modes))) for k in (1, 2)
    )
    batch = multimodal.Batch(None, torch.rand(9, 1), *torch.rand(5, 9))
    fused = multimodal.fuse(main, pref, args := multimodal.Args())
    row = multimodal.compare(main, pref, fused, batch, torch.tensor(2.0), args)
    row |= {"sigma_pref": pref.std.mean().item(), "mean_difference": 0.0, "approx_kl": 0.0}
    advice = multimodal.failure_signatures(row, BOX)
    assert [flag in x for x in advice] == [True] * bool(flag)


def test_a_mode_without_weight_hides_no_collapse():
    std = torch.tensor([[[0.01], [0.4]]]).expand(9, 2, 1)
    pref = multimodal.Mixture(torch.tensor([[0.0, -50.0]]).expand(9, 2), multimodal.Gaussian(torch.zeros(9, 2, 1), std))
    main = multimodal.Mixture(torch.zeros(9, 1), multimodal.Gaussian(*(x[:, 1:] for x in pref.modes)))
    batch = multimodal.Batch(None, torch.rand(9, 1), *torch.rand(5, 9))
    row = multimodal.compare(main, pref, main, batch, torch.tensor(2.0), multimodal.Args())
    assert row["mode_sigma"] == pytest.approx(0.01)
    (advice,) = multimodal.failure_signatures(row | {"approx_kl": 0.0}, BOX)
    assert "--alpha" in advice


def test_two_modes_below_rho_of_0_45_come_to_rest_a_finite_distance_apart():
    """Without advantages, by brute force over distances: 1.6 sigma at rho = 0.29, and all distances beyond pull in."""
    args, std = multimodal.Args(), 0.33
    half = torch.linspace(0.0, 1.5, 1501)
    mean = torch.stack([half, -half], 1).unsqueeze(-1)
    pref = multimodal.Mixture(torch.zeros(1501, 2), multimodal.Gaussian(mean, torch.full_like(mean, std)))

    def distance(rho):
        main_std = torch.full((1501, 1, 1), std * (1 / rho - 1) ** 0.5)
        main = multimodal.Mixture(torch.zeros(1501, 1), multimodal.Gaussian(torch.zeros(1501, 1, 1), main_std))
        loss = args.w_cons * multimodal.fuse(main, pref, args).kl(pref) - args.w_pref * args.alpha * pref.entropy()
        assert (loss[(2 * half / std > 2) & (half < 1)].diff() > 0).all()
        return (2 * half[loss.argmin()] / std).item()

    assert distance(0.29) == pytest.approx(1.6, abs=0.05)
    assert distance(0.44) == pytest.approx(0.4, abs=0.1)
    assert distance(0.46) == 0


# The environment and the program


def test_multi_goal_is_an_environment_as_gymnasium_wants_it():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gym.make("MultiGoal-v0", render_mode="rgb_array").unwrapped)


@pytest.mark.parametrize("goal", range(4))
def test_every_goal_is_worth_the_same_and_ends_the_episode(goal):
    """Straight there at full speed: 0.9 to go after a step, and so on, but for up to 0.05 of the start."""
    env = gym.make("MultiGoal-v0")
    start, _ = env.reset(seed=goal)
    assert np.abs(start).max() <= 0.05
    direction = np.array([[1, 0], [0, 1], [-1, 0], [0, -1]], np.float32)[goal]
    position, rewards, terminated = start.astype(float), [], False
    while not terminated:
        obs, reward, terminated, truncated, info = env.step(direction)
        position += 0.1 * direction
        np.testing.assert_allclose(obs, position, atol=1e-6)
        distance = np.linalg.norm(position - direction)
        assert reward == pytest.approx(10 * terminated - distance, abs=1e-6) and not truncated
        assert (info["goal"], terminated) == ((goal, True) if distance < 0.1 else (-1, False))
        rewards.append(reward)
    assert len(rewards) in (9, 10, 11)


def test_the_nearest_goal_is_worth_more_than_a_single_one_but_from_the_middle():
    env = gym.make("MultiGoal-v0")

    def earned(choose, **options):
        returns = []
        for episode in range(500):
            (position, _), total, ended = env.reset(seed=episode, options=options), 0.0, False
            goal = multimodal.MultiGoal.GOALS[choose(position)]
            while not ended:
                action = np.clip(10 * (goal - position), -1, 1).astype(np.float32)
                position, reward, ended, _, _ = env.step(action)
                total += reward
            returns.append(total)
        return np.mean(returns)

    nearest = lambda at: np.hypot(*(at - multimodal.MultiGoal.GOALS).T).argmin()
    page = (ROOT / "open_questions" / "README.md").read_text(encoding="utf-8")
    assert f"earns {earned(nearest):.1f}, always to one goal {earned(lambda _: 0):.1f}" in page
    assert earned(nearest, position=(0, 0)) == pytest.approx(earned(lambda _: 2, position=(0, 0)))


def test_an_episode_that_reaches_nothing_ends_after_40_steps():
    env = gym.make("MultiGoal-v0")
    env.reset(seed=0)
    outcomes = [env.step(np.zeros(2, np.float32))[2:4] for _ in range(40)]
    assert outcomes == [(False, False)] * 39 + [(False, True)]


def test_a_picture_shows_the_point_where_it_is():
    env = gym.make("MultiGoal-v0", render_mode="rgb_array")
    env.reset(seed=0)
    for _ in range(5):
        env.step(np.array([0.0, 1.0], np.float32))
    red = (env.render() == (200, 0, 0)).all(-1).nonzero()
    x, y = np.mean(red[1]) / 191 * 3 - 1.5, 1.5 - np.mean(red[0]) / 191 * 3
    np.testing.assert_allclose((x, y), env.unwrapped.position, atol=0.02)


def test_a_run_is_evaluated_again_as_it_was_and_finished_runs_are_not_resumed(run, tmp_path):
    flags = "--no-compile --num-steps 128 --num-minibatches 4 --total-timesteps 512 --eval-episodes 3 --eval-every 2"
    done = run(SCRIPT, *flags.split(), "--run-name", "x", "--num-modes", 3)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "runs" / "x"
    assert json.loads((folder / "config.json").read_text())["num_modes"] == 3
    rows = read_metrics(folder)
    assert len(rows) == 4 and rows[0].keys() > NEW_COLUMNS
    for row in rows:
        assert 1 < float(row["modes_fused"]) <= 3.001 and float(row["mode_distance"]) > 0.3
        assert 0 < float(row["mode_share"]) < 1
    again = run(SCRIPT, "--evaluate", folder)
    assert again.returncode == 0 and evaluation_line(again.stdout) == evaluation_line(done.stdout)
    assert run(SCRIPT, "--resume", folder, "--num-modes", 2).returncode == 2
    assert "is finished" in run(SCRIPT, "--resume", folder).stdout


# How many goals a run reaches


def test_a_runs_episodes_are_those_of_its_policy_and_their_goals_are_where_the_paths_end(run, tmp_path):
    flags = "--no-compile --num-steps 128 --num-minibatches 4 --total-timesteps 256 --eval-episodes 1 --eval-every 0"
    name = "MultiGoal-v0__prefpoe-modes-2__3"
    done = run(SCRIPT, *flags.split(), "--run-name", name, "--num-modes", 2, "--seed", 3)
    assert done.returncode == 0, done.stderr
    torch.set_default_dtype(torch.float32)
    ends, returns, paths = goals.sample_episodes(tmp_path / "runs" / name, 5)
    sampled = run(SCRIPT, "--evaluate", tmp_path / "runs" / name, "--no-eval-deterministic", "--eval-episodes", 5)
    middle = goals.sample_episodes(tmp_path / "runs" / name, 3, position=(0.0, 0.0))[2]
    assert all((path[0] == 0).all() for path in middle) and not any((path[0] == 0).any() for path in paths)
    assert (
        evaluation_line(sampled.stdout)
        == f"evaluation: mean={np.mean(returns):.2f} std={np.std(returns):.2f} episodes=5"
    )
    for end, path in zip(ends, paths, strict=True):
        near = np.linalg.norm(path[-1] - multimodal.MultiGoal.GOALS, axis=1) < 0.1
        assert (np.flatnonzero(near).tolist() or [-1]) == [end]
        assert len(path) == 41 or end >= 0
    args = goals.Args((tmp_path / "runs" / name,), tmp_path)
    goals.main(args)
    (row,) = pd.read_csv(tmp_path / "multimodal.csv").to_dict("records")
    assert (row["variant"], row["seed"]) == ("prefpoe-modes-2", 3)
    assert row["mode_distance"] == pytest.approx(
        float(read_metrics(tmp_path / "runs" / name)[-1]["mode_distance"]), 1e-4
    )
    learner, of_run = goals.load(tmp_path / "runs" / name)
    obs = multimodal.observe(np.zeros((1, 2)), learner.obs_stats, update=False)
    fused = multimodal.fuse(*learner.agent(torch.from_numpy(obs))[:2], of_run)
    x, y = fused.modes.mean[0].detach().numpy().T
    quarters = (np.arctan2(y, x) / (np.pi / 2)).round() % 4  # the goals are a quarter turn apart
    weights = fused.log_weight[0].softmax(-1).detach().numpy()
    assert row["goals_start"] == len({*quarters[weights > 0.05]})
    assert row["modes_start"] == pytest.approx(np.exp(scipy.stats.entropy(weights)), 1e-4)
    assert (tmp_path / "multimodal.png").read_bytes()[:4] == b"\x89PNG"

    # Later runs are added, and none is lost; another length is refused.
    (tmp_path / "multimodal.png").unlink()
    rows = pd.concat([pd.read_csv(tmp_path / "multimodal.csv").assign(seed=seed) for seed in (3, 4)])
    rows.assign(goals=9).to_csv(tmp_path / "multimodal.csv", index=False)
    goals.main(args)
    seen = pd.read_csv(tmp_path / "multimodal.csv").set_index("seed")["goals"]
    assert [*seen.index] == [3, 4] and seen[3] == row["goals"] and seen[4] == 9
    assert not (tmp_path / "multimodal.png").exists()
    rows.assign(steps=60_000).to_csv(tmp_path / "multimodal.csv", index=False)
    before = (tmp_path / "multimodal.csv").read_bytes()
    with pytest.raises(SystemExit):
        goals.main(args)
    assert (tmp_path / "multimodal.csv").read_bytes() == before


def test_the_entropy_over_goals_is_scipys():
    for counts in ([5, 0, 0, 0], [1, 2, 3, 4], [25, 25, 25, 25]):
        assert goals.entropy_of(np.array(counts)) == pytest.approx(scipy.stats.entropy(counts))
    assert goals.entropy_of(np.zeros(4, int)) == 0


RUNS_OF_TWO_GOALS = {"1": 1, "1-raised": 2, "4-alpha-1": 1, "4-lambda-8": 2, "4-raised": 2}


def test_the_answer_has_the_numbers_of_the_committed_results():
    rows = pd.read_csv(ROOT / "benchmark" / "results" / "multimodal.csv")
    assert (rows.groupby("variant")["seed"].apply(sorted).map(len) == 10).all()
    page = (ROOT / "open_questions" / "README.md").read_text(encoding="utf-8")
    assert goals.summary(rows) in page and len(page.splitlines()) <= 60
    page = " ".join(page.split())
    several, of_four = rows[rows["goals"] > 1], rows["variant"].str.contains("modes-4")
    found = several["variant"].value_counts().to_dict()
    assert found == {f"prefpoe-modes-{x}": n for x, n in RUNS_OF_TWO_GOALS.items()} and rows["goals"].max() == 2
    assert (several["goals_start"] > 1).equals(of_four[several.index])
    assert {*rows[of_four & (rows["goals_start"] > 1)].index} <= {*several.index}
    for variant, runs in rows[~of_four].groupby("variant"):
        worst = runs.nsmallest(RUNS_OF_TWO_GOALS[variant.removeprefix("prefpoe-modes-")], "return")
        assert (worst["goals"] == 2).all()
    shares = np.linspace(0, 0.5, 1001)  # of the goal less often reached: of two, the entropy tells it
    share = {
        i: np.interp(x, [goals.entropy_of(np.array([y, 1 - y])) for y in shares], shares)
        for i, x in several["goal_entropy"].items()
    }
    found = {x: [share[i] for i in part.index] for x, part in several.groupby("variant")}
    assert min(found["prefpoe-modes-4-lambda-8"]) > 0.4 and found["prefpoe-modes-4-alpha-1"] == [
        pytest.approx(0.2, abs=0.05)
    ]
    assert max(found["prefpoe-modes-4-raised"] + found["prefpoe-modes-1-raised"]) < 0.15
    returns = {x: rows.loc[rows["variant"] == x, "return"].to_numpy() for x in rows["variant"].unique()}
    four, one = (returns[f"prefpoe-modes-{k}-raised"] for k in (4, 1))
    mean = functools.partial(np.mean, axis=-1)
    cells = [tables.with_interval("{:.2f}", mean, x) for x in (four, one)]
    assert "more than one, {} against {}, but not by more goals".format(*cells) in page
    assert statistics.bootstrap(mean, four)[0] > statistics.bootstrap(mean, one)[1]
    modes = rows.groupby("variant")[["modes_pref", "modes_fused"]].mean()
    (pref, fused), (pref_alpha, fused_alpha) = (modes.loc[f"prefpoe-modes-4{x}"] for x in ("", "-alpha-1"))
    assert f"({pref_alpha:.2f} modes in use with α alone, against {pref:.2f})" in page
    assert f"({fused_alpha:.2f} against {fused:.2f})" in page
