import pytest

import envs.config
from envs import (
    AtariConfig,
    AtariTrainingEnv,
    UnknownGameError,
    UnplayableGameError,
    action_names,
    list_games,
    make_evaluation_env,
    num_actions,
)


def test_the_game_may_be_spelled_in_any_way():
    assert AtariConfig("montezuma's revenge") == AtariConfig("MontezumaRevenge")
    assert AtariConfig("montezuma_revenge").game == "MontezumaRevenge"
    assert AtariConfig("MontezumaRevenge").rom == "montezuma_revenge"


def test_games_that_cannot_be_played_are_refused_before_the_emulator_is_asked():
    with pytest.raises(UnknownGameError):
        AtariConfig("Chess960")
    for game in list_games():
        if not game.playable:
            with pytest.raises(UnplayableGameError):
                AtariConfig(game.name)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("frame_skip", 0),
        ("frame_skip", 101),
        ("sticky_actions", -0.1),
        ("sticky_actions", 1.5),
        ("sticky_actions", float("nan")),
        ("noop_max", -1),
        ("max_frames", 0),
        ("max_frames", 10**9),
    ],
)
def test_a_setting_out_of_range_is_named_with_its_value(setting, value):
    with pytest.raises(ValueError, match=f"{setting}.*{value}"):
        AtariConfig("Pong", **{setting: value})


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("game", 3),
        ("frame_skip", 4.0),
        ("frame_skip", True),
        ("sticky_actions", "0.25"),
        ("noop_max", None),
        ("fire_reset", 1),
        ("max_frames", [1]),
        ("full_action_space", "yes"),
    ],
)
def test_a_setting_of_the_wrong_type_is_named(setting, value):
    with pytest.raises(TypeError, match=f"{setting} must be of type"):
        AtariConfig(**{"game": "Pong", setting: value})


@pytest.mark.parametrize(
    ("frame_skip", "max_frames", "steps"), [(4, 100, 25), (4, 101, 26), (1, 100, 100), (12, 8, 1)]
)
def test_an_episode_has_as_many_steps_as_its_frames_need(frame_skip, max_frames, steps):
    config = AtariConfig("Pong", frame_skip=frame_skip, max_frames=max_frames)
    assert config.max_steps == steps


def test_seconds_are_those_of_a_console_with_sixty_frames_a_second():
    assert AtariConfig("Pong").seconds(15) == 1
    assert AtariConfig("Pong", frame_skip=12).seconds(15) == 3
    assert AtariConfig("Pong", frame_skip=1).seconds(15) == 0.25


@pytest.mark.parametrize(("game", "full"), [("Pong", False), ("Pong", True), ("Backgammon", False)])
def test_both_environments_have_the_number_of_actions(game, full):
    config = AtariConfig(game, full_action_space=full)
    env = make_evaluation_env(config)
    assert env.action_space.n == num_actions(config)
    assert env.unwrapped.get_action_meanings() == list(action_names(config))
    assert AtariTrainingEnv(config, 1).single_action_space.n == num_actions(config)


def test_actions_are_counted_once_a_game(monkeypatch):
    assert num_actions(AtariConfig("Breakout")) == 4
    monkeypatch.setattr(envs.config.ale_py, "ALEInterface", None)
    assert num_actions(AtariConfig("breakout", sticky_actions=0.5)) == 4
