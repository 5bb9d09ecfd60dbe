"""Recording episodes: a replay file of each, and a video."""

import logging
from functools import cache
from pathlib import Path

from agents.config import TrainConfig
from agents.evaluation.episode import EpisodeCallback, EpisodeResult, StepResult
from agents.evaluation.overlay import Overlay, OverlayFactory
from agents.evaluation.replay_file import Replay
from agents.evaluation.results import format_score
from agents.evaluation.video import VideoError, VideoWriter, video_fps
from agents.evaluation.video_callback import render_step
from agents.networks.inspection import PolicyOutput
from envs import rendering_problem

log = logging.getLogger("train")

# Greedy play may stand still until the frame limit: half an hour of one frame, which would take
# longer to compress than all other episodes together.
MAX_VIDEO_SECONDS = 300.0


@cache
def _warn_once(problem: str) -> None:
    log.warning("no videos: %s", problem)


class Recorder(EpisodeCallback):
    """Writes `replays/NAME.npz` and `videos/NAME.mp4` of every episode.

    NAME holds step, mode, seed and score, as in `step_000000020000_greedy_seed_17_score_260`. A
    file that cannot be written causes a warning, but the episode goes on; a failing video does not
    affect the replay.

    Args:
        folder: The run directory.
        config: The run's settings.
        checkpoint: Name of the network's file; empty for random play.
        global_step: Agent steps the network was trained for; None for random play.
        make_overlay: Makes the overlay of an episode from its mode and seed; None for videos of the
            game alone.
        videos: Whether to write videos, where the environment can be rendered; replays are written
            in any case.
        max_video_seconds: The video of a longer episode ends there, with a warning. Its replay is
            whole, and `python -m agents.replay` makes a whole video of it.

    Attributes:
        replays: The files written so far.
        videos: The files written so far.
        unwritten: The number of files that could not be written.
    """

    def __init__(
        self,
        folder: Path,
        config: TrainConfig,
        checkpoint: str = "",
        global_step: int | None = None,
        make_overlay: OverlayFactory | None = None,
        videos: bool = True,
        max_video_seconds: float = MAX_VIDEO_SECONDS,
    ) -> None:
        self.folder, self.settings = folder, config.env
        if videos and (problem := rendering_problem(config.env)):
            _warn_once(problem)
            videos = False
        self.checkpoint, self.global_step = checkpoint, global_step
        self._make_overlay = make_overlay if videos else None
        self._overlay: Overlay | None = None
        self._max_video_seconds = max_video_seconds
        self._video: VideoWriter | None = None
        self.needs_frames = videos
        self.inspect_every = 0 if self._make_overlay is None else 1
        self.replays: list[Path] = []
        self.videos: list[Path] = []
        self.unwritten = 0

    def on_start(self, mode: str, seed: int) -> None:
        """Open the video."""
        if not self.needs_frames:
            return
        path = self.folder / "videos" / f"{self._name(mode, seed)}.mp4"
        self._overlay = None if self._make_overlay is None else self._make_overlay(mode, seed)
        try:
            path.parent.mkdir(exist_ok=True)
            self._video = VideoWriter(path, video_fps(self.settings))
        except (OSError, VideoError) as error:
            self._drop_video(error)

    def on_step(self, step: StepResult, output: PolicyOutput | None) -> None:
        """Write the step's frames."""
        if self._video is not None and not self._is_too_long(step.length):
            try:
                for image in render_step(step, output, self._overlay, self.settings):
                    self._video.write(image)
            except (OSError, VideoError) as error:
                self._drop_video(error)

    def on_end(self, result: EpisodeResult) -> None:
        """Write the replay, then complete the video."""
        score = format_score(result.score).replace(",", "")
        name = f"{self._name(result.mode, result.seed)}_score_{score}"
        path = self.folder / "replays" / f"{name}.npz"
        random = result.mode == "random"
        replay = Replay(
            self.settings,
            result,
            checkpoint="" if random else self.checkpoint,
            global_step=None if random else self.global_step,
        )
        try:
            self._save(replay, path)
        except OSError as error:
            # On a full disk the unfinished video may hold just the space that the replay needs.
            if self._video is not None:
                self._drop_video(error)
            try:
                self._save(replay, path)
            except OSError as again:
                self.unwritten += 1
                log.warning("a replay was not written: %s", again)
        if self._video is not None:
            try:
                self._video.finish(self._video.path.with_name(f"{name}.mp4"))
                self.videos.append(self._video.path)
                self._video = None
                if self._is_too_long(result.length):
                    shown = f"{self._max_video_seconds:.1f}"
                    log.warning("%s shows the first %s seconds only", self.videos[-1], shown)
            except (OSError, VideoError) as error:
                self._drop_video(error)

    def on_abort(self) -> None:
        """Delete the unfinished video."""
        if self._video is not None:
            self._video.discard()
            self._video = None

    def _is_too_long(self, num_steps: int) -> bool:
        return self.settings.seconds(num_steps) > self._max_video_seconds

    def _name(self, mode: str, seed: int) -> str:
        if self.global_step is None or mode == "random":
            return f"{mode}_seed_{seed}"
        return f"step_{self.global_step:012d}_{mode}_seed_{seed}"

    def _save(self, replay: Replay, path: Path) -> None:
        path.parent.mkdir(exist_ok=True)
        replay.save(path)
        self.replays.append(path)

    def _drop_video(self, error: Exception) -> None:
        self.unwritten += 1
        log.warning("a video was not written: %s", error)
        self.on_abort()
