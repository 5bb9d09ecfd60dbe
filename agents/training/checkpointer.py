"""What of a run is saved, when, and how a run takes it up again."""

import logging
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from agents.checkpoint import (
    BEST,
    Checkpoint,
    CheckpointError,
    load_checkpoint,
    load_newest_checkpoint,
    save_checkpoint,
    write_checkpoint,
)
from agents.config import TrainConfig
from agents.networks.actor_critic import ActorCritic
from agents.networks.flat_parameters import unflatten
from agents.training.shared_state import SharedState

log = logging.getLogger("train")


class Checkpointer:
    """Keeps the checkpoints of a run.

    Args:
        config: the settings.
        network: gives names and shapes of the parameters.
        shared: what is saved, and restored.
    """

    def __init__(self, config: TrainConfig, network: ActorCritic, shared: SharedState) -> None:
        self.config, self.network, self.shared = config, network, shared
        self._last_time = time.monotonic()
        self._best_return = float("-inf")

    @property
    def due(self) -> bool:
        """Whether the interval between checkpoints has passed."""
        return time.monotonic() - self._last_time >= self.config.checkpoint_interval

    def save(self, folder: Path, progress: dict[str, Any]) -> Path | None:
        """Write a checkpoint; if that fails, say so and go on.

        Args:
            folder: of the run.
            progress: what the run knows of itself besides counters and settings.

        Returns:
            The file, or None if nothing was trained yet or nothing could be written.
        """
        self._last_time = time.monotonic()
        if self.shared.global_step == 0:
            return None
        # Counted before the copy: a step counted twice is a smaller harm than one learned twice.
        counts = {
            "global_step": self.shared.global_step,
            "updates": self.shared.updates,
            "skipped_updates": self.shared.skipped_updates,
        }
        parameters, statistics = self.shared.parameters.clone(), self.shared.optimizer_state.clone()
        if not bool(parameters.isfinite().all() and statistics.isfinite().all()):
            log.error("no checkpoint was written: some parameters are not finite")
            return None
        checkpoint = Checkpoint(
            parameters=unflatten(parameters, self.network),
            statistics=unflatten(statistics, self.network),
            progress={**counts, **progress, "config": asdict(self.config)},
        )
        try:
            return save_checkpoint(folder / "checkpoints", checkpoint, self.config.keep_checkpoints)
        except OSError as error:
            log.error("no checkpoint could be written: %s", error)
            return None

    def save_if_best(
        self, folder: Path, parameters: Tensor, global_step: int, mean_return: float
    ) -> None:
        """Write `best.pt` if no evaluation of this run has been better.

        Its score is that of the evaluation which chose it, and so too high on average: results are
        reported of the latest checkpoint.

        Args:
            folder: of the run.
            parameters: those that were evaluated, shape (N,).
            global_step: when they were taken.
            mean_return: mean raw score of the sampled games.
        """
        if mean_return <= self._best_return:
            return
        progress = {
            "global_step": global_step,
            "mean_return": mean_return,
            "config": asdict(self.config),
        }
        checkpoint = Checkpoint(unflatten(parameters, self.network), {}, progress)
        try:
            write_checkpoint(folder / "checkpoints" / BEST, checkpoint)
        except OSError as error:
            log.error("%s could not be written: %s", BEST, error)
            return
        self._best_return = mean_return

    def restore(self, folder: Path) -> dict[str, Any]:
        """Fill the shared state from the newest sound checkpoint of a run.

        Args:
            folder: of the run.

        Returns:
            The checkpoint's `progress`.

        Raises:
            CheckpointError: if there is none that can be used.
        """
        expected = unflatten(self.shared.parameters, self.network)
        _, checkpoint = load_newest_checkpoint(
            folder / "checkpoints", expected, len(self.shared.optimizer_state)
        )
        progress = checkpoint.progress
        _fill(self.shared.parameters, checkpoint.parameters, self.network)
        _fill(self.shared.optimizer_state, checkpoint.statistics, self.network)
        counts = [progress.get(key, 0) for key in ("global_step", "updates", "skipped_updates")]
        self.shared.counters[-1] = torch.tensor(counts)
        try:
            best = load_checkpoint(folder / "checkpoints" / BEST, expected)
            self._best_return = float(best.progress["mean_return"])
        except (CheckpointError, KeyError):
            pass  # none yet, or damaged: the next evaluation writes one
        return progress


def _fill(flat: Tensor, values: dict[str, Tensor], network: ActorCritic) -> None:
    for name, view in unflatten(flat, network).items():
        view.copy_(values[name])
