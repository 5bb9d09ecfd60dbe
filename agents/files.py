"""Files that are there whole or not at all. Imports nothing heavy: replaying needs no torch."""

import os
from pathlib import Path


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file such that it is there whole or not at all, also when the machine dies.

    Raises:
        OSError: if writing fails; a file that was there stays.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
