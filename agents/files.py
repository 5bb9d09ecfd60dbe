"""Files that are there whole or not at all. Imports nothing heavy: replaying needs no torch."""

import contextlib
import os
import re
from pathlib import Path


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file such that it is there whole or not at all, also when the machine dies.

    Raises:
        OSError: if writing fails; a file that was there stays.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def remove_leftovers(folder: Path) -> None:
    """Delete the temporary files that processes which were killed have left below a folder.

    Args:
        folder: looked through with all its folders. A temporary file is `.NAME.PID.tmp`, perhaps
            with one more ending; those of processes that still live are left alone.
    """
    for path in folder.rglob(".*.tmp*"):
        match = re.fullmatch(r"\..+\.(\d+)\.tmp(\.\w+)?", path.name)
        if match and not _is_alive(int(match[1])):
            with contextlib.suppress(OSError):
                path.unlink()


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True
