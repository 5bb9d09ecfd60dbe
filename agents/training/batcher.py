"""Batches of rollouts, copied from the queue to the learner's device."""

import weakref
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from agents.a3c.rollout import Rollout
from agents.training.rollout_queue import RolloutQueue


class Batch(NamedTuple):
    """N rollouts side by side on a device.

    Attributes:
        rollout: T steps of N * B environments.
        versions: For each of the N, the number of updates before its parameters were pulled.
    """

    rollout: Rollout
    versions: list[int]


@dataclass
class _InFlightBatch:
    """A batch that is being copied.

    Attributes:
        memory: Its memory on the device, shape (N, nbytes).
        entries: Worker and entry of each rollout.
        versions: As of `Batch`.
        arrived: A CUDA event at the end of the copy; None on the CPU.
    """

    memory: Tensor
    entries: list[tuple[int, int]]
    versions: list[int]
    arrived: Any


class RolloutBatcher:
    """Takes rollouts from the queue, oldest first.

    The next batch is copied while the learner computes. On CUDA the copy runs in its own stream and
    from pinned memory, so that the two overlap.

    Args:
        queue: The rollout queue.
        batch_size: N.
        device: The learner's device.
    """

    def __init__(self, queue: RolloutQueue, batch_size: int, device: torch.device) -> None:
        self.queue, self.batch_size = queue, batch_size
        self._claimed: list[int] = queue.read_count.tolist()
        shape = (batch_size, queue.layout.nbytes)
        self._memories = [torch.empty(shape, dtype=torch.uint8, device=device) for _ in range(2)]
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        if self._stream:
            pin_memory(queue.memory, self)
        self._in_flight: _InFlightBatch | None = None

    def next_batch(self) -> Batch | None:
        """Return the next batch, or None if too few rollouts are waiting.

        The batch is valid until the next call; all work on it must be done by then.
        """
        in_flight = self._in_flight or self._start_copy()
        if in_flight is None:
            return None
        if in_flight.arrived:
            in_flight.arrived.synchronize()
        for worker, _ in in_flight.entries:
            self.queue.read_count[worker] += 1
        self._in_flight = self._start_copy()
        rollout = Rollout.batch(self.queue.layout.views(in_flight.memory))
        return Batch(rollout, in_flight.versions)

    def _start_copy(self) -> _InFlightBatch | None:
        """Start to copy a batch if enough rollouts are waiting."""
        queue, count = self.queue, self.queue.memory.shape[1]
        waiting = [
            (float(queue.times[worker, n % count]), worker, n)
            for worker, written in enumerate(queue.write_count.tolist())
            for n in range(self._claimed[worker], written)
        ]
        if len(waiting) < self.batch_size:
            return None
        chosen = [(worker, n % count) for _, worker, n in sorted(waiting)[: self.batch_size]]
        for worker, _ in chosen:
            self._claimed[worker] += 1
        memory = self._memories[0]
        self._memories.reverse()
        with torch.cuda.stream(self._stream) if self._stream else nullcontext():
            for row, (worker, entry) in zip(memory, chosen, strict=True):
                row.copy_(queue.memory[worker, entry], non_blocking=True)
            arrived = self._stream.record_event() if self._stream else None
        versions = [int(queue.versions[worker, entry]) for worker, entry in chosen]
        return _InFlightBatch(memory, chosen, versions, arrived)


def pin_memory(memory: Tensor, owner: object) -> None:
    """Pin shared memory, so that a device can read and write it directly.

    Args:
        memory: The memory to pin.
        owner: The memory stays pinned for the lifetime of this object.

    Raises:
        torch.cuda.CudaError: If the system does not allow it.
    """
    size = memory.numel() * memory.element_size()
    torch.cuda.check_error(torch.cuda.cudart().cudaHostRegister(memory.data_ptr(), size, 0))
    # This also keeps the memory alive: memory unmapped while pinned could not be pinned again.
    unpin = weakref.finalize(
        owner, lambda memory: torch.cuda.cudart().cudaHostUnregister(memory.data_ptr()), memory
    )
    unpin.atexit = False
