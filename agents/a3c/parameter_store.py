"""The interface to the parameters that all workers share."""

from typing import Protocol

from torch import Tensor


class ParameterStore(Protocol):
    """Where a worker pulls parameters from and pushes gradients to."""

    @property
    def bonus_counts(self) -> Tensor:
        """What the bonus of all workers has counted, int64, for them to count on in place."""
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
