"""The layers by name, what they want added to a loss, and how large they are."""

import pytest
import torch
from torch import nn

from experiments.common.drawing import COLOURS
from experiments.common.layers import (
    LAYERS,
    auxiliary_loss,
    make_layer,
    match_sizes,
    parameter_count,
)
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


@pytest.mark.parametrize("name", [name for name in LAYERS if name != "linear"])
@pytest.mark.parametrize("parameters", [9_000, 60_000])
def test_matched_sizes_give_a_layer_of_about_so_many_parameters(name, parameters):
    extra = {"slots": 10} if name.startswith("neurocoder") else {}
    sizes = match_sizes(name, 64, 10, parameters, **extra)
    got = parameter_count(make_layer(name, 64, 10, **sizes))
    assert abs(got / parameters - 1) < 0.06  # the steps between sizes
    (varied,) = set(sizes) - set(extra)
    for other in (sizes[varied] - 1, sizes[varied] + 1):
        neighbour = parameter_count(make_layer(name, 64, 10, **{**sizes, varied: other}))
        assert abs(neighbour - parameters) >= abs(got - parameters)


def test_trying_sizes_does_not_change_what_is_drawn_later():
    state = torch.get_rng_state()
    match_sizes("nsm", 64, 10, 5_000)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", [name for name in LAYERS if name != "linear"])
def test_too_few_parameters_give_the_smallest_layer(name):
    sizes = match_sizes(name, 64, 10, 1)
    make_layer(name, 64, 10, **sizes)
    assert list(sizes.values()) == [2 if name == "moe" else 1]
