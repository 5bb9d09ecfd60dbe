"""What an evaluation tells of the heads' programs."""

import math

import numpy as np
import pytest

from agents.networks.inspection import NeurocoderProgram
from agents.networks.program_statistics import summarise_programs


def test_attention_is_averaged_over_states_and_entropy_is_one_when_even_and_zero_on_one_slot():
    even, single = np.full((2, 4), 0.125, np.float32), np.zeros((2, 4), np.float32)
    single[:, 1] = 0.5
    program = NeurocoderProgram(
        *[np.stack([even, single])] * 3, np.ones((2, 2), np.float32), np.array([0.1, 0.9])
    )
    summary = summarise_programs(program)
    assert summary.attention.shape == (3, 2, 4)
    np.testing.assert_allclose(summary.attention[0, 0], [0.0625, 0.3125, 0.0625, 0.0625])
    np.testing.assert_allclose(summary.attention_entropy, [1, 0], atol=1e-6)
    half = np.zeros((1, 2, 4), np.float32)
    half[..., :2] = 0.3
    program = NeurocoderProgram(half, half, half, np.ones((1, 2), np.float32), None)
    entropy = summarise_programs(program).attention_entropy
    assert entropy == pytest.approx(math.log(2) / math.log(4))
