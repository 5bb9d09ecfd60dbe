"""What the processes share: parameters, optimizer statistics and counters, a mapping each.

There is no lock. Workers read and write the same parameters at the same time (Hogwild, as in A3C),
and every counter has a single writer, so a process that is killed takes nothing with it.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from agents.networks.flat_parameters import flatten


@dataclass(frozen=True)
class SharedState:
    """The parameter store, the optimizer's statistics, and the counters of all workers.

    Attributes:
        parameters: shape (N,), float32.
        optimizer_state: the optimizer's, shape (k, N), float32.
        counters: int64, shape (learners + 1, 3): decisions, updates and skipped updates. Row i is
            written by the i-th process that learns alone, that is by worker i or by the one
            learner; the last row is what a resumed run had done before.
        stop: int64, shape (1,): not zero when the workers shall end; written by the parent alone.
    """

    parameters: Tensor
    optimizer_state: Tensor
    counters: Tensor
    stop: Tensor

    @classmethod
    def create(cls, module: nn.Module, num_state_tensors: int, learners: int) -> "SharedState":
        """Put the module's parameters, and zeros for the rest, into shared memory.

        Args:
            module: whose parameters these are.
            num_state_tensors: k.
            learners: processes that learn.
        """
        parameters = flatten(module)
        return cls(
            parameters=parameters.share_memory_(),
            optimizer_state=torch.zeros(num_state_tensors, len(parameters)).share_memory_(),
            counters=torch.zeros(learners + 1, 3, dtype=torch.int64).share_memory_(),
            stop=torch.zeros(1, dtype=torch.int64).share_memory_(),
        )

    @property
    def global_step(self) -> int:
        """Decisions that were learned from, by all together."""
        return int(self.counters[:, 0].sum())

    @property
    def updates(self) -> int:
        """Updates of all together."""
        return int(self.counters[:, 1].sum())

    @property
    def skipped_updates(self) -> int:
        """Updates left out because their gradient was not finite."""
        return int(self.counters[:, 2].sum())
