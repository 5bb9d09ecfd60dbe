"""Recordings: a replay and a video of each episode, and no failure that costs more than itself."""

import logging

import cv2
import numpy as np
import pytest

from agents.evaluation.overlay import overlay_factory
from agents.evaluation.recorder import Recorder
from agents.evaluation.replay_file import Replay, load_replay
from agents.evaluation.replay_policy import verify_replay
from agents.evaluation.runner import episode_seeds, evaluate_policy
from agents.evaluation.video import VideoWriter
from tests.agents.episode_log import EpisodeLog
from tests.agents.runs import make_config, make_network

CONFIG = make_config(max_frames=48)


@pytest.fixture(scope="module")
def network():
    return make_network(CONFIG)


@pytest.fixture
def recorder(tmp_path):
    return Recorder(tmp_path, CONFIG, checkpoint="step_000000000007.safetensors", global_step=7)


def names(folder):
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_every_episode_leaves_a_replay_and_a_video_of_the_same_name(network, recorder, tmp_path):
    episodes = evaluate_policy(network, CONFIG, "sampled", episode_seeds(1, 2), [recorder])
    episodes += evaluate_policy(None, CONFIG, "random", episode_seeds(1, 1), [recorder])
    stems = [
        f"step_000000000007_sampled_seed_{episodes[0].seed}_score_{episodes[0].score:.0f}",
        f"step_000000000007_sampled_seed_{episodes[1].seed}_score_{episodes[1].score:.0f}",
        f"random_seed_{episodes[2].seed}_score_{episodes[2].score:.0f}",
    ]
    assert [path.name for path in recorder.replays] == [f"{stem}.npz" for stem in stems]
    assert [path.name for path in recorder.videos] == [f"{stem}.mp4" for stem in stems]
    assert names(tmp_path / "replays") == sorted(f"{stem}.npz" for stem in stems)
    assert names(tmp_path / "videos") == sorted(f"{stem}.mp4" for stem in stems)
    for path, episode in zip(recorder.replays, episodes, strict=True):
        replay = load_replay(path)
        assert (replay.episode.score, replay.episode.seed) == (episode.score, episode.seed)
        assert verify_replay(replay).screen_hash == episode.screen_hash
    came_from = [(load_replay(p).checkpoint, load_replay(p).global_step) for p in recorder.replays]
    assert came_from == [("step_000000000007.safetensors", 7)] * 2 + [("", None)]


def test_the_video_shows_every_agent_step_and_ends_with_the_episodes_last_screen(network, recorder):
    log = EpisodeLog()
    (episode,) = evaluate_policy(network, CONFIG, "greedy", episode_seeds(1, 1), [recorder, log])
    video = cv2.VideoCapture(str(recorder.videos[0]))
    pictures = []
    while True:
        there, picture = video.read()
        if not there:
            break
        pictures.append(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB))
    assert len(pictures) == 2 * episode.length == 24
    expected = cv2.resize(
        log.steps[-1].info["screens"][2:].max(axis=0), (640, 480), interpolation=cv2.INTER_NEAREST
    )
    assert cv2.PSNR(pictures[-1], expected) > 25
    assert cv2.PSNR(pictures[0], expected) < cv2.PSNR(pictures[-1], expected)


def test_recording_does_not_change_the_episodes(network, recorder):
    for mode in ("sampled", "greedy", "random"):
        plain = evaluate_policy(network, CONFIG, mode, episode_seeds(4, 2))
        recorded = evaluate_policy(network, CONFIG, mode, episode_seeds(4, 2), [recorder])
        for one, other in zip(plain, recorded, strict=True):
            assert one.screen_hash == other.screen_hash
            assert one.score == other.score
            np.testing.assert_array_equal(one.actions, other.actions)


def fail_at(method, monkeypatch, call=1):
    original, calls = getattr(VideoWriter, method), []

    def failing(self, *args):
        calls.append(1)
        if len(calls) == call:
            raise OSError(28, "No space left on device")
        return original(self, *args)

    monkeypatch.setattr(VideoWriter, method, failing)


@pytest.mark.parametrize(("method", "call"), [("write", 1), ("write", 12), ("finish", 1)])
def test_a_video_that_fails_costs_a_warning_and_neither_replay_nor_episode_nor_later_videos(
    recorder, monkeypatch, caplog, tmp_path, method, call
):
    fail_at(method, monkeypatch, call)
    with caplog.at_level(logging.WARNING, "train"):
        episodes = evaluate_policy(None, CONFIG, "random", episode_seeds(1, 2), [recorder])
    assert len(episodes) == len(recorder.replays) == 2
    assert len(recorder.videos) == 1
    assert f"seed_{episodes[1].seed}_" in recorder.videos[0].name
    assert names(tmp_path / "videos") == [recorder.videos[0].name]
    assert caplog.text.count("a video was not written") == 1
    assert "No space left" in caplog.text


def test_a_replay_that_finds_the_disk_full_gets_the_space_of_the_unfinished_video(
    recorder, monkeypatch, caplog, tmp_path
):
    save = Replay.save

    def save_on_a_full_disk(self, path):
        if names(tmp_path / "videos"):
            raise OSError(28, "No space left on device")
        save(self, path)

    monkeypatch.setattr(Replay, "save", save_on_a_full_disk)
    with caplog.at_level(logging.WARNING, "train"):
        evaluate_policy(None, CONFIG, "random", episode_seeds(1, 1), [recorder])
    assert names(tmp_path / "replays") == [path.name for path in recorder.replays]
    assert len(recorder.replays) == 1
    assert recorder.videos == []
    assert "a video was not written" in caplog.text
    assert "a replay was not written" not in caplog.text


def test_without_any_encoder_replays_are_written_all_the_same(recorder, monkeypatch, caplog):
    monkeypatch.setattr("agents.evaluation.encoders._find_ffmpeg", lambda: None)
    monkeypatch.setattr(cv2.VideoWriter, "fourcc", lambda *_: 0x31313131)
    with caplog.at_level(logging.WARNING, "train"):
        evaluate_policy(None, CONFIG, "random", episode_seeds(1, 1), [recorder])
    assert "cannot write VP9" in caplog.text
    assert recorder.videos == []
    assert verify_replay(load_replay(recorder.replays[0]))


def test_a_folder_that_cannot_be_written_to_costs_the_recordings_only(recorder, caplog, tmp_path):
    (tmp_path / "videos").write_text("in the way")
    (tmp_path / "replays").write_text("in the way")
    with caplog.at_level(logging.WARNING, "train"):
        episodes = evaluate_policy(None, CONFIG, "random", episode_seeds(1, 1), [recorder])
    assert len(episodes) == 1
    assert caplog.text.count("a video was not written") == 1
    assert caplog.text.count("a replay was not written") == 1
    assert (recorder.replays, recorder.videos, recorder.unwritten) == ([], [], 2)


def test_an_aborted_episode_leaves_nothing(recorder, tmp_path):
    log = EpisodeLog()
    episodes = evaluate_policy(
        None, CONFIG, "random", [1], [recorder, log], lambda: len(log.steps) > 4
    )
    assert episodes == []
    assert names(tmp_path / "videos") == names(tmp_path / "replays") == []


def test_the_video_of_a_long_episode_is_cut_off_with_a_warning_and_its_replay_is_whole(
    tmp_path, caplog
):
    recorder = Recorder(tmp_path, CONFIG, max_video_seconds=0.5)
    with caplog.at_level(logging.WARNING, "train"):
        (episode,) = evaluate_policy(None, CONFIG, "random", episode_seeds(1, 1), [recorder])
    assert episode.length == 12
    video = cv2.VideoCapture(str(recorder.videos[0]))
    assert video.get(cv2.CAP_PROP_FRAME_COUNT) == 14
    assert "the first 0.5 seconds only" in caplog.text
    assert load_replay(recorder.replays[0]).episode.length == 12


def test_replays_alone_need_no_screens(tmp_path):
    recorder = Recorder(tmp_path, CONFIG, videos=False)
    log = EpisodeLog()
    evaluate_policy(None, CONFIG, "random", [1], [recorder, log])
    assert "screens" not in log.steps[0].info
    assert len(recorder.replays) == 1
    assert not (tmp_path / "videos").exists()


def test_a_replay_that_cannot_be_written_counts_where_no_video_does(tmp_path):
    (tmp_path / "replays").write_text("in the way")
    recorder = Recorder(tmp_path, CONFIG, videos=False)
    evaluate_policy(None, CONFIG, "random", [1], [recorder])
    assert recorder.unwritten == 1


def test_with_an_overlay_the_episodes_are_the_same_and_the_video_shows_the_network_output(
    network, tmp_path
):
    config = make_config(max_frames=16)
    recorder = Recorder(tmp_path, config, global_step=7, make_overlay=overlay_factory(config, 7))
    sizes, moved = [], []
    for mode in ("sampled", "random"):
        (plain,) = evaluate_policy(network, config, mode, episode_seeds(4, 1))
        (shown,) = evaluate_policy(network, config, mode, episode_seeds(4, 1), [recorder])
        assert plain.trajectory_hash == shown.trajectory_hash
        video = cv2.VideoCapture(str(recorder.videos[-1]))
        pictures = [video.read()[1] for _ in range(8)]
        assert not video.read()[0]
        assert video.get(cv2.CAP_PROP_FPS) == 30
        sizes.append(pictures[0].shape)
        moved.append(np.abs(pictures[0][480:] - pictures[-1][480:].astype(int)).max(initial=0))
    # A network that plays has programs to show; at random there are none.
    assert sizes == [(720, 1280, 3), (480, 1280, 3)]
    assert moved[0] > 50
