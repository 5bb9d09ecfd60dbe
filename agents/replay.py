"""Play a recorded episode again, without any network, and check that it is the same.

With `--overlay` a network looks on, and the video shows what it computes: the one that played if
the run still has it, else the run's newest. The actions stay those of the recording.

    python -m agents.replay runs/latest/replays/NAME.npz --video again.mp4
    python -m agents.replay runs/latest/replays/NAME.npz --video again.mp4 --overlay runs/latest

Exit code 0: identical; 1: something differs; 2: the replay or the command line cannot be used.
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from agents.cli import CommandParser, run_command, warn_of_assumptions
from agents.errors import UserError, escape_to_one_line
from agents.evaluation.episode import EpisodeResult
from agents.evaluation.replay_file import Replay, load_replay
from agents.evaluation.results import format_score
from agents.system.files import parse_count
from agents.system.output import print_to_stdout, quantity, warn
from agents.system.resources import require_opencv
from envs import rendering_problem

if TYPE_CHECKING:
    from agents.config import TrainConfig
    from agents.evaluation.load_agent import LoadedAgent
    from agents.evaluation.overlay import Overlay
    from agents.evaluation.runner import StatefulNetwork

PROG = "python -m agents.replay"


class OverlayError(UserError):
    """A run that no overlay can be made of; the message says why."""


def main(argv: Sequence[str] | None = None) -> int:
    """Read the command line, replay, and return the exit code."""
    parser = _parser()
    args = parser.parse_args(argv)
    if args.overlay is not None and args.video is None and args.still is None:
        parser.error("--overlay is for videos and stills: it needs --video or --still")
    still = _parse_still(parser, args.still)
    require_opencv()

    from agents.evaluation.replay_policy import ReplayMismatchError, verify_replay
    from agents.evaluation.video import VideoWriter, video_fps
    from agents.evaluation.video_callback import VideoCallback

    replay = load_replay(args.replay)
    problem = rendering_problem(replay.settings)
    if problem and (args.video is not None or still is not None):
        parser.error(problem)
    video = overlay = network = None
    try:
        with ExitStack() as stack:
            if args.video is not None:
                writer = VideoWriter(Path(args.video), video_fps(replay.settings))
                video = stack.enter_context(writer)
            if args.overlay is not None:
                overlay, network = stack.enter_context(_open_overlay(replay, args.overlay))
            shows = video is not None or still is not None
            callbacks = [VideoCallback(replay.settings, video, overlay, still)] if shows else []
            result = verify_replay(replay, callbacks, network)
    except ReplayMismatchError as error:
        message = escape_to_one_line(str(error))
        print(f"{args.replay}: NOT the same episode: {message}", file=sys.stderr)
        return 1
    _print_outcome(replay, result)
    if args.video is not None:
        print_to_stdout(f"video: {args.video}")
    if still and still[0] > result.length:
        steps = quantity(result.length, "agent step")
        print(f"{PROG}: error: --still {still[0]}: the episode has {steps}", file=sys.stderr)
        return 2
    if still:
        print_to_stdout(f"still: {args.still[1]}")
    return 0


def _parser() -> CommandParser:
    parser = CommandParser(prog=PROG, description=__doc__.partition("\n")[0])
    parser.add_argument("replay", metavar="REPLAY.npz", help="a recorded episode")
    parser.add_argument("--video", metavar="OUT.mp4", help="also write a video of it")
    parser.add_argument(
        "--overlay",
        metavar="RUN",
        help="with --video or --still: draw beside the game what that run's network computes",
    )
    parser.add_argument(
        "--still",
        nargs=2,
        metavar=("STEP", "OUT.png"),
        help="also write the frame after that many agent steps",
    )
    return parser


def _parse_still(parser: CommandParser, given: Sequence[str] | None) -> tuple[int, Path] | None:
    """The agent step and the file of `--still`, if it was given."""
    if given is None:
        return None
    step, name = given
    number = parse_count(step)
    if not number or not name.endswith(".png"):
        parser.error("--still takes an agent step, from 1, and the name of a .png file")
    return number, Path(name)


def _print_outcome(replay: Replay, result: EpisodeResult) -> None:
    """Print what was played, and that it was the same again."""
    seconds = replay.settings.seconds(result.length)
    ended = "cut off by the time limit" if result.truncated else "played to its end"
    came_from = f"checkpoint {replay.checkpoint}, " if replay.checkpoint else ""
    print_to_stdout(f"{replay.settings.game}, {result.mode} play, {came_from}seed {result.seed}")
    print_to_stdout(
        f"score {format_score(result.score)}, {quantity(result.length, 'agent step')} "
        f"({seconds:.1f} s), {ended}: identical"
    )


def _load_player(folder: Path, config: "TrainConfig", global_step: int | None) -> "LoadedAgent":
    """The run's network after that many agent steps, its newest if there is none."""
    from agents.checkpoint import CheckpointError, best_checkpoint, list_checkpoints, step_of
    from agents.evaluation.load_agent import load_agent

    checkpoints = folder / "checkpoints"
    paths = [path for path in list_checkpoints(checkpoints) if step_of(path) == global_step]
    for path in [*paths, best_checkpoint(checkpoints)]:
        with suppress(CheckpointError):
            agent = load_agent(folder, config, str(path))
            if agent.global_step == global_step:
                return agent
    return load_agent(folder, config)


@contextmanager
def _open_overlay(replay: Replay, run: str) -> Iterator["tuple[Overlay, StatefulNetwork]"]:
    """A context with a run's overlay and network: the network that played, else the newest.

    Raises:
        OverlayError: If the run is of another game.
        UserError: If the run or its checkpoints cannot be used.
    """
    # Torch takes seconds to load, and is not needed otherwise.
    from agents.evaluation.overlay import overlay_factory
    from agents.evaluation.runner import StatefulNetwork
    from agents.run_folder import open_run

    folder, config = open_run(run)
    warn_of_assumptions(folder)
    settings = replay.settings
    rules = ("game", "images", "full_action_space", "frame_skip")
    if any(getattr(config.env, rule, None) != getattr(settings, rule, None) for rule in rules):
        raise OverlayError(
            f"{run}: the run is of {config.game}, or of other actions or another frame skip"
        )
    # "other/step_000000000500.safetensors": the name of another run's checkpoint begins with its.
    owner = replay.checkpoint.rpartition("/")[0]
    is_own = owner in ("", escape_to_one_line(folder.name))
    played_step = replay.global_step if is_own else None
    agent = _load_player(folder, config, played_step)
    did_play = agent.global_step == played_step
    if not did_play:
        step = f"{agent.global_step:,}"
        warn(f"the overlay shows the network at agent step {step}, which did not play")
    make_overlay = overlay_factory(config, agent.global_step, did_play=did_play)
    overlay = make_overlay(replay.episode.mode, replay.episode.seed)
    with agent.network.cached_weights():
        yield overlay, StatefulNetwork(agent.network)


if __name__ == "__main__":
    run_command(main, PROG)
