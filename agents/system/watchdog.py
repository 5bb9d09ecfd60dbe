"""Watchdog: finds processes that are alive but make no progress."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import psutil

# The time between two checks counts up to this.
MAX_TICK_S = 1.0


class Watchdog:
    """Measures for how long each process has made no progress.

    Time counts only while the caller of `check` is running too: if the whole machine or program was
    suspended, or held up by a slow disk, the watched processes are not to blame.

    Args:
        timeout: Seconds without progress that are allowed.
        clock: A monotonic clock, in seconds.
    """

    def __init__(self, timeout: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.timeout, self._clock = timeout, clock
        self._last_check = clock()
        self._heartbeats: dict[str, Any] = {}
        self._idle_seconds: dict[str, float] = {}

    def check(self, heartbeats: Mapping[str, Any]) -> list[str]:
        """Return the processes that have been idle for too long, and restart their clocks.

        Args:
            heartbeats: For every process to watch now, a value that changes as it makes progress. A
                process that was not in the previous check starts from zero.
        """
        now = self._clock()
        passed = min(now - self._last_check, MAX_TICK_S)
        self._last_check = now
        for name in self._heartbeats.keys() - heartbeats.keys():
            del self._heartbeats[name], self._idle_seconds[name]
        for name, heartbeat in heartbeats.items():
            idle = name in self._heartbeats and self._heartbeats[name] == heartbeat
            self._idle_seconds[name] = self._idle_seconds[name] + passed if idle else 0.0
            self._heartbeats[name] = heartbeat
        timed_out = [name for name, idle in self._idle_seconds.items() if idle > self.timeout]
        self._idle_seconds |= dict.fromkeys(timed_out, 0.0)
        return timed_out


def cpu_time(pid: int) -> float | None:
    """CPU time that a process and its threads have used, user and system, in seconds.

    A starved process still gets some; a process that is stopped, or waits forever, gets none.

    Returns:
        The time, or None if there is no such process or the system does not say.
    """
    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.Error:
        return None
    return times.user + times.system
