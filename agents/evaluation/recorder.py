"""Keeps the games of an evaluation: a trace of each, and a video."""

import logging
from pathlib import Path

from agents.config import TrainConfig
from agents.evaluation.episode import EpisodeResult, StepResult
from agents.evaluation.overlay import Overlay, OverlayFactory
from agents.evaluation.replay_file import Replay
from agents.evaluation.video import (
    VideoError,
    VideoWriter,
    frames_of_step,
    video_fps,
)
from agents.networks.inspection import PolicyOutput
from envs.config import FRAMES_PER_SECOND

log = logging.getLogger("train")

# Greedy play may stand still until the frame limit: half an hour of one picture, which would take
# longer to compress than all other games together.
MAX_VIDEO_SECONDS = 300.0


class Recorder:
    """Writes `replays/NAME.npz` and `videos/NAME.mp4` for every game that `evaluate` plays.

    NAME says step, mode, seed and score, as in `step_000000020000_greedy_seed_17_score_260`. What
    cannot be written costs a warning, never the game; and a failing video never costs the trace.

    Args:
        folder: of the run.
        config: of the run.
        checkpoint: name of the network's file; empty for random play.
        global_step: decisions the network was trained for; None for random play.
        make_overlay: Makes the overlay of an episode, from its mode and seed; None for videos of
            the game alone.
        videos: whether to write videos; traces are written in any case.
        max_video_seconds: a longer game's video ends there, and a warning says so. Its trace is
            whole, and `python -m agents.replay` makes a whole video of it.

    Attributes:
        traces: the files written so far.
        videos: the files written so far.
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
        self.folder, self.settings = folder, config.atari
        self.checkpoint, self.global_step = checkpoint, global_step
        self._make_overlay = make_overlay
        self._overlay: Overlay | None = None
        self._output: PolicyOutput | None = None
        self._max_decisions = int(max_video_seconds * FRAMES_PER_SECOND / self.settings.frame_skip)
        self._wants_videos = videos
        self._video: VideoWriter | None = None
        self.traces: list[Path] = []
        self.videos: list[Path] = []

    @property
    def wants_screens(self) -> bool:
        """Whether `StepResult.info` must hold the screens."""
        return self._wants_videos

    @property
    def wants_thoughts(self) -> bool:
        """Whether `think` is to be called."""
        return self._wants_videos and self._make_overlay is not None

    def begin(self, mode: str, seed: int) -> None:
        """A game begins."""
        if not self._wants_videos:
            return
        path = self.folder / "videos" / f"{self._name(mode, seed)}.mp4"
        self._overlay = None if self._make_overlay is None else self._make_overlay(mode, seed)
        self._output = None
        try:
            path.parent.mkdir(exist_ok=True)
            self._video = VideoWriter(path, video_fps(self.settings.frame_skip))
        except (OSError, VideoError) as error:
            self._drop_video(error)

    def think(self, thought: PolicyOutput) -> None:
        """A network chose an action, which is played next."""
        self._output = thought

    def step(self, step: StepResult) -> None:
        """A decision was played."""
        if self._video is not None and step.length <= self._max_decisions:
            try:
                for frame in frames_of_step(step.info["screens"], self.settings.frame_skip):
                    image = frame
                    if self._overlay is not None:
                        image = self._overlay.render(frame, self._output, step)
                    self._video.write(image)
            except (OSError, VideoError) as error:
                self._drop_video(error)

    def finish(self, game: EpisodeResult) -> None:
        """Write the trace, then complete the video."""
        name = f"{self._name(game.mode, game.seed)}_score_{game.score:.0f}"
        path = self.folder / "replays" / f"{name}.npz"
        random = game.mode == "random"
        trace = Replay(
            self.settings,
            game,
            checkpoint="" if random else self.checkpoint,
            global_step=None if random else self.global_step,
        )
        try:
            self._save(trace, path)
        except OSError as error:
            # On a full disk the unfinished video may hold just the space that the trace needs.
            self._drop_video(error)
            try:
                self._save(trace, path)
            except OSError as again:
                log.warning("a replay was not written: %s", again)
        if self._video is not None:
            try:
                self._video.finish(self._video.path.with_name(f"{name}.mp4"))
                self.videos.append(self._video.path)
                self._video = None
                if game.length > self._max_decisions:
                    seconds = self.settings.seconds(self._max_decisions)
                    log.warning("%s shows the first %.1f seconds only", self.videos[-1], seconds)
            except (OSError, VideoError) as error:
                self._drop_video(error)

    def abandon(self) -> None:
        """The game was left before its end: nothing of it is kept."""
        if self._video is not None:
            self._video.discard()
            self._video = None

    def _name(self, mode: str, seed: int) -> str:
        if self.global_step is None or mode == "random":
            return f"{mode}_seed_{seed}"
        return f"step_{self.global_step:012d}_{mode}_seed_{seed}"

    def _save(self, trace: Replay, path: Path) -> None:
        path.parent.mkdir(exist_ok=True)
        trace.save(path)
        self.traces.append(path)

    def _drop_video(self, error: Exception) -> None:
        if self._wants_videos:
            log.warning("a video was not written: %s", error)
        self.abandon()
