"""The networks that `experiments.digits` compares: linear classifiers, and a LeNet's last layer."""

from typing import Any

import torch
from torch import Tensor, nn

from experiments.common.layers import make_layer, match_sizes, parameter_count
from neurocoder import NeurocoderLinear

CLASSES = 10
STEPS = (1, 2, 3, 5, 10)

# One head and ten slots, as in the paper's Fig. 2b; J = 5 is the reference Neurocoder. All other
# variants except the plain linear layer have about as many parameters.
_NEUROCODER = {"slots": 10, "heads": 1, "steps": 5, "hidden_size": 16}
# Fig. 2b has 30 slots; heads replace steps, so that the same number of components is retrieved.
_SINGLE_STEP = {"slots": 30, "heads": 5, "steps": 1}

# The authors' two layers, retrieving as many components from as many slots. Their parameter counts
# follow from this; they are not matched.
_AUTHORS = {
    "authors-single-step": (NeurocoderLinear.authors_single_step, {"slots": 30, "heads": 5}),
    "authors-multi-step": (
        NeurocoderLinear.authors_multi_step,
        {"slots": 10, "heads": 1, "steps": 5, "least_used": 5},
    ),
}

MULTI_STEP, SINGLE_STEP = "neurocoder-J5", "neurocoder-single-step"
AUTHORS_SINGLE_STEP, AUTHORS_MULTI_STEP = _AUTHORS
_MATCHED = ("hypernet", "film", "moe", "nsm")
WITH_RESIDUAL = tuple(f"neurocoder-J{steps}" for steps in STEPS)
WITHOUT_RESIDUAL = tuple(f"neurocoder-J{steps}-no-residual" for steps in STEPS)
CLASSIFIERS = ("linear", "linear-deep", "mlp", *_MATCHED, SINGLE_STEP, *_AUTHORS)
LAST_LAYERS = ("linear", "mlp", *_MATCHED, SINGLE_STEP, MULTI_STEP, *_AUTHORS)
LENETS = tuple(f"lenet-{name}" for name in LAST_LAYERS)
VARIANTS = (*CLASSIFIERS, *WITH_RESIDUAL, *WITHOUT_RESIDUAL, *LENETS)


class LeNet(nn.Module):
    """Two convolutions and three further layers (LeCun et al. 1998), with a choice of the last.

    Pictures of 28 x 28 and more get kernels of 5 x 5 as in the original, which pads 28 x 28 to
    32 x 32. Smaller pictures get padded kernels of 3 x 3, for which they have room.

    Args:
        side: side of the pictures.
        last: name of the last layer's variant, from 84 features to the classes.
        sharpness: sharpness of Neurocoders.
        channels: channels of the pictures.
        classes: number of classes.
    """

    def __init__(
        self,
        side: int,
        last: str,
        sharpness: float = 10.0,
        *,
        channels: int = 1,
        classes: int = CLASSES,
    ) -> None:
        super().__init__()
        if side >= 28:
            padding = 2 if side < 32 else 0
            first, second = nn.Conv2d(channels, 6, 5, padding=padding), nn.Conv2d(6, 16, 5)
            side = (side + 2 * padding - 4) // 2 - 4
        else:
            first, second = (nn.Conv2d(i, o, 3, padding=1) for i, o in ((channels, 6), (6, 16)))
            side //= 2
        self.features = nn.Sequential(
            *(first, nn.ReLU(), nn.MaxPool2d(2), second, nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Flatten(), nn.Linear(16 * (side // 2) ** 2, 120), nn.ReLU()),
            *(nn.Linear(120, 84), nn.ReLU()),
        )
        self.last = make_classifier(last, 84, sharpness, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, shape (B, classes), of pictures of shape (B, channels, side, side)."""
        return self.last(self.features(x))


def make_model(variant: str, side: int, sharpness: float = 10.0) -> nn.Module:
    """A fresh model: pictures of shape (B, 1, side, side) to logits of shape (B, 10)."""
    if variant.startswith("lenet-"):
        return LeNet(side, variant.removeprefix("lenet-"), sharpness)
    return nn.Sequential(nn.Flatten(), make_classifier(variant, side * side, sharpness))


def make_classifier(
    variant: str, features: int, sharpness: float = 10.0, classes: int = CLASSES
) -> nn.Module:
    """Create the one or two layers that map `features` inputs to the classes."""
    if variant == "linear":
        return nn.Linear(features, classes)
    if variant in _AUTHORS:
        make, given = _AUTHORS[variant]
        return make(features, classes, **given)
    if variant == MULTI_STEP:
        return make_layer("neurocoder", features, classes, **_NEUROCODER, sharpness=sharpness)
    with torch.random.fork_rng(devices=[]):
        reference = make_layer("neurocoder", features, classes, **_NEUROCODER)
    wanted = parameter_count(reference)
    if variant in ("linear-deep", "mlp"):
        width = round((wanted - classes) / (features + 1 + classes))
        first, last = nn.Linear(features, width), nn.Linear(width, classes)
        return nn.Sequential(first, *([nn.ReLU()] if variant == "mlp" else []), last)
    name, sizes = _layer_and_sizes(variant)
    if name == "neurocoder":
        sizes["sharpness"] = sharpness
    return make_layer(
        name, features, classes, **match_sizes(name, features, classes, wanted, **sizes)
    )


def orthogonality_of(variant: str) -> float:
    """The weight a of eq. 2: 1 for the authors' layers, as in their code, and 0.1 for ours."""
    return 1.0 if variant.removeprefix("lenet-") in _AUTHORS else 0.1


def _layer_and_sizes(variant: str) -> tuple[str, dict[str, Any]]:
    """A variant's name in `experiments.common.layers`, and the sizes that are not matched."""
    if variant in _MATCHED:
        return variant, {}
    if variant == SINGLE_STEP:
        return "neurocoder", dict(_SINGLE_STEP)
    steps = int(variant.split("-")[1].removeprefix("J"))
    sizes = {**_NEUROCODER, "steps": steps, "residual": not variant.endswith("no-residual")}
    del sizes["hidden_size"]
    return "neurocoder", sizes
