"""Choose the settings of the continual learning experiment.

Every layer gets the same tuning budget: five learning rates of Adam and of Adagrad, then six
strengths of each regularizer with Adam's best learning rate. Best means the highest mean over seeds
of the average accuracy after the last task in the incremental domain scenario, on a fifth of the
training images that is held out for this. `experiments.continual` uses other seeds, and other
images to test on; its settings, in both scenarios, are those that this command prints at the end.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from statistics import fmean
from typing import Any

import torch

from experiments.common.command_line import command
from experiments.common.processes import Scalar
from experiments.common.study import Record, Study, make_parser
from experiments.continual_learning.run import (
    LAYERS,
    METHODS,
    QUICK,
    SCALE,
    Choice,
    Scale,
    Variant,
    load_tasks,
    run,
)
from experiments.continual_learning.task_split import hold_out

LEARNING_RATES: Mapping[str, Sequence[float]] = {
    "adam": (1e-4, 3e-4, 1e-3, 3e-3, 1e-2),
    "adagrad": (1e-3, 3e-3, 1e-2, 3e-2, 1e-1),
}
STRENGTHS: Mapping[str, Sequence[float]] = {
    "l2": (1e-3, 0.01, 0.1, 1.0, 10.0, 100.0),
    "si": (1.0, 10.0, 100.0, 1e3, 1e4, 1e5),
    "ewc": (10.0, 100.0, 1e3, 1e4, 1e5, 1e6),
    "online-ewc": (1e-3, 0.01, 0.1, 1.0, 10.0, 100.0),
}
HELD_OUT = 0.2
# Added to the study's seeds 1, 2, ..., which the reported experiment uses.
_FIRST_SEED = 1000

Tries = dict[str, tuple[Variant, Choice]]


@command("continual_choice")
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = make_parser("continual_choice", __doc__, list(LAYERS), seeds=2)
    args = parser.parse_args(argv)
    scale = QUICK if args.quick else SCALE
    with Study("continual_choice", args) as study:
        everyone = [
            Variant("domain", method, layer) for layer in study.variants for method in METHODS
        ]
        tries: Tries = {
            f"{variant}/{rate:g}": (variant, Choice(rate))
            for variant in everyone
            for rate in LEARNING_RATES.get(variant.method, ())
        }
        study.run(partial(Runs, tries, scale), list(tries))
        tries |= _strengths(everyone, study.results, tries)
        study.run(partial(Runs, tries, scale), list(tries))
        study.table(["accuracy", "forgetting", "learned"])
        for variant in everyone:
            choice = best(variant, study.results, tries)
            name = f"{variant.method}/{variant.layer}"
            print(f'"{name}": Choice({choice.learning_rate:g}, {choice.strength:g}),')


class Runs:
    """Runs tries by name; every seed holds out different images.

    Args:
        tries: name -> variant and settings.
        scale: size of the network and length of training.
    """

    def __init__(self, tries: Tries, scale: Scale) -> None:
        self.tries, self.scale, self.tasks = tries, scale, load_tasks(None)

    def __call__(self, name: str, seed: int, _scalar: Scalar) -> dict[str, Any]:
        """Return the values of `run`."""
        variant, choice = self.tries[name]
        torch.manual_seed(_FIRST_SEED + seed)
        generator = torch.Generator().manual_seed(_FIRST_SEED + seed)
        held_out = [hold_out(task, HELD_OUT, generator) for task in self.tasks]
        return run(variant, held_out, self.scale, choice)


def best(variant: Variant, results: Sequence[Record], tries: Tries) -> Choice:
    """The settings tried for a variant that have the highest mean accuracy over seeds.

    Settings that diverge with any seed come last.

    Args:
        variant: The variant whose settings are chosen.
        results: Results of the study, by names of tries.
        tries: Name -> variant and settings.
    """

    def mean_accuracy(name: str) -> float:
        values = [r["accuracy"] for r in results if r["variant"] == name]
        return -math.inf if None in values else fmean(values)

    names = [name for name, (who, _) in tries.items() if who == variant]
    return tries[max(names, key=mean_accuracy)][1]


def _strengths(everyone: Sequence[Variant], results: Sequence[Record], tries: Tries) -> Tries:
    """The tries for the regularizers, once Adam's learning rates are known."""
    found = {}
    for variant in everyone:
        for strength in STRENGTHS.get(variant.method, ()):
            alone = replace(variant, method="adam")
            rate = best(alone, results, tries).learning_rate
            found[f"{variant}/{rate:g}/{strength:g}"] = variant, Choice(rate, strength)
    return found


if __name__ == "__main__":
    main()
