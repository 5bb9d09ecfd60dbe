"""ChildProcess processes as their parent sees them: started, heard, buried."""

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

from agents.system.messages import MessageReader
from agents.system.processes import STOP_SIGNALS, reaper

JOIN_TIMEOUT_S = 1.0


@dataclass
class ChildProcess:
    """A child process and the connection to it."""

    name: str
    process: Any
    connection: Connection
    inbox: MessageReader

    def kill(self) -> None:
        """End the process at once, also one that is stopped.

        Not with `Process.kill`, which leaves a process alone once the fork server is gone.
        """
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid, signal.SIGKILL)


def start_child(context: Any, name: str, role: Callable[..., None], *args: Any) -> ChildProcess:
    """Start `role(connection, *args)` in a process of its own.

    Args:
        context: of multiprocessing.
        name: of the process.
        role: importable by name.
        *args: pickled, or shared where they are shared tensors.

    Raises:
        OSError: if the process cannot be started.
    """
    ours, theirs = context.Pipe()
    process = context.Process(target=role, args=(theirs, *args), name=name, daemon=True)
    try:
        process.start()
    except EOFError as error:
        ours.close()
        raise ChildProcessError("the fork server died") from error
    except OSError:
        ours.close()
        raise
    finally:
        theirs.close()
    reaper().kill_on_exit(process.pid)
    return ChildProcess(name, process, ours, MessageReader(ours))


def init_child(connection: Connection, *, on_message: Callable[[Any], None] | None = None) -> None:
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


def receive(
    children: list[ChildProcess], timeout: float
) -> tuple[list[tuple[ChildProcess, Any]], list[ChildProcess]]:
    """Return what children have sent, waiting for the first message; and who has ended.

    A child has ended when its connection has: the operating system closes it however a process
    dies, and only after everything that it had sent. One whose messages make no sense has too.
    """
    messages, ended = [], []
    by_connection = {child.connection: child for child in children}
    for ready in mp_connection.wait(list(by_connection), timeout):
        assert isinstance(ready, Connection)
        child = by_connection[ready]
        try:
            messages += [(child, message) for message in child.inbox.read()]
        except Exception:  # the end, or bytes that cannot be unpickled
            ended.append(child)
    return messages, ended


def reap(child: ChildProcess) -> str:
    """Wait for the process, or kill it where that takes long; free what it held.

    Returns:
        How it ended: "exit code 1", "SIGKILL".
    """
    child.process.join(timeout=JOIN_TIMEOUT_S)
    if child.process.is_alive():
        child.kill()
        child.process.join(timeout=JOIN_TIMEOUT_S)
    with contextlib.suppress(OSError):
        child.connection.close()
    code = child.process.exitcode
    if code is None:
        return "killed; its end was not reported"
    if code >= 0:
        return f"exit code {code}"
    return signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
