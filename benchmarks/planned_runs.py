"""The planned runs of a suite, and the progress of runs that exist."""

import contextlib
import dataclasses
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from agents.analysis.learning_curves import Progress, read_progress
from agents.checkpoint import CheckpointError, list_checkpoints, load_checkpoint, step_of
from agents.config import INCIDENTAL, RECENT_EPISODES, TrainConfig
from agents.evaluation.results import TRAINING, EvaluationRow, read_evaluations
from agents.run_folder import RunFolderError, as_file_name
from benchmarks.variants import as_flags

# Two runs that differ only in these are the same.
_INCIDENTAL = INCIDENTAL | {"processes"}


@dataclass(frozen=True)
class Planned:
    """A run of the suite.

    Attributes:
        variant: The name in tables and plots.
        config: The settings.
        flags: The same settings as command-line flags.
    """

    variant: str
    config: TrainConfig
    flags: tuple[str, ...]

    @property
    def title(self) -> str:
        """The name in messages."""
        return f"{self.config.game} {self.variant} seed {self.config.seed}"

    @property
    def file_name(self) -> str:
        """The file name of its log."""
        game = as_file_name(self.config.game)
        return f"{game}__{self.variant}__{self.config.seed}.log".replace(" ", "-")


@dataclass(frozen=True)
class Rate:
    """Progress and speed of a run.

    Attributes:
        step: Agent steps so far.
        seconds: Training time, without pauses.
        recent_return: Mean raw score of the last 100 episodes; NaN before the first.
        first_step: The agent step at which the seconds begin.
    """

    step: int
    seconds: float
    recent_return: float
    first_step: float = 0.0

    @property
    def per_second(self) -> float:
        """Mean agent steps per second since the start; 0 where unknown."""
        return (self.step - self.first_step) / self.seconds if self.seconds else 0.0


def is_same(one: TrainConfig, other: TrainConfig) -> bool:
    """Whether two runs have the same settings, except those that do not affect learning."""
    return _essence(one) == _essence(other)


def last_checkpoint(folder: Path) -> int:
    """The step of the newest intact checkpoint, or -1 if there is none."""
    for path in reversed(list_checkpoints(folder / "checkpoints")):
        with contextlib.suppress(OSError):  # it may have been replaced by a newer one meanwhile
            status = path.stat()
            if _is_sound(path, status.st_mtime_ns, status.st_size):
                return step_of(path)
    return -1


@cache
def _is_sound(path: Path, mtime_ns: int, size: int) -> bool:  # noqa: ARG001
    """Whether a checkpoint can be read; it is read again only if it has changed."""
    try:
        load_checkpoint(path)
    except CheckpointError:
        return False
    return True


def incidental_flags(config: TrainConfig, stored: TrainConfig) -> list[str]:
    """The flags that give a stored run the planned run's settings that do not affect learning.

    Args:
        config: The settings of the planned run.
        stored: The settings that the run has now.
    """
    names = sorted(_INCIDENTAL - {"resume", "run_dir", "quiet"})
    now = {name: getattr(config, name) for name in names}
    return as_flags({n: value for n, value in now.items() if value != getattr(stored, n)})


def read_rate(folder: Path) -> Rate | None:
    """Progress and speed from a run's `progress.csv`; None if it has no rows."""
    try:
        progress = read_progress(folder / "progress.csv")
    except RunFolderError:
        return None
    step, seconds = int(progress.steps[-1]), 3600 * float(progress.hours[-1])
    return Rate(step, seconds, float(progress.returns[-1]), progress.first_step)


def first_past(progress: Progress, target: float) -> int | None:
    """The first row where the mean of the last 100 training episodes reaches a target, if any.

    Rows before the hundredth episode do not count: they average the episodes that ended first,
    which in some games are the best.
    """
    reached = (progress.returns >= target) & (progress.episodes >= RECENT_EPISODES)
    return int(reached.argmax()) if reached.any() else None


def training_past(folder: Path, target: float) -> int | None:
    """The agent step at which the mean of the last 100 training episodes first reached a target."""
    try:
        progress = read_progress(folder / "progress.csv")
    except RunFolderError:
        return None
    first = first_past(progress, target)
    return None if first is None else int(progress.steps[first])


def evaluation_past(folder: Path, target: float, final: EvaluationRow) -> int | None:
    """The agent step of the first evaluation of sampled play whose mean reached a target.

    Evaluations by hand do not count: they may be of few episodes, or of the best checkpoint.

    Args:
        folder: The run directory, with the evaluations during training.
        target: The mean score to reach.
        final: The suite's own evaluation of the newest checkpoint, which counts too.
    """
    rows = [row for row in read_evaluations(folder) if row.source == TRAINING]
    steps = [
        row.global_step
        for row in [*rows, final]
        if row.summary.mode == "sampled" and row.summary.mean >= target and row.global_step
    ]
    return min(steps, default=None)


def _essence(config: TrainConfig) -> dict[str, Any]:
    values = dataclasses.asdict(config)
    return {name: value for name, value in values.items() if name not in _INCIDENTAL}
