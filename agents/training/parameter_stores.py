"""Where workers and learner pull parameters from and push gradients to."""

from functools import cached_property

import torch
from torch import Tensor

from agents.a3c.optimizers import OPTIMIZERS, SharedOptimizer
from agents.config import TrainConfig
from agents.networks.normalization import add_observations_, merge_observations_
from agents.training.shared_state import SharedState


class _Store:
    """Parameters, shape (N,), and their optimizer; the counts are in the shared state."""

    def __init__(
        self, shared: SharedState, config: TrainConfig, parameters: Tensor, optimizer_state: Tensor
    ) -> None:
        self.shared, self.config = shared, config
        self.parameters, self.optimizer_state = parameters, optimizer_state
        self.bonus_counts = shared.bonus_counts

    def pull(self, out: Tensor) -> None:
        """Copy the newest parameters into `out`, shape (N,)."""
        out.copy_(self.parameters)

    def push(self, gradients: Tensor) -> None:
        """Apply gradients of shape (N,) to the parameters."""
        learning_rate = self.config.learning_rate_at(self.shared.global_step)
        self._optimizer.step(gradients, learning_rate, self.shared.updates)

    def merge_observations(self, where: slice, observations: Tensor) -> None:
        """Include observations, (N, D), in the running statistics; see `ParameterStore`."""
        merge_observations_(self.parameters[where], observations)

    @cached_property
    def _optimizer(self) -> SharedOptimizer:
        """The optimizer, made at the first push: it takes memory, and rollout workers only pull."""
        optimizer = OPTIMIZERS[self.config.optimizer]
        return optimizer(self.parameters, self.optimizer_state, eps=self.config.optimizer_eps)


class SharedMemoryStore(_Store):
    """The parameters in shared memory, which all workers update (Hogwild).

    Args:
        shared: The shared state.
        config: The settings.
        row: The row of `SharedState.observed` that only this process writes.
    """

    def __init__(self, shared: SharedState, config: TrainConfig, row: int = 0) -> None:
        super().__init__(shared, config, shared.parameters, shared.optimizer_state)
        self._row = row

    def merge_observations(self, where: slice, observations: Tensor) -> None:
        """Include observations, (N, D), in the shared running statistics; see `ParameterStore`."""
        super().merge_observations(where, observations)
        if self.shared.observed is not None:
            add_observations_(self.shared.observed[self._row], observations)


class DeviceStore(_Store):
    """The central learner's parameters and optimizer state, on its device.

    Args:
        shared: The shared state to start from.
        config: The settings.
        parameters: The learner's flat parameters, on its device, shape (N,).
    """

    def __init__(self, shared: SharedState, config: TrainConfig, parameters: Tensor) -> None:
        parameters.copy_(shared.parameters)
        optimizer_state = shared.optimizer_state.to(parameters.device, copy=True)
        super().__init__(shared, config, parameters, optimizer_state)

    def publish(self) -> None:
        """Copy the parameters into shared memory, for the workers."""
        self.shared.parameters.copy_(self.parameters)

    @torch.no_grad()
    def sync_optimizer_state(self) -> None:
        """Copy the optimizer state into shared memory, for a checkpoint."""
        self.shared.optimizer_state.copy_(self.optimizer_state)
