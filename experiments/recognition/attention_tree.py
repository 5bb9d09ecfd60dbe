"""The binary decision tree in the attention of a Neurocoder (Fig. 2c of the paper).

For each of the first components, the classes are split into the two groups whose mean attention
patterns differ most. Taken together, the splits lead each class along a path of two-way decisions;
these components cannot distinguish classes with the same path.
"""

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Path = tuple[bool, ...]


@dataclass(frozen=True)
class Split:
    """How one component's attention splits the classes.

    Attributes:
        patterns: the mean pattern of each group, shape (2, P).
        down: for each class whether it belongs to the second group; the first class never does.
        distance: between the patterns: the part of the attention that would have to move between
            slots to turn one into the other, from 0 (there is only one pattern) to 1.
    """

    patterns: np.ndarray
    down: tuple[bool, ...]
    distance: float


@dataclass(frozen=True)
class Tree:
    """How the splits of the first components divide the classes, and how well images follow this.

    Attributes:
        splits: one for each component.
        paths: for each class, its group in each split.
        kept: fraction of the test images whose own attention takes the path of their class.
        told: fraction of the test images classified correctly as the most frequent class, among
            the training images, of the path that their attention takes.
    """

    splits: tuple[Split, ...]
    paths: tuple[Path, ...]
    kept: float
    told: float

    @property
    def leaves(self) -> dict[Path, list[int]]:
        """The classes at each path that leads to any."""
        found: dict[Path, list[int]] = {}
        for number, path in enumerate(self.paths):
            found.setdefault(path, []).append(number)
        return dict(sorted(found.items()))


def class_means(attention: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The mean attention of each class, (classes, n, P), from that of single images, (N, n, P)."""
    return np.stack([attention[labels == c].mean(axis=0) for c in np.unique(labels)])


def grow_tree(
    train: np.ndarray, train_labels: np.ndarray, test: np.ndarray, test_labels: np.ndarray
) -> Tree:
    """Build the tree of the training images' attention, and evaluate it on the test images.

    Args:
        train: attention of the first n components, shape (N, n, P).
        train_labels: classes from 0, shape (N,).
        test: the same for the test images, shape (M, n, P).
        test_labels: shape (M,).
    """
    train, test = _normalised(train), _normalised(test)
    means = class_means(train, train_labels)
    splits = tuple(split_classes(means[:, n]) for n in range(means.shape[1]))
    paths = tuple(zip(*(split.down for split in splits), strict=True))

    counts: dict[Path, Counter[int]] = {}
    for path, label in zip(_paths_of(train, splits), train_labels.tolist(), strict=True):
        counts.setdefault(path, Counter())[label] += 1
    guesses = {path: counter.most_common(1)[0][0] for path, counter in counts.items()}
    taken = list(zip(_paths_of(test, splits), test_labels.tolist(), strict=True))
    return Tree(
        splits,
        paths,
        kept=float(np.mean([path == paths[label] for path, label in taken])),
        told=float(np.mean([guesses.get(path) == label for path, label in taken])),
    )


def split_classes(means: np.ndarray) -> Split:
    """Split classes, given their means (classes, P), into two groups of least inner variance.

    All groupings are tried; ten classes have 511.
    """
    classes = len(means)
    best, least = None, np.inf
    for others in itertools.product([False, True], repeat=classes - 1):
        down = np.array([False, *others])
        if not down.any():
            continue
        groups = means[~down], means[down]
        within = sum(((group - group.mean(axis=0)) ** 2).sum() for group in groups)
        if within < least:
            best, least = down, within
    assert best is not None
    patterns = np.stack([means[~best].mean(axis=0), means[best].mean(axis=0)])
    distance = 0.5 * np.abs(patterns[0] - patterns[1]).sum()
    return Split(patterns, tuple(best.tolist()), float(distance))


def count_patterns(attention: np.ndarray) -> float:
    """The effective number of patterns, judged by the most attended slots; at least 1.

    It is the exponential of the entropy of how often images share the same most attended slots in
    all components: n equally frequent patterns count as n, and rare patterns hardly count.

    Args:
        attention: attention of images, shape (N, n, P).
    """
    most = [tuple(row) for row in attention.argmax(axis=-1).tolist()]
    shares = np.array(list(Counter(most).values())) / len(most)
    return float(np.exp(-(shares * np.log(shares)).sum()))


def difference_between_classes(attention: np.ndarray, labels: np.ndarray) -> float:
    """How much the classes' mean patterns differ, from 0 to 1: mean over pairs and components.

    Args:
        attention: attention of images, shape (N, n, P).
        labels: their classes, shape (N,).
    """
    means = class_means(_normalised(attention), labels)
    pairs = itertools.combinations(means, 2)
    return float(np.mean([0.5 * np.abs(a - b).sum(axis=-1).mean() for a, b in pairs]))


def _normalised(attention: np.ndarray) -> np.ndarray:
    """Scale the attention weights to sum to one, which eq. 11 alone does not do."""
    return attention / np.maximum(attention.sum(axis=-1, keepdims=True), 1e-12)


def _paths_of(attention: np.ndarray, splits: Sequence[Split]) -> list[Path]:
    """For each image, which pattern of each split is nearer."""
    sides = [
        ((attention[:, n, None] - split.patterns) ** 2).sum(axis=-1).argmin(axis=1) == 1
        for n, split in enumerate(splits)
    ]
    return list(zip(*(side.tolist() for side in sides), strict=True))
