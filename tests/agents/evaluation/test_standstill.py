"""Play that stands still is noticed, said once, and goes on."""

import logging

import numpy as np
import pytest

from agents.evaluation import standstill
from agents.evaluation.episode import StepResult, run_episodes
from agents.evaluation.standstill import STANDSTILL_STEPS, StandstillHint
from envs import AtariConfig, GymnasiumConfig, action_names, make_evaluation_env

BREAKOUT = AtariConfig("Breakout", max_frames=4 * (STANDSTILL_STEPS + 50))


@pytest.fixture(autouse=True)
def nothing_said(monkeypatch):
    monkeypatch.setattr(standstill, "_named", set())


class Always:
    """Presses one button after a few others."""

    mode = "greedy"

    def __init__(self, config, name, first=()):
        self._names, self._name, self._first = action_names(config), name, first

    def reset(self, seed):  # noqa: ARG002
        self._actions = [*self._first]

    def act(self, observation):  # noqa: ARG002
        return self._names.index(self._actions.pop(0) if self._actions else self._name)

    def inspect(self):
        return None


def play(config, policy, episodes=1):
    env = make_evaluation_env(config)
    hint = StandstillHint(config)
    results = list(run_episodes(env, policy, range(1, 1 + episodes), [hint]))
    env.close()
    return results


def test_breakout_without_fire_is_said_to_wait_for_it_once(caplog):
    played = play(BREAKOUT, Always(BREAKOUT, "RIGHT"), episodes=2)
    (line,) = caplog.messages
    assert "\n" not in line
    for words in ("Breakout, greedy play", "such as FIRE", "--fire-reset", "1,050 agent steps"):
        assert words in line
    # They were played to their limit all the same.
    assert [(episode.length, episode.truncated) for episode in played] == [(1050, True)] * 2


def test_where_the_run_presses_fire_already_its_flag_is_not_named(caplog):
    config = AtariConfig("Breakout", fire_reset=True, max_frames=BREAKOUT.max_frames + 800)
    play(config, Always(config, "NOOP"))  # the game waits again once the ball is lost
    (line,) = caplog.messages
    assert "such as FIRE" in line
    assert "--fire-reset" not in line


def watch(observations, rewards=None, config=GymnasiumConfig("CartPole-v1")):  # noqa: B008
    """Shows these, one after the other, and returns the number at which something was said."""
    hint = StandstillHint(config)
    hint.on_start("sampled", 1)
    for length, observation in enumerate(observations, 1):
        reward = 0.0 if rewards is None else rewards[length - 1]
        hint.on_step(StepResult(0, reward, length, 0.0, np.array(observation), {}), None)
        if standstill._named:
            return length
    return None


def test_a_thousand_steps_without_news_are_needed(caplog):
    nothing = [[0.0]] * 2000
    assert watch(nothing) == STANDSTILL_STEPS + 1
    assert "FIRE" not in caplog.text
    assert "limit of 108,000 agent steps" in caplog.text


def test_a_reward_or_something_new_begins_the_count_again():
    rewards = [0.0] * 2000
    rewards[699] = -1.0
    assert watch([[0.0]] * 2000, rewards) == 700 + STANDSTILL_STEPS
    standstill._named.clear()
    assert watch([[0.0]] * 899 + [[1.0]] + [[0.0]] * 1100) == 900 + STANDSTILL_STEPS


def test_what_goes_to_and_fro_is_nothing_new():
    assert watch([[float(step % 20)] for step in range(2000)]) == 20 + STANDSTILL_STEPS
    standstill._named.clear()
    assert watch([[float(step)] for step in range(2000)]) is None


def test_each_episode_is_looked_at_by_itself():
    config = GymnasiumConfig("CartPole-v1")
    hint = StandstillHint(config)
    # What the second one shows at its 601st step is new there, and was not in the first.
    for observations in ([0.0, 1.0] * 50, [0.0] * 600 + [1.0] * 500):
        hint.on_start("sampled", 1)
        for length, observation in enumerate(observations, 1):
            hint.on_step(StepResult(0, 0.0, length, 0.0, np.array(observation), {}), None)
    assert not standstill._named


def test_it_is_a_warning_of_the_runs_log(caplog):
    with caplog.at_level(logging.WARNING, "train"):
        watch([[0.0]] * 2000)
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("train", logging.WARNING)
