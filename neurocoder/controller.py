"""The program controller's composition network: an LSTM that asks the memory J times."""

from typing import Any

import torch
from torch import Tensor, nn

MEMORIES = 3


class CompositionNetwork(nn.Module):
    """f_theta of eq. 6: from an input, J steps of queries and gates for M_U, M_V and M_S.

    One LSTM reads the same input at every step, starting from zeros; three sets of outputs address
    the three memories. What it asks at a step does not depend on what earlier steps retrieved, so
    all steps' queries and gates come from one product at the end.

    Args:
        in_features: size of the input.
        slots: P.
        key_size: K.
        heads: H.
        steps: J.
        hidden_size: size of the LSTM's state.
        gates: whether to make gates; without usage attention there is nothing to gate.
        device: where the parameters live.
        dtype: their type.
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
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        self.slots, self.key_size, self.heads, self.steps = slots, key_size, heads, steps
        # Rows: input gate, forget gate, output gate, candidate; the three sigmoids lie together.
        self.input_projection = nn.Linear(in_features, 4 * hidden_size, **factory)
        self.recurrent_projection = nn.Linear(hidden_size, 4 * hidden_size, bias=False, **factory)
        self.query_projection = nn.Linear(hidden_size, MEMORIES * heads * key_size, **factory)
        self.gate_projection = (
            nn.Linear(hidden_size, MEMORIES * heads * slots, **factory) if gates else None
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new weights, and zero biases.

        Queries are compared by direction alone; a constant part would turn all inputs' queries the
        same way.
        """
        hidden_size = self.recurrent_projection.in_features
        for projection in (self.input_projection, self.recurrent_projection):
            nn.init.uniform_(projection.weight, -(hidden_size**-0.5), hidden_size**-0.5)
        nn.init.zeros_(self.input_projection.bias)
        nn.init.normal_(self.query_projection.weight, std=hidden_size**-0.5)
        nn.init.zeros_(self.query_projection.bias)
        if self.gate_projection is not None:
            nn.init.normal_(self.gate_projection.weight, std=hidden_size**-0.5)
            nn.init.zeros_(self.gate_projection.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return queries (B, J, 3, H, K) and gates (B, J, 3, H, P), or None, for x (B, in)."""
        hidden = self._hidden_states(x)
        queries = self.query_projection(hidden).unflatten(-1, (MEMORIES, self.heads, self.key_size))
        if self.gate_projection is None:
            return queries, None
        gates = self.gate_projection(hidden).unflatten(-1, (MEMORIES, self.heads, self.slots))
        return queries, gates

    def _hidden_states(self, x: Tensor) -> Tensor:
        """h_1 ... h_J of the LSTM, shape (B, J, hidden), from h_0 = c_0 = 0."""
        hidden_size = self.recurrent_projection.in_features
        from_input = self.input_projection(x)
        recurrent_weight = self.recurrent_projection.weight.T
        total, cell = from_input, None
        states: list[Tensor] = []
        for _ in range(self.steps):
            if states:
                total = torch.addmm(from_input, states[-1], recurrent_weight)
            gates, candidate = total.split([3 * hidden_size, hidden_size], dim=-1)
            enter, keep, leave = torch.sigmoid(gates).chunk(3, dim=-1)
            written = enter * torch.tanh(candidate)
            cell = written if cell is None else torch.addcmul(written, keep, cell)
            states.append(leave * torch.tanh(cell))
        return torch.stack(states, dim=1)
