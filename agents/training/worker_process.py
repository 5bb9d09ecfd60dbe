"""The worker process around the actor-learner: records, counters, crashes and the stop flag."""

from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from gymnasium.vector import VectorEnv

from agents.a3c.parameter_store import ParameterStore
from agents.a3c.worker import Worker, WorkerSpec
from agents.monitoring.records import UpdateRecord
from agents.networks.program_statistics import program_statistics
from agents.system.child_process import init_child, report_crash
from agents.system.messages import send
from agents.training.parameter_stores import SharedMemoryStore
from agents.training.shared_state import Counter, SharedState

# Program statistics take about twenty forward passes, which is negligible once in so many updates.
UPDATES_BETWEEN_DIAGNOSTICS = 100

# Importable by name, because it is sent to other processes.
WorkerClass = Callable[[WorkerSpec, ParameterStore], Worker]


class WorkerRunner:
    """Counts a worker's updates and turns them into records.

    Args:
        spec: The worker's specification.
        shared: The shared state.
        worker_class: Makes the worker.
    """

    def __init__(
        self, spec: WorkerSpec, shared: SharedState, worker_class: WorkerClass = Worker
    ) -> None:
        self.index, self.shared = spec.index, shared
        self.worker = worker_class(spec, SharedMemoryStore(shared, spec.config))

    @property
    def env(self) -> VectorEnv[Any, Any, Any]:
        """The worker's environments."""
        return self.worker.env

    def update(self) -> UpdateRecord:
        """Make one update."""
        update = self.worker.update()
        metrics = update.metrics
        if update.is_applied and self._diagnostics_due:
            metrics = metrics | self._program_statistics()
        self.shared.count(self.index, is_applied=update.is_applied, agent_steps=update.agent_steps)
        return UpdateRecord(self.index, update.episodes, update.is_applied, metrics)

    @property
    def _diagnostics_due(self) -> bool:
        updates = int(self.shared.counters[self.index, Counter.UPDATES])
        return self.index == 0 and updates % UPDATES_BETWEEN_DIAGNOSTICS == 0

    def _program_statistics(self) -> dict[str, float]:
        network, rollout = self.worker.network, self.worker.rollout
        features = network.torso.cached_features(self.worker.torso_cache)
        return program_statistics(
            network,
            features.unflatten(0, rollout.actions.shape),
            rollout.initial_state,
            rollout.episode_starts[:-1],
            rollout.mask,
        )


def run_worker(
    connection: Connection, spec: WorkerSpec, shared: SharedState, worker_class: WorkerClass
) -> None:
    """Run the worker process: update until the budget is spent or the parent says stop.

    Args:
        connection: The connection to the parent; records are sent through it.
        spec: The worker's specification.
        shared: The shared state.
        worker_class: Makes the worker.
    """
    init_child(connection)
    with report_crash(connection, f"worker {spec.index}"):
        runner = WorkerRunner(spec, shared, worker_class)
        while not shared.stop and shared.global_step < spec.config.total_timesteps:
            send(connection, runner.update())
