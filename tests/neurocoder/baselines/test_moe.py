"""`MoELinear` against a mixture of experts that goes through inputs and experts one by one."""

import copy
import math

import pytest
import torch
from torch import nn

from neurocoder import MoELinear

SIZES = [(4, 3, 5, 2), (3, 1, 2, 1), (1, 2, 4, 4), (2, 4, 3, 2), (2, 2, 1, 1)]


def dot(a, b):
    return (a * b).sum()


def make(sizes, **settings):
    in_features, out_features, experts, chosen = sizes
    layer = MoELinear(
        in_features, out_features, experts=experts, chosen=chosen, dtype=torch.float64, **settings
    )
    with torch.no_grad():
        layer.gate.normal_()
        layer.noise.normal_()
    return layer


def naive(layer, x, draws=None):
    """y, gates and balancing loss for x (B, in), with the given noise, shape (B, E), or none."""
    experts, chosen = layer.experts.shape[0], layer.chosen
    outputs, all_gates = [], []
    importance = [torch.zeros((), dtype=torch.float64) for _ in range(experts)]
    load = [torch.zeros((), dtype=torch.float64) for _ in range(experts)]
    for t, row in enumerate(x):
        clean = [dot(row, layer.gate[:, e]) for e in range(experts)]
        spread = [0.01 + (1 + dot(row, layer.noise[:, e]).exp()).log() for e in range(experts)]
        noise = [0.0] * experts if draws is None else draws[t]
        h = [c + n * s for c, n, s in zip(clean, noise, spread, strict=True)]
        best = sorted(range(experts), key=lambda e: -h[e].item())[:chosen]
        total = sum(torch.exp(h[e]) for e in best)
        gates = [torch.exp(h[e]) / total if e in best else 0 * h[e] for e in range(experts)]
        y = torch.zeros(layer.out_features, dtype=torch.float64)
        for e in best:
            result = row @ layer.experts[e]
            if layer.bias is not None:
                result = result + layer.bias[e]
            y = y + gates[e] * result
        outputs.append(y)
        all_gates.append(torch.stack(gates))
        for e in range(experts):
            importance[e] = importance[e] + gates[e]
            others = sorted((h[o] for o in range(experts) if o != e), key=lambda v: -v.item())
            if len(others) >= chosen:
                z = (clean[e] - others[chosen - 1]) / spread[e]
                load[e] = load[e] + 0.5 * (1 + torch.erf(z / math.sqrt(2)))
            else:
                load[e] = load[e] + 1
    loss = layer.importance_weight * squared_variation(importance)
    loss = loss + layer.load_weight * squared_variation(load)
    return torch.stack(outputs), torch.stack(all_gates), loss


def squared_variation(values):
    mean = sum(values) / len(values)
    return sum((v - mean) ** 2 for v in values) / len(values) / mean**2


def draws_of(layer, x, seed):
    torch.manual_seed(seed)
    return torch.randn(len(x), len(layer.experts), dtype=torch.float64)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("sizes", SIZES)
def test_in_evaluation_outputs_and_gates_are_those_of_a_naive_mixture_without_noise(sizes, bias):
    layer = make(sizes, bias=bias).eval()
    x = torch.randn(4, sizes[0], dtype=torch.float64)
    expected, gates, _ = naive(layer, x)
    torch.testing.assert_close(layer(x), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(layer.gates(x), gates, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(layer(x), layer(x), rtol=0, atol=0)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("sizes", SIZES)
def test_in_training_outputs_losses_and_gradients_are_those_of_a_naive_noisy_mixture(sizes, bias):
    layer = make(sizes, bias=bias, importance_weight=0.3, load_weight=0.7)
    x = torch.randn(4, sizes[0], dtype=torch.float64, requires_grad=True)
    expected, _, expected_loss = naive(layer, x, draws_of(layer, x, 5))
    torch.manual_seed(5)
    got = layer(x)
    loss = layer.auxiliary_loss()
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(loss, expected_loss, rtol=1e-9, atol=1e-9)
    inputs, weight = [x, *layer.parameters()], torch.randn_like(got)
    for a, b in zip(
        torch.autograd.grad((got * weight).sum() + loss, inputs, materialize_grads=True),
        torch.autograd.grad(
            (expected * weight).sum() + expected_loss, inputs, materialize_grads=True
        ),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_experts_that_are_not_chosen_are_not_computed():
    layer = make((4, 3, 3, 1)).eval()
    x = torch.randn(6, 4, dtype=torch.float64)
    unused = layer.gates(x)[:1].argmin(dim=1)
    with torch.no_grad():
        layer.experts[unused] = math.nan
    assert layer(x[:1]).isfinite().all()


def test_noise_is_drawn_for_every_call_in_training():
    layer, x = make((4, 3, 5, 2)), torch.randn(6, 4, dtype=torch.float64)
    assert not torch.allclose(layer(x), layer(x))


def test_the_balancing_loss_is_zero_before_the_first_call_and_kept_by_evaluation():
    layer, x = make((4, 3, 5, 2)), torch.randn(6, 4, dtype=torch.float64)
    assert layer.auxiliary_loss() == 0
    layer(x)
    loss = layer.auxiliary_loss()
    assert loss > 0
    layer.eval()(x)
    assert layer.auxiliary_loss() == loss
    assert copy.deepcopy(layer).auxiliary_loss() == 0


def test_the_balancing_loss_evens_out_how_often_experts_are_chosen():
    layer, x = MoELinear(4, 3, experts=4, chosen=2), torch.randn(256, 4) + 2
    nn.init.constant_(layer.gate[:, 0], 0.5)

    def balance():
        layer(x)
        return layer.auxiliary_loss()

    assert balance() > 0.2
    optimizer = torch.optim.Adam([layer.gate], lr=0.03)
    for _ in range(100):
        optimizer.zero_grad()
        balance().backward()
        optimizer.step()
    assert balance() < 0.01


def test_gradients_are_finite_where_the_noise_has_vanished():
    layer = make((2, 3, 4, 2)).float()
    with torch.no_grad():
        layer.noise.fill_(-100.0)
    (layer(torch.ones(5, 2)).sum() + layer.auxiliary_loss()).backward()
    assert all(parameter.grad.isfinite().all() for parameter in layer.parameters())


def test_more_chosen_experts_than_there_are_is_refused():
    with pytest.raises(ValueError, match=r"chosen must be at most experts \(2\), got 3"):
        MoELinear(5, 4, experts=2, chosen=3)


def test_the_loss_of_a_call_inside_torch_func_is_to_be_had_in_there_alone():
    layer, x = make((4, 3, 5, 2)), torch.randn(6, 4, dtype=torch.float64)
    parameters = {name: p.detach() for name, p in layer.named_parameters()}

    def loss(parameters):
        torch.manual_seed(0)
        torch.func.functional_call(layer, parameters, (x,))
        return layer.auxiliary_loss()

    gradients = torch.func.grad(loss)(parameters)
    with pytest.raises(RuntimeError, match=r"inside torch\.func"):
        layer.auxiliary_loss()
    loss(dict(layer.named_parameters())).backward()
    for name in ("gate", "noise"):
        torch.testing.assert_close(gradients[name], getattr(layer, name).grad)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("sizes", SIZES)
def test_computing_all_experts_gives_what_computing_the_chosen_ones_gives(sizes, bias):
    layer = make(sizes, bias=bias)
    x = torch.randn(7, sizes[0], dtype=torch.float64)
    gates = layer.gates(x)
    chosen, every = layer._run_chosen(x, gates), layer._run_all(x, gates)
    torch.testing.assert_close(every, chosen)
    inputs, dy = (layer.experts, layer.gate), torch.randn_like(chosen)
    expected = torch.autograd.grad(chosen, inputs, dy, retain_graph=True)
    torch.testing.assert_close(torch.autograd.grad(every, inputs, dy), expected)
