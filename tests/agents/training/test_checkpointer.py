"""Saving in a process of its own: what is left when it is killed, or its disk is full."""

import logging
import math
import random
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest
from torch import nn

from agents.checkpoint import (
    best_checkpoint,
    list_checkpoints,
    load_checkpoint,
    load_newest_checkpoint,
    save_checkpoint,
)
from agents.config import TrainConfig
from agents.system.files import remove_stale_temp_files
from agents.training.checkpointer import Checkpointer
from agents.training.shared_state import Counter, SharedState
from agents.training_state import TrainingState
from tests.agents.checkpoints import make_checkpoint

ROOT = Path(__file__).parents[3]


@pytest.fixture
def checkpointer(tmp_path):
    """Of a small network, with a folder for its checkpoints."""
    (tmp_path / "checkpoints").mkdir()
    config = TrainConfig(head="linear")
    network = nn.Linear(2, 1)
    return Checkpointer(config, network, SharedState.create(network, 1, 1))


def start(folder, keep, **options):
    command = [sys.executable, "-m", "tests.agents.checkpoints", str(folder), str(keep)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, **options)


def kill_at_random_moments(folder, times, caplog):
    rng = random.Random(0)
    cut_off = 0
    for number in range(times):
        place = folder / str(number)
        place.mkdir()
        with start(place, keep=2) as process:
            assert process.stdout.readline() == "1\n"
            time.sleep(rng.uniform(0, 0.15))
            process.kill()
            said = [1, *map(int, process.stdout.read().split())]
        cut_off += len(list(place.glob(".*.tmp")))
        remove_stale_temp_files(place)
        with caplog.at_level(logging.WARNING, "train"):
            path, checkpoint = load_newest_checkpoint(place)
        step = checkpoint.global_step
        assert step - said[-1] in (0, 1)  # what was said to be there is
        assert bool((checkpoint.parameters["w"] == step).all())
        assert path.name == f"step_{step:012d}.safetensors"
        assert len(list_checkpoints(place)) <= 3
        assert {p.suffix for p in place.iterdir()} <= {".safetensors", ".json"}
    assert caplog.text == ""  # nothing had to be skipped
    return cut_off


def test_a_process_killed_while_it_saves_leaves_only_whole_checkpoints(tmp_path, caplog):
    kill_at_random_moments(tmp_path, 3, caplog)


@pytest.mark.slow
def test_of_30_processes_killed_while_they_save_each_leaves_only_whole_checkpoints(
    tmp_path, caplog
):
    # Some of them in the middle of a file, or this would show nothing.
    assert kill_at_random_moments(tmp_path, 30, caplog) > 5


def test_on_a_full_disk_the_older_checkpoint_stays_and_nothing_half_written(tmp_path):
    older = save_checkpoint(tmp_path, make_checkpoint(0), keep=3).read_bytes()

    def no_room():
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20))

    with start(tmp_path, keep=1, preexec_fn=no_room) as process:
        said = process.stdout.read()
    assert said.startswith("OSError: ")
    assert "File too large" in said
    assert "step_000000000001.safetensors" in said
    assert {p.name for p in tmp_path.iterdir()} == {"step_000000000000.safetensors", "latest.json"}
    path, checkpoint = load_newest_checkpoint(tmp_path)
    assert path.read_bytes() == older
    assert checkpoint.global_step == 0


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf])
def test_an_evaluation_whose_score_is_not_finite_is_never_the_best(tmp_path, checkpointer, score):
    parameters = checkpointer.shared.parameters
    checkpointer.save_if_best(tmp_path, parameters, 10, score)
    assert not best_checkpoint(tmp_path / "checkpoints").exists()
    checkpointer.save_if_best(tmp_path, parameters, 20, -21.0)
    best = load_checkpoint(best_checkpoint(tmp_path / "checkpoints"))
    assert (best.global_step, best.training_state.mean_return) == (20, -21.0)


@pytest.mark.parametrize(
    ("flat", "name"),
    [("parameters", "parameters/weight"), ("optimizer_state", "statistics/weight")],
)
def test_the_tensor_that_cannot_be_saved_is_named(tmp_path, checkpointer, caplog, flat, name):
    checkpointer.shared.counters[0, 0] = 10
    getattr(checkpointer.shared, flat)[..., 1:] = math.inf  # the bias comes after the weight
    assert checkpointer.save(tmp_path, TrainingState()) is None
    assert caplog.messages == [f"no checkpoint was written: {name} is not finite"]


def test_only_a_better_evaluation_replaces_the_best_one_in_a_resumed_run_too(tmp_path):
    config, network = TrainConfig(head="linear"), nn.Linear(2, 1)
    (tmp_path / "checkpoints").mkdir()

    def best_step():
        return load_checkpoint(best_checkpoint(tmp_path / "checkpoints")).global_step

    first = Checkpointer(config, network, SharedState.create(network, 1, 1))
    first.shared.counters[0, Counter.STEPS] = 25
    first.shared.counters[0, Counter.SKIPPED] = 2
    first.save_if_best(tmp_path, first.shared.parameters, 10, 5.0)
    first.save_if_best(tmp_path, first.shared.parameters, 20, 4.0)
    assert best_step() == 10
    first.save(tmp_path, TrainingState())
    resumed = Checkpointer(config, network, SharedState.create(network, 1, 1))
    resumed.restore(tmp_path)
    assert resumed.shared.skipped_updates == 2
    resumed.save_if_best(tmp_path, resumed.shared.parameters, 30, 4.5)
    assert best_step() == 10
    resumed.save_if_best(tmp_path, resumed.shared.parameters, 40, 6.0)
    assert best_step() == 40


def test_the_newest_checkpoint_is_not_a_damaged_one_of_a_later_step(tmp_path, checkpointer):
    assert checkpointer.newest is None
    checkpointer.shared.counters[0, Counter.STEPS] = 500
    saved = checkpointer.save(tmp_path, TrainingState())
    assert checkpointer.newest == saved
    (tmp_path / "checkpoints" / "step_000000000900.safetensors").write_bytes(b"damaged")
    resumed = Checkpointer(checkpointer.config, nn.Linear(2, 1), checkpointer.shared)
    resumed.restore(tmp_path)
    assert resumed.newest == saved
