"""All parameters of a module as one flat tensor, and all gradients as another."""

import math
from collections.abc import Iterable, Mapping, Sequence
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

    def write_gradients(self, gradients: Iterable[Tensor]) -> None:
        """Overwrite the gradients of all parameters, given in the module's order."""
        torch.cat([gradient.flatten() for gradient in gradients], out=self.gradients)


def flatten_parameters_(module: nn.Module) -> FlatParameters:
    """Make a module's parameters, and their gradients, views of one flat tensor each, in place.

    One copy then pulls all parameters, and an optimizer step is a handful of operations.

    Args:
        module: Its parameters keep their values.
    """
    flat = flatten(module)
    result = FlatParameters(flat, torch.zeros_like(flat))
    shapes = {name: parameter.shape for name, parameter in module.named_parameters()}
    values, gradients = unflatten(flat, shapes), unflatten(result.gradients, shapes)
    for name, parameter in module.named_parameters():
        parameter.data, parameter.grad = values[name], gradients[name]
    return result


def repeat_parameters(module: nn.Module, count: int) -> dict[str, Tensor]:
    """Return a module's parameters by name, each repeated without a copy, shape (count, ...).

    Computing with the i-th row of each leaves the gradient in that row alone. The values are the
    module's own, and change with them.
    """
    return {
        name: parameter.detach().expand(count, *parameter.shape).requires_grad_()
        for name, parameter in module.named_parameters()
    }


def flatten(module: nn.Module) -> Tensor:
    """Return a copy of all parameters of a module, in its order, shape (N,)."""
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()])


def unflatten(flat: Tensor, shapes: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    """Return views of a flat tensor, by name.

    Args:
        flat: The parameters one after the other, shape (..., N).
        shapes: Their names and shapes, N elements in all.
    """
    pieces = flat.split([math.prod(shape) for shape in shapes.values()], dim=-1)
    return {
        name: piece.unflatten(-1, shape) if shape else piece.squeeze(-1)
        for (name, shape), piece in zip(shapes.items(), pieces, strict=True)
    }
