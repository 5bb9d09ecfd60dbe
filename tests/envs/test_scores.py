"""The published scores, and the scale they make."""

import pytest

from envs import PUBLISHED_SCORES, human_normalised, resolve_game


def test_there_are_57_games_and_every_name_is_that_of_a_game():
    assert len(PUBLISHED_SCORES) == 57
    for name in PUBLISHED_SCORES:
        assert resolve_game(name).name == name


@pytest.mark.parametrize(
    ("game", "random", "human"),
    [
        ("Frostbite", 65.2, 4334.7),
        ("MontezumaRevenge", 0.0, 4753.3),
        ("Pong", -20.7, 14.6),
        ("Surround", -10.0, 6.5),
        ("Skiing", -17098.1, -4336.9),
    ],
)
def test_known_scores_are_the_published_ones(game, random, human):
    assert PUBLISHED_SCORES[game] == (random, human)


def test_both_columns_sum_to_what_the_published_table_sums_to():
    # Summed over a transcription of the table, independent of the one in the code.
    assert sum(s.random for s in PUBLISHED_SCORES.values()) == pytest.approx(50864.9)
    assert sum(s.human for s in PUBLISHED_SCORES.values()) == pytest.approx(606494.2)


def test_the_human_plays_better_than_random_in_every_game():
    for name, scores in PUBLISHED_SCORES.items():
        assert scores.human > scores.random, name


def test_random_play_is_0_the_human_1_and_the_scale_is_linear():
    assert human_normalised("Pong", -20.7) == 0.0
    assert human_normalised("Pong", 14.6) == pytest.approx(1.0)
    assert human_normalised("Pong", 21.0) == pytest.approx(41.7 / 35.3)
    assert human_normalised("MontezumaRevenge", 475.33) == pytest.approx(0.1)


def test_a_game_without_published_scores_has_no_normalised_one():
    assert human_normalised("Tetris", 100.0) is None
