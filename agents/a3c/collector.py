"""The one collector: plays T steps in a batch of environments with a network's sampled actions."""

from functools import cached_property
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from agents.a3c.rollout import CollectedSteps, Rollout
from agents.networks.actor_critic import ActorCritic
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
