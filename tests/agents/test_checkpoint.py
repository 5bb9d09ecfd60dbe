"""Checkpoints: what is written is what is read, and what is bad is refused."""

import dataclasses
import json
import logging
import os
from pathlib import Path

import pytest
import safetensors.torch
import torch

from agents.checkpoint import (
    Checkpoint,
    CheckpointError,
    best_checkpoint,
    list_checkpoints,
    load_checkpoint,
    load_newest_checkpoint,
    save_best,
    save_checkpoint,
)
from agents.system.files import write_atomically
from agents.training_state import TrainingState
from tests.agents.checkpoints import format_2


def make_checkpoint(step=5):
    return Checkpoint(
        parameters={"a.weight": torch.randn(2, 3), "b": torch.randn(4)},
        optimizer_state={"a.weight": torch.randn(1, 2, 3), "b": torch.randn(1, 4)},
        training_state=TrainingState(step, updates=2, config={"game": "Pong"}),
    )


def test_a_checkpoint_comes_back_as_it_was(tmp_path):
    checkpoint = make_checkpoint()
    path = save_checkpoint(tmp_path, checkpoint, keep=3)
    loaded = load_checkpoint(path, expected=checkpoint.parameters)
    assert path.name == "step_000000000005.safetensors"
    assert loaded.training_state == checkpoint.training_state
    for group in ("parameters", "optimizer_state"):
        for name, tensor in getattr(checkpoint, group).items():
            assert torch.equal(getattr(loaded, group)[name], tensor)


def test_the_newest_are_kept_and_latest_names_the_newest(tmp_path):
    for step in (1, 2, 30, 4_000):
        save_checkpoint(tmp_path, make_checkpoint(step), keep=2)
    names = [path.name for path in list_checkpoints(tmp_path)]
    assert names == ["step_000000000030.safetensors", "step_000000004000.safetensors"]
    assert '"step_000000004000.safetensors"' in (tmp_path / "latest.json").read_text()


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


def rewrite(path, tensors=None, **metadata):
    """A file of format 1, which any program could have written."""
    tensors = tensors or {"parameters/a": torch.zeros(2)}
    fields = {"format": "1", "progress": '{"global_step": 5}'} | metadata
    path.write_bytes(safetensors.torch.save(tensors, fields))


def test_a_file_of_format_1_which_had_no_checksum_is_read(tmp_path):
    rewrite(tmp_path / "step_000000000005.safetensors")
    loaded = load_checkpoint(tmp_path / "step_000000000005.safetensors", {"a": torch.ones(2)}, None)
    assert torch.equal(loaded.parameters["a"], torch.zeros(2))


def test_a_file_of_format_2_without_a_checksum_is_refused(tmp_path):
    path = tmp_path / "step_000000000005.safetensors"
    rewrite(path, format="2")
    with pytest.raises(CheckpointError, match="checksum"):
        load_checkpoint(path)


def test_a_file_of_format_2_is_read_and_its_checksum_is_that_of_its_bytes(tmp_path):
    data = format_2({"parameters/a": torch.ones(2)}, {"progress": '{"global_step": 5}'})
    path = tmp_path / "step_000000000005.pt"
    path.write_bytes(data)
    loaded = load_checkpoint(path, {"a": torch.ones(2)})
    assert torch.equal(loaded.parameters["a"], torch.ones(2))
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(CheckpointError, match="checksum does not fit"):
        load_checkpoint(path)


def test_checkpoints_of_an_old_run_count_with_those_it_writes_after_it_was_resumed(tmp_path):
    for step in (1, 2, 3):
        save_checkpoint(tmp_path, make_checkpoint(step), keep=3)
        new = tmp_path / f"step_{step:012d}.safetensors"
        new.rename(new.with_suffix(".pt"))
    assert load_newest_checkpoint(tmp_path)[0].name == "step_000000000003.pt"
    save_checkpoint(tmp_path, make_checkpoint(3), keep=3)
    assert load_newest_checkpoint(tmp_path)[0].name == "step_000000000003.safetensors"
    save_checkpoint(tmp_path, make_checkpoint(4), keep=3)
    assert [path.name for path in list_checkpoints(tmp_path)] == [
        "step_000000000003.pt",
        "step_000000000003.safetensors",
        "step_000000000004.safetensors",
    ]


def test_a_new_best_checkpoint_takes_the_place_of_one_with_the_old_name(tmp_path):
    assert best_checkpoint(tmp_path).name == "best.safetensors"
    save_best(tmp_path, make_checkpoint(1))
    (tmp_path / "best.safetensors").rename(tmp_path / "best.pt")
    assert best_checkpoint(tmp_path) == tmp_path / "best.pt"
    assert list_checkpoints(tmp_path) == []
    save_best(tmp_path, make_checkpoint(2))
    assert [path.name for path in tmp_path.iterdir()] == ["best.safetensors"]
    assert load_checkpoint(best_checkpoint(tmp_path)).global_step == 2


def test_a_checkpoint_has_all_of_the_optimizer_state_or_none(tmp_path):
    checkpoint = dataclasses.replace(make_checkpoint(), optimizer_state={})
    save_checkpoint(tmp_path, checkpoint, keep=1)
    for k in (None, 1):
        assert load_newest_checkpoint(tmp_path, checkpoint.parameters, k)[1].optimizer_state == {}
    save_checkpoint(tmp_path, make_checkpoint(), keep=1)
    load_newest_checkpoint(tmp_path, checkpoint.parameters, num_state_tensors=1)
    with pytest.raises(CheckpointError, match=r"step_0+5\.safetensors: optimizer statistics"):
        load_newest_checkpoint(tmp_path, checkpoint.parameters, num_state_tensors=2)


@pytest.mark.parametrize(
    ("progress", "words"),
    [
        ("", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "how many steps"),
        ("{}", "how many steps"),
        ('{"global_step": -1}', "global_step cannot be '-1'"),
        ('{"global_step": true}', "global_step cannot be 'True'"),
        ('{"global_step": 1e3}', "global_step"),
        ('{"global_step": %s}' % ("9" * 400), "global_step"),
        ('{"global_step": 5, "updates": null}', "updates cannot be 'None'"),
        ('{"global_step": 5, "seconds": NaN}', "seconds cannot be 'nan'"),
        ('{"global_step": 5, "best_return": "12"}', "best_return"),
        ('{"global_step": 5, "evaluation": 3}', "evaluation"),
        ('{"global_step": 5, "config": []}', "config"),
        ('{"global_step": 5, "recent_games": "12"}', "recent_games"),
        ('{"global_step": 5, "recent_games": [[1, 2, 3]]}', "recent_games"),
        ('{"global_step": 5, "recent_games": [[1, Infinity]]}', "recent_games"),
    ],
)
def test_progress_that_no_run_can_go_on_with_is_refused_by_its_name(tmp_path, progress, words):
    path = tmp_path / "step_000000000005.safetensors"
    rewrite(path, progress=progress)
    with pytest.raises(CheckpointError, match=rf"step_000000000005\.safetensors: .*{words}"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"parameters/a": torch.zeros(2, dtype=torch.int64)}, "torch.int64"),
        ({"parameters/a": torch.zeros(2), "other": torch.zeros(1)}, "'other'"),
        ({"statistics/a": torch.zeros(1, 2)}, "no parameters"),
        ({"parameters/a": torch.zeros(2), "statistics/b": torch.zeros(1, 2)}, "statistics of 'a'"),
        ({"parameters/a": torch.zeros(2), "statistics/a": torch.zeros(2)}, "statistics of 'a'"),
        (
            {"parameters/a": torch.zeros(2), "statistics/a": torch.zeros(5, 2)},
            "5 optimizer",
        ),
        ({"parameters/a": torch.zeros(2), "statistics/a": torch.zeros(2**40, 0)}, "too many"),
        ({"parameters/a": torch.zeros(2**24)}, "too large"),
    ],
)
def test_tensors_that_do_not_fit_the_network_are_refused(tmp_path, tensors, words):
    path = tmp_path / "step_000000000005.safetensors"
    rewrite(path, tensors)
    with pytest.raises(CheckpointError, match=words):
        load_checkpoint(path, {"a": torch.zeros(2, device="meta")})


def test_what_is_no_ordinary_file_is_refused_without_waiting_for_it(tmp_path):
    os.mkfifo(tmp_path / "step_000000000005.safetensors")
    for path in (tmp_path / "step_000000000005.safetensors", Path("/dev/zero"), tmp_path):
        with pytest.raises(CheckpointError, match=r"ordinary|directory"):
            load_checkpoint(path)


def test_loading_skips_what_is_damaged_with_a_warning_and_takes_the_one_before(tmp_path, caplog):
    for step in (1, 2, 3):
        save_checkpoint(tmp_path, make_checkpoint(step), keep=3)
    for step, size in ((2, 100), (3, -1)):
        path = tmp_path / f"step_{step:012d}.safetensors"
        path.write_bytes(path.read_bytes()[:size])
    with caplog.at_level(logging.WARNING, "train"):
        path, checkpoint = load_newest_checkpoint(tmp_path)
    assert (path.name, checkpoint.global_step) == ("step_000000000001.safetensors", 1)
    assert [record.args[0].args[0].split(":")[0] for record in caplog.records] == [
        str(tmp_path / f"step_{step:012d}.safetensors") for step in (3, 2)
    ]


def test_going_on_from_an_older_checkpoint_keeps_what_is_saved_then(tmp_path):
    """Not the damaged later ones, at the cost of the only sound one."""
    for step in (100, 200, 300):
        save_checkpoint(tmp_path, make_checkpoint(step), keep=3)
    for step in (200, 300):
        (tmp_path / f"step_{step:012d}.safetensors").write_bytes(b"damaged")
    save_checkpoint(tmp_path, make_checkpoint(150), keep=1)
    assert load_newest_checkpoint(tmp_path)[1].training_state.global_step == 150
    save_checkpoint(tmp_path, make_checkpoint(350), keep=1)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step_000000000350.safetensors"]


def test_only_files_that_a_run_has_named_are_listed_and_deleted(tmp_path):
    others = [
        "step_best.safetensors",
        "step_5.safetensors",
        "step_000000000001 (copy).safetensors",
        ".step_000000000001.safetensors",
    ]
    for name in others:
        (tmp_path / name).write_bytes(b"mine")
    for step in (1, 2, 10**12):
        save_checkpoint(tmp_path, make_checkpoint(step), keep=2)
    assert [path.name for path in list_checkpoints(tmp_path)] == [
        "step_000000000002.safetensors",
        "step_1000000000000.safetensors",
    ]
    assert all((tmp_path / name).read_bytes() == b"mine" for name in others)
    assert json.loads((tmp_path / "latest.json").read_text())["global_step"] == 10**12


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def full_disk(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(OSError, match=r"No space.*file"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
