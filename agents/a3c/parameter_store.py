"""The interface to the parameters that all workers share."""

from typing import Protocol

from torch import Tensor


class ParameterStore(Protocol):
    """Where a worker pulls parameters from and pushes gradients to."""

    def pull(self, out: Tensor) -> None:
        """Copy the newest parameters into `out`, shape (N,)."""
        ...

    def push(self, gradients: Tensor) -> None:
        """Apply gradients of shape (N,) to the parameters."""
        ...
