"""The rollout queue: shared memory in which workers leave rollouts for the learner.

Every worker owns a ring of slots. Two counts say who may touch them: `written`, which the worker
alone raises when a rollout is complete, and `taken`, which the learner alone raises when it has
copied one away. Slot n of a worker is the learner's while `taken <= n < written`, and the worker's
otherwise. So there is no lock, and nothing to reclaim from the dead: what a killed worker was
writing is not counted, and its successor writes over it; what a killed learner had not copied is
there for the next. A worker whose ring is full waits, and the memory never grows.

What a rollout consists of lies in one piece, so that it crosses to a device in one copy. The order
in which one process sees another's writes is the one of x86 processors.
"""

import math
import time
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from agents.a3c.rollout import CollectedSteps
from agents.config import TrainConfig
from agents.networks.actor_critic import ActorCritic
from agents.networks.torso import copy_channels_last
from envs.config import OBSERVATION_SHAPE

# Where every field begins, for a device reads whole words.
ALIGNMENT = 64


@dataclass(frozen=True)
class RolloutLayout:
    """Where in a slot's bytes what is.

    Attributes:
        num_steps: T.
        num_envs: B.
        num_actions: A.
        state_size: S, of the core.
    """

    num_steps: int
    num_envs: int
    num_actions: int
    state_size: int

    @cached_property
    def fields(self) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
        """Type and shape by name; screens and starts have a last row for after the last step."""
        steps = (self.num_steps, self.num_envs)
        more = (self.num_steps + 1, self.num_envs)
        channels, *screen = OBSERVATION_SHAPE
        return {
            "screens": (torch.uint8, (*more, *screen, channels)),
            "episode_starts": (torch.bool, more),
            "initial_state": (torch.float32, (2, self.num_envs, self.state_size)),
            "actions": (torch.int64, steps),
            "behaviour_logits": (torch.float32, (*steps, self.num_actions)),
            "rewards": (torch.float32, steps),
            "discounts": (torch.float32, steps),
            "lambdas": (torch.float32, steps),
            "mask": (torch.bool, steps),
        }

    @cached_property
    def nbytes(self) -> int:
        """Bytes of a slot."""
        return sum(map(_aligned_size, self.fields.values()))

    def views(self, memory: Tensor) -> dict[str, Tensor]:
        """The fields of entries, by name.

        Args:
            memory: uint8, shape (..., nbytes).

        Returns:
            Views of it, of shape (..., *shape of the field).
        """
        views, begin = {}, 0
        for name, (dtype, shape) in self.fields.items():
            size = math.prod(shape) * dtype.itemsize
            # A core without a state has a field without bytes, which cannot be viewed.
            piece = memory[..., begin : begin + size]
            if size:
                views[name] = piece.view(dtype).unflatten(-1, shape)
            else:
                views[name] = memory.new_zeros((*memory.shape[:-1], *shape), dtype=dtype)
            begin += _aligned_size((dtype, shape))
        return views


@dataclass
class SlotRollout(CollectedSteps):
    """Views of a slot, for a worker to fill.

    Attributes:
        screens: uint8, shape (T + 1, B, 84, 84, 4); the last row comes after the last step.
        last_episode_starts: `starts` of that row, shape (B,).
    """

    screens: Tensor
    last_episode_starts: Tensor

    @classmethod
    def of(cls, fields: dict[str, Tensor]) -> "SlotRollout":
        """Of the views of a slot."""
        starts = fields["episode_starts"]
        return cls(**{**fields, "episode_starts": starts[:-1]}, last_episode_starts=starts[-1])

    def see(self, network: ActorCritic, t: int, screens: Tensor) -> Tensor:
        """See `CollectedSteps`; the screens alone are kept."""
        kept = self.screens[t].permute(0, 3, 1, 2)
        copy_channels_last(screens, kept)
        return network.torso(kept)

    def finish(self, network: ActorCritic, screens: Tensor, state: Tensor, starts: Tensor) -> None:  # noqa: ARG002
        """See `CollectedSteps`; their value is for the learner to say."""
        copy_channels_last(screens, self.screens[-1].permute(0, 3, 1, 2))
        self.last_episode_starts.copy_(starts)


@dataclass(frozen=True)
class RolloutQueue:
    """The rings of all workers. W workers, k slots each.

    Attributes:
        layout: of a slot.
        memory: uint8, shape (W, k, nbytes).
        versions: int64, shape (W, k): updates made before the parameters that played were pulled.
        times: float64, shape (W, k): when a rollout was complete, in seconds of `time.monotonic`.
        written: int64, shape (W,): rollouts that each worker has completed; written by it alone.
        taken: int64, shape (W,): how many of them were copied away; written by the learner alone.
        beats: int64, shape (W + 1,): signs of life, also of who waits; each written by one worker
            alone, the last by the learner.
        statistics: int64, shape (2,): how often the parent has asked for the optimizer's
            statistics, and which of its requests the learner has answered last.
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
    def create(cls, config: TrainConfig, network: ActorCritic, num_actions: int) -> "RolloutQueue":
        """Allocate them in shared memory, for the network that plays."""
        layout = rollout_layout(config, network, num_actions)
        workers, count = max(config.workers, 1), entries_per_worker(config)

        def zeros(*shape: int, dtype: torch.dtype = torch.int64) -> Tensor:
            return torch.zeros(shape, dtype=dtype).share_memory_()

        return cls(
            layout=layout,
            memory=zeros(workers, count, layout.nbytes, dtype=torch.uint8),
            versions=zeros(workers, count),
            times=zeros(workers, count, dtype=torch.float64),
            write_count=zeros(workers),
            read_count=zeros(workers),
            heartbeats=zeros(workers + 1),
            sync_requests=zeros(2),
        )

    @property
    def waiting(self) -> int:
        """Rollouts that wait for the learner."""
        return int((self.write_count - self.read_count).sum())

    def acquire(self, worker: int) -> int | None:
        """The slot that a worker may fill next; None while all of its rollouts wait."""
        written, count = int(self.write_count[worker]), self.memory.shape[1]
        return written % count if written - int(self.read_count[worker]) < count else None

    def commit(self, worker: int, slot: int, version: int) -> None:
        """Give the slot that a worker has filled to the learner."""
        self.versions[worker, slot] = version
        self.times[worker, slot] = time.monotonic()
        self.write_count[worker] += 1  # last of all: from here on it is the learner's


def rollout_layout(config: TrainConfig, network: ActorCritic, num_actions: int) -> RolloutLayout:
    """The layout of a rollout of these settings."""
    return RolloutLayout(
        config.num_steps, config.envs_per_worker, num_actions, network.core.state_size
    )


def entries_per_worker(config: TrainConfig) -> int:
    """One to fill, and for all workers together two batches: one to learn from, one to wait."""
    return 1 + math.ceil(2 * config.learner_batch / max(config.workers, 1))


def queue_size(config: TrainConfig, layout: RolloutLayout) -> int:
    """Bytes of all slots together."""
    return max(config.workers, 1) * entries_per_worker(config) * layout.nbytes


def _aligned_size(field: tuple[torch.dtype, tuple[int, ...]]) -> int:
    dtype, shape = field
    return math.ceil(math.prod(shape) * dtype.itemsize / ALIGNMENT) * ALIGNMENT
