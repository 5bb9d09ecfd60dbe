"""Plots of what a head composed: attention over the slots, singular values, gate, embedding."""

import math

import numpy as np
import numpy.typing as npt

from agents.evaluation.drawing import (
    ACCENT,
    MUTED,
    NOTE,
    TEXT,
    TICK,
    Box,
    Canvas,
    draw_attention_legend,
    draw_bar,
    draw_heading,
    draw_heat_map,
    draw_signed_bar,
    draw_text,
    draw_ticks,
    new_canvas,
)
from agents.networks.inspection import HypernetProgram, NeurocoderProgram, Program

WIDTH, HEIGHT = 616, 238  # of one head's plot
# Video is compressed in blocks of 8 x 8 pixels. With the usual 10 components and 20 slots, cells
# are made of whole blocks, which saves a third of a video's bytes.
_MAP, _GAP = 160, 8
_TOP = 54  # the title and the names of the maps are above
_ROW_NUMBERS = 24  # left of the maps
_VALUES = 36  # right of the bars
_GATE = Box(474, 12, 106, 11)  # relative to the plot


class GrowingAxis:
    """The upper end of an axis: a round number that grows when it must, and never falls.

    An axis that followed every value would hide what changes.
    """

    def __init__(self) -> None:
        self.end = 0.0

    def include(self, value: float) -> float:
        """Make room for a value, and return the end; 1 as long as all values were zero."""
        if math.isfinite(value) and abs(value) > self.end:
            self.end = round_up(abs(value))
        return self.end or 1.0


def round_up(value: float) -> float:
    """The next of 1, 2, 3, 4, 5, 6, 8 and 10 times a power of ten, for a positive value."""
    power = 10.0 ** math.floor(math.log10(value))
    return next((m * power for m in (1, 2, 3, 4, 5, 6, 8) if m * power >= value), 10 * power)


def draw_program(canvas: Canvas, box: Box, title: str, program: Program, axis: GrowingAxis) -> None:
    """Plot the program of one head at one agent step.

    Args:
        canvas: The canvas.
        box: The plot, `WIDTH` by `HEIGHT` pixels.
        title: The name of the head.
        program: Without leading dimensions.
        axis: The axis of its singular values, or of its embedding; kept from step to step.
    """
    draw_heading(canvas, box.inset(top=6), title)
    if isinstance(program, NeurocoderProgram):
        _draw_neurocoder(canvas, box, program, axis)
    else:
        _draw_hypernet(canvas, box, program, axis)


def attention_picture(attentions: npt.NDArray[np.floating], title: str) -> npt.NDArray[np.uint8]:
    """Plot attention over the slots of U, V and S, shape (3, r, P), with its legend.

    Returns:
        An RGB image, shape (height, width, 3).
    """
    box = Box(16, 2, _ROW_NUMBERS + 3 * (_MAP + _GAP), HEIGHT)
    canvas = new_canvas(box.right - 8 + 16, HEIGHT + 48)
    draw_heading(canvas, box.inset(top=6), title)
    _draw_attentions(canvas, box, attentions)
    draw_text(canvas, "attention w", box.x, HEIGHT + 24, NOTE, MUTED)
    draw_attention_legend(canvas, Box(104, HEIGHT + 14, 400, 10))
    return np.asarray(canvas)


def _draw_neurocoder(
    canvas: Canvas, box: Box, program: NeurocoderProgram, axis: GrowingAxis
) -> None:
    attentions = np.stack([program.u_attention, program.v_attention, program.s_attention])
    last_map = _draw_attentions(canvas, box, attentions)

    sigma = program.singular_values
    end = axis.include(float(sigma.max()))
    show_values = last_map.height >= TICK * len(sigma)
    left = last_map.right + 12
    plot = Box(left, last_map.y, box.right - left, last_map.height)
    draw_text(canvas, "singular values", left, plot.y - 8, NOTE, MUTED)
    bars = plot.inset(right=_VALUES if show_values else 0)
    for row, value in zip(bars.rows(len(sigma)), sigma, strict=True):
        draw_bar(canvas, row, float(value) / end)
        if show_values:
            draw_text(canvas, f"{value:.2f}", plot.right, row.text_line, TICK, TEXT, "r")
    draw_ticks(canvas, bars, "0", "", f"{end:g}")

    if program.residual_gate is not None:
        gate = float(program.residual_gate)
        bar = _GATE._replace(x=box.x + _GATE.x, y=box.y + _GATE.y)
        draw_text(canvas, "residual gate", bar.x - 8, bar.y + 10, NOTE, MUTED, "r")
        draw_bar(canvas, bar, gate, ACCENT)
        draw_text(canvas, f"{gate:.2f}", box.right, bar.y + 10, NOTE, TEXT, "r")


def _draw_attentions(canvas: Canvas, box: Box, attentions: npt.NDArray[np.floating]) -> Box:
    """Draw three maps side by side; return the box of the last one."""
    _, rows, columns = attentions.shape
    # Whole cells, where there is a pixel for each.
    width = _MAP // columns * columns or _MAP
    height = _MAP // rows * rows or _MAP
    heat_map = Box(box.x + _ROW_NUMBERS, box.y + _TOP, width, height)
    every = max(1, -(-TICK * rows // height))
    for n, row in enumerate(heat_map.rows(rows)):
        if n % every == 0:
            draw_text(canvas, f"{n + 1}", heat_map.x - 6, row.text_line, TICK, MUTED, "r")
    for i, (name, attention) in enumerate(zip("UVS", attentions, strict=True)):
        heat_map = heat_map._replace(x=box.x + _ROW_NUMBERS + i * (_MAP + _GAP))
        draw_text(canvas, f"attention over {name}", heat_map.x, heat_map.y - 8, NOTE, MUTED)
        draw_heat_map(canvas, heat_map, attention)
        draw_ticks(canvas, heat_map, "1", "slot", f"{columns}")
    return heat_map


def _draw_hypernet(canvas: Canvas, box: Box, program: HypernetProgram, axis: GrowingAxis) -> None:
    z = program.embedding
    end = axis.include(float(np.abs(z).max()))
    note = "embedding z: factors on the slices of weights"
    draw_text(canvas, note, box.x, box.y + _TOP - 8, NOTE, MUTED)
    plot = Box(box.x + _ROW_NUMBERS, box.y + _TOP, box.width - _ROW_NUMBERS - 50, _MAP)
    show_values = len(z) * TICK <= _MAP
    for n, (row, value) in enumerate(zip(plot.rows(len(z), gap=2), z, strict=True)):
        draw_signed_bar(canvas, row, float(value) / end)
        if show_values:
            draw_text(canvas, f"{n + 1}", plot.x - 6, row.text_line, TICK, MUTED, "r")
            draw_text(canvas, f"{value:.2f}", box.right, row.text_line, TICK, TEXT, "r")
    draw_ticks(canvas, plot, f"{-end:g}", "0", f"{end:g}")
