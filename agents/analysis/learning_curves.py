"""The learning curves of single runs, as their own files tell them."""

import dataclasses
import glob
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from agents.config import TrainConfig
from agents.evaluation.results import EVALUATIONS, read_evaluations
from agents.run_folder import RunFolderError, open_run
from agents.system.files import read_csv_rows

log = logging.getLogger("train")

Numbers = npt.NDArray[np.float64]

TRAINING, SAMPLED, GREEDY = "training", "sampled", "greedy"
METRICS = (TRAINING, SAMPLED, GREEDY)

# Settings whose value needs a better name than their own.
_NAMES: dict[tuple[str, object], str] = {
    ("neurocoder_steps", 1): "single-step",
    ("neurocoder_usage_attention", False): "no usage attention",
    ("neurocoder_residual", False): "no residual",
}


class NoDataError(RunFolderError):
    """A run that has nothing to show yet; the message names it."""


@dataclass(frozen=True)
class LearningCurve:
    """What one run scored.

    Attributes:
        folder: of the run.
        game: as in `envs.Game.name`.
        seed: of the run.
        parts: what makes the run's network and learning differ from the defaults, the head first.
        steps: decisions, shape (N,), increasing.
        hours: of training until then, pauses between sessions not counted, shape (N,).
        values: raw scores, shape (N,).
    """

    folder: Path
    game: str
    seed: int
    parts: tuple[str, ...]
    steps: Numbers
    hours: Numbers
    values: Numbers


@dataclass(frozen=True)
class Progress:
    """The rows of a `progress.csv`.

    Attributes:
        steps: decisions, shape (N,), increasing.
        hours: of training, shape (N,).
        returns: mean raw return of the last 100 games, NaN before the first game, shape (N,).
        damaged: lines that were left out.
    """

    steps: Numbers
    hours: Numbers
    returns: Numbers
    damaged: int


def find_runs(arguments: Sequence[str]) -> tuple[list[Path], list[Path]]:
    """The folders of runs that arguments stand for.

    Args:
        arguments: each a run's folder, a folder of runs, or a pattern such as `runs/Pong__*`.

    Returns:
        The runs that were named, and those that were found in named folders or by patterns. None
        twice; links are resolved, so that `runs/latest` and what it points to are one.

    Raises:
        RunFolderError: if an argument stands for no run.
    """
    named: dict[Path, None] = {}
    found: dict[Path, None] = {}
    for argument in arguments:
        path = Path(argument)
        if path.is_dir() and not _is_run(path):
            inside = [run for run in _children(path) if _is_run(run)]
            inside += [run for child in _children(path) for run in _children(child) if _is_run(run)]
            if not inside:
                raise RunFolderError(f"{argument}: neither a run's folder nor one that holds runs")
        elif not path.exists() and glob.has_magic(argument):
            inside = [Path(match) for match in sorted(glob.glob(argument)) if _is_run(Path(match))]
            if not inside:
                raise RunFolderError(f"{argument}: no run's folder is called like that")
        else:
            named[path.resolve()] = None
            continue
        found.update(dict.fromkeys(run.resolve() for run in inside))
    return list(named), [run for run in found if run not in named]


def read_curve(folder: Path, metric: str = TRAINING) -> LearningCurve:
    """The curve of one run.

    Args:
        folder: of the run, finished or not.
        metric: "training" (the mean return of the last 100 training games), or what the evaluator
            found while the run was training, "sampled" or "greedy". Evaluations count for the
            multiple of `--eval-interval` at which they were due, so that seeds can be compared.

    Raises:
        NoDataError: if there is no point yet.
        RunFolderError: if this is not a run's folder, or its files cannot be used.
    """
    folder, config = open_run(folder)
    progress = read_progress(folder / "progress.csv")
    if progress.damaged:
        log.warning("%s: %s damaged lines left out", folder / "progress.csv", progress.damaged)
    if metric == TRAINING:
        known = np.isfinite(progress.returns)
        if not known.any():
            raise NoDataError(f"{folder}: no game has ended yet")
        points = progress.steps[known], progress.hours[known], progress.returns[known]
    else:
        points = _evaluation_points(folder, config, metric, progress)
    return LearningCurve(folder, config.game, config.seed, non_default_settings(config), *points)


def read_progress(path: Path) -> Progress:
    """Read a `progress.csv`.

    Damaged lines are left out and counted; a last one without an end is only being written. Where
    two sessions of a run overlap, the later one's rows replace the earlier one's.

    Raises:
        RunFolderError: if there is no such file, or nothing in it.
    """
    try:
        lines = read_csv_rows(path)
    except FileNotFoundError:
        raise RunFolderError(f"{path.parent}: has no progress.csv") from None
    except OSError as error:
        raise RunFolderError(f"{path}: {error}") from error
    columns = lines[0].cells if lines else []
    missing = {"wall_time", "global_step", "recent_return", "SPS"} - set(columns)
    if missing:
        what = f"has no column {min(missing)}" if lines else "is empty"
        raise RunFolderError(f"{path}: {what}")
    rows: list[tuple[float, float, float, float]] = []
    damaged = 0
    for line, cells in lines[1:]:
        if not line.endswith("\n"):
            continue
        try:
            row = _parse(columns, cells)
        except ValueError:
            damaged += 1
            continue
        while rows and rows[-1][0] >= row[0]:
            rows.pop()
        rows.append(row)
    if not rows:
        if damaged:
            raise RunFolderError(f"{path}: all {damaged} lines are damaged")
        raise NoDataError(f"{path}: has no row yet")
    steps, times, rates, returns = np.array(rows).T
    return Progress(steps, _hours(steps, times, rates), returns, damaged)


def non_default_settings(config: TrainConfig) -> tuple[str, ...]:
    """The head, and in words every other setting of network and learning that is not the default's.

    >>> non_default_settings(TrainConfig(neurocoder_steps=1, core="lstm"))
    ('neurocoder', 'lstm', 'single-step')
    """
    parts = [config.head]
    groups = {"network", f"{config.head} head", "learning", "environment"}
    for spec in dataclasses.fields(config):
        value = getattr(config, spec.name)
        if spec.metadata["group"] not in groups or spec.name == "head" or value == spec.default:
            continue
        name = spec.name.removeprefix(f"{config.head}_").replace("_", " ")
        if (spec.name, value) in _NAMES:
            parts.append(_NAMES[spec.name, value])
        elif "choices" in spec.metadata:
            parts.append(value)
        elif isinstance(value, bool):
            parts.append(name if value else f"no {name}")
        else:
            parts.append(f"{name} {value:g}")
    return tuple(parts)


def _children(folder: Path) -> list[Path]:
    return sorted(child for child in folder.iterdir() if child.is_dir()) if folder.is_dir() else []


def _is_run(path: Path) -> bool:
    return (path / "config.json").exists()


def _evaluation_points(
    folder: Path, config: TrainConfig, metric: str, progress: Progress
) -> tuple[Numbers, Numbers, Numbers]:
    try:
        rows = read_evaluations(folder)
    except OSError as error:
        raise RunFolderError(f"{folder / EVALUATIONS}: {error}") from error
    interval = max(config.eval_interval, 1)
    points = {  # a resumed run may have been evaluated twice at a step: the later one counts
        row.global_step // interval * interval: row.summary.mean
        for row in rows
        if row.source == "training" and row.summary.mode == metric and row.global_step is not None
    }
    if not points:
        raise NoDataError(f"{folder}: was not evaluated ({metric}) while training")
    steps = np.array(sorted(points), dtype=np.float64)
    hours = np.interp(steps, progress.steps, progress.hours)
    return steps, hours, np.array([points[step] for step in sorted(points)])


def _parse(columns: Sequence[str], cells: Sequence[str]) -> tuple[float, float, float, float]:
    """Step, wall time, steps per second and return of a line; ValueError where it is damaged."""
    row = dict(zip(columns, cells, strict=True))
    step, time = int(row["global_step"]), float(row["wall_time"])
    rate = float(row["SPS"] or 0)
    score = float(row["recent_return"]) if row["recent_return"] else math.nan
    if step < 0 or math.isinf(score) or not math.isfinite(time) or not math.isfinite(rate):
        raise ValueError("out of range")
    return step, time, rate, score


def _hours(steps: Numbers, times: Numbers, rates: Numbers) -> Numbers:
    """Hours of training until each row.

    The rate of a row was measured since the row before, so it also says how long that was. The
    clock on the wall cannot: between two sessions of a run it goes on.
    """
    made, seconds = np.diff(steps, prepend=0.0), np.diff(times, prepend=times[0])
    known = rates > 0
    seconds[known] = made[known] / rates[known]
    return np.cumsum(np.maximum(seconds, 0.0)) / 3600
