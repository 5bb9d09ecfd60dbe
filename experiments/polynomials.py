"""Auto-regression over changing polynomials: do programs follow the pattern of a sequence?

    python -m experiments.polynomials
    python -m experiments.polynomials --quick

The paper's section 3.2. A GRU reads a sequence of points in chunks, each from another polynomial
(`auto_regression.chunks`), and its output layer predicts the next point. Chunk boundaries are not
given, and a chunk's first point is unpredictable; the error of an ideal observer, a lower
bound, is computed as well (`auto_regression.ideal_observer`). The output layers compared:

- `linear`: the plain GRU.
- `linear-wide`: a plain GRU with more units, in total as many parameters as with the Neurocoder.
- `mlp`: the GRU with a hidden layer before its output, again with as many parameters.
- `hypernet`, `film`: the layers of `neurocoder.baselines`.
- `neurocoder`: 5 steps, 20 slots; `neurocoder-no-usage`: the same without usage attention;
  `neurocoder-single-step`: 1 step, 10 slots.

All are trained on the same sequences in the same order, each once. Learning curves show the test
error above the ideal observer's. A network's signals (the hidden state, a Neurocoder's attention to
M_U, and the corresponding signals of other layers) are scored by how well their change from point
to point detects boundaries.
"""

import argparse
import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from experiments.auto_regression import boundaries, figures
from experiments.auto_regression.auto_regressor import VARIANTS, AutoRegressor, make_model
from experiments.auto_regression.chunks import Sequences, draw_sequences
from experiments.auto_regression.ideal_observer import observe
from experiments.common.command_line import command, positive
from experiments.common.layers import auxiliary_loss, parameter_count
from experiments.common.processes import Scalar
from experiments.common.study import Column, Study, make_parser

TEST_SEED = 2**31  # far from any seed that trains
CURVE_POINTS = 12
GRADIENT_NORM = 1.0
BEFORE, AFTER = 5, 7  # steps around a boundary that are drawn
QUICK = {"updates": 4, "batch": 4, "length": 40, "test": 16}

RESULTS = (
    Column("error", "test error", digits=4),
    Column("excess", "above the ideal observer's", digits=4),
    Column("catches_up", "updates to the plain GRU's last error", digits=0),
    Column("parameters"),
    Column("seconds", digits=0),
)
SIGNALS = {
    "state": "hidden state",
    "condition": "hidden units; z; gamma and beta",
    "first": "attention to M_U, first component",
    "all": "attention to M_U, all components",
}
MEASURES = (
    ("auc", "AUC"),
    ("precision", "average precision"),
    ("quiet_auc", "AUC at quiet steps"),
    ("fresh_auc", "AUC before training"),
    ("at_boundaries", "change at boundaries"),
    ("elsewhere", "elsewhere"),
    ("explained", "variance between chunks"),
    ("explained_by_others", "between others' chunks"),
)


def train(
    model: AutoRegressor,
    args: argparse.Namespace,
    seed: int,
    test: Sequences,
    scalar: Scalar,
) -> dict[str, list[float]]:
    """Train on sequences that are drawn as needed; the learning rate falls to zero.

    Returns:
        The learning curve: "updates", and "errors", the test error after each of these.
    """
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=args.learning_rate)
    every = max(1, args.updates // CURVE_POINTS)
    updates, errors = [0.0], [test_error(model, test)]
    for update in range(1, args.updates + 1):
        for group in optimizer.param_groups:
            group["lr"] = args.learning_rate * (1 - (update - 1) / args.updates)
        y = draw_sequences(args.batch, args.length, generator).y
        loss = (model(y[:, :-1]) - y[:, 1:]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), GRADIENT_NORM)
        # Added after clipping: a large one would otherwise have the task's gradient clipped away.
        auxiliary = auxiliary_loss(model, orthogonality=args.orthogonality)
        if auxiliary.requires_grad:
            auxiliary.backward()
        optimizer.step()
        if update % every == 0 or update == args.updates:
            updates.append(float(update))
            errors.append(test_error(model, test))
            scalar("loss/train", loss.item(), update)
            scalar("loss/test", errors[-1], update)
    return {"updates": updates, "errors": errors}


@torch.no_grad()
def test_error(model: AutoRegressor, test: Sequences) -> float:
    """Mean square error over all points but the first of each sequence."""
    return (model(test.y[:, :-1]) - test.y[:, 1:]).square().mean().item()


@torch.no_grad()
def judge(model: AutoRegressor, test: Sequences) -> dict[str, Any]:
    """How well the model's signals find the boundaries of the test sequences.

    The signals are the hidden state ("state"); for a Neurocoder the attention to M_U, which the
    paper shows, of the component with the greatest singular value ("first") and of "all"; for other
    layers the corresponding signal ("condition").
    """
    state, attention = model.states(test.y), model.attention(test.y)
    condition = model.condition(test.y)
    results = _judge("state", state, boundaries.distance(state), test)
    if condition is not None:
        results |= _judge("condition", condition, boundaries.distance(condition), test)
    if attention is not None:
        for name, part in (("first", attention[:, :, :1]), ("all", attention)):
            change = boundaries.attention_change(part)
            results |= _judge(name, boundaries.shares(part).flatten(2), change, test)
    return results


def _judge(name: str, signal: Tensor, change: Tensor, test: Sequences) -> dict[str, Any]:
    starts, at = test.starts, test.starts[:, 1:]
    quiet = boundaries.quiet_steps(test.y, starts)
    others = boundaries.others_boundaries(starts)
    results: dict[str, Any] = {
        "auc": boundaries.area_under_curve(change, starts),
        "precision": boundaries.average_precision(change, starts),
        "quiet_auc": boundaries.area_under_curve(change, starts, quiet),
        "at_boundaries": change[at].mean().item(),
        "elsewhere": change[~at].mean().item(),
        "explained": boundaries.explained_by_chunks(signal, starts),
        "explained_by_others": boundaries.explained_by_chunks(signal, others),
        "around": boundaries.around_boundaries(change, starts, BEFORE, AFTER),
    }
    return {f"{name}_{key}": value for key, value in results.items()}


@torch.no_grad()
def example(model: AutoRegressor, test: Sequences) -> dict[str, Any]:
    """Predictions of the first test sequence, and the first component's shares of attention."""
    y = test.y[:1]
    attention = model.attention(y)
    return {
        "prediction": model(y[:, :-1])[0],
        "attention": None if attention is None else boundaries.shares(attention[0, :, 0]),
    }


def references(test: Sequences) -> dict[str, Any]:
    """Baselines without a network: the ideal observer, and the sequence's own steps."""
    ideal = observe(test.y)
    results = {"error": (ideal.prediction - test.y)[:, 1:].square().mean().item()}
    signal = test.y.unsqueeze(-1)
    results |= _judge("step", signal, boundaries.distance(signal), test)
    results |= _judge("ideal", ideal.boundary.unsqueeze(-1), ideal.boundary[:, 1:], test)
    results["chance_precision"] = test.starts[:, 1:].float().mean().item()
    return results


def catches_up(updates: Sequence[float], errors: Sequence[float], level: float) -> float:
    """Updates until a learning curve first reaches a level, interpolated linearly.

    All updates if it never does.
    """
    for i, error in enumerate(errors):
        if error <= level:
            if i == 0:
                return updates[0]
            part = (errors[i - 1] - level) / (errors[i - 1] - error)
            return updates[i - 1] + part * (updates[i] - updates[i - 1])
    return updates[-1]


def time_catching_up(results: Sequence[dict[str, Any]]) -> None:
    """Store as "catches_up" when each result reached the plain GRU's last error for the same seed.

    Nothing is stored if there is no plain GRU, or it has diverged.
    """
    plain = {r["seed"]: r["error"] for r in results if r["variant"] == "linear"}
    for r in results:
        if plain.get(r["seed"]) is not None:
            errors = [math.nan if error is None else error for error in r["errors"]]
            r["catches_up"] = catches_up(r["updates"], errors, plain[r["seed"]])


def report(study: Study, test: Sequences, known: Mapping[str, Any]) -> None:
    """Write the tables and figures of all results in the folder."""
    results = study.results
    time_catching_up(results)
    remark = (
        f"The ideal observer's error is {known['error']:.4f}. The plain GRU's last error is that "
        "of the same seed; a variant that never reaches it counts with all updates."
    )
    study.table(RESULTS, remark=remark)
    remark = (
        f"By chance the AUC is 0.50 and the average precision {known['chance_precision']:.2f}. How "
        f"far the sequence itself moves: {known['step_auc']:.2f}, {known['step_precision']:.2f}, "
        f"AUC at quiet steps {known['step_quiet_auc']:.2f}. The ideal observer: "
        f"{known['ideal_auc']:.2f}, {known['ideal_precision']:.2f}, {known['ideal_quiet_auc']:.2f}."
    )
    for signal, name in SIGNALS.items():
        rows = [
            c for c in VARIANTS if any(c == r["variant"] and f"{signal}_auc" in r for r in results)
        ]
        columns = [Column(f"{signal}_{key}", title) for key, title in MEASURES]
        if rows:
            remark_on = f"Changes of: {name}. {remark}"
            study.table(columns, name=signal, variants=rows, remark=remark_on)
    study.figure(figures.curves(results, known["error"]), "curves")
    study.figure(figures.around(results, known, SIGNALS, BEFORE), "around")
    if any(figures.has_attention(r) for r in results):
        study.figure(figures.attention(results, test), "attention")


@command("polynomials")
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = make_parser("polynomials", __doc__, VARIANTS)
    for flag, default, help_text in (
        ("--updates", 600, "of the parameters"),
        ("--batch", 16, "sequences of an update"),
        ("--length", 64, "points of a sequence"),
        ("--hidden", 32, "units of the GRU, and of the Neurocoder's controller"),
        ("--test", 256, "sequences of the test"),
    ):
        parser.add_argument(flag, type=positive, default=default, metavar="N", help=help_text)
    for flag, value, help_text in (
        ("--learning-rate", 0.04, "at the start"),
        ("--orthogonality", 0.001, "a of eq. 2"),
    ):
        parser.add_argument(flag, type=not_negative, default=value, metavar="X", help=help_text)
    args = parser.parse_args(argv)
    if args.quick:
        vars(args).update(QUICK)
    test = draw_test(args)
    with Study("polynomials", args) as study:
        known = references(test)
        study.run(partial(Runs, args, known["error"]))
        report(study, test, known)


class Runs:
    """Trains variants by name; made once in each process, which draws the test sequences.

    Args:
        args: the command's arguments.
        ideal: error of the ideal observer.
    """

    def __init__(self, args: argparse.Namespace, ideal: float) -> None:
        self.args, self.ideal, self.test = args, ideal, draw_test(args)

    def __call__(self, variant: str, seed: int, scalar: Scalar) -> dict[str, Any]:
        """Return the learning curve, the scores before and after training, and an example."""
        model = make_model(variant, self.args.hidden)
        fresh = {k: v for k, v in judge(model, self.test).items() if k.endswith("_auc")}
        curve = train(model, self.args, seed, self.test, scalar)
        return {
            "error": curve["errors"][-1],
            "excess": curve["errors"][-1] - self.ideal,
            "parameters": parameter_count(model),
            **curve,
            **judge(model, self.test),
            **{key.replace("_auc", "_fresh_auc"): value for key, value in fresh.items()},
            "example": example(model, self.test),
        }


def draw_test(args: argparse.Namespace) -> Sequences:
    """The test sequences, the same for all variants and seeds."""
    return draw_sequences(args.test, args.length, torch.Generator().manual_seed(TEST_SEED))


def not_negative(word: str) -> float:
    """Parse a finite number that is not negative."""
    try:
        number = float(word)
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf"):
        raise argparse.ArgumentTypeError(f"{word!r} is not a number from 0")
    return number


if __name__ == "__main__":
    main()
