"""Inference-only wrappers around the actor and critic heads: small batches, no gradient.

While parameters do not change, what depends on them alone is computed once. A Neurocoder head is
compiled; see `neurocoder_kernel.py`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from neurocoder import NeurocoderLinear

# Arguments in place of parts that an ablation leaves out.
_ABSENT = {
    "gate_weight": np.zeros((0, 0), np.float32),
    "gate_bias": np.zeros(0, np.float32),
    "integration_weight": np.zeros((0, 0), np.float32),
    "integration_bias": np.zeros(0, np.float32),
    "residual": np.zeros((0, 0), np.float32),
    "bias": np.zeros(0, np.float32),
}


class InferenceHead:
    """A head that is called unchanged.

    Args:
        layer: The head, (B, in) -> (B, out).
    """

    def __init__(self, layer: nn.Module) -> None:
        self.layer = layer

    @contextmanager
    def cached_weights(self) -> Iterator[None]:
        """A context in which parameters must not change."""
        yield

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        """Return y, shape (B, out), for x, shape (B, in), without a gradient."""
        return self.layer(x)


class CompiledNeurocoderHead(InferenceHead):
    """A Neurocoder head, compiled for float32 on the CPU; otherwise it is called unchanged."""

    layer: NeurocoderLinear

    def __init__(self, layer: NeurocoderLinear) -> None:
        super().__init__(layer)
        self._cached: tuple[Any, ...] | None = None

    @contextmanager
    def cached_weights(self) -> Iterator[None]:
        """A context in which parameters must not change."""
        before, self._cached = self._cached, self._arguments() if self._is_compiled else None
        try:
            yield
        finally:
            self._cached = before

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        """Return y, shape (B, out), for x, shape (B, in), without a gradient."""
        if not self._is_compiled:
            return self.layer(x)
        # Imported lazily: it takes a while, and other heads do not need it.
        from agents.networks.neurocoder_kernel import neurocoder_forward

        y = np.empty((len(x), self.layer.out_features), np.float32)
        neurocoder_forward(
            np.ascontiguousarray(x.detach().numpy()), *(self._cached or self._arguments()), y
        )
        return torch.from_numpy(y)

    @property
    def _is_compiled(self) -> bool:
        u = self.layer.memory.u
        default = self.layer.has_default_readings
        return default and u.dtype == torch.float32 and u.device.type == "cpu"

    @torch.no_grad()
    def _arguments(self) -> tuple[Any, ...]:
        """Arguments of `neurocoder_kernel.neurocoder_forward` between x and y."""
        parameters, sizes = self.layer.fused_parameters()
        given = [
            _ABSENT[name] if p is None else np.ascontiguousarray(p.numpy())
            for name, p in parameters._asdict().items()
        ]
        keys = self.layer.program_keys().numpy()
        return keys, *given, sizes.heads, sizes.steps, sizes.least_used, sizes.sharpness


def inference_head(layer: nn.Module) -> InferenceHead:
    """Return the inference-only version of a head."""
    return (
        CompiledNeurocoderHead(layer)
        if isinstance(layer, NeurocoderLinear)
        else InferenceHead(layer)
    )
