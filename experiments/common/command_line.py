"""The flags and the error handling that all experiments share."""

import argparse
import math
import shlex
import sys
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, Protocol

from agents.cli import CommandParser


class ExperimentError(Exception):
    """Something the user can fix; the command reports it in one line and exits with code 2."""


def command(name: str) -> "Callable[[Callable[[Sequence[str] | None], None]], Command]":
    """Decorate the `main` of `experiments.NAME`, so that it exits like a command.

    An `ExperimentError` is printed in one line, with exit code 2; Ctrl-C exits with 130.
    """

    def decorate(main: Callable[[Sequence[str] | None], None]) -> Command:
        @wraps(main)
        def run(argv: Sequence[str] | None = None) -> None:
            try:
                main(argv)
            except ExperimentError as error:
                message = " ".join(str(error).split())
                print(f"python -m experiments.{name}: error: {message}", file=sys.stderr)
                raise SystemExit(2) from error
            except KeyboardInterrupt as error:
                raise SystemExit(130) from error

        return run

    return decorate


class Command(Protocol):
    """The `main` of an experiment: `argv` is the command line, by default the process's own."""

    def __call__(self, argv: Sequence[str] | None = None) -> None:
        """Run the experiment."""


class Parser(CommandParser):
    """Stores the command in `args.command`."""

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse a command line, by default the process's own."""
        words = sys.argv[1:] if args is None else list(args)
        parsed = super().parse_args(words, namespace)
        parsed.command = shlex.join(["python", "-m", *self.prog.split()[2:], *_without_out(words)])
        return parsed


def make_parser(
    name: str, description: str | None, variants: Sequence[str], *, seeds: int = 5
) -> Parser:
    """Create a parser of the flags that all experiments have; an experiment adds its own.

    Args:
        name: Name of the experiment's module.
        description: Docstring of the module.
        variants: The variants that can be compared; by default all are.
        seeds: Default number of seeds; with --quick it is 1.
    """
    parser = Parser(prog=f"python -m experiments.{name}", description=description)
    parser.add_argument(
        "--quick", action="store_true", help="a smoke test of seconds instead of minutes"
    )
    parser.add_argument(
        "--seeds",
        type=positive,
        metavar="N",
        help=f"seeds 1 to N (default: {seeds}, with --quick 1)",
    )
    parser.add_argument(
        "--out",
        metavar="DIR",
        help="output folder (default: runs/experiments/NAME-DATE-TIME); an existing one is resumed",
    )
    parser.add_argument(
        "--variants",
        nargs="+",
        choices=variants,
        default=list(variants),
        metavar="NAME",
        help="variants to compare",
    )
    parser.add_argument(
        "--jobs",
        type=positive,
        default=1,
        metavar="N",
        help="runs at a time, each in a process of its own if there are several",
    )
    parser.set_defaults(default_seeds=seeds)
    return parser


def positive(word: str) -> int:
    """Parse a positive integer."""
    number = int(word) if word.isascii() and word.isdigit() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{word!r} is not a whole number from 1")
    return number


def positive_number(word: str) -> float:
    """Parse a finite number above 0."""
    try:
        number = float(word)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{word!r} is not a number above 0")
    return number


def _without_out(words: Sequence[str]) -> list[str]:
    """The words without --out and its folder, which do not affect the results."""
    kept, skip = [], False
    for word in words:
        if skip:
            skip = False
        elif word == "--out":
            skip = True
        elif not word.startswith("--out="):
            kept.append(word)
    return kept
