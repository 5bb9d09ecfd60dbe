"""The processes that train: started, watched, and replaced when they die."""

import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from agents.a3c.learner import run_learner
from agents.a3c.worker import EnvironmentFactory, run_worker
from agents.config import TrainConfig
from agents.system.child_process import ChildProcess, reap, start_child
from agents.system.processes import process_context
from agents.system.resources import available_cpus
from agents.system.watchdog import Watchdog, cpu_time
from agents.training import FORKSERVER_PRELOAD
from agents.training.rollout_queue import RolloutQueue
from agents.training.shared_state import SharedState

log = logging.getLogger("train")

# A worker that dies so often in a row without an update in between will not do better next time.
MAX_FAILED_STARTS = 3
PAUSE_AFTER_FAILED_START_S = 0.5
# One and the same worker may die so often within the window, and still be replaced. Counted for
# each worker, so that the bound means the same for two workers and for a hundred.
MAX_RESTARTS = 10
RESTART_WINDOW_S = 600.0
# So long a worker may stand still: without any update, or any time on a processor.
STILL_TIMEOUT_S = 60.0
# So long it may compute without an update, or for so long as the slowest update could take. On a
# machine that has too much to do, a start-up of a second takes minutes.
HANG_TIMEOUT_S = 600.0
SLOWEST_SAMPLE_S = 0.1
# To look at all processes takes 0.3 ms, a third of what else the parent does for an update.
LOOK_INTERVAL_S = 0.5


class TrainingFailedError(Exception):
    """The run cannot go on; the message says why."""


class WorkerPool:
    """The workers of a run, and its learner where there is one, as their parent sees them.

    Args:
        config: the settings.
        shared: what all of them share.
        make_env: makes a worker's environments.
        first_incarnation: of every worker; the next one's is greater by one.
        queue: what workers and learner share besides; None where the workers learn themselves.

    Attributes:
        workers: the processes by the workers' indices; the learner has the index after the last.
        restarts: how many of them died and were replaced.
    """

    def __init__(
        self,
        config: TrainConfig,
        shared: SharedState,
        make_env: EnvironmentFactory,
        first_incarnation: int = 0,
        queue: RolloutQueue | None = None,
    ) -> None:
        self.config, self.shared, self.make_env, self.queue = config, shared, make_env, queue
        self.workers: dict[int, ChildProcess] = {}
        self.restarts = 0
        size = config.workers + int(queue is not None)
        self._incarnations = [first_incarnation] * size
        self._progress_at_start = [0] * size
        self._failed_starts = [0] * size
        self._deaths: list[deque[float]] = [deque() for _ in range(size)]
        self._has_asked = False
        self._looked_at = -LOOK_INTERVAL_S
        self._updates: Watchdog[int] = Watchdog(hang_timeout(config))
        self._signs_of_life: Watchdog[int] = Watchdog(STILL_TIMEOUT_S)

    @property
    def workers_alive(self) -> int:
        """Worker processes."""
        return len(self.workers) - int(self.config.workers in self.workers)

    @property
    def has_begun(self) -> bool:
        """Whether any worker has played a rollout in this session."""
        if self.queue:
            return bool(self.queue.write_count.any())
        return bool(self.shared.counters[:-1].any())

    def start_learner(self) -> None:
        """Start the learner, where there is one.

        Raises:
            TrainingFailedError: if this fails again and again.
        """
        if self.queue:
            self.start(self.config.workers)

    def sync_optimizer_state(self) -> bool:
        """Whether the shared state holds the optimizer's statistics of now.

        Where a learner has them on its device, it is asked to write them back, and has done so at
        one of the next calls.
        """
        if self.queue is None or self.config.workers not in self.workers:
            return True
        if not self._has_asked:
            self.queue.sync_requests[0] += 1
            self._has_asked = True
        asked, answered = self.queue.sync_requests.tolist()
        self._has_asked = asked != answered
        return asked == answered

    def start(self, index: int) -> None:
        """Start a worker, or the learner.

        Raises:
            TrainingFailedError: if this fails again and again.
        """
        incarnation = self._incarnations[index]
        self._incarnations[index] += 1
        self._progress_at_start[index] = self._progress(index)
        context = process_context(FORKSERVER_PRELOAD)
        target: Callable[..., None]
        arguments: tuple[Any, ...]
        if index == self.config.workers:
            target, arguments = run_learner, (self.config, self.shared, self.queue)
        else:
            target = run_worker
            arguments = (index, self.config, self.shared, self.make_env, incarnation, self.queue)
        name = self._name(index).replace(" ", "-")
        try:
            self.workers[index] = start_child(context, name, target, *arguments)
        except OSError as error:
            # A fork server that is killed takes a moment to be seen dead, and be replaced.
            time.sleep(PAUSE_AFTER_FAILED_START_S)
            self._restart(index, f"could not be started: {error}")

    def reap(self, index: int) -> str:
        """Bury a process that has ended; return how."""
        return reap(self.workers.pop(index))

    def restart(self, index: int) -> None:
        """Bury a process that died, and start another in its place.

        Raises:
            TrainingFailedError: if it dies too often.
        """
        self._restart(index, f"died ({self.reap(index)})")

    def kill_hung(self) -> None:
        """Kill the processes that have not shown for long that they do anything.

        Their connections end then, and they are replaced like others that died. May be called as
        often as one likes; it looks twice a second.
        """
        now = time.monotonic()
        if now - self._looked_at < LOOK_INTERVAL_S:
            return
        self._looked_at = now
        updates = {index: self._heartbeat(index) for index in self.workers}
        times = {i: cpu_time(child.process.pid) for i, child in self.workers.items()}
        alive = {i: (updates[i], spent) for i, spent in times.items() if spent is not None}
        for heartbeats, beats in ((self._updates, updates), (self._signs_of_life, alive)):
            for index in heartbeats.check(beats):
                log.warning(
                    "%s has done nothing for %.0f s; killing it",
                    self._name(index),
                    heartbeats.timeout,
                )
                self.workers[index].kill()

    def kill(self) -> None:
        """Kill the processes that are left."""
        for index, worker in self.workers.items():
            log.warning("%s does not end; killing it", self._name(index))
            worker.kill()
        for index in list(self.workers):
            self.reap(index)

    def _heartbeat(self, index: int) -> tuple[int, ...]:
        """What changes with every update, applied or skipped, and with every look for work."""
        if self.queue:
            return (int(self.queue.heartbeats[index]),)
        return tuple(self.shared.counters[index].tolist())

    def _progress(self, index: int) -> int:
        """What a process has done so far: updates, applied or skipped, or rollouts handed over."""
        if self.queue and index < self.config.workers:
            return int(self.queue.write_count[index])
        return int(self.shared.counters[0 if self.queue else index].sum())

    def _restart(self, index: int, what: str) -> None:
        name = self._name(index)
        log.warning("%s %s", name, what)
        now = time.monotonic()
        deaths = self._deaths[index]
        deaths.append(now)
        while now - deaths[0] > RESTART_WINDOW_S:
            deaths.popleft()
        failed = self._progress(index) == self._progress_at_start[index]
        self._failed_starts[index] = self._failed_starts[index] + 1 if failed else 0
        if self._failed_starts[index] >= MAX_FAILED_STARTS:
            raise TrainingFailedError(
                f"{name} died {MAX_FAILED_STARTS} times in a row before its first update"
            )
        if len(deaths) > MAX_RESTARTS:
            raise TrainingFailedError(
                f"{name} died over {MAX_RESTARTS} times in {RESTART_WINDOW_S / 60:.0f} minutes"
            )
        self.restarts += 1
        self.start(index)

    def _name(self, index: int) -> str:
        return f"worker {index}" if index < self.config.workers else "the learner"


def hang_timeout(config: TrainConfig) -> float:
    """Seconds after which a worker that has shown no progress is taken to hang.

    A worker shows progress with every update. Start-up and one of the usual size take seconds; with
    long rollouts, or many workers to a core, they rightly take longer.
    """
    rollouts = max(config.workers, 1) / min(available_cpus(), max(config.workers, 1))
    if config.uses_central_learner:
        rollouts = max(rollouts, config.learner_batch)
    samples = rollouts * config.envs_per_worker * config.num_steps
    return max(HANG_TIMEOUT_S, SLOWEST_SAMPLE_S * samples)
