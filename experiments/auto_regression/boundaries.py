"""How well a signal's changes tell where a sequence's chunks begin.

A signal is anything that a network does at every point: its attention, its hidden state. N
sequences of T points; changes are (N, T - 1), the one at index t from point t to point t + 1.
"""

from typing import Any

import numpy as np
import torch
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import Tensor

TINY = 1e-12


def shares(attention: Tensor) -> Tensor:
    """Attention (..., P) scaled to sum to one: the weights w of eq. 11 do not."""
    return attention / attention.sum(-1, keepdim=True).clamp_min(TINY)


def attention_change(attention: Tensor) -> Tensor:
    """Total variation between one point's attention and the next one's, mean over components.

    0: the same slots in the same proportions. 1: no slot in common.

    Args:
        attention: shape (N, T, r, P); its slots' shares are compared.

    Returns:
        Changes, shape (N, T - 1).
    """
    return shares(attention).diff(dim=1).abs().sum(-1).mean(-1) / 2


def distance(state: Tensor) -> Tensor:
    """Euclidean distance between one point's state and the next one's: (N, T, D) to (N, T - 1)."""
    return state.diff(dim=1).norm(dim=-1)


def area_under_curve(change: Tensor, starts: Tensor, where: Tensor | None = None) -> float:
    """How often a change at a boundary is larger than one elsewhere; 0.5 by chance.

    The area under the receiver operating characteristic, over the steps of all sequences at once.

    Args:
        change: shape (N, T - 1).
        starts: whether a chunk begins at a point, shape (N, T).
        where: which steps count, shape (N, T - 1); all without it.

    Returns:
        The area; NaN where there is nothing to tell apart, or a change is not finite.
    """
    truth, score = _flat(change, starts, where)
    if not np.isfinite(score).all():
        return float("nan")
    return float(roc_auc_score(truth, score)) if 0 < truth.sum() < len(truth) else float("nan")


def average_precision(change: Tensor, starts: Tensor, where: Tensor | None = None) -> float:
    """Share of boundaries among the largest changes, averaged over the boundaries found.

    By chance it is the share of boundaries among all steps. Arguments, and what is NaN, as in
    `area_under_curve`.
    """
    truth, score = _flat(change, starts, where)
    if not np.isfinite(score).all():
        return float("nan")
    return float(average_precision_score(truth, score)) if truth.any() else float("nan")


def quiet_steps(y: Tensor, starts: Tensor) -> Tensor:
    """Steps of y no larger than the median step inside chunks, shape (N, T - 1) for y (N, T).

    Boundaries among them cannot be told by how far y moves.
    """
    size = y.diff(dim=1).abs()
    return size <= size[~starts[:, 1:]].median()


def around_boundaries(change: Tensor, starts: Tensor, before: int, after: int) -> Tensor:
    """Mean change at the steps around boundaries, relative to the mean change of all steps.

    Args:
        change: shape (N, T - 1).
        starts: whether a chunk begins at a point, shape (N, T).
        before: how many steps before the one to a chunk's first point.
        after: how many after it.

    Returns:
        Shape (before + 1 + after,), over boundaries with enough steps on both sides.
    """
    at = starts[:, 1:].clone()
    at[:, :before] = False
    at[:, at.shape[1] - after :] = False
    row, place = at.nonzero(as_tuple=True)
    window = change[row.unsqueeze(1), place.unsqueeze(1) + torch.arange(-before, after + 1)]
    return window.mean(0) / change.mean().clamp_min(TINY)


def explained_by_chunks(signal: Tensor, starts: Tensor) -> float:
    """Share of a signal's variance within sequences that lies between chunks, from 0 to 1.

    1: the signal stands still inside a chunk and differs between chunks. Chunks of any kind explain
    a part of whatever moves slowly; compare with chunks that are not the sequence's own.

    Args:
        signal: shape (N, T, D).
        starts: whether a chunk begins at a point, shape (N, T), true at every first point.
    """
    flat = (signal - signal.mean(1, keepdim=True)).reshape(-1, signal.shape[-1]).double()
    chunk = starts.reshape(-1).long().cumsum(0) - 1
    counts = torch.bincount(chunk).double().unsqueeze(1)
    sums = torch.zeros(len(counts), flat.shape[1], dtype=torch.float64).index_add_(0, chunk, flat)
    between = (sums.square() / counts).sum()
    return float(between / flat.square().sum().clamp_min(TINY))


def others_boundaries(starts: Tensor) -> Tensor:
    """For every sequence the boundaries of another one: what chance would find."""
    return starts.roll(1, dims=0)


def _flat(change: Tensor, starts: Tensor, where: Tensor | None) -> "tuple[_Array, _Array]":
    truth = starts[:, 1:]
    if where is None:
        where = torch.ones_like(truth)
    return truth[where].numpy(), change[where].double().numpy()


_Array = np.ndarray[Any, np.dtype[Any]]
