"""Optimizers over flat shared tensors, stepped by many processes without a lock."""

from typing import Protocol

import torch
from torch import Tensor


class SharedOptimizer(Protocol):
    """Applies one gradient to shared parameters; its own state is shared too."""

    def step(self, gradient: Tensor, learning_rate: float, updates: int) -> None:
        """Apply a gradient of shape (N,); `updates` is how many were applied before it."""
        ...


class SharedRMSprop:
    """Shared RMSProp of A3C (Mnih et al. 2016, supplement, eq. S2 and S3).

        g = decay * g + (1 - decay) * gradient^2
        parameters -= learning_rate * gradient / sqrt(g + eps)

    Args:
        parameters: The shared parameters, shape (N,).
        state: The shared state, shape (1, N): g, zeros at first.
        eps: Added inside the root.
        decay: Decay of g.
    """

    num_state_tensors = 1

    def __init__(
        self, parameters: Tensor, state: Tensor, *, eps: float, decay: float = 0.99
    ) -> None:
        self.parameters, self.square_average = parameters, state[0]
        self.eps, self.decay = eps, decay
        self._scratch = torch.empty_like(parameters)

    @torch.no_grad()
    def step(self, gradient: Tensor, learning_rate: float, updates: int) -> None:  # noqa: ARG002
        """Apply one gradient."""
        self.square_average.mul_(self.decay).addcmul_(gradient, gradient, value=1 - self.decay)
        root = torch.add(self.square_average, self.eps, out=self._scratch).sqrt_()
        self.parameters.addcdiv_(gradient, root, value=-learning_rate)


class SharedAdam:
    """Adam (Kingma and Ba 2015) with shared moments and a shared count of updates.

    Args:
        parameters: The shared parameters, shape (N,).
        state: The shared state, shape (2, N): first and second moment, zeros at first.
        eps: Added outside the root.
    """

    num_state_tensors = 2

    def __init__(self, parameters: Tensor, state: Tensor, *, eps: float) -> None:
        self.parameters, self.eps = parameters, eps
        self.first_moment, self.second_moment = state
        self._updates = torch.zeros((), device=parameters.device)

    @torch.no_grad()
    def step(self, gradient: Tensor, learning_rate: float, updates: int) -> None:
        """Apply one gradient, correcting the moments' bias for `updates` earlier ones."""
        # What `torch.optim.Adam(fused=True)` calls: it reads and writes every number once. That
        # class itself would load torch's compiler into every process, and leave its folder behind.
        torch._fused_adam_(
            [self.parameters],
            [gradient],
            [self.first_moment],
            [self.second_moment],
            [],
            [self._updates.fill_(updates + 1)],
            lr=learning_rate,
            beta1=0.9,
            beta2=0.999,
            weight_decay=0.0,
            eps=self.eps,
            amsgrad=False,
            maximize=False,
        )


OPTIMIZERS: dict[str, type[SharedRMSprop] | type[SharedAdam]] = {
    "rmsprop": SharedRMSprop,
    "adam": SharedAdam,
}
