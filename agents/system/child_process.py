"""Start, poll and reap child processes."""

import contextlib
import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing import connection as mp_connection
from multiprocessing.connection import Connection
from typing import Any

import torch

from agents.system.messages import CrashRecord, MessageReader, send
from agents.system.processes import reaper
from agents.system.signals import STOP_SIGNALS

JOIN_TIMEOUT_S = 1.0


@dataclass
class ChildProcess:
    """A child process and the connection to it."""

    name: str
    process: Any
    connection: Connection
    inbox: MessageReader

    def kill(self) -> None:
        """Kill the process, even if it is stopped.

        `Process.kill` is not used, as it does nothing once the fork server is gone.
        """
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid, signal.SIGKILL)


def start_child(context: Any, name: str, target: Callable[..., None], *args: Any) -> ChildProcess:
    """Run `target(connection, *args)` in a new process.

    Args:
        context: A multiprocessing context.
        name: The name of the process.
        target: A function that can be imported by name.
        *args: Its arguments, pickled; shared tensors stay shared.

    Raises:
        OSError: If the process cannot be started.
    """
    ours, theirs = context.Pipe()
    process = context.Process(target=target, args=(theirs, *args), name=name, daemon=True)
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
    """Prepare a child process; every target calls this first.

    Ctrl-C and a closed terminal are left to the parent, the process exits when the parent does, and
    torch and OpenCV use one thread.

    Args:
        connection: The connection to the parent.
        on_message: Called in a thread with each message from the parent. If None, the parent must
            send nothing.
    """
    # These signals reach the whole process group; the parent handles them.
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    # Inherited as blocked from the fork server, which was started that way.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    # Environments may start processes of their own, which end when their connections close.
    multiprocessing.current_process()._config["daemon"] = False  # type: ignore[attr-defined]
    torch.set_num_threads(1)
    # OpenCV would start a thread pool for images of 84 x 84.
    import cv2

    cv2.setNumThreads(0)

    def listen() -> None:
        # The operating system closes the connection however the parent dies. Waiting for the parent
        # process would not work: to the system, a child's parent is the fork server.
        try:
            while True:
                message = connection.recv()
                if on_message:
                    on_message(message)
        except (EOFError, OSError):
            os._exit(1)

    threading.Thread(target=listen, daemon=True).start()


@contextlib.contextmanager
def report_crash(connection: Connection, name: str) -> Iterator[None]:
    """Send the traceback to the parent and exit with code 1 if the block raises.

    Args:
        connection: The connection to the parent.
        name: The name of this process in messages, such as "worker 3".
    """
    try:
        yield
    except Exception:
        with contextlib.suppress(OSError):  # the cause may be that the parent is gone
            send(connection, CrashRecord(name, traceback.format_exc()))
        os._exit(1)


def poll(
    children: list[ChildProcess], timeout: float
) -> tuple[list[tuple[ChildProcess, Any]], list[ChildProcess]]:
    """Wait for messages from child processes.

    A child has exited when its connection has ended: the operating system closes it however the
    process dies, and the end is seen only after everything sent has been read. A child that sends
    something that cannot be unpickled also counts as exited.

    Args:
        children: The processes to poll.
        timeout: Seconds to wait for the first message.

    Returns:
        The messages with their senders, and the children that have exited.
    """
    messages, exited = [], []
    by_connection = {child.connection: child for child in children}
    for ready in mp_connection.wait(list(by_connection), timeout):
        assert isinstance(ready, Connection)
        child = by_connection[ready]
        try:
            messages += [(child, message) for message in child.inbox.read()]
        except Exception:  # the end, or bytes that cannot be unpickled
            exited.append(child)
    return messages, exited


def reap(child: ChildProcess) -> str:
    """Wait for a process to exit, kill it if that takes long, and free its resources.

    Returns:
        How it ended, such as "exit code 1" or "SIGKILL".
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
