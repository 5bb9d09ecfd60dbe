"""`NeurocoderLinear` with a hand-written gradient: the same equations in fewer operations.

The layer is about a hundred small operations on small tensors. Autograd's overhead per operation
exceeds their arithmetic, so here the whole layer is one `torch.autograd.Function`. The reference
implementation is in `attention.py`, `controller.py`, `memory.py` and `linear.py`; tests compare the
two with each other and with the paper.

Every part is a pair of functions, in the paper's order: a forward function, which also returns the
tensors saved for backward, and a backward function. `dz` is the derivative of the loss with respect
to z. B is the batch size, P the number of slots, K the key size, H the number of heads, J the
number of steps, S the size of the LSTM state, r = J * H; M = 3 memories in the order U, V, S.

Everything between x and y has the batch as its last dimension and the step as its first, so that
a step is contiguous, and softmax, sums and maxima over slots are vectorised; attention is
(J, M * H, P, B). Everything that multiplies the same tensor is one product (see `Weights`), except
R: it is as large as a layer's weights, and would have to be copied. Masks are numbers to multiply
by, since `where` and `masked_fill` branch on every element.

Inputs interact only where the gradients of parameters are summed over the batch. The batch may
consist of G groups of equal size, one after the other, each with a separate gradient; the gradients
of parameters then have G as their first dimension. All else is computed for all groups at once.
"""

from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from neurocoder._precision import in_full_precision
from neurocoder.attention import inverse_length

MEMORIES = 3
Plain = Callable[..., Tensor]
# How the least-used slots are found: see `_least_used`.
_MAX_SLOTS_TO_COMPARE = 32
_MAX_PAIRS_ON_CPU = 500_000


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


class Weights(NamedTuple):
    """What depends on parameters alone, arranged for few products.

    Attributes:
        on_input: All that multiplies x, as rows, shape (4 S + P + 1, in): the LSTM's gates, M_U and
            the residual's gate; without a residual, (4 S + P, in).
        on_input_bias: Their biases, a column.
        recurrent: The weights of the LSTM's state, shape (4 S, S).
        on_state: Projections of a state to queries and gates, shape (M * H * (K + P), S); without
            gates, (M * H * K, S).
        on_state_bias: Their biases, a column.
        keys: Sharpness times the keys of eq. 7, repeated for every step and head, shape
            (J * M * H, P, K).
    """

    on_input: Tensor
    on_input_bias: Tensor
    recurrent: Tensor
    on_state: Tensor
    on_state_bias: Tensor
    keys: Tensor


def arrange(keys: Tensor, p: Parameters, sizes: Sizes) -> Weights:
    """Return the weights for unit-length keys, shape (M, P, K), and parameters."""
    on_input, on_input_bias = [p.input_weight, p.u], [p.input_bias, p.u.new_zeros(len(p.u))]
    if p.integration_weight is not None and p.integration_bias is not None:
        on_input.append(p.integration_weight)
        on_input_bias.append(p.integration_bias)
    on_state, on_state_bias = [p.query_weight], [p.query_bias]
    if p.gate_weight is not None and p.gate_bias is not None:
        on_state.append(p.gate_weight)
        on_state_bias.append(p.gate_bias)
    repeated = (sizes.sharpness * keys).unsqueeze(1).expand(sizes.steps, -1, sizes.heads, -1, -1)
    return Weights(
        torch.cat(on_input),
        torch.cat(on_input_bias).unsqueeze(1),
        p.recurrent_weight,
        torch.cat(on_state),
        torch.cat(on_state_bias).unsqueeze(1),
        repeated.flatten(0, 2),
    )


def run(x: Tensor, weights: Weights, p: Parameters, sizes: Sizes) -> tuple[Tensor, list[Saved]]:
    """Return y, shape (B, out), and the tensors saved for `run_backward`.

    Args:
        x: Inputs, shape (B, in).
        weights: The weights from `arrange`.
        p: The parameters.
        sizes: Sizes that do not follow from the parameters' shapes.
    """
    on_x = torch.addmm(weights.on_input_bias, weights.on_input, x.t())
    gates, on_slots, residual_logit = on_x.tensor_split(_borders(weights))
    states, from_states = _states(gates, weights.recurrent, sizes.steps)  # eq. 6
    on_state = weights.on_state.expand(sizes.steps, -1, -1)
    signals = torch.baddbmm(weights.on_state_bias, on_state, states)
    query, gate = _split_signals(signals, weights, sizes)
    content, from_content = _content(query, weights.keys)  # eq. 8
    attention, from_blend = content, Saved()
    if p.gate_weight is not None:
        attention, from_blend = _blend(content, gate, sizes.least_used)  # eq. 9 to 11
    attention = attention.unflatten(1, (MEMORIES, sizes.heads))
    y, from_apply = _apply(x, on_slots, residual_logit, attention, p)  # eq. 1, 3, 4, 5 and 12
    return y, [from_states, from_content, from_blend, from_apply]


def run_backward(
    dy: Tensor,
    x: Tensor,
    weights: Weights,
    p: Parameters,
    sizes: Sizes,
    saved: Sequence[Saved],
    groups: int | None,
    *,
    needs_dx: bool,
) -> tuple[Tensor | None, Tensor, dict[str, Tensor]]:
    """Return the gradients of x (None unless needed), of the keys, and of the parameters."""
    from_states, from_content, from_blend, from_apply = saved
    content, states = from_content[0], from_states[0]
    # The derivatives of the products with `on_input` and `on_state` are written part by part.
    don_x = x.new_empty(len(weights.on_input), len(x))
    dgates, don_slots, dresidual_logit = don_x.tensor_split(_borders(weights))
    dsignals = x.new_empty(sizes.steps, len(weights.on_state), len(x))
    dquery, dgate = _split_signals(dsignals, weights, sizes)

    dattention, don_residual, d = _apply_backward(
        dy, p, from_apply, don_slots, dresidual_logit, groups
    )
    dcontent = dattention.view_as(content)
    if from_blend:
        _blend_backward(dcontent, content, from_blend, dgate)
    dkeys = _content_backward(dcontent, weights.keys, from_content, dquery, groups)
    d |= _signals_backward(dsignals, states, p, groups)
    dstates = torch.bmm(weights.on_state.t().expand(sizes.steps, -1, -1), dsignals)
    d["recurrent_weight"] = _states_backward(
        dstates, weights.recurrent, from_states, dgates, groups
    )
    d |= _on_input_backward(don_x, x, weights, p, groups)
    dx = don_x.t() @ weights.on_input if needs_dx else None
    if p.residual is not None:
        d["residual"] = _per_group(_product, groups, x.t(), don_residual.t())
        if dx is not None:
            dx.addmm_(don_residual, p.residual.t())
    dkeys = dkeys.unflatten(-3, (sizes.steps, MEMORIES, sizes.heads)).sum((-5, -3))
    return dx, dkeys.mul_(sizes.sharpness), d


def _borders(weights: Weights) -> tuple[int, int]:
    """Where the rows of `on_input` for the LSTM and for M_U end."""
    gates = len(weights.recurrent)
    return gates, gates + weights.keys.shape[1]


def _split_signals(signals: Tensor, weights: Weights, sizes: Sizes) -> tuple[Tensor, Tensor]:
    """Views of queries (J, M * H, K, B) and gates (J, M * H, P, B); with P = 0 if ablated."""
    rows, key_size = MEMORIES * sizes.heads, weights.keys.shape[2]
    query, gate = signals.tensor_split([rows * key_size], dim=1)
    return query.unflatten(1, (rows, key_size)), gate.unflatten(1, (rows, -1))


def _on_input_backward(
    don_x: Tensor, x: Tensor, weights: Weights, p: Parameters, groups: int | None
) -> dict[str, Tensor]:
    """Return the gradients of the parameters that multiply x."""
    by_input = _per_group(_product, groups, don_x, x.t())
    of_gates, u, integration = by_input.tensor_split(_borders(weights), dim=-2)
    bias = _group_sums(don_x[: len(weights.recurrent)], groups)
    d = {"input_weight": of_gates, "input_bias": bias, "u": u}
    if p.residual is not None:
        d["integration_weight"] = integration
        d["integration_bias"] = _group_sums(don_x[-1:], groups)
    return d


def _signals_backward(
    dsignals: Tensor, states: Tensor, p: Parameters, groups: int | None
) -> dict[str, Tensor]:
    """Return the gradients of the projections of the states."""
    weight = _per_group(_sum_of_products, groups, dsignals, states)
    bias = _group_sums(dsignals.sum(0), groups)
    border = [len(p.query_weight)]
    query_weight, gate_weight = weight.tensor_split(border, dim=-2)
    query_bias, gate_bias = bias.tensor_split(border, dim=-1)
    d = {"query_weight": query_weight, "query_bias": query_bias}
    return d if p.gate_weight is None else d | {"gate_weight": gate_weight, "gate_bias": gate_bias}


def _per_group(
    product: Callable[[Tensor, Tensor], Tensor], groups: int | None, a: Tensor, b: Tensor
) -> Tensor:
    """The product of a and b over the batch, their last dimension; per group if there are any."""
    if groups is None:
        return product(a, b)
    parts = zip(a.chunk(groups, dim=-1), b.chunk(groups, dim=-1), strict=True)
    return torch.stack([product(*part) for part in parts])


def _product(a: Tensor, b: Tensor) -> Tensor:
    return a @ b.transpose(-1, -2)


def _sum_of_products(a: Tensor, b: Tensor) -> Tensor:
    """Sum of the products over the first dimension."""
    return torch.addbmm(a.new_empty(a.shape[1], b.shape[1]), a, b.transpose(1, 2), beta=0)


def _group_sums(a: Tensor, groups: int | None) -> Tensor:
    """The sum of a, shape (rows, B), over the batch; per group if there are any, (G, rows)."""
    return a.sum(1) if groups is None else a.unflatten(1, (groups, -1)).sum(2).t()


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
    draw = _unit_backward(dkeys, keys, inverse, dim=-1)
    dhidden = draw @ output_weight
    dhidden = torch.addcmul(dhidden, dhidden, hidden.square(), value=-1)  # tanh' = 1 - tanh^2
    doutput = draw.transpose(-1, -2) @ hidden
    each = dhidden.unbind(-3)
    dmemories = tuple(d @ weight for d, weight in zip(each, p.hidden_weight, strict=True))
    by_hidden = [d.transpose(-1, -2) @ memory for d, memory in zip(each, memories, strict=True)]
    by_hidden_bias, by_output_bias = dhidden.sum(-2).unbind(-2), draw.sum(-2).unbind(-2)
    return dmemories, [*by_hidden, *by_hidden_bias, *doutput.unbind(-3), *by_output_bias]


# Eq. 6: the composition network.


def _states(from_input: Tensor, recurrent: Tensor, steps: int) -> tuple[Tensor, Saved]:
    """h_1 ... h_J of the LSTM, shape (J, S, B), from h_0 = c_0 = 0."""
    size, batch = recurrent.shape[1], from_input.shape[1]
    # For every step: input, forget and output gate; tanh of the cell gate, which is the candidate;
    # cell, tanh of the cell, and state.
    everything = from_input.new_empty(steps, 7, size, batch)
    totals, gates = everything[:, :4].flatten(1, 2).unbind(), everything[:, :3].unbind()
    parts = everything.flatten(0, 1).unbind()
    cell = state = from_input
    for j, total in enumerate(totals):
        input_gate, forget_gate, output_gate, candidate = parts[7 * j : 7 * j + 4]
        cell_before, state_before = cell, state
        cell, tanh_cell, state = parts[7 * j + 4 : 7 * j + 7]
        if j == 0:
            total.copy_(from_input)
        else:
            torch.addmm(from_input, recurrent, state_before, out=total)
        gates[j].sigmoid_()
        candidate.tanh_()
        if j == 0:
            torch.mul(input_gate, candidate, out=cell)
        else:
            torch.mul(forget_gate, cell_before, out=cell)
            cell.addcmul_(input_gate, candidate)
        torch.tanh(cell, out=tanh_cell)
        torch.mul(output_gate, tanh_cell, out=state)
    return everything[:, 6], (everything[:, 6], everything)


def _states_backward(
    dstates: Tensor, recurrent: Tensor, saved: Saved, dfrom_input: Tensor, groups: int | None
) -> Tensor:
    """Write the gradient of what the gates get from x; return that of the recurrent weights.

    With the derivatives by i, f, o and g before their sigmoid or tanh, a = tanh(g), b = tanh(c_j),
    c_j = i a + f c_{j-1}, and h_j = o b:

        dc_j  = dh_j o (1 - b^2) + dc_{j+1} f_{j+1},     dh_j += W^T dtotal_{j+1},
        di = dc a i (1 - i),        df = dc c_{j-1} f (1 - f),
        dg = dc i (1 - a^2),        do = dh b o (1 - o),

    where all factors except dc and dh are computed before the loop, for all steps at once.
    """
    states, everything = saved
    input_gate, forget_gate, output_gate, candidates, cells, tanh_cells, _ = everything.unbind(1)
    gates = everything[:, :3]
    factors = torch.empty_like(everything[:, :4])
    torch.addcmul(gates, gates, gates, value=-1, out=factors[:, :3])
    factors[:, 0].mul_(candidates)
    factors[0, 1].zero_()
    factors[1:, 1].mul_(cells[:-1])
    factors[:, 2].mul_(tanh_cells)
    torch.addcmul(input_gate, input_gate * candidates, candidates, value=-1, out=factors[:, 3])
    to_cell = torch.addcmul(output_gate, states, tanh_cells, value=-1).unbind()

    dtotals = factors  # the loop below turns the factors into derivatives, in place
    flat = dtotals.flatten(1, 2)
    dtotal, parts, dstate = flat.unbind(), dtotals.unbind(), dstates.unbind()
    forget = forget_gate.unbind()
    dcell = dstate[-1]
    for j in reversed(range(len(states))):
        dh = dstate[j]
        if j == len(states) - 1:
            dcell = dh * to_cell[j]
        else:
            dh.addmm_(recurrent.t(), dtotal[j + 1])
            dcell.mul_(forget[j + 1]).addcmul_(dh, to_cell[j])
        input_and_forget, doutput, dcandidate = parts[j].split([2, 1, 1])
        input_and_forget.mul_(dcell)
        doutput.mul_(dh)
        dcandidate.mul_(dcell)
    torch.sum(flat, 0, out=dfrom_input)
    return _per_group(_sum_of_products, groups, flat[1:], states[:-1])


# Eq. 8: content attention.


def _content(query: Tensor, keys: Tensor) -> tuple[Tensor, Saved]:
    """Attention c, shape (J, M * H, P, B), of queries (J, M * H, K, B) and weighted keys."""
    inverse = inverse_length(query, dim=2)
    direction = (query * inverse).flatten(0, 1)
    content = torch.softmax(torch.bmm(keys, direction), dim=1).unflatten(0, query.shape[:2])
    return content, (content, direction, inverse)


def _content_backward(
    dcontent: Tensor, keys: Tensor, saved: Saved, dquery: Tensor, groups: int | None
) -> Tensor:
    """Write the gradient of the queries, and return that of the keys; overwrites dcontent."""
    content, direction, inverse = saved
    dscore = dcontent.mul_(content)
    dscore.addcmul_(content, dscore.sum(2, keepdim=True), value=-1)  # derivative of softmax
    dscore = dscore.flatten(0, 1)
    ddirection = torch.bmm(keys.transpose(1, 2), dscore).view_as(dquery)
    _unit_backward(ddirection, direction.view_as(dquery), inverse, dim=2, out=dquery)
    return _per_group(_product, groups, dscore, direction)


def _unit_backward(
    dunit: Tensor, unit: Tensor, inverse: Tensor, dim: int, out: Tensor | None = None
) -> Tensor:
    """Gradient of z from that of z / |z|: its component orthogonal to z, divided by |z|."""
    along = (dunit * unit).sum(dim, keepdim=True)
    return torch.mul(torch.addcmul(dunit, along, unit, value=-1), inverse, out=out)


# Eq. 9 to 11: usage, least-used attention, and the mix with content attention.


def _blend(content: Tensor, gate: Tensor, least_used: int) -> tuple[Tensor, Saved]:
    """Attention w from content attention and gates, all of shape (J, M * H, P, B)."""
    steps = len(content)
    opened = torch.sigmoid(gate)
    attention = torch.empty_like(content)
    # For every step but the first: usage before it, least-used attention, and its mask.
    usages, leasts, chosens = content.new_empty(3, steps - 1, *content.shape[1:]).unbind()
    usage = torch.mul(opened[0], content[0], out=attention[0])
    for j, (before, least, chosen) in enumerate(zip(usages, leasts, chosens, strict=True), 1):
        if j == 1:
            usage = before.copy_(usage)
        else:
            usage = torch.maximum(usage, attention[j - 1], out=before)  # eq. 9
        _least_used(usage, least_used, out=chosen)
        torch.sub(usage.amax(1, keepdim=True), usage, out=least).mul_(chosen)  # eq. 10
        torch.lerp(least, content[j], opened[j], out=attention[j])  # eq. 11
    return attention, (attention, opened, usages, leasts, chosens)


def _blend_backward(dattention: Tensor, content: Tensor, saved: Saved, dgate: Tensor) -> None:
    """Overwrite dattention with the gradient of content attention, and write that of the gates."""
    attention, opened, usages, leasts, chosens = saved
    if len(usages):
        # Usage is the maximum of earlier usage and a step's attention; `grew` marks the latter.
        grew = torch.gt(attention[1:-1], usages[:-1], out=torch.empty_like(usages[1:])).unbind()
        to_least = torch.addcmul(chosens, chosens, opened[1:], value=-1).unbind()
        highest = torch.eq(usages, usages.amax(2, keepdim=True), out=torch.empty_like(usages))
        share = highest.div_(highest.sum(2, keepdim=True)).unbind()
        dusage = torch.zeros_like(usages[0])
        for j in reversed(range(len(usages))):
            dw = dattention[j + 1]
            if j < len(grew):
                grown = dusage * grew[j]
                dw.add_(grown)
                dusage.sub_(grown)
            dleast = dw * to_least[j]
            dusage.sub_(dleast).addcmul_(share[j], dleast.sum(1, keepdim=True))
        dattention[0].add_(dusage)
    # w = sigmoid(g) (c - l) + l
    dattention.mul_(opened)
    torch.addcmul(dattention, dattention, opened, value=-1, out=dgate)
    dgate[0].mul_(content[0])
    dgate[1:].mul_(content[1:] - leasts)


def _least_used(usage: Tensor, least_used: int, out: Tensor) -> Tensor:
    """Mask of the slots (dimension 1) whose usage is at most the l_I-th smallest.

    Where it is little work, all pairs of slots are compared: a slot is selected if fewer than l_I
    slots have smaller usage. Otherwise the threshold is computed: for large batches of few slots by
    insertion, since `kthvalue` branches on the data.
    """
    slots = usage.shape[1]
    if slots > _MAX_SLOTS_TO_COMPARE:
        threshold = usage.kthvalue(least_used, dim=1, keepdim=True).values
    elif usage.is_cpu and usage.numel() * slots > _MAX_PAIRS_ON_CPU:
        threshold = _smallest(usage, least_used).unsqueeze(1)
    else:
        less = usage.new_empty(len(usage), slots, slots, usage.shape[2])
        torch.lt(usage.unsqueeze(2), usage.unsqueeze(1), out=less)
        return torch.lt(less.sum(1), least_used, out=out)
    return torch.le(usage, threshold, out=out)


def _smallest(usage: Tensor, rank: int) -> Tensor:
    """The rank-th smallest number over dimension 1, by insertion into a sorted list."""
    found = usage.new_full((rank + 1, len(usage), usage.shape[2]), torch.inf)
    found[0] = -torch.inf
    before, after = found[:-1], found[1:]
    scratch = torch.empty_like(after)
    for value in usage.unbind(1):
        # The previous number if the new one goes before it; else the smaller of new and present.
        torch.minimum(after, torch.maximum(before, value, out=scratch), out=after)
    return after[-1]


# Eq. 1, 3, 4, 5 and 12: applying the composed program to x.


def _apply(
    x: Tensor, on_slots: Tensor, residual_logit: Tensor, attention: Tensor, p: Parameters
) -> tuple[Tensor, Saved]:
    """Return y, shape (B, out), for attention w, shape (J, M, H, P, B).

    Args:
        x: Inputs, shape (B, in).
        on_slots: M_U x, shape (P, B).
        residual_logit: The gate of the residual before its sigmoid, shape (1, B); or empty.
        attention: w.
        p: The parameters.
    """
    steps, _, heads, _, batch = attention.shape
    factors = torch.stack([on_slots, p.s.expand(-1, batch)])
    attended = (attention[:, ::2] * factors.unsqueeze(1)).sum(3)  # eq. 3 (on x) and 5
    on_u, raw = attended.transpose(0, 1).reshape(2, steps * heads, batch)  # n = j * H + h
    sigma = F.softplus(raw).flip(0).cumsum(0).flip(0)  # eq. 5
    weights = on_u * sigma
    # eq. 4, before M_V
    on_v = (attention[:, 1] * weights.view(steps, heads, 1, batch)).sum((0, 1))
    y = on_v.t() @ p.v if p.bias is None else torch.addmm(p.bias, on_v.t(), p.v)
    saved = (attention, factors, on_u, raw, sigma, weights, on_v)
    if p.residual is None:
        return y, saved
    on_residual, gate = x @ p.residual, residual_logit[0].sigmoid()
    scale = gate * sigma[-1]
    y.addcmul_(scale.unsqueeze(1), on_residual)  # eq. 12
    return y, (*saved, gate, on_residual, scale)


def _apply_backward(
    dy: Tensor,
    p: Parameters,
    saved: Saved,
    don_slots: Tensor,
    dresidual_logit: Tensor,
    groups: int | None,
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Write the gradients of x on M_U and of the gate of the residual.

    Return those of attention, of x on R (empty without a residual), and of the parameters.
    """
    attention, factors, on_u, raw, sigma, weights, on_v, *from_residual = saved
    steps, _, heads, _, batch = attention.shape
    don_v = p.v @ dy.t()
    d = {"v": _per_group(_product, groups, on_v, dy.t())}
    if p.bias is not None:
        d["bias"] = _group_sums(dy.t(), groups)

    dweights = (attention[:, 1] * don_v).sum(2).view_as(weights)
    dsigma = dweights * on_u
    don_residual = dy.new_empty(0)
    if from_residual:
        gate, on_residual, scale = from_residual
        dscale = (dy * on_residual).sum(1)
        dsigma[-1].addcmul_(dscale, gate)
        don_residual = dy * scale.unsqueeze(1)
        dgate = torch.addcmul(gate, gate, gate, value=-1).mul_(dscale)
        torch.mul(dgate, sigma[-1], out=dresidual_logit[0])
    draw = dsigma.cumsum(0).mul_(torch.sigmoid(raw))

    # w_ni z_i is summed over i for M_U and M_S, and over n for M_V: gradients are outer products.
    by_component = torch.stack([dweights.mul_(sigma), weights, draw])
    by_component = by_component.view(MEMORIES, steps, heads, 1, batch).transpose(0, 1)
    by_slot = torch.stack([factors[0], don_v, factors[1]]).unsqueeze(1)
    dattention = torch.mul(by_component, by_slot, out=torch.empty_like(attention))
    dfactors = (attention[:, ::2] * by_component[:, ::2]).sum(0).sum(1)
    don_slots.copy_(dfactors[0])
    d["s"] = _group_sums(dfactors[1], groups).unsqueeze(-1)
    return dattention, don_residual, d


class Fused(torch.autograd.Function):
    """The whole layer as a function of x, the `Parameters` and the 12 `KeyParameters`.

    For G groups of inputs with separate gradients, x has the shape (G, B, in), and parameters are
    repeated G times along a new first dimension.

    The outputs of all groups are one batch, shape (G * B, out).

    With `create_graph=True`, and for batched gradients, as in vectorised Jacobians, the reference
    implementation `plain` is differentiated instead.
    """

    @staticmethod
    def forward(ctx: Any, plain: Plain, sizes: Sizes, x: Tensor, *tensors: Any) -> Tensor:
        """Return y, and save the tensors that each part needs for backward.

        The output must not be a view created here: autograd would forbid changing it in place.
        """
        p, key_parameters = _split(_first_group(x, tensors))
        keys, from_keys = run_keys(p[:3], key_parameters)
        weights = arrange(keys, p, sizes)
        y, from_run = run(x.flatten(0, -2), weights, p, sizes)
        saved = [weights, from_keys, *from_run]
        ctx.plain, ctx.sizes, ctx.lengths = plain, sizes, [len(part) for part in saved]
        ctx.save_for_backward(x, *tensors, *(t for part in saved for t in part))
        return y

    @staticmethod
    @in_full_precision  # since the gradient of a loss may be taken under autocast
    def backward(ctx: Any, dy: Tensor) -> Any:
        """Return the gradients of x and of all parameters."""
        tensors = iter(ctx.saved_tensors)
        inputs = tuple(islice(tensors, len(ctx.needs_input_grad) - 2))
        if torch.is_grad_enabled() or _is_batched(dy):
            return None, None, *_plain_backward(ctx.plain, dy, inputs, ctx.needs_input_grad[2:])
        x, *given = inputs
        p, key_parameters = _split(_first_group(x, given))
        weights, from_keys, *from_run = [tuple(islice(tensors, length)) for length in ctx.lengths]
        groups = len(x) if x.dim() == 3 else None
        dx, dkeys, d = run_backward(
            dy,
            x.flatten(0, -2),
            Weights(*weights),
            p,
            ctx.sizes,
            from_run,
            groups,
            needs_dx=ctx.needs_input_grad[2],
        )
        dmemories, by_keys = run_keys_backward(dkeys, p[:3], key_parameters, from_keys)
        for name, dmemory in zip("uvs", dmemories, strict=True):
            d[name].add_(dmemory)
        by_parameters = (d.get(name) for name in Parameters._fields)
        return None, None, dx if dx is None else dx.view_as(x), *by_parameters, *by_keys


def _is_batched(t: Tensor) -> bool:
    """Whether t stands for many tensors at once: inside `vmap`, or with `is_grads_batched`."""
    functorch = torch._C._functorch
    return functorch.is_batchedtensor(t) or functorch.is_legacy_batchedtensor(t)


def run_each_group(plain: Plain, x: Tensor, *parameters: Tensor | None) -> Tensor:
    """Run the reference implementation for one group after the other."""
    given = [[None] * len(x) if p is None else p.unbind() for p in parameters]
    return torch.stack([plain(*group) for group in zip(x, *given, strict=True)])


def _first_group(x: Tensor, parameters: Sequence[Any]) -> Sequence[Any]:
    """The parameters without the dimension of groups, if they have one."""
    if x.dim() == 2:
        return parameters
    return [None if parameter is None else parameter[0] for parameter in parameters]


def _split(tensors: Sequence[Any]) -> tuple[Parameters, KeyParameters]:
    """Split the flat argument list of `Fused`."""
    parameters, keys = tensors[: len(Parameters._fields)], tensors[len(Parameters._fields) :]
    by_kind: list[Any] = [keys[i : i + MEMORIES] for i in range(0, len(keys), MEMORIES)]
    return Parameters(*parameters), KeyParameters(*by_kind)


def _plain_backward(
    plain: Plain, dy: Tensor, inputs: Saved, needed: Sequence[bool]
) -> list[Tensor | None]:
    """Gradients of the reference implementation, for every input that needs one.

    They are differentiable where autograd records operations.
    """
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        # Views of the inputs. If one input is computed from another, as when a layer is called
        # twice, the other's gradient must not include the path through the first.
        own = [None if t is None else t.view_as(t) for t in inputs]
        y = plain(*own) if inputs[0].dim() == 2 else run_each_group(plain, *own).flatten(0, 1)
    wanted = [t for t, need in zip(own, needed, strict=True) if need]
    found = torch.autograd.grad(y, wanted, dy, create_graph=create_graph, allow_unused=True)
    gradients = iter(found)
    return [next(gradients) if need else None for need in needed]
