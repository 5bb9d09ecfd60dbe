"""Milestones: what the games do when their memory is written to, and plain sequences of memory."""

from contextlib import closing

import numpy as np
import pytest
from ale_py import Action

from envs import MILESTONES, AtariConfig, make_evaluation_env, milestones_reached


def play(game, script, steps):
    """Play an episode of so many agent steps; return the milestones at its end.

    The script gets the emulator and the number of the step, may write to the memory, and returns an
    action.
    """
    config = AtariConfig(
        game, sticky_actions=0.0, noop_max=1, max_frames=4 * steps, full_action_space=True
    )
    with closing(make_evaluation_env(config)) as env:
        env.reset(seed=1)
        for step in range(steps):
            action = script(env.unwrapped.ale, step)
            _, _, terminated, truncated, info = env.step(action.value)
            assert ("milestones" in info) == (terminated or truncated)
            if terminated or truncated:
                return info["milestones"]
    raise AssertionError("the episode did not end")


def walk_to_the_igloo(ale, step, *, enter):
    """Along the shore, with an igloo that has its door, and through that."""
    memory = ale.getRAM()
    if step == 50:
        ale.setRAM(77, 15)
    if memory[102] > 130:
        return Action.LEFT
    if memory[102] < 124:
        return Action.RIGHT
    return Action.UP if enter else Action.NOOP


def test_an_igloo_that_is_entered_leads_to_the_next_level():
    found = play("Frostbite", lambda *now: walk_to_the_igloo(*now, enter=True), 150)
    assert found == {"igloo_complete": 1, "igloo_entered": 1, "level": 2}


def test_an_igloo_that_is_complete_and_not_entered_is_just_that():
    found = play("Frostbite", lambda *now: walk_to_the_igloo(*now, enter=False), 150)
    assert found == {"igloo_complete": 1, "igloo_entered": 0, "level": 1}


def test_an_agent_that_stays_on_the_shore_reaches_nothing():
    found = play("Frostbite", lambda *_: Action.NOOP, 150)
    assert found == {"igloo_complete": 0, "igloo_entered": 0, "level": 1}


def test_the_consoles_demonstration_after_long_idleness_is_not_the_agents_play():
    memories = []

    def stand_still(ale, _):
        memories.append(ale.getRAM().copy())
        return Action.NOOP

    found = play("Frostbite", stand_still, 4500)
    assert memories[-1][75] == 7, "the demonstration has not begun; on level 8 by the memory"
    assert found == {"igloo_complete": 0, "igloo_entered": 0, "level": 1}


def test_montezumas_revenge_demonstrates_no_other_rooms():
    found = play("MontezumaRevenge", lambda *_: Action.NOOP, 4500)
    assert found == {"rooms": 1, "key": 0}


def take_the_key_and_leave(ale, step, *, leave):
    """From beside the key, and with it to the door on the right."""
    if step == 30:
        ale.setRAM(42, 14)
        ale.setRAM(43, 196)
    if step == 35 and leave:
        ale.setRAM(42, 133)
        ale.setRAM(43, 235)
    return Action.RIGHT if step > 36 and leave else Action.NOOP


@pytest.mark.parametrize(("leave", "rooms"), [(False, 1), (True, 2)])
def test_the_key_opens_a_door_to_another_room(leave, rooms):
    found = play("MontezumaRevenge", lambda *now: take_the_key_and_leave(*now, leave=leave), 60)
    assert found == {"rooms": rooms, "key": 1}


def test_without_the_key_there_is_one_room():
    assert play("MontezumaRevenge", lambda *_: Action.NOOP, 60) == {"rooms": 1, "key": 0}


def test_what_one_episode_reached_is_not_said_of_the_next():
    config = AtariConfig("MontezumaRevenge", noop_max=1, max_frames=8)
    found = []
    with closing(make_evaluation_env(config)) as env:
        for inventory in (2, 0):
            env.reset(seed=1)
            env.unwrapped.ale.setRAM(65, inventory)
            env.step(0)
            found.append(env.step(0)[-1]["milestones"]["key"])
    assert found == [1, 0]


def test_only_keys_are_keys_among_what_is_carried():
    carried = {1: 0, 2: 1, 4: 1, 8: 1, 16: 1, 32: 0, 64: 0, 128: 0, 0b1010_0001: 0}
    for inventory, key in carried.items():
        memory = np.zeros((3, 128), np.uint8)
        memory[1, 65] = inventory
        memory[:, 3] = [1, 7, 1]
        assert milestones_reached("MontezumaRevenge", memory) == {"rooms": 2, "key": key}


def test_a_game_without_milestones_has_none():
    config = AtariConfig("Pong", max_frames=8)
    with closing(make_evaluation_env(config)) as env:
        env.reset(seed=1)
        assert "milestones" not in env.step(0)[-1]
        assert "milestones" not in env.step(0)[-1]
    assert milestones_reached("Pong", []) == {}


def test_names_are_distinct_and_can_be_written():
    for milestones in MILESTONES.values():
        names = [milestone.name for milestone in milestones]
        assert len(set(names)) == len(names)
        assert all(name.isidentifier() for name in names)
