"""Drawing with Pillow: text, bars, lines and heat maps in one set of colours.

Canvases are RGB images, changed in place; places are (x, y) in pixels from the top left corner.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

Canvas = Image.Image
Colour = tuple[int, int, int]

BACKGROUND: Colour = (16, 20, 27)
GROUND: Colour = (29, 35, 45)  # of bars and plots
RULE: Colour = (48, 56, 69)
TEXT: Colour = (226, 230, 235)
MUTED: Colour = (150, 160, 174)
BAR: Colour = (64, 160, 155)
ACCENT: Colour = (250, 190, 70)  # the chosen action, rewards
LOSS: Colour = (235, 110, 100)

LARGE, HEADING, NOTE, TICK = 34, 16, 12, 11  # sizes of text

# Attention is drawn by its square root: most of it is below a tenth, and would all look black.
ATTENTION_TICKS = (0.0, 0.01, 0.05, 0.2, 0.5, 1.0)
# Text and lines are drawn this many times larger and averaged. Pillow's lines have hard edges, and
# its small letters are placed unevenly, at whole pixels.
_SUPERSAMPLING = 4
_VIRIDIS: npt.NDArray[np.uint8] = np.asarray(
    cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], cv2.COLORMAP_VIRIDIS), np.uint8
)[:, 0, ::-1]


class Box(NamedTuple):
    """A rectangle of pixels."""

    x: int
    y: int
    width: int
    height: int

    @property
    def right(self) -> int:
        """The first column to the right of the box."""
        return self.x + self.width

    @property
    def bottom(self) -> int:
        """The first row below the box."""
        return self.y + self.height

    @property
    def middle(self) -> int:
        """Its middle column."""
        return self.x + self.width // 2

    @property
    def text_line(self) -> int:
        """The base line of a line of small text in the box's vertical middle."""
        return self.y + self.height // 2 + 4

    def inset(self, left: int = 0, top: int = 0, right: int = 0, bottom: int = 0) -> "Box":
        """The box without the given numbers of pixels at its edges."""
        width, height = self.width - left - right, self.height - top - bottom
        return Box(self.x + left, self.y + top, width, height)

    def rows(self, count: int, gap: int = 1) -> list["Box"]:
        """Divide the box's height as `draw_heat_map` does.

        Args:
            count: The number of rows.
            gap: Pixels left empty below each row, where rows are high enough.
        """
        # The pixel i belongs to row i * count // height.
        edges = [-(-i * self.height // count) for i in range(count + 1)]
        gap = gap if self.height >= 6 * count else 0
        return [
            Box(self.x, self.y + top, self.width, max(1, bottom - top - gap))
            for top, bottom in pairwise(edges)
        ]


def new_canvas(width: int, height: int) -> Canvas:
    """An empty canvas."""
    return Image.new("RGB", (width, height), BACKGROUND)


def draw_text(
    canvas: Canvas,
    text: str,
    x: int,
    y: int,
    size: int = NOTE,
    colour: Colour = TEXT,
    anchor: str = "l",
) -> None:
    """Write one line of text; what does not fit on the canvas is cut off.

    Args:
        canvas: The canvas.
        text: Characters that Pillow's own font has: ASCII and little more.
        x: The text's left end ("l"), middle ("m") or right end ("r"), as `anchor` says.
        y: Its base line.
        size: In pixels.
        colour: Of the text.
        anchor: "l", "m" or "r".
    """
    mask = _text_mask(text, size)
    left = x - {"l": 0, "m": mask.width // 2, "r": mask.width}[anchor]
    canvas.paste(colour, (left, y - size), mask)


def text_width(text: str, size: int) -> int:
    """The width of a line of text, in pixels."""
    return _text_mask(text, size).width


def draw_heading(canvas: Canvas, box: Box, title: str, note: str = "") -> None:
    """Write a title at a box's upper left corner, and a small note at its upper right one."""
    draw_text(canvas, title, box.x, box.y + HEADING, HEADING)
    draw_text(canvas, note, box.right, box.y + HEADING, NOTE, MUTED, "r")


def fill_rect(canvas: Canvas, box: Box, colour: Colour) -> None:
    """Fill a rectangle; an empty one leaves nothing."""
    if box.width > 0 and box.height > 0:
        canvas.paste(colour, (box.x, box.y, box.right, box.bottom))


def draw_bar(canvas: Canvas, box: Box, share: float, colour: Colour = BAR) -> None:
    """A bar from the left over a share of the box, in [0, 1], on its ground."""
    fill_rect(canvas, box, GROUND)
    fill_rect(canvas, box._replace(width=round(box.width * _clip(share, 0.0))), colour)


def draw_signed_bar(canvas: Canvas, box: Box, share: float) -> None:
    """A bar from the middle over a share of half the box, in [-1, 1]: left where negative."""
    fill_rect(canvas, box, GROUND)
    length = round(box.width / 2 * _clip(share, -1.0))
    fill_rect(canvas, box._replace(x=box.middle + min(length, 0), width=abs(length)), BAR)
    fill_rect(canvas, box._replace(x=box.middle, width=1), MUTED)


def draw_line(
    canvas: Canvas, box: Box, values: Sequence[float], length: int, low: float, high: float
) -> None:
    """The newest values, joined by a line that ends at the right edge of the box.

    Args:
        canvas: The canvas.
        box: The plot.
        values: Oldest first; the last `length` are drawn.
        length: How many values the box is wide, at least 2.
        low: The value at the box's lower edge.
        high: The value at the box's upper edge, above `low`.
    """
    fill_rect(canvas, box, GROUND)
    if low < 0 < high:
        zero = box.y + round((box.height - 1) * high / (high - low))
        fill_rect(canvas, box._replace(y=zero, height=1), RULE)
    shown = np.nan_to_num(np.asarray(values[-length:], np.float64))
    if len(shown) == 0:
        return
    margin = 5  # for the dot at the end
    scale = _SUPERSAMPLING
    mask = Image.new("L", (scale * (box.width + 2 * margin), scale * (box.height + 2 * margin)))
    ages = np.arange(len(shown) - 1, -1, -1)
    xs = scale * (margin + 0.5 + (box.width - 1) * (1 - ages / (length - 1)))
    share = np.clip((shown - low) / (high - low), 0, 1)
    ys = scale * (margin + 0.5 + (box.height - 1) * (1 - share))
    pen = ImageDraw.Draw(mask)
    pen.line(np.stack([xs, ys], axis=1).ravel().tolist(), 255, 5 * scale // 2)
    corner = (box.x - margin, box.y - margin)
    canvas.paste(BAR, corner, mask.reduce(scale))
    pen.rectangle((0, 0, *mask.size), 0)
    pen.circle((xs[-1], ys[-1]), 4 * scale, 255)
    canvas.paste(TEXT, corner, mask.reduce(scale))


def draw_heat_map(canvas: Canvas, box: Box, attention: npt.NDArray[np.floating]) -> None:
    """Attention, shape (r, P) in [0, 1], as r rows of P cells; viridis over its square root.

    Cells fill the box, equal in size up to a pixel; more than there is room for are averaged.
    """
    shades = 255 * np.sqrt(np.clip(np.nan_to_num(attention), 0.0, 1.0)).astype(np.float32)
    rows, columns = shades.shape
    if columns > box.width or rows > box.height:
        size = min(columns, box.width), min(rows, box.height)
        shades = np.asarray(Image.fromarray(shades).resize(size, Image.Resampling.BOX))
    cells = Image.fromarray(_VIRIDIS[np.round(shades).astype(np.uint8)])
    canvas.paste(cells.resize(box[2:], Image.Resampling.NEAREST), box[:2])


def draw_attention_legend(canvas: Canvas, box: Box) -> None:
    """The colours of `draw_heat_map`, with ticks below the box."""
    ramp = np.linspace(0, 255, box.width).round().astype(np.uint8)
    pixels = np.repeat(_VIRIDIS[ramp][None], box.height, axis=0)
    canvas.paste(Image.fromarray(pixels), (box.x, box.y))
    for tick in ATTENTION_TICKS:
        x = box.x + round((box.width - 1) * math.sqrt(tick))
        fill_rect(canvas, Box(x, box.bottom, 1, 3), MUTED)
        label = f"{tick:g}".removeprefix("0") or "0"
        draw_text(canvas, label, x, box.bottom + 14, TICK, MUTED, "m")


def draw_ticks(canvas: Canvas, box: Box, left: str, middle: str, right: str) -> None:
    """Label the lower edge of a box: its left end, its middle and its right end."""
    y = box.bottom + 14
    draw_text(canvas, left, box.x, y, TICK, MUTED)
    draw_text(canvas, middle, box.middle, y, TICK, MUTED, "m")
    draw_text(canvas, right, box.right, y, TICK, MUTED, "r")


def _clip(share: float, low: float) -> float:
    """Clip to [low, 1]; NaN becomes 0."""
    return 0.0 if share != share else min(max(share, low), 1.0)


@lru_cache(maxsize=4096)
def _text_mask(text: str, size: int) -> Image.Image:
    """How much of each pixel a text covers; `size` rows are above its base line."""
    font = _font(_SUPERSAMPLING * size)
    width = max(1, -(-round(font.getlength(text)) // _SUPERSAMPLING))
    mask = Image.new("L", (_SUPERSAMPLING * width, _SUPERSAMPLING * (size + size // 3)))
    ImageDraw.Draw(mask).text((0, _SUPERSAMPLING * size), text, 255, font, anchor="ls")
    return mask.reduce(_SUPERSAMPLING)


@lru_cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont)
    return font
