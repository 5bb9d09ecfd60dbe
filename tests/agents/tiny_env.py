"""An environment small enough to be solved in seconds, as a Gymnasium vector environment."""

from functools import partial
from typing import ClassVar

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from agents.config import TrainConfig

ROOMS = 3
ACTIONS = 3
OPTIMUM = 1.0
CONSOLATION = 0.2


class TinyEnv(VectorEnv):
    """A corridor of three rooms; the room's right action leads on, the last room pays 1.

    Each room's right action differs and is never 0. Action 0 leaves at once with a consolation of
    0.2, any other wrong action leaves with nothing. The screen shows the room as a bright square.
    Nothing is random, and nothing but Gymnasium's interface is there: neither lives nor episode
    statistics.
    """

    metadata: ClassVar = {"autoreset_mode": AutoresetMode.NEXT_STEP}
    single_observation_space = Box(0, 255, (4, 84, 84), np.uint8)
    single_action_space = Discrete(ACTIONS)

    def __init__(self, num_envs: int) -> None:
        self.num_envs = num_envs
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._rooms = np.zeros(num_envs, dtype=np.int64)
        self._ended = np.zeros(num_envs, dtype=bool)

    def reset(self, *, seed=None, options=None):  # noqa: ARG002
        self._rooms[:] = 0
        self._ended[:] = False
        return self._screens(), {}

    def step(self, actions):
        rewards = np.zeros(self.num_envs, dtype=np.float32)
        for i, action in enumerate(actions):
            if self._ended[i]:
                self._rooms[i], self._ended[i] = 0, False
                continue
            right = action == 1 + self._rooms[i] % 2
            last = self._rooms[i] == ROOMS - 1
            if right and last:
                rewards[i] = OPTIMUM
            elif action == 0:
                rewards[i] = CONSOLATION
            if right and not last:
                self._rooms[i] += 1
            else:
                self._ended[i] = True
        no = np.zeros(self.num_envs, dtype=bool)
        return self._screens(), rewards, self._ended.copy(), no, {}

    def _screens(self) -> np.ndarray:
        screens = np.zeros((self.num_envs, 4, 84, 84), dtype=np.uint8)
        for i, room in enumerate(self._rooms):
            screens[i, :, 28 * room : 28 * room + 28, 28 * room : 28 * room + 28] = 255
        return screens


def make_tiny_env(config: TrainConfig, seeds: np.ndarray) -> TinyEnv:  # noqa: ARG001
    return TinyEnv(len(seeds))


def make_async_env(config: TrainConfig, seeds: np.ndarray) -> AsyncVectorEnv:  # noqa: ARG001
    """Environments in processes of their own."""
    make_one = partial(gymnasium.make, "CartPole-v1")
    env = AsyncVectorEnv([make_one] * len(seeds))
    env.reset(seed=seeds.tolist())
    return env


class BrokenError(Exception):
    """What the environments of `make_broken_env` raise."""


class BrokenEnv(TinyEnv):
    """Raises at its third step."""

    steps = 0

    def step(self, actions):
        self.steps += 1
        if self.steps == 3:
            raise BrokenError("the third step is one too many")
        return super().step(actions)


def make_broken_env(config: TrainConfig, seeds: np.ndarray) -> BrokenEnv:  # noqa: ARG001
    return BrokenEnv(len(seeds))
