"""The convolutional torso, which runs forward while acting and backward while learning.

A worker learns from what it has just played, with the parameters it played with. Learning would
repeat exactly the torso's forward pass from acting, so its outputs are cached, and learning starts
with the backward pass.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from envs.config import OBSERVATION_SHAPE

OBSERVATIONS_PER_CHUNK = 40
# CV_CN_MAX of version 5.
_MAX_CHANNELS_OF_OPENCV = 128


@dataclass(frozen=True)
class TorsoCache:
    """Inputs and outputs of the torso's layers, kept for the backward pass.

    For N observations of each of W workers, which act together and learn one after the other; one
    worker's cache has the same tensors without the first dimension.

    Attributes:
        observations: Images, uint8, shape (W, N, C, H, W), channels last in memory; or vectors,
            float32, shape (W, N, D).
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


# Kind -> filters, size and stride of each convolution; the number of features; and what the bytes
# of an image are divided by.
_KINDS = {
    "nips": ([(16, 8, 4), (32, 4, 2)], 256, 255),
    "nature": ([(32, 8, 4), (64, 4, 2), (64, 3, 1)], 512, 255),
    # Small images are of symbols rather than colours: MiniGrid's are 0 to 10.
    "small": ([(16, 2, 1), (32, 2, 1), (64, 2, 1)], 256, 10),
}
CONVOLUTIONAL = tuple(_KINDS)


def smallest_image(kind: str) -> int:
    """The smallest height and width of images that a torso takes."""
    size = 1
    for _, window, stride in reversed(_KINDS[kind][0]):
        size = (size - 1) * stride + window
    return size


class Torso(nn.Module):
    """Convolutions over images, such as stacked screens.

    `nips`: 16 filters 8x8/4, 32 filters 4x4/2, 256 features (Mnih et al. 2013; the network of A3C).
    `nature`: 32 filters 8x8/4, 64 filters 4x4/2, 64 filters 3x3/1, 512 features (Mnih et al. 2015).
    `small`: 16, 32 and 64 filters 2x2/1, 256 features, for images from 4x4 of symbols such as
    MiniGrid's: bytes are divided by 10 instead of 255.

    Tensors are channels last in memory, which trains about twice as fast on CPUs.

    Args:
        kind: "nips", "nature" or "small".
        image_shape: (C, H, W) of an observation.
        precision: "float32", or "bf16" to compute with weights and activations rounded to bfloat16.
            Parameters, features and gradients have the parameters' type in either case.
    """

    def __init__(
        self,
        kind: str,
        image_shape: Sequence[int] = OBSERVATION_SHAPE,
        precision: str = "float32",
    ) -> None:
        super().__init__()
        self.kind, self.precision = kind, precision
        self._cached: _Weights | None = None
        convolutions, self.features, self.scale = _KINDS[kind]
        channels, *size = image_shape
        self.convolutions = nn.ModuleList()
        for filters, window, stride in convolutions:
            self.convolutions.append(nn.Conv2d(channels, filters, window, stride=stride))
            channels, size = filters, [(side - window) // stride + 1 for side in size]
        flat = channels * size[0] * size[1]
        self.dense = nn.Linear(flat, self.features)
        for layer in [*self.convolutions, self.dense]:
            # Keeps the scale of the observations through the layers; with torch's default, features
            # would start some twenty times smaller.
            nn.init.orthogonal_(layer.weight, gain=2**0.5)
            nn.init.zeros_(layer.bias)

    def forward(self, observations: Tensor) -> Tensor:
        """Return features, shape (N, features), of uint8 observations, shape (N, C, H, W)."""
        weights = self._weights()
        x = observations.to(self._dtype, memory_format=torch.channels_last)
        for convolution in weights.convolutions:
            x = F.relu(convolution(x))
        x = F.relu(F.linear(x.flatten(1), weights.dense, weights.dense_bias))
        return x.to(self.dense.weight.dtype)

    @contextmanager
    def cached_weights(self) -> Iterator[None]:
        """A context in which parameters must not change; weights are converted once."""
        before = self._cached
        with torch.no_grad():
            self._cached = self._weights()
        try:
            yield
        finally:
            self._cached = before

    @torch.no_grad()
    def make_cache(self, observations: Tensor) -> TorsoCache:
        """Allocate a cache for observations, shape (W, N, C, H, W), channels last in memory.

        The observations are not copied: after writing rows of them, call `forward_cached` for these
        rows.
        """
        workers = observations.shape[:2]
        convolution_outputs, x = [], observations[0, :1].to(self._dtype)
        for convolution in self._weights().convolutions:
            x = convolution(x)
            _, channels, *size = x.shape
            output = x.new_zeros(*workers, *size, channels).movedim(-1, -3)
            convolution_outputs.append(output)
        # The dense layer reads its input in the order channels, height, width.
        convolution_outputs[-1] = convolution_outputs[-1].contiguous()
        features = self.dense.weight.new_zeros(*workers, self.features)
        return TorsoCache(observations, convolution_outputs, features)

    @torch.no_grad()
    def forward_cached(self, cache: TorsoCache, rows: slice) -> Tensor:
        """Run `forward` without a gradient on rows of the cache, and keep what backward needs.

        Args:
            cache: Of all workers, whose rows run as one batch.
            rows: The rows of every worker, R of its N.

        Returns:
            The features, shape (W * R, features).
        """
        weights = self._weights()
        observations = cache.observations[:, rows].movedim(-3, -1)
        workers = observations.shape[:2]
        # Gathered and converted at once.
        x = observations.new_empty(observations.shape, dtype=self._dtype).copy_(observations)
        x = x.flatten(0, 1).movedim(-1, -3)
        for convolution, outputs in zip(
            weights.convolutions, cache.convolution_outputs, strict=True
        ):
            x = convolution(x).clamp_min_(0)
            if outputs is cache.convolution_outputs[-1]:
                x = x.contiguous()
            outputs[:, rows] = x.unflatten(0, workers)
        x = F.linear(x.flatten(1), weights.dense, weights.dense_bias).clamp_min_(0)
        features = x.to(cache.features.dtype)
        cache.features[:, rows] = features.unflatten(0, workers)
        return features

    @torch.no_grad()
    def backward(self, dfeatures: Tensor, cache: TorsoCache) -> list[Tensor]:
        """Gradients of all parameters, in the module's order.

        Args:
            dfeatures: Gradient of the loss by the features, shape (N, features).
            cache: One worker's, filled by `forward_cached` with the same parameters.
        """
        weights = self._weights()
        first, *rest = weights.convolutions
        last_output = cache.convolution_outputs[-1]
        dy = _relu_backward(dfeatures, cache.features).to(self._dtype)
        gradients = [dy.t() @ last_output.flatten(1), dy.sum(0)]
        dy = _relu_backward((dy @ weights.dense).view_as(last_output), last_output)
        for convolution, x in zip(
            reversed(rest), reversed(cache.convolution_outputs[:-1]), strict=True
        ):
            gradients = [*convolution.weight_gradients(dy, x), *gradients]
            dy = convolution.input_gradient(dy, x)
        # In chunks: as floating-point numbers, all observations together would take megabytes.
        pieces = [
            first.weight_gradients(d, observations.to(self._dtype))
            for d, observations in zip(
                dy.split(OBSERVATIONS_PER_CHUNK),
                cache.observations.split(OBSERVATIONS_PER_CHUNK),
                strict=True,
            )
        ]
        dtype = self.dense.weight.dtype
        dweight, dbias = (torch.stack(d).sum(0, dtype=dtype) for d in zip(*pieces, strict=True))
        return [dweight.div_(self.scale), dbias, *(gradient.to(dtype) for gradient in gradients)]

    @property
    def _dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.precision == "bf16" else self.dense.weight.dtype

    def _weights(self) -> "_Weights":
        if self._cached is not None and not torch.is_grad_enabled():
            return self._cached
        dtype = self._dtype
        convolutions: list[_Convolution] = []
        for layer in self.convolutions:
            assert isinstance(layer, nn.Conv2d)
            assert layer.bias is not None
            # Scaling the first weights, not the observations, saves a pass over these.
            weight = layer.weight if convolutions else layer.weight / self.scale
            weight = weight.to(dtype, memory_format=torch.channels_last)
            convolutions.append(_Convolution(weight, layer.bias.to(dtype), layer.stride[0]))
        return _Weights(convolutions, self.dense.weight.to(dtype), self.dense.bias.to(dtype))


class _Convolution(NamedTuple):
    """A convolution as it is computed.

    Attributes:
        weight: Shape (out, in, size, size), channels last in memory.
        bias: Shape (out,).
        stride: Step of the window, in both directions.
    """

    weight: Tensor
    bias: Tensor
    stride: int

    def __call__(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, self.bias, self.stride)

    def weight_gradients(self, dy: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of weight and bias."""
        _, dweight, dbias = self._backward(dy, x, [False, True, True])
        return dweight, dbias

    def input_gradient(self, dy: Tensor, x: Tensor) -> Tensor:
        """Gradient of the values whose ReLU is the input x."""
        (out, channels, size, _), s = self.weight.shape, self.stride
        if size != 2 * s or any(side % s for side in x.shape[-2:]):
            return _relu_backward(self._backward(dy, x, [True, False, False])[0], x)
        # A block of s x s inputs belongs to 2 x 2 windows. So the gradient of all inputs of a block
        # is a convolution of size 2 over dy, a third faster than torch's for the narrow layers.
        weight = self.weight.reshape(out, channels, 2, s, 2, s).flip(2, 4)
        weight = weight.permute(3, 5, 1, 0, 2, 4).reshape(s * s * channels, out, 2, 2)
        dx = F.conv2d(dy, weight.contiguous(memory_format=torch.channels_last), padding=1)
        # Shape (N, rows of blocks, row in a block, blocks of a row, column in a block and channel).
        rows = dx.movedim(1, -1).unflatten(-1, (s, s * channels)).transpose(2, 3)
        x_rows = x.movedim(1, -1).view(rows.shape)
        # Written in the memory order of x, which differs from that of the blocks.
        masked = torch.empty_like(x_rows)
        torch.ops.aten.threshold_backward.grad_input(rows, x_rows, 0, grad_input=masked)
        return masked.view(x.movedim(1, -1).shape).movedim(-1, 1)

    def _backward(self, dy: Tensor, x: Tensor, mask: list[bool]) -> tuple[Tensor, Tensor, Tensor]:
        return torch.ops.aten.convolution_backward(
            dy,
            x,
            self.weight,
            bias_sizes=[len(self.bias)],
            stride=[self.stride] * 2,
            padding=[0, 0],
            dilation=[1, 1],
            transposed=False,
            output_padding=[0, 0],
            groups=1,
            output_mask=mask,
        )


class _Weights(NamedTuple):
    """All weights as they are used: the first convolution's are for undivided bytes.

    Attributes:
        convolutions: The convolutions.
        dense: The dense layer's weight, shape (features, inputs).
        dense_bias: Its bias, shape (features,).
    """

    convolutions: list[_Convolution]
    dense: Tensor
    dense_bias: Tensor


def copy_channels_last(observations: Tensor, out: Tensor) -> None:
    """Copy uint8 observations, shape (N, C, H, W), into a channels-last tensor of that shape."""
    if observations.shape[1] > _MAX_CHANNELS_OF_OPENCV:
        out.copy_(observations)
        return
    # Five times as fast as torch's own copy.
    for planes, image in zip(observations.numpy(), out.permute(0, 2, 3, 1).numpy(), strict=True):
        cv2.merge(planes, image)


def _relu_backward(dy: Tensor, y: Tensor) -> Tensor:
    return torch.ops.aten.threshold_backward(dy, y, 0)
