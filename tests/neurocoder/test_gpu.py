"""On a GPU every layer computes, learns and is saved as on the CPU."""

import copy

import pytest
import torch

from neurocoder import NeurocoderLinear
from tests.neurocoder.every_layer import each_layer, make

pytestmark = pytest.mark.gpu


def hold_to_float64(layer, x):
    """Compare outputs and gradients on the GPU with those of a float64 twin on the CPU."""
    twin, x64 = copy.deepcopy(layer).double(), x.double().requires_grad_()
    there, x_there = copy.deepcopy(layer).cuda(), x.cuda().requires_grad_()
    expected, got = twin(x64), there(x_there)
    dy = torch.randn_like(expected)
    expected.backward(dy)
    got.backward(dy.to(got))
    pairs = [(got, expected), (x_there.grad, x64.grad)]
    pairs += [
        (ours.grad, theirs.grad)
        for ours, theirs in zip(there.parameters(), twin.parameters(), strict=True)
        if theirs.grad is not None
    ]
    for ours, theirs in pairs:
        assert ours.is_cuda
        assert (ours.double().cpu() - theirs).norm() <= 1e-4 * theirs.norm() + 1e-7
    for ours, theirs in zip(there.buffers(), twin.buffers(), strict=True):
        torch.testing.assert_close(ours.double().cpu(), theirs.double(), rtol=1e-4, atol=1e-6)


@each_layer
def test_outputs_and_gradients_are_those_of_the_cpu(kind):
    torch.manual_seed(0)
    hold_to_float64(make(kind, 64, 10).eval(), torch.randn(256, 64))


@pytest.mark.parametrize("build", ["authors_single_step", "authors_multi_step"])
def test_those_of_the_authors_layers_too(build):
    torch.manual_seed(0)
    hold_to_float64(getattr(NeurocoderLinear, build)(64, 10), torch.randn(128, 64))


def test_the_readable_way_agrees_with_the_fused_one():
    torch.manual_seed(0)
    layer, x = NeurocoderLinear(256, 18).cuda(), torch.randn(640, 256, device="cuda")
    fused = layer(x)
    layer.fused = False
    torch.testing.assert_close(fused, layer(x), rtol=1e-4, atol=1e-5)


@each_layer
def test_a_layer_is_made_trained_and_saved_there(kind, tmp_path):
    layer = make(kind, 16, 4, device="cuda")
    optimizer = torch.optim.Adam(layer.parameters(), lr=1e-2)
    x, target = torch.randn(64, 16, device="cuda"), torch.randn(64, 4, device="cuda")
    losses = []
    for _ in range(100):
        loss = (layer(x) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    torch.save(layer.state_dict(), tmp_path / "layer.pt")
    here = make(kind, 16, 4)
    here.load_state_dict(torch.load(tmp_path / "layer.pt", map_location="cpu"))
    torch.testing.assert_close(layer.eval()(x).cpu(), here.eval()(x.cpu()), rtol=1e-3, atol=1e-4)
