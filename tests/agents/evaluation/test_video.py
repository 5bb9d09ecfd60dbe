"""Videos: every frame, the right size and speed, and whole or not at all."""

import cv2
import numpy as np
import pytest

from agents.evaluation.video import VideoError, VideoWriter, enlarge, frames_of_step, video_fps
from envs import AtariConfig

RNG = np.random.default_rng(0)
GREY = np.full((480, 640, 3), 90, np.uint8)


def screens(frames=4, height=210, brightness=None):
    if brightness is None:
        return RNG.integers(0, 255, (frames, height, 160, 3)).astype(np.uint8)
    return np.full((frames, height, 160, 3), brightness, np.uint8)


def write_video(path, steps, fps=30):
    with VideoWriter(path, fps) as video:
        for given in steps:
            for frame in frames_of_step(given, AtariConfig("Pong")):
                video.write(frame)
    return video


def read_back(path):
    video = cv2.VideoCapture(str(path))
    fps = video.get(cv2.CAP_PROP_FPS)
    frames = []
    while True:
        there, frame = video.read()
        if not there:
            video.release()
            return frames, fps
        frames.append(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))


def test_two_frames_are_written_for_each_step_at_30_a_second(tmp_path):
    path = tmp_path / "game.mp4"
    write_video(path, [screens(brightness=20 * step) for step in range(12)])
    frames, fps = read_back(path)
    assert len(frames) == 24
    assert fps == 30
    # Real speed: an agent step is four of the console's sixtieths of a second.
    assert len(frames) / fps == pytest.approx(12 * 4 / 60)
    assert frames[0].shape == (480, 640, 3)
    for index, frame in enumerate(frames):
        assert abs(frame.mean() - 20 * (index // 2)) < 6
    assert [entry.name for entry in tmp_path.iterdir()] == ["game.mp4"]


def test_colours_and_places_are_kept(tmp_path):
    given = np.zeros((4, 210, 160, 3), np.uint8)
    given[:, :105, :80] = (200, 40, 40)
    given[:, 105:, 80:] = (40, 40, 200)
    write_video(tmp_path / "game.mp4", [given] * 3)
    frame = read_back(tmp_path / "game.mp4")[0][-1].astype(int)
    assert np.abs(frame[60:180, 80:240].mean((0, 1)) - (200, 40, 40)).max() < 4
    assert np.abs(frame[300:420, 400:560].mean((0, 1)) - (40, 40, 200)).max() < 4
    assert frame[300:420, 80:240].mean() < 4


def test_a_sprite_that_is_drawn_on_every_other_frame_is_in_every_video_frame():
    for phase in (0, 1):
        given = screens(brightness=0)
        given[phase::2, 100:110, 50:60] = 255
        for frame in frames_of_step(given, AtariConfig("Pong")):
            np.testing.assert_array_equal(frame, enlarge(given[phase]))
            assert frame.sum() > 0


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_a_step_cut_off_by_the_episodes_end_lasts_as_long_as_any(count):
    given = screens(count)
    first, second = frames_of_step(given, AtariConfig("Pong"))
    np.testing.assert_array_equal(first, enlarge(given[:2].max(axis=0)))
    expected = enlarge(given[2:].max(axis=0)) if count > 2 else first
    np.testing.assert_array_equal(second, expected)


@pytest.mark.parametrize(("frame_skip", "frames", "fps"), [(1, 1, 60), (3, 3, 60), (12, 6, 30)])
def test_other_frame_skips_are_shown_at_real_speed_too(frame_skip, frames, fps):
    given, config = screens(frame_skip), AtariConfig("Pong", frame_skip=frame_skip)
    shown = frames_of_step(given, config)
    assert (len(shown), video_fps(config)) == (frames, fps)
    assert frames / fps == pytest.approx(frame_skip / 60)
    merged = given[:1] if fps == 60 else given[:2]
    np.testing.assert_array_equal(shown[0], enlarge(merged.max(axis=0)))
    assert len(frames_of_step(given[:1], config)) == frames


@pytest.mark.parametrize("height", [210, 214, 230, 250])
def test_screens_of_every_height_fill_a_frame_of_4_to_3_with_unblurred_pixels(height):
    screen = screens(1, height)[0]
    frame = enlarge(screen)
    assert frame.shape == (480, 640, 3)
    rows = np.arange(480) * height // 480
    columns = np.arange(640) // 4
    np.testing.assert_array_equal(frame, screen[rows][:, columns])


def test_frames_of_different_sizes_are_refused(tmp_path):
    video = VideoWriter(tmp_path / "game.mp4", 30)
    video.write(GREY)
    with pytest.raises(VideoError, match=r"game\.mp4: a frame is"):
        video.write(GREY[:478])
    video.discard()
    assert list(tmp_path.iterdir()) == []


def test_a_video_that_is_broken_off_leaves_nothing(tmp_path):
    def break_off():
        with VideoWriter(tmp_path / "game.mp4", 30) as video:
            video.write(GREY)
            (unfinished,) = tmp_path.iterdir()
            assert not unfinished.match("game*")
            raise RuntimeError("broken off")

    with pytest.raises(RuntimeError, match="broken off"):
        break_off()
    assert list(tmp_path.iterdir()) == []


def test_an_older_video_stays_until_the_new_one_is_finished(tmp_path):
    path = tmp_path / "game.mp4"
    path.write_bytes(b"old")
    video = VideoWriter(path, 30)
    video.write(GREY)
    assert path.read_bytes() == b"old"
    video.finish()
    assert path.read_bytes() != b"old"
    video.discard()
    assert path.exists()


def test_a_folder_that_is_not_there_another_suffix_and_no_frames_are_refused(tmp_path):
    with (
        pytest.raises(VideoError, match=r"game\.mp4: No such file or directory"),
        VideoWriter(tmp_path / "no" / "game.mp4", 30) as video,
    ):
        video.write(GREY)
    with pytest.raises(VideoError, match=r"must end in \.mp4"):
        VideoWriter(tmp_path / "game.webm", 30)
    with pytest.raises(VideoError, match="no frames"), VideoWriter(tmp_path / "game.mp4", 30):
        pass
