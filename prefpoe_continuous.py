# /// script
# requires-python = ">=3.10"
# dependencies = ["torch==2.13.0", "gymnasium[mujoco,box2d]==1.4.0", "numpy>=2.2", "tyro>=1.0", "tqdm>=4.67", "wandb>=0.31"]
# ///
"""PrefPoE for continuous actions: PPO acting with a product of two policy heads (arXiv 2511.08241).

    python prefpoe_continuous.py --env-id Ant-v4 --seed 1          # train, evaluate, save under runs/
    python prefpoe_continuous.py --resume runs/<run>               # go on after an interruption
    python prefpoe_continuous.py --evaluate runs/<run>             # evaluate only
    python prefpoe_continuous.py --help                            # every option

The main expert pi_theta and the preference expert pi_p share one backbone. Actions come from their
product pi_f ~ pi_theta * pi_p^lambda, PPO trains that product, and the preference is trained to put
its mass on actions of high advantage. Read on from `Args` to `main`, whose loop is Algorithm 1.
"""

import csv
import difflib
import importlib.util
import io
import json
import math
import os
import platform
import re
import signal
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import distributions
from pathlib import Path
from typing import Literal, NamedTuple, NoReturn

import gymnasium as gym
import numpy as np
import torch
import tyro
from torch import nn
from torch.func import functional_call, grad_and_value
from torch.nn.utils import parameters_to_vector, vector_to_parameters
from tqdm import tqdm


@dataclass
class Args:
    env_id: str = "HalfCheetah-v4"
    """Gymnasium id of an environment with a Box action space"""
    seed: int = 1
    """seed of the environments, the initial weights and the action noise"""
    total_timesteps: int = 1_000_000
    """environment steps to train for, over all environments"""
    exp_name: str = Path(__file__).stem
    """name of the experiment, part of the run's name"""
    run_name: str = ""
    """folder under runs/ (default: <env_id>__<exp_name>__<seed>__<unix time>)"""
    resume: str = ""
    """run folder to go on with; every other argument then comes from its config.json"""
    evaluate: str = ""
    """run folder or checkpoint to evaluate, without training"""
    cuda: bool = False
    """update on the GPU (acting stays on the CPU, where a network of this size is faster)"""
    compile: bool = True
    """compile the update with torch.compile; without a C++ compiler it runs eagerly"""

    learning_rate: float = 3e-4
    """Adam's learning rate"""
    anneal_lr: bool = True
    """let the learning rate fall linearly to 0"""
    num_envs: int = 1
    """environments stepped in turn"""
    num_steps: int = 2048
    """steps in each environment between two updates"""
    gamma: float = 0.99
    """discount factor"""
    gae_lambda: float = 0.95
    """lambda of generalized advantage estimation"""
    num_minibatches: int = 32
    """minibatches an epoch"""
    update_epochs: int = 10
    """passes over each batch"""
    clip_coef: float = 0.2
    """epsilon of the clipped surrogate and of the clipped value loss"""
    ent_coef: float = 0.0
    """weight of the entropy bonus of the acting policy"""
    vf_coef: float = 0.5
    """weight of the value loss"""
    max_grad_norm: float = 0.5
    """largest norm of the gradient"""
    norm_obs: bool = True
    """normalise observations by running statistics and clip them to +-10"""
    norm_reward: bool = True
    """divide rewards by the running std of the discounted return and clip them to +-10"""

    fusion: Literal["poe", "linear", "none"] = "poe"
    """act with the product of the experts, with their average, or with the main expert alone"""
    lambda_pref: float = 1.0
    """lambda, the weight of the preference in the fusion"""
    beta1: float = 0.2
    """beta_1, the weight of the advantages in L_pref; the literature uses 0.1 to 0.4"""
    alpha: float = 0.2
    """alpha, the weight of the preference's entropy in L_pref; 0.1 to 0.4"""
    w_pref: float = 0.05
    """weight of L_pref in the total loss; 0.005 to 0.2"""
    w_cons: float = 0.1
    """weight of L_cons, the KL from the fused policy to the preference; 0.02 to 0.2"""
    anneal_pref: bool = False
    """let alpha and w_cons fall linearly to 0"""
    advantage_noise: float = 0.0
    """std of the Gaussian noise added to the advantages that the preference sees"""

    eval_every: int = 25
    """iterations between two evaluations of the deterministic policy, 3 episodes each (0: never)"""
    eval_episodes: int = 10
    """episodes of the evaluation at the end"""
    eval_deterministic: bool = True
    """evaluate the mode of the policy rather than samples of it"""
    checkpoint_every: int = 10
    """iterations between two checkpoints"""
    capture_video: bool = False
    """record the episodes of the evaluation at the end as mp4 (needs moviepy)"""
    track: bool = False
    """log to Weights & Biases"""
    wandb_project_name: str = "prefpoe"
    """project on Weights & Biases; group and tags come from WANDB_RUN_GROUP and WANDB_TAGS"""
    wandb_entity: str | None = None
    """team on Weights & Biases"""


def make_env(env_id: str, video: bool = False) -> gym.Env:
    """One environment with flat observations; exits with one line where it cannot be made, or filmed."""
    if env_id == "LunarLander-v2" and env_id not in gym.registry:
        print("LunarLander-v2: registered as v3, which without wind is the same physics; this gymnasium has no v2")
        v3 = gym.spec("LunarLander-v3")
        gym.register(env_id, v3.entry_point, v3.reward_threshold, max_episode_steps=v3.max_episode_steps)
    if video and sys.platform == "linux" and "DISPLAY" not in os.environ:
        os.environ.update(MUJOCO_GL=os.environ.get("MUJOCO_GL", "egl"), SDL_VIDEODRIVER="dummy")
    try:
        env = gym.make(env_id, render_mode="rgb_array" if video else None, disable_env_checker=True)
    except gym.error.DependencyNotInstalled as error:
        fail(f"--env-id {env_id}: {error}; run pip install 'gymnasium[mujoco,box2d]==1.4.0'")
    except (gym.error.Error, ImportError) as error:
        near = difflib.get_close_matches(env_id, gym.registry, n=3)
        fail(f"--env-id {env_id}: {error}" + (f" Near names: {', '.join(near)}" if near else ""))
    if not isinstance(env.observation_space, gym.spaces.Box) or len(env.observation_space.shape) != 1:
        env = gym.wrappers.FlattenObservation(env)
    if video:
        try:
            importlib.import_module("moviepy")
            env.reset()
            env.render()
        except Exception as error:  # noqa: BLE001 (each renderer raises its own)
            fail(f"--capture-video: {error}; run pip install moviepy 'gymnasium[mujoco,box2d]==1.4.0'")
    return env


def check_action_space(env_id: str, action_space: gym.Space) -> None:
    """Exit with one line where this script's policy does not fit the action space."""
    if not isinstance(action_space, gym.spaces.Box) or len(action_space.shape) != 1:
        other = "prefpoe_lunarlander.py" if isinstance(action_space, gym.spaces.Discrete) else "another algorithm"
        fail(f"--env-id {env_id}: this script needs a flat Box action space, not {action_space}; use {other}")


class VecEnv(gym.vector.SyncVectorEnv):
    """`SyncVectorEnv` in SAME_STEP autoreset mode, with a step that has a fraction of its overhead.

    An episode's last transition is a real one: `step` returns its reward and flags together with the
    first observation of the next episode, and its own last observation in `info["final_obs"]`.
    """

    def __init__(self, env_id: str, num_envs: int):
        autoreset_mode = gym.vector.AutoresetMode.SAME_STEP
        super().__init__([lambda: make_env(env_id)] * num_envs, autoreset_mode=autoreset_mode)
        self.episode_return, self.episode_length = [0.0] * num_envs, [0] * num_envs

    def step(self, actions: np.ndarray):
        """actions (num_envs, ...) -> obs (num_envs, obs_dim), reward, terminated, truncated, info.

        `info["final_obs"]` maps the index of each environment whose episode ended to its last
        observation, (obs_dim,); `info["episodes"]` lists (return, length) of those episodes.
        """
        steps, final_obs, episodes = [], {}, []
        for i, (env, action) in enumerate(zip(self.envs, actions, strict=True)):
            obs, reward, terminated, truncated, _ = env.step(action)
            self.episode_return[i] += float(reward)
            self.episode_length[i] += 1
            if terminated or truncated:
                final_obs[i] = obs
                episodes.append((self.episode_return[i], self.episode_length[i]))
                self.episode_return[i], self.episode_length[i] = 0.0, 0
                obs, _ = env.reset()
            steps.append((obs, float(reward), terminated, truncated))
        return *map(np.array, zip(*steps, strict=True)), {"final_obs": final_obs, "episodes": episodes}


class RunningMeanStd:
    """Mean and variance of all rows seen so far (Welford 1962), in float64, updated in place.

    mean and m2, the sum of squared deviations, are (1, *shape), and constants are arrays: for one row
    numpy takes half as long where nothing is broadcast or converted.
    """

    def __init__(self, shape: tuple[int, ...], enabled: bool):
        self.enabled = enabled
        self.count, self.mean, self.m2 = np.array(1e-4), np.zeros((1, *shape)), np.full((1, *shape), 1e-4)
        self.epsilon, self.limit = np.array(1e-8), np.array(10.0)

    def update(self, rows: np.ndarray) -> None:
        """Take in rows (N, *shape)."""
        for row in rows[:, None]:
            self.count[()] += 1
            x = row - self.mean
            self.mean += x / self.count
            self.m2 += x * (row - self.mean)

    def normalize(self, rows: np.ndarray) -> np.ndarray:
        """Rows (N, *shape) shifted, scaled and clipped to +-10; unchanged where not enabled."""
        if not self.enabled:
            return rows
        x = (rows - self.mean) / np.sqrt(self.m2 / self.count + self.epsilon)
        return np.minimum(np.maximum(x, -self.limit), self.limit)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Tensors that share memory with these arrays: count (), mean and m2 (*shape,)."""
        arrays = dict(count=self.count, mean=self.mean[0, ...], m2=self.m2[0, ...])
        return {name: torch.from_numpy(array) for name, array in arrays.items()}


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
    return_stats.count[()], return_stats.m2[:] = count[-1], m2[-1]
    return_stats.mean += total[-1] / count[-1]
    return np.clip(rewards / np.sqrt(m2 / count + 1e-8)[:, None], -10.0, 10.0)


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

    def kl(self, other: "Gaussian") -> torch.Tensor:
        """KL(self || other) in closed form: (batch,)."""
        variance_ratio = (self.std / other.std) ** 2
        shift = ((self.mean - other.mean) / other.std) ** 2
        return 0.5 * (variance_ratio + shift - 1 - variance_ratio.log()).sum(-1)

    def distance(self, other: "Gaussian") -> torch.Tensor:
        """Between the means, in units of the action: (batch, action_dim)."""
        return (self.mean - other.mean).abs()


def layer_init(layer: nn.Linear, gain: float = math.sqrt(2)) -> nn.Linear:
    """Orthogonal weights of that gain, biases 0."""
    nn.init.orthogonal_(layer.weight, gain)
    nn.init.zeros_(layer.bias)
    return layer


class Agent(nn.Module):
    """One backbone with three heads: main expert pi_theta, preference expert pi_p, and value."""

    def __init__(self, obs_dim: int, action_space: gym.spaces.Box):
        super().__init__()
        action_dim = action_space.shape[0]
        first, second = layer_init(nn.Linear(obs_dim, 64)), layer_init(nn.Linear(64, 64))
        self.backbone = nn.Sequential(first, nn.Tanh(), second, nn.Tanh())
        self.critic = layer_init(nn.Linear(64, 1), 1.0)
        self.actor_mean = layer_init(nn.Linear(64, action_dim), 0.01)
        self.actor_logstd = nn.Parameter(torch.full((1, action_dim), -1.0))
        self.preference_mean = layer_init(nn.Linear(64, action_dim), 0.01)
        self.preference_logstd = nn.Parameter(torch.full((1, action_dim), -1.0))
        self.register_buffer("action_range", torch.tensor(action_space.high - action_space.low), persistent=False)

    def forward(self, obs: torch.Tensor) -> tuple[Gaussian, Gaussian, torch.Tensor]:
        """obs (batch, obs_dim) -> main expert, preference expert, value (batch,)."""
        hidden = self.backbone(obs)
        main_mean, pref_mean = torch.tanh(self.actor_mean(hidden)), torch.tanh(self.preference_mean(hidden))
        main = Gaussian(main_mean, self.actor_logstd.exp().expand_as(main_mean))
        pref = Gaussian(pref_mean, self.preference_logstd.exp().clamp(1e-3, 2.0).expand_as(pref_mean))
        return main, pref, self.critic(hidden).squeeze(-1)


def fuse(main: Gaussian, pref: Gaussian, args: Args) -> Gaussian:
    """The policy that acts, pi_f; each formula per action dimension, with weight lambda.

    poe:     pi_f ~ pi_theta pi_p^lambda, that is 1/s_f^2 = 1/s_theta^2 + lambda/s_p^2 and
             mu_f = s_f^2 (mu_theta/s_theta^2 + lambda mu_p/s_p^2). With lambda >= 1 it is sharper
             than either expert; with lambda < 1 only s_f <= s_theta is guaranteed.
    linear:  means and standard deviations averaged with weights 1 : lambda, the contrast.
    none:    the main expert alone.
    """
    if args.fusion == "none":
        return main
    if args.fusion == "linear":
        mean, std = ((m + args.lambda_pref * p) / (1 + args.lambda_pref) for m, p in zip(main, pref, strict=True))
        return Gaussian(mean, std.clamp(1e-3, 2.0))
    main_precision, pref_precision = main.std**-2, args.lambda_pref * pref.std**-2
    precision = main_precision + pref_precision
    mean = (main_precision * main.mean + pref_precision * pref.mean) / precision
    return Gaussian(mean, (precision**-0.5).clamp(1e-3, 2.0))


class Batch(NamedTuple):
    """One iteration's data, each (batch, ...); log_prob is that of the policy that acted."""

    obs: torch.Tensor
    action: torch.Tensor
    log_prob: torch.Tensor
    value: torch.Tensor
    advantage: torch.Tensor
    returns: torch.Tensor
    A_norm: torch.Tensor


class Losses(NamedTuple):
    """Scalars of one minibatch; `loss` is what is minimised."""

    loss: torch.Tensor
    policy_loss: torch.Tensor
    value_loss: torch.Tensor
    approx_kl: torch.Tensor
    clipfrac: torch.Tensor
    pref_loss: torch.Tensor
    cons_loss: torch.Tensor


def normalized(advantage: torch.Tensor) -> torch.Tensor:
    return (advantage - advantage.mean()) / (advantage.std() + 1e-8)


def ppo_loss(policy, value: torch.Tensor, batch: Batch, args: Args) -> tuple[torch.Tensor, ...]:
    """Clipped surrogate + vf_coef * clipped value loss - ent_coef * entropy (Schulman et al. 2017).

    `policy` is the one that acts, at new weights. Returns that sum and its parts: policy_loss,
    value_loss, approx_kl (the k3 estimator of Schulman 2020), clipfrac.
    """
    log_ratio = policy.log_prob(batch.action) - batch.log_prob
    ratio, advantage = log_ratio.exp(), normalized(batch.advantage)
    clipped_ratio = ratio.clamp(1 - args.clip_coef, 1 + args.clip_coef)
    policy_loss = -torch.min(advantage * ratio, advantage * clipped_ratio).mean()

    clipped_value = batch.value + (value - batch.value).clamp(-args.clip_coef, args.clip_coef)
    value_loss = 0.5 * torch.max((value - batch.returns) ** 2, (clipped_value - batch.returns) ** 2).mean()

    loss = policy_loss + args.vf_coef * value_loss - args.ent_coef * policy.entropy().mean()
    clipfrac = ((ratio - 1).abs() > args.clip_coef).float().mean()
    return loss, policy_loss, value_loss, (ratio - 1 - log_ratio).mean(), clipfrac


def preference_loss(pref, action, A_norm, beta1: float, alpha: float | torch.Tensor) -> torch.Tensor:
    """L_pref = -beta_1 E[A_norm log pi_p(a|s)] - alpha E[H(pi_p)].

    Theorem 1: where the actions are drawn from pi_p itself, the fixed point is the Boltzmann
    distribution ~ exp(beta_1 A / alpha). Here pi_f draws them, so that holds only approximately.
    """
    return -beta1 * (A_norm * pref.log_prob(action)).mean() - alpha * pref.entropy().mean()


def total_loss(agent_output: tuple, batch: Batch, anneal_pref: torch.Tensor, args: Args) -> Losses:
    """L_total = L_PPO(pi_f) + w_pref L_pref + w_cons L_cons, with L_cons = E[KL(pi_f || pi_p)].

    The gradient of L_cons reaches both experts; on pi_f it acts as an entropy bonus. Gaussian experts
    that the advantages tell nothing settle at s_f^2 = (1 - alpha w_pref / w_cons) s_p^2, where the two
    terms are worth an entropy bonus of weight alpha w_pref; if alpha w_pref >= w_cons, s_p only grows.
    """
    main, pref, value = agent_output
    fused = fuse(main, pref, args)
    loss, *ppo_parts = ppo_loss(fused, value, batch, args)
    pref_loss = preference_loss(pref, batch.action, batch.A_norm, args.beta1, args.alpha * anneal_pref)
    cons_loss = fused.kl(pref).mean()
    loss = loss + args.w_pref * pref_loss + args.w_cons * anneal_pref * cons_loss
    return Losses(loss, *ppo_parts, pref_loss, cons_loss)


def gae(rewards, values, next_values, terminated, done, gamma: float, gae_lambda: float) -> np.ndarray:
    """Generalized advantage estimation (Schulman et al. 2016); all arrays (num_steps, num_envs).

    delta_t = r_t + gamma (1 - terminated_t) V(s'_t) - V(s_t);  A_t = delta_t + gamma lambda A_t+1
    s'_t is the state that really followed, at an episode's end its final observation: only a
    termination zeroes the bootstrap, and no sum runs across an episode's end.
    """
    advantages = rewards + gamma * ~terminated * next_values - values
    decay = gamma * gae_lambda * ~done
    for t in reversed(range(len(rewards) - 1)):
        advantages[t] += decay[t] * advantages[t + 1]
    return advantages


def numpy_policy(agent: Agent, args: Args) -> Callable:
    """The acting policy in numpy: torch takes 150 us for the few us of work in one observation.

    Returns `act(obs, noise)`: obs (N, obs_dim) and noise from `sample_noise`, or 0 for the mode ->
    action (N, action_dim).
    """
    parameters = {name: value.detach().cpu().numpy().T for name, value in agent.named_parameters()}
    weights = {name: np.array(value, order="C", ndmin=2) for name, value in parameters.items()}  # copies, (in, out)
    W1, b1, W2, b2 = (weights[f"backbone.{name}"] for name in ("0.weight", "0.bias", "2.weight", "2.bias"))
    W_heads, b_heads = (
        np.hstack([weights[f"{head}_mean.{x}"] for head in ("actor", "preference")]) for x in ("weight", "bias")
    )
    with torch.no_grad():  # no std depends on the state, and mu_f is linear in the experts' means
        main, pref, _ = agent(agent.backbone[0].weight[:1] * 0)
        one, zero = torch.ones_like(main.std), torch.zeros_like(main.std)
        from_main = fuse(Gaussian(one, main.std), Gaussian(zero, pref.std), args)
        from_pref = fuse(Gaussian(zero, main.std), Gaussian(one, pref.std), args)
    share, std = torch.cat([from_main.mean, from_pref.mean], -1).cpu().numpy(), from_main.std.cpu().numpy()
    action_dim = std.shape[1]

    def act(obs: np.ndarray, noise: np.ndarray | float) -> np.ndarray:
        hidden = np.tanh(np.tanh(obs.dot(W1) + b1).dot(W2) + b2)
        parts = share * np.tanh(hidden.dot(W_heads) + b_heads)
        return parts[:, :action_dim] + parts[:, action_dim:] + std * noise

    return act


def sample_noise(rng: np.random.Generator, size: tuple[int, ...], action_space: gym.Space) -> np.ndarray:
    """What `act` adds to the mean, in units of the standard deviation: (*size, action_dim)."""
    return rng.standard_normal((*size, *action_space.shape), dtype=np.float32)


def clip_action(action: np.ndarray, action_space: gym.Space) -> np.ndarray:
    """For the environment only: the log-probability stays that of the unclipped sample."""
    return np.minimum(np.maximum(action, action_space.low), action_space.high)


class Rollout(NamedTuple):
    """Transitions, each (num_steps, num_envs, ...); obs and next_obs as the network sees them."""

    obs: np.ndarray
    action: np.ndarray
    reward: np.ndarray
    next_obs: np.ndarray
    terminated: np.ndarray
    done: np.ndarray


def collect(envs: VecEnv, obs: np.ndarray, act: Callable, obs_stats, rng, args: Args) -> tuple[Rollout, list]:
    """Act for `num_steps` steps from `obs` (num_envs, obs_dim), which continues in `rollout.next_obs`.

    Returns the rollout and (return, length) of each episode that ended, in the environment's rewards.
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
def make_batch(agent: Agent, rollout: Rollout, rewards: np.ndarray, rng, args: Args) -> tuple[Batch, dict]:
    """Values, log-probabilities and advantages of a whole rollout in one pass, and its diagnostics."""
    device = next(agent.parameters()).device
    obs, action, next_obs = (
        torch.from_numpy(x).to(device).flatten(0, 1) for x in (rollout.obs, rollout.action, rollout.next_obs)
    )
    main, pref, value = agent(obs)
    values, next_values = (x.cpu().numpy().reshape(rewards.shape) for x in (value, agent(next_obs)[-1]))
    advantages = gae(rewards, values, next_values, rollout.terminated, rollout.done, args.gamma, args.gae_lambda)
    advantage = torch.from_numpy(advantages.astype(np.float32)).to(device).flatten()
    A_norm = normalized(advantage)
    if args.advantage_noise:
        noise = rng.normal(0.0, args.advantage_noise, len(A_norm)).astype(np.float32)
        A_norm = A_norm + torch.from_numpy(noise).to(device)
    fused = fuse(main, pref, args)
    batch = Batch(obs, action, fused.log_prob(action), value, advantage, advantage + value, A_norm)
    return batch, diagnostics(main, pref, fused, batch, agent.action_range)


def diagnostics(main, pref, fused, batch: Batch, action_range) -> dict[str, float]:
    """How the experts stand to each other on the states of a batch, before its update.

    variance_reduced is the share of states where tr S_f < min(tr S_theta, tr S_p); with lambda < 1
    the product need not be sharper than the preference. guidance is corr(A_norm, log pi_p(a|s)).
    """
    row, trace = {}, {}
    for name, policy in {"main": main, "pref": pref, "fused": fused}.items():
        trace[name] = policy.std.square().sum(-1)
        row[f"entropy_{name}"] = policy.entropy().mean()
        row[f"sigma_{name}"] = policy.std.mean()
        row[f"trace_{name}"] = trace[name].mean()
    row["variance_reduced"] = (trace["fused"] < torch.min(trace["main"], trace["pref"])).float().mean()
    row["kl_fused_pref"] = fused.kl(pref).mean()
    row["kl_fused_main"] = fused.kl(main).mean()
    row["mean_difference"] = (main.distance(pref) / action_range).mean()
    row["guidance"] = torch.corrcoef(torch.stack([batch.A_norm, pref.log_prob(batch.action)]))[0, 1]
    row["explained_variance"] = 1 - (batch.returns - batch.value).var() / batch.returns.var()
    return {name: value.item() for name, value in row.items()}


class Adam(NamedTuple):
    """Adam's moments for all parameters as one vector, (num_params,), and its step count t."""

    m: torch.Tensor
    v: torch.Tensor
    t: torch.Tensor


def make_step(agent: Agent, args: Args) -> Callable:
    """Build `step(params, adam, batch, lr, anneal_pref) -> losses`, in place on params and adam.

    Gradient, clipping and Adam (Kingma & Ba 2015) on one flat vector of parameters compile into a
    single graph, several times as fast as backward() and an optimizer.
    """
    names, sizes = [], []
    for name, value in agent.named_parameters():
        names.append((name, value.shape))
        sizes.append(value.numel())

    def loss(params: torch.Tensor, batch: Batch, anneal_pref: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        weights = {name: x.view(shape) for (name, shape), x in zip(names, params.split(sizes), strict=True)}
        losses = total_loss(functional_call(agent, weights, (batch.obs,)), batch, anneal_pref, args)
        return losses.loss, torch.stack(losses)

    def step(params, adam: Adam, batch: Batch, lr: torch.Tensor, anneal_pref: torch.Tensor) -> torch.Tensor:
        gradient, (_, losses) = grad_and_value(loss, has_aux=True)(params, batch, anneal_pref)
        gradient = gradient * (args.max_grad_norm / (gradient.norm() + 1e-6)).clamp(max=1.0)
        adam.t.add_(1)  # in float64, and of shape (1,) since inductor drops in-place changes of 0-dim tensors
        adam.m.lerp_(gradient, 1 - 0.9)
        adam.v.mul_(0.999).addcmul_(gradient, gradient, value=1 - 0.999)
        m_hat, v_hat = adam.m / (1 - 0.9**adam.t).float(), adam.v / (1 - 0.999**adam.t).float()
        params.sub_(lr * m_hat / (v_hat.sqrt() + 1e-5))
        return losses

    return compiled(step, args.cuda) if args.compile else step


def compiled(function: Callable, cuda: bool) -> Callable:
    """torch.compile, falling back to the function itself where compiling it fails, as without a compiler."""
    # A third less time a step than by default: between calls only tensors are checked, since agent and args never
    # change (torch keeps graphs by code object, so each function needs one of its own); on the CPU, kernels are
    # called from C++ and no intermediate is computed twice.
    function.__code__ = function.__code__.replace()
    options = {"guard_filter_fn": torch.compiler.keep_tensor_guards_unsafe}
    if not cuda:
        options |= {"cpp_wrapper": True, "realize_reads_threshold": 1, "realize_opcount_threshold": 2}
    calls = [torch.compile(function, fullgraph=True, dynamic=False, options=options)]

    def call(*inputs):
        try:
            return calls[-1](*inputs)
        except Exception as error:
            if calls[-1] is function:
                raise
            print(f"torch.compile failed, going on eagerly and slower: {str(error).strip().splitlines()[0]}")
            calls.append(function)
            return function(*inputs)

    return call


def update(step: Callable, params, adam: Adam, batch: Batch, lr: float, anneal: float, rng, args: Args) -> Losses:
    """`update_epochs` passes over the batch in shuffled minibatches; returns the mean losses."""
    lr, anneal = (torch.tensor(x, device=params.device) for x in (lr, anneal))
    total = torch.zeros(len(Losses._fields), device=params.device)
    for _ in range(args.update_epochs):
        order = torch.from_numpy(rng.permutation(len(batch.obs))).to(params.device)
        columns = [column[order].chunk(args.num_minibatches) for column in batch]
        for minibatch in zip(*columns, strict=True):
            total += step(params, adam, Batch(*minibatch), lr, anneal)
    return Losses(*(total / (args.update_epochs * args.num_minibatches)).tolist())


def evaluate(act: Callable, env: gym.Env, obs_stats: RunningMeanStd, episodes: int, args: Args, frozen=True) -> list:
    """Returns of `episodes` episodes in the environment's own rewards, statistics frozen.

    Episode k is seeded with 2**30 + k: training seeds are below 2**30. With frozen=False statistics
    are gathered on the way, for weights that come without.
    """
    rng, returns = np.random.default_rng(args.seed), []
    for episode in range(episodes):
        obs, _ = env.reset(seed=2**30 + episode)
        episode_return = 0.0
        for _ in range(100_000):  # where no time limit ends an episode, the policy may never
            noise = 0.0 if args.eval_deterministic else sample_noise(rng, (1,), env.action_space)
            action = act(observe(obs[None], obs_stats, update=not frozen), noise)
            obs, reward, terminated, truncated, _ = env.step(clip_action(action[0], env.action_space))
            episode_return += float(reward)
            if terminated or truncated:
                break
        returns.append(episode_return)
    return returns


def failure_signatures(row: dict[str, float], action_space: gym.Space) -> list[str]:
    """The known failures of the preference that show in a row of metrics.csv, each with the flag to turn."""
    signatures = {
        "the preference's entropy is collapsing (mean sigma below 0.05): raise --alpha": row["sigma_pref"] < 0.05,
        "the preference's sigma is at its upper bound (2), so it no longer guides anything: "
        "lower --alpha or --w-pref, or raise --w-cons": row["sigma_pref"] > 1.9,
        "the experts' means are over 15 % of the action range apart: raise --w-cons": row["mean_difference"] > 0.15,
    }
    return [advice for advice, present in signatures.items() if present]


def print_evaluation(returns: list[float]) -> None:
    print(f"evaluation: mean={np.mean(returns):.2f} std={np.std(returns):.2f} episodes={len(returns)}")


def write_atomic(path: Path, data: bytes) -> None:
    """A crash or a full disk at any moment leaves the old file or the new one, never half of one."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def save_checkpoint(folder: Path, state: dict, rng: np.random.Generator, iteration: int, seconds: float, args: Args):
    """Write checkpoint.pt; `state` holds dicts of tensors that share memory with what training changes."""
    progress = dict(iteration=iteration, global_step=iteration * args.num_envs * args.num_steps, seconds=seconds)
    rngs = dict(numpy_rng=json.dumps(rng.bit_generator.state), torch_rng=torch.get_rng_state())
    torch.save(state | progress | rngs | {"args": asdict(args)}, buffer := io.BytesIO())
    write_atomic(folder / "checkpoint.pt", buffer.getvalue())


def load_checkpoint(path: str) -> dict:
    """A run's checkpoint or the authors' weights, in the same form; exits with one line where there is none."""
    file = Path(path) / "checkpoint.pt" if Path(path).is_dir() else Path(path)
    try:
        checkpoint = dict(torch.load(file, map_location="cpu", weights_only=True))
        if "agent" not in checkpoint:  # a plain state dict; the authors' critic repeats the shared backbone
            weights = {name: value for name, value in checkpoint.items() if not name.startswith("critic.0.")}
            checkpoint = {"agent": {name.replace("critic.1.", "critic."): value for name, value in weights.items()}}
        return checkpoint | {"args": dict(checkpoint.get("args", {})), "agent": dict(checkpoint["agent"])}
    except FileNotFoundError:
        fail(f"--resume or --evaluate {file}: there is no such checkpoint; give a run's folder or a checkpoint")
    except Exception as error:  # noqa: BLE001 (a damaged file raises many kinds)
        fail(f"--resume or --evaluate {file}: no readable checkpoint, perhaps cut short ({type(error).__name__})")


def restore(state: dict, rng: np.random.Generator, args: Args) -> dict:
    """Copy the checkpoint of --resume or --evaluate into `state` and `rng`; returns it."""
    path = args.resume or args.evaluate
    checkpoint = load_checkpoint(path)
    for group in [name for name in state if name in checkpoint]:
        if difference := state[group].keys() ^ checkpoint[group].keys():
            names = ", ".join(sorted(difference))
            fail(f"--resume or --evaluate {path} is of another script: only one of the two has {names}")
        for name, tensor in state[group].items():
            if (shape := checkpoint[group][name].shape) != tensor.shape:
                sizes = f"{name} is {tuple(shape)} there and {tuple(tensor.shape)} here"
                fail(f"--evaluate {path} is of an environment of another shape than --env-id {args.env_id}: {sizes}")
            tensor.data.copy_(checkpoint[group][name])
    if args.resume:
        if "numpy_rng" not in checkpoint:
            fail(f"--resume {path}: its checkpoint holds only weights, which --evaluate can use")
        rng.bit_generator.state = json.loads(checkpoint["numpy_rng"])
        torch.set_rng_state(checkpoint["torch_rng"])
    return checkpoint


def run_folder(args: Args) -> Path:
    """The folder of this run, runs/<name> for a new one; exits where there is nothing to do in it."""
    name = args.run_name or f"{args.env_id}__{args.exp_name}__{args.seed}__{int(time.time())}".replace("/", "_")
    folder = Path(args.resume or args.evaluate or Path("runs") / name)
    if args.resume and (folder / "evaluation.json").exists():
        print(f"{folder} is finished, nothing to resume")
        raise SystemExit(0)
    if not args.resume and not args.evaluate and (folder / "config.json").exists():
        fail(f"--run-name {name}: {folder} exists; give another name, or --resume {folder}")
    return folder if folder.is_dir() or not args.evaluate else folder.parent


def create_run(folder: Path, state: dict, rng: np.random.Generator, args: Args) -> dict:
    """Write a first checkpoint and then config.json, with which a folder counts as a run; returns no checkpoint."""
    names = ("torch", "gymnasium", "mujoco", "box2d", "numpy")
    versions = {package.name.lower(): package.version for package in distributions() if package.name.lower() in names}
    config = asdict(args) | {"versions": {"python": platform.python_version()} | versions}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_checkpoint(folder, state, rng, 0, 0.0, args)
        write_atomic(folder / "config.json", json.dumps(config, indent=2).encode())
    except OSError as error:
        fail(f"--run-name {folder.name}: cannot write to {folder} ({error.strerror}); make it writable")
    return {}


class Log:
    """metrics.csv, the progress on the screen, and Weights & Biases."""

    def __init__(self, folder: Path, args: Args, iteration: int, seconds: float):
        self.folder, self.batch_size = folder, args.num_envs * args.num_steps
        self.global_step = iteration * self.batch_size
        self.seconds, self.started = seconds, time.perf_counter() - seconds
        metrics = folder / "metrics.csv"
        rows = metrics.read_bytes().splitlines(keepends=True) if iteration else []
        write_atomic(metrics, b"".join(rows[: iteration + 1]))  # a resumed run writes the later ones again
        self.metrics = open(metrics, "a", newline="")  # noqa: SIM115 (open as long as the run)
        self.wandb = start_wandb(folder, args) if args.track else None
        steps = dict(total=args.total_timesteps, initial=self.global_step)
        self.bar = tqdm(**steps, unit="step", disable=not sys.stderr.isatty())

    def write(self, iteration: int, lr: float, episodes: list, eval_returns: list, losses: Losses, diagnostics: dict):
        """One row: its rate SPS counts all of the iteration, evaluation included."""
        before, self.seconds = self.seconds, time.perf_counter() - self.started
        self.global_step = iteration * self.batch_size
        row = {"global_step": self.global_step}
        row["episodic_return"], row["episodic_length"] = np.mean(episodes or [(np.nan, np.nan)], axis=0).tolist()
        row["eval_return"] = float(np.mean(eval_returns or np.nan))
        row |= losses._asdict() | diagnostics
        row |= {"lr": lr, "SPS": self.batch_size / (self.seconds - before), "seconds": self.seconds}
        writer = csv.DictWriter(self.metrics, row)
        if iteration == 1:
            writer.writeheader()
        writer.writerow(row)
        self.metrics.flush()
        known = {name: x for name, x in row.items() if not math.isnan(x)}
        self.send(lambda run: run.log(known, step=self.global_step))
        progress = f"return={row['episodic_return']:.1f} SPS={row['SPS']:.0f}"
        if self.bar.disable and iteration % 10 == 0:
            print(f"step={self.global_step} {progress} eval_return={row['eval_return']:.1f}", flush=True)
        self.bar.set_postfix_str(progress, refresh=False)
        self.bar.update(self.batch_size)

    def close(self, returns: list[float] | None = None) -> None:
        """End the run; with the returns of its last evaluation, as a finished one."""
        self.bar.close()
        if returns:
            evaluation = dict(mean=np.mean(returns), std=np.std(returns), episodes=len(returns), returns=returns)
            evaluation["global_step"] = self.global_step
            write_atomic(self.folder / "evaluation.json", json.dumps(evaluation).encode())
            self.send(lambda run: run.summary.update({"evaluation": evaluation}))
            self.send(lambda run: run.log_artifact(str(self.folder / "checkpoint.pt"), name=run.id, type="model"))
        self.send(lambda run: run.finish())

    def send(self, message: Callable) -> None:
        """Tell Weights & Biases; its own process may be gone, on a cluster say, which must not end the training."""
        try:
            if self.wandb:
                message(self.wandb)
        except Exception as error:  # noqa: BLE001 (a lost connection raises many kinds)
            tqdm.write(f"warning: Weights & Biases has stopped ({error}); metrics.csv goes on", file=sys.stderr)
            self.wandb = None


def start_wandb(folder: Path, args: Args):
    import wandb

    offline = "WANDB_MODE" not in os.environ and not wandb.login(prompt=False)
    if offline:
        print(f"no Weights & Biases login: logging offline; later, run: wandb sync {folder}/wandb/offline-run-*")
    name = re.sub(r"[^\w.-]", "-", folder.resolve().name)
    names = dict(project=args.wandb_project_name, entity=args.wandb_entity, name=name, id=name, dir=folder)
    try:
        config = json.loads((folder / "config.json").read_text())
        return wandb.init(**names, config=config, resume="allow", mode="offline" if offline else None)
    except wandb.Error as error:
        fail(f"--track: {error}")


def fail(message: str, code: int = 2) -> NoReturn:
    """End the program with one line on stderr."""
    print("error: " + " ".join(message.split()), file=sys.stderr)
    raise SystemExit(code)


def parse_args(argv: list[str] | None = None) -> Args:
    """The command line; with --resume or --evaluate, on top of the arguments saved with the run."""
    args = tyro.cli(Args, args=argv, description=__doc__)
    source, saved = args.resume or args.evaluate, {}
    if args.resume:
        try:
            saved = dict(json.loads((Path(source) / "config.json").read_text()))
        except (OSError, ValueError, TypeError) as error:
            fail(f"--resume {source}: no run to go on with, its config.json cannot be read ({error})")
        saved.pop("versions", None)
    elif args.evaluate:
        saved = load_checkpoint(source)["args"]
    if unknown := saved.keys() - asdict(args).keys():
        names = ", ".join(sorted(unknown))
        fail(f"--resume or --evaluate {source} is of another script: this one has no {names}")
    saved = Args(**saved | {"resume": args.resume, "evaluate": args.evaluate})
    args = tyro.cli(Args, args=argv, description=__doc__, default=saved)
    for name, value in asdict(args).items():
        if args.resume and value != getattr(saved, name):
            flag = f"--{name.replace('_', '-')} {value}"
            fail(f"{flag} contradicts {getattr(saved, name)} in {source}/config.json: leave it out")
    check_args(args)
    return args


def check_args(args: Args, signed: tuple[str, ...] = ()) -> None:
    """Exit with one line that names the first argument out of range; `signed` ones may be negative."""
    at_least = dict(seed=0, eval_every=0)
    for name, value in asdict(args).items():
        flag = f"--{name.replace('_', '-')} {value}"
        if type(value) is int and value < at_least.get(name, 1):
            fail(f"{flag}: give an integer of at least {at_least.get(name, 1)}")
        if type(value) is float and not (math.isfinite(value) and (value >= 0 or name in signed)):
            fail(f"{flag}: give a finite number of at least 0")
        if name in ("gamma", "gae_lambda") and value > 1:
            fail(f"{flag}: give a number in [0, 1]")
    batch_size = args.num_envs * args.num_steps
    if batch_size % args.num_minibatches or batch_size < 2 * args.num_minibatches:
        fail(f"--num-minibatches {args.num_minibatches}: num_envs * num_steps = {batch_size} must be a multiple >= 2")
    if args.total_timesteps < batch_size:
        fail(f"--total-timesteps {args.total_timesteps}: give at least num_envs * num_steps = {batch_size}")
    if args.seed >= 2**32:
        fail(f"--seed {args.seed}: give an integer below 2**32")
    if args.run_name and (Path(args.run_name).name != args.run_name or args.run_name == ".."):
        fail(f"--run-name {args.run_name}: give the name of one folder inside runs/")
    if args.resume and args.evaluate:
        fail("--resume and --evaluate: give only one of them")
    if args.track and not importlib.util.find_spec("wandb"):
        fail("--track: run pip install wandb")
    if args.cuda and not torch.cuda.is_available():
        fail("--cuda: torch sees no GPU here; leave it out")


def handle_signals(defer: list[int] | None = None) -> None:
    """Ctrl-C and SIGTERM end the program, with 130 or 143; with `defer`, a first one is only noted there."""

    def handle(number: int, frame: object) -> None:
        if defer is None or defer:
            raise SystemExit(128 + number)
        defer.append(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handle)


def main(args: Args) -> int:
    torch.set_num_threads(1)  # a network of this size is slower on more
    warnings.filterwarnings("ignore", message=".*is out of date.*")  # the published results are on -v4
    handle_signals()
    folder = run_folder(args)
    final_env = make_env(args.env_id, args.capture_video)
    check_action_space(args.env_id, final_env.action_space)
    envs, eval_env = VecEnv(args.env_id, args.num_envs), make_env(args.env_id)

    torch.manual_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    agent = Agent(envs.single_observation_space.shape[0], envs.single_action_space).to("cuda" if args.cuda else "cpu")
    params = parameters_to_vector(agent.parameters()).detach()
    vector_to_parameters(params, agent.parameters())  # from here on, the agent's weights are views of params
    adam = Adam(torch.zeros_like(params), torch.zeros_like(params), params.new_zeros(1, dtype=torch.float64))
    obs_stats = RunningMeanStd(envs.single_observation_space.shape, args.norm_obs)
    return_stats = RunningMeanStd((), args.norm_reward)
    stats = dict(obs_stats=obs_stats.state_dict(), return_stats=return_stats.state_dict())
    state = dict(agent=agent.state_dict(), adam=adam._asdict(), **stats)
    new_run = not (args.resume or args.evaluate)
    checkpoint = create_run(folder, state, rng, args) if new_run else restore(state, rng, args)
    if args.capture_video:
        final_env = gym.wrappers.RecordVideo(final_env, str(folder / "videos"), episode_trigger=lambda episode: True)
    if args.evaluate:
        if not (frozen := "obs_stats" in checkpoint):
            print("this checkpoint has no observation statistics: they are gathered on the fly")
        returns = evaluate(numpy_policy(agent, args), final_env, obs_stats, args.eval_episodes, args, frozen)
        final_env.close()
        print_evaluation(returns)
        return 0

    first, num_iterations = checkpoint.get("iteration", 0), args.total_timesteps // (args.num_envs * args.num_steps)
    log = Log(folder, args, first, checkpoint.get("seconds", 0.0))
    step = make_step(agent, args)
    seeds = np.random.SeedSequence((args.seed, first)).generate_state(args.num_envs) >> 2  # below 2**30
    obs = observe(envs.reset(seed=seeds.tolist())[0], obs_stats, update=first < num_iterations)
    discounted, warned = np.zeros(args.num_envs), set()
    handle_signals(defer=(signals := []))
    for iteration in range(first + 1, num_iterations + 1):  # Algorithm 1
        remaining = 1 - (iteration - 1) / num_iterations
        lr = args.learning_rate * (remaining if args.anneal_lr else 1.0)

        rollout, obs, episodes = collect(envs, obs, numpy_policy(agent, args), obs_stats, rng, args)
        rewards = scale_rewards(rollout.reward, rollout.done, return_stats, discounted, args.gamma)
        batch, row = make_batch(agent, rollout, rewards, rng, args)
        losses = update(step, params, adam, batch, lr, remaining if args.anneal_pref else 1.0, rng, args)

        if not (math.isfinite(losses.loss) and params.isfinite().all()):
            log.close()
            global_step = iteration * len(batch.obs)
            fail(f"not finite at step {global_step} (loss {losses.loss}): {folder} keeps the last good checkpoint", 1)
        due = args.eval_every and iteration % args.eval_every == 0
        eval_returns = evaluate(numpy_policy(agent, args), eval_env, obs_stats, 3, args) if due else []
        log.write(iteration, lr, episodes, eval_returns, losses, row)
        for advice in set(failure_signatures(row, envs.single_action_space)) - warned:
            tqdm.write(f"warning: {advice}", file=sys.stderr)
            warned.add(advice)
        stop = len(signals) > 0
        if stop or iteration % args.checkpoint_every == 0 or iteration == num_iterations:
            save_checkpoint(folder, state, rng, iteration, log.seconds, args)
        if stop:
            log.close()
            print(f"stopped at step {iteration * len(batch.obs)}; go on with --resume {folder}")
            return 128 + signals[0]

    handle_signals()
    returns = evaluate(numpy_policy(agent, args), final_env, obs_stats, args.eval_episodes, args)
    final_env.close()
    log.close(returns)
    print_evaluation(returns)
    return 0


if __name__ == "__main__":
    arguments = parse_args()
    try:
        sys.exit(main(arguments))
    except OSError as error:
        fail(f"cannot write under runs/ ({error}): the last good checkpoint is kept", code=1)
