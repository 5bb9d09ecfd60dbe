"""`NeurocoderLinear` with a hand-written gradient: the same equations in fewer operations.

The layer is about a hundred small operations on small tensors. Autograd's overhead per operation
exceeds their arithmetic, so here the whole layer is one `torch.autograd.Function`. The reference
implementation is in `attention.py`, `controller.py`, `memory.py` and `linear.py`; tests compare the
two with each other and with the paper.

Every part is a pair of functions, in the paper's order: a forward function, which also returns the
tensors saved for backward, and a backward function. `dz` is the derivative of the loss with respect
to z. B is the batch size, P the number of slots, K the key size, H the number of heads, J the
number of steps, S the size of the LSTM state, r = J * H; M = 3 memories in the order U, V, S.

Inputs and LSTM states have the batch dimension first; queries, gates and attention have it last, as
(M, H, P, J, B), so that softmax, sums and maxima over slots are vectorised. Masks are numbers to
multiply by, since `where` and `masked_fill` branch on every element.
"""

from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from neurocoder.attention import inverse_length

MEMORIES = 3
Plain = Callable[..., Tensor]
# Up to this number of slots, comparing all pairs is faster than `kthvalue`.
_MAX_SLOTS_TO_COMPARE = 32


class Sizes(NamedTuple):
    """Sizes that do not follow from the shapes of the parameters."""

    heads: int
    steps: int
    least_used: int
    sharpness: float


class Parameters(NamedTuple):
    """The layer's parameters except those of its key networks; None where ablated."""

    u: Tensor
    v: Tensor
    s: Tensor
    input_weight: Tensor
    input_bias: Tensor
    recurrent_weight: Tensor
    query_weight: Tensor
    query_bias: Tensor
    gate_weight: Tensor | None
    gate_bias: Tensor | None
    integration_weight: Tensor | None
    integration_bias: Tensor | None
    residual: Tensor | None
    bias: Tensor | None


Saved = tuple[Tensor, ...]
PerMemory = tuple[Tensor, Tensor, Tensor]


class KeyParameters(NamedTuple):
    """The parameters of the three key networks."""

    hidden_weight: PerMemory
    hidden_bias: PerMemory
    output_weight: PerMemory
    output_bias: PerMemory


def run(x: Tensor, keys: Tensor, p: Parameters, sizes: Sizes) -> tuple[Tensor, list[Saved]]:
    """Return y, shape (B, out), and the tensors saved for `run_backward`.

    Args:
        x: Inputs, shape (B, in).
        keys: Keys of eq. 7, of unit length, shape (M, P, K).
        p: The parameters.
        sizes: Sizes that do not follow from their shapes.
    """
    states, from_states = _states(x, p, sizes.steps)  # eq. 6
    query, gate = _signals(states, p, keys.shape[-1])
    content, from_content = _content(query, keys, sizes)  # eq. 8
    attention, from_blend = content, Saved()
    if gate is not None:
        attention, from_blend = _blend(content, gate, sizes)  # eq. 9 to 11
    attention = attention.view(MEMORIES, sizes.heads, len(p.u), sizes.steps, len(x))
    y, from_apply = _apply(x, attention, p, sizes)  # eq. 1, 3, 4, 5 and 12
    return y, [from_states, from_content, from_blend, from_apply]


def run_backward(
    dy: Tensor, x: Tensor, p: Parameters, sizes: Sizes, saved: Sequence[Saved]
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Return the gradients of x, of the keys, and of the parameters (by name)."""
    from_states, from_content, from_blend, from_apply = saved
    dx, dattention, dparameters = _apply_backward(dy, x, p, from_apply)
    content, states = from_content[0], from_states[0]
    dcontent, dgate = dattention.view_as(content), None
    if from_blend:
        dcontent, dgate = _blend_backward(dcontent, content, sizes, from_blend)
    dquery, dkeys = _content_backward(dcontent, sizes, from_content)
    dstates, by_signals = _signals_backward(dquery, dgate, states, p)
    by_states = _states_backward(dstates, dx, x, p, from_states)
    return dx, dkeys, dparameters | by_signals | by_states


# Eq. 7: keys.


def run_keys(memories: PerMemory, p: KeyParameters) -> tuple[Tensor, Saved]:
    """Return unit-length keys, shape (M, P, K), and the tensors saved for backward."""
    hidden = torch.stack(
        [
            torch.addmm(bias, memory, weight.t())
            for memory, weight, bias in zip(memories, p.hidden_weight, p.hidden_bias, strict=True)
        ]
    ).tanh_()
    output_weight = torch.stack(p.output_weight)
    raw = torch.stack(p.output_bias).unsqueeze(1).baddbmm(hidden, output_weight.transpose(1, 2))
    inverse = inverse_length(raw, dim=2)
    keys = raw * inverse
    return keys, (keys, inverse, hidden, output_weight)


def run_keys_backward(
    dkeys: Tensor, memories: PerMemory, p: KeyParameters, saved: Saved
) -> tuple[Saved, list[Tensor]]:
    """Return the gradients of the memories and of all key parameters, in order."""
    keys, inverse, hidden, output_weight = saved
    draw = _unit_backward(dkeys, keys, inverse, dim=2)
    dhidden = torch.bmm(draw, output_weight)
    dhidden = torch.addcmul(dhidden, dhidden, hidden.square(), value=-1)  # tanh' = 1 - tanh^2
    doutput = torch.bmm(draw.transpose(1, 2), hidden)
    each = dhidden.unbind()
    dmemories = tuple(d @ weight for d, weight in zip(each, p.hidden_weight, strict=True))
    by_hidden = [d.t() @ memory for d, memory in zip(each, memories, strict=True)]
    return dmemories, [*by_hidden, *dhidden.sum(1), *doutput, *draw.sum(1)]


# Eq. 6: the composition network.


def _states(x: Tensor, p: Parameters, steps: int) -> tuple[Tensor, Saved]:
    """h_1 ... h_J of the LSTM, shape (J, B, S), from h_0 = c_0 = 0."""
    batch, size = len(x), p.recurrent_weight.shape[1]
    from_input = torch.addmm(p.input_bias, x, p.input_weight.t())
    # For every step: input, forget, output and cell gate; then cell, tanh(cell) and state.
    gates = x.new_empty(steps, batch, 4 * size)
    cells, tanh_cells, states = x.new_empty(MEMORIES, steps, batch, size).unbind()
    sigmoids, cell_gates = (t.unbind() for t in gates.split([3 * size, size], dim=-1))
    input_gates, forget_gates, output_gates, _ = (t.unbind() for t in gates.chunk(4, dim=-1))
    gate, cell, tanh_cell, state = (t.unbind() for t in (gates, cells, tanh_cells, states))
    recurrent = p.recurrent_weight.t()
    for j in range(steps):
        if j == 0:
            gate[0].copy_(from_input)
        else:
            torch.addmm(from_input, state[j - 1], recurrent, out=gate[j])
        sigmoids[j].sigmoid_()
        cell_gates[j].tanh_()
        torch.mul(input_gates[j], cell_gates[j], out=cell[j])
        if j > 0:
            cell[j].addcmul_(forget_gates[j], cell[j - 1])
        torch.tanh(cell[j], out=tanh_cell[j])
        torch.mul(output_gates[j], tanh_cell[j], out=state[j])
    return states, (states, gates, cells, tanh_cells)


def _states_backward(
    dstates: Tensor, dx: Tensor, x: Tensor, p: Parameters, saved: Saved
) -> dict[str, Tensor]:
    """Add to dx in place, and return the gradients of the LSTM's parameters.

    With total = (i, f, o, g) before sigmoid and tanh, c_j = i g + f c_{j-1}, h_j = o tanh(c_j):

        dc_j  = dh_j o (1 - tanh(c_j)^2) + dc_{j+1} f_{j+1},   dh_j += dtotal_{j+1} W,
        di = dc g i (1 - i),        df = dc c_{j-1} f (1 - f),
        dg = dc i (1 - g^2),        do = dh tanh(c) o (1 - o),

    where all factors except dc and dh are computed before the loop, for all steps at once.
    """
    states, gates, cells, tanh_cells = saved
    steps, _, size = states.shape
    input_gate, forget_gate, output_gate, cell_gate = gates.chunk(4, dim=-1)
    factors = torch.addcmul(gates, gates, gates, value=-1).unflatten(-1, (4, size))
    input_factor, forget_factor, output_factor, cell_factor = factors.unbind(-2)
    input_factor.mul_(cell_gate)
    forget_factor[1:].mul_(cells[:-1])
    forget_factor[0].zero_()
    output_factor.mul_(tanh_cells)
    torch.addcmul(input_gate, input_gate * cell_gate, cell_gate, value=-1, out=cell_factor)
    to_cell = torch.addcmul(output_gate, states, tanh_cells, value=-1)  # o (1 - tanh(c)^2)

    dtotals = factors  # the loop below turns the factors into derivatives, in place
    dtotal, doutput = dtotals.unbind(), output_factor.unbind()
    dstate, to_cell_step, forget_step = dstates.unbind(), to_cell.unbind(), forget_gate.unbind()
    dcell: Tensor | None = None
    for j in reversed(range(steps)):
        dh = dstate[j]
        if dcell is None:
            dcell = dh * to_cell_step[j]
        else:
            dh = torch.addmm(dh, dtotal[j + 1].flatten(1), p.recurrent_weight)
            dcell = torch.addcmul(dcell * forget_step[j + 1], dh, to_cell_step[j])
        doutput_step = doutput[j] * dh
        dtotal[j].mul_(dcell.unsqueeze(1))
        doutput[j].copy_(doutput_step)
    flat = dtotals.flatten(2)
    dinput = flat.sum(0)
    dx.addmm_(dinput, p.input_weight)
    return {
        "input_weight": dinput.t() @ x,
        "input_bias": dinput.sum(0),
        "recurrent_weight": flat[1:].flatten(0, 1).t() @ states[:-1].flatten(0, 1),
    }


def _signals(states: Tensor, p: Parameters, key_size: int) -> tuple[Tensor, Tensor | None]:
    """Queries (M * H, K, J * B), and gates before the sigmoid (M * H, P, J * B) or None."""
    states = states.flatten(0, 1).t()
    query = torch.addmm(p.query_bias.unsqueeze(1), p.query_weight, states)
    gate = None
    if p.gate_weight is not None and p.gate_bias is not None:
        gate = torch.addmm(p.gate_bias.unsqueeze(1), p.gate_weight, states)
        gate = gate.unflatten(0, (-1, len(p.u)))
    return query.unflatten(0, (-1, key_size)), gate


def _signals_backward(
    dquery: Tensor, dgate: Tensor | None, states: Tensor, p: Parameters
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the gradients of the states and of the projections."""
    flat, dquery = states.flatten(0, 1), dquery.flatten(0, 1)
    dparameters = {"query_weight": dquery @ flat, "query_bias": dquery.sum(1)}
    dstates = dquery.t() @ p.query_weight
    if dgate is not None and p.gate_weight is not None:
        dgate = dgate.flatten(0, 1)
        dparameters |= {"gate_weight": dgate @ flat, "gate_bias": dgate.sum(1)}
        dstates.addmm_(dgate.t(), p.gate_weight)
    return dstates.view_as(states), dparameters


# Eq. 8: content attention.


def _content(query: Tensor, keys: Tensor, sizes: Sizes) -> tuple[Tensor, Saved]:
    """Attention c, shape (M * H, P, J * B), of queries (M * H, K, J * B)."""
    inverse = inverse_length(query, dim=1)
    direction = query * inverse
    sharp_keys = (sizes.sharpness * keys).repeat_interleave(sizes.heads, dim=0)
    content = torch.softmax(torch.bmm(sharp_keys, direction), dim=1)
    return content, (content, direction, inverse, sharp_keys)


def _content_backward(dcontent: Tensor, sizes: Sizes, saved: Saved) -> tuple[Tensor, Tensor]:
    """Return the gradients of the queries and of the keys; overwrites dcontent."""
    content, direction, inverse, sharp_keys = saved
    dscore = dcontent.mul_(content)
    dscore.addcmul_(content, dscore.sum(1, keepdim=True), value=-1)  # derivative of softmax
    dkeys = torch.bmm(dscore, direction.transpose(1, 2)).unflatten(0, (MEMORIES, -1)).sum(1)
    ddirection = torch.bmm(sharp_keys.transpose(1, 2), dscore)
    return _unit_backward(ddirection, direction, inverse, dim=1), sizes.sharpness * dkeys


def _unit_backward(dunit: Tensor, unit: Tensor, inverse: Tensor, dim: int) -> Tensor:
    """Gradient of z from that of z / |z|: its component orthogonal to z, divided by |z|."""
    along = (dunit * unit).sum(dim, keepdim=True)
    return torch.addcmul(dunit, along, unit, value=-1).mul_(inverse)


# Eq. 9 to 11: usage, least-used attention, and the mix with content attention.


def _blend(content: Tensor, gate: Tensor, sizes: Sizes) -> tuple[Tensor, Saved]:
    """Attention w from content attention and gates, all of shape (M * H, P, J * B)."""
    opened = torch.sigmoid(gate)
    attention = opened * content
    w, free = by_step(attention, sizes), by_step(1 - opened, sizes)
    usages, leasts, chosens = [w[0]], [], []
    slots, less = content.shape[1], None
    if slots <= _MAX_SLOTS_TO_COMPARE:
        less = content.new_empty(len(content), slots, *w[0].shape[1:])
    for j in range(1, sizes.steps):
        usage = usages[-1]
        chosen = _least_used(usage, sizes.least_used, less)
        least = (usage.amax(1, keepdim=True) - usage).mul_(chosen)  # eq. 10
        w[j].addcmul_(free[j], least)  # eq. 11
        usages.append(torch.maximum(usage, w[j]))  # eq. 9
        leasts.append(least)
        chosens.append(chosen)
    return attention, (attention, opened, *usages, *leasts, *chosens)


def _blend_backward(
    dattention: Tensor, content: Tensor, sizes: Sizes, saved: Saved
) -> tuple[Tensor, Tensor]:
    """Return the gradients of content attention and gates; overwrites dattention."""
    steps = sizes.steps
    attention, opened, *rest = saved
    usages, leasts, chosens = rest[:steps], rest[steps : 2 * steps - 1], rest[2 * steps - 1 :]
    free = by_step(1 - opened, sizes)
    w, dw = by_step(attention, sizes), by_step(dattention, sizes)
    dusage = torch.zeros_like(usages[0])
    for j in range(steps - 1, 0, -1):
        usage = usages[j - 1]
        # Usage after step j is the maximum of w_j and the usage before.
        grown = torch.gt(w[j], usage, out=torch.empty_like(usage)).mul_(dusage)
        dw[j].add_(grown)
        dusage = dusage - grown
        dleast = (dw[j] * free[j]).mul_(chosens[j - 1])
        highest = torch.eq(usage, usage.amax(1, keepdim=True), out=torch.empty_like(usage))
        share = dleast.sum(1, keepdim=True).div_(highest.sum(1, keepdim=True))
        dusage.sub_(dleast).addcmul_(highest, share)
    dw[0].add_(dusage)
    # w = sigmoid(g) (c - l) + l
    excess = content.clone()
    for step, least in zip(by_step(excess, sizes)[1:], leasts, strict=True):
        step.sub_(least)
    dgate = torch.addcmul(opened, opened, opened, value=-1).mul_(excess).mul_(dattention)
    return dattention.mul_(opened), dgate


def by_step(attention: Tensor, sizes: Sizes) -> tuple[Tensor, ...]:
    """Split a tensor (M * H, P, J * B) into views (M * H, P, B), one per step."""
    return attention.unflatten(2, (sizes.steps, -1)).unbind(2)


def _least_used(usage: Tensor, least_used: int, less: Tensor | None) -> Tensor:
    """Mask of the slots (dimension 1) whose usage is at most the l_I-th smallest.

    Given a scratch tensor `less` of shape (M * H, P, P, B), all pairs of slots are compared: a slot
    is selected if fewer than l_I slots have smaller usage. `kthvalue` branches on the data.
    """
    chosen = torch.empty_like(usage)
    if less is None:
        threshold = usage.kthvalue(least_used, dim=1, keepdim=True).values
        return torch.le(usage, threshold, out=chosen)
    torch.lt(usage.unsqueeze(2), usage.unsqueeze(1), out=less)
    return torch.lt(less.sum(1), least_used, out=chosen)


# Eq. 1, 3, 4, 5 and 12: applying the composed program to x.


def _apply(x: Tensor, attention: Tensor, p: Parameters, sizes: Sizes) -> tuple[Tensor, Saved]:
    """Return y, shape (B, out), for attention w, shape (M, H, P, J, B)."""
    batch, slots, components = len(x), len(p.u), sizes.steps * sizes.heads
    on_slots = p.u @ x.t()
    factors = torch.stack([on_slots, p.s.expand(-1, batch)]).view(2, 1, slots, 1, batch)
    attended = (attention[::2] * factors).sum(2)  # eq. 3 (on x) and 5, (2, H, J, B)
    on_u, raw = attended.transpose(1, 2).reshape(2, components, batch)  # n = j * H + h
    sigma = F.softplus(raw).flip(0).cumsum(0).flip(0)  # eq. 5
    weights = (on_u * sigma).view(sizes.steps, sizes.heads, batch).transpose(0, 1)
    on_v = (attention[1] * weights.unsqueeze(1)).sum((0, 2))  # eq. 4, before M_V
    y = on_v.t() @ p.v if p.bias is None else torch.addmm(p.bias, on_v.t(), p.v)
    saved = (attention, on_slots, on_u, raw, sigma, weights, on_v)
    if p.integration_weight is None or p.integration_bias is None or p.residual is None:
        return y, saved
    gate = torch.addmm(p.integration_bias, x, p.integration_weight.t()).sigmoid_()
    on_residual = x @ p.residual
    scale = gate * sigma[-1].unsqueeze(1)
    return y.addcmul_(scale, on_residual), (*saved, gate, on_residual, scale)  # eq. 12


def _apply_backward(
    dy: Tensor, x: Tensor, p: Parameters, saved: Saved
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Return the gradients of x (through W only), of attention, and of the parameters."""
    attention, on_slots, on_u, raw, sigma, weights, on_v, *from_residual = saved
    heads, slots, steps, batch = attention.shape[1:]
    don_v = p.v @ dy.t()
    dparameters = {"v": on_v @ dy}
    if p.bias is not None:
        dparameters["bias"] = dy.sum(0)

    dweights = (attention[1] * don_v.unsqueeze(1)).sum(1)  # (H, J, B)
    dweights = dweights.transpose(0, 1).reshape(steps * heads, batch)
    dsigma = dweights * on_u
    if from_residual:
        gate, on_residual, scale = from_residual
        dscale = (dy * on_residual).sum(1, keepdim=True)
        dsigma[-1].addcmul_(dscale.squeeze(1), gate.squeeze(1))
    draw = dsigma.cumsum(0).mul_(torch.sigmoid(raw))

    # w_ni z_i is summed over i for M_U and M_S, and over n for M_V: gradients are outer products.
    by_component = torch.stack([dweights.mul_(sigma), draw]).view(2, steps, heads, batch)
    by_component = torch.stack([by_component[0], weights.transpose(0, 1), by_component[1]])
    by_component = by_component.transpose(1, 2).unsqueeze(2)  # (M, H, 1, J, B)
    by_slot = torch.stack([on_slots, don_v, p.s.expand(-1, batch)]).unflatten(1, (1, slots, 1))
    dattention = torch.mul(by_component, by_slot, out=torch.empty_like(attention))
    don_slots, ds = (attention[::2] * by_component[::2]).sum((1, 3))
    dparameters |= {"u": don_slots @ x, "s": ds.sum(1, keepdim=True)}
    dx = don_slots.t() @ p.u

    if from_residual and p.residual is not None and p.integration_weight is not None:
        dscaled = dy * scale
        dgate = torch.addcmul(gate, gate, gate, value=-1).mul_(dscale).mul_(sigma[-1].unsqueeze(1))
        dx.addmm_(dscaled, p.residual.t()).addmm_(dgate, p.integration_weight)
        dparameters |= {
            "residual": x.t() @ dscaled,
            "integration_weight": dgate.t() @ x,
            "integration_bias": dgate.sum(0),
        }
    return dx, dattention, dparameters


class Fused(torch.autograd.Function):
    """The whole layer as a function of x, the `Parameters` and the 12 `KeyParameters`.

    With `create_graph=True`, the reference implementation `plain` is differentiated instead, which
    gives second derivatives.
    """

    @staticmethod
    def forward(ctx: Any, plain: Plain, sizes: Sizes, x: Tensor, *tensors: Any) -> Tensor:
        """Return y, and save the tensors that each part needs for backward."""
        p, key_parameters = _split(tensors)
        keys, from_keys = run_keys(p[:3], key_parameters)
        y, from_run = run(x, keys, p, sizes)
        saved = [from_keys, *from_run]
        ctx.plain, ctx.sizes, ctx.lengths = plain, sizes, [len(part) for part in saved]
        ctx.save_for_backward(x, *tensors, *(t for part in saved for t in part))
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Any:
        """Return the gradients of x and of all parameters."""
        tensors = iter(ctx.saved_tensors)
        inputs = tuple(islice(tensors, len(ctx.needs_input_grad) - 2))
        if torch.is_grad_enabled():
            return None, None, *_plain_backward(ctx.plain, dy, inputs, ctx.needs_input_grad[2:])
        x, p, key_parameters = inputs[0], *_split(inputs[1:])
        from_keys, *from_run = [tuple(islice(tensors, length)) for length in ctx.lengths]
        dx, dkeys, d = run_backward(dy, x, p, ctx.sizes, from_run)
        dmemories, by_keys = run_keys_backward(dkeys, p[:3], key_parameters, from_keys)
        for name, dmemory in zip("uvs", dmemories, strict=True):
            d[name].add_(dmemory)
        return None, None, dx, *(d.get(name) for name in Parameters._fields), *by_keys


def _split(tensors: Saved) -> tuple[Parameters, KeyParameters]:
    """Split the flat argument list of `Fused`."""
    parameters, keys = tensors[: len(Parameters._fields)], tensors[len(Parameters._fields) :]
    by_kind: list[Any] = [keys[i : i + MEMORIES] for i in range(0, len(keys), MEMORIES)]
    return Parameters(*parameters), KeyParameters(*by_kind)


def _plain_backward(
    plain: Plain, dy: Tensor, inputs: Saved, needed: Sequence[bool]
) -> list[Tensor | None]:
    """Differentiable gradients of the reference implementation, for every input that needs one."""
    wanted = [t for t, need in zip(inputs, needed, strict=True) if need]
    y = plain(*inputs)
    found = torch.autograd.grad(y, wanted, dy, create_graph=True, allow_unused=True)
    gradients = iter(found)
    return [next(gradients) if need else None for need in needed]
