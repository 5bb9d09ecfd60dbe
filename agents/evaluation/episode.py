"""The evaluation loop: whole episodes, one after the other, and the callbacks that watch them.

Evaluation, recording, replaying and the report all use `run_episodes`. Nothing in here needs torch,
so that a recorded episode can be replayed without it.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import gymnasium
import numpy as np
import numpy.typing as npt
from ale_py.env import AtariEnv

from envs.config import OBSERVATION_SHAPE

if TYPE_CHECKING:
    from agents.networks.inspection import PolicyOutput

GameEnv = gymnasium.Env[npt.NDArray[Any], int]
Observation = npt.NDArray[Any]


@dataclass(frozen=True)
class StepResult:
    """The result of one agent step.

    Attributes:
        action: The action that was played.
        reward: The raw reward.
        length: Agent steps of this episode so far, this one included.
        score: The raw return of this episode so far.
        newest: What the agent sees after the step: the observation, or only the newest image of a
            stack.
        info: The environment's info; where a callback needs frames, `info["screens"]` is every
            emulator frame of the step.
    """

    action: int
    reward: float
    length: int
    score: float
    newest: Observation
    info: dict[str, Any]


@dataclass(frozen=True, eq=False)
class EpisodeResult:
    """A finished episode.

    Attributes:
        mode: Who played: "sampled", "greedy" or "random".
        seed: The episode's seed.
        score: The raw, undiscounted return.
        length: Agent steps.
        actions: uint8, shape (length,).
        screen_hash: Hash of the console's last screen, see `hash_screen`; empty in environments
            other than Atari games, whose pictures depend on fonts and drivers.
        truncated: Whether the frame limit ended it, rather than the game.
        trajectory_hash: SHA-256 of every action and the observation that followed it, or only the
            newest frame of a stack. Score and last screen alone would not reveal an episode that
            took another way to the same place.
        milestones: What the episode reached, by the names of `envs.MILESTONES`; empty in games that
            have none.
    """

    mode: str
    seed: int
    score: float
    length: int
    actions: npt.NDArray[np.uint8]
    screen_hash: str
    truncated: bool
    trajectory_hash: str = ""
    milestones: Mapping[str, float] = field(default_factory=dict)


class Policy(Protocol):
    """Chooses the actions of episodes: a network, chance, or a recording.

    Attributes:
        mode: Noted in the results: "sampled", "greedy" or "random".
    """

    @property
    def mode(self) -> str:
        """Who plays."""

    def reset(self, seed: int) -> None:
        """Prepare for the episode with this seed."""

    def act(self, observation: Observation) -> int:
        """Choose an action for the episode's next observation."""

    def inspect(self) -> "PolicyOutput | None":
        """What the network computed for the last action; None where no network did."""


class EpisodeCallback:
    """Watches episodes; the base class ignores them.

    After `on_start`, an episode ends in exactly one of `on_end` and `on_abort`.

    Attributes:
        needs_frames: Whether `StepResult.info` must hold the emulator's frames.
        inspect_every: `on_step` gets the policy's output at the first agent step of an episode and
            at every `inspect_every`-th step after it; 0 for never. It costs about as much as
            acting.
    """

    needs_frames: bool = False
    inspect_every: int = 0

    def on_start(self, mode: str, seed: int) -> None:
        """An episode starts."""

    def on_step(self, step: StepResult, output: "PolicyOutput | None") -> None:
        """An agent step was played.

        Args:
            step: What was done, and what came of it.
            output: What the network computed for this step's action; None if it was not asked for,
                or no network acts.
        """

    def on_end(self, result: EpisodeResult) -> None:
        """The episode has ended."""

    def on_abort(self) -> None:
        """The episode was left before its end."""


def needs_frames(callbacks: Iterable[EpisodeCallback]) -> bool:
    """Whether the environment must hand out the emulator's frames."""
    return any(callback.needs_frames for callback in callbacks)


def run_episodes(
    env: GameEnv,
    policy: Policy,
    seeds: Iterable[int],
    callbacks: Sequence[EpisodeCallback] = (),
    should_stop: Callable[[], bool] | None = None,
) -> Iterator[EpisodeResult]:
    """Play an episode for every seed.

    Args:
        env: The environment; made with `keep_screens` where a callback needs frames. The caller
            closes it.
        policy: Chooses the actions.
        seeds: With the actions, a seed determines its whole episode.
        callbacks: Called in this order. What they raise aborts the episode.
        should_stop: Called before each agent step; once true, the episode is aborted, and no
            further one starts.

    Yields:
        Every finished episode.
    """
    for seed in seeds:
        result = _run_episode(env, policy, seed, callbacks, should_stop)
        if result is None:
            return
        yield result


def _run_episode(
    env: GameEnv,
    policy: Policy,
    seed: int,
    callbacks: Sequence[EpisodeCallback],
    should_stop: Callable[[], bool] | None,
) -> EpisodeResult | None:
    """The finished episode, or None if it was stopped."""
    result: EpisodeResult | None = None
    try:
        for callback in callbacks:
            callback.on_start(policy.mode, seed)
        result = _play(env, policy, seed, callbacks, should_stop)
    finally:
        if result is None:
            for callback in callbacks:
                callback.on_abort()
    if result is not None:
        for callback in callbacks:
            callback.on_end(result)
    return result


def _play(
    env: GameEnv,
    policy: Policy,
    seed: int,
    callbacks: Sequence[EpisodeCallback],
    should_stop: Callable[[], bool] | None,
) -> EpisodeResult | None:
    observation, _ = env.reset(seed=seed)
    policy.reset(seed)
    actions: list[int] = []
    score, terminated, truncated = 0.0, False, False
    info: dict[str, Any] = {}
    trajectory = hashlib.sha256()
    while not (terminated or truncated):
        if should_stop is not None and should_stop():
            return None
        action = policy.act(observation)
        inspects = [c.inspect_every and len(actions) % c.inspect_every == 0 for c in callbacks]
        output = policy.inspect() if any(inspects) else None
        observation, reward, terminated, truncated, info = env.step(action)
        newest = observation[-1] if observation.shape == OBSERVATION_SHAPE else observation
        trajectory.update(bytes([action]) + newest.tobytes())
        actions.append(action)
        score += float(reward)
        step = StepResult(action, float(reward), len(actions), score, newest, info)
        for callback, wants_output in zip(callbacks, inspects, strict=True):
            callback.on_step(step, output if wants_output else None)
    # Not an Atari game made by its Gymnasium id: that is only rendered for videos.
    is_console = isinstance(env.unwrapped, AtariEnv) and env.unwrapped.spec is None
    screen: Any = env.render() if is_console else None
    return EpisodeResult(
        mode=policy.mode,
        seed=seed,
        score=score,
        length=len(actions),
        actions=np.array(actions, dtype=np.uint8),
        screen_hash=hash_screen(screen) if is_console else "",
        truncated=truncated,
        trajectory_hash=trajectory.hexdigest(),
        milestones=info.get("milestones", {}) if is_console else {},
    )


def hash_screen(screen: npt.NDArray[np.uint8]) -> str:
    """SHA-256 of a screen's size and pixels, in hexadecimal."""
    return hashlib.sha256(f"{screen.shape}".encode() + screen.tobytes()).hexdigest()
