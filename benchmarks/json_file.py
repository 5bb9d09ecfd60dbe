"""The file of `--json`, to which a benchmark writes its individual measurements."""

import os
import sys
from pathlib import Path
from typing import Any

from agents.errors import UserError
from agents.run_folder import write_json


def check_json_file(path: Path | None) -> None:
    """Refuse a file that could not be written, before anything is measured.

    Args:
        path: The file, or None if none was asked for.

    Raises:
        UserError: If it is a folder, or its folder cannot be written to.
    """
    if path is None:
        return
    file = path.resolve()  # a link's target
    if file.is_dir():
        raise UserError(f"--json {path} is a folder")
    if file.exists() and not file.is_file():
        raise UserError(f"--json {path} is not an ordinary file, which is replaced as a whole")
    if not file.parent.is_dir():
        raise UserError(f"--json {path}: there is no folder {file.parent}")
    if not os.access(file.parent, os.W_OK):
        raise UserError(f"--json {path}: {file.parent} cannot be written to")


def write_measurements(path: Path | None, **measured: Any) -> None:
    """Write the measurements so far, with the command's arguments; whole or not at all.

    Args:
        path: The file; if None, nothing is written.
        **measured: The content.
    """
    if path is not None:
        write_json(path.resolve(), {"arguments": sys.argv[1:], **measured})
