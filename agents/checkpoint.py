"""Checkpoints: tensors by name and shape, and the numbers that go with them.

A checkpoint is a safetensors file, whatever its name ends in: loading one never runs code. It is
written under a temporary name that no loader looks at, flushed to the disk, and renamed. A checksum
covers all of it. `docs/files.md` describes the format.
"""

import json
import logging
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from agents.sealed_tensors import CHECKSUM, MAX_HEADER, DamagedError, seal, unseal
from agents.system.files import read_bounded, write_atomically
from agents.system.resources import memory_limit

log = logging.getLogger("train")

FORMAT_VERSION = 2
# Format 1 is the same without a checksum.
READABLE = ("1", "2")
BEST = "best.pt"
# Of a file that is not compared with a network: far more than any network here.
MAX_BYTES = 2**30
# Optimizers keep one or two statistics of a parameter; room for others to come.
MAX_STATISTICS = 4


class CheckpointError(Exception):
    """A checkpoint that cannot be used; the message names the file and what is wrong with it."""


@dataclass(frozen=True)
class Checkpoint:
    """The state of a run.

    Attributes:
        parameters: of the network, by name.
        statistics: of the optimizer, by name: shape (k, ...) for a parameter of shape (...).
        progress: what else a run knows of itself, as JSON can hold it; `global_step` at least.
    """

    parameters: dict[str, Tensor]
    statistics: dict[str, Tensor]
    progress: dict[str, Any]


def save_checkpoint(folder: Path, checkpoint: Checkpoint, keep: int) -> Path:
    """Write `step_<global_step>.pt` and `latest.json`, then delete all but the newest `keep`.

    Checkpoints of later steps stay and do not count: a run has such where it went on from an
    earlier one because those were damaged.

    Returns:
        The file written.

    Raises:
        OSError: if writing fails; the message names the file. Older checkpoints stay as they are
            then.
    """
    step = checkpoint.progress["global_step"]
    path = folder / f"step_{step:012d}.pt"
    write_checkpoint(path, checkpoint)
    latest = {"checkpoint": path.name, "global_step": step}
    write_atomically(folder / "latest.json", json.dumps(latest, indent=2).encode())
    until_now = [old for old in list_checkpoints(folder) if step_of(old) <= step]
    for old in until_now[:-keep]:
        old.unlink()
    return path


def write_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write one checkpoint to the given file.

    Raises:
        OSError: if writing fails; a file that was there stays.
    """
    tensors = {f"parameters/{name}": t for name, t in checkpoint.parameters.items()}
    tensors |= {f"statistics/{name}": t for name, t in checkpoint.statistics.items()}
    metadata = {"format": str(FORMAT_VERSION), "progress": json.dumps(checkpoint.progress)}
    write_atomically(path, seal(tensors, metadata))


def load_checkpoint(
    path: Path, expected: dict[str, Tensor] | None = None, num_statistics: int | None = None
) -> Checkpoint:
    """Read a checkpoint.

    Args:
        path: the file.
        expected: parameters whose names, shapes and types the file's must have; they may be on the
            meta device. No more is read than a checkpoint of them can take.
        num_statistics: how many statistics of each expected parameter the file must hold too; None
            if they do not matter.

    Raises:
        CheckpointError: if the file is missing, damaged, of another format, or does not fit.
    """
    try:
        tensors, metadata = unseal(read_bounded(path, _most_bytes(expected)))
        form = metadata.get("format")
        if form not in READABLE:
            raise ValueError(f"format {form!r}, not {' or '.join(READABLE)}")
        if form != READABLE[0] and CHECKSUM not in metadata:
            raise ValueError(f"damaged: format {form} has a checksum, this file has none")
        checkpoint = Checkpoint(
            _take(tensors, "parameters/"), _take(tensors, "statistics/"), _read_progress(metadata)
        )
        if tensors:
            raise ValueError(f"holds {next(iter(tensors))!r}, which is not part of a checkpoint")
        if expected is not None:
            _compare("parameters", checkpoint.parameters, expected)
            _compare_statistics(checkpoint.statistics, expected, num_statistics)
        return checkpoint
    except (OSError, ValueError, DamagedError) as error:
        raise CheckpointError(f"{path}: {getattr(error, 'strerror', None) or error}") from error


def load_newest_checkpoint(
    folder: Path, expected: dict[str, Tensor] | None = None, num_statistics: int | None = None
) -> tuple[Path, Checkpoint]:
    """Read the newest checkpoint that is sound, with a warning for every newer one that is not.

    Args:
        folder: that holds the checkpoints.
        expected: as in `load_checkpoint`.
        num_statistics: as in `load_checkpoint`.

    Returns:
        The file and what it holds.

    Raises:
        CheckpointError: if there is none; the message names the folder.
    """
    for path in reversed(list_checkpoints(folder)):
        try:
            return path, load_checkpoint(path, expected, num_statistics)
        except CheckpointError as error:  # noqa: PERF203
            log.warning("skipping a checkpoint that cannot be used: %s", error)
    raise CheckpointError(f"{folder}: no checkpoint that can be used")


def list_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a folder, oldest first; `best.pt` is not among them.

    Nor is anything else that someone put there: what is listed here may be deleted.
    """
    return sorted((p for p in folder.glob("step_*.pt") if _NAME.fullmatch(p.name)), key=step_of)


def step_of(path: Path) -> int:
    """The global step in the name of a checkpoint."""
    return int(path.stem.removeprefix("step_"))


_NAME = re.compile(r"step_[0-9]{12,15}\.pt")


def _most_bytes(expected: dict[str, Tensor] | None) -> int:
    if expected is None:
        return MAX_BYTES
    parameters = sum(tensor.numel() * tensor.element_size() for tensor in expected.values())
    # Settings may claim any size, and a file with holes have it without taking room on the disk.
    return min(parameters * (1 + MAX_STATISTICS) + MAX_HEADER, memory_limit() // 4)


def _take(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Take out the tensors of a group."""
    names = [name for name in tensors if name.startswith(prefix)]
    return {name.removeprefix(prefix): tensors.pop(name) for name in names}


def _compare(what: str, found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Raise ValueError unless names, shapes and types agree."""
    if not found:
        raise ValueError(f"holds no {what}")
    if found.keys() != expected.keys():
        wrong = min(found.keys() ^ expected.keys())
        raise ValueError(f"{what} of {wrong!r} are not in both file and network")
    for name, tensor in expected.items():
        ours, theirs = (f"{t.dtype} {list(t.shape)}" for t in (tensor, found[name]))
        if ours != theirs:
            raise ValueError(f"{what} of {name!r} are {theirs}, the network's are {ours}")


def _compare_statistics(
    found: dict[str, Tensor], expected: dict[str, Tensor], num_statistics: int | None
) -> None:
    """Raise ValueError unless there are so many of each parameter; any number if that is None."""
    if num_statistics is None:
        if not found:
            return
        num_statistics = max(t.shape[0] if t.dim() else 0 for t in found.values())
        if num_statistics > MAX_STATISTICS:
            raise ValueError(f"{num_statistics} statistics of a parameter are too many")
    statistics = {name: t.expand(num_statistics, *t.shape) for name, t in expected.items()}
    _compare("statistics", found, statistics)


# What a run reads of its progress again. The rest is for people.
_COUNTS = ("global_step", "updates", "skipped_updates", "episodes", "restarts")
_NUMBERS = ("seconds", "best_return", "mean_return")
_MOST = 10**15


def _read_progress(metadata: dict[str, str]) -> dict[str, Any]:
    """Raises ValueError unless these are values that a run can go on with."""
    try:
        progress = json.loads(metadata.get("progress", ""))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"its progress is not JSON ({error})") from error
    if not isinstance(progress, dict) or "global_step" not in progress:
        raise ValueError("does not say how many steps it was trained for")
    fits = {name: _is_count(progress[name]) for name in _COUNTS if name in progress}
    fits |= {name: _is_number(progress[name]) for name in _NUMBERS if name in progress}
    fits["evaluation"] = isinstance(progress.get("evaluation", ""), str)
    games = progress.get("recent_games", [])
    fits["recent_games"] = isinstance(games, list) and all(
        isinstance(game, list) and len(game) == 2 and all(map(_is_number, game)) for game in games
    )
    for name, fit in fits.items():
        if not fit:
            raise ValueError(f"its {name} cannot be {str(progress[name])[:80]!r}")
    return progress


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _MOST


def _is_number(value: Any) -> bool:
    is_small_int = type(value) is int and abs(value) <= _MOST
    return is_small_int or (type(value) is float and math.isfinite(value))
