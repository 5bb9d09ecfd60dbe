"""The evaluator process: plays episodes with a snapshot of the parameters during training."""

import logging
import queue
import time
from collections.abc import Callable, Sequence
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

from torch import Tensor

from agents.config import TrainConfig
from agents.evaluation.callbacks import EvenSampler
from agents.evaluation.episode import EpisodeCallback, StepResult
from agents.evaluation.recorder import Recorder
from agents.evaluation.results import (
    TRAINING,
    EvaluationRow,
    append_evaluation,
    format_score,
    read_evaluations,
    summarise,
)
from agents.evaluation.runner import (
    GREEDY,
    SAMPLED,
    episode_seeds,
    evaluate_policy,
    make_network,
)
from agents.monitoring.records import EvaluationRecord
from agents.networks.actor_critic import ActorCritic
from agents.networks.flat_parameters import flatten_parameters_
from agents.networks.inspection import PolicyOutput
from agents.system.child_process import (
    ChildProcess,
    init_child,
    reap,
    report_crash,
    start_child,
)
from agents.system.files import remove_stale_temp_files
from agents.system.messages import ForwardingHandler, send
from agents.system.processes import process_context
from agents.system.watchdog import Watchdog
from agents.training import FORKSERVER_PRELOAD
from agents.training.shared_state import SharedState, shared_zeros

log = logging.getLogger("train")

_GIVEN_UP = "the evaluation at agent step %s was abandoned"
# Give up after this many failures in a row.
MAX_FAILURES_IN_A_ROW = 4
# Kill an evaluator that has made no progress for this long; finishing a long video takes a while.
HANG_TIMEOUT_S = 600.0


class EvaluatorProcess:
    """The supervisor's side: decides when to evaluate, and starts and stops the process.

    Training continues whatever happens to an evaluation.

    Args:
        config: The settings.
        shared: The parameters to evaluate.
        folder: The run directory.

    Attributes:
        deaths: How many evaluator processes died.
    """

    def __init__(self, config: TrainConfig, shared: SharedState, folder: Path) -> None:
        self.config, self.shared, self.folder = config, shared, folder
        # A copy, because the workers go on changing the shared parameters.
        self._snapshot = shared.parameters.clone().share_memory_()
        self._child: ChildProcess | None = None
        self._evaluating: int | None = None
        self.deaths = self._failures_in_a_row = 0
        # Agent steps that the evaluator process has played; only that process writes here.
        self._agent_steps = shared_zeros(1)
        self._heartbeats = Watchdog(HANG_TIMEOUT_S)
        self._next_step = self._first_due(shared.global_step)

    @property
    def due(self) -> bool:
        """Whether the interval between evaluations has passed, and none is under way."""
        return (
            self.config.eval_interval > 0
            and self._evaluating is None
            and self._failures_in_a_row < MAX_FAILURES_IN_A_ROW
            and self.shared.global_step >= self._next_step
        )

    @property
    def is_pending(self) -> bool:
        """Whether an evaluation is under way or due."""
        return self._evaluating is not None or self.due

    @property
    def children(self) -> list[ChildProcess]:
        """The evaluator process, if there is one."""
        return [self._child] if self._child else []

    def evaluate_in_process(self, should_stop: Callable[[], bool]) -> EvaluationRecord | None:
        """Evaluate in this process; log a failure and return None."""
        step = self._take_snapshot()
        try:
            network = make_network(self.config)
            flatten_parameters_(network).parameters.copy_(self._snapshot)
            return play_evaluation(self.config, self.folder, network, step, should_stop=should_stop)
        except Exception:
            log.exception("the evaluation at agent step %s raised", f"{step:,}")
            self._handle_failure("the evaluation failed")
            return None

    def poll(self) -> None:
        """Request an evaluation if one is due, and kill the process if it hangs."""
        busy = self._child if self._evaluating is not None else None
        if busy and self._heartbeats.check({busy.name: int(self._agent_steps)}):
            timeout = self._heartbeats.timeout
            log.warning("the evaluator made no progress for %.0f s; killing it", timeout)
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
                    *(self.config, self.folder, self._snapshot, self._agent_steps),
                )
            self._child.connection.send(step)
        except OSError as error:  # it died just now, or could not be started
            log.warning("the evaluator could not be started or reached: %s", error)
            self.on_exit()

    def finish(self, record: EvaluationRecord) -> Tensor:
        """Handle a completed evaluation; return the parameters it evaluated, shape (N,)."""
        if not record.scalars:
            log.info(_GIVEN_UP, f"{record.global_step:,}")
        self._failures_in_a_row = 0
        self._schedule_next()
        return self._snapshot.clone()

    def on_exit(self) -> None:
        """Handle the evaluator's exit; the next evaluation starts another one."""
        how = self._reap()
        self.deaths += 1
        self._handle_failure(f"the evaluator died ({how})")

    def stop(self) -> None:
        """Kill the evaluator process; an evaluation in progress is lost."""
        if self._evaluating is not None:
            log.info(_GIVEN_UP, f"{self._evaluating:,}")
            self._evaluating = None
        if self._child:
            self._child.kill()
            self._reap()

    def _reap(self) -> str:
        """Free the process's resources; return how it ended."""
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

    def _handle_failure(self, what: str) -> None:
        self._failures_in_a_row += 1
        if self._failures_in_a_row == MAX_FAILURES_IN_A_ROW:
            log.error("%s %s times in a row; evaluation disabled", what, MAX_FAILURES_IN_A_ROW)
        else:
            log.warning("%s; training goes on", what)
        self._schedule_next()

    def _schedule_next(self) -> None:
        """Schedule the next evaluation, however the last one ended.

        Evaluations that fell due meanwhile are skipped, except for the last one of the run.
        """
        now, evaluated, self._evaluating = self.shared.global_step, self._evaluating, None
        is_over = now >= self.config.total_timesteps
        last = evaluated if is_over and evaluated is not None else now
        self._next_step = self._first_due_after(last)

    def _first_due(self, step: int) -> int:
        """The step of the first evaluation in a session that begins at `step`."""
        after = self._first_due_after(step)
        before = after - max(self.config.eval_interval, 1)
        if not (self.config.eval_interval and before):
            return after
        try:
            rows = read_evaluations(self.folder)
        except OSError as error:
            log.error("earlier evaluations could not be read: %s", error)
            return after
        evaluated = max((r.global_step or 0 for r in rows if r.source == TRAINING), default=0)
        # Evaluate at once if the previous session was stopped before it finished this evaluation.
        return after if evaluated >= before else before

    def _first_due_after(self, step: int) -> int:
        interval = max(self.config.eval_interval, 1)
        return (step // interval + 1) * interval


def run_evaluator(
    connection: Connection,
    config: TrainConfig,
    folder: Path,
    snapshot: Tensor,
    agent_steps: Tensor,
) -> None:
    """The evaluator process: for every step number received, evaluate the snapshot of that step.

    Args:
        connection: To the parent.
        config: The settings.
        folder: The run directory.
        snapshot: Shared parameters, shape (N,); unchanged until the answer is sent.
        agent_steps: Shared, int64, shape (1,); counts agent steps, as a heartbeat.
    """
    requests: queue.SimpleQueue[int] = queue.SimpleQueue()
    init_child(connection, on_message=requests.put)
    log.addHandler(ForwardingHandler(partial(send, connection)))
    with report_crash(connection, "the evaluator"):
        network = make_network(config)
        parameters = flatten_parameters_(network).parameters
        while True:
            step = requests.get()
            parameters.copy_(snapshot)
            record = play_evaluation(config, folder, network, step, [_StepCounter(agent_steps)])
            send(connection, record)


def play_evaluation(
    config: TrainConfig,
    folder: Path,
    network: ActorCritic,
    global_step: int,
    callbacks: Sequence[EpisodeCallback] = (),
    should_stop: Callable[[], bool] | None = None,
) -> EvaluationRecord:
    """Play whole episodes, sampled and greedy, and add them to `eval/evaluations.csv`.

    Args:
        config: The settings.
        folder: The run directory.
        network: The network that acts.
        global_step: The step at which its parameters were copied.
        callbacks: Called during each episode.
        should_stop: Called before each agent step; once true, the evaluation is aborted.

    Returns:
        The scores; empty if the evaluation was aborted.
    """
    scalars: dict[str, float] = {}
    texts = []
    rows = []
    sampler = EvenSampler()
    unwritten = 0
    seeds = episode_seeds(config.seed, config.eval_episodes)
    for mode in (SAMPLED, GREEDY):
        # Greedy play may get stuck, and would show the same state a thousand times.
        watching = [*callbacks, sampler] if mode == SAMPLED else callbacks
        first = [Recorder(folder, config, global_step=global_step)] if config.capture_video else []
        # Only the first episode is recorded.
        results = evaluate_policy(
            network, config, mode, seeds[:1], [*first, *watching], should_stop
        )
        results += evaluate_policy(network, config, mode, seeds[1:], watching, should_stop)
        if len(results) < config.eval_episodes:
            return EvaluationRecord(global_step, {}, "")
        summary = summarise(config.game, results)
        if not summary.is_finite:
            text = "evaluation at agent step %s: some scores of %s play are not finite"
            log.warning(text, f"{global_step:,}", mode)
        scalars[f"eval/{mode}_return"] = summary.mean
        scalars[f"eval/{mode}_return_std"] = summary.std
        scalars[f"eval/{mode}_length"] = summary.length
        for name, value in summary.milestones.items():
            scalars[f"eval/{mode}_{name}"] = value
        texts.append(f"{mode} {format_score(summary.mean)}")
        unwritten += sum(recorder.unwritten for recorder in first)
        rows.append(EvaluationRow(time.time(), TRAINING, "", global_step, summary, config.seed))
    try:
        append_evaluation(folder, *rows)
    except OSError as error:  # the scores reach TensorBoard all the same
        log.error("an evaluation was not saved: %s", error)
        unwritten += 1
    return EvaluationRecord(global_step, scalars, ", ".join(texts), sampler.summary(), unwritten)


class _StepCounter(EpisodeCallback):
    def __init__(self, counter: Tensor) -> None:
        self._counter = counter

    def on_step(self, step: StepResult, output: PolicyOutput | None) -> None:  # noqa: ARG002
        self._counter.add_(1)
