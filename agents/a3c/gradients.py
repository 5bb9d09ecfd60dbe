"""From the loss to a clipped gradient: common to worker and learner."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from agents.a3c.losses import A3CLoss
from agents.config import TrainConfig
from agents.networks.actor_critic import ActorCritic
from agents.networks.flat_parameters import FlatParameters


@dataclass(frozen=True)
class GradientStep:
    """A gradient that is ready to be applied.

    Attributes:
        gradients: The flat gradient, shape (N,), overwritten by the next one.
        is_finite: Whether the gradient is finite; if not, it must be skipped.
        metrics: TensorBoard tag -> value; empty if the gradient is not finite.
    """

    gradients: Tensor
    is_finite: bool
    metrics: dict[str, float]


def compute_gradients(
    network: ActorCritic, flat: FlatParameters, loss: A3CLoss, config: TrainConfig
) -> GradientStep:
    """Compute the gradient of the loss, clip it, and add the orthogonality gradient.

    Args:
        network: The network.
        flat: Its flat parameters and gradients.
        loss: The loss.
        config: The settings.
    """
    flat.gradients.zero_()
    loss.total.backward()
    norm = float(flat.gradients.norm())
    if norm > config.max_grad_norm:
        flat.gradients.mul_(config.max_grad_norm / norm)
    # The orthogonality gradient is added after clipping, which concerns the task alone.
    orthogonality = network.orthogonality_loss()
    if orthogonality.requires_grad and config.orthogonality_coef > 0:
        (config.orthogonality_coef * orthogonality).backward()
    # The norm, not each number: it overflows where an optimizer's squared gradients would, and
    # checking each number would take a twentieth of the update.
    if not math.isfinite(norm) or not math.isfinite(float(flat.gradients.norm())):
        return GradientStep(flat.gradients, is_finite=False, metrics={})
    terms = {
        "losses/policy_loss": loss.policy,
        "losses/value_loss": loss.value,
        "losses/entropy": loss.entropy,
        "losses/explained_variance": loss.explained_variance,
        "losses/orthogonality": orthogonality.to(loss.policy.device),
    }
    # All at once: on another device, each of them would have to be waited for.
    numbers = torch.stack([term.detach() for term in terms.values()]).tolist()
    metrics = {**dict(zip(terms, numbers, strict=True)), "losses/grad_norm": norm}
    return GradientStep(flat.gradients, is_finite=True, metrics=metrics)
