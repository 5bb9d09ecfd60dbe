"""Videos of episodes: H.264 in MP4, which browsers, players and slides open.

A console frame lasts a sixtieth of a second. Many games draw a sprite on every other frame only, so
a video of every second frame might never show it. Here each video frame is the pixelwise maximum of
two console frames, as in what the agent sees, shown for two frames' time: 30 a second. Nothing
flickers and nothing is lost. An odd frame skip has no such pairs: then the video shows all 60
console frames of a second.

The console's pixels are wider than high: its screen filled a television of 4:3, and so does the
video frame. Enlarging repeats pixels, without blurring them.

Other environments show one picture an agent step, at their own rate, in the middle of the frame.
"""

import contextlib
import os
import textwrap
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np
import numpy.typing as npt

from agents.errors import UserError
from agents.evaluation.drawing import draw_text, new_canvas
from agents.evaluation.encoders import Encoder, open_encoder
from agents.system.files import write_atomically
from envs import AtariConfig, EnvConfig
from envs.config import FRAMES_PER_SECOND

Image = npt.NDArray[np.uint8]  # (height, width, 3), RGB

WIDTH, HEIGHT = 640, 480


class VideoError(UserError):
    """A video that could not be written; the message names the file and says why."""


def video_fps(env: EnvConfig) -> int:
    """Frames a second of a video of an environment at real speed."""
    if isinstance(env, AtariConfig):
        return FRAMES_PER_SECOND // _merged_frames(env.frame_skip)
    return round(env.steps_per_second)


def enlarge(screen: Image) -> Image:
    """Scale a console's screen, (height, 160, 3) uint8 of any height, to (480, 640, 3)."""
    enlarged: Image = np.asarray(
        cv2.resize(screen, (WIDTH, HEIGHT), interpolation=cv2.INTER_NEAREST), np.uint8
    )
    return enlarged


def letterbox(picture: Image) -> Image:
    """Scale a picture of any size to fit (480, 640, 3), with black beside or above it."""
    height, width = picture.shape[:2]
    scale = min(WIDTH / width, HEIGHT / height)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    smooth = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST
    frame = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    left, top = (WIDTH - size[0]) // 2, (HEIGHT - size[1]) // 2
    scaled = cv2.resize(np.ascontiguousarray(picture), size, interpolation=smooth)
    frame[top : top + size[1], left : left + size[0]] = scaled
    return frame


def text_frame(text: str) -> Image:
    """A frame of text, (480, 640, 3), for what cannot be shown."""
    canvas = new_canvas(WIDTH, HEIGHT)
    for line, words in enumerate(textwrap.wrap(text, 60)[:10]):
        draw_text(canvas, words, 40, HEIGHT // 2 - 40 + 26 * line, 16)
    return np.asarray(canvas)


def frames_of_step(screens: npt.NDArray[np.uint8], env: EnvConfig) -> list[Image]:
    """The video frames of one agent step.

    Args:
        screens: The step's console frames, (n, height, width, 3) uint8, n = `frame_skip`, or fewer
            where the episode ended within the step.
        env: The environment and its rules.

    Returns:
        Frames of shape (480, 640, 3), uint8, at `video_fps(env)`. Where the episode ended
        within the step the last one is repeated, so that the video lasts as long as the steps did.
    """
    if not isinstance(env, AtariConfig):
        return [letterbox(screen) for screen in screens]
    frame_skip = env.frame_skip
    merged = _merged_frames(frame_skip)
    frames = [
        enlarge(screens[start : start + merged].max(axis=0))
        for start in range(0, len(screens), merged)
    ]
    return frames + frames[-1:] * (frame_skip // merged - len(frames))


def _merged_frames(frame_skip: int) -> int:
    return 2 if frame_skip % 2 == 0 else 1


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

    The file has a temporary name until it is finished: an incomplete video never looks whole. As a
    context manager it finishes the video, or discards it where something was raised.

    Args:
        path: The video's file, ending in ".mp4".
        fps: Frames a second.

    Raises:
        VideoError: if the name has another ending.
    """

    def __init__(self, path: Path, fps: int) -> None:
        if path.suffix != ".mp4":
            raise VideoError(f"{path}: videos are MP4: the name must end in .mp4")
        self.path, self.fps = path, fps
        # Encoders take the container from the suffix.
        self._temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp.mp4")
        self._encoder: Encoder | None = None
        self._shape: tuple[int, ...] = ()

    def write(self, frame: Image) -> None:
        """Add one frame, (height, width, 3) uint8 RGB; all have the same shape.

        H.264 wants even sides: an odd one is shown with its last row or column repeated.

        Raises:
            VideoError: if the file or the encoder fails, or a frame has another shape.
        """
        try:
            if self._encoder is None:
                self._encoder, self._shape = self._open(frame), frame.shape
            if frame.shape != self._shape:
                raise VideoError(f"{self.path}: a frame is {frame.shape}, not {self._shape}")
            self._encoder.write(_with_even_sides(frame))
        except OSError as error:
            raise VideoError(f"{self.path}: {error.strerror or error}") from error

    def finish(self, path: Path | None = None) -> None:
        """Complete the file, and give it its name.

        Args:
            path: Another path than the writer was made with, in the same folder.

        Raises:
            VideoError: if the file is incomplete, as on a full disk; it is deleted then.
        """
        self.path = path or self.path
        try:
            if self._encoder is None:
                raise VideoError(f"{self.path}: there are no frames to write")
            self._encoder.close()
            with self._temporary.open("rb") as file:
                os.fsync(file.fileno())
            self._temporary.replace(self.path)
        except OSError as error:
            raise VideoError(f"{self.path}: {error.strerror or error}") from error
        finally:
            self.discard()

    def discard(self) -> None:
        """Delete what was written; after `finish`, do nothing."""
        if self._encoder is not None:
            self._encoder.kill()
            self._encoder = None
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
            self.discard()

    def _open(self, frame: Image) -> Encoder:
        self._temporary.touch()  # fails with a clearer reason than an encoder gives
        height, width, _ = _with_even_sides(frame).shape
        return open_encoder(self._temporary, width, height, self.fps)


def _with_even_sides(frame: Image) -> Image:
    height, width, _ = frame.shape
    if height % 2 == width % 2 == 0:
        return frame
    return np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
