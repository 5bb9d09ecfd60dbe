"""Results of evaluations: the summary of episodes, and the CSV files of summaries."""

import csv
import io
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean

import numpy as np

from agents.errors import is_printable
from agents.evaluation.episode import EpisodeResult
from agents.system.files import parse_count, read_csv_rows, write_atomically
from agents.system.output import quantity
from envs import human_normalised

log = logging.getLogger("train")

# Rows of training, and of playing a run by hand, which leaves the rows of training as they are.
EVALUATIONS = "eval/evaluations.csv"
PLAYED = "eval/played.csv"
# The source of the evaluator process's rows.
TRAINING = "training"
COLUMNS = (
    "wall_time",
    "source",
    "checkpoint",
    "global_step",
    "mode",
    "episodes",
    "mean",
    "std",
    "median",
    "min",
    "max",
    "length",
    "human_normalised",
    "seed",
    "milestones",
)
# Older files have no milestones.
_OLD_COLUMNS = COLUMNS[:-1]


@dataclass(frozen=True)
class Summary:
    """Statistics of the raw scores of episodes in one mode.

    Where a score is NaN or infinite, so is the mean, and the standard deviation is NaN.

    Attributes:
        mode: Who played.
        episodes: Number of episodes.
        mean: Mean score.
        std: Sample standard deviation of the scores (divided by n - 1); 0 for a single episode.
        median: Median score.
        min: Lowest score.
        max: Highest score.
        length: Mean number of agent steps of an episode.
        human_normalised: The mean on the scale of `envs.human_normalised`, or None; also None if
            the mean is not finite.
        milestones: Means of what the episodes reached, by the names of `envs.MILESTONES`; empty
            where they were not looked for.
    """

    mode: str
    episodes: int
    mean: float
    std: float
    median: float
    min: float
    max: float
    length: float
    human_normalised: float | None
    milestones: Mapping[str, float] = field(default_factory=dict)

    @property
    def is_finite(self) -> bool:
        """Whether all scores, and so their statistics, are finite."""
        return all(map(math.isfinite, (self.mean, self.std, self.median, self.min, self.max)))


@dataclass(frozen=True)
class EvaluationRow:
    """A row of `eval/evaluations.csv` or `eval/played.csv`.

    Attributes:
        wall_time: Seconds since 1970.
        source: "evaluate" (the command) or "training" (the evaluator process).
        checkpoint: The file's name; empty for random play and for the evaluator process.
        global_step: Agent steps the network was trained for; None for random play.
        summary: The statistics of the episodes.
        seed: The episodes' seeds follow from it.
    """

    wall_time: float
    source: str
    checkpoint: str
    global_step: int | None
    summary: Summary
    seed: int


def format_score(score: float) -> str:
    """A score for people: whole numbers as they are, others with about three digits."""
    if abs(score) >= 1e12:
        return f"{score:.3g}"
    if score % 1 == 0 or abs(score) >= 10_000:
        return f"{score:,.0f}"
    # As many digits as it takes, but no exponent.
    return f"{score:,.1f}" if abs(score) >= 100 else f"{float(f'{score:.3g}'):g}"


def format_share(share: float) -> str:
    """A share for people, in per cent with one digit, and never "-0.0%"."""
    return f"{round(share, 3) + 0.0:.1%}"


def summarise(game_name: str, episodes: Sequence[EpisodeResult]) -> Summary:
    """Summarise episodes that were played in one mode.

    Raises:
        ValueError: If there are none, or their modes differ.
    """
    modes = {episode.mode for episode in episodes}
    if len(modes) != 1:
        raise ValueError(f"episodes of one mode are needed, got {len(episodes)} of modes {modes}")
    scores = np.array([episode.score for episode in episodes], dtype=np.float64)
    with np.errstate(all="ignore"):  # of scores that are not finite, or huge
        mean = float(scores.mean())
        std = float(scores.std(ddof=1)) if len(scores) > 1 else 0.0
        median = float(np.median(scores))
    return Summary(
        mode=modes.pop(),
        episodes=len(episodes),
        mean=mean,
        std=std,
        median=median,
        min=float(scores.min()),
        max=float(scores.max()),
        length=fmean(episode.length for episode in episodes),
        human_normalised=human_normalised(game_name, mean) if math.isfinite(mean) else None,
        milestones={
            name: fmean(episode.milestones[name] for episode in episodes)
            for name in episodes[0].milestones
        },
    )


def append_evaluation(folder: Path, *rows: EvaluationRow) -> None:
    """Append rows to a run's `eval/evaluations.csv`, or `eval/played.csv` if not of training.

    The header comes first if the file is new. If the last line was truncated by a crash, the rows
    start on a new line. Where not all can be written, nothing of them stays.

    Args:
        folder: The run directory.
        *rows: The rows of one evaluation, which have one source; written together.

    Raises:
        OSError: If they cannot be written.
    """
    path = folder / (EVALUATIONS if rows[0].source == TRAINING else PLAYED)
    path.parent.mkdir(exist_ok=True)
    _renew_header(path)
    with path.open("a+b", buffering=0) as file:
        size = file.tell()
        text = "".join(map(_format, rows))
        if size == 0:
            text = _csv_line(COLUMNS) + text
        else:
            file.seek(size - 1)
            if file.read(1) != b"\n":
                text = "\n" + text
        data = text.encode()
        try:
            while data:  # usually one write: two processes' rows do not mix
                data = data[file.write(data) :]
        except OSError:
            file.truncate(size)  # part of a row may look like a row
            raise


def read_evaluations(folder: Path) -> list[EvaluationRow]:
    """The rows of a run's `eval/evaluations.csv`, then of its `eval/played.csv`, each oldest first.

    Neither file need exist. Older runs have the rows of the evaluate command in the first one.
    Rows with scores that are not finite are left out: there is nothing to draw or to compare.
    Malformed lines, such as a crash may leave, are skipped with a warning.

    Raises:
        OSError: If a file cannot be read.
    """
    return [*_read(folder / EVALUATIONS), *_read(folder / PLAYED)]


def _read(path: Path) -> list[EvaluationRow]:
    try:
        rows = read_csv_rows(path)
    except FileNotFoundError:
        return []
    found, malformed = [], 0
    for row in rows:
        try:
            if row.cells not in (list(COLUMNS), list(_OLD_COLUMNS)):
                columns = COLUMNS if len(row.cells) == len(COLUMNS) else _OLD_COLUMNS
                parsed = _parse(dict(zip(columns, row.cells, strict=True)))
                if parsed.summary.is_finite:
                    found.append(parsed)
        except ValueError:  # noqa: PERF203
            malformed += 1
    if malformed:
        log.warning("%s: %s left out", path, quantity(malformed, "malformed row"))
    return found


def truncate_after_step(folder: Path, global_step: int) -> None:
    """Remove the evaluator's rows about parameters that a resumed run has lost.

    Rows of the evaluate command in older runs, and malformed lines, are kept.

    Args:
        folder: The run directory.
        global_step: Step of the checkpoint that the run resumes from.

    Raises:
        OSError: If the file cannot be written; it is unchanged then.
    """
    path = folder / EVALUATIONS
    try:
        rows = read_csv_rows(path)
    except FileNotFoundError:
        return
    kept = [row.line for row in rows if not _is_later(row.cells, global_step)]
    if len(kept) < len(rows):
        write_atomically(path, "".join(kept).encode())


def _renew_header(path: Path) -> None:
    """Put the current header into a file that an older version began; its rows stay unchanged."""
    old, new = (_csv_line(columns).encode() for columns in (_OLD_COLUMNS, COLUMNS))
    if path.exists() and (data := path.read_bytes()).startswith(old):
        write_atomically(path, new + data[len(old) :])


def _csv_line(cells: Sequence[object]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(cells)
    return line.getvalue()


def _is_later(cells: list[str], global_step: int) -> bool:
    """Whether a line is a row of the evaluator about a later step."""
    row = dict(zip(COLUMNS, cells, strict=False))
    step = parse_count(row.get("global_step", ""))
    return row.get("source") == TRAINING and step is not None and step > global_step


def _number(value: float) -> str:
    return f"{value:.3f}".rstrip("0").rstrip(".")


def _format(row: EvaluationRow) -> str:
    """The row as a line of the file; `_parse` is the inverse."""
    summary = row.summary
    values = {
        "wall_time": f"{row.wall_time:.1f}",
        "source": row.source,
        "checkpoint": row.checkpoint,
        "global_step": "" if row.global_step is None else row.global_step,
        "mode": summary.mode,
        "episodes": summary.episodes,
        "mean": _number(summary.mean),
        "std": _number(summary.std),
        "median": _number(summary.median),
        "min": _number(summary.min),
        "max": _number(summary.max),
        "length": _number(summary.length),
        "human_normalised": (
            "" if summary.human_normalised is None else f"{summary.human_normalised:.5f}"
        ),
        "seed": row.seed,
        "milestones": " ".join(f"{name}={_number(x)}" for name, x in summary.milestones.items()),
    }
    return _csv_line([values[column] for column in COLUMNS])


def _parse(row: dict[str, str]) -> EvaluationRow:
    """Raises ValueError if a cell has no valid value."""
    if not all(is_printable(cell) and "\ufffd" not in cell for cell in row.values()):
        raise ValueError("not text")
    scores = {name: float(row[name]) for name in ("mean", "std", "median", "min", "max", "length")}
    pairs = [pair.split("=") for pair in row.get("milestones", "").split()]
    milestones = {name: float(value) for name, value in pairs}
    normalised = float(row["human_normalised"]) if row["human_normalised"] else None
    wall_time = float(row["wall_time"])
    numbers = [scores["length"], *milestones.values(), wall_time, normalised or 0.0]
    if not all(map(math.isfinite, numbers)) or not row["mode"]:
        raise ValueError("not a row of numbers")
    summary = Summary(
        mode=row["mode"],
        episodes=int(row["episodes"]),
        human_normalised=normalised,
        milestones=milestones,
        **scores,
    )
    return EvaluationRow(
        wall_time=wall_time,
        source=row["source"],
        checkpoint=row["checkpoint"],
        global_step=int(row["global_step"]) if row["global_step"] else None,
        summary=summary,
        seed=int(row["seed"]),
    )
