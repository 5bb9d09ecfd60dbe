"""Several algorithms in one sequence: an NTM whose final layer is one of several kinds.

    python -m experiments.algorithms

Section 3.3 of the paper. A sequence holds n sub-tasks, drawn from Copy, Repeat Copy, Associative
Recall and Priority Sort; see `experiments.multi_task.tasks`. Machines are trained with n = 4, and
tested with n = 4 and with n = 8, which they have never seen. The main network is the Neural Turing
Machine of `experiments.multi_task.ntm`. Its final feed-forward layer, from controller and read
vectors to the answer, is `linear` in the plain machine; the other machines replace that layer, and
nothing else differs.

The folder gets `results.md` (error on 4 and on 8), `tasks.md` (error by sub-task), `curves.png` and
`errors.png`. The error is the fraction of the answers' bits that are wrong; guessing gives half. A
sub-task is solved if none of its bits is wrong.
"""

import argparse
import dataclasses
import math
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.common.command_line import command
from experiments.common.drawing import COLOURS, draw_seeds, new_figure, tidy
from experiments.common.layers import auxiliary_loss, make_layer, parameter_count
from experiments.common.processes import Scalar
from experiments.common.study import Column, Study, make_parser
from experiments.multi_task.ntm import NeuralTuringMachine
from experiments.multi_task.tasks import TASKS, Batch, TaskSizes, sample
from neurocoder import recode

if TYPE_CHECKING:
    from matplotlib.figure import Figure

VARIANTS = ("linear", "film", "hypernet", "neurocoder")
TRAINED, TESTED = 4, (4, 8)
LAYERS = {"output": "output_layer", "interface": "interface_layer"}
AT_THE_END, AFTER_EACH = "at-the-end", "after-each"
# Part of each random seed, so that training, curves and test never share sequences.
TRAINING, CURVE, TEST = 0, 1, 2


@dataclasses.dataclass(frozen=True)
class Size:
    """The sizes of the experiment.

    Attributes:
        tasks: the sizes of the sub-tasks.
        hidden_size: size of the controller.
        rows: rows of the machine's memory.
        width: width of a row.
        iterations: training iterations.
        batch_size: sequences in an iteration.
        learning_rate: Adam's at the start; it falls to zero linearly.
        points: points of a learning curve.
        tested: test sequences of each length.
    """

    tasks: TaskSizes
    hidden_size: int
    rows: int
    width: int
    iterations: int
    learning_rate: float
    batch_size: int = 64
    points: int = 20
    tested: int = 512


SMALL = Size(
    TaskSizes(bits=4, fewest_items=2, most_items=3, most_repeats=2),
    hidden_size=64,
    rows=40,
    width=8,
    iterations=1000,
    learning_rate=8e-3,
)
# From the public settings of an earlier work of the authors, which trains an NTM on Copy and Repeat
# Copy; those of the Neurocoder paper are in an appendix that we do not have. Not run here so far.
LARGE = Size(
    TaskSizes(bits=8, fewest_items=1, most_items=10, most_repeats=10),
    hidden_size=200,
    rows=128,
    width=20,
    iterations=50_000,
    learning_rate=1e-3,
)
SIZES = {"small": SMALL, "large": LARGE}
QUICK = dataclasses.replace(SMALL, iterations=4, batch_size=4, points=2, tested=8)
MAX_GRADIENT = 1.0
ORTHOGONALITY = 0.1


@command("algorithms")
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = make_parser("algorithms", __doc__, VARIANTS, seeds=3)
    parser.add_argument(
        "--answers",
        choices=(AT_THE_END, AFTER_EACH),
        default=AT_THE_END,
        help="all after the last sub-task was given, or each after its own sub-task",
    )
    parser.add_argument(
        "--layer",
        choices=LAYERS,
        default="output",
        help="which layer of the machine is replaced: output (the paper's), or the one that makes "
        "the heads' signals",
    )
    parser.add_argument("--size", choices=SIZES, default="small", help="of tasks and machine")
    args = parser.parse_args(argv)
    with Study("algorithms", args) as study:
        study.run(partial(Runs, args))
        report(study, size_of(args))


class Runs:
    """Trains machines by the name of their final layer.

    Args:
        args: the command's arguments.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args

    def __call__(self, variant: str, seed: int, scalar: Scalar) -> dict[str, Any]:
        """Return the values of `train`."""
        size = size_of(self.args)
        machine = make_machine(variant, size, LAYERS[self.args.layer])
        return train(machine, size, self.args.answers, seed, scalar)


def size_of(args: argparse.Namespace) -> Size:
    """The sizes that the command line asks for."""
    return QUICK if args.quick else SIZES[args.size]


def make_machine(variant: str, size: Size, layer: str) -> NeuralTuringMachine:
    """A machine with the named layer replaced by the variant's."""
    machine = NeuralTuringMachine(
        size.tasks.channels,
        size.tasks.bits,
        hidden_size=size.hidden_size,
        rows=size.rows,
        width=size.width,
    )
    if variant == "linear":
        return machine
    sizes = {"hidden_size": 32} if variant == "neurocoder" else {}
    return recode(machine, [layer], partial(make_layer, variant, **sizes))


def train(
    machine: NeuralTuringMachine,
    size: Size,
    answers: str,
    seed: int,
    scalar: Scalar,
) -> dict[str, Any]:
    """Train on sequences of TRAINED sub-tasks; return everything that is stored."""
    at_the_end = answers == AT_THE_END
    draw = partial(sample, size.tasks, at_the_end=at_the_end)
    random = np.random.default_rng([TRAINING, seed])
    watched = {n: draw(n, min(64, size.tested), np.random.default_rng([CURVE, n])) for n in TESTED}
    optimizer = torch.optim.Adam(machine.parameters(), lr=size.learning_rate)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, size.iterations)
    curves: dict[str, list[float]] = {"iteration": [], **{f"curve_{n}": [] for n in TESTED}}
    for iteration in range(1, size.iterations + 1):
        loss = learn(machine, draw(TRAINED, size.batch_size, random), optimizer)
        schedule.step()
        if iteration % (size.iterations // size.points) == 0:
            curves["iteration"].append(iteration)
            scalar("loss", loss, iteration)
            for n, batch in watched.items():
                error = evaluate(machine, batch)["error"]
                curves[f"curve_{n}"].append(error)
                scalar(f"error_{n}", error, iteration)
    tests = {
        n: evaluate(machine, draw(n, size.tested, np.random.default_rng([TEST, n]))) for n in TESTED
    }
    return {
        **{f"{key}_{n}": tests[n][key] for key in ("error", "solved") for n in TESTED},
        **{f"{key}_{n}": value for n in TESTED for key, value in tests[n].items()},
        **curves,
        "parameters": parameter_count(machine),
    }


def learn(machine: NeuralTuringMachine, batch: Batch, optimizer: torch.optim.Optimizer) -> float:
    """Make one training step; return the task's loss, in nats per bit."""
    due = batch.answering
    loss = F.binary_cross_entropy_with_logits(machine(batch.inputs, due), batch.targets[due])
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(machine.parameters(), MAX_GRADIENT)
    more = auxiliary_loss(machine, orthogonality=ORTHOGONALITY)
    if more.requires_grad:  # added after clipping, so that it takes no share of the task's gradient
        more.backward()
    optimizer.step()
    return loss.item()


@torch.no_grad()
def evaluate(machine: NeuralTuringMachine, batch: Batch) -> dict[str, Any]:
    """Errors on sequences: "error", "solved", an error for each task, and "by_position".

    NaN for a diverged machine, whose answers would be right by chance.
    """
    due = batch.answering
    logits = machine(batch.inputs, due)
    has_diverged = not logits.isfinite().all()
    wrong = (logits > 0) != (batch.targets[due] > 0.5)
    error, task, position = wrong.float().mean(dim=-1), batch.task[due], batch.position[due]
    if has_diverged:
        error.fill_(math.nan)
    positions = int(position.max()) + 1
    sequence = torch.arange(due.shape[1]).expand_as(due)[due]
    wrong_bits = torch.zeros(due.shape[1], positions, dtype=torch.long)
    wrong_bits.index_put_((sequence, position), wrong.sum(dim=-1), accumulate=True)
    return {
        "error": error.mean().item(),
        "solved": math.nan if has_diverged else (wrong_bits == 0).float().mean().item(),
        **{name: _mean(error[task == number]) for number, name in enumerate(TASKS)},
        "by_position": [_mean(error[position == number]) for number in range(positions)],
    }


def _mean(values: Tensor) -> float | None:
    return values.mean().item() if len(values) else None


def report(study: Study, size: Size) -> None:
    """Write the tables and draw the figures."""
    study.table(
        [
            *(Column(f"error_{n}", f"wrong bits, n = {n}", percent=True) for n in TESTED),
            *(Column(f"solved_{n}", f"solved, n = {n}", percent=True) for n in TESTED),
            "parameters",
        ],
        remark=f"Trained on n = {TRAINED} for {size.iterations:,} iterations of "
        f"{size.batch_size} sequences.",
    )
    columns = [
        Column(f"{task}_{n}", f"{task}, n = {n}", percent=True) for n in TESTED for task in TASKS
    ]
    study.table(columns, name="tasks", remark="Wrong bits, by sub-task.")
    study.figure(draw_curves(study), "curves")
    study.figure(draw_errors(study), "errors")


def draw_curves(study: Study) -> "Figure":
    """Plot wrong bits against iterations, for both sequence lengths; a line for each seed."""
    figure = new_figure(9, 4)
    for axes, n in zip(figure.subplots(1, 2, sharey=True), TESTED, strict=True):
        for variant, runs in _by_variant(study).items():
            curves = [_percent(run[f"curve_{n}"]) for run in runs]
            draw_seeds(axes, runs[0]["iteration"], curves, variant)
        seen = "as in training" if n == TRAINED else "never trained on"
        axes.set(title=f"n = {n}, {seen}", xlabel="iteration", ylim=(0, 50))
        tidy(axes)
    figure.axes[0].set_ylabel("wrong bits (%)")
    figure.axes[0].legend(frameon=False)
    return figure


def draw_errors(study: Study) -> "Figure":
    """Plot wrong bits by sub-task and, for longer sequences, by position in the sequence."""
    figure = new_figure(11, 4)
    everyone = _by_variant(study)
    longest = max(TESTED)
    by_task = figure.subplots(1, 3, sharey=True, width_ratios=(1, 1, 1.2))
    width = 0.8 / len(everyone)
    for axes, n in zip(by_task, TESTED, strict=False):
        for number, (variant, runs) in enumerate(everyone.items()):
            errors = [_mean_percent([run[f"{t}_{n}"] for run in runs]) for t in TASKS]
            x = np.arange(len(TASKS)) + (number - (len(everyone) - 1) / 2) * width
            axes.bar(x, errors, width, color=COLOURS[variant], label=variant)
        axes.set_xticks(range(len(TASKS)), [t.replace(" ", "\n") for t in TASKS])
        axes.set_title(f"by sub-task, n = {n}")
        tidy(axes)
    by_position = by_task[-1]
    for variant, runs in everyone.items():
        curves = [_percent(run[f"by_position_{longest}"]) for run in runs]
        draw_seeds(by_position, range(1, longest + 1), curves, variant, marker="o", ms=3)
    by_position.set(title=f"by place in the sequence, n = {longest}", xlabel="sub-task number")
    tidy(by_position)
    by_task[0].set_ylabel("wrong bits (%)")
    by_position.legend(frameon=False)
    return figure


def _percent(errors: Sequence[float | None]) -> list[float]:
    """Errors in percent; NaN, which is not drawn, for None, such as that of a diverged machine."""
    return [math.nan if error is None else 100 * error for error in errors]


def _mean_percent(errors: Sequence[float | None]) -> float:
    known = _percent([error for error in errors if error is not None])
    return sum(known) / len(known) if known else math.nan


def _by_variant(study: Study) -> dict[str, list[dict[str, Any]]]:
    """The results of each variant that has any, one for each seed."""
    found: dict[str, list[dict[str, Any]]] = {}
    for record in study.results:
        found.setdefault(record["variant"], []).append(record)
    return found


if __name__ == "__main__":
    main()
