"""The residual network for small pictures, with a choice of the last layer."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTHS = (16, 32, 64)


class ResNet(nn.Module):
    """The residual network that He et al. (2016), section 4.2, train on CIFAR: 6 n + 2 layers.

    Args:
        blocks: n, the number of blocks at each of the three widths.
        channels: channels of the pictures.
        last: the last layer, from 64 features to the classes.
    """

    def __init__(self, blocks: int, channels: int, last: nn.Module) -> None:
        super().__init__()
        parts: list[nn.Module] = [_convolution(channels, WIDTHS[0]), nn.ReLU()]
        before = WIDTHS[0]
        for width in WIDTHS:
            for _ in range(blocks):
                parts.append(_Block(before, width))
                before = width
        self.features = nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.last = last

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, shape (B, classes), of pictures (B, channels, side, side)."""
        # Convolutions are faster on a CPU with channels last.
        x = x.contiguous(memory_format=torch.channels_last)
        return self.last(self.features(x))


class _Block(nn.Module):
    """Two convolutions with a shortcut around them; a block that widens halves the resolution."""

    def __init__(self, before: int, width: int) -> None:
        super().__init__()
        self.stride = 1 if before == width else 2
        self.wider = width - before
        self.convolutions = nn.Sequential(
            _convolution(before, width, self.stride), nn.ReLU(), _convolution(width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        # Missing channels are zero: the paper's option A, without parameters.
        passed = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.wider))
        return F.relu(self.convolutions(x) + passed)


def _convolution(before: int, width: int, stride: int = 1) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(before, width, 3, stride, padding=1, bias=False), nn.BatchNorm2d(width)
    )
