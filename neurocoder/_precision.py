"""Half precision: what is still computed in float32, and the dtype of a layer's output.

Attention with a sharp softmax and the selection of slots or experts magnify rounding errors, which
may even change the selection. Both are computed in at least float32, even with 16-bit parameters or
under autocast.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import wraps
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Method = TypeVar("Method", bound=Callable[..., Any])


class WideLinear(nn.Linear):
    """An `nn.Linear` that computes in its input's dtype, whatever its parameters' dtype.

    Tools that replace every `nn.Linear` of a model, such as dynamic quantisation, leave it alone,
    since they compare the exact type.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return y, shape (..., out_features), for x of shape (..., in_features)."""
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.linear(x, self.weight.to(x.dtype), bias)


def widen(x: Tensor) -> Tensor:
    """Return x in float32 if it has 16 bits, and otherwise as it is."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def autocast_enabled(x: Tensor) -> bool:
    """Whether autocast is on for the device of x."""
    device = x.device.type
    return device != "meta" and torch.is_autocast_enabled(device)


def without_autocast(x: Tensor) -> AbstractContextManager[Any]:
    """Return a context in which operations on the device of x keep the dtype of their operands."""
    if not autocast_enabled(x):
        return nullcontext()
    return torch.autocast(x.device.type, enabled=False)


def like_output(y: Tensor, x: Tensor) -> Tensor:
    """Return y in the dtype that `nn.Linear`'s output for x would have."""
    dtype = x.dtype
    if autocast_enabled(x) and dtype != torch.float64:
        dtype = torch.get_autocast_dtype(x.device.type)
    return y if y.dtype == dtype else y.to(dtype)


def in_full_precision(method: Method) -> Method:
    """Decorate a method of x to run on a widened x and without autocast."""

    @wraps(method)
    def run(self: Any, x: Tensor, *args: Any) -> Any:
        if not autocast_enabled(x):
            return method(self, widen(x), *args)
        with without_autocast(x):
            return method(self, widen(x), *args)

    return run  # type: ignore[return-value]
