"""Operations replayed under frozen keys against the readable way."""

import copy

import pytest
import torch
from torch.func import functional_call

from neurocoder import frozen_keys
from neurocoder.acting import MOST_INPUTS_TO_REPLAY
from tests.neurocoder.test_fused import every_variant, make_input, make_layer, plainly


def replayed(layer, x):
    with torch.no_grad(), frozen_keys(layer):
        y = layer(x)
    assert layer._acting
    return y


@every_variant
@pytest.mark.parametrize("batch", [1, 4, MOST_INPUTS_TO_REPLAY])
def test_replayed_operations_return_what_the_readable_way_does(variant, batch):
    layer = make_layer(**variant)
    for _ in range(3):
        x = make_input(layer, batch).detach()
        torch.testing.assert_close(replayed(layer, x), plainly(layer, x).detach())


def test_larger_batches_are_not_replayed():
    layer = make_layer()
    x = make_input(layer, MOST_INPUTS_TO_REPLAY + 1).detach()
    with torch.no_grad(), frozen_keys(layer):
        torch.testing.assert_close(layer(x), plainly(layer, x))
    assert not layer._acting


def test_what_a_replayed_call_returned_is_not_written_over_by_the_next():
    layer = make_layer()
    a, b = make_input(layer, 2).detach(), make_input(layer, 2).detach()
    with torch.no_grad(), frozen_keys(layer):
        first = layer(a)
        kept = first.clone()
        assert not torch.equal(layer(b), kept)
        torch.testing.assert_close(first, kept, rtol=0, atol=0)


def test_batch_sizes_may_alternate_under_the_same_frozen_keys():
    layer = make_layer()
    with torch.no_grad(), frozen_keys(layer):
        for batch in (2, 3, 2, 1, 3):
            x = make_input(layer, batch).detach()
            torch.testing.assert_close(layer(x), plainly(layer, x))


def test_parameters_changed_in_place_are_seen_by_the_next_frozen_keys():
    layer = make_layer()
    x = make_input(layer, 2).detach()
    replayed(layer, x)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    torch.testing.assert_close(replayed(layer, x), plainly(layer, x).detach())


@pytest.mark.parametrize(
    "name", ["memory.u", "residual", "composition_network.query_projection.bias"]
)
def test_parameters_that_moved_are_seen_by_the_next_frozen_keys(name):
    layer = make_layer()
    x = make_input(layer, 2).detach()
    replayed(layer, x)
    parameter = layer.get_parameter(name)
    parameter.data = parameter.data + 1.0
    torch.testing.assert_close(replayed(layer, x), plainly(layer, x).detach())


def test_parameters_passed_for_one_call_are_used_for_that_call():
    layer, other = make_layer(0), make_layer(1)
    x = make_input(layer, 2).detach()
    with torch.no_grad(), frozen_keys(layer):
        layer(x)
        got = functional_call(layer, dict(other.named_parameters()), x)
        layer.fused = False
        expected = functional_call(layer, dict(other.named_parameters()), x)
        layer.fused = True
        torch.testing.assert_close(got, expected)
        torch.testing.assert_close(layer(x), plainly(layer, x))


def test_replaying_works_in_inference_mode_and_after_it():
    layer = make_layer()
    x = make_input(layer, 2).detach()
    with torch.inference_mode(), frozen_keys(layer):
        inside = layer(x)
    torch.testing.assert_close(replayed(layer, x), inside.clone())


def test_copies_of_a_layer_replay_on_tensors_of_their_own():
    layer = make_layer()
    x = make_input(layer, 2).detach()
    replayed(layer, x)
    twin = copy.deepcopy(layer)
    assert not twin._acting
    with torch.no_grad():
        twin.bias.add_(1.0)
    torch.testing.assert_close(replayed(twin, x), plainly(twin, x).detach())
