"""What the layers that the Neurocoder is compared with have in common: the call of `nn.Linear`."""

import copy

import pytest
import torch
from torch import nn

import neurocoder
from neurocoder import FiLMLinear, HyperLinear, MoELinear, NSMLinear, baselines, recode

LAYERS = [FiLMLinear, HyperLinear, MoELinear, NSMLinear]

each_layer = pytest.mark.parametrize("kind", LAYERS)


def test_all_baselines_are_exported_and_tested_here():
    assert sorted(baselines.__all__) == sorted(kind.__name__ for kind in LAYERS)
    assert set(baselines.__all__) < set(neurocoder.__all__)


@pytest.mark.parametrize("lead", [(), (0,), (4,), (2, 3), (2, 0)])
@pytest.mark.parametrize("bias", [True, False])
@each_layer
def test_leading_dimensions_are_the_inputs_own_and_inputs_do_not_mix(kind, bias, lead):
    layer = kind(6, 5, bias=bias).eval()
    x = torch.randn(*lead, 6)
    y = layer(x)
    assert y.shape == (*lead, 5)
    one_by_one = [layer(row) for row in x.reshape(-1, 6)]
    if one_by_one:
        torch.testing.assert_close(y.reshape(-1, 5), torch.stack(one_by_one))


@pytest.mark.parametrize("sizes", [(256, 18), (256, 1), (64, 10), (16, 64)])
@pytest.mark.parametrize("training", [True, False])
@each_layer
def test_outputs_and_input_gradients_start_at_the_scale_of_nn_linear(kind, sizes, training):
    def scales(make):
        outputs, gradients = [], []
        for seed in range(6):
            torch.manual_seed(seed)
            layer = make(*sizes).train(training)
            x = torch.randn(64, sizes[0], requires_grad=True)
            y = layer(x)
            outputs.append(y.detach().square().mean())
            gradients.append(torch.autograd.grad(y.sum(), x)[0].square().mean())
        return torch.stack(outputs).mean().sqrt(), torch.stack(gradients).mean().sqrt()

    for got, expected in zip(scales(kind), scales(nn.Linear), strict=True):
        assert 0.7 < got / expected < 1.5


@each_layer
def test_the_map_itself_depends_on_the_input(kind):
    layer, x = kind(6, 5).eval(), torch.randn(40, 6)
    if kind is MoELinear:
        nn.init.normal_(layer.gate)
    with torch.no_grad():
        curved = layer(x) + layer(-x) - 2 * layer(torch.zeros(6))
    assert curved.abs().max() > 0.05  # of a linear layer it is zero


@pytest.mark.parametrize("shape", [(3, 4), (5, 3), ()])
@each_layer
def test_an_input_of_another_size_is_refused(kind, shape):
    with pytest.raises(ValueError, match=r"\(\.\.\., 5\)"):
        kind(5, 4)(torch.zeros(shape))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@each_layer
def test_device_and_dtype_reach_every_parameter(kind, dtype):
    layer = kind(5, 4, device="cpu", dtype=dtype)
    assert all(p.dtype == dtype and p.device.type == "cpu" for p in layer.parameters())
    y = layer(torch.randn(3, 5, dtype=dtype))
    assert y.dtype == dtype
    y.sum().backward()


@each_layer
def test_a_deep_copy_and_a_loaded_state_dict_compute_the_same(kind):
    layer, other, x = kind(5, 4).eval(), kind(5, 4).eval(), torch.randn(3, 5)
    assert not torch.allclose(layer(x), other(x))
    other.load_state_dict(layer.state_dict())
    layer.train()(x)  # what a layer keeps from a call must not be in the way of a copy
    for twin in (copy.deepcopy(layer), other):
        torch.testing.assert_close(twin.eval()(x), layer.eval()(x), rtol=0, atol=0)


@each_layer
def test_new_parameters_can_be_drawn_in_place(kind):
    layer, x = kind(5, 4).eval(), torch.randn(3, 5)
    before = layer(x)
    layer.reset_parameters()
    assert not torch.allclose(layer(x), before)


@each_layer
def test_gradients_are_those_of_finite_differences(kind):
    layer = kind(4, 3, dtype=torch.float64).eval()
    if kind is MoELinear:
        nn.init.normal_(layer.gate)
    x = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, x)


@each_layer
def test_it_takes_the_place_of_a_linear_layer_and_learns_there(kind):
    model = recode(nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2)), ["0", "2"], kind)
    x, target = torch.randn(32, 3), torch.randn(32, 2)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)

    def loss():
        return (model(x) - target).square().mean()

    before = loss().item()
    for _ in range(100):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    assert loss() < 0.6 * before
    assert all(p.grad is not None for p in model.parameters())
    assert str(model)
