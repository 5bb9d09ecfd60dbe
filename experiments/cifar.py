"""The last layer of deep networks on CIFAR-10 or CIFAR-100 (section 3.1 and Table 3 of the paper).

    python -m experiments.cifar --cifar DIR
    python -m experiments.cifar --cifar DIR --networks resnet8 --jobs 2

A LeNet, or a residual network of 8 or 20 layers, with a last layer that is linear, a mixture of
experts, a stored-program memory, one of the other baselines, or a Neurocoder, ours or that of the
authors' code. The paper's second network, a DenseNet of 100 layers, takes days on a CPU.

All except the linear layer and the authors' have about as many parameters as our Neurocoder.
"""

import argparse
from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import nn

from experiments.common.cifar import CHANNELS, load_cifar
from experiments.common.command_line import command, positive
from experiments.common.layers import parameter_count
from experiments.common.processes import Scalar
from experiments.common.study import Column, Study, make_parser
from experiments.recognition.models import LAST_LAYERS, LeNet, make_classifier, orthogonality_of
from experiments.recognition.resnet import WIDTHS, ResNet
from experiments.recognition.training import error_of, train

NETWORKS = ("lenet", "resnet8", "resnet20")
# Customary learning rates for Adam; they were not searched.
LEARNING_RATES = {"lenet": 0.001, "resnet8": 0.003, "resnet20": 0.003}
EPOCHS = {"lenet": 15, "resnet8": 15, "resnet20": 30}
_QUICK_IMAGES = 192
COLUMNS = (
    Column("error", "test error", percent=True),
    Column("train_error", "training error", percent=True),
    Column("parameters"),
    Column("last_layer", "of these in the last layer"),
    Column("seconds", "seconds", digits=0),
)


@command("cifar")
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = make_parser("cifar", __doc__, LAST_LAYERS, seeds=3)
    parser.add_argument(
        "--cifar",
        metavar="DIR",
        required=True,
        help="folder of the binary files of either data set",
    )
    parser.add_argument(
        "--networks",
        nargs="+",
        choices=NETWORKS,
        default=["lenet"],
        metavar="NAME",
        help=f"which of {', '.join(NETWORKS)}",
    )
    parser.add_argument("--epochs", type=positive, metavar="N", help="passes; 15, resnet20 30")
    args = parser.parse_args(argv)
    name = load_cifar(args.cifar).name  # refuses a bad folder before anything is written
    with Study("cifar", args) as study:
        print(name)
        variants = [f"{network}/{last}" for network in args.networks for last in study.variants]
        study.run(partial(Runs, args), variants)
        study.table(COLUMNS, remark=f"Data: {name}.")


class Runs:
    """Trains variants by name; made once in each process, which loads the pictures.

    Args:
        args: the command's arguments.

    Raises:
        DataError: if the files cannot be used.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        images = load_cifar(args.cifar)
        self.args, self.classes = args, images.classes
        self.images = images.first(_QUICK_IMAGES) if args.quick else images

    def __call__(self, name: str, _seed: int, scalar: Scalar) -> dict[str, Any]:
        """Return errors and sizes of a network with that last layer."""
        network, last = name.split("/")
        model = make_network(network, last, self.classes)
        errors = train(
            model,
            self.images,
            self.args.epochs or (1 if self.args.quick else EPOCHS[network]),
            LEARNING_RATES[network],
            scalar,
            orthogonality=orthogonality_of(last),
            augment=network != "lenet",
        )
        return {
            "error": errors[-1],
            "train_error": error_of(model, self.images.train, self.images.train_labels),
            "parameters": parameter_count(model),
            "last_layer": parameter_count(model.last),
            "errors": errors,
        }


def make_network(network: str, last: str, classes: int) -> LeNet | ResNet:
    """Create one of NETWORKS with one of LAST_LAYERS, for pictures of shape (3, 32, 32)."""
    if network == "lenet":
        return LeNet(32, last, channels=CHANNELS, classes=classes)
    layer: nn.Module = make_classifier(last, WIDTHS[-1], classes=classes)
    return ResNet((int(network.removeprefix("resnet")) - 2) // 6, CHANNELS, layer)


if __name__ == "__main__":
    main()
