"""`progress.csv`: one row of metrics for each logging interval."""

import contextlib
import csv
import errno
import io
import logging
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from agents.system.files import parse_count, read_csv_rows, write_atomically
from agents.system.output import quantity

log = logging.getLogger("train")

PROGRESS_CSV = "progress.csv"
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
    "bonus",
    "nodes",
    "dropped_gradients",
    "bytes_per_s",
    "recent_past_plateau",
    "clipped_updates",
    "steps_per_episode",
    "episodic_return",
    "episodic_length",
    "frames",
)
# What a learning curve needs.
ESSENTIAL = ("wall_time", "global_step", "episodes", "recent_return", "SPS")
# Rows kept in memory while the disk is full.
_MAX_PENDING_ROWS = 10_000


class ProgressCsv:
    """Appends rows to a run's `progress.csv`; a full disk delays them but does not end the run.

    Args:
        folder: The run directory.

    Raises:
        OSError: If the file cannot be opened.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / PROGRESS_CSV
        self._pending: deque[Mapping[str, object]] = deque(maxlen=_MAX_PENDING_ROWS)
        self._file: IO[str] | None = self._open()

    def append(self, row: Mapping[str, object]) -> None:
        """Write a row, preceded by rows that could not be written earlier; errors are logged.

        Args:
            row: Column -> value. Unknown columns are dropped, missing ones stay empty.
        """
        self._pending.append(row)
        try:
            self._write_pending()
        except OSError as error:
            log.error("progress.csv could not be written: %s", error)

    def close(self) -> None:
        """Close the file; errors are logged."""
        try:
            if self._file:
                self._file.close()
        except OSError as error:
            log.error("progress.csv could not be written: %s", error)

    def _open(self) -> IO[str]:
        file = self._path.open("a", newline="")
        if file.tell() == 0:
            csv.writer(file).writerow(COLUMNS)
            file.flush()
        return file

    def _write_pending(self) -> None:
        if self._file is None:
            self._file = self._open()
        complete_size = self._path.stat().st_size
        text = io.StringIO()
        csv.DictWriter(text, COLUMNS, extrasaction="ignore").writerows(self._pending)
        try:
            self._file.write(text.getvalue())
            self._file.flush()
        except OSError:
            # Half a row may have been written. The rest is still in Python's buffer, and would be
            # written after later rows: close the file and truncate it to its last good end.
            with contextlib.suppress(OSError):
                self._file.close()
            self._file = None
            with self._path.open("r+b") as file:
                file.truncate(complete_size)
            raise
        self._pending.clear()


def truncate_after_step(path: Path, global_step: int) -> None:
    """Remove the rows after a step, and damaged ones, from a `progress.csv`.

    The columns become those of this version; unknown ones are dropped, missing ones stay empty. If
    any row is damaged, apart from a last one that was cut short, or a column that curves need is
    missing, the old file is kept as `progress.csv.damaged`. A file that cannot be read or written
    stays as it is, which is logged; where rows overlap, readers take the later ones.

    Args:
        path: The file. Nothing happens if it does not exist.
        global_step: Step of the last row to keep.
    """
    try:
        _truncate_after_step(path, global_step)
    except FileNotFoundError:
        return
    except OSError as error:
        log.error("rows after the resumed checkpoint could not be removed: %s", error)


def _truncate_after_step(path: Path, global_step: int) -> None:
    rows = read_csv_rows(path)
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, extrasaction="ignore", restval="")
    writer.writeheader()
    header = rows[0].cells if rows else []
    if "global_step" not in header:  # damaged, but the rows may be intact
        header = list(COLUMNS)
    damaged = 0 if set(ESSENTIAL) <= set(header) else len(rows) - 1
    for line, cells in rows[1:]:
        row = dict(zip(header, cells, strict=False))
        step = parse_count(row.get("global_step", ""))
        if len(row) != len(header) or step is None:
            damaged += line.endswith("\n")  # the last one may have been cut short by a kill
        elif step <= global_step:
            writer.writerow(row)
    if damaged:
        names = (f"{path.name}.damaged{n}" for n in ("", *(f"-{n}" for n in range(2, 1000))))
        kept = next((p for name in names if not (p := path.with_name(name)).exists()), None)
        if kept is None:
            raise OSError(errno.EEXIST, "a thousand damaged ones are there already", str(path))
        write_atomically(kept, path.read_bytes())
        log.warning(
            "%s: %s left out; the original is kept as %s",
            *(path.name, quantity(damaged, "damaged row"), kept.name),
        )
    write_atomically(path, text.getvalue().encode())
