"""How child processes are started: from a fork server, with huge pages where Linux has them."""

import functools
import multiprocessing
import multiprocessing.util
import os
import signal
import tempfile
from collections.abc import MutableMapping
from multiprocessing import forkserver, resource_tracker
from pathlib import Path
from typing import Any

from agents.system.reaper import Reaper
from agents.system.signals import STOP_SIGNALS

# In each step a worker touches its emulators, parameters and activations: megabytes each, in more
# 4 KiB pages than the processor's TLB holds. glibc's allocator uses pages of 2 MiB if this variable
# says so at program start (https://sourceware.org/glibc/manual/latest/html_node/
# Tunables.html). macOS's allocator and glibc before 2.35 ignore it.
_TUNABLES_VARIABLE = "GLIBC_TUNABLES"
# Large blocks come from the heap too, which is contiguous and so suits huge pages. Freed memory
# stays there for the next rollout instead of being returned to the kernel, which would zero it.
_TUNABLES = {
    "glibc.malloc.hugetlb": 1,
    "glibc.malloc.mmap_threshold": 100_000_000,
    "glibc.malloc.trim_threshold": 1_000_000_000,
}

# What multiprocessing appends to TMPDIR for the path of a socket, and the longest socket path on
# macOS, in bytes; Linux allows 107.
_SOCKET_NAME = "/pymp-xxxxxxxx/listener-xxxxxxxx"
_MAX_SOCKET_PATH = 103


@functools.cache
def reaper() -> Reaper:
    """The one reaper of this process, started at the first call."""
    return Reaper()


def process_context(preload: str | None = None) -> Any:
    """Return a multiprocessing context: a fork server where there is one, else "spawn".

    Plain fork is never used: a forked copy of a process with running threads may deadlock. The
    first call starts the fork server without waiting for it: the earlier the call, the more of the
    server's imports overlap with other work. Call this before starting each process: a fork server
    that died is replaced here.

    Args:
        preload: A module that the fork server imports before it forks.
    """
    # The directory of the fork server's socket; Python removes it only on an orderly exit.
    reaper().remove_on_exit(_socket_folder())
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    request_huge_pages(os.environ)
    context = multiprocessing.get_context("forkserver")
    if preload is not None:
        context.set_forkserver_preload([preload])
    # The fork server does not inherit our sys.path (Python 3.11), but reads PYTHONPATH.
    root = str(Path(__file__).parents[2])
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if root not in paths:
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [root, *paths]))
    # While it imports, the fork server would die of a Ctrl-C that is meant for us. The resource
    # tracker inherits SIGHUP as blocked; starting it unblocks the other signals, so they are
    # blocked again.
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        resource_tracker.ensure_running()
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    # While it imports, or compiles, the fork server does not notice that we have exited.
    _kill_on_exit(getattr(forkserver._forkserver, "_forkserver_pid", None))
    return context


def request_huge_pages(environment: MutableMapping[str, str]) -> None:
    """Have programs started with this environment use huge pages; settings already made stay."""
    words = [word for word in environment.get(_TUNABLES_VARIABLE, "").split(":") if word]
    chosen = {word.partition("=")[0] for word in words}
    words += [f"{name}={value}" for name, value in _TUNABLES.items() if name not in chosen]
    environment[_TUNABLES_VARIABLE] = ":".join(words)


@functools.cache
def _kill_on_exit(pid: int | None) -> None:
    if pid is not None:
        reaper().kill_on_exit(pid)


@functools.cache
def _socket_folder() -> Path:
    """The directory of multiprocessing's sockets; in /tmp if their paths would be too long."""
    usual = tempfile.gettempdir()
    if len(os.fsencode(usual + _SOCKET_NAME)) > _MAX_SOCKET_PATH:
        tempfile.tempdir = "/tmp"
    try:
        return Path(multiprocessing.util.get_temp_dir())
    finally:
        tempfile.tempdir = usual
