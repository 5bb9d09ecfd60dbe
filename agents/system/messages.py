"""What a child process sends to its parent, read without ever waiting for the rest of it.

`Connection.recv` waits until a message is whole. A process that is stopped while it writes one
would stop its parent with it, so the parent takes what is there and keeps an unfinished piece. The
processes share no lock: a child that is killed while it writes leaves a piece that is thrown away.
"""

import os
import pickle
import struct
from multiprocessing.connection import Connection
from typing import Any

# In front of each message: the number of its bytes.
LENGTH = struct.Struct("!Q")
READ_SIZE = 1 << 16


def pack(message: Any) -> bytes:
    """A message as it goes through the connection."""
    payload = pickle.dumps(message)
    return LENGTH.pack(len(payload)) + payload


def send(connection: Connection, message: Any) -> None:
    """Send a message to the parent, which reads it with an `MessageReader`.

    Raises:
        OSError: if the parent is gone.
    """
    rest = memoryview(pack(message))
    while rest:
        rest = rest[os.write(connection.fileno(), rest) :]


class MessageReader:
    """The parent's end of a connection.

    Args:
        connection: from a child that writes with `send`.
    """

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._unread = bytearray()

    def read(self) -> list[Any]:
        """Take what is there, at least a byte of it; return the messages that are whole now.

        Raises:
            EOFError: if the child has closed its end and nothing is left.
            OSError: if the connection is broken.
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
