"""Rollouts: T steps of B environments, as the worker and the learner learn from them."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from agents.networks.actor_critic import ActorCritic
from agents.networks.torso import TorsoCache


class Judged(NamedTuple):
    """What the network says of T steps of B environments, and of what came after them.

    Attributes:
        logits: of the policy, shape (T, B, A).
        values: shape (T, B).
        bootstrap_value: value of the observations after the last step, shape (B,), a constant.
    """

    logits: Tensor
    values: Tensor
    bootstrap_value: Tensor


@dataclass
class Steps:
    """T steps of B environments, in whatever memory, to be written by a collector and learned from.

    Attributes:
        starts: where an observation is a new game's first, bool, shape (T, B).
        initial_state: of the core before the first step, shape (2, B, S).
        actions: int64, shape (T, B).
        behaviour_logits: of the policy that acted, shape (T, B, A).
        rewards: raw, float32, shape (T, B).
        discounts: gamma, or 0 where the game ended or a life was lost, shape (T, B).
        traces: lambda, or 0 where the trace is cut (a truncated game), shape (T, B).
        valid: false for the step after a game's end, whose action is ignored, shape (T, B).
    """

    episode_starts: Tensor
    initial_state: Tensor
    actions: Tensor
    behaviour_logits: Tensor
    rewards: Tensor
    discounts: Tensor
    lambdas: Tensor
    mask: Tensor


class CollectedSteps(Steps):
    """What a collector writes: steps that know what of the screens is kept, and where."""

    def see(self, network: ActorCritic, t: int, screens: Tensor) -> Tensor:
        """Keep what is needed of step t's screens, shape (B, 4, 84, 84).

        Returns:
            What the torso sees in them, shape (B, seen), without a gradient.
        """
        raise NotImplementedError

    def finish(self, network: ActorCritic, screens: Tensor, state: Tensor, starts: Tensor) -> None:
        """Keep what is needed of the observations after the last step.

        Args:
            network: that played.
            screens: shape (B, 4, 84, 84).
            state: of the core, shape (2, B, S).
            starts: whether they are a new game's first, shape (B,).
        """
        raise NotImplementedError


@dataclass
class Rollout(CollectedSteps):
    """The steps that a worker learns from itself, written anew at every collection.

    Attributes:
        cache: what the torso saw and computed while acting, T * B rows, step after step.
        bootstrap_value: value of the observations after the last step, shape (B,).
    """

    cache: TorsoCache
    bootstrap_value: Tensor

    @classmethod
    def empty(
        cls, num_steps: int, num_envs: int, num_actions: int, network: ActorCritic
    ) -> "Rollout":
        """Allocate a rollout for a network that will play it; its contents are zeros."""
        steps = (num_steps, num_envs)
        return cls(
            episode_starts=torch.zeros(steps, dtype=torch.bool),
            initial_state=network.initial_state(num_envs),
            actions=torch.zeros(steps, dtype=torch.int64),
            behaviour_logits=torch.zeros(*steps, num_actions),
            rewards=torch.zeros(steps),
            discounts=torch.zeros(steps),
            lambdas=torch.zeros(steps),
            mask=torch.zeros(steps, dtype=torch.bool),
            cache=network.torso.make_cache(num_steps * num_envs),
            bootstrap_value=torch.zeros(num_envs),
        )

    @property
    def observations(self) -> Tensor:
        """What was acted on, uint8, shape (T, B, 4, 84, 84)."""
        return self.cache.observations.unflatten(0, tuple(self.actions.shape))

    def see(self, network: ActorCritic, t: int, screens: Tensor) -> Tensor:
        """See `CollectedSteps`; everything is kept that the torso's gradient needs."""
        rows = slice(t * len(screens), (t + 1) * len(screens))
        return network.torso.forward_cached(screens, self.cache, rows)

    def finish(self, network: ActorCritic, screens: Tensor, state: Tensor, starts: Tensor) -> None:
        """See `CollectedSteps`; the network that played is the one that learns."""
        self.bootstrap_value.copy_(network.act_values(network.torso(screens), state, starts))

    def recall(self, network: ActorCritic) -> Tensor:
        """What the torso has seen, shape (T, B, seen), with a gradient; see `Torso.recall`."""
        return network.torso.cached_features(self.cache).unflatten(0, tuple(self.actions.shape))

    def judge(self, network: ActorCritic) -> Judged:
        """What the network says of them, with a gradient; it must be the one that played."""
        output = network.forward_heads(
            self.recall(network), self.initial_state, self.episode_starts
        )
        return Judged(output.logits, output.values, self.bootstrap_value)
