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
    """Create a layer that is called like `torch.nn.Linear`.

    Args:
        name: One of LAYERS.
        in_features: Size of each input.
        out_features: Size of each output.
        sizes: The layer's own arguments; they override those implied by the name.

    Raises:
        ValueError: If there is no layer of that name, or a size is not possible.
        TypeError: If the layer has no such argument.
    """
    if name not in _LAYERS:
        raise ValueError(f"no layer is named {name!r}; there are {', '.join(LAYERS)}")
    return _LAYERS[name](in_features, out_features, **sizes)


def match_sizes(
    name: str, in_features: int, out_features: int, parameters: int, **sizes: Any
) -> dict[str, Any]:
    """Find the size whose parameter count is nearest to a given one.

    The size is the hidden size of hypernetworks, FiLM and Neurocoders, the number of experts, or
    the number of stored programs. If the count is too small, the smallest possible size is used.

    Args:
        name: One of LAYERS, except "linear", which has no such size.
        in_features: Size of each input.
        out_features: Size of each output.
        parameters: The desired parameter count.
        sizes: Other arguments of the layer.

    Returns:
        The given sizes and the one found, as arguments of `make_layer`.
    """
    varied = _VARIED_SIZES.get(name, "hidden_size")

    def count(size: int) -> int:
        with torch.random.fork_rng(devices=[]):  # leave the random state unchanged
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
    """Sum of the auxiliary losses of a model's layers, a scalar; zero if there are none.

    Mixtures of experts contribute the balancing loss of their last call, with the weight they were
    constructed with, and nothing in evaluation mode.

    Args:
        module: Any model.
        orthogonality: a of eq. 2, the weight of the Neurocoders' orthogonality loss.
        program_keys: Weight of the loss that separates the keys of stored-program memories.
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
    """Number of trainable parameters."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)
