"""The ideal observer against Bayes' rule over every way to cut a sequence into chunks."""

from itertools import pairwise

import numpy as np
import torch

from experiments.auto_regression.chunks import DEGREES, LONGEST, SHORTEST, draw_sequences
from experiments.auto_regression.ideal_observer import JITTER, observe


def cuts(length):
    """All lists of chunk lengths that cover so many points, the last one perhaps only in part."""
    if length <= 0:
        return [[]]
    return [
        [first, *rest] for first in range(SHORTEST, LONGEST + 1) for rest in cuts(length - first)
    ]


def density(y, degree):
    """Density of a chunk's first points, for one degree: a Gaussian's, written out."""
    u = -1 + 2 * np.arange(len(y)) / (LONGEST - 1)
    basis = np.polynomial.chebyshev.chebvander(u, degree) / np.sqrt((degree + 2) / 2)
    covariance = basis @ basis.T + JITTER * np.eye(len(y))
    _, log_determinant = np.linalg.slogdet(2 * np.pi * covariance)
    return np.exp(-(y @ np.linalg.solve(covariance, y) + log_determinant) / 2)


def expected(y, degree):
    """Mean of a chunk's next point given its first ones, by least squares with a prior of 1."""
    u = -1 + 2 * np.arange(len(y) + 1) / (LONGEST - 1)
    basis = np.polynomial.chebyshev.chebvander(u, degree) / np.sqrt((degree + 2) / 2)
    seen = basis[:-1]
    coefficients = np.linalg.solve(seen.T @ seen + JITTER * np.eye(degree + 1), seen.T @ y)
    return basis[-1] @ coefficients


def naive(y):
    """Prediction of a point given all before it, y, and probability that y's last began a chunk."""
    total = mean = begins = 0.0
    for lengths in cuts(len(y) + 1):
        edges = np.cumsum([0, *lengths])
        # The last chunk holds the point that is predicted.
        seen = [y[a:b] for a, b in pairwise(edges)]
        weight = (1 / (LONGEST - SHORTEST + 1)) ** len(lengths)
        for part in seen[:-1]:
            weight *= np.mean([density(part, degree) for degree in DEGREES])
        last = seen[-1]
        if len(last) == 0:  # the predicted point begins a chunk: it is 0 in the mean
            total += weight
            continue
        shares = [density(last, degree) / len(DEGREES) for degree in DEGREES]
        total += weight * sum(shares)
        mean += weight * sum(
            share * expected(last, degree) for share, degree in zip(shares, DEGREES, strict=True)
        )
        begins += weight * sum(shares) * (len(last) == 1)
    return mean / total, begins / total


def test_it_is_Bayes_rule_over_all_cuts():
    y = draw_sequences(2, 22, torch.Generator().manual_seed(1)).y.double()
    # Noise makes many cuts possible; without it, one explains everything.
    y += 3 * JITTER**0.5 * torch.randn(y.shape, generator=torch.Generator().manual_seed(2))
    observation = observe(y)
    for row in range(2):
        for t in (1, 2, 5, 9, 13, 18, 21):
            mean, _ = naive(y[row, :t].numpy())
            np.testing.assert_allclose(observation.prediction[row, t], mean, rtol=1e-3, atol=1e-6)
        for t in (2, 9, 13, 18):
            _, begins = naive(y[row, :t].numpy())
            np.testing.assert_allclose(observation.boundary[row, t - 1], begins, atol=1e-5)


def test_it_sees_every_boundary_of_exact_points_and_none_elsewhere():
    sequences = draw_sequences(40, 64, torch.Generator().manual_seed(0))
    seen = observe(sequences.y).boundary > 0.5
    assert (seen == sequences.starts).float().mean() > 0.999


def test_it_predicts_better_than_the_last_point_and_than_zero():
    sequences = draw_sequences(40, 64, torch.Generator().manual_seed(0))
    y = sequences.y
    errors = [
        (prediction - y[:, 1:]).square().mean()
        for prediction in (observe(y).prediction[:, 1:], y[:, :-1], torch.zeros_like(y[:, 1:]))
    ]
    assert errors[0] < 0.8 * errors[1] < errors[2]
