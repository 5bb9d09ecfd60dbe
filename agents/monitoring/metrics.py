"""Statistics of training, from the records of workers, learner and evaluator."""

import math
import time
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from statistics import fmean

from agents.config import RECENT_EPISODES
from agents.evaluation.results import format_score
from agents.training_state import TrainingState
from envs import Episode


class TrainingStatistics:
    """Sums and means over a run; writes nothing.

    Args:
        state: The training state of the checkpoint that is resumed; None for a new run.

    Attributes:
        episodes: Number of episodes that ended.
        recent: The last 100 of them.
        best_return: The highest raw return of an episode; NaN before the first.
        evaluation: The last evaluation as text; empty before the first.
        evaluation_scalars: The same as TensorBoard tag -> value.
        steps_per_second: Rate over the last logging interval; 0 before the first ends.
    """

    def __init__(self, state: TrainingState | None = None) -> None:
        state = state or TrainingState()
        self.episodes = state.episodes
        self.best_return = math.nan if state.best_return is None else state.best_return
        recent = [Episode(score, length) for score, length in state.recent_games]
        self.recent: deque[Episode] = deque(recent, maxlen=RECENT_EPISODES)
        self.evaluation = state.evaluation
        self.evaluation_scalars: dict[str, float] = {}
        self.steps_per_second = 0.0

        self._sums: defaultdict[str, float] = defaultdict(float)
        self._counts: defaultdict[str, int] = defaultdict(int)
        self._ended: list[Episode] = []  # in this logging interval
        self._earlier_seconds = state.seconds
        self._start_time = self._interval_time = self._rate_since = time.monotonic()
        self._end_time: float | None = None
        self._start_step = self._interval_step = self._ended_step = state.global_step

    @property
    def recent_return(self) -> float:
        """Mean raw return of the last 100 episodes; NaN before the first."""
        return fmean(e.raw_return for e in self.recent) if self.recent else math.nan

    @property
    def recent_length(self) -> float:
        """Mean length of the last 100 episodes, in agent steps; NaN before the first."""
        return fmean(e.length for e in self.recent) if self.recent else math.nan

    def recent_share_above(self, score: float) -> float:
        """Share of the last 100 episodes with a raw return above a score; NaN before the first."""
        return fmean(e.raw_return > score for e in self.recent) if self.recent else math.nan

    @property
    def recent_return_text(self) -> str:
        """The recent return as text, with the number of episodes."""
        if not self.recent:
            return "-"
        return f"{format_score(self.recent_return)} (last {len(self.recent)})"

    @property
    def elapsed(self) -> float:
        """Seconds of training, earlier sessions included."""
        return self._earlier_seconds + self._now - self._start_time

    @property
    def _now(self) -> float:
        return self._end_time or time.monotonic()

    def end_training(self) -> None:
        """Stop the clock: what follows, such as the last evaluation, is not training."""
        self._end_time = time.monotonic()

    def restart_mean_rate(self) -> None:
        """Leave the time until now, a warm-up, out of the mean rate; it counts as training time."""
        self._rate_since = time.monotonic()

    def mean_steps_per_second(self, global_step: int) -> float:
        """Mean rate of this session."""
        return (global_step - self._start_step) / max(self._now - self._rate_since, 1e-9)

    def state(self) -> TrainingState:
        """What a checkpoint stores of these statistics."""
        # A checkpoint with non-finite numbers would be rejected when it is read.
        finite = [e for e in self.recent if math.isfinite(e.raw_return)]
        return TrainingState(
            episodes=self.episodes,
            recent_games=tuple((e.raw_return, e.length) for e in finite),
            best_return=self.best_return if math.isfinite(self.best_return) else None,
            seconds=self.elapsed,
            evaluation=self.evaluation,
        )

    def add_scalars(self, scalars: Mapping[str, float]) -> None:
        """Add the metrics of an update; values that are not finite are ignored.

        Args:
            scalars: TensorBoard tag -> value.
        """
        for tag, value in scalars.items():
            if math.isfinite(value):
                self._sums[tag] += value
                self._counts[tag] += 1

    def add_episodes(self, episodes: Sequence[Episode]) -> None:
        """Add episodes that ended; returns that are not finite only count as episodes."""
        self.episodes += len(episodes)
        episodes = [episode for episode in episodes if math.isfinite(episode.raw_return)]
        self.recent.extend(episodes)
        self._ended += episodes
        for episode in episodes:
            if not self.best_return >= episode.raw_return:
                self.best_return = episode.raw_return

    def add_evaluation(self, scalars: Mapping[str, float], text: str) -> None:
        """Remember the newest evaluation.

        Args:
            scalars: TensorBoard tag -> value.
            text: The same as text.
        """
        self.evaluation = text
        self.evaluation_scalars = dict(scalars)

    def end_interval(self, global_step: int) -> dict[str, float]:
        """Return the means since the last call, and start the next interval.

        Args:
            global_step: Agent steps so far.

        Returns:
            TensorBoard tag -> value.
        """
        now = time.monotonic()
        seconds = max(now - self._interval_time, 1e-9)
        self.steps_per_second = (global_step - self._interval_step) / seconds
        scalars = {tag: self._sums[tag] / self._counts[tag] for tag in self._sums}
        scalars["charts/SPS"] = self.steps_per_second
        if self._ended:
            scalars["charts/episodic_return"] = fmean(e.raw_return for e in self._ended)
            scalars["charts/episodic_length"] = fmean(e.length for e in self._ended)
            steps = global_step - self._ended_step
            scalars["charts/steps_per_episode"] = steps / len(self._ended)
            self._ended_step = global_step
        self._sums.clear()
        self._counts.clear()
        self._ended.clear()
        self._interval_time, self._interval_step = now, global_step
        return scalars

    def results(self) -> dict[str, float]:
        """The figures that runs are compared by, for TensorBoard's HPARAMS page; may be NaN."""
        results = {
            "recent_return": self.recent_return,
            "best_return": self.best_return,
            "episodes": float(self.episodes),
            "seconds": self.elapsed,
        }
        for mode in ("sampled", "greedy"):
            tag = f"eval/{mode}_return"
            results[f"{mode}_return"] = self.evaluation_scalars.get(tag, math.nan)
        return results
