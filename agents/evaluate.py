"""Play whole episodes with a trained agent: scores, and recordings to watch.

    python -m agents.evaluate runs/latest --episodes 10 --record

Scores are raw and episodes whole games, by the rules the run trained with. Exit code 0; 1 if a
result, video or replay could not be written; 2 for bad input; 130 after Ctrl-C, with the episodes
finished until then reported and saved.
"""

from collections.abc import Sequence

from agents.cli import (
    DEFAULT_SEED,
    CommandParser,
    positive_count,
    run_command,
    seed_number,
    use_one_thread,
)

PROG = "python -m agents.evaluate"
MODES = {
    "sampled": ["sampled"],
    "greedy": ["greedy"],
    "both": ["sampled", "greedy"],
    "random": ["random"],
}


def main(argv: Sequence[str] | None = None) -> int:
    """Read the command line, play, report, and return the exit code."""
    use_one_thread()
    parser = _parser()
    args = parser.parse_args(argv)
    if args.overlay and not args.record:
        parser.error("--overlay is for videos: it needs --record")
    modes = MODES[args.mode]
    if modes == ["random"] and args.checkpoint != parser.get_default("checkpoint"):
        parser.error(f"--checkpoint {args.checkpoint}: random play uses none")
    if args.random and modes != ["random"]:
        modes = [*modes, "random"]

    from agents.system.resources import require_opencv

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
    return session.run(args.episodes)


def _parser() -> CommandParser:
    parser = CommandParser(
        prog=PROG,
        description=__doc__.partition("\n")[0],
    )
    parser.add_argument("run", metavar="RUN", help="run directory, such as runs/latest")
    parser.add_argument(
        "--episodes",
        type=positive_count,
        default=10,
        metavar="N",
        help="episodes in each mode",
    )
    parser.add_argument(
        "--mode",
        choices=tuple(MODES),
        default="both",
        help="actions sampled as in training, the most probable ones (greedy), both of these one "
        "after the other, or random play alone, which needs no checkpoint",
    )
    parser.add_argument(
        "--random",
        action="store_true",
        help="also play as many episodes at random, to compare with",
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
        metavar="latest|best|FILE",
        help="which parameters to play with; best was chosen by its own score, so its evaluation "
        "flatters",
    )
    parser.add_argument(
        "--seed",
        type=seed_number,
        default=DEFAULT_SEED,
        metavar="S",
        help="seed of the evaluation; every mode plays the same episodes",
    )
    return parser


if __name__ == "__main__":
    run_command(main, PROG)
