"""Files: written whole or not at all, and read even if a crash has damaged them.

Imports nothing heavy: the replay command runs without torch.
"""

import contextlib
import csv
import errno
import fcntl
import os
import re
import stat
from pathlib import Path
from typing import IO, NamedTuple

import psutil

# Largest CSV file that is read: far more than a year-long run writes.
MAX_CSV_BYTES = 2**28
# The system gives the start of a process to the second.
START_TIME_ERROR_S = 2.0


class CsvRow(NamedTuple):
    """One line of a CSV file.

    Attributes:
        line: The line as it is in the file, with its newline if it has one.
        cells: The cells; empty if the line cannot be parsed.
    """

    line: str
    cells: list[str]


def lock_file(path: Path) -> IO[bytes]:
    """Lock a file until the returned file is closed, or this process ends in any way.

    Args:
        path: The file, created if it does not exist; its content stays.

    Raises:
        BlockingIOError: If another process holds the lock.
        OSError: If the file cannot be opened, or its file system does not support locks.
    """
    file = path.open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        what = f"{path.name} cannot be locked: {error.strerror}"
        raise OSError(error.errno, what, str(path)) from error
    return file


def read_bounded(path: Path, max_bytes: int) -> bytes:
    """Read a file that should not be large.

    Args:
        path: A regular file; FIFOs and devices are rejected.
        max_bytes: The largest size accepted.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is larger, or not a regular file.
    """
    if path.is_dir():
        raise ValueError("a folder, not a file")
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("not an ordinary file")
        if status.st_size > max_bytes:
            raise ValueError(f"too large: {status.st_size:,} bytes, at most {max_bytes:,} expected")
        return file.read(max_bytes)


def read_csv_rows(path: Path) -> list[CsvRow]:
    """Read a CSV file that a crash may have truncated or filled with zeros.

    The file is parsed line by line, so that a stray quote does not swallow the lines after it. A
    last line without a newline may be incomplete, as another process may be writing it.

    Returns:
        One row per line, the header included. A line that is not CSV, or holds NUL bytes or bytes
        that are not UTF-8, has no cells.

    Raises:
        OSError: If the file cannot be read, is over `MAX_CSV_BYTES` or is not a regular file.
    """
    try:
        # Spreadsheets write a byte order mark before the first column.
        text = read_bounded(path, MAX_CSV_BYTES).decode("utf-8-sig", errors="replace")
    except ValueError as error:
        raise OSError(errno.EINVAL, str(error), str(path)) from error
    lines = text.split("\n")
    whole = [CsvRow(f"{line}\n", _parse_csv_line(line)) for line in lines[:-1]]
    return whole + [CsvRow(line, _parse_csv_line(line)) for line in lines[-1:] if line]


def _parse_csv_line(line: str) -> list[str]:
    if "\0" in line or "\ufffd" in line:
        return []
    try:
        return next(csv.reader([line.removesuffix("\r")]), [])
    except csv.Error:
        return []


def parse_count(text: str) -> int | None:
    """The number of at most 18 ASCII digits that a text consists of; None for other texts."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 18 else None


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file whole or not at all, even if the machine crashes.

    Raises:
        OSError: If writing fails; it names the file. An existing file is kept.
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
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network file systems cannot do it for folders
            raise
    finally:
        os.close(folder)


def remove_stale_temp_files(folder: Path) -> None:
    """Delete the temporary files that killed processes have left behind.

    Args:
        folder: Searched recursively for `.NAME.PID.tmp`, optionally with one more suffix. Files of
            processes that are still running are kept, but not those that are older than the process
            that has the number now: in a container, programs get the same few numbers again.
    """
    for path in folder.rglob(".*.tmp*"):
        match = re.fullmatch(r"\..+\.(\d+)\.tmp(\.\w+)?", path.name)
        if match:
            with contextlib.suppress(OSError):
                if _is_gone(int(match[1]), path.lstat().st_mtime):
                    path.unlink()


def _is_gone(pid: int, since: float) -> bool:
    """Whether a process that was running at a time, in seconds since 1970, has ended."""
    try:
        if not psutil.pid_exists(pid):
            return True
        return psutil.Process(pid).create_time() > since + START_TIME_ERROR_S
    except (psutil.Error, OverflowError):  # it ended just now, or this is no number of a process
        return False
