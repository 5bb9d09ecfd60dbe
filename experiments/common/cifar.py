"""CIFAR-10 and CIFAR-100 from their standard binary files."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from experiments.common.data import DataError, Images

SIDE, CHANNELS = 32, 3
_PIXELS = CHANNELS * SIDE * SIDE


class _Format(NamedTuple):
    """A data set's files; a picture's class is the last byte before its pixels."""

    name: str
    folder: str
    train: tuple[str, ...]
    test: str
    label_bytes: int
    classes: int


_FORMATS = (
    _Format(
        "CIFAR-10",
        "cifar-10-batches-bin",
        tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
        "test_batch.bin",
        1,
        10,
    ),
    _Format("CIFAR-100", "cifar-100-binary", ("train.bin",), "test.bin", 2, 100),
)


def load_cifar(folder: str | Path) -> Images:
    """Read CIFAR-10 or CIFAR-100, whichever the folder holds.

    A record is the class (CIFAR-100: coarse class, then class) and 3,072 pixels: red, green and
    blue planes, row by row. Pixels are standardised per channel by the training pictures.

    Args:
        folder: folder of the binary files, or its parent.

    Raises:
        DataError: if a file is missing or damaged.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder; {_expected()}")
    for kind in _FORMATS:
        for place in (folder, folder / kind.folder):
            files = (*kind.train, kind.test)
            missing = [name for name in files if not (place / name).is_file()]
            if not missing:
                return _load(kind, place)
            if len(missing) < len(files):
                raise DataError(f"{place} has no {' and no '.join(missing)}; {_expected()}")
    raise DataError(f"{folder} has no files of CIFAR; {_expected()}")


def _expected() -> str:
    parts = [f"{kind.name}'s files are {', '.join((*kind.train, kind.test))}" for kind in _FORMATS]
    return "; ".join(parts) + " (the binary version)"


def _load(kind: _Format, folder: Path) -> Images:
    parts = [_read(kind, folder / name) for name in kind.train]
    train = np.concatenate([pixels for pixels, _ in parts])
    labels = np.concatenate([classes for _, classes in parts])
    test, test_labels = _read(kind, folder / kind.test)
    shape = (-1, CHANNELS, SIDE, SIDE)
    mean = torch.tensor(train.reshape(shape).mean((0, 2, 3)), dtype=torch.float32)
    deviation = torch.tensor(train.reshape(shape).std((0, 2, 3)), dtype=torch.float32)

    def pictures(pixels: np.ndarray) -> torch.Tensor:
        values = torch.tensor(pixels.reshape(shape), dtype=torch.float32)
        return (values - mean[:, None, None]) / deviation.clamp_min(1e-6)[:, None, None]

    def classes(numbers: np.ndarray) -> torch.Tensor:
        return torch.tensor(numbers, dtype=torch.int64)

    return Images(kind.name, pictures(train), classes(labels), pictures(test), classes(test_labels))


def _read(kind: _Format, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Pixels, shape (N, 3072), and classes, shape (N,)."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    record = kind.label_bytes + _PIXELS
    if not content or len(content) % record:
        raise DataError(
            f"{path} is damaged: {len(content):,} bytes are not records of {record:,}, as "
            f"{kind.name} has them"
        )
    rows = np.frombuffer(content, np.uint8).reshape(-1, record)
    classes = rows[:, kind.label_bytes - 1]
    if classes.max() >= kind.classes:
        raise DataError(
            f"{path} has the class {classes.max()}; {kind.name}'s end at {kind.classes - 1}"
        )
    return rows[:, kind.label_bytes :], classes
