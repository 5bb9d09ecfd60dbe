"""Workers and learner as processes: what their deaths cost, and who waits for whom."""

import dataclasses
import json
import os
import signal
import time

import psutil
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import agents.training.worker_pool
from agents.checkpoint import list_checkpoints, load_checkpoint
from agents.config import TrainConfig
from agents.training.rollout_queue import entries_per_worker
from agents.training.supervisor import train
from tests.agents.faulty_env import make_nan_env, make_slow_env, run_broken_learner
from tests.agents.tiny_env import make_tiny_env
from tests.agents.training.test_worker_pool import Watched, wait_for

CONFIG = TrainConfig(
    workers=2,
    processes=2,
    envs_per_worker=2,
    num_steps=4,
    total_timesteps=10**9,
    head="linear",
    log_interval=0.1,
    eval_interval=0,
    learner="cpu",
    learner_batch=2,
)


def pid_of(run, index):
    return run.pool.worker_processes[index].child.process.pid


def learner_pid(run):
    return run.pool.learner.child.process.pid


def settled(count):
    """The value of count(), once two looks find the same."""
    last = count()
    while True:
        time.sleep(0.3)
        last, before = count(), last
        if last == before:
            return last


def updates_after(run, count):
    """Wait for so many more updates."""
    before = run.shared.updates
    wait_for(lambda: run.shared.updates >= before + count, seconds=120.0)


@pytest.mark.parametrize("learner", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_a_learner_that_is_killed_is_replaced_and_goes_on_from_the_shared_parameters(
    learner, tmp_path
):
    seen = []

    def events(run):
        updates_after(run, 10)
        os.kill(learner_pid(run), signal.SIGKILL)
        seen.append(run.shared.parameters.clone())
        wait_for(lambda: run.restarts == 1)
        updates_after(run, 10)
        seen.append(run.shared.parameters.clone())
        folder = run.folder / "checkpoints"
        wait_for(lambda: len(list_checkpoints(folder)) > 0)
        meanwhile = load_checkpoint(list_checkpoints(folder)[-1])
        assert any(bool(t.any()) for t in meanwhile.optimizer_state.values())
        time.sleep(0.3)

    config = dataclasses.replace(
        CONFIG, learner=learner, run_dir=str(tmp_path), checkpoint_interval=0.3
    )
    watched = Watched(config, make_tiny_env, events)
    assert watched.execute() == 130
    folder = watched.run.folder
    assert "the learner died (SIGKILL)" in (folder / "train.log").read_text()
    first, second = seen
    # New parameters would be 1.4 times as far; how many updates there were depends on the machine.
    assert 0 < (second - first).norm() < 0.7 * first.norm()
    logged = EventAccumulator(str(folder)).Reload()
    assert logged.Scalars("a3c/restarts")[-1].value == 1
    # What it held on its device came back at the end.
    checkpoint = load_checkpoint(list_checkpoints(folder / "checkpoints")[-1])
    assert all(bool(t.any()) for t in checkpoint.optimizer_state.values())
    assert checkpoint.global_step == watched.run.shared.global_step


def test_a_worker_killed_while_it_fills_a_slot_costs_that_rollout_only(tmp_path):
    def events(run):
        updates_after(run, 10)
        (tmp_path / "be slow").touch()
        pids = {str(pid_of(run, i)): i for i in range(2)}
        wait_for(lambda: any((tmp_path / pid).exists() for pid in pids))
        (index,) = [i for pid, i in pids.items() if (tmp_path / pid).exists()]
        queue = run.queue
        wait_for(lambda: queue.read_count[index] == queue.write_count[index])
        written, taken = int(queue.write_count[index]), int(queue.read_count[index])
        os.kill(pid_of(run, index), signal.SIGKILL)
        # The other's rollouts go on being learned, and its replacement's follow without a gap.
        updates_after(run, 10)
        wait_for(lambda: queue.write_count[index] > written + 10)
        assert int(queue.read_count[index]) > taken
        assert run.restarts == 1

    watched = Watched(dataclasses.replace(CONFIG, run_dir=str(tmp_path)), make_slow_env, events)
    assert watched.execute() == 130


def test_a_stopped_learner_makes_workers_wait_and_does_not_hold_up_the_end_of_a_run(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(agents.training.worker_pool.WorkerPool, "stop_timeout", 1.0)
    began = []

    def events(run):
        updates_after(run, 5)
        os.kill(learner_pid(run), signal.SIGSTOP)
        full = CONFIG.workers * entries_per_worker(CONFIG)
        # All but those that it had taken without having said so.
        wait_for(lambda: run.queue.waiting == full)
        episodes = settled(lambda: run.metrics.statistics.episodes)
        written = run.queue.write_count.clone()
        memory = [psutil.Process(pid_of(run, i)).memory_info().rss for i in range(2)]
        beats = run.queue.heartbeats.clone()
        time.sleep(1.5)
        assert run.queue.write_count.equal(written)
        assert run.metrics.statistics.episodes <= episodes + 50  # on their way until now
        assert bool((run.queue.heartbeats[:2] > beats[:2]).all())
        for i in range(2):
            assert psutil.Process(pid_of(run, i)).memory_info().rss < memory[i] + 2**22
        began.append(time.monotonic())

    watched = Watched(dataclasses.replace(CONFIG, run_dir=str(tmp_path)), make_tiny_env, events)
    assert watched.execute() == 130
    assert time.monotonic() - began[0] < 10
    assert "the learner did not exit in time" in (watched.run.folder / "train.log").read_text()


@pytest.mark.slow
def test_a_learner_that_hangs_is_killed_and_replaced(tmp_path):
    def events(run):
        updates_after(run, 5)
        os.kill(learner_pid(run), signal.SIGSTOP)
        run.pool._signs_of_life.timeout = 2.0
        wait_for(lambda: run.restarts == 1)
        run.pool._signs_of_life.timeout = 60.0
        updates_after(run, 5)

    watched = Watched(dataclasses.replace(CONFIG, run_dir=str(tmp_path)), make_tiny_env, events)
    assert watched.execute() == 130
    log = (watched.run.folder / "train.log").read_text()
    assert "the learner used no CPU for 2 s; killing it" in log


@pytest.mark.slow
def test_gradients_that_stay_not_finite_end_the_run_of_a_learner_too(tmp_path):
    config = dataclasses.replace(CONFIG, run_dir=str(tmp_path))
    assert train(config, (), make_nan_env) == 1
    assert (
        "in a row skipped, as their gradients were not finite"
        in (tmp_path / "latest/train.log").read_text()
    )


def test_a_learner_that_keeps_raising_ends_the_run_and_shows_its_traceback(tmp_path, monkeypatch):
    monkeypatch.setattr(agents.training.worker_pool, "run_learner", run_broken_learner)
    config = dataclasses.replace(CONFIG, run_dir=str(tmp_path), workers=1)
    assert train(config, (), make_tiny_env) == 1
    log = (tmp_path / "latest" / "train.log").read_text()
    assert "the learner raised\nTraceback" in log
    assert "the device fell off its rails" in log
    assert "the learner died 3 times in a row before its first update" in log
    assert json.loads((tmp_path / "latest" / "meta.json").read_text())["status"] == "failed"
