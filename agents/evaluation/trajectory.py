"""A whole episode as arrays: observations, actions and rewards, and what the network computed.

    folder, config = open_run("runs/latest")
    network = load_agent(folder, config).network
    trajectory = record_trajectory(network, config, mode="sampled", seed=1)
    trajectory.actor.u_attention  # (T, r, P), for a Neurocoder head

`replay_trajectory(load_replay(path), network)` does the same for a recorded episode.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from agents.config import TrainConfig
from agents.evaluation.episode import EpisodeCallback, EpisodeResult, StepResult
from agents.evaluation.replay_file import Replay
from agents.evaluation.replay_policy import verify_replay
from agents.evaluation.runner import RANDOM, StatefulNetwork, evaluate_policy
from agents.networks.actor_critic import ActorCritic
from agents.networks.inspection import Floats, PolicyOutput, Program, stack_outputs
from envs import action_names


@dataclass(frozen=True, eq=False)
class Trajectory:
    """An episode of T agent steps; index t holds the output at step t and its action's result.

    With a Neurocoder head of the default size an agent step takes 5 kB, and a screen 100 kB.

    Attributes:
        episode: Seed, mode, score, and whether the frame limit ended it.
        action_names: The names of the A actions.
        actions: The actions played, uint8, shape (T,).
        rewards: Raw, float32, shape (T,).
        probabilities: The policy, shape (T, A).
        values: Estimates of the discounted rewards to come, as they are learned from, shape (T,).
        actor: The programs of the policy's head: a `NeurocoderProgram` of attentions (T, r, P),
            singular values (T, r) and gate (T,) or None; a `HypernetProgram` of embeddings (T, E);
            or None where the head is linear.
        critic: The same for the value's head.
        screens: The emulator's last frame of each agent step in colour, uint8,
            (T, height, width, 3), or None where they were not asked for.
    """

    episode: EpisodeResult
    action_names: tuple[str, ...]
    actions: npt.NDArray[np.uint8]
    rewards: Floats
    probabilities: Floats
    values: Floats
    actor: Program | None
    critic: Program | None
    screens: npt.NDArray[np.uint8] | None


def record_trajectory(
    network: ActorCritic,
    config: TrainConfig,
    mode: str,
    seed: int,
    *,
    keep_screens: bool = False,
    max_steps: int | None = None,
    callbacks: Sequence[EpisodeCallback] = (),
) -> Trajectory:
    """Play one episode, and keep what the network computed.

    Args:
        network: The network that acts.
        config: The settings of its run.
        mode: "sampled" or "greedy".
        seed: The episode's, below 2**31; see `agents.evaluation.runner.episode_seeds`.
        keep_screens: Whether to keep the screens.
        max_steps: T is at most this many of the first agent steps; `episode` is the whole one's.
        callbacks: Called during the episode too.

    Raises:
        ValueError: If there is no such mode.
    """
    if mode == RANDOM:
        raise ValueError("in random play no network acts")
    builder = _TrajectoryBuilder(keep_screens, max_steps)
    (result,) = evaluate_policy(network, config, mode, [seed], [builder, *callbacks])
    return builder.build(result, action_names(config.env))


def replay_trajectory(
    replay: Replay, network: ActorCritic, *, keep_screens: bool = False
) -> Trajectory:
    """Play a recorded episode again, and keep what a network computes for its observations.

    If the network is the one that played, this is what it computed then.

    Args:
        replay: The recorded episode.
        network: A network for the same actions.
        keep_screens: Whether to keep the screens.

    Raises:
        ReplayError: If the game has no such actions.
        ReplayMismatchError: If the outcome differs from the recorded one.
        ValueError: If the network has another number of actions than the game.
    """
    names = action_names(replay.settings)
    builder = _TrajectoryBuilder(keep_screens)
    with network.cached_weights():
        result = verify_replay(replay, [builder], StatefulNetwork(network))
    trajectory = builder.build(result, names)
    if trajectory.probabilities.shape[1] != len(names):
        raise ValueError(f"the network is not for the {len(names)} actions of this game")
    return trajectory


class _TrajectoryBuilder(EpisodeCallback):
    inspect_every = 1

    def __init__(self, keep_screens: bool, max_steps: int | None = None) -> None:
        self.needs_frames, self._max_steps = keep_screens, max_steps
        self._outputs: list[PolicyOutput] = []
        self._rewards: list[float] = []
        self._screens: list[npt.NDArray[np.uint8]] = []

    def on_step(self, step: StepResult, output: PolicyOutput | None) -> None:
        assert output is not None  # a network acts, or looks on
        if self._max_steps is not None and step.length > self._max_steps:
            return
        self._outputs.append(output)
        self._rewards.append(step.reward)
        if self.needs_frames:
            self._screens.append(step.info["screens"][-1])

    def build(self, result: EpisodeResult, names: tuple[str, ...]) -> Trajectory:
        outputs = stack_outputs(self._outputs)
        return Trajectory(
            episode=result,
            action_names=names,
            actions=result.actions[: len(self._outputs)],
            rewards=np.array(self._rewards, np.float32),
            probabilities=outputs.probabilities,
            values=outputs.value,
            actor=outputs.actor,
            critic=outputs.critic,
            screens=np.stack(self._screens) if self.needs_frames else None,
        )
