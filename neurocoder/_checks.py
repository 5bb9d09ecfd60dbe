"""Argument checks shared by all layers of the library."""

from operator import index
from typing import SupportsIndex

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from neurocoder._precision import autocast_enabled

# Hooks that recompute a parameter whenever its module is called.
_COMPUTING_HOOKS = (BasePruningMethod, WeightNorm, SpectralNorm)
_CONVERTED_BY_AUTOCAST = {torch.bfloat16, torch.float16, torch.float32}


def positive_integers(**sizes: SupportsIndex) -> list[int]:
    """Return the sizes, in their order, as plain integers.

    Args:
        **sizes: Anything that Python accepts as an index, such as NumPy's integers.

    Raises:
        ValueError: naming the first size that is not a positive integer; booleans are not integers.
    """
    integers = []
    for name, size in sizes.items():
        try:
            integer = index(size)
        except TypeError:
            integer = 0
        if integer < 1 or isinstance(size, bool) or getattr(size, "dtype", None) == torch.bool:
            raise ValueError(f"{name} must be a positive integer, got {size!r}")
        integers.append(integer)
    return integers


def check_input(x: Tensor, in_features: int) -> None:
    """Raise ValueError unless x has shape (..., in_features)."""
    if torch.jit.is_tracing():  # type: ignore[attr-defined]
        return  # while tracing, sizes are tensors, and conditions on them are not recorded
    if x.dim() == 0 or x.shape[-1] != in_features:
        raise ValueError(f"expected an input of shape (..., {in_features}), got {tuple(x.shape)}")


def is_eager(x: Tensor) -> bool:
    """Whether operations on x run immediately, on actual numbers.

    False while compiling, exporting, tracing, transforming by `torch.func` or differentiating in
    forward mode, and on the meta device.
    """
    return (
        not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()  # type: ignore[attr-defined]
        and not is_transformed()
        and type(x) in (Tensor, nn.Parameter)
        and x.device.type != "meta"
    )


def is_transformed() -> bool:
    """Whether calls are transformed by `torch.func`, or differentiated in forward mode."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def check_dtype(x: Tensor, parameter: Tensor) -> None:
    """Raise RuntimeError, as `nn.Linear` does, if x and a layer's parameter differ in dtype.

    Under autocast they may differ unless one is float64, which it does not convert.
    """
    if x.dtype == parameter.dtype:
        return
    if not (autocast_enabled(x) and {x.dtype, parameter.dtype} <= _CONVERTED_BY_AUTOCAST):
        raise RuntimeError(f"expected an input of {parameter.dtype}, got {x.dtype}")


def check_parameters_are_stored(layer: nn.Module) -> None:
    """Raise RuntimeError if a hook computes a parameter of one of a layer's submodules.

    `torch.nn.utils.prune` and the older weight and spectral norms have such hooks, which run when a
    submodule is called. A layer that reads the parameters without calling the submodule would never
    see new values.
    """
    if torch.compiler.is_compiling() or not any(m._forward_pre_hooks for m in layer.modules()):
        return
    for name, module in layer.named_modules():
        hooks = module._forward_pre_hooks.values() if module is not layer else ()
        if any(isinstance(hook, _COMPUTING_HOOKS) for hook in hooks):
            raise RuntimeError(
                f"parameters of {name!r} are pruned or normalised by a hook, and "
                f"{layer._get_name()} reads them without calling it: use "
                "torch.nn.utils.parametrize, or make the pruning permanent with "
                "torch.nn.utils.prune.remove"
            )
