"""A game small enough to be solved in seconds, behind the interface of the training environment."""

import numpy as np

from agents.config import TrainConfig
from envs import Episode, TrainingStep

ROOMS = 3
ACTIONS = 3
OPTIMUM = 1.0
CONSOLATION = 0.2


class TinyEnv:
    """A corridor of three rooms; the room's right action leads on, the last room pays 1.

    Each room's right action differs and is never 0. Action 0 leaves at once with a consolation of
    0.2, any other wrong action leaves with nothing. The screen shows the room as a bright square.
    Nothing is random, and games restart as `TrainingEnv` restarts them: the step after an end is
    ignored.
    """

    num_actions = ACTIONS
    observation_shape = (4, 84, 84)

    def __init__(self, num_envs: int) -> None:
        self.num_envs = num_envs
        self._rooms = np.zeros(num_envs, dtype=np.int64)
        self._ended = np.zeros(num_envs, dtype=bool)

    def reset(self) -> np.ndarray:
        self._rooms[:] = 0
        self._ended[:] = False
        return self._screens()

    def step(self, actions: np.ndarray) -> TrainingStep:
        ignored = self._ended.copy()
        rewards = np.zeros(self.num_envs, dtype=np.float32)
        episodes = []
        for i, action in enumerate(actions):
            if ignored[i]:
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
                continue
            self._ended[i] = True
            episodes.append(Episode(float(rewards[i]), int(self._rooms[i]) + 1))
        no = np.zeros(self.num_envs, dtype=bool)
        return TrainingStep(
            observations=self._screens(),
            rewards=rewards,
            terminated=self._ended.copy(),
            truncated=no,
            life_lost=no,
            ignored=ignored,
            episodes=episodes,
        )

    def close(self) -> None:
        pass

    def _screens(self) -> np.ndarray:
        screens = np.zeros((self.num_envs, *self.observation_shape), dtype=np.uint8)
        for i, room in enumerate(self._rooms):
            screens[i, :, 28 * room : 28 * room + 28, 28 * room : 28 * room + 28] = 255
        return screens


def make_tiny_env(config: TrainConfig, seeds: np.ndarray) -> TinyEnv:  # noqa: ARG001
    return TinyEnv(len(seeds))


class BrokenError(Exception):
    """What `make_broken_game`'s games raise."""


class BrokenGame(TinyEnv):
    """Raises at its third step."""

    steps = 0

    def step(self, actions: np.ndarray) -> TrainingStep:
        self.steps += 1
        if self.steps == 3:
            raise BrokenError("the third step is one too many")
        return super().step(actions)


def make_broken_game(config: TrainConfig, seeds: np.ndarray) -> BrokenGame:  # noqa: ARG001
    return BrokenGame(len(seeds))
