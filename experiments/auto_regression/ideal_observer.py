"""The best possible prediction of polynomial chunks, given their distribution.

Exact Bayesian change-point detection: the lengths, degrees and coefficients have the distributions
of `experiments.auto_regression.chunks`, and the observer weighs all chunks that the points so far
may belong to. No network has a smaller expected square error, or locates the start of a chunk
better.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from experiments.auto_regression.chunks import DEGREES, LONGEST, SHORTEST, chebyshev

JITTER = 1e-9  # variance that keeps the covariance of exact points invertible


@dataclass(frozen=True)
class Observation:
    """The observer's inferences about N sequences of T points.

    Attributes:
        prediction: mean of every point given those before it, shape (N, T); 0 for the first.
        boundary: probability that a chunk begins at the point, given it and those before it,
            shape (N, T).
    """

    prediction: Tensor
    boundary: Tensor


def observe(y: Tensor) -> Observation:
    """Predict sequences y, shape (N, T), point by point.

    A belief is a distribution over the age a of the current chunk, 0 at its first point. With h(k)
    the chance that a chunk of k points is complete,

        p(a + 1) ~ p(a) (1 - h(a + 1)) p(y_t | the chunk's a + 1 points so far)
        p(0)     ~ sum over a of p(a) h(a + 1) p(y_t | nothing)
    """
    number, length = y.shape
    evidence, mean = _windows(y.double())
    ends = _chances_of_completion()
    goes_on, is_over = (1 - ends).log(), ends.log()

    prediction = torch.zeros(number, length, dtype=torch.float64)
    boundary = torch.ones(number, length, dtype=torch.float64)
    belief = torch.full((number, LONGEST), -math.inf, dtype=torch.float64)
    belief[:, 0] = 0.0
    for t in range(1, length):
        expected = torch.softmax(belief, dim=1) * (1 - ends) * mean[:, t - 1]
        prediction[:, t] = expected.sum(1)
        new = torch.logsumexp(belief + is_over, dim=1) + evidence[:, t, 0]
        likelihood = evidence[:, t, 1:] - evidence[:, t - 1, :-1]
        belief = torch.cat([new.unsqueeze(1), (belief + goes_on)[:, :-1] + likelihood], dim=1)
        belief = torch.log_softmax(belief, dim=1)
        boundary[:, t] = belief[:, 0].exp()
    return Observation(prediction, boundary)


def _chances_of_completion() -> Tensor:
    """h(1) ... h(LONGEST): the chance that a chunk of k points has no more to come."""
    points = torch.arange(1, LONGEST + 1, dtype=torch.float64)
    return torch.where(points < SHORTEST, 0.0, 1 / (LONGEST + 1 - points))


def _windows(y: Tensor) -> tuple[Tensor, Tensor]:
    """Densities and predictions if the last k = 1 ... LONGEST points are the first of a chunk.

    Returns:
        The log density of those points, and the mean of the next point, each of shape
        (N, T, LONGEST). Zero if there are fewer than k points; the mean after LONGEST is zero, too.
    """
    evidence, mean = torch.zeros(2, *y.shape, LONGEST, dtype=torch.float64)
    for k in range(1, min(LONGEST, y.shape[1]) + 1):
        seen = y.unfold(1, k, 1)
        parts = [_given_degree(seen, degree) for degree in DEGREES]
        densities = torch.stack([density for density, _ in parts])
        shares = torch.softmax(densities, dim=0)
        evidence[:, k - 1 :, k - 1] = torch.logsumexp(densities, dim=0) - math.log(len(DEGREES))
        mean[:, k - 1 :, k - 1] = (shares * torch.stack([mean for _, mean in parts])).sum(0)
    return evidence, mean


def _given_degree(seen: Tensor, degree: int) -> tuple[Tensor, Tensor]:
    """Log density of a chunk's first k points (..., k), and the mean of its next one; (...)."""
    k = seen.shape[-1]
    basis = chebyshev(degree) / math.sqrt((degree + 2) / 2)
    covariance = basis.T @ basis + JITTER * torch.eye(LONGEST, dtype=torch.float64)
    root = torch.linalg.cholesky(covariance[:k, :k])
    whitened = seen @ torch.linalg.inv(root).T
    log_density = (
        -whitened.square().sum(-1) / 2 - root.diagonal().log().sum() - k * math.log(2 * math.pi) / 2
    )
    if k == LONGEST:
        return log_density, torch.zeros_like(log_density)
    weights = torch.cholesky_solve(covariance[:k, k : k + 1], root)
    return log_density, (seen @ weights).squeeze(-1)
