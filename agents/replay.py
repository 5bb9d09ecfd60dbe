"""Play a recorded game again, without any network, and check that it is the same.

With `--overlay` a network looks on, and the video shows what it thinks; the actions stay those of
the recording.

    python -m agents.replay runs/latest/replays/NAME.npz --video again.mp4
    python -m agents.replay runs/latest/replays/NAME.npz --video again.mp4 --overlay runs/latest

Exit code 0: identical; 1: something differs; 2: the trace or the command line cannot be used.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from agents.cli import CommandParser
from agents.errors import MachineError, escape_to_one_line
from agents.evaluation.episode import StepResult
from agents.evaluation.replay_file import (
    Replay,
    ReplayError,
    ReplayMismatchError,
    load_replay,
    verify_replay,
)
from agents.system.resources import require_opencv

if TYPE_CHECKING:
    from agents.evaluation.overlay import Overlay
    from agents.networks.inspection import PolicyOutput

Look = Callable[[npt.NDArray[np.uint8], bool], object]


class OverlayError(Exception):
    """A run whose network cannot look on; the message says why."""


def main(argv: Sequence[str] | None = None) -> int:
    """Read the command line, play back, and return the exit code."""
    parser = CommandParser(
        prog="python -m agents.replay", description=__doc__.partition("\n")[0], allow_abbrev=False
    )
    parser.add_argument("trace", metavar="TRACE.npz", help="a recorded game")
    parser.add_argument("--video", metavar="OUT.mp4", help="also write a video of it")
    parser.add_argument(
        "--overlay",
        metavar="RUN",
        help="with --video or --still: draw beside the game what that run's network thinks of it",
    )
    parser.add_argument(
        "--still",
        nargs=2,
        metavar=("DECISION", "OUT.png"),
        help="also write the picture after so many decisions",
    )
    args = parser.parse_args(argv)
    if args.overlay is not None and args.video is None and args.still is None:
        parser.error("--overlay is for pictures: it needs --video or --still")
    still_at = 0
    if args.still is not None:
        still_at = int(args.still[0]) if args.still[0].isdecimal() else 0
        if still_at == 0 or not args.still[1].endswith(".png"):
            parser.error("--still takes a decision, from 1, and the name of a .png file")
    try:
        require_opencv()
    except MachineError as error:
        parser.error(str(error))
    from agents.evaluation.video import (
        VideoError,
        VideoWriter,
        frames_of_step,
        video_fps,
        write_still,
    )

    try:
        trace = load_replay(args.trace)
        with ExitStack() as stack:
            overlay: Overlay | None = None
            outputs: list[PolicyOutput] = []
            look: Look | None = None
            if args.overlay is not None:
                overlay, outputs, look = stack.enter_context(_onlooker(trace, args.overlay))
            video, frame_skip = None, trace.settings.frame_skip
            if args.video is not None:
                video = stack.enter_context(VideoWriter(Path(args.video), video_fps(frame_skip)))

            def show(step: StepResult) -> None:
                images = frames_of_step(step.info["screens"], frame_skip)
                if overlay is not None:
                    images = [overlay.render(image, outputs[-1], step) for image in images]
                if video is not None:
                    for image in images:
                        video.write(image)
                if step.length == still_at:
                    write_still(Path(args.still[1]), images[-1])

            shows = video is not None or still_at > 0
            game = verify_replay(
                trace, show if shows else None, keep_screens=shows, on_observation=look
            )
    except ReplayMismatchError as error:
        print(f"{args.trace}: NOT the same game: {escape_to_one_line(str(error))}", file=sys.stderr)
        return 1
    except (ReplayError, VideoError, OverlayError) as error:
        parser.error(str(error))
    seconds = trace.settings.seconds(game.length)
    ended = "cut off by the frame limit" if game.truncated else "to its end"
    came_from = f"checkpoint {trace.checkpoint}, " if trace.checkpoint else ""
    print(f"{trace.settings.game}, {game.mode} play, {came_from}seed {game.seed}")
    print(f"score {game.score:g}, {game.length} decisions ({seconds:.1f} s), {ended}: identical")
    if args.video is not None:
        print(f"video: {args.video}")
    if still_at > game.length:
        print(f"no picture: there are {game.length} decisions only", file=sys.stderr)
    elif still_at:
        print(f"picture: {args.still[1]}")
    return 0


@contextmanager
def _onlooker(trace: Replay, run: str) -> Iterator[tuple["Overlay", list["PolicyOutput"], Look]]:
    """Let a run's network look on: its overlay, its outputs so far, and what to call at every step.

    Raises:
        OverlayError: if the run cannot be used, or is one of another game.
    """
    # Torch takes seconds to load, and is not needed otherwise.
    from agents.checkpoint import CheckpointError
    from agents.evaluation.overlay import overlay_factory
    from agents.evaluation.session import load_agent
    from agents.evaluation.trajectory import observer
    from agents.run_folder import RunFolderError, open_run

    try:
        folder, config = open_run(run)
        settings = trace.settings
        if (config.game, config.full_action_space, config.frame_skip) != (
            settings.game,
            settings.full_action_space,
            settings.frame_skip,
        ):
            raise OverlayError(
                f"{run}: the run is of {config.game}, or of other actions or another frame skip"
            )
        agent = load_agent(folder, config)
    except (RunFolderError, CheckpointError) as error:
        raise OverlayError(str(error)) from error
    overlay = overlay_factory(config, agent.global_step)(trace.game.mode, trace.game.seed)
    outputs: list[PolicyOutput] = []
    with agent.network.cached_weights():
        look = observer(agent.network, len(overlay.action_names), outputs.append)
        yield overlay, outputs, look


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
