"""What a person sees while training: a live display, plain lines, or nothing."""

import logging
import math
import sys
import time
from dataclasses import dataclass
from typing import Protocol, TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text


@dataclass(frozen=True)
class Status:
    """How a run stands.

    Attributes:
        title: of the run.
        global_step: decisions so far.
        total_timesteps: the budget.
        steps_per_second: over the last interval.
        seconds_left: until the budget is spent at this rate.
        elapsed: seconds of training, earlier sessions included.
        episodes: whole games played.
        recent_return: mean raw score of the last games, and over how many; as text.
        best_return: highest raw score of a game; NaN before the first.
        evaluation: the last one, as text; empty before the first.
        workers_alive: worker processes.
        restarts: of worker processes.
        skipped: updates left out because their gradient was not finite.
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


class Display(Protocol):
    """Shows how a run stands; `handler` takes what is to be said besides."""

    handler: logging.Handler

    def show(self, status: Status, *, point: bool) -> None:
        """Show a status; `point` says that a new point was written, as every interval."""
        ...

    def close(self) -> None:
        """Leave the terminal in order."""
        ...


def make_display(*, quiet: bool) -> Display:
    """The display that suits the terminal, or the lack of one."""
    if quiet:
        return QuietDisplay()
    if sys.stdout.isatty() and not Console().is_dumb_terminal:
        return LiveDisplay(Console())
    return LineDisplay(sys.stdout)


class QuietDisplay:
    """Shows warnings and errors only."""

    def __init__(self) -> None:
        self.handler: logging.Handler = logging.StreamHandler(sys.stderr)
        self.handler.setLevel(logging.WARNING)

    def show(self, status: Status, *, point: bool) -> None:
        """Show nothing."""

    def close(self) -> None:
        """Nothing is open."""


class LineDisplay:
    """One line for each point: for logs and pipes.

    Args:
        stream: where the lines go; messages go to stderr.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream: TextIO | None = stream
        self.handler: logging.Handler = logging.StreamHandler(sys.stderr)

    def show(self, status: Status, *, point: bool) -> None:
        """Print a line, if this is a point, and if there still is somewhere to print to."""
        if self._stream is None or not point:
            return
        try:
            self._stream.write(status_line(status) + "\n")
            self._stream.flush()
        except (OSError, ValueError):
            self._stream = None  # a closed terminal must not end a run

    def close(self) -> None:
        """The stream is not ours to close."""


class LiveDisplay:
    """A panel that is drawn anew in place, with messages scrolling above it.

    Args:
        console: the terminal.
    """

    REDRAW_S = 0.5

    def __init__(self, console: Console) -> None:
        self._console: Console | None = console
        self._live = Live(console=console, auto_refresh=False, transient=False)
        self._started = False
        self._last_time = -math.inf
        self.handler: logging.Handler = _AboveHandler(self)

    def show(self, status: Status, *, point: bool) -> None:
        """Draw the panel, twice a second at most."""
        now = time.monotonic()
        if self._console is None or (not point and now - self._last_time < self.REDRAW_S):
            return
        self._last_time = now
        try:
            if not self._started:
                self._started = True
                self._live.start()
            self._live.update(status_panel(status), refresh=True)
        except (OSError, ValueError):
            self._console = None  # a closed terminal must not end a run

    def say(self, text: str) -> None:
        """Print a message above the panel."""
        if self._console is None:
            return
        try:
            self._console.print(Text(text), soft_wrap=True)
        except (OSError, ValueError):
            self._console = None

    def close(self) -> None:
        """Leave the last panel standing, and give the cursor back."""
        if not self._started:
            return
        self._started = False
        try:
            self._live.stop()
        except (OSError, ValueError):
            self._console = None


class _AboveHandler(logging.Handler):
    """Hands messages to the live display, which prints them above itself."""

    def __init__(self, display: LiveDisplay) -> None:
        super().__init__()
        self._display = display

    def emit(self, record: logging.LogRecord) -> None:
        self._display.say(self.format(record))


def status_line(status: Status) -> str:
    """One line of plain text."""
    parts = [
        f"{status.global_step:,} / {status.total_timesteps:,} steps",
        f"{status.steps_per_second:,.0f} steps/s",
        f"{status.episodes:,} games, return {status.recent_return}",
    ]
    if math.isfinite(status.best_return):
        parts.append(f"best {status.best_return:g}")
    if status.evaluation:
        parts.append(f"eval {status.evaluation}")
    if status.restarts:
        parts.append(f"{status.restarts} restarts")
    if status.skipped:
        parts.append(f"{status.skipped} updates skipped")
    parts.append(f"elapsed {format_seconds(status.elapsed)}")
    parts.append(f"ETA {format_seconds(status.seconds_left)}")
    return "  ".join(parts)


def status_panel(status: Status) -> Group:
    """The same for a terminal: a bar, and figures under it."""
    bar = Table.grid(padding=(0, 2))
    bar.add_row(
        Text(status.title, style="bold"),
        ProgressBar(status.total_timesteps, status.global_step, width=24),
        f"{100 * status.global_step / status.total_timesteps:.1f} %",
        Text(f"ETA {format_seconds(status.seconds_left)}", style="cyan"),
    )
    grid = Table.grid(padding=(0, 3))
    best = f"{status.best_return:g}" if math.isfinite(status.best_return) else "-"
    figures = [
        ("steps", f"{status.global_step:,} of {status.total_timesteps:,}"),
        ("return", status.recent_return),
        ("steps/s", f"{status.steps_per_second:,.0f}"),
        ("best game", best),
        ("elapsed", format_seconds(status.elapsed)),
        ("evaluation", status.evaluation or "-"),
        ("workers", f"{status.workers_alive}, {status.restarts} restarts"),
        ("games", f"{status.episodes:,}"),
    ]
    if status.skipped:
        figures.append(("skipped updates", f"{status.skipped:,}"))
        figures.append(("", ""))
    for (left, value), (right, other) in zip(figures[::2], figures[1::2], strict=True):
        grid.add_row(Text(left, style="dim"), value, Text(right, style="dim"), other)
    return Group(bar, grid)


def format_seconds(seconds: float) -> str:
    """Seconds as h:mm:ss, with days before it where there are any."""
    if not math.isfinite(seconds):
        return "-"
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    return (f"{days}d " if days else "") + f"{hour}:{minute:02}:{second:02}"
