"""Labelled images, split into a sequence of tasks of a few classes each."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Task:
    """The images of some classes; a label is the class's place among them, counted from 0.

    Attributes:
        classes: the labels that the images had before.
        images: for training, shape (N, in).
        labels: shape (N,).
        test_images: held out, shape (M, in).
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
    """Tasks of neighbouring classes, in their order: 0 and 1, then 2 and 3, ...

    This is Split MNIST (Zenke et al. 2017) with labels counted anew in every task, as the scenarios
    of Hsu et al. 2018 have them. Images are flattened.

    Args:
        images: shape (N, ...).
        labels: shape (N,), classes 0 to C - 1.
        test_images: shape (M, ...).
        test_labels: shape (M,).
        classes_per_task: how many classes a task has; it divides C.

    Raises:
        ValueError: if C is no multiple of classes_per_task, or a class has no image on a side.
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


def hold_out(task: Task, fraction: float, generator: torch.Generator) -> Task:
    """The task with part of its training images in the place of its test images.

    Settings are chosen by these, so that the test images have no say in them.

    Raises:
        ValueError: if a side would be left empty.
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
