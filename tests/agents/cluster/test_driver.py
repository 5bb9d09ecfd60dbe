"""The cluster's driver: what it tells a new parameter server, and the nodes."""

from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("ray")

from agents.cluster import driver


def test_a_new_server_takes_over_all_of_the_last_ones_state(monkeypatch):
    started = []
    actor = SimpleNamespace(remote=lambda start, *_: started.append(start))
    monkeypatch.setattr(driver, "make_actor", lambda *_, **__: actor)
    context = SimpleNamespace(get_node_id=lambda: "here")
    monkeypatch.setattr(driver.ray, "get_runtime_context", lambda: context)
    new = driver.Driver.__new__(driver.Driver)
    new.shared = SimpleNamespace(
        parameters=torch.randn(7),
        counters=torch.tensor([[1, 2, 3], [10, 20, 30]]),
        optimizer_state=torch.randn(2, 7),
        updates=99,
    )
    new.link = SimpleNamespace(optimizer_updates=torch.tensor(5))
    new.config = SimpleNamespace(max_lag=0)
    new._generation, new._where_statistics = 3, None

    new._start_server()
    (start,) = started
    assert start.parameters.tolist() == new.shared.parameters.tolist()
    assert start.optimizer_state.tolist() == new.shared.optimizer_state.tolist()
    assert start.counts.tolist() == [11, 22, 33]
    assert start.optimizer_updates == 5
    assert new._generation == 4

    new.link.optimizer_updates.fill_(0)  # no optimizer state has come from a node yet
    new._start_server()
    assert started[-1].optimizer_updates == 0


def test_where_no_machine_offers_a_cpu_a_run_says_so_once(monkeypatch):
    monkeypatch.setattr(driver, "MIRROR_INTERVAL_S", 0)
    monkeypatch.setattr(driver, "check_ray", lambda: None)
    machines = [{"Alive": True, "Resources": {"memory": 1.0}}]
    monkeypatch.setattr(driver.ray, "nodes", lambda: machines)
    new, notes = driver.Driver.__new__(driver.Driver), []
    new._note = lambda _, text: notes.append(text)
    new._members, new._looked_at, new._failures, new._cpus_at_start = [], 0.0, {}, 0
    new._warn_at = driver.time.monotonic() + 1000
    new._start_nodes()
    assert notes == []
    new._warn_at = 0.0
    for _ in range(3):
        new._start_nodes()
    assert notes == ["no machine of this Ray offers a CPU; training begins once one joins"]


def test_ray_is_not_asked_for_machines_when_it_is_gone(monkeypatch):
    def gone():
        raise driver.ClusterFailedError("Ray is gone")

    monkeypatch.setattr(driver, "check_ray", gone)
    monkeypatch.setattr(driver.ray, "nodes", lambda: pytest.fail("this would take a minute"))
    new = driver.Driver.__new__(driver.Driver)
    new._members, new._looked_at = [], 0.0
    with pytest.raises(driver.ClusterFailedError, match="gone"):
        new._start_nodes()


def test_nodes_are_given_the_warm_up_of_the_processes_that_they_start():
    calls = []
    actor = SimpleNamespace(step=SimpleNamespace(remote=lambda *args: calls.append(args)))
    new = driver.Driver.__new__(driver.Driver)
    new.shared, new._server = SimpleNamespace(warmup_steps=torch.tensor([70])), "the server"
    new._call_step(actor)
    assert calls == [("the server", driver.STEP_S, 70)]
