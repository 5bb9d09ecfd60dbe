"""The axes of programs: round numbers that never fall."""

import pytest

from agents.evaluation.program_plots import GrowingAxis, round_up


@pytest.mark.parametrize(
    ("value", "end"), [(1, 1), (1.01, 2), (6.5, 8), (8.5, 10), (0.031, 0.04), (1234, 2000)]
)
def test_the_end_of_an_axis_is_the_next_round_number(value, end):
    assert round_up(value) == pytest.approx(end)


def test_an_axis_grows_and_never_falls():
    axis = GrowingAxis()
    ends = [axis.include(value) for value in (0.0, 0.3, 0.1, -4.2, float("nan"), 2.0)]
    assert ends == pytest.approx([1, 0.3, 0.3, 5, 5, 5])
