"""Reaper: a helper process that cleans up after the trainer is killed.

A killed program cannot clean up. Its workers notice and exit, but a worker that is stopped
(SIGSTOP) cannot, and the directory of the fork server's socket would stay. The reaper waits until
the program ends in any way, then kills the processes that are left and removes stale files. It runs
in its own session, so that a signal to the program's process group spares it, and imports nothing
heavy.
"""

import contextlib
import json
import os
import shutil
import signal
import sys
from pathlib import Path

import psutil

from agents.system.files import remove_stale_temp_files

# How long the program's processes have to exit by themselves.
GRACE_S = 1.0
BLOCKED_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Reaper:
    """The program's side: starts the reaper process, and tells it what to clean up.

    If that process dies, the program goes on without it.
    """

    def __init__(self) -> None:
        root = str(Path(__file__).parents[2])
        code = f"import sys; sys.path[0] = {root!r}; from agents.system.reaper import main; main()"
        theirs, self._pipe = os.pipe()
        null = (os.devnull, os.O_WRONLY, 0)
        os.posix_spawn(
            sys.executable,
            [sys.executable, "-c", code],
            os.environ,
            file_actions=[
                (os.POSIX_SPAWN_DUP2, theirs, 0),
                (os.POSIX_SPAWN_OPEN, 1, *null),
                (os.POSIX_SPAWN_OPEN, 2, *null),
            ],
            # From its first instruction on, a signal that ends the program must not end the reaper.
            setsid=True,
            setsigmask=BLOCKED_SIGNALS,
        )
        os.close(theirs)

    def kill_on_exit(self, pid: int) -> None:
        """Kill this process if it outlives the program."""
        self._tell("process", pid)

    def remove_on_exit(self, folder: Path) -> None:
        """Remove this directory after the program's end."""
        self._tell("folder", str(folder.absolute()))

    def clean_temp_files_on_exit(self, folder: Path) -> None:
        """Remove half-written temporary files below this directory after the program's end."""
        self._tell("temp_files", str(folder.absolute()))

    def _tell(self, what: str, name: str | int) -> None:
        with contextlib.suppress(OSError):
            os.write(self._pipe, f"{json.dumps([what, name])}\n".encode())


def main() -> None:
    """The reaper process: collect requests until the program ends, then clean up."""
    program = _find(os.getppid())
    children: list[psutil.Process] = []
    folders: list[Path] = []
    temp_folders: list[Path] = []
    for line in sys.stdin:
        what, name = json.loads(line)
        if what == "process":
            children = [child for child in children if child.is_running()]
            children += _find(name)
        elif what == "folder":
            folders.append(Path(name))
        elif what == "temp_files":
            temp_folders.append(Path(name))

    for child in psutil.wait_procs(children, GRACE_S)[1]:
        with contextlib.suppress(psutil.Error):
            child.kill()
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
    # Temporary files are stale once the process that wrote them is gone.
    psutil.wait_procs([*program, *children], GRACE_S)
    for folder in temp_folders:
        remove_stale_temp_files(folder)


def _find(pid: int) -> list[psutil.Process]:
    """The process with this pid, if there is one.

    `psutil.Process` records when a process was created, so a reused pid is not mistaken for it.
    """
    try:
        return [psutil.Process(pid)]
    except psutil.Error:
        return []
