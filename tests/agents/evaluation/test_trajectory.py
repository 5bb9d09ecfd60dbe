"""An episode as arrays."""

import numpy as np
import pytest

from agents.evaluation.replay_file import Replay
from agents.evaluation.runner import evaluate_policy
from agents.evaluation.trajectory import record_trajectory, replay_trajectory
from agents.networks.inspection import NeurocoderProgram
from tests.agents.episode_log import EpisodeLog
from tests.agents.runs import make_config, make_network

CONFIG = make_config(core="lstm", max_frames=60)


@pytest.fixture(scope="module")
def network():
    return make_network(CONFIG)


@pytest.fixture(scope="module")
def played(network):
    return record_trajectory(network, CONFIG, "sampled", 5, keep_screens=True)


def test_an_episode_is_arrays_with_a_row_for_each_agent_step(played):
    assert played.episode.length == len(played.actions) == len(played.values) == 15
    assert played.probabilities.shape == (15, 18)
    np.testing.assert_allclose(played.probabilities.sum(axis=1), 1, rtol=1e-5)
    assert played.rewards.sum() == played.episode.score
    assert len(played.action_names) == 18
    assert played.action_names[:2] == ("NOOP", "FIRE")
    assert played.screens.shape == (15, 210, 160, 3)
    assert played.screens.dtype == np.uint8
    for program in (played.actor, played.critic):
        assert isinstance(program, NeurocoderProgram)
        assert program.u_attention.shape == program.v_attention.shape == (15, 4, 4)
        assert program.s_attention.shape == (15, 4, 4)
        assert program.singular_values.shape == (15, 4)
        assert program.residual_gate.shape == (15,)


def test_the_rows_are_the_outputs_and_steps_of_the_episode_in_their_order(network, played):
    log = EpisodeLog(needs_frames=True, inspect_every=1)
    evaluate_policy(network, CONFIG, "sampled", [5], [log])
    outputs, steps = log.outputs, log.steps
    assert played.values.tolist() == [float(output.value) for output in outputs]
    assert played.rewards.tolist() == [step.reward for step in steps]
    assert played.actions.tolist() == [step.action for step in steps]
    for t, (output, step) in enumerate(zip(outputs, steps, strict=True)):
        np.testing.assert_array_equal(played.probabilities[t], output.probabilities)
        np.testing.assert_array_equal(played.actor.u_attention[t], output.actor.u_attention)
        np.testing.assert_array_equal(played.screens[t], step.info["screens"][-1])


def test_a_recorded_episode_has_the_same_network_outputs_when_it_is_replayed(network, played):
    replay = Replay(CONFIG.env, played.episode)
    again = replay_trajectory(replay, network)
    assert again.screens is None
    for name in ("actions", "rewards", "probabilities", "values"):
        np.testing.assert_array_equal(getattr(again, name), getattr(played, name))
    np.testing.assert_array_equal(again.critic.v_attention, played.critic.v_attention)


def test_the_same_episode_is_played_with_and_without_screens(network, played):
    again = record_trajectory(network, CONFIG, "sampled", 5)
    assert again.episode.trajectory_hash == played.episode.trajectory_hash


def test_of_a_long_episode_the_first_steps_can_be_kept_alone(network, played):
    part = record_trajectory(network, CONFIG, "sampled", 5, keep_screens=True, max_steps=4)
    assert part.episode.trajectory_hash == played.episode.trajectory_hash
    for name in ("actions", "rewards", "probabilities", "values", "screens"):
        np.testing.assert_array_equal(getattr(part, name), getattr(played, name)[:4])
    np.testing.assert_array_equal(part.actor.singular_values, played.actor.singular_values[:4])


def test_random_play_is_refused(network):
    with pytest.raises(ValueError, match="no network acts"):
        record_trajectory(network, CONFIG, "random", 5)


def test_a_network_for_other_actions_is_refused(network):
    settings = make_config(game="Pong", max_frames=60).env
    other = make_config(game="Pong", max_frames=60)
    episode = record_trajectory(make_network(other), other, "sampled", 5).episode
    with pytest.raises(ValueError, match="6 actions"):
        replay_trajectory(Replay(settings, episode), network)
