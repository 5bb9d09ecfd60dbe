"""All parameters of a module as one flat tensor, and all gradients as another."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class FlatParameters:
    """Flat tensors behind a module's parameters; see `flatten_parameters_`.

    Attributes:
        parameters: All parameters in the module's order, shape (N,), float32.
        gradients: Their gradients, shape (N,).
    """

    parameters: Tensor
    gradients: Tensor


def flatten_parameters_(module: nn.Module) -> FlatParameters:
    """Make a module's parameters, and their gradients, views of one flat tensor each, in place.

    One copy then pulls all parameters, and an optimizer step is a handful of operations.

    Args:
        module: Its parameters keep their values.
    """
    flat = flatten(module)
    result = FlatParameters(flat, torch.zeros_like(flat))
    values, gradients = unflatten(flat, module), unflatten(result.gradients, module)
    for name, parameter in module.named_parameters():
        parameter.data, parameter.grad = values[name], gradients[name]
    return result


def flatten(module: nn.Module) -> Tensor:
    """Return a copy of all parameters of a module, in its order, shape (N,)."""
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()])


def unflatten(flat: Tensor, module: nn.Module) -> dict[str, Tensor]:
    """Return views of a flat tensor, by the names and shapes of a module's parameters.

    Args:
        flat: Shape (..., N), for a module with N parameters.
        module: Gives names and shapes.
    """
    shapes = {name: parameter.shape for name, parameter in module.named_parameters()}
    pieces = flat.split([math.prod(shape) for shape in shapes.values()], dim=-1)
    return {
        name: piece.unflatten(-1, shape) if shape else piece.squeeze(-1)
        for (name, shape), piece in zip(shapes.items(), pieces, strict=True)
    }
