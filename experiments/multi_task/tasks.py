"""Sequences of algorithms: Copy, Repeat Copy, Associative Recall and Priority Sort in a row.

The four are those of the Neural Turing Machine (Graves et al. 2014, section 4), made smaller, and
put one after another as in section 3.3 of the Neurocoder paper: every sequence is a series of
sub-tasks, drawn with replacement, each following a vector that identifies it.

A sub-task is given in this order, one vector per step:

1. its identifier;
2. its items: vectors of random bits, and in Priority Sort a number from -1 to 1 with each;
3. its end; in Repeat Copy with the number of repeats, scaled to at most 1, and in Associative
   Recall with the queried item.

During the answer the input is empty, for as many steps as the answer has vectors. The paper does
not say when answers are due. Here either all sub-tasks are given first, and then the answers are
due in the same order, or each is answered before the next is given. The answers are:

- Copy: the items;
- Repeat Copy: the items, the given number of times;
- Associative Recall: the item that stood after the queried one (items are distinct here);
- Priority Sort: the items, highest number first.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

TASKS = ("copy", "repeat copy", "associative recall", "priority sort")
NOWHERE = -1

Numbers = np.ndarray
SubTask = tuple[Numbers, Numbers]


@dataclass(frozen=True)
class TaskSizes:
    """The sizes of the sub-tasks.

    Attributes:
        bits: Bits of an item.
        fewest_items: Smallest number of items; Associative Recall has at least two.
        most_items: Largest number of items.
        most_repeats: Largest number of repeats of Repeat Copy.
    """

    bits: int
    fewest_items: int
    most_items: int
    most_repeats: int

    @property
    def channels(self) -> int:
        """Size of an input: bits, identifiers, the end marker, and a number."""
        return self.bits + len(TASKS) + 2


class Batch(NamedTuple):
    """Sequences of T steps; shorter ones are followed by zeros, where no answer is due.

    Attributes:
        inputs: shape (T, B, channels).
        targets: bits, shape (T, B, bits); zero where no answer is due.
        task: index into TASKS of the sub-task that is answered, shape (T, B); NOWHERE elsewhere.
        position: number of that sub-task in its sequence, from 0, shape (T, B); NOWHERE elsewhere.
    """

    inputs: Tensor
    targets: Tensor
    task: Tensor
    position: Tensor

    @property
    def answering(self) -> Tensor:
        """Where an answer is due, booleans of shape (T, B)."""
        return self.task != NOWHERE


def sample(
    sizes: TaskSizes,
    num_tasks: int,
    batch_size: int,
    random: np.random.Generator,
    *,
    at_the_end: bool = True,
) -> Batch:
    """Draw sequences of num_tasks sub-tasks each.

    Args:
        sizes: sizes of the sub-tasks.
        num_tasks: n.
        batch_size: B.
        random: the random generator.
        at_the_end: whether all answers follow the last sub-task, or each follows its own.
    """
    chosen = random.integers(len(TASKS), size=(batch_size, num_tasks))
    rows = [[_MAKERS[TASKS[task]](sizes, random) for task in row] for row in chosen]
    longest = max(sum(len(given) + len(answer) for given, answer in row) for row in rows)
    inputs = np.zeros((longest, batch_size, sizes.channels), dtype=np.float32)
    targets = np.zeros((longest, batch_size, sizes.bits), dtype=np.float32)
    task_at = np.full((longest, batch_size), NOWHERE)
    position_at = np.full((longest, batch_size), NOWHERE)
    for b, row in enumerate(rows):
        step = 0
        for give, position in _schedule(num_tasks, at_the_end):
            given, answer = row[position]
            end = step + len(given if give else answer)
            if give:
                inputs[step:end, b] = given
            else:
                targets[step:end, b] = answer
                task_at[step:end, b] = chosen[b, position]
                position_at[step:end, b] = position
            step = end
    return Batch(*map(torch.from_numpy, (inputs, targets, task_at, position_at)))


def copy(sizes: TaskSizes, random: np.random.Generator) -> SubTask:
    """The input, shape (steps, channels), and the answer, shape (steps, bits)."""
    items = _items(sizes, random)
    return _given("copy", sizes, items), items


def repeat_copy(sizes: TaskSizes, random: np.random.Generator) -> SubTask:
    """As `copy`, with 1 to most_repeats repeats."""
    items = _items(sizes, random)
    repeats = int(random.integers(1, sizes.most_repeats + 1))
    given = _given("repeat copy", sizes, items)
    given[-1, -1] = repeats / sizes.most_repeats
    return given, np.tile(items, (repeats, 1))


def associative_recall(sizes: TaskSizes, random: np.random.Generator) -> SubTask:
    """As `copy`; the query is any item but the last, the answer the one after it."""
    count = random.integers(max(2, sizes.fewest_items), sizes.most_items + 1)
    numbers = random.choice(2**sizes.bits, size=count, replace=False)
    items = (numbers[:, None] >> np.arange(sizes.bits) & 1).astype(np.float32)
    queried = random.integers(count - 1)
    given = _given("associative recall", sizes, items)
    given[-1, : sizes.bits] = items[queried]
    return given, items[queried + 1 : queried + 2]


def priority_sort(sizes: TaskSizes, random: np.random.Generator) -> SubTask:
    """As `copy`; all items are asked for, where Graves et al. ask for 16 of 20."""
    items = _items(sizes, random)
    priority = random.uniform(-1, 1, len(items)).astype(np.float32)
    given = _given("priority sort", sizes, items)
    given[1:-1, -1] = priority
    return given, items[np.argsort(-priority)]


def _schedule(num_tasks: int, at_the_end: bool) -> list[tuple[bool, int]]:
    """(Whether given or answered, which sub-task), in the order of the sequence."""
    if at_the_end:
        return [(give, task) for give in (True, False) for task in range(num_tasks)]
    return [(give, task) for task in range(num_tasks) for give in (True, False)]


_MAKERS: dict[str, Callable[[TaskSizes, np.random.Generator], SubTask]] = {
    "copy": copy,
    "repeat copy": repeat_copy,
    "associative recall": associative_recall,
    "priority sort": priority_sort,
}


def _items(sizes: TaskSizes, random: np.random.Generator) -> Numbers:
    """A random number of items, of random bits, within the sizes."""
    count = random.integers(sizes.fewest_items, sizes.most_items + 1)
    return random.integers(2, size=(count, sizes.bits)).astype(np.float32)


def _given(task: str, sizes: TaskSizes, items: Numbers) -> Numbers:
    """Identifier, items and end, shape (items + 2, channels)."""
    given = np.zeros((len(items) + 2, sizes.channels), dtype=np.float32)
    given[0, sizes.bits + TASKS.index(task)] = 1
    given[1:-1, : sizes.bits] = items
    given[-1, -2] = 1
    return given
