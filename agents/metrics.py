"""The one owner of TensorBoard, `progress.csv` and the progress line."""

import csv
import math
import sys
import time
from collections import defaultdict, deque
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import TextIO

from torch.utils.tensorboard import SummaryWriter

from agents.records import UpdateRecord
from envs import Episode
from envs.protocol import FRAME_SKIP

RECENT_GAMES = 100

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
)


class Metrics:
    """Gathers the workers' records and writes them down at intervals.

    Args:
        folder: of the run.
        total_timesteps: the budget, for the progress line.
        log_interval: seconds between two points.
        stream: where the progress line goes; overwritten in place where it is a terminal.
    """

    def __init__(
        self,
        folder: Path,
        total_timesteps: int,
        log_interval: float,
        stream: TextIO = sys.stdout,
    ) -> None:
        self.total_timesteps, self.log_interval = total_timesteps, log_interval
        self.stream: TextIO | None = stream
        self._in_place, self._line_open = stream.isatty(), False
        self.episodes = 0
        self.recent: deque[Episode] = deque(maxlen=RECENT_GAMES)
        self._writer = SummaryWriter(str(folder))
        self._csv_file = (folder / "progress.csv").open("w", newline="")
        self._csv = csv.DictWriter(self._csv_file, COLUMNS)
        self._csv.writeheader()
        self._sums: defaultdict[str, float] = defaultdict(float)
        self._counts: defaultdict[str, int] = defaultdict(int)
        self._finished: list[Episode] = []
        self._started = self._last_time = self._last_shown = time.monotonic()
        self._last_step = 0

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
        """Seconds since the start."""
        return time.monotonic() - self._started

    def add(self, record: UpdateRecord) -> None:
        """Take in a worker's record."""
        self.episodes += len(record.episodes)
        self.recent.extend(record.episodes)
        self._finished += record.episodes
        for tag, value in record.scalars.items():
            if math.isfinite(value):
                self._sums[tag] += value
                self._counts[tag] += 1

    def tick(self, global_step: int, gauges: Mapping[str, float], *, force: bool = False) -> None:
        """Write a point if the interval has passed, and keep the progress line fresh.

        Args:
            global_step: decisions so far.
            gauges: TensorBoard tag -> present value.
            force: write now.
        """
        now = time.monotonic()
        if force or now - self._last_time >= self.log_interval:
            self._write(global_step, gauges, now)
            self._show(global_step)
        elif self._in_place and now - self._last_shown >= 1:
            self._show(global_step)

    def end_line(self) -> None:
        """Let what is printed next start on a line of its own."""
        if self._line_open:
            self._print("\n")
            self._line_open = False

    def close(self) -> None:
        """Flush and close the files."""
        self.end_line()
        self._writer.close()
        self._csv_file.close()

    def _write(self, global_step: int, gauges: Mapping[str, float], now: float) -> None:
        seconds = max(now - self._last_time, 1e-9)
        scalars = {tag: self._sums[tag] / self._counts[tag] for tag in self._sums}
        scalars |= gauges
        scalars["charts/SPS"] = (global_step - self._last_step) / seconds
        scalars["charts/frames"] = global_step * FRAME_SKIP
        if self._finished:
            scalars["charts/episodic_return"] = fmean(e.raw_return for e in self._finished)
            scalars["charts/episodic_length"] = fmean(e.length for e in self._finished)
        for tag, value in scalars.items():
            self._writer.add_scalar(tag, value, global_step)
        self._writer.flush()

        row: dict[str, float | str] = {tag.rpartition("/")[2]: v for tag, v in scalars.items()}
        row["wall_time"] = f"{time.time():.3f}"
        row["global_step"] = global_step
        row["episodes"] = self.episodes
        if self.recent:
            row["recent_return"] = self.recent_return
            row["recent_length"] = fmean(e.length for e in self.recent)
        self._csv.writerow({column: row.get(column, "") for column in COLUMNS})
        self._csv_file.flush()

        self._sums.clear()
        self._counts.clear()
        self._finished.clear()
        self._last_time, self._last_step = now, global_step

    def _show(self, global_step: int) -> None:
        self._last_shown = time.monotonic()
        rate = global_step / max(self.elapsed, 1e-9)
        eta = (self.total_timesteps - global_step) / rate if rate else math.inf
        line = (
            f"{global_step:,} / {self.total_timesteps:,} steps  {rate:,.0f} steps/s  "
            f"{self.episodes:,} games, return {self.recent_return_text}  "
            f"elapsed {format_seconds(self.elapsed)}  ETA {format_seconds(max(eta, 0))}"
        )
        self._print(f"\r\033[K{line}" if self._in_place else f"{line}\n")
        self._line_open = self._in_place

    def _print(self, text: str) -> None:
        """Write to the stream, if there still is one: a closed terminal must not end a run."""
        if self.stream is None:
            return
        try:
            self.stream.write(text)
            self.stream.flush()
        except (OSError, ValueError):
            self.stream = None


def format_seconds(seconds: float) -> str:
    """Seconds as h:mm:ss, with days before it where there are any."""
    if not math.isfinite(seconds):
        return "-"
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    return (f"{days}d " if days else "") + f"{hour}:{minute:02}:{second:02}"
