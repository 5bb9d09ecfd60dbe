"""Rollouts: T steps of B environments, as workers write them and the loss reads them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from agents.networks.actor_critic import ActorCritic
from envs import Spaces

Fields = dict[str, tuple[torch.dtype, tuple[int, ...]]]


@dataclass(frozen=True)
class Rollout:
    """T steps of B environments, and the observation after the last step.

    All fields may be views of memory that is reused.

    Attributes:
        observations: Images, uint8, shape (T + 1, B, C, H, W), channels last in memory; or vectors,
            float32, shape (T + 1, B, D). In a batch of N rollouts (T + 1, N, B / N, ...): they are
            too large to be copied into one order.
        episode_starts: Whether an observation is the first of an episode, bool, shape (T + 1, B).
        initial_state: The core's state before the first step, shape (2, B, S).
        final_state: The core's state after the last step, shape (2, B, S).
        actions: int64, shape (T, B).
        behaviour_logits: Logits of the policy that acted, shape (T, B, A).
        rewards: Raw rewards, float32, shape (T, B).
        bonuses: Bonuses for the observations that the steps led to, float32, shape (T, B); zero
            without a bonus, and where `mask` is false.
        discounts: gamma, or 0 where the episode terminated or a life was lost, shape (T, B).
        lambdas: lambda, or 0 where the episode was truncated, shape (T, B).
        mask: False for the step after an episode's end, whose action is ignored, shape (T, B).
    """

    observations: Tensor
    episode_starts: Tensor
    initial_state: Tensor
    final_state: Tensor
    actions: Tensor
    behaviour_logits: Tensor
    rewards: Tensor
    bonuses: Tensor
    discounts: Tensor
    lambdas: Tensor
    mask: Tensor

    @property
    def agent_steps(self) -> int:
        """The number of agent steps, without the ignored ones."""
        return int(self.mask.sum())

    @classmethod
    def from_memory(cls, memory: dict[str, Tensor]) -> "Rollout":
        """View one rollout's memory, laid out as by `rollout_fields`."""
        return cls(**{**memory, "observations": _channels_first(memory["observations"])})

    @classmethod
    def batch(cls, memory: dict[str, Tensor]) -> "Rollout":
        """View the memory of N rollouts, shapes (N, ...), as one rollout of N * B environments."""
        observations = _channels_first(memory["observations"].transpose(0, 1))
        # Time comes first. All fields but observations are small and copied into that order.
        folded = {
            name: field.transpose(0, 1).flatten(1, 2)
            for name, field in memory.items()
            if name != "observations"
        }
        return cls(observations=observations, **folded)

    @classmethod
    def zeros(
        cls, count: int, num_steps: int, num_envs: int, spaces: Spaces, state_size: int
    ) -> "Rollout":
        """Allocate `count` rollouts of zeros, in an additional first dimension of every field."""
        fields = rollout_fields(num_steps, num_envs, spaces, state_size)
        return cls.from_memory(
            {
                name: torch.zeros((count, *shape), dtype=dtype)
                for name, (dtype, shape) in fields.items()
            }
        )

    def unbind(self) -> list["Rollout"]:
        """View the single rollouts that `zeros` allocated."""
        names = vars(self).keys()
        each = zip(*(field.unbind() for field in vars(self).values()), strict=True)
        return [Rollout(**dict(zip(names, fields, strict=True))) for fields in each]


def rollout_fields(num_steps: int, num_envs: int, spaces: Spaces, state_size: int) -> Fields:
    """Return type and shape in memory of each field of a rollout, by name.

    Args:
        num_steps: T.
        num_envs: B.
        spaces: A, and the shape of an observation.
        state_size: S, of the core.
    """
    steps, observed = (num_steps, num_envs), (num_steps + 1, num_envs)
    observation = (torch.float32, (*observed, *spaces.observation_shape))
    if spaces.has_images:
        channels, *size = spaces.observation_shape
        observation = (torch.uint8, (*observed, *size, channels))
    return {
        "observations": observation,
        "episode_starts": (torch.bool, observed),
        "initial_state": (torch.float32, (2, num_envs, state_size)),
        "final_state": (torch.float32, (2, num_envs, state_size)),
        "actions": (torch.int64, steps),
        "behaviour_logits": (torch.float32, (*steps, spaces.num_actions)),
        "rewards": (torch.float32, steps),
        "bonuses": (torch.float32, steps),
        "discounts": (torch.float32, steps),
        "lambdas": (torch.float32, steps),
        "mask": (torch.bool, steps),
    }


def _channels_first(observations: Tensor) -> Tensor:
    """View observations as they lie in memory, images as (..., C, H, W)."""
    return observations.movedim(-1, -3) if observations.dtype == torch.uint8 else observations


class UnrollOutput(NamedTuple):
    """The network's outputs for a rollout.

    Attributes:
        logits: Policy logits, shape (T, B, A).
        values: State values, shape (T, B).
        bootstrap_value: Value of the observation after the last step, shape (B,), a constant.
    """

    logits: Tensor
    values: Tensor
    bootstrap_value: Tensor


def unroll(network: ActorCritic, rollout: Rollout) -> UnrollOutput:
    """Run the network over a rollout, with a gradient."""
    output = network(rollout.observations, rollout.initial_state, rollout.episode_starts)
    return UnrollOutput(output.logits[:-1], output.values[:-1], output.values[-1].detach())


def unroll_workers(
    network: ActorCritic,
    rollouts: Rollout,
    torso_features: Tensor,
    parameters: Mapping[str, Tensor],
) -> UnrollOutput:
    """Run core and heads over the rollouts of W workers, with separate gradients.

    Args:
        network: The network that played them, its parameters unchanged.
        rollouts: Every field with W as its first dimension, as by `Rollout.zeros`.
        torso_features: What its torso computed while it acted, shape (W, T * B, F).
        parameters: See `ActorCritic.forward_heads_of_workers`.

    Returns:
        The outputs, with W as their first dimension.
    """
    output = network.forward_heads_of_workers(
        torso_features.unflatten(1, rollouts.actions.shape[1:]),
        rollouts.initial_state,
        rollouts.episode_starts[:, :-1],
        parameters,
    )
    with torch.no_grad():
        [last_features] = network.forward_torso(rollouts.observations[:, -1:].transpose(0, 1))
        bootstrap_value = network.act_values(
            last_features,
            rollouts.final_state.transpose(0, 1).flatten(1, 2),
            rollouts.episode_starts[:, -1].flatten(),
        )
    bootstrap_value = bootstrap_value.view_as(rollouts.rewards[:, 0])
    return UnrollOutput(output.logits, output.values, bootstrap_value)
