"""What is refused before a run starts, and a small run on a Ray of its own."""

import dataclasses
import importlib.util
import socket
import subprocess

import psutil
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from agents.a3c.worker_group import GroupSpec
from agents.checkpoint import list_checkpoints, load_checkpoint
from agents.cluster.link import Gauge, Link
from agents.cluster.pool import ClusterPool, check_cluster, train_on_cluster
from agents.config import SettingError, TrainConfig
from agents.networks.actor_critic import ActorCritic
from agents.run_folder import resolve_run
from agents.training.shared_state import Counter, SharedState
from agents.training.worker_pool import SyncState
from envs import spaces
from tests.process_harness import command, curves, meta

CONFIG = TrainConfig(game="CartPole-v1", workers=4, head="linear", cluster="local")


@pytest.mark.parametrize(
    ("changes", "flag"),
    [
        ({"workers": 0}, "--workers"),
        ({"learner": "cpu"}, "--learner"),
        ({"learner": "cuda"}, "--learner"),
        ({"game": "Frostbite", "bonus": "simhash"}, "--bonus"),
        *[
            ({"cluster": bad}, "--cluster")
            for bad in ("", "here", "host:", ":1", "host:0", "a b:1")
        ],
        ({"sync_updates": 0}, "--sync-updates"),
        ({"max_lag": -1}, "--max-lag"),
    ],
)
def test_settings_that_cannot_work_on_a_cluster_are_refused_by_name(changes, flag):
    with pytest.raises(SettingError, match=f"^{flag} "):
        dataclasses.replace(CONFIG, **changes)


def test_without_ray_a_line_says_how_to_install_it(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)  # noqa: ARG005
    config = dataclasses.replace(CONFIG, run_dir=str(tmp_path / "runs"))
    with pytest.raises(SettingError, match=r"pip install -e '\.\[cluster\]'"):
        train_on_cluster(config)
    assert not (tmp_path / "runs").exists()


class Raylet:
    info = {"name": "raylet"}  # noqa: RUF012


def test_a_ray_that_does_not_run_is_refused(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    check_cluster(CONFIG)  # it starts one
    with socket.create_server(("127.0.0.1", 0)) as server:
        open_address = f"127.0.0.1:{server.getsockname()[1]}"
        for where in ("auto", open_address):
            monkeypatch.setattr(psutil, "process_iter", lambda names: [])  # noqa: ARG005
            with pytest.raises(SettingError, match="does not run on this machine"):
                check_cluster(dataclasses.replace(CONFIG, cluster=where))
            monkeypatch.setattr(psutil, "process_iter", lambda names: [Raylet()])  # noqa: ARG005
            check_cluster(dataclasses.replace(CONFIG, cluster=where))
    with pytest.raises(SettingError, match="nothing answers there"):
        check_cluster(dataclasses.replace(CONFIG, cluster=open_address))


def test_the_pool_is_one_process_and_shows_what_the_driver_reports():
    network = ActorCritic(spaces(CONFIG.env), CONFIG)
    shared = SharedState.for_training(network, CONFIG)
    assert len(shared.counters) == 2
    shared.counters[-1, Counter.UPDATES] = 50  # of a resumed run, with its optimizer state
    pool = ClusterPool(GroupSpec(CONFIG), shared)
    assert pool.sync_state is SyncState.IDLE
    assert pool.processes == []
    assert pool.link.optimizer_updates.tolist() == [50]
    pool.link.gauges.copy_(pool.link.gauges.new_tensor([3, 12, 2, 1.5, 7, 1e6]))
    assert (pool.workers_alive, pool.restarts) == (12, 2)
    assert pool.link.gauges[Gauge.DROPPED] == 7
    assert pool.gauges == {
        "cluster/nodes": 3,
        "cluster/policy_lag": 1.5,
        "cluster/dropped_gradients": 7,
        "cluster/bytes_per_s": 1e6,
    }


@pytest.mark.slow
def test_a_run_on_a_ray_of_its_own_ends_like_any_other_and_can_go_on_without(tmp_path):
    pytest.importorskip("ray")
    arguments = (
        *("--game", "CartPole-v1", "--head", "linear", "--workers", 4, "--processes", 1),
        *("--cluster", "local", "--total-timesteps", 4000, "--log-interval", 0.2),
        *("--eval-interval", 2000, "--eval-episodes", 1),
    )
    subprocess.run(command(*arguments), cwd=tmp_path, check=True, timeout=150)
    run = resolve_run(tmp_path / "runs" / "latest")
    saved = load_checkpoint(list_checkpoints(run / "checkpoints")[-1]).training_state
    assert saved.global_step >= 4000
    assert saved.updates > 40
    assert meta(run)["status"] == "finished"
    tags = EventAccumulator(str(run)).Reload().Tags()["scalars"]
    assert {tag for tag in tags if tag.startswith("cluster/")} == set(Link.create().tags())
    rows, events = curves(run)
    assert rows == events
    assert rows[-1] == saved.global_step
    assert saved.recent_games

    more = ("--resume", run, "--cluster", "none", "--workers", 0, "--total-timesteps", 5000)
    subprocess.run(command(*more), cwd=tmp_path, check=True, timeout=60)
    resumed = load_checkpoint(list_checkpoints(run / "checkpoints")[-1]).training_state
    assert resumed.global_step >= 5000
