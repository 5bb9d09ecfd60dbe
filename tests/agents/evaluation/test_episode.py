"""The loop over episodes: what callbacks are called with, and how episodes end."""

import hashlib

import numpy as np
import pytest

from agents.evaluation.episode import hash_screen, run_episodes
from agents.evaluation.runner import evaluate_policy
from envs import make_evaluation_env
from tests.agents.episode_log import EpisodeLog
from tests.agents.runs import make_config, make_network

CONFIG = make_config(max_frames=120)


class Constant:
    """A policy that always plays one action."""

    mode = "random"

    def __init__(self, action):
        self.action = action

    def reset(self, seed):
        pass

    def act(self, observation):  # noqa: ARG002
        return self.action

    def inspect(self):
        return None


def test_a_callback_sees_start_steps_and_end_of_every_episode():
    log = EpisodeLog()
    env = make_evaluation_env(CONFIG.env)
    episodes = run_episodes(env, Constant(2), [3, 4], [log])
    first = next(episodes)
    assert log.calls == [("start", "random", 3), *["step"] * 30, ("end", 3)]
    assert (first.seed, first.length, first.mode) == (3, 30, "random")
    assert [step.length for step in log.steps] == list(range(1, 31))
    assert log.steps[-1].score == first.score == sum(step.reward for step in log.steps)
    assert {step.action for step in log.steps} == {2}
    second = next(episodes)
    assert next(episodes, None) is None
    assert log.results == [first, second]


def test_an_episode_that_looked_different_on_the_way_has_another_trajectory_hash():
    env = make_evaluation_env(CONFIG.env)
    one, other, again = run_episodes(env, Constant(2), [3, 4, 3])
    assert np.array_equal(one.actions, other.actions)
    assert one.trajectory_hash == again.trajectory_hash != other.trajectory_hash


def test_each_callback_gets_the_output_as_often_as_it_asked_from_each_episodes_first_step():
    never, always, seldom = (EpisodeLog(inspect_every=n) for n in (0, 1, 8))
    config = make_config()
    callbacks = [seldom, never, always]
    evaluate_policy(make_network(config), config, "sampled", [2, 3], callbacks)
    assert never.outputs == []
    assert len(always.outputs) == 40
    assert seldom.outputs == [always.outputs[i] for i in (0, 8, 16, 20, 28, 36)]


def test_frames_are_handed_out_if_any_callback_needs_them():
    without, with_frames = EpisodeLog(), EpisodeLog(needs_frames=True)
    evaluate_policy(None, CONFIG, "random", [1], [without])
    assert "screens" not in without.steps[0].info
    evaluate_policy(None, CONFIG, "random", [1], [without, with_frames])
    assert with_frames.steps[0].info["screens"].shape == (4, 210, 160, 3)


def test_when_asked_to_stop_the_finished_episodes_are_returned_and_the_last_is_aborted():
    log = EpisodeLog()
    episodes = evaluate_policy(
        None, CONFIG, "random", [5, 6, 7], [log], lambda: len(log.steps) == 40
    )
    assert [episode.seed for episode in episodes] == [5]
    assert log.calls == [
        ("start", "random", 5),
        *["step"] * 30,
        ("end", 5),
        ("start", "random", 6),
        *["step"] * 10,
        "abort",
    ]


def test_an_error_in_the_middle_closes_the_environment_and_aborts_the_episode(monkeypatch):
    log, closed = EpisodeLog(), []

    def watched(config, **settings):
        env = make_evaluation_env(config, **settings)
        close = env.close
        monkeypatch.setattr(env, "close", lambda: (closed.append(True), close()))
        return env

    monkeypatch.setattr("agents.evaluation.runner.make_evaluation_env", watched)

    class Failing(EpisodeLog):
        def on_step(self, step, output):  # noqa: ARG002
            raise RuntimeError("stop here")

    with pytest.raises(RuntimeError, match="stop here"):
        evaluate_policy(None, CONFIG, "random", [1, 2], [log, Failing()])
    assert closed == [True]
    assert log.calls == [("start", "random", 1), "step", "abort"]


def test_a_screens_hash_is_sha_256_of_its_size_and_pixels():
    screen = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    expected = hashlib.sha256(b"(2, 4, 3)" + bytes(range(24))).hexdigest()
    assert hash_screen(screen) == expected
    assert hash_screen(screen.reshape(4, 2, 3)) != expected
