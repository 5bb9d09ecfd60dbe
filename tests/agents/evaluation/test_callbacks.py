"""Callbacks: progress lines, and the sample of programs of an evaluation."""

import pickle

import numpy as np
import pytest

from agents.evaluation import callbacks
from agents.evaluation.callbacks import MAX_STATES, EvenSampler, ProgressLines
from agents.evaluation.runner import episode_seeds, evaluate_policy
from agents.networks.inspection import NeurocoderProgram, PolicyOutput
from agents.training.evaluator import play_evaluation
from tests.agents.episode_log import EpisodeLog
from tests.agents.runs import make_config, make_network

CONFIG = make_config(max_frames=40)


def test_a_line_is_printed_after_each_episode():
    lines = []
    first, second = evaluate_policy(
        None, CONFIG, "random", [1, 2], [ProgressLines("random", 2, lines.append)]
    )
    assert lines == [
        f"random 1/2: score {first.score:g}, 10 agent steps",
        f"random 2/2: score {second.score:g}, 10 agent steps",
    ]


def test_within_a_long_episode_lines_are_printed_now_and_then(monkeypatch):
    monkeypatch.setattr(callbacks, "SECONDS_BETWEEN_LINES", -1.0)
    lines = []
    evaluate_policy(None, CONFIG, "random", [1], [ProgressLines("random", 1, lines.append)])
    assert len(lines) == 11
    assert lines[2] == "random 1/1: score 0 so far, 3 agent steps"


def make_program(u, sigma=(2.0, 1.0), gate=0.5):
    w = np.asarray(u, np.float32)
    return NeurocoderProgram(
        w, w, w, np.array(sigma, np.float32), None if gate is None else np.float32(gate)
    )


def make_output(number, program=None):
    program = program or make_program(np.full((2, 4), number / 1e4))
    return PolicyOutput(np.ones(1, np.float32), np.float32(number), program, None)


@pytest.mark.parametrize("count", [1, MAX_STATES, MAX_STATES + 1, 5 * MAX_STATES + 3])
def test_what_is_kept_is_bounded_and_spread_evenly(count):
    sampler = EvenSampler()
    for number in range(count):
        sampler.add(make_output(number, make_program(np.ones((2, 4)), sigma=(number + 1, 0.5))))
    kept = sampler.summary()["actor"].singular_values[:, 0] - 1
    assert len(kept) <= MAX_STATES
    assert len(kept) >= min(count, MAX_STATES // 2)
    assert kept[0] == 0
    assert len(set(np.diff(kept))) <= 1
    assert kept[-1] >= count - 2 * (count / len(kept))


@pytest.mark.parametrize("head", ["linear", "hypernet"])
def test_other_heads_have_an_empty_summary(head):
    config, sampler = make_config(head=head), EvenSampler()
    evaluate_policy(make_network(config), config, "sampled", [1], [sampler])
    assert sampler.summary() == {}


def test_an_evaluations_record_holds_the_programs_of_its_sampled_episodes_and_is_small(tmp_path):
    config = make_config(max_frames=136, eval_episodes=1)
    network, log = make_network(config), EpisodeLog(inspect_every=1)
    record = play_evaluation(config, tmp_path, network, 7)
    evaluate_policy(network, config, "sampled", episode_seeds(config.seed, 1), [log])
    assert set(record.programs) == {"actor", "critic"}
    for head, summary in record.programs.items():
        programs = [getattr(output, head) for output in log.outputs[::16]]
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
