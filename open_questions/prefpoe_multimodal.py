# /// script
# requires-python = ">=3.10"
# dependencies = ["torch==2.13.0", "gymnasium[mujoco]==1.4.0", "gymnasium[box2d]==1.4.0; python_version < '3.14'", "mujoco<4.1", "numpy>=2.2", "tyro>=1.0", "filelock>=4.1", "wandb>=0.31"]
# ///
"""PrefPoE with a preference of several modes: does it scale to them? (An open question of arXiv 2511.08241.)

    python open_questions/prefpoe_multimodal.py --total-timesteps 60000    # train on MultiGoal-v0, evaluate, save
    python open_questions/prefpoe_multimodal.py --resume runs/<run>        # go on after an interruption
    python open_questions/prefpoe_multimodal.py --evaluate runs/<run>      # evaluate only

This is prefpoe_continuous.py with a preference expert pi_p that is a mixture of K = --num-modes Gaussians. So is its
product with the main expert pi_theta, the fused policy pi_f that acts. With K = 1 and the same noise the two train
alike. The method stands above the line `== Below`, but for `sample_noise`, which chooses a mode, and `MultiGoal`.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import random
import re
import signal
import sys
import time
import warnings
from collections import namedtuple
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, NamedTuple, NoReturn

import gymnasium as gym
import mujoco
import numpy as np
import torch
import tyro
from filelock import FileLock, Timeout
from torch import nn
from torch.func import functional_call, grad_and_value
from torch.nn.utils import parameters_to_vector, vector_to_parameters


@dataclass(frozen=True)
class Args:
    env_id: str = "MultiGoal-v0"  # Gymnasium id of the environment, or module:id, where the module registers it
    seed: int = 1  # seed of training: environments, initial weights, noise; evaluations always start alike
    total_timesteps: int = 1_000_000  # environment steps to train for, over all environments; in whole iterations
    exp_name: str = Path(__file__).stem  # name of the experiment, part of the run's name
    run_name: str = ""  # folder under runs/ (default: <env_id>__<exp_name>__<seed>__<unix time in ns>)
    resume: str | None = None  # run folder to go on with; flags given beside it replace the run's own
    evaluate: str | None = None  # run folder or checkpoint to evaluate, without training
    compile: bool = True  # compile the update with torch.compile; where that fails it runs eagerly
    # PPO
    learning_rate: float = 3e-4  # Adam's learning rate
    anneal_lr: bool = True  # let the learning rate fall linearly to 0
    num_envs: int = 1  # environments stepped in turn
    num_steps: int = 2048  # steps in each environment between two updates
    gamma: float = 0.99  # discount factor
    gae_lambda: float = 0.95  # lambda of generalized advantage estimation
    num_minibatches: int = 32  # minibatches an epoch
    update_epochs: int = 10  # passes over each batch
    target_kl: float | None = None  # no further pass once the mean approx_kl of one is above this
    clip_coef: float = 0.2  # epsilon of the clipped surrogate and of the clipped value loss
    ent_coef: float = 0.0  # weight of the entropy bonus
    vf_coef: float = 0.5  # weight of the value loss
    max_grad_norm: float = 0.5  # largest norm of the gradient
    norm_obs: bool = True  # normalise observations by running statistics and clip them to +-10
    norm_reward: bool = True  # divide rewards by the running std of the discounted return and clip them to +-10
    # Preference
    num_modes: int = 4  # K, the modes of the preference, up to 64: memory and time grow with its square
    fusion: Literal["poe", "none"] = "poe"  # pi_f: the experts' product, or pi_theta alone
    lambda_pref: float = 1.0  # lambda, the weight of the preference in the fusion; tried here: 1 and 8
    lambda_schedule: Literal["constant", "falling", "rising", "guided"] = "constant"  # guided: by explained variance
    beta1: float = 0.2  # beta_1, the weight of the advantages in L_pref
    alpha: float = 0.2  # alpha, the weight of the preference's entropy in L_pref; tried here: 0.2 and 1
    w_pref: float = 0.05  # weight of L_pref in the total loss
    w_cons: float = 0.1  # weight of L_cons, the KL from the fused policy to the preference
    anneal_pref: bool = False  # let alpha and w_cons fall linearly to 0
    logstd_init: float = -1.0  # log std of both experts at the start; their product's, with lambda 1, is 0.35 less
    advantage_noise: float = 0.0  # std of the Gaussian noise added to A_norm, the advantages that the preference sees
    # Logging
    eval_every: int = 25  # iterations between two evaluations, 3 episodes each (0: never)
    eval_episodes: int = 10  # episodes of the evaluation at the end
    eval_deterministic: bool = True  # evaluate the mean of the heaviest mode rather than samples
    capture_video: bool = False  # at the end, film an episode of the trained policy as mp4 (needs moviepy)
    track: bool = False  # log to Weights & Biases
    wandb_project_name: str = "prefpoe"  # project there; group and tags come from WANDB_RUN_GROUP and WANDB_TAGS
    wandb_entity: str | None = None  # team there

    batch_size = property(lambda self: self.num_envs * self.num_steps)
    num_iterations = property(lambda self: self.total_timesteps // self.batch_size)


class Gaussian(NamedTuple):
    """Diagonal Gaussian over actions; mean and std are (batch, action_dim)."""

    mean: torch.Tensor
    std: torch.Tensor

    def log_prob(self, action: torch.Tensor) -> torch.Tensor:
        """log N(a; mean, std^2), summed over the action's dimensions: (batch,)."""
        z = (action - self.mean) / self.std
        return (-0.5 * z**2 - self.std.log() - 0.5 * math.log(2 * math.pi)).sum(-1)

    def entropy(self) -> torch.Tensor:
        """Sum over the action's dimensions of log(std sqrt(2 pi e)): (batch,)."""
        return (self.std.log() + 0.5 * math.log(2 * math.pi * math.e)).sum(-1)

    def sample(self, noise):
        """A sample for standard normal noise (batch, action_dim), the mode for noise 0; of tensors or arrays."""
        return self.mean + self.std * noise

    def kl(self, other: Gaussian) -> torch.Tensor:
        """KL(self || other) in closed form: (batch,)."""
        variance_ratio = (self.std / other.std) ** 2
        shift = ((self.mean - other.mean) / other.std) ** 2
        return 0.5 * (variance_ratio + shift - 1 - variance_ratio.log()).sum(-1)


class Mixture(NamedTuple):
    """K Gaussians, the modes: logits of their weights w (batch, K), mean and std of each (batch, K, action_dim).
    `mean` and `std` are those of the mixture as a whole. What `modes` computes is of each mode, (batch, K)."""

    logits: torch.Tensor
    modes: Gaussian
    mean = property(lambda self: (self.log_weight.exp().unsqueeze(-1) * self.modes.mean).sum(-2))  # sum_k w_k mu_k

    @property
    def log_weight(self) -> torch.Tensor:
        """log w: (batch, K), of a tensor or of an array."""
        if isinstance(self.logits, np.ndarray):
            return self.logits - np.logaddexp.reduce(self.logits, axis=-1, keepdims=True)
        return self.logits.log_softmax(-1)

    @property
    def std(self) -> torch.Tensor:
        """Square root of sum_k w_k (s_k^2 + (mu_k - mean)^2): (batch, action_dim)."""
        square = self.modes.std**2 + (self.modes.mean - self.mean.unsqueeze(-2)) ** 2
        return (self.log_weight.exp().unsqueeze(-1) * square).sum(-2).sqrt()

    def log_prob(self, action: torch.Tensor) -> torch.Tensor:
        """log sum_k w_k N(a; mu_k, s_k^2), exact: (batch,)."""
        return (self.log_weight + self.modes.log_prob(action.unsqueeze(-2))).logsumexp(-1)

    def entropy(self) -> torch.Tensor:
        """sum_k w_k (H_k - log sum_j w_j exp(-KL(mode k || mode j))): (batch,). An upper bound, exact for one mode,
        equal modes and modes far apart (Kolchinsky & Tracey 2017, arXiv 1706.02419, eq. 10 with the KL divergence)."""
        one = Gaussian(self.modes.mean.unsqueeze(-2), self.modes.std.unsqueeze(-2))
        other = Gaussian(self.modes.mean.unsqueeze(-3), self.modes.std.unsqueeze(-3))
        near = (self.log_weight.unsqueeze(-2) - one.kl(other)).logsumexp(-1)
        return (self.log_weight.exp() * (self.modes.entropy() - near)).sum(-1)

    def sample(self, noise):
        """The action that `sample_noise` (batch, action_dim + 1) makes, or 0, the heaviest mode's mean; of arrays too."""
        xp = np if isinstance(self.logits, np.ndarray) else torch
        if np.ndim(noise) == 0:
            chosen = self.logits.argmax(-1)
        else:  # the first mode up to which the weights sum to more than the uniform number
            chosen = (xp.exp(self.log_weight).cumsum(-1)[:, :-1] <= noise[..., -1:]).sum(-1)
            noise = noise[..., :-1]
        mean, std = self.modes
        rows = xp.arange(len(mean))
        return Gaussian(mean[rows, chosen], xp.broadcast_to(std, mean.shape)[rows, chosen]).sample(noise)

    def kl(self, other: Mixture) -> torch.Tensor:
        """KL(w || v) + sum_k w_k KL(mode k of self || mode k of other) with other's weights v: (batch,). An upper bound
        by the chain rule: it is the KL of the pairs (mode, action), which cannot grow where the mode is forgotten. It is
        exact for one mode, and of the fused policy against the preference with lambda = 1, as in L_cons: there an
        action is of each mode equally likely in both. Where modes overlap it is loose. A Gaussian against a mixture is
        split into copies of itself, with weights that make the bound least."""
        log_w = self.log_weight
        log_v = other.log_weight
        kl = self.modes.kl(other.modes)
        if log_w.shape[-1] == 1:
            return -(log_v - kl).logsumexp(-1)
        if log_v.shape[-1] == 1:
            log_v = log_w
        return (log_w.exp() * (log_w - log_v + kl)).sum(-1)


def fuse(main: Mixture, pref: Mixture, args: Args) -> Mixture:
    """The fused policy pi_f, per action dimension; of tensors, in `numpy_policy` of arrays; main has one mode.

    poe:     pi_f proportional to pi_theta sum_k w_k N(mu_k, s_k^2/lambda): lambda sharpens each mode, but not the
             weights, so that only with lambda = 1 or K = 1 it is pi_theta pi_p^lambda. Mode by mode
             1/s_f,k^2 = 1/s_theta^2 + lambda/s_k^2 and mu_f,k = s_f,k^2 (mu_theta/s_theta^2 + lambda mu_k/s_k^2), and
             the weights become proportional to w_k prod_d N(mu_theta; mu_k, s_theta^2 + s_k^2/lambda), the overlap.
    none:    the main expert alone; only with w_pref = w_cons = 0 is no preference trained either.
    """
    if args.fusion == "none":
        return main
    xp = np if isinstance(main.logits, np.ndarray) else torch
    main_mean, main_std = main.modes
    pref_mean, pref_std = pref.modes
    main_precision = main_std**-2
    pref_precision = args.lambda_pref * pref_std**-2
    precision = main_precision + pref_precision
    variance = args.lambda_pref * main_std**2 + pref_std**2  # lambda times the overlap's, so that lambda may be 0
    square = args.lambda_pref / variance * (main_mean - pref_mean) ** 2
    log_overlap = -0.5 * xp.log(variance).sum(-1) - 0.5 * square.sum(-1)  # but for what all modes have in common
    mean = main_precision / precision * main_mean + pref_precision / precision * pref_mean
    return Mixture(pref.logits + log_overlap, Gaussian(mean, (precision**-0.5).clip(*STD_BOUNDS)))


def layer(size_in: int, size_out: int, gain: float = math.sqrt(2)) -> nn.Linear:
    """A linear layer with orthogonal weights of that gain, and biases 0."""
    linear = nn.Linear(size_in, size_out)
    nn.init.orthogonal_(linear.weight, gain)
    nn.init.zeros_(linear.bias)
    return linear


class Agent(nn.Module):
    """One backbone with three heads: main expert pi_theta, preference expert pi_p, and value.

    Modes that are equal have equal gradients and stay so. So they start apart: in each action dimension the biases of
    their means are spread evenly over +-1, in a random order (a Latin hypercube)."""

    def __init__(self, obs_dim: int, action_space: gym.spaces.Box, args: Args):
        super().__init__()
        action_dim = action_space.shape[0]
        self.action_range = torch.tensor(action_space.high - action_space.low)
        self.backbone = nn.Sequential(layer(obs_dim, 64), nn.Tanh(), layer(64, 64), nn.Tanh())
        self.critic = layer(64, 1, gain=1.0)
        self.actor_mean = layer(64, action_dim, gain=0.01)
        self.actor_logstd = nn.Parameter(torch.full((1, action_dim), args.logstd_init))
        self.preference_mean = layer(64, args.num_modes * action_dim, gain=0.01)
        self.preference_logstd = nn.Parameter(torch.full((args.num_modes, action_dim), args.logstd_init))
        self.preference_logits = layer(64, args.num_modes, gain=0.01)
        orders = torch.stack([torch.randperm(args.num_modes) for _ in range(action_dim)], dim=1)
        self.preference_mean.bias.data = (2 * orders.flatten() + 1) / args.num_modes - 1

    def forward(self, obs: torch.Tensor) -> tuple[Mixture, Mixture, torch.Tensor]:
        """obs (batch, obs_dim) -> main expert, of one mode, preference expert, value (batch,)."""
        hidden = self.backbone(obs)
        main_mean = torch.tanh(self.actor_mean(hidden)).unsqueeze(-2)
        pref_mean = torch.tanh(self.preference_mean(hidden)).view(len(obs), *self.preference_logstd.shape)
        main = Gaussian(main_mean, self.actor_logstd.exp().expand_as(main_mean))
        pref = Gaussian(pref_mean, self.preference_logstd.exp().clip(*STD_BOUNDS).expand_as(pref_mean))
        main = Mixture(torch.zeros_like(main_mean[..., 0]), main)
        return main, Mixture(self.preference_logits(hidden), pref), self.critic(hidden).squeeze(-1)


STD_BOUNDS = 1e-3, 2.0  # of the preference's std and of the fused one, but with --fusion none
# One iteration's data, each (batch, ...): log_prob is of the policy that acted.
Batch = namedtuple("Batch", "obs action log_prob value advantage returns A_norm")
# Transitions, each (num_steps, num_envs, ...), obs normalised; at an episode's end next_obs is its own last one.
Rollout = namedtuple("Rollout", "obs action noise reward next_obs terminated done")


def preference_loss(pref: Mixture, batch: Batch, args: Args) -> torch.Tensor:
    """L_pref = -beta_1 E[A_norm log pi_p(a|s)] - alpha E[H(pi_p)].

    Theorem 1: were the actions drawn from pi_p itself, and not from pi_f, its fixed point would be the Boltzmann
    distribution, proportional to exp(beta_1 A / alpha). On MuJoCo beta_1 w_pref = 0.2 breaks training.
    """
    return -args.beta1 * (batch.A_norm * pref.log_prob(batch.action)).mean() - args.alpha * pref.entropy().mean()


def total_loss(agent_output: tuple, batch: Batch, args: Args) -> dict[str, torch.Tensor]:
    """L_total = L_PPO(pi_f) + w_pref L_pref + w_cons L_cons, with L_cons = E[KL(pi_f || pi_p)].

    L_PPO = clipped surrogate + vf_coef * clipped value loss - ent_coef * entropy (Schulman et al. 2017).
    The gradient of L_cons reaches both experts. Experts that the advantages tell nothing come to rest where
    s_f^2 = (1 - alpha w_pref / w_cons) s_p^2, if below s_p^2 / lambda, as if under an entropy bonus of alpha w_pref.
    """
    main, pref, value = agent_output
    fused = fuse(main, pref, args)
    log_ratio = fused.log_prob(batch.action) - batch.log_prob
    ratio = log_ratio.exp()
    advantage = (batch.advantage - batch.advantage.mean()) / (batch.advantage.std() + 1e-8)
    clipped_ratio = ratio.clip(1 - args.clip_coef, 1 + args.clip_coef)
    policy_loss = -torch.min(advantage * ratio, advantage * clipped_ratio).mean()
    clipped_value = batch.value + (value - batch.value).clip(-args.clip_coef, args.clip_coef)
    value_loss = 0.5 * torch.max((value - batch.returns) ** 2, (clipped_value - batch.returns) ** 2).mean()
    approx_kl = (ratio - 1 - log_ratio).mean()  # the k3 estimator of http://joschu.net/blog/kl-approx.html
    clipfrac = ((ratio - 1).abs() > args.clip_coef).float().mean()
    loss = policy_loss + args.vf_coef * value_loss - args.ent_coef * fused.entropy().mean()
    pref_loss = preference_loss(pref, batch, args)
    cons_loss = fused.kl(pref).mean()
    loss = loss + args.w_pref * pref_loss + args.w_cons * cons_loss
    losses = dict(loss=loss, policy_loss=policy_loss, value_loss=value_loss, approx_kl=approx_kl, clipfrac=clipfrac)
    return losses | dict(pref_loss=pref_loss, cons_loss=cons_loss)


def train(envs: VecEnv, learner: Learner, log: Log, args: Args) -> None:
    """Act, estimate advantages, update, log; in PrefPoE, this is Algorithm 1."""
    step = make_step(learner.agent, args)  # gradient, clipping and Adam on a minibatch, compiled
    discounted_returns = np.zeros(args.num_envs)
    obs = normalize_obs(envs.reset(args.seed, learner.iteration), learner.obs_stats, args, update=True)
    try:
        numpy_policy(learner.agent, args)(obs, 0.0)
        learner.make_act = numpy_policy  # as long as `acted_by` finds no difference
    except Exception as error:  # noqa: BLE001
        print(f"acting in torch, about 2.4 times slower: numpy_policy does not fit Agent.forward ({error!r})")
    while learner.iteration < args.num_iterations:
        coefficients = schedule(args, learner)
        scheduled = replace(args, **coefficients)
        act = learner.make_act(learner.agent, scheduled)
        rollout, obs, episodes = collect(envs, obs, act, learner.obs_stats, learner.rng, scheduled)
        rewards = scale_rewards(rollout.reward, rollout.done, learner.return_stats, discounted_returns, scheduled)
        batch, policy, diagnostics = make_batch(learner, rollout, rewards, scheduled)
        if not acted_by(policy, rollout, learner, scheduled):
            learner.make_act = torch_policy
            continue  # the iteration again
        losses = update(step, learner, batch, coefficients, scheduled)
        learner.explained_variance += 0.1 * (max(0.0, diagnostics["explained_variance"]) - learner.explained_variance)
        learner.iteration += 1
        log.end_iteration(episodes, losses, diagnostics, scheduled)


def schedule(args: Args, learner: Learner) -> dict[str, float]:
    """This iteration's values of the arguments that change over training; acting and losses see whichever stand here."""
    remaining = 1 - min(learner.iteration, args.num_iterations - 1) / args.num_iterations  # 1 at first, never 0
    factor = {"constant": 1.0, "falling": remaining, "rising": 1 - remaining, "guided": learner.explained_variance}
    return {
        "learning_rate": args.learning_rate * (remaining if args.anneal_lr else 1.0),
        "alpha": args.alpha * (remaining if args.anneal_pref else 1.0),
        "w_cons": args.w_cons * (remaining if args.anneal_pref else 1.0),
        "lambda_pref": args.lambda_pref * factor[args.lambda_schedule],
    }


def collect(envs: VecEnv, obs: np.ndarray, act: Callable, obs_stats: RunningMeanStd, rng, args: Args) -> tuple:
    """Act for `num_steps` steps from `obs` (num_envs, obs_dim). Returns the rollout, the observation to go on from,
    and (return, length) of each episode that ended, in the environment's own rewards."""
    noise = sample_noise(rng, (args.num_steps, args.num_envs), envs.action_space)
    transitions = []
    episodes = []
    for t in range(args.num_steps):
        action = act(obs, noise[t])
        new_obs, reward, terminated, done, final_obs, ended = envs.step(action)
        new_obs = normalize_obs(new_obs, obs_stats, args, update=True)
        next_obs = new_obs.copy()
        for i, last_obs in final_obs.items():
            next_obs[i] = normalize_obs(last_obs[None], obs_stats, args)
        episodes += ended
        transitions.append((obs, action, noise[t], reward, next_obs, terminated, done))
        obs = new_obs
    # Arrays are made only now: if allocated before the loop, memory fragments and grows by 2 MB an iteration.
    return Rollout._make(np.array(column) for column in zip(*transitions)), obs, episodes


@torch.no_grad()
def make_batch(learner: Learner, rollout: Rollout, rewards: np.ndarray, args: Args) -> tuple:
    """A whole rollout's values, log-probabilities and advantages, the policy that acted, and diagnostics."""
    rows = Rollout._make(torch.from_numpy(x).flatten(0, 1) for x in rollout)  # (batch, ...)
    main, pref, value = learner.agent(rows.obs)
    _, _, next_value = learner.agent(rows.next_obs)
    fused = fuse(main, pref, args)
    values = value.numpy().reshape(rewards.shape)
    next_values = next_value.numpy().reshape(rewards.shape)
    advantages = gae(rewards, values, next_values, rollout.terminated, rollout.done, args.gamma, args.gae_lambda)
    advantage = torch.from_numpy(advantages.astype(np.float32)).flatten()
    A_norm = (advantage - advantage.mean()) / (advantage.std() + 1e-8)  # over the batch, for L_pref
    if args.advantage_noise:
        noise = learner.rng.normal(0.0, args.advantage_noise, rewards.shape)
        A_norm = A_norm + torch.from_numpy(noise.astype(np.float32)).flatten()
    batch = Batch(rows.obs, rows.action, fused.log_prob(rows.action), value, advantage, advantage + value, A_norm)
    return batch, fused, diagnose(main, pref, fused, batch, learner.agent.action_range, args)


def gae(rewards, values, next_values, terminated, done, gamma: float, gae_lambda: float) -> np.ndarray:
    """Generalized advantage estimation (Schulman et al. 2016); all arrays (num_steps, num_envs).
    delta_t = r_t + gamma (1 - terminated_t) V(s'_t) - V(s_t);  A_t = delta_t + gamma lambda (1 - done_t) A_t+1
    s'_t is the state that really followed. Only a termination zeroes its value; no sum runs across an episode's end.
    """
    advantages = rewards + gamma * np.where(terminated, 0.0, next_values) - values
    decay = np.where(done, 0.0, gamma * gae_lambda)
    for t in reversed(range(len(rewards) - 1)):
        advantages[t] += decay[t] * advantages[t + 1]
    return advantages


def update(step: Callable, learner: Learner, batch: Batch, coefficients: dict[str, float], args: Args) -> dict:
    """Up to `update_epochs` passes over the batch in shuffled minibatches; returns the mean of each loss."""
    tensors = {name: torch.tensor(x) for name, x in coefficients.items()}  # each new number would compile anew
    losses = []
    for _ in range(args.update_epochs):
        order = torch.from_numpy(learner.rng.permutation(args.batch_size))
        for rows in order.chunk(args.num_minibatches):
            losses.append(step(learner.params, learner.adam, batch, rows, tensors))
        if args.target_kl and np.mean([x["approx_kl"] for x in losses[-args.num_minibatches :]]) > args.target_kl:
            break
    if losses[0]["approx_kl"] > 1e-4:  # before the first step all ratios must be 1
        sys.exit("error: total_loss and make_batch are of different policies")
    means = torch.stack([torch.stack(list(x.values())) for x in losses]).mean(0)
    return dict(zip(losses[0], means.tolist()))


# == Below: what a checkpoint holds, Adam, acting, environments, normalisation, diagnostics, evaluation, logging, options


class Learner:
    """All that training changes, and so what a checkpoint holds; `params` is the agent's weights as one vector."""

    def __init__(self, env: gym.Env, args: Args):
        obs_dim = env.observation_space.shape[0]
        self.agent = Agent(obs_dim, env.action_space, args)
        self.params = parameters_to_vector(self.agent.parameters()).detach()
        vector_to_parameters(self.params, self.agent.parameters())  # from here on, the agent's weights are views of it
        zeros = torch.zeros_like(self.params)
        self.adam = dict(m=zeros, v=zeros.clone(), powers=torch.ones(2, dtype=torch.float64))
        self.obs_stats = RunningMeanStd((obs_dim,))
        self.return_stats = RunningMeanStd(())
        self.rng = np.random.default_rng(args.seed)
        self.iteration = 0
        self.seconds = 0.0
        self.explained_variance = 0.0  # the critic's running mean, within [0, 1], which a guided lambda follows
        self.wandb_id = os.urandom(4).hex()
        self.make_act = torch_policy  # makes act(obs, noise); while training numpy_policy, if they agree

    def save(self, folder: Path, args: Args) -> None:
        """Write checkpoint.pt."""
        state = dict(agent=self.agent.state_dict(), adam=self.adam, args=asdict(args) | {"resume": None})
        for name in ("obs_stats", "return_stats"):
            state[name] = {key: torch.tensor(x, dtype=torch.float64) for key, x in vars(getattr(self, name)).items()}
        state |= dict(iteration=self.iteration, global_step=self.iteration * args.batch_size, seconds=self.seconds)
        state |= dict(id=self.wandb_id, numpy_rng=json.dumps(self.rng.bit_generator.state))
        state["explained_variance"] = self.explained_variance
        file = io.BytesIO()
        torch.save(state, file)
        write_whole(folder / "checkpoint.pt", file.getvalue())

    def load(self, path: str, args: Args) -> None:
        """With --resume all of a checkpoint, else what it takes to act."""
        state = load_checkpoint(path)
        try:
            self.agent.load_state_dict(state["agent"])
            self.iteration = state.get("iteration", 0)
            self.explained_variance = state.get("explained_variance", state.get("trust", 0.0))  # its former name
            for name in {"obs_stats", "return_stats"} & state.keys():
                vars(getattr(self, name)).update({key: x.numpy() for key, x in state[name].items()})
            if args.resume is not None:
                self.adam = state["adam"]
                self.rng.bit_generator.state = json.loads(state["numpy_rng"])
                self.seconds = state["seconds"]
                self.wandb_id = state["id"]
        except (RuntimeError, KeyError) as error:
            refuse(f"{path} is of another script or task than --env-id {args.env_id}, or only weights: {error}")


def load_checkpoint(path: str) -> dict:
    """What Learner.save wrote into a folder or a file, or the authors' weights in that form."""
    file = Path(path, "checkpoint.pt") if Path(path).is_dir() else Path(path)
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
        if "agent" not in state:  # plain weights; the authors' critic repeats the shared backbone
            weights = {name: x for name, x in state.items() if not name.startswith("critic.0.")}
            state = {"agent": {name.replace("critic.1.", "critic."): x for name, x in weights.items()}}
        return {"args": {}} | state
    except Exception as error:  # noqa: BLE001 (a damaged file raises many kinds)
        refuse(f"{file} cannot be read ({type(error).__name__}): give a run's folder, or a whole checkpoint")


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that, whenever the process is killed or the power fails, it has its old content or the new."""
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def make_step(agent: Agent, args: Args) -> Callable:
    """`step(params, adam, batch, rows, coefficients) -> losses` learns from those rows, in place on params and adam.
    Gradient, clipping and Adam (Kingma & Ba 2015) on one flat vector compile into a single graph: on one core
    180-350 us for 64 rows, against 1,350-1,700 with backward() and an optimizer, and 3,600 without compiling.
    """
    shapes = {name: x.shape for name, x in agent.named_parameters()}
    sizes = [shape.numel() for shape in shapes.values()]
    m_decay = 0.9  # beta_1 of Adam
    v_decay = 0.999  # beta_2 of Adam
    decays = torch.tensor([m_decay, v_decay], dtype=torch.float64)

    def loss(params: torch.Tensor, batch: Batch, args: Args) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        weights = {name: x.view(shapes[name]) for name, x in zip(shapes, params.split(sizes))}
        losses = total_loss(functional_call(agent, weights, (batch.obs,)), batch, args)
        return losses["loss"], losses

    def step(params, adam: dict, batch: Batch, rows, coefficients: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        scheduled = replace(args, **coefficients)
        minibatch = Batch._make(column[rows] for column in batch)
        gradient, (_, losses) = grad_and_value(loss, has_aux=True)(params, minibatch, scheduled)
        gradient = gradient * (scheduled.max_grad_norm / (gradient.norm() + 1e-6)).clip(max=1.0)
        adam["powers"].mul_(decays)  # inductor would recompute decays**t for every 8 weights, 9 % of a step
        adam["m"].lerp_(gradient, 1 - m_decay)
        adam["v"].mul_(v_decay).addcmul_(gradient, gradient, value=1 - v_decay)
        m_hat = adam["m"] / (1 - adam["powers"][0]).float()
        v_hat = adam["v"] / (1 - adam["powers"][1]).float()
        params.sub_(scheduled.learning_rate * m_hat / (v_hat.sqrt() + 1e-5))
        return losses

    if not args.compile:
        return step
    print("compiling the update: up to a minute, less where this machine has done it before")
    step.__code__ = step.__code__.replace()  # a copy: torch keeps graphs by code object, also an earlier run's
    # Checking only tensors between calls, and calling kernels from C++, halves the time of a call. So whatever else the
    # step reads, such as module variables and attributes of the agent, stays as it was when compiled.
    options = {"guard_filter_fn": torch.compiler.keep_tensor_guards_unsafe, "cpp_wrapper": True}
    fast_step = torch.compile(step, fullgraph=True, dynamic=False, options=options)

    def step_or_eager(*inputs) -> dict[str, torch.Tensor]:
        nonlocal fast_step
        try:
            return fast_step(*inputs)
        except Exception as error:  # noqa: BLE001 (each backend raises its own)
            reason = next((x for x in str(error).splitlines() if x.strip() and not x.endswith("raised:")), repr(error))
            print(f"torch.compile failed, so the update is several times slower: {reason}")
            fast_step = step
            return step(*inputs)

    return step_or_eager


@torch.no_grad()
def acted_by(policy, rollout: Rollout, learner: Learner, args: Args) -> bool:
    """Whether the actions are those that this policy makes of the rollout's noise; if not, torch acts from here on."""
    obs, noise, action = (torch.from_numpy(x).flatten(0, 1) for x in (rollout.obs, rollout.noise, rollout.action))
    total = policy.log_weight.exp().cumsum(-1)
    chosen = torch.searchsorted(total, noise[:, -1:].contiguous(), right=True).clip(max=total.shape[1] - 1)
    mean, std = (x.take_along_dim(chosen[..., None], 1).squeeze(1) for x in policy.modes)
    expected = mean + std * noise[:, :-1]

    def as_expected(actions: np.ndarray) -> bool:  # but for rounding
        return np.isclose(actions, expected[: len(actions)], rtol=0, atol=1e-4, equal_nan=True).mean() > 0.999

    torch_is_right = as_expected(torch_policy(learner.agent, args)(obs[:64].numpy(), noise[:64].numpy()))
    if torch_is_right and as_expected(action):
        return True
    if learner.make_act is torch_policy or not torch_is_right:
        sys.exit("error: actions are not samples of the policy, mean + std * noise of a mode: see acted_by")
    print("acting in torch, about 2.4 times slower: numpy_policy differs from Agent.forward")
    return False


def torch_policy(agent: Agent, args: Args) -> Callable:
    """The policy as `act(obs, noise)`: obs (num_envs, obs_dim), noise for `sample` -> action (num_envs, ...)."""

    @torch.no_grad()
    def act(obs: np.ndarray, noise: np.ndarray | float) -> np.ndarray:
        main, pref, _ = agent(torch.from_numpy(obs))
        return fuse(main, pref, args).sample(torch.as_tensor(noise)).numpy()

    return act


def numpy_policy(agent: Agent, args: Args) -> Callable:
    """torch_policy in numpy: torch takes 150 us for one observation. Training finds out whether the two are the same."""
    weights = {name: np.array(x.detach().numpy().T, order="C") for name, x in agent.named_parameters()}
    W1, b1, W2, b2 = (weights[f"backbone.{name}"] for name in ("0.weight", "0.bias", "2.weight", "2.bias"))
    heads = ("actor_mean", "preference_mean", "preference_logits")
    W_heads = np.hstack([weights[f"{head}.weight"] for head in heads])
    b_heads = np.hstack([weights[f"{head}.bias"] for head in heads])
    main_std = np.exp(weights["actor_logstd"].T)[None]
    pref_std = np.exp(weights["preference_logstd"].T)[None].clip(*STD_BOUNDS)
    _, K, action_dim = pref_std.shape

    def act(obs: np.ndarray, noise: np.ndarray | float) -> np.ndarray:
        outputs = np.tanh(np.tanh(obs.dot(W1) + b1).dot(W2) + b2).dot(W_heads) + b_heads
        means = np.tanh(outputs[:, :-K]).reshape(len(obs), 1 + K, action_dim)
        main = Mixture(np.zeros((len(obs), 1), means.dtype), Gaussian(means[:, :1], main_std))
        pref = Mixture(outputs[:, -K:], Gaussian(means[:, 1:], pref_std))
        return fuse(main, pref, args).sample(noise)

    return act


def sample_noise(rng: np.random.Generator, size: tuple[int, ...], action_space: gym.spaces.Box) -> np.ndarray:
    """What `Mixture.sample` takes, (*size, action_dim + 1): normal numbers, and a uniform one that chooses the mode."""
    normal = rng.standard_normal((*size, *action_space.shape), dtype=np.float32)
    return np.concatenate([normal, rng.random((*size, 1), dtype=np.float32)], axis=-1)


class MultiGoal(gym.Env):
    """A point starts within +-0.05 of the middle of four goals; from the middle itself each is worth the same.
    Observation: position. Action: velocity, within +-1, for 0.1 s. Reward: less the distance to the nearest goal, and
    10 for reaching one, which ends the episode; info["goal"] is then its number, -1 before."""

    GOALS = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
    RADIUS = 0.1  # of a goal
    observation_space = gym.spaces.Box(-5.0, 5.0, (2,), np.float32)
    action_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)
    metadata = gym.Env.metadata | {"render_modes": ["rgb_array"], "render_fps": 10}

    def __init__(self, render_mode: str | None = None):
        self.render_mode = render_mode

    def reset(self, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        position = self.np_random.uniform(-0.05, 0.05, 2)
        self.position = np.array((options or {}).get("position", position), float)
        return self.position.astype(np.float32), {"goal": -1}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.position = self.position + 0.1 * np.clip(action, -1.0, 1.0)
        distance = np.hypot(*(self.position - self.GOALS).T)
        reached = bool(distance.min() < self.RADIUS)
        info = {"goal": int(distance.argmin()) if reached else -1}
        return self.position.astype(np.float32), 10.0 * reached - float(distance.min()), reached, False, info

    def render(self) -> np.ndarray:  # of the square within +-1.5 goals in grey, the point in red: (192, 192, 3)
        at = np.stack(np.meshgrid(*[np.linspace(-1.5, 1.5, 192)] * 2), axis=-1) * (1, -1)
        picture = np.full((192, 192, 3), 255, np.uint8)
        for goal in self.GOALS:
            picture[np.linalg.norm(at - goal, axis=-1) < self.RADIUS] = 160
        picture[np.linalg.norm(at - self.position, axis=-1) < 0.04] = (200, 0, 0)
        return picture


gym.register("MultiGoal-v0", MultiGoal, max_episode_steps=40)


def make_env(args: Args, film: Path | None = None) -> gym.Env:
    """One environment with flat observations; its episodes are filmed into the folder `film`."""
    warnings.filterwarnings("ignore", message=".*is out of date")
    if film and sys.platform == "linux":
        os.environ.setdefault("MUJOCO_GL", "egl")  # films need no screen
    mujoco.set_mju_user_warning(lambda x: None if "settotalmass" in x else print("MuJoCo:", x))  # HalfCheetah's file
    try:  # not every constructor takes a render_mode
        env = gym.make(args.env_id, disable_env_checker=True, **({"render_mode": "rgb_array"} if film else {}))
    except (gym.error.Error, ImportError) as error:
        refuse(f"--env-id {args.env_id}: {error}")
    space = env.action_space
    if not isinstance(space, gym.spaces.Box) or len(space.shape) != 1 or space.dtype.kind != "f":
        refuse(f"--env-id {args.env_id}: this script needs a flat Box of floats as action space, not {space}")
    if film:
        if hasattr(env.unwrapped, "mujoco_renderer"):  # with a camera that follows, if it has one, over a wider floor
            model = env.unwrapped.model
            env.unwrapped.mujoco_renderer.camera_id = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_CAMERA, "track")
            model.geom_size[model.geom_type == mujoco.mjtGeom.mjGEOM_PLANE, :2] *= 25
            model.mat_texrepeat *= 25
        name = re.sub(r"\W", "-", f"{args.env_id}-{time.strftime('%Y%m%d-%H%M%S')}")
        print(f"filming into {film / name}-episode-0.mp4")
        env = gym.wrappers.RecordVideo(env, str(film), name_prefix=name, episode_trigger=lambda episode: True)
    return gym.wrappers.RecordEpisodeStatistics(gym.wrappers.FlattenObservation(env))


class VecEnv:
    """Environments stepped in turn, each reset in the step that ends its episode, so that all transitions are real."""

    def __init__(self, num_envs: int, args: Args):
        self.envs = [make_env(args) for _ in range(num_envs)]
        self.action_space = self.envs[0].action_space

    def reset(self, seed: int, iteration: int) -> np.ndarray:
        """Start all environments anew: (num_envs, obs_dim)."""
        seeds = np.random.SeedSequence((seed, iteration)).generate_state(len(self.envs)) // 4  # < 2**30, evaluation's
        return np.array([env.reset(seed=int(seed))[0] for env, seed in zip(self.envs, seeds)])

    def step(self, actions: np.ndarray) -> tuple:
        """-> obs (num_envs, obs_dim), rewards, terminated, done, {environment: last obs}, [(return, length)]."""
        actions = np.minimum(np.maximum(actions, self.action_space.low), self.action_space.high)  # not for log_prob
        results = []
        final_obs = {}
        episodes = []
        for i, env in enumerate(self.envs):
            obs, reward, terminated, truncated, info = env.step(actions[i])
            done = bool(terminated or truncated)
            if done:
                final_obs[i] = obs
                episodes.append((info["episode"]["r"], info["episode"]["l"]))
                obs, _ = env.reset()
            results.append((obs, float(reward), bool(terminated), done))
        obs, rewards, terminated, done = zip(*results)
        return np.array(obs), rewards, terminated, done, final_obs, episodes

    def close(self) -> None:
        for env in self.envs:
            env.close()


class RunningMeanStd:
    """Mean and variance of all rows up to now (Welford 1962), in float64; m2 is the sum of squared deviations."""

    def __init__(self, shape: tuple[int, ...]):
        self.count = 1e-4
        self.mean = np.zeros(shape)
        self.m2 = np.full(shape, 1e-4)

    def update(self, rows: np.ndarray) -> None:
        """Take in rows (N, *shape)."""
        for row in rows:
            self.count += 1
            delta = row - self.mean
            self.mean = self.mean + delta / self.count
            self.m2 = self.m2 + delta * (row - self.mean)


def normalize_obs(obs: np.ndarray, stats: RunningMeanStd, args: Args, update: bool = False) -> np.ndarray:
    """Observations (num_envs, obs_dim) as the network sees them, float32."""
    if args.norm_obs:
        if update:
            stats.update(obs)
        obs = ((obs - stats.mean) / np.sqrt(stats.m2 / stats.count + 1e-8)).clip(-10.0, 10.0)
    return obs.astype(np.float32)


def scale_rewards(rewards, done, stats: RunningMeanStd, discounted: np.ndarray, args: Args) -> np.ndarray:
    """Rewards (num_steps, num_envs) over the running std of the discounted return, whose state is `discounted`."""
    if not args.norm_reward:
        return rewards
    variance = np.empty((len(rewards), 1))
    for t in range(len(rewards)):
        discounted[:] = args.gamma * discounted + rewards[t]
        stats.update(discounted)
        variance[t] = stats.m2 / stats.count
        discounted[done[t]] = 0.0
    return (rewards / np.sqrt(variance + 1e-8)).clip(-10.0, 10.0)


def diagnose(main, pref, fused, batch: Batch, action_range: torch.Tensor, args: Args) -> dict[str, float]:
    """The critic, how wide the policies are, and how the experts stand to each other, before the update. kl_* are bounds.
    modes_* is exp(entropy of the weights). mode_sigma is the preference's modes', by weight. Whatever their weight,
    mode_distance is between two of their means, and mode_share is rho = s_k^2 / (s_k^2 + lambda s_theta^2)."""
    columns = {"explained_variance": 1 - (batch.returns - batch.value).var() / batch.returns.var()}
    for name, policy in {"main": main, "pref": pref, "fused": fused}.items():
        columns[f"entropy_{name}"] = policy.entropy().mean()
        columns[f"sigma_{name}"] = policy.std.mean()
        columns[f"trace_{name}"] = policy.std.square().sum(-1).mean()
    narrower = fused.std.square().sum(-1) < torch.min(main.std.square().sum(-1), pref.std.square().sum(-1))
    columns |= {
        "lambda_pref": args.lambda_pref,  # the argument; a learned lambda needs a column of its own
        "variance_reduced": narrower.float().mean(),  # share of states
        "kl_fused_pref": fused.kl(pref).mean(),
        "kl_fused_main": fused.kl(main).mean(),
        "mean_difference": ((main.mean - pref.mean).abs() / action_range)[:, action_range > 0].mean(),  # share of it
        "guidance": torch.corrcoef(torch.stack([batch.A_norm, pref.log_prob(batch.action)]))[0, 1],
    }
    for name, log_w in {"pref": pref.log_weight, "fused": fused.log_weight}.items():
        columns[f"modes_{name}"] = (-(log_w.exp() * log_w).sum(-1)).exp().mean()
    pairs = max(1, args.num_modes * (args.num_modes - 1))
    columns["mode_distance"] = torch.cdist(pref.modes.mean, pref.modes.mean).sum((-2, -1)).mean() / pairs
    columns["mode_sigma"] = (pref.log_weight.exp() * pref.modes.std.mean(-1)).sum(-1).mean()
    main_precision = main.modes.std**-2
    columns["mode_share"] = (main_precision / (main_precision + args.lambda_pref * pref.modes.std**-2)).mean()
    return {name: float(x) for name, x in columns.items()}


# How training that goes wrong shows in metrics.csv: a column, the bounds that it leaves, and what to turn.
SIGNATURES = (
    ("mode_sigma", 0.05, math.inf, "the preference's entropy is collapsing: raise --alpha"),
    ("mode_sigma", 0.0, 1.9, "the modes are at their widest, so they guide no longer: lower --alpha or --w-pref"),
    ("mean_difference", 0.0, 0.15, "the experts' means are far apart: raise --w-cons"),
    ("approx_kl", -math.inf, 0.2, "updates are too large: lower --beta1, --w-pref or --learning-rate"),
)


def evaluate(learner: Learner, env: gym.Env, episodes: int, args: Args) -> list[float]:
    """Returns of so many episodes, with seeds from 2**30, in unscaled rewards; closes the environment."""
    act = learner.make_act(learner.agent, args)
    rng = np.random.default_rng(args.seed)
    gather = learner.obs_stats.count < 1  # only for weights that come without statistics
    space = env.action_space
    limit = (env.spec and env.spec.max_episode_steps) or 1_000  # without one an episode might never end
    returns = []
    with env:
        for episode in range(episodes):
            obs, _ = env.reset(seed=2**30 + episode)
            returns.append(0.0)
            for _ in range(limit):
                noise = 0.0 if args.eval_deterministic else sample_noise(rng, (1,), space)
                action = act(normalize_obs(np.array(obs)[None], learner.obs_stats, args, update=gather), noise)[0]
                obs, reward, terminated, truncated, _ = env.step(action.clip(space.low, space.high))
                returns[-1] += float(reward)
                if terminated or truncated:
                    break
            else:
                print(f"warning: {args.env_id} sets no time limit: evaluation cut off after {limit} steps")
    return returns


class Log:
    """A run's folder (config.json, metrics.csv, checkpoint.pt, evaluation.json), the screen, and Weights & Biases."""

    def __init__(self, learner: Learner, args: Args):
        """Create and lock the folder, or with --resume lock it and load the learner from it."""
        self.learner = learner
        self.args = args
        name = args.run_name or f"{args.env_id}__{args.exp_name}__{args.seed}__{time.time_ns()}"
        name = re.sub(r'^\.|[/\\:*?"<>|]', "_", name)
        self.folder = Path("runs", name) if args.resume is None else Path(args.resume)
        self.metrics = self.folder / "metrics.csv"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.lock = FileLock(self.folder / ".lock", blocking=False, fallback_to_soft=False)
        try:
            self.lock.acquire()
        except Timeout:
            refuse(f"another process trains in {self.folder}: it holds {self.lock.lock_file}")
        except OSError as error:  # a file system without locks
            print(f"{self.lock.lock_file} cannot be locked ({error.strerror}): start no second process in this folder")
        if args.resume is not None:
            learner.load(args.resume, args)
            if learner.iteration >= args.num_iterations and (self.folder / "evaluation.json").exists():
                print(f"{self.folder} is finished; to go on, give a longer --total-timesteps")
                sys.exit(0)
            rows = self.metrics.read_bytes().splitlines(keepends=True) if self.metrics.exists() else []
            write_whole(self.metrics, b"".join(rows[: 1 + learner.iteration]))  # drop one newer than the checkpoint
        elif self.metrics.exists():
            refuse(f"{self.folder} exists: give another --run-name, or --resume {self.folder}")
        self.wandb = None
        if args.track:
            import wandb

            run = dict(project=args.wandb_project_name, entity=args.wandb_entity, name=self.folder.resolve().name)
            run |= dict(id=learner.wandb_id, resume="allow", config=asdict(args), allow_val_change=True)
            try:
                self.wandb = wandb.init(**run, dir=self.folder)
            except (wandb.Error, ValueError) as error:
                refuse(f"--track: {error} (WANDB_MODE=offline needs no login and no network)")
            learner.wandb_id = self.wandb.id  # within a sweep, the sweep's
        versions = {library.__name__: library.__version__ for library in (torch, gym, mujoco, np)}
        config = asdict(args) | {"resume": None, "id": learner.wandb_id, "versions": versions}
        write_whole(self.folder / "config.json", json.dumps(config, indent=2).encode())
        learner.save(self.folder, args)
        (self.folder / "evaluation.json").unlink(missing_ok=True)  # of a run that now goes on
        print(f"{args.env_id}: {args.num_iterations} iterations of {args.batch_size} steps, into {self.folder}")
        self.advice_given = set()
        self.started = time.perf_counter() - learner.seconds
        self.compiled = None  # iteration and seconds after the first iteration of this process, which compiles

    def end_iteration(self, episodes: list, losses: dict, diagnostics: dict[str, float], args: Args) -> None:
        """Evaluate where it is due, write, save and show; ends the program where numbers are not finite."""
        learner = self.learner
        step = learner.iteration * args.batch_size
        if not (math.isfinite(losses["loss"]) and learner.params.isfinite().all()):
            sys.exit(f"error: not finite at step {step}: {self.folder} keeps the checkpoint before")
        mean_return, mean_length = np.mean(episodes, axis=0) if episodes else (math.nan, math.nan)
        evaluating = args.eval_every and learner.iteration % args.eval_every == 0
        eval_return = np.mean(evaluate(learner, make_env(args), 3, args)) if evaluating else math.nan
        seconds = time.perf_counter() - self.started
        row = dict(global_step=step, episodic_return=mean_return, episodic_length=mean_length, eval_return=eval_return)
        speed = args.batch_size / (seconds - learner.seconds)
        row |= losses | diagnostics | dict(lr=args.learning_rate, SPS=speed, seconds=seconds)
        learner.seconds = seconds
        with open(self.metrics, "a+", newline="") as file:
            file.seek(0)
            header = file.readline().strip()
            table = csv.DictWriter(file, header.split(",") if header else row, restval=math.nan, lineterminator="\n")
            if not header:
                table.writeheader()
            table.writerow(row)  # an error where a column is new
            file.flush()
            os.fsync(file.fileno())  # both files: under 1 % of a default run
        learner.save(self.folder, self.args)
        if self.wandb:
            self.wandb.log({name: x for name, x in row.items() if not math.isnan(x)}, step=step)
        if self.compiled is None:
            self.compiled = learner.iteration, seconds
            moments = learner.adam["v"].split([x.numel() for x in learner.agent.parameters()])
            for (name, _), v in zip(learner.agent.named_parameters(), moments):
                if not (v.any() or name.startswith("preference") and (args.fusion == "none" or args.num_modes == 1)):
                    print(f"warning: no gradient has reached {name}")
        elif learner.iteration % 10 == 0 or learner.iteration == args.num_iterations:
            pace = (learner.iteration - self.compiled[0]) / (seconds - self.compiled[1])  # iterations a second
            left = (args.num_iterations - learner.iteration) / pace / 60
            print(f"step={step} return={mean_return:.1f} SPS={args.batch_size * pace:.0f} {left:.1f} min left")
        for column, low, high, advice in SIGNATURES:
            if not low <= row[column] <= high and advice not in self.advice_given:
                print(f"warning: {column} is {row[column]:.3g}: {advice}")
                self.advice_given.add(advice)


def refuse(message: str) -> NoReturn:
    """End the program, as with whatever the command line got wrong."""
    print("error: " + " ".join(message.split()), file=sys.stderr)
    sys.exit(2)


def parse_args(argv: list[str] | None = None) -> Args:
    """The command line; with --resume or --evaluate, on top of the arguments saved with the run."""
    args = tyro.cli(Args, args=argv, description=__doc__)
    if args.resume is not None or args.evaluate is not None:
        path = Path(args.resume, "checkpoint.pt") if args.evaluate is None else args.evaluate
        saved = {name: x for name, x in load_checkpoint(path)["args"].items() if name in asdict(args)}
        saved |= dict(resume=args.resume, evaluate=args.evaluate)
        if args.evaluate is not None:
            saved |= dict(capture_video=False, track=False)
        args = tyro.cli(Args, args=argv, description=__doc__, default=Args(**saved))
        changed = {name: x for name, x in asdict(args).items() if x != saved.get(name, x)}
        if args.resume is not None and {"env_id", "seed", "num_envs", "num_steps", "num_modes"} & changed.keys():
            refuse(f"--resume cannot change the task, the seed or shapes: {changed}")
        if args.resume is not None and changed:
            print(f"from here on, with schedules of {args.total_timesteps} steps: {changed}")
    # Least and largest value of numbers; where not named, 0 to 1e6 for fractions and from 1 for whole ones.
    ranges = dict(seed=(0, 2**32 - 1), total_timesteps=(args.batch_size, 2**53), eval_every=(0, 2**53), gamma=(0, 1))
    ranges |= dict(gae_lambda=(0, 1), max_grad_norm=(1e-9, 1e6), target_kl=(1e-9, 1e6), num_modes=(1, 64))
    ranges["logstd_init"] = -6, 0.6
    for name, x in asdict(args).items():
        low, high = ranges.get(name, (0, 1e6) if type(x) is float else (1, 2**53))
        if type(x) in (int, float) and not low <= x <= high:
            refuse(f"--{name.replace('_', '-')} {x}: give a number from {low:g} to {high:g}")
    if args.batch_size % args.num_minibatches or args.batch_size == args.num_minibatches:
        refuse(f"--num-minibatches {args.num_minibatches}: must divide the {args.batch_size} steps of a batch")
    for flag, package in {"track": "wandb", "capture_video": "moviepy"}.items():
        if getattr(args, flag) and not find_spec(package):
            refuse(f"--{flag.replace('_', '-')}: run pip install {package}")
    return args


def main(args: Args) -> None:
    """Train and evaluate, or only evaluate."""
    torch.set_num_threads(1)  # a network of this size is slower on more
    torch.manual_seed(args.seed)
    np.random.seed(args.seed)  # for environments that draw from it
    random.seed(args.seed)  # likewise
    log = None
    try:
        with closing(VecEnv(args.num_envs if args.evaluate is None else 1, args)) as envs:
            learner = Learner(envs.envs[0], args)
            if args.evaluate is None:
                log = Log(learner, args)
                if learner.iteration < args.num_iterations:
                    train(envs, learner, log, args)
            else:
                learner.load(args.evaluate, args)
                print(f"{args.evaluate}, of {load_checkpoint(args.evaluate)['args'].get('env_id', 'an unknown task')}:")
        scheduled = replace(args, **schedule(args, learner))
        returns = evaluate(learner, make_env(args), args.eval_episodes, scheduled)
        result = dict(mean=np.mean(returns), std=np.std(returns), episodes=len(returns), returns=returns)
        print("evaluation: mean={mean:.2f} std={std:.2f} episodes={episodes}".format(**result), end=" ")
        print(f"({'mean' if args.eval_deterministic else 'sampled'} actions in {args.env_id}, std over episodes)")
        if log:
            result["global_step"] = learner.iteration * args.batch_size
            write_whole(log.folder / "evaluation.json", json.dumps(result).encode())
        if log and log.wandb:
            log.wandb.summary["evaluation"] = result
            log.wandb.log_artifact(log.folder / "checkpoint.pt", name=f"agent-{log.wandb.id}", type="model")
        if args.capture_video:  # last, in case it fails
            evaluate(learner, make_env(args, film=(log.folder if log else Path()) / "videos"), 1, scheduled)
    except KeyboardInterrupt:
        print(f"\nstopped; to go on: python {sys.argv[0]} --resume '{log.folder}'" if log else "\nstopped")
        sys.exit(130)


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)
    for number in {signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)}:  # Windows has no SIGHUP
        if signal.getsignal(number) != signal.SIG_IGN:  # as nohup leaves it
            signal.signal(number, lambda number, _: sys.exit(128 + number))
    main(parse_args())
