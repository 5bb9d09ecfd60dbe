"""What counts as the end of Ray, and what does not."""

import socket
from types import SimpleNamespace

import pytest

pytest.importorskip("ray")

from agents.cluster import ray_client
from agents.cluster.ray_client import STALL_TIMEOUT_S, ClusterFailedError, check_ray


@pytest.fixture
def network(monkeypatch):
    """The errors of the next connections, and the seconds that have passed."""
    state = SimpleNamespace(errors=[], seconds=0.0)

    def connect(address, timeout):
        assert address == ("head", 6379)
        if state.errors:
            error = state.errors.pop(0)
            state.seconds += timeout if isinstance(error, TimeoutError) else 0.0
            raise error
        return SimpleNamespace(close=lambda: None)

    def sleep(seconds):
        state.seconds += seconds

    context = SimpleNamespace(gcs_address="head:6379")
    monkeypatch.setattr(ray_client.ray, "get_runtime_context", lambda: context)
    monkeypatch.setattr(socket, "create_connection", connect)
    monkeypatch.setattr(
        ray_client, "time", SimpleNamespace(monotonic=lambda: state.seconds, sleep=sleep)
    )
    return state


@pytest.mark.parametrize("error", [TimeoutError("timed out"), OSError(113, "No route to host")])
def test_a_network_that_stalls_does_not_end_the_run_unless_it_stays_so(network, error):
    network.errors = [error] * 3
    check_ray()
    assert network.errors == []
    network.errors, before = [error] * 1000, network.seconds
    with pytest.raises(ClusterFailedError, match=r"^Ray at head:6379 is gone"):
        check_ray()
    assert STALL_TIMEOUT_S < network.seconds - before < 60


def test_a_head_that_refuses_connections_is_gone_at_once(network):
    network.errors = [ConnectionRefusedError("refused")] * 2
    with pytest.raises(ClusterFailedError, match="refused"):
        check_ray()
    assert network.seconds == 0
