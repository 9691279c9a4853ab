# /// script
# requires-python = ">=3.10"
# dependencies = ["torch==2.13.0", "gymnasium[mujoco,box2d]==1.4.0", "mujoco<4.1", "numpy>=2.2", "tyro>=1.0", "tqdm>=4.67", "filelock>=3.16", "wandb>=0.31"]
# ///
"""Does PrefPoE carry over to off-policy learning? Soft actor-critic (SAC) acting with a product of two policy heads.

    python open_questions/prefpoe_sac.py --env-id HalfCheetah-v4 --seed 1      # train, evaluate, save under runs/
    python open_questions/prefpoe_sac.py --fusion none --w-pref 0 --w-cons 0   # SAC itself
    python open_questions/prefpoe_sac.py --resume runs/<run>                   # go on after an interruption
    python open_questions/prefpoe_sac.py --evaluate runs/<run>                 # evaluate only
    python open_questions/prefpoe_sac.py --help                                # every option

The actor has a main expert pi_theta and a preference expert pi_p on one backbone, and acts with their product, the fused
policy pi_f, squashed by tanh. SAC (Haarnoja et al. 2018, arXiv 1812.05905) trains pi_f; pi_p is trained on actions
weighed by their advantage min Q(s, a) - V(s): replayed ones, with which it diverges, or with --pref-actions own those
of pi_f, with which it does not, nor helps (sac.md). Read on to the line of ====.
"""

from __future__ import annotations

import copy
import difflib
import importlib
import io
import json
import math
import os
import re
import signal
import sys
import time
import warnings
import zipfile
import zlib
from collections import namedtuple
from collections.abc import Callable
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields, make_dataclass
from importlib.metadata import version
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Literal, NamedTuple, NoReturn

import gymnasium as gym
import numpy as np
import torch
import tyro
from filelock import FileLock, Timeout
from torch import nn
from torch.func import functional_call, grad_and_value
from torch.nn.functional import softplus
from torch.nn.utils import parameters_to_vector, vector_to_parameters
from tqdm import tqdm


@dataclass(frozen=True)
class Run:
    env_id: str = "HalfCheetah-v4"  # Gymnasium id of the environment, or module:id, where the module registers it
    seed: int = 1  # seed of training: environments, initial weights, noise; evaluations always start alike
    total_timesteps: int = 1_000_000  # environment steps to train for, over all environments; in whole iterations
    exp_name: str = Path(__file__).stem  # name of the experiment, part of the run's name
    run_name: str = ""  # folder under runs/ (default: <env_id>__<exp_name>__<seed>__<unix time>-<ns>)
    resume: str | None = None  # run folder to go on with; only Logging, cuda and compile may differ from its own
    evaluate: str | None = None  # run folder or checkpoint to evaluate, without training
    cuda: bool = False  # update on the GPU (acting stays on the CPU, where a network of this size is faster)
    compile: bool = True  # compile the update with torch.compile; without a C++ compiler it runs eagerly


@dataclass(frozen=True)
class SAC:
    learning_rate: float = 3e-4  # Adam's learning rate of the actor
    q_lr: float = 1e-3  # Adam's learning rate of the critics and of the temperature
    num_envs: int = 1  # environments stepped in turn; an update follows after all of them
    num_steps: int = 1000  # steps in each environment, and updates, between two rows of metrics.csv
    learning_starts: int = 5000  # steps of uniform random actions before the first update
    buffer_size: int = 1_000_000  # replay memory, saved beside checkpoint.pt till the end: 168 bytes each (HalfCheetah)
    minibatch_size: int = 256  # transitions an update
    gamma: float = 0.99  # discount factor
    tau: float = 0.005  # how far the target critics follow the critics at an update
    num_actions: int = 1  # actions of pi_f a state over which the actor's loss and V(s) are averaged


@dataclass(frozen=True)
class Preference:
    fusion: Literal["poe", "linear", "none"] = "poe"  # pi_f: the experts' product, their average, or pi_theta alone
    lambda_pref: float = 1.0  # lambda, the weight of the preference in the fusion
    beta1: float = 0.2  # beta_1, the weight of the advantages in L_pref
    alpha: float = 0.2  # alpha, the weight of the preference's entropy in L_pref
    w_pref: float = 0.05  # weight of L_pref in the actor's loss
    w_cons: float = 0.1  # weight of L_cons, the KL from the fused policy to the preference
    pref_actions: Literal["replayed", "own"] = "replayed"  # whose actions L_pref weighs: replayed (diverges) or pi_f's


@dataclass(frozen=True)
class Logging:
    eval_every: int = 25  # iterations between two evaluations of tanh of the mean, 3 episodes each (0: never)
    eval_episodes: int = 10  # episodes of the evaluation at the end
    eval_deterministic: bool = True  # evaluate tanh of the policy's mean rather than samples
    capture_video: bool = False  # film the evaluation at the end as mp4 (needs moviepy)
    video_episodes: int = 1  # episodes to film
    checkpoint_every: int = 50  # iterations between two checkpoints
    track: bool = False  # log to Weights & Biases
    wandb_project_name: str = "prefpoe"  # project there; group and tags come from WANDB_RUN_GROUP and WANDB_TAGS
    wandb_entity: str | None = None  # team there


@dataclass(frozen=True)
class Args(Logging, Preference, SAC, Run):
    """Every option; --help shows them in these groups."""

    @property
    def batch_size(self) -> int:
        return self.num_envs * self.num_steps

    @property
    def num_iterations(self) -> int:
        return self.total_timesteps // self.batch_size


STD_BOUNDS = 1e-3, 2.0  # of the std that `fuse` gives


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

    def kl(self, other: Gaussian) -> torch.Tensor:
        """KL(self || other) in closed form: (batch,)."""
        variance_ratio = (self.std / other.std) ** 2
        shift = ((self.mean - other.mean) / other.std) ** 2
        return 0.5 * (variance_ratio + shift - 1 - variance_ratio.log()).sum(-1)


def fuse(main: Gaussian, pref: Gaussian, args: Args) -> Gaussian:
    """The fused policy pi_f, per action dimension, of tensors in the losses and of numpy arrays in acting.

    poe:     pi_f proportional to pi_theta pi_p^lambda: 1/s_f^2 = 1/s_theta^2 + lambda/s_p^2 and
             mu_f = s_f^2 (mu_theta/s_theta^2 + lambda mu_p/s_p^2). With lambda >= 1 it is sharper
             than either expert; with lambda < 1 only s_f <= s_theta is guaranteed.
    linear:  means and standard deviations averaged with weights 1 : lambda, the contrast.
    none:    the main expert alone; only with w_pref = w_cons = 0 is no preference trained either.
    s_f is kept within STD_BOUNDS, except with none.
    """
    if args.fusion == "none":
        return main
    main_share, pref_share, std = shares(main.std, pref.std, args)
    return Gaussian(main_share * main.mean + pref_share * pref.mean, std)


def shares(main_std, pref_std, args: Args) -> tuple:
    """What each expert's mean counts in the fused one, and the fused std."""
    if args.fusion == "linear":
        total = 1 + args.lambda_pref
        return 1 / total, args.lambda_pref / total, ((main_std + args.lambda_pref * pref_std) / total).clip(*STD_BOUNDS)
    main_precision, pref_precision = main_std**-2, args.lambda_pref * pref_std**-2
    precision = main_precision + pref_precision
    return main_precision / precision, pref_precision / precision, (precision**-0.5).clip(*STD_BOUNDS)


class Actor(nn.Module):
    """One backbone with two heads, main expert pi_theta and preference expert pi_p, over actions before the tanh."""

    def __init__(self, obs_dim: int, action_dim: int):
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(obs_dim, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU())
        self.actor = nn.Linear(256, 2 * action_dim)  # mean, and log std before it is bounded
        self.preference = nn.Linear(256, 2 * action_dim)

    def forward(self, obs: torch.Tensor) -> tuple[Gaussian, Gaussian]:
        """obs (batch, obs_dim) -> main expert, preference expert; log std lies within [-5, 2]."""
        hidden = self.backbone(obs)
        heads = (head(hidden).chunk(2, dim=-1) for head in (self.actor, self.preference))
        main, pref = (Gaussian(mean, (3.5 * torch.tanh(log_std) - 1.5).exp()) for mean, log_std in heads)
        return main, pref


class Critics(nn.Module):
    """Two networks Q(s, a), side by side in the first dimension of every weight."""

    def __init__(self, obs_dim: int, action_dim: int):
        super().__init__()
        sizes = (obs_dim + action_dim, 256, 256, 1)
        for i, (size, out) in enumerate(pairwise(sizes)):
            for name, shape in {f"W{i}": (2, size, out), f"b{i}": (2, 1, out)}.items():  # as nn.Linear starts
                setattr(self, name, nn.Parameter(torch.empty(shape).uniform_(-(size**-0.5), size**-0.5)))

    def forward(self, obs: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        """obs (batch, obs_dim), action (batch, action_dim) within +-1 -> Q of both: (2, batch)."""
        x = torch.cat([obs, action], -1).expand(2, -1, -1)
        x = torch.relu(x @ self.W0 + self.b0)
        x = torch.relu(x @ self.W1 + self.b1)
        return (x @ self.W2 + self.b2).squeeze(-1)


class Agent(nn.Module):
    """Actor, critics, and the log of the temperature, which weighs the entropy."""

    def __init__(self, obs_dim: int, action_dim: int):
        super().__init__()
        self.actor, self.critics = Actor(obs_dim, action_dim), Critics(obs_dim, action_dim)
        self.log_temperature = nn.Parameter(torch.zeros(1))


# Replayed transitions, each (batch, ...); u is the action before the tanh.
Batch = namedtuple("Batch", "obs u reward next_obs terminated")
# Means over a minibatch; `loss` is the sum of what is minimised, entropy that of the squashed pi_f.
Losses = namedtuple("Losses", "loss critic_loss actor_loss pref_loss cons_loss entropy temperature q")


def normalized(advantage: torch.Tensor) -> torch.Tensor:
    """Mean 0, std 1 over a minibatch: A_norm."""
    return (advantage - advantage.mean()) / (advantage.std() + 1e-8)


def log_prob_squashed(policy: Gaussian, u: torch.Tensor) -> torch.Tensor:
    """log pi(a) of a = tanh(u): log N(u) - sum log(1 - tanh(u)^2), in a form that keeps its digits; (batch,)."""
    return policy.log_prob(u) - 2 * (math.log(2) - u - softplus(-2 * u)).sum(-1)


def preference_loss(pref, action: torch.Tensor, A_norm: torch.Tensor, beta1: float, alpha: float) -> torch.Tensor:
    """L_pref = -beta_1 E[A_norm log pi_p(a|s)] - alpha E[H(pi_p)], action before the tanh.

    On one batch it has no minimum in mu_p, since log pi_p of an action of negative A_norm falls for ever. Here no
    clipped surrogate holds mu_p. Where it comes to rest, and where it cannot: sac.md.
    """
    return -beta1 * (A_norm * pref.log_prob(action)).mean() - alpha * pref.entropy().mean()


def total_loss(
    agent: Weights, frozen: Weights, target: Weights, batch: Batch, noise: torch.Tensor, args: Args
) -> Losses:
    """The losses of critics, temperature and actor; each reaches its own weights alone.

    critics:      E[(Q(s, a) - y)^2] of both, y = r + gamma (1 - terminated) (min Q'(s', a') - temperature log pi_f)
    temperature:  -temperature (E[log pi_f] - action_dim), so that pi_f keeps an entropy of -action_dim nats
    actor:        E[temperature log pi_f - min Q(s, a_f)] + w_pref L_pref + w_cons L_cons, L_cons = E[KL(pi_f || pi_p)]

    L_pref weighs actions by A(s, a) = min Q(s, a) - V(s), V(s) the mean of min Q(s, a_f). It and L_cons take
    the Gaussians before the tanh: densities at u and at a differ by a factor that no weight changes, and KL does not.
    `agent`, `frozen` and `target` hold the parts of an agent: with its weights, with those without gradient, and with
    the target critics Q'. noise is (2 + num_actions, batch, action_dim).
    """
    with torch.no_grad():
        policy = fuse(*frozen.actor(batch.next_obs), args)
        u = policy.mean + policy.std * noise[0]
        next_value = target.critics(batch.next_obs, torch.tanh(u)).amin(0)
        next_value = next_value - frozen.temperature * log_prob_squashed(policy, u)
        y = batch.reward + args.gamma * (1 - batch.terminated) * next_value
    q = agent.critics(batch.obs, torch.tanh(batch.u))
    critic_loss = ((q - y) ** 2).mean(-1).sum()

    main, pref = agent.actor(batch.obs)
    fused = fuse(main, pref, args)
    u = fused.mean + fused.std * noise[2:]  # (num_actions, batch, action_dim)
    obs = batch.obs.expand(len(u), -1, -1).flatten(0, 1)
    q_fused = frozen.critics(obs, torch.tanh(u).flatten(0, 1)).amin(0).view(u.shape[:-1])
    log_prob = log_prob_squashed(fused, u)
    actor_loss = (frozen.temperature * log_prob - q_fused).mean()
    temperature_loss = -(agent.temperature * (log_prob.detach() - u.shape[-1])).mean()

    weighed, q_weighed = batch.u, q.amin(0)
    if args.pref_actions == "own":
        weighed = (fused.mean + fused.std * noise[1]).detach()
        q_weighed = frozen.critics(batch.obs, torch.tanh(weighed)).amin(0)
    A_norm = normalized((q_weighed - q_fused.mean(0)).detach())
    pref_loss = preference_loss(pref, weighed, A_norm, args.beta1, args.alpha)
    cons_loss = fused.kl(pref).mean()
    loss = critic_loss + temperature_loss + actor_loss + args.w_pref * pref_loss + args.w_cons * cons_loss
    parts = critic_loss, actor_loss, pref_loss, cons_loss
    return Losses(loss, *parts, -log_prob.mean(), agent.temperature.mean(), q.mean())


def main(args: Args) -> int:
    """Train, or only evaluate; returns the exit code."""
    learner, progress = make_learner(args)
    if args.evaluate:
        return evaluate_only(learner, args)
    agent, params, target, adam, replay, rng = learner
    envs, log, step = VecEnv(args.env_id, args.num_envs), Log(learner, progress, args), make_step(agent, args)
    obs = first_obs(envs, progress["iteration"], args)
    for iteration in range(progress["iteration"] + 1, args.num_iterations + 1):
        episodes, total, updates = [], 0.0, 0
        for _ in range(args.num_steps):
            u = explore(obs, agent, replay, envs.single_action_space, rng, args)
            obs, ended = interact(envs, obs, u, replay)
            episodes += ended
            if replay.count > args.learning_starts:
                total, updates = total + update(step, params, target, adam, replay, rng, args), updates + 1
        losses = Losses(*(total / updates).tolist()) if updates else Losses(*[math.nan] * len(Losses._fields))
        log.end_iteration(iteration, episodes, losses, diagnose(agent, replay, rng, args), args)
    return log.end_run(args)


def explore(obs: np.ndarray, agent: Agent, replay: Replay, action_space: gym.Space, rng, args: Args) -> np.ndarray:
    """The action before the tanh, of a uniform one until learning starts, then of pi_f: (num_envs, action_dim)."""
    if replay.count < args.learning_starts:
        return np.arctanh(rng.uniform(-1, 1, (len(obs), *action_space.shape))).astype(np.float32)
    return numpy_policy(agent, args)(obs, sample_noise(rng, (len(obs),), action_space))


def interact(envs: VecEnv, obs: np.ndarray, u: np.ndarray, replay: Replay) -> tuple[np.ndarray, list]:
    """One step into the replay memory: the observations to go on from, (return, length) of each episode that ended.

    A time limit is no termination: the value of the episode's own last observation is bootstrapped.
    """
    next_obs, reward, terminated, _, info = envs.step(to_action(u, envs.single_action_space))
    for i in range(len(obs)):
        replay.add(obs[i], u[i], reward[i], info["final_obs"].get(i, next_obs[i]), terminated[i])
    return next_obs.astype(np.float32), info["episodes"]


def to_action(u: np.ndarray, action_space: gym.spaces.Box) -> np.ndarray:
    """tanh(u), stretched from +-1 to the environment's range."""
    low, high = action_space.low.astype(np.float32), action_space.high.astype(np.float32)
    return ((high + low) / 2 + (high - low) / 2 * np.tanh(u)).clip(low, high)


class Replay:
    """The last `size` transitions, as arrays (size, ...); `count` is of all that ever came."""

    def __init__(self, size: int, obs_dim: int, action_dim: int):
        widths = Batch(obs=(obs_dim,), u=(action_dim,), reward=(), next_obs=(obs_dim,), terminated=())
        self.size, self.count = size, 0
        self.columns = Batch(*(np.zeros((size, *width), np.float32) for width in widths))

    def add(self, *transition) -> None:
        """Take in one transition: obs, u, reward, next_obs, terminated."""
        for column, x in zip(self.columns, transition, strict=True):
            column[self.count % self.size] = x
        self.count += 1

    def is_finite(self, n: int) -> bool:
        """Whether the last n transitions are."""
        rows = np.arange(max(0, self.count - n), self.count) % self.size
        return all(np.isfinite(column[rows]).all() for column in self.columns)

    def sample(self, rng: np.random.Generator, n: int, device: torch.device) -> Batch:
        """n transitions, each as likely as the others."""
        rows = rng.integers(min(self.count, self.size), size=n)
        return Batch(*(torch.from_numpy(column[rows]).to(device) for column in self.columns))


def update(step: Callable, params: torch.Tensor, target: torch.Tensor, adam: Adam, replay: Replay, rng, args: Args):
    """One step on a minibatch; returns its losses, (len(Losses),)."""
    assert args is step.args, "the step is built with its arguments: what changes over training must go in as a tensor"
    batch = replay.sample(rng, args.minibatch_size, params.device)
    noise = torch.randn((2 + args.num_actions, *batch.u.shape)).to(params.device)  # by the generator that is saved
    return step(params, target, adam, batch, noise)


# ======================================================================================================================
# Below here are standard parts (Adam, the network in numpy), how they are fast, and what a user needs.
# ======================================================================================================================

# All that training changes; `params` is the agent's weights as one vector, `target` the target critics' as another.
# Adam: moments (num_params,), and powers (2,): beta_1^t and beta_2^t of its own betas, in one tensor with a dimension,
# since torch.compile drops in-place changes of those without.
Learner = namedtuple("Learner", "agent params target adam replay rng")
Adam = namedtuple("Adam", "m v powers")


def make_step(agent: Agent, args: Args) -> Callable:
    """Build `step(params, target, adam, batch, noise) -> losses`, in place on params, target and adam.

    Gradients of all losses, Adam (Kingma & Ba 2015) and the targets' step on flat vectors compile into one graph.
    Critics, actor and temperature move at once; CleanRL's actor and temperature move after the critics, twice every
    second step.
    """
    names, shapes = zip(*((name, x.shape) for name, x in agent.named_parameters()), strict=True)
    sizes = [shape.numel() for shape in shapes]
    of_critics = [name.startswith("critics.") for name in names]
    first = sum(size for size, critic in zip(sizes, of_critics, strict=True) if not critic)
    assert of_critics == sorted(of_critics), "critics come last: `target` takes the place of params[first:]"
    rates = [args.learning_rate if name.startswith("actor.") else args.q_lr for name in names]
    lr = torch.repeat_interleave(torch.tensor(rates), torch.tensor(sizes)).to(agent.log_temperature.device)
    m_decay, v_decay = 0.9, 0.999  # beta_1 and beta_2 of Adam
    decays = torch.tensor([m_decay, v_decay], dtype=torch.float64, device=lr.device)

    def parts(params: torch.Tensor) -> dict[str, torch.Tensor]:
        return {name: x.view(shape) for name, shape, x in zip(names, shapes, params.split(sizes), strict=True)}

    def loss(params: torch.Tensor, target: torch.Tensor, batch: Batch, noise: torch.Tensor) -> tuple:
        old = torch.cat([params[:first], target])
        losses = total_loss(*(Weights(agent, parts(x)) for x in (params, params.detach(), old)), batch, noise, args)
        return losses.loss, torch.stack(losses)

    def step(params: torch.Tensor, target: torch.Tensor, adam: Adam, batch: Batch, noise: torch.Tensor) -> torch.Tensor:
        gradient, (_, losses) = grad_and_value(loss, has_aux=True)(params, target, batch, noise)
        adam.powers.mul_(decays)  # decays**t is computed anew for every 8 weights once compiled: 7 % of a step
        adam.m.lerp_(gradient, 1 - m_decay)
        adam.v.mul_(v_decay).addcmul_(gradient, gradient, value=1 - v_decay)
        m_hat, v_hat = adam.m / (1 - adam.powers[0]).float(), adam.v / (1 - adam.powers[1]).float()
        params.sub_(lr * m_hat / (v_hat.sqrt() + 1e-8))
        target.lerp_(params[first:], args.tau)
        return losses

    built = compiled(step, args.cuda) if args.compile else step
    built.args = args
    return built


class Weights:
    """An agent's parts with other weights than its own."""

    def __init__(self, agent: Agent, weights: dict[str, torch.Tensor]):
        self.agent, self.weights, self.temperature = agent, weights, weights["log_temperature"].exp()

    def call(self, part: str, *inputs: torch.Tensor):
        weights = {name.removeprefix(f"{part}."): x for name, x in self.weights.items() if name.startswith(f"{part}.")}
        return functional_call(getattr(self.agent, part), weights, inputs)

    def actor(self, obs: torch.Tensor) -> tuple[Gaussian, Gaussian]:
        return self.call("actor", obs)

    def critics(self, obs: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        return self.call("critics", obs, action)


def compiled(function: Callable, cuda: bool) -> Callable:
    """torch.compile of a step, or the step itself where compiling fails, as without a compiler; tried on copies."""
    function.__code__ = function.__code__.replace()  # torch keeps graphs by code object: each step gets its own
    # Half the time of torch's defaults: only tensors are checked between calls, since agent and args never change,
    # and on the CPU kernels are called from C++.
    options = {"guard_filter_fn": torch.compiler.keep_tensor_guards_unsafe} | ({} if cuda else {"cpp_wrapper": True})
    fast, chosen = torch.compile(function, fullgraph=True, dynamic=False, options=options), []

    def call(*inputs):
        if not chosen:
            say("compiling the update, about 20 s the first time")
            started = time.perf_counter()
            try:
                fast(*copy.deepcopy(inputs))
                chosen.append(fast)
                say(f"compiled in {time.perf_counter() - started:.0f} s")
            except Exception as error:  # noqa: BLE001 (each backend raises its own)
                chosen.append(function)
                reason, *_ = str(error).strip().split("\n")
                say(f"torch.compile failed, going on eagerly and slower: {reason}")
        return chosen[0](*inputs)

    return call


@torch.no_grad()
def numpy_policy(agent: Agent, args: Args) -> Callable:
    """The fused policy in numpy, a fraction of an update's time for one observation.

    Returns `act(obs, noise)`: obs (N, obs_dim) and noise from `sample_noise`, or 0 for the mode -> u (N, action_dim).
    The network is written a second time here: whoever changes Actor.forward changes both.
    """
    weights = {name: x.cpu().numpy() for name, x in agent.actor.named_parameters()}
    layers = [(weights[f"{name}.weight"].T, weights[f"{name}.bias"]) for name in ("backbone.0", "backbone.2")]
    heads = [(weights[f"{name}.weight"].T, weights[f"{name}.bias"]) for name in ("actor", "preference")]

    def experts(obs: np.ndarray) -> list[Gaussian]:
        hidden = obs
        for W, b in layers:
            hidden = np.maximum(hidden.dot(W) + b, 0)
        halves = (np.split(hidden.dot(W) + b, 2, axis=-1) for W, b in heads)
        return [Gaussian(mean, np.exp(3.5 * np.tanh(log_std) - 1.5)) for mean, log_std in halves]

    def act(obs: np.ndarray, noise: np.ndarray | float) -> np.ndarray:
        fused = fuse(*experts(obs), args)
        return fused.mean + fused.std * noise

    return act


@torch.no_grad()
def check_numpy_policy(agent: Agent, obs_dim: int, args: Args) -> None:
    """AssertionError where acting, in numpy, and the losses, in torch, are not of the same policy."""
    probe = torch.linspace(-4.6, 4.6, 8 * obs_dim, dtype=torch.float64).view(8, -1) ** 3  # observations to +-97
    for exact in (copy.deepcopy(agent).cpu().double(), shaken(agent).double()):  # or rounding could tell them apart
        fused, act = fuse(*exact.actor(probe), args), numpy_policy(exact, args)
        for noise in (0.0, 1.0):
            ours = np.vstack([act(obs[None], noise) for obs in probe.numpy()])
            truth = fused.mean + fused.std * noise
            assert np.allclose(ours, truth, 1e-3, 1e-4), "acting differs from Actor.forward and fuse in torch"


@torch.no_grad()
def shaken(agent: Agent) -> Agent:
    """A copy with weights far from those at the start, where a layer can be so small that it hardly shows."""
    other, generator = copy.deepcopy(agent).cpu(), torch.Generator().manual_seed(0)
    for x in other.parameters():
        x.add_(0.3 * torch.randn(x.shape, generator=generator))
    return other


def sample_noise(rng: np.random.Generator, size: tuple[int, ...], action_space: gym.Space) -> np.ndarray:
    """What `act` adds to the mean, in units of the standard deviation: (*size, action_dim)."""
    return rng.standard_normal((*size, *action_space.shape), dtype=np.float32)


def make_env(env_id: str, video: bool = False) -> gym.Env:
    """One environment with flat observations; exits with one line where it cannot be made, or filmed."""
    warnings.filterwarnings("ignore", message=".*(is out of date|existing videos|possible render_modes)")
    if env_id == "LunarLander-v2" and env_id not in gym.registry:
        say("LunarLander-v2: registered as v3, which without wind is the same physics; this gymnasium has no v2")
        v3 = gym.spec("LunarLander-v3")
        gym.register(env_id, v3.entry_point, v3.reward_threshold, max_episode_steps=v3.max_episode_steps)
    if video and sys.platform == "linux":  # films need no screen
        os.environ.update(MUJOCO_GL=os.environ.get("MUJOCO_GL", "egl"), SDL_VIDEODRIVER="dummy")
    problem = f"--env-id {env_id}"
    try:
        if env_id in gym.registry and "mujoco" in str(gym.registry[env_id].entry_point):
            with suppress(ImportError):  # HalfCheetah's own model file is outdated; others of its warnings are shown
                mujoco = importlib.import_module("mujoco")
                mujoco.set_mju_user_warning(lambda message: "settotalmass" in message or warn(message.strip()))
        env = gym.make(env_id, disable_env_checker=True, **({"render_mode": "rgb_array"} if video else {}))
        if video:
            problem = "--capture-video (needs pip install moviepy, and a renderer)"
            importlib.import_module("moviepy")
            with suppress(AttributeError, KeyError):  # MuJoCo's default camera does not follow
                env.unwrapped.mujoco_renderer.camera_id = env.unwrapped.model.camera("track").id
            env.reset()
            if np.ndim(env.render()) != 3:
                fail(f"--capture-video: {env_id} gives no picture")
    except Exception as error:
        if isinstance(error, (gym.error.UnregisteredEnv, ImportError)):
            near = difflib.get_close_matches(env_id, gym.registry.keys() - {env_id}) if "--env-id" in problem else []
            problem += f" (near names: {', '.join(near)})" if near else ""
        if video or isinstance(error, (gym.error.Error, ImportError)) or "MUJOCO_GL" in str(error):
            fail(f"{problem}: {error}")
        raise
    flat = isinstance(space := env.observation_space, gym.spaces.Box) and len(space.shape) == 1
    if not space.is_np_flattenable:
        fail(f"--env-id {env_id}: observations of no fixed size ({space}) need a wrapper of your own")
    return env if flat else gym.wrappers.FlattenObservation(env)


def check_action_space(space: gym.Space, args: Args) -> None:
    """Exit with one line where this script's policy does not fit the action space."""
    flat = isinstance(space, gym.spaces.Box) and len(space.shape) == 1
    if not flat or not (np.abs(np.array([space.low, space.high], float)) < 1e38).all():  # float32 ends at 3e38
        fail(f"--env-id {args.env_id}: this script needs a flat, bounded Box action space, not {space}")


class VecEnv(gym.vector.SyncVectorEnv):
    """`SyncVectorEnv` in SAME_STEP autoreset mode, with a step that has a fraction of its overhead.

    An episode's last transition is a real one: `step` returns its reward and flags together with the
    first observation of the next episode, and its own last observation in `info["final_obs"]`.
    """

    def __init__(self, env_id: str, num_envs: int):
        same_step = gym.vector.AutoresetMode.SAME_STEP
        super().__init__([lambda: make_env(env_id)] * num_envs, autoreset_mode=same_step)
        self.episode = [(0.0, 0)] * num_envs  # return and length so far

    def step(self, actions: np.ndarray):
        """actions (num_envs, ...) -> obs (num_envs, obs_dim), tuples of reward, terminated and truncated, info.

        `info["final_obs"]` maps the index of each environment whose episode ended to its last
        observation, (obs_dim,); `info["episodes"]` lists (return, length) of those episodes.
        """
        steps, final_obs, episodes = [], {}, []
        for i, (env, action) in enumerate(zip(self.envs, actions, strict=True)):
            obs, reward, terminated, truncated, _ = env.step(action)
            self.episode[i] = self.episode[i][0] + float(reward), self.episode[i][1] + 1
            if terminated or truncated:
                final_obs[i] = np.array(obs)  # a copy: some environments write the next one into the same buffer
                episodes.append(self.episode[i])
                self.episode[i], (obs, _) = (0.0, 0), env.reset()
            steps.append((obs, float(reward), bool(terminated), bool(truncated)))
        obs, *outcome = zip(*steps, strict=True)
        return np.array(obs), *outcome, {"final_obs": final_obs, "episodes": episodes}


def first_obs(envs: VecEnv, iteration: int, args: Args) -> np.ndarray:
    """Of environments seeded anew after that many iterations: (num_envs, obs_dim)."""
    seeds = np.random.SeedSequence((args.seed, iteration)).generate_state(args.num_envs) // 4  # evaluation's: >= 2**30
    return envs.reset(seed=seeds.tolist())[0].astype(np.float32)


@torch.no_grad()
def diagnose(agent: Agent, replay: Replay, rng, args: Args) -> dict[str, float]:
    """The experts after an iteration's updates, on ten minibatches of replayed transitions.

    They are taken as Gaussians before the tanh, but for mean_difference. guidance is corr(A_norm, log pi_p(a|s)), and
    A_z2 E[A_norm z^2] of z = (u - mu_p) / s_p, on replayed actions and (own) on those of pi_f. V is of one action.
    """
    batch = replay.sample(rng, 10 * args.minibatch_size, agent.log_temperature.device)
    main, pref = agent.actor(batch.obs)
    fused = fuse(main, pref, args)
    noise = torch.randn((2, *batch.u.shape)).to(batch.u.device)  # by the generator that is saved
    own, other = fused.mean + fused.std * noise
    q, q_own, q_other = (agent.critics(batch.obs, torch.tanh(u)).amin(0) for u in (batch.u, own, other))
    columns = {
        "kl_fused_pref": fused.kl(pref).mean(),
        "kl_fused_main": fused.kl(main).mean(),
        "mean_difference": (torch.tanh(main.mean) - torch.tanh(pref.mean)).abs().mean() / 2,
        "guidance": torch.corrcoef(torch.stack([normalized(q - q_own), pref.log_prob(batch.u)]))[0, 1],
    }
    for name, u, advantage in (("A_z2", batch.u, q - q_own), ("A_z2_own", own, q_own - q_other)):
        z = (u - pref.mean) / pref.std
        columns[name] = (normalized(advantage)[:, None] * z**2).mean()
    for name, policy in {"main": main, "pref": pref, "fused": fused}.items():
        columns[f"entropy_{name}"], columns[f"sigma_{name}"] = policy.entropy().mean(), policy.std.mean()
        columns[f"trace_{name}"] = policy.std.square().sum(-1).mean()
    return {name: x.item() for name, x in columns.items()}


def failure_signatures(row: dict[str, float], args: Args) -> list[str]:
    """The known failures of the preference that show in a row of metrics.csv, each with the flag to turn."""
    away = abs(row["A_z2"]) > 1000 and args.pref_actions == "replayed"
    signatures = {
        "the preference has run away from the replayed actions (A_z2 beyond 1000): try --pref-actions own": away,
        "the preference's sigma is at its lower bound (e^-5): lower --beta1": row["sigma_pref"] < 0.01 and not away,
    }
    return [advice for advice, present in signatures.items() if present and args.w_pref]


def evaluate(act: Callable, env: gym.Env, episodes: int, args: Args) -> list[float]:
    """Returns of so many episodes in the environment's own rewards; episode k is seeded with 2**30 + k."""
    rng, returns, cut_off = np.random.default_rng(args.seed), [], 0
    # Without a time limit a policy may never end an episode.
    limit = math.inf if getattr(env.spec, "max_episode_steps", None) else 1_000
    bar = tqdm(unit="step", disable=None if isinstance(env, gym.wrappers.RecordVideo) else True)
    for episode in range(episodes):
        (obs, _), episode_return, length, ended = env.reset(seed=2**30 + episode), 0.0, 0, False
        while not ended and length < limit:
            noise = 0.0 if args.eval_deterministic else sample_noise(rng, (1,), env.action_space)
            u = act(np.array(obs, np.float32)[None], noise)
            obs, reward, terminated, truncated, _ = env.step(to_action(u[0], env.action_space))
            episode_return, length, ended = episode_return + float(reward), length + 1, terminated or truncated
            bar.update()
        returns.append(episode_return)
        cut_off += not ended
    bar.close()
    if cut_off:
        warn(f"{args.env_id} sets no max_episode_steps: {cut_off} of {episodes} evaluations cut off at {limit} steps")
    return returns


def final_evaluation(learner: Learner, folder: Path, args: Args) -> list[float]:
    """Returns of --eval-episodes; with --capture-video the first --video-episodes are filmed into folder/videos."""
    env = make_env(args.env_id, args.capture_video)
    if args.capture_video:
        say(f"filming into {folder}/videos, about 0.1 s a step without a GPU")
        film = dict(name_prefix=time.strftime("%Y%m%d-%H%M%S"), episode_trigger=lambda k: k < args.video_episodes)
        with writing(folder / "videos", "--capture-video: "):
            env = gym.wrappers.RecordVideo(env, f"{folder}/videos", **film)
    returns = evaluate(numpy_policy(learner.agent, args), env, args.eval_episodes, args)
    env.close()
    say(f"evaluation: mean={np.mean(returns):.2f} std={np.std(returns):.2f} episodes={len(returns)}")
    return returns


def evaluate_only(learner: Learner, args: Args) -> int:
    """Evaluate a run or a checkpoint; returns the exit code."""
    path = Path(args.evaluate)
    folder = path if path.is_dir() else path.parent
    warn_of_changes(folder, {"versions": versions()})
    final_evaluation(learner, folder, args)
    return 0


PROGRESS = dict(iteration=0, global_step=0, seconds=0.0, id="")


def make_learner(args: Args) -> tuple[Learner, dict]:
    """The learner by --seed, or as --resume or --evaluate restore it, and what else a checkpoint holds."""
    torch.set_num_threads(1)  # so that a run does not depend on how many cores there are
    torch.set_flush_denormal(True)  # Adam's m of dead ReLUs decays to denormal numbers: a quarter of an update's time
    torch.manual_seed(args.seed)
    env = make_env(args.env_id, args.capture_video)
    check_action_space(env.action_space, args)
    sizes = env.observation_space.shape[0], env.action_space.shape[0]
    agent = Agent(*sizes).to("cuda" if args.cuda else "cpu")
    check_numpy_policy(agent, sizes[0], args)
    params = parameters_to_vector(agent.parameters()).detach()
    vector_to_parameters(params, agent.parameters())  # from here on, the agent's weights are views of params
    target = parameters_to_vector(agent.critics.parameters()).detach()
    adam = Adam(torch.zeros_like(params), torch.zeros_like(params), params.new_ones(2, dtype=torch.float64))
    try:
        replay = Replay(1 if args.evaluate else min(args.buffer_size, args.total_timesteps), *sizes)
    except MemoryError as error:
        fail(f"--buffer-size {args.buffer_size}: {error}; lower it, or take a task of smaller observations")
    learner = Learner(agent, params, target, adam, replay, np.random.default_rng(args.seed))
    progress = PROGRESS | {"id": os.urandom(4).hex()}
    env.close()
    return learner, progress | (restore(learner, args) if args.resume or args.evaluate else {})


def save_checkpoint(folder: Path, learner: Learner, progress: dict, args: Args) -> None:
    """Write checkpoint.pt, which torch.load(weights_only=True) reads, and before it the replay memory that it names, so
    that a kill in between leaves the old two."""
    assert progress.keys() == PROGRESS.keys(), "what is to come back on --resume must stand in PROGRESS"
    agent, _, target, adam, replay, rng = learner
    filled = min(replay.count, replay.size)
    np.savez(buffer := io.BytesIO(), **{name: x[:filled] for name, x in replay.columns._asdict().items()})
    write_atomic(memory := folder / f"replay-{replay.count}.npz", buffer.getbuffer())
    tensors = dict(agent=agent.state_dict(), target=target, adam=adam._asdict(), torch_rng=torch.get_rng_state())
    rest = progress | dict(replay_count=replay.count, numpy_rng=json.dumps(rng.bit_generator.state), args=asdict(args))
    torch.save(tensors | rest, buffer := io.BytesIO())
    write_atomic(folder / "checkpoint.pt", buffer.getvalue())
    remove_memories(folder, keep=memory)


def remove_memories(folder: Path, keep: Path | None = None) -> None:
    """Delete saved replay memories, and what a kill left of one half-written, but for `keep`."""
    for path in folder.iterdir():
        if re.fullmatch(r"replay-\d+\.npz(\.tmp)?", path.name) and path != keep:
            with writing(folder):
                path.unlink(missing_ok=True)


def load_checkpoint(path: str) -> dict:
    """A run's checkpoint; exits with one line where there is none."""
    file = Path(path) / "checkpoint.pt" if Path(path).is_dir() else Path(path)
    try:
        checkpoint = dict(torch.load(file, map_location="cpu", weights_only=True))
        return {"args": checkpoint["args"]} | checkpoint
    except Exception as error:  # noqa: BLE001 (a damaged file raises many kinds)
        fail(f"{file} cannot be read ({type(error).__name__}): give a run's folder, or a whole checkpoint")


def restore(learner: Learner, args: Args) -> dict:
    """Bring the learner to where the checkpoint of --resume or --evaluate left it; returns what else that holds."""
    checkpoint = load_checkpoint(path := args.resume or args.evaluate)
    finished = args.resume and (Path(args.resume) / "evaluation.json").exists()  # which `open_folder` says
    if finished:
        remove_memories(Path(args.resume))  # a kill may have left one
    try:
        learner.agent.load_state_dict(checkpoint["agent"])
        if args.resume and not finished:
            learner.target.copy_(checkpoint["target"])
            for name, moment in learner.adam._asdict().items():
                moment.copy_(checkpoint["adam"][name])
            learner.rng.bit_generator.state = json.loads(checkpoint["numpy_rng"])
            torch.set_rng_state(checkpoint["torch_rng"])
            learner.replay.count = checkpoint["replay_count"]
            filled = min(learner.replay.count, learner.replay.size)
            with np.load(Path(args.resume) / f"replay-{learner.replay.count}.npz") as saved:
                for name, column in learner.replay.columns._asdict().items():
                    column[:filled] = saved[name][:filled]
    except FileNotFoundError as error:
        fail(f"{error.filename} is missing, the memory to go on with: copy it there; or another process trains here")
    except (RuntimeError, ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
        fail(f"{path} is damaged, or of another script, version or task than --env-id {args.env_id}: {error}")
    return {name: x for name, x in checkpoint.items() if name in PROGRESS}


def open_folder(args: Args) -> tuple[Path, FileLock]:
    """The folder of --resume, or a new one, locked against other processes until this one ends."""
    started = f"{int(time.time())}-{time.time_ns() % 10**9}"  # two runs may start in the same second
    name = args.run_name or f"{args.env_id}__{args.exp_name}__{args.seed}__{started}".replace("/", "_")
    folder, flag = (Path(args.resume), "--resume") if args.resume else (Path("runs", name), f"--run-name {name}")
    with writing(folder, f"{flag}: ", code=2):
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock", blocking=False)
        try:
            lock.acquire()
        except Timeout:
            fail(f"{flag}: another process trains in {folder}; wait for its end")
        trained = (folder / "metrics.csv").exists() and (folder / "metrics.csv").read_bytes().count(b"\n") > 1
    if args.resume and (folder / "evaluation.json").exists():
        say(f"{folder} is finished, nothing to resume")
        sys.exit(0)
    if trained and not args.resume:  # one that ended before its first row may start again
        fail(f"{flag}: {folder} exists; give another name, or --resume {folder}")
    return folder, lock


@contextmanager
def writing(folder: Path, flag: str = "", code: int = 1):
    """Where a file of a run cannot be written, on a full disk say, the program ends with one line."""
    try:
        yield
    except OSError as error:
        fail(f"{flag}cannot write to {folder} ({error.strerror}): make it writable, or room on the disk", code)


def write_atomic(path: Path, data: bytes) -> None:
    """A crash or a full disk at any moment leaves the old file or the new one, never half of one."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        with writing(path.parent), open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            os.replace(temporary, path)
    finally:
        with suppress(OSError):  # gone, or on a disk that has become read-only
            temporary.unlink()


class Log:
    """A run's metrics.csv, checkpoints and evaluation, its progress on the screen, and Weights & Biases."""

    def __init__(self, learner: Learner, progress: dict, args: Args):
        self.learner, self.progress, self.args, self.eval_env = learner, progress, args, make_env(args.env_id)
        self.folder, self.lock = open_folder(args)
        if args.resume and load_checkpoint(args.resume)["iteration"] != progress["iteration"]:
            fail(f"--resume {args.resume}: another process has just trained it further; try again")
        self.metrics, self.started = self.folder / "metrics.csv", time.perf_counter() - progress["seconds"]
        self.warned, self.signals, self.first, self.evaluated = set(), [], True, ""  # first: none ended here yet
        config = asdict(args) | {"resume": None, "id": progress["id"], "versions": versions()}
        if not args.resume:
            self.metrics.unlink(missing_ok=True)
            write_atomic(self.folder / "config.json", json.dumps(config, indent=2).encode())
            save_checkpoint(self.folder, learner, progress, args)
        else:
            warn_of_changes(self.folder, config)
            remove_memories(self.folder, keep=self.folder / f"replay-{learner.replay.count}.npz")
        size = f"{args.num_iterations} iterations of {args.batch_size} steps"
        say(f"{args.env_id}, seed {args.seed}: {size}, on the {'GPU' if args.cuda else 'CPU'}, into {self.folder}")
        self.wandb = start_wandb(self.folder, config, args) if args.track else None
        steps = dict(total=args.total_timesteps, initial=progress["global_step"])
        self.bar = tqdm(**steps, unit="step", disable=not sys.stderr.isatty())
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self.stop)

    def stop(self, number: int, frame: object = None) -> None:
        """Ctrl-C or SIGTERM: end after this iteration; at once the second time, or in the first one."""
        if self.signals or self.first:
            self.close(128 + number)
            os._exit(128 + number)  # callbacks of weak references swallow SystemExit, and while torch compiles many run
        self.signals.append(number)
        with suppress(OSError):  # print is not for signal handlers
            os.write(2, b"\nstopping after this iteration; once more: at once\n")

    def end_iteration(self, iteration, episodes: list, losses: Losses, diagnostics: dict, now: Args) -> None:
        """Evaluate, write and save what is due; ends the program on a signal, or where numbers are not finite."""
        args, step, params = self.args, iteration * self.args.batch_size, self.learner.params
        # A loss of nan leaves such weights, and before learning starts there is none.
        finite = not math.isinf(losses.loss) and params.isfinite().all()
        if not finite or not self.learner.replay.is_finite(args.batch_size):
            self.close(1)
            fail(f"not finite at step {step} (loss {losses.loss}): {self.folder} keeps the last good checkpoint", 1)
        weights = [*self.learner.agent.parameters()]
        whole = torch.equal(parameters_to_vector(weights), params) and all(x.requires_grad for x in weights)
        assert whole, "the step trains the agent's first weights, and all of them: some have been replaced or frozen"
        returns = [math.nan]
        if args.eval_every and iteration % args.eval_every == 0:
            returns = evaluate(numpy_policy(self.learner.agent, now), self.eval_env, 3, now)
        episodes = np.mean(episodes or [(math.nan, math.nan)], axis=0)
        row = {"global_step": step, "episodic_return": episodes[0], "episodic_length": episodes[1]}
        row |= {"eval_return": np.mean(returns)} | losses._asdict() | diagnostics | {"lr": now.learning_rate}
        self.write(row)
        for advice in set(failure_signatures(row, args)) - self.warned:
            warn(advice)
            self.warned.add(advice)
        self.progress |= dict(iteration=iteration, global_step=step)
        stopping = [*self.signals]  # one that comes while this saves ends the next iteration
        if stopping or iteration % args.checkpoint_every == 0 or iteration == args.num_iterations:
            with writing(self.folder), open(self.metrics, "rb+") as file:
                os.fsync(file.fileno())  # or a crash of the machine could leave a checkpoint without its rows
            save_checkpoint(self.folder, self.learner, self.progress, args)
        if stopping:
            say(f"stopped at step {step}; go on with --resume {self.folder}")
            self.stop(stopping[0])

    def write(self, row: dict[str, float]) -> None:
        """Add SPS, of all of the iteration, and seconds to a row, and send it everywhere."""
        args, seconds, step = self.args, time.perf_counter() - self.started, row["global_step"]
        row |= {"SPS": args.batch_size / (seconds - self.progress["seconds"]), "seconds": seconds}
        row = {name: x if isinstance(x, int) else float(x) for name, x in row.items()}
        self.progress["seconds"] = seconds
        if self.first:
            kept = whole_rows(self.metrics, ",".join(row), range(args.batch_size, step, args.batch_size))
            write_atomic(self.metrics, kept)
            self.first, self.columns = False, [*row]
        assert [*row] == self.columns, "every row of metrics.csv has the same columns: nan where there is nothing"
        with writing(self.folder), open(self.metrics, "a") as file:
            file.write(",".join(map(str, row.values())) + "\n")
        self.send(lambda run: run.log({name: x for name, x in row.items() if not math.isnan(x)}, step=step))
        if not math.isnan(row["eval_return"]):
            self.evaluated = f" eval_return={row['eval_return']:.1f}"
        progress = f"return={row['episodic_return']:.1f} SPS={row['SPS']:.0f}{self.evaluated}"
        if self.bar.disable and step // args.batch_size % 10 == 0:
            say(f"step={step} {progress}")
        self.bar.set_postfix_str(progress, refresh=False)
        self.bar.update(args.batch_size)

    def end_run(self, now: Args) -> int:
        """Evaluate the finished run; returns the exit code."""
        self.first = True  # no iteration is to be waited for
        if self.signals:
            self.stop(self.signals[0])
        self.bar.close()
        returns = final_evaluation(self.learner, self.folder, now)
        result = dict(mean=np.mean(returns), std=np.std(returns), episodes=len(returns), returns=returns)
        result["global_step"] = self.progress["global_step"]
        write_atomic(self.folder / "evaluation.json", json.dumps(result).encode())
        remove_memories(self.folder)
        self.send(lambda run: run.summary.update({"evaluation": result}))
        name = re.sub(r"[^\w.-]", "-", f"{self.folder.resolve().name[:100]}-{self.progress['id']}", flags=re.ASCII)
        self.send(lambda run: run.log_artifact(str(self.folder / "checkpoint.pt"), name=name, type="model"))
        self.close(0)
        say(f"film it:  python {sys.argv[0]} --evaluate {self.folder} --capture-video")
        if Path("benchmark/plot.py").exists():
            say(f"plot it:  python benchmark/plot.py {self.folder}")
        return 0

    def close(self, code: int) -> None:
        self.bar.close()
        self.send(lambda run: run.finish(exit_code=code))
        self.lock.release()

    def send(self, message: Callable) -> None:
        """Tell Weights & Biases; its own process may be gone, on a cluster say, which must not end the training."""
        try:
            if self.wandb:
                message(self.wandb)
        except Exception as error:  # noqa: BLE001 (a lost connection raises many kinds)
            warn(f"Weights & Biases has stopped ({error}); metrics.csv goes on")
            self.wandb = None


def whole_rows(path: Path, header: str, steps: range) -> bytes:
    """metrics.csv up to the checkpoint: the header, and of these steps the rows that a crash left whole."""
    *lines, _ = path.read_text(errors="replace").split("\n") if path.exists() else [""]
    if lines and lines[0] != header and lines[0].startswith("global_step,"):
        fail(f"{path} has other columns than this script writes: go on with the script that began it")
    whole = {line.split(",")[0]: line for line in lines if line.count(",") == header.count(",")}
    kept = [whole[str(step)] for step in steps if str(step) in whole]
    if len(kept) < len(steps):
        warn(f"{path} lacks {len(steps) - len(kept)} of its first {len(steps)} rows")
    return "\n".join([header, *kept, ""]).encode()


def start_wandb(folder: Path, config: dict, args: Args):
    """A run on Weights & Biases, offline without a login or a connection; exits with one line where it refuses."""
    import wandb

    run = dict(project=args.wandb_project_name, entity=args.wandb_entity, name=folder.resolve().name, config=config)
    run |= dict(id=config["id"], resume="allow", dir=folder)
    reason = "no Weights & Biases login"
    try:
        if "WANDB_MODE" in os.environ or wandb.login(prompt=False, verify=False):
            return wandb.init(**run, settings=wandb.Settings(init_timeout=30))
    except Exception as error:  # noqa: BLE001 (each setting raises its own)
        if type(error) is not wandb.errors.CommError:
            fail(f"--track: {error}")
        reason = " ".join(str(error).split())
    say(f"{reason}: logging offline; later, run: wandb sync {folder}/wandb/offline-run-*")
    wandb.teardown()  # or the failed run still holds its id
    return wandb.init(**run, mode="offline")


def read_json(path: Path) -> dict:
    """The file's content, {} where it holds none."""
    with suppress(OSError, TypeError, ValueError):
        return dict(json.loads(path.read_text()))
    return {}


def warn_of_changes(folder: Path, config: dict) -> None:
    """One line where a run's config.json has other arguments than `config`, another script or other libraries."""
    before, now = (x | (x.get("versions") or {}) for x in (read_json(folder / "config.json"), config))
    changed = {name: x for name, x in now.items() if before.get(name, x) != x and name != "versions"}
    if changed:
        warn(f"{folder} was made with other values than {changed}: see its config.json")


def versions() -> dict[str, str]:
    source = Path(__file__).read_bytes()  # a copy with another fusion has the same weights and arguments
    found = {"script": f"{Path(__file__).name} {zlib.crc32(source):08x}", "python": sys.version.split()[0]}
    for name in ("torch", "gymnasium", "mujoco", "box2d", "numpy"):
        with suppress(ModuleNotFoundError):
            found[name] = version(name)
    return found


def say(message: str, stream=None) -> None:
    """Print a line; where nobody reads any more, as behind `| head`, the program goes on without."""
    stream = stream or sys.stdout
    try:
        tqdm.write(message, file=stream)
        stream.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def warn(message: str) -> None:
    say(f"warning: {message}", sys.stderr)


def fail(message: str, code: int = 2) -> NoReturn:
    """End the program with one line on stderr."""
    say("error: " + " ".join(message.split()), sys.stderr)
    sys.exit(code)


def parse_args(argv: list[str] | None = None) -> Args:
    """The command line; with --resume or --evaluate, on top of the arguments saved with the run."""
    args = read_flags(argv, Args())
    if "" in (args.resume, args.evaluate) or (args.resume and args.evaluate):
        fail("--resume and --evaluate: give one of them, and a run's folder with it")
    if args.resume and not Path(args.resume).is_dir():
        fail(f"--resume {args.resume}: no such folder")
    if args.evaluate and args.track:
        fail("--track: an evaluation logs nothing; leave it out")
    if source := args.resume or args.evaluate:
        saved = load_checkpoint(source)["args"] | dict(resume=args.resume, evaluate=args.evaluate)
        saved = (asdict(Args()) if args.resume else {}) | saved  # a run may be older than a flag
        if unknown := saved.keys() - asdict(args).keys():
            fail(f"{source} is of another script: this one has no {', '.join(sorted(unknown))}")
        saved["cuda"] = saved.get("cuda", False) and torch.cuda.is_available()
        if args.evaluate:
            saved |= dict(capture_video=False, track=False)
        args = read_flags(argv, Args(**saved))
        free = {*asdict(Logging()), "cuda", "compile"}  # what changes nothing about the method
        fixed = saved.keys() - free if args.resume else {"total_timesteps", "num_envs", "num_steps"}
        for name in saved:
            if name in fixed and (value := getattr(args, name)) != saved[name]:
                fail(f"--{name.replace('_', '-')} {value} contradicts {saved[name]} of {source}: leave it out")
    check_args(args)
    return args


def read_flags(argv: list[str] | None, default: Args) -> Args:
    """argv on top of a default, in the groups that --help shows."""
    groups = {kind.__name__: kind for kind in reversed(Args.__mro__[1:-1])}
    values = {name: kind(**{x.name: getattr(default, x.name) for x in fields(kind)}) for name, kind in groups.items()}
    flags = make_dataclass("flags", groups.items())
    parsed = tyro.cli(tyro.conf.OmitArgPrefixes[flags], args=argv, description=__doc__, default=flags(**values))
    return Args(**{name: value for group in vars(parsed).values() for name, value in vars(group).items()})


LIMITS = dict(
    seed=(0, 2**32 - 1),
    eval_every=(0, 2**53),
    gamma=(0, 1),
    tau=(0, 1),
    learning_rate=(0, 1e38),
    q_lr=(0, 1e38),
    minibatch_size=(2, 2**20),
    num_actions=(1, 2**10),
)


def check_args(args: Args) -> None:
    """Exit with one line that names the first argument out of range."""
    for name, value in asdict(args).items():
        low, high = LIMITS.get(name, (0, 1e6) if type(value) is float else (1, 2**53))
        if type(value) in (int, float) and not low <= value <= high:
            fail(f"--{name.replace('_', '-')} {value}: give a number from {low:g} to {high:g}")
    if args.total_timesteps < args.batch_size:
        fail(f"--total-timesteps {args.total_timesteps}: give at least num_envs * num_steps = {args.batch_size}")
    if args.learning_starts >= (steps := args.num_iterations * args.batch_size):
        fail(f"--learning-starts {args.learning_starts}: give less than the {steps} steps of training")
    if args.run_name and (Path(args.run_name).name != args.run_name or args.run_name == ".."):
        fail(f"--run-name {args.run_name}: give the name of one folder inside runs/")
    if args.track and not find_spec("wandb"):
        fail("--track: run pip install wandb")
    if args.cuda and not torch.cuda.is_available():
        fail("--cuda: torch sees no GPU here; leave it out")


if __name__ == "__main__":
    sys.stdout, sys.stderr = (stream or open(os.devnull, "w") for stream in (sys.stdout, sys.stderr))  # noqa: SIM115
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    sys.exit(main(parse_args()))
