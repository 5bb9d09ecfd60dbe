"""What the parameter server adds up, and what it refuses."""

import numpy as np
import pytest

from agents.cluster.parameter_server import ParameterServer, Push, Snapshot
from agents.training.shared_state import Counter

SIZE = 12
# One observation component and its statistics: count, mean, variance.
WHERE = slice(2, 5)


def make_server(max_lag=100, where=None, counts=(0, 0, 0)):
    start = Snapshot(
        np.zeros(SIZE, np.float32), np.array(counts), np.zeros((2, SIZE), np.float32), 0
    )
    return ParameterServer(start, max_lag, where)


def push_of(change, version=0, steps=80, updates=4, skipped=0, **more):
    change = np.full(SIZE, change, np.float32) if np.isscalar(change) else change
    return Push(version, change, np.array([steps, updates, skipped]), **more)


def test_what_the_nodes_hand_over_adds_up():
    server = make_server(counts=(1000, 50, 1))
    first = server.push(push_of(0.5, version=50))
    second = server.push(push_of(0.25, version=50, steps=40, updates=2, skipped=3))
    assert first.is_accepted
    assert second.is_accepted
    np.testing.assert_array_equal(first.parameters, np.full(SIZE, 0.5))
    np.testing.assert_array_equal(second.parameters, np.full(SIZE, 0.75))
    assert second.counts.tolist() == [1120, 56, 4]
    assert server.snapshot().counts.tolist() == [1120, 56, 4]


def test_a_change_older_than_the_maximum_lag_is_dropped_and_counted():
    server = make_server(max_lag=8)
    for _ in range(3):
        assert server.push(push_of(1.0, version=0)).is_accepted  # 0, 4 and 8 updates behind
    reply = server.push(push_of(1.0, version=0))
    assert not reply.is_accepted
    np.testing.assert_array_equal(reply.parameters, np.full(SIZE, 3.0))
    # The games were played, but nothing was learned.
    assert reply.counts.tolist() == [320, 12, 0]
    traffic = server.snapshot().traffic
    assert (traffic.pushes, traffic.dropped) == (4, 4)
    assert traffic.lag == 0 + 4 + 8 + 12
    assert server.push(push_of(1.0, version=12)).is_accepted


@pytest.mark.parametrize("number", [np.nan, np.inf, 1e30])
def test_a_change_that_is_not_finite_is_refused(number):
    server = make_server()
    change = np.zeros(SIZE, np.float32)
    change[7] = number
    state = np.ones((2, SIZE), np.float32)
    reply = server.push(push_of(change, optimizer_state=state, optimizer_updates=4))
    assert not reply.is_accepted
    assert not reply.parameters.any()
    snapshot = server.snapshot()
    assert snapshot.traffic.dropped == 4
    assert not snapshot.optimizer_state.any()


def test_the_newest_finite_optimizer_state_is_kept():
    server = make_server()
    for value in (1.0, 2.0, np.nan):
        state = np.full((2, SIZE), value, np.float32)
        server.push(push_of(0.0, optimizer_state=state, optimizer_updates=int(value == 2) * 9))
    server.push(push_of(0.0))
    snapshot = server.snapshot()
    assert (snapshot.optimizer_state == 2).all()
    assert snapshot.optimizer_updates == 9
    assert server.snapshot(with_optimizer=False).optimizer_state is None


def test_statistics_are_those_of_all_nodes_observations_together():
    server = make_server(where=WHERE)
    generator = np.random.default_rng(1)
    batches = [generator.normal(5 * i, 1 + i, 30 + 10 * i) for i in range(3)]
    for batch in batches:
        observed = np.array([len(batch), batch.mean(), batch.var()], np.float32)
        # What the node did to its own copy of them must not count twice.
        change = np.zeros(SIZE, np.float32)
        parameters = server.push(push_of(change, observed=observed)).parameters
    every = np.concatenate(batches)
    expected = [len(every), every.mean(), every.var()]
    np.testing.assert_allclose(parameters[WHERE], expected, rtol=1e-5)
    assert not np.delete(parameters, np.r_[WHERE]).any()


def test_observations_count_even_if_the_change_is_dropped_and_none_are_no_harm():
    server = make_server(max_lag=0, where=WHERE)
    observed = np.array([10, 3, 2], np.float32)
    server.push(push_of(0.0, observed=observed))
    reply = server.push(push_of(1.0, observed=observed))
    assert not reply.is_accepted
    np.testing.assert_allclose(reply.parameters[WHERE], [20, 3, 2])
    reply = server.push(push_of(0.0, version=4, observed=np.zeros(3, np.float32)))
    np.testing.assert_allclose(reply.parameters[WHERE], [20, 3, 2])


def test_answers_stay_as_they_are_while_the_server_goes_on():
    server = make_server()
    reply, snapshot = server.push(push_of(1.0)), server.snapshot()
    server.push(push_of(1.0))
    assert (reply.parameters == 1).all()
    assert (snapshot.parameters == 1).all()
    assert reply.counts[Counter.STEPS] == snapshot.counts[Counter.STEPS] == 80


def test_arrays_that_cannot_be_written_to_are_good_enough():
    start = Snapshot(np.zeros(SIZE, np.float32), np.zeros(3, np.int64), None)
    push = push_of(1.0, observed=np.ones(3, np.float32))
    for array in (start.parameters, start.counts, push.change, push.counts, push.observed):
        array.flags.writeable = False
    assert ParameterServer(start, 1, WHERE).push(push).is_accepted
