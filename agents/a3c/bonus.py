"""Exploration bonuses: rewards for observations that were seen rarely, by counts.

All workers share the counts without a lock, as they share the parameters: of two that count at the
same moment, one may be lost, and nobody waits.
"""

from collections.abc import Callable
from itertools import product
from typing import Any

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


def num_counters(config: TrainConfig, spaces: Spaces) -> int:
    """The number of counters, int64, that the settings' bonus needs; 0 without a bonus.

    Raises:
        SettingError: If the bonus is not for such observations.
    """
    if config.bonus != "pixel-counts":
        return 2**TABLE_BITS if config.bonus == "simhash" else 0
    if not spaces.has_images:
        allowed = f"is for images, and the observations of {config.game} are vectors; use simhash"
        raise SettingError("bonus", config.bonus, allowed)
    pixels, levels = _frame_layout(spaces.observation_shape)
    if pixels * levels > MAX_COUNTERS:
        allowed = f"the images of {config.game}, {spaces.observation_shape}, have too many pixels"
        raise SettingError("bonus", config.bonus, f"{allowed}; use simhash")
    return pixels * levels


def make_bonus(config: TrainConfig, spaces: Spaces, counts: Tensor) -> Bonus | None:
    """Make the bonus that the settings name; None for "none".

    Args:
        config: The settings.
        spaces: The shape of an observation.
        counts: The counts so far, int64, shape (`num_counters`,); they are counted on in place.
    """
    if config.bonus == "none":
        return None
    kind = PixelCounts if config.bonus == "pixel-counts" else SimHash
    return kind(spaces.observation_shape, counts.numpy(), config.bonus_scale)


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
        observation_shape: (C, H, W).
        counts: int64, shape (pixels * levels,).
        scale: About the bonus of a frame that was seen once before.
    """

    def __init__(
        self, observation_shape: tuple[int, ...], counts: npt.NDArray[np.int64], scale: float
    ) -> None:
        pixels, self._levels = _frame_layout(observation_shape)
        self._counts, self._scale = counts, scale
        self._first_counter = self._levels * np.arange(pixels)

    def __call__(
        self, observations: npt.NDArray[np.uint8], counting: npt.NDArray[np.bool_]
    ) -> npt.NDArray[np.float32]:
        """The bonuses of one step of N games, all by the counts before it; then count them.

        Args:
            observations: Shape (N, C, H, W).
            counting: Bool, shape (N,): the others get no bonus, and are not counted.
        """
        levels = frames_of(observations)[counting] // (256 // self._levels)
        counters = self._first_counter + levels
        # Every frame has added one to every pixel: to the first one, too.
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

    with n counted in a table of fixed size, of which a cell may belong to several hashes. Frames
    are scaled to [-1, 1]; vectors are taken as they are.

    Source: Tang et al., #Exploration: A Study of Count-Based Exploration for Deep Reinforcement
    Learning (2017), section 2.2.

    Args:
        observation_shape: (C, H, W), or (D,).
        counts: int64, shape (2 ** `TABLE_BITS`,).
        scale: The bonus of what was never seen before.
    """

    def __init__(
        self, observation_shape: tuple[int, ...], counts: npt.NDArray[np.int64], scale: float
    ) -> None:
        self._has_images = len(observation_shape) == 3
        size = _frame_layout(observation_shape)[0] if self._has_images else observation_shape[0]
        # The same in all processes and sessions, which share the counts.
        random = np.random.default_rng(0)
        self.projection = random.standard_normal((size, HASH_BITS), np.float32)
        self.multipliers = random.integers(2**64, size=HASH_BITS // 32, dtype=np.uint64)
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
        states = observations
        if self._has_images:
            states = frames_of(observations) * np.float32(2 / 255) - 1
        signs = np.packbits(states.astype(np.float32) @ self.projection > 0, axis=1)
        # Multiply-shift hashing of the signs as 32-bit words (Dietzfelbinger 1996), modulo 2^64.
        words = signs.view("<u4").astype(np.uint64)
        hashes = (words * self.multipliers).sum(axis=1)
        return (hashes >> np.uint64(64 - TABLE_BITS)).astype(np.int64)


def frames_of(observations: npt.NDArray[np.uint8]) -> Frames:
    """What counts of images, as bytes, shape (N, pixels).

    Of a stack, its newest frame. Colours are averaged, and blocks of pixels, so that 84x84 becomes
    42x42. Images with a side below 42 stay as they are.

    Args:
        observations: Shape (N, C, H, W).
    """
    count, channels, height, width = observations.shape
    if min(height, width) < FRAME_SIZE:
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
    """The numbers of pixels, and of levels of each, that count of an image of shape (C, H, W)."""
    pixels = frames_of(np.zeros((1, *shape), np.uint8)).shape[1]
    return pixels, SYMBOL_LEVELS if min(shape[1:]) < FRAME_SIZE else PICTURE_LEVELS
