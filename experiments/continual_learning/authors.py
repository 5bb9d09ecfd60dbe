"""The authors' protocol for Split MNIST, as in their public code, run by run.

An MLP 1024-400-400-2 without biases in its hidden layers, and the same with stored-program layers
and with single-step Neurocoders; batches of 128, four passes over a task, one optimizer throughout.
It is the benchmark of Hsu et al. (2018) with a new layer. Details of the code that the paper omits:

- The similarity of query and key is their cosine divided by the key size.
- The orthogonality loss of all three layers has weight 1. With L2 and EWC it is added twice from
  the second task on. With SI it is not added before the second task, though its gradient counts in
  the path integral of the first.
- The importance of EWC is the squared gradient of each image's loss, for the predicted class,
  *plus the orthogonality loss*, over all images of the task. Online EWC adds it up.
- The penalties have no factor 1/2.

Our choices, where the code is silent or differs: the stored-program layer and its initialisation;
in the incremental task scenario, which the authors' scripts lack, the strengths of Hsu et al., and
orthogonality of every task's head.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from statistics import fmean, pstdev
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.markdown import markdown_table
from experiments.common.data import load_images, padded
from experiments.common.processes import Scalar
from experiments.common.statistics import bootstrap_interval
from experiments.common.study import Record
from experiments.continual_learning.fisher import squared_gradients
from experiments.continual_learning.regularizers import EWC, L2, SI, OnlineEWC, Regularizer
from experiments.continual_learning.results import TITLES
from experiments.continual_learning.run import (
    METHODS,
    SCENARIOS,
    Scale,
    Variant,
    curves,
    figures_of,
)
from experiments.continual_learning.task_sequence import (
    TaskNetwork,
    learn_in_sequence,
    perceptron,
)
from experiments.continual_learning.task_split import Task, tasks_of
from neurocoder import NeurocoderLinear, NSMLinear

REPEATS = 10
LAYERS = ("linear", "nsm", "neurocoder")
SIDE = 32
# A task has 12,700 images at most, and all are used for the Fisher information.
SCALE = Scale(width=400, epochs=4, batch_size=128, fisher_images=13_000)
QUICK = Scale(width=16, epochs=1, batch_size=128, fisher_images=32)
LEARNING_RATES = {"adagrad": 0.01}
LEARNING_RATE = 0.001
# The factor on the sum of importance times squared distance: for the incremental domain scenario
# from the authors' scripts, for the other from those of Hsu et al. (2018), which theirs build on.
COEFFICIENTS: Mapping[str, Mapping[str, float]] = {
    "domain": {"l2": 0.5, "si": 3000, "ewc": 100, "online-ewc": 700},
    "task": {"l2": 0.01, "si": 300, "ewc": 100, "online-ewc": 400},
}


@dataclass(frozen=True)
class Options:
    """What the readings study varies; the defaults are the authors'.

    Attributes:
        layer: Arguments of `NeurocoderLinear.authors_single_step`.
        orthogonality: Weight of the orthogonality loss.
        added_twice: Whether L2 and EWC add this loss once more from the second task on, and SI does
            not add it before the second task.
        in_importance: Whether its gradient counts in the importance of EWC.
    """

    layer: Mapping[str, Any] = field(default_factory=dict)
    orthogonality: float = 1.0
    added_twice: bool = True
    in_importance: bool = True


@dataclass(frozen=True)
class Published:
    """Accuracy after the last task in percent, and its standard deviation if published."""

    mean: float
    deviation: float | None = None

    def __str__(self) -> str:
        """Format as in the paper."""
        return f"{self.mean:.1f}" + ("" if self.deviation is None else f" ± {self.deviation:.1f}")


def _row(*pairs: tuple[float, float]) -> dict[str, Published]:
    return {layer: Published(*pair) for layer, pair in zip(LAYERS, pairs, strict=True)}


# Table 1, incremental domain, ten runs: "MLP ours", NSM and Neurocoder.
PAPER = {
    "adam": _row((53.55, 1.27), (54.85, 2.81), (58.46, 0.46)),
    "adagrad": _row((57.83, 2.74), (58.42, 1.87), (62.28, 4.03)),
    "l2": _row((64.37, 2.40), (62.83, 7.21), (69.89, 1.72)),
    "si": _row((64.41, 3.36), (64.36, 2.99), (67.96, 3.22)),
    "ewc": _row((58.41, 2.37), (58.12, 3.24), (65.66, 1.25)),
    "online-ewc": _row((57.78, 1.84), (58.55, 3.40), (73.97, 1.50)),
}
# The logs in the authors' repository, incremental domain, ten repeats.
LOGS = {
    "adam": {"linear": Published(53.4), "neurocoder": Published(57.1)},
    "adagrad": {"linear": Published(56.2), "neurocoder": Published(60.6)},
    "l2": {"linear": Published(63.3)},
    "ewc": {"linear": Published(56.9), "neurocoder": Published(62.6)},
    "online-ewc": {"linear": Published(59.6), "neurocoder": Published(71.8)},
}


def load_tasks(mnist: str) -> list[Task]:
    """Split MNIST of 32 x 32 pixels.

    Raises:
        DataError: if the files cannot be used.
    """
    return tasks_of(padded(load_images(mnist), SIDE))


def make_network(
    layer: str,
    scale: Scale,
    pixels: int,
    classes: int,
    num_heads: int,
    arguments: Mapping[str, Any] | None = None,
) -> TaskNetwork:
    """Create the authors' perceptron, with its layers replaced by the named kind.

    Args:
        layer: one of LAYERS.
        scale: only its width is used.
        pixels: pixels of an image.
        classes: classes of a task.
        num_heads: number of last layers.
        arguments: arguments of a Neurocoder layer, replacing the authors'.
    """
    if layer == "linear":
        make, make_head = partial(nn.Linear, bias=False), nn.Linear
        return perceptron(make, pixels, scale.width, classes, num_heads, make_head)
    if layer == "nsm":
        make_layer: Callable[[int, int], nn.Module] = partial(NSMLinear, bias=False)
    else:
        make_layer = partial(NeurocoderLinear.authors_single_step, **(arguments or {}))
    return perceptron(make_layer, pixels, scale.width, classes, num_heads)


def orthogonality_loss(network: nn.Module) -> Tensor:
    """Sum over the Neurocoder layers, a scalar; zero if there are none."""
    layers = [layer for layer in network.modules() if isinstance(layer, NeurocoderLinear)]
    return sum((layer.orthogonality_loss() for layer in layers), torch.zeros(()))


def make_regularizer(
    method: str, scenario: str, network: nn.Module, options: Options
) -> Regularizer:
    """Create the regularizer of a method, with the authors' coefficient."""
    coefficient = COEFFICIENTS[scenario].get(method, 0.0)
    counted = orthogonality_loss if options.in_importance else None
    fisher = partial(squared_gradients, auxiliary_loss=counted)
    if method == "l2":
        return L2(network, coefficient / L2.factor)
    if method == "si":
        # The authors leave this out of the first task's loss, but count it in SI's path integral.
        first = orthogonality_loss if options.added_twice else None
        return SI(network, coefficient / SI.factor, signed=True, first_task_loss=first)
    if method == "ewc":
        return EWC(network, coefficient / EWC.factor, fisher)
    if method == "online-ewc":
        strength = coefficient / OnlineEWC.factor
        return OnlineEWC(network, strength, decay=1.0, fisher=fisher, scaled=False)
    return Regularizer(network)


def run(
    variant: Variant,
    tasks: Sequence[Task],
    scale: Scale,
    report: Callable[[int, Tensor], None] | None = None,
    options: Options | None = None,
) -> dict[str, Any]:
    """Learn the tasks in turn, from a network drawn with torch's current seed.

    Returns:
        As in `experiments.continual_learning.run.run`.
    """
    options = options or Options()
    network = make_network(
        variant.layer,
        scale,
        tasks[0].images.shape[1],
        len(tasks[0].classes),
        1 if variant.scenario == "domain" else len(tasks),
        options.layer,
    )
    regularizer = make_regularizer(variant.method, variant.scenario, network, options)

    def auxiliary_loss(network: nn.Module) -> Tensor:
        weight = options.orthogonality
        if options.added_twice and variant.method == "si":
            weight *= bool(regularizer.anchors)
        elif options.added_twice:
            weight *= 1 + bool(regularizer.anchors)
        return weight * orthogonality_loss(network) if weight else torch.zeros(())

    kind = torch.optim.Adagrad if variant.method == "adagrad" else torch.optim.Adam
    rate = LEARNING_RATES.get(variant.method, LEARNING_RATE)
    accuracies = learn_in_sequence(
        network,
        tasks,
        kind(network.parameters(), lr=rate, fused=True),
        regularizer,
        epochs=scale.epochs,
        batch_size=scale.batch_size,
        fisher_images=scale.fisher_images,
        auxiliary_loss=auxiliary_loss,
        report=report,
    )
    return figures_of(network, accuracies)


class Runs:
    """Runs variants by name; made once in each process, which loads the tasks.

    Args:
        mnist: folder of MNIST's files.
        scale: size of the network and length of training.

    Raises:
        DataError: if the files cannot be used.
    """

    def __init__(self, mnist: str, scale: Scale) -> None:
        self.tasks, self.scale = load_tasks(mnist), scale

    def __call__(self, name: str, _seed: int, scalar: Scalar) -> dict[str, Any]:
        """Return the values of `run`."""
        return run(Variant(*name.split("/")), self.tasks, self.scale, curves(scalar))


def comparison(results: Sequence[Record]) -> str:
    """The paper's Table 1, the authors' logs and these results, in Markdown.

    Mean ± standard deviation over n runs (divided by n), as the paper prints them. The number of
    runs follows in brackets if it differs from that of the row, because diverged networks have no
    accuracy. The lead is that of the Neurocoder over the MLP: here seed by seed, with a 95 %
    bootstrap interval.
    """
    parts = []
    for scenario in SCENARIOS:
        published = {"paper": PAPER, "logs": LOGS} if scenario == "domain" else {}
        heading = ["method"]
        for layer in LAYERS:
            sources = [s for s in published if s == "paper" or layer != "nsm"]
            heading += [f"{TITLES[layer]}, {source}" for source in (*sources, "here")]
        heading += [f"lead, {source}" for source in (*published, "here")] + ["runs"]
        rows = []
        for method in METHODS:
            here = {layer: _accuracies(results, scenario, method, layer) for layer in LAYERS}
            names = {str(Variant(scenario, method, layer)) for layer in LAYERS}
            runs = Counter(record["variant"] for record in results if record["variant"] in names)
            if not runs:
                continue
            cells = [TITLES[method]]
            most = max(runs.values())
            for layer in LAYERS:
                for source, table in published.items():
                    if source == "paper" or layer != "nsm":
                        cells.append(str(table.get(method, {}).get(layer, "-")))
                cells.append(_mean_and_deviation(list(here[layer].values()), most))
            for table in published.values():
                row = table.get(method, {})
                if {"neurocoder", "linear"} <= row.keys():
                    cells.append(f"{row['neurocoder'].mean - row['linear'].mean:+.1f}")
                else:
                    cells.append("-")
            cells.append(_lead(here["neurocoder"], here["linear"], most))
            cells.append(str(most))
            rows.append(cells)
        if rows:
            title = f"{TITLES[scenario]}, accuracy after the last task (%)"
            parts.append(f"{title}\n\n{markdown_table(heading, rows)}")
    return "\n\n".join(parts)


def _accuracies(
    results: Sequence[Record], scenario: str, method: str, layer: str
) -> dict[int, float]:
    name = str(Variant(scenario, method, layer))
    return {
        record["seed"]: record["accuracy"]
        for record in results
        if record["variant"] == name and record["accuracy"] is not None
    }


def _mean_and_deviation(values: Sequence[float], usual: int) -> str:
    if not values:
        return "-"
    deviation = f" ± {pstdev(values):.1f}" if len(values) > 1 else ""
    count = f" ({len(values)})" if len(values) != usual else ""
    return f"{fmean(values):.1f}{deviation}{count}"


def _lead(ours: Mapping[int, float], theirs: Mapping[int, float], usual: int) -> str:
    differences = [ours[seed] - theirs[seed] for seed in ours.keys() & theirs.keys()]
    if not differences:
        return "-"
    count = f" ({len(differences)})" if len(differences) != usual else ""
    if len(differences) == 1:
        return f"{differences[0]:+.1f}{count}"
    low, high = bootstrap_interval(differences)
    return f"{fmean(differences):+.1f} [{low:+.1f}, {high:+.1f}]{count}"
