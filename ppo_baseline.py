# /// script
# requires-python = ">=3.10"
# dependencies = ["torch==2.13.0", "gymnasium[mujoco]==1.4.0", "gymnasium[box2d]==1.4.0; python_version < '3.14'", "mujoco<4.1", "numpy>=2.2", "tyro>=1.0", "filelock>=4.1", "wandb>=0.31"]
# ///
"""PPO for Box and Discrete action spaces: what PrefPoE is compared with.

    python ppo_baseline.py --env-id Ant-v4 --seed 1                # train, evaluate, save under runs/
    python ppo_baseline.py --no-bootstrap-truncated                # "CleanRL's PPO" of the results
    python ppo_baseline.py --shared-backbone --squash-mean --logstd-init -1   # matched PPO: as PrefPoE's main expert
    python ppo_baseline.py --resume runs/<run>                     # go on after an interruption
    python ppo_baseline.py --evaluate runs/<run>                   # evaluate only

Its diff to prefpoe_continuous.py is what PrefPoE adds, beside Discrete actions, for which norm_* are off by default.
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
from typing import NamedTuple, NoReturn

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
    env_id: str = "HalfCheetah-v4"  # Gymnasium id of the environment, or module:id, where the module registers it
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
    anneal_ent: bool = False  # let ent_coef fall linearly to 0
    vf_coef: float = 0.5  # weight of the value loss
    max_grad_norm: float = 0.5  # largest norm of the gradient
    norm_obs: bool = True  # normalise observations by running statistics and clip them to +-10
    norm_reward: bool = True  # divide rewards by the running std of the discounted return and clip them to +-10
    # Baseline
    bootstrap_truncated: bool = True  # bootstrap where a time limit ends an episode; CleanRL does not
    shared_backbone: bool = False  # let policy and value share one backbone, as in PrefPoE
    squash_mean: bool = False  # pass the mean of continuous actions through tanh, as in PrefPoE
    logstd_init: float = 0.0  # log std of continuous actions at the start; PrefPoE's experts: -1, their product: -1.35
    # Logging
    eval_every: int = 25  # iterations between two evaluations, 3 episodes each (0: never)
    eval_episodes: int = 10  # episodes of the evaluation at the end
    eval_deterministic: bool = True  # evaluate the mode of the policy rather than samples of it
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


class Categorical(NamedTuple):
    """Distribution over n actions by its logits, (batch, n), which need not be normalised; log_p is (batch, n), too."""

    logits: torch.Tensor

    @property
    def log_p(self) -> torch.Tensor:
        return self.logits.log_softmax(-1)

    def sample(self, noise):
        """The action (batch,) that Gumbel noise (batch, n) makes, or noise 0, the likeliest; of arrays too."""
        return (self.logits + noise).argmax(-1)

    def log_prob(self, action: torch.Tensor) -> torch.Tensor:
        """log p(a) of actions (batch,): (batch,)."""
        return self.log_p.gather(-1, action.unsqueeze(-1)).squeeze(-1)

    def entropy(self) -> torch.Tensor:
        """-sum_a p log p: (batch,)."""
        return -(self.log_p.exp() * self.log_p).sum(-1)

    @property
    def std(self) -> torch.Tensor:
        """Standard deviation of each component of the one-hot action: (batch, n)."""
        return (self.log_p.exp() * -self.log_p.expm1()).clip(min=0).sqrt()


def layer(size_in: int, size_out: int, gain: float = math.sqrt(2)) -> nn.Linear:
    """A linear layer with orthogonal weights of that gain, and biases 0."""
    linear = nn.Linear(size_in, size_out)
    nn.init.orthogonal_(linear.weight, gain)
    nn.init.zeros_(linear.bias)
    return linear


class Agent(nn.Module):
    """Policy and value, on one backbone or on two."""

    def __init__(self, obs_dim: int, action_space: gym.Space, args: Args):
        super().__init__()
        self.squash_mean = args.squash_mean
        self.backbone = nn.Sequential(layer(obs_dim, 64), nn.Tanh(), layer(64, 64), nn.Tanh())
        if not args.shared_backbone:
            self.critic_backbone = nn.Sequential(layer(obs_dim, 64), nn.Tanh(), layer(64, 64), nn.Tanh())
        self.critic = layer(64, 1, gain=1.0)
        if isinstance(action_space, gym.spaces.Discrete):
            self.actor_logits = layer(64, int(action_space.n), gain=0.01)
        else:
            self.actor_mean = layer(64, action_space.shape[0], gain=0.01)
            self.actor_logstd = nn.Parameter(torch.full((1, action_space.shape[0]), args.logstd_init))

    def forward(self, obs: torch.Tensor) -> tuple[Gaussian | Categorical, torch.Tensor]:
        """obs (batch, obs_dim) -> policy, value (batch,)."""
        hidden = self.backbone(obs)
        value = self.critic(self.critic_backbone(obs) if hasattr(self, "critic_backbone") else hidden).squeeze(-1)
        if hasattr(self, "actor_logits"):
            return Categorical(self.actor_logits(hidden)), value
        mean = torch.tanh(self.actor_mean(hidden)) if self.squash_mean else self.actor_mean(hidden)
        return Gaussian(mean, self.actor_logstd.exp().expand_as(mean)), value


# One iteration's data, each (batch, ...): log_prob is of the policy that acted.
Batch = namedtuple("Batch", "obs action log_prob value advantage returns")
# Transitions, each (num_steps, num_envs, ...), obs normalised; at an episode's end next_obs is its own last one.
Rollout = namedtuple("Rollout", "obs action noise reward next_obs terminated done")


def total_loss(agent_output: tuple, batch: Batch, args: Args) -> dict[str, torch.Tensor]:
    """L_PPO = clipped surrogate + vf_coef * clipped value loss - ent_coef * entropy (Schulman et al. 2017)."""
    policy, value = agent_output
    log_ratio = policy.log_prob(batch.action) - batch.log_prob
    ratio = log_ratio.exp()
    advantage = (batch.advantage - batch.advantage.mean()) / (batch.advantage.std() + 1e-8)
    clipped_ratio = ratio.clip(1 - args.clip_coef, 1 + args.clip_coef)
    policy_loss = -torch.min(advantage * ratio, advantage * clipped_ratio).mean()
    clipped_value = batch.value + (value - batch.value).clip(-args.clip_coef, args.clip_coef)
    value_loss = 0.5 * torch.max((value - batch.returns) ** 2, (clipped_value - batch.returns) ** 2).mean()
    approx_kl = (ratio - 1 - log_ratio).mean()  # the k3 estimator of http://joschu.net/blog/kl-approx.html
    clipfrac = ((ratio - 1).abs() > args.clip_coef).float().mean()
    loss = policy_loss + args.vf_coef * value_loss - args.ent_coef * policy.entropy().mean()
    return dict(loss=loss, policy_loss=policy_loss, value_loss=value_loss, approx_kl=approx_kl, clipfrac=clipfrac)


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
        learner.iteration += 1
        log.end_iteration(episodes, losses, diagnostics, scheduled)


def schedule(args: Args, learner: Learner) -> dict[str, float]:
    """This iteration's values of the arguments that change over training; acting and losses see whichever stand here."""
    remaining = 1 - min(learner.iteration, args.num_iterations - 1) / args.num_iterations  # 1 at first, never 0
    return {
        "learning_rate": args.learning_rate * (remaining if args.anneal_lr else 1.0),
        "ent_coef": args.ent_coef * (remaining if args.anneal_ent else 1.0),
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
    policy, value = learner.agent(rows.obs)
    _, next_value = learner.agent(rows.next_obs)
    values = value.numpy().reshape(rewards.shape)
    next_values = next_value.numpy().reshape(rewards.shape)
    terminated = rollout.terminated if args.bootstrap_truncated else rollout.done
    advantages = gae(rewards, values, next_values, terminated, rollout.done, args.gamma, args.gae_lambda)
    advantage = torch.from_numpy(advantages.astype(np.float32)).flatten()
    batch = Batch(rows.obs, rows.action, policy.log_prob(rows.action), value, advantage, advantage + value)
    return batch, policy, diagnose(policy, batch)


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
        self.wandb_id = os.urandom(4).hex()
        self.make_act = torch_policy  # makes act(obs, noise); while training numpy_policy, if they agree

    def save(self, folder: Path, args: Args) -> None:
        """Write checkpoint.pt."""
        state = dict(agent=self.agent.state_dict(), adam=self.adam, args=asdict(args) | {"resume": None})
        for name in ("obs_stats", "return_stats"):
            state[name] = {key: torch.tensor(x, dtype=torch.float64) for key, x in vars(getattr(self, name)).items()}
        state |= dict(iteration=self.iteration, global_step=self.iteration * args.batch_size, seconds=self.seconds)
        state |= dict(id=self.wandb_id, numpy_rng=json.dumps(self.rng.bit_generator.state))
        file = io.BytesIO()
        torch.save(state, file)
        write_whole(folder / "checkpoint.pt", file.getvalue())

    def load(self, path: str, args: Args) -> None:
        """With --resume all of a checkpoint, else what it takes to act."""
        state = load_checkpoint(path)
        try:
            self.agent.load_state_dict(state["agent"])
            self.iteration = state.get("iteration", 0)
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
    expected = policy.mean + policy.std * noise if isinstance(policy, Gaussian) else (policy.logits + noise).argmax(-1)

    def as_expected(actions: np.ndarray) -> bool:  # but for rounding
        return np.isclose(actions, expected[: len(actions)], rtol=0, atol=1e-4, equal_nan=True).mean() > 0.999

    torch_is_right = as_expected(torch_policy(learner.agent, args)(obs[:64].numpy(), noise[:64].numpy()))
    if torch_is_right and as_expected(action):
        return True
    if learner.make_act is torch_policy or not torch_is_right:
        sys.exit("error: actions are not samples of the policy, mean + std * noise: see acted_by")
    print("acting in torch, about 2.4 times slower: numpy_policy differs from Agent.forward")
    return False


def torch_policy(agent: Agent, args: Args) -> Callable:
    """The policy as `act(obs, noise)`: obs (num_envs, obs_dim), noise for `sample` -> action (num_envs, ...)."""

    @torch.no_grad()
    def act(obs: np.ndarray, noise: np.ndarray | float) -> np.ndarray:
        policy, _ = agent(torch.from_numpy(obs))
        return policy.sample(torch.as_tensor(noise)).numpy()

    return act


def numpy_policy(agent: Agent, args: Args) -> Callable:
    """torch_policy in numpy: torch takes 150 us for one observation. Training finds out whether the two are the same."""
    weights = {name: np.array(x.detach().numpy().T, order="C") for name, x in agent.named_parameters()}
    W1, b1, W2, b2 = (weights[f"backbone.{name}"] for name in ("0.weight", "0.bias", "2.weight", "2.bias"))
    discrete = "actor_logits.weight" in weights
    head = "actor_logits" if discrete else "actor_mean"
    W3, b3 = weights[f"{head}.weight"], weights[f"{head}.bias"]
    std = np.exp(weights.get("actor_logstd", b3).T)

    def act(obs: np.ndarray, noise: np.ndarray | float) -> np.ndarray:
        output = np.tanh(np.tanh(obs.dot(W1) + b1).dot(W2) + b2).dot(W3) + b3
        mean = np.tanh(output) if args.squash_mean else output
        return (Categorical(output) if discrete else Gaussian(mean, std)).sample(noise)

    return act


def sample_noise(rng: np.random.Generator, size: tuple[int, ...], action_space: gym.Space) -> np.ndarray:
    """Continuous: in units of the std, (*size, action_dim). Discrete: Gumbel noise, (*size, n)."""
    if isinstance(action_space, gym.spaces.Discrete):
        return rng.gumbel(size=(*size, int(action_space.n)))
    return rng.standard_normal((*size, *action_space.shape), dtype=np.float32)


def make_env(args: Args, film: Path | None = None) -> gym.Env:
    """One environment with flat observations; its episodes are filmed into the folder `film`."""
    warnings.filterwarnings("ignore", message=".*is out of date")
    if film and sys.platform == "linux":
        os.environ.setdefault("MUJOCO_GL", "egl")  # films need no screen
    mujoco.set_mju_user_warning(lambda x: None if "settotalmass" in x else print("MuJoCo:", x))  # HalfCheetah's file
    if args.env_id == "LunarLander-v2" and args.env_id not in gym.registry:  # the same physics without wind
        v3 = gym.spec("LunarLander-v3")
        gym.register(args.env_id, v3.entry_point, v3.reward_threshold, max_episode_steps=v3.max_episode_steps)
    try:  # not every constructor takes a render_mode
        env = gym.make(args.env_id, disable_env_checker=True, **({"render_mode": "rgb_array"} if film else {}))
    except (gym.error.Error, ImportError) as error:
        refuse(f"--env-id {args.env_id}: {error}")
    space = env.action_space
    box = isinstance(space, gym.spaces.Box) and len(space.shape) == 1 and space.dtype.kind == "f"
    if not box and not (isinstance(space, gym.spaces.Discrete) and space.start == 0):
        refuse(f"--env-id {args.env_id}: this script needs a flat Box of floats or Discrete from 0, not {space}")
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
        if isinstance(self.action_space, gym.spaces.Box):
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


def diagnose(main: Gaussian | Categorical, batch: Batch) -> dict[str, float]:
    """The critic, and how wide the policy is, before the update."""
    columns = {"explained_variance": 1 - (batch.returns - batch.value).var() / batch.returns.var()}
    for name, policy in {"main": main}.items():  # in PrefPoE there are three
        columns[f"entropy_{name}"] = policy.entropy().mean()
        columns[f"sigma_{name}"] = policy.std.mean()
        columns[f"trace_{name}"] = policy.std.square().sum(-1).mean()
    return {name: float(x) for name, x in columns.items()}


# How training that goes wrong shows in metrics.csv: a column, the bounds that it leaves, and what to turn.
SIGNATURES = (("approx_kl", -math.inf, 0.2, "updates are too large: lower --learning-rate or --update-epochs"),)


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
                action = action.clip(space.low, space.high) if isinstance(space, gym.spaces.Box) else action
                obs, reward, terminated, truncated, _ = env.step(action)
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
                if not v.any():
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
        if args.resume is not None and {"env_id", "seed", "num_envs", "num_steps"} & changed.keys():
            refuse(f"--resume cannot change the task, the seed or shapes: {changed}")
        if args.resume is not None and changed:
            print(f"from here on, with schedules of {args.total_timesteps} steps: {changed}")
    else:
        with make_env(args) as env:
            norm = isinstance(env.action_space, gym.spaces.Box)
        args = tyro.cli(Args, args=argv, description=__doc__, default=Args(norm_obs=norm, norm_reward=norm))
    # Least and largest value of numbers; where not named, 0 to 1e6 for fractions and from 1 for whole ones.
    ranges = dict(seed=(0, 2**32 - 1), total_timesteps=(args.batch_size, 2**53), eval_every=(0, 2**53), gamma=(0, 1))
    ranges |= dict(gae_lambda=(0, 1), max_grad_norm=(1e-9, 1e6), target_kl=(1e-9, 1e6), ent_coef=(-1e6, 1e6))
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
