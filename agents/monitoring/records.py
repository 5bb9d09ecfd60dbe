"""What the processes tell the parent: the record stream."""

from dataclasses import dataclass, field

from agents.networks.program_statistics import HeadSummary
from envs import Episode


@dataclass
class RolloutRecord:
    """What a worker tells the parent after it has handed a rollout over.

    Attributes:
        worker: its index.
        episodes: whole games that ended.
    """

    worker: int
    episodes: list[Episode]


@dataclass
class UpdateRecord:
    """What a worker, or the learner, tells the parent after an update.

    Attributes:
        worker: its index; the learner's comes after the last worker's.
        episodes: whole games that ended.
        scalars: TensorBoard tag -> value; empty where the update was skipped.
    """

    worker: int
    episodes: list[Episode]
    scalars: dict[str, float]


@dataclass
class EvaluationRecord:
    """What an evaluation found.

    Attributes:
        global_step: when the parameters were taken.
        scalars: TensorBoard tag -> value; empty where it was broken off.
        text: the same for people.
        programs: what the Neurocoder heads composed, if there are any: "actor", "critic".
    """

    global_step: int
    scalars: dict[str, float]
    text: str
    programs: dict[str, HeadSummary] = field(default_factory=dict)
