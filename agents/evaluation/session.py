"""An evaluation from end to end: load the agent, play, save, and say where everything is."""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from torch import Tensor

from agents.checkpoint import (
    CheckpointError,
    best_checkpoint,
    load_checkpoint,
    load_newest_checkpoint,
)
from agents.config import TrainConfig
from agents.evaluation.episode import EpisodeResult, StepResult
from agents.evaluation.overlay import overlay_factory
from agents.evaluation.recorder import Recorder
from agents.evaluation.results import (
    EvaluationRow,
    Summary,
    append_evaluation,
    evaluation_table,
    summarise,
)
from agents.evaluation.runner import RANDOM, evaluate_policy, make_network
from agents.networks.actor_critic import ActorCritic
from agents.run_folder import open_run
from agents.system.signals import StopSignals

SECONDS_BETWEEN_LINES = 10.0


@dataclass(frozen=True)
class LoadedAgent:
    """A network with the parameters of a checkpoint.

    Attributes:
        network: ready to act.
        checkpoint: the file's name.
        global_step: decisions it was trained for.
    """

    network: ActorCritic
    checkpoint: str
    global_step: int


def load_agent(folder: Path, config: TrainConfig, which: str = "latest") -> LoadedAgent:
    """Build a run's network and fill it.

    Args:
        folder: of the run.
        config: of the run.
        which: "latest" (the newest sound checkpoint), "best", or a file.

    Raises:
        CheckpointError: if there is none that can be used.
    """
    # Shapes without memory, until it is certain that a file really holds as much as settings claim.
    with torch.device("meta"):
        expected: dict[str, Tensor] = dict(make_network(config).named_parameters())
    if which == "latest":
        path, checkpoint = load_newest_checkpoint(folder / "checkpoints", expected)
    else:
        path = best_checkpoint(folder / "checkpoints") if which == "best" else Path(which)
        checkpoint = load_checkpoint(path, expected)
    if not all(bool(parameter.isfinite().all()) for parameter in checkpoint.parameters.values()):
        raise CheckpointError(f"{path}: some parameters are not finite")
    network = make_network(config)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.copy_(checkpoint.parameters[name])
    return LoadedAgent(network, path.name, checkpoint.global_step)


class EvaluationSession:
    """One evaluation: plays mode after mode, and saves what each came to.

    Args:
        run: the folder of a run, or a link to it.
        checkpoint: as in `load_agent`; random play alone needs none.
        modes: to play, in this order.
        seed: of the games.
        record: whether to write videos and traces.
        overlay: whether the videos show what the network thought beside the game.

    Raises:
        RunFolderError: if this is not a run's folder.
        CheckpointError: if it has no such checkpoint.
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
        self.modes, self.seed = modes, seed
        self.folder, self.config = open_run(run)
        self.agent: LoadedAgent | None = None
        if set(modes) != {RANDOM}:
            self.agent = load_agent(self.folder, self.config, checkpoint)
        self.recorder: Recorder | None = None
        if record:
            global_step = self.agent.global_step if self.agent else None
            self.recorder = Recorder(
                self.folder,
                self.config,
                self.agent.checkpoint if self.agent else "",
                global_step,
                overlay_factory(self.config, global_step) if overlay else None,
            )
        self._console = Console(highlight=False)
        self._signals = StopSignals()

    def run(self, episodes: int) -> int:
        """Play so many games in each mode, save and print the result; return the exit code.

        After Ctrl-C or SIGTERM (exit code 130 or 143) the games finished until then count.
        """
        what = "random play"
        if self.agent is not None:
            what = f"{self.agent.checkpoint}, {self.agent.global_step:,} decisions"
        self._console.print(f"{self.config.game}, {self.config.head} head, {what}")
        summaries = []
        with self._signals:
            for mode in self.modes:
                games = [] if self._stopped() else self._play(mode, episodes)
                if games:
                    summaries.append(summarise(self.config.game, games))
                    self._save(summaries[-1])
        if summaries:
            self._console.print(evaluation_table(self.config.game, summaries))
        self._say_where()
        if self._signals.received is None:
            return 0
        self._console.print("stopped before all games were played")
        return 128 + self._signals.received

    def _play(self, mode: str, episodes: int) -> list[EpisodeResult]:
        network = None if self.agent is None or mode == RANDOM else self.agent.network
        with _progress(self._console) as bar:
            task = bar.add_task(mode, total=episodes, now="")
            played, last_line = 0, time.monotonic()

            def say(number: int, text: str) -> None:
                nonlocal last_line
                bar.update(task, completed=played, now=text)
                if bar.disable:
                    last_line = time.monotonic()
                    self._console.print(f"{mode} {number}/{episodes}: {text}")

            def watch(step: StepResult) -> None:
                # A game may take minutes.
                due = time.monotonic() - last_line > SECONDS_BETWEEN_LINES
                if step.length % 20 == 0 and (due or not bar.disable):
                    say(played + 1, f"score {step.score:g} so far, {step.length:,} decisions")

            def count(game: EpisodeResult) -> None:
                nonlocal played
                played += 1
                say(played, f"score {game.score:g}, {game.length:,} decisions")

            return evaluate_policy(
                network,
                self.config,
                mode,
                episodes,
                self.seed,
                recorder=self.recorder,
                progress=count,
                should_stop=self._stopped,
                on_step=watch,
            )

    def _stopped(self) -> bool:
        return self._signals.received is not None

    def _say_where(self) -> None:
        recorded = [] if self.recorder is None else [self.recorder.traces, self.recorder.videos]
        for paths in filter(None, recorded):
            more = f" and {len(paths) - 1} more there" if len(paths) > 1 else ""
            # Not wrapped: a path is to be copied whole.
            self._console.print(f"recorded {paths[0]}{more}", soft_wrap=True, markup=False)

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
            print(f"warning: the result was not saved: {error}", file=sys.stderr)


def _progress(console: Console) -> Progress:
    """A bar on a terminal; elsewhere it shows nothing."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[now]}"),
        console=console,
        disable=not console.is_terminal,
    )
