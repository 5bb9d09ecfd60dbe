"""One run of the continual learning experiment: a layer, a method and a scenario, five tasks."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from experiments.common.data import load_images
from experiments.common.layers import auxiliary_loss, make_layer, parameter_count
from experiments.common.processes import Scalar
from experiments.continual_learning.regularizers import EWC, L2, SI, OnlineEWC, Regularizer
from experiments.continual_learning.task_sequence import (
    average_accuracy,
    forgetting,
    learn_in_sequence,
    perceptron,
)
from experiments.continual_learning.task_split import Task, tasks_of

SCENARIOS = ("domain", "task")
METHODS = ("adam", "adagrad", "l2", "si", "ewc", "online-ewc")
_REGULARIZERS: Mapping[str, Callable[..., Regularizer]] = {
    "adam": Regularizer,
    "adagrad": Regularizer,
    "l2": L2,
    "si": SI,
    "ewc": EWC,
    "online-ewc": OnlineEWC,
}
# The Neurocoder matches the size of the perceptron that it replaces: a small controller and, as in
# the authors' networks for this task, no residual program. The other sizes are the defaults.
LAYERS: Mapping[str, Mapping[str, Any]] = {
    "linear": {},
    "nsm": {},
    "neurocoder": {"hidden_size": 16, "residual": False},
}


@dataclass(frozen=True)
class Scale:
    """The size of the network and the length of training.

    Attributes:
        width: width of both hidden layers.
        epochs: passes over the images of a task.
        batch_size: images in a step.
        fisher_images: number of a task's images used for its Fisher information.
    """

    width: int
    epochs: int
    batch_size: int
    fisher_images: int


SCALE = Scale(width=256, epochs=6, batch_size=32, fisher_images=64)
QUICK = Scale(width=16, epochs=1, batch_size=128, fisher_images=8)
# The benchmark's own schedule (Hsu et al. 2018): four passes in batches of 128 and 400 units.
MNIST_SCALE = Scale(width=400, epochs=4, batch_size=128, fisher_images=500)


@dataclass(frozen=True)
class Variant:
    """A layer, a method against forgetting, and a scenario.

    Attributes:
        scenario: one of SCENARIOS.
        method: one of METHODS.
        layer: one of LAYERS.
    """

    scenario: str
    method: str
    layer: str

    def __str__(self) -> str:
        return f"{self.scenario}/{self.method}/{self.layer}"


@dataclass(frozen=True)
class Choice:
    """The tuned settings of a variant.

    Attributes:
        learning_rate: of Adagrad for the method of that name, of Adam for all others.
        strength: of the regularizer; 0 for Adam and Adagrad alone.
    """

    learning_rate: float
    strength: float = 0.0


def load_tasks(mnist: str | Path | None) -> list[Task]:
    """Five tasks of two digits each.

    Args:
        mnist: folder of MNIST's files, or None for scikit-learn's digits.

    Raises:
        DataError: if the files cannot be used.
    """
    return tasks_of(load_images(mnist))


def run(
    variant: Variant,
    tasks: Sequence[Task],
    scale: Scale,
    choice: Choice,
    report: Callable[[int, Tensor], None] | None = None,
) -> dict[str, Any]:
    """Learn the tasks in turn, from a network drawn with torch's current seed.

    Returns:
        "accuracy": average over all tasks after the last, in percent. "forgetting": the mean drop
        of the other tasks from their best. "learned": average accuracy on each task just after it
        was learned. "parameters", and "accuracies": the whole matrix.
    """
    network = perceptron(
        partial(make_layer, variant.layer, **LAYERS[variant.layer]),
        tasks[0].images.shape[1],
        scale.width,
        len(tasks[0].classes),
        num_heads=1 if variant.scenario == "domain" else len(tasks),
    )
    kind = torch.optim.Adagrad if variant.method == "adagrad" else torch.optim.Adam
    accuracies = learn_in_sequence(
        network,
        tasks,
        kind(network.parameters(), lr=choice.learning_rate, fused=True),
        _REGULARIZERS[variant.method](network, choice.strength),
        epochs=scale.epochs,
        batch_size=scale.batch_size,
        fisher_images=scale.fisher_images,
        auxiliary_loss=auxiliary_loss,
        report=report,
    )
    return figures_of(network, accuracies)


def curves(scalar: Scalar) -> Callable[[int, Tensor], None]:
    """Return a function to call after each task, which draws curves over tasks for TensorBoard.

    Args:
        scalar: called with tag, value and the number of tasks.
    """

    def report(place: int, accuracies: Tensor) -> None:
        scalar("accuracy/tasks_so_far", accuracies[: place + 1].mean().item(), place + 1)
        scalar("accuracy/first_task", accuracies[0].item(), place + 1)

    return report


def figures_of(network: nn.Module, accuracies: Tensor) -> dict[str, Any]:
    """The figures that are stored for a run; see `run`.

    Args:
        network: the trained network.
        accuracies: see `learn_in_sequence`.
    """
    return {
        "accuracy": average_accuracy(accuracies),
        "forgetting": forgetting(accuracies),
        "learned": accuracies.diagonal().mean().item(),
        "parameters": parameter_count(network),
        "accuracies": accuracies,
    }
