"""Curves of several seeds as one: mean, standard deviation and confidence interval."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from agents.analysis.learning_curves import TRAINING, LearningCurve, Numbers
from envs.config import FRAME_SKIP

STEPS, FRAMES, HOURS = "steps", "frames", "hours"
AXES = (STEPS, FRAMES, HOURS)

GRID_POINTS = 201
CONFIDENCE = 0.95
RESAMPLES = 2000
BOOTSTRAP_SEED = 0


@dataclass(frozen=True)
class AggregatedCurve:
    """What the runs of one game and label scored, over the seeds that reach each point.

    Attributes:
        game: as in `envs.Game.name`.
        label: what the runs have in common.
        x: steps, frames or hours, shape (G,), increasing.
        mean: over the runs that reach x, shape (G,).
        std: of the same as of a sample (divided by n - 1), NaN where n is 1, shape (G,).
        low: lower end of the confidence interval of the mean, NaN where n is 1, shape (G,).
        high: upper end.
        n: runs that reach x, shape (G,), at least 1.
        runs: of them all.
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


def aggregate_over_seeds(
    curves: Sequence[LearningCurve],
    labels: Sequence[str],
    axis: str = STEPS,
    metric: str = TRAINING,
) -> list[AggregatedCurve]:
    """Put curves together by game and label, both in the order in which they first come.

    The points of a game are the same for all its bands: evenly spaced for training returns, the
    evaluations' own otherwise, and in both cases the ends of every run. Between its own points a
    run's curve is a straight line; it is never continued past its ends. Runs of one budget end some
    steps apart, and their first games too: where that is less than a space of the training grid, a
    band begins and ends with all its runs.

    Args:
        curves: of single runs.
        labels: of the curves, one each.
        axis: "steps", "frames" or "hours".
        metric: what the curves show.
    """
    groups: dict[str, dict[str, list[LearningCurve]]] = {}
    for curve, label in zip(curves, labels, strict=True):
        groups.setdefault(curve.game, {}).setdefault(label, []).append(curve)
    bands = []
    for game, by_label in groups.items():
        xs = {label: [x_values(curve, axis) for curve in by_label[label]] for label in by_label}
        every = [x for group in xs.values() for x in group]
        ends = [end for x in every for end in (x[0], x[-1])]
        even = np.linspace(0.0, max(ends), GRID_POINTS)
        grid = np.unique(np.concatenate([ends, even] if metric == TRAINING else every))
        near = even[1] if metric == TRAINING else 0.0
        for label, group in by_label.items():
            points = _from_end_to_end(xs[label], grid, near)
            values = align(xs[label], [curve.values for curve in group], points)
            bands.append(_band(game, label, points, values))
    return bands


def x_values(curve: LearningCurve, axis: str) -> Numbers:
    """Where a curve's points lie on the axis, shape (N,)."""
    if axis == HOURS:
        return curve.hours
    return curve.steps * FRAME_SKIP if axis == FRAMES else curve.steps


def align(xs: Sequence[Numbers], values: Sequence[Numbers], grid: Numbers) -> Numbers:
    """The values of R curves at the points of a grid, NaN beyond a curve's ends; shape (R, G)."""
    return np.stack(
        [np.interp(grid, x, y, left=np.nan, right=np.nan) for x, y in zip(xs, values, strict=True)]
    )


def bootstrap_interval(
    values: Numbers, confidence: float = CONFIDENCE, resamples: int = RESAMPLES
) -> tuple[Numbers, Numbers]:
    """Percentile interval of the mean over runs, where whole runs are drawn with replacement.

    With five runs there are only 126 different draws, and the interval is somewhat too narrow.

    Args:
        values: of R runs, shape (R, G), NaN where a run has none.
        confidence: part of the drawn means that lies within.
        resamples: how often R runs are drawn; with a fixed seed.

    Returns:
        Lower and upper end, shape (G,) each; NaN where fewer than two runs have a value.
    """
    low, high = np.full((2, values.shape[1]), np.nan)
    there = np.isfinite(values)
    tails = [(1 - confidence) / 2, (1 + confidence) / 2]
    for pattern in np.unique(there, axis=1).T:
        n = int(pattern.sum())
        if n < 2:
            continue
        columns = (there == pattern[:, None]).all(axis=0)
        draws = np.random.default_rng(BOOTSTRAP_SEED).integers(n, size=(resamples, n))
        means = values[np.ix_(pattern, columns)][draws].mean(axis=1)
        low[columns], high[columns] = np.quantile(means, tails, axis=0)
    return low, high


def aggregated_csv(bands: Sequence[AggregatedCurve], axis: str) -> str:
    """The bands in long format; `step` is called `frame` or `hour` where that is the axis."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ["game", "label", axis.removesuffix("s"), "mean", "std", "ci_low", "ci_high", "n"]
    )
    for b in bands:
        for *numbers, n in zip(b.x, b.mean, b.std, b.low, b.high, b.n, strict=True):
            writer.writerow([b.game, b.label, *map(_cell, numbers), n])
    return text.getvalue()


def _from_end_to_end(xs: Sequence[Numbers], grid: Numbers, near: float) -> Numbers:
    """The grid without what is among ends that lie less than `near` apart, where n would jump."""
    first, last = [x[0] for x in xs], [x[-1] for x in xs]
    begin = max(first) if max(first) - min(first) < near else min(first)
    end = min(last) if max(last) - min(last) < near else max(last)
    # Runs that are shorter than that are all there is.
    return grid[(grid >= begin) & (grid <= end)] if begin <= end else grid


def _cell(number: float) -> str:
    return "" if np.isnan(number) else f"{number:.10g}"


def _band(game: str, label: str, grid: Numbers, values: Numbers) -> AggregatedCurve:
    n = np.isfinite(values).sum(axis=0)
    reached = n > 0
    grid, values, n = grid[reached], values[:, reached], n[reached]
    mean = np.nansum(values, axis=0) / n
    square = np.nansum((values - mean) ** 2, axis=0)
    std = np.where(n > 1, np.sqrt(square / np.maximum(n - 1, 1)), np.nan)
    low, high = bootstrap_interval(values)
    return AggregatedCurve(game, label, grid, mean, std, low, high, n, len(values))
