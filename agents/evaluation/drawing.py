"""Drawing on pictures: text, bars, curves and heat maps in one set of colours.

Pictures are (height, width, 3) uint8 RGB arrays, changed in place; places are (x, y) in pixels from
the top left corner.
"""

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

Picture = npt.NDArray[np.uint8]
Colour = tuple[int, int, int]
Box = tuple[int, int, int, int]  # x, y, width, height

BACKGROUND: Colour = (16, 20, 27)
GROUND: Colour = (29, 35, 45)  # of bars and plots
RULE: Colour = (48, 56, 69)
TEXT: Colour = (226, 230, 235)
MUTED: Colour = (150, 160, 174)
BAR: Colour = (64, 160, 155)
ACCENT: Colour = (250, 190, 70)  # what was chosen, what was won
LOSS: Colour = (235, 110, 100)

# Attention is drawn by its square root: most of it is below a tenth, and would all look black.
ATTENTION_TICKS = (0.0, 0.01, 0.05, 0.2, 0.5, 1.0)
_FINER = 4
_VIRIDIS: Picture = np.asarray(
    cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], cv2.COLORMAP_VIRIDIS), np.uint8
)[:, 0, ::-1]


def blank(width: int, height: int) -> Picture:
    """An empty picture, (height, width, 3)."""
    return np.full((height, width, 3), BACKGROUND, np.uint8)


def write(
    picture: Picture,
    text: str,
    x: int,
    y: int,
    size: int = 14,
    colour: Colour = TEXT,
    anchor: str = "l",
) -> None:
    """Write one line of text; what does not fit into the picture is cut off.

    Args:
        picture: to write on.
        text: of the characters that Pillow's own font has: ASCII and little more.
        x: of the text's left end ("l"), middle ("m") or right end ("r"), as `anchor` says.
        y: of its base line.
        size: in pixels.
        colour: of the text.
        anchor: "l", "m" or "r".
    """
    mask = _mask(text, size)
    height, width = mask.shape
    left, top = x - {"l": 0, "m": width // 2, "r": width}[anchor], y - size
    first_x, first_y = max(left, 0), max(top, 0)
    area = picture[first_y : max(top + height, 0), first_x : max(left + width, 0)]
    mask = mask[first_y - top :, first_x - left :][: area.shape[0], : area.shape[1], None]
    area[...] = np.round(area * (1 - mask) + np.array(colour, np.float32) * mask)


def text_width(text: str, size: int) -> int:
    """How wide a text is, in pixels."""
    return _mask(text, size).shape[1]


def fill(picture: Picture, box: Box, colour: Colour) -> None:
    """Fill a rectangle; an empty one leaves nothing."""
    x, y, width, height = box
    picture[y : y + height, x : x + width] = colour


def bar(picture: Picture, box: Box, share: float, colour: Colour = BAR) -> None:
    """A bar from the left over a share of the box, in [0, 1]; what is left over is its ground."""
    x, y, width, height = box
    fill(picture, box, GROUND)
    fill(picture, (x, y, round(width * _clip(share, 0.0)), height), colour)


def signed_bar(picture: Picture, box: Box, share: float, colour: Colour = BAR) -> None:
    """A bar from the middle over a share of half the box, in [-1, 1]: left where negative."""
    x, y, width, height = box
    fill(picture, box, GROUND)
    middle, length = x + width // 2, round(width / 2 * _clip(share, -1.0))
    fill(picture, (min(middle, middle + length), y, abs(length), height), colour)
    fill(picture, (middle, y, 1, height), MUTED)


def curve(
    picture: Picture, box: Box, values: Sequence[float], length: int, low: float, high: float
) -> None:
    """The newest values, joined by a line that ends at the right edge of the box.

    Args:
        picture: to draw on.
        box: of the plot.
        values: oldest first; the last `length` are drawn.
        length: how many values the box is wide.
        low: value at its lower edge.
        high: value at its upper edge, above `low`.
    """
    x, y, width, height = box
    fill(picture, box, GROUND)
    if low < 0 < high:
        fill(picture, (x, y + round((height - 1) * high / (high - low)), width, 1), RULE)
    shown = np.asarray(values[-length:], np.float64)
    if len(shown) == 0:
        return
    xs = x + width - 1 - (width - 1) * np.arange(len(shown) - 1, -1, -1) / max(length - 1, 1)
    share = np.clip((np.nan_to_num(shown) - low) / (high - low), 0, 1)
    ys = y + (height - 1) * (1 - share)
    # OpenCV takes fractions of pixels as whole numbers: here sixteenths.
    points = np.round(np.stack([xs, ys], axis=1) * 16).astype(np.int32)
    cv2.polylines(picture, [points], False, BAR, 2, cv2.LINE_AA, shift=4)
    centre = (int(points[-1, 0]), int(points[-1, 1]))
    cv2.circle(picture, centre, 4 * 16, TEXT, -1, cv2.LINE_AA, shift=4)


def heat_map(picture: Picture, box: Box, attention: npt.NDArray[np.floating]) -> None:
    """Attention, shape (r, P) in [0, 1], as r rows of P cells; viridis over its square root.

    Cells are as large as the box allows, up to a pixel; more than there is room for are averaged.
    """
    x, y, width, height = box
    shades = np.sqrt(np.clip(np.nan_to_num(attention), 0.0, 1.0))
    shades = _resize(_resize(shades, width, axis=1), height, axis=0)
    picture[y : y + height, x : x + width] = _VIRIDIS[np.round(shades * 255).astype(np.uint8)]


def attention_legend(picture: Picture, box: Box) -> None:
    """The colours of `heat_map`, with ticks below the box."""
    x, y, width, height = box
    ramp = np.linspace(0, 255, width).round().astype(np.uint8)
    picture[y : y + height, x : x + width] = _VIRIDIS[ramp]
    for tick in ATTENTION_TICKS:
        at = x + round((width - 1) * tick**0.5)
        fill(picture, (at, y + height, 1, 3), MUTED)
        write(picture, f"{tick:g}".removeprefix("0") or "0", at, y + height + 14, 11, MUTED, "m")


def rows_of(box: Box, count: int, gap: int = 1) -> list[Box]:
    """The boxes of `count` rows that share a box's height as the rows of a heat map do.

    Args:
        box: that is shared.
        count: of the rows.
        gap: pixels left empty below each row, where rows are high enough.
    """
    x, y, width, height = box
    # The pixel i belongs to row i * count // height.
    edges = [-(-i * height // count) for i in range(count + 1)]
    gap = gap if height >= 6 * count else 0
    return [(x, y + top, width, max(1, bottom - top - gap)) for top, bottom in pairwise(edges)]


def _clip(share: float, low: float) -> float:
    """Into [low, 1]; what is not a number is 0."""
    return 0.0 if share != share else min(max(share, low), 1.0)


def _resize(values: npt.NDArray[np.floating], length: int, axis: int) -> npt.NDArray[np.floating]:
    """Repeat or average cells along an axis so that there are `length`."""
    count = values.shape[axis]
    if count <= length:
        return np.take(values, np.arange(length) * count // length, axis=axis)
    starts = np.arange(length) * count // length
    sizes = np.diff([*starts.tolist(), count])
    shape = [1, 1]
    shape[axis] = length
    sums: npt.NDArray[np.floating] = np.add.reduceat(values, starts, axis=axis)
    return sums / sizes.reshape(shape)


@lru_cache(maxsize=4096)
def _mask(text: str, size: int) -> npt.NDArray[np.float32]:
    """How much of each pixel a text covers, (height, width) in [0, 1]; `size` rows are above it."""
    # Drawn larger and averaged: the font's own grid would space small letters unevenly.
    font = _font(_FINER * size)
    width = max(1, -(-round(font.getlength(text)) // _FINER))
    height = size + size // 3
    image = Image.new("L", (_FINER * width, _FINER * height))
    ImageDraw.Draw(image).text((0, _FINER * size), text, font=font, fill=255, anchor="ls")
    fine = np.asarray(image, np.float32) / 255
    return fine.reshape(height, _FINER, width, _FINER).mean(axis=(1, 3))


@lru_cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont)
    return font
