"""Split CIFAR: a residual network that learns a few classes at a time, with and without SI.

    python -m experiments.split_cifar --cifar DIR --jobs 2
    python -m experiments.split_cifar --cifar DIR --scenarios domain --strengths 1000 --seeds 1

Section 3.4 of the paper: five tasks of two classes of CIFAR-10, or twenty tasks of five classes of
CIFAR-100, whichever the folder holds. The last layer is linear, our Neurocoder or that of the
authors' code; see `experiments.continual_learning.split_cifar`. The table has all strengths of SI.
"""

import argparse
from collections.abc import Sequence
from functools import partial
from typing import Any

from experiments.common.cifar import load_cifar
from experiments.common.command_line import command, positive, positive_number
from experiments.common.processes import Scalar
from experiments.common.study import Study, make_parser
from experiments.continual_learning import split_cifar
from experiments.continual_learning.results import COLUMNS
from experiments.continual_learning.run import SCENARIOS, curves
from experiments.continual_learning.split_cifar import LAST_LAYERS, Scale
from experiments.continual_learning.task_split import Task

# Strengths of SI, around those that Hsu et al. (2018) found best for Split MNIST, 300 and 3000.
STRENGTHS = (100.0, 1000.0, 10_000.0)
_QUICK_PICTURES = 8


@command("split_cifar")
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    args = _parse(argv)
    images = load_cifar(args.cifar)
    data = images.name
    split_cifar.load_tasks(images)  # refuses bad pictures before anything is written
    del images
    with Study("split_cifar", args) as study:
        print(data)
        wanted = split_cifar.names(args.scenarios, args.strengths, study.variants)
        study.run(partial(Runs, args), wanted)
        study.table(COLUMNS, remark=f"Data: {data}.")
        study.figure(split_cifar.figure(study.results), "accuracy")


class Runs:
    """Runs variants by name; made once in each process, which loads the pictures.

    Args:
        args: the command's arguments.

    Raises:
        DataError: if the files cannot be used.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        tasks = split_cifar.load_tasks(load_cifar(args.cifar))
        self.tasks = [_fewer(task) for task in tasks] if args.quick else tasks
        epochs = args.epochs or (1 if args.quick else Scale.epochs)
        self.scale = Scale(blocks=args.blocks, epochs=epochs)

    def __call__(self, name: str, _seed: int, scalar: Scalar) -> dict[str, Any]:
        """Return the values of `split_cifar.run`."""
        return split_cifar.run(name, self.tasks, self.scale, curves(scalar))


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser("split_cifar", __doc__, list(LAST_LAYERS), seeds=3)
    parser.add_argument(
        "--cifar",
        metavar="DIR",
        required=True,
        help="folder of the binary files of either data set",
    )
    parser.add_argument(
        "--scenarios",
        nargs="+",
        choices=SCENARIOS,
        default=list(SCENARIOS),
        metavar="NAME",
        help="which of domain (one last layer) and task (one for each task)",
    )
    parser.add_argument(
        "--strengths",
        nargs="*",
        type=positive_number,
        default=list(STRENGTHS),
        metavar="C",
        help="strengths of SI; none leaves it out",
    )
    parser.add_argument(
        "--blocks",
        type=positive,
        default=Scale.blocks,
        metavar="N",
        help="of a residual network of 6 N + 2 layers",
    )
    parser.add_argument("--epochs", type=positive, metavar="N", help="passes over each task (4)")
    return parser.parse_args(argv)


def _fewer(task: Task) -> Task:
    parts = (task.images, task.labels, task.test_images, task.test_labels)
    return Task(task.classes, *(part[:_QUICK_PICTURES] for part in parts))


if __name__ == "__main__":
    main()
