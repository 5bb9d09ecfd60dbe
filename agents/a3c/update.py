"""From the returns of a rollout to an update of the shared parameters: for worker and learner."""

from dataclasses import dataclass

from torch import Tensor

from agents.a3c.gradients import compute_gradients
from agents.a3c.losses import a3c_loss
from agents.a3c.parameter_store import ParameterStore
from agents.a3c.rollout import Rollout, UnrollOutput
from agents.config import TrainConfig
from agents.networks.actor_critic import ActorCritic
from agents.networks.flat_parameters import FlatParameters
from envs import Episode


@dataclass(frozen=True)
class Update:
    """The result of one update.

    Attributes:
        is_applied: Whether the gradient was finite and was applied.
        metrics: TensorBoard tag -> value; empty if the gradient was skipped.
        agent_steps: The number of agent steps in the rollout.
        episodes: Episodes that ended in the rollout.
    """

    is_applied: bool
    metrics: dict[str, float]
    agent_steps: int
    episodes: list[Episode]


def push_gradient(
    network: ActorCritic,
    flat: FlatParameters,
    store: ParameterStore,
    config: TrainConfig,
    rollout: Rollout,
    output: UnrollOutput,
    returns: Tensor,
    advantages: Tensor,
    episodes: list[Episode],
) -> Update:
    """Compute the gradient of the A3C loss of a rollout, and push it if it is finite.

    Args:
        network: The network.
        flat: Its flat parameters and gradients.
        store: Where the gradient is pushed to.
        config: The settings.
        rollout: The rollout.
        output: The network's outputs for it, with a gradient.
        returns: Targets of the values, shape (T, B).
        advantages: Advantages of the actions taken, shape (T, B).
        episodes: Episodes that ended in the rollout, for the result.
    """
    loss = a3c_loss(
        output.logits,
        output.values,
        rollout.actions,
        returns,
        advantages,
        rollout.mask,
        vf_coef=config.vf_coef,
        ent_coef=config.ent_coef,
    )
    step = compute_gradients(network, flat, loss, config)
    if step.is_finite:
        store.push(step.gradients)
    return Update(step.is_finite, step.metrics, rollout.agent_steps, episodes)
