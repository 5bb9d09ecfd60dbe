"""The paper's layer once more: section 2, equation by equation, in plain loops.

Slow on purpose and independent of the code under test, of which it reads the parameters and the
names of its readings alone.
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
    """k_i = f_varphi(M(i)), eq. 7."""
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


def key_of_slot(layer, m, i):
    """The key of slot i of memory m, by the source that the layer's readings name."""
    source, which = layer.readings.keys[m], "uvs"[m]
    if source == "slot":
        return getattr(layer.memory, f"{which}_key")[i]
    slot, network = getattr(layer.memory, which)[i], layer.key_networks[m]
    if source == "network":
        return key(network, slot)
    return torch.stack(_affine(network, slot, range(len(network.bias))))


def content_weights(query, keys, sharpness, divide_by_maximum=False):
    """Eq. 8: c over the slots, for one query and a list of keys."""
    exponentials = []
    for k in keys:
        cosine = _dot(query, k) / (_length(query) * _length(k))
        exponentials.append(torch.exp(sharpness * cosine))
    total = sum(exponentials)
    weights = [e / total for e in exponentials]
    if not divide_by_maximum:
        return weights
    largest = weights[0]
    for c in weights:
        if c.item() > largest.item():
            largest = c
    return [c / largest for c in weights]


def usage_before(attentions, slots):
    """Eq. 9 over earlier attentions, zero where there are none."""
    usage = []
    for i in range(slots):
        largest = torch.zeros((), dtype=torch.float64)
        for w in attentions:
            if w[i].item() > largest.item():
                largest = w[i]
        usage.append(largest)
    return usage


def least_used_weights(usage, least_used, weight_from="maximum"):
    """Eq. 10: l over the slots."""
    threshold = sorted(m.item() for m in usage)[least_used - 1]
    most = usage[0]
    for m in usage:
        if m.item() > most.item():
            most = m
    if weight_from == "one":
        most = 1
    return [most - m if m.item() <= threshold else torch.zeros_like(m) for m in usage]


def head_attention(content, gates, least_used):
    """Eq. 9 to 11 for one head: content and gates are lists over steps of lists over slots."""
    return heads_attention([content], [gates], least_used)[0]


def heads_attention(
    content,
    gates,
    least_used,
    usage_over="head",
    least_used_weight="maximum",
    first_step="unused",
):
    """Eq. 9 to 11: content and gates are lists over heads of lists over steps of lists of slots."""
    heads, steps, slots = len(content), len(content[0]), len(content[0][0])
    attentions = [[] for _ in range(heads)]
    for j in range(steps):
        now = []
        for h in range(heads):
            earlier = attentions[h]
            if usage_over == "all":
                earlier = [w for head in attentions for w in head]
            least = least_used_weights(usage_before(earlier, slots), least_used, least_used_weight)
            if j == 0:
                one = 1.0 if first_step == "first_slots" else 0.0
                least = [one if i < least_used else 0.0 for i in range(slots)]
            w = []
            for i in range(slots):
                opened = 1 / (1 + torch.exp(-gates[h][j][i]))
                w.append(opened * content[h][j][i] + (1 - opened) * least[i])
            now.append(w)
        for h in range(heads):
            attentions[h].append(now[h])
    return attentions


def orthogonality_loss(layer):
    """L_o of eq. 2 as the sum of two Frobenius norms."""
    total = torch.zeros((), dtype=torch.float64)
    for which in "uv":
        memory = getattr(layer.memory, which)
        if layer.readings.orthogonality == "slots":
            keys = getattr(layer.memory, f"{which}_key")
            memory = [torch.cat([keys[i], memory[i]]) for i in range(len(memory))]
        square = torch.zeros((), dtype=torch.float64)
        for a in range(len(memory)):
            for b in range(len(memory)):
                square = square + (_dot(memory[a], memory[b]) - (1.0 if a == b else 0.0)) ** 2
        total = total + torch.sqrt(square)
    return total


def _code_one(layer, x):
    network, readings = layer.composition_network, layer.readings
    heads, slots = network.heads, len(layer.memory.u)
    # With queries="input" there is no state, and x stands in its place.
    states = [x] if readings.queries == "input" else _lstm_states(network, x, network.steps)
    u_w, v_w, s_w = (_memory_attention(layer, x, states, which, heads, slots) for which in "uvs")

    u = [_attended(w, layer.memory.u) for w in u_w]  # eq. 3
    v = [_attended(w, layer.memory.v) for w in v_w]  # eq. 4
    terms = [torch.log(1 + torch.exp(_attended(w, layer.memory.s)[0])) for w in s_w]
    sigma = []  # eq. 5
    for n in range(len(terms)):
        if readings.singular_value_order == "backward":
            sigma.append(sum(terms[n:]))
        elif readings.singular_value_order == "forward":
            sigma.append(sum(terms[: n + 1]))
        else:
            sigma.append(sum(terms[: len(terms) - n]))
    smallest = min(sigma, key=lambda value: value.item())

    program = torch.zeros(layer.in_features, layer.out_features, dtype=torch.float64)
    for n in range(len(sigma)):
        program = program + sigma[n] * u[n][:, None] * v[n][None, :]  # eq. 1
    residual_gate = None
    if layer.residual is not None:
        if readings.queries == "state":
            f_phi = states[-1][-1]
        else:
            f_phi = _affine(layer.integration_network, x, [0])[0]
        residual_gate = 1 / (1 + torch.exp(-f_phi))
        program = program + residual_gate * smallest * layer.residual  # eq. 12

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
    if network.initial_state is not None:
        h, cell = network.initial_state[0], network.initial_state[1]
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


def _memory_attention(layer, x, states, which, heads, slots):
    """w of one memory, eq. 7 to 11: a list over the r components of lists over the slots."""
    network, readings = layer.composition_network, layer.readings
    m = "uvs".index(which)
    keys = [key_of_slot(layer, m, i) for i in range(slots)]
    key_size = len(keys[0])
    content, gates = [], []
    for h in range(heads):
        content.append([])
        gates.append([])
        for state in states:
            rows = range((m * heads + h) * key_size, (m * heads + h + 1) * key_size)
            if readings.queries == "state":
                query = [state[a] for a in rows]
            else:
                query = _affine(network.query_projection, state, rows)
            content[h].append(
                content_weights(
                    torch.stack(query), keys, layer.sharpness, readings.divide_by_maximum
                )
            )
            if network.gate_projection is None:
                continue
            if readings.gates == "input":
                gate = _affine(network.gate_projection, x, range(m * slots, (m + 1) * slots))
            else:
                rows = range((m * heads + h) * slots, (m * heads + h + 1) * slots)
                gate = _affine(network.gate_projection, state, rows)
            gates[h].append(gate)
    attention = content
    if network.gate_projection is not None:
        attention = heads_attention(
            content,
            gates,
            layer.least_used,
            readings.usage_over,
            readings.least_used_weight,
            readings.first_step,
        )
    return [attention[h][j] for j in range(len(states)) for h in range(heads)]


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
