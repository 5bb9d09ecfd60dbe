"""How processes are started, and how the signals that stop a run are taken in."""

import functools
import multiprocessing
import multiprocessing.util
import os
import signal
from multiprocessing import forkserver, resource_tracker
from pathlib import Path
from types import FrameType
from typing import Any

from agents.system.huge_pages import ask_for_huge_pages
from agents.system.reaper import Reaper

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopSignals:
    """Inside, a first SIGINT or SIGTERM is noted for the run to end; a second ends it at once.

    Attributes:
        received: the number of the signal that came, or None.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "StopSignals":
        for number in STOP_SIGNALS:
            self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.received is not None:
            os._exit(128 + number)  # the workers see their connections close, and end
        self.received = number


@functools.cache
def reaper() -> Reaper:
    """The one process that clears up behind this one."""
    return Reaper()


def process_context() -> Any:
    """Processes from a fork server that has torch loaded already; fresh ones where there is none.

    Never plain fork: a forked copy of a process with running threads may deadlock. The first call
    starts the fork server and does not wait for it: the earlier it comes, the more of its loading
    goes on beside what else there is to do. To be asked for before each start: a fork server that
    died is replaced here.
    """
    # The folder of the fork server's socket, which only an orderly end would remove.
    reaper().remove_on_exit(_socket_folder())
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    ask_for_huge_pages(os.environ)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["agents.training.forkserver_preload"])
    # The fork server finds what to load through this; it is not told our sys.path (Python 3.11).
    root = str(Path(__file__).parents[2])
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if root not in paths:
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [root, *paths]))
    # Until it has loaded everything, the fork server would die of a Ctrl-C that is meant for us.
    # The tracker comes first because starting it unblocks the signals.
    resource_tracker.ensure_running()
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    # While it loads, or compiles, it does not notice that we are gone.
    _kill_at_the_end(getattr(forkserver._forkserver, "_forkserver_pid", None))
    return context


@functools.cache
def _kill_at_the_end(pid: int | None) -> None:
    if pid is not None:
        reaper().kill_on_exit(pid)


@functools.cache
def _socket_folder() -> Path:
    return Path(multiprocessing.util.get_temp_dir())
