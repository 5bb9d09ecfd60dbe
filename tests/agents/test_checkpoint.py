"""Checkpoints: what is written is what is read, and what is bad is refused."""

import pytest
import torch

from agents.checkpoint import (
    Checkpoint,
    CheckpointError,
    list_checkpoints,
    load_checkpoint,
    save_checkpoint,
)
from agents.files import write_atomically


def make_checkpoint(step=5):
    return Checkpoint(
        parameters={"a.weight": torch.randn(2, 3), "b": torch.randn(4)},
        statistics={"a.weight": torch.randn(1, 2, 3), "b": torch.randn(1, 4)},
        progress={"global_step": step, "updates": 2, "config": {"game": "Pong"}},
    )


def test_a_checkpoint_comes_back_as_it_was(tmp_path):
    checkpoint = make_checkpoint()
    path = save_checkpoint(tmp_path, checkpoint, keep=3)
    loaded = load_checkpoint(path, expected=checkpoint.parameters)
    assert path.name == "step_000000000005.pt"
    assert loaded.progress == checkpoint.progress
    for group in ("parameters", "statistics"):
        for name, tensor in getattr(checkpoint, group).items():
            assert torch.equal(getattr(loaded, group)[name], tensor)


def test_the_newest_are_kept_and_latest_names_the_newest(tmp_path):
    for step in (1, 2, 30, 4_000):
        save_checkpoint(tmp_path, make_checkpoint(step), keep=2)
    names = [path.name for path in list_checkpoints(tmp_path)]
    assert names == ["step_000000000030.pt", "step_000000004000.pt"]
    assert '"step_000000004000.pt"' in (tmp_path / "latest.json").read_text()


def test_a_file_with_other_parameters_is_refused_by_the_parameters_name(tmp_path):
    path = save_checkpoint(tmp_path, make_checkpoint(), keep=1)
    expected = {"a.weight": torch.zeros(3, 2), "b": torch.zeros(4)}
    with pytest.raises(CheckpointError, match=r"a\.weight"):
        load_checkpoint(path, expected)
    with pytest.raises(CheckpointError, match="extra"):
        load_checkpoint(path, make_checkpoint().parameters | {"extra": torch.zeros(1)})


@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "pickle", "json"])
def test_a_bad_file_gives_an_error_that_names_it(tmp_path, damage):
    path = save_checkpoint(tmp_path, make_checkpoint(), keep=1)
    whole = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "pickle":
        torch.save({"a": torch.zeros(2)}, path)
    else:
        path.write_bytes({"empty": b"", "cut": whole[:-5], "json": b"{}"}[damage])
    with pytest.raises(CheckpointError, match=path.name):
        load_checkpoint(path)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def full_disk(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
