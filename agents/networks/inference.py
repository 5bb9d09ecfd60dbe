"""The heads as those call them who act: few screens at a time, again and again, without a gradient.

While parameters stay as they are, what depends on them alone is made once. A Neurocoder's head is
compiled; see `acting_kernel.py`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from neurocoder import NeurocoderLinear

# What an ablation leaves out.
_NOTHING = {
    "gate_weight": np.zeros((0, 0), np.float32),
    "gate_bias": np.zeros(0, np.float32),
    "integration_weight": np.zeros((0, 0), np.float32),
    "integration_bias": np.zeros(0, np.float32),
    "residual": np.zeros((0, 0), np.float32),
    "bias": np.zeros(0, np.float32),
}


class InferenceHead:
    """A head that is called as it is.

    Args:
        layer: the head, (B, in) -> (B, out).
    """

    def __init__(self, layer: nn.Module) -> None:
        self.layer = layer

    @contextmanager
    def held(self) -> Iterator[None]:
        """Inside, parameters stay as they are."""
        yield

    @torch.no_grad()
    def run(self, x: Tensor) -> Tensor:
        """Return y, shape (B, out), without a gradient, of x, shape (B, in)."""
        return self.layer(x)


class CompiledNeurocoderHead(InferenceHead):
    """A Neurocoder's head, compiled: on the CPU and for float32; else it is called as it is."""

    layer: NeurocoderLinear

    def __init__(self, layer: NeurocoderLinear) -> None:
        super().__init__(layer)
        self._held: tuple[Any, ...] | None = None

    @contextmanager
    def held(self) -> Iterator[None]:
        """Inside, parameters stay as they are."""
        before, self._held = self._held, self._arguments() if self._is_compiled else None
        try:
            yield
        finally:
            self._held = before

    @torch.no_grad()
    def run(self, x: Tensor) -> Tensor:
        """Return y, shape (B, out), without a gradient, of x, shape (B, in)."""
        if not self._is_compiled:
            return self.layer(x)
        # Imported where it is used: it takes a while, and other heads have no use for it.
        from agents.networks.neurocoder_kernel import run

        y = np.empty((len(x), self.layer.out_features), np.float32)
        run(np.ascontiguousarray(x.detach().numpy()), *(self._held or self._arguments()), y)
        return torch.from_numpy(y)

    @property
    def _is_compiled(self) -> bool:
        u = self.layer.memory.u
        return u.dtype == torch.float32 and u.device.type == "cpu"

    @torch.no_grad()
    def _arguments(self) -> tuple[Any, ...]:
        """What `acting_kernel.run` wants between x and y."""
        parameters, sizes = self.layer.fused_parameters()
        given = [
            _NOTHING[name] if p is None else np.ascontiguousarray(p.numpy())
            for name, p in parameters._asdict().items()
        ]
        keys = self.layer.program_keys().numpy()
        return keys, *given, sizes.heads, sizes.steps, sizes.least_used, sizes.sharpness


def inference_head(layer: nn.Module) -> InferenceHead:
    """The same head, for those who act."""
    return (
        CompiledNeurocoderHead(layer)
        if isinstance(layer, NeurocoderLinear)
        else InferenceHead(layer)
    )
