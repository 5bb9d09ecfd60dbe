"""Encoders: what the file is, and that nothing that goes wrong with them is overlooked."""

import builtins
import logging
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import psutil
import pytest

from agents.evaluation import encoders
from agents.evaluation.video import VideoError, VideoWriter
from agents.system.files import remove_stale_temp_files
from tests.agents.evaluation.test_video import GREY, read_back, screens, write_video

ROOT = Path(__file__).parents[3]


def boxes(data):
    """The boxes of an MP4 file or of one of its boxes: pairs of type and content, in order."""
    found, at = [], 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        assert size >= 8
        found.append((data[at + 4 : at + 8].decode(), data[at + 8 : at + size]))
        at += size
    return found


def sample_description(data):
    for name in ("moov", "trak", "mdia", "minf", "stbl", "stsd"):
        data = dict(boxes(data))[name]
    return boxes(data[8:])[0]


@pytest.fixture
def without_ffmpeg(monkeypatch):
    real = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name == "imageio_ffmpeg":
            raise ImportError("No module named 'imageio_ffmpeg'")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    encoders._find_ffmpeg.cache_clear()
    yield
    encoders._find_ffmpeg.cache_clear()


def use_encoder(monkeypatch, path, script):
    """Put a shell script in ffmpeg's place."""
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setattr(encoders, "_find_ffmpeg", lambda: str(path))


def test_the_file_is_h264_yuv420p_with_its_index_before_its_frames(tmp_path):
    write_video(tmp_path / "game.mp4", [screens(brightness=50)] * 3)
    data = (tmp_path / "game.mp4").read_bytes()
    names = [name for name, _ in boxes(data)]
    assert names[0] == "ftyp"
    assert names.index("moov") < names.index("mdat")
    codec, description = sample_description(data)
    assert codec == "avc1"
    # ISO 14496-12: a visual sample entry has 78 bytes before its own boxes.
    assert int.from_bytes(description[24:26], "big") == 640
    assert int.from_bytes(description[26:28], "big") == 480
    settings = dict(boxes(description[78:]))["avcC"]
    assert settings[1] == 100  # the High profile is 8-bit 4:2:0, which 4:4:4 and 10 bits are not
    # The end of avcC in that profile: chroma_format_idc 1 is 4:2:0; then bits beyond eight.
    assert [settings[-4] & 3, settings[-3] & 7, settings[-2] & 7] == [1, 0, 0]
    colours = dict(boxes(description[78:]))["colr"]
    assert colours[:4] == b"nclx"
    assert [int.from_bytes(colours[at : at + 2], "big") for at in (4, 6, 8)] == [1, 1, 1]  # BT.709


@pytest.mark.parametrize("encoder", ["ffmpeg", "opencv"])
@pytest.mark.parametrize("size", [(480, 1280), (210, 160), (211, 159)])
def test_frames_may_be_of_any_size(size, encoder, tmp_path, request):
    if encoder == "opencv":
        request.getfixturevalue("without_ffmpeg")
    height, width = size
    frame = np.full((height, width, 3), 10, np.uint8)
    frame[:, width // 2 :] = 250
    with VideoWriter(tmp_path / "game.mp4", 30) as video:
        video.write(frame)
    found = read_back(tmp_path / "game.mp4")[0][0]
    assert found.shape == (height + height % 2, width + width % 2, 3)
    assert found[:, : width // 2 - 20].mean() < 20
    assert found[:, width // 2 + 20 :].mean() > 240


@pytest.mark.parametrize("encoder", ["ffmpeg", "opencv"])
def test_encoders_print_nothing(encoder, tmp_path, capfd, request):
    if encoder == "opencv":
        request.getfixturevalue("without_ffmpeg")
    write_video(tmp_path / "game.mp4", [screens()])
    assert capfd.readouterr() == ("", "")


def test_a_full_disk_is_the_reason_given(tmp_path):
    video = VideoWriter(tmp_path / "game.mp4", 30)
    video._temporary.symlink_to("/dev/full")
    video.write(GREY)
    with pytest.raises(VideoError, match=r"game\.mp4: ffmpeg failed: .*No space left on device"):
        video.finish()
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_up_in_the_middle_of_a_video_is_noticed(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(VideoError, match=r"game\.mp4: ffmpeg (failed: |was killed by SIGXFSZ)"):
            write_video(tmp_path / "game.mp4", (screens() for _ in range(50)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


def test_an_encoder_that_is_killed_is_noticed_at_the_next_frames(tmp_path):
    video = VideoWriter(tmp_path / "game.mp4", 30)
    video.write(GREY)
    video._encoder._process.kill()
    with pytest.raises(VideoError, match=r"game\.mp4: ffmpeg was killed by SIGKILL"):
        list(map(video.write, [GREY] * 10))
    video.discard()
    assert list(tmp_path.iterdir()) == []


def test_an_encoder_that_fails_at_the_end_is_noticed_and_says_why(tmp_path, monkeypatch):
    use_encoder(
        monkeypatch, tmp_path / "ffmpeg", "cat > /dev/null; echo '[mp4 @ 0x1] Bad luck' >&2; exit 3"
    )
    with (
        pytest.raises(VideoError, match=r"game\.mp4: ffmpeg failed: Bad luck$"),
        VideoWriter(tmp_path / "game.mp4", 30) as video,
    ):
        video.write(GREY)
    assert [entry.name for entry in tmp_path.iterdir()] == ["ffmpeg"]


def test_an_encoder_without_h264_is_reported(tmp_path, monkeypatch):
    monkeypatch.setattr(encoders, "_H264", ["-c:v", "no_such_encoder"])
    with pytest.raises(VideoError, match=r"game\.mp4: ffmpeg failed: .*no_such_encoder"):
        write_video(tmp_path / "game.mp4", [screens()] * 5)


def test_an_encoder_that_hangs_is_killed(tmp_path, monkeypatch):
    use_encoder(monkeypatch, tmp_path / "ffmpeg", "cat > /dev/null; exec sleep 600")
    monkeypatch.setattr(encoders, "_FINISH_SECONDS", 0.2)
    video = VideoWriter(tmp_path / "game.mp4", 30)
    video.write(GREY)
    process = video._encoder._process
    with pytest.raises(VideoError, match=r"game\.mp4: ffmpeg did not end within"):
        video.finish()
    assert process.returncode == -signal.SIGKILL


def test_when_the_program_is_killed_no_encoder_and_no_half_video_stay(tmp_path):
    program = (
        "import sys, time, numpy as np\n"
        "from pathlib import Path\n"
        "from agents.evaluation.video import VideoWriter\n"
        "video = VideoWriter(Path(sys.argv[1]), 30)\n"
        "for _ in range(5): video.write(np.zeros((480, 640, 3), np.uint8))\n"
        "print(video._encoder._process.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "game.mp4")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        encoder = psutil.Process(int(process.stdout.readline()))
        process.kill()
    deadline = time.monotonic() + 30
    while encoder.is_running() and encoder.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "ffmpeg is still there"
        time.sleep(0.05)
    assert not (tmp_path / "game.mp4").exists()
    remove_stale_temp_files(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("without_ffmpeg")
def test_without_imageio_ffmpeg_opencv_writes_vp9_and_one_line_says_so(tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "train"):
        for name in ("one.mp4", "two.mp4"):
            write_video(tmp_path / name, [screens(brightness=60)] * 4)
    (record,) = caplog.records
    assert "imageio-ffmpeg cannot be used (No module named 'imageio_ffmpeg')" in record.message
    frames, fps = read_back(tmp_path / "two.mp4")
    assert (len(frames), fps, frames[0].shape) == (8, 30, (480, 640, 3))
    assert abs(frames[-1].mean() - 60) < 4
    assert sample_description((tmp_path / "two.mp4").read_bytes())[0] == "vp09"


def test_on_a_platform_without_a_binary_opencv_is_used_too(tmp_path, monkeypatch, caplog):
    imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg")

    def find_nothing():
        raise RuntimeError("No ffmpeg exe could be found")

    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", find_nothing)
    encoders._find_ffmpeg.cache_clear()
    try:
        write_video(tmp_path / "game.mp4", [screens()])
    finally:
        encoders._find_ffmpeg.cache_clear()
    assert "No ffmpeg exe could be found" in caplog.text
    assert len(read_back(tmp_path / "game.mp4")[0]) == 2


@pytest.mark.usefixtures("without_ffmpeg")
def test_frames_that_opencv_lost_are_noticed(tmp_path, monkeypatch):
    class Forgetful:
        fourcc = cv2.VideoWriter.fourcc

        def __init__(self, *args, writer=cv2.VideoWriter):
            self.writer, self.frames = writer(*args), 0
            self.isOpened, self.release = self.writer.isOpened, self.writer.release

        def write(self, frame):
            if self.frames == 0:
                self.writer.write(frame)
            self.frames += 1

    monkeypatch.setattr(cv2, "VideoWriter", Forgetful)
    with pytest.raises(VideoError, match=r"game\.mp4: not written whole \(1 of 2 frames\)"):
        write_video(tmp_path / "game.mp4", [screens()])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("without_ffmpeg")
def test_without_ffmpeg_and_vp9_the_error_says_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(cv2.VideoWriter, "fourcc", lambda *_: 0x31313131)
    with pytest.raises(VideoError, match=r"game\.mp4: this OpenCV .* cannot write VP9"):
        write_video(tmp_path / "game.mp4", [screens()])
    assert list(tmp_path.iterdir()) == []


def test_an_ffmpeg_that_cannot_be_started_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(encoders, "_find_ffmpeg", lambda: "/no/ffmpeg")
    with pytest.raises(VideoError, match=r"game\.mp4: /no/ffmpeg cannot be started: No such file"):
        write_video(tmp_path / "game.mp4", [screens()])
    assert list(tmp_path.iterdir()) == []
