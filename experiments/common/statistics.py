"""How far the mean over a few seeds can be trusted."""

import numpy as np
from numpy.typing import ArrayLike

CONFIDENCE = 0.95
RESAMPLES = 2000
_SEED = 0


def bootstrap_interval(
    runs: ArrayLike, *, confidence: float = CONFIDENCE, resamples: int = RESAMPLES
) -> tuple[np.ndarray, np.ndarray]:
    """Percentile interval of the mean over runs, where whole runs are drawn with replacement.

    With five runs there are only 126 different draws, and the interval is somewhat too narrow.

    Args:
        runs: shape (R, ...), at least two runs for an interval.
        confidence: part of the drawn means that lies within.
        resamples: how often R runs are drawn, always the same ones.

    Returns:
        Lower and upper end, shape (...) each; the values themselves where there is one run.
    """
    values = np.asarray(runs, dtype=float)
    draws = np.random.default_rng(_SEED).integers(len(values), size=(resamples, len(values)))
    tails = [(1 - confidence) / 2, (1 + confidence) / 2]
    low, high = np.quantile(values[draws].mean(axis=1), tails, axis=0)
    return low, high
