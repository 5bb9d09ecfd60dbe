"""The evaluate command's work: load the agent, play, save, and print the results."""

import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

import torch
from rich.console import Console
from rich.measure import Measurement
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table

from agents.cli import warn_of_assumptions
from agents.errors import UserError
from agents.evaluation.callbacks import ProgressLines, episode_progress, step_progress
from agents.evaluation.episode import EpisodeCallback, EpisodeResult, StepResult
from agents.evaluation.load_agent import LoadedAgent, load_agent
from agents.evaluation.overlay import overlay_factory
from agents.evaluation.recorder import Recorder
from agents.evaluation.results import (
    EvaluationRow,
    Summary,
    append_evaluation,
    summarise,
)
from agents.evaluation.runner import RANDOM, episode_seeds, evaluate_policy
from agents.evaluation.tables import evaluation_table, milestone_table
from agents.networks.inspection import PolicyOutput
from agents.run_folder import open_run
from agents.system.files import remove_stale_temp_files
from agents.system.output import TolerantStream, warn
from agents.system.resources import free_disk_space
from agents.system.signals import StopSignals

# Enough for some minutes of video; checked before playing.
MIN_RECORDING_BYTES = 8 * 2**20
_WIDEST_TABLE = 1000


class EvaluationSession:
    """One evaluation: plays each mode, and saves the results.

    Args:
        run: The run directory, or a link to it.
        checkpoint: As in `load_agent`; random play alone needs none.
        modes: The modes to play, in this order.
        seed: The episodes' seeds follow from it.
        record: Whether to write videos and replays.
        overlay: Whether the videos show what the network computed beside the game.

    Raises:
        RunFolderError: If this is not a run directory.
        CheckpointError: If it has no such checkpoint.
    """

    def __init__(
        self,
        run: str | Path,
        checkpoint: str,
        modes: Sequence[str],
        seed: int,
        *,
        record: bool,
        overlay: bool = False,
    ) -> None:
        torch.set_num_threads(1)
        # Results are saved even if the terminal is closed.
        self._console = Console(file=_standard_output(), highlight=False, markup=False, emoji=False)
        self.modes, self.seed = modes, seed
        self.folder, self.config = open_run(run)
        warn_of_assumptions(self.folder)
        self.agent: LoadedAgent | None = None
        if set(modes) != {RANDOM}:
            self.agent = load_agent(self.folder, self.config, checkpoint)
        self._unwritten = 0
        self.recorder: Recorder | None = None
        if record:
            _check_room(self.folder)
            global_step = self.agent.global_step if self.agent else None
            self.recorder = Recorder(
                self.folder,
                self.config,
                self.agent.checkpoint if self.agent else "",
                global_step,
                overlay_factory(self.config, global_step) if overlay else None,
            )
        # Of an evaluation that was killed. Checkpoints are left alone: a training in another
        # container may be writing one, whose process number means nothing here.
        for name in ("videos", "replays"):
            remove_stale_temp_files(self.folder / name)
        self._signals = StopSignals()

    def run(self, episodes: int) -> int:
        """Play a number of episodes in each mode, save and print the results.

        After Ctrl-C, SIGTERM or SIGHUP the episodes finished until then count.

        Returns:
            The exit code: 0; 1 if a result or recording could not be written; otherwise 130, 143 or
            129 after such a signal.
        """
        what = "random play"
        if self.agent is not None:
            what = f"{self.agent.checkpoint}, {self.agent.global_step:,} agent steps"
        heading = f"{self.config.game}, {self.config.head} head, {what}"
        self._console.print(heading, soft_wrap=True)
        summaries = []
        with self._signals:
            for mode in self.modes:
                results = [] if self._stopped() else self._play(mode, episodes)
                if results:
                    summaries.append(summarise(self.config.game, results))
                    self._save(summaries[-1])
        if summaries:
            self._print_table(evaluation_table(self.config.game, summaries))
            if reached := milestone_table(self.config.game, summaries):
                self._print_table(reached)
        self._print_paths()
        if received := self._signals.received:
            self._console.print("stopped before all episodes were played")
        if self._unwritten or (self.recorder and self.recorder.unwritten):
            return 1
        return 128 + received if received else 0

    def _play(self, mode: str, episodes: int) -> list[EpisodeResult]:
        network = None if self.agent is None or mode == RANDOM else self.agent.network
        seeds = episode_seeds(self.seed, episodes)
        with _progress(mode, episodes, self._console) as progress:
            callbacks = [progress] if self.recorder is None else [self.recorder, progress]
            return evaluate_policy(network, self.config, mode, seeds, callbacks, self._stopped)

    def _stopped(self) -> bool:
        return self._signals.received is not None

    def _print_table(self, table: Table) -> None:
        """Print a table with all digits, even where the terminal is too narrow for its rows."""
        everything = self._console.options.update(width=_WIDEST_TABLE)
        table.width = Measurement.get(self._console, everything, table).maximum
        self._console.print(table, crop=False)

    def _print_paths(self) -> None:
        recorded = [] if self.recorder is None else [self.recorder.replays, self.recorder.videos]
        for paths in filter(None, recorded):
            more = f" and {len(paths) - 1} more there" if len(paths) > 1 else ""
            # Not wrapped: a path is to be copied whole.
            self._console.print(f"recorded {paths[0]}{more}", soft_wrap=True)

    def _save(self, summary: Summary) -> None:
        agent = None if summary.mode == RANDOM else self.agent
        row = EvaluationRow(
            wall_time=time.time(),
            source="evaluate",
            checkpoint=agent.checkpoint if agent else "",
            global_step=agent.global_step if agent else None,
            summary=summary,
            seed=self.seed,
        )
        try:
            append_evaluation(self.folder, row)
        except OSError as error:
            self._unwritten += 1
            warn(f"the result was not saved: {error}")


def _check_room(folder: Path) -> None:
    """Raises UserError if recordings cannot be written into a run directory."""
    free = free_disk_space(folder)
    if free < MIN_RECORDING_BYTES:
        raise UserError(
            f"{folder}: --record needs {MIN_RECORDING_BYTES / 2**20:.0f} MiB, "
            f"{free / 2**20:.1f} are left"
        )
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(f"{folder}: --record cannot write there ({error.strerror})") from error


def _standard_output() -> IO[str] | None:
    # None if it was closed from the start.
    return None if sys.stdout is None else cast("IO[str]", TolerantStream(sys.stdout))


@contextmanager
def _progress(mode: str, episodes: int, console: Console) -> Iterator[EpisodeCallback]:
    """A bar on a terminal that can redraw it; elsewhere, lines."""
    if not console.is_terminal or console.is_dumb_terminal:
        yield ProgressLines(mode, episodes, console.print)
        return
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[now]}"),
        console=console,
    ) as bar:
        yield _ProgressBar(bar, bar.add_task(mode, total=episodes, now=""))


class _ProgressBar(EpisodeCallback):
    def __init__(self, bar: Progress, task: TaskID) -> None:
        self._bar, self._task = bar, task

    def on_step(self, step: StepResult, output: PolicyOutput | None) -> None:  # noqa: ARG002
        if step.length % 20 == 0:
            self._bar.update(self._task, now=step_progress(step))

    def on_end(self, result: EpisodeResult) -> None:
        self._bar.update(self._task, advance=1, now=episode_progress(result))
