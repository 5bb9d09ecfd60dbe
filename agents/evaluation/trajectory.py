"""A whole game as arrays: what was seen, done and won, and what the network thought.

    folder, config = open_run("runs/latest")
    network = load_agent(folder, config).network
    programs = record_trajectory(network, config, mode="sampled", seed=1)
    programs.actor.u_attention  # (T, r, P), for a Neurocoder head

`replay_trajectory(load_replay(path), network)` does the same for a game that was recorded.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from agents.config import TrainConfig
from agents.evaluation.episode import EpisodeResult, OnStep, StepResult, action_names
from agents.evaluation.replay_file import Replay, verify_replay
from agents.evaluation.runner import GREEDY, RANDOM, EvaluationPolicy, play_game
from agents.networks.actor_critic import ActorCritic
from agents.networks.inspection import Floats, PolicyOutput, Program, stack_outputs
from envs import make_evaluation_env


@dataclass(frozen=True, eq=False)
class Trajectory:
    """A game of T decisions; index t holds the thought at t, and what its action brought.

    With a Neurocoder head of the default size a decision takes 5 kB, and a screen 100 kB.

    Attributes:
        game: seed, mode, score, and whether the frame limit ended it.
        action_names: of the A actions.
        actions: that were played, uint8, shape (T,).
        rewards: raw, float32, shape (T,).
        probabilities: of the policy, shape (T, A).
        values: estimates of the discounted, clipped rewards to come, shape (T,).
        actor: the programs of the policy's head: a `NeurocoderProgram` of attentions (T, r, P),
            singular values (T, r) and gate (T,) or None; a `HypernetProgram` of embeddings (T, E);
            or None where the head is linear.
        critic: the same of the value's head.
        screens: the console's last frame of each decision in colour, uint8, (T, height, width, 3),
            or None where they were not asked for.
    """

    game: EpisodeResult
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
    on_step: OnStep | None = None,
) -> Trajectory:
    """Play one whole game, and keep what the network thought.

    Args:
        network: plays.
        config: of its run.
        mode: "sampled" or "greedy".
        seed: of the episode, below 2**31; see `agents.evaluation.runner.episode_seeds`.
        keep_screens: whether to keep the screens.
        on_step: is told of every decision, with the console's frames in `info["screens"]`.

    Raises:
        ValueError: if there is no such mode.
    """
    if mode == RANDOM:
        raise ValueError("random play has no thoughts")
    diary = _TrajectoryBuilder(keep_screens)
    env = make_evaluation_env(config.atari, keep_screens=keep_screens or on_step is not None)

    def watch(step: StepResult) -> None:
        diary.step(step)
        if on_step is not None:
            on_step(step)

    try:
        game = play_game(env, mode, seed, network, watch, diary.thoughts.append)
        return diary.close(game, action_names(env))
    finally:
        env.close()


def replay_trajectory(
    trace: Replay, network: ActorCritic, *, keep_screens: bool = False
) -> Trajectory:
    """Play a recorded game again, and keep what a network thinks of it.

    With the network that played it, these are the thoughts it had.

    Args:
        trace: of the game.
        network: for the same actions.
        keep_screens: whether to keep the screens.

    Raises:
        ReplayError: if the game has no such actions.
        ReplayMismatchError: if it is not the same game again.
        ValueError: if the network has another number of actions than the game.
    """
    diary = _TrajectoryBuilder(keep_screens)
    env = make_evaluation_env(trace.settings)
    names = action_names(env)
    env.close()
    with network.cached_weights():
        on_observation = observer(network, len(names), diary.thoughts.append)
        game = verify_replay(
            trace, diary.step, keep_screens=keep_screens, on_observation=on_observation
        )
    if diary.thoughts[0].probabilities.shape != (len(names),):
        raise ValueError(f"the network is not for the {len(names)} actions of this game")
    return diary.close(game, names)


def observer(
    network: ActorCritic, num_actions: int, on_thought: Callable[[PolicyOutput], None]
) -> Callable[[npt.NDArray[np.uint8], bool], object]:
    """What a network says of the actions that `verify_replay` plays."""
    return EvaluationPolicy(GREEDY, num_actions, 0, network, on_thought).act


class _TrajectoryBuilder:
    """Takes in a game, decision by decision."""

    def __init__(self, keep_screens: bool) -> None:
        self.thoughts: list[PolicyOutput] = []
        self._rewards: list[float] = []
        self._screens: list[npt.NDArray[np.uint8]] | None = [] if keep_screens else None

    def step(self, step: StepResult) -> None:
        self._rewards.append(step.reward)
        if self._screens is not None:
            self._screens.append(step.info["screens"][-1])

    def close(self, game: EpisodeResult, names: tuple[str, ...]) -> Trajectory:
        thoughts = stack_outputs(self.thoughts)
        return Trajectory(
            game=game,
            action_names=names,
            actions=game.actions,
            rewards=np.array(self._rewards, np.float32),
            probabilities=thoughts.probabilities,
            values=thoughts.value,
            actor=thoughts.actor,
            critic=thoughts.critic,
            screens=None if self._screens is None else np.stack(self._screens),
        )
