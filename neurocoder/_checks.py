"""Argument checks shared by all layers of the library."""

from torch import Tensor


def check_positive(**sizes: int) -> None:
    """Raise ValueError naming the first size that is not a positive integer."""
    for name, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ValueError(f"{name} must be a positive integer, got {size!r}")


def check_input(x: Tensor, in_features: int) -> None:
    """Raise ValueError unless x has shape (..., in_features)."""
    if x.dim() == 0 or x.shape[-1] != in_features:
        raise ValueError(f"expected an input of shape (..., {in_features}), got {tuple(x.shape)}")
