"""Running statistics of vector observations, which all workers share and checkpoints keep."""

import torch
from torch import Tensor, nn

CLIP = 10.0
# After so many observations, newer ones count more; a larger count would not fit into float32.
MAX_COUNT = 2.0**23
_EPS = 1e-8
# Squares of much larger numbers overflow float32; a single one makes a variance infinite for good.
MAX_MAGNITUDE = 1e15


class RunningNormalization(nn.Module):
    """Scales every component to mean 0 and variance 1 over all observations so far.

    The statistics are parameters without a gradient: so they are pulled, snapshotted, saved and
    loaded with all others, and an optimizer, whose steps on them are zero, leaves them alone.

    Args:
        size: D, the size of an observation.

    Attributes:
        statistics: Count, means and variances, shape (1 + 2 D,).
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        initial = torch.cat([torch.zeros(1 + size), torch.ones(size)])
        self.statistics = nn.Parameter(initial, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise observations, shape (..., D), and clip them to [-10, 10]."""
        _, mean, variance = split_statistics(self.statistics)
        return ((x - mean) * (variance + _EPS).rsqrt()).clamp(-CLIP, CLIP)


def split_statistics(statistics: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """View count, shape (), means and variances, shape (D,) each."""
    size = (len(statistics) - 1) // 2
    return statistics[0], statistics[1 : 1 + size], statistics[1 + size :]


@torch.no_grad()
def merge_observations_(statistics: Tensor, observations: Tensor) -> None:
    """Include a batch of observations in the statistics, in place.

    Args:
        statistics: As `RunningNormalization.statistics`.
        observations: Shape (N, D); those with numbers that are not finite, or above
            `MAX_MAGNITUDE`, are left out.
    """
    observations = _without_extremes(observations)
    if len(observations) == 0:
        return
    count = observations.new_full((1,), len(observations))
    both = (observations.mean(0), observations.var(0, correction=0))
    merge_statistics_(statistics, torch.cat([count, *both]))


@torch.no_grad()
def merge_statistics_(statistics: Tensor, others: Tensor) -> None:
    """Include the statistics of other observations, in place.

    Source: Chan, Golub and LeVeque, Algorithms for computing the sample variance (1983).

    Args:
        statistics: As `RunningNormalization.statistics`.
        others: The statistics of at least one other observation.
    """
    count, mean, variance = split_statistics(statistics)
    added, other_mean, other_variance = split_statistics(others)
    total = count + added
    difference = other_mean - mean
    squares = variance * count + other_variance * added
    squares += difference.square() * (count * added / total)
    # Other workers read and write without a lock, so each number is replaced at once. If two
    # workers find the statistics empty, the mean of one remains, not the sum of both.
    mean.copy_(mean + difference * (added / total))
    variance.copy_(squares / total)
    count.copy_(total.clamp(max=MAX_COUNT))


def empty_sums(rows: int, size: int) -> Tensor:
    """Rows for `add_observations_`, float64, shape (rows, 1 + 3 D), for observations of size D."""
    return torch.zeros(rows, 1 + 3 * size, dtype=torch.float64)


@torch.no_grad()
def add_observations_(row: Tensor, observations: Tensor) -> None:
    """Add a batch of observations to a row of `empty_sums`, in place.

    A row holds count, offset, and the sums of x - offset and of its squares, for an offset near x.
    With a single writer that only ever adds, nothing is lost or counted twice however often others
    read the row.

    Args:
        row: Shape (1 + 3 D,).
        observations: Shape (N, D); `merge_observations_` says which are left out.
    """
    observations = _without_extremes(observations).double()
    if len(observations) == 0:
        return
    count, offset, sums, squares = _split_sums(row)
    if count == 0:
        offset = observations.mean(0)
    x = observations - offset
    added = [(count + len(x)).reshape(1), offset, sums + x.sum(0), squares + x.square().sum(0)]
    row.copy_(torch.cat(added))


def statistics_between(before: Tensor, after: Tensor) -> Tensor:
    """The statistics of the observations added to rows of sums between two readings.

    Args:
        before: Shape (rows, 1 + 3 D).
        after: The same rows, later.

    Returns:
        Count, means and variances, shape (1 + 2 D,), float32; zeros if nothing was added.
    """
    size = (after.shape[1] - 1) // 3
    statistics = torch.zeros(1 + 2 * size, dtype=torch.float64)
    for old, new in zip(before, after, strict=True):
        count, offset, sums, squares = _split_sums(new)
        old_count, _, old_sums, old_squares = _split_sums(old)
        added = count - old_count
        if added > 0:
            mean = (sums - old_sums) / added
            variance = ((squares - old_squares) / added - mean.square()).clamp(min=0)
            merge_statistics_(statistics, torch.cat([added.reshape(1), offset + mean, variance]))
    return statistics.float()


def _split_sums(row: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    size = (len(row) - 1) // 3
    offset, sums, squares = row[1:].split(size)
    return row[0], offset, sums, squares


def _without_extremes(observations: Tensor) -> Tensor:
    return observations[(observations.abs() <= MAX_MAGNITUDE).all(dim=1)]
