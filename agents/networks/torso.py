"""The convolutional torso, which runs forward while acting and backward while learning.

A worker learns from what it has just played, with the parameters it played with. Learning would
recompute exactly the torso's forward pass while acting, so its outputs are cached instead, and
learning starts with the backward pass.
"""

from dataclasses import dataclass
from typing import Any

import cv2
import torch
import torch.nn.functional as F
from torch import Tensor, nn

OBSERVATIONS_PER_CHUNK = 16


@dataclass(frozen=True)
class TorsoCache:
    """Inputs and outputs of the torso's layers, kept for the backward pass.

    Of N observations each of W workers, who act together and learn one after the other; one
    worker's cache has the same tensors without the first dimension.

    Attributes:
        observations: uint8, shape (W, N, 4, 84, 84), channels last in memory.
        convolution_outputs: Output of every convolution after its ReLU, shape
            (W, N, channels, height, width).
        features: The torso's output, shape (W, N, features).
    """

    observations: Tensor
    convolution_outputs: list[Tensor]
    features: Tensor

    def worker(self, index: int) -> "TorsoCache":
        """Return one worker's cache, a view."""
        outputs = [output[index] for output in self.convolution_outputs]
        return TorsoCache(self.observations[index], outputs, self.features[index])


class Torso(nn.Module):
    """Convolutions over stacked observations.

    `nips`: 16 filters 8x8/4, 32 filters 4x4/2, 256 features (Mnih et al. 2013; the network of A3C).
    `nature`: 32 filters 8x8/4, 64 filters 4x4/2, 64 filters 3x3/1, 512 features (Mnih et al. 2015).

    Tensors are channels last in memory, which trains about twice as fast on CPUs.

    Args:
        kind: "nips" or "nature".
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
            # Keeps the scale of the observations through the layers; with torch's default, features
            # would start some twenty times smaller.
            nn.init.orthogonal_(layer.weight, gain=2**0.5)
            nn.init.zeros_(layer.bias)

    def forward(self, observations: Tensor) -> Tensor:
        """Return features, shape (N, features), of uint8 observations, shape (N, 4, 84, 84)."""
        x = self._scaled(observations)
        for convolution in self.convolutions:
            x = F.relu(convolution(x))
        return F.relu(self.dense(x.flatten(1)))

    @torch.no_grad()
    def make_cache(self, observations: Tensor) -> TorsoCache:
        """Allocate a cache for observations, shape (W, N, 4, 84, 84), channels last in memory.

        The observations themselves are not copied: whoever writes into them calls
        `forward_cached` for these rows next.
        """
        workers = observations.shape[:2]
        convolution_outputs, x = [], self._scaled(observations[0, :1])
        for convolution in self.convolutions:
            x = convolution(x)
            _, channels, *size = x.shape
            output = x.new_zeros(*workers, *size, channels).movedim(-1, -3)
            convolution_outputs.append(output)
        # The dense layer reads its input in the order channels, height, width.
        convolution_outputs[-1] = convolution_outputs[-1].contiguous()
        return TorsoCache(observations, convolution_outputs, x.new_zeros(*workers, self.features))

    @torch.no_grad()
    def forward_cached(self, cache: TorsoCache, rows: slice) -> Tensor:
        """Run `forward` without a gradient on rows of the cache, and keep what backward needs.

        Args:
            cache: Of all workers, whose rows run as one batch.
            rows: The rows of every worker, R of its N.

        Returns:
            The features, shape (W * R, features).
        """
        observations = cache.observations[:, rows].movedim(-3, -1)
        workers = observations.shape[:2]
        x = self._scaled(observations.flatten(0, 1).movedim(-1, -3))
        for convolution, outputs in zip(self.convolutions, cache.convolution_outputs, strict=True):
            x = convolution(x).clamp_min_(0)
            outputs[:, rows] = x.unflatten(0, workers)
        # The dense layer reads its input in the order channels, height, width.
        features = F.linear(x.flatten(1), self.dense.weight, self.dense.bias).clamp_min_(0)
        cache.features[:, rows] = features.unflatten(0, workers)
        return features

    def cached_features(self, cache: TorsoCache) -> Tensor:
        """Return one worker's cached features, shape (N, features), with a gradient.

        Parameters must be those that `forward_cached` ran with, and the cache must not change until
        the gradient is computed.
        """
        layers = [*self.convolutions, self.dense]
        parameters = [p for layer in layers for p in (layer.weight, layer.bias)]
        return _CachedForward.apply(self, cache, *parameters)

    def backward(self, dfeatures: Tensor, cache: TorsoCache) -> list[Tensor]:
        """Gradients of weight and bias of every layer, the dense one last.

        Args:
            dfeatures: Gradient of the loss by the features, shape (N, features).
            cache: One worker's, filled by `forward_cached`.
        """
        dense_input = cache.convolution_outputs[-1].flatten(1)
        dy = _relu_backward(dfeatures, cache.features)
        gradients = [dy.t() @ dense_input, dy.sum(0)]
        dy = (dy @ self.dense.weight).view_as(cache.convolution_outputs[-1])
        for i in reversed(range(1, len(self.convolutions))):
            dy = _relu_backward(dy, cache.convolution_outputs[i])
            dy, *d = _convolution_backward(
                dy, cache.convolution_outputs[i - 1], self.convolutions[i]
            )
            gradients = [*d, *gradients]
        dy = _relu_backward(dy, cache.convolution_outputs[0])
        # In chunks: as float32, all observations together would take megabytes.
        pieces = [
            _convolution_backward(
                d, self._scaled(observations), self.convolutions[0], to_input=False
            )
            for d, observations in zip(
                dy.split(OBSERVATIONS_PER_CHUNK),
                cache.observations.split(OBSERVATIONS_PER_CHUNK),
                strict=True,
            )
        ]
        _, dweights, dbiases = zip(*pieces, strict=True)
        return [torch.stack(dweights).sum(0), torch.stack(dbiases).sum(0), *gradients]

    def _scaled(self, observations: Tensor) -> Tensor:
        dtype = self.dense.weight.dtype
        return observations.to(dtype, memory_format=torch.channels_last).div_(255)


def copy_channels_last(observations: Tensor, out: Tensor) -> None:
    """Copy uint8 observations, shape (N, C, H, W), into a channels-last tensor of that shape."""
    # Five times as fast as torch's own copy.
    for planes, image in zip(observations.numpy(), out.permute(0, 2, 3, 1).numpy(), strict=True):
        cv2.merge(planes, image)


def _relu_backward(dy: Tensor, y: Tensor) -> Tensor:
    return torch.ops.aten.threshold_backward(dy, y, 0)


def _convolution_backward(
    dy: Tensor, x: Tensor, convolution: nn.Module, *, to_input: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of input (None unless `to_input`), weight and bias."""
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


class _CachedForward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, torso: Torso, cache: TorsoCache, *parameters: Tensor) -> Tensor:  # noqa: ARG004
        ctx.torso, ctx.cache = torso, cache
        return cache.features.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dfeatures: Tensor) -> Any:
        return None, None, *ctx.torso.backward(dfeatures, ctx.cache)
