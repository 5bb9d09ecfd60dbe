"""A vector environment for collecting experience."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from ale_py.vector_env import AtariVectorEnv
from gymnasium.vector import AutoresetMode, VectorEnv

from envs.config import SCREEN_SIZE, STACK_SIZE, AtariConfig, atari_action_names


@dataclass(frozen=True)
class Episode:
    """A whole episode, from its first agent step to its end or to the frame limit.

    Attributes:
        raw_return: The score as the emulator counts it, unclipped and undiscounted.
        length: The number of agent steps.
    """

    raw_return: float
    length: int


class AtariTrainingEnv(VectorEnv[npt.NDArray[np.uint8], npt.NDArray[np.int64], npt.NDArray[Any]]):
    """B copies of one game, stepped together by ale-py's C++ vector environment.

    Rewards are raw and episodes are whole. Clipping rewards and ending returns at a lost life are
    left to the agent: the emulator's own options for them either hide the raw score or make a lost
    life look like the end of the episode. `envs.config` describes the observations.

    Autoreset mode is `NEXT_STEP`: at an end, `step` still returns the old episode's observation;
    the next step ignores the action, returns the new episode's first observation, a reward of 0 and
    neither terminates nor truncates. Termination and truncation never come together.

    `info` follows Gymnasium's convention for vector environments: `lives`, the lives left, (B,)
    int32; and at a step that ends an episode `episode`, the finished episodes' raw returns `r` and
    lengths `l` in agent steps, (B,) each, valid where the mask `_episode` is true (as written by
    `gymnasium.wrappers.vector.RecordEpisodeStatistics`).

    Every array that `reset` and `step` return is fresh: the emulator moves its buffers out and
    never writes to them again, so they may be kept without a copy.

    Args:
        config: The game and its rules.
        num_envs: B, the number of copies.
        seeds: (B,) integers in [0, 2**31), one per copy, for the first `reset` if it is given none.
            Copies with the same seed and the same actions are identical, in any position.
        num_threads: The number of emulator threads; they help only where there are idle cores.

    Raises:
        ValueError: `num_envs`, `seeds` or `num_threads` is out of its range.
    """

    def __init__(
        self,
        config: AtariConfig,
        num_envs: int,
        *,
        seeds: npt.NDArray[np.integer] | None = None,
        num_threads: int = 1,
    ) -> None:
        if num_envs < 1:
            raise ValueError(f"num_envs must be at least 1, got {num_envs}")
        if num_threads < 1:
            raise ValueError(f"num_threads must be at least 1, got {num_threads}")
        self._seeds = None if seeds is None else _checked_seeds(seeds, num_envs)
        self._emulators = AtariVectorEnv(
            config.rom,
            num_envs,
            num_threads=min(num_threads, num_envs),
            max_num_frames_per_episode=config.max_frames,
            repeat_action_probability=config.sticky_actions,
            full_action_space=config.full_action_space,
            autoreset_mode=AutoresetMode.NEXT_STEP,
            img_height=SCREEN_SIZE,
            img_width=SCREEN_SIZE,
            grayscale=True,
            stack_num=STACK_SIZE,
            frameskip=config.frame_skip,
            maxpool=True,
            noop_max=config.noop_max,
            episodic_life=False,
            life_loss_info=False,
            reward_clipping=False,
            use_fire_reset=config.fire_reset,
        )
        self.metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}
        self.num_envs = num_envs
        self.single_observation_space = self._emulators.single_observation_space
        self.single_action_space = self._emulators.single_action_space
        self.observation_space = self._emulators.observation_space
        self.action_space = self._emulators.action_space
        self._num_actions = len(atari_action_names(config))
        self._everywhere: npt.NDArray[np.bool_] = np.ones(num_envs, np.bool_)
        self._ready = False
        self._ended: npt.NDArray[np.bool_] = np.zeros(num_envs, np.bool_)
        self._returns: npt.NDArray[np.float64] = np.zeros(num_envs, np.float64)
        self._lengths: npt.NDArray[np.int64] = np.zeros(num_envs, np.int64)

    def reset(
        self,
        *,
        seed: int | Sequence[int] | npt.NDArray[np.integer] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[npt.NDArray[np.uint8], dict[str, Any]]:
        """Start new episodes everywhere.

        Args:
            seed: A seed for every copy; or one number s, for s, s + 1, ... Without one, the first
                call takes the constructor's seeds, and later calls continue the emulators' random
                streams, so that openings do not repeat.
            options: Must be empty: copies are reset together.

        Returns:
            The first observations, (B, 4, 84, 84) uint8, and `info`.

        Raises:
            ValueError: The seeds are not (B,) integers in [0, 2**31), or there are options.
        """
        if options:
            raise ValueError(f"reset() takes no options, got {options}")
        if isinstance(seed, int):
            seed = np.arange(seed, seed + self.num_envs)
        seeds = self._seeds if seed is None else _checked_seeds(np.asarray(seed), self.num_envs)
        observations, info = self._emulators.reset(seed=seeds)
        self._seeds, self._ready = None, True
        self._ended = np.zeros(self.num_envs, np.bool_)
        self._returns[:] = 0.0
        self._lengths[:] = 0
        return observations, self._info(info)

    def step(
        self, actions: npt.NDArray[np.int64]
    ) -> tuple[
        npt.NDArray[np.uint8],
        npt.NDArray[np.float32],
        npt.NDArray[np.bool_],
        npt.NDArray[np.bool_],
        dict[str, Any],
    ]:
        """Play one agent step in every copy.

        Args:
            actions: (B,) int64, each in [0, single_action_space.n).

        Returns:
            Observations, (B, 4, 84, 84) uint8, oldest image first; raw rewards, (B,) float32;
            terminations and truncations, (B,) bool; and `info`.

        Raises:
            ValueError: The actions have another shape or type, or one is out of range.
            RuntimeError: There was no `reset` before.
        """
        self._check_actions(actions)
        if not self._ready:
            raise RuntimeError("step() was called before reset()")
        observations, rewards, terminations, truncations, emulator_info = self._emulators.step(
            actions
        )
        info = self._info(emulator_info)
        self._returns += rewards
        self._lengths += ~self._ended
        self._ended = ended = terminations | truncations
        if ended.any():
            info["episode"] = {
                "r": np.where(ended, self._returns, 0.0),
                "l": np.where(ended, self._lengths, 0),
            }
            info["_episode"] = ended
            self._returns[ended] = 0.0
            self._lengths[ended] = 0
        return observations, rewards.astype(np.float32), terminations, truncations, info

    def close_extras(self, **_: Any) -> None:
        """Stop the emulators and their threads; called by `close`, once."""
        self._emulators.close()
        del self._emulators  # the threads are joined only when the C++ object is destroyed

    def _info(self, emulator_info: dict[str, npt.NDArray[Any]]) -> dict[str, Any]:
        return {"lives": emulator_info["lives"], "_lives": self._everywhere}

    def _check_actions(self, actions: npt.NDArray[np.int64]) -> None:
        # Required: ale-py 0.12.1 waits forever after an action that is out of range.
        if actions.shape != (self.num_envs,) or actions.dtype != np.int64:
            raise ValueError(
                f"actions must be ({self.num_envs},) int64, got {actions.shape} {actions.dtype}"
            )
        if actions.min() < 0 or actions.max() >= self._num_actions:
            raise ValueError(f"actions must be in [0, {self._num_actions}), got {actions.tolist()}")


def _checked_seeds(seeds: npt.NDArray[np.integer], num_envs: int) -> npt.NDArray[np.int64]:
    """The seeds as int64; the emulator would take a negative one for "unseeded"."""
    seeds = np.asarray(seeds)
    if seeds.shape != (num_envs,) or not np.issubdtype(seeds.dtype, np.integer):
        raise ValueError(f"seeds must be ({num_envs},) integers, got {seeds.shape} {seeds.dtype}")
    if seeds.min() < 0 or seeds.max() >= 2**31:
        raise ValueError(f"seeds must be in [0, 2**31), got {seeds.tolist()}")
    return seeds.astype(np.int64)
