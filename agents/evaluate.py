"""Play whole games with a trained agent: what it scores, and recordings to watch.

    python -m agents.evaluate runs/latest --episodes 10 --record

Scores are raw and games whole, by the rules the run trained with. Exit code 0; 2 for what cannot be
used; 130 after Ctrl-C, with what was finished until then reported and saved.
"""

import argparse
import os
import sys
from collections.abc import Sequence

from agents.cli import CommandParser

# Before torch is imported: a network this small, asked about one screen at a time, is not faster
# with more threads, and other work on the machine would be slower.
for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

MODES = {
    "sampled": ["sampled"],
    "greedy": ["greedy"],
    "both": ["sampled", "greedy"],
    "random": ["random"],
}
DEFAULT_SEED = 1


def main(argv: Sequence[str] | None = None) -> int:
    """Read the command line, play, report, and return the exit code."""
    parser = _parser()
    args = parser.parse_args(argv)
    if args.overlay and not args.record:
        parser.error("--overlay is for videos: it needs --record")
    modes = MODES[args.mode]
    if args.random and modes != ["random"]:
        modes = [*modes, "random"]

    from agents.checkpoint import CheckpointError
    from agents.errors import MachineError
    from agents.run_folder import RunFolderError
    from agents.system.resources import require_opencv

    try:
        require_opencv()
        from agents.evaluation.session import EvaluationSession

        session = EvaluationSession(
            args.run,
            args.checkpoint,
            modes,
            args.seed,
            record=args.record,
            overlay=args.overlay,
        )
    except (MachineError, RunFolderError, CheckpointError) as error:
        parser.error(str(error))
    return session.run(args.episodes)


def _parser() -> CommandParser:
    parser = CommandParser(
        prog="python -m agents.evaluate",
        description=__doc__.partition("\n")[0],
        allow_abbrev=False,
    )
    parser.add_argument("run", metavar="RUN", help="folder of a run, such as runs/latest")
    parser.add_argument(
        "--episodes", type=episode_count, default=10, metavar="N", help="games in each mode (10)"
    )
    parser.add_argument(
        "--mode",
        choices=tuple(MODES),
        default="both",
        help="actions sampled as in training, the most probable ones, both of these one after the "
        "other (the default), or random play alone, which needs no checkpoint",
    )
    parser.add_argument(
        "--random", action="store_true", help="play as many games at random, to compare with"
    )
    parser.add_argument("--record", action="store_true", help="write videos and replays")
    parser.add_argument(
        "--overlay",
        action="store_true",
        help="with --record: draw policy, value and programs beside the game",
    )
    parser.add_argument(
        "--checkpoint",
        default="latest",
        metavar="latest|best|PATH",
        help="which parameters to play with (latest; best was chosen by its own score, so its "
        "evaluation flatters)",
    )
    parser.add_argument(
        "--seed",
        type=seed_number,
        default=DEFAULT_SEED,
        metavar="S",
        help=f"of the games; the same games in every mode ({DEFAULT_SEED})",
    )
    return parser


def episode_count(text: str) -> int:
    """A number of games, from the command line."""
    return _whole_number(text, 1, 10**6)


def seed_number(text: str) -> int:
    """A seed, from the command line."""
    return _whole_number(text, 0, 2**32 - 1)


def _whole_number(text: str, low: int, high: int) -> int:
    try:
        value = int(text)
    except ValueError:
        value = low - 1
    if not low <= value <= high:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number from {low} to {high}")
    return value


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:  # before there was anything to report
        sys.exit(130)
