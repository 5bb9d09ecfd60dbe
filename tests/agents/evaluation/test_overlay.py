"""The panel shows what it was given, at its size, and nothing overlaps the game."""

import dataclasses

import numpy as np
import pytest

from agents.evaluation.drawing import ACCENT, BAR
from agents.evaluation.episode import StepResult
from agents.evaluation.overlay import Overlay, clock_text, overlay_factory
from agents.networks.inspection import HypernetProgram, NeurocoderProgram, PolicyOutput
from tests.agents.runs import make_config

NAMES = overlay_factory(make_config(), 1)("greedy", 1).action_names
GAME = np.full((480, 640, 3), 77, np.uint8)
SCREEN = np.zeros((84, 84), np.uint8)


def make_program(rows=10, slots=20, seed=0):
    random = np.random.default_rng(seed)
    u, v, s = random.uniform(0, 0.3, (3, rows, slots)).astype(np.float32)
    sigma = np.linspace(5, 0.5, rows, dtype=np.float32)
    return NeurocoderProgram(u, v, s, sigma, np.float32(0.5))


def make_output(**changes):
    probabilities = np.full(18, 1 / 18, np.float32)
    output = PolicyOutput(probabilities, np.float32(1.5), make_program(), make_program(seed=1))
    return dataclasses.replace(output, **changes)


def draw(output, action=0, reward=0.0, score=10.0, names=NAMES):
    overlay = Overlay("Frostbite", "someone", names, 15)
    return overlay.render(GAME, output, StepResult(action, reward, 1, score, SCREEN, {}))


def test_the_clock_never_shows_sixty_seconds():
    shown = [clock_text(steps / 60) for steps in (0, 3599, 3600, 3927)]
    assert shown == ["0:00.0", "1:00.0", "1:00.0", "1:05.4"]


def test_the_game_stands_unchanged_beside_the_panel():
    picture = draw(make_output())
    assert (picture.shape, picture.dtype) == ((720, 1280, 3), np.uint8)
    np.testing.assert_array_equal(picture[:480, :640], GAME)
    z = HypernetProgram(np.linspace(-2, 2, 8, dtype=np.float32))
    assert draw(make_output(actor=z, critic=z)).shape == (720, 1280, 3)
    assert draw(make_output(actor=None, critic=None)).shape == (480, 1280, 3)
    assert draw(None).shape == (480, 1280, 3)


def attention_from(picture, x, slots=20):
    """Attention back from the colours of a map, by the legend's own ramp."""
    ramp = picture[435, 984:1256].astype(int)
    cells = picture[544:696:16, x + 4 : x + 8 * slots : 8].astype(int)
    nearest = np.abs(cells[:, :, None] - ramp).sum(axis=-1).argmin(axis=-1)
    return (nearest / (len(ramp) - 1)) ** 2


def test_the_maps_colours_read_by_the_legend_are_the_attention():
    output = make_output()
    picture = draw(output)
    for left, program in ((40, output.actor), (680, output.critic)):
        maps = (program.u_attention, program.v_attention, program.s_attention)
        for i, expected in enumerate(maps):
            found = attention_from(picture, left + 168 * i)
            np.testing.assert_allclose(found, expected, atol=0.01)


def length_of(row, colour):
    return int((row == np.array(colour)).all(axis=-1).sum())


def test_bars_are_as_long_as_the_probabilities_and_the_chosen_one_is_marked():
    probabilities = np.zeros(18, np.float32)
    probabilities[[3, 7]] = 0.75, 0.25
    picture = draw(make_output(probabilities=probabilities), action=7)
    # A mark at an even share takes one pixel of each bar.
    columns = picture[:, 760:920]
    heights = [y for y in range(110, 470) if length_of(columns[y], BAR) > 20]
    chosen = [y for y in range(110, 470) if length_of(columns[y], ACCENT) > 20]
    longer, shorter = length_of(columns[heights[0]], BAR), length_of(columns[chosen[0]], ACCENT)
    assert (longer + 1) / (shorter + 1) == pytest.approx(3, abs=0.1)
    assert heights[-1] < chosen[0]


@pytest.mark.parametrize(
    ("changes", "box"),
    [
        ({"value": np.float32(0.2)}, (970, 190, 310, 160)),
        ({"actor": make_program(seed=5)}, (0, 480, 640, 240)),
        ({"critic": make_program(seed=5)}, (640, 480, 640, 240)),
        ({"probabilities": np.eye(18, dtype=np.float32)[4]}, (640, 100, 330, 380)),
    ],
)
def test_another_output_changes_its_own_part_of_the_picture_and_no_other(changes, box):
    x, y, width, height = box
    differs = (draw(make_output()) != draw(make_output(**changes))).any(axis=-1)
    assert differs[y : y + height, x : x + width].any()
    differs[y : y + height, x : x + width] = False
    assert not differs.any()


def test_a_gate_and_singular_values_are_drawn_to_scale():
    program = dataclasses.replace(make_program(), residual_gate=np.float32(0.25))
    picture = draw(make_output(actor=program))
    gate = [length_of(row, ACCENT) for row in picture[482:510, :640]]
    half = [length_of(row, ACCENT) for row in picture[482:510, 640:]]
    assert max(half) == pytest.approx(2 * max(gate), abs=1)
    bars = [length_of(picture[544 + 16 * n, 540:640], BAR) for n in range(10)]
    expected = program.singular_values / program.singular_values[0] * bars[0]
    np.testing.assert_allclose(bars, expected, atol=1)
    assert bars[0] > 40


@pytest.mark.parametrize(("rows", "slots"), [(1, 1), (60, 200), (400, 7)])
def test_layers_of_any_size_are_drawn(rows, slots):
    program = make_program(rows, slots)
    assert draw(make_output(actor=program, critic=program)).shape == (720, 1280, 3)


def test_numbers_that_are_no_numbers_do_not_stop_a_recording():
    nan = np.float32(np.nan)
    program = dataclasses.replace(
        make_program(),
        singular_values=np.full(10, nan),
        residual_gate=nan,
        u_attention=np.full((10, 20), nan),
    )
    output = make_output(value=nan, actor=program, probabilities=np.full(18, nan))
    assert draw(output, reward=float("nan"), score=float("nan")).shape == (720, 1280, 3)


def test_frames_of_one_step_share_its_panels_and_do_not_advance_the_curves():
    once, twice = (Overlay("Frostbite", "someone", NAMES, 15) for _ in range(2))
    other = GAME // 2
    for length in (1, 2, 3):
        output = make_output(value=np.float32(length))
        step = StepResult(0, float(length), length, 10.0 * length, SCREEN, {})
        first = twice.render(other, output, step)
        second = twice.render(GAME, output, step)
        np.testing.assert_array_equal(first[:480, :640], other)
        first[:480, :640] = GAME
        np.testing.assert_array_equal(first, second)
        np.testing.assert_array_equal(once.render(GAME, output, step), second)


def test_the_value_curve_remembers_earlier_steps():
    overlay = Overlay("Frostbite", "someone", NAMES, 15)
    overlay.render(GAME, make_output(value=np.float32(9)), StepResult(0, 0.0, 1, 10.0, SCREEN, {}))
    second = overlay.render(GAME, make_output(), StepResult(0, 0.0, 2, 10.0, SCREEN, {}))
    alone = draw(make_output())
    assert (second != alone)[236:346, 1000:].any()
    # The number above the curve is of the newest step alone.
    np.testing.assert_array_equal(second[190:230, 980:], alone[190:230, 980:])
