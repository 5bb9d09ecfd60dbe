"""Notices processes that still live but no longer do anything."""

import contextlib
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

# At most so much of the time between two looks counts.
LONGEST_TICK_S = 1.0

Name = TypeVar("Name")


class Watchdog(Generic[Name]):
    """Counts for how long each process has shown no sign of progress.

    Time counts only while the one who looks is running too: when the whole machine or program was
    suspended, or the looker was held up by a slow disk, nobody is to blame for having been silent.

    Args:
        patience: seconds of silence that are allowed.
        clock: gives seconds; never goes back.
    """

    def __init__(self, patience: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.patience, self._clock = patience, clock
        self._last_look = clock()
        self._beats: dict[Name, Any] = {}
        self._silence: dict[Name, float] = {}

    def look(self, beats: Mapping[Name, Any]) -> list[Name]:
        """Return those who have been silent for too long; for each of them, time starts anew.

        Args:
            beats: of every process that is to show progress now: a value that changes as it does.
                One that was not among them at the last look starts anew.
        """
        now = self._clock()
        passed = min(now - self._last_look, LONGEST_TICK_S)
        self._last_look = now
        for name in self._beats.keys() - beats.keys():
            del self._beats[name], self._silence[name]
        for name, beat in beats.items():
            silent = name in self._beats and self._beats[name] == beat
            self._silence[name] = self._silence[name] + passed if silent else 0.0
            self._beats[name] = beat
        too_long = [name for name, seconds in self._silence.items() if seconds > self.patience]
        self._silence |= dict.fromkeys(too_long, 0.0)
        return too_long


def cpu_time(pid: int) -> int | None:
    """What a process and its threads have had of the processors, in the system's ticks.

    A process that is starved still gets some; one that is stopped, or waits for ever, gets none.

    Returns:
        The number, or None where there is no such process or the system does not say (macOS).
    """
    with contextlib.suppress(OSError):
        # After the name, which may hold anything but ends with the last parenthesis (proc(5)).
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])
    return None
