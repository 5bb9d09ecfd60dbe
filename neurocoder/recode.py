"""Replace named linear layers of an existing model."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from torch import nn

M = TypeVar("M", bound=nn.Module)


def recode(module: M, layer_names: Sequence[str], factory: Callable[[int, int], nn.Module]) -> M:
    """Replace the named `nn.Linear` layers of a model, in place, and return the model.

    The new layers keep their own initial weights, and take over the device, dtype and training mode
    of the old ones. The factory decides whether a new layer has a bias.

    >>> import functools, torch
    >>> model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    >>> factory = functools.partial(NeurocoderLinear, slots=10)
    >>> recode(model, ["2"], factory)(torch.zeros(3, 8)).shape
    torch.Size([3, 4])

    Args:
        module: Any model.
        layer_names: Names of the layers as in `module.named_modules()`, such as "classifier.2".
        factory: Called as factory(in_features, out_features) for each layer; `NeurocoderLinear` and
            `HyperLinear` themselves are valid factories.

    Raises:
        TypeError: if layer_names is a single string, or a named layer is not an `nn.Linear`.
        ValueError: if a name does not exist; no layer is replaced then.
    """
    if isinstance(layer_names, str):
        raise TypeError(f"layer_names must be a list of names, got the string {layer_names!r}")
    layers = dict(module.named_modules())
    for name in layer_names:
        if not name or name not in layers:
            linear = [n for n, layer in layers.items() if n and isinstance(layer, nn.Linear)]
            raise ValueError(f"no layer is named {name!r}; linear layers: {', '.join(linear)}")
        if not isinstance(layers[name], nn.Linear):
            raise TypeError(f"{name!r} is a {type(layers[name]).__name__}, not an nn.Linear")

    for name in dict.fromkeys(layer_names):
        old = layers[name]
        assert isinstance(old, nn.Linear)
        new = factory(old.in_features, old.out_features)
        new.to(device=old.weight.device, dtype=old.weight.dtype).train(old.training)
        parent, _, child = name.rpartition(".")
        setattr(layers[parent], child, new)
    return module
