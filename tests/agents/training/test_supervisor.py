"""Whole runs: what they leave behind, how they end, and what happens when a worker dies."""

import contextlib
import csv
import dataclasses
import errno
import json
import os
import shlex
import signal
import threading
import time

import psutil
import pytest
import torch

from agents.a3c.worker_group import WorkerGroup
from agents.checkpoint import list_checkpoints, load_checkpoint
from agents.config import SettingError, TrainConfig
from agents.run_folder import resolve_run
from agents.training.managed_process import MAX_FAILED_STARTS
from agents.training.supervisor import MAX_NONFINITE_IN_A_ROW, train
from tests.agents.tiny_env import BrokenError, make_broken_env, make_tiny_env

SMALL = TrainConfig(
    workers=0, envs_per_worker=2, num_steps=4, total_timesteps=200, head="linear", log_interval=0.1
)
ENDLESS = dataclasses.replace(SMALL, workers=2, total_timesteps=10**9)


def run_config(config, folder):
    return dataclasses.replace(config, run_dir=str(folder))


def parameters_of(folder):
    return load_checkpoint(list_checkpoints(folder / "latest" / "checkpoints")[-1]).parameters


def test_the_same_seed_in_this_process_gives_bit_identical_parameters(tmp_path):
    config = dataclasses.replace(SMALL, head="neurocoder")
    for name in ("a", "b"):
        train(run_config(config, tmp_path / name), (), make_tiny_env)
    train(run_config(dataclasses.replace(config, seed=2), tmp_path / "c"), (), make_tiny_env)
    a, b, c = (parameters_of(tmp_path / name) for name in "abc")
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not all(torch.equal(a[name], c[name]) for name in a)


@pytest.mark.parametrize("learner", ["worker", "cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_a_run_in_bfloat16_learns_otherwise_and_is_evaluated(learner, tmp_path):
    for precision in ("float32", "bf16"):
        config = dataclasses.replace(
            SMALL, precision=precision, learner=learner, learner_batch=1, core="lstm"
        )
        config = dataclasses.replace(
            config, total_timesteps=40, eval_interval=40, eval_episodes=1, max_frames=80
        )
        # In the real game, in which it is evaluated.
        assert train(run_config(config, tmp_path / precision)) == 0
        assert list((tmp_path / precision / "latest" / "eval").glob("*.csv"))
    a, b = (parameters_of(tmp_path / precision) for precision in ("float32", "bf16"))
    assert all(b[name].dtype == torch.float32 for name in a)
    assert not any(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_finished_run_leaves_everything_in_its_folder(workers, tmp_path):
    config = run_config(dataclasses.replace(SMALL, workers=workers), tmp_path)
    assert train(config, ["train_a3c.py", "--some", "flag"], make_tiny_env) == 0
    (folder,) = [p for p in tmp_path.iterdir() if not p.is_symlink()]
    assert resolve_run(tmp_path / "latest") == folder
    assert TrainConfig(**json.loads((folder / "config.json").read_text())) == config
    meta = json.loads((folder / "meta.json").read_text())
    assert meta["status"] == "finished"
    assert meta["argv"] == ["train_a3c.py", "--some", "flag"]
    assert 200 <= meta["global_step"] <= 200 + max(workers, 1) * 8
    assert list(folder.glob("events.out.tfevents.*"))
    with (folder / "progress.csv").open() as file:
        assert int(list(csv.DictReader(file))[-1]["global_step"]) == meta["global_step"]
    log = (folder / "train.log").read_text()
    assert "tensorboard --logdir" in log
    checkpoint = load_checkpoint(list_checkpoints(folder / "checkpoints")[-1])
    assert checkpoint.global_step == meta["global_step"]
    assert checkpoint.optimizer_state.keys() == checkpoint.parameters.keys()


@contextlib.contextmanager
def when_training(folder, action):
    """Inside, action() is called once a run in the folder has written a first point.

    After a minute it is called in any case, for the run to end; once outside, not any more.
    """
    over = threading.Event()

    def wait():
        deadline = time.monotonic() + 60
        while not over.is_set():
            rows = [
                row
                for path in folder.glob("latest/progress.csv")
                for row in path.read_text().splitlines()[1:]
            ]
            trained = any(int(row.split(",")[1]) > 0 for row in rows if row.count(",") > 1)
            if trained or time.monotonic() > deadline:
                action()
                return
            time.sleep(0.05)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def send(number):
    os.kill(os.getpid(), number)


@pytest.mark.parametrize(
    ("workers", "number", "code"),
    [
        (0, signal.SIGINT, 130),
        (0, signal.SIGTERM, 143),
        (0, signal.SIGHUP, 129),
        (2, signal.SIGINT, 130),
        (2, signal.SIGTERM, 143),
    ],
)
def test_a_signal_saves_and_ends_the_run(workers, number, code, tmp_path):
    config = run_config(dataclasses.replace(ENDLESS, workers=workers), tmp_path)
    with when_training(tmp_path, lambda: send(number)):
        assert train(config, (), make_tiny_env) == code
    meta = json.loads((tmp_path / "latest" / "meta.json").read_text())
    assert meta["status"] == "interrupted"
    checkpoint = load_checkpoint(list_checkpoints(tmp_path / "latest" / "checkpoints")[-1])
    assert checkpoint.global_step == meta["global_step"] > 0


def test_no_worker_outlives_the_run(tmp_path):
    train(run_config(dataclasses.replace(SMALL, workers=2), tmp_path), (), make_tiny_env)
    # This process's own child is the fork server, which stays; workers are its children.
    children = psutil.Process().children()
    assert children
    assert [grandchild for child in children for grandchild in child.children()] == []


def test_a_worker_that_keeps_raising_stops_the_run_and_shows_its_traceback(tmp_path):
    config = run_config(dataclasses.replace(ENDLESS, workers=1), tmp_path)
    assert train(config, (), make_broken_env) == 1
    log = (tmp_path / "latest" / "train.log").read_text()
    assert "the third step is one too many" in log
    assert f"worker 0 died {MAX_FAILED_STARTS} times in a row before its first update" in log
    assert json.loads((tmp_path / "latest" / "meta.json").read_text())["status"] == "failed"


def test_an_error_in_this_process_is_raised_and_noted(tmp_path):
    with pytest.raises(BrokenError):
        train(run_config(SMALL, tmp_path), (), make_broken_env)
    assert json.loads((tmp_path / "latest" / "meta.json").read_text())["status"] == "failed"


def test_checkpoints_are_written_while_training(tmp_path):
    config = dataclasses.replace(
        ENDLESS, workers=0, checkpoint_interval=0.05, keep_checkpoints=2, run_dir=str(tmp_path)
    )
    folder = tmp_path / "latest" / "checkpoints"

    def interrupt_after_a_third_checkpoint():
        seen = set()
        deadline = time.monotonic() + 60
        while len(seen) < 3 and time.monotonic() < deadline:
            seen.update(path.name for path in list_checkpoints(folder))
        send(signal.SIGINT)

    with when_training(tmp_path, interrupt_after_a_third_checkpoint):
        train(config, (), make_tiny_env)
    assert len(list_checkpoints(folder)) == 2


def test_a_run_goes_on_without_checkpoints_but_does_not_end_well(tmp_path, monkeypatch):
    def full_disk(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("agents.training.checkpointer.save_checkpoint", full_disk)
    config = dataclasses.replace(SMALL, checkpoint_interval=0.01)
    assert train(run_config(config, tmp_path), (), make_tiny_env) == 1
    log = (tmp_path / "latest" / "train.log").read_text()
    assert log.count("No space left") > 1
    assert "not everything was written" in log
    config = dataclasses.replace(ENDLESS, workers=0)
    with when_training(tmp_path / "stopped", lambda: send(signal.SIGTERM)):
        assert train(run_config(config, tmp_path / "stopped"), (), make_tiny_env) == 1


def test_too_many_bad_gradients_in_a_row_end_the_run(tmp_path):
    good_updates = 3
    calls = []

    class SickGroup(WorkerGroup):
        def updates(self):
            calls.append(self)
            for update in super().updates():
                if len(calls) <= good_updates:
                    yield update
                else:
                    yield dataclasses.replace(update, is_applied=False, metrics={})

    config = run_config(dataclasses.replace(ENDLESS, workers=0), tmp_path)
    assert train(config, (), make_tiny_env, SickGroup) == 1
    assert len(calls) == good_updates + MAX_NONFINITE_IN_A_ROW
    assert "not finite" in (tmp_path / "latest" / "train.log").read_text()
    assert parameters_of(tmp_path)


def test_a_run_directory_that_cannot_be_written_to_is_refused_by_name(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    with pytest.raises(SettingError, match="--run-dir"):
        train(run_config(SMALL, blocked), (), make_tiny_env)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_network_that_cannot_fit_is_refused_before_it_is_built(tmp_path):
    config = TrainConfig(
        workers=1024,
        processes=1024,
        neurocoder_hidden_size=8192,
        num_steps=1,
        envs_per_worker=1,
    )
    with pytest.raises(SettingError, match="--processes 1024"):
        train(run_config(config, tmp_path), (), make_tiny_env)
    assert list(tmp_path.iterdir()) == []


def test_something_else_called_latest_is_left_alone(tmp_path):
    (tmp_path / "latest").mkdir()
    with pytest.raises(SettingError, match="latest"):
        train(run_config(SMALL, tmp_path), (), make_tiny_env)
    assert [p.name for p in tmp_path.iterdir()] == ["latest"]


@pytest.mark.parametrize(
    "fails",
    [
        "agents.training.checkpointer.save_checkpoint",
        "agents.training.evaluator.append_evaluation",
        "agents.evaluation.replay_file.Replay.save",
    ],
)
def test_a_run_that_could_not_write_all_it_should_does_not_end_well(fails, tmp_path, monkeypatch):
    def full_disk(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(fails, full_disk)
    config = dataclasses.replace(SMALL, total_timesteps=40, eval_interval=40, eval_episodes=1)
    config = dataclasses.replace(config, max_frames=40, capture_video=True)
    assert train(run_config(config, tmp_path)) == 1


def test_the_commands_in_the_last_lines_can_be_pasted(tmp_path, monkeypatch):
    monkeypatch.setattr("agents.training.supervisor.evaluation_problem", lambda *_: None)
    folder = tmp_path / "my runs, übung"
    assert train(run_config(SMALL, folder), (), make_tiny_env) == 0
    run = resolve_run(folder / "latest")
    lines = (run / "train.log").read_text().splitlines()
    (hint,) = [line for line in lines if "python -m" in line]
    words = shlex.split(hint.partition("watch it play: ")[2])
    assert words == [
        *("python", "-m", "agents.evaluate", str(run)),
        *("--episodes", "1", "--mode", "sampled", "--record"),
    ]
