"""Checkpoints: tensors by name and shape, and the numbers that go with them.

A checkpoint is a safetensors file, whatever its name ends in: loading one never runs code. It is
written under a temporary name that no loader looks at, flushed to the disk, and renamed.
"""

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from agents.files import write_atomically

log = logging.getLogger("train")

FORMAT_VERSION = 1
BEST = "best.pt"


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

    Returns:
        The file written.

    Raises:
        OSError: if writing fails; older checkpoints stay as they are then.
    """
    path = folder / f"step_{checkpoint.progress['global_step']:012d}.pt"
    write_checkpoint(path, checkpoint)
    latest = {"checkpoint": path.name, "global_step": checkpoint.progress["global_step"]}
    write_atomically(folder / "latest.json", json.dumps(latest, indent=2).encode())
    for old in list_checkpoints(folder)[:-keep]:
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
    write_atomically(path, save({name: t.contiguous() for name, t in tensors.items()}, metadata))


def load_checkpoint(
    path: Path, expected: dict[str, Tensor] | None = None, num_statistics: int | None = None
) -> Checkpoint:
    """Read a checkpoint.

    Args:
        path: the file.
        expected: parameters whose names, shapes and types the file's must have. They are compared
            before any tensor is read.
        num_statistics: how many statistics of each expected parameter the file must hold too; None
            if they do not matter.

    Raises:
        CheckpointError: if the file is missing, damaged, of another format, or does not fit.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != str(FORMAT_VERSION):
                found = metadata.get("format")
                raise CheckpointError(f"{path}: format {found!r}, not {FORMAT_VERSION}")
            if expected is not None:
                _compare(path, file, "parameters/", expected)
                if num_statistics is not None:
                    statistics = {
                        n: t.expand(num_statistics, *t.shape) for n, t in expected.items()
                    }
                    _compare(path, file, "statistics/", statistics)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        progress = json.loads(metadata["progress"])
    except (OSError, SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path}: {error}") from error

    def group(prefix: str) -> dict[str, Tensor]:
        return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}

    return Checkpoint(group("parameters/"), group("statistics/"), progress)


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
    """The checkpoints of a folder, oldest first; `best.pt` is not among them."""
    return sorted(folder.glob("step_*.pt"))


def _compare(path: Path, file: Any, prefix: str, expected: dict[str, Tensor]) -> None:
    what = prefix.rstrip("/")
    names = {n.removeprefix(prefix) for n in file.keys() if n.startswith(prefix)}  # noqa: SIM118
    if not names:
        raise CheckpointError(f"{path}: holds no {what}")
    if names != set(expected):
        wrong = sorted(names ^ set(expected))[0]
        raise CheckpointError(f"{path}: {what} of {wrong!r} are not in both file and network")
    for name, tensor in expected.items():
        stored = file.get_slice(prefix + name)
        shape, dtype = stored.get_shape(), stored.get_dtype()
        if shape != list(tensor.shape) or _DTYPES.get(dtype) != tensor.dtype:
            raise CheckpointError(
                f"{path}: {what} of {name!r} are {dtype} {shape}, "
                f"the network's are {tensor.dtype} {list(tensor.shape)}"
            )


_DTYPES = {"F32": torch.float32, "F64": torch.float64, "BF16": torch.bfloat16}
