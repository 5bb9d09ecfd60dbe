"""Gymnasium environments with the observations and actions that agents here expect."""

from functools import partial
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.wrappers import (
    FlattenObservation,
    FrameStackObservation,
    TimeLimit,
    TransformAction,
    TransformObservation,
)

from envs.config import SCREEN_SIZE, STACK_SIZE
from envs.gymnasium_config import GymnasiumConfig, UnusableEnvironmentError, make

# Recorded actions are bytes.
MAX_ACTIONS = 256
_MIN_PICTURE_SIZE = 32
_SUPPORTED = (
    "supported are vectors (Box), images (Box of uint8, height x width x channels), "
    "Discrete, MultiDiscrete, MultiBinary, and a Dict with one image"
)

Env = gymnasium.Env[Any, Any]
Image = npt.NDArray[np.uint8]


def make_gymnasium_env(config: GymnasiumConfig, render_mode: str | None = None) -> Env:
    """Make a single environment.

    Its observations are float32 of shape (D,), or uint8 of shape (C, H, W); its actions are
    Discrete, from 0. Rewards are unchanged.

    Raises:
        UnusableEnvironmentError: It cannot be made, or has spaces that are not supported.
    """
    env = make(config.game, render_mode)
    try:
        if env.spec is None or (env.spec.max_episode_steps or np.inf) > config.max_frames:
            env = TimeLimit(env, config.max_frames)
        return _PlainFlags(_with_observations(_with_actions(env), config.images))
    except BaseException:
        env.close()
        raise


def make_gymnasium_vector_env(
    config: GymnasiumConfig, seeds: npt.NDArray[np.integer]
) -> VectorEnv[Any, Any, Any]:
    """Make environments that are stepped together, one for each seed, reset with these seeds.

    Of an environment's `info`, only the lives are passed on.

    Raises:
        UnusableEnvironmentError: As `make_gymnasium_env`.
    """
    envs = SyncVectorEnv(
        [partial(_make_for_training, config)] * len(seeds), autoreset_mode=AutoresetMode.NEXT_STEP
    )
    envs.reset(seed=[int(seed) for seed in seeds])
    return envs


def make_gymnasium_evaluation_env(config: GymnasiumConfig, *, keep_screens: bool) -> Env:
    """Make a single environment whose steps return a picture, if asked to, as `info["screens"]`.

    The picture's shape is (1, height, width, 3), uint8.

    Raises:
        UnusableEnvironmentError: As `make_gymnasium_env`.
    """
    if not keep_screens:
        return make_gymnasium_env(config)
    return _ScreenOfStep(make_gymnasium_env(config, render_mode="rgb_array"))


def _make_for_training(config: GymnasiumConfig) -> Env:
    return _LivesAlone(make_gymnasium_env(config))


class _PlainFlags(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Convert NumPy's booleans, which JSON does not know, to Python's."""

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        return observation, reward, bool(terminated), bool(truncated), info


class _LivesAlone(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Pass on only `info["lives"]`, or its last value where a step has none.

    The rest may mean anything, and its shape may change, so that it cannot be stacked with that of
    other environments.
    """

    _lives: int | None = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self._lives = None
        observation, info = self.env.reset(seed=seed, options=options)
        return observation, self._select(info)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        *step, info = self.env.step(action)
        return *step, self._select(info)

    def _select(self, info: dict[str, Any]) -> dict[str, Any]:
        if isinstance(info.get("lives"), int | np.integer):
            self._lives = int(info["lives"])
        return {} if self._lives is None else {"lives": self._lives}


class _ScreenOfStep(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Return the rendered picture of every step, or the previous one where there is none."""

    _screen: Any = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        observation, info = self.env.reset(seed=seed, options=options)
        self._screen = self.env.render()
        return observation, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        screen: Any = self.env.render()
        # A copy: the environment may draw the next picture into the same memory.
        self._screen = self._screen if screen is None else np.array(screen)
        return observation, reward, terminated, truncated, {**info, "screens": self._screen[None]}


def _with_actions(env: Env) -> Env:
    actions = env.action_space
    if not isinstance(actions, spaces.Discrete) or actions.n > MAX_ACTIONS:
        raise UnusableEnvironmentError(
            f"the action space {actions} is not supported: "
            f"it must be Discrete, of at most {MAX_ACTIONS} actions"
        )
    if actions.start == 0:
        return env
    first = actions.start
    return TransformAction(env, lambda action: action + first, spaces.Discrete(actions.n))


def _with_observations(env: Env, images: str) -> Env:
    space = env.observation_space
    if isinstance(space, spaces.Dict):
        found = [name for name, each in space.items() if _is_image(each)]
        if len(found) != 1:
            raise _unsupported(space)
        (name,) = found
        env = TransformObservation(env, lambda observation: observation[name], space[name])
        space = space[name]
    if _is_image(space):
        return _with_images(env, images)
    if images != "auto":
        raise UnusableEnvironmentError(
            f"only images (Box of uint8) can be shown as {images}, not {_shorten(space)}"
        )
    is_stack = space.dtype == np.uint8 and len(space.shape or ()) > 3
    if isinstance(space, spaces.Box) and not is_stack:
        with np.errstate(over="ignore"):  # a bound may be the largest float64
            low, high = _as_vector(space.low), _as_vector(space.high)
        vector = spaces.Box(low, high, dtype=np.float32)
        return TransformObservation(env, _as_vector, vector)
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
        env = FlattenObservation(env)
        vector = spaces.Box(0, 1, env.observation_space.shape, np.float32)
        return TransformObservation(env, _as_vector, vector)
    raise _unsupported(space)


def _unsupported(space: spaces.Space[Any]) -> UnusableEnvironmentError:
    return UnusableEnvironmentError(
        f"the observation space {_shorten(space)} is not supported: {_SUPPORTED}"
    )


def _shorten(space: spaces.Space[Any]) -> str:
    return " ".join(str(space).split())[:200]


def _as_vector(observation: Any) -> npt.NDArray[np.float32]:
    return np.asarray(observation, np.float32).reshape(-1)


def _is_image(space: spaces.Space[Any]) -> bool:
    """Whether a space holds images: bytes in two or three dimensions."""
    is_bytes = isinstance(space, spaces.Box) and space.dtype == np.uint8
    return is_bytes and space.shape is not None and len(space.shape) in (2, 3)


def _with_images(env: Env, images: str) -> Env:
    """Show images with channels first: as they are, or as a stack of grey pictures.

    The channels are the first axis of three if it is the shortest.
    """
    shape = env.observation_space.shape
    assert shape is not None
    channels_first = len(shape) == 3 and shape[0] < min(shape[1:])
    if len(shape) == 2:
        height, width, channels = *shape, 1
    elif channels_first:
        channels, height, width = shape
    else:
        height, width, channels = shape
    if images == "auto":
        is_picture = min(height, width) >= _MIN_PICTURE_SIZE and channels in (1, 3)
        images = "grey" if is_picture else "raw"

    def channels_last(observation: Image) -> Image:
        image = np.moveaxis(observation, 0, -1) if channels_first else observation
        return np.reshape(image, (height, width, channels))

    if images == "raw":
        space = spaces.Box(0, 255, (channels, height, width), np.uint8)
        return TransformObservation(env, lambda o: np.moveaxis(channels_last(o), -1, 0), space)
    screen = spaces.Box(0, 255, (SCREEN_SIZE, SCREEN_SIZE), np.uint8)
    grey = TransformObservation(env, lambda o: _grey_screen(channels_last(o)), screen)
    return FrameStackObservation(grey, STACK_SIZE, padding_type="zero")


def _grey_screen(image: Image) -> Image:
    """Scale an image, (H, W, C) uint8, to a grey one of (84, 84)."""
    import cv2  # settings can be read where it does not load

    if image.shape[2] == 3:
        grey = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY)
    else:
        grey = image.mean(axis=2).round().astype(np.uint8)
    scaled = cv2.resize(grey, (SCREEN_SIZE, SCREEN_SIZE), interpolation=cv2.INTER_AREA)
    return np.asarray(scaled, np.uint8)
