"""Records that child processes send to the trainer, besides the updates of `agents.a3c.update`."""

from dataclasses import dataclass, field

from agents.networks.program_statistics import HeadSummary
from envs import Episode


@dataclass
class RolloutRecord:
    """Sent by a worker after it has committed a rollout to the queue.

    Attributes:
        episodes: Episodes that ended.
    """

    episodes: list[Episode]


@dataclass
class EvaluationRecord:
    """Results of an evaluation.

    Attributes:
        global_step: Global step of the evaluated parameters.
        scalars: TensorBoard tag -> value; empty if the evaluation was aborted.
        text: The same as text.
        programs: "actor", "critic" -> program statistics, if these are Neurocoder heads.
        unwritten: The number of files, or rows, that could not be written.
    """

    global_step: int
    scalars: dict[str, float]
    text: str
    programs: dict[str, HeadSummary] = field(default_factory=dict)
    unwritten: int = 0
