"""Where workers and learner pull parameters from and push gradients to."""

from functools import cached_property

import torch
from torch import Tensor

from agents.a3c.optimizers import OPTIMIZERS, SharedOptimizer
from agents.config import TrainConfig
from agents.networks.normalization import add_observations_, merge_observations_
from agents.training.shared_state import SharedState


class SharedMemoryStore:
    """The parameters in shared memory; all workers update them without a lock (Hogwild).

    Args:
        shared: The shared state.
        config: The settings.
        row: The row of `SharedState.observed` that this process writes alone.
    """

    def __init__(self, shared: SharedState, config: TrainConfig, row: int = 0) -> None:
        self.shared, self.config, self._row = shared, config, row
        self.bonus_counts = shared.bonus_counts

    def pull(self, out: Tensor) -> None:
        """Copy the newest parameters into `out`, shape (N,)."""
        out.copy_(self.shared.parameters)

    def push(self, gradients: Tensor) -> None:
        """Apply gradients of shape (N,) to the shared parameters."""
        learning_rate = self.config.learning_rate_at(self.shared.global_step)
        self._optimizer.step(gradients, learning_rate, self.shared.updates)

    def merge_observations(self, where: slice, observations: Tensor) -> None:
        """Include observations, (N, D), in the shared running statistics; see `ParameterStore`."""
        merge_observations_(self.shared.parameters[where], observations)
        if self.shared.observed is not None:
            add_observations_(self.shared.observed[self._row], observations)

    @cached_property
    def _optimizer(self) -> SharedOptimizer:
        optimizer = OPTIMIZERS[self.config.optimizer]
        state = self.shared.optimizer_state
        return optimizer(self.shared.parameters, state, eps=self.config.optimizer_eps)


class DeviceStore:
    """The central learner's parameters and optimizer state, on its device.

    Args:
        shared: The shared state they start from.
        config: The settings.
        parameters: The learner's flat parameters, on its device, shape (N,).
    """

    def __init__(self, shared: SharedState, config: TrainConfig, parameters: Tensor) -> None:
        self.shared, self.config, self.parameters = shared, config, parameters
        self.bonus_counts = shared.bonus_counts
        self.parameters.copy_(shared.parameters)
        self.optimizer_state = shared.optimizer_state.to(parameters.device, copy=True)
        optimizer = OPTIMIZERS[config.optimizer]
        self._optimizer = optimizer(parameters, self.optimizer_state, eps=config.optimizer_eps)

    def pull(self, out: Tensor) -> None:
        """Copy the newest parameters into `out`, shape (N,)."""
        out.copy_(self.parameters)

    def push(self, gradients: Tensor) -> None:
        """Apply gradients of shape (N,) to the parameters on the device."""
        learning_rate = self.config.learning_rate_at(self.shared.global_step)
        self._optimizer.step(gradients, learning_rate, self.shared.updates)

    def merge_observations(self, where: slice, observations: Tensor) -> None:
        """Include observations, (N, D), in the running statistics; see `ParameterStore`."""
        merge_observations_(self.parameters[where], observations)

    def publish(self) -> None:
        """Copy the parameters into shared memory, for the workers."""
        self.shared.parameters.copy_(self.parameters)

    @torch.no_grad()
    def sync_optimizer_state(self) -> None:
        """Copy the optimizer state into shared memory, for a checkpoint."""
        self.shared.optimizer_state.copy_(self.optimizer_state)
