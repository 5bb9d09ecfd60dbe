"""The sequences of algorithms: every answer is worked out again from what is given."""

import numpy as np
import pytest
import torch

from experiments.multi_task.tasks import (
    NOWHERE,
    TASKS,
    TaskSizes,
    associative_recall,
    copy,
    priority_sort,
    repeat_copy,
    sample,
)

SIZES = TaskSizes(bits=4, fewest_items=2, most_items=4, most_repeats=3)
IDENTIFIERS = slice(4, 8)
END, NUMBER = 8, 9


def drawn(make, times=50, sizes=SIZES):
    random = np.random.default_rng(0)
    return [make(sizes, random) for _ in range(times)]


@pytest.mark.parametrize(
    ("task", "make"),
    list(enumerate([copy, repeat_copy, associative_recall, priority_sort])),
)
def test_a_sub_task_is_its_identifier_then_its_items_then_its_end(task, make):
    for given, _ in drawn(make):
        assert given.shape == (len(given), SIZES.channels)
        assert given[0].tolist() == [float(c == 4 + task) for c in range(10)]
        assert (given[1:, IDENTIFIERS] == 0).all()
        assert given[:, END].tolist() == [0.0] * (len(given) - 1) + [1.0]
        assert set(given[1:-1, :4].flatten()) <= {0.0, 1.0}
    counts = {len(given) - 2 for given, _ in drawn(make)}
    assert counts == {2, 3, 4}


def test_copy_answers_with_the_items():
    for given, answer in drawn(copy):
        assert (answer == given[1:-1, :4]).all()
        assert (given[-1, :4] == 0).all()
        assert (given[:, NUMBER] == 0).all()


def test_repeat_copy_answers_with_the_items_as_often_as_its_number_says():
    repeats = set()
    for given, answer in drawn(repeat_copy):
        times = round(given[-1, NUMBER] * 3)
        repeats.add(times)
        assert answer.tolist() == given[1:-1, :4].tolist() * times
    assert repeats == {1, 2, 3}


def test_associative_recall_answers_with_the_item_after_the_queried_one():
    for given, answer in drawn(associative_recall):
        items = [tuple(item) for item in given[1:-1, :4]]
        assert len(set(items)) == len(items)
        place = items.index(tuple(given[-1, :4]))
        assert answer.tolist() == [list(items[place + 1])]


def test_associative_recall_has_two_items_where_others_may_have_one():
    sizes = TaskSizes(bits=2, fewest_items=1, most_items=2, most_repeats=1)
    assert all(len(given) == 4 for given, _ in drawn(associative_recall, sizes=sizes))
    assert {len(given) for given, _ in drawn(copy, sizes=sizes)} == {3, 4}


def test_priority_sort_answers_with_the_items_highest_number_first():
    for given, answer in drawn(priority_sort):
        numbers = given[1:-1, NUMBER].tolist()
        assert all(-1 <= number <= 1 for number in numbers)
        ranked = sorted(zip(numbers, given[1:-1, :4].tolist(), strict=True), reverse=True)
        assert answer.tolist() == [item for _, item in ranked]


def parts(batch, b):
    """Sequence b's sub-tasks: task, what is given, answer, its first step, and the given's last."""
    inputs = batch.inputs[:, b]
    starts = inputs[:, IDENTIFIERS].sum(dim=1).nonzero().flatten().tolist()
    ends = inputs[:, END].nonzero().flatten().tolist()
    found = []
    for position, (start, end) in enumerate(zip(starts, ends, strict=True)):
        at = batch.position[:, b] == position
        task = inputs[start, IDENTIFIERS].argmax().item()
        assert (batch.task[at, b] == task).all()
        steps = at.nonzero().flatten()
        assert steps[-1] - steps[0] == len(steps) - 1
        found.append((task, inputs[start : end + 1], batch.targets[at, b], steps[0].item(), end))
    return found


@pytest.mark.parametrize("at_the_end", [True, False])
def test_answers_are_due_in_order_after_all_sub_tasks_or_after_their_own(at_the_end):
    batch = sample(SIZES, 4, 20, np.random.default_rng(1), at_the_end=at_the_end)
    seen = set()
    for b in range(20):
        found = parts(batch, b)
        assert len(found) == 4
        due = found[-1][-1] + 1
        for task, given, answer, first, end in found:
            seen.add(task)
            assert first == (due if at_the_end else end + 1)
            due += len(answer)
            if TASKS[task] == "copy":
                assert answer.tolist() == given[1:-1, :4].tolist()
    assert seen == {0, 1, 2, 3}


@pytest.mark.parametrize("at_the_end", [True, False])
def test_nothing_is_given_where_an_answer_is_due_and_no_target_stands_elsewhere(at_the_end):
    batch = sample(SIZES, 3, 10, np.random.default_rng(1), at_the_end=at_the_end)
    due = batch.answering
    assert due.shape == batch.inputs.shape[:2]
    assert (batch.inputs[due] == 0).all()
    assert (batch.targets[~due] == 0).all()
    assert (batch.position[~due] == NOWHERE).all()
    assert ((batch.task == NOWHERE) == (batch.position == NOWHERE)).all()
    assert due.any(dim=1)[-1]  # no longer than the longest sequence


def test_the_same_seed_draws_the_same_sequences_and_another_seed_others():
    first, second, other = (sample(SIZES, 4, 8, np.random.default_rng(s)) for s in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert first.inputs.shape != other.inputs.shape or not torch.equal(first.inputs, other.inputs)
