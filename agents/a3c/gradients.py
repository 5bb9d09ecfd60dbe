"""How worker and learner process the gradient of the loss before it is applied."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from agents.a3c.losses import A3CLoss
from agents.config import TrainConfig
from agents.networks.actor_critic import ActorCritic
from agents.networks.flat_parameters import FlatParameters


class Orthogonality(NamedTuple):
    """The orthogonality loss, which depends on parameters alone, and its weighted gradient.

    Attributes:
        loss: The loss, a scalar.
        gradients: For every parameter that the loss depends on, a view of the flat gradients, and
            the gradient to add to it.
        is_finite: Whether the gradient's norm is finite.
    """

    loss: Tensor
    gradients: Sequence[tuple[Tensor, Tensor]]
    is_finite: bool


def orthogonality_gradient(network: ActorCritic, config: TrainConfig) -> Orthogonality:
    """Compute the orthogonality loss and `orthogonality_coef` times its gradient.

    Args:
        network: The network, after `flatten_parameters_`.
        config: The settings.
    """
    loss = network.orthogonality_loss()
    if not loss.requires_grad or config.orthogonality_coef == 0:
        return Orthogonality(loss.detach(), (), is_finite=True)
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    total = config.orthogonality_coef * loss
    found = torch.autograd.grad(total, parameters, allow_unused=True)
    pairs = [
        (parameter.grad, gradient)
        for parameter, gradient in zip(parameters, found, strict=True)
        if parameter.grad is not None and gradient is not None
    ]
    norm = torch.stack([gradient.norm() for _, gradient in pairs]).norm()
    return Orthogonality(loss.detach(), pairs, math.isfinite(float(norm)))


@dataclass(frozen=True)
class GradientStep:
    """Whether a gradient can be applied, and its metrics.

    Attributes:
        is_finite: Whether the gradient is finite; if not, it must be skipped.
        metrics: TensorBoard tag -> value; empty if the gradient is not finite.
    """

    is_finite: bool
    metrics: dict[str, float]


def clip_gradients(
    flat: FlatParameters, loss: A3CLoss, orthogonality: Orthogonality, config: TrainConfig
) -> GradientStep:
    """Clip the gradient of a loss, and add the orthogonality gradient, both in place.

    Args:
        flat: The flat parameters, and the gradient of the loss.
        loss: The loss.
        orthogonality: The orthogonality gradient for these parameters.
        config: The settings.
    """
    norm = float(flat.gradients.norm())
    # Check the norms, not each number: they overflow where an optimizer's squared gradients would,
    # and checking each number would take a twentieth of the update.
    if not math.isfinite(norm) or not orthogonality.is_finite:
        return GradientStep(is_finite=False, metrics={})
    clipped = norm > config.max_grad_norm
    if clipped:
        flat.gradients.mul_(config.max_grad_norm / norm)
    # The orthogonality gradient is added after clipping, which concerns the task alone.
    for gradient, added in orthogonality.gradients:
        gradient.add_(added)
    terms = {
        "losses/policy_loss": loss.policy,
        "losses/value_loss": loss.value,
        "losses/entropy": loss.entropy,
        "losses/explained_variance": loss.explained_variance,
        "losses/orthogonality": orthogonality.loss.to(loss.policy.device),
    }
    # All at once: from another device, each number would have to be waited for.
    numbers = torch.stack([term.detach() for term in terms.values()]).tolist()
    metrics = dict(zip(terms, numbers, strict=True))
    metrics |= {"losses/grad_norm": norm, "losses/clipped_updates": float(clipped)}
    return GradientStep(is_finite=True, metrics=metrics)
