"""Child processes as their parent sees them: started, heard, buried."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import connection as mp_connection
from multiprocessing.connection import Connection
from typing import Any

import torch

from agents.processes import STOP_SIGNALS

JOIN_TIMEOUT_S = 1.0


@dataclass
class Child:
    """A child process and the connection to it."""

    name: str
    process: Any
    connection: Connection


def start_child(context: Any, name: str, role: Callable[..., None], *args: Any) -> Child:
    """Start `role(connection, *args)` in a process of its own.

    Args:
        context: of multiprocessing.
        name: of the process.
        role: importable by name.
        *args: pickled, or shared where they are shared tensors.
    """
    ours, theirs = context.Pipe()
    process = context.Process(target=role, args=(theirs, *args), name=name, daemon=True)
    process.start()
    theirs.close()
    return Child(name, process, ours)


def enter_child(connection: Connection, *, on_message: Callable[[Any], None] | None = None) -> None:
    """What every role does first: leave Ctrl-C to the parent, and end when the parent does.

    Args:
        connection: to the parent.
        on_message: called, in a thread, with what the parent sends; without it the parent sends
            nothing.
    """
    # Blocked while the fork server started, and inherited from it.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    # Ctrl-C reaches the whole process group; the parent answers it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    # OpenCV would start a pool of threads for pictures of 84 x 84.
    import cv2

    cv2.setNumThreads(0)

    def listen() -> None:
        # The operating system closes the connection however the parent dies. Waiting for the
        # process itself would not do: a child's parent is the fork server.
        try:
            while True:
                message = connection.recv()
                if on_message:
                    on_message(message)
        except (EOFError, OSError):
            os._exit(1)

    threading.Thread(target=listen, daemon=True).start()


def receive(children: list[Child], timeout: float) -> tuple[list[tuple[Child, Any]], list[Child]]:
    """Return what children have sent, one message each, waiting for the first; and who has ended.

    A child has ended when its connection has: the operating system closes it however a process
    dies, and only after everything that it had sent.
    """
    messages, ended = [], []
    by_connection = {child.connection: child for child in children}
    for ready in mp_connection.wait(list(by_connection), timeout):
        assert isinstance(ready, Connection)
        child = by_connection[ready]
        try:
            messages.append((child, ready.recv()))
        except (EOFError, OSError):
            ended.append(child)
    return messages, ended


def bury(child: Child) -> str:
    """Wait for the process, or kill it where that takes long; free what it held.

    Returns:
        How it ended: "exit code 1", "SIGKILL".
    """
    child.process.join(timeout=JOIN_TIMEOUT_S)
    if child.process.is_alive():
        child.process.kill()
        child.process.join()
    with contextlib.suppress(OSError):
        child.connection.close()
    code = child.process.exitcode
    if code >= 0:
        return f"exit code {code}"
    return signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
