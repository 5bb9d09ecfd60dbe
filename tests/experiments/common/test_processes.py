"""Jobs in several processes: their results, and what happens when one ends or this one does."""

import functools
import multiprocessing
import os
import signal
import threading
import time
from types import SimpleNamespace

import pytest
import torch

from experiments.common.command_line import ExperimentError
from experiments.common.processes import Outcome, run_jobs

PAIRS = [("a", 1), ("b", 1), ("a", 2)]


def job(variant, seed, scalar):
    scalar("loss", 0.5, 3)
    drawn = torch.randn(2).tolist()
    return {"who": variant + str(seed), "drawn": drawn, "threads": torch.get_num_threads()}


def make_job():
    return job


def make_slow_job(folder):
    def run(variant, seed, scalar):  # noqa: ARG001
        (folder / str(os.getpid())).touch()
        time.sleep(600)

    return run


def make_broken_job():
    def run(variant, seed, scalar):  # noqa: ARG001
        os.kill(os.getpid(), signal.SIGKILL)

    return run


def gone(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.parametrize("processes", [1, 2])
def test_every_job_is_done_once_with_its_seed_and_one_thread(processes):
    environment, started = dict(os.environ), []
    outcomes = list(run_jobs(make_job, PAIRS, processes, lambda *pair: started.append(pair)))
    assert started == PAIRS
    assert sorted(pair for pair, *_ in outcomes) == sorted(PAIRS)
    for (variant, seed), values, curves, seconds in outcomes:
        torch.manual_seed(seed)
        assert values["drawn"] == torch.randn(2).tolist()
        assert (values["who"], values["threads"]) == (f"{variant}{seed}", 1)
        assert curves == [("loss", 0.5, 3)]
        assert seconds >= 0
    assert dict(os.environ) == environment


@pytest.mark.parametrize("processes", [1, 2])
def test_where_there_are_no_jobs_nothing_is_made(processes):
    assert list(run_jobs(None, [], processes)) == []


def test_a_process_that_is_killed_is_noticed():
    with pytest.raises(ExperimentError, match="ended without a result"):
        list(run_jobs(make_broken_job, PAIRS[:1], 2))


class ThreadAsProcess(threading.Thread):
    """Does a worker's part with its own end of the connection."""

    def __init__(self, target, args, daemon):  # noqa: ARG002
        make_function, connection = args
        own = multiprocessing.connection.Connection(os.dup(connection.fileno()))
        super().__init__(target=make_function, args=(own,))

    def terminate(self):
        pass


@pytest.fixture
def _threads(monkeypatch):
    context = SimpleNamespace(Pipe=multiprocessing.Pipe, Process=ThreadAsProcess)
    monkeypatch.setattr(multiprocessing, "get_context", lambda _: context)


def die_before_the_first_job(connection):
    connection.poll(10)  # it was sent
    connection.close()


def die_amid_a_result(connection):
    connection.recv()
    os.write(connection.fileno(), b"\0\0\0\x08half")
    connection.close()


def finish_one_job(connection):
    connection.send(Outcome(connection.recv(), {}, [], 0.0))
    connection.close()


@pytest.mark.usefixtures("_threads")
@pytest.mark.parametrize("work", [die_before_the_first_job, die_amid_a_result])
def test_a_process_that_ends_at_any_moment_is_noticed(work):
    with pytest.raises(ExperimentError, match="ended without a result"):
        list(run_jobs(work, PAIRS[:1], 2))


@pytest.mark.usefixtures("_threads")
@pytest.mark.parametrize(
    ("works", "kept"),
    [([finish_one_job] * 2, 2), ([die_before_the_first_job, finish_one_job], 1)],
)
def test_what_was_finished_when_a_process_ended_is_not_lost(works, kept):
    begin, done = iter(works), []

    def wait_for_all(*_):
        for thread in threading.enumerate():
            if isinstance(thread, ThreadAsProcess):
                thread.join()

    with pytest.raises(ExperimentError, match="ended without a result"):
        done.extend(run_jobs(lambda own: next(begin)(own), PAIRS, 2, wait_for_all))
    assert len(done) == kept


def test_an_interrupt_ends_the_processes_amid_their_jobs(tmp_path):
    interrupted = []

    def interrupt(*_):
        if list(tmp_path.iterdir()):
            signal.setitimer(signal.ITIMER_REAL, 0)  # once
            interrupted.append(time.monotonic())
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        outcomes = run_jobs(functools.partial(make_slow_job, tmp_path), PAIRS[:1], 2)
        signal.setitimer(signal.ITIMER_REAL, 0.2, 0.2)
        with pytest.raises(KeyboardInterrupt):
            next(outcomes)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    (path,) = tmp_path.iterdir()
    assert gone(int(path.name))
    assert time.monotonic() - interrupted[0] < 60  # the job sleeps for 600 seconds


def run_slow_jobs(folder):
    list(run_jobs(functools.partial(make_slow_job, folder), PAIRS[:1], 2))


def test_the_processes_of_one_that_is_killed_end_amid_their_jobs(tmp_path):
    killed = multiprocessing.get_context("spawn").Process(target=run_slow_jobs, args=(tmp_path,))
    killed.start()
    try:
        deadline = time.monotonic() + 60
        while not (paths := list(tmp_path.iterdir())):
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        killed.kill()
        killed.join()
    (path,) = paths
    deadline = time.monotonic() + 60  # the job sleeps for 600 seconds
    while not gone(int(path.name)):
        assert time.monotonic() < deadline
        time.sleep(0.05)
