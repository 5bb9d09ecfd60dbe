"""The layers by name, what they want added to a loss, and how large they are."""

import pytest
import torch
from torch import nn

from experiments.drawing import COLOURS
from experiments.layers import LAYERS, auxiliary_loss, make_layer, parameter_count
from neurocoder import MoELinear, NeurocoderLinear, NSMLinear


@pytest.mark.parametrize("name", LAYERS)
def test_every_layer_is_called_like_nn_linear_and_has_a_colour_of_its_own(name):
    assert make_layer(name, 6, 5, bias=False)(torch.randn(2, 3, 6)).shape == (2, 3, 5)
    assert name in COLOURS
    assert len(set(COLOURS.values())) == len(COLOURS)


def test_the_ablations_are_neurocoders_without_what_their_name_says():
    single, no_usage = (make_layer(f"neurocoder-{n}", 6, 5) for n in ("single-step", "no-usage"))
    assert isinstance(single, NeurocoderLinear)
    assert single.composition_network.steps == 1
    assert single.usage_attention
    assert not no_usage.usage_attention
    assert no_usage.composition_network.steps == 5


def test_sizes_reach_the_layer_and_unknown_names_are_refused():
    assert make_layer("nsm", 6, 5, programs=3).programs.shape == (3, 6, 5)
    with pytest.raises(ValueError, match=r"'liner'.*linear, hypernet"):
        make_layer("liner", 6, 5)


def test_the_auxiliary_loss_sums_what_the_layers_of_a_model_want():
    coder, nsm, moe = NeurocoderLinear(6, 6), NSMLinear(6, 6), MoELinear(6, 6)
    nn.init.normal_(moe.gate)
    model = nn.Sequential(coder, nsm, nn.Linear(6, 6), moe)
    model(torch.randn(9, 6))
    expected = 3 * coder.orthogonality_loss() + 2 * nsm.auxiliary_loss() + moe.auxiliary_loss()
    got = auxiliary_loss(model, orthogonality=3, program_keys=2)
    torch.testing.assert_close(got, expected)
    without = auxiliary_loss(model.eval(), orthogonality=3, program_keys=2)
    torch.testing.assert_close(got - without, moe.auxiliary_loss())
    assert auxiliary_loss(nn.Linear(6, 6)) == 0


def test_parameters_are_counted_where_they_are_trained():
    model = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 2))
    assert parameter_count(model) == 35 + 12
    model[0].requires_grad_(False)
    assert parameter_count(model) == 12
