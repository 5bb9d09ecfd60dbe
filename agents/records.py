"""What workers tell the parent: the record stream."""

from dataclasses import dataclass

from envs import Episode


@dataclass
class UpdateRecord:
    """What a worker tells the parent after an update.

    Attributes:
        worker: its index.
        episodes: whole games that ended.
        scalars: TensorBoard tag -> value; empty where the update was skipped.
    """

    worker: int
    episodes: list[Episode]
    scalars: dict[str, float]


@dataclass
class CrashRecord:
    """The last words of a worker that raised.

    Attributes:
        worker: its index.
        traceback: as text.
    """

    worker: int
    traceback: str
