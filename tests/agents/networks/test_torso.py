"""What acting keeps of the convolutions, and the gradient that is taken from it."""

import pytest
import torch

from agents.networks.torso import OBSERVATIONS_PER_CHUNK, Torso, copy_channels_last

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


def make_cache(torso, n):
    memory = torch.zeros(n, 84, 84, 4, dtype=torch.uint8)
    return torso.make_cache(memory.permute(0, 3, 1, 2))


def forward_cached(torso, screens, cache, rows):
    copy_channels_last(screens, cache.observations[rows])
    return torso.forward_cached(cache, rows)


def act_in_parts(torso, screens, *lengths):
    cache, start = make_cache(torso, len(screens)), 0
    features = []
    for length in lengths:
        rows = slice(start, start + length)
        features.append(forward_cached(torso, screens[rows], cache, rows).clone())
        start += length
    return cache, torch.cat(features)


@KINDS
def test_acting_computes_the_features_and_keeps_them_with_the_screens(kind):
    torso, screens = make_torso(kind), make_screens(5)
    cache, acted = act_in_parts(torso, screens, 2, 3)
    torch.testing.assert_close(acted, torso(screens).detach())
    assert torch.equal(cache.observations, screens)
    assert torch.equal(torso.cached_features(cache), acted)


@KINDS
@pytest.mark.parametrize("n", [3, OBSERVATIONS_PER_CHUNK + 1])
def test_the_gradient_is_that_of_the_whole_computation(kind, n):
    torso, screens = make_torso(kind), make_screens(n)
    cache, _ = act_in_parts(torso, screens, 1, n - 1)
    by_features = torch.randn(n, torso.features, dtype=torch.float64)
    parameters = list(torso.parameters())
    recalled = torch.autograd.grad(torso.cached_features(cache), parameters, by_features)
    computed = torch.autograd.grad(torso(screens), parameters, by_features)
    for ours, theirs in zip(recalled, computed, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_what_was_kept_before_is_written_over():
    torso = make_torso("nips")
    first, second = make_screens(4), make_screens(4)
    cache = make_cache(torso, 4)
    forward_cached(torso, first, cache, slice(0, 4))
    forward_cached(torso, second, cache, slice(0, 4))
    torch.testing.assert_close(torso.cached_features(cache), torso(second))
