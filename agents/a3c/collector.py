"""The collector: plays T steps in a batch of environments with actions sampled from a policy."""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from gymnasium.spaces import Discrete
from gymnasium.vector import AutoresetMode, VectorEnv

from agents.a3c.rollout import Rollout
from agents.networks.actor_critic import ActorCritic
from agents.networks.torso import TorsoCache, copy_channels_last
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
    """Plays a batch of environments with actions sampled from a network's policy.

    Args:
        env: Any Gymnasium vector environment that `action_count` accepts; it is reset here.
            `info["lives"]`, where there is one, tells of lost lives, and `info["episode"]` of
            finished episodes, as `gymnasium.wrappers.vector.RecordEpisodeStatistics` writes it;
            without it the rewards are summed up.
        network: The network that acts; its parameters change only between two calls of `collect`.
        num_steps: T.
        gamma: Discount within an episode.
        gae_lambda: lambda within an episode.
        random: Random number generator for the actions.

    Attributes:
        episodes: Episodes that ended in the last rollout.
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

    def make_rollout(self) -> Rollout:
        """Allocate a rollout that `collect` can fill."""
        env, state_size = self.env, self.network.core.state_size
        return Rollout.zeros(self.num_steps, env.num_envs, action_count(env), state_size)

    @torch.no_grad()
    def collect(self, rollout: Rollout, cache: TorsoCache | None = None) -> Rollout:
        """Play T steps in every environment.

        Args:
            rollout: Filled with these steps.
            cache: Filled with what the torso computes, if given: `Torso.make_cache` of the first
                T * B of the rollout's observations.

        Returns:
            The rollout.
        """
        rollout.initial_state.copy_(self._state)
        self.episodes = []
        # The environments use NumPy, and writing a few numbers takes a tenth of a tensor's time.
        logits_at, actions_at = rollout.behaviour_logits.numpy(), rollout.actions.numpy()
        starts_at, rewards_at = rollout.episode_starts.numpy(), rollout.rewards.numpy()
        mask_at = rollout.mask.numpy()
        *observations, last_observation = rollout.observations.unbind()
        *episode_starts, _ = rollout.episode_starts.unbind()
        with self.network.cached_weights():
            for t, (observation, starts) in enumerate(
                zip(observations, episode_starts, strict=True)
            ):
                starts_at[t] = self._starts
                copy_channels_last(self._observations, observation)
                torso_features = self._run_torso(t, observation, cache)
                policy, self._state = self.network.act_logits(torso_features, self._state, starts)
                logits = policy.numpy()
                actions = sample_actions(logits, self.random)
                ignored = self._ended_before
                rewards_at[t], terminated, life_lost, self._truncated[t] = self._play(actions)
                logits_at[t], actions_at[t] = logits, actions
                np.logical_not(ignored, out=mask_at[t])
                np.logical_or(terminated, life_lost, out=self._ended[t])
        starts_at[-1] = self._starts
        copy_channels_last(self._observations, last_observation)
        rollout.final_state.copy_(self._state)
        zero = np.float32(0)
        rollout.discounts.copy_(torch.from_numpy(np.where(self._ended, zero, self.gamma)))
        rollout.lambdas.copy_(torch.from_numpy(np.where(self._truncated, zero, self.gae_lambda)))
        return rollout

    def _run_torso(
        self, t: int, observations: torch.Tensor, cache: TorsoCache | None
    ) -> torch.Tensor:
        if cache is None:
            return self.network.torso(observations)
        batch = len(observations)
        return self.network.torso.forward_cached(cache, slice(t * batch, (t + 1) * batch))

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


def sample_actions(
    logits: npt.NDArray[np.float32], random: np.random.Generator
) -> npt.NDArray[np.int64]:
    """Sample from softmax(logits): the argmax of the logits with Gumbel noise added.

    Args:
        logits: Shape (B, A).
        random: Random number generator.

    Returns:
        Actions, shape (B,).
    """
    return (logits + random.gumbel(size=logits.shape)).argmax(axis=-1)
