"""Milestones: what an episode reached in its game, from the console's memory.

Scores on a plateau say little about what an agent can do, and in a game without points nothing.
Source of the addresses: Anand et al., Unsupervised State Representation Learning in Atari (2019),
whose annotations are public; those of Frostbite's level, and of the single keys, were found by
writing to the memory and looking at what the game does (`tests/envs/test_milestones.py`).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

# The console's memory after each agent step, uint8, (T, 128).
Memory = npt.NDArray[np.uint8]

# Frostbite: the byte of the igloo and its value when that is complete, and the byte of the level.
IGLOO_BLOCKS, COMPLETE_IGLOO, LEVEL = 77, 15, 75
_ROOM, _INVENTORY, _KEYS = 3, 65, 0b0001_1110


@dataclass(frozen=True)
class Milestone:
    """Something that an episode reaches.

    Attributes:
        name: The name in tags and files.
        title: The name shown to people.
        measure: What an episode reached, from the memory after each of its agent steps.
        is_share: Whether the measure is 0 or 1, so that its mean over episodes is a share of them.
    """

    name: str
    title: str
    measure: Callable[[Memory], float]
    is_share: bool = True


def _played(memory: Memory) -> Memory:
    """The steps before the console's demonstration, which shows a game on level 8.

    The demonstration begins some time after an agent that stands still has frozen to death for the
    last time, which does not end the episode. Entering an igloo only raises the level by one.
    """
    jumps = np.flatnonzero(~np.isin(np.diff(memory[:, LEVEL].astype(int)), (0, 1)))
    return memory[: jumps[0] + 1] if len(jumps) else memory


def _igloo_complete(memory: Memory) -> float:
    # 255 without a block, 0 with one, 15 with its door. Entering the igloo empties it.
    built = _played(memory)[:, IGLOO_BLOCKS] == COMPLETE_IGLOO
    return float(built.any() or _level(memory) > 1)


def _igloo_entered(memory: Memory) -> float:
    return float(_level(memory) > 1)


def _level(memory: Memory) -> float:
    # Every entry leads to the next level, and nothing else does.
    return 1.0 + float(_played(memory)[:, LEVEL].max())


def _rooms(memory: Memory) -> float:
    return float(len(np.unique(memory[:, _ROOM])))


def _key(memory: Memory) -> float:
    return float((memory[:, _INVENTORY] & _KEYS).any())


# Game, as in `Game.name` -> its milestones.
MILESTONES: dict[str, tuple[Milestone, ...]] = {
    "Frostbite": (
        Milestone("igloo_complete", "igloo complete", _igloo_complete),
        Milestone("igloo_entered", "igloo entered", _igloo_entered),
        Milestone("level", "level", _level, is_share=False),
    ),
    "MontezumaRevenge": (
        Milestone("rooms", "rooms", _rooms, is_share=False),
        Milestone("key", "key taken", _key),
    ),
}


def milestones_reached(game_name: str, memory: Iterable[Memory]) -> dict[str, float]:
    """What an episode reached, by the names of the game's milestones.

    Args:
        game_name: The game, as in `Game.name`.
        memory: The console's memory after each agent step, (128,) each.

    Returns:
        Empty for games without milestones, and for environments other than Atari games.
    """
    milestones = MILESTONES.get(game_name, ())
    if not milestones:
        return {}
    rows = np.stack(list(memory))
    return {milestone.name: milestone.measure(rows) for milestone in milestones}
