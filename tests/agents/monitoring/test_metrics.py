"""Means over updates and episodes."""

import math

import pytest

from agents.monitoring.metrics import TrainingStatistics
from agents.training_state import TrainingState
from envs import Episode


def test_the_recent_return_is_the_mean_of_the_last_hundred_episodes():
    statistics = TrainingStatistics()
    assert math.isnan(statistics.recent_return)
    for score in range(150):
        statistics.add_episodes([Episode(float(score), 1)])
    assert statistics.recent_return == pytest.approx(sum(range(50, 150)) / 100)
    assert statistics.episodes == 150


def test_numbers_that_are_not_finite_stay_out_of_the_means():
    statistics = TrainingStatistics()
    statistics.add_scalars({"losses/explained_variance": math.nan})
    statistics.add_scalars({"losses/explained_variance": 0.5})
    assert statistics.end_interval(1)["losses/explained_variance"] == 0.5
    assert "losses/explained_variance" not in statistics.end_interval(2)


def test_numbers_that_are_never_finite_are_no_metric():
    statistics = TrainingStatistics()
    statistics.add_scalars({"losses/explained_variance": math.nan})
    assert "losses/explained_variance" not in statistics.end_interval(1)


def test_returns_that_are_not_finite_are_counted_and_never_averaged():
    statistics = TrainingStatistics()
    statistics.add_episodes([Episode(2.0, 1), Episode(math.nan, 1), Episode(math.inf, 1)])
    assert statistics.episodes == 3
    assert (statistics.recent_return, statistics.best_return) == (2.0, 2.0)
    assert statistics.end_interval(1)["charts/episodic_return"] == 2.0


def test_games_that_do_not_end_show_in_the_steps_per_episode():
    tag = "charts/steps_per_episode"
    statistics = TrainingStatistics(TrainingState(1000))
    statistics.add_episodes([Episode(50.0, 100)] * 4)
    assert statistics.end_interval(1400)[tag] == 100
    # All but one of the environments stand still; the one that ends is as long as ever.
    assert tag not in statistics.end_interval(11_400)
    statistics.add_episodes([Episode(50.0, 100)])
    scalars = statistics.end_interval(21_400)
    assert (scalars["charts/episodic_length"], scalars[tag]) == (100, 20_000)


def test_what_a_checkpoint_stores_can_be_read_whatever_an_environment_returned():
    statistics = TrainingStatistics()
    statistics.add_episodes([Episode(math.nan, 3), Episode(2.0, 5), Episode(math.inf, 4)])
    state = TrainingState.from_json(statistics.state().to_json())
    assert (state.episodes, state.recent_games) == (3, ((2.0, 5),))
