"""Replays: the actions of an episode, and all it takes to play it again without any network.

A replay is an `.npz` file of two arrays: `actions`, uint8, and `trace`, the rest as one line of
JSON. Loading one never runs code; playing one whose environment id names a module, as in
`module:Name-v0`, imports that module. A replay is valid as long as the emulator and the ROM, or the
environment, stay the same, which is why it holds a version.
"""

import io
import json
import math
import re
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from agents.errors import UserError, is_printable
from agents.evaluation.episode import EpisodeResult
from agents.system.files import read_bounded, write_atomically
from envs import AtariConfig, EnvConfig, GymnasiumConfig

FORMAT_VERSION = 1
# The longest episode that the settings allow has 25 M agent steps; its description is a few hundred
# characters. A file that claims to be larger is no replay, and is not unpacked.
MAX_BYTES = 32 * 2**20
MAX_TEXT = 2**16
# Attributes of `EpisodeResult` that have another name in the file.
_KEYS = {"trajectory_hash": "course_hash"}
# Its name is from when there were only Atari games.
_VERSION_KEY = "ale_version"
_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
_END = b"PK\x05\x06"  # the record at an archive's end
_END_SIZE = 22
_LARGE_END = b"PK\x06\x07"  # before it, in archives of 4 GiB
_LARGE_END_SIZE = 20


class ReplayError(UserError):
    """A replay that cannot be used; the message names the file and what is wrong with it."""


@dataclass(frozen=True, eq=False)
class Replay:
    """A recorded episode, and where it came from.

    Attributes:
        settings: The environment and its rules.
        episode: Seed, actions, score, length, last screen.
        checkpoint: Name of the network's file; empty for random play.
        global_step: Agent steps the network was trained for; None for random play.
        env_version: The version of the environment's package when the episode was played; see
            `env_version`.
    """

    settings: EnvConfig
    episode: EpisodeResult
    checkpoint: str = ""
    global_step: int | None = None
    env_version: str = ""

    def __post_init__(self) -> None:
        if not self.env_version:
            object.__setattr__(self, "env_version", env_version(self.settings))

    def save(self, path: Path) -> None:
        """Write the file whole or not at all.

        Raises:
            OSError: If that fails.
        """
        episode = {_KEYS.get(name, name): value for name, value in vars(self.episode).items()}
        del episode["actions"]
        rest = {
            "format": FORMAT_VERSION,
            "settings": asdict(self.settings),
            "game": episode,
            "checkpoint": self.checkpoint,
            "global_step": self.global_step,
            _VERSION_KEY: self.env_version,
        }
        data = io.BytesIO()
        np.savez_compressed(data, actions=self.episode.actions, trace=np.array(json.dumps(rest)))
        write_atomically(path, data.getvalue())


def load_replay(path: str | Path) -> Replay:
    """Read a replay.

    Raises:
        ReplayError: If the file is missing, damaged, of another format or version, or holds
            impossible values.
    """
    try:
        actions, text = _read_arrays(Path(path))
        rest = json.loads(text)
        if not isinstance(rest, dict) or rest.get("format") != FORMAT_VERSION:
            found = rest.get("format") if isinstance(rest, dict) else None
            raise ValueError(f"format {found!r}, not {FORMAT_VERSION}")
        settings = _read_settings(rest["settings"])
        names = {key: name for name, key in _KEYS.items()}
        values = {names.get(key, key): value for key, value in rest["game"].items()}
        episode = EpisodeResult(actions=actions, **values)
        replay = Replay(
            settings, episode, rest["checkpoint"], rest["global_step"], rest[_VERSION_KEY]
        )
        _check(replay)
        return replay
    except FileNotFoundError:
        raise ReplayError(f"{path}: there is no such file") from None
    except KeyError as error:
        raise ReplayError(f"{path}: not a replay, it lacks {error.args[0]}") from error
    except (OSError, ValueError, TypeError, zipfile.BadZipFile) as error:
        raise ReplayError(f"{path}: {error}") from error
    except Exception as error:  # zlib, zipfile and numpy raise many types for a damaged file
        raise ReplayError(f"{path}: damaged ({type(error).__name__}: {error})") from error


def _read_arrays(path: Path) -> tuple[npt.NDArray[np.uint8], str]:
    """Raises ValueError, or what numpy and zipfile raise, for what no replay can hold."""
    arrays = _read_npz(path, {"actions": MAX_BYTES, "trace": 4 * MAX_TEXT}, MAX_BYTES)
    actions, text = arrays["actions"], arrays["trace"]
    if actions.ndim != 1 or actions.dtype != np.uint8 or not len(actions):
        raise ValueError(f"actions are {actions.dtype} of shape {actions.shape}")
    if text.shape != () or text.dtype.kind != "U":
        raise ValueError("its description is not a text")
    return actions, str(text)


def _read_npz(path: Path, limits: Mapping[str, int], max_bytes: int) -> dict[str, npt.NDArray[Any]]:
    """Read arrays of an untrusted file, none before its size and type are known.

    `numpy.load` allocates whatever an array's header claims before it looks at the data, and
    `zipfile` lists any number of members.

    Args:
        path: The file.
        limits: Name -> bytes that this array may take in memory.
        max_bytes: Bytes that the file itself may have.
    """
    data = read_bounded(path, max_bytes)
    before_end = len(data) - _END_SIZE
    end = data[max(before_end, 0) :]
    listing = int.from_bytes(end[12:16], "little")
    is_large = data[: max(before_end, 0)][-_LARGE_END_SIZE:].startswith(_LARGE_END)
    if not end.startswith(_END) or is_large or listing > 2**12:
        raise ValueError("damaged, or not an .npz file of a few arrays")
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: _read_array(archive, name, limit) for name, limit in limits.items()}


def _read_array(archive: zipfile.ZipFile, name: str, limit: int) -> npt.NDArray[Any]:
    member = archive.getinfo(f"{name}.npy")
    # Other types may take gigabytes to unpack.
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"its {name} are packed in a way that numpy never does")
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        if version not in _HEADERS:
            raise ValueError(f"its {name} are of format {version}")
        shape, _, dtype = _HEADERS[version](file)
        size = math.prod(shape) * dtype.itemsize
        if dtype.hasobject or min(shape, default=0) < 0:
            raise ValueError(f"its {name} are {dtype} of shape {shape}")
        if size > limit:
            raise ValueError(f"its {name} are too large: {size:,} bytes, {limit:,} is the most")
        data = file.read(size + 1)
    if len(data) != size:
        raise ValueError(f"its {name} are cut off, or followed by something else")
    return np.frombuffer(data, dtype).reshape(shape)


def env_version(settings: EnvConfig) -> str:
    """The version of ale-py, or of Gymnasium for an environment that it makes."""
    return version("ale-py" if isinstance(settings, AtariConfig) else "gymnasium")


def _read_settings(settings: Any) -> EnvConfig:
    """Raises TypeError or ValueError for what no environment can have."""
    if not isinstance(settings, dict):
        raise TypeError(f"its settings are {repr(settings)[:200]}")
    # Only environments other than Atari games have `images`.
    kind = GymnasiumConfig if "images" in settings else AtariConfig
    names = {spec.name for spec in fields(kind)}
    # Files from before frame skip was a setting lack it.
    if missing := names - {"frame_skip"} - set(settings):
        raise ValueError(f"its settings lack {', '.join(sorted(missing))}")
    if unknown := set(settings) - names:
        raise ValueError(f"this version has no settings {', '.join(sorted(unknown))}")
    return kind(**settings)


def _check(replay: Replay) -> None:
    """Raise ValueError for what no episode can have."""
    episode = replay.episode
    expected: list[tuple[Any, str, Any]] = [
        (episode, "mode", str),
        (episode, "seed", int),
        (episode, "score", (int, float)),
        (episode, "length", int),
        (episode, "screen_hash", str),
        (episode, "truncated", bool),
        (episode, "trajectory_hash", str),
        (replay, "checkpoint", str),
        (replay, "global_step", (int, type(None))),
        (replay, "env_version", str),
    ]
    for owner, name, kinds in expected:
        value = getattr(owner, name)
        fits = isinstance(value, kinds) and (kinds is bool or not isinstance(value, bool))
        # Shown on terminals, which obey control characters.
        if not fits or (kinds is str and not (len(value) <= 200 and is_printable(value))):
            raise ValueError(f"{name} is {repr(value)[:200]}")
    if not all(
        re.fullmatch("([0-9a-f]{64})?", h) for h in (episode.screen_hash, episode.trajectory_hash)
    ):
        raise ValueError("a hash is not 64 hexadecimal digits")
    if not 0 <= (replay.global_step or 0) <= 10**15:
        raise ValueError(f"global_step is {replay.global_step}")
    if not 0 <= episode.seed < 2**31:
        raise ValueError(f"seed {episode.seed} is not in [0, 2**31)")
    # Other environments' rewards may be anything.
    if not math.isfinite(episode.score) and isinstance(replay.settings, AtariConfig):
        raise ValueError(f"score is {episode.score}")
    if episode.length != len(episode.actions):
        raise ValueError(
            f"length is {episode.length}, but there are {len(episode.actions)} actions"
        )
    if episode.length > replay.settings.max_steps:
        raise ValueError(
            f"{episode.length} agent steps of {replay.settings.frame_skip} frames are over the "
            f"limit of {replay.settings.max_frames} frames"
        )
    if isinstance(replay.settings, AtariConfig) and episode.actions.max() >= 18:
        raise ValueError(f"action {episode.actions.max()} is not one of the console's 18")
