"""The convolutions that look at the screens, run twice: while acting, and backwards while learning.

A worker learns from what it has just played, with the parameters it played with. What the torso
computed while acting is thus what learning would compute again; it is kept, and learning starts
with the gradient.
"""

from dataclasses import dataclass
from typing import Any

import cv2
import torch
import torch.nn.functional as F
from torch import Tensor, nn

SCREENS_AT_ONCE = 16


@dataclass(frozen=True)
class Activations:
    """What the torso saw and computed of N screens, kept for the gradient.

    Attributes:
        screens: uint8, shape (N, 4, 84, 84), channels last in memory.
        convolved: output of every convolution after its ReLU, shape (N, channels, height, width).
        features: the torso's output, shape (N, features).
    """

    screens: Tensor
    convolved: list[Tensor]
    features: Tensor


class Torso(nn.Module):
    """Convolutions over the stacked screens.

    `nips`: 16 filters 8x8/4, 32 filters 4x4/2, 256 features (Mnih et al. 2013; the network of A3C).
    `nature`: 32 filters 8x8/4, 64 filters 4x4/2, 64 filters 3x3/1, 512 features (Mnih et al. 2015).

    Memory is laid out with channels last, which trains about twice as fast on CPUs.

    Args:
        kind: which of the two.
    """

    def __init__(self, kind: str) -> None:
        super().__init__()
        if kind == "nips":
            self.convolutions = nn.ModuleList(
                [nn.Conv2d(4, 16, 8, stride=4), nn.Conv2d(16, 32, 4, stride=2)]
            )
            flat, self.features = 32 * 9 * 9, 256
        else:
            self.convolutions = nn.ModuleList(
                [
                    nn.Conv2d(4, 32, 8, stride=4),
                    nn.Conv2d(32, 64, 4, stride=2),
                    nn.Conv2d(64, 64, 3, stride=1),
                ]
            )
            flat, self.features = 64 * 7 * 7, 512
        self.dense = nn.Linear(flat, self.features)
        for layer in [*self.convolutions, self.dense]:
            # Keeps the scale of the screens through the layers; with torch's default the heads
            # would start from features some twenty times smaller.
            nn.init.orthogonal_(layer.weight, gain=2**0.5)
            nn.init.zeros_(layer.bias)

    def forward(self, screens: Tensor) -> Tensor:
        """Return features, shape (N, features), of uint8 screens, shape (N, 4, 84, 84)."""
        x = self._scaled(screens)
        for convolution in self.convolutions:
            x = F.relu(convolution(x))
        return F.relu(self.dense(x.flatten(1)))

    @torch.no_grad()
    def make_activations(self, n: int) -> Activations:
        """Room for the activations of n screens of 84 x 84; its contents are zeros."""
        screens = torch.zeros(n, 84, 84, 4, dtype=torch.uint8).permute(0, 3, 1, 2)
        convolved, x = [], self._scaled(screens[:1])
        for convolution in self.convolutions:
            x = convolution(x)
            shape = (n, *x.shape[1:])
            convolved.append(x.new_zeros(shape).contiguous(memory_format=torch.channels_last))
        # The dense layer reads its input in the order channels, height, width.
        convolved[-1] = convolved[-1].contiguous()
        return Activations(screens, convolved, x.new_zeros(n, self.features))

    @torch.no_grad()
    def act(self, screens: Tensor, activations: Activations, rows: slice) -> Tensor:
        """`forward`, without a gradient, keeping in the given rows what the gradient will need.

        Returns:
            The features, shape (N, features): a view of these rows.
        """
        interleave(screens, activations.screens[rows])
        x = self._scaled(activations.screens[rows])
        for convolution, convolved in zip(self.convolutions, activations.convolved, strict=True):
            x = torch.clamp_min(convolution(x), 0, out=convolved[rows])
        features = activations.features[rows]
        torch.addmm(self.dense.bias, x.flatten(1), self.dense.weight.t(), out=features)
        return features.clamp_min_(0)

    def recall(self, activations: Activations) -> Tensor:
        """What `act` returned, shape (N, features), now with a gradient.

        The parameters must be those that `act` ran with, and the activations must stay as they are
        until the gradient is taken.
        """
        layers = [*self.convolutions, self.dense]
        parameters = [p for layer in layers for p in (layer.weight, layer.bias)]
        return _Recalled.apply(self, activations, *parameters)

    def backward(self, dfeatures: Tensor, kept: Activations) -> list[Tensor]:
        """Gradients of weight and bias of every layer, the dense one last.

        Args:
            dfeatures: the derivative of the loss by the features, shape (N, features).
            kept: what `act` has kept.
        """
        seen = kept.convolved[-1].flatten(1)
        dy = _relu_backward(dfeatures, kept.features)
        gradients = [dy.t() @ seen, dy.sum(0)]
        dy = (dy @ self.dense.weight).view_as(kept.convolved[-1])
        for i in reversed(range(1, len(self.convolutions))):
            dy = _relu_backward(dy, kept.convolved[i])
            dy, *d = _convolution_backward(dy, kept.convolved[i - 1], self.convolutions[i])
            gradients = [*d, *gradients]
        dy = _relu_backward(dy, kept.convolved[0])
        # As numbers to compute with, all screens would take megabytes.
        pieces = [
            _convolution_backward(d, self._scaled(screens), self.convolutions[0], to_input=False)
            for d, screens in zip(
                dy.split(SCREENS_AT_ONCE), kept.screens.split(SCREENS_AT_ONCE), strict=True
            )
        ]
        _, dweights, dbiases = zip(*pieces, strict=True)
        return [torch.stack(dweights).sum(0), torch.stack(dbiases).sum(0), *gradients]

    def _scaled(self, screens: Tensor) -> Tensor:
        dtype = self.dense.weight.dtype
        return screens.to(dtype, memory_format=torch.channels_last).div_(255)


def interleave(screens: Tensor, out: Tensor) -> None:
    """Copy screens, uint8, shape (N, C, H, W), to a place that has channels last in memory."""
    # Five times as fast as torch's own copy.
    for planes, picture in zip(screens.numpy(), out.permute(0, 2, 3, 1).numpy(), strict=True):
        cv2.merge(planes, picture)


def _relu_backward(dy: Tensor, y: Tensor) -> Tensor:
    return torch.ops.aten.threshold_backward(dy, y, 0)


def _convolution_backward(
    dy: Tensor, x: Tensor, convolution: nn.Module, *, to_input: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of input (None where not asked for), weight and bias."""
    assert isinstance(convolution, nn.Conv2d)
    return torch.ops.aten.convolution_backward(
        dy,
        x,
        convolution.weight,
        [convolution.out_channels],
        convolution.stride,
        convolution.padding,
        convolution.dilation,
        transposed=False,
        output_padding=[0, 0],
        groups=1,
        output_mask=[to_input, True, True],
    )


class _Recalled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, torso: Torso, activations: Activations, *parameters: Tensor) -> Tensor:  # noqa: ARG004
        ctx.torso, ctx.activations = torso, activations
        return activations.features.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dfeatures: Tensor) -> Any:
        return None, None, *ctx.torso.backward(dfeatures, ctx.activations)
