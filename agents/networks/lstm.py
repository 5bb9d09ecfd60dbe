"""An LSTM over T steps of B environments, with a hand-written gradient.

Step by step, autograd would add up a gradient of all weights at every step, reading and writing
megabytes each time. Here a backward step is one small product, and the weights' gradient is a
single product over all steps at the end.
"""

from typing import Any

import torch
from torch import Tensor


class LSTMSequence(torch.autograd.Function):
    """`torch.nn.LSTMCell` step after step, its state zeroed where an episode starts.

    With (i, f, g, o) = (sigmoid, sigmoid, tanh, sigmoid) of W_x x_t + W_h h + b, and h, c the state
    before the step, zeroed where not_done_t is zero:

        c_t = f c + i g,   h_t = o tanh(c_t).

    The batch may consist of W groups of B / W, one after the other, with separate gradients: the
    weights are then repeated W times along a new first dimension.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        hidden: Tensor,
        cell: Tensor,
        not_done: Tensor,
        input_weight: Tensor,
        recurrent_weight: Tensor,
        bias: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Return h_t of all steps, shape (T, B, S), and the last c_t, shape (B, S).

        Args:
            ctx: Keeps the tensors saved for backward.
            x: shape (T, B, in).
            hidden: h before the first step, shape (B, S).
            cell: c before the first step, shape (B, S).
            not_done: shape (T, B, 1): zero where an episode starts, else one.
            input_weight: W_x, shape (4 S, in), its rows in the order i, f, g, o.
            recurrent_weight: W_h, shape (4 S, S).
            bias: b, shape (4 S,).
        """
        groups = len(input_weight) if input_weight.dim() == 3 else None
        if groups is not None:
            input_weight, recurrent_weight, bias = input_weight[0], recurrent_weight[0], bias[0]
        steps, batch, size = len(x), len(cell), cell.shape[1]
        gates = torch.addmm(bias, x.flatten(0, 1), input_weight.t()).view(steps, batch, 4, size)
        hiddens, cells, tanh_cells = x.new_empty(3, steps + 1, batch, size).unbind()
        hiddens_before, cells_before = x.new_empty(2, steps, batch, size).unbind()
        recurrent = recurrent_weight.t()
        hiddens[0], cells[0] = hidden, cell
        # Not a product with zero: after an observation that is not finite, it would stay NaN.
        starts, zero = not_done == 0, x.new_zeros(())
        for t in range(steps):
            torch.where(starts[t], zero, hiddens[t], out=hiddens_before[t])
            torch.where(starts[t], zero, cells[t], out=cells_before[t])
            gates[t].view(batch, -1).addmm_(hiddens_before[t], recurrent)
            gates[t, :, :2].sigmoid_()
            gates[t, :, 2].tanh_()
            gates[t, :, 3].sigmoid_()
            input_gate, forget_gate, cell_gate, output_gate = gates[t].unbind(1)
            torch.mul(forget_gate, cells_before[t], out=cells[t + 1]).addcmul_(
                input_gate, cell_gate
            )
            torch.tanh(cells[t + 1], out=tanh_cells[t + 1])
            torch.mul(output_gate, tanh_cells[t + 1], out=hiddens[t + 1])
        ctx.groups = groups
        ctx.save_for_backward(
            x, not_done, input_weight, recurrent_weight,
            gates, tanh_cells, hiddens_before, cells_before,
        )  # fmt: skip
        return hiddens[1:], cells[-1].clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dhiddens: Tensor, dcell: Tensor) -> Any:
        """Return the gradients of all inputs; `not_done` has none."""
        x, not_done, input_weight, recurrent_weight, gates, tanh_cells, *before = ctx.saved_tensors
        hiddens_before, cells_before = before
        input_gate, forget_gate, cell_gate, output_gate = gates.unbind(2)
        tanh_cells = tanh_cells[1:]
        # The gates' derivatives are these factors times those of c (for i, f and g) or h (for o).
        factors = torch.stack(
            [
                cell_gate * input_gate * (1 - input_gate),
                cells_before * forget_gate * (1 - forget_gate),
                input_gate * (1 - cell_gate.square()),
                tanh_cells * output_gate * (1 - output_gate),
            ],
            dim=2,
        )
        from_hidden = output_gate * (1 - tanh_cells.square())
        dgates = torch.empty_like(gates)
        dhidden = torch.zeros_like(dcell)
        for t in reversed(range(len(x))):
            dhidden = dhidden + dhiddens[t]
            dcell = torch.addcmul(dcell, dhidden, from_hidden[t])
            torch.mul(factors[t, :, :3], dcell.unsqueeze(1), out=dgates[t, :, :3])
            torch.mul(factors[t, :, 3], dhidden, out=dgates[t, :, 3])
            dhidden = (dgates[t].view(len(dcell), -1) @ recurrent_weight) * not_done[t]
            dcell = dcell * forget_gate[t] * not_done[t]
        dgates = dgates.flatten(2)
        return (
            dgates @ input_weight,
            dhidden,
            dcell,
            None,
            _weight_gradient(dgates, x, ctx.groups),
            _weight_gradient(dgates, hiddens_before, ctx.groups),
            _by_group(dgates, ctx.groups).sum(-2),
        )


def _weight_gradient(dgates: Tensor, inputs: Tensor, groups: int | None) -> Tensor:
    """Sum of outer products over the steps and the batch, or the batch of every group."""
    return _by_group(dgates, groups).transpose(-1, -2) @ _by_group(inputs, groups)


def _by_group(x: Tensor, groups: int | None) -> Tensor:
    """(T, B, ...) as (T * B, ...), or as (W, T * B / W, ...) if there are W groups."""
    if groups is None:
        return x.flatten(0, 1)
    return x.unflatten(1, (groups, -1)).transpose(0, 1).flatten(1, 2)
