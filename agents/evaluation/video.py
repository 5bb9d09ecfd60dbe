"""Videos of games: VP9 in WebM, which browsers and common players open.

A console frame lasts a sixtieth of a second. Many games draw a sprite on every other frame only, so
a video that took every second frame might never show it. Here each picture is the pixelwise maximum
of two console frames, as in what the agent sees, shown for two frames' time: 30 pictures a second,
two for each decision. Nothing flickers, nothing is lost, and it costs about half of all 60 frames:
for Frostbite some 0.6 s of computing and 23 kB for each second of the game, against 1.2 s and 36 kB
(one core of the 2-core machine that the README's numbers are from, busy with other things).

The console's pixels are wider than high: its screen filled a television of 4:3, and so does the
picture. Enlarging repeats pixels, without blurring them.
"""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np
import numpy.typing as npt

from agents.system.files import write_atomically
from envs.protocol import FRAME_SKIP

Picture = npt.NDArray[np.uint8]
Compose = Callable[[Picture], Picture]

CONSOLE_FPS = 60
FRAMES_PER_PICTURE = 2
FPS = CONSOLE_FPS // FRAMES_PER_PICTURE
PICTURES_PER_DECISION = FRAME_SKIP // FRAMES_PER_PICTURE
WIDTH, HEIGHT = 640, 480


class VideoError(Exception):
    """A video that could not be written; the message names the file and says why."""


def enlarge(picture: Picture) -> Picture:
    """Scale a console's screen, (height, 160, 3) uint8 of any height, to (480, 640, 3)."""
    shown: Picture = np.asarray(
        cv2.resize(picture, (WIDTH, HEIGHT), interpolation=cv2.INTER_NEAREST), np.uint8
    )
    return shown


def pictures_of_decision(screens: npt.NDArray[np.uint8]) -> list[Picture]:
    """The two pictures of one decision.

    Args:
        screens: its console frames, (n, height, width, 3) uint8, n = 4, or fewer at the game's end.

    Returns:
        Two pictures, (height, width, 3) uint8. Where the game ended within the decision, the last
        one is repeated, so that the video lasts as long as the decisions did.
    """
    pairs = [
        screens[start : start + FRAMES_PER_PICTURE].max(axis=0)
        for start in range(0, len(screens), FRAMES_PER_PICTURE)
    ]
    return pairs + pairs[-1:] * (PICTURES_PER_DECISION - len(pairs))


def write_still(path: Path, screens: npt.NDArray[np.uint8], compose: Compose | None = None) -> None:
    """Write the last picture of a decision as a PNG.

    Args:
        path: of the file, ending in ".png".
        screens: as in `VideoWriter.add`.
        compose: as in `VideoWriter`.

    Raises:
        VideoError: if it cannot be written.
    """
    picture = enlarge(pictures_of_decision(screens)[-1])
    if compose is not None:
        picture = compose(picture)
    _, data = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    try:
        write_atomically(path, data.tobytes())
    except OSError as error:
        raise VideoError(f"{path}: {error.strerror or error}") from error


class VideoWriter:
    """Writes a game, decision by decision.

    The file has another name until it is finished: a video that was broken off never looks whole.
    As a context manager it finishes the video, or drops it where something was raised.

    Args:
        path: of the video, ending in ".webm".
        compose: makes the picture that is shown from an enlarged one, both (480, 640, 3) uint8 RGB;
            the place for overlays. Its result has the same shape throughout, with even sides.

    Raises:
        VideoError: if OpenCV cannot write such a file here.
    """

    def __init__(self, path: Path, compose: Compose | None = None) -> None:
        if path.suffix != ".webm":
            raise VideoError(f"{path}: the name of a video must end in .webm")
        self.path, self._compose = path, compose
        # The writer takes the container from the suffix.
        self._temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp.webm")
        self._writer: cv2.VideoWriter | None = None
        self._shape: tuple[int, ...] = ()
        self.pictures = 0

    def add(self, screens: npt.NDArray[np.uint8]) -> None:
        """Add one decision's console frames, (n, height, width, 3) uint8 RGB.

        Raises:
            VideoError: if the file cannot be opened, or a picture has another size than the first.
        """
        for picture in pictures_of_decision(screens):
            shown = enlarge(picture)
            if self._compose is not None:
                shown = self._compose(shown)
            if self._writer is None:
                self._writer, self._shape = self._open(shown), shown.shape
            if shown.shape != self._shape:
                raise VideoError(f"{self.path}: a picture is {shown.shape}, not {self._shape}")
            self._write(self._writer, shown)
            self.pictures += 1

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
                raise VideoError(f"{self.path}: there are no pictures to write")
            self._release()
            # The writer does not tell of failures, so it is asked what it wrote.
            written = count_pictures(self._temporary)
            if written != self.pictures:
                raise VideoError(
                    f"{self.path}: not written whole ({written} of {self.pictures} pictures)"
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

    def _open(self, picture: Picture) -> cv2.VideoWriter:
        height, width, _ = picture.shape
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

    def _write(self, writer: cv2.VideoWriter, picture: Picture) -> None:
        # On a full disk it would remark on every picture; `finish` says it once.
        level = cv2.utils.logging.getLogLevel()
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)
        try:
            writer.write(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
        except cv2.error as error:
            raise VideoError(f"{self.path}: {error}") from error
        finally:
            cv2.utils.logging.setLogLevel(level)

    def _release(self) -> None:
        if self._writer is not None:
            with _without_opencvs_remarks():
                self._writer.release()
            self._writer = None


def count_pictures(path: Path) -> int:
    """How many pictures a video's own header claims; 0 for a file that is none."""
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
