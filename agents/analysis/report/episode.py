"""Playing for a report: games for its table, and one with everything that is shown of it."""

import dataclasses
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from agents.analysis.report.data import selections_of
from agents.config import TrainConfig
from agents.evaluation.callbacks import ProgressLines
from agents.evaluation.episode import EpisodeCallback, EpisodeResult, StepResult
from agents.evaluation.runner import RANDOM, episode_seeds, evaluate_policy
from agents.evaluation.trajectory import Trajectory, record_trajectory
from agents.evaluation.video import VideoWriter, frames_of_step, video_fps
from agents.networks.actor_critic import ActorCritic
from agents.networks.inspection import PolicyOutput

# What a page may hold of one game, so that it stays below 15 MB with base64's third on top.
MOST_DECISIONS = 3000
MOST_VIDEO_BYTES = 6_000_000
MOST_WEIGHT_BYTES = 4_000_000

THUMBNAIL_SIZE = (96, 72)  # pixels, 4:3 as the television's


@dataclass(frozen=True, eq=False)
class ShownEpisode:
    """A game with its pictures. T decisions are shown, which may be fewer than were played.

    Attributes:
        programs: of the T decisions; `programs.game` is the whole game.
        video: MP4, of the T decisions.
        thumbnails: JPEG of what was last on the screen before each decision, T of them. What there
            was before the first cannot be had: it has the screen after it.
    """

    programs: Trajectory
    video: bytes
    thumbnails: list[bytes]


def play_games(
    network: ActorCritic, config: TrainConfig, mode: str, episodes: int, seed: int
) -> list[EpisodeResult]:
    """Play episodes as `agents.evaluate` does, and print the progress to stderr."""
    policy = None if mode == RANDOM else network
    progress = ProgressLines(mode, episodes, _print)
    return evaluate_policy(policy, config, mode, episode_seeds(seed, episodes), [progress])


def show_game(
    network: ActorCritic,
    config: TrainConfig,
    mode: str,
    seed: int,
    *,
    most_decisions: int = MOST_DECISIONS,
    most_video_bytes: int = MOST_VIDEO_BYTES,
) -> ShownEpisode:
    """Play a game once more, and keep its programs and pictures.

    Args:
        network: plays.
        config: of its run.
        mode: "sampled" or "greedy".
        seed: of the game.
        most_decisions: that are shown.
        most_video_bytes: that the video may have. Where it has more, fewer decisions are shown.

    Raises:
        VideoError: if the video cannot be written.
    """
    while True:
        shown = _show(network, config, mode, seed, most_decisions)
        length, fitting = len(shown.thumbnails), _fitting(shown.programs)
        if length > fitting:
            most_decisions = fitting
            continue
        if len(shown.video) <= most_video_bytes or length == 1:
            return shown
        # A little less than in proportion: a game may be more colourful at its start.
        most_decisions = max(1, int(0.9 * length * most_video_bytes / len(shown.video)))


def _show(
    network: ActorCritic, config: TrainConfig, mode: str, seed: int, most_decisions: int
) -> ShownEpisode:
    progress = ProgressLines("the episode shown", 1, _print)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "game.mp4"
        with VideoWriter(path, video_fps(config.frame_skip)) as video:
            frames = _FrameCallback(video, config.frame_skip, most_decisions)
            programs = record_trajectory(network, config, mode, seed, callbacks=[frames, progress])
        programs = first_decisions(programs, most_decisions)
        length = len(programs.actions)
        thumbnails = [frames.thumbnails[0], *frames.thumbnails][:length]
        return ShownEpisode(programs, path.read_bytes(), thumbnails)


class _FrameCallback(EpisodeCallback):
    """Writes the video and the thumbnails of an episode's first agent steps."""

    needs_frames = True

    def __init__(self, video: VideoWriter, frame_skip: int, max_steps: int) -> None:
        self._video, self._frame_skip, self._max_steps = video, frame_skip, max_steps
        self.thumbnails: list[bytes] = []

    def on_step(self, step: StepResult, output: PolicyOutput | None) -> None:  # noqa: ARG002
        if step.length <= self._max_steps:
            frames = frames_of_step(step.info["screens"], self._frame_skip)
            for frame in frames:
                self._video.write(frame)
            self.thumbnails.append(thumbnail(frames[-1]))


def _print(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def thumbnail(picture: npt.NDArray[np.uint8]) -> bytes:
    """A video frame, (height, width, 3) uint8 RGB, as a small JPEG."""
    small = cv2.resize(picture, THUMBNAIL_SIZE, interpolation=cv2.INTER_AREA)
    bgr = cv2.cvtColor(small, cv2.COLOR_RGB2BGR)
    _, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, 82])
    return data.tobytes()


def first_decisions(programs: Trajectory, count: int) -> Trajectory:
    """The first decisions of a game; `game` stays that of the whole."""
    arrays: dict[str, Any] = {}
    for name in ("actions", "rewards", "probabilities", "values"):
        arrays[name] = getattr(programs, name)[:count]
    for name in ("actor", "critic"):
        program = getattr(programs, name)
        if program is not None:
            cut = {
                field.name: None if value is None else value[:count]
                for field in dataclasses.fields(program)
                for value in [getattr(program, field.name)]
            }
            arrays[name] = dataclasses.replace(program, **cut)
    if programs.screens is not None:
        arrays["screens"] = programs.screens[:count]
    return dataclasses.replace(programs, **arrays)


def _fitting(programs: Trajectory) -> int:
    """How many decisions fit in the page, if only the mean over components is kept."""
    selections = [*selections_of(programs.actor), *selections_of(programs.critic)]
    slots = sum(s.weights.shape[2] * (4 if s.signed else 1) for s in selections)
    return max(1, MOST_WEIGHT_BYTES // slots) if slots else MOST_DECISIONS
