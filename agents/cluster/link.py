"""What a cluster's supervisor and driver share, besides the run's `SharedState`."""

from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor

from agents.training.shared_state import shared_zeros


class Gauge(IntEnum):
    """The entries of `Link.gauges`."""

    NODES = 0
    WORKERS = 1
    RESTARTS = 2
    POLICY_LAG = 3
    DROPPED = 4
    BYTES_PER_S = 5


@dataclass(frozen=True)
class Link:
    """Tensors in shared memory; each entry has one writer, the supervisor or the driver.

    Attributes:
        requests: int64, shape (2,): how often the supervisor has asked for the newest state, and
            the number of the last request that the driver has answered.
        heartbeat: int64, shape (1,): changes while the driver runs.
        optimizer_updates: int64, shape (1,): the updates that the shared optimizer state has seen.
        gauges: float64, shape (6,): a number for each `Gauge`.
    """

    requests: Tensor
    heartbeat: Tensor
    optimizer_updates: Tensor
    gauges: Tensor

    @classmethod
    def create(cls) -> "Link":
        """A link of zeros."""
        return cls(
            requests=shared_zeros(2),
            heartbeat=shared_zeros(1),
            optimizer_updates=shared_zeros(1),
            gauges=shared_zeros(len(Gauge), dtype=torch.float64),
        )

    def tags(self) -> dict[str, float]:
        """TensorBoard tag -> current value, of what the machines exchange."""
        gauges = self.gauges.tolist()
        return {
            "cluster/nodes": gauges[Gauge.NODES],
            "cluster/policy_lag": gauges[Gauge.POLICY_LAG],
            "cluster/dropped_gradients": gauges[Gauge.DROPPED],
            "cluster/bytes_per_s": gauges[Gauge.BYTES_PER_S],
        }
