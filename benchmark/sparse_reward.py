"""HalfCheetah with a sparse reward: 1 in each step in which it runs forward faster than 1 m/s, else 0.

python prefpoe_continuous.py --env-id benchmark.sparse_reward:SparseHalfCheetah-v4
"""

import gymnasium as gym


class SparseReward(gym.Wrapper):
    """The return is the number of fast steps, of 1,000; the dense reward is not seen."""

    def __init__(self):
        super().__init__(gym.make("HalfCheetah-v4").unwrapped)

    def step(self, action):
        obs, _, terminated, truncated, info = self.env.step(action)
        return obs, float(info["x_velocity"] > 1), terminated, truncated, info


gym.register("SparseHalfCheetah-v4", SparseReward, max_episode_steps=1000)
