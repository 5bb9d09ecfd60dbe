"""Drawing an episode while it is played; without an overlay, nothing in here needs torch."""

from pathlib import Path
from typing import TYPE_CHECKING

from agents.evaluation.episode import EpisodeCallback, StepResult
from agents.evaluation.video import Image, VideoWriter, frames_of_step, write_still
from envs import EnvConfig

if TYPE_CHECKING:
    from agents.evaluation.overlay import Overlay
    from agents.networks.inspection import PolicyOutput


def render_step(
    step: StepResult, output: "PolicyOutput | None", overlay: "Overlay | None", env: EnvConfig
) -> list[Image]:
    """The video frames of one agent step, with the overlay if there is one."""
    frames = frames_of_step(step.info["screens"], env)
    if overlay is None:
        return frames
    return [overlay.render(frame, output, step) for frame in frames]


class VideoCallback(EpisodeCallback):
    """Writes one episode's frames.

    Args:
        env: The environment and its rules.
        video: Gets every frame; None for no video. The caller opens and finishes it.
        overlay: Drawn around the frames.
        still: An agent step, from 1, and the PNG file for the last frame of that step.
    """

    needs_frames = True

    def __init__(
        self,
        env: EnvConfig,
        video: VideoWriter | None,
        overlay: "Overlay | None" = None,
        still: tuple[int, Path] | None = None,
    ) -> None:
        self._env, self._video = env, video
        self._overlay, self._still = overlay, still
        self.inspect_every = 0 if overlay is None else 1

    def on_step(self, step: StepResult, output: "PolicyOutput | None") -> None:
        """Write the step's frames.

        Raises:
            VideoError: If a file cannot be written.
        """
        images = render_step(step, output, self._overlay, self._env)
        if self._video is not None:
            for image in images:
                self._video.write(image)
        if self._still is not None and step.length == self._still[0]:
            write_still(self._still[1], images[-1])
