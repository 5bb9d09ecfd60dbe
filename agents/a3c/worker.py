"""The actor-learner: Algorithm S3 of the A3C paper, with n-step returns or GAE.

Beside it stands the worker that plays for a learner: an update of both begins with the newest
parameters and t_max steps, and ends with a gradient pushed here, a rollout handed over there.
"""

import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv

from agents.a3c.collector import Collector, action_count
from agents.a3c.gradients import compute_gradients
from agents.a3c.optimizers import OPTIMIZERS
from agents.a3c.returns import lambda_returns
from agents.a3c.rollout import Rollout
from agents.config import TrainConfig
from agents.monitoring.records import RolloutRecord, UpdateRecord
from agents.networks.actor_critic import ActorCritic
from agents.networks.flat_parameters import flatten_parameters_
from agents.networks.program_statistics import program_statistics
from agents.system.child_process import init_child, report_crash
from agents.system.messages import send
from agents.training.rollout_queue import RolloutQueue, SlotRollout
from agents.training.shared_state import SharedState
from envs import AtariTrainingEnv

# Opening the heads costs some twenty forward passes; once in so many updates it is not noticed.
UPDATES_BETWEEN_DIAGNOSTICS = 100
# Between two looks for a free slot: far less than it takes to fill one.
POLL_INTERVAL_S = 1e-3

EnvironmentFactory = Callable[[TrainConfig, np.ndarray], VectorEnv[Any, Any, Any]]


def make_training_env(config: TrainConfig, seeds: np.ndarray) -> AtariTrainingEnv:
    """Make a worker's environments, one for each seed."""
    return AtariTrainingEnv(config.atari, len(seeds), seeds=seeds)


class Actor:
    """Plays with the newest shared parameters.

    Args:
        index: which of the workers.
        config: the settings.
        shared: parameters, statistics and counters.
        make_env: makes its environments from the settings and their seeds, shape (B,).
        incarnation: differs at every start of this worker, also in a resumed run; seeds its games.
    """

    def __init__(
        self,
        index: int,
        config: TrainConfig,
        shared: SharedState,
        make_env: EnvironmentFactory = make_training_env,
        incarnation: int = 0,
    ) -> None:
        self.index, self.config, self.shared = index, config, shared
        sequence = np.random.SeedSequence((config.seed, index, incarnation))
        env_seeds, action_seed = sequence.spawn(2)
        seeds = env_seeds.generate_state(config.envs_per_worker) % 2**31
        env = make_env(config, seeds.astype(np.int64))

        self.env = env
        self.network = ActorCritic(action_count(env), config)
        self.flat = flatten_parameters_(self.network)
        self.pull_parameters()
        self.collector = Collector(
            env,
            self.network,
            num_steps=config.num_steps,
            gamma=config.gamma,
            gae_lambda=config.gae_lambda,
            random=np.random.default_rng(action_seed),
        )

    def pull_parameters(self) -> None:
        """Take the newest shared parameters."""
        self.flat.parameters.copy_(self.shared.parameters)


class Worker(Actor):
    """One actor-learner; arguments as of `Actor`."""

    def __init__(
        self,
        index: int,
        config: TrainConfig,
        shared: SharedState,
        make_env: EnvironmentFactory = make_training_env,
        incarnation: int = 0,
    ) -> None:
        super().__init__(index, config, shared, make_env, incarnation)
        optimizer = OPTIMIZERS[config.optimizer]
        self.optimizer = optimizer(
            shared.parameters, shared.optimizer_state, eps=config.optimizer_eps
        )

    def update(self) -> UpdateRecord:
        """Play t_max steps, learn from them, and change the shared parameters."""
        self.pull_parameters()
        rollout = self.collector.collect()
        scalars = self.compute_gradients(rollout)
        counters = self.shared.counters[self.index]
        if scalars:
            self.apply_gradients()
            if counters[1] % UPDATES_BETWEEN_DIAGNOSTICS == 0 and self.index == 0:
                seen = rollout.recall(self.network)
                scalars |= program_statistics(
                    self.network, seen, rollout.initial_state, rollout.episode_starts, rollout.mask
                )
            counters[1] += 1
        else:
            counters[2] += 1
        counters[0] += int(rollout.mask.sum())
        return UpdateRecord(self.index, self.collector.episodes, scalars)

    def apply_gradients(self) -> None:
        """Apply the gradient to the shared parameters."""
        learning_rate = self.config.learning_rate_at(self.shared.global_step)
        self.optimizer.step(self.flat.gradients, learning_rate, self.shared.updates)

    def compute_gradients(self, rollout: Rollout) -> dict[str, float]:
        """Leave the gradient of the loss in `self.flat.gradients`; return what is to be logged.

        The result is empty, and the gradient of no use, where its norm is not finite.
        """
        judged = rollout.judge(self.network)
        values = judged.values.detach()
        returns = lambda_returns(
            rollout.rewards.clamp(-1, 1),
            rollout.discounts,
            rollout.lambdas,
            values,
            rollout.bootstrap_value,
        )
        advantages = returns - values
        return compute_gradients(
            self.network, self.flat, self.config, rollout, judged, returns, advantages
        )


class RolloutWorker(Actor):
    """One that only plays, for the learner.

    Args:
        index: which of the workers.
        config: the settings.
        shared: parameters and counters.
        queue: where the rollouts go.
        make_env: as of `Actor`.
        incarnation: as of `Actor`.
    """

    def __init__(
        self,
        index: int,
        config: TrainConfig,
        shared: SharedState,
        queue: RolloutQueue,
        make_env: EnvironmentFactory = make_training_env,
        incarnation: int = 0,
    ) -> None:
        super().__init__(index, config, shared, make_env, incarnation)
        self.queue = queue
        self._rollouts = [
            SlotRollout.of(queue.layout.views(memory)) for memory in queue.memory[index]
        ]

    def update(self) -> RolloutRecord | None:
        """Play t_max steps and hand them over; do nothing, and return None, without a free slot."""
        self.queue.heartbeats[self.index] += 1
        slot = self.queue.acquire(self.index)
        if slot is None:
            return None
        # Asked for first: parameters that come in while they are copied make them newer than this.
        # Such a mixture is a policy like any other; what it thought is written down.
        version = self.shared.updates
        self.pull_parameters()
        self.collector.collect_into(self._rollouts[slot])
        self.queue.commit(self.index, slot, version)
        return RolloutRecord(self.index, self.collector.episodes)


def run_worker(
    connection: Connection,
    index: int,
    config: TrainConfig,
    shared: SharedState,
    make_env: EnvironmentFactory,
    incarnation: int,
    queue: RolloutQueue | None = None,
) -> None:
    """The worker process: update until the budget is spent or the parent says stop.

    Args:
        connection: to the parent. Records go through it; its end says that the parent is gone.
        index: of this worker.
        config: the settings.
        shared: what all workers share.
        make_env: makes its environments.
        incarnation: differs at every start of this worker.
        queue: where rollouts go; None where the worker learns from them itself.
    """
    init_child(connection)
    with report_crash(connection, f"worker {index}"):
        worker: Worker | RolloutWorker
        if queue is None:
            worker = Worker(index, config, shared, make_env, incarnation)
        else:
            worker = RolloutWorker(index, config, shared, queue, make_env, incarnation)
        while not shared.stop and shared.global_step < config.total_timesteps:
            record = worker.update()
            if record:
                send(connection, record)
            else:
                time.sleep(POLL_INTERVAL_S)
