"""Attention over the slots of a program memory: content-based, least-used, and their mix.

Section 2.2 of the paper. Shapes: H heads, K key size, P slots; all dimensions before these are
batch dimensions.
"""

import torch
from torch import Tensor

from neurocoder.readings import FirstStep, LeastUsedWeight, UsageOver

TINY = 1e-24  # avoids a division by zero for zero vectors


def content_attention(
    query: Tensor, key: Tensor, sharpness: float, *, divide_by_maximum: bool = False
) -> Tensor:
    """Eq. 8: softmax over the slots of the cosine similarity between query and key.

    Args:
        query: Queries for M memories, shape (B, J, M, H, K).
        key: Keys of unit length, shape (M, P, K).
        sharpness: Inverse temperature of the softmax. The paper has none (1.0), which leaves the
            softmax nearly flat: over 20 slots the largest weight is at most 0.28.
        divide_by_maximum: Whether to divide by the largest weight, which is then 1.

    Returns:
        c, shape (M, B, J, H, P); unless divided, it sums to one over the slots.
    """
    cosine = torch.einsum("bjmhk,mpk->mbjhp", unit_length(query), key)
    content = torch.softmax(sharpness * cosine, dim=-1)
    return content / content.amax(dim=-1, keepdim=True) if divide_by_maximum else content


def unit_length(x: Tensor) -> Tensor:
    """Normalise the last dimension to length one; `F.normalize` with a cheaper gradient."""
    return x * inverse_length(x, dim=-1)


def inverse_length(x: Tensor, dim: int) -> Tensor:
    """One over the L2 norm of x along a dimension, which is kept with size 1."""
    return (x.square().sum(dim=dim, keepdim=True) + TINY).rsqrt()


def least_used_attention(
    usage: Tensor, least_used: int, weight_from: LeastUsedWeight = "maximum"
) -> Tensor:
    """Eq. 10: attention to the `least_used` slots of smallest usage, larger for smaller usage.

    Slots that tie with the last selected one are selected too. No gradient flows through the
    selection, only through the weights of the selected slots.

    Args:
        usage: m, shape (..., P).
        least_used: l_I, from 1 to P.
        weight_from: "maximum" for max(m) - m, "one" for 1 - m.

    Returns:
        l, shape (..., P), zero for slots that are not selected.
    """
    weight = (usage.amax(dim=-1, keepdim=True) if weight_from == "maximum" else 1.0) - usage
    left_out = usage > usage.detach().kthvalue(least_used, dim=-1, keepdim=True).values
    return weight.masked_fill(left_out, 0.0)


def recurrent_attention(
    content: Tensor,
    gate: Tensor,
    least_used: int,
    *,
    usage_over: UsageOver = "head",
    least_used_weight: LeastUsedWeight = "maximum",
    first_step: FirstStep = "unused",
) -> Tensor:
    """Eq. 9 to 11 over the steps: mix content attention with least-used attention.

    Usage at a step is the maximum over the previous steps; including the step's own attention in
    eq. 9 would be circular.

    Args:
        content: c, shape (..., J, H, P).
        gate: g, before the sigmoid, shape (..., J, H, P).
        least_used: l_I, from 1 to P.
        usage_over: "head" if every head has its own usage, "all" if it is the maximum over heads.
        least_used_weight: See `least_used_attention`.
        first_step: Least-used attention before any slot has been used: "unused" for none,
            "first_slots" for 1 on the first `least_used` slots.

    Returns:
        w, shape (..., J, H, P). It does not sum to one over the slots.
    """
    opened = torch.sigmoid(gate)
    by_content, by_usage = opened * content, 1 - opened
    first, *later = by_content.unbind(dim=-3)
    if first_step == "first_slots":
        slots = torch.arange(content.shape[-1], device=content.device)
        first = first + by_usage.select(-3, 0) * (slots < least_used)

    def used_by(step: Tensor) -> Tensor:
        return step.amax(dim=-2, keepdim=True) if usage_over == "all" else step

    attention = [first]
    usage = used_by(first)
    for own, free in zip(later, by_usage.unbind(dim=-3)[1:], strict=True):
        step = own + free * least_used_attention(usage, least_used, least_used_weight)
        attention.append(step)
        # Equal to `torch.maximum`, whose gradient (split between ties) costs twice as much.
        now = used_by(step)
        usage = torch.where(now > usage, now, usage)
    return torch.stack(attention, dim=-3)
