"""Split CIFAR: a residual network that learns a few classes at a time (section 3.4 of the paper).

CIFAR-10 becomes five tasks of two classes, CIFAR-100 twenty of five. Only the last layer is a
Neurocoder, with 100 slots and ten times the usual weight of the orthogonality loss, as in the
paper. All other layers are shared by all tasks, and nothing but SI, if used, protects them.

Our choices where the paper is silent: SI's strengths, Adam's learning rate, four passes over a task
and the scenarios, which are those of Split MNIST. The paper's ResNet is too deep to train on a CPU.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from experiments.common.cifar import CHANNELS, SIDE
from experiments.common.data import DataError, Images
from experiments.common.drawing import COLOURS
from experiments.common.layers import auxiliary_loss
from experiments.common.study import Record
from experiments.continual_learning.regularizers import SI, Regularizer
from experiments.continual_learning.results import curves_figure
from experiments.continual_learning.run import figures_of
from experiments.continual_learning.task_sequence import TaskNetwork, learn_in_sequence
from experiments.continual_learning.task_split import Task, tasks_of
from experiments.recognition.resnet import WIDTHS, ResNet
from neurocoder import NeurocoderLinear

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# The paper's values for this experiment, used for both Neurocoders.
SLOTS, ORTHOGONALITY = 100, 10.0
LEARNING_RATE = 0.001
# Classes of the data set -> classes of a task.
CLASSES_PER_TASK = {10: 2, 100: 5}

LAST_LAYERS: Mapping[str, Callable[[int, int], nn.Module]] = {
    "linear": nn.Linear,
    "neurocoder": partial(NeurocoderLinear, slots=SLOTS),
    "authors-single-step": partial(NeurocoderLinear.authors_single_step, slots=SLOTS),
}
_COLOURS = {
    "linear": COLOURS["linear"],
    "neurocoder": COLOURS["neurocoder"],
    "authors-single-step": COLOURS["neurocoder-single-step"],
}


@dataclass(frozen=True)
class Scale:
    """The size of the network and the length of training.

    Attributes:
        blocks: n of a residual network of 6 n + 2 layers.
        epochs: passes over a task's pictures.
        batch_size: pictures in a step.
    """

    blocks: int = 1
    epochs: int = 4
    batch_size: int = 128


def load_tasks(images: Images) -> list[Task]:
    """Split CIFAR-10 or CIFAR-100 into tasks of neighbouring classes.

    Raises:
        DataError: if pictures of a class are missing.
    """
    if images.classes not in CLASSES_PER_TASK:
        raise DataError(f"{images.name}: the pictures are of {images.classes} classes")
    return tasks_of(images, CLASSES_PER_TASK[images.classes])


def make_network(last: str, classes: int, num_heads: int, blocks: int) -> TaskNetwork:
    """Create a residual network that takes flattened pictures and has the named last layers.

    Args:
        last: one of LAST_LAYERS.
        classes: classes of a task.
        num_heads: number of last layers.
        blocks: see `ResNet`.
    """
    pictures = nn.Unflatten(1, (CHANNELS, SIDE, SIDE))
    hidden = nn.Sequential(pictures, ResNet(blocks, CHANNELS, nn.Identity()))
    return TaskNetwork(hidden, [LAST_LAYERS[last](WIDTHS[-1], classes) for _ in range(num_heads)])


def run(
    name: str,
    tasks: Sequence[Task],
    scale: Scale,
    report: Callable[[int, Tensor], None] | None = None,
) -> dict[str, Any]:
    """Learn the tasks in turn, from a network drawn with torch's current seed.

    Args:
        name: scenario, method and last layer, as in `names`.
        tasks: the tasks, in the order in which they are learned.
        scale: size of the network and length of training.
        report: called after each task with its place and the accuracies on all tasks.

    Returns:
        As in `experiments.continual_learning.run.run`.
    """
    scenario, method, last = name.split("/")
    num_heads = 1 if scenario == "domain" else len(tasks)
    network = make_network(last, len(tasks[0].classes), num_heads, scale.blocks)
    regularizer = Regularizer(network)
    if method != "adam":
        regularizer = SI(network, float(method.removeprefix("si-")))
    accuracies = learn_in_sequence(
        network,
        tasks,
        torch.optim.Adam(network.parameters(), lr=LEARNING_RATE, fused=True),
        regularizer,
        epochs=scale.epochs,
        batch_size=scale.batch_size,
        fisher_images=0,
        auxiliary_loss=partial(auxiliary_loss, orthogonality=ORTHOGONALITY),
        report=report,
    )
    return figures_of(network, accuracies)


def names(scenarios: Sequence[str], strengths: Sequence[float], layers: Sequence[str]) -> list[str]:
    """The variants: every layer with Adam alone, and with SI of each strength."""
    methods = ["adam", *(f"si-{strength:g}" for strength in strengths)]
    return [f"{s}/{m}/{layer}" for s in scenarios for m in methods for layer in layers]


def figure(results: Sequence[Record]) -> "Figure":
    """Plot average accuracy over the tasks so far: a panel for each scenario and method."""
    methods = dict.fromkeys(record["variant"].split("/")[1] for record in results)
    return curves_figure(
        results,
        lambda accuracies: [sum(after[:n]) / n for n, after in enumerate(accuracies, 1)],
        "accuracy on tasks so far (%)",
        methods={method: method for method in methods},
        layers={last: (last, colour) for last, colour in _COLOURS.items()},
    )
