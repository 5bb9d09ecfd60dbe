"""Jobs of a study in several processes of one thread each."""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from typing import Any

from experiments.common.command_line import ExperimentError

Pair = tuple[str, int]
# Called as function(variant, seed, scalar), where scalar takes tag, value and step of a curve.
Function = Callable[[str, int, Callable[[str, float, int], None]], dict[str, Any]]
MakeFunction = Callable[[], Function]
# glibc gives large tensors back to the system and takes them anew in every step; for networks of
# millions of parameters that takes longer than to compute them.
_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MALLOC_MMAP_THRESHOLD_": str(2**31),
    "MALLOC_TRIM_THRESHOLD_": str(2**32),
}
Outcome = tuple[Pair, dict[str, Any], list[tuple[str, float, int]], float]


def run_in_processes(
    make_function: MakeFunction, pairs: Sequence[Pair], processes: int
) -> Generator[Outcome, None, None]:
    """Yield pair, values, points of curves and seconds of every job as it ends.

    Close the iterator to end the processes. If this process is killed, they end with their jobs.

    Args:
        make_function: called once in each process, which it is pickled for.
        pairs: variant and seed of all jobs.
        processes: how many; no more are started than there are jobs.

    Raises:
        ExperimentError: if a process ends without a result.
    """
    context = multiprocessing.get_context("spawn")
    left, workers = list(reversed(pairs)), {}
    try:
        for _ in range(min(processes, len(pairs))):
            ours, theirs = context.Pipe()
            worker = context.Process(target=_work, args=(make_function, theirs), daemon=True)
            with _environment():
                worker.start()
            theirs.close()  # so that a worker's end is noticed
            workers[ours] = worker
            ours.send(left.pop())
        while workers:
            for connection in wait(list(workers)):
                assert isinstance(connection, Connection)
                try:
                    outcome = connection.recv()
                except EOFError as error:
                    raise ExperimentError(
                        "a process ended without a result (killed, or an error above); "
                        "the same command with --out goes on where it stopped"
                    ) from error
                if left:
                    connection.send(left.pop())
                else:
                    connection.close()
                    workers.pop(connection).join()
                yield outcome
    finally:
        for connection, worker in workers.items():
            connection.close()
            worker.terminate()
            worker.join()


@contextmanager
def _environment() -> Iterator[None]:
    """Inside, processes start with `_ENVIRONMENT`, as far as it is not set otherwise."""
    before = dict(os.environ)
    os.environ.update({**_ENVIRONMENT, **before})
    try:
        yield
    finally:
        for name in _ENVIRONMENT.keys() - before.keys():
            del os.environ[name]


def _work(make_function: MakeFunction, connection: Connection) -> None:
    """Do the jobs that come, until the connection is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all; the parent ends this one
    import torch

    torch.set_num_threads(1)
    function = make_function()
    while True:
        try:
            variant, seed = connection.recv()
        except EOFError:
            return
        curves: list[tuple[str, float, int]] = []
        started = time.monotonic()
        torch.manual_seed(seed)
        values = function(variant, seed, lambda *point, to=curves: to.append(point))
        try:
            connection.send(((variant, seed), values, curves, time.monotonic() - started))
        except BrokenPipeError:
            return
