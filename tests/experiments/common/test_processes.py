"""Jobs in several processes: their results, and what happens when one ends or this one does."""

import functools
import multiprocessing
import os
import signal
import time

import pytest
import torch

from experiments.common.command_line import ExperimentError
from experiments.common.processes import run_jobs

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
        time.sleep(20)

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
        list(run_jobs(make_broken_job, PAIRS, 2))


def test_an_interrupt_ends_the_processes_amid_their_jobs(tmp_path):
    started = time.monotonic()

    def interrupt(*_):
        if list(tmp_path.iterdir()):
            signal.setitimer(signal.ITIMER_REAL, 0)  # once
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
    assert time.monotonic() - started < 20


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
    deadline = time.monotonic() + 10  # the job sleeps for 20 seconds
    while not gone(int(path.name)):
        assert time.monotonic() < deadline
        time.sleep(0.05)
