"""One whole game, from a seed to its score: what evaluation, traces and recordings share.

Nothing in here needs torch, so that a recorded game can be replayed without it.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt

GameEnv = gymnasium.Env[npt.NDArray[np.uint8], int]
Screen = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class StepResult:
    """What one decision brought.

    Attributes:
        action: that was played.
        reward: raw.
        length: decisions of this game so far, this one included.
        score: raw, of this game so far.
        info: of the environment; `info["screens"]` where it was made with `keep_screens`.
    """

    action: int
    reward: float
    length: int
    score: float
    info: dict[str, Any]


OnStep = Callable[[StepResult], None]


@dataclass(frozen=True, eq=False)
class EpisodeResult:
    """A finished game.

    Attributes:
        mode: who played: "sampled", "greedy" or "random".
        seed: of the game.
        score: raw, undiscounted.
        length: decisions.
        actions: uint8, shape (length,).
        screen_hash: of the last screen, see `hash_screen`.
        truncated: whether the frame limit ended it, rather than the game.
        trajectory_hash: SHA-256 of every action and the 84x84 frame that followed it. Score and
            last screen alone would not tell of a game that took another way to the same place.
    """

    mode: str
    seed: int
    score: float
    length: int
    actions: npt.NDArray[np.uint8]
    screen_hash: str
    truncated: bool
    trajectory_hash: str = ""


def action_names(env: GameEnv) -> tuple[str, ...]:
    """What the environment's actions are called, such as NOOP and UPFIRE."""
    return tuple(env.unwrapped.get_action_meanings())  # type: ignore[attr-defined]


def hash_screen(screen: Screen) -> str:
    """SHA-256 of a screen's size and pixels, in hexadecimal."""
    return hashlib.sha256(f"{screen.shape}".encode() + screen.tobytes()).hexdigest()


def run_episode(
    env: GameEnv,
    seed: int,
    choose: Callable[[npt.NDArray[np.uint8], bool], int | None],
    mode: str,
    on_step: OnStep | None = None,
) -> tuple[EpisodeResult, bool]:
    """Play one game.

    Args:
        env: is reset here.
        seed: of the game; with the actions it decides everything.
        choose: from an observation, (4, 84, 84) uint8, and whether it is the game's first, to an
            action; None leaves the game where it is.
        mode: noted in the result.
        on_step: is told of every decision.

    Returns:
        The game, and whether it came to its end.
    """
    observation, _ = env.reset(seed=seed)
    actions: list[int] = []
    score, ended, truncated = 0.0, False, False
    course = hashlib.sha256()
    while not ended:
        action = choose(observation, not actions)
        if action is None:
            break
        observation, reward, terminated, truncated, info = env.step(action)
        course.update(bytes([action]) + observation[-1].tobytes())
        actions.append(action)
        score += float(reward)
        ended = terminated or truncated
        if on_step is not None:
            on_step(StepResult(action, float(reward), len(actions), score, info))
    screen: Any = env.render()
    game = EpisodeResult(
        mode=mode,
        seed=seed,
        score=score,
        length=len(actions),
        actions=np.array(actions, dtype=np.uint8),
        screen_hash=hash_screen(screen),
        truncated=truncated,
        trajectory_hash=course.hexdigest(),
    )
    return game, ended
