"""Polynomial chunks: what they are made of, and that no one can see where they end."""

from itertools import pairwise

import numpy as np
import torch

from experiments.auto_regression.chunks import DEGREES, LONGEST, SHORTEST, chebyshev, draw_sequences


def draw(number=50, length=70, seed=0):
    return draw_sequences(number, length, torch.Generator().manual_seed(seed))


def chunks_of(sequences, row):
    """Where the whole chunks of a sequence begin and end; the last one may be cut short."""
    return list(pairwise(np.flatnonzero(sequences.starts[row].numpy())))


def test_every_chunk_is_one_polynomial_of_its_degree_and_no_lower_one():
    sequences = draw()
    seen = set()
    for row in range(len(sequences.y)):
        for begin, end in chunks_of(sequences, row):
            (degree,) = set(sequences.degree[row, begin:end].tolist())
            y = sequences.y[row, begin:end].double().numpy()
            # Differences of order degree + 1 of evenly spaced points of such a polynomial vanish.
            assert np.abs(np.diff(y, degree + 1)).max() < 1e-5
            assert np.abs(np.diff(y, degree)).max() > 1e-5
            seen.add(degree)
    assert seen == set(DEGREES)


def test_chunks_have_all_lengths_and_a_sequence_starts_with_a_new_one():
    sequences = draw(200)
    assert sequences.starts[:, 0].all()
    lengths = {end - begin for row in range(200) for begin, end in chunks_of(sequences, row)}
    assert lengths == set(range(SHORTEST, LONGEST + 1))


def test_points_of_all_degrees_have_about_the_same_size():
    sequences = draw(2000)
    for degree in DEGREES:
        assert 0.8 < sequences.y[sequences.degree == degree].std() < 1.2


def test_the_same_seed_draws_the_same_sequences_and_another_draws_others():
    assert torch.equal(draw(3).y, draw(3).y)
    assert not torch.equal(draw(3).y, draw(3, seed=1).y)


def test_the_basis_is_that_of_Chebyshev():
    u = np.linspace(-1, 1, LONGEST)
    naive = [np.polynomial.chebyshev.Chebyshev.basis(k)(u) for k in range(5)]
    np.testing.assert_allclose(chebyshev(4), naive, atol=1e-12)
