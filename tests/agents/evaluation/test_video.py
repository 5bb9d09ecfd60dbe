"""Videos: every picture, the right size and speed, and whole or not at all."""

import os

import cv2
import numpy as np
import pytest

from agents.evaluation.video import VideoError, VideoWriter, enlarge, frames_of_step

RNG = np.random.default_rng(0)


def screens(frames=4, height=210, brightness=None):
    if brightness is None:
        return RNG.integers(0, 255, (frames, height, 160, 3)).astype(np.uint8)
    return np.full((frames, height, 160, 3), brightness, np.uint8)


def add_step(video, given):
    for frame in frames_of_step(given):
        video.write(frame)


def read_back(path):
    video = cv2.VideoCapture(str(path))
    fps = video.get(cv2.CAP_PROP_FPS)
    pictures = []
    while True:
        there, picture = video.read()
        if not there:
            video.release()
            return pictures, fps
        pictures.append(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB))


def test_two_pictures_are_written_for_each_decision_at_30_a_second(tmp_path):
    path = tmp_path / "game.webm"
    with VideoWriter(path) as video:
        for decision in range(12):
            add_step(video, screens(brightness=20 * decision))
    pictures, fps = read_back(path)
    assert len(pictures) == video.frames == 24
    assert fps == 30
    # Real speed: a decision is four of the console's sixtieths of a second.
    assert len(pictures) / fps == pytest.approx(12 * 4 / 60)
    assert pictures[0].shape == (480, 640, 3)
    for index, picture in enumerate(pictures):
        assert abs(picture.mean() - 20 * (index // 2)) < 6
    assert [entry.name for entry in tmp_path.iterdir()] == ["game.webm"]
    assert path.read_bytes()[:4] == bytes.fromhex("1a45dfa3")  # Matroska and WebM
    assert b"V_VP9" in path.read_bytes()


def test_colours_and_places_are_kept(tmp_path):
    frames = np.zeros((4, 210, 160, 3), np.uint8)
    frames[:, :105, :80] = (200, 40, 40)
    frames[:, 105:, 80:] = (40, 40, 200)
    with VideoWriter(tmp_path / "game.webm") as video:
        for _ in range(3):
            add_step(video, frames)
    picture = read_back(tmp_path / "game.webm")[0][-1].astype(int)
    assert np.abs(picture[60:180, 80:240].mean((0, 1)) - (200, 40, 40)).max() < 12
    assert np.abs(picture[300:420, 400:560].mean((0, 1)) - (40, 40, 200)).max() < 12
    assert picture[300:420, 80:240].mean() < 10


def test_a_sprite_that_is_drawn_on_every_other_frame_is_in_every_picture():
    for phase in (0, 1):
        frames = screens(brightness=0)
        frames[phase::2, 100:110, 50:60] = 255
        for frame in frames_of_step(frames):
            np.testing.assert_array_equal(frame, enlarge(frames[phase]))
            assert frame.sum() > 0


@pytest.mark.parametrize("frames", [1, 2, 3, 4])
def test_a_decision_cut_off_by_the_games_end_lasts_as_long_as_any(frames):
    given = screens(frames)
    first, second = frames_of_step(given)
    np.testing.assert_array_equal(first, enlarge(given[:2].max(axis=0)))
    expected = enlarge(given[2:].max(axis=0)) if frames > 2 else first
    np.testing.assert_array_equal(second, expected)


@pytest.mark.parametrize("height", [210, 214, 230, 250])
def test_screens_of_every_height_fill_a_picture_of_4_to_3_with_unblurred_pixels(height):
    screen = screens(1, height)[0]
    shown = enlarge(screen)
    assert shown.shape == (480, 640, 3)
    rows = np.arange(480) * height // 480
    columns = np.arange(640) // 4
    np.testing.assert_array_equal(shown, screen[rows][:, columns])


def test_frames_may_be_of_any_even_size(tmp_path):
    frame = np.full((480, 1280, 3), 10, np.uint8)
    frame[:, 640:] = 250
    with VideoWriter(tmp_path / "game.webm") as video:
        video.write(frame)
    found = read_back(tmp_path / "game.webm")[0][0]
    assert found.shape == (480, 1280, 3)
    assert found[:, :600].mean() < 20
    assert found[:, 680:].mean() > 240


def test_frames_of_different_sizes_are_refused(tmp_path):
    video = VideoWriter(tmp_path / "game.webm")
    video.write(np.zeros((480, 640, 3), np.uint8))
    with pytest.raises(VideoError, match=r"game\.webm: a frame is"):
        video.write(np.zeros((482, 640, 3), np.uint8))
    video.abandon()
    assert list(tmp_path.iterdir()) == []


def test_a_video_that_is_broken_off_leaves_nothing(tmp_path):
    def break_off():
        with VideoWriter(tmp_path / "game.webm") as video:
            add_step(video, screens())
            (unfinished,) = tmp_path.iterdir()
            assert not unfinished.match("game*")
            raise RuntimeError("broken off")

    with pytest.raises(RuntimeError, match="broken off"):
        break_off()
    assert list(tmp_path.iterdir()) == []


def test_an_older_video_stays_until_the_new_one_is_finished(tmp_path):
    path = tmp_path / "game.webm"
    path.write_bytes(b"old")
    video = VideoWriter(path)
    add_step(video, screens())
    assert path.read_bytes() == b"old"
    video.finish()
    assert path.read_bytes() != b"old"
    video.abandon()
    assert path.exists()


def test_a_writer_that_lost_pictures_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr("agents.evaluation.video.count_frames", lambda _: 1)
    with (
        pytest.raises(VideoError, match=r"game\.webm: not written whole \(1 of 2"),
        VideoWriter(tmp_path / "game.webm") as video,
    ):
        add_step(video, screens())
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_lost_its_end_is_noticed(tmp_path, monkeypatch):
    release = VideoWriter._release

    def release_and_cut(self):
        release(self)
        if self._temporary.exists():
            os.truncate(self._temporary, 200)

    monkeypatch.setattr(VideoWriter, "_release", release_and_cut)
    with (
        pytest.raises(VideoError, match="not written whole"),
        VideoWriter(tmp_path / "game.webm") as video,
    ):
        add_step(video, screens())
    assert list(tmp_path.iterdir()) == []


def test_without_the_codec_the_error_says_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(cv2.VideoWriter, "fourcc", lambda *_: 0x31313131)
    with (
        pytest.raises(VideoError, match=r"game\.webm: this OpenCV .* cannot write VP9"),
        VideoWriter(tmp_path / "game.webm") as video,
    ):
        add_step(video, screens())
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_another_suffix_and_no_pictures_are_refused(tmp_path):
    with (
        pytest.raises(VideoError, match="No such file or directory"),
        VideoWriter(tmp_path / "no" / "game.webm") as video,
    ):
        add_step(video, screens())
    with pytest.raises(VideoError, match=r"must end in \.webm"):
        VideoWriter(tmp_path / "game.mp4")
    with pytest.raises(VideoError, match="no frames"), VideoWriter(tmp_path / "game.webm"):
        pass


def test_opencv_remarks_on_nothing(tmp_path, capfd):
    with VideoWriter(tmp_path / "game.webm") as video:
        add_step(video, screens())
    assert capfd.readouterr() == ("", "")
