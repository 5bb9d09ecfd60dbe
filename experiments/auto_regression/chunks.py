"""Sequences made of polynomial chunks.

The data of the paper's section 3.2: points of a polynomial that is repeatedly replaced by another.
The main text gives no sizes; these are ours. Every chunk has its own length, degree and
coefficients. Its points are evenly spaced at u = -1, -1 + 2 / (LONGEST - 1), ..., so that a chunk
of the greatest length runs from -1 to 1:

    y = sum over k = 0 ... degree of a_k T_k(u) / sqrt((degree + 2) / 2),   a_k ~ N(0, 1)

with the Chebyshev polynomials T_k, which keep y at about 1 for all degrees.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

SHORTEST, LONGEST = 8, 16  # points of a chunk, all lengths equally likely
DEGREES = (1, 2, 3)


@dataclass(frozen=True)
class Sequences:
    """N sequences of T points, and where their polynomials change.

    Attributes:
        y: the points, shape (N, T).
        starts: whether a chunk begins there, shape (N, T); true at every sequence's first point.
        degree: degree of the chunk's polynomial, shape (N, T).
    """

    y: Tensor
    starts: Tensor
    degree: Tensor


def draw_sequences(number: int, length: int, generator: torch.Generator) -> Sequences:
    """Draw N = number sequences of T = length points; the last chunk of each may be cut short."""
    shape = (number, length // SHORTEST + 1)
    lengths = torch.randint(SHORTEST, LONGEST + 1, shape, generator=generator)
    degrees = torch.tensor(DEGREES)[torch.randint(len(DEGREES), shape, generator=generator)]
    coefficients = torch.randn(*shape, max(DEGREES) + 1, generator=generator, dtype=torch.float64)
    coefficients *= torch.arange(max(DEGREES) + 1) <= degrees.unsqueeze(-1)
    coefficients /= ((degrees + 2) / 2).sqrt().unsqueeze(-1)

    ends = lengths.cumsum(1)
    place = torch.arange(length).expand(number, -1).contiguous()
    chunk = torch.searchsorted(ends, place, right=True)
    age = place - (ends - lengths).gather(1, chunk)
    own = coefficients.gather(1, chunk.unsqueeze(-1).expand(-1, -1, coefficients.shape[-1]))
    y = (own * chebyshev(max(DEGREES)).T[age]).sum(-1)
    return Sequences(y.float(), age == 0, degrees.gather(1, chunk))


def chebyshev(degree: int) -> Tensor:
    """T_0 ... T_degree at the points of a chunk, shape (degree + 1, LONGEST), in float64."""
    u = -1 + 2 * torch.arange(LONGEST, dtype=torch.float64) / (LONGEST - 1)
    return torch.cos(torch.arange(degree + 1, dtype=torch.float64).unsqueeze(1) * torch.arccos(u))
