"""The logger of a run: writes TensorBoard, `progress.csv` and the console at intervals."""

import math
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from agents.config import TrainConfig
from agents.monitoring.console import Display, Status
from agents.monitoring.metrics import TrainingStatistics
from agents.monitoring.progress_csv import PROGRESS_CSV, ProgressCsv, truncate_after_step
from agents.monitoring.tensorboard import TensorBoardWriter
from agents.networks.program_statistics import HeadSummary
from agents.system.output import quantity
from agents.training_state import TrainingState
from envs import PLATEAUS


class TrainingLogger:
    """Writes a run's statistics to its files and shows them on the console.

    A resumed run continues its curves: points after its checkpoint are removed from `progress.csv`,
    and TensorBoard is told to drop them.

    Args:
        folder: The run directory.
        config: The settings.
        display: The console.
        state: The training state of the checkpoint that is resumed; None for a new run.

    Attributes:
        statistics: The statistics of the run.
        display: The console.

    Raises:
        OSError: If `progress.csv` cannot be opened.
    """

    def __init__(
        self,
        folder: Path,
        config: TrainConfig,
        display: Display,
        state: TrainingState | None = None,
    ) -> None:
        self.statistics = TrainingStatistics(state)
        self.display = display
        self._config = config
        # The share of recent episodes above this score is logged.
        self._plateau = PLATEAUS.get(config.game)
        resumed_at = state.global_step if state else None
        if resumed_at is not None:
            truncate_after_step(folder / PROGRESS_CSV, resumed_at)
        self._csv = ProgressCsv(folder)
        # TensorBoard drops earlier events from the purge step on.
        self._tensorboard = TensorBoardWriter(
            folder, purge_step=None if resumed_at is None else resumed_at + 1
        )
        self._last_time = time.monotonic()
        self._written_step = resumed_at

    def add_evaluation(
        self,
        global_step: int,
        scalars: Mapping[str, float],
        text: str,
        programs: Mapping[str, HeadSummary] = MappingProxyType({}),
    ) -> None:
        """Log an evaluation at once.

        Args:
            global_step: Global step of the evaluated parameters.
            scalars: TensorBoard tag -> value.
            text: The same as text.
            programs: Program statistics of Neurocoder heads, if there are any.
        """
        self.statistics.add_evaluation(scalars, text)
        self._tensorboard.add_scalars(scalars, global_step)
        self._tensorboard.add_programs(programs, global_step)

    def log_config(self, global_step: int) -> None:
        """Write the settings to TensorBoard."""
        self._tensorboard.log_config(self._config, global_step)

    def log_hparams(self, global_step: int, *, finished: bool) -> None:
        """Write settings and results for TensorBoard's HPARAMS page.

        Args:
            global_step: Agent steps so far.
            finished: Whether the budget is spent.
        """
        results = self.statistics.results()
        self._tensorboard.log_hparams(self._config, results, global_step, finished=finished)

    def log_if_due(self, global_step: int, gauges: Mapping[str, float], warmup: str = "") -> None:
        """Write a row if the interval has passed, and refresh the console.

        Args:
            global_step: Agent steps so far.
            gauges: TensorBoard tag -> current value.
            warmup: How far the warm-up is, as text; empty when it is over.
        """
        if warmup:
            self.statistics.restart_mean_rate()
        now = time.monotonic()
        due = now - self._last_time >= self._config.log_interval
        if due:
            self._last_time = now
            self._write(global_step, gauges)
        self.display.show(self.status(global_step, gauges, warmup), new_row=due)

    def end_training(self, global_step: int, gauges: Mapping[str, float]) -> None:
        """Write the last row, and stop the clock of training; the console is left to `show_last`.

        Args:
            global_step: Agent steps so far.
            gauges: TensorBoard tag -> current value.
        """
        self._write(global_step, gauges)
        self.statistics.end_training()

    def show_last(self, global_step: int, gauges: Mapping[str, float]) -> None:
        """Show how the run ended, including the last evaluation, and close the console.

        Args:
            global_step: Agent steps so far.
            gauges: TensorBoard tag -> current value.
        """
        self.display.show(self.status(global_step, gauges), new_row=True)
        self.display.close()

    def status(self, global_step: int, gauges: Mapping[str, float], warmup: str = "") -> Status:
        """Return what the console shows; for the arguments see `log_if_due`."""
        statistics, config = self.statistics, self._config
        mean_rate = statistics.mean_steps_per_second(global_step)
        remaining = max(config.total_timesteps - global_step, 0)
        return Status(
            title=f"{config.game}, {config.head}",
            global_step=global_step,
            total_timesteps=config.total_timesteps,
            steps_per_second=statistics.steps_per_second or mean_rate,
            seconds_left=remaining / mean_rate if mean_rate else math.inf,
            elapsed=statistics.elapsed,
            episodes=statistics.episodes,
            recent_return=statistics.recent_return_text,
            best_return=statistics.best_return,
            evaluation=statistics.evaluation,
            workers_alive=int(gauges.get("a3c/workers_alive", 0)),
            restarts=int(gauges.get("a3c/restarts", 0)),
            skipped=int(gauges.get("a3c/nonfinite_updates", 0)),
            cluster=_cluster_text(gauges),
            warmup=warmup,
        )

    def close(self) -> None:
        """Flush and close the files and the console."""
        self.display.close()
        self._tensorboard.close()
        self._csv.close()

    def _write(self, global_step: int, gauges: Mapping[str, float]) -> None:
        # No step has two rows: a run's last row may be due right after another one, and the first
        # row of a resumed run at the step of its checkpoint.
        if global_step == self._written_step:
            return
        self._written_step = global_step
        statistics = self.statistics
        scalars = statistics.end_interval(global_step) | dict(gauges)
        scalars["charts/frames"] = global_step * self._config.frame_skip
        if self._plateau is not None and statistics.recent:
            share = statistics.recent_share_above(self._plateau)
            scalars["charts/recent_past_plateau"] = share
        self._tensorboard.add_scalars(scalars, global_step)
        row: dict[str, object] = {tag.rpartition("/")[2]: v for tag, v in scalars.items()}
        row["wall_time"] = f"{time.time():.3f}"
        row["global_step"] = global_step
        row["episodes"] = statistics.episodes
        if statistics.recent:
            row["recent_return"] = statistics.recent_return
            row["recent_length"] = statistics.recent_length
        self._csv.append(row)


def _cluster_text(gauges: Mapping[str, float]) -> str:
    if "cluster/nodes" not in gauges:
        return ""
    return (
        f"{quantity(round(gauges['cluster/nodes']), 'node')}, "
        f"policy lag {gauges['cluster/policy_lag']:.0f}, "
        f"{quantity(round(gauges['cluster/dropped_gradients']), 'update')} dropped, "
        f"{gauges['cluster/bytes_per_s'] / 1e6:.1f} MB/s"
    )
