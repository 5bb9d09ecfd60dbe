"""Labelled images, split into a sequence of tasks of a few classes each."""

from dataclasses import dataclass

import torch
from torch import Tensor

from experiments.common.data import DataError, Images


@dataclass(frozen=True)
class Task:
    """The images of some classes; labels count these classes from 0.

    Attributes:
        classes: the original labels of these classes.
        images: training images, shape (N, in).
        labels: shape (N,).
        test_images: held-out images, shape (M, in).
        test_labels: shape (M,).
    """

    classes: tuple[int, ...]
    images: Tensor
    labels: Tensor
    test_images: Tensor
    test_labels: Tensor


def split_into_tasks(
    images: Tensor,
    labels: Tensor,
    test_images: Tensor,
    test_labels: Tensor,
    *,
    classes_per_task: int = 2,
) -> list[Task]:
    """Tasks of neighbouring classes, in order: 0 and 1, then 2 and 3, ...

    This is Split MNIST (Zenke et al. 2017) with labels from 0 in every task, as in the scenarios of
    Hsu et al. 2018. Images are flattened.

    Args:
        images: shape (N, ...).
        labels: shape (N,), classes 0 to C - 1.
        test_images: shape (M, ...).
        test_labels: shape (M,).
        classes_per_task: how many classes a task has; it divides C.

    Raises:
        ValueError: if C is not a multiple of classes_per_task, or a class lacks training or test
            images.
    """
    num_classes = int(labels.max()) + 1
    if num_classes % classes_per_task:
        raise ValueError(f"{num_classes} classes cannot be split into tasks of {classes_per_task}")
    for side, given in (("training", labels), ("test", test_labels)):
        absent = sorted(set(range(num_classes)) - set(given.tolist()))
        if absent:
            raise ValueError(f"there are no {side} images of the classes {absent}")

    def belonging(first: int, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        chosen = (y >= first) & (y < first + classes_per_task)
        return x[chosen].flatten(1), y[chosen] - first

    return [
        Task(
            tuple(range(first, first + classes_per_task)),
            *belonging(first, images, labels),
            *belonging(first, test_images, test_labels),
        )
        for first in range(0, num_classes, classes_per_task)
    ]


def tasks_of(images: Images, classes_per_task: int = 2) -> list[Task]:
    """The tasks of a data set; see `split_into_tasks`.

    Raises:
        DataError: if there are no such tasks.
    """
    parts = (images.train, images.train_labels, images.test, images.test_labels)
    try:
        return split_into_tasks(*parts, classes_per_task=classes_per_task)
    except ValueError as error:
        raise DataError(f"{images.name}: {error}") from error


def hold_out(task: Task, fraction: float, generator: torch.Generator) -> Task:
    """The task with part of its training images in place of its test images.

    Settings are chosen on these, so that the test images do not influence them.

    Raises:
        ValueError: if no images would be left for training or for testing.
    """
    order = torch.randperm(len(task.images), generator=generator)
    num_held_out = round(fraction * len(order))
    if not 0 < num_held_out < len(order):
        raise ValueError(f"cannot hold out a fraction {fraction} of {len(order)} images")
    held_out, kept = order[:num_held_out], order[num_held_out:]
    return Task(
        task.classes,
        task.images[kept],
        task.labels[kept],
        task.images[held_out],
        task.labels[held_out],
    )
