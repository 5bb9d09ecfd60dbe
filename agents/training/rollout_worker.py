"""Rollout workers, which act for the central learner and do not learn themselves."""

import time
from multiprocessing.connection import Connection

from agents.a3c.rollout import Rollout
from agents.a3c.worker_group import ActorGroup, GroupSpec
from agents.monitoring.records import RolloutRecord
from agents.system.child_process import init_child, report_crash
from agents.system.messages import send
from agents.training.parameter_stores import SharedMemoryStore
from agents.training.rollout_queue import RolloutQueue
from agents.training.shared_state import SharedState

# Seconds between two attempts to acquire an entry: far less than filling one takes.
POLL_INTERVAL_S = 1e-3


class RolloutWorkerGroup(ActorGroup):
    """The rollout workers of one process, which write rollouts into the queue.

    Args:
        spec: The specification of the workers.
        shared: The shared state.
        queue: The queue that the rollouts are written to.
    """

    def __init__(self, spec: GroupSpec, shared: SharedState, queue: RolloutQueue) -> None:
        super().__init__(spec, SharedMemoryStore(shared, spec.config))
        self.shared, self.queue = shared, queue
        self._entries = {
            worker: [Rollout.from_memory(queue.layout.views(m)) for m in queue.memory[worker]]
            for worker in spec.workers
        }

    def collect(self) -> list[RolloutRecord]:
        """Collect and commit a rollout of each worker.

        Returns:
            A record of each; none if a worker has no free entry, in which case nothing was played,
            or during the warm-up, in which case nothing was committed.
        """
        for worker in self.workers:
            self.queue.heartbeats[worker] += 1
        free = {worker: self.queue.acquire(worker) for worker in self.workers}
        entries = {worker: entry for worker, entry in free.items() if entry is not None}
        if len(entries) < len(free):
            return []
        rollouts = [self._entries[worker][entry] for worker, entry in entries.items()]
        if self.warm_up(rollouts):
            return []
        # The version is read before the pull: parameters published during the copy are newer. Such
        # a mixture of two versions is a policy like any other, and its logits are recorded.
        version = self.shared.updates
        self.store.pull(self.flat.parameters)
        self.collector.collect(rollouts)
        for worker, entry in entries.items():
            self.queue.commit(worker, entry, version)
        return [RolloutRecord(episodes) for episodes in self.collector.episodes]


def run_rollout_workers(
    connection: Connection, spec: GroupSpec, shared: SharedState, queue: RolloutQueue
) -> None:
    """Run the process: collect until the budget is spent or the parent says stop.

    Args:
        connection: The connection to the parent; records are sent through it.
        spec: The specification of the process's workers.
        shared: The shared state.
        queue: The queue that the rollouts are written to.
    """
    init_child(connection)
    with report_crash(connection, spec.name):
        group = RolloutWorkerGroup(spec, shared, queue)
        while not shared.is_over(spec.config.total_timesteps):
            records = group.collect()
            for record in records:
                send(connection, record)
            if not records:
                time.sleep(POLL_INTERVAL_S)
