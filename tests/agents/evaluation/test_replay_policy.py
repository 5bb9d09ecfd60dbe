"""Replaying: a recorded episode reproduces itself, and any difference is named."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest

from agents.config import TrainConfig
from agents.evaluation.replay_file import ReplayError, load_replay
from agents.evaluation.replay_policy import ReplayMismatchError, verify_replay
from agents.evaluation.runner import MODES
from tests.agents.episode_log import EpisodeLog
from tests.agents.recordings import record


@pytest.fixture(scope="module")
def replay():
    replay = record()
    assert replay.episode.score > 0
    return replay


@pytest.fixture(scope="module")
def whole_episode():
    """An episode that ends by itself."""
    replay = record(config=TrainConfig(game="Frostbite"), seed=1)
    assert not replay.episode.truncated
    return replay


def change(replay, **changes):
    return dataclasses.replace(replay, episode=dataclasses.replace(replay.episode, **changes))


@pytest.mark.parametrize("mode", MODES)
def test_an_episode_of_every_mode_plays_back_to_itself_from_its_file(mode, tmp_path):
    replay = record(mode)
    replay.save(tmp_path / "game.npz")
    log = EpisodeLog()
    played = verify_replay(load_replay(tmp_path / "game.npz"), [log])
    episode = replay.episode
    assert (played.score, played.length, played.screen_hash) == (
        episode.score,
        episode.length,
        episode.screen_hash,
    )
    assert [step.action for step in log.steps] == episode.actions.tolist()
    assert sum(step.reward for step in log.steps) == episode.score
    assert (played.mode, played.seed, played.truncated) == (mode, 3, True)


@pytest.mark.parametrize(
    "settings",
    [
        {"game": "Pong", "max_frames": 200, "noop_max": 5, "fire_reset": True},
        {"game": "Pong", "max_frames": 200, "full_action_space": True, "sticky_actions": 0.0},
        {"game": "MontezumaRevenge", "max_frames": 203},
        {"game": "Frostbite", "max_frames": 203, "frame_skip": 1},
        {"game": "Frostbite", "max_frames": 203, "frame_skip": 12},
    ],
)
def test_episodes_of_other_settings_play_back(settings):
    replay = record(config=TrainConfig(**settings))
    assert verify_replay(replay).screen_hash == replay.episode.screen_hash


def test_an_episode_that_ended_by_itself_plays_back(whole_episode):
    assert verify_replay(whole_episode).length == whole_episode.episode.length


@pytest.mark.parametrize("position", [0, 5, 33, 60])
def test_one_changed_action_is_noticed_whether_or_not_it_changes_the_score(replay, position):
    actions = replay.episode.actions.copy()
    actions[position] = (actions[position] + 9) % 18
    with pytest.raises(ReplayMismatchError, match="trajectory"):
        verify_replay(change(replay, actions=actions))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"score": 11.0}, "score is .*, but 11 was recorded"),
        ({"seed": 6}, "trajectory"),
        ({"screen_hash": "00" * 32}, "screen's hash .* but 000000000000 was recorded"),
        ({"trajectory_hash": "00" * 32}, "trajectory's hash .* but 000000000000 was recorded"),
        ({"truncated": False}, "time limit is True, but False was recorded"),
    ],
)
def test_another_score_seed_screen_or_end_is_named(replay, changes, words):
    with pytest.raises(ReplayMismatchError, match=words):
        verify_replay(change(replay, **changes))


def test_a_replay_that_stops_before_the_end_or_goes_on_after_it_is_noticed(whole_episode):
    episode = whole_episode.episode
    shorter = change(whole_episode, actions=episode.actions[:-1], length=episode.length - 1)
    with pytest.raises(ReplayMismatchError, match="not ended"):
        verify_replay(shorter)
    longer = change(
        whole_episode, actions=np.append(episode.actions, np.uint8(0)), length=episode.length + 1
    )
    with pytest.raises(
        ReplayMismatchError, match=rf"length is {episode.length}, but \d+ was recorded"
    ):
        verify_replay(longer)


def test_another_version_of_the_emulator_is_named_when_something_differs(replay):
    other = dataclasses.replace(change(replay, score=11.0), env_version="0.0.1")
    with pytest.raises(ReplayMismatchError, match=r"recorded with ale-py 0\.0\.1"):
        verify_replay(other)
    assert verify_replay(dataclasses.replace(replay, env_version="0.0.1"))


def test_an_action_that_the_game_does_not_have_is_refused_before_anything_is_played():
    replay = record(config=TrainConfig(game="Pong", max_frames=100))
    actions = replay.episode.actions.copy()
    actions[3] = 6
    with pytest.raises(ReplayError, match=r"action 6 .* Pong has 6 actions"):
        verify_replay(change(replay, actions=actions))


def test_replaying_needs_no_torch(replay, tmp_path):
    replay.save(tmp_path / "game.npz")
    video = tmp_path / "game.mp4"
    code = (
        "import sys, agents.replay as r; sys.exit(r.main(sys.argv[1:]) or 'torch' in sys.modules)"
    )
    command = [sys.executable, "-c", code, tmp_path / "game.npz", "--video", video]
    assert subprocess.run(command, check=False).returncode == 0
    assert video.exists()
