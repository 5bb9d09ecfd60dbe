"""The one learner: batches of rollouts that workers played, V-trace, and an optimizer on a device.

Only this process touches CUDA. It computes in float32 throughout: neither bfloat16 nor TF32,
`torch.compile` nor CUDA graphs are used, for none of them was measured.
"""

import signal
import time
from collections import deque
from multiprocessing.connection import Connection
from typing import Any

import torch
from gymnasium.vector import VectorEnv

from agents.a3c.gradients import compute_gradients
from agents.a3c.losses import log_prob
from agents.a3c.optimizers import OPTIMIZERS
from agents.a3c.returns import vtrace
from agents.a3c.worker import (
    UPDATES_BETWEEN_DIAGNOSTICS,
    EnvironmentFactory,
    RolloutWorker,
    make_training_env,
)
from agents.config import TrainConfig
from agents.monitoring.records import RolloutRecord, UpdateRecord
from agents.networks.actor_critic import ActorCritic
from agents.networks.flat_parameters import flatten_parameters_
from agents.networks.program_statistics import program_statistics
from agents.system.child_process import init_child, report_crash
from agents.system.messages import send
from agents.training.batcher import Batch, RolloutBatcher, pin_memory
from agents.training.rollout_queue import RolloutQueue
from agents.training.shared_state import SharedState

# Between two looks for rollouts: little of an update's time.
POLL_INTERVAL_S = 1e-3
# A learner that is killed costs no more of the optimizer's statistics than this.
SYNC_INTERVAL_S = 5.0
# Over so many updates the rate is taken.
RATE_WINDOW = 10


class Learner:
    """Learns from what the workers played.

    Parameters and the optimizer's statistics live on its device. The parameters are published
    after every update, without a lock: a worker that copies them meanwhile plays with a mixture of
    two neighbours, which does no harm, for V-trace corrects by the logits that acted.

    Args:
        config: the settings.
        shared: what it starts from, and where it publishes. Its counters are row 0.
        queue: where the rollouts come from.
    """

    def __init__(self, config: TrainConfig, shared: SharedState, queue: RolloutQueue) -> None:
        self.config, self.shared, self.queue = config, shared, queue
        self.device = device = torch.device(config.learner)
        if device.type == "cuda":
            torch.cuda.set_device(device.index or 0)
            torch.backends.cudnn.allow_tf32 = False
            for tensor in (shared.parameters, shared.optimizer_state):
                pin_memory(tensor, self)
        self.network = ActorCritic(queue.layout.num_actions, config).to(device)
        self.flat = flatten_parameters_(self.network)
        self.flat.parameters.copy_(shared.parameters)
        self.statistics = shared.optimizer_state.to(device, copy=True)
        optimizer = OPTIMIZERS[config.optimizer]
        self.optimizer = optimizer(self.flat.parameters, self.statistics, eps=config.optimizer_eps)
        self.batcher = RolloutBatcher(queue, config.learner_batch, device)
        self._watch = DeviceTimer(device)
        self._ended: deque[float] = deque([time.monotonic()], maxlen=RATE_WINDOW)
        self._synced_at = time.monotonic()

    def update(self) -> UpdateRecord | None:
        """Learn from one batch and publish; do nothing, and return None, while too few wait."""
        self.queue.heartbeats[-1] += 1
        waiting = self.queue.waiting
        batch = self.batcher.next_batch()
        if batch is None:
            return None
        waited = time.monotonic() - self._ended[-1]
        counters = self.shared.counters[0]
        lag = self.shared.updates - sum(batch.versions) / len(batch.versions)
        self._watch.start()
        scalars = self.compute_gradients(batch)
        if scalars:
            self.step()
            self._watch.stop()
            self.publish()
            if counters[1] % UPDATES_BETWEEN_DIAGNOSTICS == 0:
                with torch.no_grad():
                    seen = batch.recall(self.network)
                scalars |= program_statistics(
                    self.network, seen, batch.initial_state, batch.episode_starts, batch.mask
                )
            counters[1] += 1
            scalars |= {
                "a3c/policy_lag": lag,
                "learner/slots_waiting": waiting,
                "learner/batch_wait": waited,
                "learner/update_ms": self._watch.milliseconds,
                "learner/updates_per_s": self._rate(),
            }
        else:
            counters[2] += 1
        counters[0] += int(batch.mask.sum())
        self._ended.append(time.monotonic())
        return UpdateRecord(self.queue.memory.shape[0], [], scalars)

    def _rate(self) -> float:
        """Updates a second, over the last ones and the present."""
        return len(self._ended) / (time.monotonic() - self._ended[0])

    def compute_gradients(self, batch: Batch) -> dict[str, float]:
        """Leave the gradient of the loss in `self.flat.gradients`; return what is to be logged.

        The result is empty, and the gradient of no use, where its norm is not finite.
        """
        judged = batch.judge(self.network)
        behaviour = log_prob(batch.behaviour_logits, batch.actions)
        target = vtrace(
            batch.rewards.clamp(-1, 1),
            batch.discounts,
            batch.lambdas,
            judged.values.detach(),
            judged.bootstrap_value,
            log_prob(judged.logits.detach(), batch.actions) - behaviour,
        )
        return compute_gradients(self.network, self.flat, self.config, batch, judged, *target)

    def step(self) -> None:
        """Apply the gradient on the device."""
        learning_rate = self.config.learning_rate_at(self.shared.global_step)
        self.optimizer.step(self.flat.gradients, learning_rate, self.shared.updates)

    def publish(self) -> None:
        """Give the workers the newest parameters."""
        self.shared.parameters.copy_(self.flat.parameters)

    def sync_optimizer_state(self) -> None:
        """Give the shared state the optimizer's statistics, and answer who asked for them."""
        asked = int(self.queue.sync_requests[0])
        self.shared.optimizer_state.copy_(self.statistics)
        self.queue.sync_requests[1] = asked
        self._synced_at = time.monotonic()

    def sync_if_due(self) -> None:
        """Write back where a checkpoint wants it, and now and then in any case."""
        asked, answered = self.queue.sync_requests.tolist()
        if asked != answered or time.monotonic() - self._synced_at > SYNC_INTERVAL_S:
            self.sync_optimizer_state()


class SerialLearner:
    """Both in one process, taking turns: the same code as in processes, and deterministic.

    Args:
        config: the settings.
        shared: parameters, statistics and counters.
        queue: of one worker.
        make_env: makes the worker's environments.
        incarnation: as of a worker.
    """

    def __init__(
        self,
        config: TrainConfig,
        shared: SharedState,
        queue: RolloutQueue,
        make_env: EnvironmentFactory = make_training_env,
        incarnation: int = 0,
    ) -> None:
        self.worker = RolloutWorker(0, config, shared, queue, make_env, incarnation)
        self.learner = Learner(config, shared, queue)

    @property
    def env(self) -> VectorEnv[Any, Any, Any]:
        """The worker's environments."""
        return self.worker.env

    def update(self) -> UpdateRecord | RolloutRecord:
        """Learn where a batch waits; play where none does."""
        learned = self.learner.update()
        if learned:
            self.learner.sync_optimizer_state()
            return learned
        played = self.worker.update()
        assert played is not None  # there is room for a batch and one more
        return played


class DeviceTimer:
    """Measures work on a device: with its own events on CUDA, where calls return before it is done.

    Args:
        device: what is measured.
    """

    def __init__(self, device: torch.device) -> None:
        self._events = (
            [torch.cuda.Event(enable_timing=True) for _ in range(2)]
            if device.type == "cuda"
            else None
        )
        self._seconds = [0.0, 0.0]

    def start(self) -> None:
        """Begin."""
        self._note(0)

    def stop(self) -> None:
        """End."""
        self._note(1)

    @property
    def milliseconds(self) -> float:
        """Between start and stop; on CUDA, this waits for the work to be done."""
        if self._events:
            self._events[1].synchronize()
            return self._events[0].elapsed_time(self._events[1])
        return 1000 * (self._seconds[1] - self._seconds[0])

    def _note(self, which: int) -> None:
        if self._events:
            self._events[which].record()
        self._seconds[which] = time.perf_counter()


def run_learner(
    connection: Connection, config: TrainConfig, shared: SharedState, queue: RolloutQueue
) -> None:
    """The learner process: update until the budget is spent or the parent says stop.

    Args:
        connection: to the parent. Records go through it; its end says that the parent is gone.
        config: the settings.
        shared: parameters, statistics and counters.
        queue: where the rollouts come from.
    """
    init_child(connection)
    # It holds the newest statistics, and ends when the parent has said so, not with it.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with report_crash(connection, "the learner"):
        learner = Learner(config, shared, queue)
        while not shared.stop and shared.global_step < config.total_timesteps:
            record = learner.update()
            learner.sync_if_due()
            if record:
                send(connection, record)
            else:
                time.sleep(POLL_INTERVAL_S)
        learner.sync_optimizer_state()
