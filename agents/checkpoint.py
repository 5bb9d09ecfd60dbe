"""Checkpoints: named tensors and the training state, in a safetensors file.

A file is written under a temporary name that no loader reads, flushed to disk, and renamed.
`docs/files.md` describes the format.
"""

import json
import logging
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from agents.checkpoint_format import FORMAT_VERSION, MAX_HEADER, deserialize, serialize
from agents.errors import UserError
from agents.system.files import read_bounded, write_atomically
from agents.system.resources import memory_limit
from agents.training_state import TrainingState

log = logging.getLogger("train")

SUFFIX = ".safetensors"
BEST = f"best{SUFFIX}"
# The suffix of formats 1 and 2, though they are safetensors files too.
_OLD_SUFFIX = ".pt"
_NAME = re.compile(r"step_[0-9]{12,15}(\.safetensors|\.pt)")
# For a file that is not compared with a network: far more than any network here takes.
MAX_BYTES = 2**30
_BONUS_COUNTS = "bonus/counts"
# Far more than the counts of any bonus here.
MAX_BONUS_BYTES = 2**25
# Optimizers keep one or two tensors per parameter; this leaves room for others to come.
MAX_STATE_TENSORS = 4


class CheckpointError(UserError):
    """A checkpoint that cannot be used; the message names the file and what is wrong with it."""


@dataclass(frozen=True)
class Checkpoint:
    """The state of a run.

    Attributes:
        parameters: The network's parameters, by name.
        optimizer_state: By the same names: shape (k, ...) for a parameter of shape (...). Empty in
            a checkpoint that is meant for evaluation only.
        training_state: Counters, results and settings.
        bonus_counts: The counts of the exploration bonus, int64; None without one.
    """

    parameters: dict[str, Tensor]
    optimizer_state: dict[str, Tensor]
    training_state: TrainingState
    bonus_counts: Tensor | None = None

    @property
    def global_step(self) -> int:
        """Agent steps that the network was trained for."""
        return self.training_state.global_step


def save_checkpoint(folder: Path, checkpoint: Checkpoint, keep: int) -> Path:
    """Write `step_<global_step>.safetensors` and `latest.json`; delete all but the newest `keep`.

    Checkpoints of later steps stay and do not count: they exist if they were damaged, and the run
    was therefore resumed from an earlier one.

    Returns:
        The file written.

    Raises:
        OSError: If writing fails; the message names the file. Older checkpoints stay as they are.
    """
    step = checkpoint.global_step
    path = folder / f"step_{step:012d}{SUFFIX}"
    write_checkpoint(path, checkpoint)
    latest = {"checkpoint": path.name, "global_step": step}
    write_atomically(folder / "latest.json", json.dumps(latest, indent=2).encode())
    until_now = [old for old in list_checkpoints(folder) if step_of(old) <= step]
    for old in until_now[:-keep]:
        old.unlink()
    return path


def save_best(folder: Path, checkpoint: Checkpoint) -> None:
    """Write `best.safetensors`, in place of an older one, whatever its suffix.

    Raises:
        OSError: If writing fails; the message names the file.
    """
    write_checkpoint(folder / BEST, checkpoint)
    (folder / BEST).with_suffix(_OLD_SUFFIX).unlink(missing_ok=True)


def write_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write one checkpoint to the given file.

    Raises:
        OSError: If writing fails; an existing file is kept.
    """
    tensors = {f"parameters/{name}": t for name, t in checkpoint.parameters.items()}
    tensors |= {f"statistics/{name}": t for name, t in checkpoint.optimizer_state.items()}
    if checkpoint.bonus_counts is not None:
        tensors[_BONUS_COUNTS] = checkpoint.bonus_counts
    progress = checkpoint.training_state.to_json()
    metadata = {"format": str(FORMAT_VERSION), "progress": progress}
    write_atomically(path, serialize(tensors, metadata))


def read_checkpoint(path: Path, max_bytes: int = MAX_BYTES) -> Checkpoint:
    """Read a checkpoint of any network.

    Args:
        path: The file.
        max_bytes: The largest file accepted.

    Raises:
        CheckpointError: If the file is missing, damaged or of another format.
    """
    try:
        tensors, metadata = deserialize(read_bounded(path, max_bytes))
        checkpoint = Checkpoint(
            _pop_prefix(tensors, "parameters/"),
            _pop_prefix(tensors, "statistics/"),
            TrainingState.from_json(metadata.get("progress", "")),
            tensors.pop(_BONUS_COUNTS, None),
        )
        if tensors:
            raise ValueError(f"holds {next(iter(tensors))!r}, which is not part of a checkpoint")
        return checkpoint
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: {getattr(error, 'strerror', None) or error}") from error


def load_checkpoint(
    path: Path,
    expected: Mapping[str, Tensor] | None = None,
    num_state_tensors: int | None = None,
    bonus_counts: Tensor | None = None,
) -> Checkpoint:
    """Read a checkpoint and compare it with the network that it is for.

    Args:
        path: The file.
        expected: The network's parameters, of which names, shapes and types must match; they may be
            on the meta device. A file larger than a checkpoint of these is not read.
        num_state_tensors: The number k of tensors that the optimizer keeps per parameter, which the
            file must have too, unless it has none at all; None if they do not matter.
        bonus_counts: The counts of the run's bonus, whose shape the file's counts must have; empty
            for a run without a bonus; None if they do not matter.

    Raises:
        CheckpointError: If the file is missing, damaged, of another format, or does not match.
    """
    checkpoint = read_checkpoint(path, _max_bytes(expected))
    if expected is not None:
        try:
            check_matches(checkpoint, expected, num_state_tensors, bonus_counts)
        except ValueError as error:
            raise CheckpointError(f"{path}: {error}") from error
    return checkpoint


def load_newest_checkpoint(
    folder: Path,
    expected: Mapping[str, Tensor] | None = None,
    num_state_tensors: int | None = None,
    bonus_counts: Tensor | None = None,
) -> tuple[Path, Checkpoint]:
    """Load the newest intact checkpoint, with a warning for every newer one that is unusable.

    Args:
        folder: The directory of the checkpoints.
        expected: As in `load_checkpoint`.
        num_state_tensors: As in `load_checkpoint`.
        bonus_counts: As in `load_checkpoint`.

    Returns:
        The file and its content.

    Raises:
        CheckpointError: If there is none; the message names the directory and says what is wrong
            with its newest file.
    """
    reason = ""
    for path in reversed(list_checkpoints(folder)):
        try:
            return path, load_checkpoint(path, expected, num_state_tensors, bonus_counts)
        except CheckpointError as error:  # noqa: PERF203
            log.warning("skipping a checkpoint that cannot be used: %s", error)
            reason = reason or f" ({str(error).removeprefix(f'{folder}/')})"
    which = "no usable checkpoint" if reason else "no checkpoint"
    raise CheckpointError(f"{folder}: {which}{reason}")


def recorded_make_env(folder: Path) -> str | None:
    """What made a run's environments, as in `TrainingState`, by its newest readable checkpoint.

    Args:
        folder: The directory of the checkpoints.

    Returns:
        None if there is no such checkpoint; a damaged one is no error here.
    """
    for path in reversed(list_checkpoints(folder)):
        with suppress(CheckpointError):
            return read_checkpoint(path).training_state.make_env
    return None


def check_matches(
    checkpoint: Checkpoint,
    expected: Mapping[str, Tensor],
    num_state_tensors: int | None = None,
    bonus_counts: Tensor | None = None,
) -> None:
    """Compare a checkpoint with a network's parameters; the arguments are as in `load_checkpoint`.

    Raises:
        ValueError: If a name, shape or type differs; the message names the parameter.
    """
    _check_tensors("parameters", checkpoint.parameters, expected)
    if bonus_counts is not None:
        _check_counts(checkpoint.bonus_counts, bonus_counts)
    found = checkpoint.optimizer_state
    if not found:
        return
    if num_state_tensors is None:
        num_state_tensors = max(t.shape[0] if t.dim() else 0 for t in found.values())
        if num_state_tensors > MAX_STATE_TENSORS:
            raise ValueError(
                f"{num_state_tensors} optimizer statistics of a parameter are too many"
            )
    moments = {name: t.expand(num_state_tensors, *t.shape) for name, t in expected.items()}
    _check_tensors("optimizer statistics", found, moments)


def list_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a directory, oldest first; the best one, which has no step, is not listed.

    Listed files may be deleted, so only files with names that a run gives are listed.
    """
    return sorted(
        (path for path in folder.glob("step_*") if _NAME.fullmatch(path.name)),
        key=lambda path: (step_of(path), path.suffix == SUFFIX),
    )


def best_checkpoint(folder: Path) -> Path:
    """The file of the best checkpoint, whether it exists or not."""
    best = folder / BEST
    old = best.with_suffix(_OLD_SUFFIX)
    return old if old.exists() and not best.exists() else best


def step_of(path: Path) -> int:
    """The global step in the name of a checkpoint."""
    return int(path.stem.removeprefix("step_"))


def _max_bytes(expected: Mapping[str, Tensor] | None) -> int:
    if expected is None:
        return MAX_BYTES
    parameters = sum(tensor.numel() * tensor.element_size() for tensor in expected.values())
    # Settings may claim any size, and a sparse file can have that size without using disk space.
    largest = parameters * (1 + MAX_STATE_TENSORS) + MAX_BONUS_BYTES + MAX_HEADER
    return min(largest, memory_limit() // 4)


def _pop_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Remove the tensors whose names begin with the prefix, and return them without it."""
    names = [name for name in tensors if name.startswith(prefix)]
    return {name.removeprefix(prefix): tensors.pop(name) for name in names}


def _check_tensors(what: str, found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Raise ValueError unless names, shapes and types match."""
    if not found:
        raise ValueError(f"holds no {what}")
    if found.keys() != expected.keys():
        name = min(found.keys() ^ expected.keys())
        lacks, holds = ("file", "network") if name in expected else ("network", "file")
        raise ValueError(f"{what} of {name!r} are in the {holds}, but not in the {lacks}")
    for name, tensor in expected.items():
        ours, theirs = (f"{t.dtype} {list(t.shape)}" for t in (tensor, found[name]))
        if ours != theirs:
            raise ValueError(f"{what} of {name!r} are {theirs}, the network's are {ours}")


def _check_counts(found: Tensor | None, expected: Tensor) -> None:
    """Raise ValueError unless counts have the expected type and shape, (0,) for no counts."""
    if found is None:
        found = expected.new_zeros(0)
    ours, theirs = (f"{t.dtype} {list(t.shape)}" for t in (expected, found))
    if ours != theirs:
        raise ValueError(f"the counts of its bonus are {theirs}, the run's are {ours}")
    if bool((found < 0).any()):
        raise ValueError("the counts of its bonus are below zero")
