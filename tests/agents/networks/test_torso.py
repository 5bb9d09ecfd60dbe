"""What acting keeps of the convolutions, and the gradient that is taken from it."""

import pytest
import torch

from agents.networks.torso import SCREENS_AT_ONCE, Torso

KINDS = pytest.mark.parametrize("kind", ["nips", "nature"])


def make_torso(kind):
    torch.manual_seed(0)
    torso = Torso(kind).double()
    with torch.no_grad():
        for parameter in torso.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return torso


def make_screens(n):
    return torch.randint(0, 256, (n, 4, 84, 84), dtype=torch.uint8)


def act_in_parts(torso, screens, *lengths):
    activations, start = torso.make_activations(len(screens)), 0
    features = []
    for length in lengths:
        rows = slice(start, start + length)
        features.append(torso.act(screens[rows], activations, rows).clone())
        start += length
    return activations, torch.cat(features)


@KINDS
def test_acting_computes_the_features_and_keeps_them_with_the_screens(kind):
    torso, screens = make_torso(kind), make_screens(5)
    activations, acted = act_in_parts(torso, screens, 2, 3)
    torch.testing.assert_close(acted, torso(screens).detach())
    assert torch.equal(activations.screens, screens)
    assert torch.equal(torso.recall(activations), acted)


@KINDS
@pytest.mark.parametrize("n", [3, SCREENS_AT_ONCE + 1])
def test_the_gradient_is_that_of_the_whole_computation(kind, n):
    torso, screens = make_torso(kind), make_screens(n)
    activations, _ = act_in_parts(torso, screens, 1, n - 1)
    by_features = torch.randn(n, torso.features, dtype=torch.float64)
    parameters = list(torso.parameters())
    recalled = torch.autograd.grad(torso.recall(activations), parameters, by_features)
    computed = torch.autograd.grad(torso(screens), parameters, by_features)
    for ours, theirs in zip(recalled, computed, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_what_was_kept_before_is_written_over():
    torso = make_torso("nips")
    first, second = make_screens(4), make_screens(4)
    activations = torso.make_activations(4)
    torso.act(first, activations, slice(0, 4))
    torso.act(second, activations, slice(0, 4))
    torch.testing.assert_close(torso.recall(activations), torso(second))
