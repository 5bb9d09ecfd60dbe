"""Pictures of digits: MNIST from its files, or the small set included in scikit-learn."""

import gzip
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from experiments.common.command_line import ExperimentError

MNIST_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
_UNSIGNED_BYTE = 0x08
_LARGEST_SIDE = 1024
_DIGITS_FOR_TESTING = 600


class DataError(ExperimentError):
    """The data cannot be used; the message is one line that says why and what is expected."""


@dataclass(frozen=True)
class Images:
    """A data set of pictures in its standard split.

    Pixels are standardised by mean and standard deviation of the training pictures.

    Attributes:
        name: name of the data set.
        train: training pictures, shape (N, C, H, W), float32; C is 1 for grey pictures.
        train_labels: their classes from 0, shape (N,), int64.
        test: test pictures, shape (M, C, H, W).
        test_labels: their classes, shape (M,).
    """

    name: str
    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor

    @property
    def pixels(self) -> int:
        """Number of pixels of a picture."""
        return self.train[0].numel()

    @property
    def classes(self) -> int:
        """Number of classes."""
        return int(self.train_labels.max()) + 1

    def first(self, count: int) -> "Images":
        """The first `count` pictures for training and for testing, or all if there are fewer."""
        parts = (self.train, self.train_labels, self.test, self.test_labels)
        return Images(self.name, *(part[:count] for part in parts))


def load_images(mnist: str | Path | None = None) -> Images:
    """Read MNIST from a folder, or scikit-learn's digits if none is given.

    MNIST comes in its own split of 60,000 and 10,000 pictures of 28 x 28. scikit-learn's digits
    are 1,797 pictures of 8 x 8, ordered by writer. So the last 600, which we keep for testing, are
    by other writers than most of the first 1,197, as in MNIST.

    Args:
        mnist: folder of the four IDX files, compressed (.gz) or not.

    Raises:
        DataError: if a file is missing, damaged, or does not fit the others.
    """
    return _load_digits() if mnist is None else _load_mnist(Path(mnist))


def shifted(images: Images, most: int) -> Images:
    """Every picture, shifted in all ways by up to `most` pixels vertically and horizontally.

    A linear classifier learns a small set of pictures almost without error; with all shifts added
    it cannot, just as it cannot learn MNIST.

    Args:
        images: the original pictures.
        most: largest shift in pixels; 0 changes nothing.
    """
    if most == 0:
        return images
    background = float(images.train.min())
    places = (2 * most + 1) ** 2

    def in_all_places(pictures: Tensor) -> Tensor:
        height, width = pictures.shape[2:]
        wide = F.pad(pictures, (most,) * 4, value=background)
        windows = wide.unfold(2, height, 1).unfold(3, width, 1)  # (N, 1, places, places, H, W)
        return windows.movedim((2, 3), (0, 1)).reshape(-1, 1, height, width)

    return Images(
        f"{images.name} shifted by up to {most} pixel{'s' * (most > 1)}",
        in_all_places(images.train),
        images.train_labels.repeat(places),
        in_all_places(images.test),
        images.test_labels.repeat(places),
    )


def padded(images: Images, side: int) -> Images:
    """Put every picture in the middle of a square of `side` pixels, and standardise again.

    Args:
        images: the original pictures.
        side: side in pixels; it exceeds the pictures' own by an even number, which may be 0.
    """
    rows, columns = ((side - size) // 2 for size in images.train.shape[2:])
    background = float(images.train.min())

    def wider(pictures: Tensor) -> Tensor:
        return F.pad(pictures, (columns, columns, rows, rows), value=background)

    train, test = wider(images.train), wider(images.test)
    deviation, mean = torch.std_mean(train, correction=0)
    return Images(
        f"{images.name} of {side} x {side} pixels",
        (train - mean) / deviation,
        images.train_labels,
        (test - mean) / deviation,
        images.test_labels,
    )


def read_idx(path: Path) -> np.ndarray:
    """Read an array of unsigned bytes in the IDX format, plain or compressed.

    The format is two zero bytes, the type, the number of dimensions, each dimension as a big-endian
    32-bit number, and the items (http://yann.lecun.com/exdb/mnist).

    Raises:
        DataError: if the file cannot be read, is not such an array, or is not of the stated size.
    """
    try:
        if path.suffix == ".gz":
            with gzip.open(path) as file:
                content = file.read()
        else:
            content = path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] != _UNSIGNED_BYTE:
        raise DataError(f"{path} is not an IDX file of bytes: it starts with {content[:4].hex()!r}")
    dimensions = content[3]
    start = 4 + 4 * dimensions
    if dimensions == 0 or len(content) < start:
        raise DataError(f"{path} is damaged: its header ends after {len(content)} bytes")
    shape = struct.unpack(f">{dimensions}I", content[4:start])
    expected = int(np.prod(shape, dtype=object))
    if len(content) - start != expected:
        raise DataError(
            f"{path} is damaged: {' x '.join(map(str, shape))} bytes should follow the header, "
            f"and {len(content) - start:,} do"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def _load_mnist(folder: Path) -> Images:
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder; {_expected()}")
    found = [_find(folder, name) for name in MNIST_FILES]
    missing = [name for name, path in zip(MNIST_FILES, found, strict=True) if path is None]
    if missing:
        raise DataError(f"{folder} has no {' and no '.join(missing)}; {_expected()}")
    paths = [path for path in found if path is not None]
    images, labels, test, test_labels = (read_idx(path) for path in paths)
    _check(paths[0], images, paths[1], labels)
    _check(paths[2], test, paths[3], test_labels)
    if images.shape[1:] != test.shape[1:]:
        raise DataError(f"{paths[0]} and {paths[2]} have pictures of different sizes")
    return _standardised("MNIST", images, labels, test, test_labels)


def _find(folder: Path, name: str) -> Path | None:
    """The file of that name, or with a dot for the last hyphen but one; compressed or not."""
    names = (name, name.replace("-idx", ".idx"))
    tries = [folder / f"{n}{suffix}" for n in names for suffix in ("", ".gz")]
    return next((path for path in tries if path.is_file()), None)


def _expected() -> str:
    return f"MNIST's files are {', '.join(MNIST_FILES)}, each as it is or with .gz"


def _check(images_path: Path, images: np.ndarray, labels_path: Path, labels: np.ndarray) -> None:
    """Raise DataError unless these are pictures with a class from 0 to 9 each."""
    if images.ndim != 3 or not all(1 <= side <= _LARGEST_SIDE for side in images.shape[1:]):
        raise DataError(f"{images_path} holds no pictures: its shape is {images.shape}")
    if labels.ndim != 1:
        raise DataError(f"{labels_path} holds no labels: its shape is {labels.shape}")
    if len(images) != len(labels) or len(images) == 0:
        raise DataError(
            f"{images_path} has {len(images):,} pictures and {labels_path.name} "
            f"{len(labels):,} labels"
        )
    if labels.max() > 9:
        raise DataError(f"{labels_path} has the label {labels.max()}; digits end at 9")


def _load_digits() -> Images:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        words = 'the digits need scikit-learn: pip install -e ".[experiments]", or give --mnist'
        raise DataError(words) from error
    images, labels = load_digits(return_X_y=True)
    images, split = images.reshape(-1, 8, 8), len(images) - _DIGITS_FOR_TESTING
    return _standardised(
        "scikit-learn digits", images[:split], labels[:split], images[split:], labels[split:]
    )


def _standardised(
    name: str, train: np.ndarray, labels: np.ndarray, test: np.ndarray, test_labels: np.ndarray
) -> Images:
    mean, deviation = float(train.mean()), max(float(train.std()), 1e-6)

    def pictures(pixels: np.ndarray) -> Tensor:
        return ((torch.tensor(pixels, dtype=torch.float32) - mean) / deviation).unsqueeze(1)

    def classes(numbers: np.ndarray) -> Tensor:
        return torch.tensor(numbers, dtype=torch.int64)

    return Images(name, pictures(train), classes(labels), pictures(test), classes(test_labels))
