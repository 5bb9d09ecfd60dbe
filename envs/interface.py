"""The functions by which agents use either kind of environment: Atari games and Gymnasium's."""

from collections.abc import Sequence
from enum import EnumMeta
from functools import cache, lru_cache
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium.spaces import Box, Discrete, Space
from gymnasium.vector import VectorEnv

from envs import gymnasium_config
from envs.config import OBSERVATION_SHAPE, AtariConfig, atari_action_names
from envs.evaluation import make_atari_evaluation_env
from envs.games import (
    Game,
    UnknownGameError,
    find_game,
    game_of_id,
    no_such_game,
)
from envs.gymnasium_config import GymnasiumConfig, is_gymnasium_id
from envs.gymnasium_env import (
    make_gymnasium_env,
    make_gymnasium_evaluation_env,
    make_gymnasium_vector_env,
)
from envs.training import AtariTrainingEnv

EnvConfig = AtariConfig | GymnasiumConfig


class Spaces(NamedTuple):
    """The sizes of an environment's actions and observations.

    Attributes:
        num_actions: A, the number of discrete actions.
        observation_shape: (C, H, W) of an image, uint8; or (D,) of a vector, float32.
        bounds: The least and the greatest value of each component of a vector, which may be
            infinite; empty for images.
    """

    num_actions: int
    observation_shape: tuple[int, ...] = OBSERVATION_SHAPE
    bounds: tuple[tuple[float, float], ...] = ()

    @classmethod
    def of(cls, num_actions: int, observations: Space[Any]) -> "Spaces":
        """The sizes, with the bounds of the observation space if it is a `Box` of vectors."""
        shape = observations.shape or ()
        bounds: tuple[tuple[float, float], ...] = ()
        if isinstance(observations, Box) and len(shape) == 1:
            low, high = observations.low.tolist(), observations.high.tolist()
            bounds = tuple(zip(low, high, strict=True))
        return cls(num_actions, shape, bounds)

    @property
    def has_images(self) -> bool:
        """Whether observations are images."""
        return len(self.observation_shape) == 3


@lru_cache(maxsize=256)
def resolve_environment(name: str) -> Game | str:
    """Find an Atari game by any spelling, or recognise the id of a Gymnasium environment.

    Whether an environment with that id exists is only known when it is made.

    Returns:
        The game; or the id, without blanks around it.

    Raises:
        UnknownGameError: The name is neither, and the message names similar games; or it is an
            Atari id that implies other rules, such as PongNoFrameskip-v4.
        UnplayableGameError: The game exists, but the emulator cannot start it.
    """
    if "," in name:
        raise UnknownGameError(f"{name!r} names several games; a run trains on one")
    game = find_game(name)
    if game is not None:
        return game
    bare = name.strip()
    if (game := game_of_id(bare)) is not None:
        raise UnknownGameError(
            f"{name!r} stands for {game.name} by other rules: name the game {game.name}, "
            "and set its rules by --frame-skip, --sticky-actions and --noop-max"
        )
    if is_gymnasium_id(bare) and not bare.lower().startswith("ale/"):
        return bare
    # Ids with a namespace are of emulators, or variants that need further packages.
    error = no_such_game(name, (each for each in gymnasium.registry if "/" not in each))
    raise UnknownGameError(
        f"{error} Gymnasium's environments are named by their ids, such as CartPole-v1"
    )


def make_training_env(
    config: EnvConfig, seeds: npt.NDArray[np.integer]
) -> VectorEnv[Any, Any, Any]:
    """Make environments that are stepped together, one for each seed, for collecting experience.

    Raises:
        UnusableEnvironmentError: Gymnasium cannot make it, or its spaces are not supported.
    """
    if isinstance(config, AtariConfig):
        return AtariTrainingEnv(config, len(seeds), seeds=seeds)
    return make_gymnasium_vector_env(config, seeds)


def make_evaluation_env(
    config: EnvConfig, *, keep_screens: bool = False
) -> gymnasium.Env[npt.NDArray[Any], int]:
    """Make an environment that plays whole episodes by the rules of training, one at a time.

    Rewards are raw, and observations those of training. `reset(seed=...)` determines the whole
    episode.

    Args:
        config: The environment and its rules.
        keep_screens: Whether `step` also returns every frame of the agent step, in colour, as
            `info["screens"]`: (n, height, width, 3) uint8, with n = `frame_skip`, or fewer where
            the episode ended within the step. Needs `rendering_problem` to be None.

    Raises:
        UnusableEnvironmentError: As `make_training_env`.
    """
    if isinstance(config, AtariConfig):
        return make_atari_evaluation_env(config, keep_screens=keep_screens)
    return make_gymnasium_evaluation_env(config, keep_screens=keep_screens)


def rendering_problem(config: EnvConfig) -> str | None:
    """Why an environment cannot be shown in a video, as one line; None if it can."""
    return (
        None if isinstance(config, AtariConfig) else gymnasium_config.rendering_problem(config.game)
    )


def spaces(config: EnvConfig) -> Spaces:
    """The sizes of actions and observations of an environment with these settings.

    Raises:
        UnusableEnvironmentError: As `make_training_env`.
    """
    if isinstance(config, AtariConfig):
        return Spaces(len(atari_action_names(config)))
    return _describe(config)[0]


def num_actions(config: EnvConfig) -> int:
    """The size of the action space that an environment with these settings has."""
    return spaces(config).num_actions


def action_names(config: EnvConfig) -> tuple[str, ...]:
    """The names of the actions, such as UPFIRE; their numbers where they have no names."""
    return atari_action_names(config) if isinstance(config, AtariConfig) else _describe(config)[1]


@cache
def _describe(config: GymnasiumConfig) -> tuple[Spaces, tuple[str, ...]]:
    """Sizes of spaces, and names of actions, from an environment that is closed at once."""
    env = make_gymnasium_env(config)
    try:
        assert isinstance(env.action_space, Discrete)
        assert env.observation_space.shape is not None
        count = int(env.action_space.n)
        return Spaces.of(count, env.observation_space), _names(env.unwrapped, count)
    finally:
        env.close()


def _names(env: Any, count: int) -> tuple[str, ...]:
    names: Sequence[Any] = ()
    if callable(getattr(env, "get_action_meanings", None)):
        names = env.get_action_meanings()
    elif isinstance(getattr(env, "actions", None), EnumMeta):  # as in MiniGrid
        names = [action.name for action in env.actions]
    if len(names) != count or not all(isinstance(name, str) for name in names):
        names = [str(action) for action in range(count)]
    return tuple(name[:20] for name in names)
