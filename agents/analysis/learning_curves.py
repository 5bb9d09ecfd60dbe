"""The learning curves of single runs, read from their run directories."""

import glob
import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from agents.config import TrainConfig, non_defaults
from agents.evaluation.results import EVALUATIONS, read_evaluations
from agents.monitoring.progress_csv import ESSENTIAL
from agents.run_folder import RunFolderError, open_run, resolve_run, sessions_of
from agents.system.files import read_csv_rows
from agents.system.output import quantity

log = logging.getLogger("train")

Numbers = npt.NDArray[np.float64]

TRAINING, SAMPLED, GREEDY = "training", "sampled", "greedy"
METRICS = (TRAINING, SAMPLED, GREEDY)

# Settings outside those of network, learning and environment that a curve depends on: the learning
# rate decays over the budget, updates have the size of a worker's batch, and machines lag.
SCALE = ("total_timesteps", "workers", "envs_per_worker", "cluster", "sync_updates", "max_lag")
# Setting and value -> a clearer name than its own.
_NAMES: dict[tuple[str, object], str] = {
    ("neurocoder_steps", 1): "single-step",
    ("neurocoder_usage_attention", False): "no usage attention",
    ("neurocoder_residual", False): "no residual",
}
# Settings whose words, such as "none", need the setting's name.
_NAMED = ("learner", "images", "reward")
# An evaluation is of the first parameters after the step at which it was due, a few updates later
# at most; this is the share of the interval by which it may be late.
_MAX_DELAY = 1 / 8


class NoDataError(RunFolderError):
    """A run has no data yet; the message names it."""


@dataclass(frozen=True)
class LearningCurve:
    """The scores of one run.

    Attributes:
        folder: The run directory.
        game: The game, as in `envs.Game.name`.
        seed: The run's seed.
        parts: The head, then the settings of network and learning that are not the defaults.
        frame_skip: The run's frames in an agent step.
        steps: Agent steps, shape (N,), increasing.
        hours: Hours of training, pauses between sessions not counted, shape (N,).
        values: Raw returns, shape (N,).
        scale: The values of the settings in `SCALE`.
    """

    folder: Path
    game: str
    seed: int
    parts: tuple[str, ...]
    frame_skip: int
    steps: Numbers
    hours: Numbers
    values: Numbers
    scale: tuple[object, ...] = ()


@dataclass(frozen=True)
class Progress:
    """The rows of a `progress.csv`.

    Attributes:
        steps: Agent steps, shape (N,), increasing.
        hours: Hours of training, shape (N,).
        returns: Mean raw return of the last 100 episodes, of fewer before the hundredth, NaN before
            the first, shape (N,).
        episodes: Episodes that have ended so far, shape (N,).
        damaged: Number of lines that were skipped.
        first_step: The agent step at which the hours begin; not 0 if earlier rows are lost.
    """

    steps: Numbers
    hours: Numbers
    returns: Numbers
    episodes: Numbers
    damaged: int
    first_step: float = 0.0


def find_runs(arguments: Sequence[str]) -> tuple[list[Path], list[Path]]:
    """Find the run directories that arguments refer to.

    Args:
        arguments: Run directories, folders of runs, or patterns such as `runs/Pong__*`.

    Returns:
        The runs that were named, and those found in folders or by patterns; without duplicates.
        Links are resolved, so that `runs/latest` and its target are one run.

    Raises:
        RunFolderError: If an argument refers to no run.
    """
    named: dict[Path, None] = {}
    found: dict[Path, None] = {}
    for argument in arguments:
        try:
            inside = _runs_in(argument)
        except OSError as error:
            raise RunFolderError(f"{argument}: {error.strerror or error}") from error
        if inside is None:
            named[resolve_run(argument)] = None
        else:
            found.update(dict.fromkeys(resolve_run(run) for run in inside))
    return list(named), [run for run in found if run not in named]


def _runs_in(argument: str) -> list[Path] | None:
    """The runs in a folder of runs, or those that match a pattern; None for anything else."""
    path = Path(argument)
    if path.is_dir() and not _is_run(path):
        if inside := list(_runs_below(path)):
            return inside
        raise RunFolderError(f"{argument}: neither a run directory nor a folder of runs")
    if not path.exists() and glob.has_magic(argument):
        if inside := [Path(m) for m in sorted(glob.glob(argument)) if _is_run(Path(m))]:
            return inside
        raise RunFolderError(f"{argument}: no run directory matches this pattern")
    return None


def read_curve(folder: Path, metric: str = TRAINING) -> LearningCurve:
    """Read the learning curve of a run.

    Args:
        folder: The run directory; the run may be unfinished.
        metric: "training" (mean return of the last 100 training episodes), or the evaluations
            during training, "sampled" or "greedy". Their steps are rounded down to the multiple of
            `--eval-interval` at which they were due, so that seeds can be compared; evaluations
            played much later, as if a resumed run had another interval before, keep their steps.

    Raises:
        NoDataError: If there is no data yet.
        RunFolderError: If this is not a run directory, or its files cannot be read.
    """
    folder, config = open_run(folder)
    progress = read_progress(folder / "progress.csv")
    if progress.damaged:
        lines = quantity(progress.damaged, "damaged line")
        log.warning("%s: %s skipped", folder / "progress.csv", lines)
    if metric == TRAINING:
        known = np.isfinite(progress.returns)
        if not known.any():
            raise NoDataError(f"{folder}: no episode has ended yet")
        points = progress.steps[known], progress.hours[known], progress.returns[known]
    else:
        points = _evaluation_points(folder, config, metric, progress)
    parts = non_default_settings(config)
    scale = tuple(getattr(config, name) for name in SCALE)
    return LearningCurve(folder, config.game, config.seed, parts, config.frame_skip, *points, scale)


def read_progress(path: Path) -> Progress:
    """Read a `progress.csv`.

    Damaged lines are skipped and counted; a last line without a newline is still being written.
    Where two sessions of a run overlap, the rows of the later one replace those of the earlier one.

    Raises:
        NoDataError: If the file has no row yet.
        RunFolderError: If the file is missing, empty or damaged throughout.
    """
    try:
        lines = read_csv_rows(path)
    except FileNotFoundError:
        raise RunFolderError(f"{path.parent}: has no progress.csv") from None
    except OSError as error:
        raise RunFolderError(f"{path}: {error}") from error
    columns = lines[0].cells if lines else []
    missing = set(ESSENTIAL) - set(columns)
    if missing:
        what = f"has no column {min(missing)}" if lines else "is empty"
        raise RunFolderError(f"{path}: {what}")
    rows: list[tuple[float, ...]] = []
    damaged = 0
    for line, cells in lines[1:]:
        if not line.endswith("\n"):
            continue
        try:
            row = _parse(columns, cells)
        except ValueError:
            damaged += 1
            continue
        _append_after_earlier(rows, row)
    if not rows:
        if damaged:
            raise RunFolderError(f"{path}: all {damaged} lines are damaged")
        raise NoDataError(f"{path}: has no row yet")
    steps, times, rates, returns, episodes = np.array(rows).T
    first_step = _first_step(path.parent, steps[0])
    hours = _hours(first_step, steps, times, rates)
    return Progress(steps, hours, returns, episodes, damaged, first_step)


def non_default_settings(config: TrainConfig) -> tuple[str, ...]:
    """Describe the head and all settings of network and learning that are not the defaults.

    >>> non_default_settings(TrainConfig(neurocoder_steps=1, core="lstm"))
    ('neurocoder', 'lstm', 'single-step')
    """
    parts = [config.head]
    groups = {"network", f"{config.head} head", "learning", "environment"}
    for setting, value in non_defaults(config).items():
        group = TrainConfig.__dataclass_fields__[setting].metadata["group"]
        if group not in groups or setting == "head":
            continue
        name = setting.removeprefix(f"{config.head}_").replace("_", " ")
        if (setting, value) in _NAMES:
            parts.append(_NAMES[setting, value])
        elif isinstance(value, str):
            parts.append(f"{name} {value}" if setting in _NAMED else value)
        elif isinstance(value, bool):
            parts.append(name if value else f"no {name}")
        else:
            parts.append(f"{name} {value:g}")
    return tuple(parts)


def _runs_below(folder: Path, levels: int = 3) -> Iterator[Path]:
    """The runs in a folder, in its suites' folders, and in those of suites below it.

    Folders in it that cannot be read, such as `lost+found`, are skipped with a warning.
    """
    for child in sorted(child for child in folder.iterdir() if child.is_dir()):
        try:
            if _is_run(child):
                yield child
            elif levels > 1:
                yield from _runs_below(child, levels - 1)
        except OSError as error:  # noqa: PERF203
            log.warning("%s: skipped (%s)", child, error.strerror or error)


def _is_run(path: Path) -> bool:
    return (path / "config.json").exists()


def _evaluation_points(
    folder: Path, config: TrainConfig, metric: str, progress: Progress
) -> tuple[Numbers, Numbers, Numbers]:
    try:
        rows = read_evaluations(folder)
    except OSError as error:
        raise RunFolderError(f"{folder / EVALUATIONS}: {error}") from error
    points: list[tuple[float, ...]] = []
    for row in rows:
        if row.source == "training" and row.summary.mode == metric and row.global_step is not None:
            _append_after_earlier(points, (row.global_step, row.summary.mean))
    if not points:
        raise NoDataError(f"{folder}: was not evaluated ({metric}) during training")
    steps, means = np.array(points).T
    interval = max(config.eval_interval, 1)
    due = steps // interval * interval
    in_time = (steps - due <= interval * _MAX_DELAY) & (due > 0)
    # An evaluation that a stop cut short was repeated where the run was resumed, and stays there.
    rounded = np.where(in_time, due, steps)
    if (np.diff(rounded) > 0).all():
        steps = rounded
    hours = np.interp(steps, progress.steps, progress.hours)
    return steps, hours, means


def _append_after_earlier(rows: list[tuple[float, ...]], row: tuple[float, ...]) -> None:
    """Append a row, which begins with its step, in place of those that a resumed run repeats."""
    while rows and rows[-1][0] >= row[0]:
        rows.pop()
    rows.append(row)


def _parse(columns: Sequence[str], cells: Sequence[str]) -> tuple[float, ...]:
    """Return step, wall time, steps/s, return and episodes; raise ValueError for a damaged line."""
    row = dict(zip(columns, cells, strict=True))
    step, time, episodes = int(row["global_step"]), float(row["wall_time"]), int(row["episodes"])
    rate = float(row["SPS"] or 0)
    score = float(row["recent_return"]) if row["recent_return"] else math.nan
    if step < 0 or math.isinf(score) or not math.isfinite(time) or not math.isfinite(rate):
        raise ValueError("out of range")
    return step, time, rate, score, episodes


def _first_step(folder: Path, first_row: float) -> float:
    """The agent step from which on there are rows: not 0 if those of earlier sessions are lost."""
    sessions = sessions_of(folder)
    return max((step for step in sessions if step < first_row), default=0.0)


def _hours(first_step: float, steps: Numbers, times: Numbers, rates: Numbers) -> Numbers:
    """Return the hours of training until each row, from a step on.

    A row's rate covers the time since the previous row, so steps / rate is its duration. The wall
    clock would include the pauses between sessions.
    """
    made, seconds = np.diff(steps, prepend=first_step), np.diff(times, prepend=times[0])
    known = rates > 0
    seconds[known] = made[known] / rates[known]
    return np.cumsum(np.maximum(seconds, 0.0)) / 3600
