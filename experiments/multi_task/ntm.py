"""A Neural Turing Machine (Graves, Wayne and Danihelka 2014, arXiv:1410.5401), section 3.

An LSTM controller works on a memory of N rows through heads that find rows by content and by moving
along. Shapes: T steps, B sequences, N rows of width M, H heads, first the readers and then the
writers.

Our choices where that paper leaves room:

- In each step, all heads are addressed by the memory after the previous step. Then the writers
  write, and after them the readers read, so that a reader can fetch what has just been written.
- Memory starts at a small constant, which learns about twice as fast as other contents (Collier and
  Beel 2018, arXiv:1807.08518). Controller state and read vectors start at zero. Where each head
  points before the first step is learned; it starts at the first row.
- Keys and the vectors added to memory go through a tanh, erasure and gate through a sigmoid, key
  strength and sharpening through a softplus, the latter plus one. Heads shift by -1, 0 or 1.
- Squared lengths in eq. 6 have 1e-6 added. Nearly empty rows then resemble no key and have small
  gradients; otherwise their direction would be arbitrary and its gradient enormous.
- The memory is a ring: a head that leaves its last row arrives at the first.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MEMORY_AT_START = 1e-6
LOGIT_OF_THE_FIRST_ROW = 5.0
SHIFTS = (-1, 0, 1)
TINY = 1e-16  # keeps logarithms finite
SQUARED_LENGTH_OF_NOTHING = 1e-6


class State(NamedTuple):
    """The machine's state between steps.

    Attributes:
        hidden: the controller's output, shape (B, hidden_size).
        cell: the controller's cell, shape (B, hidden_size).
        memory: shape (B, N, M).
        attention: where each head points, shape (B, H, N); sums to one over the rows.
        read: what the readers read, concatenated, shape (B, read_heads * M).
    """

    hidden: Tensor
    cell: Tensor
    memory: Tensor
    attention: Tensor
    read: Tensor


class Signals(NamedTuple):
    """The controller's signals to its heads at a step, shapes (B, heads, ...)."""

    key: Tensor  # (B, H, M)
    strength: Tensor  # (B, H, 1)
    gate: Tensor  # (B, H, 1)
    shift: Tensor  # (B, H, 3), sums to one
    sharpening: Tensor  # (B, H, 1), at least one
    erase: Tensor  # (B, write_heads, M)
    add: Tensor  # (B, write_heads, M)


class NeuralTuringMachine(nn.Module):
    """A recurrent network with a memory, from sequences to logits.

    `output_layer`, from controller and read vectors to the output, is its final feed-forward layer;
    `interface_layer` makes the heads' signals from the controller. Either may be replaced by any
    layer that is called like `nn.Linear`, with `neurocoder.recode`.

    Args:
        in_features: size of the input at a step.
        out_features: size of the output at a step.
        hidden_size: size of the controller's LSTM.
        rows: N.
        width: M.
        read_heads: number of readers.
        write_heads: number of writers.
        device: where the parameters live.
        dtype: their type.
    """

    _moved: Tensor

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        hidden_size: int = 64,
        rows: int = 16,
        width: int = 8,
        read_heads: int = 1,
        write_heads: int = 1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        self.hidden_size, self.rows, self.width = hidden_size, rows, width
        self.read_heads, self.write_heads = read_heads, write_heads
        heads, read_size = read_heads + write_heads, read_heads * width
        # Rows: input gate, forget gate, output gate, candidate; the three sigmoids are adjacent.
        self.input_projection = nn.Linear(in_features, 4 * hidden_size, **factory)
        self.recurrent_projection = nn.Linear(
            hidden_size + read_size, 4 * hidden_size, bias=False, **factory
        )
        signals = heads * (width + 3 + len(SHIFTS)) + write_heads * 2 * width
        self.interface_layer: nn.Module = nn.Linear(hidden_size, signals, **factory)
        self.output_layer: nn.Module = nn.Linear(hidden_size + read_size, out_features, **factory)
        self.start = nn.Parameter(torch.zeros(heads, rows, **factory))
        with torch.no_grad():
            self.start[:, 0] = LOGIT_OF_THE_FIRST_ROW
        # Row i of a ring shifted by s holds what row i - s held.
        ring = (torch.arange(rows) - torch.tensor(SHIFTS)[:, None]) % rows
        self.register_buffer("_moved", ring.flatten().to(device), persistent=False)

    def forward(self, x: Tensor, where: Tensor | None = None) -> Tensor:
        """Return logits, shape (T, B, out_features), for sequences x of shape (T, B, in_features).

        Args:
            x: the sequences.
            where: booleans of shape (T, B). If given, the output layer runs only where it is true,
                and the logits have shape (number of trues, out_features).
        """
        features = self.features(x)
        logits: Tensor = self.output_layer(features if where is None else features[where])
        return logits

    def features(self, x: Tensor) -> Tensor:
        """The output layer's input: controller and read vectors, shape (T, B, hidden + R * M).

        The output is not fed back, so that its layer can take all steps at once.
        """
        state = self.initial_state(x.shape[1])
        features = []
        for from_input in self.input_projection(x):
            state = self._step(from_input, state)
            features.append(torch.cat([state.hidden, state.read], dim=-1))
        return torch.stack(features)

    def states(self, x: Tensor) -> list[State]:
        """The state after every step of x, shape (T, B, in_features); for inspection and tests."""
        states = [self.initial_state(x.shape[1])]
        for from_input in self.input_projection(x):
            states.append(self._step(from_input, states[-1]))
        return states[1:]

    def initial_state(self, batch_size: int) -> State:
        """The state before the first step."""
        empty = self.start.new_zeros(batch_size, self.hidden_size)
        return State(
            hidden=empty,
            cell=empty,
            memory=self.start.new_full((batch_size, self.rows, self.width), MEMORY_AT_START),
            attention=torch.softmax(self.start, dim=-1).expand(batch_size, -1, -1),
            read=self.start.new_zeros(batch_size, self.read_heads * self.width),
        )

    def extra_repr(self) -> str:
        """Describe the memory."""
        return (
            f"rows={self.rows}, width={self.width}, read_heads={self.read_heads}, "
            f"write_heads={self.write_heads}"
        )

    def _step(self, from_input: Tensor, before: State) -> State:
        """Make one step, given the input's part of the controller's gates, (B, 4 * hidden)."""
        hidden, cell = self._control(from_input, before)
        signals = self._signals(hidden)
        attention = self._address(signals, before)
        memory = self._write(before.memory, attention[:, self.read_heads :], signals)
        read = attention[:, : self.read_heads] @ memory  # eq. 2
        return State(hidden, cell, memory, attention, read.flatten(1))

    def _control(self, from_input: Tensor, before: State) -> tuple[Tensor, Tensor]:
        """The controller's LSTM."""
        recurrent = torch.cat([before.hidden, before.read], dim=-1)
        total = torch.addmm(from_input, recurrent, self.recurrent_projection.weight.T)
        gates, candidate = total.split([3 * self.hidden_size, self.hidden_size], dim=-1)
        enter, keep, leave = torch.sigmoid(gates).chunk(3, dim=-1)
        cell = torch.addcmul(enter * torch.tanh(candidate), keep, before.cell)
        return leave * torch.tanh(cell), cell

    def _signals(self, hidden: Tensor) -> Signals:
        """The heads' signals; numbers that share a nonlinearity are adjacent."""
        heads, writers = self.read_heads + self.write_heads, self.write_heads
        sizes = [
            (heads + writers) * self.width,
            heads + writers * self.width,
            2 * heads,
            heads * len(SHIFTS),
        ]
        bounded, opened, positive, shift = self.interface_layer(hidden).split(sizes, dim=-1)
        bounded = torch.tanh(bounded).unflatten(-1, (heads + writers, self.width))
        gate, erase = torch.sigmoid(opened).split([heads, writers * self.width], dim=-1)
        strength, sharpening = F.softplus(positive).unflatten(-1, (2, heads, 1)).unbind(-3)
        return Signals(
            key=bounded[:, :heads],
            strength=strength,
            gate=gate.unsqueeze(-1),
            shift=torch.softmax(shift.unflatten(-1, (heads, len(SHIFTS))), dim=-1),
            sharpening=1 + sharpening,
            erase=erase.unflatten(-1, (writers, self.width)),
            add=bounded[:, heads:],
        )

    def _address(self, signals: Signals, before: State) -> Tensor:
        """Where the heads point: by content, or where they were, moved along and sharpened."""
        cosine = _unit_length(signals.key) @ _unit_length(before.memory).mT  # eq. 6
        by_content = torch.softmax(signals.strength * cosine, dim=-1)  # eq. 5
        gated = torch.lerp(before.attention, by_content, signals.gate)  # eq. 7
        moved = gated.index_select(-1, self._moved).unflatten(-1, (len(SHIFTS), self.rows))
        shifted = (signals.shift.unsqueeze(-1) * moved).sum(dim=-2)  # eq. 8
        # Eq. 9, w^gamma divided by its sum, computed with logarithms.
        return torch.softmax(signals.sharpening * torch.log(shifted + TINY), dim=-1)

    def _write(self, memory: Tensor, attention: Tensor, signals: Signals) -> Tensor:
        """Erase, then add, with attention of shape (B, write_heads, N)."""
        for weight, erase in zip(attention.unbind(1), signals.erase.unbind(1), strict=True):
            erased = weight.unsqueeze(-1) * erase.unsqueeze(-2)
            memory = torch.addcmul(memory, memory, erased, value=-1)  # eq. 3
        return torch.baddbmm(memory, attention.mT, signals.add)  # eq. 4


def _unit_length(x: Tensor) -> Tensor:
    """Scale the last dimension to length one, or less if it is nearly zero."""
    return x * (x.square().sum(dim=-1, keepdim=True) + SQUARED_LENGTH_OF_NOTHING).rsqrt()
