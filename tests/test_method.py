"""The mathematics of the three scripts against numerical integration, brute force, torch and gymnasium."""

import copy
import dataclasses
import itertools
import re
import shutil

import gymnasium as gym
import numpy as np
import pytest
import scipy.stats
import torch
import torch.distributions as D
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._dynamo.utils import counters
from torch.nn.utils import clip_grad_norm_, parameters_to_vector, vector_to_parameters

BOX, DISCRETE, OBS_DIM = gym.spaces.Box(-1, 1, (3,)), gym.spaces.Discrete(4), 5
CONTINUOUS, LUNARLANDER, BASELINE = "prefpoe_continuous", "prefpoe_lunarlander", "ppo_baseline"
MATCHED = dict(shared_backbone=True, squash_mean=True, logstd_init=-1.0)
STRONG = dict(beta1=0.3, alpha=0.15, w_pref=0.7, w_cons=0.4)  # weights of the preference that show in the gradient


@pytest.fixture(autouse=True)
def double_precision():
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def cases(*rows):
    """Parametrize a test by rows (script, action space, changes of its arguments)."""
    return pytest.mark.parametrize(("script", "space", "changes"), rows, indirect=["script"])


def make_agent(script, space, changes):
    """An agent all of whose parameters are far from their initial values, and its arguments."""
    args = script.Args(**dict(compile=False) | changes)
    agent = script.Agent(OBS_DIM, space, *([args] if script.__name__ == BASELINE else []))
    with torch.no_grad():
        for parameter in agent.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return agent, args


def policies(agent, obs, args):
    """Main, preference and fused policy as torch.distributions, and the value, from the bare weights."""
    weights = dict(agent.named_parameters())

    def linear(layer, x):
        return F.linear(x, weights[f"{layer}.weight"], weights[f"{layer}.bias"])

    def backbone(name):
        return linear(f"{name}.2", linear(f"{name}.0", obs).tanh()).tanh()

    hidden = backbone("backbone")
    value = linear("critic", backbone("critic_backbone") if "critic_backbone.0.bias" in weights else hidden)[:, 0]
    fusion, lam = getattr(args, "fusion", "none"), getattr(args, "lambda_pref", 0.0)
    heads = ("actor", "preference") if hasattr(args, "fusion") else ("actor", "actor")
    if "actor_logits.bias" in weights:
        p, q = (linear(f"{head}_logits", hidden).softmax(-1) for head in heads)
        fused = {"poe": p * q**lam, "linear": p + lam * q, "none": p}[fusion]  # Categorical divides by the sum
        return *map(D.Categorical, (p, q, fused)), value
    (mu, s), (mu_p, s_p) = ((linear(f"{head}_mean", hidden), weights[f"{head}_logstd"].exp()) for head in heads)
    mu, mu_p, s_p = *((mu.tanh(), mu_p.tanh()) if getattr(args, "squash_mean", True) else (mu, mu_p)), s_p.clip(1e-3, 2)
    variance = 1 / (1 / s**2 + lam / s_p**2)
    product = variance * (mu / s**2 + lam * mu_p / s_p**2), variance.sqrt().clip(1e-3, 2)
    average = (mu + lam * mu_p) / (1 + lam), ((s + lam * s_p) / (1 + lam)).clip(1e-3, 2)
    fused = {"poe": product, "linear": average, "none": (mu, s)}[fusion]
    return *(D.Independent(D.Normal(*x), 1) for x in ((mu, s), (mu_p, s_p), fused)), value


def make_batch(script, agent, args):
    """64 random transitions; ratios and values are clipped now and then, on either side."""
    obs, noise = torch.randn(64, OBS_DIM), 0.3 * torch.randn(4, 64)
    with torch.no_grad():
        *_, policy, value = policies(agent, obs, args)
    action, advantage = policy.sample(), 4 * noise[0]
    A_norm = [] if script.__name__ == BASELINE else [5 * noise[3]]
    log_prob = policy.log_prob(action) + noise[1]
    return script.Batch(obs, action, log_prob, value + noise[2], advantage, advantage + value, *A_norm)


def reference_losses(agent, batch, args, anneal):
    """The total loss and its parts by the formulas of the paper."""
    _, pref, fused, value = policies(agent, batch.obs, args)
    advantage = (batch.advantage - batch.advantage.mean()) / (batch.advantage.std() + 1e-8)
    log_ratio = fused.log_prob(batch.action) - batch.log_prob
    ratio, near = log_ratio.exp(), batch.value + (value - batch.value).clip(-0.2, 0.2)
    parts = dict(
        policy_loss=-torch.minimum(ratio * advantage, ratio.clip(0.8, 1.2) * advantage).mean(),
        value_loss=torch.maximum((value - batch.returns) ** 2, (near - batch.returns) ** 2).mean() / 2,
        approx_kl=(ratio - 1 - log_ratio).mean(),
        clipfrac=torch.logical_or(ratio < 0.8, ratio > 1.2).double().mean(),
    )
    loss = parts["policy_loss"] + 0.5 * parts["value_loss"] - args.ent_coef * fused.entropy().mean()
    if hasattr(args, "fusion"):
        guidance = (batch.A_norm * pref.log_prob(batch.action)).mean()
        parts["pref_loss"] = -args.beta1 * guidance - anneal * args.alpha * pref.entropy().mean()
        parts["cons_loss"] = D.kl_divergence(fused, pref).mean()
        loss = loss + args.w_pref * parts["pref_loss"] + anneal * args.w_cons * parts["cons_loss"]
    return dict(loss=loss) | parts


def run_steps(script, agent, args, batches, anneals):
    """The script's own steps, on parameters set up as in `main`; returns their change and the last losses."""
    params = parameters_to_vector(agent.parameters()).detach()
    vector_to_parameters(params, agent.parameters())
    adam = script.Adam(torch.zeros_like(params), torch.zeros_like(params), params.new_zeros(1, dtype=torch.float64))
    before, step = params.clone(), script.make_step(agent, args)
    for batch, anneal in zip(batches, anneals, strict=True):
        anneal = [torch.tensor(anneal)] if len(batch) > 6 else []  # the baseline has nothing to anneal
        losses = step(params, adam, batch, torch.tensor(3e-3), *anneal)
    return params - before, losses


def two_experts(script, space):
    if space is BOX:
        return [script.Gaussian(torch.randn(5, 3), 0.1 + 1.4 * torch.rand(5, 3)) for _ in "ab"]
    return [script.Categorical((2 * torch.randn(5, 4)).log_softmax(-1)) for _ in "ab"]


@pytest.mark.parametrize("lam", [0.0, 0.5, 1.0, 2.0])
def test_gaussian_fusion_is_the_normalised_product(continuous, lam):
    """Mean and std of pi_theta pi_p^lambda normalised on a grid; of the weighted average for `linear`."""
    main, pref = two_experts(continuous, BOX)
    (mu, s), (mu_p, s_p) = (map(np.asarray, x) for x in (main, pref))
    grid = np.linspace(-25, 25, 50_001)[:, None, None]
    density = np.exp(-0.5 * ((grid - mu) / s) ** 2) * np.exp(-0.5 * ((grid - mu_p) / s_p) ** 2) ** lam
    mean = (grid * density).sum(0) / density.sum(0)
    std = np.sqrt(((grid - mean) ** 2 * density).sum(0) / density.sum(0))
    average = (mu + lam * mu_p) / (1 + lam), (s + lam * s_p) / (1 + lam)
    for fusion, expected in dict(poe=(mean, std), linear=average, none=(mu, s)).items():
        fused = continuous.fuse(main, pref, continuous.Args(fusion=fusion, lambda_pref=lam))
        np.testing.assert_allclose(np.stack(fused), np.stack(expected), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("lam", [0.0, 0.5, 1.0, 2.0])
def test_categorical_fusion_is_the_normalised_product(discrete, lam):
    """p_theta p_p^lambda over its sum; the weighted average of the probabilities for `linear`."""
    main, pref = two_experts(discrete, DISCRETE)
    p, q = (np.exp(x.log_p.numpy()) for x in (main, pref))
    product = [[a * b**lam / sum(row_p * row_q**lam) for a, b in zip(row_p, row_q)] for row_p, row_q in zip(p, q)]
    for fusion, expected in dict(poe=product, linear=(p + lam * q) / (1 + lam), none=p).items():
        fused = discrete.fuse(main, pref, discrete.Args(fusion=fusion, lambda_pref=lam))
        np.testing.assert_allclose(fused.log_p.exp(), expected, rtol=1e-10)


def fused_sigma(module, sigma_main, sigma_pref, lam, fusion="poe"):
    main, pref = (module.Gaussian(torch.zeros(1, 1), torch.tensor([[sigma]])) for sigma in (sigma_main, sigma_pref))
    return module.fuse(main, pref, module.Args(lambda_pref=lam, fusion=fusion)).std.item()


@settings(deadline=None)
@given(st.floats(0.01, 2.0), st.floats(0.01, 2.0), st.floats(0.0, 10.0))
def test_the_product_is_sharper_than_the_experts(continuous, sigma_main, sigma_pref, lam):
    """Than both with lambda >= 1, and in any case no wider than the main expert."""
    sigma = fused_sigma(continuous, sigma_main, sigma_pref, lam)
    assert sigma <= sigma_main * (1 + 1e-12)
    assert lam < 1 or sigma < min(sigma_main, sigma_pref)


def test_the_product_can_be_wider_than_the_preference_below_lambda_1(continuous):
    """sigma_theta = 1.9, sigma_p = 0.5, lambda = 0.5 give 0.66; and sigma is clamped to [0.001, 2]."""
    assert 0.66 < fused_sigma(continuous, 1.9, 0.5, 0.5) < 0.67
    assert fused_sigma(continuous, 1e-3, 1e-3, 1.0) == 1e-3
    assert fused_sigma(continuous, 5.0, 2.0, 0.0) == fused_sigma(continuous, 5.0, 2.0, 1.0, "linear") == 2.0


@cases((CONTINUOUS, BOX, {}), (BASELINE, BOX, {}), (LUNARLANDER, DISCRETE, {}), (BASELINE, DISCRETE, {}))
def test_distributions_match_torch_and_brute_force(script, space, changes):
    """Categorical: distance is the largest difference of any event's probability, std that of the one-hot action."""
    policy, other = two_experts(script, space)
    if space is BOX:
        p, q = (D.Independent(D.Normal(*x), 1) for x in (policy, other))
        distance, std = (p.mean - q.mean).abs(), p.stddev
    else:
        p, q = (D.Categorical(logits=x.log_p) for x in (policy, other))
        events = torch.tensor(list(itertools.product([0.0, 1.0], repeat=4)))
        distance = ((p.probs - q.probs) @ events.T).abs().amax(-1)
        one_hot = torch.eye(4) - p.probs[:, None]  # (state, action, component), centred
        std = torch.einsum("sa,sai,sai->si", p.probs, one_hot, one_hot).sqrt()
    action = q.sample()
    torch.testing.assert_close(policy.log_prob(action), p.log_prob(action))
    torch.testing.assert_close(policy.entropy(), p.entropy())
    torch.testing.assert_close(policy.kl(other), D.kl_divergence(p, q))
    torch.testing.assert_close(policy.distance(other), distance)
    torch.testing.assert_close(policy.std, std)


def test_boltzmann_is_the_fixed_point_only_on_the_preferences_own_actions(discrete):
    """With A = alpha/beta1 log p + const, exp(beta1 A/alpha) ~ p, and counts 1:2:3:4 are an exact sample of p."""
    p, beta1 = torch.tensor([0.1, 0.2, 0.3, 0.4]), 0.3

    def gradient_norm(A, counts, alpha):
        logits, action = p.log().requires_grad_(), torch.arange(4).repeat_interleave(torch.tensor(counts))
        pref = discrete.Categorical(logits.log_softmax(-1).expand(len(action), -1))
        return torch.autograd.grad(discrete.preference_loss(pref, action, A[action], beta1, alpha), logits)[0].norm()

    for constant in (0.0, 1.7):  # no baseline moves the fixed point
        A = 0.2 / beta1 * p.log() + constant
        assert gradient_norm(A, [1, 2, 3, 4], 0.2) < 1e-15
        assert gradient_norm(A, [1, 1, 1, 1], 0.2) > 0.01
        assert gradient_norm(A, [1, 2, 3, 4], 0.1) > 0.01


def descend(loss, start, learning_rate):
    """The parameters where plain gradient descent on `loss` comes to rest."""
    params = torch.tensor(start, requires_grad=True)
    for _ in range(1500):
        (gradient,) = torch.autograd.grad(loss(params), params)
        params.data -= learning_rate * gradient
    assert gradient.norm() < 1e-6
    return params.detach()


def test_the_preference_converges_to_boltzmann_on_its_own_actions(discrete):
    """Theorem 1, on the exact expectation over actions; where a uniform policy draws them, it ends elsewhere."""
    A, beta1, alpha = torch.tensor([1.2, 0.4, -0.6, -1.0]), 0.1, 0.4

    def converged(sampling):
        def loss(logits):
            log_p = logits.log_softmax(-1)
            weight = 4 * sampling(log_p.detach().exp())  # the mean of weight * f is the expectation of f
            pref = discrete.Categorical(log_p.expand(4, -1))
            return discrete.preference_loss(pref, torch.arange(4), weight * A, beta1, alpha)

        return descend(loss, [1.0, -0.5, 0.3, 0.0], 1.0).softmax(-1)

    boltzmann = (beta1 * A / alpha).softmax(-1)
    torch.testing.assert_close(converged(lambda p: p), boltzmann, rtol=1e-4, atol=0)
    assert (converged(lambda p: torch.full_like(p, 0.25)) - boltzmann).abs().sum() > 0.02


def test_a_gaussian_preference_converges_to_boltzmann_on_its_own_actions(continuous):
    """A = -(a - c)^2 makes it N(c, alpha / (2 beta1)); the expectation is by Gauss-Hermite quadrature."""
    nodes, weight = map(torch.tensor, np.polynomial.hermite_e.hermegauss(20))
    c, beta1, alpha = -0.3, 0.4, 0.1

    def loss(params):
        mean, std = params[0], params[1].exp()
        action = (mean + std * nodes).detach()
        pref = continuous.Gaussian(mean.expand(20, 1), std.expand(20, 1))
        A = -((action - c) ** 2)
        return continuous.preference_loss(pref, action[:, None], weight / weight.mean() * A, beta1, alpha)

    mean, log_std = descend(loss, [0.9, -1.2], 0.1)
    assert mean.item() == pytest.approx(c, rel=1e-5)
    assert log_std.exp().item() == pytest.approx((alpha / (2 * beta1)) ** 0.5, rel=1e-5)


def test_gae_is_the_sum_over_the_episodes_future(script, rng):
    """Of discounted deltas; with lambda 1, of rewards up to a termination, bootstrapped where anything else ends it."""
    rewards, values, next_values = rng.normal(size=(3, 40, 3))
    terminated, truncated = rng.random((2, 40, 3)) < 0.08
    done, gamma, lam = terminated | truncated, 0.97, 0.9
    advantages = script.gae(rewards, values, next_values, terminated, done, gamma, lam)
    following = np.where(done, next_values, np.append(values[1:], next_values[-1:], axis=0))
    monte_carlo = script.gae(rewards, values, following, terminated, done, gamma, 1.0) + values
    for t, e in np.ndindex(40, 3):
        end = next((k for k in range(t, 40) if done[k, e]), 39)
        bootstraps = [0.0 if terminated[k, e] else gamma * next_values[k, e] for k in range(t, end + 1)]
        deltas = [rewards[t + k, e] + x - values[t + k, e] for k, x in enumerate(bootstraps)]
        assert advantages[t, e] == pytest.approx(sum((gamma * lam) ** k * x for k, x in enumerate(deltas)), abs=1e-12)
        discounted = sum(gamma**k * x for k, x in enumerate(rewards[t : end + 1, e]))
        assert monte_carlo[t, e] == pytest.approx(discounted + gamma ** (end - t) * bootstraps[-1], abs=1e-12)


def test_running_statistics_are_those_of_all_rows(script, rng):
    """Against numpy on all data, against gymnasium's from the first row on; normalize clips to +-10."""
    rows = rng.normal([0.0, 3.0, -20.0], [1.0, 0.1, 7.0], (500, 3))
    stats, theirs = script.RunningMeanStd((3,), True), gym.wrappers.utils.RunningMeanStd(shape=(3,))
    for chunk in np.split(rows, [1, 2, 10, 300]):
        stats.update(chunk)
        theirs.update(chunk)
        np.testing.assert_allclose(stats.mean[0], theirs.mean, rtol=1e-9)
        np.testing.assert_allclose(stats.m2[0] / stats.count, theirs.var, rtol=1e-9)
    np.testing.assert_allclose(stats.mean[0], rows.mean(0), rtol=1e-5)
    np.testing.assert_allclose(
        stats.m2[0] / stats.count, rows.var(0), rtol=2e-3
    )  # the prior, 1e-4 rows around 0, shows
    np.testing.assert_allclose(stats.normalize(rows), (rows - rows.mean(0)) / rows.std(0), rtol=1e-3, atol=1e-4)
    far = np.array([[1e3, 3.0, -1e3]])
    np.testing.assert_allclose(stats.normalize(far)[:, [0, 2]], [[10.0, -10.0]])
    assert np.array_equal(script.RunningMeanStd((3,), False).normalize(far), far)


def test_observations_and_rewards_are_scaled_as_gymnasium_does(script, rng):
    """By its wrappers on the twin of a Pendulum, clipped to +-10; update=False leaves the statistics alone."""
    env, twin = gym.make("Pendulum-v1"), gym.wrappers.NormalizeObservation(gym.make("Pendulum-v1"))
    twin = gym.wrappers.NormalizeReward(twin, gamma=0.9)
    stats, off, return_stats = (script.RunningMeanStd(*x) for x in (((3,), True), ((3,), False), ((), True)))
    steps = [(env.reset(seed=3)[0], 0.0, twin.reset(seed=3)[0], 0.0)]
    for action in rng.uniform(-2, 2, (200, 1)).astype(np.float32):
        steps.append((*env.step(action)[:2], *twin.step(action)[:2]))
    obs, rewards, expected_obs, expected_rewards = (np.array([np.squeeze(x) for x in xs]) for xs in zip(*steps))
    frozen = script.observe(obs[:1], stats, update=False)
    normalized = np.concatenate([script.observe(row[None], stats, update=True) for row in obs])
    assert normalized.dtype == np.float32
    np.testing.assert_allclose(normalized, np.clip(expected_obs, -10, 10), rtol=1e-3, atol=1e-3)  # theirs is float32
    np.testing.assert_allclose(frozen, np.clip(obs[:1], -10, 10), rtol=1e-3)  # the prior has mean 0 and std 1
    assert np.array_equal(script.observe(obs, off, update=True), obs)
    scaled = script.scale_rewards(rewards[1:, None], np.zeros((200, 1), dtype=bool), return_stats, np.zeros(1), 0.9)
    np.testing.assert_allclose(scaled[:, 0], np.clip(expected_rewards[1:], -10, 10), rtol=1e-6)


def test_rewards_are_divided_by_the_std_of_the_discounted_return(script, rng):
    """In a plain loop over two rollouts of three environments; each done resets one environment's return."""
    rewards, done = 5 * rng.normal(size=(40, 3)) + 1, rng.random((40, 3)) < 0.1
    rewards[39, :2] = 1e4, -1e4
    stats, discounted = script.RunningMeanStd((), True), np.zeros(3)
    scaled = [script.scale_rewards(rewards[i], done[i], stats, discounted, 0.9) for i in (slice(20), slice(20, 40))]
    expected, history, returns = np.empty_like(rewards), [-1.0, 1.0], np.zeros(3)
    for t in range(40):
        returns = 0.9 * returns + rewards[t]
        history += returns.tolist()
        weights = np.r_[5e-5, 5e-5, np.ones(len(history) - 2)]  # the prior: 1e-4 rows with mean 0 and std 1
        mean = np.average(history, weights=weights)
        expected[t] = rewards[t] / np.sqrt(np.average((history - mean) ** 2, weights=weights) + 1e-8)
        returns = np.where(done[t], 0.0, returns)
    np.testing.assert_allclose(np.concatenate(scaled), np.clip(expected, -10, 10), rtol=1e-9)
    off = script.RunningMeanStd((), False)
    assert np.array_equal(script.scale_rewards(rewards, done, off, np.zeros(3), 0.9), rewards)


FUSIONS = [dict(fusion=f, lambda_pref=lam) for f, lam in itertools.product(["poe", "linear", "none"], [0.5, 1.0])]
ACTING = [(CONTINUOUS, BOX, x) for x in FUSIONS] + [(LUNARLANDER, DISCRETE, x) for x in FUSIONS]
ACTING += [(BASELINE, BOX, {}), (BASELINE, BOX, MATCHED), (BASELINE, DISCRETE, {})]


@cases(*ACTING)
def test_numpy_policy_is_the_policy_in_torch(script, space, changes, rng):
    """Box: noise 0 gives the mean, 1 a std more; Discrete: the argmax of log p + noise, to 1e-5 of a tie."""
    agent, args = make_agent(script, space, changes)
    if hasattr(agent, "preference_logstd"):
        agent.preference_logstd.data[:] = torch.tensor([2.0, -9.0, -1.0])  # above, below and inside the clamps
    obs = rng.normal(size=(50, OBS_DIM)).astype(np.float32)
    act = script.numpy_policy(agent.float(), args)
    *_, policy, _ = policies(agent.double(), torch.tensor(obs).double(), args)
    if space is BOX:
        np.testing.assert_allclose(act(obs, 0.0), policy.mean.detach(), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(act(obs, 1.0) - act(obs, 0.0), policy.stddev.detach(), rtol=1e-5, atol=1e-6)
        return
    log_p = policy.logits.detach().numpy()
    for a, b in itertools.permutations(range(4), 2):
        noise = np.full((50, 4), -1e3)
        noise[:, a], noise[:, b] = 0.0, log_p[:, a] - log_p[:, b] - 1e-5
        assert (act(obs, noise) == a).all()
        noise[:, b] += 2e-5
        assert (act(obs, noise) == b).all()


@cases(*ACTING[1:6:2], *ACTING[7:12:2], *ACTING[12:])
def test_sampled_actions_follow_the_policy(script, space, changes, rng):
    """20 000 in one state: a Kolmogorov-Smirnov test of each component and no correlation, or a chi-square test."""
    agent, args = make_agent(script, space, changes)
    obs = rng.normal(size=(1, OBS_DIM)).astype(np.float32)
    policy = policies(agent, torch.tensor(obs).double(), args)[2]
    noise = script.sample_noise(rng, (20_000,), space)
    actions = script.numpy_policy(agent.float(), args)(np.repeat(obs, 20_000, axis=0), noise)
    if space is BOX:
        for samples, mean, std in zip(actions.T, policy.mean[0].tolist(), policy.stddev[0].tolist(), strict=True):
            assert scipy.stats.kstest(samples, "norm", (mean, std)).pvalue > 0.001
        assert np.abs(np.corrcoef(actions.T) - np.eye(3)).max() < 0.03
        return
    expected = 20_000 * policy.probs[0].detach().numpy()
    assert min(expected) > 20 and max(expected) > 2 * min(expected)
    assert scipy.stats.chisquare(np.bincount(actions, minlength=4), expected).pvalue > 0.001


@cases(
    (CONTINUOUS, BOX, STRONG),
    (CONTINUOUS, BOX, dict(ent_coef=0.02, max_grad_norm=100.0)),
    (CONTINUOUS, BOX, STRONG | dict(fusion="linear", lambda_pref=0.5)),
    (LUNARLANDER, DISCRETE, STRONG | dict(lambda_pref=0.5)),
    (LUNARLANDER, DISCRETE, STRONG | dict(fusion="linear", ent_coef=0.02)),
    (BASELINE, BOX, {}),
    (BASELINE, BOX, MATCHED | dict(ent_coef=0.02)),
    (BASELINE, DISCRETE, {}),
    (BASELINE, DISCRETE, dict(shared_backbone=True, max_grad_norm=100.0)),
)
def test_steps_are_those_of_autograd_clipping_and_adam(script, space, changes):
    """Five minibatches, alpha and w_cons annealed: backward, clip_grad_norm_ and Adam of torch do the same."""
    agent, args = make_agent(script, space, changes)
    batches, anneals = [make_batch(script, agent, args) for _ in range(5)], [1.0, 0.8, 0.6, 0.4, 0.2]
    twin, norms = copy.deepcopy(agent), []
    change, losses = run_steps(script, agent, args, batches, anneals)

    before = parameters_to_vector(twin.parameters()).detach()
    optimizer = torch.optim.Adam(twin.parameters(), lr=3e-3, eps=1e-5)
    for batch, anneal in zip(batches, anneals, strict=True):
        expected = reference_losses(twin, batch, args, anneal)
        optimizer.zero_grad()
        expected["loss"].backward()
        norms.append(clip_grad_norm_(twin.parameters(), args.max_grad_norm).item())
        optimizer.step()
    assert 0.5 < max(norms) < 100 and 0.1 < expected["clipfrac"] < 0.9
    torch.testing.assert_close(change, parameters_to_vector(twin.parameters()) - before, rtol=1e-5, atol=1e-9)
    assert script.Losses(*losses.tolist())._asdict() == pytest.approx({k: x.item() for k, x in expected.items()}, 1e-5)


@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="torch.compile needs a C++ compiler")
@cases((CONTINUOUS, BOX, STRONG), (LUNARLANDER, DISCRETE, STRONG))
def test_the_compiled_step_is_the_eager_one(script, space, changes, capsys):
    """Two steps, compiled once: another annealing compiles nothing anew."""
    torch.set_default_dtype(torch.float32)
    counters.clear()
    agent, args = make_agent(script, space, changes)
    batches, results = [make_batch(script, agent, args) for _ in range(2)], []
    for args.compile in (False, True):
        results.append(run_steps(script, copy.deepcopy(agent), args, batches, [1.0, 0.5]))
    assert "torch.compile failed" not in capsys.readouterr().out and counters["stats"]["unique_graphs"] == 1
    for eager, compiled in zip(*results, strict=True):
        assert (eager - compiled).norm() < 1e-5 * eager.norm()


@cases((CONTINUOUS, BOX, {}), (LUNARLANDER, DISCRETE, {}))
def test_consistency_pulls_on_both_experts(script, space, changes):
    """With equal advantages and no value loss, the gradient on either head is that of w_cons KL(pi_f || pi_p)."""
    agent, args = make_agent(script, space, dict(w_pref=0.0, w_cons=0.3, vf_coef=0.0))
    batch = make_batch(script, agent, args)
    batch = batch._replace(advantage=torch.ones_like(batch.advantage))
    loss = script.total_loss(agent(batch.obs), batch, torch.tensor(1.0), args).loss
    _, pref, fused, _ = policies(agent, batch.obs, args)
    heads = [x for name, x in agent.named_parameters() if name.startswith(("actor", "preference"))]
    expected = torch.autograd.grad(0.3 * D.kl_divergence(fused, pref).mean(), heads)
    torch.testing.assert_close(torch.autograd.grad(loss, heads), expected, rtol=1e-5, atol=1e-9)
    assert min(gradient.norm() for gradient in expected) > 1e-3


@pytest.mark.parametrize("fusion", ["poe", "linear", "none"])
def test_without_guidance_the_acting_variance_is_a_share_of_the_preferences(continuous, fusion):
    """s_f^2 = (1 - alpha w_pref / w_cons) s_p^2, where ent_coef = -alpha w_pref balances what L_pref and L_cons add."""
    args = continuous.Args(fusion=fusion, alpha=0.3, w_pref=0.2, w_cons=0.1, ent_coef=-0.06)

    def policies_of(params):
        numbers = torch.cat([params[:2], params[2:].exp()])  # mean, mean, sigma, sigma
        return [continuous.Gaussian(*numbers[[i, i + 2], None, None].expand(2, 2, 3)) for i in (0, 1)]

    def loss(params, args):
        batch = continuous.Batch(None, torch.zeros(2, 3), *torch.zeros(5, 2))
        return continuous.total_loss((*policies_of(params), torch.zeros(2)), batch, torch.tensor(1.0), args).loss

    main, pref = policies_of(descend(lambda params: loss(params, args), [0.3, -0.2, -0.2, -1.0], 0.3))
    torch.testing.assert_close(main.mean, pref.mean)
    ratio = continuous.fuse(main, pref, args).std / pref.std
    torch.testing.assert_close(ratio**2, torch.full((2, 3), 1 - 0.3 * 0.2 / 0.1), rtol=1e-4, atol=0)

    args = dataclasses.replace(args, alpha=0.4, w_pref=0.2, w_cons=0.02, ent_coef=0.0)
    for start in itertools.product((-3.0, -1.0, 1.0), (-3.0, -1.0, 0.6)):
        params = torch.tensor((0.0, 0.0, *start), requires_grad=True)
        assert torch.autograd.grad(loss(params, args), params)[0][3] < 0


@cases((CONTINUOUS, BOX, {}), (LUNARLANDER, DISCRETE, {}))
def test_prefpoe_without_preference_is_the_matched_baseline(script, space, changes, baseline):
    """fusion none, w_pref = w_cons = 0: the baseline's steps on the same weights, and an idle preference."""
    agent, args = make_agent(script, space, dict(fusion="none", w_pref=0.0, w_cons=0.0))
    plain, plain_args = make_agent(baseline, space, MATCHED)
    plain.load_state_dict({name: x for name, x in agent.state_dict().items() if not name.startswith("preference")})
    batches = [make_batch(script, agent, args) for _ in range(3)]
    before = {name: x.detach().clone() for name, x in agent.named_parameters()}
    run_steps(script, agent, args, batches, [1.0] * 3)
    run_steps(baseline, plain, plain_args, [baseline.Batch(*batch[:6]) for batch in batches], [1.0] * 3)
    for name, weights in agent.named_parameters():
        idle = name.startswith("preference")
        assert torch.equal(weights, before[name]) == idle
        torch.testing.assert_close(weights, before[name] if idle else plain.get_parameter(name), rtol=0, atol=1e-12)


@cases((CONTINUOUS, BOX, dict(lambda_pref=0.2)), (LUNARLANDER, DISCRETE, dict(lambda_pref=0.2)))
@torch.no_grad()
def test_diagnostics_match_torch_distributions(script, space, changes):
    """All of a batch's diagnostics; guidance is corr(A_norm, log pi_p)."""
    agent, args = make_agent(script, space, changes)
    if space is BOX:
        agent.preference_logstd -= 1  # lambda = 0.2 then leaves the product wider than the preference
    batch = make_batch(script, agent, args)
    main, pref, _ = agent(batch.obs)
    row = script.diagnostics(main, pref, script.fuse(main, pref, args), batch, torch.tensor(2.0))
    p, q, f, _ = policies(agent, batch.obs, args)
    apart = (p.mean - q.mean).abs() if space is BOX else (p.probs - q.probs).abs().sum(-1) / 2
    expected, trace = {}, {}
    for name, policy in dict(main=p, pref=q, fused=f).items():
        variance = policy.variance if space is BOX else policy.probs * (1 - policy.probs)
        trace[name] = variance.sum(-1)
        expected[f"entropy_{name}"], expected[f"sigma_{name}"] = policy.entropy().mean(), variance.sqrt().mean()
        expected[f"trace_{name}"] = trace[name].mean()
    expected |= dict(
        variance_reduced=((trace["fused"] < trace["main"]) & (trace["fused"] < trace["pref"])).double().mean(),
        kl_fused_pref=D.kl_divergence(f, q).mean(),
        kl_fused_main=D.kl_divergence(f, p).mean(),
        mean_difference=apart.mean() / 2,
        guidance=np.corrcoef(batch.A_norm, q.log_prob(batch.action))[0, 1],
        explained_variance=1 - np.var((batch.returns - batch.value).numpy()) / np.var(batch.returns.numpy()),
    )
    assert expected["variance_reduced"] < 1
    assert row == pytest.approx({name: float(x) for name, x in expected.items()}, rel=1e-5)


FAILURES = [  # parameters of the main and of the preference expert, and the flags of the advice
    (CONTINUOUS, BOX, ([0.1], [0.4]), ([0.0], [0.3]), []),
    (CONTINUOUS, BOX, ([0.1], [0.4]), ([0.1], [0.01]), [{"--alpha"}]),
    (CONTINUOUS, BOX, ([0.1], [0.4]), ([0.1], [2.0]), [{"--alpha", "--w-pref", "--w-cons"}]),
    (CONTINUOUS, BOX, ([0.1], [0.4]), ([0.9], [0.4]), [{"--w-cons"}]),
    (LUNARLANDER, DISCRETE, ([0.4, 0.3, 0.2, 0.1],), ([0.35, 0.3, 0.2, 0.15],), []),
    (LUNARLANDER, DISCRETE, ([0.997, 0.001, 0.001, 0.001],), ([0.998, 0.001, 0.0005, 0.0005],), [{"--alpha"}]),
    (LUNARLANDER, DISCRETE, ([0.4, 0.3, 0.2, 0.1],), ([0.1, 0.2, 0.3, 0.4],), [{"--w-cons"}]),
]


@pytest.mark.parametrize(("script", "space", "main", "pref", "flags"), FAILURES, indirect=["script"])
def test_failure_signatures_name_the_flags(script, space, main, pref, flags):
    """Each failing state gets one advice with its flags, a healthy one none; in all states the experts are the same."""
    main, pref = ([torch.tensor(x).expand(64, -1) for x in expert] for expert in (main, pref))
    if space is BOX:
        main, pref, action = script.Gaussian(*main), script.Gaussian(*pref), torch.randn(64, 1)
    else:
        main, pref = script.Categorical(main[0].log()), script.Categorical(pref[0].log())
        action = torch.arange(64) % 4
    batch, action_range = script.Batch(None, action, *torch.randn(5, 64)), 2.0 if space is BOX else 1.0
    row = script.diagnostics(main, pref, script.fuse(main, pref, script.Args()), batch, action_range)
    assert [set(re.findall(r"--[a-z-]+", advice)) for advice in script.failure_signatures(row, space)] == flags


@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="torch.compile needs a C++ compiler")
@cases((BASELINE, DISCRETE, {}))
def test_compiled_steps_in_one_process_keep_their_own_arguments(script, space, changes):
    """A sweep in one process: the second step is not the graph of the first, which differs in an argument only."""
    torch.set_default_dtype(torch.float32)
    agent, args = make_agent(script, space, changes)
    batches = [make_batch(script, agent, args)]
    for vf_coef in (0.5, 50.0):
        plain, fast = (dataclasses.replace(args, vf_coef=vf_coef, compile=compile) for compile in (False, True))
        _, expected = run_steps(script, copy.deepcopy(agent), plain, batches, [1.0])
        _, losses = run_steps(script, copy.deepcopy(agent), fast, batches, [1.0])
        torch.testing.assert_close(losses, expected, rtol=1e-5, atol=1e-6)
