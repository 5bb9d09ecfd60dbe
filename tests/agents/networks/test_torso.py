"""What acting keeps of the convolutions, and the gradient that is taken from it."""

import pytest
import torch

from agents.networks.torso import OBSERVATIONS_PER_CHUNK, Torso, copy_channels_last

KINDS = pytest.mark.parametrize("kind", ["nips", "nature"])


# Sides that no stride divides, and a number of channels that is none of a screen's.
ODD = (3, 41, 53)


def make_torso(kind, precision="float32", dtype=torch.float64, shape=(4, 84, 84)):
    torch.manual_seed(0)
    torso = Torso(kind, shape, precision).to(dtype)
    with torch.no_grad():
        for parameter in torso.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return torso


def make_screens(n, shape=(4, 84, 84)):
    return torch.randint(0, 256, (n, *shape), dtype=torch.uint8)


def make_cache(torso, workers, n, shape=(4, 84, 84)):
    channels, *size = shape
    memory = torch.zeros(workers, n, *size, channels, dtype=torch.uint8)
    return torso.make_cache(memory.movedim(-1, -3))


@pytest.mark.parametrize("channels", [1, 3, 128, 129, 362])
def test_images_of_any_number_of_channels_are_copied(channels):
    images = make_screens(2, (channels, 9, 9))
    out = torch.zeros(2, 9, 9, channels, dtype=torch.uint8).movedim(-1, 1)
    copy_channels_last(images, out)
    assert torch.equal(out, images)


def forward_cached(torso, screens, cache, rows):
    for worker, screens_of_worker in enumerate(screens):
        copy_channels_last(screens_of_worker, cache.observations[worker, rows])
    return torso.forward_cached(cache, rows).unflatten(0, screens.shape[:2])


def act_in_parts(torso, screens, *lengths):
    """Return the caches of all workers, whose screens these are, and the features."""
    cache, start = make_cache(torso, *screens.shape[:2], screens.shape[2:]), 0
    features = []
    for length in lengths:
        rows = slice(start, start + length)
        features.append(forward_cached(torso, screens[:, rows], cache, rows).clone())
        start += length
    return cache, torch.cat(features, dim=1)


def reference_features(torso, screens):
    """The features as the definition says, in the parameters' type."""
    x = screens.to(torso.dense.weight.dtype) / (10 if torso.kind == "small" else 255)
    for convolution in torso.convolutions:
        x = convolution(x).relu()
    return torso.dense(x.flatten(1)).relu()


def relative_error(ours, theirs):
    return float((ours.detach().double() - theirs.detach()).norm() / theirs.detach().norm())


@KINDS
def test_the_features_are_those_of_screens_from_0_to_1(kind):
    torso, screens = make_torso(kind), make_screens(3)
    torch.testing.assert_close(torso(screens), reference_features(torso, screens))


@KINDS
@pytest.mark.parametrize("workers", [1, 3])
def test_acting_computes_the_features_and_keeps_them_with_the_screens(kind, workers):
    torso, screens = make_torso(kind), make_screens(workers * 5).unflatten(0, (workers, 5))
    cache, acted = act_in_parts(torso, screens, 2, 3)
    assert torch.equal(cache.observations, screens)
    for i in range(workers):
        torch.testing.assert_close(acted[i], torso(screens[i]).detach())
        assert torch.equal(cache.worker(i).features, acted[i])


@KINDS
@pytest.mark.parametrize("n", [3, OBSERVATIONS_PER_CHUNK + 1])
def test_the_gradient_is_that_of_the_whole_computation(kind, n):
    torso, screens = make_torso(kind), make_screens(2 * n).unflatten(0, (2, n))
    cache, _ = act_in_parts(torso, screens, 1, n - 1)
    by_features = torch.randn(n, torso.features, dtype=torch.float64)
    parameters = list(torso.parameters())
    for i in range(2):
        recalled = torso.backward(by_features, cache.worker(i))
        computed = torch.autograd.grad(
            reference_features(torso, screens[i]), parameters, by_features
        )
        for ours, theirs in zip(recalled, computed, strict=True):
            torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(("kind", "shape"), [("nips", ODD), ("nature", ODD), ("small", (3, 7, 8))])
def test_images_of_other_sizes_have_the_same_features_and_gradients(kind, shape):
    torso, screens = make_torso(kind, shape=shape), make_screens(6, shape).unflatten(0, (1, 6))
    cache, acted = act_in_parts(torso, screens, 4, 2)
    expected = reference_features(torso, screens[0])
    torch.testing.assert_close(acted[0], expected.detach())
    by_features = torch.randn(6, torso.features, dtype=torch.float64)
    computed = torch.autograd.grad(expected, list(torso.parameters()), by_features)
    for ours, theirs in zip(torso.backward(by_features, cache.worker(0)), computed, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_what_was_kept_before_is_written_over():
    torso = make_torso("nips")
    first, second = make_screens(8).unflatten(0, (2, 1, 4))
    cache = make_cache(torso, 1, 4)
    forward_cached(torso, first, cache, slice(0, 4))
    forward_cached(torso, second, cache, slice(0, 4))
    torch.testing.assert_close(cache.worker(0).features, torso(second[0]).detach())


@KINDS
@pytest.mark.filterwarnings("ignore:TF32 acceleration")
@pytest.mark.parametrize("has_bfloat16_kernels", [True, False])
def test_in_bfloat16_features_and_gradients_are_close_and_of_the_parameters_type(
    kind, has_bfloat16_kernels
):
    """Also without oneDNN, which older CPUs do without."""
    torso, screens = make_torso(kind, "bf16", torch.float32), make_screens(10).unflatten(0, (2, 5))
    reference = make_torso(kind)
    reference.load_state_dict(torso.state_dict())
    by_features = torch.randn(5, torso.features)
    with torch.backends.mkldnn.flags(enabled=has_bfloat16_kernels):
        cache, acted = act_in_parts(torso, screens, 2, 3)
        assert {output.dtype for output in cache.convolution_outputs} == {torch.bfloat16}
        for i in range(2):
            expected = reference_features(reference, screens[i])
            correct = torch.autograd.grad(
                expected, list(reference.parameters()), by_features.double()
            )
            assert acted.dtype == torch.float32
            # Half of the last place of bfloat16 is 2**-9, and a few layers add up.
            assert 1e-4 < relative_error(acted[i], expected) < 0.02
            computed = torso(screens[i])
            assert relative_error(computed, expected) < 0.02
            for gradients in (
                torso.backward(by_features, cache.worker(i)),
                torch.autograd.grad(computed, list(torso.parameters()), by_features),
            ):
                for ours, theirs in zip(gradients, correct, strict=True):
                    assert ours.dtype == torch.float32
                    # An output near zero may fall on the other side, which is all or nothing of a
                    # gradient: one in a hundred makes an error of 0.1. So does autocast.
                    assert relative_error(ours, theirs) < 0.15


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_weights_are_read_anew_except_inside_cached_weights(precision):
    torso, screens = make_torso("nips", precision, torch.float32), make_screens(2)
    cache = make_cache(torso, 1, 2)

    def features():
        acted = forward_cached(torso, screens[None], cache, slice(0, 2))[0]
        with torch.no_grad():
            assert torch.equal(torso(screens), acted)
        return acted

    before = features()
    with torso.cached_weights():
        assert torch.equal(features(), before)
        with torch.no_grad():
            torso.convolutions[0].weight.mul_(2)
        assert torch.equal(features(), before)
        # Where there is a gradient, weights are part of what it goes through.
        torso(screens).sum().backward()
        assert torso.convolutions[0].weight.grad.abs().sum() > 0
    after = features()
    assert not torch.allclose(after, before)
    with torso.cached_weights():
        assert torch.equal(features(), after)
