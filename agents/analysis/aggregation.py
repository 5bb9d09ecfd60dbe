"""Learning curves aggregated over seeds: mean, standard deviation and confidence interval."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from agents.analysis.learning_curves import TRAINING, LearningCurve, Numbers
from agents.errors import MachineError

STEPS, FRAMES, HOURS = "steps", "frames", "hours"
AXES = (STEPS, FRAMES, HOURS)

GRID_POINTS = 201
CONFIDENCE = 0.95
RESAMPLES = 2000
BOOTSTRAP_SEED = 0
# How every file of `aggregated_csv` begins.
CSV_START = b"game,label,"


@dataclass(frozen=True)
class AggregatedCurve:
    """The scores of all runs of one game and label, aggregated over the seeds at each point.

    Attributes:
        game: The game, as in `envs.Game.name`.
        label: What the runs have in common.
        x: Steps, frames or hours, shape (G,), increasing.
        mean: Mean over the runs that reach x, shape (G,).
        std: Sample standard deviation (n - 1 in the denominator), NaN where n is 1, shape (G,).
        low: Lower end of the confidence interval of the mean, NaN where n is 1, shape (G,).
        high: Upper end, likewise.
        n: Number of runs that reach x, shape (G,), at least 1.
        runs: Number of all runs.
        frame_skip: The frames in an agent step; None where the runs' differ.
    """

    game: str
    label: str
    x: Numbers
    mean: Numbers
    std: Numbers
    low: Numbers
    high: Numbers
    n: np.ndarray
    runs: int
    frame_skip: int | None


def aggregate_over_seeds(
    curves: Sequence[LearningCurve],
    labels: Sequence[str],
    axis: str = STEPS,
    metric: str = TRAINING,
) -> list[AggregatedCurve]:
    """Group curves by game and label, and aggregate each group over its seeds.

    All curves of a game have the same grid: evenly spaced for training returns, the steps of the
    evaluations otherwise, and in both cases the ends of every run. Runs are interpolated linearly
    and never extrapolated. Runs with the same budget end a few steps apart, and so do their first
    episodes: where that is less than one interval of the training grid, the aggregated curve begins
    and ends where all of them have a value.

    Args:
        curves: Curves of single runs.
        labels: A label for each curve.
        axis: "steps", "frames" or "hours".
        metric: The metric of the curves.

    Returns:
        The aggregated curves, games and labels in the order of their first appearance.
    """
    groups: dict[str, dict[str, list[LearningCurve]]] = {}
    for curve, label in zip(curves, labels, strict=True):
        groups.setdefault(curve.game, {}).setdefault(label, []).append(curve)
    aggregated = []
    for game, by_label in groups.items():
        xs = {label: [x_values(curve, axis) for curve in by_label[label]] for label in by_label}
        every = [x for group in xs.values() for x in group]
        ends = [end for x in every for end in (x[0], x[-1])]
        even = np.linspace(0.0, max(ends), GRID_POINTS)
        grid = np.unique(np.concatenate([ends, even] if metric == TRAINING else every))
        tolerance = even[1] if metric == TRAINING else 0.0
        for label, group in by_label.items():
            points = _trim_ends(xs[label], grid, tolerance)
            values = align(xs[label], [curve.values for curve in group], points)
            skips = {curve.frame_skip for curve in group}
            frame_skip = skips.pop() if len(skips) == 1 else None
            aggregated.append(_aggregate(game, label, points, values, frame_skip))
    return aggregated


def x_values(curve: LearningCurve, axis: str) -> Numbers:
    """Return the x values of a curve's points, shape (N,)."""
    if axis == HOURS:
        return curve.hours
    return curve.steps * curve.frame_skip if axis == FRAMES else curve.steps


def align(xs: Sequence[Numbers], values: Sequence[Numbers], grid: Numbers) -> Numbers:
    """Interpolate R curves on a grid, with NaN beyond a curve's ends; shape (R, G)."""
    return np.stack(
        [np.interp(grid, x, y, left=np.nan, right=np.nan) for x, y in zip(xs, values, strict=True)]
    )


def bootstrap_interval(
    values: Numbers, confidence: float = CONFIDENCE, resamples: int = RESAMPLES
) -> tuple[Numbers, Numbers]:
    """Percentile bootstrap interval of the mean over runs, with whole runs resampled.

    With five runs there are only 126 different resamples, and the interval is somewhat too narrow.

    Args:
        values: Values of R runs, shape (R, G), NaN where a run has none.
        confidence: Confidence level.
        resamples: Number of resamples, drawn with a fixed seed.

    Returns:
        Lower and upper end, shape (G,) each; NaN where fewer than two runs have a value.

    Raises:
        MachineError: If scipy is not installed.
    """
    try:
        from scipy.stats import bootstrap
    except ImportError:
        raise MachineError('curves need scipy: pip install -e ".[plot]"') from None

    low, high = np.full((2, values.shape[1]), np.nan)
    there = np.isfinite(values)
    for pattern in np.unique(there, axis=1).T:
        if pattern.sum() < 2:
            continue
        columns = (there == pattern[:, None]).all(axis=0)
        interval = bootstrap(
            (values[np.ix_(pattern, columns)],),
            np.mean,
            axis=0,
            n_resamples=resamples,
            confidence_level=confidence,
            method="percentile",
            vectorized=True,
            random_state=np.random.default_rng(BOOTSTRAP_SEED),
        ).confidence_interval
        low[columns], high[columns] = interval.low, interval.high
    return low, high


def aggregated_csv(curves: Sequence[AggregatedCurve], axis: str) -> str:
    """Return the curves as CSV in long format, with x in the column `step`, `frame` or `hour`."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ["game", "label", axis.removesuffix("s"), "mean", "std", "ci_low", "ci_high", "n"]
    )
    for c in curves:
        for *numbers, n in zip(c.x, c.mean, c.std, c.low, c.high, c.n, strict=True):
            writer.writerow([c.game, c.label, *map(_cell, numbers), n])
    return text.getvalue()


def _trim_ends(xs: Sequence[Numbers], grid: Numbers, tolerance: float) -> Numbers:
    """Cut the grid where runs begin, and end, less than `tolerance` apart: n would jump there."""
    first, last = [x[0] for x in xs], [x[-1] for x in xs]
    begin = max(first) if max(first) - min(first) < tolerance else min(first)
    end = min(last) if max(last) - min(last) < tolerance else max(last)
    # If the runs are shorter than the tolerance, keep everything.
    return grid[(grid >= begin) & (grid <= end)] if begin <= end else grid


def _cell(number: float) -> str:
    return "" if np.isnan(number) else f"{number:.10g}"


def _aggregate(
    game: str, label: str, grid: Numbers, values: Numbers, frame_skip: int | None
) -> AggregatedCurve:
    n = np.isfinite(values).sum(axis=0)
    reached = n > 0
    grid, values, n = grid[reached], values[:, reached], n[reached]
    mean = np.nansum(values, axis=0) / n
    square = np.nansum((values - mean) ** 2, axis=0)
    std = np.where(n > 1, np.sqrt(square / np.maximum(n - 1, 1)), np.nan)
    low, high = bootstrap_interval(values)
    return AggregatedCurve(game, label, grid, mean, std, low, high, n, len(values), frame_skip)
