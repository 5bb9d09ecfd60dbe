"""Training on a Ray cluster of several nodes on this machine, and the parameter server alone.

    python -m benchmarks.cluster --nodes 3 -- --game CartPole-v1 --workers 6
    python -m benchmarks.cluster --server

The first starts Ray with `--nodes` nodes of one core each, and trains on them; arguments after `--`
go to `train_a3c.py`. The second measures how many exchanges per second one server handles, for the
networks of Atari games: by plain calls, and through Ray from `--nodes` callers.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from agents.cli import CommandParser, run_command
from agents.cluster import NEEDS_RAY, has_ray
from agents.cluster.parameter_server import ParameterServer, Push, Snapshot
from agents.config import TrainConfig
from agents.networks.actor_critic import ActorCritic
from benchmarks.system_info import describe, system_info
from envs import spaces

PROG = "python -m benchmarks.cluster"
ROOT = Path(__file__).parent.parent
OBJECT_STORE_BYTES = 200 * 2**20
SECONDS = 5.0


def main(argv: Sequence[str] | None = None) -> int:
    """Read the command line, measure, and return the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    end = words.index("--") if "--" in words else len(words)
    parser = CommandParser(
        prog=PROG,
        description=__doc__,
    )
    parser.add_argument(
        "--nodes",
        type=int,
        choices=range(1, 65),
        default=3,
        metavar="N",
        help="processes that take the part of machines",
    )
    parser.add_argument("--server", action="store_true", help="measure the server alone")
    args = parser.parse_args(words[:end])
    if not has_ray():
        parser.error(NEEDS_RAY)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ["PYTHONPATH"] = str(ROOT)
    if args.server:
        measure_server(args.nodes)
        return 0
    return train(args.nodes, words[end + 1 :])


def train(nodes: int, flags: Sequence[str]) -> int:
    """Train on a Ray cluster with this number of nodes; return the exit code."""
    from ray.cluster_utils import Cluster

    size: dict[str, Any] = {"num_cpus": 1, "object_store_memory": OBJECT_STORE_BYTES}
    cluster = Cluster(initialize_head=True, head_node_args={**size, "include_dashboard": False})
    try:
        for _ in range(nodes - 1):
            cluster.add_node(**size)
        cluster.wait_for_nodes()
        command = [sys.executable, str(ROOT / "train_a3c.py"), *flags]
        return subprocess.run([*command, "--cluster", cluster.address], check=False).returncode
    finally:
        cluster.shutdown()


def measure_server(callers: int) -> None:
    """Print exchanges per second, for each network."""
    print(describe(system_info()))
    print("| torso | numbers | plain calls/s | through Ray/s | MB/s |\n|---|---|---|---|---|")
    for torso in ("nips", "nature"):
        config = TrainConfig(torso=torso)
        network = ActorCritic(spaces(config.env), config)
        size = sum(parameter.numel() for parameter in network.parameters())
        plain = _plain_rate(size)
        remote = _remote_rate(size, callers)
        traffic = remote * 2 * 4 * size / 1e6
        print(f"| {torso} | {size:,} | {plain:,.0f} | {remote:,.0f} | {traffic:,.0f} |", flush=True)


def _start(size: int) -> Snapshot:
    return Snapshot(np.zeros(size, np.float32), np.zeros(3, np.int64))


def _push(size: int) -> Push:
    return Push(0, np.ones(size, np.float32), np.array([640, 8, 0]))


def _rate(call: Callable[[], object], times: int) -> float:
    """Calls per second."""
    call()
    begin = time.perf_counter()
    done = 0
    while (seconds := time.perf_counter() - begin) < SECONDS:
        call()
        done += times
    return done / seconds


def _plain_rate(size: int) -> float:
    """Exchanges per second of a server in this process."""
    server, push = ParameterServer(_start(size), 10**9, None), _push(size)
    return _rate(lambda: server.push(push), 1)


def _remote_rate(size: int, callers: int) -> float:
    """Exchanges per second through Ray, from this number of callers at the same time."""
    import ray

    ray.init(
        address="local",
        num_cpus=1,
        object_store_memory=OBJECT_STORE_BYTES,
        include_dashboard=False,
        log_to_driver=False,
    )
    try:
        kind: Any = ParameterServer
        actor = ray.remote(kind).options(num_cpus=0).remote(_start(size), 10**9, None)

        def call() -> None:
            calls = [actor.push.remote(_push(size)) for _ in range(callers)]
            for reply in calls:
                ray.get(reply).parameters.copy()

        return _rate(call, callers)
    finally:
        ray.shutdown()


if __name__ == "__main__":
    run_command(main, PROG)
