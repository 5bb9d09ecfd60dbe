"""A sequence of training runs that can be interrupted and resumed."""

import contextlib
import ctypes
import math
import os
import shlex
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean

from rich.console import Console
from rich.live import Live
from rich.text import Text

from agents.config import SettingError, TrainConfig
from agents.errors import UserError
from agents.monitoring.console import format_seconds
from agents.run_folder import RunFolderError, lock_run_folder, open_run
from agents.system.files import lock_file
from agents.system.signals import StopSignals
from benchmarks.planned_runs import (
    Planned,
    Rate,
    incidental_flags,
    is_same,
    last_checkpoint,
    read_rate,
)

ROOT = Path(__file__).parent.parent
TRAIN = (sys.executable, str(ROOT / "train_a3c.py"))

_STATUS_INTERVAL_S = 5.0
_STOP_TIMEOUT_S = 120.0
ORPHAN_TIMEOUT_S = 30.0


class SuiteError(UserError):
    """The suite cannot be run; the message gives the reason."""


class Suite:
    """Trains the planned runs that are not finished yet.

    Args:
        folder: The folder of `runs/` and `logs/`; created if missing.
        planned: The runs, in the order of training.
        signals: The signals that stop the suite, which forwards the first one to the training
            process. SIGTERM may reach both; other signals must reach this process alone.

    Raises:
        SuiteError: If the folder cannot be used, or another suite is using it.
    """

    def __init__(self, folder: Path, planned: Sequence[Planned], signals: StopSignals) -> None:
        # Trainings and evaluations run in the checkout, wherever the suite was started.
        self.folder, self.planned, self.signals = folder.resolve(), planned, signals
        self.console = Console(soft_wrap=True, markup=False, highlight=False)
        self.failed: list[Planned] = []
        self._known: dict[Path, TrainConfig] = {}
        try:
            self.logs.mkdir(parents=True, exist_ok=True)
            self._lock = lock_file(folder / "suite.lock")
        except BlockingIOError:
            raise SuiteError(f"{folder}: another suite is using this folder") from None
        except OSError as error:
            raise SuiteError(f"{folder}: cannot be written to ({error.strerror})") from error

    @property
    def runs(self) -> Path:
        """The folder of the run directories."""
        return self.folder / "runs"

    @property
    def logs(self) -> Path:
        """The folder of the trainings' output."""
        return self.folder / "logs"

    @property
    def stopped(self) -> bool:
        """Whether a signal was received."""
        return self.signals.received is not None

    def close(self) -> None:
        """Release the folder's lock."""
        self._lock.close()

    def find(self, planned: Planned) -> Path | None:
        """The run directory; of several that match, the one with the most agent steps."""
        matching = [folder for folder, config in self._stored() if is_same(config, planned.config)]
        return max(matching, key=lambda folder: (last_checkpoint(folder), folder), default=None)

    def is_finished(self, planned: Planned) -> bool:
        """Whether the run has a checkpoint at the end of its budget."""
        folder = self.find(planned)
        return folder is not None and last_checkpoint(folder) >= planned.config.total_timesteps

    def train(self, after_each: Callable[[Planned], None]) -> None:
        """Train the runs one after another until all are finished or a signal is received.

        Args:
            after_each: Called for each finished run, including those finished before.
        """
        for number, planned in enumerate(self.planned, 1):
            if self.stopped:
                return
            title = f"[{number}/{len(self.planned)}] {planned.title} ..."
            if self.is_finished(planned):
                outcome = f"was finished already{self.result(planned)}"
            else:
                outcome = self._train(planned, title)
            self.console.print(f"{title} {outcome}")
            if self.is_finished(planned) and not self.stopped:
                after_each(planned)

    def run_child(
        self, command: Sequence[str], log: Path, status: Callable[[], str] = lambda: ""
    ) -> int:
        """Run a command to its end, passing on the first signal that this process receives.

        Args:
            command: The program and its arguments.
            log: The file that the command's output is appended to.
            status: Returns the line shown, on a terminal only, while the command runs.

        Returns:
            The exit code.
        """
        told_at: float | None = None
        process = start(command, log)
        try:
            # No refresh thread, which rich's Status would have: `stand_apart` asks for a signal at
            # the death of a thread; the next thread would inherit the child and signal again.
            line = Live(Text(status()), console=self.console, auto_refresh=False, transient=True)
            with line:
                shown_at = time.monotonic()
                while process.poll() is None:
                    time.sleep(0.1)
                    now = time.monotonic()
                    if told_at is None and self.signals.received is not None:
                        process.send_signal(self.signals.received)
                        told_at = now
                    if told_at is not None and now - told_at > _STOP_TIMEOUT_S:
                        process.kill()
                    if now - shown_at > _STATUS_INTERVAL_S:
                        shown_at = now
                        line.update(Text(status()), refresh=True)
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
        return process.returncode

    def _train(self, planned: Planned, title: str) -> str:
        """Train or resume one run; return the outcome as text."""
        folder = self.resumable(planned)
        if folder is not None:
            wait_for_orphan(folder)
        log = self.logs / planned.file_name

        def status() -> str:
            return f"{title} {self.result(planned)[2:]}; {self.time_left()}"

        code = self.run_child([*TRAIN, *self.arguments(planned)], log, status)
        return self.outcome(planned, f"exit code {code}")

    def resumable(self, planned: Planned) -> Path | None:
        """The run directory to resume, if the run has a checkpoint."""
        folder = self.find(planned)
        return folder if folder is not None and last_checkpoint(folder) >= 0 else None

    def arguments(self, planned: Planned) -> list[str]:
        """The arguments of the training, which starts the run or resumes it."""
        folder = self.resumable(planned)
        if folder is None:
            return [*planned.flags, "--quiet"]
        changed = incidental_flags(planned.config, self._known[folder])
        return ["--resume", str(folder), *changed, "--quiet"]

    def outcome(self, planned: Planned, how: str) -> str:
        """The outcome of a run as text, given how its training ended; failures are noted."""
        log = self.logs / planned.file_name
        if self.is_finished(planned):
            return f"finished{self.result(planned)}; {self.time_left()}"
        if self.stopped:
            return f"interrupted{self.result(planned)}"
        self.failed.append(planned)
        return f"failed ({how}): {_last_line(log)} [{log}]"

    def rate(self, planned: Planned) -> Rate | None:
        """Progress and speed of a run, or None before its first rows."""
        folder = self.find(planned)
        return None if folder is None else read_rate(folder)

    def time_left(self) -> str:
        """Estimated time of all unfinished runs, from the rates so far."""
        known: defaultdict[str, list[float]] = defaultdict(list)
        left: list[tuple[str, int]] = []
        for planned in self.planned:
            rate = self.rate(planned)
            if rate is not None and rate.per_second:
                known[planned.variant].append(rate.per_second)
            if planned not in self.failed:
                step = rate.step if rate is not None else 0
                left.append((planned.variant, max(0, planned.config.total_timesteps - step)))
        to_do = [(variant, steps) for variant, steps in left if steps]
        if not to_do:
            return "nothing left to train"
        everyone = [value for values in known.values() for value in values]
        if not everyone:
            return f"{len(to_do)} to train"
        seconds = sum(steps / fmean(known.get(name) or everyone) for name, steps in to_do)
        return f"{len(to_do)} to train, about {format_seconds(seconds)}"

    def result(self, planned: Planned) -> str:
        """Progress, speed and score of a run as text; empty before its first rows."""
        rate = self.rate(planned)
        if rate is None:
            return ""
        score = "-" if math.isnan(rate.recent_return) else f"{rate.recent_return:.1f}"
        return f": {rate.step:,} agent steps at {rate.per_second:,.0f}/s, return {score}"

    def _stored(self) -> list[tuple[Path, TrainConfig]]:
        """The run directories and their settings, without invalid ones."""
        for path in sorted(self.runs.glob("*/config.json")):
            if path.parent in self._known or path.parent.is_symlink():
                continue
            with contextlib.suppress(RunFolderError):
                self._known[path.parent] = open_run(path.parent)[1]
        return list(self._known.items())


def wait_for_orphan(folder: Path, timeout: float = ORPHAN_TIMEOUT_S) -> None:
    """Wait for a training that a killed suite left behind, while it is still saving.

    Args:
        folder: The run directory, which that training has locked.
        timeout: Seconds after which it is not waited for any longer.
    """
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        with contextlib.suppress(SettingError):
            lock_run_folder(folder).close()
            return
        time.sleep(0.5)


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


def start(command: Sequence[str], log: Path) -> "subprocess.Popen[bytes]":
    """Start a program of this checkout in its own process group; see `stand_apart`.

    It can import what this process can from its working directory, such as an environment.

    Args:
        command: The program and its arguments.
        log: The file that the command, and the program's output, are appended to.
    """
    with log.open("ab") as file:
        file.write(f"$ {shlex.join(command)}\n".encode())
        file.flush()
        paths = [str(Path.cwd()), *filter(None, [os.environ.get("PYTHONPATH")])]
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            preexec_fn=stand_apart,
        )


def stand_apart() -> None:
    """In the child: leave the process group, so that Ctrl-C arrives once, through the suite.

    On Linux the child also gets SIGINT when the suite dies.
    """
    os.setpgrp()
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGINT)
