"""Playing for a report: games for its table, and one with everything that is shown of it."""

import dataclasses
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from agents.analysis.report.data import selections_of
from agents.config import TrainConfig
from agents.evaluation.episode import EpisodeResult, StepResult
from agents.evaluation.runner import RANDOM, evaluate_policy
from agents.evaluation.trajectory import Trajectory, record_trajectory
from agents.evaluation.video import VideoWriter, frames_of_step, video_fps
from agents.networks.actor_critic import ActorCritic

# What a page may hold of one game, so that it stays below 15 MB with base64's third on top.
MOST_DECISIONS = 3000
MOST_VIDEO_BYTES = 6_000_000
MOST_WEIGHT_BYTES = 4_000_000

THUMBNAIL_SIZE = (96, 72)  # pixels, 4:3 as the television's
SECONDS_BETWEEN_LINES = 10.0


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
    """Play whole games by the protocol of `agents.evaluation.runner`, and say on stderr how it goes."""
    played, last_line = 0, time.monotonic()

    def say(number: int, text: str) -> None:
        nonlocal last_line
        last_line = time.monotonic()
        print(f"{mode} {number}/{episodes}: {text}", file=sys.stderr, flush=True)

    def watch(step: StepResult) -> None:
        if time.monotonic() - last_line > SECONDS_BETWEEN_LINES:
            say(played + 1, f"score {step.score:g} so far, {step.length:,} decisions")

    def count(game: EpisodeResult) -> None:
        nonlocal played
        played += 1
        say(played, f"score {game.score:g}, {game.length:,} decisions")

    player = None if mode == RANDOM else network
    return evaluate_policy(player, config, mode, episodes, seed, progress=count, on_step=watch)


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
    thumbnails: list[bytes] = []
    last_line = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "game.mp4"
        with VideoWriter(path, video_fps(config.frame_skip)) as video:

            def watch(step: StepResult) -> None:
                nonlocal last_line
                if step.length <= most_decisions:
                    frames = frames_of_step(step.info["screens"], config.frame_skip)
                    for frame in frames:
                        video.write(frame)
                    thumbnails.append(thumbnail(frames[-1]))
                if time.monotonic() - last_line > SECONDS_BETWEEN_LINES:
                    last_line = time.monotonic()
                    print(f"the game shown: {step.length:,} decisions", file=sys.stderr, flush=True)

            print(f"the game shown: {mode}, seed {seed}", file=sys.stderr, flush=True)
            programs = record_trajectory(network, config, mode, seed, on_step=watch)
        programs = first_decisions(programs, most_decisions)
        length = len(programs.actions)
        return ShownEpisode(programs, path.read_bytes(), [thumbnails[0], *thumbnails][:length])


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
