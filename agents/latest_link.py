"""The `latest` link beside the run directories, to the newest of them.

`runs/latest` points to the directory `.latest` in that run, which links to the run's files except
TensorBoard's event files. TensorBoard follows links, and would show the run twice if `latest`
pointed to the run itself.
"""

import logging
import os
from pathlib import Path

log = logging.getLogger("train")

# The directory in a run that `latest` points to.
VIEW = ".latest"
# The parts of the run that it shows, as soon as they exist.
_LINKED = (
    "checkpoints",
    "config.json",
    "eval",
    "meta.json",
    "progress.csv",
    "replays",
    "report.html",
    "train.log",
    "videos",
)


def latest_is_free(parent: Path) -> bool:
    """Whether there is a `latest` link in a directory, or room for one.

    Raises:
        OSError: If it cannot be determined.
    """
    latest = parent / "latest"
    return latest.is_symlink() or not latest.exists()


def update_latest(folder: Path) -> None:
    """Point `latest` to a run, replacing an older link in one step so that it never dangles.

    The new link is made in the run directory, where stale temporary files are removed when the run
    is resumed. If links cannot be made there, as on exFAT, this is a warning, and an older `latest`
    stays.

    Args:
        folder: The run directory, links resolved.
    """
    view, latest = folder / VIEW, folder.parent / "latest"
    try:
        view.mkdir(exist_ok=True)
        for name in _LINKED:
            if not (view / name).is_symlink():
                _replace_by_link(view / name, Path("..", name), folder)
        _replace_by_link(latest, Path(folder.name, VIEW), folder)
    except OSError as error:
        log.warning("%s does not point to this run: %s", latest, error.strerror or error)


def _replace_by_link(path: Path, target: Path, folder: Path) -> None:
    temporary = folder / f"{VIEW}.{os.getpid()}.tmp"
    temporary.unlink(missing_ok=True)
    try:
        temporary.symlink_to(target)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
