"""The rollout worker: acts for the central learner, and does not learn itself."""

import time
from multiprocessing.connection import Connection

from agents.a3c.rollout import Rollout
from agents.a3c.worker import Actor, WorkerSpec
from agents.monitoring.records import RolloutRecord
from agents.system.child_process import init_child, report_crash
from agents.system.messages import send
from agents.training.parameter_stores import SharedMemoryStore
from agents.training.rollout_queue import RolloutQueue
from agents.training.shared_state import SharedState

# Seconds between two attempts to acquire an entry: far less than filling one takes.
POLL_INTERVAL_S = 1e-3


class RolloutWorker(Actor):
    """Writes rollouts into the queue.

    Args:
        spec: The worker's specification.
        shared: The shared state.
        queue: The queue that the rollouts are written to.
    """

    def __init__(self, spec: WorkerSpec, shared: SharedState, queue: RolloutQueue) -> None:
        super().__init__(spec, SharedMemoryStore(shared, spec.config))
        self.shared, self.queue = shared, queue
        memories = queue.memory[self.index]
        self._entries = [Rollout.from_memory(queue.layout.views(memory)) for memory in memories]

    def update(self) -> RolloutRecord | None:
        """Collect a rollout and commit it; return None if no entry of the queue is free."""
        self.queue.heartbeats[self.index] += 1
        entry = self.queue.acquire(self.index)
        if entry is None:
            return None
        # Read before the pull: parameters published while they are copied are newer than this. Such
        # a mixture of two versions is a policy like any other, and its logits are recorded.
        version = self.shared.updates
        self.store.pull(self.flat.parameters)
        self.collector.collect(self._entries[entry])
        self.queue.commit(self.index, entry, version)
        return RolloutRecord(self.index, self.collector.episodes)


def run_rollout_worker(
    connection: Connection, spec: WorkerSpec, shared: SharedState, queue: RolloutQueue
) -> None:
    """Run the process: collect until the budget is spent or the parent says stop.

    Args:
        connection: The connection to the parent; records are sent through it.
        spec: The worker's specification.
        shared: The shared state.
        queue: The queue that the rollouts are written to.
    """
    init_child(connection)
    with report_crash(connection, f"worker {spec.index}"):
        worker = RolloutWorker(spec, shared, queue)
        while not shared.stop and shared.global_step < spec.config.total_timesteps:
            record = worker.update()
            if record:
                send(connection, record)
            else:
                time.sleep(POLL_INTERVAL_S)
