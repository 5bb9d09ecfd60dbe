"""A network that learns one task after another, and how well it remembers earlier ones."""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from experiments.continual_learning.regularizers import Regularizer
from experiments.continual_learning.task_split import Task


class TaskNetwork(nn.Module):
    """A network with one last layer, or one for each task.

    One last layer for all tasks is the incremental domain scenario: the network is not told which
    task an image is from. One per task is the incremental task scenario (Hsu et al. 2018).

    Args:
        hidden: maps images, shape (N, in), to features.
        heads: the last layers, from features to logits; if there is one, all tasks share it.
    """

    def __init__(self, hidden: nn.Module, heads: Sequence[nn.Module]) -> None:
        super().__init__()
        self.hidden = hidden
        self.heads = nn.ModuleList(heads)

    def forward(self, images: Tensor, task: int) -> Tensor:
        """Return logits, shape (N, classes), for images of shape (N, in) from a task."""
        head = self.heads[task if len(self.heads) > 1 else 0]
        return head(self.hidden(images))


def perceptron(
    make_layer: Callable[[int, int], nn.Module],
    in_features: int,
    hidden_features: int,
    classes: int,
    num_heads: int,
    make_head: Callable[[int, int], nn.Module] | None = None,
) -> TaskNetwork:
    """Create a perceptron with two hidden layers.

    Args:
        make_layer: called as make_layer(in_features, out_features) for every layer.
        in_features: size of an image.
        hidden_features: width of both hidden layers.
        classes: classes of a task.
        num_heads: number of last layers.
        make_head: called instead of make_layer for the last layers, if given.
    """
    hidden = nn.Sequential(
        make_layer(in_features, hidden_features),
        nn.ReLU(),
        make_layer(hidden_features, hidden_features),
        nn.ReLU(),
    )
    make_head = make_head or make_layer
    return TaskNetwork(hidden, [make_head(hidden_features, classes) for _ in range(num_heads)])


def learn_in_sequence(
    network: nn.Module,
    tasks: Sequence[Task],
    optimizer: Optimizer,
    regularizer: Regularizer,
    *,
    epochs: int,
    batch_size: int,
    fisher_images: int,
    auxiliary_loss: Callable[[nn.Module], Tensor],
    report: Callable[[int, Tensor], None] | None = None,
) -> Tensor:
    """Train on each task in turn, without going back to earlier ones.

    The optimizer keeps its state across tasks, as in Hsu et al. 2018; that state is one of the
    differences between Adam and Adagrad.

    Args:
        network: called as network(images, task), it returns logits.
        tasks: the tasks, in the order in which they are learned.
        optimizer: optimizer of the network's parameters.
        regularizer: regularizer of the same network.
        epochs: passes over each task's images.
        batch_size: images in a step.
        fisher_images: number of a task's images, drawn at random, that the regularizer is shown
            when the task has been learned.
        auxiliary_loss: the loss that the layers themselves add.
        report: called after each task with its place and the accuracies on all tasks.

    Returns:
        Test accuracies in percent, shape (T, T): row l is after task l, column j is on task j. NaN
        once the network has diverged.
    """
    rows = []
    for place, task in enumerate(tasks):
        network.train()
        for _ in range(epochs):
            for batch in torch.randperm(len(task.images)).split(batch_size):
                logits = network(task.images[batch], place)
                loss = F.cross_entropy(logits, task.labels[batch]) + auxiliary_loss(network)
                regularizer.step(loss, optimizer)
        network.eval()
        if task is not tasks[-1]:
            shown = torch.randperm(len(task.images))[:fisher_images]
            regularizer.task_learned(task.images[shown], place)
        rows.append(torch.tensor([accuracy(network, t, j) for j, t in enumerate(tasks)]))
        if report is not None:
            report(place, rows[-1])
    return torch.stack(rows)


@torch.no_grad()
def accuracy(network: nn.Module, task: Task, place: int) -> float:
    """Percentage of a task's test images that the network classifies correctly.

    NaN for a diverged network: the argmax of NaN logits is the first class, which would be right by
    chance.
    """
    logits = network(task.test_images, place)
    if not logits.isfinite().all():
        return math.nan
    return 100 * (logits.argmax(1) == task.test_labels).float().mean().item()


def average_accuracy(accuracies: Tensor) -> float:
    """Mean over all tasks of the accuracy after the last one.

    Args:
        accuracies: as from `learn_in_sequence`, shape (T, T).
    """
    return accuracies[-1].mean().item()


def forgetting(accuracies: Tensor) -> float:
    """Mean, over all tasks but the last, of the drop of accuracy from its best.

    The best is taken from when the task had just been learned up to the last task but one (Chaudhry
    et al. 2018, "Riemannian Walk for Incremental Learning"). Negative if later tasks helped.

    Args:
        accuracies: as from `learn_in_sequence`, shape (T, T), T at least 2.

    Raises:
        ValueError: if there are fewer than two tasks.
    """
    num_tasks = len(accuracies)
    if num_tasks < 2:
        raise ValueError("forgetting needs at least two tasks")
    lost = [accuracies[j:-1, j].max() - accuracies[-1, j] for j in range(num_tasks - 1)]
    return torch.stack(lost).mean().item()
