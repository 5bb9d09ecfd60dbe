"""How rollouts come out of the slots and onto the learner's device, a batch at a time."""

import weakref
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from agents.a3c.rollout import Judged, Steps
from agents.networks.actor_critic import ActorCritic
from agents.training.rollout_queue import RolloutQueue


@dataclass
class Batch(Steps):
    """N rollouts side by side on a device: T steps of N * B environments.

    Attributes:
        screens: uint8, shape (N, T + 1, B, 84, 84, 4), as they lay in the slots.
        last_episode_starts: `starts` of the observations after the last step, shape (N * B,).
        versions: updates made before the parameters that played were pulled, of each rollout.
    """

    screens: Tensor
    last_episode_starts: Tensor
    versions: list[int]

    @classmethod
    def of(cls, fields: dict[str, Tensor], versions: list[int]) -> "Batch":
        """Of the views of N entries, shapes (N, ...)."""
        screens = fields.pop("screens")
        # Time stays first; all other fields are small, and copied into that order.
        folded = {name: field.transpose(0, 1).flatten(1, 2) for name, field in fields.items()}
        starts = folded["episode_starts"]
        return cls(
            **{**folded, "episode_starts": starts[:-1]},
            screens=screens,
            last_episode_starts=starts[-1],
            versions=versions,
        )

    def recall(self, network: ActorCritic) -> Tensor:
        """What the torso sees in the screens that were acted on, shape (T, N * B, seen)."""
        return self._see(network)[:-1]

    def judge(self, network: ActorCritic) -> Judged:
        """What the network says of them, with a gradient, and with values of its own throughout."""
        starts = torch.cat([self.episode_starts, self.last_episode_starts.unsqueeze(0)])
        output = network.forward_heads(self._see(network), self.initial_state, starts)
        return Judged(output.logits[:-1], output.values[:-1], output.values[-1].detach())

    def _see(self, network: ActorCritic) -> Tensor:
        seen = network.torso(self.screens.flatten(0, 2).permute(0, 3, 1, 2))
        return seen.unflatten(0, self.screens.shape[:3]).transpose(0, 1).flatten(1, 2)


@dataclass
class _InFlightBatch:
    """A batch on its way: its place on the device, whose slots it is, and when it has arrived."""

    memory: Tensor
    queue: list[tuple[int, int]]
    versions: list[int]
    arrived: Any


class RolloutBatcher:
    """Takes rollouts from the queue, those first that have waited longest.

    While the learner computes, the next batch is copied already: on CUDA by a stream of its own,
    out of slots that are pinned, so that both go on at once.

    Args:
        queue: of all workers.
        batch_size: N.
        device: where the batches go.
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
        """Return the next batch, or None while too few rollouts wait.

        It is valid until the next call, before which all work on it must be done.
        """
        in_flight = self._in_flight or self._start_copy()
        if in_flight is None:
            return None
        if in_flight.arrived:
            in_flight.arrived.synchronize()
        for worker, _ in in_flight.queue:
            self.queue.read_count[worker] += 1
        self._in_flight = self._start_copy()
        return Batch.of(self.queue.layout.views(in_flight.memory), in_flight.versions)

    def _start_copy(self) -> _InFlightBatch | None:
        """Begin to copy a batch, where enough rollouts wait."""
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
            for row, (worker, slot) in zip(memory, chosen, strict=True):
                row.copy_(queue.memory[worker, slot], non_blocking=True)
            arrived = self._stream.record_event() if self._stream else None
        versions = [int(queue.versions[worker, slot]) for worker, slot in chosen]
        return _InFlightBatch(memory, chosen, versions, arrived)


def pin_memory(memory: Tensor, owner: object) -> None:
    """Pin shared memory, for a device to read and write it without this process's help.

    Args:
        memory: of any process.
        owner: while it lives, the memory stays pinned.

    Raises:
        torch.cuda.CudaError: if the system does not allow that.
    """
    size = memory.numel() * memory.element_size()
    torch.cuda.check_error(torch.cuda.cudart().cudaHostRegister(memory.data_ptr(), size, 0))
    # It holds the memory too: what is unmapped while it is pinned could not be pinned again.
    unpin = weakref.finalize(
        owner, lambda memory: torch.cuda.cudart().cudaHostUnregister(memory.data_ptr()), memory
    )
    unpin.atexit = False
