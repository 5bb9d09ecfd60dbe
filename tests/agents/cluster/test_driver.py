"""The cluster's driver: what a new parameter server starts from."""

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
