"""The evaluator: plays whole games with a snapshot of the parameters, beside the training."""

import logging
import queue
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from torch import Tensor

from agents.config import TrainConfig
from agents.evaluation.episode import EpisodeResult, StepResult
from agents.evaluation.recorder import Recorder
from agents.evaluation.results import TRAINING, EvaluationRow, Summary, append_evaluation, summarise
from agents.evaluation.runner import GREEDY, SAMPLED, evaluate_policy, make_network
from agents.monitoring.records import EvaluationRecord
from agents.networks.actor_critic import ActorCritic
from agents.networks.flat_parameters import flatten_parameters_
from agents.networks.program_statistics import INSPECT_EVERY, EvenSampler
from agents.system.child_process import (
    ChildProcess,
    init_child,
    reap,
    report_crash,
    start_child,
)
from agents.system.files import remove_stale_temp_files
from agents.system.messages import send
from agents.system.processes import process_context
from agents.system.watchdog import Watchdog
from agents.training import FORKSERVER_PRELOAD
from agents.training.shared_state import SharedState

log = logging.getLogger("train")

# So many evaluators may die in a row without an evaluation that comes to its end in between.
MAX_DEATHS_IN_A_ROW = 4
# An evaluator may be silent for so long. It says nothing while it checks a long video.
HANG_TIMEOUT_S = 600.0


class EvaluatorProcess:
    """The supervisor's side: decides when to evaluate, and keeps the evaluator process.

    Evaluation is a service to those who watch: whatever happens to it, training goes on.

    Args:
        config: the settings.
        shared: its parameters are evaluated.
        folder: of the run.

    Attributes:
        deaths: how many evaluator processes died.
    """

    def __init__(self, config: TrainConfig, shared: SharedState, folder: Path) -> None:
        self.config, self.shared, self.folder = config, shared, folder
        # What is evaluated: copied from the parameters that the workers go on changing.
        self._snapshot = shared.parameters.clone().share_memory_()
        self._child: ChildProcess | None = None
        self._evaluating: int | None = None
        self.deaths = self._deaths_in_a_row = 0
        # Decisions that the evaluator process has played; written by it alone.
        self._decisions = torch.zeros(1, dtype=torch.int64).share_memory_()
        self._heartbeats: Watchdog[str] = Watchdog(HANG_TIMEOUT_S)
        self._next_step = self._first_due_after(shared.global_step)

    @property
    def due(self) -> bool:
        """Whether the interval between evaluations has passed, and none is under way."""
        return (
            self.config.eval_interval > 0
            and self._evaluating is None
            and self._deaths_in_a_row < MAX_DEATHS_IN_A_ROW
            and self.shared.global_step >= self._next_step
        )

    @property
    def children(self) -> list[ChildProcess]:
        """The evaluator process, if there is one."""
        return [self._child] if self._child else []

    def evaluate_in_process(self, should_stop: Callable[[], bool]) -> EvaluationRecord:
        """Evaluate in this process."""
        step = self._take_snapshot()
        network = make_network(self.config)
        flatten_parameters_(network).parameters.copy_(self._snapshot)
        return play_evaluation(self.config, self.folder, network, step, should_stop)

    def poll(self) -> None:
        """Have the evaluator process begin if it is time, and kill it if it hangs."""
        busy = self._child if self._evaluating is not None else None
        if busy and self._heartbeats.check({busy.name: int(self._decisions)}):
            timeout = self._heartbeats.timeout
            log.warning("the evaluator has done nothing for %.0f s; killing it", timeout)
            busy.kill()
        if not self.due:
            return
        step = self._take_snapshot()
        try:
            if self._child is None:
                self._child = start_child(
                    process_context(FORKSERVER_PRELOAD),
                    "evaluator",
                    run_evaluator,
                    *(self.config, self.folder, self._snapshot, self._decisions),
                )
            self._child.connection.send(step)
        except OSError as error:  # it died just now, or could not be started
            log.warning("the evaluator could not be asked: %s", error)
            self.on_exit()

    def finish(self, record: EvaluationRecord) -> Tensor:
        """Note that an evaluation has ended; return the parameters it was of, shape (N,)."""
        self._evaluating = None
        self._deaths_in_a_row = 0
        self._next_step = self._first_due_after(max(record.global_step, self.shared.global_step))
        return self._snapshot.clone()

    def on_exit(self) -> None:
        """The evaluator has ended: reap it; another one begins at the next evaluation."""
        how = self._reap()
        self._evaluating = None
        self.deaths += 1
        self._deaths_in_a_row += 1
        if self._deaths_in_a_row == MAX_DEATHS_IN_A_ROW:
            log.error("the evaluator died (%s) once too often: no more evaluations", how)
        else:
            log.warning("the evaluator died (%s); training goes on", how)
        self._next_step = self._first_due_after(self.shared.global_step)

    def stop(self) -> None:
        """End the evaluator process at once; an evaluation under way is dropped."""
        if self._child:
            self._child.kill()
            self._reap()

    def _reap(self) -> str:
        """Free what the evaluator held; return how it ended."""
        if self._child is None:
            return "not started"
        how = reap(self._child)
        self._child = None
        remove_stale_temp_files(self.folder)  # of a video, perhaps
        return how

    def _take_snapshot(self) -> int:
        step = self.shared.global_step
        self._snapshot.copy_(self.shared.parameters)
        self._evaluating = step
        return step

    def _first_due_after(self, step: int) -> int:
        interval = max(self.config.eval_interval, 1)
        return (step // interval + 1) * interval


def run_evaluator(
    connection: Connection,
    config: TrainConfig,
    folder: Path,
    snapshot: Tensor,
    decisions: Tensor,
) -> None:
    """The evaluator process: for every step number that comes, evaluate the snapshot of that step.

    Args:
        connection: to the parent.
        config: the settings.
        folder: of the run.
        snapshot: parameters, shared, shape (N,); they stay as they are until the answer is sent.
        decisions: shared, int64, shape (1,): counts on with every decision, as a sign of life.
    """

    def show_progress() -> bool:
        decisions.add_(1)
        return False

    requests: queue.SimpleQueue[int] = queue.SimpleQueue()
    init_child(connection, on_message=requests.put)
    with report_crash(connection, "the evaluator"):
        network = make_network(config)
        parameters = flatten_parameters_(network).parameters
        while True:
            step = requests.get()
            parameters.copy_(snapshot)
            record = play_evaluation(config, folder, network, step, show_progress)
            send(connection, record)


def play_evaluation(
    config: TrainConfig,
    folder: Path,
    network: ActorCritic,
    global_step: int,
    should_stop: Callable[[], bool] | None = None,
) -> EvaluationRecord:
    """Play whole games, sampled and greedy, and add them to `eval/evaluations.csv`.

    Args:
        config: the settings.
        folder: of the run.
        network: plays.
        global_step: when its parameters were taken.
        should_stop: asked before each decision; once true, the evaluation is broken off.

    Returns:
        The scores; without any if it was broken off.
    """
    scalars: dict[str, float] = {}
    texts = []
    sampler = EvenSampler()
    for mode in (SAMPLED, GREEDY):
        recorder = _FirstGame(folder, config, global_step=global_step)
        games = evaluate_policy(
            network,
            config,
            mode,
            config.eval_episodes,
            config.seed,
            recorder=recorder if config.capture_video else None,
            should_stop=should_stop,
            # Greedy play may stand still, and would show one state a thousand times.
            on_thought=sampler.add if mode == SAMPLED else None,
            think_every=INSPECT_EVERY,
        )
        if len(games) < config.eval_episodes:
            return EvaluationRecord(global_step, {}, "")
        summary = summarise(config.game, games)
        scalars[f"eval/{mode}_return"] = summary.mean
        scalars[f"eval/{mode}_return_std"] = summary.std
        scalars[f"eval/{mode}_length"] = summary.length
        texts.append(f"{mode} {summary.mean:.1f}")
        _append_result(folder, summary, global_step, config.seed)
    return EvaluationRecord(global_step, scalars, ", ".join(texts), sampler.summary())


class _FirstGame(Recorder):
    """Records the first game it is told of, and lets the others pass."""

    _begun = 0

    def begin(self, mode: str, seed: int) -> None:
        """A game begins."""
        self._begun += 1
        if self._begun == 1:
            super().begin(mode, seed)

    def step(self, step: StepResult) -> None:
        """A decision was played."""
        if self._begun == 1:
            super().step(step)

    def finish(self, game: EpisodeResult) -> None:
        """The game came to its end."""
        if self._begun == 1:
            super().finish(game)


def _append_result(folder: Path, summary: Summary, global_step: int, seed: int) -> None:
    """Add a row to the run's file; if that fails, the scores still reach TensorBoard."""
    row = EvaluationRow(
        wall_time=time.time(),
        source=TRAINING,
        checkpoint="",
        global_step=global_step,
        summary=summary,
        seed=seed,
    )
    try:
        append_evaluation(folder, row)
    except OSError as error:
        log.error("an evaluation was not written down: %s", error)
