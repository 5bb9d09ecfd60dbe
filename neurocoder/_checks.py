"""Argument checks shared by all layers of the library."""

from operator import index
from typing import SupportsIndex

import torch
from torch import Tensor


def positive_integers(**sizes: SupportsIndex) -> list[int]:
    """Return the sizes, in their order, as plain integers.

    Args:
        **sizes: Anything that Python takes as an index, such as the integers of NumPy.

    Raises:
        ValueError: naming the first size that is not a positive integer. True is not one.
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
    if x.dim() == 0 or x.shape[-1] != in_features:
        raise ValueError(f"expected an input of shape (..., {in_features}), got {tuple(x.shape)}")
