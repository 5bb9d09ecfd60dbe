"""Mean, deviation and interval over seeds, against the plainest computation of them."""

import csv
import io
import itertools
import math
import random
import sys
from pathlib import Path
from statistics import fmean, stdev

import numpy as np
import pytest

from agents.analysis.aggregation import (
    aggregate_over_seeds,
    aggregated_csv,
    align,
    bootstrap_interval,
)
from agents.analysis.learning_curves import LearningCurve
from agents.errors import MachineError


def curve(points, seed=1, game="Pong", head="linear"):
    steps, values = np.array(points, dtype=float).T
    return LearningCurve(Path(f"run{seed}"), game, seed, (head,), 4, steps, steps / 3.6e6, values)


def naive_value(points, x):
    """On the straight line between a run's own points; None beyond them."""
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        if x0 <= x <= x1:
            return y0 + (y1 - y0) * (x - x0) / (x1 - x0)
    return None


SEEDS = [
    [(100, 1.0), (1000, 4.0), (2000, 2.0)],
    [(50, 0.0), (700, 9.0), (2000, 5.0)],
    [(200, 3.0), (900, 3.5)],  # stopped early
]


def test_each_point_is_the_mean_and_deviation_of_the_seeds_that_reach_it():
    (band,) = aggregate_over_seeds([curve(p, seed) for seed, p in enumerate(SEEDS)], ["linear"] * 3)
    assert {50, 100, 200, 900, 2000} <= set(band.x)
    assert (band.x[0], band.x[-1], band.runs) == (50, 2000, 3)
    for x, mean, std, low, high, n in zip(
        band.x, band.mean, band.std, band.low, band.high, band.n, strict=True
    ):
        there = [y for y in (naive_value(points, x) for points in SEEDS) if y is not None]
        assert n == len(there)
        assert mean == pytest.approx(fmean(there))
        if n == 1:
            assert math.isnan(std)
            assert math.isnan(low)
            assert math.isnan(high)
        else:
            assert std == pytest.approx(stdev(there))
            assert min(there) - 1e-9 <= low <= mean <= high <= max(there) + 1e-9
    # Nothing is carried on: the third seed counts up to its own end, and not past it.
    assert band.n[band.x == 900] == 3
    assert set(band.n[band.x > 900]) == {2}


def test_a_curve_has_no_value_beyond_its_ends():
    x, y = np.array([1.0, 2.0]), np.array([5.0, 7.0])
    grid = np.array([0.5, 1.0, 1.5, 2.0, 2.5])
    assert np.array_equal(align([x], [y], grid)[0], [np.nan, 5, 6, 7, np.nan], equal_nan=True)


def test_the_interval_is_what_drawing_whole_seeds_again_and_again_gives():
    rng = np.random.default_rng(5)
    values = rng.normal(100, 20, size=(5, 3))
    low, high = bootstrap_interval(values)
    assert np.array_equal([low, high], bootstrap_interval(values))  # the seed is fixed
    draw = random.Random(1)
    for column in range(3):
        seeds = values[:, column].tolist()
        means = sorted(fmean(draw.choices(seeds, k=5)) for _ in range(20_000))
        assert low[column] == pytest.approx(means[500], abs=2.0)
        assert high[column] == pytest.approx(means[-501], abs=2.0)


def test_the_interval_at_a_point_does_not_depend_on_seeds_that_do_not_reach_it():
    values = np.array([[1.0, 1.0], [4.0, 4.0], [9.0, np.nan]])
    low, high = bootstrap_interval(values)
    assert (low[1], high[1]) == tuple(end[0] for end in bootstrap_interval(values[:2, :1]))
    assert high[0] > high[1]
    assert np.isnan(bootstrap_interval(values[:1])).all()


def test_where_scipy_is_missing_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.stats", None)
    with pytest.raises(MachineError, match=r'pip install -e "\.\[plot\]"'):
        bootstrap_interval(np.ones((2, 2)))


def test_games_and_labels_are_kept_apart_and_share_a_games_points():
    curves = [
        curve(SEEDS[0], head="linear"),
        curve([(100, 1.0), (400, 2.0)], head="hypernet"),
        curve([(1, 0.0), (10, 1.0)], game="Qbert"),
    ]
    bands = aggregate_over_seeds(curves, [c.parts[0] for c in curves])
    assert [(b.game, b.label) for b in bands] == [
        ("Pong", "linear"),
        ("Pong", "hypernet"),
        ("Qbert", "linear"),
    ]
    assert set(bands[1].x) <= set(bands[0].x)
    assert bands[1].x[-1] == 400
    assert bands[2].x[-1] == 10


def test_a_run_with_a_single_point_is_there():
    (band,) = aggregate_over_seeds([curve([(123, 4.0)])], ["linear"])
    assert (band.x.tolist(), band.mean.tolist(), band.n.tolist()) == ([123], [4], [1])


def test_evaluations_keep_their_own_points():
    curves = [curve([(1000, 1.0), (3000, 3.0)], 1), curve([(1000, 3.0), (2000, 5.0)], 2)]
    (band,) = aggregate_over_seeds(curves, ["linear"] * 2, metric="greedy")
    assert band.x.tolist() == [1000, 2000, 3000]
    assert band.mean.tolist() == [2.0, 3.5, 3.0]
    assert band.n.tolist() == [2, 2, 1]


def test_seeds_of_one_budget_begin_and_end_together():
    """Budgets are overshot by some agent steps, and each run's first game ends when it ends."""
    runs = [[(80, 1.0), (10_003, 3.0)], [(96, 9.0), (10_020, 5.0)], [(110, 2.0), (10_000, 4.0)]]
    (band,) = aggregate_over_seeds([curve(p, seed) for seed, p in enumerate(runs)], ["linear"] * 3)
    assert (band.x[0], band.x[-1], set(band.n)) == (110, 10_000, {3})
    assert band.mean[-1] == pytest.approx(4.0, abs=0.01)
    # More than a 200th of the axis is a difference to be seen.
    runs[2] = [(110, 2.0), (9_900, 4.0)]
    (band,) = aggregate_over_seeds([curve(p, seed) for seed, p in enumerate(runs)], ["linear"] * 3)
    assert (band.x[0], band.x[-1], band.n[-1]) == (110, 10_020, 1)


def test_runs_shorter_than_what_counts_as_together_are_still_there():
    curves = [curve([(0, 0.0), (9000, 1.0)], head="hypernet")]
    curves += [curve([(step, 1.0)], seed) for seed, step in enumerate((500, 510))]
    _, band = aggregate_over_seeds(curves, ["hypernet", "linear", "linear"])
    assert (band.x.tolist(), band.n.tolist()) == ([500, 510], [1, 1])


@pytest.mark.parametrize(("axis", "end"), [("steps", 2000), ("frames", 8000), ("hours", 1 / 1800)])
def test_the_axis_may_be_steps_frames_or_hours(axis, end):
    bands = aggregate_over_seeds([curve(SEEDS[0])], ["linear"], axis)
    assert bands[0].x[-1] == pytest.approx(end)
    assert aggregated_csv(bands, axis).splitlines()[0] == (
        f"game,label,{axis[:-1]},mean,std,ci_low,ci_high,n"
    )


def test_the_numbers_come_back_from_the_csv():
    curves = [curve(p, seed) for seed, p in enumerate(SEEDS)]
    curves.append(curve([(10, -1.0), (20, 1 / 3)], game="Qbert", head="neurocoder"))
    labels = [*["linear, hidden size 30"] * 3, "neurocoder"]
    bands = aggregate_over_seeds(curves, labels)
    rows = list(csv.DictReader(io.StringIO(aggregated_csv(bands, "steps"))))
    assert len(rows) == sum(len(band.x) for band in bands)
    for band in bands:
        own = [r for r in rows if (r["game"], r["label"]) == (band.game, band.label)]
        columns = {"step": band.x, "mean": band.mean, "std": band.std, "n": band.n}
        columns |= {"ci_low": band.low, "ci_high": band.high}
        for name, expected in columns.items():
            found = [float(row[name] or "nan") for row in own]
            assert found == pytest.approx(expected.tolist(), rel=1e-9, nan_ok=True), name
