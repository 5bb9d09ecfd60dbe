"""The parameter server of a cluster: adds up what its nodes learn.

A node hands over how its parameters have changed since it last took the server's: the sum of its
optimizer's steps. The server adds this change to its own parameters on arrival, and replies with
the result. So each worker's update reaches the parameters in full, as on one machine, however many
updates are handed over at once. If nodes sent sums of gradients instead, an optimizer that divides
by their size (RMSProp, Adam) would turn each sum into one step, about as long as that of a single
gradient.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from agents.networks.normalization import merge_statistics_
from agents.training.shared_state import Counter

# A call that takes longer counts as failed. Ray itself notices a lost machine after half a minute.
CALL_TIMEOUT_S = 60.0


class ServerLostError(Exception):
    """The parameter server did not answer; whether it carried out the call is unknown."""


@dataclass
class Snapshot:
    """The state of a parameter server.

    Attributes:
        parameters: Shape (N,), float32.
        counts: int64, shape (3,): a number for each `Counter`.
        optimizer_state: The one last handed over by a node, shape (k, N), float32; None if it was
            not asked for.
        optimizer_updates: The number of updates in the optimizer state.
        traffic: Totals so far.
    """

    parameters: np.ndarray
    counts: np.ndarray
    optimizer_state: np.ndarray | None = None
    optimizer_updates: int = 0
    traffic: "Traffic | None" = None


@dataclass
class Traffic:
    """Totals of a parameter server so far.

    Attributes:
        pushes: The number of pushes.
        dropped: The updates that were dropped, as too old or not finite.
        lag: The sum, over the pushes, of the updates that others had handed over meanwhile.
        bytes: The size of the tensors received and sent.
    """

    pushes: int = 0
    dropped: int = 0
    lag: int = 0
    bytes: int = 0


@dataclass
class Push:
    """What a node hands over.

    Attributes:
        version: The server's count of updates when the node took its parameters.
        change: What the node's updates have added to them, shape (N,), float32.
        counts: What the node has counted, shape (3,): a number for each `Counter`.
        observed: Statistics of the node's observations, if they are normalised; see
            `RunningNormalization`.
        optimizer_state: The node's, shape (k, N); None in most pushes.
        optimizer_updates: The number of updates in the optimizer state.
    """

    version: int
    change: np.ndarray
    counts: np.ndarray
    observed: np.ndarray | None = None
    optimizer_state: np.ndarray | None = None
    optimizer_updates: int = 0


@dataclass
class Reply:
    """The server's answer.

    Attributes:
        parameters: The newest parameters, shape (N,).
        counts: The totals of all nodes; the number of updates is the version of the parameters.
        is_accepted: Whether the change was added; if not, the node must restart from `parameters`.
    """

    parameters: np.ndarray
    counts: np.ndarray
    is_accepted: bool


class ParameterServer:
    """Holds the parameters of a run, and everything else that a checkpoint needs.

    Args:
        start: The state to start from; copied, because arrays that come through Ray are read-only.
        max_lag: A change is dropped if others have handed over more updates than this meanwhile.
        where_statistics: Which parameters are statistics of observations, if any; they are merged
            instead of added.
    """

    def __init__(self, start: Snapshot, max_lag: int, where_statistics: slice | None) -> None:
        self._parameters = start.parameters.copy()
        self._counts = start.counts.copy()
        self._optimizer_state = start.optimizer_state
        self._optimizer_updates = start.optimizer_updates
        self._max_lag, self._where_statistics = max_lag, where_statistics
        self._traffic = Traffic()

    def push(self, push: Push) -> Reply:
        """Add what a node hands over, or drop it if it is too old or not finite."""
        updates = int(push.counts[Counter.UPDATES])
        lag = int(self._counts[Counter.UPDATES]) - push.version
        traffic = self._traffic
        traffic.pushes += 1
        traffic.lag += lag
        traffic.bytes += push.change.nbytes + self._parameters.nbytes
        # Dropped or not, the agent steps were played: the budget and learning rate go by them.
        self._counts += push.counts
        is_accepted = lag <= self._max_lag and _is_finite(push.change)
        if is_accepted:
            self._parameters += push.change
            if push.optimizer_state is not None and _is_finite(push.optimizer_state):
                self._optimizer_state = push.optimizer_state
                self._optimizer_updates = push.optimizer_updates
                traffic.bytes += push.optimizer_state.nbytes
        else:
            self._counts[Counter.UPDATES] -= updates
            traffic.dropped += updates
        if self._where_statistics and push.observed is not None and push.observed[0] > 0:
            statistics = torch.from_numpy(self._parameters[self._where_statistics])
            merge_statistics_(statistics, torch.tensor(push.observed))
        return Reply(self._parameters.copy(), self._counts.copy(), is_accepted)

    def snapshot(self, *, with_optimizer: bool = True) -> Snapshot:
        """Return the state, including the optimizer's, the larger part, only if asked for."""
        return Snapshot(
            self._parameters.copy(),
            self._counts.copy(),
            self._optimizer_state if with_optimizer else None,
            self._optimizer_updates,
            self._traffic,
        )


class RemoteServer:
    """A parameter server as its nodes see it through Ray.

    Args:
        actor: Ray's handle to it.
        generation: Differs from that of earlier servers.
    """

    def __init__(self, actor: Any, generation: int) -> None:
        self.actor, self.generation = actor, generation

    def push(self, push: Push) -> Reply:
        """See `ParameterServer.push`. Never repeat a failed call: it may have been carried out.

        Raises:
            ServerLostError: If no answer comes.
        """
        reply: Reply = self._get(self.actor.push.remote(push))
        return reply

    def snapshot(self, *, with_optimizer: bool = True) -> Snapshot:
        """See `ParameterServer.snapshot`.

        Raises:
            ServerLostError: If no answer comes.
        """
        snapshot: Snapshot = self._get(self.actor.snapshot.remote(with_optimizer=with_optimizer))
        return snapshot

    def _get(self, call: Any) -> Any:
        import ray
        from ray.exceptions import RayError, RayTaskError

        try:
            return ray.get(call, timeout=CALL_TIMEOUT_S)
        except RayTaskError:  # raised by our own code
            raise
        except RayError as error:
            raise ServerLostError(str(error)) from error


def _is_finite(numbers: np.ndarray) -> bool:
    """Whether the sum of squares is finite; faster than a check of each number."""
    flat = numbers.ravel()
    with np.errstate(over="ignore", invalid="ignore"):
        return math.isfinite(float(flat @ flat))
