"""Statistics that say whether a head uses its memories."""

import math

import numpy as np
import pytest
import torch

from agents.networks.inspection import NeurocoderProgram
from agents.networks.program_statistics import layer_statistics, summarise_programs
from neurocoder import NeurocoderLinear


def test_attention_is_averaged_over_states_and_entropy_is_one_when_even_and_zero_on_one_slot():
    even, single = np.full((2, 4), 0.125, np.float32), np.zeros((2, 4), np.float32)
    single[:, 1] = 0.5
    program = NeurocoderProgram(
        *[np.stack([even, single])] * 3, np.ones((2, 2), np.float32), np.array([0.1, 0.9])
    )
    summary = summarise_programs(program)
    assert summary.attention.shape == (3, 2, 4)
    np.testing.assert_allclose(summary.attention[0, 0], [0.0625, 0.3125, 0.0625, 0.0625])
    np.testing.assert_allclose(summary.attention_entropy, [1, 0], atol=1e-6)
    half = np.zeros((1, 2, 4), np.float32)
    half[..., :2] = 0.3
    program = NeurocoderProgram(half, half, half, np.ones((1, 2), np.float32), None)
    entropy = summarise_programs(program).attention_entropy
    assert entropy == pytest.approx(math.log(2) / math.log(4))


def test_a_layer_that_answers_all_inputs_alike_shows_no_variation():
    layer = NeurocoderLinear(6, 3)
    x = torch.randn(1, 6).expand(10, 6)
    assert layer_statistics(layer, x)["attention_variation"] == pytest.approx(0, abs=1e-4)
    assert layer_statistics(layer, torch.randn(10, 6))["attention_variation"] > 0.1


def test_even_attention_has_entropy_one_and_uses_every_slot():
    layer = NeurocoderLinear(6, 3, usage_attention=False, sharpness=1e-6)
    statistics = layer_statistics(layer, torch.randn(10, 6))
    assert statistics["attention_entropy"] == pytest.approx(1.0, abs=1e-4)
    assert statistics["slot_usage"] == 1.0


@pytest.mark.parametrize("order", ["forward", "backward"])
def test_the_largest_and_the_smallest_singular_value_are_those_of_either_order(order):
    layer = NeurocoderLinear(6, 3, singular_value_order=order)
    x = torch.randn(5, 6)
    sigma = layer.compose(x).singular_values
    statistics = layer_statistics(layer, x)
    largest = statistics["singular_values"]
    assert largest == pytest.approx(sigma.max(dim=1).values.mean().item())
    assert largest > statistics["smallest_singular_value"] > 0


@pytest.mark.parametrize("order", ["forward", "backward"])
def test_the_norm_ratio_compares_the_active_with_the_scaled_residual_program(order):
    layer = NeurocoderLinear(6, 3, singular_value_order=order)
    x = torch.randn(5, 6)
    active = layer.active_program(x)
    residual = layer.working_program(x) - active
    expected = (active.flatten(1).norm(dim=1) / residual.flatten(1).norm(dim=1)).mean().item()
    ratio = layer_statistics(layer, x)["active_to_residual_norm"]
    assert ratio == pytest.approx(expected, rel=1e-3)
    bare = layer_statistics(NeurocoderLinear(6, 3, residual=False), x)
    assert "active_to_residual_norm" not in bare
    assert all(math.isfinite(v) for v in bare.values())
