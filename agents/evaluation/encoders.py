"""Video encoders: ffmpeg with H.264, and OpenCV with VP9 where there is no ffmpeg.

The wheel of imageio-ffmpeg brings an ffmpeg, which runs in a separate process. OpenCV takes some
twenty times longer.
"""

import functools
import logging
import re
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
import numpy.typing as npt

log = logging.getLogger("train")

# The colours of high-definition television, named in the file: players would have to guess them
# from the size, and a wrong guess tints the picture.
_PIXELS = (
    "scale=out_color_matrix=bt709:out_range=tv,format=yuv420p,"
    "setparams=color_primaries=bt709:color_trc=bt709:colorspace=bt709"
)
# One thread keeps up with playing, and leaves the other cores to training.
_H264 = ["-c:v", "libx264", "-preset", "veryfast", "-crf", "20", "-threads", "1"]
_FINISH_SECONDS = 60.0


class Encoder(Protocol):
    """Writes an MP4 file.

    Raises:
        OSError: from `write` and `close`, if the encoder failed; the message says why.
    """

    def write(self, frame: npt.NDArray[np.uint8]) -> None:
        """Encode one frame, (height, width, 3) uint8 RGB, with even sides."""
        ...

    def close(self) -> None:
        """Complete the file."""
        ...

    def kill(self) -> None:
        """Stop, also after an error or `close`; what was written may be incomplete."""
        ...


def open_encoder(path: Path, width: int, height: int, fps: int) -> Encoder:
    """Start the best encoder that is installed.

    Args:
        path: The file, ending in ".mp4".
        width: Of the frames, even.
        height: Of the frames, even.
        fps: Frames a second.

    Raises:
        OSError: if it cannot be started.
    """
    ffmpeg = _find_ffmpeg()
    if ffmpeg is None:
        return OpenCVEncoder(path, width, height, fps)
    return FFmpegEncoder(ffmpeg, path, width, height, fps)


@functools.cache
def _find_ffmpeg() -> str | None:
    """The path of ffmpeg, or None, with a warning, where there is none."""
    try:
        import imageio_ffmpeg

        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except (ImportError, OSError, RuntimeError) as error:
        log.warning(
            "videos are written by OpenCV as VP9, slowly: imageio-ffmpeg cannot be used (%s)", error
        )
        return None


class FFmpegEncoder:
    """An ffmpeg process that encodes H.264.

    If this process is killed, ffmpeg reads the end of its input, and ends as well.
    """

    def __init__(self, ffmpeg: str, path: Path, width: int, height: int, fps: int) -> None:
        source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", f"{fps}"]
        # The index goes to the front of the file, so that it plays before it is downloaded fully.
        # Without "file:", what precedes a colon in a name would be taken for a protocol.
        target = ["-movflags", "+faststart", "-y", f"file:{path}"]
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (closed by `kill`)
        # Its own session: Ctrl-C is for this program, which may still want to finish the video.
        try:
            self._process = subprocess.Popen(
                [
                    *(ffmpeg, "-nostdin", "-hide_banner", "-loglevel", "error"),
                    *(*source, "-i", "pipe:0", "-vf", _PIXELS, *_H264, *target),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=self._errors,
                bufsize=0,
                start_new_session=True,
            )
        except OSError as error:
            self._errors.close()
            raise OSError(f"{ffmpeg} cannot be started: {error.strerror}") from error

    def write(self, frame: npt.NDArray[np.uint8]) -> None:
        """Encode one frame."""
        assert self._process.stdin is not None
        unwritten = memoryview(frame.tobytes())
        try:
            while unwritten:
                unwritten = unwritten[self._process.stdin.write(unwritten) :]
        except BrokenPipeError:
            self._wait()
            raise OSError(self._reason()) from None

    def close(self) -> None:
        """Complete the file."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._wait()
        if self._process.returncode != 0:
            raise OSError(self._reason())

    def kill(self) -> None:
        """Stop; what was written may be incomplete."""
        self._process.kill()
        self._process.wait()
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._errors.close()

    def _wait(self) -> None:
        try:
            self._process.wait(_FINISH_SECONDS)
        except subprocess.TimeoutExpired:
            raise OSError(f"ffmpeg did not end within {_FINISH_SECONDS:.0f} s") from None

    def _reason(self) -> str:
        code = self._process.returncode
        if code < 0:
            return f"ffmpeg was killed by {signal.Signals(-code).name}"
        self._errors.seek(0)
        lines = self._errors.read(10_000).decode(errors="replace").splitlines()
        # "[libx264 @ 0x55d0c0] height not divisible by 2": the part of ffmpeg does not matter here.
        reason = re.sub(r"^(\[.*?\] *)+", "", lines[0]) if lines else f"exit code {code}"
        return f"ffmpeg failed: {reason}"


class OpenCVEncoder:
    """OpenCV's writer, with VP9."""

    def __init__(self, path: Path, width: int, height: int, fps: int) -> None:
        self._path, self._frames = path, 0
        fourcc = cv2.VideoWriter.fourcc(*"vp09")
        self._writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, fourcc, fps, (width, height))
        if not self._writer.isOpened():
            raise OSError(
                f"this OpenCV ({cv2.__version__}) cannot write VP9 video of {width}x{height}; "
                "the wheels of opencv-python from PyPI can"
            )

    def write(self, frame: npt.NDArray[np.uint8]) -> None:
        """Encode one frame."""
        try:
            self._writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
        except cv2.error as error:
            raise OSError(str(error)) from error
        self._frames += 1

    def close(self) -> None:
        """Complete the file."""
        self._writer.release()
        # OpenCV reports no failure to write, so count what arrived.
        video = cv2.VideoCapture(str(self._path))
        written = round(video.get(cv2.CAP_PROP_FRAME_COUNT)) if video.isOpened() else 0
        video.release()
        if written != self._frames:
            raise OSError(f"not written whole ({written} of {self._frames} frames)")

    def kill(self) -> None:
        """Stop; what was written may be incomplete."""
        self._writer.release()
