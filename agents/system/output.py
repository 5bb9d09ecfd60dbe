"""Standard output that may fail: a closed terminal or pipe, a full disk, a limited encoding."""

import contextlib
import io
import logging
import os
import sys
from typing import Any, TextIO

from agents.errors import escape_to_one_line


class TolerantStream:
    """A text stream that drops what cannot be written, instead of raising.

    Args:
        stream: Where the text goes. Everything but writing is delegated to it.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write, if that is possible."""
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush, if that is possible."""
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class LevelFormatter(logging.Formatter):
    """Messages as they are, with "warning: " or "error: " before those of that level."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the message, and the traceback if there is one."""
        prefix = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        return prefix + super().format(record)


def quantity(number: int, noun: str) -> str:
    """Return a number with its noun, such as "1 run" or "1,000 runs"."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def escape_what_cannot_be_encoded() -> None:
    """Have standard output print escape sequences for characters that its encoding lacks."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def print_to_stdout(text: str) -> None:
    """Print a line to standard output, if that is still open."""
    with contextlib.suppress(OSError, ValueError):
        print(text)


def print_to_stderr(text: str) -> None:
    """Print a line to standard error, if that is still open."""
    with contextlib.suppress(OSError, ValueError):
        print(text, file=sys.stderr, flush=True)


def warn(text: str) -> None:
    """Print a warning as one line to standard error, if that is still open."""
    print_to_stderr(f"warning: {escape_to_one_line(text)}")


def flush_output() -> None:
    """Flush at the end of a command; if that fails, keep Python from retrying and complaining."""
    for stream in (sys.stdout, sys.stderr):
        if stream is None:  # closed from the start
            continue
        try:
            stream.flush()
        except (OSError, ValueError):
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
