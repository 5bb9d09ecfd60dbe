"""The program controller's composition network, which turns an input into queries and gates."""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from neurocoder._precision import WideLinear
from neurocoder.readings import DEFAULT_READINGS, Initialisation, Readings

MEMORIES = 3


class Signals(NamedTuple):
    """xi of eq. 6: the output of a composition network for every input.

    Attributes:
        queries: q, shape (B, J, 3, H, K), for M_U, M_V and M_S.
        gates: g before the sigmoid, shape (B, J, 3, H, P), or None without usage attention.
        residual_gate: f_phi(x) of eq. 12, shape (B, 1), if the LSTM's state holds it, else None.
    """

    queries: Tensor
    gates: Tensor | None
    residual_gate: Tensor | None = None


class CompositionNetwork(nn.Module):
    """f_theta of eq. 6: maps an input to queries and gates for M_U, M_V and M_S at J steps.

    One LSTM reads the same input at every step; three sets of outputs address the three memories. A
    query does not depend on what earlier steps retrieved, so one matrix product after the last step
    gives the queries and gates of all steps.

    Args:
        in_features: Size of the input.
        slots: P, the number of slots of each memory.
        key_size: K, the size of a key.
        heads: H, the number of attention heads.
        steps: J, the number of retrieval steps.
        hidden_size: Size of the LSTM's state.
        gates: Whether to compute gates; only usage attention needs them.
        readings: Where queries, gates and the initial state come from, and how to draw parameters.
        device: Device of the parameters.
        dtype: Data type of the parameters.
    """

    def __init__(
        self,
        in_features: int,
        *,
        slots: int,
        key_size: int,
        heads: int,
        steps: int,
        hidden_size: int,
        gates: bool,
        readings: Readings = DEFAULT_READINGS,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        self.slots, self.key_size, self.heads, self.steps = slots, key_size, heads, steps
        self.gate_source, self.initialisation = readings.gates, readings.initialisation
        # Rows: input, forget and output gate, then cell gate, so that the sigmoids are contiguous.
        self.input_projection = WideLinear(in_features, 4 * hidden_size, **factory)
        self.recurrent_projection = WideLinear(hidden_size, 4 * hidden_size, bias=False, **factory)
        self.query_projection = (
            WideLinear(hidden_size, MEMORIES * heads * key_size, **factory)
            if readings.queries == "projection"
            else None
        )
        self.gate_projection: WideLinear | None = None
        if gates and readings.gates == "state":
            self.gate_projection = WideLinear(hidden_size, MEMORIES * heads * slots, **factory)
        elif gates:
            self.gate_projection = WideLinear(in_features, MEMORIES * slots, **factory)
        if readings.initial_state == "learned":
            self.initial_state = nn.Parameter(torch.empty(2, hidden_size, **factory))
        else:
            self.register_parameter("initial_state", None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new weights, and set biases to zero.

        Only the direction of a query matters; a constant part would make the queries of all inputs
        alike.
        """
        in_features, size = self.input_projection.in_features, self.recurrent_projection.in_features
        authors = self.initialisation == "authors"
        bound = 5 * (in_features + size) ** -0.5 if authors else size**-0.5
        for projection in (self.input_projection, self.recurrent_projection):
            nn.init.uniform_(projection.weight, -bound, bound)
        nn.init.zeros_(self.input_projection.bias)
        if self.query_projection is not None:
            nn.init.normal_(self.query_projection.weight, std=size**-0.5)
            nn.init.zeros_(self.query_projection.bias)
        if self.gate_projection is not None:
            _reset_gates(self.gate_projection, self.initialisation)
        if self.initial_state is not None:
            nn.init.normal_(self.initial_state, std=0.05)

    def forward(self, x: Tensor) -> Signals:
        """Return the signals for x, shape (B, in)."""
        hidden = self._hidden_states(x)
        shape, residual_gate = (MEMORIES, self.heads, self.key_size), None
        if self.query_projection is None:
            queries, residual_gate = hidden[..., :-1].unflatten(-1, shape), hidden[:, -1, -1:]
        else:
            queries = self.query_projection(hidden).unflatten(-1, shape)
        if self.gate_projection is None:
            return Signals(queries, None, residual_gate)
        if self.gate_source == "input":
            gates = _gates_of_input(self.gate_projection, x, self.steps, self.heads)
        else:
            gates = self.gate_projection(hidden).unflatten(-1, (MEMORIES, self.heads, self.slots))
        return Signals(queries, gates, residual_gate)

    def _hidden_states(self, x: Tensor) -> Tensor:
        """h_1 ... h_J of the LSTM, shape (B, J, hidden), from h_0 and c_0."""
        hidden_size = self.recurrent_projection.in_features
        from_input = self.input_projection(x)
        recurrent_weight = self.recurrent_projection.weight.T.to(x.dtype)
        total, cell = from_input, None
        states: list[Tensor] = []
        if self.initial_state is not None:
            start, cell = self.initial_state.to(x.dtype)
            total = from_input + start @ recurrent_weight
        elif self.steps == 1:  # gives every parameter a gradient, as DDP requires
            total = torch.addmm(from_input, x.new_zeros(x.shape[0], hidden_size), recurrent_weight)
        for _ in range(self.steps):
            if states:
                total = torch.addmm(from_input, states[-1], recurrent_weight)
            gates, cell_gate = total.split([3 * hidden_size, hidden_size], dim=-1)
            input_gate, forget_gate, output_gate = torch.sigmoid(gates).chunk(3, dim=-1)
            update = input_gate * torch.tanh(cell_gate)
            cell = update if cell is None else torch.addcmul(update, forget_gate, cell)
            states.append(output_gate * torch.tanh(cell))
        return torch.stack(states, dim=1)


class SingleStepNetwork(nn.Module):
    """f_theta of eq. 6 for a single step without an LSTM: linear maps of the input.

    Args:
        in_features: Size of the input.
        slots: P, the number of slots of each memory.
        key_size: K, the size of a key.
        heads: H, the number of attention heads.
        gates: Whether to compute gates, one for each slot.
        readings: Only their `initialisation` is used: how to draw parameters.
        device: Device of the parameters.
        dtype: Data type of the parameters.
    """

    def __init__(
        self,
        in_features: int,
        *,
        slots: int,
        key_size: int,
        heads: int,
        gates: bool,
        readings: Readings = DEFAULT_READINGS,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        self.slots, self.key_size, self.heads, self.steps = slots, key_size, heads, 1
        self.initialisation = readings.initialisation
        self.query_projection = WideLinear(in_features, MEMORIES * heads * key_size, **factory)
        self.gate_projection = (
            WideLinear(in_features, MEMORIES * slots, **factory) if gates else None
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new weights; see `CompositionNetwork.reset_parameters`."""
        weight, bias = self.query_projection.weight, self.query_projection.bias
        if self.initialisation == "authors":
            bound = math.sqrt(6 / (weight.shape[1] + weight.shape[0] // MEMORIES))
            nn.init.uniform_(weight, -bound, bound)
            nn.init.normal_(bias, std=0.01)
        else:
            nn.init.normal_(weight, std=weight.shape[1] ** -0.5)
            nn.init.zeros_(bias)
        if self.gate_projection is not None:
            _reset_gates(self.gate_projection, self.initialisation)

    def forward(self, x: Tensor) -> Signals:
        """Return the signals for x, shape (B, in)."""
        queries = self.query_projection(x)
        queries = queries.unflatten(-1, (1, MEMORIES, self.heads, self.key_size))
        if self.gate_projection is None:
            return Signals(queries, None)
        return Signals(queries, _gates_of_input(self.gate_projection, x, 1, self.heads))


def _gates_of_input(projection: nn.Linear, x: Tensor, steps: int, heads: int) -> Tensor:
    """One gate for each slot, the same at every step and for every head: (B, J, 3, H, P)."""
    gates = projection(x).unflatten(-1, (1, MEMORIES, 1, -1))
    return gates.expand(-1, steps, -1, heads, -1)


def _reset_gates(projection: nn.Linear, initialisation: Initialisation) -> None:
    if initialisation == "authors":
        projection.reset_parameters()
    else:
        nn.init.normal_(projection.weight, std=projection.in_features**-0.5)
        nn.init.zeros_(projection.bias)
