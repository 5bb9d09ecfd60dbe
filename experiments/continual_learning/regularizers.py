"""Penalties that preserve what was learned on earlier tasks: L2, EWC, online EWC, SI.

All four have one form. When a task has been learned, every parameter theta_i gets an anchor, which
is its value at that moment, and an importance. To the loss of the following tasks is added

    factor * strength * sum over anchors k, sum over i of importance_ki (theta_i - anchor_ki)^2.

They differ in their importance, and in how many anchors they keep. `factor` makes `strength` the
coefficient of each source: lambda of EWC, c of SI.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from experiments.continual_learning.fisher import fisher_diagonal

# Called as fisher(model, images, task); see `fisher_diagonal`.
Fisher = Callable[[nn.Module, Tensor, int], list[Tensor]]


@dataclass(frozen=True)
class Anchor:
    """The parameters at the end of a task, and how important each is.

    Attributes:
        values: theta*, one tensor for each parameter.
        importance: one tensor for each parameter, of its shape, nowhere negative.
    """

    values: list[Tensor]
    importance: list[Tensor]


class Regularizer:
    """No penalty: the optimizer alone. Subclasses add an importance.

    Args:
        model: the model to regularize; called as model(images, task), it returns logits.
        strength: strength of the penalty; 0 leaves the loss unchanged.

    Raises:
        ValueError: if strength is negative.
    """

    factor: ClassVar[float] = 1.0

    def __init__(self, model: nn.Module, strength: float = 0.0) -> None:
        if strength < 0:
            raise ValueError(f"strength must not be negative, got {strength}")
        self.model, self.strength = model, strength
        self.parameters = list(model.parameters())
        self.anchors: list[Anchor] = []

    def step(self, loss: Tensor, optimizer: Optimizer) -> None:
        """Make one optimizer step on loss + penalty."""
        optimizer.zero_grad()
        loss.backward()
        self._add_gradient()
        optimizer.step()

    def task_learned(self, images: Tensor, task: int) -> None:
        """Note that the model has just learned a task, from images of shape (N, in)."""

    def penalty(self) -> Tensor:
        """The term added to the loss, a scalar. Its gradient is written by hand; see `step`."""
        total = torch.zeros((), dtype=self.parameters[0].dtype)
        with torch.no_grad():
            for anchor in self.anchors:
                held = zip(self.parameters, anchor.values, anchor.importance, strict=True)
                total += sum(((p - v).square() * i).sum() for p, v, i in held)
        return self.factor * self.strength * total

    @torch.no_grad()
    def _add_gradient(self) -> None:
        """Add the penalty's gradient to that of the loss.

        A parameter that the loss does not reach, such as another task's head, is at its anchors. It
        gets no gradient at all, as a gradient of zero would let Adam's momentum move it.
        """
        for anchor in self.anchors:
            held = zip(self.parameters, anchor.values, anchor.importance, strict=True)
            for parameter, value, importance in held:
                if parameter.grad is not None:
                    pull = (parameter - value).mul_(importance)
                    parameter.grad.add_(pull, alpha=2 * self.factor * self.strength)

    def _values(self) -> list[Tensor]:
        return [p.detach().clone() for p in self.parameters]


class L2(Regularizer):
    """Equal importance for all parameters; one anchor, at the end of the last task.

    This is the L2 that EWC is compared with in "Overcoming catastrophic forgetting in neural
    networks" (Kirkpatrick et al. 2017): a pull towards the old solution, not towards zero.
    """

    factor = 0.5

    def task_learned(self, images: Tensor, task: int) -> None:  # noqa: ARG002
        """Move the anchor to where the parameters are now."""
        self.anchors = [Anchor(self._values(), [torch.ones_like(p) for p in self.parameters])]


class EWC(Regularizer):
    """Elastic weight consolidation: Fisher information, one anchor for each task.

    L(theta) = L_now(theta) + sum over old tasks k, i of lambda/2 F_ki (theta_i - theta*_ki)^2, from
    "Overcoming catastrophic forgetting in neural networks" (Kirkpatrick et al. 2017), eq. 3, with a
    penalty for each old task as its authors describe for more than two tasks.

    Args:
        model: as for `Regularizer`.
        strength: lambda.
        fisher: computes the importance.
    """

    factor = 0.5

    def __init__(self, model: nn.Module, strength: float, fisher: Fisher = fisher_diagonal) -> None:
        super().__init__(model, strength)
        self.fisher = fisher

    def task_learned(self, images: Tensor, task: int) -> None:
        """Add an anchor here, with the Fisher information of the task."""
        self.anchors.append(Anchor(self._values(), self.fisher(self.model, images, task)))


class OnlineEWC(Regularizer):
    """EWC with one anchor and a decaying sum of Fisher information.

    F* <- gamma F* + F after each task, and to the loss of the next task is added
    lambda/2 sum_i gamma F*_i (theta_i - theta*_i)^2 with theta* at the last task's end, from
    "Progress & Compress" (Schwarz et al. 2018), section 3. Each task's F is first scaled to a mean
    of 1, after that section's remark that tasks with larger gradients should not outweigh others.

    Args:
        model: as for `Regularizer`.
        strength: lambda.
        decay: gamma, above 0 and at most 1.
        fisher: computes the importance.
        scaled: whether the importance is scaled to a mean of 1 for each task.

    Raises:
        ValueError: if strength is negative, or decay is out of its range.
    """

    factor = 0.5

    def __init__(
        self,
        model: nn.Module,
        strength: float,
        decay: float = 0.95,
        fisher: Fisher = fisher_diagonal,
        *,
        scaled: bool = True,
    ) -> None:
        super().__init__(model, strength)
        self.fisher, self.scaled = fisher, scaled
        if not 0 < decay <= 1:
            raise ValueError(f"decay must be above 0 and at most 1, got {decay}")
        self.decay = decay
        self._running: list[Tensor] = [torch.zeros_like(p) for p in self.parameters]

    def task_learned(self, images: Tensor, task: int) -> None:
        """Move the anchor here and add the task's Fisher information to the decayed sum."""
        fisher = self.fisher(self.model, images, task)
        if self.scaled:
            fisher = _mean_of_one(fisher)
        pairs = zip(self._running, fisher, strict=True)
        self._running = [self.decay * old + new for old, new in pairs]
        self.anchors = [Anchor(self._values(), [self.decay * f for f in self._running])]


class SI(Regularizer):
    """Synaptic intelligence: a parameter matters as much as moving it lowered the loss.

    During a task, omega_i = - sum over its steps of g_i (change of theta_i), where g is the
    gradient of the loss without the penalty. After it,

        Omega_i <- Omega_i + omega_i / (Delta_i^2 + xi),   Delta_i: change over the whole task,

    and to the loss of the next task is added c sum_i Omega_i (theta_i - theta*_i)^2, from
    "Continual Learning Through Synaptic Intelligence" (Zenke et al. 2017), eq. 3 to 5. Our choice:
    an omega_i below zero, where moving the parameter raised the loss, counts as zero, unless
    `signed`. Otherwise the penalty would reward moving away.

    Args:
        model: as for `Regularizer`.
        strength: c.
        damping: xi, positive.
        signed: whether an omega_i below zero keeps its value.
        first_task_loss: a loss of the model whose gradient counts in the path of the first task
            without being optimized, like the orthogonality loss in the Neurocoder authors' code.

    Raises:
        ValueError: if strength is negative, or damping is not positive.
    """

    def __init__(
        self,
        model: nn.Module,
        strength: float,
        damping: float = 0.1,
        *,
        signed: bool = False,
        first_task_loss: Callable[[nn.Module], Tensor] | None = None,
    ) -> None:
        super().__init__(model, strength)
        self.signed, self.first_task_loss = signed, first_task_loss
        if not damping > 0:
            raise ValueError(f"damping must be positive, got {damping}")
        self.damping = damping
        self._start = self._values()
        self._path = [torch.zeros_like(p) for p in self.parameters]
        self._importance = [torch.zeros_like(p) for p in self.parameters]

    def step(self, loss: Tensor, optimizer: Optimizer) -> None:
        """Make one optimizer step on loss + penalty, and add it to the path integral."""
        optimizer.zero_grad()
        loss.backward()
        gradients = [None if p.grad is None else p.grad.clone() for p in self.parameters]
        if self.first_task_loss is not None and not self.anchors:
            more = self.first_task_loss(self.model)
            if more.requires_grad:
                found = torch.autograd.grad(more, self.parameters, materialize_grads=True)
                gradients = [
                    new if old is None else old + new
                    for old, new in zip(gradients, found, strict=True)
                ]
        before = self._values()
        self._add_gradient()
        optimizer.step()
        for path, gradient, old, p in zip(
            self._path, gradients, before, self.parameters, strict=True
        ):
            if gradient is not None:
                path.addcmul_(gradient, p.detach() - old, value=-1)

    def task_learned(self, images: Tensor, task: int) -> None:  # noqa: ARG002
        """Move the anchor here, add the task's importance, and begin a new path."""
        end = self._values()
        self._importance = [
            importance
            + (path if self.signed else path.clamp(min=0))
            / ((stop - start).square() + self.damping)
            for importance, path, start, stop in zip(
                self._importance, self._path, self._start, end, strict=True
            )
        ]
        self.anchors = [Anchor(end, self._importance)]
        self._start, self._path = end, [torch.zeros_like(p) for p in self.parameters]


def _mean_of_one(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Scale all tensors by one factor, so that the mean of their entries is 1; zeros stay zeros."""
    tensors = list(tensors)
    total = sum(float(t.sum()) for t in tensors)
    scale = sum(t.numel() for t in tensors) / total if total > 0 else 0.0
    return [t * scale for t in tensors]
