"""The interface to the parameters that all workers share."""

from typing import Protocol

from torch import Tensor


class ParameterStore(Protocol):
    """Where a worker pulls parameters from and pushes gradients to."""

    @property
    def bonus_counts(self) -> Tensor:
        """The counts of the exploration bonus, int64, which all workers update in place."""
        ...

    def pull(self, out: Tensor) -> None:
        """Copy the newest parameters into `out`, shape (N,)."""
        ...

    def push(self, gradients: Tensor) -> None:
        """Apply gradients of shape (N,) to the parameters."""
        ...

    def merge_observations(self, where: slice, observations: Tensor) -> None:
        """Include observations, (N, D), in the running statistics among the parameters.

        Args:
            where: The parameters that are statistics; see `merge_observations_`.
            observations: The observations.
        """
        ...
