"""A node of a cluster: the usual processes on one machine, and their exchange with the server.

The workers of a machine train in its shared memory as if there were no other machine. After every
`sync_updates` updates of theirs, the node hands over their changes and takes in those of the other
nodes.
"""

import contextlib
import logging
import os
import sys
import time
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import torch

from agents.a3c.worker_group import GroupSpec
from agents.cluster.parameter_server import Push, Reply, ServerLostError, Snapshot
from agents.networks.normalization import empty_sums, statistics_between
from agents.system.child_process import poll
from agents.system.messages import CrashRecord, ForwardingHandler
from agents.system.processes import process_context
from agents.training import FORKSERVER_PRELOAD
from agents.training.managed_process import TrainingFailedError
from agents.training.preflight import build_network, check_env
from agents.training.shared_state import Counter, SharedState
from agents.training.worker_pool import WorkerPool

log = logging.getLogger("train")

# Seconds between the exchanges that include the optimizer's state. It is two thirds of a run's
# numbers, and needed for checkpoints and by nodes that join.
OPTIMIZER_INTERVAL_S = 10.0
# Seconds after which a node whose workers only play, in their warm-up, takes the server's state.
WARMUP_INTERVAL_S = 1.0
# How long the workers may take to exit at the end.
STOP_TIMEOUT_S = 5.0


class Server(Protocol):
    """The parameter server, in this process or another; both calls may raise `ServerLostError`."""

    generation: int

    def push(self, push: Push) -> Reply:
        """Take in what a node has learned, and reply."""
        ...

    def snapshot(self, *, with_optimizer: bool = True) -> Snapshot:
        """Return the server's state."""
        ...


@dataclass
class Report:
    """What a node tells the driver.

    Attributes:
        records: The workers' records, in the order of arrival.
        workers: How many workers are running.
        restarts: Processes that died and were restarted, so far.
        updates: Updates that the node has handed over so far.
        failure: Why the node cannot go on; empty if it can.
    """

    records: list[Any] = field(default_factory=list)
    workers: int = 0
    restarts: int = 0
    updates: int = 0
    failure: str = ""


class Node:
    """The workers of one machine.

    Args:
        spec: The workers; `config` has their number on this machine, and no cluster.
        server: The server to start from.

    Raises:
        UserError: If this machine cannot hold the workers.
    """

    def __init__(self, spec: GroupSpec, server: Server) -> None:
        self.config = spec.config
        spaces = check_env(spec.config, spec.make_env)
        network = build_network(spaces, spec.config, writes_files=False)
        self._where_statistics = where = network.where_statistics
        self.shared = SharedState.for_training(network, spec.config)
        if where is not None:
            sums = empty_sums(spec.config.workers, (where.stop - where.start - 1) // 2)
            self.shared = replace(self.shared, observed=sums.share_memory_())
            self._observed_before = sums.clone()
        self._parameters: np.ndarray = self.shared.parameters.numpy()
        self._records: list[Any] = []
        self._handed_over = np.zeros(len(Counter), np.int64)
        self._optimizer_time = time.monotonic()
        self._generation: int | None = None
        self._take_over(server)
        self.pool = WorkerPool(spec, self.shared)

    def step(self, server: Server, seconds: float, warmup_steps: int = 0) -> Report:
        """Train for a while, and report.

        Args:
            server: The parameter server; if it is new, or did not answer the last time, the node
                first takes over its state.
            seconds: How long; less if the server does not answer or the budget is spent.
            warmup_steps: The warm-up of processes that start from now on, see `GroupSpec`.
        """
        self.shared.warmup_steps.fill_(warmup_steps)
        try:
            if server.generation != self._generation:
                self._take_over(server)
            if not self.pool.children and not self._is_done:
                self.pool.start()
            end = time.monotonic() + seconds
            while self.pool.children and (left := end - time.monotonic()) > 0:
                self._receive(left)
                self.pool.kill_hung()
                if self._count()[Counter.UPDATES] >= self.config.sync_updates:
                    self.exchange(server)
                elif self._is_warming_up:
                    self._take_over(server)
            if not self.pool.children and self._count().any():
                self.exchange(server, with_optimizer=True)  # the budget is spent
        except ServerLostError:
            self._generation = None
        except TrainingFailedError as error:
            return self._report(failure=str(error))
        return self._report()

    def stop(self, server: Server) -> Report:
        """Stop the workers, and hand over the rest."""
        self.shared.stop.fill_(1)
        end = time.monotonic() + STOP_TIMEOUT_S
        while self.pool.children and time.monotonic() < end:
            self._receive(0.1)
        self.pool.kill()
        with contextlib.suppress(ServerLostError):
            if server.generation == self._generation:
                self.exchange(server, with_optimizer=True)
        return self._report()

    def exchange(self, server: Server, *, with_optimizer: bool = False) -> None:
        """Hand over what the workers learned since the last exchange; take in the others' changes.

        The workers go on meanwhile. What they add to the parameters is part of the next exchange.
        """
        counts = self._count()
        now = time.monotonic()
        with_optimizer |= now - self._optimizer_time > OPTIMIZER_INTERVAL_S
        push = Push(self._version, self._parameters.copy(), counts)
        if self._where_statistics is not None and self.shared.observed is not None:
            observed = self.shared.observed.clone()
            push.observed = statistics_between(self._observed_before, observed).numpy()
            self._observed_before = observed
        if with_optimizer:
            self._optimizer_time = now
            push.optimizer_state = self.shared.optimizer_state.numpy().copy()
            push.optimizer_updates = self.shared.updates
        ours = push.change
        push.change = ours - self._base
        if self._where_statistics is not None:
            push.change[self._where_statistics] = 0
        self._handed_over += counts
        reply = server.push(push)
        if not reply.is_accepted:
            self._take_over(server)
            return
        if self._where_statistics is not None:
            ours[self._where_statistics] = self._parameters[self._where_statistics]
        # Not a plain copy of the reply: it would undo what the workers have added meanwhile.
        self._parameters += reply.parameters - ours
        self._set_base(reply.parameters, reply.counts)

    def _take_over(self, server: Server) -> None:
        """Start from the server's state; what was not handed over is lost."""
        self._handed_over += self._count()
        snapshot = server.snapshot()
        self._parameters[:] = snapshot.parameters
        if snapshot.optimizer_state is not None:
            self.shared.optimizer_state.copy_(torch.tensor(snapshot.optimizer_state))
        # The optimizer's bias correction depends on the number of updates in its own averages, not
        # on that of all nodes: so this counter stays below the server's.
        own = int(self.shared.counters[:-1, Counter.UPDATES].sum())
        self.shared.counters[-1, Counter.UPDATES] = snapshot.optimizer_updates - own
        self._set_base(snapshot.parameters, snapshot.counts)
        self._generation = server.generation

    def _set_base(self, parameters: np.ndarray, counts: np.ndarray) -> None:
        self._base = parameters.copy()  # the original occupies Ray's object store
        self._version = int(counts[Counter.UPDATES])
        self._base_time = time.monotonic()
        self._warmup_rollouts = int(self.shared.warmup_rollouts.sum())
        for counter in (Counter.STEPS, Counter.SKIPPED):
            others = counts[counter] - self._handed_over[counter]
            self.shared.counters[-1, counter] = int(others)

    def _count(self) -> np.ndarray:
        """What was counted since the last exchange."""
        counted: np.ndarray = self.shared.counters[:-1].sum(0).numpy()
        return counted - self._handed_over

    @property
    def _is_done(self) -> bool:
        return self.shared.is_over(self.config.total_timesteps)

    @property
    def _is_warming_up(self) -> bool:
        """Whether the workers have only played, not learned, since the last exchange."""
        has_played = int(self.shared.warmup_rollouts.sum()) > self._warmup_rollouts
        is_due = time.monotonic() - self._base_time >= WARMUP_INTERVAL_S
        return has_played and is_due and not self._count().any()

    def _receive(self, timeout: float) -> None:
        """Read incoming records, and restart processes that died."""
        messages, exited = poll(self.pool.children, timeout)
        self._records += [record for _, record in messages]
        for process in [process for process in self.pool.processes if process.child in exited]:
            if self._is_done:
                process.reap()
            else:
                process.restart()

    def _report(self, *, failure: str = "") -> Report:
        records, self._records = self._records, []
        return Report(
            records,
            self.pool.workers_alive,
            self.pool.restarts,
            int(self._handed_over[Counter.UPDATES]),
            failure,
        )


class NodeActor:
    """A node in one of Ray's processes.

    Args:
        spec: See `Node`.
        host: The machine's name, for messages.
    """

    def __init__(self, spec: GroupSpec, host: str = "") -> None:
        self._spec, self._host = spec, host
        self._node: Node | None = None
        self._notes: list[logging.LogRecord] = []
        # Ray gives this process a thread per core, but each core already has a worker process.
        os.environ["OMP_NUM_THREADS"] = "1"
        torch.set_num_threads(1)
        # Otherwise the worker processes would import the program that Ray runs here.
        vars(sys.modules["__main__"]).pop("__file__", None)
        process_context(FORKSERVER_PRELOAD)  # loads torch for them meanwhile
        log.setLevel(logging.INFO)
        log.propagate = False
        log.addHandler(ForwardingHandler(self._notes.append))

    def step(self, server: Server, seconds: float, warmup_steps: int = 0) -> Report:
        """See `Node.step`; the first call creates the node."""
        if self._node is None:
            self._node = Node(self._spec, server)
        return self._complete(self._node.step(server, seconds, warmup_steps))

    def stop(self, server: Server) -> Report:
        """See `Node.stop`."""
        return self._complete(self._node.stop(server)) if self._node else Report()

    def _complete(self, report: Report) -> Report:
        """Add what was logged here; name the machine in log messages and crash records."""
        for record in report.records:
            if isinstance(record, CrashRecord):
                record.who += f" on {self._host}"
        for note in self._notes:
            note.msg = f"{self._host}: {note.msg}"
        report.records += self._notes
        self._notes.clear()
        return report
