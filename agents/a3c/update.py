"""From the gradient of a rollout's loss to an update, for worker and learner."""

from dataclasses import dataclass

from torch import Tensor

from agents.a3c.gradients import Orthogonality, clip_gradients
from agents.a3c.losses import A3CLoss
from agents.a3c.parameter_store import ParameterStore
from agents.a3c.rollout import Rollout
from agents.config import TrainConfig
from agents.networks.actor_critic import ActorCritic
from agents.networks.flat_parameters import FlatParameters
from envs import Episode


@dataclass(frozen=True)
class Update:
    """The result of one update, which a worker or the learner sends to the trainer.

    Attributes:
        is_applied: Whether the gradient was applied; it is skipped if it is not finite.
        metrics: TensorBoard tag -> value; empty if the gradient was skipped.
        agent_steps: The number of agent steps in the rollout.
        episodes: Episodes that ended in the rollout.
    """

    is_applied: bool
    metrics: dict[str, float]
    agent_steps: int
    episodes: list[Episode]


def share_observations(network: ActorCritic, store: ParameterStore, observations: Tensor) -> None:
    """Include observations in the shared running statistics, where there are any.

    Args:
        network: The network.
        store: Has the shared statistics.
        observations: As rollouts have them, with any leading dimensions.
    """
    where = network.where_statistics
    if where is not None:
        store.merge_observations(where, observations.flatten(0, -2))


def push_gradient(
    flat: FlatParameters,
    store: ParameterStore,
    config: TrainConfig,
    rollout: Rollout,
    loss: A3CLoss,
    orthogonality: Orthogonality,
    episodes: list[Episode],
) -> Update:
    """Clip the gradient of a rollout's loss, and push it if it is finite.

    A rollout without a step that counts is skipped: even with a gradient of zero, the optimizer
    would move all parameters by their momentum.

    Args:
        flat: The flat parameters, and the gradient of the loss.
        store: Where the gradient is pushed to.
        config: The settings.
        rollout: The rollout.
        loss: The loss.
        orthogonality: The orthogonality gradient, which is added.
        episodes: Episodes that ended in the rollout, for the result.
    """
    agent_steps = rollout.agent_steps
    if agent_steps == 0:
        return Update(is_applied=True, metrics={}, agent_steps=0, episodes=episodes)
    step = clip_gradients(flat, loss, orthogonality, config)
    metrics = step.metrics
    if step.is_finite:
        store.push(flat.gradients)
        if config.bonus != "none":
            metrics = metrics | {"charts/bonus": float(rollout.bonuses[rollout.mask].mean())}
    return Update(step.is_finite, metrics, agent_steps, episodes)
