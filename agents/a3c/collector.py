"""The collector: plays T steps in a batch of environments with actions sampled from a policy."""

from collections.abc import Sequence
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from gymnasium.spaces import Discrete
from gymnasium.vector import AutoresetMode, VectorEnv
from torch import Tensor

from agents.a3c.bonus import Bonus
from agents.a3c.rollout import Rollout
from agents.networks.actor_critic import ActorCritic
from agents.networks.torso import TorsoCache, copy_channels_last
from envs import Episode, Spaces, UnusableEnvironmentError


def spaces_of(env: VectorEnv[Any, Any, Any]) -> Spaces:
    """The sizes of an environment's actions and observations.

    Raises:
        UnusableEnvironmentError: Its actions are not discrete, from 0; its observations are neither
            images, uint8 of shape (C, H, W), nor vectors, floating point of shape (D,); or it does
            not autoreset in Gymnasium's `NEXT_STEP` mode.
    """
    actions, observations = env.single_action_space, env.single_observation_space
    if not isinstance(actions, Discrete) or actions.start != 0:
        raise UnusableEnvironmentError(
            f"the action space must be Discrete and start at 0, got {actions}"
        )
    shape, dtype = observations.shape or (), observations.dtype or np.dtype(object)
    is_vector = len(shape) == 1 and np.issubdtype(dtype, np.floating)
    if not is_vector and not (len(shape) == 3 and dtype == np.uint8):
        allowed = "images, (C, H, W) uint8, or vectors, (D,) of floating-point numbers"
        raise UnusableEnvironmentError(f"observations must be {allowed}, got {observations}")
    mode = env.metadata.get("autoreset_mode")
    if mode != AutoresetMode.NEXT_STEP:
        raise UnusableEnvironmentError(f"environments must autoreset in NEXT_STEP mode, got {mode}")
    return Spaces.of(int(actions.n), observations)


class Collector:
    """Plays the environments of W workers, B each, with actions sampled from a network's policy.

    Args:
        env: Any Gymnasium vector environment of W * B that `spaces_of` accepts; it is reset
            here. The first B belong to the first worker, the next B to the second, and so on.
            Lost lives are read from `info["lives"]`, if there, and finished episodes from
            `info["episode"]` where `info["_episode"]` is true, as
            `gymnasium.wrappers.vector.RecordEpisodeStatistics` writes them; elsewhere the rewards
            are summed up.
        network: The network that acts; its parameters change only between two calls of `collect`.
        num_steps: T.
        gamma: Discount within an episode.
        gae_lambda: lambda within an episode.
        life_loss_ends_return: Whether a lost life ends the return.
        generators: The random number generator of each worker's actions.
        bonus: Gives the bonus of every observation that a step led to; None for no bonus.

    Attributes:
        episodes: Each worker's episodes that ended in its last rollout.
    """

    def __init__(
        self,
        env: VectorEnv[Any, Any, Any],
        network: ActorCritic,
        *,
        num_steps: int,
        gamma: float,
        gae_lambda: float,
        life_loss_ends_return: bool,
        generators: Sequence[np.random.Generator],
        bonus: Bonus | None = None,
    ) -> None:
        self.env, self.network, self.generators = env, network, generators
        self.num_steps, self.gamma, self.gae_lambda = num_steps, gamma, gae_lambda
        self.life_loss_ends_return, self.bonus = life_loss_ends_return, bonus
        self.spaces = spaces_of(env)
        self.envs_per_worker = env.num_envs // len(generators)
        self.episodes: list[list[Episode]] = [[] for _ in generators]
        observations, info = env.reset()
        self._observations = self._as_tensor(observations)
        self._starts = np.ones(env.num_envs, np.bool_)
        self._ended_before = np.zeros(env.num_envs, np.bool_)
        self._lives = info.get("lives", np.zeros(env.num_envs, np.int32))
        self._returns, self._lengths = np.zeros(env.num_envs), np.zeros(env.num_envs, np.int64)
        self._state = network.initial_state(env.num_envs)
        self._steps = _Steps(num_steps, env.num_envs, self.spaces.num_actions)

    def make_rollouts(self) -> Rollout:
        """Allocate the rollouts of all workers, stacked in the first dimension of every field."""
        return Rollout.zeros(
            len(self.generators),
            self.num_steps,
            self.envs_per_worker,
            self.spaces,
            self.network.core.state_size,
        )

    @torch.no_grad()
    def collect(
        self,
        rollouts: Sequence[Rollout],
        cache: TorsoCache | None = None,
        *,
        with_bonus: bool = True,
    ) -> None:
        """Play T steps in every environment.

        Args:
            rollouts: One for each worker, filled with its steps.
            cache: Filled with what the torso computes, if given: `Torso.make_cache` of the first
                T * B of every rollout's observations.
            with_bonus: Whether observations are counted for the bonus, and get one.
        """
        first_state, steps = self._state, self._steps
        self.episodes = [[] for _ in self.generators]
        noise = self._draw_noise()
        observations = [rollout.observations.unbind() for rollout in rollouts]
        with self.network.cached_weights():
            for t, written in enumerate(islice(zip(*observations, strict=True), self.num_steps)):
                steps.episode_starts[t] = self._starts
                self._write_observations(written)
                features = self._run_torso(t, written, cache)
                policy, self._state = self.network.act_logits(
                    features, self._state, torch.from_numpy(self._starts)
                )
                logits = policy.numpy()
                actions = sample_actions(logits, noise[t])
                steps.behaviour_logits[t], steps.actions[t] = logits, actions
                ignored = self._ended_before
                np.logical_not(ignored, out=steps.mask[t])
                steps.rewards[t], terminated, life_lost, steps.truncated[t] = self._play(actions)
                steps.ended[t] = terminated
                if self.life_loss_ends_return:
                    steps.ended[t] |= life_lost
                if self.bonus and with_bonus:
                    steps.bonuses[t] = self.bonus(self._observations.numpy(), steps.mask[t])
        steps.episode_starts[-1] = self._starts
        self._write_observations([each[-1] for each in observations])
        fields = {
            **steps.fields(self.gamma, self.gae_lambda),
            "initial_state": first_state,
            "final_state": self._state,
        }
        for name, field in fields.items():  # each (time or hidden and cell, W * B, ...)
            parts = field.split(self.envs_per_worker, dim=1)
            for rollout, part in zip(rollouts, parts, strict=True):
                getattr(rollout, name).copy_(part)

    def _draw_noise(self) -> npt.NDArray[np.float64]:
        """Gumbel noise for every step, shape (T, W * B, A): from each worker's own generator."""
        shape = (self.num_steps, self.envs_per_worker, self.spaces.num_actions)
        return np.concatenate([each.gumbel(size=shape) for each in self.generators], axis=1)

    def _write_observations(self, written: Sequence[Tensor]) -> None:
        for observations, out in zip(
            self._observations.split(self.envs_per_worker), written, strict=True
        ):
            if self.spaces.has_images:
                copy_channels_last(observations, out)
            else:
                out.copy_(observations)

    def _as_tensor(self, observations: npt.NDArray[Any]) -> Tensor:
        # Torch takes no views in reverse order, such as flipped images.
        tensor = torch.from_numpy(np.ascontiguousarray(observations))
        return tensor if self.spaces.has_images else tensor.to(torch.float32)

    def _run_torso(
        self, t: int, observations: tuple[Tensor, ...], cache: TorsoCache | None
    ) -> Tensor:
        if cache is None:
            return self.network.torso(torch.cat(observations))
        batch = self.envs_per_worker
        return self.network.torso.forward_cached(cache, slice(t * batch, (t + 1) * batch))

    def _play(self, actions: npt.NDArray[np.int64]) -> tuple[Any, Any, Any, Any]:
        """Play a step; return rewards, terminations, lost lives and truncations, (B,) each."""
        observations, rewards, terminated, truncated, info = self.env.step(actions)
        before, self._observations = self._observations, self._as_tensor(observations)
        if terminated.any() and not self.spaces.has_images:
            # Nothing is learned from what is seen after an end, but NaN there would spoil the
            # gradient: NaN times zero is NaN.
            spoilt = torch.from_numpy(terminated).unsqueeze(1) & ~self._observations.isfinite()
            self._observations = torch.where(spoilt, before, self._observations)
        # In NEXT_STEP mode, the step after an end ignores its action and starts a new episode.
        self._starts = ignored = self._ended_before
        self._ended_before = ended = terminated | truncated
        # Lives may rise within an episode (a bonus life) and change freely between episodes; some
        # games have none at all. Only a fall within a running episode is a lost life.
        # A step may not tell them: they are as before then, and unknown in a new episode.
        known = np.where(ignored, 0, self._lives)
        lives = np.where(info.get("_lives", True), info.get("lives", known), known)
        life_lost = (lives < self._lives) & ~(terminated | ignored)
        self._lives = lives
        self._returns += rewards
        self._lengths += ~ignored
        if ended.any():
            self._finish_episodes(ended, info)
        return rewards, terminated, life_lost, truncated

    def _finish_episodes(self, ended: npt.NDArray[np.bool_], info: dict[str, Any]) -> None:
        # Not every episode's end comes with statistics: a wrapper inside a time limit sees no
        # truncation, and other environments mean something else by the name.
        own = info.get("episode")
        if not isinstance(own, dict) or not own.keys() >= {"r", "l"}:
            own = {}
        is_own = ended & (info.get("_episode", False) if own else False)
        for i in np.flatnonzero(ended):
            returns, lengths = (own["r"], own["l"]) if is_own[i] else (self._returns, self._lengths)
            episode = Episode(float(returns[i]), int(lengths[i]))
            self.episodes[i // self.envs_per_worker].append(episode)
        self._returns[ended] = 0.0
        self._lengths[ended] = 0


class _Steps:
    """What happens in T steps of N environments, except observations, as NumPy arrays.

    The environments use NumPy, and writing a few numbers takes a tenth of a tensor's time.

    Args:
        num_steps: T.
        num_envs: N.
        num_actions: The size of the action space.
    """

    def __init__(self, num_steps: int, num_envs: int, num_actions: int) -> None:
        shape = (num_steps, num_envs)
        self.episode_starts = np.zeros((num_steps + 1, num_envs), np.bool_)
        self.actions = np.zeros(shape, np.int64)
        self.behaviour_logits = np.zeros((*shape, num_actions), np.float32)
        self.rewards, self.bonuses = np.zeros((2, *shape), np.float32)
        self.mask, self.ended, self.truncated = np.zeros((3, *shape), np.bool_)

    def fields(self, gamma: float, gae_lambda: float) -> dict[str, Tensor]:
        """The fields of a rollout by name, as tensors."""
        zero = np.float32(0)
        arrays = {
            "episode_starts": self.episode_starts,
            "actions": self.actions,
            "behaviour_logits": self.behaviour_logits,
            "rewards": self.rewards,
            "bonuses": self.bonuses,
            "discounts": np.where(self.ended, zero, gamma),
            "lambdas": np.where(self.truncated, zero, gae_lambda),
            "mask": self.mask,
        }
        return {name: torch.from_numpy(array) for name, array in arrays.items()}


def sample_actions(
    logits: npt.NDArray[np.float32], noise: npt.NDArray[np.float64]
) -> npt.NDArray[np.int64]:
    """Sample from softmax(logits): the argmax of the logits with Gumbel noise added.

    Args:
        logits: Shape (B, A).
        noise: Drawn from the standard Gumbel distribution, shape (B, A).

    Returns:
        Actions, shape (B,).
    """
    return (logits + noise).argmax(axis=-1)
