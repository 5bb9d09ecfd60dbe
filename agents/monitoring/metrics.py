"""The one owner of TensorBoard, `progress.csv` and the figures that people are shown."""

import contextlib
import csv
import functools
import io
import logging
import math
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import fmean
from types import MappingProxyType
from typing import IO, Any

from torch.utils.tensorboard import SummaryWriter

from agents.config import RECENT_EPISODES, TrainConfig
from agents.monitoring.console import Display, Status
from agents.monitoring.records import UpdateRecord
from agents.monitoring.tensorboard import write_config, write_hparams, write_programs
from agents.networks.program_statistics import HeadSummary
from agents.system.files import parse_count, read_csv_rows, write_atomically
from envs import Episode
from envs.config import FRAME_SKIP

log = logging.getLogger("train")

COLUMNS = (
    "wall_time",
    "global_step",
    "episodes",
    "recent_return",
    "recent_length",
    "SPS",
    "learning_rate",
    "policy_loss",
    "value_loss",
    "entropy",
    "explained_variance",
    "grad_norm",
    "orthogonality",
    "workers_alive",
    "restarts",
    "nonfinite_updates",
    "policy_lag",
    "updates_per_s",
    "update_ms",
    "batch_wait",
    "slots_waiting",
)


class Metrics:
    """Gathers the workers' records and writes them down at intervals.

    A run that is resumed goes on with one curve: what was written after the checkpoint that it goes
    on from is taken back, in `progress.csv` as in TensorBoard.

    Args:
        folder: of the run.
        total_timesteps: the budget.
        log_interval: seconds between two points.
        display: shows people how the run stands.
        title: of the run, for the display.
        progress: what `progress()` gave when the checkpoint was written that is resumed; empty for
            a new run.
        resumed_at: that checkpoint's global step; None for a new run.
    """

    def __init__(
        self,
        folder: Path,
        total_timesteps: int,
        log_interval: float,
        display: Display,
        title: str = "",
        progress: Mapping[str, Any] | None = None,
        resumed_at: int | None = None,
    ) -> None:
        self.total_timesteps, self.log_interval = total_timesteps, log_interval
        self.display, self.title = display, title
        progress = progress or {}
        self.episodes: int = progress.get("episodes", 0)
        self.best_return: float = progress.get("best_return", math.nan)
        games = [Episode(score, length) for score, length in progress.get("recent_games", [])]
        self.recent: deque[Episode] = deque(games, maxlen=RECENT_EPISODES)
        self.evaluation = progress.get("evaluation", "")
        self._last_scores: dict[str, float] = {}  # of the last evaluation

        self._folder = folder
        self._resumed_at = resumed_at
        self._writer: SummaryWriter | None = None
        self._csv: IO[str] | None = None
        self._waiting_rows: deque[dict[str, Any]] = deque(maxlen=10_000)
        if resumed_at is not None:
            keep_rows_until(folder / "progress.csv", resumed_at)
        self._open()
        self._sums: defaultdict[str, float] = defaultdict(float)
        self._counts: defaultdict[str, int] = defaultdict(int)
        self._finished: list[Episode] = []
        self._seconds_before: float = progress.get("seconds", 0.0)
        self._started = self._last_time = self._last_point = time.monotonic()
        self._last_step = self._first_step = resumed_at or 0
        self._written_step = resumed_at
        self._rate = 0.0

    @property
    def recent_return(self) -> float:
        """Mean raw score of the last 100 whole games; NaN before the first."""
        return fmean(e.raw_return for e in self.recent) if self.recent else math.nan

    @property
    def recent_return_text(self) -> str:
        """The recent return for people: how much, and over how many games."""
        return f"{self.recent_return:.1f} (last {len(self.recent)})" if self.recent else "-"

    @property
    def elapsed(self) -> float:
        """Seconds of training, earlier sessions included."""
        return self._seconds_before + time.monotonic() - self._started

    def progress(self) -> dict[str, Any]:
        """What a checkpoint keeps of this, for a later run to go on with."""
        progress = {
            "episodes": self.episodes,
            "recent_games": [[e.raw_return, e.length] for e in self.recent],
            "seconds": self.elapsed,
            "evaluation": self.evaluation,
        }
        if math.isfinite(self.best_return):
            progress["best_return"] = self.best_return
        return progress

    def add(self, record: UpdateRecord) -> None:
        """Take in what came of an update."""
        self.add_episodes(record.episodes)
        for tag, value in record.scalars.items():
            if math.isfinite(value):
                self._sums[tag] += value
                self._counts[tag] += 1

    def add_episodes(self, episodes: list[Episode]) -> None:
        """Take in whole games that ended."""
        self.episodes += len(episodes)
        self.recent.extend(episodes)
        self._finished += episodes
        for episode in episodes:
            if not self.best_return >= episode.raw_return:
                self.best_return = episode.raw_return

    def add_evaluation(
        self,
        global_step: int,
        scalars: Mapping[str, float],
        text: str,
        programs: Mapping[str, HeadSummary] = MappingProxyType({}),
    ) -> None:
        """Take in what an evaluation found.

        Args:
            global_step: of the parameters that were evaluated.
            scalars: TensorBoard tag -> value.
            text: the same for people.
            programs: what the Neurocoder heads composed, if there are any.
        """
        self.evaluation = text
        self._last_scores = dict(scalars)
        self._write_scalars(scalars, global_step)
        self._write_events(lambda writer: write_programs(writer, programs, global_step))

    def begin(self, config: TrainConfig) -> None:
        """Write the settings down in TensorBoard."""
        step = self._last_step
        self._write_events(lambda writer: write_config(writer, config, step))

    def conclude(self, config: TrainConfig, global_step: int, *, finished: bool) -> None:
        """Write down what the run came to, for TensorBoard's HPARAMS page.

        Args:
            config: the settings.
            global_step: decisions so far.
            finished: whether the budget is spent.
        """
        results = {
            "recent_return": self.recent_return,
            "best_return": self.best_return,
            "episodes": float(self.episodes),
            "seconds": self.elapsed,
        }
        for mode in ("sampled", "greedy"):
            results[f"{mode}_return"] = self._last_scores.get(f"eval/{mode}_return", math.nan)
        self._write_events(
            lambda writer: write_hparams(writer, config, results, global_step, finished=finished)
        )

    def tick(self, global_step: int, gauges: Mapping[str, float], *, force: bool = False) -> None:
        """Write a point if the interval has passed, and keep the display fresh.

        Args:
            global_step: decisions so far.
            gauges: TensorBoard tag -> present value.
            force: write now.
        """
        now = time.monotonic()
        point = force or now - self._last_point >= self.log_interval
        if point:
            self._last_point = now
        # The last point of a run may come right after another, and the first of a resumed run right
        # after the last of the session before.
        if point and global_step != self._written_step:
            self._write(global_step, gauges, now)
            self._written_step = global_step
        self.display.show(self.status(global_step, gauges), point=point)

    def status(self, global_step: int, gauges: Mapping[str, float]) -> Status:
        """How the run stands, for people."""
        left = max(self.total_timesteps - global_step, 0)
        done = global_step - self._first_step
        mean_rate = done / max(time.monotonic() - self._started, 1e-9)
        return Status(
            title=self.title,
            global_step=global_step,
            total_timesteps=self.total_timesteps,
            steps_per_second=self._rate or mean_rate,
            seconds_left=left / mean_rate if mean_rate else math.inf,
            elapsed=self.elapsed,
            episodes=self.episodes,
            recent_return=self.recent_return_text,
            best_return=self.best_return,
            evaluation=self.evaluation,
            workers_alive=int(gauges.get("a3c/workers_alive", 0)),
            restarts=int(gauges.get("a3c/restarts", 0)),
            skipped=int(gauges.get("a3c/nonfinite_updates", 0)),
        )

    def close(self) -> None:
        """Flush and close the files."""
        self.display.close()
        try:
            if self._writer:
                self._writer.close()
            if self._csv:
                self._csv.close()
        except OSError as error:
            log.error("the last figures could not be written: %s", error)

    def _write(self, global_step: int, gauges: Mapping[str, float], now: float) -> None:
        seconds = max(now - self._last_time, 1e-9)
        self._rate = (global_step - self._last_step) / seconds
        scalars = {tag: self._sums[tag] / self._counts[tag] for tag in self._sums}
        scalars |= gauges
        scalars["charts/SPS"] = self._rate
        scalars["charts/frames"] = global_step * FRAME_SKIP
        if self._finished:
            scalars["charts/episodic_return"] = fmean(e.raw_return for e in self._finished)
            scalars["charts/episodic_length"] = fmean(e.length for e in self._finished)
        self._write_scalars(scalars, global_step)

        row: dict[str, float | str] = {tag.rpartition("/")[2]: v for tag, v in scalars.items()}
        row["wall_time"] = f"{time.time():.3f}"
        row["global_step"] = global_step
        row["episodes"] = self.episodes
        if self.recent:
            row["recent_return"] = self.recent_return
            row["recent_length"] = fmean(e.length for e in self.recent)
        self._write_row(row)

        self._sums.clear()
        self._counts.clear()
        self._finished.clear()
        self._last_time, self._last_step = now, global_step

    # --- the files; a full disk must not end a run ---------------------------------------------

    def _open(self) -> None:
        path = self._folder / "progress.csv"
        self._csv = path.open("a", newline="")
        if self._csv.tell() == 0:
            csv.writer(self._csv).writerow(COLUMNS)
            self._csv.flush()

    def _write_row(self, row: dict[str, Any]) -> None:
        """Append a row, and those before it that could not be written when they were new."""
        self._waiting_rows.append(row)
        path = self._folder / "progress.csv"
        try:
            if self._csv is None:
                self._open()
            assert self._csv is not None
            whole = path.stat().st_size
            text = io.StringIO()
            writer = csv.DictWriter(text, COLUMNS, extrasaction="ignore")
            writer.writerows(self._waiting_rows)
            try:
                self._csv.write(text.getvalue())
                self._csv.flush()
            except OSError:
                # Half a row may have found room. What Python still holds of it must go too, or it
                # would come after the rows that are written later.
                _discard(self._csv)
                self._csv = None
                with path.open("r+b") as file:
                    file.truncate(whole)
                raise
            self._waiting_rows.clear()
        except OSError as error:
            log.error("progress.csv could not be written: %s", error)

    def _write_scalars(self, scalars: Mapping[str, float], global_step: int) -> None:
        def write(writer: SummaryWriter) -> None:
            for tag, value in scalars.items():
                writer.add_scalar(tag, value, global_step)

        self._write_events(write)

    def _write_events(self, write: Callable[[SummaryWriter], None]) -> None:
        try:
            if self._writer is None:
                # TensorBoard drops what earlier event files say of later steps than this.
                purge = None if self._resumed_at is None else self._resumed_at + 1
                _keep_writer_threads_quiet()
                self._writer = SummaryWriter(str(self._folder), purge_step=purge)
                self._resumed_at = None  # a file opened after a failure purges nothing
            write(self._writer)
            self._writer.flush()
        except OSError as error:
            self._writer = None  # its thread has ended; the next point opens another file
            _remove_empty_event_files(self._folder)
            log.error("TensorBoard's events could not be written: %s", error)


def keep_rows_until(path: Path, global_step: int) -> None:
    """Take back the rows of a CSV file that are later than a step, and a last one that was cut off.

    The columns become those of this version; unknown ones are dropped, missing ones stay empty.

    Args:
        path: the file, with a column `global_step`; nothing happens if there is none.
        global_step: of the last row to keep.
    """
    try:
        rows = read_csv_rows(path)
    except FileNotFoundError:
        return
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, extrasaction="ignore", restval="")
    writer.writeheader()
    header = rows[0].cells if rows else []
    if "global_step" not in header:  # damaged; what rows there are may be whole
        header = list(COLUMNS)
    for _, cells in rows[1:]:
        row = dict(zip(header, cells, strict=False))
        step = parse_count(row.get("global_step", ""))
        if len(row) == len(header) and step is not None and step <= global_step:
            writer.writerow(row)
    write_atomically(path, text.getvalue().encode())


@functools.cache
def _keep_writer_threads_quiet() -> None:
    """Have TensorBoard's thread print no traceback when it cannot write; its caller is told."""
    previous = threading.excepthook

    def hook(args: threading.ExceptHookArgs) -> None:
        is_writer = type(args.thread).__module__.startswith("tensorboard.")
        if not (is_writer and isinstance(args.exc_value, OSError)):
            previous(args)

    threading.excepthook = hook


def _remove_empty_event_files(folder: Path) -> None:
    """Every attempt on a full disk makes one."""
    for path in folder.glob("events.out.tfevents.*"):
        with contextlib.suppress(OSError):
            if path.stat().st_size == 0:
                path.unlink()


def _discard(file: IO[str]) -> None:
    """Close a file whose buffer cannot be written."""
    with contextlib.suppress(OSError):
        file.close()
