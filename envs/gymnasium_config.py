"""The settings and properties of an environment that `gymnasium.make` makes.

Observations become one of two kinds: a vector, float32 of shape (D,), or an image with channels
first, uint8 of shape (C, H, W). Of a `Dict` space with an image, the agent sees the image alone.
"""

import importlib
import os
import re
from dataclasses import dataclass
from functools import cache
from typing import Any

import gymnasium
import numpy as np

IMAGE_MODES = ("auto", "grey", "raw")
# The beginning of ids -> the package that registers them, which gymnasium.make does not import.
_PACKAGES = {"MiniGrid-": "minigrid", "BabyAI-": "minigrid"}
_MODULE, _NAME = r"[A-Za-z_][\w.]*:", r"([\w.:-]+/)?[\w.:-]*[\w.]"
# Without a module, a name without a version would be taken for one of a game.
_ID = re.compile(rf"({_MODULE})?{_NAME}-v\d+|{_MODULE}{_NAME}")
_DEFAULT_FPS = 30


class UnusableEnvironmentError(ValueError):
    """An environment that cannot be made or used; the message is one line that says why."""


def is_gymnasium_id(name: str) -> bool:
    """Whether a name has the form of an id: `Name-v0`, `namespace/Name-v0`, `module:Name`."""
    return _ID.fullmatch(name) is not None


@dataclass(frozen=True)
class GymnasiumConfig:
    """One Gymnasium environment, and how its observations are shown to the agent.

    Attributes:
        game: The id. `module:Id` imports the module first, which registers the environment.
        images: How images are shown: "grey" as stacks of the last four, in grey, scaled to 84x84,
            like those of Atari games; "raw" as they are; "auto" as "grey" if they are at least
            32x32 with one or three channels, else as "raw" (MiniGrid's symbols are not a picture).
        max_frames: The number of agent steps after which an episode is truncated, unless the
            environment has a lower limit of its own.

    Raises:
        ValueError: A setting has the wrong type or value; the message names it.
    """

    game: str
    images: str = "auto"
    max_frames: int = 108_000

    def __post_init__(self) -> None:
        if not isinstance(self.game, str) or not is_gymnasium_id(self.game) or len(self.game) > 100:
            raise ValueError(f"game must be a Gymnasium id, got {repr(self.game)[:100]}")
        if self.images not in IMAGE_MODES:
            allowed = ", ".join(IMAGE_MODES)
            raise ValueError(f"images must be one of {allowed}, got {repr(self.images)[:100]}")
        if type(self.max_frames) is not int or not 1 <= self.max_frames <= 10**8:
            raise ValueError(f"max_frames must be from 1 to 10**8, got {self.max_frames!r:.100}")

    @property
    def frame_skip(self) -> int:
        """The number of frames in an agent step: one."""
        return 1

    @property
    def max_steps(self) -> int:
        """The largest number of agent steps that an episode can have."""
        return self.max_frames

    @property
    def steps_per_second(self) -> float:
        """The number of agent steps in a second of a video: the environment's `render_fps`."""
        return frames_per_second(self.game)

    def seconds(self, num_steps: float) -> float:
        """How long agent steps last in a video, in seconds."""
        return num_steps / self.steps_per_second


def make(game: str, render_mode: str | None = None) -> gymnasium.Env[Any, Any]:
    """Make an environment by its id, with the wrappers that `gymnasium.make` adds.

    Raises:
        UnusableEnvironmentError: The id is unknown, or the environment's packages are missing.
    """
    _import_package(game)
    # An environment without pictures may have no render_mode argument.
    arguments: dict[str, Any] = {}
    if render_mode is not None:
        arguments["render_mode"] = render_mode
        # Pictures need no window; without this, SDL complains where there is no display.
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    try:
        return gymnasium.make(game, disable_env_checker=True, **arguments)
    except (gymnasium.error.Error, ImportError) as error:
        raise UnusableEnvironmentError(f"{_one_line(error)}") from error


def _import_package(game: str) -> None:
    """Import the package that registers the id, if known. Gymnasium imports a `module:` itself."""
    for beginning, module in _PACKAGES.items():
        if game.startswith(beginning):
            try:
                importlib.import_module(module)
            except ImportError as error:
                raise UnusableEnvironmentError(
                    f'{game} comes with another package: pip install -e ".[{module}]"'
                ) from error


def frames_per_second(game: str) -> int:
    """The frames per second of an environment's videos, from its metadata; 30 if it has none."""
    return min(max(round(_metadata(game).get("render_fps") or _DEFAULT_FPS), 1), 120)


@cache
def rendering_problem(game: str) -> str | None:
    """Why an environment cannot be shown in a video, as one line; None if it can."""
    try:
        if "rgb_array" not in _metadata(game).get("render_modes", []):
            return f"{game} cannot be rendered: it has no render_mode 'rgb_array'"
        env = make(game, "rgb_array")
        try:
            env.reset(seed=0)
            image: Any = env.render()
        finally:
            env.close()
    except Exception as error:  # an unknown environment may raise anything
        return f"{game} cannot be rendered: {_one_line(error)}"
    if getattr(image, "ndim", 0) != 3 or image.shape[-1] != 3 or image.dtype != np.uint8:
        return f"{game} cannot be rendered: its pictures are not (height, width, 3) of uint8"
    return None


@cache
def _metadata(game: str) -> dict[str, Any]:
    """An environment's metadata, from one that is closed at once."""
    env = make(game)
    try:
        return dict(env.metadata)
    finally:
        env.close()


def _one_line(error: BaseException) -> str:
    return " ".join(f"{error}".split())[:500] or type(error).__name__
