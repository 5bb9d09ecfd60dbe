"""The rollout queue: shared memory through which workers pass rollouts to the learner.

Every worker owns a ring of entries. Two counts say who may touch them: `write_count`, which only
the worker raises when a rollout is complete, and `read_count`, which only the learner raises when
it has copied one. Entry n of a worker belongs to the learner while `read_count <= n < write_count`,
and to the worker otherwise. So there is no lock, and nothing to recover after a crash: a rollout
that a killed worker was writing is not counted, and is overwritten by its successor; rollouts that
a killed learner had not copied are there for the next learner. A worker whose ring is full waits,
so the memory never grows.

A rollout is contiguous, so that a single copy moves it to a device. The queue relies on x86
processors, on which a process sees another's writes in order.
"""

import math
import time
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from agents.a3c.rollout import Fields, rollout_fields
from agents.config import TrainConfig
from agents.networks.actor_critic import ActorCritic
from agents.training.shared_state import shared_zeros
from envs import Spaces

# Every field begins at a multiple of this, because a device reads whole words.
ALIGNMENT = 64


@dataclass(frozen=True)
class RolloutLayout:
    """The layout of an entry's bytes.

    Attributes:
        num_steps: T.
        num_envs: B.
        spaces: A, and the shape of an observation.
        state_size: S, of the core.
    """

    num_steps: int
    num_envs: int
    spaces: Spaces
    state_size: int

    @cached_property
    def fields(self) -> Fields:
        """Type and shape of each field, by name; see `rollout_fields`."""
        return rollout_fields(self.num_steps, self.num_envs, self.spaces, self.state_size)

    @cached_property
    def nbytes(self) -> int:
        """The size of an entry in bytes."""
        return sum(map(_aligned_size, self.fields.values()))

    def views(self, memory: Tensor) -> dict[str, Tensor]:
        """Return the fields of entries, by name.

        Args:
            memory: uint8, shape (..., nbytes).

        Returns:
            Views of the memory, of shape (..., *shape of the field).
        """
        views, begin = {}, 0
        for name, (dtype, shape) in self.fields.items():
            size = math.prod(shape) * dtype.itemsize
            piece = memory[..., begin : begin + size]
            if size:
                views[name] = piece.view(dtype).unflatten(-1, shape)
            else:  # a core without state: a view of no bytes is not possible
                views[name] = memory.new_zeros((*memory.shape[:-1], *shape), dtype=dtype)
            begin += _aligned_size((dtype, shape))
        return views


@dataclass(frozen=True)
class RolloutQueue:
    """The rings of W workers, k entries each.

    Attributes:
        layout: The layout of an entry.
        memory: uint8, shape (W, k, nbytes).
        versions: int64, shape (W, k): the number of updates when the acting parameters were
            pulled.
        times: float64, shape (W, k): when a rollout was completed, in seconds of `time.monotonic`.
        write_count: int64, shape (W,): rollouts completed by each worker, its only writer.
        read_count: int64, shape (W,): rollouts copied by the learner, its only writer.
        heartbeats: int64, shape (W + 1,): signs of life, also while waiting; one for each worker,
            and the last for the learner, each with a single writer.
        sync_requests: int64, shape (2,): how often the parent has requested the optimizer state,
            and the number of the request that the learner answered last.
    """

    layout: RolloutLayout
    memory: Tensor
    versions: Tensor
    times: Tensor
    write_count: Tensor
    read_count: Tensor
    heartbeats: Tensor
    sync_requests: Tensor

    @classmethod
    def create(cls, config: TrainConfig, network: ActorCritic) -> "RolloutQueue":
        """Allocate the queue in shared memory."""
        layout = rollout_layout(config, network)
        workers, count = max(config.workers, 1), entries_per_worker(config)
        return cls(
            layout=layout,
            memory=shared_zeros(workers, count, layout.nbytes, dtype=torch.uint8),
            versions=shared_zeros(workers, count),
            times=shared_zeros(workers, count, dtype=torch.float64),
            write_count=shared_zeros(workers),
            read_count=shared_zeros(workers),
            heartbeats=shared_zeros(workers + 1),
            sync_requests=shared_zeros(2),
        )

    @property
    def waiting(self) -> int:
        """The number of rollouts that wait for the learner."""
        return int((self.write_count - self.read_count).sum())

    def acquire(self, worker: int) -> int | None:
        """Return the entry that a worker may fill next; None while its ring is full."""
        written, count = int(self.write_count[worker]), self.memory.shape[1]
        return written % count if written - int(self.read_count[worker]) < count else None

    def commit(self, worker: int, entry: int, version: int) -> None:
        """Hand an entry that a worker has filled to the learner."""
        self.versions[worker, entry] = version
        self.times[worker, entry] = time.monotonic()
        self.write_count[worker] += 1  # last: from here on it is the learner's


def rollout_layout(config: TrainConfig, network: ActorCritic) -> RolloutLayout:
    """Return the layout of an entry for these settings."""
    return RolloutLayout(
        config.num_steps, config.envs_per_worker, network.spaces, network.core.state_size
    )


def entries_per_worker(config: TrainConfig) -> int:
    """Return k: one entry to fill, and enough for two batches over all workers, one waiting."""
    return 1 + math.ceil(2 * config.learner_batch / max(config.workers, 1))


def queue_size(config: TrainConfig, layout: RolloutLayout) -> int:
    """Return the bytes of all entries together."""
    return max(config.workers, 1) * entries_per_worker(config) * layout.nbytes


def _aligned_size(field: tuple[torch.dtype, tuple[int, ...]]) -> int:
    dtype, shape = field
    return math.ceil(math.prod(shape) * dtype.itemsize / ALIGNMENT) * ALIGNMENT
