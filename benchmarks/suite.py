"""Many trainings one after another, so that what was interrupted goes on where it stopped."""

import contextlib
import ctypes
import dataclasses
import fcntl
import math
import os
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from agents.analysis.learning_curves import read_progress
from agents.checkpoint import list_checkpoints, step_of
from agents.config import SettingError, TrainConfig
from agents.errors import UserError
from agents.monitoring.console import format_seconds
from agents.run_folder import RunFolderError, lock_run_folder, open_run
from agents.system.signals import StopSignals

ROOT = Path(__file__).parent.parent
TRAIN = (sys.executable, str(ROOT / "train_a3c.py"))

# Settings that do not make another experiment of a run: where and how often things are written.
_INCIDENTAL = {
    *("resume", "run_dir", "quiet", "log_interval", "capture_video"),
    *("checkpoint_interval", "keep_checkpoints", "eval_interval", "eval_episodes"),
}
_STATUS_INTERVAL_S = 5.0
_STOP_TIMEOUT_S = 120.0
_ORPHAN_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Planned:
    """A training that the suite wants.

    Attributes:
        variant: its name in tables and pictures.
        config: the settings.
        flags: the same for the command line.
    """

    variant: str
    config: TrainConfig
    flags: tuple[str, ...]

    @property
    def title(self) -> str:
        """For people."""
        return f"{self.config.game} {self.variant} seed {self.config.seed}"

    @property
    def file_name(self) -> str:
        """Of its log."""
        return f"{self.config.game}__{self.variant}__{self.config.seed}.log".replace(" ", "-")


@dataclass(frozen=True)
class Rate:
    """How far a run has come, and how fast.

    Attributes:
        step: decisions.
        seconds: of training, pauses not counted.
        recent_return: mean raw score of its last 100 games; NaN before the first.
    """

    step: int
    seconds: float
    recent_return: float

    @property
    def per_second(self) -> float:
        """Decisions per second from the run's start on; 0 where nothing is known."""
        return self.step / self.seconds if self.seconds else 0.0


class SuiteError(UserError):
    """The suite cannot be run; the message gives the reason."""


class Suite:
    """Trains what is planned and not there yet.

    Args:
        folder: `runs/` and `logs/` lie in it; made if it is missing.
        planned: in the order in which they are trained.
        signals: say when to stop. They must be received by this process alone: the trainings are
            told by it, once.

    Raises:
        SuiteError: if the folder cannot be used, or another suite is using it.
    """

    def __init__(self, folder: Path, planned: Sequence[Planned], signals: StopSignals) -> None:
        self.folder, self.planned, self.signals = folder, planned, signals
        self.console = Console(soft_wrap=True, markup=False, highlight=False)
        self.failed: list[Planned] = []
        self._known: dict[Path, TrainConfig] = {}
        try:
            self.logs.mkdir(parents=True, exist_ok=True)
            self._lock = (folder / "suite.lock").open("ab")
        except OSError as error:
            raise SuiteError(f"{folder}: cannot be written to ({error.strerror})") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.close()
            raise SuiteError(f"{folder}: another suite is using this folder") from None

    @property
    def runs(self) -> Path:
        """Where the runs are."""
        return self.folder / "runs"

    @property
    def logs(self) -> Path:
        """What the trainings said."""
        return self.folder / "logs"

    @property
    def stopped(self) -> bool:
        """Whether a signal has come."""
        return self.signals.received is not None

    def close(self) -> None:
        """Let others use the folder."""
        self._lock.close()

    def find(self, planned: Planned) -> Path | None:
        """The run's folder: of several that match, the one that came furthest."""
        matching = [folder for folder, config in self._stored() if is_same(config, planned.config)]
        return max(matching, key=lambda folder: (last_checkpoint(folder), folder), default=None)

    def is_finished(self, planned: Planned) -> bool:
        """Whether the run has a checkpoint at the end of its budget."""
        folder = self.find(planned)
        return folder is not None and last_checkpoint(folder) >= planned.config.total_timesteps

    def train(self, after_each: Callable[[Planned], None]) -> None:
        """Train one after another until all is done or a signal comes.

        Args:
            after_each: called for each run that is finished, also where it was before.
        """
        for number, planned in enumerate(self.planned, 1):
            if self.stopped:
                return
            title = f"[{number}/{len(self.planned)}] {planned.title} ..."
            if self.is_finished(planned):
                outcome = f"was finished already{self._result(planned)}"
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
        with log.open("ab") as file:
            file.write(f"$ {' '.join(command)}\n".encode())
            file.flush()
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                preexec_fn=_stand_apart,
            )
        try:
            # Without a refresh thread, as rich's Status has one: `_stand_apart` asks for a signal
            # at the death of a thread, and the next one would inherit the child and signal again.
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
        """Train or resume one run and return the outcome in words."""
        folder = self.find(planned)
        if folder is not None and last_checkpoint(folder) >= 0:
            _wait_for_orphan(folder)
            arguments = ["--resume", str(folder), "--quiet"]
        else:
            arguments = [*planned.flags, "--quiet"]
        log = self.logs / planned.file_name

        def status() -> str:
            return f"{title} {self._result(planned)[2:]}; {self.time_left()}"

        code = self.run_child([*TRAIN, *arguments], log, status)
        if self.is_finished(planned):
            return f"finished{self._result(planned)}; {self.time_left()}"
        if self.stopped:
            return f"interrupted{self._result(planned)}"
        self.failed.append(planned)
        return f"failed (exit code {code}): {_last_line(log)} [{log}]"

    def rate(self, planned: Planned) -> Rate | None:
        """How far a run has come, or None where nothing is known of it."""
        folder = self.find(planned)
        return None if folder is None else read_rate(folder)

    def time_left(self) -> str:
        """How long all trainings that are not finished will take, from the rates so far."""
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

    def _result(self, planned: Planned) -> str:
        rate = self.rate(planned)
        if rate is None:
            return ""
        score = "-" if math.isnan(rate.recent_return) else f"{rate.recent_return:.1f}"
        return f": {rate.step:,} decisions at {rate.per_second:,.0f}/s, return {score}"

    def _stored(self) -> list[tuple[Path, TrainConfig]]:
        """The runs that are there. A folder that is not a run's, or a damaged one, is none."""
        for path in sorted(self.runs.glob("*/config.json")):
            if path.parent in self._known or path.parent.is_symlink():
                continue
            with contextlib.suppress(RunFolderError):
                self._known[path.parent] = open_run(path.parent)[1]
        return list(self._known.items())


def is_same(one: TrainConfig, other: TrainConfig) -> bool:
    """Whether two runs are the same experiment."""
    return _essence(one) == _essence(other)


def last_checkpoint(folder: Path) -> int:
    """The newest checkpoint's step, or -1 where there is none."""
    checkpoints = list_checkpoints(folder / "checkpoints")
    return step_of(checkpoints[-1]) if checkpoints else -1


def read_rate(folder: Path) -> Rate | None:
    """What a run's `progress.csv` says of its speed; None where it says nothing."""
    try:
        progress = read_progress(folder / "progress.csv")
    except RunFolderError:
        return None
    hours = float(progress.hours[-1])
    return Rate(int(progress.steps[-1]), 3600 * hours, float(progress.returns[-1]))


def _essence(config: TrainConfig) -> dict[str, Any]:
    values = dataclasses.asdict(config)
    return {name: value for name, value in values.items() if name not in _INCIDENTAL}


def _wait_for_orphan(folder: Path) -> None:
    """A suite that was killed may have left a training that is just saving."""
    deadline = time.monotonic() + _ORPHAN_TIMEOUT_S
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


def _stand_apart() -> None:
    """In the new process: hear of a Ctrl-C through the suite, and so once, but of its death always.

    Only Linux can do the latter.
    """
    os.setpgrp()
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGINT)
