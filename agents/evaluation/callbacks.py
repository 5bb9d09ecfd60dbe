"""Callbacks for episodes: progress on the screen, and a sample of the heads' programs."""

import time
from collections.abc import Callable

from agents.evaluation.episode import EpisodeCallback, EpisodeResult, StepResult
from agents.evaluation.results import format_score
from agents.networks.inspection import NeurocoderProgram, PolicyOutput, stack_outputs
from agents.networks.program_statistics import HeadSummary, summarise_programs

SECONDS_BETWEEN_LINES = 10.0
# Consecutive agent steps are much alike, and inspecting the heads costs about as much as acting.
INSPECT_EVERY = 16
# A record goes through a pipe: with the default layer, this many states are 30 kB.
MAX_STATES = 256


class ProgressLines(EpisodeCallback):
    """Prints a line after each episode, and every `SECONDS_BETWEEN_LINES` within one.

    Args:
        label: What is played, such as the mode.
        episodes: How many are to be played.
        print_line: Prints a line.
    """

    def __init__(self, label: str, episodes: int, print_line: Callable[[str], None]) -> None:
        self._label, self._episodes, self._print = label, episodes, print_line
        self._played, self._last_line = 0, time.monotonic()

    def on_step(self, step: StepResult, output: PolicyOutput | None) -> None:  # noqa: ARG002
        """Print a line if the last one was long ago."""
        if time.monotonic() - self._last_line > SECONDS_BETWEEN_LINES:
            self._say(self._played + 1, step_progress(step))

    def on_end(self, result: EpisodeResult) -> None:
        """Print the episode's score."""
        self._played += 1
        self._say(self._played, episode_progress(result))

    def _say(self, number: int, text: str) -> None:
        self._last_line = time.monotonic()
        self._print(f"{self._label} {number}/{self._episodes}: {text}")


def step_progress(step: StepResult) -> str:
    """An episode in progress, in a few words."""
    return f"score {format_score(step.score)} so far, {step.length:,} agent steps"


def episode_progress(result: EpisodeResult) -> str:
    """A finished episode, in a few words."""
    return f"score {format_score(result.score)}, {result.length:,} agent steps"


class EvenSampler(EpisodeCallback):
    """Keeps the programs of at most `MAX_STATES` agent steps, spread evenly over all episodes."""

    inspect_every = INSPECT_EVERY

    def __init__(self) -> None:
        self._kept: list[PolicyOutput] = []
        self._every, self._seen = 1, 0

    def on_step(self, step: StepResult, output: PolicyOutput | None) -> None:  # noqa: ARG002
        """Add what was inspected."""
        if output is not None:
            self.add(output)

    def add(self, output: PolicyOutput) -> None:
        """Add one output; those without a Neurocoder program are ignored."""
        programs = (output.actor, output.critic)
        if not any(isinstance(program, NeurocoderProgram) for program in programs):
            return
        if self._seen % self._every == 0:
            if len(self._kept) == MAX_STATES:
                del self._kept[1::2]
                self._every *= 2
            # After thinning, this output may no longer be one to keep.
            if self._seen % self._every == 0:
                self._kept.append(output)
        self._seen += 1

    def summary(self) -> dict[str, HeadSummary]:
        """Summarise the heads that are Neurocoders; empty if nothing was added."""
        if not self._kept:
            return {}
        outputs = stack_outputs(self._kept)
        heads = {"actor": outputs.actor, "critic": outputs.critic}
        return {
            name: summarise_programs(program)
            for name, program in heads.items()
            if isinstance(program, NeurocoderProgram)
        }
