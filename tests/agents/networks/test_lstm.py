"""The LSTM with a gradient by hand, against torch's own cell and autograd."""

import pytest
import torch

from agents.networks.actor_critic import LSTMCore
from agents.networks.lstm import LSTMSequence

T, B, INPUTS, SIZE = 6, 3, 5, 4


@pytest.fixture
def tensors():
    generator = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64, requires_grad=True)

    starts = torch.rand(T, B, generator=generator) < 0.3
    starts[2, 1] = True
    inputs = [random(T, B, INPUTS), random(B, SIZE), random(B, SIZE)]
    weights = [random(4 * SIZE, INPUTS), random(4 * SIZE, SIZE), random(4 * SIZE)]
    return inputs, starts, weights


def by_cell(inputs, starts, weights):
    """One step after another with torch's cell, each game by itself."""
    cell = torch.nn.LSTMCell(INPUTS, SIZE, dtype=torch.float64)
    x, hidden, memory = inputs
    named = dict(zip(["weight_ih", "weight_hh", "bias_ih"], weights, strict=True))
    named["bias_hh"] = torch.zeros_like(weights[2])
    outputs, last = [], []
    for b in range(B):
        state = hidden[b], memory[b]
        for t in range(T):
            if starts[t, b]:
                state = torch.zeros(2, SIZE, dtype=torch.float64).unbind()
            state = torch.func.functional_call(cell, named, (x[t, b], state))
            outputs.append(state[0])
        last.append(state[1])
    return torch.stack(outputs).view(B, T, SIZE).transpose(0, 1), torch.stack(last)


def run(inputs, starts, weights):
    goes_on = (~starts).to(torch.float64).unsqueeze(-1)
    return LSTMSequence.apply(*inputs, goes_on, *weights)


def test_it_computes_what_torchs_cell_computes(tensors):
    torch.testing.assert_close(run(*tensors), by_cell(*tensors))


def test_its_gradients_are_autograds_of_the_cell(tensors):
    inputs, _, weights = tensors
    found = []
    for way in (run, by_cell):
        outputs, last = way(*tensors)
        loss = outputs.sin().sum() + (last * torch.arange(SIZE)).sum()
        found.append(torch.autograd.grad(loss, [*inputs, *weights]))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_its_gradients_are_those_of_finite_differences(tensors):
    inputs, starts, weights = tensors
    assert torch.autograd.gradcheck(lambda *t: run(t[:3], starts, t[3:]), (*inputs, *weights))


def test_nothing_flows_back_across_a_games_start(tensors):
    inputs, starts, weights = tensors
    starts = torch.zeros_like(starts)
    starts[3, 0] = True
    outputs, _ = run(inputs, starts, weights)
    dx, dhidden, dcell = torch.autograd.grad(outputs[3:].sum(), inputs)
    assert dx[:3, 0].eq(0).all()
    assert dx[:3, 1:].ne(0).all()
    assert dhidden[0].eq(0).all()
    assert dcell[0].eq(0).all()
    assert dhidden[1:].ne(0).all()


def test_groups_of_games_have_the_gradients_that_each_has_alone(tensors):
    (x, *state), starts, weights = tensors
    scales = torch.tensor([1.0, 10.0, 100.0], dtype=torch.float64)
    parameters = [w.detach().expand(B, *w.shape).requires_grad_() for w in weights]
    outputs, last = run((x, *state), starts, parameters)
    loss = (outputs.sin().sum((0, 2)) + last.cos().sum(1)) @ scales
    dx, *found = torch.autograd.grad(loss, [x, *state, *parameters])
    for b in range(B):
        own = [
            t.detach().requires_grad_() for t in (x[:, b : b + 1], *(s[b : b + 1] for s in state))
        ]
        outputs, last = run(own, starts[:, b : b + 1], weights)
        loss = scales[b] * (outputs.sin().sum() + last.cos().sum())
        own_dx, *expected = torch.autograd.grad(loss, [*own, *weights])
        torch.testing.assert_close(dx[:, b : b + 1], own_dx)
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(ours[b], theirs.view_as(ours[b]))


BAD_STATE = torch.tensor([torch.nan, torch.inf, 0.0]).expand(2, LSTMCore.state_size, B).mT


@pytest.mark.parametrize("learning", [True, False])
def test_a_state_that_is_not_finite_ends_with_its_episode(learning):
    starts = torch.zeros(T, B, dtype=torch.bool)
    starts[0] = starts[3, 2] = True
    x = torch.ones(T, B, INPUTS)
    x[2, 2] = torch.nan
    with torch.set_grad_enabled(learning):
        outputs, state = LSTMCore(INPUTS)(x, BAD_STATE, starts)
    is_finite = outputs.isfinite().all(dim=-1)
    assert not is_finite[2, 2]
    assert is_finite.sum() == T * B - 1
    assert state.isfinite().all()


def test_gradients_of_the_next_episode_are_finite():
    core, starts = LSTMCore(INPUTS), torch.zeros(T, B, dtype=torch.bool)
    starts[0] = True
    outputs, _ = core(torch.ones(T, B, INPUTS), BAD_STATE, starts)
    for gradient in torch.autograd.grad(outputs.sum(), list(core.parameters())):
        assert gradient.isfinite().all()
