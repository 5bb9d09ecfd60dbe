"""A single environment that can be rendered, for evaluation and recording."""

from typing import Any, SupportsFloat

import ale_py
import gymnasium
import numpy as np
import numpy.typing as npt
from ale_py.env import AtariEnv
from gymnasium.wrappers import AtariPreprocessing, FrameStackObservation

from envs.config import SCREEN_SIZE, STACK_SIZE, AtariConfig, silence_emulator
from envs.milestones import MILESTONES, milestones_reached

GrayScreen = npt.NDArray[np.uint8]
Stack = npt.NDArray[np.uint8]


def make_atari_evaluation_env(
    config: AtariConfig, *, keep_screens: bool = False
) -> gymnasium.Env[Stack, int]:
    """Make an environment that plays whole episodes by the rules of training, one at a time.

    Observations are (4, 84, 84) uint8, rewards raw, and a lost life does not end an episode. The
    opening and the frame limit are those of `AtariTrainingEnv`, which is why they are implemented
    here: Gymnasium's own no-ops number 1 .. noop_max instead of 0 .. noop_max - 1, and ALE's own
    frame limit counts them. The number of no-ops comes from another random generator than in
    training, so the two paths agree in its distribution, not draw by draw.

    `render()` gives the emulator's screen in colour: (210, 160, 3) uint8 in most games, up to 250
    rows in some. `reset(seed=...)` determines the whole episode; a later `reset()` without a seed
    continues the same random streams. `info["lives"]` counts the lives left; the last step of an
    episode has `info["milestones"]`, what the episode reached by the names of `envs.MILESTONES`, in
    the games listed there.

    Args:
        config: The game and its rules.
        keep_screens: Whether `step` also returns every frame of the agent step, in colour, as
            `info["screens"]`: (n, height, width, 3) uint8 with n = `frame_skip`, or fewer where the
            episode ended within the step. Nothing else changes.
    """
    silence_emulator()
    # Not through gymnasium.make: not every game has an id, and registration would have to be
    # repeated in every child process.
    console = AtariEnv(
        config.rom,
        obs_type="grayscale",
        frameskip=1,
        repeat_action_probability=config.sticky_actions,
        full_action_space=config.full_action_space,
        max_num_frames_per_episode=0,
        render_mode="rgb_array",
    )
    opened = _Opening(console, noop_max=config.noop_max, fire_reset=config.fire_reset)
    limited = _FrameLimit(opened, max_frames=config.max_frames)
    screens: list[npt.NDArray[np.uint8]] = []
    images = AtariPreprocessing(
        _ScreenTap(limited, console, screens) if keep_screens else limited,
        noop_max=0,
        frame_skip=config.frame_skip,
        screen_size=SCREEN_SIZE,
        terminal_on_life_loss=False,
        grayscale_obs=True,
    )
    stacked: gymnasium.Env[Stack, int]
    stacked = FrameStackObservation(images, STACK_SIZE, padding_type="zero")
    if config.game in MILESTONES:
        stacked = _Milestones(stacked, console, config.game)
    return _ScreensOfStep(stacked, screens) if keep_screens else stacked


class _Opening(gymnasium.Wrapper[GrayScreen, int, GrayScreen, int]):
    """Open each episode with FIRE, if asked for, and a random number of no-ops."""

    def __init__(self, console: AtariEnv, *, noop_max: int, fire_reset: bool) -> None:
        super().__init__(console)
        self._console = console
        self._noop_max = noop_max
        self._fires = fire_reset and "FIRE" in console.get_action_meanings()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[GrayScreen, dict[str, Any]]:
        _, info = self._console.reset(seed=seed, options=options)
        ale = self._console.ale
        # Played on the console itself: a few games have no no-op among the agent's actions.
        noops = int(self._console.np_random.integers(max(1, self._noop_max)))
        if self._fires:
            ale.act(ale_py.Action.FIRE)
            noops -= 1
        for _ in range(noops):
            ale.act(ale_py.Action.NOOP)
            if ale.game_over():
                ale.reset_game()
        now = {
            "lives": ale.lives(),
            "episode_frame_number": ale.getEpisodeFrameNumber(),
            "frame_number": ale.getFrameNumber(),
        }
        return ale.getScreenGrayscale(), {**info, **now}


class _FrameLimit(gymnasium.Wrapper[GrayScreen, int, GrayScreen, int]):
    """Truncate an episode at its frame limit, counted from the end of the opening."""

    def __init__(self, env: gymnasium.Env[GrayScreen, int], *, max_frames: int) -> None:
        super().__init__(env)
        self._max_frames = max_frames
        self._frames = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[GrayScreen, dict[str, Any]]:
        self._frames = 0
        return self.env.reset(seed=seed, options=options)

    def step(self, action: int) -> tuple[GrayScreen, SupportsFloat, bool, bool, dict[str, Any]]:
        screen, reward, terminated, _, info = self.env.step(action)
        self._frames += 1
        truncated = self._frames >= self._max_frames and not terminated
        return screen, reward, terminated, truncated, info


class _ScreenTap(gymnasium.Wrapper[GrayScreen, int, GrayScreen, int]):
    """Append every emulator frame to a list; sits below the frame skip."""

    def __init__(
        self,
        env: gymnasium.Env[GrayScreen, int],
        console: AtariEnv,
        screens: list[npt.NDArray[np.uint8]],
    ) -> None:
        super().__init__(env)
        self._console, self._screens = console, screens

    def step(self, action: int) -> tuple[GrayScreen, SupportsFloat, bool, bool, dict[str, Any]]:
        result = self.env.step(action)
        self._screens.append(self._console.ale.getScreenRGB())
        return result


class _ScreensOfStep(gymnasium.Wrapper[Stack, int, Stack, int]):
    """Return what `_ScreenTap` gathered in one agent step; sits above the frame skip."""

    def __init__(
        self, env: gymnasium.Env[Stack, int], screens: list[npt.NDArray[np.uint8]]
    ) -> None:
        super().__init__(env)
        self._screens = screens

    def step(self, action: int) -> tuple[Stack, SupportsFloat, bool, bool, dict[str, Any]]:
        self._screens.clear()
        observation, reward, terminated, truncated, info = self.env.step(action)
        info = {**info, "screens": np.stack(self._screens)}
        return observation, reward, terminated, truncated, info


class _Milestones(gymnasium.Wrapper[Stack, int, Stack, int]):
    """Report at an episode's end what it reached; sits above the frame skip."""

    def __init__(self, env: gymnasium.Env[Stack, int], console: AtariEnv, game: str) -> None:
        super().__init__(env)
        self._console, self._game = console, game
        self._memory: list[npt.NDArray[np.uint8]] = []

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Stack, dict[str, Any]]:
        self._memory.clear()
        return self.env.reset(seed=seed, options=options)

    def step(self, action: int) -> tuple[Stack, SupportsFloat, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._memory.append(self._console.ale.getRAM())
        if terminated or truncated:
            info = {**info, "milestones": milestones_reached(self._game, self._memory)}
        return observation, reward, terminated, truncated, info
