"""Files that are there whole or not at all. Imports nothing heavy: replaying needs no torch."""

import contextlib
import os
import re
import stat
from pathlib import Path


def read_bounded(path: Path, most: int) -> bytes:
    """Read a file that should not be large.

    Args:
        path: of an ordinary file: one that never ends, or never begins, is not waited for.
        most: bytes that it may have.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is larger, or no ordinary file.
    """
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("not an ordinary file")
        if status.st_size > most:
            raise ValueError(f"too large: {status.st_size:,} bytes, where {most:,} is the most")
        return file.read(most)


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file such that it is there whole or not at all, also when the machine dies.

    Raises:
        OSError: if writing fails, naming the file; one that was there stays.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)  # "No space left on device" alone does not say where
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def remove_stale_temp_files(folder: Path) -> None:
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
