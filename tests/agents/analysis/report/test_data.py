"""The numbers of a report, against plain loops."""

import numpy as np
import pytest

from agents.analysis.report.data import by_action, median_episode, project, selections_of, strongest
from agents.evaluation.episode import EpisodeResult
from agents.networks.inspection import HypernetProgram, NeurocoderProgram

RANDOM = np.random.default_rng(0)


def game(score, seed=0):
    return EpisodeResult("sampled", seed, score, 1, np.zeros(1, np.uint8), "", False)


def test_a_neurocoder_selects_from_three_memories_a_hypernet_one_embedding_a_linear_head_nothing():
    u, v, s = RANDOM.random((3, 7, 2, 5), dtype=np.float32)
    program = NeurocoderProgram(u, v, s, np.ones((7, 2), np.float32), None)
    found = selections_of(program)
    assert [f.name for f in found] == ["U", "V", "S"]
    assert [f.signed for f in found] == [False] * 3
    for f, weights in zip(found, (u, v, s), strict=True):
        np.testing.assert_array_equal(f.weights, weights)
        np.testing.assert_allclose(f.mean, (weights[:, 0] + weights[:, 1]) / 2, rtol=1e-6)
    (z,) = selections_of(HypernetProgram(u[:, 0]))
    assert (z.name, z.signed) == ("z", True)
    np.testing.assert_array_equal(z.mean, u[:, 0])
    assert selections_of(None) == []


def test_what_goes_with_an_action_is_its_mean_minus_the_mean_of_all():
    weights = RANDOM.random((6, 3), dtype=np.float32)
    actions = np.array([2, 0, 2, 2, 0, 3], np.uint8)
    result = by_action(weights, actions, 5)
    assert result.shape == (5, 3)
    for action in (0, 2, 3):
        rows = [weights[t].astype(np.float64) for t in range(6) if actions[t] == action]
        expected = sum(rows) / len(rows) - weights.astype(np.float64).mean(axis=0)
        np.testing.assert_allclose(result[action], expected, atol=1e-12)
    assert np.isnan(result[[1, 4]]).all()


def test_the_strongest_moments_of_a_slot_come_first_and_lie_apart():
    weights = np.zeros((50, 2), np.float32)
    weights[[10, 11, 30, 45], 0] = [0.8, 0.9, 0.7, 0.6]
    weights[[3, 40], 1] = [0.2, 0.4]
    first, second = strongest(weights, 3, apart=15)
    assert first == [11, 30, 45]
    assert second[:2] == [40, 3]
    assert min(abs(a - b) for a in second for b in second if a != b) >= 15


def test_a_short_episode_has_fewer_moments():
    assert strongest(np.ones((4, 1), np.float32), 3, apart=15) == [[0]]


@pytest.mark.parametrize("shape", [(40, 6), (6, 40)])
def test_the_plane_is_that_of_the_largest_singular_values(shape):
    features = RANDOM.normal(size=shape) * np.linspace(1, 4, shape[1])
    plane, parts = project(features)
    centred = features - features.mean(axis=0)
    u, s, _ = np.linalg.svd(centred, full_matrices=False)
    for axis in range(2):
        expected = u[:, axis] * s[axis]
        sign = np.sign(expected[np.abs(expected).argmax()])
        np.testing.assert_allclose(plane[:, axis], sign * expected, atol=1e-5)
        assert parts[axis] == pytest.approx(s[axis] ** 2 / (s**2).sum())


@pytest.mark.parametrize("features", [np.ones((5, 3)), np.ones((1, 3)), np.zeros((2, 1))])
def test_what_does_not_vary_is_one_point(features):
    plane, parts = project(features)
    assert plane.shape == (len(features), 2)
    assert not plane.any()
    assert parts == (0, 0)


def test_the_median_episode_has_the_lower_of_two_middle_scores():
    assert median_episode([game(30), game(10), game(20)]).score == 20
    assert median_episode([game(40), game(10), game(30), game(20)]).score == 20
    with pytest.raises(ValueError, match="no episodes"):
        median_episode([])
