"""What policies do on Frostbite's shore, told from the console's memory."""

import dataclasses
from contextlib import closing

import numpy as np
import pytest

from agents.errors import UserError
from benchmarks.shore import Recorder, Step, main, shore_table
from envs import AtariConfig, make_evaluation_env


def step(action, *, complete=False, shore=True, level=0, reward=0.0):
    memory = np.zeros(128, dtype=np.uint8)
    memory[77] = 15 if complete else 3
    memory[100] = 27 if shore else 51
    memory[75] = level
    return Step(memory, action, reward)


def test_steps_are_counted_before_and_after_the_igloo_is_complete_on_the_first_level():
    before = [step("DOWNLEFT"), step("UPFIRE"), step("NOOP"), step("UP", shore=False, reward=10)]
    after = [step("RIGHT", complete=True), step("FIRE", complete=True), step("DOWN", complete=True)]
    later = [step("DOWN", complete=True, level=1, reward=500)]
    *_, first, second = shore_table([*before, *after, *later]).splitlines()
    assert first == "| not complete | 4 | 2.50 | 75 % | 33 % | 0 % | 33 % | 33 % |"
    assert second == "| complete | 3 | 0.00 | 100 % | 33 % | 33 % | 0 % | 33 % |"
    assert shore_table([]).endswith("| complete | 0 | - | - | - | - | - | - |")


def test_a_step_holds_the_memory_that_the_agent_acted_on():
    config = AtariConfig("Frostbite", sticky_actions=0.0, noop_max=1, full_action_space=True)
    with closing(Recorder(make_evaluation_env(config))) as env:
        env.reset(seed=1)
        for action in [0] * 50 + [3] * 60:  # the figure appears, then walks along the shore
            env.step(action)
        positions = [int(taken.memory[102]) for taken in env.steps]
        now = int(env.unwrapped.ale.getRAM()[102])
    assert [taken.action for taken in env.steps[49:51]] == ["NOOP", "RIGHT"]
    assert positions[50] == positions[49]  # the first step to the right begins there
    assert positions[51] > positions[50]
    assert now >= positions[-1]
    assert all(taken.memory[100] == 27 for taken in env.steps[50:])


@pytest.mark.parametrize(("frame_skip", "steps"), [(4, 30), (12, 10), (32, 4)])
def test_the_door_is_so_many_agent_steps_from_where_a_life_begins(frame_skip, steps):
    config = AtariConfig("Frostbite", sticky_actions=0.0, noop_max=1, full_action_space=True)
    config = dataclasses.replace(config, frame_skip=frame_skip)
    with closing(make_evaluation_env(config)) as env:
        env.reset(seed=1)
        console = env.unwrapped.ale
        while console.getEpisodeFrameNumber() < 200:
            env.step(0)
        walked = 0
        while console.getRAM()[102] < 124:  # the door is at 124 to 130
            env.step(3)
            walked += 1
    assert walked == steps


def test_a_jump_from_the_shore_takes_30_frames():
    config = AtariConfig("Frostbite", sticky_actions=0.0, noop_max=1, full_action_space=True)
    with closing(make_evaluation_env(dataclasses.replace(config, frame_skip=1))) as env:
        env.reset(seed=1)
        heights = []
        for frame in range(260):
            env.step(5 if 200 <= frame < 204 else 0)
            heights.append(int(env.unwrapped.ale.getRAM()[100]))
    floe = heights[-1]
    assert heights[199] == 27
    assert heights.index(floe) + 1 - 200 == 30


def test_the_agent_that_enters_goes_along_the_shore_once_the_igloo_is_complete(capsys):
    assert main(["models/frostbite-linear", "--episodes", "2"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("2 episodes, mean score ")
    complete = said.splitlines()[-1].split("|")
    assert complete[1].strip() == "complete"
    assert int(complete[6].split()[0]) > 30  # policies on the plateau: 3 to 10 %


def test_other_games_are_refused():
    with pytest.raises(UserError, match="is a run on Pong, not on Frostbite"):
        main(["models/pong-linear"])
