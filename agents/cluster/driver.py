"""The driver of a cluster: the process beside the supervisor that talks to Ray; nothing else does.

It starts the parameter server and the nodes, replaces those that are lost, forwards the nodes'
records, and keeps a copy of the server's state in memory that it shares with the supervisor. From
this copy the supervisor evaluates and writes checkpoints, as on one machine, and the driver starts
a new server. Whatever Ray does to this process, it cannot harm the supervisor and its run folder.
"""

import logging
import signal
import time
from collections import defaultdict
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import ray
import torch
from ray.exceptions import RayError
from torch import Tensor

from agents.a3c.worker_group import GroupSpec
from agents.cluster.link import Gauge, Link
from agents.cluster.node import NodeActor, Report
from agents.cluster.parameter_server import (
    ParameterServer,
    RemoteServer,
    ServerLostError,
    Snapshot,
    Traffic,
)
from agents.cluster.ray_client import (
    ClusterFailedError,
    check_ray,
    connect,
    first_line,
    make_actor,
)
from agents.system.child_process import init_child, report_crash
from agents.system.messages import FailureRecord, send
from agents.system.output import quantity
from agents.training.preflight import build_network, check_env
from agents.training.shared_state import SharedState

# Seconds that a node trains before it reports.
STEP_S = 0.5
# Seconds between copies of the server's parameters, and between checks for machines. A lost server
# costs this much training. The optimizer's state is copied less often, and for every checkpoint.
MIRROR_INTERVAL_S = 1.0
OPTIMIZER_INTERVAL_S = 10.0
# A node that has not reported for this long is replaced.
NODE_TIMEOUT_S = 180.0
# A node without a first report for this long is probably waiting for its machine's cores.
WAITING_S = 30.0
# A machine whose nodes fail this often in a row, without an update, is given up.
MAX_FAILURES = 3
STOP_TIMEOUT_S = 12.0
# Each node that joins adds this to the incarnation, so that nodes play different games.
INCARNATIONS_PER_NODE = 2**40


@dataclass
class _Member:
    """A node, and the call to it that is in progress."""

    machine: str
    host: str
    actor: Any
    call: Any
    since: float
    workers: int
    report: Report | None = None


def run_driver(connection: Connection, spec: GroupSpec, shared: SharedState, link: Link) -> None:
    """Run the driver until the budget is spent, the supervisor says stop, or training fails.

    Args:
        connection: The connection to the supervisor; records are sent through it.
        spec: The workers of all nodes together.
        shared: The state to start from, and where the server's is copied to.
        link: Everything else that supervisor and driver share.
    """
    init_child(connection)
    with report_crash(connection, "the cluster's driver"):
        try:
            connect(spec.config)
            # The driver ends when the supervisor says so, once the nodes have handed over the rest.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            Driver(connection, spec, shared, link).run()
        except ClusterFailedError as error:
            send(connection, FailureRecord(str(error)))
        finally:
            ray.shutdown()


class Driver:
    """The driver; for the arguments see `run_driver`."""

    def __init__(
        self, connection: Connection, spec: GroupSpec, shared: SharedState, link: Link
    ) -> None:
        self.config, self.shared, self.link = spec.config, shared, link
        self._connection, self._spec = connection, spec
        spaces = check_env(spec.config, spec.make_env)
        network = build_network(spaces, replace(spec.config, workers=1), writes_files=False)
        self._where_statistics = network.where_statistics
        self._members: list[_Member] = []
        self._failures: defaultdict[str, int] = defaultdict(int)
        self._joined = self._generation = 0
        self._cpus_at_start = 0
        self._warn_at = time.monotonic() + WAITING_S
        self._looked_at = self._mirrored_at = self._optimizer_at = -np.inf
        self._traffic, self._traffic_at = Traffic(), time.monotonic()
        self._server = self._start_server()

    def run(self) -> None:
        """Train until the budget is spent or the supervisor says stop.

        Raises:
            ClusterFailedError: If Ray is gone, or every machine failed.
        """
        while not self.shared.is_over(self.config.total_timesteps):
            self.link.heartbeat.add_(1)
            self._start_nodes()
            self._receive()
            self._mirror()
        self._stop()

    def _start_server(self) -> RemoteServer:
        """Start a server on this machine, from the copy of the last server's state."""
        shared = self.shared
        start = Snapshot(
            shared.parameters.numpy(),
            shared.counters.sum(0).numpy(),
            shared.optimizer_state.numpy(),
            int(self.link.optimizer_updates),
        )
        self._generation += 1
        self._traffic = Traffic()
        # This process owns the server and the nodes, so Ray ends them when this process ends.
        actor = make_actor(ParameterServer, ray.get_runtime_context().get_node_id(), cpus=0).remote(
            start, self.config.max_lag, self._where_statistics
        )
        return RemoteServer(actor, self._generation)

    def _start_nodes(self) -> None:
        """Start a node on every machine that has none, at most once a second."""
        if time.monotonic() - self._looked_at < MIRROR_INTERVAL_S:
            return
        self._looked_at = time.monotonic()
        check_ray()  # without it, asking for the nodes takes a minute
        busy = {member.machine for member in self._members}
        machines = [
            machine
            for machine in ray.nodes()
            if machine["Alive"] and machine["Resources"].get("CPU", 0) >= 1
        ]
        usable = [m for m in machines if self._failures[m["NodeID"]] < MAX_FAILURES]
        if machines and not usable:
            raise ClusterFailedError("the nodes of all machines failed; the reasons are above")
        if machines:
            self._warn_at = np.inf
        elif time.monotonic() > self._warn_at:
            self._warn_at = np.inf
            text = "no machine of this Ray offers a CPU; training begins once one joins"
            self._note(logging.WARNING, text)
        if not self._cpus_at_start:
            self._cpus_at_start = sum(int(m["Resources"]["CPU"]) for m in usable)
        for machine in usable:
            if machine["NodeID"] not in busy:
                self._start_node(machine)

    def _start_node(self, machine: dict[str, Any]) -> None:
        cpus = int(machine["Resources"]["CPU"])
        # As many workers per core as at the start, also on machines that join later.
        workers = max(1, round(self.config.workers * cpus / self._cpus_at_start))
        config = replace(
            self.config, workers=workers, processes=self.config.processes or cpus, cluster="none"
        )
        incarnation = self._spec.incarnation + self._joined * INCARNATIONS_PER_NODE
        self._joined += 1
        spec = replace(self._spec, config=config, incarnation=incarnation)
        host = machine["NodeManagerHostname"]
        actor = make_actor(NodeActor, machine["NodeID"], cpus).remote(spec, host)
        call = self._call_step(actor)
        member = _Member(machine["NodeID"], host, actor, call, time.monotonic(), workers)
        self._members.append(member)
        self._note(
            logging.INFO, f"node on {host}: {quantity(workers, 'worker')}, {quantity(cpus, 'CPU')}"
        )

    def _call_step(self, actor: Any) -> Any:
        return actor.step.remote(self._server, STEP_S, int(self.shared.warmup_steps))

    def _receive(self) -> None:
        """Forward what the nodes report, call them again, and remove lost nodes."""
        calls = [member.call for member in self._members]
        if not calls:
            time.sleep(STEP_S)
            return
        ready, _ = ray.wait(calls, timeout=STEP_S)
        ready, _ = ray.wait(calls, num_returns=len(calls), timeout=0) if ready else ([], [])
        now = time.monotonic()
        for member in list(self._members):
            if member.call in ready:
                self._finish_call(member)
            elif now - member.since > (NODE_TIMEOUT_S if member.report else WAITING_S):
                if member.report:
                    member.since = now
                    ray.kill(member.actor)
                else:
                    member.since = np.inf
                    text = f"the node on {member.host} has not started yet; are its CPUs taken?"
                    self._note(logging.WARNING, text)

    def _finish_call(self, member: _Member) -> None:
        try:
            report: Report = ray.get(member.call)
        except RayError as error:
            self._lose(member, first_line(error))
            return
        for record in report.records:
            send(self._connection, record)
        before = member.report or Report()
        self.link.gauges[Gauge.RESTARTS] += report.restarts - before.restarts
        if report.updates > before.updates:
            self._failures[member.machine] = 0
        member.report, member.since = report, time.monotonic()
        if report.failure:
            self._lose(member, report.failure)
            ray.kill(member.actor)
            return
        member.call = self._call_step(member.actor)

    def _lose(self, member: _Member, reason: str) -> None:
        self._note(logging.WARNING, f"the node on {member.host} is lost: {reason}")
        self._members.remove(member)
        self._failures[member.machine] += 1
        self.link.gauges[Gauge.RESTARTS] += 1
        check_ray()

    def _mirror(self, *, force: bool = False) -> None:
        """Copy the server's state into shared memory, once a second; replace a server that died."""
        now = time.monotonic()
        requested, answered = self.link.requests.tolist()
        force |= requested != answered
        if not force and now - self._mirrored_at < MIRROR_INTERVAL_S:
            return
        with_optimizer = force or now - self._optimizer_at > OPTIMIZER_INTERVAL_S
        try:
            snapshot = self._server.snapshot(with_optimizer=with_optimizer)
        except ServerLostError as error:
            check_ray()
            self._note(logging.WARNING, f"the parameter server is lost: {first_line(error)}")
            self.link.gauges[Gauge.RESTARTS] += 1
            self._server = self._start_server()
            return
        self._mirrored_at = now
        # The counts first: a step counted twice does less harm than a step learned twice.
        counts = torch.tensor(snapshot.counts)
        self.shared.counters[0] = counts - self.shared.counters[-1]
        _copy(self.shared.parameters, snapshot.parameters)
        if snapshot.optimizer_state is not None:
            self._optimizer_at = now
            _copy(self.shared.optimizer_state, snapshot.optimizer_state)
            self.link.optimizer_updates.fill_(snapshot.optimizer_updates)
        self.link.requests[1] = requested
        if snapshot.traffic:
            self._measure(snapshot.traffic)

    def _measure(self, traffic: Traffic) -> None:
        """Set the gauges from the server's traffic since the last call."""
        before, now, gauges = self._traffic, time.monotonic(), self.link.gauges
        seconds, pushes = now - self._traffic_at, traffic.pushes - before.pushes
        self._traffic, self._traffic_at = traffic, now
        gauges[Gauge.DROPPED] += traffic.dropped - before.dropped
        running = [member for member in self._members if member.report]
        gauges[Gauge.NODES] = len(running)
        gauges[Gauge.WORKERS] = sum(m.report.workers for m in running if m.report)
        if pushes:
            gauges[Gauge.POLICY_LAG] = (traffic.lag - before.lag) / pushes
        if seconds > MIRROR_INTERVAL_S / 2:
            gauges[Gauge.BYTES_PER_S] = (traffic.bytes - before.bytes) / seconds

    def _stop(self) -> None:
        """Have the nodes hand over the rest, and copy the server's last state."""
        calls = []
        for member in self._members:
            calls += [member.call, member.actor.stop.remote(self._server)]
        if calls:
            ready, _ = ray.wait(calls, num_returns=len(calls), timeout=STOP_TIMEOUT_S)
            for call in ready:
                try:
                    report: Report = ray.get(call)
                except RayError:
                    continue
                for record in report.records:
                    send(self._connection, record)
        self._mirror(force=True)

    def _note(self, level: int, text: str) -> None:
        send(self._connection, logging.LogRecord("train", level, "", 0, text, (), None))


def _copy(to: Tensor, array: np.ndarray) -> None:
    to.numpy()[:] = array
