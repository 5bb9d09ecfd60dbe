"""Many games at once, for collecting experience."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from ale_py.vector_env import AtariVectorEnv
from gymnasium.vector import AutoresetMode

from envs.games import Game, require_playable
from envs.protocol import FRAME_SKIP, OBSERVATION_SHAPE, SCREEN_SIZE, STACK_SIZE, check_protocol


@dataclass(frozen=True)
class Episode:
    """A whole game, from its first decision to its end or to the frame limit.

    Attributes:
        raw_return: the game's score as the emulator counts it, unclipped and undiscounted.
        length: the number of decisions; the ignored step after an end is none.
    """

    raw_return: float
    length: int


@dataclass(slots=True)
class TrainingStep:
    """What one step of all B games brought.

    Attributes:
        observations: (B, 4, 84, 84) uint8, oldest picture first. At an end they still show the old
            game: the new one's first observation comes with the next, ignored, step.
        rewards: (B,) float32, raw; zero at ignored steps.
        terminated: (B,) bool, the game is over.
        truncated: (B,) bool, the frame limit was reached; never together with `terminated`.
        life_lost: (B,) bool, a life went but the game is not over; it may come together with
            `truncated`.
        ignored: (B,) bool, this game had ended on the step before, so the action was not played:
            `observations` hold the new game's first one, and nothing else happened.
        episodes: the whole games that ended in this step, in the order of the environments.
    """

    observations: npt.NDArray[np.uint8]
    rewards: npt.NDArray[np.float32]
    terminated: npt.NDArray[np.bool_]
    truncated: npt.NDArray[np.bool_]
    life_lost: npt.NDArray[np.bool_]
    ignored: npt.NDArray[np.bool_]
    episodes: list[Episode]


class TrainingEnv:
    """B copies of one game, stepped together by ale-py's C++ vector environment.

    Rewards are raw and games are whole. Clipping rewards and ending returns at a lost life are the
    learner's business: the emulator's own options for them either hide the raw score or make a lost
    life look like the end of the game. See `envs.protocol` for what an observation is.

    Every array that `reset` and `step` hand out is fresh: the emulator moves its buffers out and
    never writes to them again, so they may be kept without a copy.

    Args:
        game: what to play.
        num_envs: B, the number of copies.
        seeds: (B,) integers in [0, 2**31), one per copy. Games with the same seed and the same
            actions are identical, in any position.
        num_threads: emulator threads; they help only where there are idle cores.
        sticky_actions: probability, at every frame, that the console repeats the action of the
            frame before instead of the given one.
        noop_max: 0 .. noop_max - 1 no-op frames open each game.
        fire_reset: whether a new game is begun by pressing FIRE.
        max_frames: frames after which a game is truncated, not counting its opening.
        full_action_space: all 18 actions instead of those the game uses.

    Attributes:
        num_envs: B.
        num_actions: the number of actions.
        observation_shape: (4, 84, 84).

    Raises:
        UnknownGameError, UnplayableGameError: the emulator cannot play this game.
        ValueError: another argument is out of its range.
    """

    def __init__(
        self,
        game: Game,
        num_envs: int,
        *,
        seeds: npt.NDArray[np.integer],
        num_threads: int = 1,
        sticky_actions: float = 0.25,
        noop_max: int = 30,
        fire_reset: bool = False,
        max_frames: int = 108_000,
        full_action_space: bool = False,
    ) -> None:
        require_playable(game)
        check_protocol(sticky_actions=sticky_actions, noop_max=noop_max, max_frames=max_frames)
        if num_envs < 1:
            raise ValueError(f"num_envs must be at least 1, got {num_envs}")
        if num_threads < 1:
            raise ValueError(f"num_threads must be at least 1, got {num_threads}")
        self._pending_seeds: npt.NDArray[np.int64] | None = _checked_seeds(seeds, num_envs)
        self._emulators = AtariVectorEnv(
            game.rom,
            num_envs,
            num_threads=min(num_threads, num_envs),
            max_num_frames_per_episode=max_frames,
            repeat_action_probability=sticky_actions,
            full_action_space=full_action_space,
            autoreset_mode=AutoresetMode.NEXT_STEP,
            img_height=SCREEN_SIZE,
            img_width=SCREEN_SIZE,
            grayscale=True,
            stack_num=STACK_SIZE,
            frameskip=FRAME_SKIP,
            maxpool=True,
            noop_max=noop_max,
            episodic_life=False,
            life_loss_info=False,
            reward_clipping=False,
            use_fire_reset=fire_reset,
        )
        self.num_envs = num_envs
        self.num_actions = len(self._emulators.ale.get_action_set())
        self.observation_shape: tuple[int, int, int] = OBSERVATION_SHAPE
        self._closed = False
        self._lives: npt.NDArray[np.int32] = np.zeros(num_envs, np.int32)
        self._ended: npt.NDArray[np.bool_] = np.zeros(num_envs, np.bool_)
        self._returns: npt.NDArray[np.float64] = np.zeros(num_envs, np.float64)
        self._lengths: npt.NDArray[np.int64] = np.zeros(num_envs, np.int64)

    def reset(self) -> npt.NDArray[np.uint8]:
        """Begin new games everywhere, whatever the old ones were at.

        The first call applies the seeds. Later ones go on with the emulators' random streams, so
        that they do not replay the same openings.

        Returns:
            (B, 4, 84, 84) uint8, the first observations.
        """
        observations, info = self._emulators.reset(seed=self._pending_seeds)
        self._pending_seeds = None
        self._lives = info["lives"]
        self._ended = np.zeros(self.num_envs, np.bool_)
        self._returns[:] = 0.0
        self._lengths[:] = 0
        return observations

    def step(self, actions: npt.NDArray[np.int64]) -> TrainingStep:
        """Play one decision in every game.

        Args:
            actions: (B,) int64, each in [0, num_actions).

        Raises:
            ValueError: the actions have another shape or type, or one is out of range.
            RuntimeError: there was no `reset` before.
        """
        self._check_actions(actions)
        if self._pending_seeds is not None:
            raise RuntimeError("step() was called before reset()")
        observations, rewards, terminated, truncated, info = self._emulators.step(actions)
        ignored, ended = self._ended, terminated | truncated
        # Lives may rise within a game (a bonus) and change freely from one game to the next; some
        # games have none at all. Only a fall within a game that is not over is a lost life.
        life_lost = (info["lives"] < self._lives) & ~(terminated | ignored)
        self._lives = info["lives"]
        self._returns += rewards
        self._lengths += ~ignored
        self._ended = ended
        return TrainingStep(
            observations=observations,
            rewards=rewards.astype(np.float32),
            terminated=terminated,
            truncated=truncated,
            life_lost=life_lost,
            ignored=ignored,
            episodes=self._finish_games(ended) if ended.any() else [],
        )

    def close(self) -> None:
        """Stop the emulators and their threads; a second call does nothing."""
        if self._closed:
            return
        self._closed = True
        self._emulators.close()
        del self._emulators  # the threads are joined only when the C++ object goes

    def _finish_games(self, ended: npt.NDArray[np.bool_]) -> list[Episode]:
        """Take the finished games' totals and clear them for the games that follow."""
        episodes = [
            Episode(raw_return=float(self._returns[i]), length=int(self._lengths[i]))
            for i in np.flatnonzero(ended)
        ]
        self._returns[ended] = 0.0
        self._lengths[ended] = 0
        return episodes

    def _check_actions(self, actions: npt.NDArray[np.int64]) -> None:
        # Not a courtesy: ale-py 0.12.1 waits forever after an action that is out of range.
        if actions.shape != (self.num_envs,) or actions.dtype != np.int64:
            raise ValueError(
                f"actions must be ({self.num_envs},) int64, got {actions.shape} {actions.dtype}"
            )
        if actions.min() < 0 or actions.max() >= self.num_actions:
            raise ValueError(f"actions must be in [0, {self.num_actions}), got {actions.tolist()}")


def _checked_seeds(seeds: npt.NDArray[np.integer], num_envs: int) -> npt.NDArray[np.int64]:
    """The seeds as int64; the emulator would take a negative one for "unseeded"."""
    seeds = np.asarray(seeds)
    if seeds.shape != (num_envs,) or not np.issubdtype(seeds.dtype, np.integer):
        raise ValueError(f"seeds must be ({num_envs},) integers, got {seeds.shape} {seeds.dtype}")
    if seeds.min() < 0 or seeds.max() >= 2**31:
        raise ValueError(f"seeds must be in [0, 2**31), got {seeds.tolist()}")
    return seeds.astype(np.int64)
