"""The console during training: a live panel, plain lines, or nothing.

The run goes on whatever happens to the terminal, or to the file that output is redirected to.
"""

import errno
import logging
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from agents.evaluation.results import format_score
from agents.system.output import escape_what_cannot_be_encoded, print_to_stderr, quantity

# Errors of writing to a closed pipe, terminal and file.
_CLOSED = (errno.EPIPE, errno.EIO, errno.EBADF)


@dataclass(frozen=True)
class Status:
    """The progress of a run.

    Attributes:
        title: Name of the run.
        global_step: Agent steps so far.
        total_timesteps: The budget in agent steps.
        steps_per_second: Rate over the last logging interval.
        seconds_left: Time until the budget is spent, at the mean rate.
        elapsed: Seconds of training, earlier sessions included.
        episodes: Number of episodes that ended.
        recent_return: Mean raw return of the last episodes and their number, as text.
        best_return: Highest raw return of an episode; NaN before the first.
        evaluation: The last evaluation as text; empty before the first.
        workers_alive: Number of workers whose process is running.
        restarts: Number of processes that died and were restarted.
        skipped: Number of updates skipped because of a gradient that was not finite.
        cluster: Figures of the exchange between machines, as text; empty on one machine.
        warmup: How far the warm-up is, as text; empty when it is over.
    """

    title: str
    global_step: int
    total_timesteps: int
    steps_per_second: float
    seconds_left: float
    elapsed: float
    episodes: int
    recent_return: str
    best_return: float
    evaluation: str
    workers_alive: int
    restarts: int
    skipped: int
    cluster: str = ""
    warmup: str = ""


class Display(Protocol):
    """Shows the progress of a run; `handler` prints log messages."""

    handler: logging.Handler

    def show(self, status: Status, *, new_row: bool) -> None:
        """Show a status.

        Args:
            status: The progress.
            new_row: Whether a row was logged, which happens once per logging interval.
        """
        ...

    def close(self) -> None:
        """Restore the terminal."""
        ...


def make_display(*, quiet: bool) -> Display:
    """Return a live panel on a terminal, lines elsewhere, or the quiet display.

    From now on, characters that standard output cannot encode are printed as escape sequences.
    """
    # Python has no standard output if it was closed at the start (`>&-`).
    if quiet or sys.stdout is None:
        return QuietDisplay()
    escape_what_cannot_be_encoded()
    if sys.stdout.isatty() and not Console().is_dumb_terminal:
        return LiveDisplay(Console())
    return LineDisplay(sys.stdout)


class QuietDisplay:
    """Shows warnings and errors only."""

    def __init__(self) -> None:
        self.handler: logging.Handler = logging.StreamHandler(sys.stderr)
        self.handler.setLevel(logging.WARNING)

    def show(self, status: Status, *, new_row: bool) -> None:
        """Show nothing."""

    def close(self) -> None:
        """Nothing is open."""


class LineDisplay:
    """Prints one line for each logged row, for logs and pipes.

    Args:
        stream: Where the lines and messages are printed; warnings and errors go to stderr.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream: TextIO | None = stream
        self.handler: logging.Handler = _DisplayHandler(self.print, warn=print_to_stderr)

    def show(self, status: Status, *, new_row: bool) -> None:
        """Print a line if a row was logged."""
        if new_row:
            self.print(status_line(status))

    def print(self, text: str) -> None:
        """Print a line if the stream is still open; on a full disk it may be lost."""
        if self._stream is None:
            return
        try:
            self._stream.write(text + "\n")
            self._stream.flush()
        except (OSError, ValueError) as error:
            if _is_closed(error):
                self._stream = None

    def close(self) -> None:
        """Leave the stream open: its owner closes it."""


class LiveDisplay:
    """A panel that is redrawn in place, with messages scrolling above it.

    Args:
        console: The terminal.
    """

    REDRAW_S = 0.5

    def __init__(self, console: Console) -> None:
        self._console: Console | None = console
        self._live = Live(console=console, auto_refresh=False, transient=False)
        self._started = False
        self._last_time = -math.inf
        self.handler: logging.Handler = _DisplayHandler(self.print, warn=self.print)

    def show(self, status: Status, *, new_row: bool) -> None:
        """Draw the panel, at most twice a second."""
        now = time.monotonic()
        if self._console is None or (not new_row and now - self._last_time < self.REDRAW_S):
            return
        self._last_time = now
        try:
            if not self._started:
                self._started = True
                self._live.start()
            self._live.update(status_panel(status), refresh=True)
        except (OSError, ValueError):
            self._console = None

    def print(self, text: str) -> None:
        """Print a message above the panel."""
        if self._console is None:
            return
        try:
            self._console.print(Text(text), soft_wrap=True)
        except (OSError, ValueError):
            self._console = None

    def close(self) -> None:
        """Keep the last panel on the screen, and restore the cursor."""
        if not self._started:
            return
        self._started = False
        try:
            self._live.stop()
        except (OSError, ValueError):
            self._console = None


class _DisplayHandler(logging.Handler):
    """Prints log messages through a display, in between the progress.

    Unlike `rich.logging.RichHandler` it does not break long lines, so that commands can be copied,
    and survives a closed terminal.
    """

    def __init__(self, inform: Callable[[str], None], warn: Callable[[str], None]) -> None:
        super().__init__()
        self._inform, self._warn = inform, warn

    def emit(self, record: logging.LogRecord) -> None:
        say = self._inform if record.levelno < logging.WARNING else self._warn
        say(self.format(record))


def _is_closed(error: OSError | ValueError) -> bool:
    """Whether a write error means that the terminal, pipe or file is closed."""
    return not isinstance(error, OSError) or error.errno in _CLOSED


def status_line(status: Status) -> str:
    """Return the progress as one line of plain text."""
    rate = f"{status.steps_per_second:,.0f}"
    parts = [
        f"{status.global_step:,} / {status.total_timesteps:,} agent steps",
        f"warm-up: {status.warmup}" if status.warmup else rate + " steps/s",
        f"{status.episodes:,} episodes, return {status.recent_return}",
    ]
    if math.isfinite(status.best_return):
        parts.append(f"best {format_score(status.best_return)}")
    if status.evaluation:
        parts.append(f"eval {status.evaluation}")
    if status.restarts:
        parts.append(quantity(status.restarts, "restart"))
    if status.skipped:
        parts.append(f"{quantity(status.skipped, 'update')} skipped")
    if status.cluster:
        parts.append(f"{quantity(status.workers_alive, 'worker')} on {status.cluster}")
    parts.append(f"elapsed {format_seconds(status.elapsed)}")
    parts.append(f"ETA {format_seconds(status.seconds_left)}")
    return "  ".join(parts)


def status_panel(status: Status) -> Group:
    """Return the progress for a terminal: a bar, and a grid of figures below it."""
    bar = Table.grid(padding=(0, 2))
    bar.add_row(
        Text(status.title, style="bold"),
        ProgressBar(status.total_timesteps, status.global_step, width=24),
        f"{status.global_step / status.total_timesteps:.1%}",
        Text(f"ETA {format_seconds(status.seconds_left)}", style="cyan"),
    )
    grid = Table.grid(padding=(0, 3))
    rate = f"{status.steps_per_second:,.0f}"
    best = format_score(status.best_return) if math.isfinite(status.best_return) else "-"
    figures = [
        ("agent steps", f"{status.global_step:,} of {status.total_timesteps:,}"),
        ("return", status.recent_return),
        ("warm-up", status.warmup) if status.warmup else ("steps/s", rate),
        ("best episode", best),
        ("elapsed", format_seconds(status.elapsed)),
        ("evaluation", status.evaluation or "-"),
        ("workers", f"{status.workers_alive}, {quantity(status.restarts, 'restart')}"),
        ("episodes", f"{status.episodes:,}"),
    ]
    if status.skipped or status.cluster:
        figures.append(("skipped updates", f"{status.skipped:,}"))
        figures.append(("cluster", status.cluster) if status.cluster else ("", ""))
    for (left, value), (right, other) in zip(figures[::2], figures[1::2], strict=True):
        grid.add_row(Text(left, style="dim"), value, Text(right, style="dim"), other)
    return Group(bar, grid)


def format_seconds(seconds: float) -> str:
    """Format seconds as h:mm:ss, preceded by the days if there are any."""
    if not math.isfinite(seconds):
        return "-"
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    return (f"{days}d " if days else "") + f"{hour}:{minute:02}:{second:02}"
