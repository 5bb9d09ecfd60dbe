"""The supervisor's side of a cluster: one process, the driver, in place of the worker processes."""

import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import psutil

from agents.a3c.worker_group import EnvironmentFactory, GroupSpec, make_training_env
from agents.cluster import NEEDS_RAY, has_ray
from agents.cluster.link import Gauge, Link
from agents.config import SettingError, TrainConfig
from agents.training.managed_process import ManagedProcess
from agents.training.rollout_queue import RolloutQueue
from agents.training.shared_state import SharedState
from agents.training.supervisor import train
from agents.training.worker_pool import WorkerPool

CONNECT_TIMEOUT_S = 5.0


def train_on_cluster(
    config: TrainConfig,
    argv: Sequence[str] = (),
    make_env: EnvironmentFactory = make_training_env,
) -> int:
    """Train like `agents.training.supervisor.train`, with the workers on a cluster's machines.

    Raises:
        SettingError: Also if Ray is not installed, or does not run where `config.cluster` says.
    """
    check_cluster(config)
    return train(config, argv, make_env, pool_class=ClusterPool)


def check_cluster(config: TrainConfig) -> None:
    """Refuse a cluster that cannot be reached, without importing Ray.

    Raises:
        SettingError: saying what to do.
    """
    address = config.cluster
    if not has_ray():
        raise SettingError("cluster", address, NEEDS_RAY)
    if address == "local":
        return
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS", "auto")
    # The program joins Ray through its local process.
    if not any(process.info["name"] == "raylet" for process in psutil.process_iter(["name"])):
        allowed = "Ray does not run on this machine; start it: ray start --address HOST:PORT"
        raise SettingError("cluster", config.cluster, allowed)
    host, _, port = address.rpartition(":")
    if host and port.isdecimal():
        try:
            socket.create_connection((host, int(port)), timeout=CONNECT_TIMEOUT_S).close()
        except (OSError, OverflowError) as error:
            allowed = f"nothing answers there ({error})"
            raise SettingError("cluster", config.cluster, allowed) from error


class ClusterPool(WorkerPool):
    """The processes of a run on a cluster; for the arguments see `WorkerPool`.

    The only process is the driver, which `WorkerPool` treats like a central learner.
    """

    # At the end, the nodes hand over what they still have.
    stop_timeout = 20.0

    def __init__(
        self, spec: GroupSpec, shared: SharedState, queue: RolloutQueue | None = None
    ) -> None:
        nobody = replace(spec.config, workers=0, cluster="none")
        super().__init__(replace(spec, config=nobody), shared, queue)
        self.link = link = Link.create()
        link.optimizer_updates.fill_(shared.updates)
        self._sync_requests = link.requests

        def target(incarnation: int) -> tuple[Callable[..., None], tuple[Any, ...]]:
            first = replace(spec, incarnation=incarnation)
            return _run_driver, (first, shared, link)

        self.learner = ManagedProcess(
            "the cluster's driver",
            target,
            progress=lambda: shared.updates,
            heartbeat=lambda: (int(link.heartbeat),),
            incarnation=spec.incarnation,
        )

    @property
    def workers_alive(self) -> int:
        """The number of workers that run on all machines."""
        return int(self.link.gauges[Gauge.WORKERS])

    @property
    def restarts(self) -> int:
        """The number of processes, nodes and servers that died and were replaced."""
        return super().restarts + int(self.link.gauges[Gauge.RESTARTS])

    @property
    def gauges(self) -> dict[str, float]:
        """TensorBoard tag -> current value, of what the machines exchange."""
        return self.link.tags()


def _run_driver(*arguments: Any) -> None:
    """Run the driver; imported here, so that only its own process imports Ray."""
    from agents.cluster.driver import run_driver

    run_driver(*arguments)
