"""Traces: the actions of a game, and all it takes to play it again without any network.

A trace is an `.npz` file of two arrays: `actions`, uint8, and `trace`, the rest as one line of
JSON. Loading one never runs code. It holds as long as the emulator and the ROM stay the same, which
is why it notes the version of ale-py.
"""

import io
import json
import math
import re
import zipfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from agents.evaluation.episode import EpisodeResult, OnStep, run_episode
from agents.evaluation.small_npz import read_arrays
from agents.system.files import write_atomically
from envs import AtariConfig, make_evaluation_env

FORMAT_VERSION = 1
# The longest game that the settings allow has 25 M decisions; its description is a few hundred
# characters. What claims to be larger is no trace, and is not unpacked.
MAX_BYTES = 32 * 2**20
MAX_TEXT = 2**16
# Attributes of `EpisodeResult` that have another name in the file.
_KEYS = {"trajectory_hash": "course_hash"}


class ReplayError(Exception):
    """A trace that cannot be used; the message names the file and what is wrong with it."""


class ReplayMismatchError(Exception):
    """A trace did not play back to the game it was taken from; the message says what differs."""


@dataclass(frozen=True, eq=False)
class Replay:
    """A game that was played, and where it came from.

    Attributes:
        settings: the game and its rules.
        game: what was played: seed, actions, score, length, last screen.
        checkpoint: name of the network's file; empty for random play.
        global_step: decisions the network was trained for; None for random play.
        ale_version: of ale-py when the game was played.
    """

    settings: AtariConfig
    game: EpisodeResult
    checkpoint: str = ""
    global_step: int | None = None
    ale_version: str = version("ale-py")

    def save(self, path: Path) -> None:
        """Write the file such that it is there whole or not at all.

        Raises:
            OSError: if that fails.
        """
        game = {_KEYS.get(name, name): value for name, value in vars(self.game).items()}
        del game["actions"]
        rest = {
            "format": FORMAT_VERSION,
            "settings": asdict(self.settings),
            "game": game,
            "checkpoint": self.checkpoint,
            "global_step": self.global_step,
            "ale_version": self.ale_version,
        }
        data = io.BytesIO()
        np.savez_compressed(data, actions=self.game.actions, trace=np.array(json.dumps(rest)))
        write_atomically(path, data.getvalue())


def load_replay(path: str | Path) -> Replay:
    """Read a trace.

    Raises:
        ReplayError: if the file is missing, damaged, of another format or version, or holds what
            cannot be.
    """
    try:
        actions, text = _read_arrays(Path(path))
        rest = json.loads(text)
        if not isinstance(rest, dict) or rest.get("format") != FORMAT_VERSION:
            found = rest.get("format") if isinstance(rest, dict) else None
            raise ValueError(f"format {found!r}, not {FORMAT_VERSION}")
        settings = _read_settings(rest["settings"])
        names = {key: name for name, key in _KEYS.items()}
        fields = {names.get(key, key): value for key, value in rest["game"].items()}
        game = EpisodeResult(actions=actions, **fields)
        trace = Replay(settings, game, rest["checkpoint"], rest["global_step"], rest["ale_version"])
        _check(trace)
        return trace
    except FileNotFoundError:
        raise ReplayError(f"{path}: there is no such file") from None
    except KeyError as error:
        raise ReplayError(f"{path}: not a trace, it lacks {error.args[0]}") from error
    except (OSError, ValueError, TypeError, zipfile.BadZipFile) as error:
        raise ReplayError(f"{path}: {error}") from error
    except Exception as error:  # zlib, zipfile and numpy have more ways to dislike a damaged file
        raise ReplayError(f"{path}: damaged ({type(error).__name__}: {error})") from error


def verify_replay(
    trace: Replay,
    on_step: OnStep | None = None,
    *,
    keep_screens: bool = False,
    on_observation: Callable[[npt.NDArray[np.uint8], bool], object] | None = None,
) -> EpisodeResult:
    """Play a trace's actions, and compare what comes of them.

    Args:
        trace: to play.
        on_step: is told of every decision.
        keep_screens: whether `Step.info["screens"]` holds the console's frames.
        on_observation: is told, before each decision, of its observation, (4, 84, 84) uint8, and
            whether it is the game's first. What it returns is ignored.

    Returns:
        The game as it was played now, identical to the trace's.

    Raises:
        ReplayError: if the game has no such actions.
        ReplayMismatchError: if score, length, last screen, the course of actions and pictures, or
            the way it ended differ.
    """
    recorded = trace.game
    try:
        env = make_evaluation_env(trace.settings, keep_screens=keep_screens)
    except ValueError as error:
        raise ReplayError(f"{trace.settings.game}: {error}") from error
    try:
        num_actions = int(env.action_space.n)  # type: ignore[attr-defined]
        highest = int(recorded.actions.max())
        if highest >= num_actions:
            raise ReplayError(
                f"action {highest} of the trace: {trace.settings.game} has {num_actions} actions"
            )
        actions = iter(recorded.actions.tolist())

        def choose(observation: npt.NDArray[np.uint8], start: bool) -> int | None:
            if on_observation is not None:
                on_observation(observation, start)
            return next(actions, None)

        played, ended = run_episode(env, recorded.seed, choose, recorded.mode, on_step)
    finally:
        env.close()
    differences = [
        f"{name} is {ours}, recorded was {theirs}"
        for name, ours, theirs in [
            ("the score", f"{played.score:g}", f"{recorded.score:g}"),
            ("the length", played.length, recorded.length),
            ("the last screen's hash", played.screen_hash[:12], recorded.screen_hash[:12]),
            ("the course's hash", played.trajectory_hash[:12], recorded.trajectory_hash[:12]),
            ("cut off by the frame limit", played.truncated, recorded.truncated),
        ]
        if ours != theirs
    ]
    if not ended:
        differences.insert(0, "the game has not ended after its last action")
    if differences:
        message = "; ".join(differences)
        if trace.ale_version != version("ale-py"):
            message += f" (recorded with ale-py {trace.ale_version}, this is {version('ale-py')})"
        raise ReplayMismatchError(message)
    return played


def _read_arrays(path: Path) -> tuple[npt.NDArray[np.uint8], str]:
    """Raises ValueError, or what numpy and zipfile raise, for what no trace can hold."""
    arrays = read_arrays(path, {"actions": MAX_BYTES, "trace": 4 * MAX_TEXT}, MAX_BYTES)
    actions, text = arrays["actions"], arrays["trace"]
    if actions.ndim != 1 or actions.dtype != np.uint8 or not len(actions):
        raise ValueError(f"actions are {actions.dtype} of shape {actions.shape}")
    if text.shape != () or text.dtype.kind != "U":
        raise ValueError("its description is not a text")
    return actions, str(text)


def _read_settings(settings: Any) -> AtariConfig:
    """Raises TypeError or ValueError for what no environment can have."""
    if not isinstance(settings, dict):
        raise TypeError(f"its settings are {repr(settings)[:200]}")
    names = {spec.name for spec in fields(AtariConfig)}
    # Files from before frame skip was a setting lack it.
    if missing := names - {"frame_skip"} - set(settings):
        raise ValueError(f"its settings lack {', '.join(sorted(missing))}")
    return AtariConfig(**settings)


def _check(trace: Replay) -> None:
    """Raise ValueError for what no game can have."""
    game = trace.game
    expected: list[tuple[Any, str, Any]] = [
        (game, "mode", str),
        (game, "seed", int),
        (game, "score", (int, float)),
        (game, "length", int),
        (game, "screen_hash", str),
        (game, "truncated", bool),
        (game, "trajectory_hash", str),
        (trace, "checkpoint", str),
        (trace, "global_step", (int, type(None))),
        (trace, "ale_version", str),
    ]
    for owner, name, kinds in expected:
        value = getattr(owner, name)
        fits = isinstance(value, kinds) and (kinds is bool or not isinstance(value, bool))
        # Shown on terminals, which obey control characters.
        if not fits or (kinds is str and not (len(value) <= 200 and value.isprintable())):
            raise ValueError(f"{name} is {repr(value)[:200]}")
    if not all(
        re.fullmatch("([0-9a-f]{64})?", h) for h in (game.screen_hash, game.trajectory_hash)
    ):
        raise ValueError("a hash is not 64 hexadecimal digits")
    if not 0 <= (trace.global_step or 0) <= 10**15:
        raise ValueError(f"global_step is {trace.global_step}")
    if not 0 <= game.seed < 2**31:
        raise ValueError(f"seed {game.seed} is not in [0, 2**31)")
    if not math.isfinite(game.score):
        raise ValueError(f"score is {game.score}")
    if game.length != len(game.actions):
        raise ValueError(f"length is {game.length}, but there are {len(game.actions)} actions")
    if game.length > trace.settings.max_steps:
        raise ValueError(
            f"{game.length} agent steps of {trace.settings.frame_skip} frames are over the limit "
            f"of {trace.settings.max_frames} frames"
        )
    if game.actions.max() >= 18:
        raise ValueError(f"action {game.actions.max()} is not one of the console's 18")
