"""The program controller's composition network: an LSTM that queries the memory J times."""

from typing import Any

import torch
from torch import Tensor, nn

from neurocoder._precision import WideLinear

MEMORIES = 3


class CompositionNetwork(nn.Module):
    """f_theta of eq. 6: maps an input to queries and gates for M_U, M_V and M_S at J steps.

    One LSTM reads the same input at every step, starting from a zero state; three sets of outputs
    address the three memories. A query does not depend on what earlier steps retrieved, so one
    matrix product after the last step gives the queries and gates of all steps.

    Args:
        in_features: Size of the input.
        slots: P, the number of slots of each memory.
        key_size: K, the size of a key.
        heads: H, the number of attention heads.
        steps: J, the number of retrieval steps.
        hidden_size: Size of the LSTM's state.
        gates: Whether to compute gates; only usage attention needs them.
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
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        self.slots, self.key_size, self.heads, self.steps = slots, key_size, heads, steps
        # Rows: input, forget and output gate, then cell gate, so that the sigmoids are contiguous.
        self.input_projection = WideLinear(in_features, 4 * hidden_size, **factory)
        self.recurrent_projection = WideLinear(hidden_size, 4 * hidden_size, bias=False, **factory)
        self.query_projection = WideLinear(hidden_size, MEMORIES * heads * key_size, **factory)
        self.gate_projection = (
            WideLinear(hidden_size, MEMORIES * heads * slots, **factory) if gates else None
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new weights, and set biases to zero.

        Only the direction of a query matters; a constant part would make the queries of all inputs
        alike.
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
        """Return queries (B, J, 3, H, K) and gates (B, J, 3, H, P) or None, for x (B, in)."""
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
        recurrent_weight = self.recurrent_projection.weight.T.to(x.dtype)
        total, cell = from_input, None
        states: list[Tensor] = []
        if self.steps == 1:  # so that every parameter has a gradient, as DDP needs it
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
