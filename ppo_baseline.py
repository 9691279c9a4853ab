# /// script
# requires-python = ">=3.10"
# dependencies = ["torch==2.13.0", "gymnasium[mujoco,box2d]==1.4.0", "mujoco<4.1", "numpy>=2.2", "tyro>=1.0", "tqdm>=4.67", "filelock>=3.16", "wandb>=0.31"]
# ///
"""PPO for Box and Discrete action spaces: what PrefPoE is compared with.

    python ppo_baseline.py --env-id Ant-v4 --seed 1                # train, evaluate, save under runs/
    python ppo_baseline.py --no-bootstrap-truncated                # "CleanRL's PPO" of the results
    python ppo_baseline.py --no-bootstrap-truncated --gymnasium-statistics   # and in how it counts statistics, too
    python ppo_baseline.py --shared-backbone --squash-mean --logstd-init -1   # matched PPO: as PrefPoE's main expert
    python ppo_baseline.py --resume runs/<run>                     # go on after an interruption
    python ppo_baseline.py --evaluate runs/<run>                   # evaluate only
    python ppo_baseline.py --help                                  # every option

The diff between this file and prefpoe_continuous.py is what PrefPoE adds, beside flags and Discrete actions that only
this one has. Read on to the last line of `main`. With Discrete actions norm_obs and norm_reward are off by default.
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
import zlib
from collections import namedtuple
from collections.abc import Callable
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields, make_dataclass, replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple, NoReturn

import gymnasium as gym
import numpy as np
import torch
import tyro
from filelock import FileLock, Timeout
from torch import nn
from torch.func import functional_call, grad_and_value
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
class PPO:
    learning_rate: float = 3e-4  # Adam's learning rate
    anneal_lr: bool = True  # let the learning rate fall linearly to 0
    num_envs: int = 1  # environments stepped in turn
    num_steps: int = 2048  # steps in each environment between two updates
    gamma: float = 0.99  # discount factor
    gae_lambda: float = 0.95  # lambda of generalized advantage estimation
    num_minibatches: int = 32  # minibatches an epoch
    update_epochs: int = 10  # passes over each batch
    clip_coef: float = 0.2  # epsilon of the clipped surrogate and of the clipped value loss
    ent_coef: float = 0.0  # weight of the entropy bonus
    anneal_ent: bool = False  # let ent_coef fall linearly to 0
    vf_coef: float = 0.5  # weight of the value loss
    max_grad_norm: float = 0.5  # largest norm of the gradient
    norm_obs: bool = True  # normalise observations by running statistics and clip them to +-10
    norm_reward: bool = True  # divide rewards by the running std of the discounted return and clip them to +-10


@dataclass(frozen=True)
class Baseline:
    bootstrap_truncated: bool = True  # bootstrap where a time limit ends an episode; CleanRL does not
    gymnasium_statistics: bool = False  # keep statistics as gymnasium's wrappers do, and CleanRL for each environment
    shared_backbone: bool = False  # let policy and value share one backbone, as in PrefPoE
    squash_mean: bool = False  # pass the mean of continuous actions through tanh, as in PrefPoE
    logstd_init: float = 0.0  # log std of continuous actions at the start; PrefPoE's experts: -1, their product: -1.35


@dataclass(frozen=True)
class Logging:
    eval_every: int = 25  # iterations between two evaluations, 3 episodes each (0: never)
    eval_episodes: int = 10  # episodes of the evaluation at the end
    eval_deterministic: bool = True  # evaluate the mode of the policy rather than samples of it
    capture_video: bool = False  # film the evaluation at the end as mp4 (needs moviepy)
    video_episodes: int = 1  # episodes to film
    checkpoint_every: int = 10  # iterations between two checkpoints
    track: bool = False  # log to Weights & Biases
    wandb_project_name: str = "prefpoe"  # project there; group and tags come from WANDB_RUN_GROUP and WANDB_TAGS
    wandb_entity: str | None = None  # team there


@dataclass(frozen=True)
class Args(Logging, Baseline, PPO, Run):
    """Every option; --help shows them in these groups."""

    @property
    def batch_size(self) -> int:
        return self.num_envs * self.num_steps

    @property
    def num_iterations(self) -> int:
        return self.total_timesteps // self.batch_size


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


class Categorical(NamedTuple):
    """Distribution over n actions by its logits, (batch, n), which need not be normalised."""

    logits: torch.Tensor

    @property
    def log_p(self) -> torch.Tensor:
        """log p of each action: (batch, n), of a tensor or of a numpy array."""
        if isinstance(self.logits, np.ndarray):
            return self.logits - np.logaddexp.reduce(self.logits, axis=-1, keepdims=True)
        return self.logits.log_softmax(-1)

    def log_prob(self, action: torch.Tensor) -> torch.Tensor:
        """log p(a) of actions (batch,): (batch,)."""
        return self.log_p.gather(-1, action.unsqueeze(-1)).squeeze(-1)

    def entropy(self) -> torch.Tensor:
        """-sum_a p log p: (batch,)."""
        return -(self.log_p.exp() * self.log_p).sum(-1)

    def kl(self, other: Categorical) -> torch.Tensor:
        """KL(self || other) in closed form: (batch,)."""
        return (self.log_p.exp() * (self.log_p - other.log_p)).sum(-1)

    @property
    def std(self) -> torch.Tensor:
        """Standard deviation of each component of the one-hot action: (batch, n)."""
        return (self.log_p.exp() * -self.log_p.expm1()).clip(min=0).sqrt()


class Agent(nn.Module):
    """Policy and value, on one backbone or on two."""

    def __init__(self, obs_dim: int, action_space: gym.Space, args: Args):
        super().__init__()
        self.squash_mean = args.squash_mean
        self.backbone = make_backbone(obs_dim)
        self.critic_backbone = None if args.shared_backbone else make_backbone(obs_dim)
        self.critic = layer_init(nn.Linear(64, 1), 1.0)
        if isinstance(action_space, gym.spaces.Discrete):
            self.actor_logits = layer_init(nn.Linear(64, int(action_space.n)), 0.01)
        else:
            self.actor_mean = layer_init(nn.Linear(64, action_space.shape[0]), 0.01)
            self.actor_logstd = nn.Parameter(torch.full((1, action_space.shape[0]), args.logstd_init))

    def forward(self, obs: torch.Tensor) -> tuple[Gaussian | Categorical, torch.Tensor]:
        """obs (batch, obs_dim) -> policy, value (batch,)."""
        hidden = self.backbone(obs)
        value = self.critic(self.critic_backbone(obs) if self.critic_backbone else hidden).squeeze(-1)
        if hasattr(self, "actor_logits"):
            return Categorical(self.actor_logits(hidden)), value
        mean = torch.tanh(self.actor_mean(hidden)) if self.squash_mean else self.actor_mean(hidden)
        return Gaussian(mean, self.actor_logstd.exp().expand_as(mean)), value


# One iteration's data, each (batch, ...): log_prob is of the policy that acted.
Batch = namedtuple("Batch", "obs action log_prob value advantage returns")
# Means over a minibatch; `loss` is what is minimised.
Losses = namedtuple("Losses", "loss policy_loss value_loss approx_kl clipfrac")


def normalized(advantage: torch.Tensor) -> torch.Tensor:
    """Mean 0, std 1: over a minibatch, for the surrogate."""
    return (advantage - advantage.mean()) / (advantage.std() + 1e-8)


def ppo_loss(policy, value: torch.Tensor, batch: Batch, args: Args) -> tuple[torch.Tensor, dict]:
    """vf_coef * clipped value loss - clipped surrogate - ent_coef * entropy (Schulman et al. 2017).

    `policy` is the one that acts, at new weights. Returns that sum and its parts: policy_loss,
    value_loss, approx_kl (the k3 estimator of Schulman 2020), clipfrac.
    """
    log_ratio = policy.log_prob(batch.action) - batch.log_prob
    ratio, advantage = log_ratio.exp(), normalized(batch.advantage)
    clipped_ratio = ratio.clip(1 - args.clip_coef, 1 + args.clip_coef)
    policy_loss = -torch.min(advantage * ratio, advantage * clipped_ratio).mean()

    clipped_value = batch.value + (value - batch.value).clip(-args.clip_coef, args.clip_coef)
    value_loss = 0.5 * torch.max((value - batch.returns) ** 2, (clipped_value - batch.returns) ** 2).mean()

    loss = policy_loss + args.vf_coef * value_loss - args.ent_coef * policy.entropy().mean()
    clipfrac = ((ratio - 1).abs() > args.clip_coef).float().mean()
    approx_kl = (ratio - 1 - log_ratio).mean()
    return loss, dict(policy_loss=policy_loss, value_loss=value_loss, approx_kl=approx_kl, clipfrac=clipfrac)


def total_loss(agent_output: tuple, batch: Batch, args: Args) -> Losses:
    """L_PPO, and its parts."""
    policy, value = agent_output
    loss, parts = ppo_loss(policy, value, batch, args)
    return Losses(loss, **parts)


def gae(rewards, values, next_values, terminated, done, gamma: float, gae_lambda: float) -> np.ndarray:
    """Generalized advantage estimation (Schulman et al. 2016); all arrays (num_steps, num_envs).

    delta_t = r_t + gamma (1 - terminated_t) V(s'_t) - V(s_t);  A_t = delta_t + gamma lambda (1 - done_t) A_t+1
    s'_t is the state that really followed, at an episode's end its final observation: only a
    termination zeroes the bootstrap, and no sum runs across an episode's end.
    """
    advantages = rewards + gamma * np.where(terminated, 0.0, next_values) - values
    decay = np.where(done, 0.0, gamma * gae_lambda)
    for t in reversed(range(len(rewards) - 1)):
        advantages[t] += decay[t] * advantages[t + 1]
    return advantages


def scheduled(args: Args, iteration: int) -> Args:
    """The arguments of one iteration: those named in SCHEDULED change over training."""
    remaining = 1 - (iteration - 1) / args.num_iterations  # 1 at first, 0 after the last one
    lr, ent = (remaining if anneal else 1.0 for anneal in (args.anneal_lr, args.anneal_ent))
    now = dict(learning_rate=args.learning_rate * lr, ent_coef=args.ent_coef * ent)
    return replace(args, **now)


SCHEDULED = ("learning_rate", "ent_coef")


def main(args: Args) -> int:
    """Train, or only evaluate; returns the exit code."""
    learner, progress = make_learner(args)
    if args.evaluate:
        return evaluate_only(learner, progress, args)
    agent, params, adam, obs_stats, return_stats, rng = learner
    envs = CountingVecEnv(obs_stats, args) if args.gymnasium_statistics else VecEnv(args.env_id, args.num_envs)
    log, step = Log(learner, progress, args), make_step(agent, args)
    obs, discounted = first_obs(envs, obs_stats, progress["iteration"], args), np.zeros(args.num_envs)
    for iteration in range(progress["iteration"] + 1, args.num_iterations + 1):
        now = scheduled(args, iteration)
        rollout, obs, episodes = collect(envs, obs, numpy_policy(agent, now), obs_stats, rng, now)
        ended = before_terminations(rollout, discounted) if args.gymnasium_statistics else rollout.done
        rewards = scale_rewards(rollout.reward, ended, return_stats, discounted, now.gamma)
        batch, diagnostics = make_batch(agent, rollout, rewards, now)
        losses = update(step, params, adam, batch, rng, now)
        log.end_iteration(iteration, episodes, losses, diagnostics, now)
    return log.end_run(scheduled(args, args.num_iterations))


# Transitions, each (num_steps, num_envs, ...); obs and next_obs as the network sees them.
Rollout = namedtuple("Rollout", "obs action reward next_obs terminated done")


def collect(envs: VecEnv, obs: np.ndarray, act: Callable, obs_stats, rng, args: Args) -> tuple:
    """Act for `num_steps` steps from `obs` (num_envs, obs_dim), as the network sees it.

    Returns the rollout, the observation to go on from, and (return, length) in the environment's own
    rewards of each episode that ended.
    """
    noise = sample_noise(rng, (args.num_steps, args.num_envs), envs.single_action_space)
    steps, episodes = [], []
    for t in range(args.num_steps):
        action = act(obs, noise[t])
        raw_obs, *outcome, info = envs.step(clip_action(action, envs.action_space))
        new_obs = next_obs = observe(raw_obs, obs_stats, update=True)
        if info["final_obs"]:
            next_obs = new_obs.copy()
            for i, final_obs in info["final_obs"].items():
                next_obs[i] = observe(final_obs[None], obs_stats, update=False)
            episodes += info["episodes"]
        steps.append((obs, action, next_obs, *outcome))
        obs = new_obs
    # Arrays are made at the end: allocated before, they leave a heap that torch's buffers fragment, 2 MB an iteration.
    seen, action, next_obs, reward, terminated, truncated = map(np.array, zip(*steps, strict=True))
    return Rollout(seen, action, reward, next_obs, terminated, terminated | truncated), obs, episodes


@torch.no_grad()
def make_batch(agent: Agent, rollout: Rollout, rewards: np.ndarray, args: Args) -> tuple[Batch, dict[str, float]]:
    """Values, log-probabilities and advantages of a whole rollout in one pass, and its diagnostics."""
    device = next(agent.parameters()).device
    obs, action, next_obs = (
        torch.from_numpy(x).to(device).flatten(0, 1) for x in (rollout.obs, rollout.action, rollout.next_obs)
    )
    policy, value = agent(obs)
    _, next_value = agent(next_obs)
    values, next_values = (x.cpu().numpy().reshape(rewards.shape) for x in (value, next_value))
    terminated = rollout.terminated if args.bootstrap_truncated else rollout.done
    advantages = gae(rewards, values, next_values, terminated, rollout.done, args.gamma, args.gae_lambda)
    advantage = torch.from_numpy(advantages.astype(np.float32)).to(device).flatten()
    batch = Batch(obs, action, policy.log_prob(action), value, advantage, advantage + value)
    return batch, describe({"main": policy}, batch)


def update(step: Callable, params: torch.Tensor, adam: Adam, batch: Batch, rng, args: Args) -> Losses:
    """`update_epochs` passes over the batch in shuffled minibatches; returns the mean losses."""
    same = args == replace(step.args, **{name: getattr(args, name) for name in SCHEDULED})
    assert same, "the step is built with its arguments: what changes over training must stand in SCHEDULED"
    now = {name: torch.tensor(getattr(args, name), device=params.device) for name in SCHEDULED}
    losses = []
    for _ in range(args.update_epochs):
        order = torch.from_numpy(rng.permutation(len(batch.obs))).to(params.device)
        columns = [column[order].chunk(args.num_minibatches) for column in batch]
        for minibatch in zip(*columns, strict=True):
            losses.append(step(params, adam, Batch(*minibatch), now))
    assert not Losses(*losses[0]).approx_kl > 1e-3, "the policy has not moved yet: the step sees another than acted"
    return Losses(*torch.stack(losses).mean(0).tolist())


# ======================================================================================================================
# Below here are standard parts (Adam, initial weights, normalisation), how they are fast, and what a user needs.
# ======================================================================================================================

# All that training changes; `params` is the agent's weights as one vector.
# Adam: moments (num_params,), and powers (2,): beta_1^t and beta_2^t of its own betas, in one tensor with a dimension,
# since torch.compile drops in-place changes of those without.
Learner = namedtuple("Learner", "agent params adam obs_stats return_stats rng")
Adam = namedtuple("Adam", "m v powers")


def make_step(agent: Agent, args: Args) -> Callable:
    """Build `step(params, adam, batch, now) -> losses`, in place on params and adam; `now` holds what is SCHEDULED.

    Gradient, clipping and Adam (Kingma & Ba 2015) on one flat vector compile into a single graph: on one core
    180-350 us a minibatch of 64, by the machine, against 1,350-1,700 for a compiled loss with backward() and an
    optimizer, and 3,600 and more without compiling.
    """
    names, shapes = zip(*((name, x.shape) for name, x in agent.named_parameters()), strict=True)
    sizes = [shape.numel() for shape in shapes]
    m_decay, v_decay = 0.9, 0.999  # beta_1 and beta_2 of Adam
    decays = torch.tensor([m_decay, v_decay], dtype=torch.float64, device=next(agent.parameters()).device)

    def loss(params: torch.Tensor, batch: Batch, args: Args) -> tuple[torch.Tensor, torch.Tensor]:
        weights = {name: x.view(shape) for name, shape, x in zip(names, shapes, params.split(sizes), strict=True)}
        losses = total_loss(functional_call(agent, weights, (batch.obs,)), batch, args)
        return losses.loss, torch.stack(losses)

    def step(params: torch.Tensor, adam: Adam, batch: Batch, now: dict[str, torch.Tensor]) -> torch.Tensor:
        gradient, (_, losses) = grad_and_value(loss, has_aux=True)(params, batch, replace(args, **now))
        gradient = gradient * (args.max_grad_norm / (gradient.norm() + 1e-6)).clip(max=1.0)
        adam.powers.mul_(decays)  # decays**t is computed anew for every 8 weights once compiled: 9 % of a step
        adam.m.lerp_(gradient, 1 - m_decay)
        adam.v.mul_(v_decay).addcmul_(gradient, gradient, value=1 - v_decay)
        m_hat, v_hat = adam.m / (1 - adam.powers[0]).float(), adam.v / (1 - adam.powers[1]).float()
        params.sub_(now["learning_rate"] * m_hat / (v_hat.sqrt() + 1e-5))
        return losses

    built = compiled(step, args.cuda) if args.compile else step
    built.args = args
    return built


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
    """The policy in numpy: torch takes 150 us for the few us of work on one observation.

    Returns `act(obs, noise)`: obs (N, obs_dim) and noise from `sample_noise`, or 0 for the mode ->
    action (N, action_dim), or (N,) where discrete. The network is written a second
    time here: whoever changes Agent.forward changes both.
    """
    parameters = {name: x.cpu().numpy().T for name, x in agent.named_parameters()}
    weights = {name: np.array(x, order="C", ndmin=2) for name, x in parameters.items()}  # copies, (in, out)
    discrete, std = "actor_logits.weight" in weights, np.exp(weights.get("actor_logstd", np.zeros((1, 1))).T)
    layers = ("backbone.0", "backbone.2", "actor_logits" if discrete else "actor_mean")
    (W1, b1), (W2, b2), (W3, b3) = ((weights[f"{layer}.weight"], weights[f"{layer}.bias"]) for layer in layers)

    def experts(obs: np.ndarray) -> tuple[Gaussian | Categorical]:
        head = np.tanh(np.tanh(obs.dot(W1) + b1).dot(W2) + b2).dot(W3) + b3
        return (Categorical(head) if discrete else Gaussian(np.tanh(head) if args.squash_mean else head, std),)

    def act(obs: np.ndarray, noise: np.ndarray | float) -> np.ndarray:
        (policy,) = experts(obs)
        return np.argmax(policy.logits + noise, axis=-1) if discrete else policy.mean + policy.std * noise

    grid = torch.linspace(-4.6, 4.6, 8 * len(W1), dtype=torch.float64, device=agent.critic.weight.device)
    probe, tensors = grid.view(8, -1) ** 3, [*agent.named_parameters(), *agent.named_buffers()]  # observations to +-97
    exact = {name: x.double() for name, x in tensors if x.is_floating_point()}  # or rounding could tell them apart
    ours = np.vstack([np.hstack(*experts(obs[None])) for obs in probe.cpu().numpy()])
    truth = torch.hstack(functional_call(agent, exact, (probe,))[0]).cpu()
    assert np.allclose(ours, truth, 1e-3, 1e-4, equal_nan=True), "acting differs from Agent.forward in torch"
    return act


def sample_noise(rng: np.random.Generator, size: tuple[int, ...], action_space: gym.Space) -> np.ndarray:
    """Continuous: in units of the std, (*size, action_dim). Discrete: Gumbel noise, (*size, n)."""
    if isinstance(action_space, gym.spaces.Discrete):
        return rng.gumbel(size=(*size, int(action_space.n)))
    return rng.standard_normal((*size, *action_space.shape), dtype=np.float32)


def clip_action(action: np.ndarray, action_space: gym.Space) -> np.ndarray:
    """For the environment only: the log-probability stays that of the unclipped sample."""
    if not isinstance(action_space, gym.spaces.Box):
        return action
    return np.minimum(np.maximum(action, action_space.low), action_space.high)


def make_backbone(obs_dim: int) -> nn.Sequential:
    first, second = layer_init(nn.Linear(obs_dim, 64)), layer_init(nn.Linear(64, 64))
    return nn.Sequential(first, nn.Tanh(), second, nn.Tanh())


def layer_init(layer: nn.Linear, gain: float = math.sqrt(2)) -> nn.Linear:
    """Orthogonal weights of that gain, biases 0."""
    nn.init.orthogonal_(layer.weight, gain)
    nn.init.zeros_(layer.bias)
    return layer


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
    """Exit with one line where this script's policy does not fit the action space, warn where it fits badly."""
    box = isinstance(space, gym.spaces.Box) and len(space.shape) == 1
    if not box and not (isinstance(space, gym.spaces.Discrete) and space.start == 0):
        fail(f"--env-id {args.env_id}: this script needs a flat Box or a Discrete action space from 0, not {space}")
    if args.squash_mean and box:
        width, reach = space.high.astype(float) - space.low, np.minimum(space.high, 1.0) - np.maximum(space.low, -1.0)
        if ((reach < 0) | ((reach < width / 4) & (width < math.inf)) | (width < 0.1)).any():
            warn(f"the policy's means lie within +-1, a poor fit to {space}: wrap it in gymnasium's RescaleAction")


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


class CountingVecEnv(VecEnv):
    """Counts episodes' last observations in the statistics too, as gymnasium's wrapper does."""

    def __init__(self, obs_stats: RunningMeanStd, args: Args):
        super().__init__(args.env_id, args.num_envs)
        self.obs_stats = obs_stats

    def step(self, actions: np.ndarray):
        *outcome, info = super().step(actions)
        for final_obs in info["final_obs"].values():
            observe(final_obs[None], self.obs_stats, update=True)
        return *outcome, info


def before_terminations(rollout: Rollout, discounted: np.ndarray) -> np.ndarray:
    """After which steps gymnasium's wrapper starts the discounted return anew: those before a termination, and where
    the rollout's first step terminates, `discounted` at once. At time limits it does not."""
    discounted[rollout.terminated[0]] = 0.0
    return np.concatenate([rollout.terminated[1:], np.zeros_like(rollout.terminated[:1])])


def first_obs(envs: VecEnv, obs_stats: RunningMeanStd, iteration: int, args: Args) -> np.ndarray:
    """Of environments seeded anew after that many iterations: (num_envs, obs_dim)."""
    seeds = np.random.SeedSequence((args.seed, iteration)).generate_state(args.num_envs) // 4  # evaluation's: >= 2**30
    return observe(envs.reset(seed=seeds.tolist())[0], obs_stats, update=iteration < args.num_iterations)


class RunningMeanStd:
    """Mean and variance of all rows seen so far (Welford 1962), in float64; m2 is the sum of squared deviations."""

    def __init__(self, shape: tuple[int, ...], enabled: bool):
        self.enabled, self.count = enabled, 1e-4
        self.mean, self.m2 = np.zeros((1, *shape)), np.full((1, *shape), 1e-4)

    def update(self, rows: np.ndarray) -> None:
        """Take in rows (N, *shape)."""
        for row in rows[:, None]:
            self.count += 1
            x = row - self.mean
            self.mean += x / self.count
            self.m2 += x * (row - self.mean)

    def normalize(self, rows: np.ndarray) -> np.ndarray:
        """Rows (N, *shape) shifted, scaled and clipped to +-10; unchanged where not enabled."""
        if not self.enabled:
            return rows
        return ((rows - self.mean) / np.sqrt(self.m2 / self.count + 1e-8)).clip(-10.0, 10.0)

    def state_dict(self) -> dict[str, torch.Tensor]:
        values = dict(count=self.count, mean=self.mean[0], m2=self.m2[0])
        return {name: torch.tensor(x, dtype=torch.float64) for name, x in values.items()}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        self.count, self.mean[0], self.m2[0] = (state[name].tolist() for name in ("count", "mean", "m2"))


def observe(obs: np.ndarray, obs_stats: RunningMeanStd, update: bool) -> np.ndarray:
    """Observations (N, obs_dim) as the network sees them, float32."""
    if update and obs_stats.enabled:
        obs_stats.update(obs)
    return obs_stats.normalize(obs).astype(np.float32)


def scale_rewards(rewards, done, return_stats: RunningMeanStd, discounted: np.ndarray, gamma: float) -> np.ndarray:
    """Divide rewards (num_steps, num_envs) by the running std of the discounted return, clip to +-10.

    `discounted` (num_envs,) is that return for the episodes under way, brought up to date in place.
    """
    if not return_stats.enabled:
        return rewards
    returns = np.empty_like(rewards)
    for t in range(len(rewards)):
        returns[t] = discounted[:] = gamma * discounted + rewards[t]
        discounted[done[t]] = 0.0
    x = returns - return_stats.mean  # the statistics after each step, in one pass (Chan et al. 1979)
    total, count = np.cumsum(x.sum(1)), return_stats.count + x.shape[1] * np.arange(1, len(x) + 1)
    m2 = return_stats.m2 + np.cumsum((x * x).sum(1)) - total**2 / count
    return_stats.count, return_stats.m2[:] = count[-1], m2[-1]
    return_stats.mean += total[-1] / count[-1]
    return (rewards / np.sqrt(m2 / count + 1e-8)[:, None]).clip(-10.0, 10.0)


def describe(policies: dict, batch: Batch) -> dict[str, float]:
    """Mean entropy, sigma and tr Sigma of each policy on a batch's states, and how good the critic is."""
    columns = {"explained_variance": 1 - (batch.returns - batch.value).var() / batch.returns.var()}
    for name, policy in policies.items():
        columns[f"entropy_{name}"], columns[f"sigma_{name}"] = policy.entropy().mean(), policy.std.mean()
        columns[f"trace_{name}"] = policy.std.square().sum(-1).mean()
    return {name: x.item() for name, x in columns.items()}


def evaluate(act: Callable, env: gym.Env, obs_stats: RunningMeanStd, episodes: int, args: Args) -> list[float]:
    """Returns of so many episodes in the environment's own rewards; episode k is seeded with 2**30 + k.

    Statistics are frozen, but for weights that come without: theirs are gathered on the way.
    """
    rng, returns, cut_off, gather = np.random.default_rng(args.seed), [], 0, obs_stats.count < 1
    # Without a time limit a policy may never end an episode.
    limit = math.inf if getattr(env.spec, "max_episode_steps", None) else 1_000
    bar = tqdm(unit="step", disable=None if isinstance(env, gym.wrappers.RecordVideo) else True)
    for episode in range(episodes):
        (obs, _), episode_return, length, ended = env.reset(seed=2**30 + episode), 0.0, 0, False
        while not ended and length < limit:
            noise = 0.0 if args.eval_deterministic else sample_noise(rng, (1,), env.action_space)
            action = act(observe(np.array(obs)[None], obs_stats, update=gather), noise)
            obs, reward, terminated, truncated, _ = env.step(clip_action(action[0], env.action_space))
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
    returns = evaluate(numpy_policy(learner.agent, args), env, learner.obs_stats, args.eval_episodes, args)
    env.close()
    say(f"evaluation: mean={np.mean(returns):.2f} std={np.std(returns):.2f} episodes={len(returns)}")
    return returns


def evaluate_only(learner: Learner, progress: dict, args: Args) -> int:
    """Evaluate a run or a checkpoint; returns the exit code."""
    if args.norm_obs and learner.obs_stats.count < 1:
        say("this checkpoint has no observation statistics: they are gathered on the fly")
    path, now = Path(args.evaluate), scheduled(args, max(1, progress["iteration"]))
    folder = path if path.is_dir() else path.parent
    warn_of_changes(folder, {"versions": versions()})
    final_evaluation(learner, folder, now)
    return 0


PROGRESS = dict(iteration=0, global_step=0, seconds=0.0, id="")


def make_learner(args: Args) -> tuple[Learner, dict]:
    """The learner by --seed, or as --resume or --evaluate restore it, and what else a checkpoint holds."""
    torch.set_num_threads(1)  # a network of this size is slower on more
    torch.manual_seed(args.seed)
    env = make_env(args.env_id, args.capture_video)
    check_action_space(env.action_space, args)
    agent = Agent(obs_dim := env.observation_space.shape[0], env.action_space, args).to("cuda" if args.cuda else "cpu")
    params = parameters_to_vector(agent.parameters()).detach()
    vector_to_parameters(params, agent.parameters())  # from here on, the agent's weights are views of params
    numpy_policy(shaken(agent), args)  # a network changed in one place only is found before a run
    adam = Adam(torch.zeros_like(params), torch.zeros_like(params), params.new_ones(2, dtype=torch.float64))
    stats = RunningMeanStd((obs_dim,), args.norm_obs), RunningMeanStd((), args.norm_reward)
    learner = Learner(agent, params, adam, *stats, np.random.default_rng(args.seed))
    progress = PROGRESS | {"id": os.urandom(4).hex()}
    env.close()
    return learner, progress | (restore(learner, args) if args.resume or args.evaluate else {})


@torch.no_grad()
def shaken(agent: Agent) -> Agent:
    """A copy with weights far from those at the start, where a layer can be so small that it hardly shows."""
    other, generator = copy.deepcopy(agent).cpu(), torch.Generator().manual_seed(0)
    for x in other.parameters():
        x.add_(0.3 * torch.randn(x.shape, generator=generator))
    return other


def save_checkpoint(folder: Path, learner: Learner, progress: dict, args: Args) -> None:
    """Write checkpoint.pt, which torch.load(weights_only=True) reads."""
    assert progress.keys() == PROGRESS.keys(), "what is to come back on --resume must stand in PROGRESS"
    agent, _, adam, obs_stats, return_stats, rng = learner
    tensors = dict(agent=agent.state_dict(), adam=adam._asdict(), torch_rng=torch.get_rng_state())
    tensors |= dict(obs_stats=obs_stats.state_dict(), return_stats=return_stats.state_dict())
    rest = progress | dict(numpy_rng=json.dumps(rng.bit_generator.state), args=asdict(args))
    torch.save(tensors | rest, buffer := io.BytesIO())
    write_atomic(folder / "checkpoint.pt", buffer.getvalue())


def load_checkpoint(path: str) -> dict:
    """A run's checkpoint or the authors' weights, in the same form; exits with one line where there is none."""
    file = Path(path) / "checkpoint.pt" if Path(path).is_dir() else Path(path)
    try:
        checkpoint = dict(torch.load(file, map_location="cpu", weights_only=True))
        if "agent" not in checkpoint:  # a plain state dict; the authors' critic repeats the shared backbone
            weights = {name: value for name, value in checkpoint.items() if not name.startswith("critic.0.")}
            checkpoint = {"agent": {name.replace("critic.1.", "critic."): value for name, value in weights.items()}}
        return {"args": {}} | checkpoint
    except Exception as error:  # noqa: BLE001 (a damaged file raises many kinds)
        fail(f"{file} cannot be read ({type(error).__name__}): give a run's folder, or a whole checkpoint")


def restore(learner: Learner, args: Args) -> dict:
    """Bring the learner to where the checkpoint of --resume or --evaluate left it; returns what else that holds."""
    checkpoint = load_checkpoint(path := args.resume or args.evaluate)
    try:
        learner.agent.load_state_dict(checkpoint["agent"])
        for stats in {"obs_stats", "return_stats"} & checkpoint.keys():
            getattr(learner, stats).load_state_dict(checkpoint[stats])
        if args.resume:
            for name, moment in learner.adam._asdict().items():
                moment.copy_(checkpoint["adam"][name])
            learner.rng.bit_generator.state = json.loads(checkpoint["numpy_rng"])
            torch.set_rng_state(checkpoint["torch_rng"])
    except (RuntimeError, ValueError, KeyError) as error:
        fail(f"{path} is of another script, version or task than --env-id {args.env_id}, or only weights: {error}")
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
        self.signals, self.first, self.evaluated = [], True, ""  # first: none ended here yet
        config = asdict(args) | {"resume": None, "id": progress["id"], "versions": versions()}
        if not args.resume:
            self.metrics.unlink(missing_ok=True)
            write_atomic(self.folder / "config.json", json.dumps(config, indent=2).encode())
            save_checkpoint(self.folder, learner, progress, args)
        else:
            warn_of_changes(self.folder, config)
        size = f"{args.num_iterations} iterations of {args.batch_size} steps"
        say(f"{args.env_id}, seed {args.seed}: {size}, on the {'GPU' if args.cuda else 'CPU'}, into {self.folder}")
        self.wandb = start_wandb(self.folder, config, args) if args.track else None
        steps = dict(total=args.total_timesteps, initial=progress["global_step"])
        self.bar = tqdm(**steps, unit="step", disable=not sys.stderr.isatty())
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self.stop)

    def stop(self, number: int, frame: object = None) -> None:
        """Ctrl-C or SIGTERM: end after this iteration; at once the second time, or in the first one, which compiles."""
        if self.signals or self.first:
            self.close(128 + number)
            os._exit(128 + number)  # callbacks of weak references swallow SystemExit, and while torch compiles many run
        self.signals.append(number)
        with suppress(OSError):  # print is not for signal handlers
            os.write(2, b"\nstopping after this iteration; once more: at once\n")

    def end_iteration(self, iteration, episodes: list, losses: Losses, diagnostics: dict, now: Args) -> None:
        """Evaluate, write and save what is due; ends the program on a signal, or where numbers are not finite."""
        args, step, params = self.args, iteration * self.args.batch_size, self.learner.params
        if not (math.isfinite(losses.loss) and params.isfinite().all()):
            self.close(1)
            fail(f"not finite at step {step} (loss {losses.loss}): {self.folder} keeps the last good checkpoint", 1)
        weights = [*self.learner.agent.parameters()]
        whole = torch.equal(parameters_to_vector(weights), params) and all(x.requires_grad for x in weights)
        assert whole, "the step trains the agent's first weights, and all of them: some have been replaced or frozen"
        returns = [math.nan]
        if args.eval_every and iteration % args.eval_every == 0:
            returns = evaluate(numpy_policy(self.learner.agent, now), self.eval_env, self.learner.obs_stats, 3, now)
        episodes = np.mean(episodes or [(math.nan, math.nan)], axis=0)
        row = {"global_step": step, "episodic_return": episodes[0], "episodic_length": episodes[1]}
        row |= {"eval_return": np.mean(returns)} | losses._asdict() | diagnostics | {"lr": now.learning_rate}
        self.write(row)
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
    elif isinstance(make_env(args.env_id).action_space, gym.spaces.Discrete):
        args = read_flags(argv, Args(norm_obs=False, norm_reward=False))
    check_args(args)
    return args


def read_flags(argv: list[str] | None, default: Args) -> Args:
    """argv on top of a default, in the groups that --help shows."""
    groups = {kind.__name__: kind for kind in reversed(Args.__mro__[1:-1])}
    values = {name: kind(**{x.name: getattr(default, x.name) for x in fields(kind)}) for name, kind in groups.items()}
    flags = make_dataclass("flags", groups.items())
    parsed = tyro.cli(tyro.conf.OmitArgPrefixes[flags], args=argv, description=__doc__, default=flags(**values))
    return Args(**{name: value for group in vars(parsed).values() for name, value in vars(group).items()})


LIMITS = dict(seed=(0, 2**32 - 1), eval_every=(0, 2**53), gamma=(0, 1), gae_lambda=(0, 1), learning_rate=(0, 1e38))
LIMITS |= dict(ent_coef=(-1e6, 1e6), logstd_init=(-10, 10))


def check_args(args: Args) -> None:
    """Exit with one line that names the first argument out of range."""
    for name, value in asdict(args).items():
        low, high = LIMITS.get(name, (0, 1e6) if type(value) is float else (1, 2**53))
        if type(value) in (int, float) and not low <= value <= high:
            fail(f"--{name.replace('_', '-')} {value}: give a number from {low:g} to {high:g}")
    if args.batch_size % args.num_minibatches or args.batch_size < 2 * args.num_minibatches:
        fail(f"--num-minibatches {args.num_minibatches}: {args.batch_size} steps a batch must be 2, 3, ... times that")
    if args.total_timesteps < args.batch_size:
        fail(f"--total-timesteps {args.total_timesteps}: give at least num_envs * num_steps = {args.batch_size}")
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
