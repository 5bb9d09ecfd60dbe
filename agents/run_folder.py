"""Run directory: its name, settings and metadata."""

import json
import os
import platform
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO, Any

from agents.config import SettingError, TrainConfig, flag
from agents.errors import UserError
from agents.latest_link import VIEW, latest_is_free, update_latest
from agents.system.files import lock_file, write_atomically

PACKAGES = ("torch", "gymnasium", "ale-py", "numpy", "opencv-python", "tensorboard", "safetensors")
# The file whose lock shows that a process is training the run.
_LOCKED = "train.log"


class RunFolderError(UserError):
    """A directory that is not a run's, or whose files cannot be used; the message names it."""


def create_run_folder(config: TrainConfig, argv: Sequence[str]) -> Path:
    """Create `{game}__{head}__{seed}__{time}` in `--run-dir` and point `latest` to it.

    Args:
        config: The settings.
        argv: The command line, kept in `meta.json`.

    Raises:
        SettingError: If `--run-dir` cannot be written to, does not support file locks, or holds a
            `latest` that is not a link. No run directory is left behind.
    """
    parent = Path(config.run_dir)
    name = (
        f"{as_file_name(config.game)}__{config.head}__{config.seed}__{datetime.now():%Y%m%d-%H%M%S}"
    )
    try:
        parent.mkdir(parents=True, exist_ok=True)
        if not latest_is_free(parent):
            raise SettingError("run_dir", config.run_dir, "holds a 'latest' that is not a link")
        folder = _make_unique(parent, name)
    except OSError as error:
        raise _unwritable("run_dir", config.run_dir, error) from error
    try:
        (folder / "checkpoints").mkdir()
        _write_config(folder, config)
        write_json(folder / "meta.json", {"status": "running", **_provenance(argv)})
        lock_file(folder / _LOCKED).close()
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise _unwritable("run_dir", config.run_dir, error) from error
    update_latest(folder)
    return folder


def as_file_name(game: str) -> str:
    """A game's name as part of a file name; ids may contain a slash and a colon."""
    return game.replace("/", "-").replace(":", "-")


def resume_run_folder(config: TrainConfig, argv: Sequence[str], global_step: int) -> int:
    """Record in a run directory that the run is resumed, with the settings it has now.

    Args:
        config: The settings; `resume` is the run directory.
        argv: The command line, kept in `meta.json`.
        global_step: The step it resumes from.

    Returns:
        How often the run has been resumed, this time included.

    Raises:
        SettingError: If the run directory cannot be written to, or there is a `latest` beside it
            that is not a link. The run's settings stay as they are.
    """
    folder = Path(config.resume)
    try:
        if not latest_is_free(folder.parent):
            raise SettingError("resume", folder, "stands beside a 'latest' that is not a link")
        meta = _read_meta(folder)
        assumed = _assumed(folder)
        session = {"global_step": global_step, "assumed": assumed, **_provenance(argv)}
        resumed = [*_resumes(meta), session]
        # First: settings that were missing cannot be told from others once they are written.
        write_json(folder / "meta.json", {**meta, "status": "running", "resumed": resumed})
        _write_config(folder, config)
    except OSError as error:
        raise _unwritable("resume", folder, error) from error
    update_latest(folder)
    return len(resumed)


def lock_run_folder(folder: Path) -> IO[bytes]:
    """Lock a run directory until the file returned is closed or this process ends in any way.

    Raises:
        SettingError: If another process holds the lock, or the directory cannot be written to.
    """
    try:
        return lock_file(folder / _LOCKED)
    except BlockingIOError:
        raise SettingError("resume", folder, "another process is training this run") from None
    except OSError as error:
        raise _unwritable("resume", folder, error) from error


def resolve_run(path: str | Path) -> Path:
    """Return the run directory that a path stands for, with `runs/latest` and links followed."""
    folder = Path(path).resolve()
    return folder.parent if folder.name == VIEW else folder


def open_run(path: str | Path) -> tuple[Path, TrainConfig]:
    """Find a run and its settings.

    Args:
        path: The run directory, or a link to it such as `runs/latest`.

    Returns:
        The run directory itself, links resolved, and the settings in its `config.json`. Settings
        that did not exist yet when the file was written have defaults; `assumption` names them.

    Raises:
        RunFolderError: If this is not a run directory, or its settings cannot be used.
    """
    folder = Path(path)
    file = folder / "config.json"
    try:
        folder = resolve_run(folder)
        file = folder / "config.json"
        settings = json.loads(file.read_text())
        if not isinstance(settings, dict):
            raise ValueError("holds no table of settings")
        if unknown := [name for name in settings if name not in _names()]:
            raise ValueError(
                f"written by {_writer(folder)} with settings that {_this_version()} does not know: "
                f"{', '.join(unknown)}; use that version, or remove them"
            )
        return folder, TrainConfig(**settings)
    except FileNotFoundError:
        why = "not a run directory, it has no config.json" if folder.is_dir() else "does not exist"
        if (folder / "latest" / "config.json").is_file():
            why += f"; the newest of the runs in it is {Path(path, 'latest')}"
        raise RunFolderError(f"{path}: {why}{_run_above(folder)}") from None
    except NotADirectoryError:
        why = f"a file, not a run directory{_run_above(folder)}"
        raise RunFolderError(f"{path}: {why}") from None
    # ValueError: bad JSON, a bad setting, or a NUL in the path. RuntimeError: a link to itself, or
    # JSON that is nested too deeply.
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        raise RunFolderError(f"{str(file)!r}: {error}") from error


def _run_above(path: Path) -> str:
    """Name the run that a file or folder belongs to, if it lies in one."""
    run = next((p for p in path.parents if (p / "config.json").is_file()), None)
    return f"; its run is {run}" if run else ""


def resolve_resumed(config: TrainConfig) -> TrainConfig:
    """Compare the settings for resuming a run with those in its `config.json`.

    Args:
        config: All settings; `resume` is the run directory, or a link to it.

    Returns:
        The settings, with `resume` and `run_dir` set to where the run is, links resolved.

    Raises:
        RunFolderError: If this is not a run directory, or its settings cannot be used.
        SettingError: If settings differ that cannot change during a run; the message names them.
    """
    folder, stored = open_run(config.resume)
    config = replace(config, resume=str(folder), run_dir=str(folder.parent))
    changed = [
        spec.name
        for spec in fields(TrainConfig)
        if not spec.metadata["mutable_on_resume"]
        and spec.name != "run_dir"  # the run may have been moved since it was written
        and getattr(config, spec.name) != getattr(stored, spec.name)
    ]
    if changed:
        first, *others = changed
        allowed = f"cannot change when a run is resumed; {folder.name} has {getattr(stored, first)}"
        if others:
            allowed += f", and other values of {', '.join(map(flag, others))}"
        raise SettingError(first, getattr(config, first), allowed)
    return config


def assumption(folder: Path) -> str | None:
    """Say which settings the `config.json` of a run lacks, and what replaces them.

    Args:
        folder: The run directory.

    Returns:
        One sentence, or None if its `config.json` has all settings.
    """
    assumed = _assumed(folder)
    if not assumed:
        return None
    values = ", ".join(f"{flag(name)} {value}" for name, value in assumed.items())
    return (
        f"{folder.name} was written by {_writer(folder)}, without some settings of "
        f"{_this_version()}; assuming their defaults: {values}"
    )


def _assumed(folder: Path) -> dict[str, Any]:
    """Setting -> default, for the settings that the run's `config.json` lacks."""
    stored = json.loads((folder / "config.json").read_text())
    # A default may depend on the game.
    config = TrainConfig(**{name: stored[name] for name in _names() if name in stored})
    return {name: getattr(config, name) for name in _names() if name not in stored}


def _names() -> list[str]:
    return [spec.name for spec in fields(TrainConfig)]


def _writer(folder: Path) -> str:
    """The version that wrote the run's `config.json` in its last session."""
    meta = _read_meta(folder)
    session = [meta, *_resumes(meta)][-1]
    return _version(session.get("git_revision") if isinstance(session, dict) else None)


def _this_version() -> str:
    return _version(_git_revision() or package_version("neurocoder"))


def _version(revision: object) -> str:
    return f"version {revision[:12]}" if isinstance(revision, str) else "an unknown version"


def update_meta(folder: Path, **changes: Any) -> None:
    """Change entries of the run's `meta.json`."""
    write_json(folder / "meta.json", _read_meta(folder) | changes)


def sessions_of(folder: Path) -> list[int]:
    """The agent steps at which a run was resumed, as far as its `meta.json` is intact."""
    sessions = _resumes(_read_meta(folder))
    steps = [session.get("global_step") for session in sessions if isinstance(session, dict)]
    return [step for step in steps if type(step) is int]


def _read_meta(folder: Path) -> dict[str, Any]:
    """The run's `meta.json`; it is for people, so a damaged one counts as empty."""
    try:
        meta = json.loads((folder / "meta.json").read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return meta if isinstance(meta, dict) else {}


def _resumes(meta: dict[str, Any]) -> list[Any]:
    """The records of the resumes in a run's metadata; none if they are damaged."""
    resumed = meta.get("resumed")
    return resumed if isinstance(resumed, list) else []


def _write_config(folder: Path, config: TrainConfig) -> None:
    """Write `config.json`, without `resume`, which is not a setting of the run."""
    write_json(folder / "config.json", asdict(config) | {"resume": ""})


def _provenance(argv: Sequence[str]) -> dict[str, Any]:
    """Command, time, versions and machine of a session, but no environment variables."""
    return {
        "argv": list(argv),
        "started": f"{datetime.now().astimezone():%Y-%m-%d %H:%M:%S %z}",
        "git_revision": _git_revision(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "versions": {package: package_version(package) for package in PACKAGES},
    }


def package_version(package: str) -> str | None:
    """The installed version, or None."""
    try:
        return version(package)
    except PackageNotFoundError:  # the module may come from another package, as with OpenCV
        return None


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically."""
    write_atomically(path, (json.dumps(value, indent=2) + "\n").encode())


def _unwritable(name: str, value: object, error: OSError) -> SettingError:
    return SettingError(name, value, f"cannot be written to ({error.strerror or error})")


def _make_unique(parent: Path, name: str) -> Path:
    """Make a directory with a unique name; two runs may start in the same second."""
    for attempt in range(1, 1000):
        folder = parent / (name if attempt == 1 else f"{name}-{attempt}")
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        return folder
    raise FileExistsError(f"{parent / name} and a thousand like it are there already")


def _git_revision() -> str | None:
    here = Path(__file__).parent
    command = ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
