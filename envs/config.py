"""The settings of an Atari environment, and the protocol that training and evaluation share.

The protocol is that of Machado et al. (2018). A *frame* is one frame of the emulator, 60 a second;
an *agent step* is one action, repeated for `frame_skip` frames. The observation after an agent step
is the pixelwise maximum of its last two frames (of its one frame where `frame_skip` is 1), in grey,
scaled to 84x84, as the newest of a stack of the last four. The stack of a new episode is zero
except for its newest image.

An episode opens with a number of no-op frames, drawn uniformly from 0 .. `noop_max` - 1 (so both 0
and 1 mean none). `fire_reset` presses FIRE for one frame before them, in games that have that
button, and replaces one of the no-ops if there are any.

`max_frames` counts the frames of the agent's own steps: the opening is not part of it. The agent
step that reaches the limit stops there, possibly before all of its `frame_skip` frames are played,
and is reported as truncated, unless the episode ended on that very frame: then it is terminated.
Both preprocessors stop at the last frame of an episode without reading its image, so the last
observation of an episode, terminated or truncated, is made of the frames before.

Source: Machado et al., Revisiting the Arcade Learning Environment, JAIR 61 (2018).
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import ale_py
from ale_py import roms

from envs.games import resolve_game

FRAMES_PER_SECOND = 60
STACK_SIZE = 4
SCREEN_SIZE = 84
OBSERVATION_SHAPE = (STACK_SIZE, SCREEN_SIZE, SCREEN_SIZE)

_MAX_NAME_LENGTH = 100
# Name -> type, smallest and largest value. Larger frame numbers do not fit the emulator's counters.
_LIMITS: dict[str, tuple[type[float], float, float]] = {
    "frame_skip": (int, 1, 100),
    "sticky_actions": (float, 0, 1),
    "noop_max": (int, 0, 10_000),
    "fire_reset": (bool, False, True),
    "max_frames": (int, 1, 10**8),
    "full_action_space": (bool, False, True),
}


@dataclass(frozen=True)
class AtariConfig:
    """One Atari game and the rules it is played by.

    Attributes:
        game: The game, in any spelling that `resolve_game` understands; stored as `Game.name`.
        frame_skip: The number of frames that an action is repeated for.
        sticky_actions: The probability, at every frame, that the emulator repeats the action of the
            frame before instead of the given one.
        noop_max: 0 .. noop_max - 1 no-op frames open each episode.
        fire_reset: Whether FIRE is pressed at the start of an episode.
        max_frames: The number of frames after which an episode is truncated, not counting its
            opening.
        full_action_space: Whether all 18 actions are available instead of the game's own.

    Raises:
        UnknownGameError, UnplayableGameError: The emulator cannot play this game.
        TypeError: A setting has the wrong type; the message names it and the value.
        ValueError: A setting is out of its range; the message names it and the value.
    """

    game: str
    frame_skip: int = 4
    sticky_actions: float = 0.25
    noop_max: int = 30
    fire_reset: bool = False
    max_frames: int = 108_000
    full_action_space: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.game, str):
            raise TypeError(f"game must be of type str, got {_shorten(self.game)}")
        if len(self.game) > _MAX_NAME_LENGTH:
            allowed = f"at most {_MAX_NAME_LENGTH} characters"
            raise ValueError(f"game must have {allowed}, got {_shorten(self.game)}")
        object.__setattr__(self, "game", resolve_game(self.game).name)
        for name, (kind, low, high) in _LIMITS.items():
            value: Any = getattr(self, name)
            if type(value) is not kind and not (kind is float and type(value) is int):
                raise TypeError(f"{name} must be of type {kind.__name__}, got {_shorten(value)}")
            if not low <= value <= high:
                raise ValueError(f"{name} must be between {low} and {high}, got {_shorten(value)}")

    @property
    def rom(self) -> str:
        """The name of the game's ROM in ale-py."""
        return resolve_game(self.game).rom

    @property
    def max_steps(self) -> int:
        """The largest number of agent steps that an episode can have."""
        return -(-self.max_frames // self.frame_skip)

    @property
    def steps_per_second(self) -> float:
        """The number of agent steps in a second of the console's time."""
        return FRAMES_PER_SECOND / self.frame_skip

    def seconds(self, num_steps: float) -> float:
        """How long agent steps take on the console, in seconds."""
        return num_steps * self.frame_skip / FRAMES_PER_SECOND


def _shorten(value: object) -> str:
    """Shorten a value for messages: settings may come from anybody's files."""
    return repr(value)[:100]


def atari_action_names(config: AtariConfig) -> tuple[str, ...]:
    """The names of the actions that an environment with these settings has, such as UPFIRE."""
    return _load_action_names(config.rom, config.full_action_space)


@cache
def _load_action_names(rom: str, full_action_space: bool) -> tuple[str, ...]:
    silence_emulator()
    ale = ale_py.ALEInterface()
    path = roms.get_rom_path(rom)
    assert path is not None
    ale.loadROM(path)
    actions = ale.getLegalActionSet() if full_action_space else ale.getMinimalActionSet()
    return tuple(action.name for action in actions)


def silence_emulator() -> None:
    """Stop emulators that are made from now on from printing a banner."""
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
