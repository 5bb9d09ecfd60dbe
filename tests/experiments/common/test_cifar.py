"""CIFAR's binary files, and what is said of folders that hold something else."""

import numpy as np
import pytest
import torch

from experiments.common.cifar import load_cifar
from experiments.common.data import DataError

TEN = [f"data_batch_{n}.bin" for n in range(1, 6)] + ["test_batch.bin"]
HUNDRED = ["train.bin", "test.bin"]


def write_cifar(folder, classes=10, count=12, **other):
    """A folder like CIFAR's with random pictures; `other` replaces a file's bytes."""
    random = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    content = {}
    for name in TEN if classes == 10 else HUNDRED:
        pixels = random.integers(256, size=(count, 3, 32, 32), dtype=np.uint8)
        labels = (np.arange(count) % classes).astype(np.uint8)
        if classes == 100:
            labels = np.stack([labels // 5, 99 - labels], axis=1)
        rows = np.concatenate([labels.reshape(count, -1), pixels.reshape(count, -1)], axis=1)
        (folder / name).write_bytes(other.get(name.removesuffix(".bin"), rows.tobytes()))
        content[name] = pixels, labels if classes == 10 else labels[:, 1]
    return content


@pytest.mark.parametrize(("classes", "inner"), [(10, "cifar-10-batches-bin"), (100, "")])
def test_pictures_and_classes_are_those_of_the_files(tmp_path, classes, inner):
    content = write_cifar(tmp_path / inner, classes)
    images = load_cifar(tmp_path)
    names = list(content)
    assert images.name == f"CIFAR-{classes}"
    train = np.concatenate([content[name][0] for name in names[:-1]]).astype(np.float64)
    mean, deviation = train.mean((0, 2, 3)), train.std((0, 2, 3))
    for tensor, pixels in ((images.train, train), (images.test, content[names[-1]][0])):
        expected = (pixels - mean[:, None, None]) / deviation[:, None, None]
        torch.testing.assert_close(tensor, torch.from_numpy(expected).float(), rtol=1e-4, atol=1e-4)
    assert images.train_labels.tolist() == [c for n in names[:-1] for c in content[n][1]]
    assert images.test_labels.tolist() == list(content[names[-1]][1])
    assert images.train_labels.dtype == torch.int64


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"data_batch_3": b"x" * 3074}, "data_batch_3.bin is damaged: 3,074 bytes are not records"),
        ({"test_batch": b""}, "test_batch.bin is damaged: 0 bytes"),
        ({"test_batch": b"\x0a" * 3073}, "has the class 10; CIFAR-10's end at 9"),
    ],
)
def test_damaged_files_are_named(tmp_path, other, message):
    write_cifar(tmp_path, **other)
    with pytest.raises(DataError, match=message):
        load_cifar(tmp_path)


def test_missing_files_are_named_with_those_that_are_expected(tmp_path):
    write_cifar(tmp_path)
    (tmp_path / TEN[2]).unlink()
    with pytest.raises(DataError, match=r"no data_batch_3.bin; CIFAR-10's files are data_batch_1"):
        load_cifar(tmp_path)
    with pytest.raises(DataError, match=r"nowhere is not a folder; .* train.bin, test.bin"):
        load_cifar(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="has no files of CIFAR"):
        load_cifar(tmp_path / "empty")
