"""A process that outlives the program for a moment, and clears away what a killed one leaves.

A program that is killed runs no line more of its own. Its workers notice and end, but one that is
stopped (SIGSTOP) cannot, and the folder of the fork server's socket would stay for ever. So a small
process waits for the program's end, however it comes, kills what still lives and removes what is
left. It is no member of the program's process group, so that what kills the group spares it, and
imports nothing heavy.
"""

import contextlib
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from agents.system.files import remove_stale_temp_files

# So long the program's processes have to end by themselves.
GRACE_S = 1.0
BLOCKED_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Reaper:
    """The program's side: starts the process, and tells it what there is to clear away.

    Whatever happens to that process, the program goes on without it.
    """

    def __init__(self) -> None:
        root = str(Path(__file__).parents[2])
        code = f"import sys; sys.path[0] = {root!r}; from agents.system.reaper import main; main()"
        theirs, self._pipe = os.pipe()
        nowhere = (os.devnull, os.O_WRONLY, 0)
        os.posix_spawn(
            sys.executable,
            [sys.executable, "-S", "-c", code],
            os.environ,
            file_actions=[
                (os.POSIX_SPAWN_DUP2, theirs, 0),
                (os.POSIX_SPAWN_OPEN, 1, *nowhere),
                (os.POSIX_SPAWN_OPEN, 2, *nowhere),
            ],
            # From its first moment, what ends the program must not end it.
            setsid=True,
            setsigmask=BLOCKED_SIGNALS,
        )
        os.close(theirs)

    def kill_on_exit(self, pid: int) -> None:
        """Have a process killed that does not end when the program does."""
        self._tell("process", pid)

    def remove_on_exit(self, folder: Path) -> None:
        """Have a folder removed."""
        self._tell("folder", str(folder.absolute()))

    def clean_temp_files_on_exit(self, folder: Path) -> None:
        """Have the temporary files removed that are left half written in a folder."""
        self._tell("leftovers", str(folder.absolute()))

    def _tell(self, what: str, name: str | int) -> None:
        with contextlib.suppress(OSError):
            os.write(self._pipe, f"{json.dumps([what, name])}\n".encode())


class _Mortal:
    """A process, held such that its number cannot come to mean another one."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._handle: int | None = None
        if sys.platform == "linux":
            with contextlib.suppress(OSError):
                self._handle = os.pidfd_open(pid)

    @property
    def is_alive(self) -> bool:
        return self._signal(0)

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    def close(self) -> None:
        if self._handle is not None:
            os.close(self._handle)

    def _signal(self, number: int) -> bool:
        try:
            if sys.platform == "linux":
                if self._handle is None:  # it was gone before it could be held
                    return False
                signal.pidfd_send_signal(self._handle, number)
            else:
                os.kill(self._pid, number)
        except OSError:
            return False
        return True


def main() -> None:
    """Take down what is to be cleared away until the program ends; then do it."""
    parent = _Mortal(os.getppid())
    mortals: list[_Mortal] = []
    folders: list[Path] = []
    untidy: list[Path] = []
    for line in sys.stdin:
        what, name = json.loads(line)
        if what == "process":
            for dead in [mortal for mortal in mortals if not mortal.is_alive]:
                mortals.remove(dead)
                dead.close()
            mortals.append(_Mortal(name))
        elif what == "folder":
            folders.append(Path(name))
        elif what == "leftovers":
            untidy.append(Path(name))

    _wait(lambda: not any(mortal.is_alive for mortal in mortals))
    for mortal in mortals:
        mortal.kill()
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
    # Whose files are left over is seen from who lives.
    _wait(lambda: not any(mortal.is_alive for mortal in [parent, *mortals]))
    for folder in untidy:
        remove_stale_temp_files(folder)


def _wait(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + GRACE_S
    while not happened() and time.monotonic() < deadline:
        time.sleep(0.02)
