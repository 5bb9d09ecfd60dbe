from threading import Thread

import numpy as np
import pytest
import torch

from agents.networks.mlp_torso import MLPTorso
from agents.networks.normalization import (
    MAX_COUNT,
    RunningNormalization,
    add_observations_,
    empty_sums,
    merge_observations_,
    merge_statistics_,
    split_statistics,
    statistics_between,
)


def observations(rng, *shape):
    scales = np.array([1.0, 100.0, 0.01])
    return torch.from_numpy(rng.normal(scales * 3, scales, (*shape, 3)))


def test_statistics_are_those_of_all_observations_together():
    rng = np.random.default_rng(0)
    batches = [observations(rng, n) for n in (1, 50, 7)]
    normalization = RunningNormalization(3).double()
    for batch in batches:
        merge_observations_(normalization.statistics, batch)
    everything = torch.cat(batches)
    count, mean, variance = split_statistics(normalization.statistics)
    assert count == 58
    torch.testing.assert_close(mean, everything.mean(0))
    torch.testing.assert_close(variance, everything.var(0, correction=0))
    normal = normalization(everything)
    torch.testing.assert_close(normal.mean(0), torch.zeros(3, dtype=torch.float64))
    ones = torch.ones(3, dtype=torch.float64)
    torch.testing.assert_close(normal.std(0, correction=0), ones, rtol=1e-4, atol=0)


def test_before_the_first_observation_nothing_is_scaled():
    x = torch.tensor([[1.0, -2.0, 0.5]])
    torch.testing.assert_close(RunningNormalization(3)(x), x)


def test_normalised_observations_are_clipped():
    normalization = RunningNormalization(1)
    merge_observations_(normalization.statistics, torch.tensor([[0.0], [0.0]]))
    assert normalization(torch.tensor([[5.0], [-5.0]])).tolist() == [[10.0], [-10.0]]


def test_observations_that_are_not_finite_or_whose_squares_would_not_be_are_left_out():
    statistics = RunningNormalization(2).statistics
    good = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    bad = torch.tensor([[torch.nan, 0.0], [0.0, torch.inf], [1e30, 0.0], [0.0, -1e20]])
    expected = statistics.clone()
    merge_observations_(expected, good)
    merge_observations_(statistics, torch.cat([good, bad]))
    merge_observations_(statistics, bad)
    torch.testing.assert_close(statistics, expected)


def test_statistics_between_two_looks_are_those_of_what_came_between():
    rng = np.random.default_rng(0)
    rows = empty_sums(2, 3)
    add_observations_(rows[0], 1e6 + observations(rng, 40))
    before = rows.clone()
    assert statistics_between(before, rows).tolist() == [0.0] * 7
    batches = [1e6 + observations(rng, n) for n in (5, 60, 1)]
    for batch, row in zip(batches, (0, 1, 0), strict=True):
        add_observations_(rows[row], batch)
    add_observations_(rows[1], torch.tensor([[0.0, torch.nan, 0.0]]))
    everything = torch.cat(batches)
    count, mean, variance = split_statistics(statistics_between(before, rows))
    assert count == 66
    torch.testing.assert_close(mean, everything.mean(0).float())
    torch.testing.assert_close(variance, everything.var(0, correction=0).float(), rtol=1e-4, atol=0)


def test_statistics_are_whole_though_they_are_handed_over_while_workers_write():
    rows, total, batches = empty_sums(2, 1), torch.zeros(3), 300

    def write(row):
        generator = torch.Generator().manual_seed(row)
        for _ in range(batches):
            add_observations_(rows[row], 100 + torch.randn(10, 1, generator=generator))

    def hand_over(before):
        after = rows.clone()
        if (between := statistics_between(before, after))[0] > 0:
            assert abs(float(between[1]) - 100) < 2
            merge_statistics_(total, between)
        return after

    before = rows.clone()
    writers = [Thread(target=write, args=(row,)) for row in range(2)]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        before = hand_over(before)
    hand_over(before)
    assert total[0] == 2 * batches * 10
    torch.testing.assert_close(total[1:], torch.tensor([100.0, 1.0]), rtol=0.05, atol=0)


@pytest.mark.gpu
def test_statistics_on_cuda_are_those_on_the_cpu():
    observations, here = torch.randn(50, 3), RunningNormalization(3).statistics
    there = here.detach().cuda()
    merge_observations_(here, observations)
    merge_observations_(there, observations.cuda())
    torch.testing.assert_close(there.cpu(), here.detach())


def test_after_many_observations_newer_ones_still_count():
    statistics = RunningNormalization(1).statistics
    with torch.no_grad():
        statistics[0] = MAX_COUNT
    for _ in range(100):
        merge_observations_(statistics, torch.full((10_000, 1), 5.0))
    assert statistics[0] == MAX_COUNT
    assert 0.4 < float(statistics[1]) < 5  # 100 x 10,000 of 8.4 M


def test_the_torso_sees_normalised_observations():
    torso = MLPTorso(3)
    x = observations(np.random.default_rng(1), 40).float()
    merge_observations_(torso.normalization.statistics, x)
    scaled = ((x - x.mean(0)) / x.std(0, correction=0)).clamp(-10, 10)
    torch.testing.assert_close(torso(x), torso.layers(scaled), rtol=1e-4, atol=1e-4)


def test_acting_and_learning_compute_the_same_and_the_gradient_is_that_of_all_layers():
    torch.manual_seed(2)
    torso = MLPTorso(3).double()
    x = observations(np.random.default_rng(3), 2, 5)  # of two workers
    cache = torso.make_cache(x)
    for row in range(5):
        torso.forward_cached(cache, slice(row, row + 1))
    torch.testing.assert_close(cache.features, torso(x))
    one = cache.worker(1)
    torch.testing.assert_close(one.features, torso(x[1]))
    dfeatures = torch.randn(5, torso.features, dtype=torch.float64)
    statistics, *trained = torso.parameters()
    expected = [torch.zeros_like(statistics)]
    expected += torch.autograd.grad(torso(x[1]), trained, dfeatures)
    with torch.no_grad():
        gradients = torso.backward(dfeatures, one)
    for ours, theirs in zip(gradients, expected, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("size", [1, 128])
def test_features_of_any_size_of_vector_have_the_same_shape(size):
    assert MLPTorso(size)(torch.zeros(2, size)).shape == (2, 64)
