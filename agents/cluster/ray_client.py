"""What the driver needs from Ray besides calls: joining, placing actors, its end and its errors."""

import logging
import os
import socket
import time
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from agents.config import TrainConfig
from agents.system.resources import available_cpus

# Ray's memory holds the messages between server and nodes: a few parameter sets at a time.
OBJECT_STORE_BYTES = 200 * 2**20
CONNECT_TIMEOUT_S = 5.0
# Less than the minute after which Ray gives up.
STALL_TIMEOUT_S = 40.0
_ROOT = Path(__file__).parents[2]


class ClusterFailedError(Exception):
    """The run cannot go on; the message says why."""


def connect(config: TrainConfig) -> None:
    """Join the Ray that the settings name, or start one on this machine.

    Raises:
        ClusterFailedError: If that fails.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        if config.cluster == "local":
            ray.init(
                address="local",
                num_cpus=config.processes or available_cpus(),
                object_store_memory=OBJECT_STORE_BYTES,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
            return
        # The other machines receive this code; they need only the packages that it imports.
        modules = [str(_ROOT / name) for name in ("agents", "envs", "neurocoder")]
        ray.init(
            address=config.cluster,
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env={"py_modules": modules},
        )
    except Exception as error:  # Ray raises a plain Exception if its start takes too long
        raise ClusterFailedError(f"Ray ({config.cluster}): {first_line(error)}") from error


def check_ray() -> None:
    """Raise if Ray's head is gone; Ray itself would end this process after a minute.

    If its machine refuses the connection, the head is gone. A network that stalls is waited for.

    Raises:
        ClusterFailedError: If the head is gone, or not reached for `STALL_TIMEOUT_S` seconds.
    """
    host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
    deadline = time.monotonic() + STALL_TIMEOUT_S
    while True:
        try:
            socket.create_connection((host, int(port)), timeout=CONNECT_TIMEOUT_S).close()
            return
        except OSError as error:
            if isinstance(error, ConnectionError) or time.monotonic() > deadline:
                raise ClusterFailedError(f"Ray at {host}:{port} is gone ({error})") from error
        time.sleep(1.0)


def make_actor(kind: type, machine: str, cpus: int) -> Any:
    """A class as a Ray actor on the given machine; Ray neither restarts it nor retries calls."""
    place = NodeAffinitySchedulingStrategy(node_id=machine, soft=False)
    return ray.remote(kind).options(num_cpus=cpus, scheduling_strategy=place)


def first_line(error: BaseException) -> str:
    """The first line of an error, or of its cause in a remote call."""
    cause = getattr(error, "cause", None) or error
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return lines[0] if lines else type(cause).__name__
