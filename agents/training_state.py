"""TrainingState: what a run keeps in its checkpoints besides tensors."""

import dataclasses
import json
import math
from dataclasses import dataclass, field
from typing import Any

# Larger numbers are taken for damage.
_MAX = 10**15


@dataclass(frozen=True)
class TrainingState:
    """The counters and results of a run.

    Attributes:
        global_step: Agent steps learned from.
        updates: Optimizer steps.
        skipped_updates: Updates skipped because their gradient was not finite.
        episodes: Training episodes that have ended.
        recent_games: Score and length, in agent steps, of the last training episodes.
        best_return: The highest score of a training episode; None before the first.
        seconds: Training time, earlier sessions included.
        restarts: Processes that died and were replaced.
        evaluation: The last evaluation, as text.
        mean_return: The mean score that made this the best checkpoint; None in others.
        config: The settings of the run.
        sessions: How often the run had been resumed before.
        make_env: What made its environments: the name of a custom `make_env`, or empty if the
            settings name the environment; None in checkpoints of older versions.
    """

    global_step: int = 0
    updates: int = 0
    skipped_updates: int = 0
    episodes: int = 0
    recent_games: tuple[tuple[float, int], ...] = ()
    best_return: float | None = None
    seconds: float = 0.0
    restarts: int = 0
    evaluation: str = ""
    mean_return: float | None = None
    config: dict[str, Any] = field(default_factory=dict)
    sessions: int = 0
    make_env: str | None = None

    def to_json(self) -> str:
        """The state as JSON, without the entries that have their defaults."""
        defaults = dataclasses.asdict(TrainingState())
        values = dataclasses.asdict(self)
        changed = {name: value for name, value in values.items() if value != defaults[name]}
        return json.dumps({"global_step": self.global_step, **changed})

    @classmethod
    def from_json(cls, text: str) -> "TrainingState":
        """Read a state; missing entries get their defaults, unknown ones are ignored.

        Raises:
            ValueError: If a run cannot continue with these values; the message names the entry.
        """
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"its progress is not JSON ({error})") from error
        if not isinstance(values, dict) or "global_step" not in values:
            raise ValueError("does not say how many steps it was trained for")
        known = {
            spec.name: values[spec.name] for spec in dataclasses.fields(cls) if spec.name in values
        }
        for name, value in known.items():
            if not _CHECKS[name](value):
                raise ValueError(f"its {name} cannot be {str(value)[:80]!r}")
        if "recent_games" in known:
            known["recent_games"] = tuple(map(tuple, known["recent_games"]))
        return cls(**known)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _MAX


def _is_number(value: Any) -> bool:
    is_small_int = type(value) is int and abs(value) <= _MAX
    return is_small_int or (type(value) is float and math.isfinite(value))


def _are_games(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(game, list) and len(game) == 2 and all(map(_is_number, game)) for game in value
    )


_CHECKS = {
    "global_step": _is_count,
    "updates": _is_count,
    "skipped_updates": _is_count,
    "episodes": _is_count,
    "recent_games": _are_games,
    "best_return": _is_number,
    "seconds": _is_number,
    "restarts": _is_count,
    "evaluation": lambda value: isinstance(value, str),
    "mean_return": _is_number,
    "config": lambda value: isinstance(value, dict),
    "sessions": _is_count,
    "make_env": lambda value: isinstance(value, str),
}
