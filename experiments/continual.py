"""Continual learning: five tasks of two digits in sequence, and how much of the first is retained.

Section 3.4 and Table 1 of the paper: an MLP, the same with stored programs (NSM) and the same with
Neurocoder layers, each trained with Adam or Adagrad alone and with four regularizers against
forgetting. In the incremental domain scenario all tasks share one output layer, which says which
of a task's two digits an image shows; in the incremental task scenario each task has its own. The
tasks are made of scikit-learn's digits, or of MNIST with --mnist; learning rates and strengths were
selected on the former, at the sizes used there.

    python -m experiments.continual --protocol authors --mnist DIR --jobs 2

repeats what the authors' public code does, on MNIST, and puts the paper's table, the authors' logs
and the results side by side; see `experiments.continual_learning.authors`. With --readings, it goes
from their Neurocoder to ours, changing one reading of the paper at a time; see
`experiments.continual_learning.readings`.
"""

import argparse
from collections.abc import Sequence
from functools import partial
from typing import Any

from experiments.common.command_line import ExperimentError, command, positive
from experiments.common.processes import Scalar
from experiments.common.study import Study, make_parser
from experiments.continual_learning import authors, readings
from experiments.continual_learning.choices import CHOICES
from experiments.continual_learning.results import (
    COLUMNS,
    accuracy_figure,
    first_task_figure,
    paper_tables,
)
from experiments.continual_learning.run import (
    LAYERS,
    METHODS,
    MNIST_SCALE,
    QUICK,
    SCALE,
    SCENARIOS,
    Scale,
    Variant,
    curves,
    load_tasks,
    run,
)


@command("continual")
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    args = _parse(argv)
    if args.protocol == "authors":
        _run_as_the_authors(args)
        return
    if args.readings is not None:
        raise ExperimentError("--readings needs --protocol authors")
    load_tasks(args.mnist)  # refuses a bad folder before anything is written
    scale, remarks = _scale(args), []
    if args.mnist is not None:
        remarks = [
            "Learning rates and strengths are those selected on scikit-learn's digits, with layers "
            f"of {SCALE.width} units and batches of {SCALE.batch_size}; none were selected on "
            f"MNIST, here with {scale.width} and {scale.batch_size}."
        ]
    with Study("continual", args) as study:
        for remark in remarks:
            print(remark, flush=True)
        study.run(partial(Runs, args.mnist, scale), _names(args, study))
        _report(study, "\n\n".join([*remarks, paper_tables(study.results)]))


class Runs:
    """Runs variants by name, with their chosen settings; made once in each process.

    Args:
        mnist: folder of MNIST's files, or None for scikit-learn's digits.
        scale: size of the network and length of training.

    Raises:
        DataError: if the files cannot be used.
    """

    def __init__(self, mnist: str | None, scale: Scale) -> None:
        self.tasks, self.scale = load_tasks(mnist), scale

    def __call__(self, name: str, _seed: int, scalar: Scalar) -> dict[str, Any]:
        """Return the values of `run`."""
        variant = Variant(*name.split("/"))
        choice = CHOICES[f"{variant.method}/{variant.layer}"]
        return run(variant, self.tasks, self.scale, choice, curves(scalar))


def _run_as_the_authors(args: argparse.Namespace) -> None:
    if args.mnist is None:
        raise ExperimentError("--protocol authors needs --mnist DIR")
    if args.readings is not None:
        for flag, usual in (("scenarios", SCENARIOS), ("methods", METHODS), ("variants", LAYERS)):
            if getattr(args, flag) != list(usual):
                raise ExperimentError(
                    f"--{flag} cannot be combined with --readings, which is by online EWC in the "
                    "domain scenario"
                )
    args.default_seeds = authors.REPEATS
    scale = _scale(args)
    authors.load_tasks(args.mnist)  # as above
    # Like variants, readings may be added to a folder; only whether it has any is a setting.
    wanted, args.readings = args.readings, args.readings is not None
    with Study("continual", args) as study:
        if args.readings:
            chosen = [name for name in readings.names() if name in (wanted or [name])]
            study.run(partial(readings.Runs, args.mnist, scale), chosen)
            study.table(COLUMNS, variants=readings.names())
            study.figure(readings.figure(study.results), "readings")
            return
        study.run(partial(authors.Runs, args.mnist, scale), _names(args, study))
        _report(study, authors.comparison(study.results))


def _names(args: argparse.Namespace, study: Study) -> list[str]:
    """The names of the requested variants."""
    return [
        str(Variant(scenario, method, layer))
        for scenario in args.scenarios
        for method in args.methods
        for layer in study.variants
    ]


def _report(study: Study, remark: str) -> None:
    """Write the table and the figures."""
    study.table(COLUMNS, remark=remark)
    study.figure(accuracy_figure(study.results), "accuracy")
    study.figure(first_task_figure(study.results), "first_task")


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser("continual", __doc__, list(LAYERS))
    parser.add_argument("--mnist", metavar="DIR", help="folder of MNIST's four IDX files")
    parser.add_argument(
        "--protocol",
        choices=["authors"],
        help="the authors' own sizes, settings and losses, ten seeds; needs --mnist",
    )
    parser.add_argument(
        "--readings",
        nargs="*",
        choices=readings.names(),
        metavar="NAME",
        help="with --protocol: from the authors' Neurocoder to ours, all steps or those of these "
        "names, by online EWC in the domain scenario",
    )
    for flag, known, what in (
        ("--scenarios", SCENARIOS, "scenarios to run"),
        ("--methods", METHODS, "methods against forgetting"),
    ):
        parser.add_argument(
            flag,
            nargs="+",
            choices=known,
            default=list(known),
            metavar="NAME",
            help=what,
        )
    parser.add_argument("--width", type=positive, metavar="N", help="units of a hidden layer")
    parser.add_argument("--epochs", type=positive, metavar="N", help="passes over each task")
    return parser.parse_args(argv)


def _scale(args: argparse.Namespace) -> Scale:
    if args.protocol == "authors":
        scale = authors.QUICK if args.quick else authors.SCALE
    else:
        scale = QUICK if args.quick else SCALE if args.mnist is None else MNIST_SCALE
    return Scale(
        args.width or scale.width,
        args.epochs or scale.epochs,
        scale.batch_size,
        scale.fisher_images,
    )


if __name__ == "__main__":
    main()
