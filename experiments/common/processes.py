"""Jobs of a study, one after another or in several single-threaded processes."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple

import torch

from experiments.common.command_line import ExperimentError

Pair = tuple[str, int]
Point = tuple[str, float, int]
# Called with tag, value and step of a curve's point.
Scalar = Callable[[str, float, int], None]
# Called with variant, seed and a function that takes the curves' points.
Function = Callable[[str, int, Scalar], dict[str, Any]]
MakeFunction = Callable[[], Function]
# By default glibc returns the memory of large tensors to the system and requests it again in every
# step, which costs networks of millions of parameters a tenth of their time.
_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MALLOC_MMAP_THRESHOLD_": str(2**31),
    "MALLOC_TRIM_THRESHOLD_": str(2**32),
}


class Outcome(NamedTuple):
    """The outcome of a job.

    Attributes:
        pair: its variant and seed.
        values: what the function returned.
        curves: tag, value and step of the curves' points.
        seconds: how long it took.
    """

    pair: Pair
    values: dict[str, Any]
    curves: list[Point]
    seconds: float


def run_jobs(
    make_function: MakeFunction,
    pairs: Sequence[Pair],
    processes: int,
    started: Callable[[str, int], None] = lambda *_: None,
) -> Generator[Outcome, None, None]:
    """Yield the outcome of every job as it ends.

    torch is seeded before each job and uses one thread. With `processes` = 1, jobs run in this
    process. Otherwise close the iterator to end the processes; if this process is killed, they end
    by themselves.

    Args:
        make_function: called once in each process, for which it is pickled.
        pairs: variant and seed of all jobs.
        processes: number of processes; no more are started than there are jobs.
        started: called with variant and seed as a job begins.

    Raises:
        ExperimentError: if a process ends without a result.
    """
    if processes > 1:
        yield from _run_in_processes(make_function, pairs, processes, started)
    elif pairs:
        torch.set_num_threads(1)
        function = make_function()
        for pair in pairs:
            started(*pair)
            yield _do(function, pair)


def _run_in_processes(
    make_function: MakeFunction,
    pairs: Sequence[Pair],
    processes: int,
    started: Callable[[str, int], None],
) -> Generator[Outcome, None, None]:
    context = multiprocessing.get_context("spawn")
    left, workers = list(reversed(pairs)), {}

    def send_next(connection: Connection) -> None:
        pair = left.pop()
        with suppress(ConnectionError):  # the process is gone, which is noticed on waiting for it
            connection.send(pair)
        started(*pair)

    try:
        for _ in range(min(processes, len(pairs))):
            ours, theirs = context.Pipe()
            worker = context.Process(target=_work, args=(make_function, theirs), daemon=True)
            with _environment():
                worker.start()
            theirs.close()  # so that a worker's end is noticed
            workers[ours] = worker
            send_next(ours)
        while workers:
            failure: Exception | None = None
            for connection in wait(list(workers)):
                assert isinstance(connection, Connection)
                try:
                    outcome = connection.recv()
                except (EOFError, OSError) as error:
                    failure = error  # raised below, after the results that others have finished
                    continue
                if left:
                    send_next(connection)
                else:
                    connection.close()
                    workers.pop(connection).join()
                yield outcome
            if failure is not None:
                raise ExperimentError(
                    "a process ended without a result (killed, or an error above); "
                    "the same command with --out goes on where it stopped"
                ) from failure
    finally:
        for connection, worker in workers.items():
            connection.close()
            worker.terminate()
            worker.join()


@contextmanager
def _environment() -> Iterator[None]:
    """Start processes with `_ENVIRONMENT` inside the block; variables already set are kept."""
    before = dict(os.environ)
    os.environ.update({**_ENVIRONMENT, **before})
    try:
        yield
    finally:
        for name in _ENVIRONMENT.keys() - before.keys():
            del os.environ[name]


def _work(make_function: MakeFunction, connection: Connection) -> None:
    """Do the jobs that arrive, until the connection is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all; the parent ends this one
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    function = make_function()
    while True:
        try:
            pair = connection.recv()
        except (EOFError, ConnectionError):
            return
        outcome = _do(function, pair)
        try:
            connection.send(outcome)
        except ConnectionError:
            return


def _end_with_parent() -> None:
    """End this process, even during a job, when its parent is gone: nobody needs the result."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _do(function: Function, pair: Pair) -> Outcome:
    curves: list[Point] = []
    started = time.monotonic()
    torch.manual_seed(pair[1])
    values = function(*pair, lambda *point: curves.append(point))
    return Outcome(pair, values, curves, time.monotonic() - started)
