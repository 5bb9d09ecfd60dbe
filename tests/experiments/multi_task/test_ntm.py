"""`NeuralTuringMachine` against a naive machine, and what its parts do by themselves."""

import pytest
import torch
import torch.nn.functional as F

from experiments.multi_task.ntm import NeuralTuringMachine
from neurocoder import NeurocoderLinear, recode


def naive(machine, x):
    """Logits and last memory, from the equations of Graves et al. 2014, in plain loops.

    Reads the machine's parameters alone, one sequence and one number at a time. x: (T, B, in).
    """
    logits, memories = [], []
    for b in range(x.shape[1]):
        outputs, memory = naive_sequence(machine, x[:, b])
        logits.append(torch.stack(outputs))
        memories.append(torch.stack([torch.stack(row) for row in memory]))
    return torch.stack(logits, dim=1), torch.stack(memories)


def naive_sequence(machine, x):
    size, rows, width = machine.hidden_size, machine.rows, machine.width
    readers, heads = machine.read_heads, machine.read_heads + machine.write_heads
    zero = torch.zeros((), dtype=torch.float64)
    hidden, cell = [zero] * size, [zero] * size
    read = [[zero] * width for _ in range(readers)]
    memory = [[zero + 1e-6 for _ in range(width)] for _ in range(rows)]
    pointing = [softmax(list(machine.start[h])) for h in range(heads)]
    outputs = []
    for x_t in x:
        hidden, cell = naive_lstm(machine, x_t, hidden, cell, read)
        signals = naive_signals(machine, hidden)
        pointing = [naive_address(signals[h], memory, pointing[h]) for h in range(heads)]
        for h in range(readers, heads):  # eq. 3, of all writers before any adds
            memory = [
                [m * (1 - w * e) for m, e in zip(row, signals[h]["erase"], strict=True)]
                for w, row in zip(pointing[h], memory, strict=True)
            ]
        for h in range(readers, heads):  # eq. 4
            memory = [
                [m + w * a for m, a in zip(row, signals[h]["add"], strict=True)]
                for w, row in zip(pointing[h], memory, strict=True)
            ]
        read = [  # eq. 2
            [sum(pointing[h][i] * memory[i][c] for i in range(rows)) for c in range(width)]
            for h in range(readers)
        ]
        seen = torch.stack([*hidden, *(number for vector in read for number in vector)])
        outputs.append(machine.output_layer.weight @ seen + machine.output_layer.bias)
    return outputs, memory


def naive_lstm(machine, x_t, hidden, cell, read):
    size = machine.hidden_size
    recurrent = torch.stack([*hidden, *(number for vector in read for number in vector)])
    total = (
        machine.input_projection.weight @ x_t
        + machine.input_projection.bias
        + machine.recurrent_projection.weight @ recurrent
    )
    new_hidden, new_cell = [], []
    for a in range(size):
        enter, keep, leave = (sigmoid(total[k * size + a]) for k in range(3))
        new_cell.append(keep * cell[a] + enter * torch.tanh(total[3 * size + a]))
        new_hidden.append(leave * torch.tanh(new_cell[a]))
    return new_hidden, new_cell


def naive_signals(machine, hidden):
    """What each head is told, from the interface's rows in their order."""
    width, readers, writers = machine.width, machine.read_heads, machine.write_heads
    heads = readers + writers
    layer = machine.interface_layer
    numbers = iter(layer.weight @ torch.stack(hidden) + layer.bias)

    def take(count, function):
        return [function(next(numbers)) for _ in range(count)]

    def softplus(x):
        return torch.log(1 + torch.exp(x))

    told = [{} for _ in range(heads)]
    for h in range(heads):
        told[h]["key"] = take(width, torch.tanh)
    for h in range(readers, heads):
        told[h]["add"] = take(width, torch.tanh)
    for h in range(heads):
        told[h]["gate"] = take(1, sigmoid)[0]
    for h in range(readers, heads):
        told[h]["erase"] = take(width, sigmoid)
    for h in range(heads):
        told[h]["strength"] = take(1, softplus)[0]
    for h in range(heads):
        told[h]["sharpening"] = 1 + take(1, softplus)[0]
    for h in range(heads):
        told[h]["shift"] = softmax(take(3, lambda x: x))
    assert next(numbers, None) is None
    return told


def naive_address(told, memory, before):
    rows = len(memory)
    similar = []
    for row in memory:
        dot = sum(k * m for k, m in zip(told["key"], row, strict=True))
        lengths = [torch.sqrt(1e-6 + sum(n * n for n in vector)) for vector in (told["key"], row)]
        similar.append(dot / (lengths[0] * lengths[1]))  # eq. 6
    by_content = softmax([told["strength"] * s for s in similar])  # eq. 5
    gate = told["gate"]
    gated = [gate * c + (1 - gate) * w for c, w in zip(by_content, before, strict=True)]  # eq. 7
    shifted = [
        sum(
            gated[j] * told["shift"][s + 1]
            for j in range(rows)
            for s in (-1, 0, 1)
            if (j + s) % rows == i
        )
        for i in range(rows)
    ]  # eq. 8
    powers = [w ** told["sharpening"] for w in shifted]
    return [power / sum(powers) for power in powers]  # eq. 9


def softmax(numbers):
    exponentials = [torch.exp(number) for number in numbers]
    return [e / sum(exponentials) for e in exponentials]


def sigmoid(x):
    return 1 / (1 + torch.exp(-x))


@pytest.mark.parametrize(("readers", "writers"), [(1, 1), (2, 2)])
def test_outputs_memory_and_gradients_are_those_of_a_naive_machine(readers, writers):
    machine = NeuralTuringMachine(
        2,
        2,
        hidden_size=3,
        rows=4,
        width=2,
        read_heads=readers,
        write_heads=writers,
        dtype=torch.float64,
    )
    with torch.no_grad():
        machine.interface_layer.weight.mul_(4)  # heads that clearly want something
        machine.start.normal_()
    x = torch.randn(3, 2, 2, dtype=torch.float64, requires_grad=True)
    expected, memory = naive(machine, x)
    got = machine(x)
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(machine.states(x)[-1].memory, memory, rtol=1e-9, atol=1e-9)
    inputs, weight = [x, *machine.parameters()], torch.randn_like(got)
    for a, b in zip(
        torch.autograd.grad((got * weight).sum(), inputs),
        torch.autograd.grad((expected * weight).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8)


def told_always(machine, **told):
    """Have the interface tell the heads the same at every step: numbers before nonlinearities."""
    width, writers = machine.width, machine.write_heads
    heads = machine.read_heads + writers
    names = {
        "key": heads * width,
        "add": writers * width,
        "gate": heads,
        "erase": writers * width,
        "strength": heads,
        "sharpening": heads,
        "shift": heads * 3,
    }
    biases = [
        torch.as_tensor(told.get(name, 0.0)).expand(count // 3, 3).flatten()
        if name == "shift"
        else torch.full((count,), told.get(name, 0.0))
        for name, count in names.items()
    ]
    with torch.no_grad():
        machine.interface_layer.weight.zero_()
        machine.interface_layer.bias.copy_(torch.cat(biases))


@pytest.mark.parametrize(("shift", "by"), [((9.0, 0, 0), -1), ((0, 9.0, 0), 0), ((0, 0, 9.0), 1)])
def test_a_head_that_ignores_content_moves_around_the_ring(shift, by):
    machine = NeuralTuringMachine(3, 2, rows=5)
    told_always(machine, gate=-20.0, shift=shift, sharpening=9.0)
    attention = torch.stack([state.attention for state in machine.states(torch.randn(12, 2, 3))])
    places = [by * (step + 1) % 5 for step in range(12)]
    expected = torch.tensor(places)[:, None, None].expand(12, 2, 2)
    assert torch.equal(attention.argmax(dim=-1), expected)


def test_what_is_written_is_read_at_the_same_step_and_erased_by_the_next():
    machine = NeuralTuringMachine(3, 2, rows=5, width=2)
    told_always(machine, gate=-20.0, shift=(0, 20.0, 0), sharpening=20.0, erase=20.0, add=20.0)
    for state in machine.states(torch.randn(3, 1, 3)):
        torch.testing.assert_close(state.read, torch.ones(1, 2), rtol=0, atol=1e-3)
        torch.testing.assert_close(state.memory[0, 1:], torch.zeros(4, 2), rtol=0, atol=1e-3)


def test_heads_that_follow_content_find_the_row_that_holds_their_key():
    machine = NeuralTuringMachine(3, 2, rows=5, width=2)
    told_always(machine, gate=20.0, shift=(0, 20.0, 0), strength=50.0, key=1.0)
    before = machine.initial_state(1)
    memory = torch.tensor([[1.0, -1], [-1, 1], [0.5, 0.5], [-1, -1], [0, 0]])
    state = machine._step(torch.zeros(1, 4 * 64), before._replace(memory=memory[None]))
    assert state.attention.argmax(dim=-1).tolist() == [[2, 2]]
    assert state.attention.max() > 0.99


def test_attention_sums_to_one_and_gradients_stay_finite_over_many_steps():
    machine = NeuralTuringMachine(3, 2, rows=40)
    x = torch.randn(150, 2, 3)
    for state in machine.states(x)[::30]:
        torch.testing.assert_close(state.attention.sum(dim=-1), torch.ones(2, 2))
    machine(x).sum().backward()
    assert all(p.grad.isfinite().all() for p in machine.parameters())


def test_outputs_may_be_asked_for_at_some_steps_alone():
    machine, x = NeuralTuringMachine(3, 2), torch.randn(6, 4, 3)
    where = torch.rand(6, 4) < 0.5
    assert machine(x).shape == (6, 4, 2)
    torch.testing.assert_close(machine(x, where), machine(x)[where])


def test_sequences_of_a_batch_know_nothing_of_each_other_nor_steps_of_what_follows():
    machine, x = NeuralTuringMachine(3, 2), torch.randn(6, 4, 3)
    y = machine(x)
    torch.testing.assert_close(machine(x[:, 2:3]), y[:, 2:3])
    torch.testing.assert_close(machine(x[:3]), y[:3])


@pytest.mark.parametrize("name", ["output_layer", "interface_layer"])
def test_either_feed_forward_layer_may_be_recoded(name):
    machine = recode(NeuralTuringMachine(3, 2), [name], NeurocoderLinear)
    y = machine(torch.randn(3, 4, 3))
    assert y.shape == (3, 4, 2)
    y.sum().backward()
    assert getattr(machine, name).memory.u.grad.abs().sum() > 0


def test_a_machine_learns_to_give_back_what_it_was_given():
    machine = NeuralTuringMachine(3, 2, hidden_size=16, rows=4, width=4)
    bits = torch.tensor([[(i >> k) & 1 for i in range(16)] for k in range(4)], dtype=torch.float32)
    items = bits.reshape(2, 2, 16).transpose(1, 2)  # two items of two bits, all sixteen pairs
    given = torch.cat([items, torch.zeros(2, 16, 1)], dim=-1)
    x = torch.cat([given, torch.tensor([[[0.0, 0.0, 1.0]]]).expand(2, 16, 3)])
    optimizer = torch.optim.Adam(machine.parameters(), lr=2e-2)
    for _ in range(150):
        loss = F.binary_cross_entropy_with_logits(machine(x)[2:], items)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.1  # guessing: 0.69
