"""All parameters of a module as one flat tensor, and all gradients as another."""

import math

import torch
from torch import Tensor, nn


class FlatParameters:
    """A module whose parameters, and gradients, are views of one flat tensor each.

    One copy then pulls all parameters, and an optimizer step is a handful of operations.

    Attributes:
        parameters: all parameters in the module's order, shape (N,), float32.
        gradients: theirs, shape (N,).

    Args:
        module: its parameters are moved; they keep their values.
    """

    def __init__(self, module: nn.Module) -> None:
        self.parameters = flatten(module)
        self.gradients = torch.zeros_like(self.parameters)
        values = unflatten(self.parameters, module)
        gradients = unflatten(self.gradients, module)
        for name, parameter in module.named_parameters():
            parameter.data, parameter.grad = values[name], gradients[name]


def flatten(module: nn.Module) -> Tensor:
    """A copy of all parameters of the module, in its order, shape (N,)."""
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()])


def unflatten(flat: Tensor, module: nn.Module) -> dict[str, Tensor]:
    """Views of a flat tensor by the names and shapes of the module's parameters.

    Args:
        flat: shape (..., N), of a module with N parameters.
        module: gives names and shapes.
    """
    shapes = {name: parameter.shape for name, parameter in module.named_parameters()}
    pieces = flat.split([math.prod(shape) for shape in shapes.values()], dim=-1)
    return {
        name: piece.unflatten(-1, shape) if shape else piece.squeeze(-1)
        for (name, shape), piece in zip(shapes.items(), pieces, strict=True)
    }
