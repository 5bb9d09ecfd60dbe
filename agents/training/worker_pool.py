"""The processes that train: the workers' and, if there is one, the central learner's."""

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from enum import Enum
from typing import Any

from agents.a3c.worker_group import GroupSpec
from agents.config import TrainConfig
from agents.system.child_process import ChildProcess
from agents.system.resources import available_cpus
from agents.system.watchdog import Watchdog, cpu_time
from agents.training.learner_process import run_learner
from agents.training.managed_process import ManagedProcess
from agents.training.rollout_queue import RolloutQueue
from agents.training.rollout_worker import run_rollout_workers
from agents.training.shared_state import SharedState
from agents.training.worker_process import run_workers, spread_workers

log = logging.getLogger("train")

# A process that uses no CPU for this long, and makes no progress, is killed.
STILL_TIMEOUT_S = 60.0
# So is a process that computes for this long, and longer than the slowest update could take,
# without an update or a rollout of a warm-up. On an overloaded machine, a start-up of a second
# takes minutes.
HANG_TIMEOUT_S = 600.0
SLOWEST_SAMPLE_S = 0.1
# Checking all processes takes 0.3 ms, a third of the parent's other work per update.
CHECK_INTERVAL_S = 0.5
# Processes that take longer to exit are killed, so that a run stops soon when told to.
STOP_TIMEOUT_S = 5.0


class SyncState(Enum):
    """Whether the optimizer state in shared memory is up to date, for a checkpoint."""

    IDLE = "not requested"
    REQUESTED = "requested from the learner"
    READY = "in shared memory"


class WorkerPool:
    """The workers of a run, and its central learner if there is one.

    Args:
        spec: The specification of any of the groups of workers, in its first incarnation.
        shared: The shared state.
        queue: The rollout queue; None if the workers learn themselves.

    Attributes:
        groups: The indices of the workers that each process hosts.
        worker_processes: The processes of these groups, in the same order.
        learner: The central learner; None if the workers learn themselves.
        stop_timeout: Seconds that the processes have to exit.
    """

    stop_timeout = STOP_TIMEOUT_S

    def __init__(
        self, spec: GroupSpec, shared: SharedState, queue: RolloutQueue | None = None
    ) -> None:
        self._spec, self.shared, self.queue = spec, shared, queue
        self.groups = spread_workers(spec.config)
        self.worker_processes = [self._make_worker_process(workers) for workers in self.groups]
        self.learner = self._make_learner(queue) if queue else None
        # Two counts: requests for the optimizer state, and answers.
        self._sync_requests = queue.sync_requests if queue else None
        self._sync_requested = False
        self._last_check = -CHECK_INTERVAL_S
        self._updates = Watchdog(hang_timeout(spec.config))
        self._signs_of_life = Watchdog(STILL_TIMEOUT_S)

    @property
    def processes(self) -> list[ManagedProcess]:
        """The processes that are running."""
        return [process for process in self._all_processes if process.child]

    @property
    def children(self) -> list[ChildProcess]:
        """Their child processes."""
        return [process.child for process in self.processes if process.child]

    @property
    def workers_alive(self) -> int:
        """The number of workers whose process is running."""
        processes = zip(self.worker_processes, self.groups, strict=True)
        return sum(len(workers) for process, workers in processes if process.child)

    @property
    def restarts(self) -> int:
        """The number of processes that died and were restarted."""
        return sum(process.restarts for process in self._all_processes)

    @property
    def gauges(self) -> dict[str, float]:
        """TensorBoard tag -> current value, of quantities that only some pools have."""
        return {}

    def start(self) -> None:
        """Start all processes.

        Raises:
            TrainingFailedError: If this fails repeatedly.
        """
        for process in self._all_processes:
            process.start()

    @property
    def sync_state(self) -> SyncState:
        """The state of the request for the optimizer state, which is on the learner's device."""
        if not self._sync_requested:
            return SyncState.IDLE
        if self._sync_requests is None or self.learner is None or self.learner.child is None:
            return SyncState.READY
        requested, answered = self._sync_requests.tolist()
        return SyncState.READY if requested == answered else SyncState.REQUESTED

    def request_sync(self) -> None:
        """Ask for the optimizer state in shared memory; `sync_state` tells when it is there."""
        self._sync_requested = True
        if self._sync_requests is not None and self.learner and self.learner.child:
            self._sync_requests[0] += 1

    def finish_sync(self) -> None:
        """Return to `SyncState.IDLE`."""
        self._sync_requested = False

    def kill_hung(self) -> None:
        """Kill processes that have made no progress for too long.

        Their connections then end, and they are restarted like any process that died. Checks are
        made at most twice a second, however often this is called.
        """
        now = time.monotonic()
        if now - self._last_check < CHECK_INTERVAL_S:
            return
        self._last_check = now
        processes = {process.name: process for process in self.processes}
        updates = {name: process.heartbeat() for name, process in processes.items()}
        times = {p.name: cpu_time(p.child.process.pid) for p in processes.values() if p.child}
        alive = {name: (updates[name], cpu) for name, cpu in times.items() if cpu is not None}
        for what, watchdog, heartbeats in (
            ("made no progress", self._updates, updates),
            ("used no CPU", self._signs_of_life, alive),
        ):
            for name in watchdog.check(heartbeats):
                log.warning("%s %s for %.0f s; killing it", name, what, watchdog.timeout)
                processes[name].kill()

    def kill(self) -> None:
        """Kill the processes that are still running."""
        processes = self.processes
        for process in processes:
            log.warning("%s did not exit in time; killing it", process.name)
            process.kill()
        for process in processes:
            process.reap()

    @property
    def _all_processes(self) -> list[ManagedProcess]:
        """The learner, if there is one, and the worker processes, running or not."""
        return [*([self.learner] if self.learner else []), *self.worker_processes]

    def _make_worker_process(self, workers: range) -> ManagedProcess:
        rows = slice(workers.start, workers.stop)
        first = replace(self._spec, workers=workers)

        def target(incarnation: int) -> tuple[Callable[..., None], tuple[Any, ...]]:
            warmup_steps = int(self.shared.warmup_steps)
            if warmup_steps and incarnation > first.incarnation:
                log.info("%s: restart with a warm-up of %d agent steps", first.name, warmup_steps)
            spec = replace(first, incarnation=incarnation, warmup_steps=warmup_steps)
            if self.queue:
                return run_rollout_workers, (spec, self.shared, self.queue)
            return run_workers, (spec, self.shared)

        def progress() -> int:
            counts = self.queue.write_count if self.queue else self.shared.counters
            return int(counts[rows].sum())

        def heartbeat() -> tuple[int, ...]:
            if self.queue:
                return tuple(self.queue.heartbeats[rows].tolist())
            counts, warmup = self.shared.counters[rows], self.shared.warmup_rollouts[rows]
            return (*counts.flatten().tolist(), *warmup.tolist())

        return ManagedProcess(first.name, target, progress, heartbeat, first.incarnation)

    def _make_learner(self, queue: RolloutQueue) -> ManagedProcess:
        arguments = (self._spec.config, self.shared, queue)
        return ManagedProcess(
            "the learner",
            lambda _: (run_learner, arguments),
            progress=lambda: int(self.shared.counters[0].sum()),
            heartbeat=lambda: (int(queue.heartbeats[-1]),),
        )


def hang_timeout(config: TrainConfig) -> float:
    """Return the seconds without progress after which a process is considered hung.

    Every update of one of its workers is progress. A start-up, or an update of the usual size,
    takes seconds. With long rollouts or many workers per core an update may take longer, because
    all workers of a process act before the first of them learns.
    """
    processes = max(len(spread_workers(config)), 1)
    rollouts = max(config.workers, 1) / min(available_cpus(), processes)
    if config.uses_central_learner:
        rollouts = max(rollouts, config.learner_batch)
    samples = rollouts * config.envs_per_worker * config.num_steps
    return max(HANG_TIMEOUT_S, SLOWEST_SAMPLE_S * samples)
