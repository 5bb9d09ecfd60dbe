"""Play a recorded game again, without any network, and check that it is the same.

    python -m agents.replay runs/latest/replays/NAME.npz --video again.webm

Exit code 0: identical; 1: something differs; 2: the trace or the command line cannot be used.
"""

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from agents.config import MachineError
from agents.one_line_parser import OneLineParser, one_line
from agents.opencv import require_opencv
from agents.trace import TraceError, TraceMismatchError, load_trace, play_back
from envs.protocol import FRAME_SKIP


def main(argv: Sequence[str] | None = None) -> int:
    """Read the command line, play back, and return the exit code."""
    parser = OneLineParser(
        prog="python -m agents.replay", description=__doc__.partition("\n")[0], allow_abbrev=False
    )
    parser.add_argument("trace", metavar="TRACE.npz", help="a recorded game")
    parser.add_argument("--video", metavar="OUT.webm", help="also write a video of it")
    args = parser.parse_args(argv)
    try:
        require_opencv()
    except MachineError as error:
        parser.error(str(error))
    from agents.video import CONSOLE_FPS, VideoError, VideoWriter

    try:
        trace = load_trace(args.trace)
        with ExitStack() as stack:
            video = None
            if args.video is not None:
                video = stack.enter_context(VideoWriter(Path(args.video)))
            game = play_back(
                trace,
                None if video is None else lambda step: video.add(step.info["screens"]),
                keep_screens=video is not None,
            )
    except TraceMismatchError as error:
        print(f"{args.trace}: NOT the same game: {one_line(str(error))}", file=sys.stderr)
        return 1
    except (TraceError, VideoError) as error:
        parser.error(str(error))
    seconds = game.length * FRAME_SKIP / CONSOLE_FPS
    ended = "cut off by the frame limit" if game.truncated else "to its end"
    came_from = f"checkpoint {trace.checkpoint}, " if trace.checkpoint else ""
    print(f"{trace.settings.game}, {game.mode} play, {came_from}seed {game.seed}")
    print(f"score {game.score:g}, {game.length} decisions ({seconds:.1f} s), {ended}: identical")
    if args.video is not None:
        print(f"video: {args.video}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
