"""Messages from child processes to their parent, which never blocks on an incomplete message.

`Connection.recv` blocks until a message is complete: a child that is stopped in the middle of one
would stop its parent too. So the parent reads the bytes that have arrived and keeps an incomplete
message for later. The processes share no lock; a message cut short by a kill is discarded.
"""

import contextlib
import logging
import os
import pickle
import struct
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

# The header of each message: its number of bytes.
LENGTH = struct.Struct("!Q")
READ_SIZE = 1 << 16


@dataclass
class CrashRecord:
    """The last message of a process that raised an exception.

    Attributes:
        who: The name of the process, such as "worker 3".
        traceback: The traceback as text.
    """

    who: str
    traceback: str


@dataclass
class FailureRecord:
    """The last message of a process that cannot go on, and without which the run cannot either.

    Attributes:
        reason: Why, as one line.
    """

    reason: str


def pack(message: Any) -> bytes:
    """The bytes of a message, as sent through the connection."""
    payload = pickle.dumps(message)
    return LENGTH.pack(len(payload)) + payload


def send(connection: Connection, message: Any) -> None:
    """Send a message to the parent, which reads it with a `MessageReader`.

    Raises:
        OSError: If the parent is gone.
    """
    rest = memoryview(pack(message))
    while rest:
        rest = rest[os.write(connection.fileno(), rest) :]


class ForwardingHandler(logging.Handler):
    """Forwards log records to another process, which has the log file and the terminal.

    Args:
        forward: Sends a record.
    """

    def __init__(self, forward: Callable[[logging.LogRecord], None]) -> None:
        super().__init__()
        self._forward = forward

    def emit(self, record: logging.LogRecord) -> None:
        """Forward a record with its text formatted, as some arguments cannot be pickled."""
        text = {"msg": self.format(record), "args": None, "exc_info": None, "exc_text": None}
        with contextlib.suppress(OSError):  # the other process is gone
            self._forward(logging.makeLogRecord(vars(record) | text))


class MessageReader:
    """The parent's end of a connection.

    Args:
        connection: The connection to a child that uses `send`.
    """

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._unread = bytearray()

    def read(self) -> list[Any]:
        """Read what has arrived, at least one byte; return the messages that are now complete.

        Raises:
            EOFError: If the child has closed its end and nothing is left.
            OSError: If the connection is broken.
        """
        data = os.read(self.connection.fileno(), READ_SIZE)
        if not data:
            raise EOFError
        self._unread += data
        messages, begin = [], 0
        while len(self._unread) - begin >= LENGTH.size:
            (size,) = LENGTH.unpack_from(self._unread, begin)
            end = begin + LENGTH.size + size
            if end > len(self._unread):
                break
            messages.append(pickle.loads(self._unread[begin + LENGTH.size : end]))
            begin = end
        del self._unread[:begin]
        return messages
