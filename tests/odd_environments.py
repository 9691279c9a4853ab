"""Environments that are not as most are: `--env-id odd_environments:NoRenderMode-v0`, with tests/ on the path."""

import random
import subprocess
from typing import ClassVar

import gymnasium as gym
import numpy as np


class Steps(gym.Env):
    """Pays 1 a step, ends after 10."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (3,))
    action_space = gym.spaces.Discrete(2)
    metadata: ClassVar = {"render_modes": ["rgb_array"], "render_fps": 30}
    length = 10

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return np.zeros(3, np.float32), {}

    def step(self, action):
        self.time += 1
        return np.full(3, self.time % 10, np.float32), 1.0, self.time >= self.length, False, {}

    def render(self):
        return np.zeros((32, 32, 3), np.uint8)


class Walk(Steps):
    """From 0, pays for being near 1. It draws nothing, so that starting anew changes nothing either."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (2,))
    action_space = gym.spaces.Box(-1, 1, (1,))
    length = 16
    position = 0.0

    def observed(self):
        return np.array([self.position, self.time / self.length], np.float32)

    def reset(self, **options):
        super().reset(**options)
        self.position = 0.0
        return self.observed(), {}

    def step(self, action):
        _, _, *outcome = super().step(action)
        self.position += 0.2 * float(action[0])
        return self.observed(), -abs(self.position - 1), *outcome


class Hop(Walk):
    action_space = gym.spaces.Discrete(2)

    def step(self, action):
        return super().step([2 * action - 1])


class Dice(Walk):
    """Draws from the global generators."""

    def observed(self):
        return super().observed() + np.array([random.random(), np.random.random()], np.float32)


class Parent(Walk):
    """A simulator in a process of its own."""

    def __init__(self, render_mode=None):
        self.process = subprocess.Popen(["sleep", "3600"])

    def close(self):
        self.process.kill()
        self.process.wait()


class Integers(Walk):
    action_space = gym.spaces.Box(-1, 1, (1,), dtype=np.int32)


class Square(Walk):
    action_space = gym.spaces.Box(-1, 1, (2, 2))


def distant_hopper(**options):
    """Hopper-v4 100 m from where it usually starts, beyond the floor of its model."""
    env = gym.make("Hopper-v4", **options, terminate_when_unhealthy=False).unwrapped
    env.init_qpos[0] += 100
    return env


gym.register("DistantHopper-v4", distant_hopper, max_episode_steps=20)
for odd in (Walk, Hop, Dice, Parent, Integers, Square):
    gym.register(f"{odd.__name__}-v0", odd)


class NoRenderMode(Steps):
    def __init__(self):
        pass


class NoPicture(Steps):
    def render(self):
        return None


class NoModelFile(Steps):
    def __init__(self, render_mode=None):
        open("/nonexistent/model.xml")  # noqa: SIM115


class Endless(Steps):
    length = float("inf")


class Unbounded(Steps):
    action_space = gym.spaces.Box(-np.inf, np.inf, (1,))


class Listed(Steps):
    observation_space = gym.spaces.Sequence(gym.spaces.Box(0, 1, (2,)))


class Lists(Steps):
    """Its observations are lists."""

    def reset(self, **options):
        obs, info = super().reset(**options)
        return obs.tolist(), info

    def step(self, action):
        obs, *outcome = super().step(action)
        return obs.tolist(), *outcome


class Named(Steps):
    """Its observations are a dict: the time, and which third of it."""

    observation_space = gym.spaces.Dict(time=gym.spaces.Box(0, 10, (1,)), third=gym.spaces.Discrete(3))
    action_space = gym.spaces.Box(-1, 1, (1,))

    def named(self):
        return dict(time=np.array([self.time], np.float32), third=self.time % 3)

    def reset(self, **options):
        super().reset(**options)
        return self.named(), {}

    def step(self, action):
        _, *outcome = super().step(action)
        return self.named(), *outcome


class NotFinite(Steps):
    """One observation, that of the 666th step, is nan."""

    action_space = gym.spaces.Box(-1, 1, (1,))
    steps = 0

    def step(self, action):
        NotFinite.steps += 1
        obs, *outcome = super().step(action)
        return obs * (np.nan if NotFinite.steps == 666 else 1), *outcome


def far_hopper(**options):
    """Hopper-v4 10 m from where it usually starts."""
    env = gym.make("Hopper-v4", **options, terminate_when_unhealthy=False).unwrapped
    env.init_qpos[0] += 10
    return env


for kind in (NoRenderMode, NoPicture, NoModelFile, Endless, Unbounded, Listed, Lists, Named, NotFinite):
    gym.register(f"{kind.__name__}-v0", kind)
gym.register("FarHopper-v4", far_hopper, max_episode_steps=20)
