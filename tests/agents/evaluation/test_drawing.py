"""Drawing: text, bars, lines and maps are where they should be, and as long."""

import numpy as np
import pytest

from agents.evaluation.drawing import (
    BACKGROUND,
    BAR,
    GROUND,
    MUTED,
    TEXT,
    Box,
    draw_bar,
    draw_heat_map,
    draw_line,
    draw_signed_bar,
    draw_text,
    fill_rect,
    new_canvas,
    text_width,
)


def drawn(canvas, colour=BACKGROUND):
    """Columns and rows of the pixels that are not of a colour: first and one past the last."""
    ys, xs = (np.asarray(canvas) != np.array(colour)).any(axis=-1).nonzero()
    return xs.min(), xs.max() + 1, ys.min(), ys.max() + 1


def columns_of(canvas, colour, row):
    return (np.asarray(canvas)[row] == np.array(colour)).all(axis=-1).nonzero()[0].tolist()


@pytest.mark.parametrize(("anchor", "left"), [("l", 0.0), ("m", 0.5), ("r", 1.0)])
def test_text_stands_on_its_base_line_at_its_anchor(anchor, left):
    canvas, width = new_canvas(300, 60), text_width("HHH", 20)
    draw_text(canvas, "HHH", 150, 40, 20, TEXT, anchor)
    start, end, top, bottom = drawn(canvas)
    assert (start, end) == pytest.approx((150 - left * width, 150 + (1 - left) * width), abs=3)
    assert bottom == pytest.approx(40, abs=1)
    assert 10 <= bottom - top <= 20
    assert (np.asarray(canvas) == np.array(TEXT)).all(axis=-1).any()


def test_text_that_does_not_fit_is_cut_off():
    canvas = new_canvas(40, 20)
    for x, y in ((-20, 15), (30, 15), (0, 3), (0, 30), (-900, 900)):
        draw_text(canvas, "outside", x, y, 14)
    assert canvas.size == (40, 20)


@pytest.mark.parametrize(("share", "length"), [(0, 0), (0.25, 10), (1, 40), (7, 40), (-1, 0)])
def test_a_bar_covers_its_share_of_the_box(share, length):
    canvas = new_canvas(60, 20)
    draw_bar(canvas, Box(10, 5, 40, 10), share)
    assert columns_of(canvas, BAR, 9) == list(range(10, 10 + length))
    assert columns_of(canvas, GROUND, 9) == list(range(10 + length, 50))
    assert drawn(canvas) == (10, 50, 5, 15)


@pytest.mark.parametrize(
    ("share", "columns"), [(0.5, range(31, 40)), (-0.5, range(20, 30)), (float("nan"), [])]
)
def test_a_signed_bar_grows_from_the_middle(share, columns):
    canvas = new_canvas(60, 20)
    draw_signed_bar(canvas, Box(10, 5, 40, 10), share)
    assert columns_of(canvas, BAR, 9) == list(columns)
    assert columns_of(canvas, MUTED, 9) == [30]


def test_an_empty_rectangle_leaves_nothing():
    canvas = new_canvas(20, 20)
    for width, height in ((0, 5), (5, 0), (-3, 5)):
        fill_rect(canvas, Box(5, 5, width, height), TEXT)
    assert (np.asarray(canvas) == np.array(BACKGROUND)).all()


def test_a_line_goes_through_its_values_and_ends_with_a_dot_at_the_right_edge():
    canvas, box = new_canvas(140, 130), Box(20, 10, 101, 101)
    draw_line(canvas, box, [9.0] * 7 + [0.0, 1.0, 1.0, 0.5], 5, 0.0, 2.0)
    pixels = np.asarray(canvas).astype(int)
    for column, value in ((45, 0.0), (70, 1.0), (95, 1.0)):
        row = round(10 + 100 * (1 - value / 2))
        drawn_rows = (np.abs(pixels[:, column] - BAR).sum(axis=-1) < 20).nonzero()[0]
        assert np.abs(drawn_rows - row).min() <= 1
        assert row + 4 not in drawn_rows
    ys, xs = (pixels == TEXT).all(axis=-1).nonzero()
    assert (xs.mean(), ys.mean()) == pytest.approx((120, 85), abs=0.6)


def test_a_line_at_both_sides_of_zero_shows_where_zero_is():
    canvas = new_canvas(60, 60)
    draw_line(canvas, Box(5, 5, 50, 41), [], 10, -1.0, 3.0)
    (zero,) = {y for y in range(60) if (np.asarray(canvas)[y, 20] != GROUND).any() and 5 <= y < 46}
    assert zero == 5 + 30


def test_rows_of_a_box_are_the_rows_of_a_heat_map():
    canvas, box = new_canvas(50, 180), Box(5, 7, 30, 160)
    attention = np.linspace(0, 1, 10)[:, None].repeat(3, axis=1)
    draw_heat_map(canvas, box, attention)
    pixels = np.asarray(canvas)
    rows = box.rows(10, gap=0)
    assert (rows[0].y, rows[-1].bottom) == (box.y, box.bottom)
    shades = []
    for row in rows:
        cell = pixels[row.y : row.bottom, box.x : box.right].reshape(-1, 3)
        assert (cell == cell[0]).all()
        shades.append(tuple(cell[0]))
    assert len(set(shades)) == 10


def test_more_cells_than_pixels_are_averaged():
    canvas, box = new_canvas(60, 60), Box(10, 10, 20, 30)
    fine = np.zeros((90, 200))
    fine[:, :100] = 1.0
    fine[::3] = 0.25  # a third of the rows has half the shade
    draw_heat_map(canvas, box, fine)
    coarse = new_canvas(60, 60)
    left, right = ((2 + 0.5) / 3) ** 2, (0.5 / 3) ** 2
    draw_heat_map(coarse, box, np.array([[left] * 10 + [right] * 10]))
    difference = np.asarray(canvas).astype(int) - np.asarray(coarse)
    assert np.abs(difference).max() <= 3
    assert drawn(canvas) == (10, 30, 10, 40)
