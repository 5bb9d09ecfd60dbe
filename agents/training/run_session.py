"""A session of a run, new or resumed: its directory, lock, restored state and log."""

import contextlib
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from shlex import quote
from typing import Any

from agents.checkpoint import CheckpointError, recorded_make_env
from agents.config import SettingError, TrainConfig, flag, non_defaults
from agents.errors import UserError
from agents.evaluation.results import truncate_after_step
from agents.monitoring.console import format_seconds
from agents.monitoring.metrics import TrainingStatistics
from agents.run_folder import (
    create_run_folder,
    lock_run_folder,
    open_run,
    resume_run_folder,
    update_meta,
)
from agents.system.files import remove_stale_temp_files
from agents.system.output import LevelFormatter, quantity
from agents.system.processes import reaper
from agents.training.checkpointer import Checkpointer
from agents.training.worker_process import spread_workers
from agents.training_state import TrainingState

log = logging.getLogger("train")

# A learning rate below this share of the first one unlearns nothing.
_LITTLE = 0.05


class RunSession:
    """Creates a run directory, or restores the run in an existing one.

    Args:
        config: The settings.
        argv: The command line.
        checkpointer: Fills the shared state from the newest intact checkpoint.
        make_env: What makes the environments, as in `TrainingState`.

    Attributes:
        folder: The run directory, locked until `close`.
        index: How often the run was resumed; 0 in its first session.
        state: The training state of the checkpoint that was resumed; None in the first session.

    Raises:
        SettingError: If the run directory cannot be written to, or the run cannot be resumed.
    """

    def __init__(
        self,
        config: TrainConfig,
        argv: Sequence[str],
        checkpointer: Checkpointer,
        make_env: str = "",
    ) -> None:
        self.config, self.make_env, self.index = config, make_env, 0
        self._log_handlers: list[logging.Handler] = []
        self.state: TrainingState | None = None
        self._planned = config  # until this session
        if config.resume:
            self.folder = Path(config.resume)
            self._lock = lock_run_folder(self.folder)
            remove_stale_temp_files(self.folder)
            try:
                _, self._planned = open_run(self.folder)
                self.state = _restore(config, self.folder, checkpointer)
                recorded = resume_run_folder(config, argv, self.state.global_step)
                # The checkpoint knows too, if meta.json was lost: sessions have different seeds.
                self.index = max(recorded, self.state.sessions + 1)
            except UserError:
                self._lock.close()
                raise
        else:
            self.folder = create_run_folder(config, argv)
            self._lock = lock_run_folder(self.folder)
        reaper().clean_temp_files_on_exit(self.folder)

    def start_logging(self, screen: logging.Handler) -> None:
        """Log to the terminal and, with times and in more detail, to `train.log`.

        Args:
            screen: The handler for the terminal.
        """
        log.setLevel(logging.DEBUG)
        log.propagate = False
        screen.setFormatter(LevelFormatter())
        if screen.level == logging.NOTSET:
            screen.setLevel(logging.INFO)
        file = _LogFile(self.folder / "train.log")
        file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        self._log_handlers = [screen, file]
        for handler in self._log_handlers:
            log.addHandler(handler)

    def truncate_evaluations(self) -> None:
        """Remove evaluations of steps after the checkpoint; log a failure instead of raising."""
        if self.state is None:
            return
        try:
            truncate_after_step(self.folder, self.state.global_step)
        except OSError as error:
            log.error("evaluations after the resumed checkpoint could not be removed: %s", error)

    def update_meta(self, **changes: Any) -> None:
        """Change entries of the run's `meta.json`; log a failure instead of raising."""
        try:
            update_meta(self.folder, **changes)
        except (OSError, ValueError) as error:
            log.error("meta.json could not be written: %s", error)

    def close(self) -> None:
        """Close the log and release the lock."""
        for handler in self._log_handlers:
            log.removeHandler(handler)
            handler.close()
        self._lock.close()

    def log_start(self, num_parameters: int) -> None:
        """Log what is trained.

        Args:
            num_parameters: The number of the network's parameters.
        """
        config = self.config
        processes = len(spread_workers(config))
        if config.uses_cluster:
            where = f"on the cluster {config.cluster}"
        else:
            where = f"in {processes} processes" if processes > 1 else "in one process"
        log.info(
            "%s, %s head, %s x %s %s, %s parameters, into %s",
            config.game,
            config.head,
            quantity(max(config.workers, 1), "worker"),
            quantity(config.envs_per_worker, "environment"),
            where,
            f"{num_parameters:,}",
            self.folder,
        )
        changed = [
            f"{flag(name)} {value}"
            for name, value in non_defaults(config).items()
            if name != "resume"
        ]
        log.debug("settings other than the defaults: %s", " ".join(changed) or "none")
        if self.state:
            step = self.state.global_step
            log.info("resuming from agent step %s", f"{step:,}")
            before = self._planned.learning_rate_at(step)
            now = config.learning_rate_at(step)
            if now > max(2.0 * before, _LITTLE * config.learning_rate):
                log.warning(
                    "the learning rate rises from %.2g to %.2g because the budget was raised: "
                    "scores may fall before they rise",
                    before,
                    now,
                )

    def log_summary(
        self,
        status: str,
        failure: Exception | None,
        saved: Path | None,
        global_step: int,
        statistics: TrainingStatistics,
        *,
        can_be_evaluated: bool,
    ) -> None:
        """Log the results, and what can be done with them.

        Args:
            status: "finished", "interrupted" or "failed".
            failure: Why the run failed, if it did.
            saved: The newest checkpoint, if there is one.
            global_step: Agent steps of the run.
            statistics: The run's statistics.
            can_be_evaluated: Whether `agents.evaluate` can make the environment.
        """
        skip = self.config.frame_skip
        log.info(
            "%s: %s agent steps%s in %s, %s episodes, mean return %s",
            status,
            f"{global_step:,}",
            f" ({global_step * skip:,} frames)" if skip > 1 else "",
            format_seconds(statistics.elapsed),
            f"{statistics.episodes:,}",
            statistics.recent_return_text,
        )
        if failure:
            log.error("the run failed: %s", failure)
        log.info("checkpoint: %s", saved or "none was saved")
        if saved and global_step < self.config.total_timesteps:
            if self.make_env:
                how = f'train(replace(config, resume="{self.folder}"), make_env={self.make_env})'
            else:
                how = f"python train_a3c.py --resume {quote(str(self.folder))}"
            log.info("resume it: %s", how)
        log.info("curves: tensorboard --logdir %s", quote(self.config.run_dir))
        if saved and can_be_evaluated:
            log.info(
                "watch it play: python -m agents.evaluate %s --episodes 1 --mode sampled --record",
                quote(str(self.folder)),
            )


def check_environments(folder: Path, make_env: str) -> None:
    """Refuse to resume with environments that are made differently than in earlier sessions.

    Args:
        folder: The run directory.
        make_env: What makes them now, as in `TrainingState`.

    Raises:
        SettingError: If the settings named them and now a custom `make_env` would make them, or
            vice versa.
    """
    before = recorded_make_env(folder / "checkpoints")
    if before is None or bool(before) == bool(make_env):
        return  # a custom make_env may merely have been renamed
    was, now = (
        f"those of {maker}" if maker else "those that its settings name"
        for maker in (before, make_env)
    )
    how = "from Python with that make_env" if before else "without a make_env"
    allowed = f"its environments were {was}, and would now be {now}; resume it {how}"
    raise SettingError("resume", folder, allowed)


class _LogFile(logging.FileHandler):
    """`train.log`; lines are lost while the disk is full, as the terminal shows them too."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            super().close()


def _restore(config: TrainConfig, folder: Path, checkpointer: Checkpointer) -> TrainingState:
    try:
        state = checkpointer.restore(folder)
    except CheckpointError as error:
        raise SettingError("resume", config.resume, str(error)) from error
    if state.global_step >= config.total_timesteps:
        allowed = f"the run has {state.global_step:,} agent steps already; to resume, raise it"
        raise SettingError("total_timesteps", config.total_timesteps, allowed)
    return state
