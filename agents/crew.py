"""The worker processes: started, watched, and replaced when they die."""

import logging
import os
import time
from collections import deque

from agents.children import Child, bury, start_child
from agents.config import TrainConfig
from agents.heartbeats import Heartbeats
from agents.processes import process_context
from agents.shared import SharedState
from agents.worker import EnvironmentFactory, run_worker

log = logging.getLogger("train")

# A worker that dies so often in a row without an update in between will not do better next time.
MAX_FAILED_STARTS = 3
PAUSE_AFTER_FAILED_START_S = 0.5
# One and the same worker may die so often within the window, and still be replaced. Counted for
# each worker, so that the bound means the same for two workers and for a hundred.
MAX_RESTARTS = 10
RESTART_WINDOW_S = 600.0
# A worker may be silent for so long, or for so long as the slowest update could take.
HANG_TIMEOUT_S = 60.0
SLOWEST_SAMPLE_S = 0.1


class TrainingFailedError(Exception):
    """The run cannot go on; the message says why."""


class Crew:
    """The workers of a run, as their parent sees them.

    Args:
        config: the settings.
        shared: what all workers share.
        make_env: makes a worker's environments.
        first_incarnation: of every worker; the next one's is greater by one.

    Attributes:
        workers: the processes by the workers' indices.
        restarts: how many workers died and were replaced.
    """

    def __init__(
        self,
        config: TrainConfig,
        shared: SharedState,
        make_env: EnvironmentFactory,
        first_incarnation: int = 0,
    ) -> None:
        self.config, self.shared, self.make_env = config, shared, make_env
        self.workers: dict[int, Child] = {}
        self.restarts = 0
        self._incarnations = [first_incarnation] * config.workers
        self._updates_at_start = [0] * config.workers
        self._failed_starts = [0] * config.workers
        self._deaths: list[deque[float]] = [deque() for _ in range(config.workers)]
        self._heartbeats: Heartbeats[int] = Heartbeats(longest_silence(config))

    def start(self, index: int) -> None:
        """Start a worker.

        Raises:
            TrainingFailedError: if this fails again and again.
        """
        incarnation = self._incarnations[index]
        self._incarnations[index] += 1
        self._updates_at_start[index] = sum(self._beat(index))
        try:
            self.workers[index] = start_child(
                process_context(),
                f"worker-{index}",
                run_worker,
                *(index, self.config, self.shared, self.make_env, incarnation),
            )
        except OSError as error:
            # A fork server that is killed takes a moment to be seen dead, and be replaced.
            time.sleep(PAUSE_AFTER_FAILED_START_S)
            self._restart(index, f"could not be started: {error}")

    def bury(self, index: int) -> str:
        """Bury a worker that has ended; return how."""
        return bury(self.workers.pop(index))

    def replace(self, index: int) -> None:
        """Bury a worker that died, and start another in its place.

        Raises:
            TrainingFailedError: if workers die too often.
        """
        self._restart(index, f"died ({self.bury(index)})")

    def kill_hanging(self) -> None:
        """Kill the workers that have not shown for long that they do anything.

        Their connections end then, and they are replaced like others that died.
        """
        for index in self._heartbeats.look({index: self._beat(index) for index in self.workers}):
            log.warning(
                "worker %s has done nothing for %.0f s; killing it",
                index,
                self._heartbeats.patience,
            )
            self.workers[index].kill()

    def kill(self) -> None:
        """Kill the workers that are left."""
        for index, worker in self.workers.items():
            log.warning("worker %s does not end; killing it", index)
            worker.kill()
        for index in list(self.workers):
            self.bury(index)

    def _beat(self, index: int) -> tuple[int, ...]:
        """What changes with every update, applied or skipped."""
        return tuple(self.shared.counters[index].tolist())

    def _restart(self, index: int, what: str) -> None:
        log.warning("worker %s %s", index, what)
        now = time.monotonic()
        deaths = self._deaths[index]
        deaths.append(now)
        while now - deaths[0] > RESTART_WINDOW_S:
            deaths.popleft()
        failed = sum(self._beat(index)) == self._updates_at_start[index]
        self._failed_starts[index] = self._failed_starts[index] + 1 if failed else 0
        if self._failed_starts[index] >= MAX_FAILED_STARTS:
            raise TrainingFailedError(
                f"worker {index} died {MAX_FAILED_STARTS} times in a row before its first update"
            )
        if len(deaths) > MAX_RESTARTS:
            raise TrainingFailedError(
                f"worker {index} died over {MAX_RESTARTS} times in "
                f"{RESTART_WINDOW_S / 60:.0f} minutes"
            )
        self.restarts += 1
        self.start(index)


def longest_silence(config: TrainConfig) -> float:
    """Seconds after which a worker that has shown no progress is taken to hang.

    A worker shows progress with every update. Start-up and one of the usual size take seconds; with
    long rollouts, or many workers to a core, they rightly take longer.
    """
    cores = os.cpu_count() or 1
    samples = config.workers * config.envs_per_worker * config.num_steps
    return max(HANG_TIMEOUT_S, SLOWEST_SAMPLE_S * samples / min(cores, max(config.workers, 1)))
