"""Drawing what a head composed: attention over the slots, singular values, gate, embedding."""

import math

import numpy as np
import numpy.typing as npt

from agents.evaluation.drawing import (
    ACCENT,
    MUTED,
    TEXT,
    Box,
    Picture,
    attention_legend,
    bar,
    blank,
    heat_map,
    rows_of,
    signed_bar,
    write,
)
from agents.networks.inspection import HypernetProgram, NeurocoderProgram, Program

WIDTH, HEIGHT = 616, 238  # of one head's drawing
# Video is compressed in blocks of 8 x 8 pixels. With the usual 10 components and 20 slots, cells
# are made of whole blocks, which saves a third of a video's bytes.
_MAP, _GAP, _LEFT = 160, 8, 24
_TOP = 54  # of maps and bars


class Scale:
    """The upper end of an axis: a round number that grows when it must, and never falls.

    An axis that followed every value would hide what changes.
    """

    def __init__(self) -> None:
        self.end = 0.0

    def reach(self, value: float) -> float:
        """Make room for a value, and return the end; 1 as long as all values were zero."""
        if math.isfinite(value) and abs(value) > self.end:
            self.end = round_up(abs(value))
        return self.end or 1.0


def round_up(value: float) -> float:
    """The next of 1, 2, 3, 4, 5, 6, 8 and 10 times a power of ten, for a positive value."""
    power = 10.0 ** math.floor(math.log10(value))
    return next((m * power for m in (1, 2, 3, 4, 5, 6, 8) if m * power >= value), 10 * power)


def draw_program(
    picture: Picture, x: int, y: int, title: str, program: Program, scale: Scale
) -> None:
    """Draw the program of one head at one decision, `WIDTH` by `HEIGHT` pixels.

    Args:
        picture: to draw on.
        x: of its left edge.
        y: of its upper edge.
        title: of the head.
        program: without leading dimensions.
        scale: of its singular values, or of its embedding; kept from decision to decision.
    """
    write(picture, title, x, y + 22, 16)
    if isinstance(program, NeurocoderProgram):
        _draw_neurocoder(picture, x, y, program, scale)
    else:
        _draw_hypernet(picture, x, y, program, scale)


def attention_picture(attentions: npt.NDArray[np.floating], title: str) -> Picture:
    """A picture of attention over the slots of U, V and S, shape (3, r, P), with its legend."""
    picture = blank(_LEFT + 3 * (_MAP + _GAP) + 24, HEIGHT + 48)
    write(picture, title, 16, 24, 16)
    _draw_attentions(picture, 16, 2, attentions)
    write(picture, "attention w", 16, HEIGHT + 24, 12, MUTED)
    attention_legend(picture, (104, HEIGHT + 14, 400, 10))
    return picture


def _draw_neurocoder(
    picture: Picture, x: int, y: int, program: NeurocoderProgram, scale: Scale
) -> None:
    attentions = np.stack([program.u_attention, program.v_attention, program.s_attention])
    maps = _draw_attentions(picture, x, y, attentions)

    left, right = maps[0] + maps[2] + 12, x + WIDTH
    sigma = program.singular_values
    end = scale.reach(float(sigma[0]))
    write(picture, "singular values", left, y + _TOP - 8, 12, MUTED)
    top, height = maps[1], maps[3]
    says = height >= 11 * len(sigma)
    width = right - left - (36 if says else 0)
    for box, value in zip(rows_of((left, top, width, height), len(sigma)), sigma, strict=True):
        bar(picture, box, float(value) / end)
        if says:
            write(picture, f"{value:.2f}", right, box[1] + box[3] // 2 + 4, 11, TEXT, "r")
    write(picture, "0", left, top + height + 14, 11, MUTED)
    write(picture, f"{end:g}", left + width, top + height + 14, 11, MUTED, "r")

    if program.residual_gate is not None:
        gate = float(program.residual_gate)
        write(picture, "residual gate", right - 150, y + 22, 12, MUTED, "r")
        bar(picture, (right - 142, y + 12, 106, 11), gate, ACCENT)
        write(picture, f"{gate:.2f}", right, y + 22, 12, TEXT, "r")


def _draw_attentions(picture: Picture, x: int, y: int, attentions: npt.NDArray[np.floating]) -> Box:
    """Draw three maps side by side; return the box of the last one."""
    _, rows, columns = attentions.shape
    # Whole cells, where there is a pixel for each.
    width = _MAP // columns * columns or _MAP
    height = _MAP // rows * rows or _MAP
    top = y + _TOP
    box = (x, top, width, height)
    for i, (name, attention) in enumerate(zip("UVS", attentions, strict=True)):
        box = (x + _LEFT + i * (_MAP + _GAP), top, width, height)
        write(picture, f"attention over {name}", box[0], top - 8, 12, MUTED)
        heat_map(picture, box, attention)
        write(picture, "1", box[0], top + height + 14, 11, MUTED)
        write(picture, "slot", box[0] + width // 2, top + height + 14, 11, MUTED, "m")
        write(picture, f"{columns}", box[0] + width, top + height + 14, 11, MUTED, "r")
    every = max(1, -(-11 * rows // height))
    for n, row in enumerate(rows_of((x, top, 18, height), rows)):
        if n % every == 0:
            write(picture, f"{n + 1}", x + 18, row[1] + row[3] // 2 + 4, 11, MUTED, "r")
    return box


def _draw_hypernet(
    picture: Picture, x: int, y: int, program: HypernetProgram, scale: Scale
) -> None:
    z = program.embedding
    end = scale.reach(float(np.abs(z).max()))
    write(picture, "embedding z: factors on the slices of weights", x, y + _TOP - 8, 12, MUTED)
    area = (x + _LEFT, y + _TOP, WIDTH - _LEFT - 50, _MAP)
    says = len(z) * 11 <= _MAP
    for n, (box, value) in enumerate(zip(rows_of(area, len(z), gap=2), z, strict=True)):
        signed_bar(picture, box, float(value) / end)
        if says:
            line = box[1] + box[3] // 2 + 4
            write(picture, f"{n + 1}", x + 18, line, 11, MUTED, "r")
            write(picture, f"{value:.2f}", x + WIDTH, line, 11, TEXT, "r")
    below = area[1] + area[3] + 14
    write(picture, f"{-end:g}", area[0], below, 11, MUTED)
    write(picture, "0", area[0] + area[2] // 2, below, 11, MUTED, "m")
    write(picture, f"{end:g}", area[0] + area[2], below, 11, MUTED, "r")
