"""The supervisor: starts, monitors and stops the processes of a run, and writes its files."""

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from multiprocessing import current_process
from pathlib import Path

import torch

from agents.a3c.update import Update
from agents.a3c.worker_group import (
    EnvironmentFactory,
    GroupClass,
    GroupSpec,
    WorkerGroup,
    make_training_env,
)
from agents.config import TrainConfig
from agents.errors import UserError
from agents.monitoring.console import make_display, status_line
from agents.monitoring.logger import TrainingLogger
from agents.monitoring.records import EvaluationRecord, RolloutRecord
from agents.run_folder import resolve_resumed
from agents.system.child_process import poll
from agents.system.messages import CrashRecord, FailureRecord
from agents.system.output import quantity
from agents.system.signals import StopSignals
from agents.training.checkpointer import Checkpointer
from agents.training.evaluator import EvaluatorProcess
from agents.training.learner_process import SerialLearner
from agents.training.managed_process import ManagedProcess, TrainingFailedError
from agents.training.preflight import build_network, check_env, evaluation_problem
from agents.training.rollout_queue import RolloutQueue
from agents.training.run_session import RunSession, check_environments
from agents.training.shared_state import SharedState
from agents.training.worker_pool import SyncState, WorkerPool
from agents.training.worker_process import WorkerRunner

log = logging.getLogger("train")

MAX_NONFINITE_IN_A_ROW = 100
NOT_FINITE = (
    "their gradients were not finite; does the environment return nan or inf, "
    "or is --learning-rate too high?"
)
# An incarnation seeds the environments: high bits count sessions, low bits a process's restarts.
INCARNATIONS_PER_SESSION = 2**20
# The warm-up, in mean episodes; and at most in agent steps, because it takes time. The limit cuts
# it short where episodes are longer than 400 agent steps; what it does there was not measured.
WARMUP_EPISODES = 2.5
MAX_WARMUP_STEPS = 1000

Record = Update | RolloutRecord | EvaluationRecord | CrashRecord | FailureRecord | logging.LogRecord
PoolClass = Callable[[GroupSpec, SharedState, RolloutQueue | None], WorkerPool]


class NotFiniteError(TrainingFailedError):
    """Updates are no longer finite; the parameters are not worth a checkpoint."""


def train(
    config: TrainConfig,
    argv: Sequence[str] = (),
    make_env: EnvironmentFactory = make_training_env,
    group_class: GroupClass = WorkerGroup,
    pool_class: PoolClass = WorkerPool,
) -> int:
    """Train with the processes of `pool_class`; see `agents.launch.train`.

    Args:
        config: The settings.
        argv: The command line, kept in `meta.json`.
        make_env: Makes the environments of a process.
        group_class: Makes the workers of a process, if they learn themselves; importable by name.
        pool_class: Makes the processes that train.

    Returns:
        The exit code.

    Raises:
        UserError: As in `agents.launch.train`.
    """
    if config.workers > 0 and getattr(current_process(), "_inheriting", False):
        raise UserError(
            "train was called while a worker process imported the script that calls it; "
            'call it below `if __name__ == "__main__":`'
        )
    with StopSignals() as signals:
        run = TrainingRun(config, argv, make_env, signals, group_class, pool_class)
        try:
            return run.execute()
        finally:
            run.close()


class TrainingRun:
    """One training run, new or resumed, from run directory to final log line.

    Args:
        config: The settings.
        argv: The command line.
        make_env: Makes the environments of a process.
        signals: Tells when to stop.
        group_class: Makes the workers of a process, if they learn themselves.
        pool_class: Makes the processes that train.
    """

    def __init__(
        self,
        config: TrainConfig,
        argv: Sequence[str],
        make_env: EnvironmentFactory,
        signals: StopSignals,
        group_class: GroupClass = WorkerGroup,
        pool_class: PoolClass = WorkerPool,
    ) -> None:
        maker = _maker(make_env)
        if config.resume:
            config = resolve_resumed(config)
            # First: environments with other spaces would raise less helpful errors.
            check_environments(Path(config.resume), maker)
        self.config, self.signals = config, signals
        torch.manual_seed(config.seed)
        # Each machine of a cluster checks for itself what it can hold.
        own = replace(config, workers=1) if config.uses_cluster else config
        network = build_network(check_env(config, make_env), own)
        self.shared = SharedState.for_training(network, config)
        self.checkpointer = Checkpointer(config, network, self.shared)

        display = make_display(quiet=config.quiet)
        self.session = RunSession(config, argv, self.checkpointer, maker)
        self.folder = self.session.folder
        self.session.start_logging(display.handler)
        self.session.truncate_evaluations()
        self.metrics = TrainingLogger(self.folder, config, display, self.session.state)
        self.metrics.log_config(self.shared.global_step)

        central = config.uses_central_learner
        self.queue = RolloutQueue.create(config, network) if central else None
        incarnation = self.session.index * INCARNATIONS_PER_SESSION
        self._spec = GroupSpec(config, make_env, incarnation=incarnation, group_class=group_class)
        self.pool = pool_class(self._spec, self.shared, self.queue)
        evaluated = config
        problem = evaluation_problem(config, network)
        self._can_be_evaluated = problem is None
        if problem and config.eval_interval:
            log.warning("no evaluations during training: %s", problem)
            evaluated = replace(config, eval_interval=0)
        elif maker and config.eval_interval:
            log.warning("evaluations play %s itself, without %s", config.game, maker)
        self.evaluations = EvaluatorProcess(evaluated, self.shared, self.folder)
        self._set_warmup()
        self._restarts_before = self.session.state.restarts if self.session.state else 0
        self._nonfinite_in_a_row = 0
        self._unwritten = 0

    def execute(self) -> int:
        """Train, save at the end whatever happens, and return the exit code."""
        self.session.log_start(len(self.shared.parameters))
        if warmup_steps := int(self.shared.warmup_steps):
            log.info(
                "warm-up: %s agent steps in every environment before training goes on",
                f"{warmup_steps:,}",
            )
        failure: TrainingFailedError | None = None
        try:
            if self.config.workers == 0:
                self._train_in_process()
            else:
                self._train_with_workers()
        except TrainingFailedError as error:
            failure = error
        except BaseException:
            self._stop_workers()
            self.evaluations.stop()
            self._save()
            self.session.update_meta(status="failed")
            raise
        self._stop_workers()
        # Before the last evaluation, which may take minutes.
        self.metrics.end_training(self.shared.global_step, self._gauges())
        saved = self._save_last(failure)
        if failure is None:
            self._finish_evaluations()
        self.evaluations.stop()
        return self._conclude(failure, saved)

    def close(self) -> None:
        """Flush and close all files."""
        self.metrics.close()
        self.session.close()

    @property
    def done(self) -> bool:
        """Whether the budget is spent or a signal was received."""
        spent = self.shared.global_step >= self.config.total_timesteps
        return spent or self.signals.received is not None

    @property
    def restarts(self) -> int:
        """Processes that died and were restarted, in earlier sessions too."""
        return self._restarts_before + self.pool.restarts + self.evaluations.deaths

    def _train_in_process(self) -> None:
        """Train serially in this process: deterministic, and with the code of the workers."""
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # as in a worker process; small batches gain nothing from more
        spec = replace(self._spec, warmup_steps=int(self.shared.warmup_steps))
        runner: WorkerRunner | SerialLearner
        if self.queue:
            runner = SerialLearner(spec, self.shared, self.queue)
        else:
            runner = WorkerRunner(spec, self.shared)
        try:
            while not self.done:
                for record in runner.updates():
                    self._handle(record)
                if self.evaluations.due:
                    evaluation = self.evaluations.evaluate_in_process(
                        lambda: self.signals.received is not None
                    )
                    if evaluation:
                        self._handle(evaluation)
                self._log_and_checkpoint()
        finally:
            runner.env.close()
            torch.set_num_threads(threads)

    def _train_with_workers(self) -> None:
        self.pool.start()
        while not self.done and self.pool.children:
            for process in self._receive(timeout=0.5):
                if self.done:
                    process.reap()
                else:
                    process.restart()
            self.pool.kill_hung()
            self.evaluations.poll()
            self._log_and_checkpoint()

    def _receive(self, timeout: float) -> list[ManagedProcess]:
        """Handle incoming records; return the processes that have exited."""
        messages, exited = poll([*self.pool.children, *self.evaluations.children], timeout)
        for _, record in messages:
            self._handle(record)
        for child in exited:
            if child not in self.evaluations.children:
                continue
            if self.signals.received is None:
                self.evaluations.on_exit()
            else:  # a scheduler signals every process of a job
                self.evaluations.stop()
        return [process for process in self.pool.processes if process.child in exited]

    def _stop_workers(self) -> None:
        """Tell the workers to exit, read their last records, and kill those that do not exit."""
        self.shared.stop.fill_(1)
        deadline = time.monotonic() + self.pool.stop_timeout
        while self.pool.children and time.monotonic() < deadline:
            try:
                exited = self._receive(timeout=0.1)
            except TrainingFailedError:
                continue
            for process in exited:
                process.reap()
        self.pool.kill()

    def _finish_evaluations(self) -> None:
        """Finish the evaluation in progress and the one that is due, unless a signal comes."""
        if self.evaluations.is_pending and self.signals.received is None:
            log.info("training is over; waiting for the last evaluation (Ctrl-C skips it)")
        while self.evaluations.is_pending and self.signals.received is None:
            self.evaluations.poll()
            self._receive(timeout=0.5)
            status = self.metrics.status(self.shared.global_step, self._gauges())
            self.metrics.display.show(status, new_row=False)

    def _handle(self, record: Record) -> None:
        if isinstance(record, logging.LogRecord):
            log.handle(record)
            return
        if isinstance(record, CrashRecord):
            log.error("%s raised\n%s", record.who, record.traceback.rstrip())
            return
        if isinstance(record, FailureRecord):
            raise TrainingFailedError(record.reason)
        if isinstance(record, EvaluationRecord):
            self._handle_evaluation(record)
            return
        self.metrics.statistics.add_episodes(record.episodes)
        if isinstance(record, RolloutRecord):
            return
        self.metrics.statistics.add_scalars(record.metrics)
        self._nonfinite_in_a_row = 0 if record.is_applied else self._nonfinite_in_a_row + 1
        if self._nonfinite_in_a_row >= MAX_NONFINITE_IN_A_ROW:
            raise NotFiniteError(
                f"{MAX_NONFINITE_IN_A_ROW} updates in a row skipped, as {NOT_FINITE}"
            )

    def _handle_evaluation(self, record: EvaluationRecord) -> None:
        parameters = self.evaluations.finish(record)
        self._unwritten += record.unwritten
        if not record.scalars:  # given up
            return
        self.metrics.add_evaluation(
            record.global_step, record.scalars, record.text, record.programs
        )
        log.info("evaluation at agent step %s: %s", f"{record.global_step:,}", record.text)
        sampled = record.scalars.get("eval/sampled_return", math.nan)
        self.checkpointer.save_if_best(self.folder, parameters, record.global_step, sampled)

    def _set_warmup(self) -> None:
        """Set the warm-up of the processes that start from now on: none for a policy that is new.

        If a checkpoint does not say how long its episodes were, as most of those in `models/`, it
        is as long as a warm-up may be.
        """
        length = self.metrics.statistics.recent_length
        episodes = WARMUP_EPISODES * length if math.isfinite(length) else math.inf
        environments = max(self.config.workers, 1) * self.config.envs_per_worker
        trained = self.shared.global_step / environments
        steps = math.ceil(max(min(episodes, MAX_WARMUP_STEPS, trained), 0))
        self.shared.warmup_steps.fill_(steps)

    @property
    def _warmup_text(self) -> str:
        """How far a resumed run's warm-up is; empty when it is over, and on a cluster."""
        steps, resumed = int(self.shared.warmup_steps), self.session.state
        is_over = not resumed or self.shared.global_step > resumed.global_step
        if is_over or not steps or self.config.uses_cluster:
            return ""
        # In a warm-up, rollout workers do not wait: every sign of life is a rollout.
        rollouts = self.queue.heartbeats[:-1] if self.queue else self.shared.warmup_rollouts
        played = min(int(rollouts.max()) * self.config.num_steps, steps)
        return f"{played:,} of {steps:,} agent steps per environment"

    def _gauges(self) -> dict[str, float]:
        return {
            "charts/learning_rate": self.config.learning_rate_at(self.shared.global_step),
            "a3c/workers_alive": self.pool.workers_alive or int(self.config.workers == 0),
            "a3c/restarts": self.restarts,
            "a3c/nonfinite_updates": self.shared.skipped_updates,
            **self.pool.gauges,
        }

    def _log_and_checkpoint(self) -> None:
        self.metrics.log_if_due(self.shared.global_step, self._gauges(), self._warmup_text)
        self._set_warmup()
        # Not while updates fail: the checkpoint might replace one that training can resume from.
        if not self.checkpointer.due or self._nonfinite_in_a_row:
            return
        if self.pool.sync_state is SyncState.IDLE:
            self.pool.request_sync()
        if self.pool.sync_state is SyncState.READY:
            self.pool.finish_sync()
            self._save()
            # For anyone who reads the log later.
            status = self.metrics.status(self.shared.global_step, self._gauges())
            log.debug("%s", status_line(status))

    def _save(self) -> Path | None:
        state = replace(
            self.metrics.statistics.state(),
            restarts=self.restarts,
            sessions=self.session.index,
            make_env=self.session.make_env,
        )
        return self.checkpointer.save(self.folder, state)

    def _save_last(self, failure: TrainingFailedError | None) -> Path | None:
        """Save at the end of training; return the newest checkpoint, if there is one."""
        # Parameters that give no finite update would only displace a better checkpoint.
        if self.checkpointer.newest is None or not isinstance(failure, NotFiniteError):
            is_lost = self._save() is None and self.shared.global_step > 0
            self._unwritten += is_lost
        return self.checkpointer.newest

    def _conclude(self, failure: TrainingFailedError | None, saved: Path | None) -> int:
        """Write the results, and return the exit code."""
        received, step = self.signals.received, self.shared.global_step
        status = "failed" if failure else "interrupted" if received else "finished"
        self.metrics.log_hparams(step, finished=status == "finished")
        statistics = self.metrics.statistics
        self.session.update_meta(
            status=status,
            global_step=step,
            episodes=statistics.episodes,
            recent_return=statistics.recent_return if statistics.recent else None,
            seconds=round(statistics.elapsed, 1),
        )
        self.metrics.show_last(step, self._gauges())
        skipped = self.shared.skipped_updates
        if skipped and not isinstance(failure, NotFiniteError):
            log.warning("%s skipped, as %s", quantity(skipped, "update"), NOT_FINITE)
        if self._unwritten:
            log.error("not everything was written; see the errors above")
        self.session.log_summary(
            status, failure, saved, step, statistics, can_be_evaluated=self._can_be_evaluated
        )
        if failure or self._unwritten:
            return 1
        return 128 + received if received else 0


def _maker(make_env: EnvironmentFactory) -> str:
    """The name of a custom `make_env`; empty for the environments that settings name."""
    if make_env is make_training_env:
        return ""
    name = getattr(make_env, "__qualname__", type(make_env).__qualname__)
    return f"{make_env.__module__}.{name}"
