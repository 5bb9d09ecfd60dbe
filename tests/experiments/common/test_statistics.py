"""The bootstrap interval of a mean over runs."""

import itertools

import numpy as np

from experiments.common.statistics import bootstrap_interval


def test_the_interval_is_that_of_all_possible_draws():
    runs = [1.0, 2.0, 4.0]
    means = [np.mean(draw) for draw in itertools.product(runs, repeat=3)]
    low, high = bootstrap_interval(runs, confidence=0.8, resamples=20000)
    assert (low, high) == tuple(np.quantile(means, [0.1, 0.9]))


def test_every_place_of_a_curve_has_its_own_interval_and_draws_are_always_the_same():
    runs = np.random.default_rng(1).normal(size=(5, 3, 2))
    low, high = bootstrap_interval(runs)
    assert low.shape == high.shape == (3, 2)
    assert (low < runs.mean(axis=0)).all()
    assert (high > runs.mean(axis=0)).all()
    np.testing.assert_array_equal(bootstrap_interval(runs)[0], low)


def test_one_run_is_its_own_interval():
    low, high = bootstrap_interval([[3.0, 5.0]])
    assert low.tolist() == high.tolist() == [3.0, 5.0]
