"""From returns and advantages to a clipped gradient: what worker and learner have in common."""

import math

import torch
from torch import Tensor

from agents.a3c.losses import entropy, explained_variance, policy_gradient_loss, value_loss
from agents.a3c.rollout import Judged, Steps
from agents.config import TrainConfig
from agents.networks.actor_critic import ActorCritic
from agents.networks.flat_parameters import FlatParameters


def compute_gradients(
    network: ActorCritic,
    flat: FlatParameters,
    config: TrainConfig,
    steps: Steps,
    judged: Judged,
    returns: Tensor,
    advantages: Tensor,
) -> dict[str, float]:
    """Leave the gradient of the loss in `flat.gradients`.

    Args:
        network: its parameters' gradients are taken.
        flat: of the network.
        config: the settings.
        steps: what was played.
        judged: what the network says of them, with a gradient.
        returns: targets of the values, shape (T, B).
        advantages: of the actions, shape (T, B).

    Returns:
        What is to be logged, by tag; empty, and the gradient of no use, where its norm is not
        finite.
    """
    mask = steps.mask
    policy = policy_gradient_loss(judged.logits, steps.actions, advantages, mask)
    value = value_loss(judged.values, returns, mask)
    bonus = entropy(judged.logits, mask)
    task = policy + config.vf_coef * value - config.ent_coef * bonus

    flat.gradients.zero_()
    task.backward()
    norm = float(flat.gradients.norm())
    if norm > config.max_grad_norm:
        flat.gradients.mul_(config.max_grad_norm / norm)
    # Only now the orthogonality gradient: its norm is no business of the task's clipping.
    orthogonality = network.orthogonality_loss()
    if orthogonality.requires_grad and config.orthogonality_coef > 0:
        (config.orthogonality_coef * orthogonality).backward()
    # The norm, for it overflows where an optimizer's squares of the gradient would; and to ask
    # every number would take a twentieth of the update.
    if not math.isfinite(norm) or not math.isfinite(float(flat.gradients.norm())):
        return {}
    figures = {
        "losses/policy_loss": policy,
        "losses/value_loss": value,
        "losses/entropy": bonus,
        "losses/explained_variance": explained_variance(judged.values, returns, mask),
        "losses/orthogonality": orthogonality.to(policy.device),
    }
    # All at once: from another device, every single one would be waited for.
    numbers = torch.stack([figure.detach() for figure in figures.values()]).tolist()
    return {**dict(zip(figures, numbers, strict=True)), "losses/grad_norm": norm}
