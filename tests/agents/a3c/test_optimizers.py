"""Shared optimizers against formulas and against torch's own."""

import math

import pytest
import torch

from agents.a3c.optimizers import SharedAdam, SharedRMSprop


def test_rmsprop_follows_the_papers_formula():
    theta, g = [0.3, -0.2], [0.0, 0.0]
    parameters, statistics = torch.tensor(theta), torch.zeros(1, 2)
    optimizer = SharedRMSprop(parameters, statistics, eps=0.1, decay=0.9)
    for step, gradient in enumerate([[1.0, -2.0], [0.5, 0.0], [-3.0, 1.0]]):
        optimizer.step(torch.tensor(gradient), 0.01, step)
        for i in range(2):
            g[i] = 0.9 * g[i] + 0.1 * gradient[i] ** 2
            theta[i] -= 0.01 * gradient[i] / math.sqrt(g[i] + 0.1)
        assert parameters.tolist() == pytest.approx(theta, rel=1e-5)
        assert statistics[0].tolist() == pytest.approx(g, rel=1e-5)


def test_adam_equals_torchs():
    torch.manual_seed(0)
    start = torch.randn(6)
    parameters = start.clone()
    optimizer = SharedAdam(parameters, torch.zeros(2, 6), eps=1e-6)
    reference = torch.nn.Parameter(start.clone())
    theirs = torch.optim.Adam([reference], lr=0.01, eps=1e-6)
    for step in range(5):
        gradient = torch.randn(6)
        optimizer.step(gradient, 0.01, step)
        reference.grad = gradient
        theirs.step()
        torch.testing.assert_close(parameters, reference.detach())


@pytest.mark.parametrize("kind", [SharedRMSprop, SharedAdam])
def test_two_workers_go_on_with_each_others_statistics(kind):
    gradients = [torch.randn(4), torch.randn(4)]
    alone = torch.zeros(4)
    optimizer = kind(alone, torch.zeros(kind.num_state_tensors, 4), eps=1e-5)
    for step, gradient in enumerate(gradients):
        optimizer.step(gradient, 0.01, step)

    together, statistics = torch.zeros(4), torch.zeros(kind.num_state_tensors, 4)
    for step, gradient in enumerate(gradients):
        kind(together, statistics, eps=1e-5).step(gradient, 0.01, step)
    torch.testing.assert_close(together, alone)


@pytest.mark.parametrize("size", [1e-40, 1e-20, 1.0, 1e18])
@pytest.mark.parametrize("kind", [SharedRMSprop, SharedAdam])
def test_a_gradient_of_finite_norm_leaves_everything_finite(kind, size):
    gradient = size * torch.tensor([1.0, -1.0, 0.5, 0.0])
    assert math.isfinite(gradient.norm())
    parameters, statistics = torch.zeros(4), torch.zeros(kind.num_state_tensors, 4)
    optimizer = kind(parameters, statistics, eps=1e-12)
    for step in range(300):
        # Now and then none, so that the moments are of different ages.
        optimizer.step(gradient * (step % 3), 1.0, step)
        assert bool(parameters.isfinite().all())
        assert bool(statistics.isfinite().all())
