"""Attention to the slots of a program memory: by content, by least usage, and both together.

Section 2.2 of the paper. Shapes: H heads, K key size, P slots; everything before them is batch.
"""

import torch
from torch import Tensor

TINY = 1e-24  # keeps the length of a zero vector from being divided by


def content_attention(query: Tensor, key: Tensor, sharpness: float) -> Tensor:
    """Eq. 8: softmax over the slots of the cosine similarity between query and key.

    Args:
        query: shape (B, J, M, H, K) for M memories.
        key: shape (M, P, K), of unit length.
        sharpness: factor on the cosine before the softmax. The paper has none (1.0), which leaves
            the softmax nearly flat: over 20 slots the largest weight is at most 0.28.

    Returns:
        c, shape (M, B, J, H, P), which sums to one over the slots.
    """
    cosine = torch.einsum("bjmhk,mpk->mbjhp", unit_length(query), key)
    return torch.softmax(sharpness * cosine, dim=-1)


def unit_length(x: Tensor) -> Tensor:
    """Scale the last dimension to length one; `F.normalize` with a cheaper gradient."""
    return x * inverse_length(x, dim=-1)


def inverse_length(x: Tensor, dim: int) -> Tensor:
    """One over the length of x along a dimension, which is kept."""
    return (x.square().sum(dim=dim, keepdim=True) + TINY).rsqrt()


def least_used_attention(usage: Tensor, least_used: int) -> Tensor:
    """Eq. 10: weight on the `least_used` slots of smallest usage, more where usage is smaller.

    Slots that tie with the last one chosen are chosen too. Which slots are chosen is a constant
    for the gradient; how much each of them weighs is not.

    Args:
        usage: m, shape (..., P).
        least_used: l_I, from 1 to P.

    Returns:
        l, shape (..., P), zero outside the chosen slots.
    """
    weight = usage.amax(dim=-1, keepdim=True) - usage
    if least_used == usage.shape[-1]:
        return weight
    left_out = usage > usage.detach().kthvalue(least_used, dim=-1, keepdim=True).values
    return weight.masked_fill(left_out, 0.0)


def recurrent_attention(content: Tensor, gate: Tensor, least_used: int) -> Tensor:
    """Eq. 9 to 11 along the steps: blend content attention with attention to what was used least.

    Usage at a step is the maximum over the steps before it, for every head by itself; eq. 9 read
    with the step's own attention would be circular. Before the first step nothing has been used,
    so least-used attention is zero there.

    Args:
        content: c, shape (..., J, H, P).
        gate: g before its sigmoid, shape (..., J, H, P).
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
        # `torch.maximum` would do, but its gradient, shared between ties, costs twice as much.
        usage = torch.where(step > usage, step, usage)
    return torch.stack(attention, dim=-3)
