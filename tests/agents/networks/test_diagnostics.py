"""The figures that say whether a head is alive."""

import math

import pytest
import torch

from agents.networks.diagnostics import layer_statistics
from neurocoder import NeurocoderLinear


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


def test_the_norm_ratio_compares_the_active_with_the_scaled_residual_program():
    layer = NeurocoderLinear(6, 3)
    x = torch.randn(5, 6)
    active = layer.active_program(x)
    residual = layer.working_program(x) - active
    expected = (active.flatten(1).norm(dim=1) / residual.flatten(1).norm(dim=1)).mean().item()
    ratio = layer_statistics(layer, x)["active_to_residual_norm"]
    assert ratio == pytest.approx(expected, rel=1e-3)
    bare = layer_statistics(NeurocoderLinear(6, 3, residual=False), x)
    assert "active_to_residual_norm" not in bare
    assert all(math.isfinite(v) for v in bare.values())
