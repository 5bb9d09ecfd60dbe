"""Plays the episodes of a report: those of its table, and the one that is shown with its video."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from agents.analysis.report.data import selections_of
from agents.config import TrainConfig
from agents.evaluation.callbacks import ProgressLines
from agents.evaluation.episode import EpisodeCallback, EpisodeResult, StepResult
from agents.evaluation.runner import RANDOM, episode_seeds, evaluate_policy
from agents.evaluation.trajectory import Trajectory, record_trajectory
from agents.evaluation.video import VideoWriter, frames_of_step, text_frame, video_fps
from agents.networks.actor_critic import ActorCritic
from agents.networks.inspection import PolicyOutput
from agents.system.output import print_to_stderr
from envs import EnvConfig, rendering_problem

# Limits of the episode shown: they keep the page below 15 MB, base64's overhead included.
MAX_STEPS = 3000
MAX_VIDEO_BYTES = 6_000_000
MAX_WEIGHT_BYTES = 4_000_000

THUMBNAIL_SIZE = (96, 72)  # width and height in pixels, 4:3 as on a television


@dataclass(frozen=True, eq=False)
class ShownEpisode:
    """An episode with its video. T agent steps are shown, which may be fewer than were played.

    Attributes:
        trajectory: The T steps; `trajectory.episode` is the result of the whole episode.
        video: MP4 of the T steps.
        thumbnails: T JPEGs, the last frame before each step. The first step has no preceding frame;
            its own is used.
    """

    trajectory: Trajectory
    video: bytes
    thumbnails: list[bytes]


def play_episodes(
    network: ActorCritic, config: TrainConfig, mode: str, episodes: int, seed: int
) -> list[EpisodeResult]:
    """Play episodes as `agents.evaluate` does, and print the progress to stderr."""
    policy = None if mode == RANDOM else network
    progress = ProgressLines(mode, episodes, print_to_stderr)
    return evaluate_policy(policy, config, mode, episode_seeds(seed, episodes), [progress])


def show_episode(
    network: ActorCritic,
    config: TrainConfig,
    mode: str,
    seed: int,
    *,
    max_steps: int = MAX_STEPS,
    max_video_bytes: int = MAX_VIDEO_BYTES,
) -> ShownEpisode:
    """Play an episode again, and keep its trajectory and its video.

    Args:
        network: The network that plays.
        config: The settings of its run.
        mode: "sampled" or "greedy".
        seed: Seed of the episode.
        max_steps: Maximal number of agent steps shown.
        max_video_bytes: Maximal size of the video; fewer steps are shown if it is larger.

    Raises:
        VideoError: If the video cannot be written.
    """
    while True:
        shown = _show(network, config, mode, seed, max_steps)
        length, fitting = len(shown.thumbnails), _fitting(shown.trajectory)
        if length > fitting:
            max_steps = fitting
            continue
        if len(shown.video) <= max_video_bytes or length == 1:
            return shown
        # Slightly less than in proportion: the start of an episode may compress worse.
        max_steps = max(1, int(0.9 * length * max_video_bytes / len(shown.video)))


def _show(
    network: ActorCritic, config: TrainConfig, mode: str, seed: int, max_steps: int
) -> ShownEpisode:
    progress = ProgressLines("the episode shown", 1, print_to_stderr)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "game.mp4"
        with VideoWriter(path, video_fps(config.env)) as video:
            frames = _FrameCallback(video, config.env, max_steps)
            trajectory = record_trajectory(
                *(network, config, mode, seed), max_steps=max_steps, callbacks=[frames, progress]
            )
        length = len(trajectory.actions)
        thumbnails = [frames.thumbnails[0], *frames.thumbnails][:length]
        return ShownEpisode(trajectory, path.read_bytes(), thumbnails)


class _FrameCallback(EpisodeCallback):
    """Writes the video and the thumbnails of an episode's first agent steps."""

    def __init__(self, video: VideoWriter, env: EnvConfig, max_steps: int) -> None:
        self._video, self._env, self._max_steps = video, env, max_steps
        problem = rendering_problem(env)
        self.needs_frames = problem is None
        self._instead = None if problem is None else text_frame(problem)
        self.thumbnails: list[bytes] = []

    def on_step(self, step: StepResult, output: PolicyOutput | None) -> None:  # noqa: ARG002
        if step.length <= self._max_steps:
            if self._instead is None:
                frames = frames_of_step(step.info["screens"], self._env)
            else:
                frames = [self._instead]
            for frame in frames:
                self._video.write(frame)
            self.thumbnails.append(thumbnail(frames[-1]))


def thumbnail(picture: npt.NDArray[np.uint8]) -> bytes:
    """Scale a video frame, (height, width, 3) uint8 RGB, to a small JPEG."""
    small = cv2.resize(picture, THUMBNAIL_SIZE, interpolation=cv2.INTER_AREA)
    bgr = cv2.cvtColor(small, cv2.COLOR_RGB2BGR)
    _, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, 82])
    return data.tobytes()


def _fitting(trajectory: Trajectory) -> int:
    """Return how many steps fit in the page if only the mean over components is kept."""
    selections = [*selections_of(trajectory.actor), *selections_of(trajectory.critic)]
    slots = sum(s.weights.shape[2] * (4 if s.signed else 1) for s in selections)
    return max(1, MAX_WEIGHT_BYTES // slots) if slots else MAX_STEPS
