# /// script
# requires-python = ">=3.10"
# dependencies = ["torch==2.13.0", "gymnasium[mujoco]==1.4.0", "gymnasium[box2d]==1.4.0; python_version < '3.14'", "mujoco<4.1", "numpy>=2.2", "tyro>=1.0", "filelock>=4.1", "wandb>=0.31"]
# ///
"""Does PrefPoE carry over to off-policy learning? Soft actor-critic (SAC) acting with a product of two policy heads.

    python open_questions/prefpoe_sac.py --env-id HalfCheetah-v4 --seed 1      # train, evaluate, save under runs/
    python open_questions/prefpoe_sac.py --fusion none --w-pref 0 --w-cons 0   # SAC itself
    python open_questions/prefpoe_sac.py --resume runs/<run>                   # go on after an interruption
    python open_questions/prefpoe_sac.py --evaluate runs/<run>                 # evaluate only

The actor has a main expert pi_theta and a preference expert pi_p on one backbone, and acts with their product, the fused
policy pi_f, squashed by tanh. SAC (Haarnoja et al. 2018, arXiv 1812.05905) trains pi_f; pi_p is trained on actions
weighed by their advantage min Q(s, a) - V(s): replayed ones, with which it diverges, or with --pref-actions own those
of pi_f, with which it does not, nor helps (sac.md). The method stands above the line `== Below`.
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
import zipfile
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
from torch.nn.functional import softplus
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
    # SAC
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
    # Preference
    fusion: Literal["poe", "linear", "none"] = "poe"  # pi_f: the experts' product, their average, or pi_theta alone
    lambda_pref: float = 1.0  # lambda, the weight of the preference in the fusion
    beta1: float = 0.2  # beta_1, the weight of the advantages in L_pref
    alpha: float = 0.2  # alpha, the weight of the preference's entropy in L_pref
    w_pref: float = 0.05  # weight of L_pref in the actor's loss
    w_cons: float = 0.1  # weight of L_cons, the KL from the fused policy to the preference
    pref_actions: Literal["replayed", "own"] = "replayed"  # whose actions L_pref weighs: replayed (diverges) or pi_f's
    # Logging
    eval_every: int = 25  # iterations between two evaluations, 3 episodes each (0: never)
    eval_episodes: int = 10  # episodes of the evaluation at the end
    eval_deterministic: bool = True  # evaluate tanh of the policy's mean rather than samples
    checkpoint_every: int = 20  # iterations between two checkpoints, the most that an interruption can lose
    capture_video: bool = False  # at the end, film an episode of the trained policy as mp4 (needs moviepy)
    track: bool = False  # log to Weights & Biases
    wandb_project_name: str = "prefpoe"  # project there; group and tags come from WANDB_RUN_GROUP and WANDB_TAGS
    wandb_entity: str | None = None  # team there

    batch_size = property(lambda self: self.num_envs * self.num_steps)
    num_iterations = property(lambda self: self.total_timesteps // self.batch_size)


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

    def sample(self, noise):
        """A sample for standard normal noise (batch, action_dim), the mode for noise 0; of tensors or arrays."""
        return self.mean + self.std * noise

    def kl(self, other: Gaussian) -> torch.Tensor:
        """KL(self || other) in closed form: (batch,)."""
        variance_ratio = (self.std / other.std) ** 2
        shift = ((self.mean - other.mean) / other.std) ** 2
        return 0.5 * (variance_ratio + shift - 1 - variance_ratio.log()).sum(-1)


def fuse(main: Gaussian, pref: Gaussian, args: Args) -> Gaussian:
    """The fused policy pi_f, per action dimension; of tensors, in `numpy_policy` of arrays.

    poe:     pi_f proportional to pi_theta pi_p^lambda: 1/s_f^2 = 1/s_theta^2 + lambda/s_p^2 and
             mu_f = s_f^2 (mu_theta/s_theta^2 + lambda mu_p/s_p^2); with lambda >= 1 sharper than either expert.
    linear:  means and standard deviations averaged with weights 1 : lambda, the contrast.
    none:    the main expert alone; only with w_pref = w_cons = 0 is no preference trained either.
    """
    if args.fusion == "none":
        return main
    if args.fusion == "linear":
        total = 1 + args.lambda_pref
        mean = 1 / total * main.mean + args.lambda_pref / total * pref.mean
        return Gaussian(mean, ((main.std + args.lambda_pref * pref.std) / total).clip(*STD_BOUNDS))
    main_precision = main.std**-2
    pref_precision = args.lambda_pref * pref.std**-2
    precision = main_precision + pref_precision
    mean = main_precision / precision * main.mean + pref_precision / precision * pref.mean
    return Gaussian(mean, (precision**-0.5).clip(*STD_BOUNDS))


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
        main_mean, main_log_std = self.actor(hidden).chunk(2, dim=-1)
        pref_mean, pref_log_std = self.preference(hidden).chunk(2, dim=-1)
        main = Gaussian(main_mean, (3.5 * torch.tanh(main_log_std) - 1.5).exp())
        pref = Gaussian(pref_mean, (3.5 * torch.tanh(pref_log_std) - 1.5).exp())
        return main, pref


class Critics(nn.Module):
    """Two networks Q(s, a), side by side in the first dimension of every weight."""

    def __init__(self, obs_dim: int, action_dim: int):
        super().__init__()
        for i, (size, out) in enumerate([(obs_dim + action_dim, 256), (256, 256), (256, 1)]):
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
        self.actor = Actor(obs_dim, action_dim)
        self.critics = Critics(obs_dim, action_dim)
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


def preference_loss(pref: Gaussian, action: torch.Tensor, A_norm: torch.Tensor, args: Args) -> torch.Tensor:
    """L_pref = -beta_1 E[A_norm log pi_p(a|s)] - alpha E[H(pi_p)], action before the tanh.

    On one batch it has no minimum in mu_p, since log pi_p of an action of negative A_norm falls for ever. Here no
    clipped surrogate holds mu_p. Where it comes to rest, and where it cannot: sac.md.
    """
    return -args.beta1 * (A_norm * pref.log_prob(action)).mean() - args.alpha * pref.entropy().mean()


def total_loss(
    agent: Weights, frozen: Weights, target: Weights, batch: Batch, noise: torch.Tensor, args: Args
) -> Losses:
    """The losses of critics, temperature and actor; each reaches its own weights alone.

    critics:      E[(Q(s, a) - y)^2] of both, y = r + gamma (1 - terminated) (min Q'(s', a') - temperature log pi_f)
    temperature:  -temperature (E[log pi_f] - action_dim), so that pi_f keeps an entropy of -action_dim nats
    actor:        E[temperature log pi_f - min Q(s, a_f)] + w_pref L_pref + w_cons L_cons, L_cons = E[KL(pi_f || pi_p)]

    L_pref weighs actions by A(s, a) = min Q(s, a) - V(s), V(s) the mean of min Q(s, a_f). It and L_cons take
    the Gaussians before the tanh: densities at u and at a differ by a factor that no weight changes, and KL does not.
    `agent`, `frozen` and `target` are an agent with its weights, with those without gradient, and with the target
    critics Q'. noise is (2 + num_actions, batch, action_dim).
    """
    with torch.no_grad():
        policy = fuse(*frozen.actor(batch.next_obs), args)
        u = policy.sample(noise[0])
        next_value = target.critics(batch.next_obs, torch.tanh(u)).amin(0)
        next_value = next_value - frozen.temperature * log_prob_squashed(policy, u)
        y = batch.reward + args.gamma * (1 - batch.terminated) * next_value
    q = agent.critics(batch.obs, torch.tanh(batch.u))
    critic_loss = ((q - y) ** 2).mean(-1).sum()

    main, pref = agent.actor(batch.obs)
    fused = fuse(main, pref, args)
    u = fused.sample(noise[2:])  # (num_actions, batch, action_dim)
    obs = batch.obs.expand(len(u), -1, -1).flatten(0, 1)
    q_fused = frozen.critics(obs, torch.tanh(u).flatten(0, 1)).amin(0).view(u.shape[:-1])
    log_prob = log_prob_squashed(fused, u)
    actor_loss = (frozen.temperature * log_prob - q_fused).mean()
    temperature_loss = -(agent.temperature * (log_prob.detach() - u.shape[-1])).mean()

    weighed = batch.u
    q_weighed = q.amin(0)
    if args.pref_actions == "own":
        weighed = fused.sample(noise[1]).detach()
        q_weighed = frozen.critics(batch.obs, torch.tanh(weighed)).amin(0)
    A_norm = normalized((q_weighed - q_fused.mean(0)).detach())
    pref_loss = preference_loss(pref, weighed, A_norm, args)
    cons_loss = fused.kl(pref).mean()
    loss = critic_loss + temperature_loss + actor_loss + args.w_pref * pref_loss + args.w_cons * cons_loss
    parts = critic_loss, actor_loss, pref_loss, cons_loss
    return Losses(loss, *parts, -log_prob.mean(), agent.temperature.mean(), q.mean())


def schedule(args: Args, learner: Learner) -> dict[str, float]:
    """The arguments that may change over training, for acting and for the losses, whichever stand here; SAC's do not."""
    return {"learning_rate": args.learning_rate, "q_lr": args.q_lr}


def train(envs: VecEnv, learner: Learner, log: Log, args: Args) -> None:
    """Act and update in turn, log."""
    step = make_step(learner.agent, args)  # gradient, clipping and Adam on a minibatch, compiled
    obs = envs.reset(args.seed, learner.iteration).astype(np.float32)
    try:
        numpy_policy(learner.agent, args)(obs, 0.0)
        learner.make_act = numpy_policy  # as long as `acted_by_agent` finds no difference
    except Exception as error:  # noqa: BLE001
        print(f"acting in torch, somewhat slower: numpy_policy does not fit Actor.forward ({error!r})")
    while learner.iteration < args.num_iterations:
        coefficients = schedule(args, learner)
        scheduled = replace(args, **coefficients)
        tensors = {name: torch.tensor(x) for name, x in coefficients.items()}
        episodes = []
        losses = []
        for _ in range(args.num_steps):
            u = explore(envs, obs, learner, scheduled)
            obs, ended = interact(envs, obs, u, learner.replay)
            episodes += ended
            if learner.replay.count > args.learning_starts:
                losses.append(update(step, learner, tensors, scheduled))
        means = (sum(losses) / len(losses)).tolist() if losses else [math.nan] * len(Losses._fields)
        learner.iteration += 1
        diagnostics = diagnose(learner.agent, learner.replay, learner.rng, scheduled)
        log.end_iteration(episodes, dict(zip(Losses._fields, means)), diagnostics, scheduled)


def explore(envs: VecEnv, obs: np.ndarray, learner: Learner, args: Args) -> np.ndarray:
    """The action before the tanh, of a uniform one until learning starts, then of pi_f: (num_envs, action_dim)."""
    shape = (len(obs), *envs.action_space.shape)
    if learner.replay.count < args.learning_starts:
        return np.arctanh(learner.rng.uniform(-1, 1, shape)).astype(np.float32)
    noise = learner.rng.standard_normal(shape, dtype=np.float32)
    u = learner.make_act(learner.agent, args)(obs, noise)  # built anew, since each update changes the weights
    if learner.replay.count // len(obs) % 50 == 0 and not acted_by_agent(obs, noise, u, learner, args):
        u = learner.make_act(learner.agent, args)(obs, noise)  # again, now with torch_policy
    return u


def interact(envs: VecEnv, obs: np.ndarray, u: np.ndarray, replay: Replay) -> tuple[np.ndarray, list]:
    """One step into the replay memory: the observations to go on from, (return, length) of each episode that ended.

    A time limit is no termination: the value of the episode's own last observation is bootstrapped.
    """
    next_obs, reward, terminated, _, final_obs, episodes = envs.step(to_action(u, envs.action_space))
    for i in range(len(obs)):
        replay.add(obs[i], u[i], reward[i], final_obs.get(i, next_obs[i]), terminated[i])
    return next_obs.astype(np.float32), episodes


def to_action(u: np.ndarray, action_space: gym.spaces.Box) -> np.ndarray:
    """tanh(u), stretched from +-1 to the environment's range."""
    low = action_space.low.astype(np.float32)
    high = action_space.high.astype(np.float32)
    return ((high + low) / 2 + (high - low) / 2 * np.tanh(u)).clip(low, high)


class Replay:
    """The last `size` transitions, as arrays (size, ...); `count` is of all that ever came."""

    def __init__(self, size: int, obs_dim: int, action_dim: int):
        widths = Batch(obs=(obs_dim,), u=(action_dim,), reward=(), next_obs=(obs_dim,), terminated=())
        self.size = size
        self.count = 0
        self.columns = Batch._make(np.zeros((size, *width), np.float32) for width in widths)

    def add(self, *transition) -> None:
        """Take in one transition: obs, u, reward, next_obs, terminated."""
        for column, x in zip(self.columns, transition, strict=True):
            column[self.count % self.size] = x
        self.count += 1

    def is_finite(self, n: int) -> bool:
        """Whether the last n transitions are."""
        rows = np.arange(max(0, self.count - n), self.count) % self.size
        return all(np.isfinite(column[rows]).all() for column in self.columns)

    def sample(self, rng: np.random.Generator, n: int) -> Batch:
        """n transitions, each as likely as the others."""
        rows = rng.integers(min(self.count, self.size), size=n)
        return Batch._make(torch.from_numpy(column[rows]) for column in self.columns)


def update(step: Callable, learner: Learner, coefficients: dict[str, torch.Tensor], args: Args) -> torch.Tensor:
    """One step on a minibatch; returns its losses, (len(Losses),)."""
    batch = learner.replay.sample(learner.rng, args.minibatch_size)
    noise = torch.randn((2 + args.num_actions, *batch.u.shape))  # by the generator that is saved
    return step(learner.params, learner.target, learner.adam, batch, noise, coefficients)


# == Below: what a checkpoint holds, Adam, acting in numpy, environments, diagnostics, evaluation, logging, options


class Learner:
    """All that training changes, and so what a checkpoint holds; `params` is the agent's weights as one vector, and
    `target` those of the target critics."""

    def __init__(self, env: gym.Env, args: Args):
        sizes = env.observation_space.shape[0], env.action_space.shape[0]
        self.agent = Agent(*sizes)
        self.params = parameters_to_vector(self.agent.parameters()).detach()
        vector_to_parameters(self.params, self.agent.parameters())  # from here on, the agent's weights are views of it
        self.target = parameters_to_vector(self.agent.critics.parameters()).detach()
        zeros = torch.zeros_like(self.params)
        self.adam = dict(m=zeros, v=zeros.clone(), powers=torch.ones(2, dtype=torch.float64))
        try:
            self.replay = Replay(args.buffer_size if args.evaluate is None else 1, *sizes)
        except MemoryError as error:
            refuse(f"--buffer-size {args.buffer_size}: {error}")
        self.rng = np.random.default_rng(args.seed)
        self.iteration = 0
        self.seconds = 0.0
        self.wandb_id = os.urandom(4).hex()
        self.make_act = torch_policy  # makes act(obs, noise); while training numpy_policy, if they agree

    def save(self, folder: Path, args: Args) -> None:
        """Write the replay memory and then checkpoint.pt, which names it: a kill in between leaves the old two."""
        filled = min(self.replay.count, self.replay.size)
        file = io.BytesIO()
        np.savez(file, **{name: x[:filled] for name, x in self.replay.columns._asdict().items()})
        memory = folder / f"replay-{self.replay.count}.npz"
        write_whole(memory, file.getbuffer())
        state = dict(agent=self.agent.state_dict(), adam=self.adam, args=asdict(args) | {"resume": None})
        state |= dict(target=self.target, replay_count=self.replay.count, torch_rng=torch.get_rng_state())
        state |= dict(iteration=self.iteration, global_step=self.iteration * args.batch_size, seconds=self.seconds)
        state |= dict(id=self.wandb_id, numpy_rng=json.dumps(self.rng.bit_generator.state))
        file = io.BytesIO()
        torch.save(state, file)
        write_whole(folder / "checkpoint.pt", file.getvalue())
        remove_memories(folder, keep=memory)

    def load(self, path: str, args: Args) -> None:
        """With --resume all of a checkpoint, and the replay memory if it is to train; else what it takes to act."""
        state = load_checkpoint(path)
        try:
            self.agent.load_state_dict(state["agent"])
            self.iteration = state.get("iteration", 0)
            if args.resume is not None:
                self.adam = state["adam"]
                self.target.copy_(state["target"])
                self.rng.bit_generator.state = json.loads(state["numpy_rng"])
                torch.set_rng_state(state["torch_rng"])
                self.seconds = state["seconds"]
                self.wandb_id = state["id"]
            if args.resume is not None and self.iteration < args.num_iterations:
                self.replay.count = state["replay_count"]
                filled = min(self.replay.count, self.replay.size)
                with np.load(Path(path, f"replay-{self.replay.count}.npz")) as saved:
                    for name, column in self.replay.columns._asdict().items():
                        column[:filled] = saved[name][:filled]
        except FileNotFoundError as error:
            refuse(f"{error.filename} is missing, without which {path} cannot go on; the end of a run removes it")
        except (RuntimeError, KeyError, ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
            refuse(f"{path} is damaged, or of another script or task than --env-id {args.env_id}: {error}")


def remove_memories(folder: Path, keep: Path | None = None) -> None:
    """Delete saved replay memories, and what a kill left of one half-written, but for `keep`."""
    for path in folder.iterdir():
        if re.fullmatch(r"replay-\d+\.npz(\.tmp)?", path.name) and path != keep:
            path.unlink()


def load_checkpoint(path: str) -> dict:
    """What Learner.save wrote into a folder or a file."""
    file = Path(path, "checkpoint.pt") if Path(path).is_dir() else Path(path)
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
        return {"args": state["args"]} | state
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
    """`step(params, target, adam, batch, noise, coefficients) -> losses`, in place on params, target and adam.
    Gradients of all losses, Adam (Kingma & Ba 2015) and the targets' step on flat vectors compile into one graph.
    Critics, actor and temperature move at once; CleanRL's actor and temperature move after the critics, twice every
    second step.
    """
    shapes = {name: x.shape for name, x in agent.named_parameters()}
    of_critics = {name: shape for name, shape in shapes.items() if name.startswith("critics.")}
    of_actor = torch.cat([torch.full((x.numel(),), name.startswith("actor.")) for name, x in agent.named_parameters()])
    m_decay = 0.9  # beta_1 of Adam
    v_decay = 0.999  # beta_2 of Adam
    decays = torch.tensor([m_decay, v_decay], dtype=torch.float64)

    def parts(vector: torch.Tensor, shapes: dict[str, torch.Size]) -> dict[str, torch.Tensor]:
        sizes = [shape.numel() for shape in shapes.values()]
        return {name: x.view(shapes[name]) for name, x in zip(shapes, vector.split(sizes))}

    def loss(params: torch.Tensor, target: torch.Tensor, batch: Batch, noise: torch.Tensor, args: Args) -> tuple:
        weights = parts(params, shapes)
        frozen = parts(params.detach(), shapes)
        old = frozen | parts(target, of_critics)
        losses = total_loss(*(Weights(agent, x) for x in (weights, frozen, old)), batch, noise, args)
        return losses.loss, torch.stack(losses)

    def step(params, target, adam: dict, batch: Batch, noise, coefficients: dict[str, torch.Tensor]) -> torch.Tensor:
        scheduled = replace(args, **coefficients)
        gradient, (_, losses) = grad_and_value(loss, has_aux=True)(params, target, batch, noise, scheduled)
        adam["powers"].mul_(decays)  # inductor would recompute decays**t for every 8 weights, 7 % of a step
        adam["m"].lerp_(gradient, 1 - m_decay)
        adam["v"].mul_(v_decay).addcmul_(gradient, gradient, value=1 - v_decay)
        m_hat = adam["m"] / (1 - adam["powers"][0]).float()
        v_hat = adam["v"] / (1 - adam["powers"][1]).float()
        learning_rate = torch.where(of_actor, scheduled.learning_rate, scheduled.q_lr)
        params.sub_(learning_rate * m_hat / (v_hat.sqrt() + 1e-8))
        critics = [x for name, x in parts(params, shapes).items() if name in of_critics]
        target.lerp_(parameters_to_vector(critics), scheduled.tau)
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


class Weights:
    """An agent's parts with other weights than its own."""

    def __init__(self, agent: Agent, weights: dict[str, torch.Tensor]):
        self.agent = agent
        self.weights = weights
        self.temperature = weights["log_temperature"].exp()

    def call(self, part: str, *inputs: torch.Tensor):
        weights = {name.removeprefix(f"{part}."): x for name, x in self.weights.items() if name.startswith(f"{part}.")}
        return functional_call(getattr(self.agent, part), weights, inputs)

    def actor(self, obs: torch.Tensor) -> tuple[Gaussian, Gaussian]:
        return self.call("actor", obs)

    def critics(self, obs: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        return self.call("critics", obs, action)


def acted_by_agent(obs: np.ndarray, noise: np.ndarray, u: np.ndarray, learner: Learner, args: Args) -> bool:
    """Whether tanh(u) is the action that torch_policy takes for the same noise; if not, it acts from here on."""
    expected = torch_policy(learner.agent, args)(obs, noise)
    if np.allclose(np.tanh(expected), np.tanh(u), rtol=0, atol=1e-3):  # the rest is rounding
        return True
    if learner.make_act is torch_policy:
        sys.exit("error: the actions taken are not samples of the policy: see explore and torch_policy")
    print("acting in torch, somewhat slower: numpy_policy differs from Actor.forward")
    learner.make_act = torch_policy
    return False


def torch_policy(agent: Agent, args: Args) -> Callable:
    """The policy before the tanh as `act(obs, noise)`: obs (num_envs, obs_dim) -> u (num_envs, action_dim)."""

    @torch.no_grad()
    def act(obs: np.ndarray, noise: np.ndarray | float) -> np.ndarray:
        main, pref = agent.actor(torch.from_numpy(obs))
        return fuse(main, pref, args).sample(torch.as_tensor(noise)).numpy()

    return act


def numpy_policy(agent: Agent, args: Args) -> Callable:
    """torch_policy in numpy, a fraction of its time. Training finds out whether the two are the same."""
    weights = {name: x.detach().numpy() for name, x in agent.actor.named_parameters()}
    layers = [(weights[f"{name}.weight"].T, weights[f"{name}.bias"]) for name in ("backbone.0", "backbone.2")]
    heads = [(weights[f"{name}.weight"].T, weights[f"{name}.bias"]) for name in ("actor", "preference")]

    def act(obs: np.ndarray, noise: np.ndarray | float) -> np.ndarray:
        hidden = obs
        for W, b in layers:
            hidden = np.maximum(hidden.dot(W) + b, 0)
        experts = []
        for W, b in heads:
            mean, log_std = np.split(hidden.dot(W) + b, 2, axis=-1)
            experts.append(Gaussian(mean, np.exp(3.5 * np.tanh(log_std) - 1.5)))
        return fuse(*experts, args).sample(noise)

    return act


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
    flat = isinstance(space, gym.spaces.Box) and len(space.shape) == 1 and space.dtype.kind == "f"
    if not flat or max(abs(space.low).max(), abs(space.high).max()) > 1e38:  # float32 ends at 3e38
        refuse(f"--env-id {args.env_id}: this script needs a flat, bounded Box of floats as action space, not {space}")
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


@torch.no_grad()
def diagnose(agent: Agent, replay: Replay, rng, args: Args) -> dict[str, float]:
    """The experts after an iteration's updates, on ten minibatches of replayed transitions.

    They are taken as Gaussians before the tanh, but for mean_difference. guidance is corr(A_norm, log pi_p(a|s)), and
    A_z2 E[A_norm z^2] of z = (u - mu_p) / s_p, on replayed actions and (own) on those of pi_f. V is of one action.
    """
    batch = replay.sample(rng, 10 * args.minibatch_size)
    main, pref = agent.actor(batch.obs)
    fused = fuse(main, pref, args)
    own, other = fused.sample(torch.randn((2, *batch.u.shape)))  # by the generator that is saved
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
        columns[f"entropy_{name}"] = policy.entropy().mean()
        columns[f"sigma_{name}"] = policy.std.mean()
        columns[f"trace_{name}"] = policy.std.square().sum(-1).mean()
    return {name: float(x) for name, x in columns.items()}


# How a trained preference that goes wrong shows in metrics.csv: a column, the bounds that it leaves, and what to turn.
SIGNATURES = (
    ("A_z2", -1000.0, 1000.0, "the preference runs away from the replayed actions: try --pref-actions own"),
    ("sigma_pref", 0.01, math.inf, "the preference's std is at its lower bound, e^-5: lower --beta1"),
)


def evaluate(learner: Learner, env: gym.Env, episodes: int, args: Args) -> list[float]:
    """Returns of so many episodes, with seeds from 2**30, in unscaled rewards; closes the environment."""
    act = learner.make_act(learner.agent, args)
    rng = np.random.default_rng(args.seed)
    space = env.action_space
    limit = (env.spec and env.spec.max_episode_steps) or 1_000  # without one an episode might never end
    returns = []
    with env:
        for episode in range(episodes):
            obs, _ = env.reset(seed=2**30 + episode)
            returns.append(0.0)
            for _ in range(limit):
                noise = 0.0 if args.eval_deterministic else rng.standard_normal(space.shape, dtype=np.float32)
                u = act(np.array(obs, np.float32)[None], noise)[0]
                obs, reward, terminated, truncated, _ = env.step(to_action(u, space))
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
                remove_memories(self.folder)  # which a kill may have left
                print(f"{self.folder} is finished")
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
        if learner.iteration < args.num_iterations:
            learner.save(self.folder, args)
        (self.folder / "evaluation.json").unlink(missing_ok=True)  # of a run that now goes on
        print(f"{args.env_id}: {args.num_iterations} iterations of {args.batch_size} steps, into {self.folder}")
        self.advice_given = set()
        self.started = time.perf_counter() - learner.seconds
        self.compiled = None  # iteration and seconds after the first iteration that learns, which compiles
        self.rows = []  # those since the last checkpoint, for Weights & Biases

    def end_iteration(self, episodes: list, losses: dict, diagnostics: dict[str, float], args: Args) -> None:
        """Evaluate where it is due, write, save and show; ends the program where numbers are not finite."""
        learner = self.learner
        step = learner.iteration * args.batch_size
        finite = learner.params.isfinite().all() and learner.replay.is_finite(args.batch_size)
        if not finite or math.isinf(losses["loss"]):  # before learning starts it is nan
            sys.exit(f"error: not finite at step {step}: {self.folder} keeps the checkpoint before")
        mean_return, mean_length = np.mean(episodes, axis=0) if episodes else (math.nan, math.nan)
        evaluating = args.eval_every and learner.iteration % args.eval_every == 0
        eval_return = np.mean(evaluate(learner, make_env(args), 3, args)) if evaluating else math.nan
        seconds = time.perf_counter() - self.started
        row = dict(global_step=step, episodic_return=mean_return, episodic_length=mean_length, eval_return=eval_return)
        speed = args.batch_size / (seconds - learner.seconds)
        row |= losses | diagnostics | dict(lr=args.learning_rate, SPS=speed, seconds=seconds)
        learner.seconds = seconds
        due = learner.iteration % args.checkpoint_every == 0 or learner.iteration == args.num_iterations
        with open(self.metrics, "a+", newline="") as file:
            file.seek(0)
            header = file.readline().strip()
            table = csv.DictWriter(file, header.split(",") if header else row, restval=math.nan, lineterminator="\n")
            if not header:
                table.writeheader()
            table.writerow(row)  # an error where a column is new
            if due:
                file.flush()
                os.fsync(file.fileno())
        self.rows.append({name: x for name, x in row.items() if not math.isnan(x)})
        if due:
            learner.save(self.folder, self.args)
            for logged in self.rows if self.wandb else []:  # only now, or a resumed run would give them again
                self.wandb.log(logged, step=logged["global_step"])
            self.rows = []
        if self.compiled is None and math.isnan(losses["loss"]):
            pass  # nothing is learned yet
        elif self.compiled is None:
            self.compiled = learner.iteration, seconds
            moments = learner.adam["v"].split([x.numel() for x in learner.agent.parameters()])
            for (name, _), v in zip(learner.agent.named_parameters(), moments):
                if not v.any() and not (args.fusion == "none" and "preference" in name):
                    print(f"warning: no gradient has reached {name}")
        elif learner.iteration % 10 == 0 or learner.iteration == args.num_iterations:
            pace = (learner.iteration - self.compiled[0]) / (seconds - self.compiled[1])  # iterations a second
            left = (args.num_iterations - learner.iteration) / pace / 60
            print(f"step={step} return={mean_return:.1f} SPS={args.batch_size * pace:.0f} {left:.1f} min left")
        for column, low, high, advice in SIGNATURES if args.w_pref else ():
            if not low <= row[column] <= high:
                if advice not in self.advice_given:
                    print(f"warning: {column} is {row[column]:.3g}: {advice}")
                    self.advice_given.add(advice)
                break  # the first one is the cause


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
        if args.resume is not None and {"env_id", "seed", "num_envs", "num_steps", "buffer_size"} & changed.keys():
            refuse(f"--resume cannot change the task, the seed or shapes: {changed}")
        if args.resume is not None and changed:
            print(f"from here on, with schedules of {args.total_timesteps} steps: {changed}")
    # Least and largest value of numbers; where not named, 0 to 1e6 for fractions and from 1 for whole ones.
    ranges = dict(seed=(0, 2**32 - 1), total_timesteps=(args.batch_size, 2**53), eval_every=(0, 2**53), gamma=(0, 1))
    ranges |= dict(tau=(0, 1), minibatch_size=(2, 2**20), num_actions=(1, 2**10))
    for name, x in asdict(args).items():
        low, high = ranges.get(name, (0, 1e6) if type(x) is float else (1, 2**53))
        if type(x) in (int, float) and not low <= x <= high:
            refuse(f"--{name.replace('_', '-')} {x}: give a number from {low:g} to {high:g}")
    if args.learning_starts >= args.num_iterations * args.batch_size:
        refuse(f"--learning-starts {args.learning_starts}: must be less than the steps of training")
    for flag, package in {"track": "wandb", "capture_video": "moviepy"}.items():
        if getattr(args, flag) and not find_spec(package):
            refuse(f"--{flag.replace('_', '-')}: run pip install {package}")
    return args


def main(args: Args) -> None:
    """Train and evaluate, or only evaluate."""
    torch.set_num_threads(1)  # so that a run does not depend on how many cores there are
    torch.set_flush_denormal(True)  # Adam's m of dead ReLUs decays to denormal numbers: a quarter of an update's time
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
            remove_memories(log.folder)
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
