"""The process around a group of actor-learners: records, counters, crashes and the stop flag."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from multiprocessing.connection import Connection
from typing import Any

from gymnasium.vector import VectorEnv

from agents.a3c.update import Update
from agents.a3c.worker_group import GroupSpec
from agents.config import TrainConfig
from agents.networks.program_statistics import program_statistics
from agents.system.child_process import init_child, report_crash
from agents.system.messages import send
from agents.system.resources import available_cpus
from agents.training.parameter_stores import SharedMemoryStore
from agents.training.shared_state import Counter, SharedState

# Program statistics cost about twenty forward passes: negligible once in this many updates.
UPDATES_BETWEEN_DIAGNOSTICS = 100


def spread_workers(config: TrainConfig) -> list[range]:
    """Return the workers of each process: spread evenly, in the order of their indices."""
    if config.workers == 0:
        return []
    processes = min(config.processes or available_cpus(), config.workers)
    bounds = [process * config.workers // processes for process in range(processes + 1)]
    return [range(first, end) for first, end in pairwise(bounds)]


class WorkerRunner:
    """Counts the updates of a group of workers, and adds program statistics to some of them.

    Args:
        spec: The specification of the workers.
        shared: The shared state.
    """

    def __init__(self, spec: GroupSpec, shared: SharedState) -> None:
        self.shared = shared
        store = SharedMemoryStore(shared, spec.config, spec.workers.start)
        self.group = spec.group_class(spec, store)

    @property
    def env(self) -> VectorEnv[Any, Any, Any]:
        """The workers' environments."""
        return self.group.env

    def updates(self) -> Iterator[Update]:
        """Make one update of each worker, and yield each once it is counted.

        During the warm-up a rollout of each is played instead, and nothing yielded.
        """
        if self.group.warm_up(self.group.rollouts):
            self.shared.warmup_rollouts[self.group.workers.start] += 1
            return
        for worker, update in zip(self.group.workers, self.group.updates(), strict=True):
            if update.is_applied and self._diagnostics_due(worker):
                update = replace(update, metrics=update.metrics | self._program_statistics())
            self.shared.count(worker, is_applied=update.is_applied, agent_steps=update.agent_steps)
            yield update

    def _diagnostics_due(self, worker: int) -> bool:
        updates = int(self.shared.counters[worker, Counter.UPDATES])
        return worker == 0 and updates % UPDATES_BETWEEN_DIAGNOSTICS == 0

    def _program_statistics(self) -> dict[str, float]:
        """Statistics of the first worker's newest rollout."""
        rollout, features = self.group.rollouts[0], self.group.torso_caches[0].features
        return program_statistics(
            self.group.network,
            features.unflatten(0, rollout.actions.shape),
            rollout.initial_state,
            rollout.episode_starts[:-1],
            rollout.mask,
        )


def run_workers(connection: Connection, spec: GroupSpec, shared: SharedState) -> None:
    """Run a worker process: update until the budget is spent or the parent says stop.

    Args:
        connection: The connection to the parent; updates are sent through it.
        spec: The specification of the process's workers.
        shared: The shared state.
    """
    init_child(connection)
    with report_crash(connection, spec.name):
        runner = WorkerRunner(spec, shared)
        while not shared.is_over(spec.config.total_timesteps):
            for update in runner.updates():
                send(connection, update)
