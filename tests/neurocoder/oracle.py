"""The paper's layer once more: section 2, equation by equation, in plain loops.

Slow on purpose and independent of the code under test, of which it reads the parameters alone.
Written in torch scalars and small vectors, so that autograd gives gradients to compare with.
t counts the inputs, j the steps, h the heads, i the slots and n = j * H + h the components.
"""

from dataclasses import dataclass

import torch


@dataclass
class Coded:
    """What the oracle finds for a batch: y, W and all that led to them."""

    output: torch.Tensor  # (B, out)
    working_program: torch.Tensor  # (B, in, out)
    u_attention: torch.Tensor  # (B, r, P)
    v_attention: torch.Tensor  # (B, r, P)
    s_attention: torch.Tensor  # (B, r, P)
    singular_values: torch.Tensor  # (B, r)
    residual_gate: torch.Tensor | None  # (B, 1)


def code(layer, x):
    """Run the layer on x, shape (B, in), from its parameters."""
    rows = [_code_one(layer, x[t]) for t in range(len(x))]
    fields = zip(*rows, strict=True)
    return Coded(*(None if field[0] is None else torch.stack(field) for field in fields))


def key(network, slot):
    """k_i = f_phi(M(i)), eq. 7."""
    hidden = [
        torch.tanh(_dot(network.hidden.weight[a], slot) + network.hidden.bias[a])
        for a in range(len(network.hidden.bias))
    ]
    return torch.stack(
        [
            _dot(network.output.weight[b], torch.stack(hidden)) + network.output.bias[b]
            for b in range(len(network.output.bias))
        ]
    )


def content_weights(query, keys, sharpness):
    """Eq. 8: c over the slots, for one query and a list of keys."""
    exponentials = []
    for k in keys:
        cosine = _dot(query, k) / (_length(query) * _length(k))
        exponentials.append(torch.exp(sharpness * cosine))
    total = sum(exponentials)
    return [e / total for e in exponentials]


def usage_before(attentions, slots):
    """Eq. 9 over the earlier steps' attentions of one head, zero where there are none."""
    usage = []
    for i in range(slots):
        largest = torch.zeros((), dtype=torch.float64)
        for w in attentions:
            if w[i].item() > largest.item():
                largest = w[i]
        usage.append(largest)
    return usage


def least_used_weights(usage, least_used):
    """Eq. 10: l over the slots of one head."""
    threshold = sorted(m.item() for m in usage)[least_used - 1]
    most = usage[0]
    for m in usage:
        if m.item() > most.item():
            most = m
    return [most - m if m.item() <= threshold else torch.zeros_like(m) for m in usage]


def head_attention(content, gates, least_used):
    """Eq. 9 to 11 for one head: content and gates are lists over steps of lists over slots."""
    attentions = []
    for c, g in zip(content, gates, strict=True):
        least = least_used_weights(usage_before(attentions, len(c)), least_used)
        w = []
        for i in range(len(c)):
            opened = 1 / (1 + torch.exp(-g[i]))
            w.append(opened * c[i] + (1 - opened) * least[i])
        attentions.append(w)
    return attentions


def orthogonality_loss(layer):
    """L_o of eq. 2 as the sum of two Frobenius norms."""
    total = torch.zeros((), dtype=torch.float64)
    for memory in (layer.memory.u, layer.memory.v):
        square = torch.zeros((), dtype=torch.float64)
        for a in range(len(memory)):
            for b in range(len(memory)):
                square = square + (_dot(memory[a], memory[b]) - (1.0 if a == b else 0.0)) ** 2
        total = total + torch.sqrt(square)
    return total


def _code_one(layer, x):
    network = layer.composition_network
    steps, heads, slots = network.steps, network.heads, len(layer.memory.u)
    states = _lstm_states(network, x, steps)
    u_w, v_w, s_w = (
        _memory_attention(layer, states, which, heads, slots) for which in ("u", "v", "s")
    )

    u = [_attended(w, layer.memory.u) for w in u_w]  # eq. 3
    v = [_attended(w, layer.memory.v) for w in v_w]  # eq. 4
    raw = [_attended(w, layer.memory.s)[0] for w in s_w]
    sigma = [torch.zeros(())] * len(raw)  # eq. 5, from the smallest up
    for n in reversed(range(len(raw))):
        softplus = torch.log(1 + torch.exp(raw[n]))
        sigma[n] = softplus if n == len(raw) - 1 else sigma[n + 1] + softplus

    program = torch.zeros(layer.in_features, layer.out_features, dtype=torch.float64)
    for n in range(len(sigma)):
        program = program + sigma[n] * u[n][:, None] * v[n][None, :]  # eq. 1
    residual_gate = None
    if layer.residual is not None:
        f_phi = _dot(layer.integration_network.weight[0], x) + layer.integration_network.bias[0]
        residual_gate = 1 / (1 + torch.exp(-f_phi))
        program = program + residual_gate * sigma[-1] * layer.residual  # eq. 12

    y = torch.stack([_dot(x, program[:, o]) for o in range(layer.out_features)])
    if layer.bias is not None:
        y = y + layer.bias
    return (
        y,
        program,
        *(torch.stack([torch.stack(w) for w in ws]) for ws in (u_w, v_w, s_w)),
        torch.stack(sigma),
        None if residual_gate is None else residual_gate.reshape(1),
    )


def _lstm_states(network, x, steps):
    """h_1 ... h_J of eq. 6; the projections' rows are input, forget, output gate and candidate."""
    from_input, from_state = network.input_projection, network.recurrent_projection
    size = from_state.weight.shape[1]
    h = torch.zeros(size, dtype=torch.float64)
    cell = torch.zeros(size, dtype=torch.float64)
    states = []
    for _ in range(steps):
        total = [
            _dot(from_input.weight[a], x) + from_input.bias[a] + _dot(from_state.weight[a], h)
            for a in range(4 * size)
        ]
        new_h, new_cell = [], []
        for a in range(size):
            enter = torch.sigmoid(total[a])
            keep = torch.sigmoid(total[size + a])
            leave = torch.sigmoid(total[2 * size + a])
            candidate = torch.tanh(total[3 * size + a])
            new_cell.append(keep * cell[a] + enter * candidate)
            new_h.append(leave * torch.tanh(new_cell[a]))
        h, cell = torch.stack(new_h), torch.stack(new_cell)
        states.append(h)
    return states


def _memory_attention(layer, states, which, heads, slots):
    """w of one memory, eq. 7 to 11: a list over the r components of lists over the slots."""
    network = layer.composition_network
    m = "uvs".index(which)
    memory = getattr(layer.memory, which)
    keys = [key(layer.key_networks[m], memory[i]) for i in range(slots)]
    key_size = len(keys[0])
    components = [None] * (len(states) * heads)
    for h in range(heads):
        content, gates = [], []
        for state in states:
            first = (m * heads + h) * key_size
            query = _affine(network.query_projection, state, range(first, first + key_size))
            content.append(content_weights(torch.stack(query), keys, layer.sharpness))
            if network.gate_projection is not None:
                first = (m * heads + h) * slots
                gates.append(_affine(network.gate_projection, state, range(first, first + slots)))
        attention = head_attention(content, gates, layer.least_used) if gates else content
        for j in range(len(states)):
            components[j * heads + h] = attention[j]
    return components


def _attended(weights, memory):
    total = torch.zeros(memory.shape[1], dtype=torch.float64)
    for i in range(len(memory)):
        total = total + weights[i] * memory[i]
    return total


def _affine(linear, x, rows):
    return [_dot(linear.weight[a], x) + linear.bias[a] for a in rows]


def _dot(a, b):
    return (a * b).sum()


def _length(a):
    return torch.sqrt(_dot(a, a))
