"""Exploration bonuses: rewards, based on counts, for observations that were rarely seen.

All workers share the counts without a lock, as they share the parameters: of two counts at the same
moment, one may be lost, but no worker waits.

To add one, give it a name among the choices of `TrainConfig.bonus`, a default scale in
`bonus_scale` there, and a class in `BONUSES` here. Its only state is integer counts, which workers
share and checkpoints keep; there is no place for the parameters of a learned bonus.
"""

from collections.abc import Callable
from itertools import product
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from torch import Tensor

from agents.config import SettingError, TrainConfig
from envs import Spaces
from envs.config import OBSERVATION_SHAPE

# Observations, (N, ...), and which of them count, bool, (N,) -> bonuses, float32, (N,).
Bonus = Callable[[npt.NDArray[Any], npt.NDArray[np.bool_]], npt.NDArray[np.float32]]
Frames = npt.NDArray[np.uint8]

# Larger images are scaled down, by a whole number, until a side is below twice this.
FRAME_SIZE = 42
# Grey levels of pictures; smaller images may consist of symbols, and every byte counts.
PICTURE_LEVELS, SYMBOL_LEVELS = 32, 256
# alpha of Bellemare et al. 2016; the bonus is at most 10 times its scale.
PSEUDO_COUNT_OFFSET = 0.01
HASH_BITS = 256
# The number of counters that hashes are spread over is two to the power of this.
TABLE_BITS = 21
MAX_COUNTERS = 2**22
# Components of vectors with larger bounds are treated as unbounded.
_LARGEST_BOUND = 1e6


def num_counters(config: TrainConfig, spaces: Spaces) -> int:
    """The number of counters, int64, that the settings' bonus needs; 0 without a bonus.

    Raises:
        SettingError: If the bonus does not support such observations.
    """
    if config.bonus == "none":
        return 0
    try:
        return BONUSES[config.bonus].num_counters(config.game, spaces)
    except ValueError as error:
        raise SettingError("bonus", config.bonus, str(error)) from None


def make_bonus(config: TrainConfig, spaces: Spaces, counts: Tensor) -> Bonus | None:
    """Make the bonus that the settings name; None for "none".

    Args:
        config: The settings.
        spaces: The shape of an observation.
        counts: The counts so far, int64, shape (`num_counters`,), updated in place.
    """
    if config.bonus == "none":
        return None
    return BONUSES[config.bonus](spaces, counts.numpy(), config.bonus_scale)


class CountBonus(Protocol):
    """A count-based bonus, with the interface that `make_bonus` needs."""

    def __init__(self, spaces: Spaces, counts: npt.NDArray[np.int64], scale: float) -> None:
        """Take the shape of an observation, and counts that are updated in place."""

    @staticmethod
    def num_counters(game: str, spaces: Spaces) -> int:
        """The number of counts; ValueError, with the reason, if the spaces are not supported."""

    def __call__(
        self, observations: npt.NDArray[Any], counting: npt.NDArray[np.bool_]
    ) -> npt.NDArray[np.float32]:
        """Count one step of N games, and return their bonuses; see `Bonus`."""


class PixelCounts:
    """Pseudo-counts of a density model in which all pixels are independent.

    With c_i how often pixel i had its present level in the n frames so far, the model's probability
    of a frame is rho = prod_i c_i / n, and after one more such frame rho' = prod_i (c_i + 1) / (n +
    1). The pseudo-count N, and the bonus, are

        r = rho / rho',   N = rho (1 - rho') / (rho' - rho) = r / (1 - r) for small rho',
        bonus = scale / sqrt(N + 0.01).

    Source: Bellemare et al., Unifying Count-Based Exploration and Intrinsic Motivation (2016): its
    pseudo-count and bonus, with independent pixels in place of its density model.

    Args:
        spaces: The shape of an observation, (C, H, W).
        counts: int64, shape (pixels * levels,).
        scale: The bonus at a pseudo-count of about 1. No bonus exceeds ten times this. For a frame
            that is new in k pixels, it stays near that for many visits: r is at most 2^-k at the
            second.
    """

    @staticmethod
    def num_counters(game: str, spaces: Spaces) -> int:
        """The number of counters: one for every level of every pixel."""
        if not spaces.has_images:
            raise ValueError(
                f"is for images, and the observations of {game} are vectors; use simhash"
            )
        pixels, levels = _frame_layout(spaces.observation_shape)
        if pixels * levels > MAX_COUNTERS:
            shape = spaces.observation_shape
            raise ValueError(f"the images of {game}, {shape}, have too many pixels; use simhash")
        return pixels * levels

    def __init__(self, spaces: Spaces, counts: npt.NDArray[np.int64], scale: float) -> None:
        pixels, self._levels = _frame_layout(spaces.observation_shape)
        self._counts, self._scale = counts, scale
        self._first_counter = self._levels * np.arange(pixels)

    def __call__(
        self, observations: npt.NDArray[np.uint8], counting: npt.NDArray[np.bool_]
    ) -> npt.NDArray[np.float32]:
        """Return the bonuses of one step of N games, all by the counts before it; then count it.

        Args:
            observations: Shape (N, C, H, W).
            counting: Bool, shape (N,): false for games that get no bonus and are not counted.
        """
        levels = frames_of(observations)[counting] // (256 // self._levels)
        counters = self._first_counter + levels
        # Every frame adds one to each pixel, so the counts of the first pixel add up to n.
        total = self._counts[: self._levels].sum()
        bonuses = np.zeros(len(observations), np.float32)
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
            # -log r: no term is negative, and the sum is exact however close r is to 1.
            terms = np.log1p(1 / self._counts[counters]) - np.log1p(1 / total)
            pseudo_counts = 1 / np.expm1(terms.sum(axis=1).clip(min=0))
        if total == 0:
            pseudo_counts[:] = 0
        bonuses[counting] = self._scale / np.sqrt(pseudo_counts + PSEUDO_COUNT_OFFSET)
        np.add.at(self._counts, counters, 1)
        return bonuses


class SimHash:
    """Counts of hashes: the signs of a fixed random projection of the observation.

        phi(s) = sgn(A s), with A of k = 256 rows drawn from N(0, 1),   bonus = scale / sqrt(n(phi))

    with n counted in a table of fixed size, in which several hashes may share a cell. Frames are
    scaled to [-1, 1].

    Other observations would often share their signs. Small images of symbols differ in only a few
    numbers, so their bytes are the hash. For vectors, sgn(A s) only depends on the direction of s,
    so components are scaled to [-1, 1] by their bounds, or x to sgn(x) ln(1 + |x|) where there are
    none, and phi(s) = sgn(A s + b), with b drawn like A.

    Source: Tang et al., #Exploration: A Study of Count-Based Exploration for Deep Reinforcement
    Learning (2017), section 2.2.

    Args:
        spaces: The shape of an observation, (C, H, W), or (D,) with its bounds.
        counts: int64, shape (2 ** `TABLE_BITS`,).
        scale: The bonus of an observation never seen before.
    """

    @staticmethod
    def num_counters(game: str, spaces: Spaces) -> int:  # noqa: ARG004
        """The number of counters: the table's size, whatever is observed."""
        return 2**TABLE_BITS

    def __init__(self, spaces: Spaces, counts: npt.NDArray[np.int64], scale: float) -> None:
        shape = spaces.observation_shape
        self._has_symbols = spaces.has_images and not _is_picture(shape)
        self._scaling = None if spaces.has_images else _Scaling(spaces)
        size = _frame_layout(shape)[0] if spaces.has_images else shape[0]
        # The same in all processes and sessions, which share the counts.
        random = np.random.default_rng(0)
        self.projection = random.standard_normal((size, HASH_BITS), np.float32)
        words = -(-size // 4) if self._has_symbols else HASH_BITS // 32
        self.multipliers = random.integers(2**64, size=words, dtype=np.uint64)
        self.offset = random.standard_normal(HASH_BITS, np.float32)
        self._counts, self._scale = counts, scale

    def __call__(
        self, observations: npt.NDArray[Any], counting: npt.NDArray[np.bool_]
    ) -> npt.NDArray[np.float32]:
        """Count one step of N games, and return their bonuses; see `PixelCounts.__call__`."""
        cells = self.cells(observations)[counting]
        np.add.at(self._counts, cells, 1)
        bonuses = np.zeros(len(observations), np.float32)
        bonuses[counting] = self._scale / np.sqrt(self._counts[cells])
        return bonuses

    def cells(self, observations: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        """The cells of the table that observations belong to, shape (N,)."""
        if self._has_symbols:
            found = frames_of(observations)
            code = np.pad(found, ((0, 0), (0, -found.shape[1] % 4)))
        elif self._scaling is not None:
            states = self._scaling(observations)
            code = np.packbits(states @ self.projection + self.offset > 0, axis=1)
        else:
            states = frames_of(observations) * np.float32(2 / 255) - 1
            code = np.packbits(states @ self.projection > 0, axis=1)
        # Multiply-shift hashing of 32-bit words (Dietzfelbinger 1996), modulo 2^64.
        words = np.ascontiguousarray(code).view("<u4").astype(np.uint64)
        hashes = (words * self.multipliers).sum(axis=1)
        return (hashes >> np.uint64(64 - TABLE_BITS)).astype(np.int64)


BONUSES: dict[str, type[CountBonus]] = {"pixel-counts": PixelCounts, "simhash": SimHash}


class _Scaling:
    """Brings the components of vectors to similar scales."""

    def __init__(self, spaces: Spaces) -> None:
        bounds = spaces.bounds or [(-np.inf, np.inf)] * spaces.observation_shape[0]
        low, high = np.array(bounds, np.float64).T
        # Some environments give the largest float for a bound.
        self._bounded = (low < high) & (np.maximum(-low, high) < _LARGEST_BOUND)
        low, high = (np.where(self._bounded, bound, side) for bound, side in ((low, -1), (high, 1)))
        self._centre, self._half = (low + high) / 2, (high - low) / 2

    def __call__(self, vectors: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        x = (vectors - self._centre) / self._half
        return np.where(self._bounded, x, np.sign(x) * np.log1p(np.abs(x))).astype(np.float32)


def frames_of(observations: npt.NDArray[np.uint8]) -> Frames:
    """The part of images that is counted, as bytes, shape (N, pixels).

    Of a stack, this is the newest frame. Colours and blocks of pixels are averaged, so that 84x84
    becomes 42x42. Images with a side below 42 stay as they are.

    Args:
        observations: Shape (N, C, H, W).
    """
    count, channels, height, width = observations.shape
    if not _is_picture((channels, height, width)):
        return observations.reshape(count, -1)
    if (channels, height, width) == OBSERVATION_SHAPE:
        observations, channels = observations[:, -1:], 1
    k = min(height, width) // FRAME_SIZE
    bottom, right = height // k * k, width // k * k
    largest = np.min_scalar_type(255 * channels * k * k)
    sums = np.zeros((count, height // k, width // k), largest)
    for channel, i, j in product(range(channels), range(k), range(k)):
        sums += observations[:, channel, i:bottom:k, j:right:k]
    return (sums // (channels * k * k)).astype(np.uint8).reshape(count, -1)


def _frame_layout(shape: tuple[int, ...]) -> tuple[int, int]:
    """The numbers of counted pixels, and of levels of each, for images of shape (C, H, W)."""
    pixels = frames_of(np.zeros((1, *shape), np.uint8)).shape[1]
    return pixels, PICTURE_LEVELS if _is_picture(shape) else SYMBOL_LEVELS


def _is_picture(shape: tuple[int, ...]) -> bool:
    """Whether images of shape (C, H, W) are large enough to be pictures, not symbols."""
    return min(shape[1:]) >= FRAME_SIZE
