"""Starts the processes, watches them, restarts and stops them, and has everything written down."""

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from agents.a3c.collector import action_count
from agents.a3c.learner import SerialLearner
from agents.a3c.optimizers import OPTIMIZERS
from agents.a3c.worker import EnvironmentFactory, Worker, make_training_env
from agents.checkpoint import CheckpointError, list_checkpoints
from agents.config import SettingError, TrainConfig, flag
from agents.evaluation.results import truncate_after_step
from agents.monitoring.console import format_seconds, make_display, status_line
from agents.monitoring.logger import TrainingLogger
from agents.monitoring.records import EvaluationRecord, RolloutRecord, UpdateRecord
from agents.run_folder import create_run_folder, lock_run_folder, resume_run_folder, update_meta
from agents.system.child_process import poll
from agents.system.files import remove_stale_temp_files
from agents.system.messages import CrashRecord
from agents.system.processes import reaper
from agents.system.resources import available_cpus
from agents.system.signals import StopSignals
from agents.training.checkpointer import Checkpointer
from agents.training.evaluator import EvaluatorProcess
from agents.training.preflight import build_network
from agents.training.rollout_queue import RolloutQueue
from agents.training.shared_state import SharedState
from agents.training.worker_pool import TrainingFailedError, WorkerPool
from agents.training_state import TrainingState

log = logging.getLogger("train")

MAX_NONFINITE_IN_A_ROW = 100
# Workers that take longer to end are killed, for a run that is to stop shall do so soon.
STOP_TIMEOUT_S = 5.0
# A worker's incarnation seeds its games: the session in the high bits, its restarts in the low.
INCARNATIONS_PER_SESSION = 2**20


class NotFiniteError(TrainingFailedError):
    """No update is finite any more; the parameters are not worth a checkpoint."""


def train(
    config: TrainConfig,
    argv: Sequence[str] = (),
    make_env: EnvironmentFactory = make_training_env,
) -> int:
    """Train until the budget is spent, a signal comes, or the run fails.

    Args:
        config: the settings; with `resume`, that run goes on from its newest sound checkpoint.
        argv: the command line, kept in `meta.json`.
        make_env: Makes a worker's environments from the settings and their seeds, one each: any
            Gymnasium `VectorEnv` that `action_count` accepts. Training resets it without a seed, so
            it must use the seeds before, as by `env.reset(seed=seeds.tolist())`. It must be
            importable by name, for it is sent to other processes.

    Returns:
        The exit code: 0, 1 after a failure, 130 after Ctrl-C, 143 after SIGTERM.

    Raises:
        SettingError: if the run directory cannot be written to, the run cannot be resumed, or this
            machine is too small for so many workers or so large a network.
    """
    with StopSignals() as signals:
        run = TrainingRun(config, argv, make_env, signals)
        try:
            return run.execute()
        finally:
            run.close()


class TrainingRun:
    """One training run, from its folder's creation, or its being taken up again, to its last line.

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
        self.network = build_network(num_actions, config)
        learners = 1 if config.uses_central_learner else max(config.workers, 1)
        self.shared = SharedState.create(
            self.network, OPTIMIZERS[config.optimizer].num_state_tensors, learners
        )
        self.checkpointer = Checkpointer(config, self.network, self.shared)
        state: TrainingState | None = None
        session = 0
        if config.resume:
            self.folder = Path(config.resume)
            self._lock = lock_run_folder(self.folder)
            remove_stale_temp_files(self.folder)
            try:
                state = self._restore()
                session = resume_run_folder(config, argv, self.shared.global_step)
            except SettingError:
                self._lock.close()
                raise
        else:
            self.folder = create_run_folder(config, argv)
            self._lock = lock_run_folder(self.folder)
        self._first_incarnation = session * INCARNATIONS_PER_SESSION
        self._resumed_at = self.shared.global_step if config.resume else None
        reaper().clean_temp_files_on_exit(self.folder)

        display = make_display(quiet=config.quiet)
        self._log_handlers = _start_logging(self.folder, display.handler)
        if config.resume:
            try:
                truncate_after_step(self.folder, self.shared.global_step)
            except OSError as error:
                log.error("evaluations of the lost steps stay in their file: %s", error)
        self.metrics = TrainingLogger(
            self.folder,
            config.total_timesteps,
            config.log_interval,
            config.frame_skip,
            display,
            title=f"{config.game}, {config.head}",
            state=state,
            resumed_at=self._resumed_at,
        )
        self.metrics.log_config(config, self.shared.global_step)
        self.queue = (
            RolloutQueue.create(config, self.network, num_actions)
            if config.uses_central_learner
            else None
        )
        self.pool = WorkerPool(config, self.shared, make_env, self._first_incarnation, self.queue)
        self.evaluations = EvaluatorProcess(config, self.shared, self.folder)
        self._restarts_before = state.restarts if state else 0
        self._nonfinite_in_a_row = 0

    def execute(self) -> int:
        """Train; save at the end, however it comes. Return the exit code."""
        self._log_start()
        failure: TrainingFailedError | None = None
        try:
            if self.config.workers == 0:
                self._train_in_process()
            else:
                self._train_with_workers()
        except TrainingFailedError as error:
            failure = error
        except BaseException:
            self._stop()
            self._save()
            self._update_meta(status="failed")
            raise
        self._stop()
        saved = self._save_at_the_end(failure)
        self._log_and_checkpoint(force=True)
        received = self.signals.received
        status = "failed" if failure else "interrupted" if received else "finished"
        self.metrics.log_hparams(
            self.config, self.shared.global_step, finished=status == "finished"
        )
        statistics = self.metrics.statistics
        self._update_meta(
            status=status,
            global_step=self.shared.global_step,
            episodes=statistics.episodes,
            recent_return=statistics.recent_return if statistics.recent else None,
            seconds=round(statistics.elapsed, 1),
        )
        self._log_summary(status, failure, saved)
        if failure:
            return 1
        return 128 + received if received else 0

    def close(self) -> None:
        """Flush and close what is open."""
        self.metrics.close()
        for handler in self._log_handlers:
            log.removeHandler(handler)
            handler.close()
        self._lock.close()

    @property
    def done(self) -> bool:
        """Whether the budget is spent or a signal has come."""
        spent = self.shared.global_step >= self.config.total_timesteps
        return spent or self.signals.received is not None

    @property
    def restarts(self) -> int:
        """Processes that died and were replaced, in earlier sessions too."""
        return self._restarts_before + self.pool.restarts + self.evaluations.deaths

    def _is_interrupted(self) -> bool:
        return self.signals.received is not None

    def _count_actions(self) -> int:
        """The size of the game's action space, asked of one game that is closed at once."""
        env = self.make_env(self.config, torch.zeros(1, dtype=torch.int64).numpy())
        try:
            return action_count(env)
        finally:
            env.close()

    def _restore(self) -> TrainingState:
        try:
            state = self.checkpointer.restore(self.folder)
        except CheckpointError as error:
            raise SettingError("resume", self.config.resume, str(error)) from error
        step = self.shared.global_step
        if step >= self.config.total_timesteps:
            allowed = f"this run has made its {step:,} decisions already; ask for more to go on"
            raise SettingError("total_timesteps", self.config.total_timesteps, allowed)
        return state

    # --- the two ways to run ------------------------------------------------------------------

    def _train_in_process(self) -> None:
        torch.set_num_threads(1)  # as in a worker process; small batches gain nothing from more
        worker: Worker | SerialLearner
        last = (self.make_env, self._first_incarnation)
        if self.queue:
            worker = SerialLearner(self.config, self.shared, self.queue, *last)
        else:
            worker = Worker(0, self.config, self.shared, *last)
        try:
            while not self.done:
                self._handle(worker.update())
                if self.evaluations.due:
                    self._handle(self.evaluations.evaluate_in_process(self._is_interrupted))
                self._log_and_checkpoint()
        finally:
            worker.env.close()

    def _train_with_workers(self) -> None:
        # All at once, they would share the cores and all be late: the others wait for the first.
        first = min(self.config.workers, available_cpus())
        waiting = list(range(first, self.config.workers))
        self.pool.start_learner()
        for index in range(first):
            self.pool.start(index)
        while not self.done and self.pool.workers:
            if self.pool.has_begun:
                while waiting and not self.done:
                    self.pool.start(waiting.pop(0))
            for index in self._receive(timeout=0.5):
                if self.done:
                    self.pool.reap(index)
                else:
                    self.pool.restart(index)
            self.pool.kill_hung()
            self.evaluations.poll()
            self._log_and_checkpoint()

    def _receive(self, timeout: float) -> list[int]:
        """Take in what has come, waiting for the first; return the workers that ended."""
        workers = self.pool.workers
        messages, ended = poll([*workers.values(), *self.evaluations.children], timeout)
        for _, record in messages:
            self._handle(record)
        for child in ended:
            if child in self.evaluations.children:
                self.evaluations.on_exit()
        return [index for index, worker in workers.items() if worker in ended]

    def _stop(self) -> None:
        """Ask the workers to end, read what they still say, and kill those that do not end."""
        self.shared.stop.fill_(1)
        self.evaluations.stop()
        deadline = time.monotonic() + STOP_TIMEOUT_S
        while self.pool.workers and time.monotonic() < deadline:
            try:
                ended = self._receive(timeout=0.1)
            except TrainingFailedError:
                continue
            for index in ended:
                self.pool.reap(index)
        self.pool.kill()

    # --- what comes in, and what is written ------------------------------------------------------

    def _handle(
        self, record: UpdateRecord | RolloutRecord | EvaluationRecord | CrashRecord
    ) -> None:
        if isinstance(record, CrashRecord):
            log.error("%s raised\n%s", record.who, record.traceback.rstrip())
            return
        if isinstance(record, EvaluationRecord):
            self._handle_evaluation(record)
            return
        if isinstance(record, RolloutRecord):
            self.metrics.statistics.add_episodes(record.episodes)
            return
        self.metrics.statistics.add_episodes(record.episodes)
        self.metrics.statistics.add_scalars(record.scalars)
        self._nonfinite_in_a_row = 0 if record.scalars else self._nonfinite_in_a_row + 1
        if self._nonfinite_in_a_row >= MAX_NONFINITE_IN_A_ROW:
            raise NotFiniteError(f"{MAX_NONFINITE_IN_A_ROW} gradients in a row were not finite")

    def _handle_evaluation(self, record: EvaluationRecord) -> None:
        parameters = self.evaluations.finish(record)
        if not record.scalars:  # broken off
            return
        self.metrics.add_evaluation(
            record.global_step, record.scalars, record.text, record.programs
        )
        log.info("evaluation at step %s: %s", f"{record.global_step:,}", record.text)
        sampled = record.scalars.get("eval/sampled_return", math.nan)
        self.checkpointer.save_if_best(self.folder, parameters, record.global_step, sampled)

    def _gauges(self) -> dict[str, float]:
        return {
            "charts/learning_rate": self.config.learning_rate_at(self.shared.global_step),
            "a3c/workers_alive": self.pool.workers_alive or int(self.config.workers == 0),
            "a3c/restarts": self.restarts,
            "a3c/nonfinite_updates": self.shared.skipped_updates,
        }

    def _log_and_checkpoint(self, *, force: bool = False) -> None:
        self.metrics.log_if_due(self.shared.global_step, self._gauges(), force=force)
        # Not while updates fail: a checkpoint of then might replace one that can be trained on.
        if (
            self.checkpointer.due
            and not self._nonfinite_in_a_row
            and self.pool.sync_optimizer_state()
        ):
            self._save()
            # For a person who reads the log a week later.
            status = self.metrics.status(self.shared.global_step, self._gauges())
            log.debug("%s", status_line(status))

    def _save(self) -> Path | None:
        state = replace(self.metrics.statistics.state(), restarts=self.restarts)
        return self.checkpointer.save(self.folder, state)

    def _save_at_the_end(self, failure: TrainingFailedError | None) -> Path | None:
        """Save, unless that would only push aside what is better; return the newest checkpoint."""
        older = list_checkpoints(self.folder / "checkpoints")
        if isinstance(failure, NotFiniteError) and older:
            return older[-1]
        return self._save() or (older[-1] if older else None)

    def _update_meta(self, **changes: Any) -> None:
        """Change entries of the run's `meta.json`; if that fails, say so and go on."""
        try:
            update_meta(self.folder, **changes)
        except (OSError, ValueError) as error:
            log.error("meta.json could not be written: %s", error)

    def _log_start(self) -> None:
        config, parameters = self.config, sum(p.numel() for p in self.network.parameters())
        log.info(
            "%s, %s head, %s workers x %s games, %s parameters, into %s",
            config.game,
            config.head,
            config.workers,
            config.envs_per_worker,
            f"{parameters:,}",
            self.folder,
        )
        defaults = TrainConfig()
        changed = [
            f"{flag(name)} {value}"
            for name, value in vars(config).items()
            if value != getattr(defaults, name) and name != "resume"
        ]
        log.debug("settings other than the defaults: %s", " ".join(changed) or "none")
        if self._resumed_at is not None:
            log.info("going on from step %s", f"{self._resumed_at:,}")

    def _log_summary(
        self, status: str, failure: TrainingFailedError | None, saved: Path | None
    ) -> None:
        self.metrics.display.close()
        step = self.shared.global_step
        log.info(
            "%s: %s decisions (%s frames) in %s, %s games, mean return %s",
            status,
            f"{step:,}",
            f"{step * self.config.frame_skip:,}",
            format_seconds(self.metrics.statistics.elapsed),
            f"{self.metrics.statistics.episodes:,}",
            self.metrics.statistics.recent_return_text,
        )
        if failure:
            log.error(
                "the run failed: %s; the last good checkpoint is %s", failure, saved or "none"
            )
        log.info("checkpoint: %s", saved or "none")
        if saved and status != "finished":
            log.info("go on with it: python train_a3c.py --resume %s", self.folder)
        log.info("curves: tensorboard --logdir %s", self.config.run_dir)
        if saved:
            log.info("watch it play: python -m agents.evaluate %s --record", self.folder)


def _start_logging(folder: Path, screen: logging.Handler) -> list[logging.Handler]:
    """Log to the terminal, and with times and in more detail to `train.log`."""
    log.setLevel(logging.DEBUG)
    log.propagate = False
    screen.setFormatter(logging.Formatter("%(message)s"))
    if screen.level == logging.NOTSET:
        screen.setLevel(logging.INFO)
    file = logging.FileHandler(folder / "train.log")
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    for handler in (screen, file):
        log.addHandler(handler)
    return [screen, file]
