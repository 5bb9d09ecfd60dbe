"""The one collector: plays T steps in a batch of environments with a network's sampled actions."""

from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from gymnasium.spaces import Discrete
from gymnasium.vector import AutoresetMode, VectorEnv

from agents.a3c.rollout import CollectedSteps, Rollout
from agents.networks.actor_critic import ActorCritic
from envs import Episode
from envs.config import OBSERVATION_SHAPE


def action_count(env: VectorEnv[Any, Any, Any]) -> int:
    """The size of an environment's discrete action space.

    Raises:
        TypeError: The environments have another kind of action space, their observations are not
            (4, 84, 84) uint8, or they do not autoreset in Gymnasium's `NEXT_STEP` mode.
    """
    actions, observations = env.single_action_space, env.single_observation_space
    if not isinstance(actions, Discrete) or actions.start != 0:
        raise TypeError(f"the action space must be Discrete and start at 0, got {actions}")
    if observations.shape != OBSERVATION_SHAPE or observations.dtype != np.uint8:
        raise TypeError(f"observations must be {OBSERVATION_SHAPE} uint8, got {observations}")
    mode = env.metadata.get("autoreset_mode")
    if mode != AutoresetMode.NEXT_STEP:
        raise TypeError(f"environments must autoreset in NEXT_STEP mode, got {mode}")
    return int(actions.n)


class Collector:
    """Plays a batch of environments with a network's sampled actions.

    Args:
        env: Any Gymnasium vector environment that `action_count` accepts; it is reset here.
            `info["lives"]`, where there is one, tells of lost lives, and `info["episode"]` of
            finished episodes, as `gymnasium.wrappers.vector.RecordEpisodeStatistics` writes it;
            without it the rewards are summed up.
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
        env: VectorEnv[Any, Any, Any],
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
        observations, info = env.reset()
        self._observations = torch.from_numpy(observations)
        self._starts = np.ones(env.num_envs, np.bool_)
        self._ended_before = np.zeros(env.num_envs, np.bool_)
        self._lives = info.get("lives", np.zeros(env.num_envs, np.int32))
        self._returns, self._lengths = np.zeros(env.num_envs), np.zeros(env.num_envs, np.int64)
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
        starts_at, rewards, valid = (
            t.numpy() for t in (steps.episode_starts, steps.rewards, steps.mask)
        )
        with self.network.cached_weights():
            for t, starts in enumerate(steps.episode_starts.unbind()):
                starts_at[t] = self._starts
                seen = steps.see(self.network, t, self._observations)
                policy, self._state = self.network.act_logits(seen, self._state, starts)
                logits = policy.numpy()
                actions = sample_actions(logits, self.random)
                ignored = self._ended_before
                rewards[t], terminated, life_lost, self._truncated[t] = self._play(actions)
                logits_at[t], actions_at[t] = logits, actions
                np.logical_not(ignored, out=valid[t])
                np.logical_or(terminated, life_lost, out=self._ended[t])
            starts = torch.from_numpy(self._starts)
            steps.finish(self.network, self._observations, self._state, starts)
        zero = np.float32(0)
        steps.discounts.copy_(torch.from_numpy(np.where(self._ended, zero, self.gamma)))
        steps.lambdas.copy_(torch.from_numpy(np.where(self._truncated, zero, self.gae_lambda)))

    def _play(self, actions: npt.NDArray[np.int64]) -> tuple[Any, Any, Any, Any]:
        """Play a step; return rewards, terminations, lost lives and truncations, (B,) each."""
        observations, rewards, terminated, truncated, info = self.env.step(actions)
        self._observations = torch.from_numpy(observations)
        # In NEXT_STEP mode, the step after an end ignores its action and starts a new episode.
        self._starts = ignored = self._ended_before
        self._ended_before = ended = terminated | truncated
        # Lives may rise within an episode (a bonus) and change freely from one to the next; some
        # games have none at all. Only a fall within a running episode is a lost life.
        lives = info.get("lives", self._lives)
        life_lost = (lives < self._lives) & ~(terminated | ignored)
        self._lives = lives
        self._returns += rewards
        self._lengths += ~ignored
        if ended.any():
            self._finish_episodes(ended, info.get("episode"))
        return rewards, terminated, life_lost, truncated

    def _finish_episodes(
        self, ended: npt.NDArray[np.bool_], statistics: dict[str, npt.NDArray[Any]] | None
    ) -> None:
        returns, lengths = self._returns, self._lengths
        if statistics is not None:
            returns, lengths = statistics["r"], statistics["l"]
        self.episodes += [
            Episode(float(returns[i]), int(lengths[i])) for i in np.flatnonzero(ended)
        ]
        self._returns[ended] = 0.0
        self._lengths[ended] = 0

    @cached_property
    def _rollout(self) -> Rollout:
        env = self.env
        return Rollout.empty(self.num_steps, env.num_envs, action_count(env), self.network)


def sample_actions(
    logits: npt.NDArray[np.float32], random: np.random.Generator
) -> npt.NDArray[np.int64]:
    """Draw from softmax(logits): the largest of the logits, each with Gumbel noise of its own.

    Args:
        logits: shape (B, A).
        random: source of the noise.

    Returns:
        Actions, shape (B,).
    """
    return (logits + random.gumbel(size=logits.shape)).argmax(axis=-1)
