"""Continual learning: five tasks of two digits in sequence, and how much of the first is retained.

Section 3.4 and Table 1 of the paper: an MLP, the same with stored programs (NSM) and the same with
Neurocoder layers, each trained with Adam or Adagrad alone and with four regularizers against
forgetting. In the incremental domain scenario all tasks share one output layer, which classifies
which of a task's two digits an image shows; in the incremental task scenario each task has its own.
The tasks are made of scikit-learn's digits, or of MNIST with --mnist.
"""

import argparse
from collections.abc import Sequence

from torch import Tensor

from experiments.common.command_line import command, positive
from experiments.common.study import Column, Study, make_parser
from experiments.continual_learning.choices import CHOICES
from experiments.continual_learning.results import accuracy_figure, first_task_figure, paper_tables
from experiments.continual_learning.run import (
    LAYERS,
    METHODS,
    MNIST_SCALE,
    QUICK,
    SCALE,
    SCENARIOS,
    Scale,
    Variant,
    load_tasks,
    run,
)


@command("continual")
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    args = _parse(argv)
    scale = _scale(args)
    tasks = load_tasks(args.mnist)
    with Study("continual", args) as study:
        variants = {
            str(variant): variant
            for scenario in args.scenarios
            for method in args.methods
            for layer in study.variants
            for variant in [Variant(scenario, method, layer)]
        }
        for name, seed in study.jobs(list(variants)):

            def report(place: int, accuracies: Tensor) -> None:
                study.scalar(
                    "accuracy/tasks_so_far", accuracies[: place + 1].mean().item(), place + 1
                )
                study.scalar("accuracy/first_task", accuracies[0].item(), place + 1)

            values = run(
                variants[name],
                tasks,
                scale,
                CHOICES[f"{variants[name].method}/{variants[name].layer}"],
                report,
            )
            study.result(name, seed, values)
        study.table(
            [
                Column("accuracy", "accuracy after the last task, %", digits=1),
                Column("forgetting", "forgetting, points", digits=1),
                Column("learned", "accuracy when just learned, %", digits=1),
                "parameters",
            ],
            remark=paper_tables(study.results),
        )
        study.figure(accuracy_figure(study.results), "accuracy")
        study.figure(first_task_figure(study.results), "first_task")


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser("continual", __doc__, list(LAYERS))
    parser.add_argument("--mnist", metavar="DIR", help="folder of MNIST's four IDX files")
    for flag, known in (("--scenarios", SCENARIOS), ("--methods", METHODS)):
        parser.add_argument(
            flag,
            nargs="+",
            choices=known,
            default=list(known),
            metavar="NAME",
            help=f"which of {', '.join(known)}",
        )
    parser.add_argument("--width", type=positive, metavar="N", help="units of a hidden layer")
    parser.add_argument("--epochs", type=positive, metavar="N", help="passes over each task")
    return parser.parse_args(argv)


def _scale(args: argparse.Namespace) -> Scale:
    scale = QUICK if args.quick else SCALE if args.mnist is None else MNIST_SCALE
    return Scale(
        args.width or scale.width,
        args.epochs or scale.epochs,
        scale.batch_size,
        scale.fisher_images,
    )


if __name__ == "__main__":
    main()
