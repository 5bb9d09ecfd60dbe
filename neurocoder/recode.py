"""Replace named linear layers of an existing model."""

import dis
import inspect
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TypeVar

from torch import nn
from torch.backends import mha
from torch.nn.parameter import is_lazy

M = TypeVar("M", bound=nn.Module)


def recode(module: M, layer_names: Sequence[str], factory: Callable[[int, int], nn.Module]) -> M:
    """Replace the named `nn.Linear` layers of a model, in place, and return the model.

    The new layers keep their own initial weights, and take over the device, dtype and training mode
    of the old ones. The factory decides whether a new layer has a bias. A layer used in several
    places may be given by any of its names, and is replaced by one new layer in all of them.
    Optimizers and wrappers such as `DistributedDataParallel` hold on to parameters: create them
    afterwards.

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
        TypeError: if layer_names is a single string, a named layer is not an `nn.Linear`, or the
            factory is itself a layer or does not return one.
        ValueError: if a name does not exist, or if part of the old layer would be lost silently:
            parameters that are frozen, shared, computed or not initialised yet, hooks, or a weight
            that the enclosing module reads.

    If anything is raised, even by the factory, no layer has been replaced.
    """
    if isinstance(layer_names, str):
        raise TypeError(f"layer_names must be a list of names, got the string {layer_names!r}")
    if isinstance(factory, nn.Module):
        raise TypeError("factory must be a class or a function of two sizes, got a layer")
    layers = dict(module.named_modules(remove_duplicate=False))
    names: dict[nn.Linear, str] = {}
    for name in layer_names:
        if not name or name not in layers:
            linear = [n for n, layer in module.named_modules() if n and _is_linear(layer)]
            raise ValueError(f"no layer is named {name!r}; linear layers: {', '.join(linear)}")
        old = layers[name]
        if not isinstance(old, nn.Linear) or not _is_linear(old):
            raise TypeError(f"{name!r} is a {type(old).__name__}, not an nn.Linear")
        names.setdefault(old, name)
    for old, name in names.items():
        if reason := _what_would_be_lost(module, old):
            raise ValueError(f"{name!r} is not replaced: {reason}")

    new_layers: dict[nn.Module | None, nn.Module] = {}
    for old, name in names.items():
        new = factory(old.in_features, old.out_features)
        if not isinstance(new, nn.Module):
            raise TypeError(f"the factory returned a {type(new).__name__} for {name!r}")
        new_layers[old] = new.to(old.weight.device, old.weight.dtype).train(old.training)

    places = [
        (parent, child, new_layers[layer], layer)
        for parent in module.modules()
        for child, layer in parent._modules.items()
        if layer in new_layers
    ]
    for parent, child, new, layer in places:
        if missing := sorted(a for a in _read_by(parent, child) if not hasattr(new, a)):
            assert isinstance(layer, nn.Linear)
            raise ValueError(
                f"{names[layer]!r} is not replaced: the forward pass of {type(parent).__name__} "
                f"reads its {' and '.join(missing)}, which {type(new).__name__} does not have; "
                + (
                    "call torch.backends.mha.set_fastpath_enabled(False) before"
                    if isinstance(parent, nn.TransformerEncoderLayer)
                    else "replace a layer that is only called, or rewrite that forward pass"
                )
            )
    for parent, child, new, _ in places:
        setattr(parent, child, new)
    return module


def _is_linear(layer: nn.Module) -> bool:
    """Whether the layer computes what `nn.Linear` does: subclasses may compute something else."""
    return isinstance(layer, nn.Linear) and type(layer).forward is nn.Linear.forward


def _what_would_be_lost(module: nn.Module, layer: nn.Linear) -> str | None:
    """Return what cannot be carried over to a new layer and what to do about it, or None."""
    own = {name: p for name, p in layer._parameters.items() if p is not None}
    if any(getattr(layer, name) is not None and name not in own for name in ("weight", "bias")):
        return (
            "its weight or bias is computed (parametrized, normalised or pruned), and the new "
            "layer's would not be; remove that first, as with parametrize.remove_parametrizations"
        )
    if is_lazy(layer.weight):
        return "its sizes are not known yet; run a batch through the model first"
    if not all(p.requires_grad for p in own.values()):
        return "it is frozen, and a new layer must be trained; call its requires_grad_() first"
    if layer._forward_hooks or layer._forward_pre_hooks:
        return "it has hooks; remove them, and register them on the new layer"
    if layer._backward_hooks or layer._backward_pre_hooks:
        return "it has backward hooks; remove them, and register them on the new layer"
    for name, other in module.named_modules():
        if isinstance(other, nn.parallel.DistributedDataParallel):
            return "DistributedDataParallel would not see the new parameters; wrap the model later"
        for parameter, value in other._parameters.items():
            if other is not layer and any(value is p for p in own.values()):
                place = f"{name}.{parameter}" if name else parameter
                return f"it shares its parameters with {place!r}; give it its own first"
    return None


def _read_by(parent: nn.Module, child: str) -> set[str]:
    """Return the attributes of a child that the forward pass of its parent reads."""
    if isinstance(parent, nn.TransformerEncoderLayer) and not mha.get_fastpath_enabled():
        return set()  # without its fast path, it calls the child
    forward = inspect.unwrap(type(parent).forward)
    code = getattr(forward, "__code__", None)
    instructions = [] if code is None else dis.get_instructions(code)
    return {
        second.argval
        for first, second in pairwise(instructions)
        if first.opname == second.opname == "LOAD_ATTR" and first.argval == child
    }
