"""What the processes share: parameters, optimizer state, counters and the bonus's counts.

There is no lock. Workers read and write the same parameters at the same time (Hogwild, as in A3C),
and every counter has a single writer, so killing a process corrupts nothing.
"""

from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor, nn

from agents.a3c.bonus import num_counters
from agents.a3c.optimizers import OPTIMIZERS
from agents.config import TrainConfig
from agents.networks.actor_critic import ActorCritic
from agents.networks.flat_parameters import flatten


def shared_zeros(*shape: int, dtype: torch.dtype = torch.int64) -> Tensor:
    """Zeros in shared memory."""
    return torch.zeros(shape, dtype=dtype).share_memory_()


class Counter(IntEnum):
    """The columns of `SharedState.counters`."""

    STEPS = 0
    UPDATES = 1
    SKIPPED = 2


@dataclass(frozen=True)
class SharedState:
    """The shared parameters, the optimizer's state, and the counters of all workers.

    Attributes:
        parameters: Shape (N,), float32.
        optimizer_state: Shape (k, N), float32.
        counters: int64, shape (learners + 1, 3): a column for each `Counter`. Only the i-th learner
            writes row i: worker i, or the central learner, or the cluster's driver. The last row
            holds the counts of the checkpoint that was resumed.
        observed: In a node of a cluster that normalises observations, their sums, shape
            (workers, 1 + 3 D), see `add_observations_`. A process writes the row of its first
            worker. None elsewhere.
        stop: int64, shape (1,): nonzero when the workers should exit; only the parent writes it.
        bonus_counts: int64: counts of the exploration bonus; empty without one.
        warmup_steps: int64, shape (1,): the warm-up of worker processes that start from now on,
            see `GroupSpec`; only the parent writes it.
        warmup_rollouts: int64, shape (learners,): rollouts played in warm-ups, a sign of life. A
            process writes the row of its first worker.
    """

    parameters: Tensor
    optimizer_state: Tensor
    counters: Tensor
    stop: Tensor
    bonus_counts: Tensor
    warmup_steps: Tensor
    warmup_rollouts: Tensor
    observed: Tensor | None = None

    @classmethod
    def create(
        cls, module: nn.Module, num_state_tensors: int, learners: int, num_counters: int = 0
    ) -> "SharedState":
        """Put the module's parameters, and zeros for the rest, into shared memory.

        Args:
            module: The module whose parameters are shared.
            num_state_tensors: k.
            learners: The number of learners, each with a row of `counters` and `warmup_rollouts`.
            num_counters: The size of `bonus_counts`.
        """
        parameters = flatten(module)
        return cls(
            parameters=parameters.share_memory_(),
            optimizer_state=shared_zeros(num_state_tensors, len(parameters), dtype=torch.float32),
            counters=shared_zeros(learners + 1, len(Counter)),
            stop=shared_zeros(1),
            bonus_counts=shared_zeros(num_counters),
            warmup_steps=shared_zeros(1),
            warmup_rollouts=shared_zeros(learners),
        )

    @classmethod
    def for_training(cls, network: ActorCritic, config: TrainConfig) -> "SharedState":
        """Create the shared state of a run with this network and these settings."""
        alone = config.uses_central_learner or config.uses_cluster
        learners = 1 if alone else max(config.workers, 1)
        moments = OPTIMIZERS[config.optimizer].num_state_tensors
        counters = num_counters(config, network.spaces)
        return cls.create(network, moments, learners, counters)

    @property
    def global_step(self) -> int:
        """Agent steps of all processes together."""
        return int(self.counters[:, Counter.STEPS].sum())

    @property
    def updates(self) -> int:
        """Updates of all processes together."""
        return int(self.counters[:, Counter.UPDATES].sum())

    @property
    def skipped_updates(self) -> int:
        """Updates skipped because their gradient was not finite."""
        return int(self.counters[:, Counter.SKIPPED].sum())

    def is_over(self, total_timesteps: int) -> bool:
        """Whether the workers should exit: they were told to, or the budget is spent."""
        return bool(self.stop) or self.global_step >= total_timesteps

    def count(self, row: int, *, is_applied: bool, agent_steps: int) -> None:
        """Count one update.

        Args:
            row: The row of the learner that made it.
            is_applied: Whether its gradient was applied rather than skipped.
            agent_steps: The agent steps that it learned from.
        """
        self.counters[row, Counter.UPDATES if is_applied else Counter.SKIPPED] += 1
        self.counters[row, Counter.STEPS] += agent_steps
