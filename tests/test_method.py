"""The mathematics of the three scripts against numerical integration, brute force, torch and gymnasium."""

import copy
import dataclasses
import functools
import importlib
import itertools
import shutil
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
import torch
import torch.distributions as D
import torch.nn.functional as F
from torch.nn.utils import clip_grad_norm_, parameters_to_vector

BOX = gym.spaces.Box(-1, 1, (3,))
DISCRETE = gym.spaces.Discrete(4)
OBS_DIM = 5
CONTINUOUS, LUNARLANDER, BASELINE = "prefpoe_continuous", "prefpoe_lunarlander", "ppo_baseline"
MATCHED = dict(shared_backbone=True, squash_mean=True, logstd_init=-1.0)
STRONG = dict(beta1=0.3, alpha=0.15, w_pref=0.7, w_cons=0.4)  # weights of the preference that show in the gradient


@pytest.fixture(autouse=True)
def double_precision():
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def cases(*rows):
    """Parametrize a test by rows (script, action space, changes of its arguments)."""
    return pytest.mark.parametrize(("script", "space", "changes"), rows, indirect=["script"])


def make_learner(script, space, changes):
    """A learner all of whose weights are far from their initial values, and its arguments."""
    args = script.Args(**dict(compile=False) | changes)
    observations = gym.spaces.Box(-np.inf, np.inf, (OBS_DIM,))
    learner = script.Learner(SimpleNamespace(observation_space=observations, action_space=space), args)
    learner.params += 0.3 * torch.randn_like(learner.params)
    return learner, args


def policies(agent, obs, args):
    """Main, preference and fused policy as torch.distributions, and the value, from the bare weights."""
    weights = dict(agent.named_parameters())

    def linear(layer, x):
        return F.linear(x, weights[f"{layer}.weight"], weights[f"{layer}.bias"])

    def backbone(name):
        return linear(f"{name}.2", linear(f"{name}.0", obs).tanh()).tanh()

    hidden = backbone("backbone")
    value = linear("critic", backbone("critic_backbone") if "critic_backbone.0.bias" in weights else hidden)[:, 0]
    fusion = getattr(args, "fusion", "none")
    lam = getattr(args, "lambda_pref", 0.0)
    heads = ("actor", "preference") if hasattr(args, "fusion") else ("actor", "actor")
    if "actor_logits.bias" in weights:
        p, q = (linear(f"{head}_logits", hidden).softmax(-1) for head in heads)
        fused = {"poe": p * q**lam, "linear": p + lam * q, "none": p}[fusion]  # Categorical divides by the sum
        return D.Categorical(p), D.Categorical(q), D.Categorical(fused), value
    squash = torch.tanh if getattr(args, "squash_mean", True) else torch.clone
    mu, mu_p = (squash(linear(f"{head}_mean", hidden)) for head in heads)
    s, s_p = (weights[f"{head}_logstd"].exp() for head in heads)
    s_p = s_p.clip(1e-3, 2)
    variance = 1 / (1 / s**2 + lam / s_p**2)
    product = variance * (mu / s**2 + lam * mu_p / s_p**2), variance.sqrt().clip(1e-3, 2)
    average = (mu + lam * mu_p) / (1 + lam), ((s + lam * s_p) / (1 + lam)).clip(1e-3, 2)
    fused = {"poe": product, "linear": average, "none": (mu, s)}[fusion]
    main, pref, fused = (D.Independent(D.Normal(*x), 1) for x in ((mu, s), (mu_p, s_p), fused))
    return main, pref, fused, value


def random_batch(script, agent, args, moved=1.0):
    """64 random transitions; if the policy has moved so, ratios and values are clipped now and then, on either side."""
    obs = torch.randn(64, OBS_DIM)
    noise = 0.3 * torch.randn(4, 64)
    with torch.no_grad():
        *_, policy, value = policies(agent, obs, args)
    action = policy.sample()
    advantage = 4 * noise[0]
    A_norm = [5 * noise[3]] if hasattr(script, "fuse") else []
    log_prob = policy.log_prob(action) + moved * noise[1]
    return script.Batch(obs, action, log_prob, value + noise[2], advantage, advantage + value, *A_norm)


def reference_losses(agent, batch, args):
    """The total loss and its parts by the formulas of the paper."""
    _, pref, fused, value = policies(agent, batch.obs, args)
    epsilon = args.clip_coef
    advantage = (batch.advantage - batch.advantage.mean()) / (batch.advantage.std() + 1e-8)
    log_ratio = fused.log_prob(batch.action) - batch.log_prob
    ratio = log_ratio.exp()
    near = batch.value + (value - batch.value).clip(-epsilon, epsilon)
    parts = dict(
        policy_loss=-torch.minimum(ratio * advantage, ratio.clip(1 - epsilon, 1 + epsilon) * advantage).mean(),
        value_loss=torch.maximum((value - batch.returns) ** 2, (near - batch.returns) ** 2).mean() / 2,
        approx_kl=(ratio - 1 - log_ratio).mean(),
        clipfrac=torch.logical_or(ratio < 1 - epsilon, ratio > 1 + epsilon).double().mean(),
    )
    loss = parts["policy_loss"] + args.vf_coef * parts["value_loss"] - args.ent_coef * fused.entropy().mean()
    if hasattr(args, "fusion"):
        guidance = (batch.A_norm * pref.log_prob(batch.action)).mean()
        parts["pref_loss"] = -args.beta1 * guidance - args.alpha * pref.entropy().mean()
        parts["cons_loss"] = D.kl_divergence(fused, pref).mean()
        loss = loss + args.w_pref * parts["pref_loss"] + args.w_cons * parts["cons_loss"]
    return dict(loss=loss) | parts


def reference_step(agent, optimizer, batch, args):
    """One step by torch's own means; returns the losses and the norm of the gradient."""
    losses = reference_losses(agent, batch, args)
    optimizer.zero_grad()
    losses["loss"].backward()
    norm = clip_grad_norm_(agent.parameters(), args.max_grad_norm).item()
    optimizer.param_groups[0]["lr"] = args.learning_rate
    optimizer.step()
    return {name: x.item() for name, x in losses.items()}, norm


def annealed(script, learner, args, share):
    """What can be scheduled, and what a copier may schedule, when a share of it is left."""
    names = [*script.schedule(args, learner), "max_grad_norm", "clip_coef"]
    return {name: share * getattr(args, name) for name in names}


def run_steps(script, learner, args, batches, shares):
    """The script's own steps, on three quarters of each batch; returns the parameters' change and the last losses."""
    before = learner.params.clone()
    step = script.make_step(learner.agent, args)
    for batch, share in zip(batches, shares, strict=True):
        coefficients = {name: torch.tensor(x) for name, x in annealed(script, learner, args, share).items()}
        losses = step(learner.params, learner.adam, batch, torch.arange(16, 64), coefficients)
    return learner.params - before, losses


def two_experts(script, space):
    if space is BOX:
        return [script.Gaussian(torch.randn(5, 3), 0.1 + 1.4 * torch.rand(5, 3)) for _ in "ab"]
    return [script.Categorical(2 * torch.randn(5, 4)) for _ in "ab"]


def in_numpy(policies):
    return [type(policy)(*map(np.asarray, policy)) for policy in policies]


@pytest.mark.parametrize("lam", [0.0, 0.5, 1.0, 2.0])
def test_gaussian_fusion_is_the_normalised_product(continuous, lam):
    """Mean and std of pi_theta pi_p^lambda normalised on a grid; of the weighted average for `linear`."""
    experts = two_experts(continuous, BOX)
    (mu, s), (mu_p, s_p) = in_numpy(experts)
    grid = np.linspace(-25, 25, 50_001)[:, None, None]
    density = np.exp(-0.5 * ((grid - mu) / s) ** 2) * np.exp(-0.5 * ((grid - mu_p) / s_p) ** 2) ** lam
    mean = (grid * density).sum(0) / density.sum(0)
    std = np.sqrt(((grid - mean) ** 2 * density).sum(0) / density.sum(0))
    average = (mu + lam * mu_p) / (1 + lam), (s + lam * s_p) / (1 + lam)
    for fusion, expected in dict(poe=(mean, std), linear=average, none=(mu, s)).items():
        for main, pref in (experts, in_numpy(experts)):
            fused = continuous.fuse(main, pref, continuous.Args(fusion=fusion, lambda_pref=lam))
            np.testing.assert_allclose(np.stack(fused), np.stack(expected), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("lam", [0.0, 0.5, 1.0, 2.0])
def test_categorical_fusion_is_the_normalised_product(discrete, lam):
    """p_theta p_p^lambda over its sum; the weighted average of the probabilities for `linear`."""
    experts = two_experts(discrete, DISCRETE)
    p, q = (np.exp(x.log_p.numpy()) for x in experts)
    product = [[a * b**lam / sum(row_p * row_q**lam) for a, b in zip(row_p, row_q)] for row_p, row_q in zip(p, q)]
    for fusion, expected in dict(poe=product, linear=(p + lam * q) / (1 + lam), none=p).items():
        for main, pref in (experts, in_numpy(experts)):
            fused = discrete.fuse(main, pref, discrete.Args(fusion=fusion, lambda_pref=lam))
            np.testing.assert_allclose(np.exp(fused.log_p), expected, rtol=1e-10)


@cases((CONTINUOUS, BOX, {}), (BASELINE, BOX, {}), (LUNARLANDER, DISCRETE, {}), (BASELINE, DISCRETE, {}))
def test_distributions_match_torch_and_brute_force(script, space, changes):
    """The std of a Categorical is that of the one-hot action."""
    policy, other = two_experts(script, space)
    if space is BOX:
        p, q = (D.Independent(D.Normal(*x), 1) for x in (policy, other))
        std = p.stddev
    else:
        p, q = (D.Categorical(logits=x.logits) for x in (policy, other))
        one_hot = torch.eye(4) - p.probs[:, None]  # (state, action, component), centred
        std = torch.einsum("sa,sai,sai->si", p.probs, one_hot, one_hot).sqrt()
    action = q.sample()
    torch.testing.assert_close(policy.log_prob(action), p.log_prob(action))
    torch.testing.assert_close(policy.entropy(), p.entropy())
    torch.testing.assert_close(policy.std, std)
    if script.__name__ != BASELINE:
        torch.testing.assert_close(policy.kl(other), D.kl_divergence(p, q))


def preference_loss(script, pref, action, A, beta1, alpha):
    batch = script.Batch._make([None] * 7)._replace(action=action, A_norm=A)
    return script.preference_loss(pref, batch, script.Args(beta1=beta1, alpha=alpha))


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
    A = torch.tensor([1.2, 0.4, -0.6, -1.0])

    def converged(sampling):
        def loss(logits):
            weight = 4 * sampling(logits.detach().softmax(-1))  # the mean of weight * f is the expectation of f
            pref = discrete.Categorical(logits.expand(4, -1))
            return preference_loss(discrete, pref, torch.arange(4), weight * A, 0.1, 0.4)

        return descend(loss, [1.0, -0.5, 0.3, 0.0], 1.0).softmax(-1)

    boltzmann = (0.1 * A / 0.4).softmax(-1)
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
        return preference_loss(continuous, pref, action[:, None], weight / weight.mean() * A, beta1, alpha)

    mean, log_std = descend(loss, [0.9, -1.2], 0.1)
    assert mean.item() == pytest.approx(c, rel=1e-5)
    assert log_std.exp().item() == pytest.approx((alpha / (2 * beta1)) ** 0.5, rel=1e-5)


def test_gae_is_the_sum_over_the_episodes_future(script):
    """Of discounted deltas; a termination needs no value of its last state, which is NaN here."""
    rng = np.random.default_rng(0)
    rewards, values, next_values = rng.normal(size=(3, 40, 3))
    terminated, truncated = rng.random((2, 40, 3)) < 0.08
    done = terminated | truncated
    next_values[terminated] = np.nan
    advantages = script.gae(rewards, values, next_values, terminated, done, 0.97, 0.9)
    for t, e in np.ndindex(40, 3):
        end = next((k for k in range(t, 40) if done[k, e]), 39)
        bootstraps = [0.0 if terminated[k, e] else 0.97 * next_values[k, e] for k in range(t, end + 1)]
        deltas = [rewards[t + k, e] + x - values[t + k, e] for k, x in enumerate(bootstraps)]
        assert advantages[t, e] == pytest.approx(sum((0.97 * 0.9) ** k * x for k, x in enumerate(deltas)), abs=1e-12)


def test_rewards_are_divided_by_the_std_of_the_discounted_return(script):
    """In a plain loop over two rollouts of three environments; each done resets one environment's return."""
    rng = np.random.default_rng(0)
    args, off = (script.Args(norm_reward=x, gamma=0.9) for x in (True, False))
    rewards = 5 * rng.normal(size=(40, 3)) + 1
    done = rng.random((40, 3)) < 0.1
    rewards[39, :2] = 1e4, -1e4
    stats = script.RunningMeanStd(())
    discounted = np.zeros(3)
    scaled = [script.scale_rewards(rewards[x], done[x], stats, discounted, args) for x in (slice(20), slice(20, 40))]
    history = [-1.0, 1.0]
    returns = np.zeros(3)
    for t in range(40):
        returns = 0.9 * returns + rewards[t]
        history += returns.tolist()
        weights = np.r_[5e-5, 5e-5, np.ones(len(history) - 2)]  # the prior: 1e-4 rows with mean 0 and std 1
        expected = rewards[t] / np.sqrt(np.cov(history, aweights=weights, ddof=0) + 1e-8)
        np.testing.assert_allclose(np.concatenate(scaled)[t], expected.clip(-10, 10), rtol=1e-9)
        returns = np.where(done[t], 0.0, returns)
    assert np.array_equal(script.scale_rewards(rewards, done, stats, discounted, off), rewards)


FUSIONS = [dict(fusion=f, lambda_pref=lam) for f, lam in itertools.product(["poe", "linear", "none"], [0.5, 1.0])]
ACTING = [(CONTINUOUS, BOX, x) for x in FUSIONS] + [(LUNARLANDER, DISCRETE, x) for x in FUSIONS]
ACTING += [(BASELINE, BOX, {}), (BASELINE, BOX, MATCHED), (BASELINE, DISCRETE, {})]


def assert_acts_as(policy, act, obs):
    """Box: noise 0 gives the mean, 1 a std more; Discrete: the argmax of log p + noise, to 1e-5 of a tie."""
    if isinstance(policy, D.Independent):
        for noise in (0.0, 1.0):
            expected = policy.mean + policy.stddev * noise
            np.testing.assert_allclose(act(obs, noise), expected.detach(), rtol=1e-5, atol=1e-6)
        return
    log_p = policy.logits.detach().numpy()
    for a, b in itertools.permutations(range(log_p.shape[1]), 2):
        noise = np.full(log_p.shape, -1e3)
        noise[:, a] = 0.0
        noise[:, b] = log_p[:, a] - log_p[:, b] - 1e-5
        assert (act(obs, noise) == a).all()
        noise[:, b] += 2e-5
        assert (act(obs, noise) == b).all()


@cases(*ACTING)
def test_both_ways_of_acting_are_the_policy(script, space, changes):
    learner, args = make_learner(script, space, changes)
    agent = learner.agent
    if hasattr(agent, "preference_logstd"):
        agent.preference_logstd.data[:] = torch.tensor([2.0, -9.0, -1.0])  # above, below and inside the clamps
        agent.actor_logstd.data[0, 0] = 2.0
    obs = np.random.default_rng(0).normal(size=(50, OBS_DIM)).astype(np.float32)
    acting = [script.numpy_policy(agent.float(), args), script.torch_policy(copy.deepcopy(agent), args)]
    *_, policy, _ = policies(agent.double(), torch.tensor(obs).double(), args)
    for act in acting:
        assert_acts_as(policy, act, obs)


@cases(
    (CONTINUOUS, BOX, STRONG),
    (CONTINUOUS, BOX, dict(ent_coef=0.02, max_grad_norm=100.0)),
    (CONTINUOUS, BOX, dict(fusion="none", w_pref=0.0, w_cons=0.0)),
    (CONTINUOUS, BOX, STRONG | dict(fusion="linear", lambda_pref=0.5)),
    (LUNARLANDER, DISCRETE, STRONG | dict(lambda_pref=0.5)),
    (LUNARLANDER, DISCRETE, STRONG | dict(fusion="linear", ent_coef=0.02)),
    (BASELINE, BOX, {}),
    (BASELINE, BOX, MATCHED | dict(ent_coef=0.02)),
    (BASELINE, DISCRETE, {}),
    (BASELINE, DISCRETE, dict(shared_backbone=True, max_grad_norm=100.0)),
)
def test_steps_are_those_of_autograd_clipping_and_adam(script, space, changes, optimizer=torch.optim.Adam):
    """Five minibatches, everything annealed: backward, clip_grad_norm_ and Adam of torch do the same."""
    learner, args = make_learner(script, space, dict(learning_rate=3e-3) | changes)
    shares = [1.0, 0.8, 0.6, 0.4, 0.2]
    annealings = [dataclasses.replace(args, **annealed(script, learner, args, share)) for share in shares]
    batches = [random_batch(script, learner.agent, now) for now in annealings]
    twin = copy.deepcopy(learner.agent)
    change, losses = run_steps(script, learner, args, batches, shares)

    before = parameters_to_vector(twin.parameters()).detach()
    optimizer = optimizer(twin.parameters(), eps=1e-5)
    norms = []
    for batch, now in zip(batches, annealings, strict=True):
        expected, norm = reference_step(twin, optimizer, batch._make(column[16:] for column in batch), now)
        norms.append(norm)
    assert 0.5 < max(norms) < 100
    assert 0.1 < expected["clipfrac"] < 0.99
    torch.testing.assert_close(change, parameters_to_vector(twin.parameters()) - before, rtol=1e-5, atol=1e-9)
    assert {name: x.item() for name, x in losses.items()} == pytest.approx(expected, 1e-5)


def test_a_copy_with_weight_decay_is_adamw(copied):
    script = copied(
        CONTINUOUS, ("params.sub_(scheduled", "params.mul_(1 - scheduled.learning_rate * 0.5).sub_(scheduled")
    )
    adamw = functools.partial(torch.optim.AdamW, weight_decay=0.5)
    test_steps_are_those_of_autograd_clipping_and_adam(script, BOX, {}, adamw)


TWO_AGENTS = [STRONG, STRONG | dict(vf_coef=50.0)]


@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="torch.compile needs a C++ compiler")
@cases((CONTINUOUS, BOX, TWO_AGENTS), (LUNARLANDER, DISCRETE, [STRONG]), (BASELINE, DISCRETE, [{}]))
def test_the_compiled_step_is_the_eager_one(script, space, changes, capsys):
    """Everything annealed, max_grad_norm and clip_coef too; also that of a second agent, which differs in an argument."""
    torch.set_default_dtype(torch.float32)
    torch.set_num_threads(1)
    for change in changes:
        learner, args = make_learner(script, space, dict(learning_rate=3e-3) | change)
        shares = [1.0, 0.8, 0.6, 0.4, 0.2]
        batches = [random_batch(script, learner.agent, args) for _ in shares]
        eager = run_steps(script, copy.deepcopy(learner), args, batches, shares)
        compiled = run_steps(script, learner, dataclasses.replace(args, compile=True), batches, shares)
        assert torch.linalg.norm(compiled[0] - eager[0]) < 1e-4 * torch.linalg.norm(eager[0])
        losses = [{name: x.item() for name, x in losses.items()} for _, losses in (compiled, eager)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert "failed" not in capsys.readouterr().out


@pytest.mark.parametrize("fusion", ["poe", "linear", "none"])
def test_without_guidance_the_acting_variance_is_a_share_of_the_preferences(continuous, fusion):
    """s_f^2 = (1 - alpha w_pref / w_cons) s_p^2, where ent_coef = -alpha w_pref balances what L_pref and L_cons add."""
    args = continuous.Args(fusion=fusion, alpha=0.3, w_pref=0.2, w_cons=0.1, ent_coef=-0.06)

    def experts(params):
        numbers = torch.cat([params[:2], params[2:].exp()])  # mean, mean, sigma, sigma
        return [continuous.Gaussian(*numbers[[i, i + 2], None, None].expand(2, 2, 3)) for i in (0, 1)]

    def loss(params):
        batch = continuous.Batch(None, torch.zeros(2, 3), *torch.zeros(5, 2))
        return continuous.total_loss((*experts(params), torch.zeros(2)), batch, args)["loss"]

    main, pref = experts(descend(loss, [0.3, -0.2, -0.2, -1.0], 0.3))
    torch.testing.assert_close(main.mean, pref.mean)
    ratio = continuous.fuse(main, pref, args).std / pref.std
    torch.testing.assert_close(ratio**2, torch.full((2, 3), 1 - 0.3 * 0.2 / 0.1), rtol=1e-4, atol=0)


PREFPOE = [(CONTINUOUS, BOX, dict(lambda_pref=0.2)), (LUNARLANDER, DISCRETE, dict(lambda_pref=0.2))]


@cases(*PREFPOE, (BASELINE, BOX, {}), (BASELINE, DISCRETE, {}))
@torch.no_grad()
def test_diagnostics_match_torch_distributions(script, space, changes):
    """All of a batch's diagnostics; mean_difference of Categoricals is the largest of any event's probability."""
    learner, args = make_learner(script, space, changes)
    if hasattr(learner.agent, "preference_logstd"):
        learner.agent.preference_logstd -= 1  # lambda = 0.2 then leaves the product wider than the preference
    batch = random_batch(script, learner.agent, args)
    outputs = learner.agent(batch.obs)[:-1]
    p, q, f, _ = policies(learner.agent, batch.obs, args)
    unexplained = np.var((batch.returns - batch.value).numpy()) / np.var(batch.returns.numpy())
    expected = dict(explained_variance=1 - unexplained)
    trace = {}
    for name, policy in dict(main=p, pref=q, fused=f).items():
        variance = policy.variance if space is BOX else policy.probs * (1 - policy.probs)
        trace[name] = variance.sum(-1)
        expected[f"entropy_{name}"] = policy.entropy().mean()
        expected[f"sigma_{name}"] = variance.sqrt().mean()
        expected[f"trace_{name}"] = trace[name].mean()
    if script.__name__ == BASELINE:
        row = script.diagnose(*outputs, batch)
        expected = {name: x for name, x in expected.items() if not name.endswith(("pref", "fused"))}
    else:
        ranges = [learner.agent.action_range] if space is BOX else []
        row = script.diagnose(*outputs, script.fuse(*outputs, args), batch, *ranges, args)
        events = torch.tensor(list(itertools.product([0.0, 1.0], repeat=4)))
        apart = (
            (p.mean - q.mean).abs() / (space.high - space.low)
            if space is BOX
            else ((p.probs - q.probs) @ events.T).abs().amax(-1)
        )
        expected |= dict(
            lambda_pref=0.2,
            variance_reduced=((trace["fused"] < trace["main"]) & (trace["fused"] < trace["pref"])).double().mean(),
            kl_fused_pref=D.kl_divergence(f, q).mean(),
            kl_fused_main=D.kl_divergence(f, p).mean(),
            mean_difference=apart.mean(),
            guidance=np.corrcoef(batch.A_norm, q.log_prob(batch.action))[0, 1],
        )
        assert expected["variance_reduced"] < 1
    assert row == pytest.approx({name: float(x) for name, x in expected.items()}, rel=1e-5)


SCHEDULES = ["constant", "falling", "rising", "guided"]
ANNEALED = [dict(lambda_schedule=x, anneal_pref=x != "falling", anneal_lr=x != "rising") for x in SCHEDULES]
FIRST = '        "learning_rate": args'
TWO_MORE = (FIRST, f'        **{{x: remaining * getattr(args, x) for x in ("max_grad_norm", "clip_coef")}},\n{FIRST}')


def at(args, iteration, explained_variance, more):
    """What an iteration's arguments are by the formulas of --help, from linear interpolation."""
    left = float(np.interp(iteration, [0, args.num_iterations], [1, 0]))
    share = {"learning_rate": left if args.anneal_lr else 1} | dict.fromkeys(more, left)
    if hasattr(args, "anneal_ent"):
        share["ent_coef"] = left if args.anneal_ent else 1
    else:
        weights = dict(constant=1, falling=left, rising=1 - left, guided=explained_variance)
        share["lambda_pref"] = weights[args.lambda_schedule]
        share |= dict.fromkeys(("alpha", "w_cons"), left if args.anneal_pref else 1)
    return {name: x * getattr(args, name) for name, x in share.items()}


@pytest.mark.parametrize("more", [[], ["max_grad_norm", "clip_coef"]])
@pytest.mark.parametrize(
    ("name", "space", "changes"),
    [
        *((CONTINUOUS, BOX, STRONG | x) for x in ANNEALED),
        *((LUNARLANDER, DISCRETE, STRONG | dict(fusion="linear") | x) for x in ANNEALED[1:]),
        (BASELINE, BOX, dict(anneal_ent=True, ent_coef=0.3)),
        (BASELINE, DISCRETE, dict(anneal_lr=False, ent_coef=0.3)),
    ],
)
def test_schedules_reach_the_losses(name, space, changes, more, copied):
    """Also two of a copier's own: an iteration's update is torch's with its coefficients."""
    script = copied(name, TWO_MORE) if more else importlib.import_module(name)
    weight = {} if name == BASELINE else dict(lambda_pref=1.5)
    few = dict(total_timesteps=256, num_steps=64, num_minibatches=1, update_epochs=1, learning_rate=3e-3)
    learner, args = make_learner(script, space, few | weight | changes)
    twin = copy.deepcopy(learner.agent)
    step = script.make_step(learner.agent, args)
    optimizer = torch.optim.Adam(twin.parameters(), eps=1e-5)
    for iteration, explained_variance in enumerate([0.2, 0.9, 0.5, 0.7]):
        learner.iteration = iteration
        learner.explained_variance = explained_variance
        coefficients = script.schedule(args, learner)
        assert coefficients == pytest.approx(at(args, iteration, explained_variance, more), rel=1e-12)
        now = dataclasses.replace(args, **coefficients)
        batch = random_batch(script, learner.agent, now, moved=0.005)
        losses = script.update(step, learner, batch, coefficients, now)
        reference, _ = reference_step(twin, optimizer, batch, now)
        assert losses == pytest.approx(reference, 1e-6, 1e-8)
        torch.testing.assert_close(learner.params, parameters_to_vector(twin.parameters()).detach(), rtol=0, atol=1e-7)
