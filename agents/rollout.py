"""Rollouts: what is written down of T steps, and the one collector that plays them."""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from agents.network import ActorCritic
from agents.torso import Activations
from envs import Episode, TrainingStep


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

    starts: Tensor
    initial_state: Tensor
    actions: Tensor
    behaviour_logits: Tensor
    rewards: Tensor
    discounts: Tensor
    traces: Tensor
    valid: Tensor


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
        activations: what the torso saw and computed while acting, T * B rows, step after step.
        bootstrap_value: value of the observations after the last step, shape (B,).
    """

    activations: Activations
    bootstrap_value: Tensor

    @classmethod
    def empty(
        cls, num_steps: int, num_envs: int, num_actions: int, network: ActorCritic
    ) -> "Rollout":
        """Allocate a rollout for a network that will play it; its contents are zeros."""
        steps = (num_steps, num_envs)
        return cls(
            starts=torch.zeros(steps, dtype=torch.bool),
            initial_state=network.initial_state(num_envs),
            actions=torch.zeros(steps, dtype=torch.int64),
            behaviour_logits=torch.zeros(*steps, num_actions),
            rewards=torch.zeros(steps),
            discounts=torch.zeros(steps),
            traces=torch.zeros(steps),
            valid=torch.zeros(steps, dtype=torch.bool),
            activations=network.torso.make_activations(num_steps * num_envs),
            bootstrap_value=torch.zeros(num_envs),
        )

    @property
    def observations(self) -> Tensor:
        """What was acted on, uint8, shape (T, B, 4, 84, 84)."""
        return self.activations.screens.unflatten(0, tuple(self.actions.shape))

    def see(self, network: ActorCritic, t: int, screens: Tensor) -> Tensor:
        """See `CollectedSteps`; everything is kept that the torso's gradient needs."""
        rows = slice(t * len(screens), (t + 1) * len(screens))
        return network.torso.act(screens, self.activations, rows)

    def finish(self, network: ActorCritic, screens: Tensor, state: Tensor, starts: Tensor) -> None:
        """See `CollectedSteps`; the network that played is the one that learns."""
        self.bootstrap_value.copy_(network.value(network.torso(screens), state, starts))

    def recall(self, network: ActorCritic) -> Tensor:
        """What the torso has seen, shape (T, B, seen), with a gradient; see `Torso.recall`."""
        return network.torso.recall(self.activations).unflatten(0, tuple(self.actions.shape))

    def judge(self, network: ActorCritic) -> Judged:
        """What the network says of them, with a gradient; it must be the one that played."""
        output = network.judge(self.recall(network), self.initial_state, self.starts)
        return Judged(output.logits, output.values, self.bootstrap_value)


class Collector:
    """Plays a batch of environments with a network's sampled actions.

    Args:
        env: the environments; they are reset here.
        network: acts; whoever changes its parameters does so between two collections.
        num_steps: T.
        gamma: discount while a game goes on.
        gae_lambda: trace while a game goes on.
        random: source of the actions' randomness.

    Attributes:
        episodes: whole games that ended in the last collection.
    """

    def __init__(
        self,
        env: BatchedEnvironment,
        network: ActorCritic,
        *,
        num_steps: int,
        gamma: float,
        gae_lambda: float,
        random: np.random.Generator,
    ) -> None:
        self.env, self.network, self.random = env, network, random
        self.num_steps, self.gamma, self.gae_lambda = num_steps, gamma, gae_lambda
        self.episodes: list[Episode] = []
        self._observations = torch.from_numpy(env.reset())
        self._starts = np.ones(env.num_envs, np.bool_)
        self._state = network.initial_state(env.num_envs)
        self._ended, self._truncated = np.zeros((2, num_steps, env.num_envs), np.bool_)

    def collect(self) -> Rollout:
        """Play T steps in every environment. The rollout returned is reused by the next call."""
        self.collect_into(self._rollout)
        return self._rollout

    @torch.no_grad()
    def collect_into(self, steps: CollectedSteps) -> None:
        """Play T steps in every environment, and write them down here."""
        steps.initial_state.copy_(self._state)
        self.episodes = []
        # The environments speak numpy, and writing a few numbers costs a tenth of a tensor's way.
        logits_at, actions_at = steps.behaviour_logits.numpy(), steps.actions.numpy()
        starts_at, rewards, valid = (t.numpy() for t in (steps.starts, steps.rewards, steps.valid))
        with self.network.acting():
            for t, starts in enumerate(steps.starts.unbind()):
                starts_at[t] = self._starts
                seen = steps.see(self.network, t, self._observations)
                policy, self._state = self.network.policy(seen, self._state, starts)
                logits = policy.numpy()
                actions = sample(logits, self.random)
                step = self._play(actions)
                logits_at[t], actions_at[t], rewards[t] = logits, actions, step.rewards
                np.logical_not(step.ignored, out=valid[t])
                np.logical_or(step.terminated, step.life_lost, out=self._ended[t])
                self._truncated[t] = step.truncated
            starts = torch.from_numpy(self._starts)
            steps.finish(self.network, self._observations, self._state, starts)
        zero = np.float32(0)
        steps.discounts.copy_(torch.from_numpy(np.where(self._ended, zero, self.gamma)))
        steps.traces.copy_(torch.from_numpy(np.where(self._truncated, zero, self.gae_lambda)))

    def _play(self, actions: npt.NDArray[np.int64]) -> TrainingStep:
        step = self.env.step(actions)
        self.episodes += step.episodes
        self._observations = torch.from_numpy(step.observations)
        # An ignored step is the one that leads to a new game's first observation.
        self._starts = step.ignored
        return step

    @cached_property
    def _rollout(self) -> Rollout:
        env = self.env
        return Rollout.empty(self.num_steps, env.num_envs, env.num_actions, self.network)


def sample(logits: npt.NDArray[np.float32], random: np.random.Generator) -> npt.NDArray[np.int64]:
    """Draw from softmax(logits): the largest of the logits, each with Gumbel noise of its own.

    Args:
        logits: shape (B, A).
        random: source of the noise.

    Returns:
        Actions, shape (B,).
    """
    return (logits + random.gumbel(size=logits.shape)).argmax(axis=-1)
