"""The decision tree in the attention of a classifier, and the figures of its patterns."""

import itertools

import numpy as np
import pytest

from experiments.recognition.attention_tree import (
    count_patterns,
    difference_between_classes,
    grow_tree,
    split_classes,
)


def one_hot(slots, size):
    """Attention that is all on the given slots."""
    return np.eye(size)[np.asarray(slots)]


def test_classes_split_into_the_two_groups_with_the_least_variance_inside():
    random = np.random.default_rng(0)
    for _ in range(5):
        means = random.dirichlet(np.ones(4), size=6)
        split = split_classes(means)
        down = np.array(split.down)

        def within(down, means=means):
            return sum(g.var(axis=0).sum() * len(g) for g in (means[down], means[~down]))

        others = (np.array(c) for c in itertools.product([False, True], repeat=6))
        least = min(within(c) for c in others if c.any() and not c.all())
        np.testing.assert_allclose(within(down), least)
        assert not split.down[0]
        np.testing.assert_allclose(split.patterns[1], means[down].mean(axis=0))
        moved = np.maximum(split.patterns[0] - split.patterns[1], 0).sum()
        np.testing.assert_allclose(split.distance, moved)


def test_two_clear_patterns_are_found_and_lie_as_far_apart_as_they_can():
    split = split_classes(one_hot([0, 2, 0, 2, 2], 3))
    assert split.down == (False, True, False, True, True)
    assert split.distance == 1
    np.testing.assert_array_equal(split.patterns, one_hot([0, 2], 3))


def test_the_tree_is_that_of_the_training_images():
    labels = np.repeat([0, 1], 3)
    train, test = one_hot(labels, 2)[:, None], one_hot(1 - labels, 2)[:, None]
    tree = grow_tree(train, labels, test, labels)
    assert tree.kept == tree.told == 0


def test_paths_of_classes_make_a_tree_and_images_that_keep_to_them_are_counted():
    # Three components, four classes: the first two components tell three of them apart.
    slots = np.array([[0, 0, 1], [0, 1, 1], [2, 0, 1], [2, 0, 0]])
    labels = np.repeat(np.arange(4), 10)
    train = one_hot(slots[labels], 3) * 0.7  # weights need not sum to one
    test_labels = np.array([0, 1, 2, 3, 3])
    test = one_hot([*slots, slots[0]], 3)  # the last image attends like class 0
    tree = grow_tree(train, labels, test, test_labels)
    assert tree.paths == (
        (False, False, False),
        (False, True, False),
        (True, False, False),
        (True, False, True),
    )
    assert tree.leaves == {path: [c] for c, path in enumerate(tree.paths)}
    assert tree.kept == pytest.approx(4 / 5)
    assert tree.told == pytest.approx(4 / 5)


def test_classes_on_one_path_cannot_be_told_apart_and_the_most_frequent_one_is_guessed():
    slots = np.array([[0], [1], [1]])
    labels = np.array([0] * 5 + [1] * 3 + [2] * 6)
    test_labels = np.array([0, 1, 2])
    tree = grow_tree(one_hot(slots[labels], 2), labels, one_hot(slots, 2), test_labels)
    assert tree.leaves == {(False,): [0], (True,): [1, 2]}
    assert tree.kept == 1
    assert tree.told == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("slots", "expected"),
    [([[0, 1]] * 8, 1), ([[0, 1], [1, 0]] * 4, 2), ([[0, 0], [0, 1], [1, 0], [1, 1]], 4)],
)
def test_equally_frequent_patterns_are_counted(slots, expected):
    assert count_patterns(one_hot(slots, 3)) == pytest.approx(expected)


def test_a_rare_pattern_hardly_counts():
    assert 1 < count_patterns(one_hot([[0]] * 99 + [[1]], 2)) < 1.1


def test_the_difference_between_classes_is_the_attention_to_be_moved():
    labels = np.array([0, 0, 1, 1])
    same = one_hot([[0, 1], [1, 0], [0, 1], [1, 0]], 2)
    assert difference_between_classes(same, labels) == 0
    half = one_hot([[0, 1], [0, 1], [0, 0], [0, 0]], 2)
    assert difference_between_classes(half, labels) == pytest.approx(0.5)
