"""The axes of programs: round numbers that never fall."""

import pytest
import torch

from agents.evaluation.drawing import Box, new_canvas
from agents.evaluation.program_plots import HEIGHT, WIDTH, GrowingAxis, draw_program, round_up
from agents.networks.inspection import extract_program
from neurocoder import NeurocoderLinear


@pytest.mark.parametrize(
    ("value", "end"), [(1, 1), (1.01, 2), (6.5, 8), (8.5, 10), (0.031, 0.04), (1234, 2000)]
)
def test_the_end_of_an_axis_is_the_next_round_number(value, end):
    assert round_up(value) == pytest.approx(end)


def test_an_axis_grows_and_never_falls():
    axis = GrowingAxis()
    ends = [axis.include(value) for value in (0.0, 0.3, 0.1, -4.2, float("nan"), 2.0)]
    assert ends == pytest.approx([1, 0.3, 0.3, 5, 5, 5])


@pytest.mark.parametrize(
    "make",
    [
        NeurocoderLinear,
        NeurocoderLinear.authors_single_step,
        NeurocoderLinear.authors_multi_step,
    ],
)
def test_all_singular_values_fit_on_their_axis(make):
    torch.manual_seed(0)
    layer, axis = make(6, 4), GrowingAxis()
    with torch.no_grad():
        program = extract_program(layer, torch.randn(6))
    canvas = new_canvas(WIDTH, HEIGHT)
    draw_program(canvas, Box(0, 0, WIDTH, HEIGHT), "actor", program, axis)
    assert axis.end >= program.singular_values.max()
