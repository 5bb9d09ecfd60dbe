"""Attention over the slots of a program memory: content-based, least-used, and their mix.

Section 2.2 of the paper. Shapes: H heads, K key size, P slots; all dimensions before these are
batch dimensions.
"""

import torch
from torch import Tensor

TINY = 1e-24  # avoids a division by zero for zero vectors


def content_attention(query: Tensor, key: Tensor, sharpness: float) -> Tensor:
    """Eq. 8: softmax over the slots of the cosine similarity between query and key.

    Args:
        query: Queries for M memories, shape (B, J, M, H, K).
        key: Keys of unit length, shape (M, P, K).
        sharpness: Inverse temperature of the softmax. The paper has none (1.0), which leaves the
            softmax nearly flat: over 20 slots the largest weight is at most 0.28.

    Returns:
        c, shape (M, B, J, H, P); it sums to one over the slots.
    """
    cosine = torch.einsum("bjmhk,mpk->mbjhp", unit_length(query), key)
    return torch.softmax(sharpness * cosine, dim=-1)


def unit_length(x: Tensor) -> Tensor:
    """Normalise the last dimension to length one; `F.normalize` with a cheaper gradient."""
    return x * inverse_length(x, dim=-1)


def inverse_length(x: Tensor, dim: int) -> Tensor:
    """One over the L2 norm of x along a dimension, which is kept with size 1."""
    return (x.square().sum(dim=dim, keepdim=True) + TINY).rsqrt()


def least_used_attention(usage: Tensor, least_used: int) -> Tensor:
    """Eq. 10: attention to the `least_used` slots of smallest usage, larger for smaller usage.

    Slots that tie with the last selected one are selected too. No gradient flows through the
    selection, only through the weights of the selected slots.

    Args:
        usage: m, shape (..., P).
        least_used: l_I, from 1 to P.

    Returns:
        l, shape (..., P), zero for slots that are not selected.
    """
    weight = usage.amax(dim=-1, keepdim=True) - usage
    left_out = usage > usage.detach().kthvalue(least_used, dim=-1, keepdim=True).values
    return weight.masked_fill(left_out, 0.0)


def recurrent_attention(content: Tensor, gate: Tensor, least_used: int) -> Tensor:
    """Eq. 9 to 11 over the steps: mix content attention with least-used attention.

    Usage at a step is the maximum over the previous steps, separately for every head; including
    the step's own attention in eq. 9 would be circular. Before the first step all usage is zero,
    and so is least-used attention.

    Args:
        content: c, shape (..., J, H, P).
        gate: g, before the sigmoid, shape (..., J, H, P).
        least_used: l_I, from 1 to P.

    Returns:
        w, shape (..., J, H, P). It does not sum to one over the slots.
    """
    opened = torch.sigmoid(gate)
    by_content, by_usage = opened * content, 1 - opened
    first, *later = by_content.unbind(dim=-3)
    attention = [first]
    usage = first
    for own, free in zip(later, by_usage.unbind(dim=-3)[1:], strict=True):
        step = own + free * least_used_attention(usage, least_used)
        attention.append(step)
        # Equal to `torch.maximum`, whose gradient (split between ties) costs twice as much.
        usage = torch.where(step > usage, step, usage)
    return torch.stack(attention, dim=-3)
