"""What happens to workers, and that training goes on: with real processes that really die."""

import csv
import dataclasses
import itertools
import json
import os
import signal
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import agents.training.managed_process
import agents.training.supervisor
import agents.training.worker_pool
from agents.a3c.worker_group import GroupSpec
from agents.checkpoint import list_checkpoints, load_checkpoint
from agents.config import TrainConfig
from agents.networks.actor_critic import ActorCritic
from agents.run_folder import resolve_run
from agents.system.resources import available_cpus
from agents.system.signals import StopSignals
from agents.system.watchdog import cpu_time
from agents.training.managed_process import MAX_RESTARTS, TrainingFailedError
from agents.training.rollout_queue import RolloutQueue
from agents.training.shared_state import Counter, SharedState
from agents.training.supervisor import MAX_NONFINITE_IN_A_ROW, TrainingRun, train
from agents.training.worker_pool import SyncState, WorkerPool, hang_timeout
from agents.training.worker_process import spread_workers
from envs import Spaces
from tests.agents.faulty_env import (
    FAULTS,
    STEPS_BEFORE_FAULT,
    make_faulty_env,
    make_late_nan_env,
    make_nan_env,
)
from tests.agents.tiny_env import ACTIONS, make_tiny_env

CONFIG = TrainConfig(
    workers=2,
    processes=2,
    envs_per_worker=2,
    num_steps=4,
    total_timesteps=10**9,
    head="linear",
    log_interval=0.1,
    eval_interval=0,
)


def wait_for(happened, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


class Watched:
    """A run whose parent is this process; `events(run)` happens beside it, and Ctrl-C ends it."""

    def __init__(self, config, make_env, events):
        self.signals = StopSignals()
        self.run = TrainingRun(config, (), make_env, self.signals)
        self.events, self.errors = events, []

    def execute(self):
        def run_events():
            try:
                self.events(self.run)
            except BaseException as error:
                self.errors.append(error)
            os.kill(os.getpid(), signal.SIGINT)

        thread = threading.Thread(target=run_events)
        with self.signals:
            thread.start()
            try:
                code = self.run.execute()
            finally:
                thread.join()
                self.run.close()
        if self.errors:
            raise self.errors[0]
        return code


def updates_of(run, index):
    return run.shared.counters[index, Counter.UPDATES].item()


def is_stopped(worker):
    return psutil.Process(worker.process.pid).status() == psutil.STATUS_STOPPED


HOW = {
    "raises": "exit code 1",
    "exits": "exit code 7",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_worker_that_fails_is_replaced_within_seconds_of_computing(fault, tmp_path):
    (tmp_path / "fault").write_text(fault)
    spent = []

    def events(run):
        if "stopped" in fault:  # before, the start-up may take a busy machine longer
            wait_for(lambda: any(map(is_stopped, run.pool.children)))
            run.pool._signs_of_life.timeout = 2.0
        wait_for(lambda: run.restarts >= 1)
        run.pool._signs_of_life.timeout = 60.0
        (index,) = [i for i in range(2) if run.pool.worker_processes[i].restarts]
        before = [updates_of(run, i) for i in range(2)]
        wait_for(lambda: updates_of(run, index) > before[index])
        spent.append(cpu_time(run.pool.worker_processes[index].child.process.pid))
        wait_for(lambda: all(updates_of(run, i) > before[i] + 5 for i in range(2)))
        time.sleep(0.3)

    watched = Watched(dataclasses.replace(CONFIG, run_dir=str(tmp_path)), make_faulty_env, events)
    assert watched.execute() == 130
    assert spent[0] < 5
    run = watched.run
    assert run.restarts == 1
    assert bool(run.shared.parameters.isfinite().all())
    log = (run.folder / "train.log").read_text()
    assert f"died ({HOW.get(fault, 'SIGKILL')})" in log
    assert ("the dice fell off the table" in log) == (fault == "raises")
    assert ("used no CPU for 2 s; killing it" in log) == ("stopped" in fault)
    logged = EventAccumulator(str(run.folder)).Reload()
    assert logged.Scalars("a3c/restarts")[-1].value == 1
    assert list_checkpoints(run.folder / "checkpoints")


def test_a_stopped_worker_does_not_hold_up_the_end_of_a_run(tmp_path, monkeypatch):
    monkeypatch.setattr(agents.training.worker_pool.WorkerPool, "stop_timeout", 1.0)

    def events(run):
        wait_for(lambda: updates_of(run, 0) > 5)
        os.kill(run.pool.worker_processes[0].child.process.pid, signal.SIGSTOP)

    watched = Watched(dataclasses.replace(CONFIG, run_dir=str(tmp_path)), make_tiny_env, events)
    assert watched.execute() == 130
    assert (
        "worker 0 did not exit in time; killing it"
        in (watched.run.folder / "train.log").read_text()
    )
    assert load_checkpoint(list_checkpoints(watched.run.folder / "checkpoints")[-1])


def test_training_goes_on_without_the_fork_server_that_died(tmp_path, monkeypatch):
    monkeypatch.setattr(agents.training.worker_pool.WorkerPool, "stop_timeout", 1.0)

    def events(run):
        wait_for(lambda: updates_of(run, 0) > 5)
        worker = run.pool.worker_processes[0].child.process.pid
        server = psutil.Process(worker).parent()
        server.kill()
        os.kill(worker, signal.SIGKILL)
        wait_for(lambda: run.restarts >= 1)
        before = [updates_of(run, i) for i in range(2)]
        wait_for(lambda: all(updates_of(run, i) > before[i] + 5 for i in range(2)))
        # A child of no living server is killed too.
        os.kill(run.pool.worker_processes[1].child.process.pid, signal.SIGSTOP)

    watched = Watched(dataclasses.replace(CONFIG, run_dir=str(tmp_path)), make_tiny_env, events)
    assert watched.execute() == 130


def test_a_process_that_dies_takes_its_workers_with_it_and_they_all_come_back(tmp_path):
    seen = {}

    def events(run):
        wait_for(lambda: all(updates_of(run, i) > 5 for i in range(5)))
        os.kill(run.pool.worker_processes[1].child.process.pid, signal.SIGKILL)
        wait_for(lambda: run.restarts == 1)
        seen["restarts"] = [process.restarts for process in run.pool.worker_processes]
        before = [updates_of(run, i) for i in range(5)]
        wait_for(lambda: all(updates_of(run, i) > before[i] + 5 for i in range(5)))
        seen["alive"] = run.pool.workers_alive

    config = dataclasses.replace(CONFIG, workers=5, processes=2, run_dir=str(tmp_path))
    watched = Watched(config, make_tiny_env, events)
    assert watched.execute() == 130
    assert seen == {"restarts": [0, 1], "alive": 5}
    assert "workers 2 to 4 died (SIGKILL)" in (watched.run.folder / "train.log").read_text()


def test_workers_are_spread_evenly_over_processes_and_none_is_left_out():
    for workers in (0, 1, 2, 3, 16, 17, 1000):
        for processes in (0, 1, 2, 3, 16, 64):
            config = dataclasses.replace(CONFIG, workers=workers, processes=processes)
            groups = spread_workers(config)
            assert [worker for group in groups for worker in group] == list(range(workers))
            assert len(groups) == min(processes or available_cpus(), workers)
            if groups:
                sizes = [len(group) for group in groups]
                assert max(sizes) - min(sizes) <= 1


def test_each_start_of_a_process_has_an_incarnation_of_its_own_and_its_own_workers():
    pool = make_pool(workers=5, processes=2)
    for process, workers in zip(pool.worker_processes, (range(2), range(2, 5)), strict=True):
        specs = [process._target(incarnation)[1][0] for incarnation in (0, 1)]
        assert [spec.workers for spec in specs] == [workers, workers]
        assert [spec.incarnation for spec in specs] == [0, 1]


def test_a_restarted_process_warms_up_and_a_warm_up_is_not_progress(caplog):
    pool = make_pool(workers=4, processes=2)
    process = pool.worker_processes[1]
    assert process._target(0)[1][0].warmup_steps == 0
    pool.shared.warmup_steps.fill_(70)
    with caplog.at_level("INFO", "train"):
        assert process._target(0)[1][0].warmup_steps == 70  # the run's own, said by the supervisor
        assert not caplog.messages
        assert process._target(1)[1][0].warmup_steps == 70
    assert caplog.messages == ["workers 2 to 3: restart with a warm-up of 70 agent steps"]
    before, progress = process.heartbeat(), process._progress()
    pool.shared.warmup_rollouts[2] += 1
    assert process.heartbeat() != before
    assert process._progress() == progress


def make_pool(**settings):
    config = dataclasses.replace(CONFIG, **settings)
    shared = SharedState.create(ActorCritic(Spaces(ACTIONS), config), 1, config.workers)
    return WorkerPool(GroupSpec(config, make_tiny_env), shared)


def test_one_worker_may_die_only_so_often_in_a_while(monkeypatch):
    pool = make_pool(workers=16, processes=16)
    started = []
    monkeypatch.setattr(
        agents.training.managed_process, "start_child", lambda *_: started.append(1)
    )
    for death in range(MAX_RESTARTS):
        for index in range(16):  # many workers, each of which may
            pool.shared.counters[index, Counter.UPDATES] += 1
            pool.worker_processes[index]._start_again(f"died ({death})")
    assert pool.restarts == len(started) == 16 * MAX_RESTARTS
    pool.shared.counters[3, Counter.UPDATES] += 1
    with pytest.raises(TrainingFailedError, match=f"worker 3 died over {MAX_RESTARTS} times in 10"):
        pool.worker_processes[3]._start_again("died")


@pytest.mark.parametrize("failures", [2, 3])
def test_a_start_that_fails_is_tried_again_but_not_for_ever(failures, monkeypatch):
    monkeypatch.setattr(agents.training.managed_process, "PAUSE_AFTER_FAILED_START_S", 0.0)
    tries = []

    def start_child(*_):
        tries.append(1)
        if len(tries) <= failures:
            raise ChildProcessError("the fork server died")
        return "a child"

    monkeypatch.setattr(agents.training.managed_process, "start_child", start_child)
    pool = make_pool()
    if failures < agents.training.managed_process.MAX_FAILED_STARTS:
        pool.worker_processes[1].start()
        assert pool.worker_processes[1].child == "a child"
    else:
        with pytest.raises(TrainingFailedError, match="3 times in a row"):
            pool.worker_processes[1].start()
    assert len(tries) == 3


def test_deaths_of_long_ago_do_not_count(monkeypatch):
    pool = make_pool()
    now = [0.0]
    monkeypatch.setattr(agents.training.managed_process.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(agents.training.managed_process, "start_child", lambda *_: None)
    for _ in range(5 * MAX_RESTARTS):
        now[0] += agents.training.managed_process.RESTART_WINDOW_S / MAX_RESTARTS + 1
        pool.shared.counters[0, Counter.UPDATES] += 1
        pool.worker_processes[0]._start_again("died")
    assert pool.restarts == 5 * MAX_RESTARTS


@pytest.mark.parametrize(("computes", "killed"), [(True, []), (False, [0])])
def test_a_process_that_is_starved_is_not_taken_for_one_that_is_stopped(
    monkeypatch, computes, killed
):
    monkeypatch.setattr(agents.training.worker_pool, "CHECK_INTERVAL_S", 0.0)
    pool, seconds, dead = make_pool(), itertools.count(), []
    for index in range(2):
        process = SimpleNamespace(pid=index)
        pool.worker_processes[index].child = SimpleNamespace(
            process=process, kill=lambda i=index: dead.append(i)
        )
    monkeypatch.setattr(pool._updates, "_clock", lambda: next(seconds) / 2)
    monkeypatch.setattr(pool._signs_of_life, "_clock", lambda: next(seconds) / 2)
    spent = itertools.count()
    monkeypatch.setattr(
        agents.training.worker_pool,
        "cpu_time",
        lambda pid: next(spent) if computes or pid == 1 else 7,
    )
    for _ in range(int(agents.training.worker_pool.STILL_TIMEOUT_S) + 10):
        pool.kill_hung()
    assert dead == killed


def test_processes_are_looked_at_twice_a_second_however_often_one_asks(monkeypatch):
    pool, now, looks = make_pool(), [100.0], []
    pool.worker_processes[0].child = SimpleNamespace(process=SimpleNamespace(pid=0))
    monkeypatch.setattr(agents.training.worker_pool.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(agents.training.worker_pool, "cpu_time", lambda _: looks.append(now[0]))
    for _ in range(1000):
        pool.kill_hung()
        now[0] += 0.01
    assert 18 <= len(looks) <= 20


def test_who_computes_for_ever_without_an_update_is_killed_too(monkeypatch):
    monkeypatch.setattr(agents.training.worker_pool, "CHECK_INTERVAL_S", 0.0)
    pool, seconds, spent, dead = make_pool(), itertools.count(), itertools.count(), []
    pool.worker_processes[0].child = SimpleNamespace(
        process=SimpleNamespace(pid=0), kill=lambda: dead.append(next(seconds))
    )
    monkeypatch.setattr(pool._updates, "_clock", lambda: next(seconds))
    monkeypatch.setattr(agents.training.worker_pool, "cpu_time", lambda _: next(spent))
    while not dead:
        pool.kill_hung()
    assert dead[0] >= agents.training.worker_pool.HANG_TIMEOUT_S


def test_the_hang_timeout_grows_with_what_an_update_takes():
    assert hang_timeout(CONFIG) == agents.training.worker_pool.HANG_TIMEOUT_S
    slow = dataclasses.replace(CONFIG, num_steps=20_000)
    assert hang_timeout(slow) > 1000


def test_a_run_that_ends_before_it_skipped_too_many_updates_says_how_many_and_why(tmp_path):
    settings = {"workers": 0, "run_dir": str(tmp_path), "total_timesteps": 10 * STEPS_BEFORE_FAULT}
    assert train(dataclasses.replace(CONFIG, **settings), (), make_nan_env) == 0
    newest = list_checkpoints(resolve_run(tmp_path / "latest") / "checkpoints")[-1]
    skipped = load_checkpoint(newest).training_state.skipped_updates
    assert 0 < skipped < MAX_NONFINITE_IN_A_ROW
    log = (tmp_path / "latest" / "train.log").read_text()
    assert f"WARNING {skipped} updates skipped, as their gradients were not finite; does the" in log


@pytest.mark.parametrize("workers", [0, 2])
def test_gradients_that_stay_not_finite_end_the_run_and_the_last_good_checkpoint_is_named(
    workers, tmp_path, monkeypatch
):
    save, failing = TrainingRun._save, []

    def noted_save(run):
        failing.append(run._nonfinite_in_a_row)
        return save(run)

    monkeypatch.setattr(TrainingRun, "_save", noted_save)
    config = dataclasses.replace(
        CONFIG, workers=workers, run_dir=str(tmp_path), checkpoint_interval=1e-3
    )
    assert train(config, (), make_late_nan_env) == 1
    assert set(failing) == {0}
    folder = resolve_run(tmp_path / "latest")
    newest = list_checkpoints(folder / "checkpoints")[-1]
    log = (folder / "train.log").read_text()
    assert (
        "updates in a row skipped, as their gradients were not finite; does the environment return "
        "nan or inf, or is --learning-rate too high?"
    ) in log
    assert f"checkpoint: {newest}" in log
    checkpoint = load_checkpoint(newest)
    assert all(bool(t.isfinite().all()) for t in checkpoint.parameters.values())
    # Of what workers skip, the supervisor hears later; in one process, a checkpoint knows it all.
    assert workers > 0 or checkpoint.training_state.skipped_updates == 0
    meta = json.loads((folder / "meta.json").read_text())
    assert meta["status"] == "failed"
    with (folder / "progress.csv").open() as file:
        assert float(list(csv.DictReader(file))[-1]["nonfinite_updates"]) >= 100


@pytest.mark.slow
def test_workers_that_are_killed_all_the_time_do_not_stop_training(tmp_path):
    kills = []

    def events(run):
        generator = torch.Generator().manual_seed(0)
        while len(kills) < 40:
            time.sleep(0.3 * torch.rand(1, generator=generator).item() + 0.5)
            index = len(kills) % 8  # each of them five times
            wait_for(lambda i=index: run.pool.worker_processes[i].child and updates_of(run, i) > 0)
            kills.append(index)
            os.kill(run.pool.worker_processes[index].child.process.pid, signal.SIGKILL)
        wait_for(lambda: run.restarts == 40)
        before = run.shared.global_step
        wait_for(lambda: run.shared.global_step > before + 1000)

    config = dataclasses.replace(CONFIG, workers=8, processes=8, run_dir=str(tmp_path))
    watched = Watched(config, make_tiny_env, events)
    assert watched.execute() == 130
    assert watched.run.restarts == 40
    assert bool(watched.run.shared.parameters.isfinite().all())


def test_no_temporary_file_is_left_in_the_folder_of_runs(tmp_path):
    config = dataclasses.replace(CONFIG, workers=0, total_timesteps=20, run_dir=str(tmp_path))
    assert train(config, (), make_tiny_env) == 0
    assert {p.name for p in Path(tmp_path).iterdir()} == {
        "latest",
        resolve_run(tmp_path / "latest").name,
    }


def make_pool_with_learner():
    config = dataclasses.replace(CONFIG, learner="cpu", learner_batch=1)
    network = ActorCritic(Spaces(ACTIONS), config)
    shared = SharedState.create(network, 1, 1)
    queue = RolloutQueue.create(config, network)
    return WorkerPool(GroupSpec(config, make_tiny_env), shared, queue)


def test_the_optimizer_state_is_requested_once_and_ready_when_the_learner_has_answered():
    pool = make_pool_with_learner()
    pool.learner.child = SimpleNamespace()
    assert pool.sync_state is SyncState.IDLE
    assert pool.sync_state is SyncState.IDLE  # a question changes nothing
    pool.request_sync()
    assert pool.sync_state is SyncState.REQUESTED
    assert pool.queue.sync_requests.tolist() == [1, 0]
    pool.queue.sync_requests[1] = 1
    assert pool.sync_state is SyncState.READY
    pool.finish_sync()
    assert pool.sync_state is SyncState.IDLE


def test_without_a_running_learner_the_optimizer_state_is_ready_at_once():
    for pool in (make_pool(), make_pool_with_learner()):
        pool.request_sync()
        assert pool.sync_state is SyncState.READY
