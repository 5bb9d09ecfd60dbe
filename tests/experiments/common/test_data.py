"""Digits from MNIST's files and from scikit-learn, and what is said of bad folders."""

import gzip
import struct

import numpy as np
import pytest
import torch

from experiments.common.data import (
    MNIST_FILES,
    DataError,
    Images,
    load_images,
    padded,
    read_idx,
    shifted,
)

TRAIN, LABELS, TEST, TEST_LABELS = MNIST_FILES


def idx(array):
    """An array as an IDX file."""
    array = np.asarray(array, np.uint8)
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.tobytes()


def write_mnist(folder, *, compressed=False, count=7, side=28, **other):
    """A folder like MNIST's with random pictures; `other` replaces a file's array or bytes."""
    random = np.random.default_rng(0)
    folder.mkdir(exist_ok=True)
    content = {
        TRAIN: random.integers(256, size=(count, side, side)),
        LABELS: np.arange(count) % 10,
        TEST: random.integers(256, size=(3, side, side)),
        TEST_LABELS: [3, 0, 9],
    }
    content.update({MNIST_FILES[int(key[1:])]: value for key, value in other.items()})
    for name, value in content.items():
        data = value if isinstance(value, bytes) else idx(value)
        if compressed:
            (folder / f"{name}.gz").write_bytes(gzip.compress(data))
        else:
            (folder / name).write_bytes(data)
    return content


@pytest.mark.parametrize("compressed", [False, True])
def test_mnist_is_read_from_its_four_files(tmp_path, compressed):
    content = write_mnist(tmp_path / "m", compressed=compressed)
    images = load_images(tmp_path / "m")
    assert images.name == "MNIST"
    assert images.pixels == 28 * 28
    assert images.train.shape == (7, 1, 28, 28)
    assert images.train.dtype == torch.float32
    assert images.train_labels.tolist() == list(range(7))
    assert images.test_labels.tolist() == [3, 0, 9]
    train = content[TRAIN].astype(np.float64)
    for got, raw in ((images.train, train), (images.test, content[TEST])):
        expected = torch.tensor((raw - train.mean()) / train.std())
        torch.testing.assert_close(got[:, 0].double(), expected, rtol=1e-4, atol=1e-5)


def test_names_with_a_dot_are_found_too(tmp_path):
    write_mnist(tmp_path / "m")
    for name in MNIST_FILES:
        (tmp_path / "m" / name).rename(tmp_path / "m" / name.replace("-idx", ".idx"))
    assert len(load_images(tmp_path / "m").train) == 7


def test_a_folder_that_is_not_there_or_lacks_files_is_named_with_what_is_expected(tmp_path):
    with pytest.raises(DataError) as error:
        load_images(tmp_path / "nowhere")
    assert "nowhere is not a folder" in str(error.value)
    assert all(name in str(error.value) for name in MNIST_FILES)
    write_mnist(tmp_path / "m")
    (tmp_path / "m" / LABELS).unlink()
    with pytest.raises(DataError) as error:
        load_images(tmp_path / "m")
    assert f"m has no {LABELS}; MNIST's files are {TRAIN}" in str(error.value)


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"_0": b""}, "is not an IDX file of bytes"),
        ({"_0": b"PK\3\4 and so on"}, "is not an IDX file of bytes: it starts with '504b0304'"),
        ({"_0": bytes([0, 0, 13, 1, 0, 0, 0, 1, 7])}, "is not an IDX file of bytes"),
        ({"_0": bytes([0, 0, 8, 3, 0, 0])}, "its header ends after 6 bytes"),
        ({"_0": bytes([0, 0, 8, 0])}, "its header ends after 4 bytes"),
        ({"_0": idx(np.zeros((7, 28, 28)))[:-1]}, "7 x 28 x 28 bytes should follow the header"),
        ({"_0": idx(np.zeros((7, 28, 28))) + b"!"}, "and 5,489 do"),
        ({"_0": bytes([0, 0, 8, 3]) + b"\xff" * 12}, "4294967295 x 4294967295 x 4294967295 bytes"),
        ({"_0": np.zeros((7, 28))}, "holds no pictures"),
        ({"_0": np.zeros((7, 0, 28))}, "holds no pictures"),
        ({"_0": np.zeros((6, 28, 28))}, "has 6 pictures and train-labels-idx1-ubyte 7 labels"),
        ({"_0": np.zeros((0, 28, 28)), "_1": np.zeros(0)}, "has 0 pictures"),
        ({"_2": np.zeros((3, 8, 8))}, "have pictures of different sizes"),
        ({"_1": np.arange(7).reshape(7, 1)}, "holds no labels"),
        ({"_3": [3, 0, 10]}, "has the label 10; digits end at 9"),
    ],
)
def test_a_damaged_file_is_named_in_one_line(tmp_path, other, said):
    write_mnist(tmp_path / "m", **other)
    with pytest.raises(DataError) as error:
        load_images(tmp_path / "m")
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    assert any(name in str(error.value) for name in MNIST_FILES)


@pytest.mark.parametrize(
    "content",
    [b"not compressed", gzip.compress(idx([1, 2]))[:-9]],
    ids=["not compressed", "cut off"],  # compressed data have the time in them
)
def test_a_damaged_compressed_file_is_named(tmp_path, content):
    (tmp_path / "x.gz").write_bytes(content)
    with pytest.raises(DataError, match=r"x\.gz cannot be read"):
        read_idx(tmp_path / "x.gz")


def test_the_built_in_digits_have_every_class_in_both_parts_and_always_the_same_ones():
    images = load_images()
    assert images.train.shape == (1197, 1, 8, 8)
    assert images.test.shape == (600, 1, 8, 8)
    assert images.pixels == 64
    assert images.train_labels.bincount().min() > 110
    assert images.test_labels.bincount().min() > 50
    assert abs(images.train.mean()) < 1e-4
    assert abs(images.train.std() - 1) < 1e-3
    assert torch.equal(images.test, load_images().test)


@pytest.mark.parametrize("most", [1, 2])
def test_shifted_pictures_are_moved_by_whole_pixels_and_keep_their_labels(most):
    picture = torch.full((8, 8), -1.0)
    picture[3, 4], picture[4, 4] = 2.0, 1.0
    pictures = torch.stack([picture, picture.clamp(max=0)])[:, None]
    images = Images("two", pictures, torch.tensor([3, 7]), pictures[:1], torch.tensor([3]))
    got = shifted(images, most)
    places = (2 * most + 1) ** 2
    assert got.train.shape == (2 * places, 1, 8, 8)
    assert got.train_labels.tolist() == [3, 7] * places
    assert got.test_labels.tolist() == [3] * places
    moved = set()
    for one, label in zip(got.train[:, 0], got.train_labels, strict=True):
        if label == 3:
            row, column = divmod(int(one.argmax()), 8)
            assert one[row + 1, column] == 1
            assert (one == -1).sum() == 62
            moved.add((row - 3, column - 4))
    span = range(-most, most + 1)
    assert moved == {(row, column) for row in span for column in span}


def test_a_shift_of_nothing_changes_nothing():
    images = load_images()
    assert shifted(images, 0) is images


def test_padded_pictures_are_in_the_middle_and_standardised(tmp_path):
    write_mnist(tmp_path / "m", count=30)
    plain, wide = load_images(tmp_path / "m"), padded(load_images(tmp_path / "m"), 32)
    assert wide.train.shape == (30, 1, 32, 32)
    assert wide.test.shape == (3, 1, 32, 32)
    assert wide.train.mean().item() == pytest.approx(0, abs=1e-5)
    assert wide.train.std(correction=0).item() == pytest.approx(1, abs=1e-4)
    border = wide.test.clone()
    border[:, :, 2:-2, 2:-2] = wide.train.min()
    assert torch.equal(border, torch.full_like(border, wide.train.min()))
    for a, b in ((plain.train, wide.train), (plain.test, wide.test)):
        inner = b[:, :, 2:-2, 2:-2]
        slope = plain.train.std(correction=0) / wide.train[:, :, 2:-2, 2:-2].std(correction=0)
        offset = plain.train.mean() - slope * wide.train[:, :, 2:-2, 2:-2].mean()
        torch.testing.assert_close(inner * slope + offset, a, atol=1e-4, rtol=0)
