"""Flat parameters and gradients of a module."""

import torch
from torch import nn

from agents.networks.flat_parameters import flatten, flatten_parameters_, unflatten


def make_module():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


def test_a_flattened_module_computes_what_it_did():
    module = make_module()
    x = torch.randn(5, 3)
    before = module(x).detach()
    flatten_parameters_(module)
    torch.testing.assert_close(module(x), before)


def test_writing_the_flat_tensor_writes_the_parameters():
    module = make_module()
    flat = flatten_parameters_(module)
    flat.parameters.fill_(0.5)
    assert all((p == 0.5).all() for p in module.parameters())


def test_gradients_of_every_backward_pass_arrive_in_the_flat_tensor():
    module = make_module()
    flat = flatten_parameters_(module)
    reference = make_module()
    for scale in (1.0, 3.0):
        x = scale * torch.ones(2, 3)
        flat.gradients.zero_()
        module(x).square().sum().backward()
        reference.zero_grad()
        reference(x).square().sum().backward()
        expected = torch.cat([p.grad.flatten() for p in reference.parameters()])
        torch.testing.assert_close(flat.gradients, expected)


def test_unflatten_gives_the_parameters_by_name():
    module = make_module()
    shapes = {name: p.shape for name, p in module.named_parameters()}
    pieces = unflatten(flatten(module), shapes)
    state = module.state_dict()
    assert pieces.keys() == state.keys()
    for name, piece in pieces.items():
        torch.testing.assert_close(piece, state[name])
