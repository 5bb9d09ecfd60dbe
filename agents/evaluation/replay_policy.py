"""Playing a recorded episode again, and checking that it is the same.

Nothing in here needs torch.
"""

from collections.abc import Sequence
from contextlib import closing
from typing import TYPE_CHECKING

from agents.evaluation.episode import (
    EpisodeCallback,
    EpisodeResult,
    Observation,
    needs_frames,
    run_episodes,
)
from agents.evaluation.replay_file import Replay, ReplayError, env_version
from envs import AtariConfig, make_evaluation_env, num_actions

if TYPE_CHECKING:
    from agents.evaluation.runner import StatefulNetwork
    from agents.networks.inspection import PolicyOutput


class ReplayMismatchError(Exception):
    """A replay did not reproduce the recorded episode; the message says what differs."""


class ReplayPolicy:
    """Plays recorded actions; what a network computes from the observations can be shown too.

    Args:
        recorded: The episode to play again.
        network: Sees the observations; its output goes to callbacks.
    """

    def __init__(self, recorded: EpisodeResult, network: "StatefulNetwork | None" = None) -> None:
        self.mode = recorded.mode
        self._recorded, self._network = recorded, network

    def reset(self, seed: int) -> None:  # noqa: ARG002
        """Start with the first action."""
        self._actions = iter(self._recorded.actions.tolist())
        if self._network is not None:
            self._network.reset()

    def act(self, observation: Observation) -> int:
        """The next recorded action.

        Raises:
            ReplayMismatchError: If there is none left.
        """
        if self._network is not None:
            self._network.forward(observation)
        action: int | None = next(self._actions, None)
        if action is None:
            raise ReplayMismatchError("the game has not ended after its last action")
        return action

    def inspect(self) -> "PolicyOutput | None":
        """What the network computed for the last observation."""
        return None if self._network is None else self._network.inspect()


def verify_replay(
    replay: Replay,
    callbacks: Sequence[EpisodeCallback] = (),
    network: "StatefulNetwork | None" = None,
) -> EpisodeResult:
    """Play a replay's actions, and compare the outcome with the recorded one.

    Args:
        replay: The episode to play again.
        callbacks: Called during the episode.
        network: Sees the observations, as in `ReplayPolicy`.

    Returns:
        The episode as it was played now, identical to the replay's.

    Raises:
        ReplayError: If the game has no such actions.
        ReplayMismatchError: If score, length, last screen, trajectory or the way it ended differ.
    """
    recorded = replay.episode
    actions, highest = num_actions(replay.settings), int(recorded.actions.max())
    if highest >= actions:
        raise ReplayError(
            f"action {highest} of the replay: {replay.settings.game} has {actions} actions"
        )
    env = make_evaluation_env(replay.settings, keep_screens=needs_frames(callbacks))
    try:
        with closing(env):
            policy = ReplayPolicy(recorded, network)
            (played,) = run_episodes(env, policy, [recorded.seed], callbacks)
        _compare(played, recorded)
    except ReplayMismatchError as error:
        current = env_version(replay.settings)
        if replay.env_version == current:
            raise
        package = "ale-py" if isinstance(replay.settings, AtariConfig) else "gymnasium"
        versions = f"recorded with {package} {replay.env_version}, this is {current}"
        raise ReplayMismatchError(f"{error} ({versions})") from error
    return played


def _compare(played: EpisodeResult, recorded: EpisodeResult) -> None:
    """Raise ReplayMismatchError if they differ."""
    differences = [
        f"{name} is {ours}, but {theirs} was recorded"
        for name, ours, theirs in [
            ("the score", f"{played.score:.10g}", f"{recorded.score:.10g}"),
            ("the length", played.length, recorded.length),
            ("the last screen's hash", played.screen_hash[:12], recorded.screen_hash[:12]),
            (
                "the trajectory's hash",
                played.trajectory_hash[:12],
                recorded.trajectory_hash[:12],
            ),
            ("cut off by the time limit", played.truncated, recorded.truncated),
        ]
        if ours != theirs
    ]
    if differences:
        raise ReplayMismatchError("; ".join(differences))
