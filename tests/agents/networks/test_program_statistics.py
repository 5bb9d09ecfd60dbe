"""What an evaluation tells of the heads' programs."""

import math
import pickle

import numpy as np
import pytest

from agents.evaluation.runner import evaluate_policy
from agents.networks.inspection import NeurocoderProgram, PolicyOutput
from agents.networks.program_statistics import MAX_STATES, EvenSampler, summarise_programs
from agents.training.evaluator import play_evaluation
from tests.agents.runs import make_config, make_network


def make_program(u, sigma=(2.0, 1.0), gate=0.5):
    w = np.asarray(u, np.float32)
    return NeurocoderProgram(
        w, w, w, np.array(sigma, np.float32), None if gate is None else np.float32(gate)
    )


def make_thought(number, program=None):
    program = program or make_program(np.full((2, 4), number / 1e4))
    return PolicyOutput(np.ones(1, np.float32), np.float32(number), program, None)


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


@pytest.mark.parametrize("count", [1, MAX_STATES, MAX_STATES + 1, 5 * MAX_STATES + 3])
def test_what_is_kept_is_bounded_and_spread_evenly(count):
    sampler = EvenSampler()
    for number in range(count):
        sampler.add(make_thought(number, make_program(np.ones((2, 4)), sigma=(number + 1, 0.5))))
    kept = sampler.summary()["actor"].singular_values[:, 0] - 1
    assert len(kept) <= MAX_STATES
    assert len(kept) >= min(count, MAX_STATES // 2)
    assert kept[0] == 0
    assert len(set(np.diff(kept))) <= 1
    assert kept[-1] >= count - 2 * (count / len(kept))


@pytest.mark.parametrize("head", ["linear", "hypernet"])
def test_other_heads_have_nothing_to_tell(head):
    config, sampler = make_config(head=head), EvenSampler()
    evaluate_policy(make_network(config), config, "sampled", 1, 1, on_thought=sampler.add)
    assert sampler.summary() == {}


def test_an_evaluations_record_holds_the_programs_of_its_sampled_games_and_is_small(tmp_path):
    config = make_config(max_frames=136, eval_episodes=1)
    network, thoughts = make_network(config), []
    record = play_evaluation(config, tmp_path, network, 7)
    evaluate_policy(network, config, "sampled", 1, config.seed, on_thought=thoughts.append)
    assert set(record.programs) == {"actor", "critic"}
    for head, summary in record.programs.items():
        programs = [getattr(thought, head) for thought in thoughts[::16]]
        assert len(programs) == 3
        expected = np.mean([p.v_attention for p in programs], axis=0)
        np.testing.assert_allclose(summary.attention[1], expected, rtol=1e-5)
        gates = [p.residual_gate for p in programs]
        np.testing.assert_allclose(summary.residual_gate, gates, rtol=1e-6)
    sent = pickle.loads(pickle.dumps(record))
    np.testing.assert_array_equal(
        sent.programs["actor"].attention, record.programs["actor"].attention
    )


def test_a_record_of_the_largest_sample_stays_below_a_hundred_kilobytes():
    sampler = EvenSampler()
    program = make_program(np.ones((10, 20)), sigma=np.arange(10, 0, -1))
    for _ in range(2 * MAX_STATES):
        sampler.add(PolicyOutput(np.ones(1, np.float32), np.float32(0), program, program))
    assert len(pickle.dumps(sampler.summary())) < 100_000
