"""How well a signal's changes show where a sequence's chunks begin.

A signal is any quantity that a network has at every point: its attention, its hidden state. There
are N sequences of T points; changes are (N, T - 1), with index t for that from point t to t + 1.
"""

from typing import Any

import numpy as np
import torch
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import Tensor

TINY = 1e-12


def shares(attention: Tensor) -> Tensor:
    """Scale attention (..., P) to sum to one, which the weights w of eq. 11 do not."""
    return attention / attention.sum(-1, keepdim=True).clamp_min(TINY)


def attention_change(attention: Tensor) -> Tensor:
    """Total variation between one point's attention and the next one's, mean over components.

    0: the same slots in the same proportions. 1: no slot in common.

    Args:
        attention: shape (N, T, r, P); the shares of its slots are compared.

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
        where: which steps count, shape (N, T - 1); None for all.

    Returns:
        The area; NaN if there is only one class of steps, or a change is not finite.
    """
    truth, score = _flat(change, starts, where)
    if not np.isfinite(score).all():
        return float("nan")
    return float(roc_auc_score(truth, score)) if 0 < truth.sum() < len(truth) else float("nan")


def average_precision(change: Tensor, starts: Tensor, where: Tensor | None = None) -> float:
    """Share of boundaries among the largest changes, averaged over the boundaries found.

    By chance it is the share of boundaries among all steps. Arguments and NaN are as in
    `area_under_curve`.
    """
    truth, score = _flat(change, starts, where)
    if not np.isfinite(score).all():
        return float("nan")
    return float(average_precision_score(truth, score)) if truth.any() else float("nan")


def quiet_steps(y: Tensor, starts: Tensor) -> Tensor:
    """Steps of y no larger than the median step inside chunks, shape (N, T - 1) for y (N, T).

    Boundaries among them cannot be recognised by how far y moves.
    """
    size = y.diff(dim=1).abs()
    return size <= size[~starts[:, 1:]].median()


def around_boundaries(change: Tensor, starts: Tensor, before: int, after: int) -> Tensor:
    """Mean change at the steps around boundaries, relative to the mean change of all steps.

    Args:
        change: shape (N, T - 1).
        starts: whether a chunk begins at a point, shape (N, T).
        before: number of steps before the one to a chunk's first point.
        after: number of steps after it.

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

    1: the signal is constant within chunks and differs between them. Any chunks explain a part of a
    signal that changes slowly; compare with the chunks of another sequence.

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
    """For every sequence the boundaries of another one, as a chance baseline."""
    return starts.roll(1, dims=0)


def _flat(change: Tensor, starts: Tensor, where: Tensor | None) -> "tuple[_Array, _Array]":
    truth = starts[:, 1:]
    if where is None:
        where = torch.ones_like(truth)
    return truth[where].numpy(), change[where].double().numpy()


_Array = np.ndarray[Any, np.dtype[Any]]
