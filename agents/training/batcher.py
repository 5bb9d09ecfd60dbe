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
        last_starts: `starts` of the observations after the last step, shape (N * B,).
        versions: updates made before the parameters that played were pulled, of each rollout.
    """

    screens: Tensor
    last_starts: Tensor
    versions: list[int]

    @classmethod
    def of(cls, fields: dict[str, Tensor], versions: list[int]) -> "Batch":
        """Of the views of N slots, shapes (N, ...)."""
        screens = fields.pop("screens")
        # Time stays first; all other fields are small, and copied into that order.
        folded = {name: field.transpose(0, 1).flatten(1, 2) for name, field in fields.items()}
        starts = folded["starts"]
        return cls(
            **{**folded, "starts": starts[:-1]},
            screens=screens,
            last_starts=starts[-1],
            versions=versions,
        )

    def recall(self, network: ActorCritic) -> Tensor:
        """What the torso sees in the screens that were acted on, shape (T, N * B, seen)."""
        return self._see(network)[:-1]

    def judge(self, network: ActorCritic) -> Judged:
        """What the network says of them, with a gradient, and with values of its own throughout."""
        starts = torch.cat([self.starts, self.last_starts.unsqueeze(0)])
        output = network.judge(self._see(network), self.initial_state, starts)
        return Judged(output.logits[:-1], output.values[:-1], output.values[-1].detach())

    def _see(self, network: ActorCritic) -> Tensor:
        seen = network.torso(self.screens.flatten(0, 2).permute(0, 3, 1, 2))
        return seen.unflatten(0, self.screens.shape[:3]).transpose(0, 1).flatten(1, 2)


@dataclass
class _Coming:
    """A batch on its way: its place on the device, whose slots it is, and when it has arrived."""

    memory: Tensor
    slots: list[tuple[int, int]]
    versions: list[int]
    arrived: Any


class RolloutBatcher:
    """Takes rollouts from the slots, those first that have waited longest.

    While the learner computes, the next batch is copied already: on CUDA by a stream of its own,
    out of slots that are pinned, so that both go on at once.

    Args:
        slots: of all workers.
        batch_size: N.
        device: where the batches go.
    """

    def __init__(self, slots: RolloutQueue, batch_size: int, device: torch.device) -> None:
        self.slots, self.batch_size = slots, batch_size
        self._claimed: list[int] = slots.taken.tolist()
        shape = (batch_size, slots.layout.nbytes)
        self._memories = [torch.empty(shape, dtype=torch.uint8, device=device) for _ in range(2)]
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        if self._stream:
            pin(slots.memory, self)
        self._coming: _Coming | None = None

    def take(self) -> Batch | None:
        """Return the next batch, or None while too few rollouts wait.

        It is valid until the next call, before which all work on it must be done.
        """
        coming = self._coming or self._send_for()
        if coming is None:
            return None
        if coming.arrived:
            coming.arrived.synchronize()
        for worker, _ in coming.slots:
            self.slots.taken[worker] += 1
        self._coming = self._send_for()
        return Batch.of(self.slots.layout.views(coming.memory), coming.versions)

    def _send_for(self) -> _Coming | None:
        """Begin to copy a batch, where enough rollouts wait."""
        slots, count = self.slots, self.slots.memory.shape[1]
        waiting = [
            (float(slots.times[worker, n % count]), worker, n)
            for worker, written in enumerate(slots.written.tolist())
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
                row.copy_(slots.memory[worker, slot], non_blocking=True)
            arrived = self._stream.record_event() if self._stream else None
        versions = [int(slots.versions[worker, slot]) for worker, slot in chosen]
        return _Coming(memory, chosen, versions, arrived)


def pin(memory: Tensor, owner: object) -> None:
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
