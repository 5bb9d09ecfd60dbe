"""Rollouts: what a worker writes down of T steps, and the one collector that plays them."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from agents.network import ActorCritic
from agents.torso import Activations
from envs import Episode, TrainingStep
from neurocoder import frozen_keys


class BatchedEnvironment(Protocol):
    """What the collector asks of its environments; `envs.TrainingEnv` is one."""

    @property
    def num_envs(self) -> int:
        """B."""
        ...

    @property
    def num_actions(self) -> int:
        """The size of the action space."""
        ...

    @property
    def observation_shape(self) -> tuple[int, ...]:
        """Of one environment's observation."""
        ...

    def reset(self) -> np.ndarray:
        """Start all games; return the first observations, uint8, shape (B, 4, 84, 84)."""
        ...

    def step(self, actions: np.ndarray) -> TrainingStep:
        """Play one action in each environment."""
        ...

    def close(self) -> None:
        """Free the games."""
        ...


@dataclass
class Rollout:
    """T steps of B environments, written anew at every collection.

    Attributes:
        activations: what the torso saw and computed while acting, T * B rows, step after step.
        starts: where an observation is a new game's first, bool, shape (T, B).
        initial_state: of the core before the first step, shape (2, B, S).
        actions: int64, shape (T, B).
        rewards: raw, float32, shape (T, B).
        discounts: gamma, or 0 where the game ended or a life was lost, shape (T, B).
        traces: lambda, or 0 where the trace is cut (a truncated game), shape (T, B).
        valid: false for the step after a game's end, whose action is ignored, shape (T, B).
        bootstrap_value: value of the observations after the last step, shape (B,).
        episodes: whole games that ended in these steps.
    """

    activations: Activations
    starts: Tensor
    initial_state: Tensor
    actions: Tensor
    rewards: Tensor
    discounts: Tensor
    traces: Tensor
    valid: Tensor
    bootstrap_value: Tensor
    episodes: list[Episode]

    @classmethod
    def empty(cls, num_steps: int, num_envs: int, network: ActorCritic) -> "Rollout":
        """Allocate a rollout for a network that will play it; its contents are zeros."""
        steps = (num_steps, num_envs)
        return cls(
            activations=network.torso.make_activations(num_steps * num_envs),
            starts=torch.zeros(steps, dtype=torch.bool),
            initial_state=network.initial_state(num_envs),
            actions=torch.zeros(steps, dtype=torch.int64),
            rewards=torch.zeros(steps),
            discounts=torch.zeros(steps),
            traces=torch.zeros(steps),
            valid=torch.zeros(steps, dtype=torch.bool),
            bootstrap_value=torch.zeros(num_envs),
            episodes=[],
        )

    @property
    def observations(self) -> Tensor:
        """What was acted on, uint8, shape (T, B, 4, 84, 84)."""
        return self.activations.screens.unflatten(0, tuple(self.actions.shape))

    def recall(self, network: ActorCritic) -> Tensor:
        """What the torso has seen, shape (T, B, seen), with a gradient; see `Torso.recall`."""
        return network.torso.recall(self.activations).unflatten(0, tuple(self.actions.shape))


class Collector:
    """Plays a batch of environments with a network's sampled actions.

    Args:
        env: the environments; they are reset here.
        network: acts; whoever changes its parameters does so between two collections.
        num_steps: T.
        gamma: discount while a game goes on.
        gae_lambda: trace while a game goes on.
        generator: source of the actions' randomness.
    """

    def __init__(
        self,
        env: BatchedEnvironment,
        network: ActorCritic,
        *,
        num_steps: int,
        gamma: float,
        gae_lambda: float,
        generator: torch.Generator,
    ) -> None:
        self.env, self.network, self.generator = env, network, generator
        self.gamma, self.gae_lambda = gamma, gae_lambda
        self._rollout = rollout = Rollout.empty(num_steps, env.num_envs, network)
        self._observations = torch.from_numpy(env.reset())
        self._starts = torch.ones(env.num_envs, dtype=torch.bool)
        self._state = network.initial_state(env.num_envs)
        # The environments speak numpy, and writing a few numbers costs a tenth of a tensor's way.
        self._rewards, self._valid = rollout.rewards.numpy(), rollout.valid.numpy()
        self._ended, self._truncated = np.zeros((2, *rollout.actions.shape), np.bool_)

    @torch.no_grad()
    def collect(self) -> Rollout:
        """Play T steps in every environment. The rollout returned is reused by the next call."""
        rollout = self._rollout
        rollout.initial_state.copy_(self._state)
        rollout.episodes = []
        with frozen_keys(self.network):
            for t in range(len(rollout.actions)):
                self._play_step(rollout, t)
            last = (self._observations.unsqueeze(0), self._state, self._starts.unsqueeze(0))
            rollout.bootstrap_value.copy_(self.network(*last).values[0])
        zero = np.float32(0)
        rollout.discounts.copy_(torch.from_numpy(np.where(self._ended, zero, self.gamma)))
        rollout.traces.copy_(torch.from_numpy(np.where(self._truncated, zero, self.gae_lambda)))
        return rollout

    def _play_step(self, rollout: Rollout, t: int) -> None:
        num_envs = self.env.num_envs
        rows = slice(t * num_envs, (t + 1) * num_envs)
        seen = self.network.torso.act(self._observations, rollout.activations, rows)
        starts = rollout.starts[t : t + 1].copy_(self._starts)
        logits, self._state = self.network.policy(seen.unsqueeze(0), self._state, starts)
        policy = torch.softmax(logits[0], dim=-1)
        actions = torch.multinomial(policy, 1, generator=self.generator).squeeze(-1)
        rollout.actions[t] = actions

        step = self.env.step(actions.numpy())
        self._rewards[t] = step.rewards
        self._ended[t] = step.terminated | step.life_lost
        self._truncated[t] = step.truncated
        self._valid[t] = ~step.ignored
        rollout.episodes += step.episodes
        self._observations = torch.from_numpy(step.observations)
        # An ignored step is the one that leads to a new game's first observation.
        self._starts = torch.from_numpy(step.ignored)
