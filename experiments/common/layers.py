"""The layers that the experiments compare, by name."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from neurocoder import FiLMLinear, HyperLinear, MoELinear, NeurocoderLinear, NSMLinear

_LAYERS: dict[str, Callable[..., nn.Module]] = {
    "linear": nn.Linear,
    "hypernet": HyperLinear,
    "film": FiLMLinear,
    "moe": MoELinear,
    "nsm": NSMLinear,
    "neurocoder": NeurocoderLinear,
    "neurocoder-single-step": partial(NeurocoderLinear, steps=1),
    "neurocoder-no-usage": partial(NeurocoderLinear, usage_attention=False),
}
LAYERS = tuple(_LAYERS)
_VARIED_SIZES = {"moe": "experts", "nsm": "programs"}


def make_layer(name: str, in_features: int, out_features: int, **sizes: Any) -> nn.Module:
    """A fresh layer, called like `torch.nn.Linear`.

    Args:
        name: one of LAYERS.
        in_features: size of each input.
        out_features: size of each output.
        sizes: the layer's own arguments; they come before what the name stands for.

    Raises:
        ValueError: if there is no layer of that name, or a size is not possible.
        TypeError: if the layer has no such argument.
    """
    if name not in _LAYERS:
        raise ValueError(f"no layer is named {name!r}; there are {', '.join(LAYERS)}")
    return _LAYERS[name](in_features, out_features, **sizes)


def match_sizes(
    name: str, in_features: int, out_features: int, parameters: int, **sizes: Any
) -> dict[str, Any]:
    """Sizes with which a layer has as nearly as possible so many parameters.

    What is varied is the hidden size of hypernetworks, FiLM and Neurocoders, the number of experts
    and the number of stored programs. The smallest possible layer is what there is at the least.

    Args:
        name: one of LAYERS, but not "linear", which has one size only.
        in_features: size of each input.
        out_features: size of each output.
        parameters: how many are wanted.
        sizes: other arguments of the layer.

    Returns:
        The sizes given and the one that was found, for `make_layer`.
    """
    varied = _VARIED_SIZES.get(name, "hidden_size")

    def count(size: int) -> int:
        with torch.random.fork_rng(devices=[]):  # trying sizes must not change what is drawn later
            layer = make_layer(name, in_features, out_features, **{**sizes, varied: size})
        return parameter_count(layer)

    low = sizes.get("chosen", 2) if name == "moe" else 1
    high = low
    while count(high) < parameters:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        if count(middle) < parameters:
            low = middle
        else:
            high = middle
    nearest = min((low, high), key=lambda size: abs(count(size) - parameters))
    return {**sizes, varied: nearest}


def auxiliary_loss(
    module: nn.Module, *, orthogonality: float = 0.1, program_keys: float = 0.1
) -> Tensor:
    """What the layers of a model want added to its loss, a scalar; zero where they want nothing.

    Mixtures of experts give the balancing loss of their last call, weighted as they were made, and
    nothing in evaluation mode.

    Args:
        module: any model.
        orthogonality: a of eq. 2, the weight of the Neurocoders' orthogonality loss.
        program_keys: weight of what keeps the keys of stored-program memories apart.
    """
    total = torch.zeros((), device=next((p.device for p in module.parameters()), None))
    for layer in module.modules():
        if isinstance(layer, NeurocoderLinear):
            total = total + orthogonality * layer.orthogonality_loss()
        elif isinstance(layer, NSMLinear):
            total = total + program_keys * layer.auxiliary_loss()
        elif isinstance(layer, MoELinear) and layer.training:
            total = total + layer.auxiliary_loss()
    return total


def parameter_count(module: nn.Module) -> int:
    """How many numbers are trained."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)
