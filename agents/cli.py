"""Command lines: the parser and exit codes shared by all commands, and the training flags."""

import argparse
import contextlib
import dataclasses
import difflib
import logging
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from agents.config import ByBonus, ByKind, SettingError, TrainConfig, flag, validate
from agents.errors import UserError, escape_to_one_line
from agents.run_folder import RunFolderError, assumption, open_run, resolve_resumed
from agents.system.output import (
    LevelFormatter,
    escape_what_cannot_be_encoded,
    flush_output,
    warn,
)
from envs import UnusableEnvironmentError

DEFAULT_SEED = 1


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Prints the description as it is, and the default of every flag that has one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        default = action.default
        if not action.help or default is None or default is False or default == argparse.SUPPRESS:
            return action.help
        shown = " ".join(map(str, default)) if isinstance(default, list) else str(default)
        return f"{action.help} (default: {shown})" if shown else action.help


class CommandParser(argparse.ArgumentParser):
    """An argument parser that prints an error as one line, without usage; exit code 2.

    The help of a flag ends with its default.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(formatter_class=_HelpFormatter, allow_abbrev=False, **settings)

    def error(self, message: str) -> NoReturn:
        """Print the message, with the flag that was probably meant, and exit with code 2."""
        if unknown := re.match(r"unrecognized arguments: (--[\w-]+)", message):
            close = difflib.get_close_matches(unknown[1], self._option_string_actions, n=1)
            message += "".join(f"; did you mean {name}?" for name in close)
        self.exit(2, f"{self.prog}: error: {escape_to_one_line(message)}\n")


def parse_whole_number(text: str) -> int:
    """Parse a whole number, which may be written like 1e6; an `argparse` type.

    Raises:
        argparse.ArgumentTypeError: If it is not one.
    """
    try:
        return int(text)
    except ValueError:
        with contextlib.suppress(ValueError, OverflowError):
            if float(text).is_integer():
                return int(float(text))
    raise argparse.ArgumentTypeError(f"{text} is not a whole number")


def whole_number(low: int, high: int) -> Callable[[str], int]:
    """Return an `argparse` type for whole numbers within these limits."""

    def parse(text: str) -> int:
        value = parse_whole_number(text)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text} is not between {low:,} and {high:,}")
        return value

    return parse


positive_count = whole_number(1, 10**6)
seed_number = whole_number(0, 2**32 - 1)


def use_one_thread() -> None:
    """Have torch compute in one thread, here and in processes started from here.

    Call it before torch is imported. With one process for each core, more threads would only take
    turns, and a network this small is no faster with more.
    """
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(variable, "1")


def run_command(main: Callable[[], int], prog: str) -> NoReturn:
    """Run a command's `main` and exit with its code.

    A `UserError`, or an environment that cannot be used, is printed as one line and exits with 2;
    Ctrl-C exits with 130. Warnings of other modules are printed to standard error.
    """
    escape_what_cannot_be_encoded()
    handler = logging.StreamHandler()
    handler.setFormatter(LevelFormatter())
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    try:
        code = main()
    except (UserError, UnusableEnvironmentError) as error:
        print(f"{prog}: error: {escape_to_one_line(str(error))}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        code = 130
    flush_output()
    sys.exit(code)


def warn_of_assumptions(folder: Path) -> None:
    """Print which settings of a run are assumed, if any."""
    if text := assumption(folder):
        warn(text)


def parse_args(argv: Sequence[str]) -> TrainConfig:
    """Return the settings given by a command line.

    With `--resume`, these are the settings of that run, overridden by the flags given. A bad flag
    or value is printed as one line that names it, with exit code 2.
    """
    parser = CommandParser(
        prog="train_a3c.py",
        description="Train an A3C agent with Neurocoder, HyperNet or linear heads.",
        # The result holds only what was typed; defaults are the dataclass's own.
        argument_default=argparse.SUPPRESS,
    )
    groups: dict[str, Any] = {}
    for spec in dataclasses.fields(TrainConfig):
        name = spec.metadata["group"]
        group = groups.setdefault(name, parser.add_argument_group(name))
        parse = parse_whole_number if spec.type is int else spec.type
        kind: dict[str, Any] = {"type": parse, "metavar": _metavar(spec)}
        if spec.type is bool:
            kind = {"action": argparse.BooleanOptionalAction}
        text = spec.metadata["help"].replace("%", "%%")
        default = spec.metadata["default"]
        if default != "":
            text += f" (default: {default})"
        group.add_argument(flag(spec.name), help=text, **kind)
    overrides = vars(parser.parse_args(argv))
    try:
        for spec in dataclasses.fields(TrainConfig):
            if spec.name in overrides:  # before it is used to find a run
                validate(spec, overrides[spec.name])
        return resumed_config(overrides) if overrides.get("resume") else TrainConfig(**overrides)
    except SettingError as error:
        parser.error(str(error))
    except RunFolderError as error:
        parser.error(f"{flag('resume')} {error}")


def resumed_config(overrides: dict[str, Any]) -> TrainConfig:
    """Return the settings of the run to resume, with the given overrides.

    Args:
        overrides: Field -> value, for the flags given; `resume` is the run.

    Raises:
        RunFolderError: If there is no such run.
        SettingError: As in `resolve_resumed`.
    """
    folder, stored = open_run(overrides["resume"])
    warn_of_assumptions(folder)
    run_dir = overrides.get("run_dir", folder.parent)
    if Path(run_dir).resolve() != folder.parent:
        allowed = f"cannot change when a run is resumed; {folder.name} is in {folder.parent}"
        raise SettingError("run_dir", run_dir, allowed)
    return resolve_resumed(TrainConfig(**(dataclasses.asdict(stored) | overrides)))


def flag_table() -> str:
    """The table of flags in `docs/settings.md`."""
    lines = ["| flag | default | what |", "|---|---|---|"]
    for spec in dataclasses.fields(TrainConfig):
        name = flag(spec.name)
        if spec.type is bool:
            name += f" / --no-{name[2:]}"
        text = spec.metadata["help"]
        if "choices" in spec.metadata:
            text += f" ({', '.join(f'`{choice}`' for choice in spec.metadata['choices'])})"
        default = _default_cell(spec.metadata["default"])
        lines.append(f"| `{name}` | {default} | {text} |")
    return "\n".join(lines)


def _default_cell(default: Any) -> str:
    if isinstance(default, ByKind):
        return f"`{default.atari}`; Gymnasium `{default.gymnasium}`"
    if isinstance(default, ByBonus):
        return "; ".join(f"{bonus} `{value}`" for bonus, value in default.values.items())
    return f"`{default}`" if default != "" else ""


def _metavar(spec: dataclasses.Field[Any]) -> str:
    choices = spec.metadata.get("choices")
    if choices:
        return "{" + ",".join(choices) + "}"
    if "metavar" in spec.metadata:
        return str(spec.metadata["metavar"])
    return "N" if spec.type is int else "X" if spec.type is float else "NAME"
