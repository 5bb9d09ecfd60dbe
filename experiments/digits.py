"""Digit classification with and without Neurocoder (section 3.1 and Fig. 2a to c of the paper).

    python -m experiments.digits
    python -m experiments.digits --mnist DIR

One-layer classifiers of about equal size: linear, Neurocoders of J = 1 to 10 steps with and without
the residual program, the two layers of the authors' code (not of that size), and the baselines; the
attention of single- and multi-step Neurocoders for each digit, and its decision tree; then the same
layers as the last layer of a LeNet.

The built-in digits are so few that a linear classifier learns them almost without error; so they
are also shifted by one pixel in each direction (`--shift 0` turns this off).
"""

import argparse
import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from experiments.common.command_line import command, positive, positive_number
from experiments.common.data import Images, load_images, shifted
from experiments.common.layers import parameter_count
from experiments.common.processes import Scalar
from experiments.common.study import Column, Study, make_parser
from experiments.recognition.attention_tree import (
    count_patterns,
    difference_between_classes,
    grow_tree,
)
from experiments.recognition.figures import IN_ERRORS, draw_errors, draw_patterns, draw_tree
from experiments.recognition.models import (
    AUTHORS_MULTI_STEP,
    AUTHORS_SINGLE_STEP,
    MULTI_STEP,
    SINGLE_STEP,
    VARIANTS,
    make_model,
    orthogonality_of,
)
from experiments.recognition.training import error_of, train
from neurocoder import NeurocoderLinear

# Of 0.001, 0.003, 0.01 and 0.02, these were best or close to it for linear, MLP and Neurocoder, on
# 200 of the training images of scikit-learn's digits.
LEARNING_RATE, LENET_LEARNING_RATE = 0.01, 0.003
NOT_SELECTED = "Learning rates were selected on scikit-learn's digits; none were on MNIST."
# Figure -> the single- and multi-step layers whose attention it shows.
PAIRS = {
    "patterns": (SINGLE_STEP, MULTI_STEP),
    "patterns-authors": (AUTHORS_SINGLE_STEP, AUTHORS_MULTI_STEP),
}
# The paper's Fig. 2b and c show the first three singular vectors.
COMPONENTS = 3
_QUICK_IMAGES = 192
_AT_ONCE = 1000

COLUMNS = (
    Column("error", "test error", percent=True),
    Column("early", "after a quarter", percent=True),
    Column("train_error", "training error", percent=True),
    Column("parameters"),
)
ATTENTION_COLUMNS = (
    Column("patterns", "patterns", digits=1),
    Column("difference", "difference between digits"),
    Column("kept", "keep to the tree", percent=True, digits=1),
    Column("told", "told by the tree", percent=True, digits=1),
)


@command("digits")
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = make_parser("digits", __doc__, VARIANTS)
    parser.add_argument("--mnist", metavar="DIR", help="MNIST's four files, instead of 8x8 digits")
    parser.add_argument(
        "--epochs",
        type=positive,
        metavar="N",
        help="passes through the training images; 12, without shifts 40, with --mnist 10",
    )
    parser.add_argument(
        "--shift",
        type=int,
        choices=range(4),
        help="pixels by which images are shifted, in all directions; 1, with --mnist 0",
    )
    parser.add_argument(
        "--sharpness",
        type=positive_number,
        default=10.0,
        help="factor on the cosine of eq. 8, but for the authors' layers; the paper prints none, "
        "that is 1",
    )
    args = parser.parse_args(argv)
    if args.shift is None:
        args.shift = 0 if args.mnist else 1
    args.epochs = args.epochs or _default_epochs(args)
    images = load_images(args.mnist)
    remark = NOT_SELECTED if args.mnist else ""
    with Study("digits", args) as study:
        print(f"{images.name}. {remark}" if remark else images.name, flush=True)
        study.run(partial(Runs, args))
        report(study, images, remark)


class Runs:
    """Trains variants by name; made once in each process, which loads the images.

    Args:
        args: the command's arguments.

    Raises:
        DataError: if the files cannot be used.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        images = shifted(load_images(args.mnist), args.shift)
        self.images = images.first(_QUICK_IMAGES) if args.quick else images
        self.args = args

    def __call__(self, variant: str, _seed: int, scalar: Scalar) -> dict[str, Any]:
        """Return errors and size of a variant, and figures that describe its attention."""
        images = self.images
        model = make_model(variant, images.train.shape[-1], self.args.sharpness)
        errors = train(
            model,
            images,
            self.args.epochs,
            LENET_LEARNING_RATE if variant.startswith("lenet-") else LEARNING_RATE,
            scalar,
            orthogonality=orthogonality_of(variant),
        )
        values: dict[str, Any] = {
            "error": errors[-1],
            "early": errors[-(-len(errors) // 4) - 1],
            "train_error": error_of(model, images.train, images.train_labels),
            "parameters": parameter_count(model),
            "errors": errors,
        }
        shown = variant in (*PAIRS["patterns"], *PAIRS["patterns-authors"])
        if shown and math.isfinite(values["error"]) and math.isfinite(values["train_error"]):
            values.update(describe_attention(model, images))
        return values


def describe_attention(model: nn.Module, images: Images) -> dict[str, Any]:
    """Figures of a classifier's attention to M_U by its first components; see `attention_tree`."""
    train, test = attention_of(model, images.train), attention_of(model, images.test)
    labels, test_labels = images.train_labels.numpy(), images.test_labels.numpy()
    tree = grow_tree(train, labels, test, test_labels)
    return {
        "patterns": count_patterns(test),
        "difference": difference_between_classes(test, test_labels),
        "kept": tree.kept,
        "told": tree.told,
        "paths": tree.paths,
        "split_patterns": [split.patterns.round(4) for split in tree.splits],
        "split_distances": [split.distance for split in tree.splits],
        "attention": np.stack([test[test_labels == c].mean(axis=0) for c in range(10)]).round(4),
    }


@torch.no_grad()
def attention_of(model: nn.Module, pictures: Tensor) -> np.ndarray:
    """The attention w^u of the model's Neurocoder for its first components, shape (N, 3, P)."""
    (layer,) = (m for m in model.modules() if isinstance(m, NeurocoderLinear))
    parts = [layer.compose(part.flatten(1)).u_attention for part in pictures.split(_AT_ONCE)]
    return torch.cat(parts)[:, :COMPONENTS].numpy()


def report(study: Study, images: Images, remark: str = "") -> None:
    """Write the tables, and the figures whose variants have results.

    Args:
        study: The study with the results.
        images: The images from which examples are shown.
        remark: Text below the table.
    """
    study.table(COLUMNS, remark=remark)
    first: dict[str, dict[str, Any]] = {}
    for record in study.results:
        if "attention" in record:
            first.setdefault(record["variant"], record)
    if first:
        study.table(ATTENTION_COLUMNS, name="attention", variants=list(first))
    if any(r["variant"] in IN_ERRORS and r["error"] is not None for r in study.results):
        study.figure(draw_errors(study.results, images.name), "errors")
    for name, (single, multi) in PAIRS.items():
        if first.keys() >= {single, multi}:
            study.figure(draw_patterns(first[single], first[multi], images), name)
    for name, record in first.items():
        study.figure(draw_tree(record, images), f"tree-{name}")


def _default_epochs(args: argparse.Namespace) -> int:
    if args.quick:
        return 1
    if args.mnist:
        return 10
    return 12 if args.shift else 40


if __name__ == "__main__":
    main()
