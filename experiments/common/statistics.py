"""The bootstrap interval of a mean over a few runs."""

import numpy as np
from numpy.typing import ArrayLike

CONFIDENCE = 0.95
RESAMPLES = 2000
_SEED = 0


def bootstrap_interval(
    runs: ArrayLike, *, confidence: float = CONFIDENCE, resamples: int = RESAMPLES
) -> tuple[np.ndarray, np.ndarray]:
    """Percentile bootstrap interval of the mean over runs, with whole runs resampled.

    With five runs there are only 126 different resamples, and the interval is somewhat too narrow.

    Args:
        runs: Values of R runs, shape (R, ...).
        confidence: Confidence level.
        resamples: Number of resamples, drawn with a fixed seed.

    Returns:
        Lower and upper end, shape (...) each; the values themselves if R is 1.
    """
    from scipy.stats import bootstrap  # takes a second, which a refused command need not wait

    values = np.asarray(runs, dtype=float)
    if len(values) == 1:
        return values[0], values[0]
    interval = bootstrap(
        (values,),
        np.mean,
        axis=0,
        n_resamples=resamples,
        confidence_level=confidence,
        method="percentile",
        vectorized=True,
        random_state=np.random.default_rng(_SEED),
    ).confidence_interval
    return np.asarray(interval.low), np.asarray(interval.high)
