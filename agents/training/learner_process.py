"""The process around the IMPALA-style learner: batches, publishing, records and crashes.

Only this process uses CUDA. It computes in float32 throughout: bfloat16, TF32, `torch.compile` and
CUDA graphs are not used, because none of them was measured.
"""

import signal
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import Any

import torch
from gymnasium.vector import VectorEnv

from agents.a3c.learner import Learner
from agents.a3c.rollout import Rollout
from agents.a3c.update import Update
from agents.a3c.worker_group import GroupSpec
from agents.config import TrainConfig
from agents.monitoring.records import RolloutRecord
from agents.networks.actor_critic import ActorCritic
from agents.networks.flat_parameters import flatten_parameters_
from agents.networks.program_statistics import program_statistics
from agents.system.child_process import init_child, report_crash
from agents.system.messages import send
from agents.training.batcher import RolloutBatcher, pin_memory
from agents.training.parameter_stores import DeviceStore
from agents.training.rollout_queue import RolloutQueue
from agents.training.rollout_worker import RolloutWorkerGroup
from agents.training.shared_state import Counter, SharedState
from agents.training.worker_process import UPDATES_BETWEEN_DIAGNOSTICS

# Seconds between two attempts to get a batch: a small part of an update's time.
POLL_INTERVAL_S = 1e-3
# A learner that is killed loses no more of the optimizer state than this.
SYNC_INTERVAL_S = 5.0
# The number of updates over which the rate is averaged.
RATE_WINDOW = 10


class LearnerRunner:
    """Feeds the learner with batches, publishes its parameters, and measures it.

    Parameters and optimizer state live on the learner's device. The parameters are published after
    every update, without a lock: a worker that copies them meanwhile acts with a mixture of two
    versions, which does no harm, because V-trace corrects by the logits that acted.

    Args:
        config: The settings.
        shared: The shared state: where parameters come from and are published. Counter row 0 is the
            learner's.
        queue: The queue that the rollouts come from.
    """

    def __init__(self, config: TrainConfig, shared: SharedState, queue: RolloutQueue) -> None:
        self.shared, self.queue = shared, queue
        device = torch.device(config.learner)
        if device.type == "cuda":
            torch.cuda.set_device(device.index or 0)
            torch.backends.cudnn.allow_tf32 = False
            for tensor in (shared.parameters, shared.optimizer_state):
                pin_memory(tensor, self)
        network = ActorCritic(queue.layout.spaces, config).to(device)
        flat = flatten_parameters_(network)
        self.store = DeviceStore(shared, config, flat.parameters)
        self.learner = Learner(config, network, flat, self.store)
        self.batcher = RolloutBatcher(queue, config.learner_batch, device)
        self._timer = DeviceTimer(device)
        self._update_ends: deque[float] = deque([time.monotonic()], maxlen=RATE_WINDOW)
        self._synced_at = time.monotonic()

    def update(self) -> Update | None:
        """Learn from one batch and publish; return None if too few rollouts are waiting."""
        self.queue.heartbeats[-1] += 1
        waiting = self.queue.waiting
        batch = self.batcher.next_batch()
        if batch is None:
            return None
        waited = time.monotonic() - self._update_ends[-1]
        lag = self.shared.updates - sum(batch.versions) / len(batch.versions)
        self._timer.start()
        update = self.learner.update(batch.rollout)
        metrics = update.metrics
        if update.is_applied:
            self._timer.stop()
            self.store.publish()
            if self.shared.counters[0, Counter.UPDATES] % UPDATES_BETWEEN_DIAGNOSTICS == 0:
                metrics = metrics | self._program_statistics(batch.rollout)
            metrics = metrics | {
                "a3c/policy_lag": lag,
                "learner/slots_waiting": waiting,
                "learner/batch_wait": waited,
                "learner/update_ms": self._timer.milliseconds,
                "learner/updates_per_s": self._update_rate(),
            }
        self.shared.count(0, is_applied=update.is_applied, agent_steps=update.agent_steps)
        self._update_ends.append(time.monotonic())
        return replace(update, metrics=metrics)

    def sync_optimizer_state(self) -> None:
        """Copy the optimizer state into shared memory, and answer who requested it."""
        requested = int(self.queue.sync_requests[0])
        self.store.sync_optimizer_state()
        self.queue.sync_requests[1] = requested
        self._synced_at = time.monotonic()

    def sync_if_due(self) -> None:
        """Copy the optimizer state if a checkpoint needs it, and at intervals in any case."""
        requested, answered = self.queue.sync_requests.tolist()
        if requested != answered or time.monotonic() - self._synced_at > SYNC_INTERVAL_S:
            self.sync_optimizer_state()

    def _update_rate(self) -> float:
        """Updates per second, over the last ones and this one."""
        return len(self._update_ends) / (time.monotonic() - self._update_ends[0])

    @torch.no_grad()
    def _program_statistics(self, rollout: Rollout) -> dict[str, float]:
        network = self.learner.network
        return program_statistics(
            network,
            network.forward_torso(rollout.observations)[:-1],
            rollout.initial_state,
            rollout.episode_starts[:-1],
            rollout.mask,
        )


class SerialLearner:
    """Rollout worker and learner in one process, in turns: deterministic, with the same code.

    Args:
        spec: The specification of the workers.
        shared: The shared state.
        queue: The queue between them and the learner.
    """

    def __init__(self, spec: GroupSpec, shared: SharedState, queue: RolloutQueue) -> None:
        self.group = RolloutWorkerGroup(spec, shared, queue)
        self.learner = LearnerRunner(spec.config, shared, queue)

    @property
    def env(self) -> VectorEnv[Any, Any, Any]:
        """The workers' environments."""
        return self.group.env

    def updates(self) -> Sequence[Update | RolloutRecord]:
        """Learn if a batch is waiting, or else collect rollouts; return the records."""
        update = self.learner.update()
        if update:
            self.learner.sync_optimizer_state()
            return [update]
        return self.group.collect()  # the queue has room for a batch and one more


class DeviceTimer:
    """Measures time on a device: with CUDA events, as CUDA calls return before they are done.

    Args:
        device: The device.
    """

    def __init__(self, device: torch.device) -> None:
        self._events = (
            [torch.cuda.Event(enable_timing=True) for _ in range(2)]
            if device.type == "cuda"
            else None
        )
        self._seconds = [0.0, 0.0]

    def start(self) -> None:
        """Start the timer."""
        self._record(0)

    def stop(self) -> None:
        """Stop the timer."""
        self._record(1)

    @property
    def milliseconds(self) -> float:
        """Between start and stop; on CUDA, this waits for the work to be done."""
        if self._events:
            self._events[1].synchronize()
            return self._events[0].elapsed_time(self._events[1])
        return 1000 * (self._seconds[1] - self._seconds[0])

    def _record(self, which: int) -> None:
        if self._events:
            self._events[which].record()
        self._seconds[which] = time.perf_counter()


def run_learner(
    connection: Connection, config: TrainConfig, shared: SharedState, queue: RolloutQueue
) -> None:
    """Run the learner process: update until the budget is spent or the parent says stop.

    Args:
        connection: The connection to the parent; updates are sent through it.
        config: The settings.
        shared: The shared state.
        queue: The queue that the rollouts come from.
    """
    init_child(connection)
    # It has the newest optimizer state, and exits only after the parent's stop flag is set.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with report_crash(connection, "the learner"):
        runner = LearnerRunner(config, shared, queue)
        while not shared.is_over(config.total_timesteps):
            update = runner.update()
            runner.sync_if_due()
            if update:
                send(connection, update)
            else:
                time.sleep(POLL_INTERVAL_S)
        runner.sync_optimizer_state()
