"""The A3C loss and its terms, as pure functions of tensors.

Shapes: T steps, B environments, A actions. `mask_t` (T, B) is one for steps that count and zero for
the ignored ones; every loss is a mean over the steps that count. All tensors may have a further
first dimension of W workers; every worker then has separate losses, shape (W,).
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class A3CLoss(NamedTuple):
    """The loss of a rollout and its terms, scalars with a gradient; or (W,), of W rollouts.

    Attributes:
        total: policy + vf_coef * value - ent_coef * entropy.
        policy: See `policy_gradient_loss`.
        value: See `value_loss`.
        entropy: See `entropy`.
        explained_variance: See `explained_variance`; not part of the loss.
    """

    total: Tensor
    policy: Tensor
    value: Tensor
    entropy: Tensor
    explained_variance: Tensor


def a3c_loss(
    logits_t: Tensor,
    v_t: Tensor,
    a_t: Tensor,
    return_t: Tensor,
    adv_t: Tensor,
    mask_t: Tensor,
    *,
    vf_coef: float,
    ent_coef: float,
) -> A3CLoss:
    """Return policy + vf_coef * value - ent_coef * entropy, and its terms.

    Source: Mnih et al. 2016, Algorithm S3, with the entropy bonus of section 4.

    Args:
        logits_t: Policy logits, shape (T, B, A).
        v_t: State values, shape (T, B).
        a_t: Actions, int64, shape (T, B).
        return_t: Targets of the values, shape (T, B).
        adv_t: Advantages, shape (T, B).
        mask_t: Shape (T, B).
        vf_coef: Weight of the value loss.
        ent_coef: Weight of the entropy bonus.
    """
    policy = policy_gradient_loss(logits_t, a_t, adv_t, mask_t)
    value = value_loss(v_t, return_t, mask_t)
    bonus = entropy(logits_t, mask_t)
    total = policy + vf_coef * value - ent_coef * bonus
    explained = explained_variance(v_t.detach(), return_t, mask_t)
    return A3CLoss(total, policy, value, bonus, explained)


def policy_gradient_loss(logits_t: Tensor, a_t: Tensor, adv_t: Tensor, mask_t: Tensor) -> Tensor:
    """Mean of -log pi(a_t | s_t) * adv_t, the advantage taken as a constant.

    Source: Mnih et al. 2016, Algorithm S3.

    Args:
        logits_t: Shape (T, B, A).
        a_t: Actions taken, int64, shape (T, B).
        adv_t: Advantages, shape (T, B).
        mask_t: Shape (T, B).
    """
    return -masked_mean(log_prob(logits_t, a_t) * adv_t.detach(), mask_t)


def log_prob(logits_t: Tensor, a_t: Tensor) -> Tensor:
    """The logarithm of pi(a_t), shape (T, B), of logits (T, B, A) and actions (T, B)."""
    return F.log_softmax(logits_t, dim=-1).gather(-1, a_t.unsqueeze(-1)).squeeze(-1)


def value_loss(v_t: Tensor, return_t: Tensor, mask_t: Tensor) -> Tensor:
    """Mean of (return_t - v_t)^2 / 2, the return taken as a constant; all shapes (T, B)."""
    return masked_mean(0.5 * (return_t.detach() - v_t).square(), mask_t)


def entropy(logits_t: Tensor, mask_t: Tensor) -> Tensor:
    """Mean entropy of the policy in nats, for logits (T, B, A)."""
    log_pi = F.log_softmax(logits_t, dim=-1)
    return masked_mean(-(log_pi.exp() * log_pi).sum(dim=-1), mask_t)


def explained_variance(v_t: Tensor, return_t: Tensor, mask_t: Tensor) -> Tensor:
    """1 - Var(return - v) / Var(return) over the steps that count; NaN if returns do not vary."""
    if mask_t.dim() > 2:
        each = zip(v_t, return_t, mask_t, strict=True)
        return torch.stack([explained_variance(*worker) for worker in each])
    counted = mask_t.bool()
    returns, errors = return_t[counted], (return_t - v_t)[counted]
    if len(returns) == 0:
        return v_t.new_tensor(torch.nan)
    variance = returns.var(correction=0)
    # Equal numbers may differ from their mean, which is rounded.
    rounding = torch.finfo(returns.dtype).eps * returns.abs().amax()
    varies = variance > rounding.square()
    return torch.where(varies, 1 - errors.var(correction=0) / variance, torch.nan)


def masked_mean(x_t: Tensor, mask_t: Tensor) -> Tensor:
    """Mean of x_t over the steps that count; zero if none does. Shapes (T, B)."""
    # Selecting, not multiplying: an ignored step may hold anything, and 0 * inf is not 0.
    steps = (-2, -1)
    return torch.where(mask_t.bool(), x_t, 0.0).sum(steps) / mask_t.sum(steps).clamp_min(1)
