"""The command line: from flags to settings, for a new run and for one that goes on."""

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agents.config import SettingError, TrainConfig, check_setting, flag
from agents.one_line_parser import OneLineParser
from agents.run_folder import RunFolderError, open_run

_NOT_GIVEN = object()


def parse_args(argv: Sequence[str]) -> TrainConfig:
    """Return the settings that the command line asks for.

    With `--resume` they are those of that run, changed where flags say so. On a bad flag or value
    this prints one line that names it and exits with code 2.
    """
    parser = OneLineParser(
        prog="train_a3c.py",
        description="Train an A3C agent with Neurocoder, HyperNet or linear heads on Atari.",
        allow_abbrev=False,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    groups: dict[str, Any] = {}
    names = [spec.name for spec in dataclasses.fields(TrainConfig)]
    for spec in dataclasses.fields(TrainConfig):
        name = spec.metadata["group"]
        group = groups.setdefault(name, parser.add_argument_group(name))
        kind: dict[str, Any] = {"type": spec.type, "metavar": _metavar(spec)}
        if spec.type is bool:
            kind = {"action": argparse.BooleanOptionalAction}
        group.add_argument(
            flag(spec.name), default=spec.default, help=spec.metadata["help"], **kind
        )
    # Marked in advance, so that what was typed can be told from a default.
    namespace = argparse.Namespace(**dict.fromkeys(names, _NOT_GIVEN))
    parser.parse_args(argv, namespace)
    given = {name: value for name, value in vars(namespace).items() if value is not _NOT_GIVEN}
    try:
        for spec in dataclasses.fields(TrainConfig):
            if spec.name in given:  # before a run is looked for by it
                check_setting(spec, given[spec.name])
        return resumed_config(given) if given.get("resume") else TrainConfig(**given)
    except SettingError as error:
        parser.error(str(error))
    except RunFolderError as error:
        parser.error(f"{flag('resume')} {error}")


def resumed_config(given: dict[str, Any]) -> TrainConfig:
    """Return the settings of the run to resume, with the given ones changed.

    Args:
        given: field -> value, of the flags that were typed; `resume` names the run.

    Raises:
        RunFolderError: if there is no such run.
        SettingError: for a setting that cannot change in the middle of a run.
    """
    folder, stored = open_run(given["resume"])
    # The run may have been moved since it was written down.
    stored = dataclasses.replace(stored, run_dir=str(folder.parent), resume=str(folder))
    asked = TrainConfig(**(dataclasses.asdict(stored) | given))
    changes = {}
    for spec in dataclasses.fields(TrainConfig):
        old, new = getattr(stored, spec.name), getattr(asked, spec.name)
        if spec.name == "resume" or new == old:
            continue
        if spec.name == "run_dir" and Path(new).resolve() == folder.parent:
            continue
        if not spec.metadata["may_change"]:
            allowed = f"cannot change when a run is resumed; {folder.name} has {old}"
            raise SettingError(spec.name, new, allowed)
        changes[spec.name] = new
    return dataclasses.replace(stored, **changes)


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
        default = f"`{spec.default}`" if spec.default != "" else ""
        lines.append(f"| `{name}` | {default} | {text} |")
    return "\n".join(lines)


def _metavar(spec: dataclasses.Field[Any]) -> str:
    choices = spec.metadata.get("choices")
    return "{" + ",".join(choices) + "}" if choices else spec.name.rpartition("_")[2].upper()
