"""What a node hands over and takes in, without Ray; some with worker processes of its own."""

import dataclasses
import time
import types

import numpy as np
import pytest
import torch

from agents.a3c.worker_group import GroupSpec
from agents.cluster.node import Node
from agents.cluster.parameter_server import ParameterServer, ServerLostError, Snapshot
from agents.config import TrainConfig
from agents.training.parameter_stores import SharedMemoryStore
from agents.training.shared_state import Counter
from tests.agents.tiny_env import make_broken_env

CONFIG = TrainConfig(
    game="CartPole-v1",
    workers=2,
    processes=2,
    envs_per_worker=2,
    num_steps=5,
    head="linear",
    total_timesteps=10**6,
    sync_updates=4,
)


class InProcess:
    """A server that nodes in this process use; `on_push` is called before each push returns."""

    def __init__(self, config=CONFIG, counts=(0, 0, 0), max_lag=10**6):
        probe = Node(GroupSpec(config), Blank())
        parameters = probe.shared.parameters.numpy().copy()
        state = probe.shared.optimizer_state.numpy().copy()
        start = Snapshot(parameters, np.array(counts), state, counts[1])
        self.server = ParameterServer(start, max_lag, probe._where_statistics)
        self.where = probe._where_statistics
        self.start = parameters
        self.generation = 1
        self.pushed = []
        self.on_push = lambda: None

    def push(self, push):
        self.pushed.append(push)
        reply = self.server.push(push)
        self.on_push()
        return reply

    def snapshot(self, *, with_optimizer=True):
        return self.server.snapshot(with_optimizer=with_optimizer)

    @property
    def parameters(self):
        return self.without_statistics(self.server.snapshot().parameters - self.start)

    def without_statistics(self, numbers):
        return np.delete(np.asarray(numbers), np.r_[self.where])


class Blank:
    """Stands for a server whose parameters are all zero."""

    generation = 1

    def snapshot(self, *, with_optimizer=True):  # noqa: ARG002
        return Snapshot(np.zeros(1, np.float32), np.zeros(3, np.int64), None)


def make_node(server, **changes):
    config = dataclasses.replace(CONFIG, **changes)
    return Node(GroupSpec(config), server)


def learn(node, change, updates=1, worker=0):
    """What a worker's updates do."""
    node.shared.parameters.add_(change)
    for _ in range(updates):
        node.shared.count(worker, is_applied=True, agent_steps=10)


def changed(node, server):
    return server.without_statistics(node.shared.parameters.numpy() - server.start)


def test_nodes_hand_over_what_their_workers_added_and_take_in_what_others_did():
    server = InProcess()
    a, b = make_node(server), make_node(server)
    learn(a, 1.0, updates=3)
    a.exchange(server)
    learn(b, 2.0, updates=2, worker=1)
    b.exchange(server)
    np.testing.assert_allclose(changed(b, server), 3.0, rtol=1e-5)
    np.testing.assert_allclose(changed(a, server), 1.0, rtol=1e-5)
    a.exchange(server)
    np.testing.assert_allclose(changed(a, server), 3.0, rtol=1e-5)
    np.testing.assert_allclose(server.parameters, 3.0, rtol=1e-5)
    assert server.server.snapshot().counts.tolist() == [50, 5, 0]


def test_what_the_workers_add_during_a_call_stays_and_is_handed_over_next():
    server = InProcess()
    node, other = make_node(server), make_node(server)
    learn(other, 4.0)
    other.exchange(server)
    learn(node, 1.0)
    server.on_push = lambda: learn(node, 0.5)
    node.exchange(server)
    np.testing.assert_allclose(changed(node, server), 5.5, rtol=1e-5)
    np.testing.assert_allclose(server.parameters, 5.0, rtol=1e-5)
    server.on_push = lambda: None
    node.exchange(server)
    np.testing.assert_allclose(changed(node, server), 5.5, rtol=1e-5)
    np.testing.assert_allclose(server.parameters, 5.5, rtol=1e-5)
    assert server.server.snapshot().counts.tolist() == [30, 3, 0]


def test_the_global_step_is_that_of_all_nodes_and_the_optimizer_counts_its_own_updates():
    server = InProcess(counts=(1000, 70, 2))
    a, b = make_node(server), make_node(server)
    assert (a.shared.global_step, a.shared.updates) == (1000, 70)
    learn(a, 0.0, updates=5)
    a.exchange(server)
    learn(b, 0.0, updates=2)
    assert b.shared.global_step == 1020  # it does not know better yet
    b.exchange(server)
    assert b.shared.global_step == 1070
    assert b.shared.updates == 72
    learn(b, 0.0, updates=1)
    assert b.shared.global_step == 1080
    assert b.shared.skipped_updates == 2


def test_a_node_that_joins_starts_with_the_newest_optimizer_state_and_its_count():
    server = InProcess()
    node = make_node(server)
    for updates, with_optimizer in ((5, True), (3, False)):
        node.shared.optimizer_state.fill_(updates)
        learn(node, 0.0, updates=updates)
        node.exchange(server, with_optimizer=with_optimizer)
    late = make_node(server)
    assert (late.shared.optimizer_state == 5).all()
    assert late.shared.updates == 5
    assert late.shared.global_step == 80


def test_after_a_refusal_a_node_starts_from_what_the_server_has():
    server = InProcess()
    a, b = make_node(server), make_node(server)
    learn(a, 1.0)
    a.shared.optimizer_state.fill_(3.0)
    a.exchange(server, with_optimizer=True)
    learn(b, float("nan"))
    b.shared.optimizer_state.fill_(float("nan"))
    b.exchange(server)
    np.testing.assert_allclose(changed(b, server), 1.0, rtol=1e-5)
    assert (b.shared.optimizer_state == 3).all()
    assert b.shared.global_step == 20
    assert server.server.snapshot().traffic.dropped == 1
    learn(b, 1.0)
    b.exchange(server)
    np.testing.assert_allclose(server.parameters, 2.0, rtol=1e-5)
    assert server.server.snapshot().counts.tolist() == [30, 2, 0]


def test_a_push_whose_answer_is_lost_is_not_repeated():
    server = InProcess()
    node = make_node(server)
    # As if workers ran.
    running = {"children": [None], "kill_hung": lambda: None, "workers_alive": 1, "restarts": 0}
    node.pool = types.SimpleNamespace(**running)
    node._receive = lambda timeout: None  # noqa: ARG005

    def lose():
        raise ServerLostError

    learn(node, 1.0, updates=4)
    server.on_push = lose
    node.step(server, 0.01)
    assert node._generation is None
    learn(node, 8.0)  # what is learned until there is a server again is lost, too
    server.on_push = lambda: None
    node.step(server, 0.01)
    assert node._generation is not None
    np.testing.assert_allclose(changed(node, server), 1.0, rtol=1e-5)
    learn(node, 1.0, updates=4)
    node.step(server, 0.01)
    np.testing.assert_allclose(server.parameters, 2.0, rtol=1e-5)
    assert server.server.snapshot().counts.tolist() == [80, 8, 0]
    assert len(server.pushed) == 2


def test_statistics_of_observations_are_those_of_all_nodes():
    server = InProcess()
    nodes = [make_node(server), make_node(server)]
    generator = torch.Generator().manual_seed(1)
    seen = []
    for turn in range(4):
        node = nodes[turn % 2]
        for row in range(2):
            batch = torch.randn(10, 4, generator=generator) * (turn + 1) + 3 * turn
            seen.append(batch)
            SharedMemoryStore(node.shared, CONFIG, row).merge_observations(server.where, batch)
        learn(node, 0.0)
        node.exchange(server)
    every = torch.cat(seen).double()
    expected = torch.cat([torch.tensor([80.0]), every.mean(0), every.var(0, correction=0)])
    found = torch.tensor(server.server.snapshot().parameters[server.where]).double()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5, check_dtype=False)
    here = nodes[1].shared.parameters[server.where].double()
    torch.testing.assert_close(here, expected, rtol=1e-4, atol=1e-5, check_dtype=False)


def test_nodes_train_until_the_budget_is_spent_and_hand_everything_over():
    server = InProcess()
    nodes = [make_node(server, workers=1, total_timesteps=1000) for _ in range(2)]
    reports = []
    while not reports or any(report.workers for report in reports[-2:]):
        reports += [node.step(server, 0.05) for node in nodes]
    counts = server.server.snapshot().counts
    assert counts[Counter.STEPS] >= 1000
    own = sum(node.shared.counters[:-1].sum(0) for node in nodes)
    assert counts.tolist() == own.tolist()
    assert sum(len(report.records) for report in reports) == counts[Counter.UPDATES]
    sizes = [push.counts[Counter.UPDATES] for push in server.pushed]
    assert np.median(sizes) >= CONFIG.sync_updates
    assert server.server.snapshot().optimizer_updates > 0
    assert server.server.snapshot().optimizer_state.any()
    assert server.parameters.any()


def test_the_processes_of_a_node_warm_up_for_as_long_as_the_driver_says():
    server = InProcess()
    node = make_node(server)
    node.step(server, 0.01, 40)
    [_, [spec, *_]] = node.pool.worker_processes[0]._target(1)
    assert spec.warmup_steps == 40
    node.stop(server)


def test_in_a_warm_up_a_node_follows_the_server():
    server = InProcess(max_lag=0)
    node, other = make_node(server, processes=1), make_node(server)
    node.step(server, 0.01, warmup_steps=10**9)
    learn(other, 1.0)
    other.exchange(server, with_optimizer=True)
    deadline = time.monotonic() + 60
    while not np.allclose(changed(node, server), 1) and time.monotonic() < deadline:
        node.step(server, 0.1, warmup_steps=10**9)
    assert node.shared.warmup_rollouts.any()
    np.testing.assert_allclose(changed(node, server), 1, rtol=1e-4)
    assert node.shared.global_step == 10
    learn(node, 2.0)
    node.stop(server)
    np.testing.assert_allclose(server.parameters, 3, rtol=1e-4)


def test_what_a_node_learned_after_its_warm_up_is_not_taken_over():
    server = InProcess()
    node = make_node(server)
    node.shared.warmup_rollouts[0] = 5
    node._base_time -= 10
    assert node._is_warming_up
    learn(node, 1.0)
    assert not node._is_warming_up
    node.exchange(server)
    node._base_time -= 10
    assert not node._is_warming_up


def test_a_stopped_node_hands_over_the_rest():
    server = InProcess()
    node = make_node(server, sync_updates=10_000)
    while node.shared.global_step < 200:
        node.step(server, 0.1)
    assert server.server.snapshot().counts[Counter.STEPS] == 0
    node.stop(server)
    counts = server.server.snapshot().counts
    assert counts.tolist() == node.shared.counters[:-1].sum(0).tolist()
    np.testing.assert_allclose(changed(node, server), server.parameters, rtol=1e-4, atol=1e-6)


def test_a_node_whose_workers_die_again_and_again_says_so():
    config = dataclasses.replace(CONFIG, game="Frostbite", torso="nips")
    node = Node(GroupSpec(config, make_broken_env), Blank())
    while not (report := node.step(Blank(), 0.1)).failure:
        pass
    assert "times in a row" in report.failure
    node.pool.kill()


@pytest.mark.parametrize("game", ["Frostbite", "CartPole-v1"])
def test_only_networks_that_normalise_keep_statistics(game):
    config = TrainConfig(game=game, workers=1, head="linear")
    node = Node(GroupSpec(config), Blank())
    assert (node.shared.observed is not None) == (game == "CartPole-v1")


def test_a_node_needs_no_room_where_the_run_is_written_on_another_machine(monkeypatch):
    monkeypatch.setattr("agents.training.preflight.free_disk_space", lambda _: 0)
    Node(GroupSpec(CONFIG), Blank())
