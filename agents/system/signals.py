"""SIGINT, SIGTERM and SIGHUP as a request to stop."""

import contextlib
import os
import signal
import threading
import time
from types import FrameType
from typing import Any

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# The DECTCEM escape sequence of ANSI terminals.
SHOW_CURSOR = b"\x1b[?25h"
# A scheduler signals every process of a job, and a parent process passes on what it receives.
SAME_REQUEST_S = 2.0


class StopSignals:
    """Context manager that records the first stop signal; another SIGINT or SIGTERM exits at once.

    SIGTERM comes from programs, often from several: what follows it within `SAME_REQUEST_S` seconds
    belongs to the same request, and is ignored.
    SIGHUP, the signal of a closed terminal, often comes twice, from the shell and from the kernel,
    so a second one is ignored. Where it was ignored before, as under nohup, it stays ignored.
    Outside the main thread no signal is recorded, because Python does not allow it.

    Attributes:
        received: The number of the signal received, or None.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._received_at = 0.0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "StopSignals":
        is_main = threading.current_thread() is threading.main_thread()
        for number in _not_ignored() if is_main else ():
            self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _: FrameType | None) -> None:
        now = time.monotonic()
        if self.received is None:
            self.received, self._received_at = number, now
        elif self.received == signal.SIGTERM and now - self._received_at < SAME_REQUEST_S:
            return
        elif number != signal.SIGHUP:
            # A live display has hidden the cursor, and nothing else shows it again.
            with contextlib.suppress(OSError):
                if os.isatty(1):
                    os.write(1, SHOW_CURSOR)
            os._exit(128 + number)  # child processes see their connections close, and exit


def exit_on_stop_signals() -> None:
    """Make stop signals exit at once, without a traceback, until `StopSignals` records them."""
    for number in _not_ignored():
        signal.signal(number, lambda number, _: os._exit(128 + number))


def _not_ignored() -> list[signal.Signals]:
    """The stop signals, without SIGHUP under nohup."""
    nohup = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    return [number for number in STOP_SIGNALS if number != signal.SIGHUP or not nohup]
