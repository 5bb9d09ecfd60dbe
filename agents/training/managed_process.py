"""A worker or learner process as its parent sees it: started, and restarted when it dies."""

import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from agents.system.child_process import ChildProcess, reap, start_child
from agents.system.processes import process_context
from agents.training import FORKSERVER_PRELOAD

log = logging.getLogger("train")

# Give up after this many consecutive crashes without an update.
MAX_FAILED_STARTS = 3
PAUSE_AFTER_FAILED_START_S = 0.5
# Give up after more than this many restarts of one process within the window. Restarts are counted
# per process, so that the limit means the same for two workers and for a hundred.
MAX_RESTARTS = 10
RESTART_WINDOW_S = 600.0


class TrainingFailedError(Exception):
    """The run cannot go on; the message says why."""


class ManagedProcess:
    """One of the processes that train.

    Args:
        name: The name in messages, such as "worker 3".
        target: Maps an incarnation to a function that can be imported by name, and its arguments.
        progress: Returns a count of what the process has done.
        heartbeat: Returns a value that changes while the process is alive.
        incarnation: The number of the first incarnation; each restart adds one.

    Attributes:
        child: The process; None while it does not run.
        restarts: How often it died and was restarted.
    """

    def __init__(
        self,
        name: str,
        target: Callable[[int], tuple[Callable[..., None], tuple[Any, ...]]],
        progress: Callable[[], int],
        heartbeat: Callable[[], tuple[int, ...]],
        incarnation: int = 0,
    ) -> None:
        self.name, self.heartbeat = name, heartbeat
        self.child: ChildProcess | None = None
        self.restarts = 0
        self._target, self._progress, self._incarnation = target, progress, incarnation
        self._progress_at_start = self._failed_starts = 0
        self._deaths: deque[float] = deque()

    def start(self) -> None:
        """Start the process.

        Raises:
            TrainingFailedError: If this fails repeatedly.
        """
        target, arguments = self._target(self._incarnation)
        self._incarnation += 1
        self._progress_at_start = self._progress()
        context, name = process_context(FORKSERVER_PRELOAD), self.name.replace(" ", "-")
        try:
            self.child = start_child(context, name, target, *arguments)
        except OSError as error:
            # It takes a moment for a killed fork server to be noticed and replaced.
            time.sleep(PAUSE_AFTER_FAILED_START_S)
            self._start_again(f"could not be started: {error}")

    def reap(self) -> str:
        """Free the resources of a process that has exited; return how it exited."""
        if self.child is None:
            return "not started"
        child, self.child = self.child, None
        return reap(child)

    def restart(self) -> None:
        """Reap a process that died, and start it again.

        Raises:
            TrainingFailedError: If it dies too often.
        """
        self._start_again(f"died ({self.reap()})")

    def kill(self) -> None:
        """Kill the process, if it runs."""
        if self.child:
            self.child.kill()

    def _start_again(self, what: str) -> None:
        log.warning("%s %s", self.name, what)
        now = time.monotonic()
        self._deaths.append(now)
        while now - self._deaths[0] > RESTART_WINDOW_S:
            self._deaths.popleft()
        failed = self._progress() == self._progress_at_start
        self._failed_starts = self._failed_starts + 1 if failed else 0
        if self._failed_starts >= MAX_FAILED_STARTS:
            raise TrainingFailedError(
                f"{self.name} died {MAX_FAILED_STARTS} times in a row before its first update"
            )
        if len(self._deaths) > MAX_RESTARTS:
            raise TrainingFailedError(
                f"{self.name} died over {MAX_RESTARTS} times in {RESTART_WINDOW_S / 60:.0f} minutes"
            )
        self.restarts += 1
        self.start()
