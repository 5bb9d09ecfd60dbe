"""The file of `--json`, in which a benchmark leaves its single measurements."""

import os
import sys
from pathlib import Path
from typing import Any

from agents.errors import UserError
from agents.run_folder import write_json


def check_json_file(path: Path | None) -> None:
    """Refuse a file that could not be written, before anything is measured.

    Args:
        path: The file, or None where none was asked for.

    Raises:
        UserError: If it is a folder, or in no folder that can be written to.
    """
    if path is None:
        return
    if path.is_dir():
        raise UserError(f"--json {path} is a folder")
    if not path.parent.is_dir():
        raise UserError(f"--json {path}: there is no folder {path.parent}")
    if not os.access(path.parent, os.W_OK):
        raise UserError(f"--json {path}: {path.parent} cannot be written to")


def write_measurements(path: Path | None, **measured: Any) -> None:
    """Write what was measured so far, whole or not at all, with the arguments of the command.

    Args:
        path: The file; if None, nothing is written.
        **measured: The content.
    """
    if path is not None:
        write_json(path, {"arguments": sys.argv[1:], **measured})
