"""Starts the workers, watches them, restarts and stops them, and writes everything down."""

import contextlib
import logging
import signal
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from multiprocessing import connection as mp_connection
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from agents.checkpoint import Checkpoint, save_checkpoint
from agents.config import TrainConfig
from agents.machine import check_machine
from agents.metrics import Metrics, format_seconds
from agents.network import ActorCritic
from agents.optimizers import OPTIMIZERS
from agents.processes import StopSignals, process_context
from agents.records import CrashRecord, UpdateRecord
from agents.run_folder import create_run_folder, update_meta
from agents.shared import SharedState, unflatten
from agents.worker import EnvironmentFactory, Worker, make_training_env, run_worker
from envs.protocol import FRAME_SKIP

log = logging.getLogger("train")

MAX_RESTARTS = 10
RESTART_WINDOW_S = 600.0
MAX_NONFINITE_IN_A_ROW = 100
STOP_TIMEOUT_S = 8.0


class TrainingFailedError(Exception):
    """The run cannot go on; the message says why."""


def train(
    config: TrainConfig,
    argv: Sequence[str] = (),
    make_env: EnvironmentFactory = make_training_env,
) -> int:
    """Train until the budget is spent, a signal comes, or the run fails.

    Args:
        config: the settings.
        argv: the command line, kept in `meta.json`.
        make_env: makes a worker's environments; importable by name, for it goes to other processes.

    Returns:
        The exit code: 0, 1 after a failure, 130 after Ctrl-C, 143 after SIGTERM.

    Raises:
        SettingError: if the run directory cannot be written to, or this machine is too small for
            so many workers or so large a network.
    """
    with StopSignals() as signals:
        run = Run(config, argv, make_env, signals)
        try:
            return run.execute()
        finally:
            run.close()


@dataclass
class WorkerHandle:
    """A worker process as the supervisor sees it."""

    process: Any
    connection: Connection
    incarnation: int


class Run:
    """One training run, from its folder's creation to its last line.

    Args:
        config: the settings.
        argv: the command line.
        make_env: makes a worker's environments.
        signals: says when to stop.
    """

    def __init__(
        self,
        config: TrainConfig,
        argv: Sequence[str],
        make_env: EnvironmentFactory,
        signals: StopSignals,
    ) -> None:
        self.config, self.make_env, self.signals = config, make_env, signals
        torch.manual_seed(config.seed)
        num_actions = self._count_actions()
        check_machine(num_actions, config)
        self.network = ActorCritic(num_actions, config)
        self.shared = SharedState.create(
            self.network, OPTIMIZERS[config.optimizer].num_statistics, max(config.workers, 1)
        )
        self.folder = create_run_folder(config, argv)
        self._log_handlers = _start_logging(self.folder)
        self.metrics = Metrics(self.folder, config.total_timesteps, config.log_interval)
        self.workers: dict[int, WorkerHandle] = {}
        self.restarts = 0
        self._recent_restarts: deque[float] = deque(maxlen=MAX_RESTARTS)
        self._nonfinite_in_a_row = 0
        self._last_checkpoint = time.monotonic()

    def execute(self) -> int:
        """Train; save at the end, however it comes. Return the exit code."""
        parameters = sum(p.numel() for p in self.network.parameters())
        log.info(
            "%s, %s head, %s workers x %s games, %s parameters, into %s",
            self.config.game,
            self.config.head,
            self.config.workers,
            self.config.envs_per_worker,
            f"{parameters:,}",
            self.folder,
        )
        failure: str | None = None
        try:
            if self.config.workers == 0:
                self._train_here()
            else:
                self._train_with_workers()
        except TrainingFailedError as error:
            failure = str(error)
        except BaseException:
            update_meta(self.folder, status="failed")
            raise
        finally:
            self._stop_workers()
        saved = self._save()
        self._tick(force=True)
        received = self.signals.received
        status = "failed" if failure else "interrupted" if received else "finished"
        update_meta(
            self.folder,
            status=status,
            global_step=self.shared.global_step,
            episodes=self.metrics.episodes,
            recent_return=self.metrics.recent_return if self.metrics.recent else None,
            seconds=round(self.metrics.elapsed, 1),
        )
        self._say_goodbye(status, failure, saved)
        if failure:
            return 1
        return 128 + received if received else 0

    def close(self) -> None:
        """Flush and close what is open."""
        self.metrics.close()
        for handler in self._log_handlers:
            log.removeHandler(handler)
            handler.close()

    @property
    def done(self) -> bool:
        """Whether the budget is spent or a signal has come."""
        spent = self.shared.global_step >= self.config.total_timesteps
        return spent or self.signals.received is not None

    def _count_actions(self) -> int:
        """The size of the game's action space, asked of one game that is closed at once."""
        env = self.make_env(self.config, torch.zeros(1, dtype=torch.int64).numpy())
        try:
            return env.num_actions
        finally:
            env.close()

    # --- the two ways to run ------------------------------------------------------------------

    def _train_here(self) -> None:
        torch.set_num_threads(1)  # as in a worker process; small batches gain nothing from more
        worker = Worker(0, self.config, self.shared, self.make_env)
        try:
            while not self.done:
                self._take(worker.update())
                self._tick()
        finally:
            worker.env.close()

    def _train_with_workers(self) -> None:
        context = process_context()
        for index in range(self.config.workers):
            if self.done:
                return
            self.workers[index] = self._start_worker(context, index, incarnation=0)
        while not self.done and self.workers:
            for index in self._receive(timeout=0.5):
                self._replace(context, index)
            self._tick()

    def _start_worker(self, context: Any, index: int, incarnation: int) -> WorkerHandle:
        ours, theirs = context.Pipe()
        process = context.Process(
            target=run_worker,
            args=(theirs, index, self.config, self.shared, self.make_env, incarnation),
            name=f"worker-{index}",
            daemon=True,
        )
        process.start()
        theirs.close()
        return WorkerHandle(process, ours, incarnation)

    def _receive(self, timeout: float) -> list[int]:
        """Take the records that have come, waiting for the first; return the workers that ended.

        A worker has ended when its connection has: the operating system closes it however a process
        dies, and only after everything that it had sent.
        """
        ended = []
        connections = {worker.connection: i for i, worker in self.workers.items()}
        for ready in mp_connection.wait(list(connections), timeout):
            assert isinstance(ready, Connection)
            try:
                self._take(ready.recv())
            except (EOFError, OSError):
                ended.append(connections[ready])
        return ended

    def _replace(self, context: Any, index: int) -> None:
        """Bury a worker that ended, and start another in its place unless it was done."""
        worker = self._bury(index)
        code = worker.process.exitcode
        if self.done:
            return
        why = f"exit code {code}"
        if code < 0:
            why = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        self.metrics.end_line()
        log.warning("worker %s died (%s)", index, why)
        now = time.monotonic()
        in_window = [t for t in self._recent_restarts if now - t < RESTART_WINDOW_S]
        if len(in_window) == MAX_RESTARTS:
            raise TrainingFailedError(
                f"workers died over {MAX_RESTARTS} times in {RESTART_WINDOW_S / 60:.0f} minutes"
            )
        self._recent_restarts.append(now)
        self.restarts += 1
        self.workers[index] = self._start_worker(context, index, worker.incarnation + 1)

    def _stop_workers(self) -> None:
        """Ask the workers to end, read what they still say, and kill those that do not end."""
        self.shared.stop.fill_(1)
        deadline = time.monotonic() + STOP_TIMEOUT_S
        while self.workers and time.monotonic() < deadline:
            with contextlib.suppress(TrainingFailedError):
                for index in self._receive(timeout=0.1):
                    self._bury(index)
        for index, worker in self.workers.items():
            log.warning("worker %s does not end; killing it", index)
            worker.process.kill()
        for index in list(self.workers):
            self._bury(index)

    def _bury(self, index: int) -> WorkerHandle:
        """Wait for a worker's process, or kill it where that takes long; free what it held."""
        worker = self.workers.pop(index)
        worker.process.join(timeout=1)
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()
        worker.connection.close()
        return worker

    # --- what comes in, and what is written ------------------------------------------------------

    def _take(self, record: UpdateRecord | CrashRecord) -> None:
        if isinstance(record, CrashRecord):
            self.metrics.end_line()
            log.error("worker %s raised\n%s", record.worker, record.traceback.rstrip())
            return
        self.metrics.add(record)
        self._nonfinite_in_a_row = 0 if record.scalars else self._nonfinite_in_a_row + 1
        if self._nonfinite_in_a_row >= MAX_NONFINITE_IN_A_ROW:
            raise TrainingFailedError(
                f"{MAX_NONFINITE_IN_A_ROW} gradients in a row were not finite; "
                "the parameters are those of the last good update"
            )

    def _tick(self, *, force: bool = False) -> None:
        step = self.shared.global_step
        gauges = {
            "charts/learning_rate": self.config.learning_rate_at(step),
            "a3c/workers_alive": len(self.workers) or int(self.config.workers == 0),
            "a3c/restarts": self.restarts,
            "a3c/nonfinite_updates": self.shared.skipped_updates,
        }
        self.metrics.tick(step, gauges, force=force)
        if time.monotonic() - self._last_checkpoint >= self.config.checkpoint_interval:
            self._save()

    def _save(self) -> Path | None:
        """Write a checkpoint; if that fails, say so and go on."""
        self._last_checkpoint = time.monotonic()
        step = self.shared.global_step
        if step == 0:
            return None
        if not bool(self.shared.parameters.isfinite().all()):
            self.metrics.end_line()
            log.error("no checkpoint was written: some parameters are not finite")
            return None
        statistics = [unflatten(s.clone(), self.network) for s in self.shared.statistics]
        checkpoint = Checkpoint(
            parameters=unflatten(self.shared.parameters.clone(), self.network),
            statistics={name: torch.stack([s[name] for s in statistics]) for name in statistics[0]},
            progress={
                "global_step": step,
                "updates": self.shared.updates,
                "episodes": self.metrics.episodes,
                "config": asdict(self.config),
            },
        )
        try:
            return save_checkpoint(
                self.folder / "checkpoints", checkpoint, self.config.keep_checkpoints
            )
        except OSError as error:
            self.metrics.end_line()
            log.error("no checkpoint could be written: %s", error)
            return None

    def _say_goodbye(self, status: str, failure: str | None, saved: Path | None) -> None:
        step = self.shared.global_step
        self.metrics.end_line()
        log.info(
            "%s: %s decisions (%s frames) in %s, %s games, mean return %s",
            status,
            f"{step:,}",
            f"{step * FRAME_SKIP:,}",
            format_seconds(self.metrics.elapsed),
            f"{self.metrics.episodes:,}",
            self.metrics.recent_return_text,
        )
        if failure:
            log.error("the run failed: %s", failure)
        log.info("checkpoint: %s", saved or "none")
        log.info("look at it: tensorboard --logdir %s", self.config.run_dir)


def _start_logging(folder: Path) -> list[logging.Handler]:
    """Log to the terminal, and with times to `train.log`."""
    log.setLevel(logging.INFO)
    log.propagate = False
    screen = logging.StreamHandler(sys.stderr)
    screen.setFormatter(logging.Formatter("%(message)s"))
    file = logging.FileHandler(folder / "train.log")
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    for handler in (screen, file):
        log.addHandler(handler)
    return [screen, file]
