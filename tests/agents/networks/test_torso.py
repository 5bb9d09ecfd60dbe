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


def make_cache(torso, workers, n):
    memory = torch.zeros(workers, n, 84, 84, 4, dtype=torch.uint8)
    return torso.make_cache(memory.movedim(-1, -3))


def forward_cached(torso, screens, cache, rows):
    for worker, screens_of_worker in enumerate(screens):
        copy_channels_last(screens_of_worker, cache.observations[worker, rows])
    return torso.forward_cached(cache, rows).unflatten(0, screens.shape[:2])


def act_in_parts(torso, screens, *lengths):
    """Return the caches of all workers, whose screens these are, and the features."""
    cache, start = make_cache(torso, *screens.shape[:2]), 0
    features = []
    for length in lengths:
        rows = slice(start, start + length)
        features.append(forward_cached(torso, screens[:, rows], cache, rows).clone())
        start += length
    return cache, torch.cat(features, dim=1)


@KINDS
@pytest.mark.parametrize("workers", [1, 3])
def test_acting_computes_the_features_and_keeps_them_with_the_screens(kind, workers):
    torso, screens = make_torso(kind), make_screens(workers * 5).unflatten(0, (workers, 5))
    cache, acted = act_in_parts(torso, screens, 2, 3)
    assert torch.equal(cache.observations, screens)
    for i in range(workers):
        torch.testing.assert_close(acted[i], torso(screens[i]).detach())
        assert torch.equal(torso.cached_features(cache.worker(i)), acted[i])


@KINDS
@pytest.mark.parametrize("n", [3, OBSERVATIONS_PER_CHUNK + 1])
def test_the_gradient_is_that_of_the_whole_computation(kind, n):
    torso, screens = make_torso(kind), make_screens(2 * n).unflatten(0, (2, n))
    cache, _ = act_in_parts(torso, screens, 1, n - 1)
    by_features = torch.randn(n, torso.features, dtype=torch.float64)
    parameters = list(torso.parameters())
    for i in range(2):
        features = torso.cached_features(cache.worker(i))
        recalled = torch.autograd.grad(features, parameters, by_features)
        computed = torch.autograd.grad(torso(screens[i]), parameters, by_features)
        for ours, theirs in zip(recalled, computed, strict=True):
            torch.testing.assert_close(ours, theirs)


def test_what_was_kept_before_is_written_over():
    torso = make_torso("nips")
    first, second = make_screens(8).unflatten(0, (2, 1, 4))
    cache = make_cache(torso, 1, 4)
    forward_cached(torso, first, cache, slice(0, 4))
    forward_cached(torso, second, cache, slice(0, 4))
    torch.testing.assert_close(torso.cached_features(cache.worker(0)), torso(second[0]))
