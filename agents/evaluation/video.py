"""Videos of episodes: VP9 in WebM, which browsers and common players open.

A console frame lasts a sixtieth of a second. Many games draw a sprite on every other frame only, so
a video that took every second frame might never show it. Here each video frame is the pixelwise
maximum of two console frames, as in what the agent sees, shown for two frames' time: 30 frames a
second, two for each agent step. Nothing flickers and nothing is lost.

The console's pixels are wider than high: its screen filled a television of 4:3, and so does the
video frame. Enlarging repeats pixels, without blurring them.
"""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np
import numpy.typing as npt

from agents.system.files import write_atomically
from envs.config import FRAME_SKIP

Image = npt.NDArray[np.uint8]  # (height, width, 3), RGB

CONSOLE_FPS = 60
MERGED_FRAMES = 2  # console frames in a video frame
FPS = CONSOLE_FPS // MERGED_FRAMES
FRAMES_PER_STEP = FRAME_SKIP // MERGED_FRAMES
WIDTH, HEIGHT = 640, 480


class VideoError(Exception):
    """A video that could not be written; the message names the file and says why."""


def enlarge(screen: Image) -> Image:
    """Scale a console's screen, (height, 160, 3) uint8 of any height, to (480, 640, 3)."""
    enlarged: Image = np.asarray(
        cv2.resize(screen, (WIDTH, HEIGHT), interpolation=cv2.INTER_NEAREST), np.uint8
    )
    return enlarged


def frames_of_step(screens: npt.NDArray[np.uint8]) -> list[Image]:
    """The two video frames of one agent step.

    Args:
        screens: Its console frames, (n, height, width, 3) uint8, n = 4, or fewer where the episode
            ended within the step.

    Returns:
        Two frames, (480, 640, 3) uint8. Where the episode ended within the step, the last one is
        repeated, so that the video lasts as long as the agent steps did.
    """
    frames = [
        enlarge(screens[start : start + MERGED_FRAMES].max(axis=0))
        for start in range(0, len(screens), MERGED_FRAMES)
    ]
    return frames + frames[-1:] * (FRAMES_PER_STEP - len(frames))


def write_still(path: Path, image: Image) -> None:
    """Write an image, (height, width, 3) uint8 RGB, as a PNG.

    Raises:
        VideoError: if it cannot be written.
    """
    _, data = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    try:
        write_atomically(path, data.tobytes())
    except OSError as error:
        raise VideoError(f"{path}: {error.strerror or error}") from error


class VideoWriter:
    """Writes a video, frame by frame.

    The file has another name until it is finished: a video that was broken off never looks whole.
    As a context manager it finishes the video, or drops it where something was raised.

    Args:
        path: The video's file, ending in ".webm".

    Attributes:
        frames: The number of frames written so far.

    Raises:
        VideoError: if OpenCV cannot write such a file here.
    """

    def __init__(self, path: Path) -> None:
        if path.suffix != ".webm":
            raise VideoError(f"{path}: the name of a video must end in .webm")
        self.path = path
        # The writer takes the container from the suffix.
        self._temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp.webm")
        self._writer: cv2.VideoWriter | None = None
        self._shape: tuple[int, ...] = ()
        self.frames = 0

    def write(self, frame: Image) -> None:
        """Add one frame, (height, width, 3) uint8 RGB; all have the same shape, with even sides.

        Raises:
            VideoError: if the file cannot be opened, or a frame has another size than the first.
        """
        if self._writer is None:
            self._writer, self._shape = self._open(frame), frame.shape
        if frame.shape != self._shape:
            raise VideoError(f"{self.path}: a frame is {frame.shape}, not {self._shape}")
        self._encode(self._writer, frame)
        self.frames += 1

    def finish(self, path: Path | None = None) -> None:
        """Complete the file, check it, and give it its name.

        Args:
            path: another one than the writer was made with, in the same folder.

        Raises:
            VideoError: if it is not whole, as on a full disk; nothing is left of it then.
        """
        self.path = path or self.path
        try:
            if self._writer is None:
                raise VideoError(f"{self.path}: there are no frames to write")
            self._release()
            # The writer does not tell of failures, so it is asked what it wrote.
            written = count_frames(self._temporary)
            if written != self.frames:
                raise VideoError(
                    f"{self.path}: not written whole ({written} of {self.frames} frames)"
                )
            try:
                with self._temporary.open("rb") as file:
                    os.fsync(file.fileno())
                self._temporary.replace(self.path)
            except OSError as error:
                raise VideoError(f"{self.path}: {error}") from error
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Drop what was written; after `finish`, do nothing."""
        self._release()
        with contextlib.suppress(OSError):
            self._temporary.unlink(missing_ok=True)

    def __enter__(self) -> "VideoWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None:
            self.finish()
        else:
            self.abandon()

    def _open(self, frame: Image) -> cv2.VideoWriter:
        height, width, _ = frame.shape
        try:
            self._temporary.touch()  # says why, where OpenCV would only say no
        except OSError as error:
            raise VideoError(f"{self.path}: {error.strerror or error}") from error
        fourcc = cv2.VideoWriter.fourcc(*"VP90")
        with _without_opencvs_remarks():
            writer = cv2.VideoWriter(
                str(self._temporary), cv2.CAP_FFMPEG, fourcc, FPS, (width, height)
            )
        if not writer.isOpened():
            self.abandon()
            raise VideoError(
                f"{self.path}: this OpenCV ({cv2.__version__}) cannot write VP9 video of "
                f"{width}x{height}; the wheels of opencv-python from PyPI can"
            )
        return writer

    def _encode(self, writer: cv2.VideoWriter, frame: Image) -> None:
        # On a full disk it would remark on every frame; `finish` says it once.
        level = cv2.utils.logging.getLogLevel()
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)
        try:
            writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
        except cv2.error as error:
            raise VideoError(f"{self.path}: {error}") from error
        finally:
            cv2.utils.logging.setLogLevel(level)

    def _release(self) -> None:
        if self._writer is not None:
            with _without_opencvs_remarks():
                self._writer.release()
            self._writer = None


def count_frames(path: Path) -> int:
    """How many frames a video's own header claims; 0 for a file that is none."""
    with _without_opencvs_remarks():
        video = cv2.VideoCapture(str(path))
        try:
            return max(0, round(video.get(cv2.CAP_PROP_FRAME_COUNT))) if video.isOpened() else 0
        finally:
            video.release()


@contextlib.contextmanager
def _without_opencvs_remarks() -> Iterator[None]:
    """Keep OpenCV's remarks off the terminal; it prints one with every WebM it opens.

    They go past Python and past OpenCV's own log level, straight to the process's standard error.
    """
    try:
        sys.stderr.flush()
        kept = os.dup(2)
    except (OSError, ValueError, AttributeError):  # there is no standard error
        yield
        return
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
            try:
                yield
            finally:
                os.dup2(kept, 2)
    finally:
        os.close(kept)
