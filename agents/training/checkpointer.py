"""Checkpointer: decides when a run is saved, and restores the state of a resumed run."""

import logging
import math
import time
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from agents.checkpoint import (
    BEST,
    Checkpoint,
    CheckpointError,
    best_checkpoint,
    load_checkpoint,
    load_newest_checkpoint,
    save_best,
    save_checkpoint,
)
from agents.config import TrainConfig
from agents.networks.flat_parameters import unflatten
from agents.training.shared_state import SharedState
from agents.training_state import TrainingState

log = logging.getLogger("train")


class Checkpointer:
    """Keeps the checkpoints of a run.

    Args:
        config: The settings.
        network: Gives the names and shapes of the parameters; no reference to it is kept.
        shared: The state that is saved and restored.

    Attributes:
        newest: The file that was saved or restored last; None before.
    """

    def __init__(self, config: TrainConfig, network: nn.Module, shared: SharedState) -> None:
        self.config, self.shared = config, shared
        self._shapes = {name: p.shape for name, p in network.named_parameters()}
        self._last_time = time.monotonic()
        self._best_return = float("-inf")
        self.newest: Path | None = None

    @property
    def due(self) -> bool:
        """Whether the interval between checkpoints has passed."""
        return time.monotonic() - self._last_time >= self.config.checkpoint_interval

    def save(self, folder: Path, state: TrainingState) -> Path | None:
        """Write a checkpoint; log a failure instead of raising.

        Args:
            folder: The run directory.
            state: The training state; counters and settings are filled in here.

        Returns:
            The file, or None if nothing was trained yet or nothing could be written.
        """
        self._last_time = time.monotonic()
        if self.shared.global_step == 0:
            return None
        # Counts are read before the parameters: a step counted twice does less harm than a step
        # learned twice.
        state = replace(
            state,
            global_step=self.shared.global_step,
            updates=self.shared.updates,
            skipped_updates=self.shared.skipped_updates,
            config=asdict(self.config),
        )
        parameters, optimizer_state = (
            self.shared.parameters.clone(),
            self.shared.optimizer_state.clone(),
        )
        counts = self.shared.bonus_counts
        checkpoint = Checkpoint(
            unflatten(parameters, self._shapes),
            unflatten(optimizer_state, self._shapes),
            state,
            counts.clone() if len(counts) else None,
        )
        if name := _first_not_finite(checkpoint):
            log.error("no checkpoint was written: %s is not finite", name)
            return None
        keep = self.config.keep_checkpoints
        try:
            self.newest = save_checkpoint(folder / "checkpoints", checkpoint, keep)
        except OSError as error:
            log.error("no checkpoint could be written: %s", error)
            return None
        return self.newest

    def save_if_best(
        self, folder: Path, parameters: Tensor, global_step: int, mean_return: float
    ) -> None:
        """Write `best.safetensors` if no evaluation of this run has been better.

        The score stored with it comes from the evaluation that selected it, and so is too high on
        average. Results are therefore reported for the latest checkpoint.

        Args:
            folder: The run directory.
            parameters: The parameters that were evaluated, shape (N,).
            global_step: The step at which they were copied.
            mean_return: The mean raw score of the sampled episodes; if it is not finite, nothing is
                written.
        """
        if not math.isfinite(mean_return) or mean_return <= self._best_return:
            return
        state = TrainingState(global_step, mean_return=mean_return, config=asdict(self.config))
        checkpoint = Checkpoint(unflatten(parameters, self._shapes), {}, state)
        try:
            save_best(folder / "checkpoints", checkpoint)
        except OSError as error:
            log.error("%s could not be written: %s", BEST, error)
            return
        self._best_return = mean_return

    def restore(self, folder: Path) -> TrainingState:
        """Fill the shared state from the newest intact checkpoint of a run.

        If it has no optimizer state, the optimizer starts afresh, with a warning.

        Args:
            folder: The run directory.

        Returns:
            The checkpoint's training state.

        Raises:
            CheckpointError: If no checkpoint can be used.
        """
        expected = unflatten(self.shared.parameters, self._shapes)
        path, checkpoint = load_newest_checkpoint(
            folder / "checkpoints",
            expected,
            len(self.shared.optimizer_state),
            self.shared.bonus_counts,
        )
        self.newest = path
        self._copy_into(self.shared.parameters, checkpoint.parameters)
        state = checkpoint.training_state
        if checkpoint.optimizer_state:
            self._copy_into(self.shared.optimizer_state, checkpoint.optimizer_state)
        else:
            log.warning("%s has no optimizer state: the optimizer starts anew", path.name)
            # Adam's bias correction depends on the number of updates in its averages.
            state = replace(state, updates=0)
        if checkpoint.bonus_counts is not None:
            self.shared.bonus_counts.copy_(checkpoint.bonus_counts)
        self.shared.counters[-1] = torch.tensor(
            [state.global_step, state.updates, state.skipped_updates]
        )
        try:
            best = load_checkpoint(best_checkpoint(folder / "checkpoints"), expected)
        except CheckpointError:
            return state  # none yet, or damaged: the next evaluation writes one
        if best.training_state.mean_return is not None:
            self._best_return = best.training_state.mean_return
        return state

    def _copy_into(self, flat: Tensor, values: dict[str, Tensor]) -> None:
        for name, view in unflatten(flat, self._shapes).items():
            view.copy_(values[name])


def _first_not_finite(checkpoint: Checkpoint) -> str | None:
    """The first tensor with a value that is not finite, by its name in the file."""
    groups = {"parameters": checkpoint.parameters, "statistics": checkpoint.optimizer_state}
    for group, tensors in groups.items():
        for name, tensor in tensors.items():
            if not bool(tensor.isfinite().all()):
                return f"{group}/{name}"
    return None
