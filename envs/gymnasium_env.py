"""Environments of Gymnasium, with observations and actions as agents here know them."""

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
    Discrete, from 0. Rewards are its own.

    Raises:
        UnusableEnvironmentError: It cannot be made, or has spaces that are not supported.
    """
    env = make(config.game, render_mode)
    try:
        if env.spec is None or (env.spec.max_episode_steps or np.inf) > config.max_frames:
            env = TimeLimit(env, config.max_frames)
        return _with_observations(_with_actions(env), config.images)
    except BaseException:
        env.close()
        raise


def make_gymnasium_vector_env(
    config: GymnasiumConfig, seeds: npt.NDArray[np.integer]
) -> VectorEnv[Any, Any, Any]:
    """Make environments that are stepped together, one for each seed, reset with these seeds.

    Raises:
        UnusableEnvironmentError: As `make_gymnasium_env`.
    """
    envs = SyncVectorEnv(
        [partial(make_gymnasium_env, config)] * len(seeds), autoreset_mode=AutoresetMode.NEXT_STEP
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


class _ScreenOfStep(gymnasium.Wrapper[Any, Any, Any, Any]):
    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        screen: Any = self.env.render()
        return observation, reward, terminated, truncated, {**info, "screens": screen[None]}


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
    if isinstance(space, spaces.Box):
        vector = spaces.Box(-np.inf, np.inf, (int(np.prod(space.shape)),), np.float32)
        return TransformObservation(env, _as_vector, vector)
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
        env = FlattenObservation(env)
        vector = spaces.Box(0, 1, env.observation_space.shape, np.float32)
        return TransformObservation(env, _as_vector, vector)
    raise _unsupported(space)


def _unsupported(space: spaces.Space[Any]) -> UnusableEnvironmentError:
    text = " ".join(str(space).split())
    return UnusableEnvironmentError(
        f"the observation space {text[:200]} is not supported: {_SUPPORTED}"
    )


def _as_vector(observation: Any) -> npt.NDArray[np.float32]:
    return np.asarray(observation, np.float32).reshape(-1)


def _is_image(space: spaces.Space[Any]) -> bool:
    """Whether it holds images: bytes in two or three dimensions."""
    is_bytes = isinstance(space, spaces.Box) and space.dtype == np.uint8
    return is_bytes and space.shape is not None and len(space.shape) in (2, 3)


def _with_images(env: Env, images: str) -> Env:
    """Show images with channels first: as they are, or as a stack of grey pictures."""
    shape = env.observation_space.shape
    assert shape is not None
    channels_first = len(shape) == 3 and shape[0] in (1, 3, 4) and shape[2] not in (1, 3, 4)
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
