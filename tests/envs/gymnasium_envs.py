"""Environments that tests register, each with spaces of another kind."""

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple

PICTURE = Box(0, 255, (40, 60, 3), np.uint8)
SPACES = {
    "Vector": Box(-1, 1, (3,), np.float64),
    "Matrix": Box(-1, 1, (2, 3), np.float32),
    "Integers": Box(0, 9, (3,), np.int64),
    "Bytes": Box(0, 255, (5,), np.uint8),
    "Discrete": Discrete(4, start=1),
    "MultiDiscrete": MultiDiscrete([2, 3]),
    "MultiBinary": MultiBinary(4),
    "Picture": PICTURE,
    "ChannelsFirst": Box(0, 255, (3, 40, 60), np.uint8),
    "Stack": Box(0, 255, (8, 40, 60), np.uint8),
    "Board": Box(0, 255, (2, 6, 7), np.uint8),
    "Grey": Box(0, 255, (40, 60), np.uint8),
    "Tiles": Box(0, 255, (7, 7, 3), np.uint8),
    "TallTiles": Box(0, 255, (10, 8, 16), np.uint8),
    "OneHotTiles": Box(0, 1, (7, 7, 20), np.uint8),
    "Dict": Dict({"direction": Discrete(4), "image": PICTURE}),
    "Movie": Box(0, 255, (4, 40, 60, 3), np.uint8),
    "TwoImages": Dict({"left": PICTURE, "right": PICTURE}),
    "NoImage": Dict({"direction": Discrete(4)}),
    "Tuple": Tuple([Discrete(2), Discrete(3)]),
}


class Countdown(gymnasium.Env):
    """Ends after `length` steps; observations are drawn from the space, which kind names.

    The reward is the action's number, counted from the first.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 12}  # noqa: RUF012

    def __init__(self, kind="Vector", actions=3, first=0, length=5, fail_at=0, render_mode=None):
        self.observation_space = SPACES[kind]
        self.action_space = Discrete(actions, start=first)
        self.length, self.fail_at, self.render_mode = length, fail_at, render_mode
        self.steps = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed, options=options)
        self.steps = 0
        return self._observe(), {}

    def step(self, action):
        assert self.action_space.contains(action), action
        self.steps += 1
        if self.steps == self.fail_at:
            raise RuntimeError("the machine is out of order")
        reward = float(action - self.action_space.start)
        return self._observe(), reward, self.steps >= self.length, False, {}

    def render(self):
        return np.full((30, 20, 3), 10 * self.steps, np.uint8)

    def _observe(self):
        self.observation_space.seed(int(self.np_random.integers(2**31)))
        return self.observation_space.sample()


class Unrendered(Countdown):
    """Has no pictures."""

    metadata = {"render_modes": []}  # noqa: RUF012


class Talkative(Countdown):
    """Says much in `info`, of changing types and shapes, and has NumPy's truth values."""

    def reset(self, *, seed=None, options=None):
        observation, _ = super().reset(seed=seed, options=options)
        self.length = int(self.np_random.integers(3, 9))
        return observation, {"lives": 3, "legal": np.arange(2)}

    def step(self, action):
        observation, reward, terminated, truncated, _ = super().step(action)
        info = {"episode": self.steps, "milestones": 3, "legal": np.arange(self.steps)}
        if self.steps == 2:
            info["lives"] = np.int64(2)
        return observation, reward, np.bool_(terminated), np.bool_(truncated), info

    def render(self):
        return None if self.steps == 3 else super().render()


class Painter(Countdown):
    """Draws all its pictures into the same memory."""

    canvas = np.zeros((30, 20, 3), np.uint8)

    def render(self):
        self.canvas[:] = super().render()
        return self.canvas


class Tiring(Countdown):
    """Pays less from episode to episode of a process, whatever one does."""

    episodes = 0

    def reset(self, *, seed=None, options=None):
        Tiring.episodes += 1
        return super().reset(seed=seed, options=options)

    def step(self, action):
        observation, _, terminated, truncated, info = super().step(action)
        return observation, 100.0 - Tiring.episodes, terminated, truncated, info


class Faint(Countdown):
    """Has pictures of numbers from 0 to 1."""

    def render(self):
        return np.ones((30, 20, 3), np.float32)


class Demanding(Countdown):
    """Cannot be made without an argument that has no default."""

    def __init__(self, size, **arguments):
        super().__init__(**arguments)
        self.size = size


class Outdated(Countdown):
    """Its `reset` returns the observation alone, as in versions of Gym before 0.26."""

    def reset(self, *, seed=None, options=None):
        return super().reset(seed=seed, options=options)[0]


class Shapeless(Countdown):
    """Its steps return observations of another shape than its space has."""

    def step(self, action):
        observation, *rest = super().step(action)
        return (np.zeros((2, *np.shape(observation)), np.float32), *rest)


for _kind in SPACES:
    gymnasium.register(f"Test{_kind}-v0", Countdown, kwargs={"kind": _kind})
gymnasium.register("TestShifted-v0", Countdown, kwargs={"first": -1})
gymnasium.register("TestManyActions-v0", Countdown, kwargs={"actions": 257})
gymnasium.register("TestEndless-v0", Countdown, kwargs={"length": 10**9})
gymnasium.register("TestFailing-v0", Countdown, kwargs={"fail_at": 3})
# One action that earns nothing, and four observations: soon there is nothing new.
_still = {"kind": "Discrete", "actions": 1, "length": 1100}
gymnasium.register("TestStill-v0", Countdown, kwargs=_still)
gymnasium.register("TestUnrendered-v0", Unrendered)
gymnasium.register("TestPainter-v0", Painter)
gymnasium.register("TestTiring-v0", Tiring, kwargs={"length": 10**9})
gymnasium.register("TestTalkative-v0", Talkative)
gymnasium.register("TestConsole-v0", "ale_py.env:AtariEnv", kwargs={"game": "pong"})
gymnasium.register("TestFaint-v0", Faint)
gymnasium.register("TestDemanding-v0", Demanding)
gymnasium.register("TestOutdated-v0", Outdated)
gymnasium.register("TestShapeless-v0", Shapeless)
