"""TensorBoard's event files: scalars, settings, programs, and the row of the HPARAMS page."""

import contextlib
import functools
import logging
import math
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from agents.config import INCIDENTAL, TrainConfig
from agents.networks.program_statistics import HeadSummary

log = logging.getLogger("train")

_EVENT_FILE = re.compile(r"(events\.out\.tfevents\.)([0-9]{1,18})(\..*)")
# TensorBoard's default bins are each a tenth wider than the last: too wide for values in (0, 1).
_BINS: dict[str, Any] = {
    "singular_values": 40,
    "attention_entropy": np.linspace(0, 1, 101),
    "residual_gate": np.linspace(0, 1, 101),
}


class TensorBoardWriter:
    """Writes a run's events; errors, such as a full disk, are logged and do not end the run.

    The file is opened at the first write; after an error, the next write opens another file.

    Args:
        folder: The run directory.
        purge_step: First step that TensorBoard drops from earlier event files; None for none.
    """

    def __init__(self, folder: Path, purge_step: int | None = None) -> None:
        self._folder = folder
        self._purge_step = purge_step
        self._writer: SummaryWriter | None = None

    def add_scalars(self, scalars: Mapping[str, float], global_step: int) -> None:
        """Write scalars.

        Args:
            scalars: Tag -> value.
            global_step: Agent steps so far.
        """

        def write(writer: SummaryWriter) -> None:
            for tag, value in scalars.items():
                writer.add_scalar(tag, value, global_step)

        self._write(write)

    def add_programs(self, programs: Mapping[str, HeadSummary], global_step: int) -> None:
        """Write `programs/HEAD/...`: mean attention as an image, the rest as histograms.

        Args:
            programs: Head -> its program statistics.
            global_step: Agent steps so far.
        """
        if programs:
            self._write(lambda writer: _write_programs(writer, programs, global_step))

    def log_config(self, config: TrainConfig, global_step: int) -> None:
        """Write all settings as a table, under `config`."""
        settings = {name: value for name, value in asdict(config).items() if value != ""}
        rows = [f"| `{name}` | `{value}` |" for name, value in settings.items()]
        table = "\n".join(["| setting | value |", "|---|---|", *rows])
        self._write(lambda writer: writer.add_text("config", table, global_step))

    def log_hparams(
        self,
        config: TrainConfig,
        results: Mapping[str, float],
        global_step: int,
        *,
        finished: bool,
    ) -> None:
        """Write the run's row of the HPARAMS page.

        `SummaryWriter.add_hparams` would add a second run in a folder below the run's.

        Args:
            config: The run's settings; `INCIDENTAL` ones are left out.
            results: Name -> value, written as `results/NAME`; non-finite values are left out.
            global_step: Agent steps so far.
            finished: Whether the budget is spent; otherwise the page shows the run as unfinished.
        """
        settings = {name: v for name, v in asdict(config).items() if name not in INCIDENTAL}
        metrics = {f"results/{name}": v for name, v in results.items() if math.isfinite(v)}
        experiment, start, end = hparams(settings, metrics)

        def write(writer: SummaryWriter) -> None:
            events = writer._get_file_writer()
            for summary in (experiment, start, end) if finished else (experiment, start):
                events.add_summary(summary)
            for tag, value in metrics.items():
                writer.add_scalar(tag, value, global_step)

        self._write(write)

    def close(self) -> None:
        """Flush and close the event file."""
        try:
            if self._writer:
                self._writer.close()
        except OSError as error:
            log.error("TensorBoard's events could not be written: %s", error)

    def _write(self, write: Callable[[SummaryWriter], None]) -> None:
        try:
            if self._writer is None:
                _silence_writer_threads()
                if self._purge_step is not None:
                    _date_back(self._folder)
                self._writer = SummaryWriter(str(self._folder), purge_step=self._purge_step)
                self._purge_step = None  # a file opened after a failure purges nothing
            write(self._writer)
            self._writer.flush()
        except OSError as error:
            self._writer = None  # its thread has ended
            _remove_empty_event_files(self._folder)
            log.error("TensorBoard's events could not be written: %s", error)


def _write_programs(
    writer: SummaryWriter, programs: Mapping[str, HeadSummary], global_step: int
) -> None:
    # Imported late: other heads have no programs, and not every training machine has OpenCV.
    from agents.evaluation.program_plots import attention_picture

    for head, summary in programs.items():
        title = f"{head}: mean attention of components to slots, step {global_step:,}"
        picture = attention_picture(summary.attention, title)
        writer.add_image(f"programs/{head}/attention", picture, global_step, dataformats="HWC")
        for name, bins in _BINS.items():
            values = getattr(summary, name)
            if values is not None and np.isfinite(values).all():
                writer.add_histogram(f"programs/{head}/{name}", values, global_step, bins=bins)


@functools.cache
def _silence_writer_threads() -> None:
    """Suppress the traceback of TensorBoard's thread on OSError, which its caller gets as well."""
    previous = threading.excepthook

    def hook(args: threading.ExceptHookArgs) -> None:
        is_writer = type(args.thread).__module__.startswith("tensorboard.")
        if not (is_writer and isinstance(args.exc_value, OSError)):
            previous(args)

    threading.excepthook = hook


def _remove_empty_event_files(folder: Path) -> None:
    """Remove the empty files that are left by attempts to write to a full disk."""
    for path in folder.glob("events.out.tfevents.*"):
        with contextlib.suppress(OSError):
            if path.stat().st_size == 0:
                path.unlink()


def _date_back(folder: Path) -> None:
    """Rename event files that are dated later than now, as they are after a clock was set back.

    TensorBoard reads the files in the order of their names, `events.out.tfevents.SECONDS.*`, so
    the file of a resumed run would purge nothing if it came first.
    """
    latest = int(time.time()) - 1
    for path in sorted(folder.glob("events.out.tfevents.*"), reverse=True):
        if match := _EVENT_FILE.fullmatch(path.name):
            seconds = min(int(match[2]), latest)
            if seconds < int(match[2]):
                path.rename(folder / f"{match[1]}{seconds:010d}{match[3]}")
            latest = seconds - 1
