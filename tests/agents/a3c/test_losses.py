"""Losses against plain loops."""

import math

import pytest
import torch

from agents.a3c.losses import (
    a3c_loss,
    entropy,
    explained_variance,
    policy_gradient_loss,
    value_loss,
)

T, B, A = 4, 3, 5


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(T, B, A, generator=generator, dtype=torch.float64)
    actions = torch.randint(0, A, (T, B), generator=generator)
    numbers = torch.randn(2, T, B, generator=generator, dtype=torch.float64)
    mask = torch.rand(T, B, generator=generator) < 0.7
    return logits, actions, numbers[0], numbers[1], mask


def counted(mask):
    return [(t, b) for t in range(T) for b in range(B) if mask[t, b]]


def softmax(row):
    total = sum(math.exp(x) for x in row)
    return [math.exp(x) / total for x in row]


def test_policy_gradient_loss_is_the_mean_over_the_steps_that_count(batch):
    logits, actions, advantages, _, mask = batch
    steps = counted(mask)
    expected = -sum(
        math.log(softmax(logits[t, b].tolist())[actions[t, b]]) * advantages[t, b].item()
        for t, b in steps
    ) / len(steps)
    assert policy_gradient_loss(logits, actions, advantages, mask).item() == pytest.approx(expected)


def test_value_loss_is_half_the_mean_squared_error_over_the_steps_that_count(batch):
    _, _, values, returns, mask = batch
    steps = counted(mask)
    expected = sum((returns[s] - values[s]).item() ** 2 / 2 for s in steps) / len(steps)
    assert value_loss(values, returns, mask).item() == pytest.approx(expected)


def test_entropy_is_the_mean_over_the_steps_that_count(batch):
    logits, _, _, _, mask = batch
    steps = counted(mask)
    total = 0.0
    for t, b in steps:
        total -= sum(p * math.log(p) for p in softmax(logits[t, b].tolist()))
    assert entropy(logits, mask).item() == pytest.approx(total / len(steps))


def test_a_uniform_policy_has_the_largest_entropy():
    assert entropy(torch.zeros(1, 1, A), torch.ones(1, 1)).item() == pytest.approx(math.log(A))


def test_no_gradient_flows_into_advantages_or_returns(batch):
    logits, actions, advantages, values, mask = batch
    advantages.requires_grad_()
    values.requires_grad_()
    logits.requires_grad_()
    loss = policy_gradient_loss(logits, actions, advantages, mask)
    loss = loss + value_loss(values, advantages, mask)
    loss.backward()
    assert advantages.grad is None
    assert values.grad is not None


def test_an_ignored_step_changes_nothing_even_where_it_holds_nonsense(batch):
    logits, actions, advantages, values, mask = batch
    mask[0, 0] = False
    before = [
        policy_gradient_loss(logits, actions, advantages, mask),
        value_loss(values, advantages, mask),
        entropy(logits, mask),
    ]
    logits, advantages, values = logits.clone(), advantages.clone(), values.clone()
    logits[0, 0], advantages[0, 0], values[0, 0] = 1e3, math.inf, 1e30
    logits.requires_grad_()
    after = [
        policy_gradient_loss(logits, actions, advantages, mask),
        value_loss(values, advantages, mask),
        entropy(logits, mask),
    ]
    assert [x.item() for x in before] == pytest.approx([x.item() for x in after])


def test_a_batch_without_a_step_that_counts_has_loss_zero(batch):
    logits, actions, advantages, _, mask = batch
    none = torch.zeros_like(mask)
    assert policy_gradient_loss(logits, actions, advantages, none).item() == 0
    assert explained_variance(advantages, advantages, none).isnan()


def test_the_losses_of_several_workers_are_those_of_each(batch):
    logits, actions, advantages, returns, mask = batch
    values = 0.5 * returns + advantages
    mask[0] = True
    rollout = [logits, values, actions, returns, advantages, mask]
    other = [logits.flip(0) * 2, values, actions.flip(1), returns * 3, -advantages, mask.flip(0)]
    coefficients = {"vf_coef": 0.5, "ent_coef": 0.1}
    together = a3c_loss(
        *(torch.stack(pair) for pair in zip(rollout, other, strict=True)), **coefficients
    )
    for i, own in enumerate((rollout, other)):
        for ours, theirs in zip(together, a3c_loss(*own, **coefficients), strict=True):
            torch.testing.assert_close(ours[i], theirs)


def test_explained_variance_is_one_for_the_truth_and_zero_for_a_constant():
    returns = torch.randn(T, B)
    mask = torch.ones(T, B)
    assert explained_variance(returns, returns, mask).item() == pytest.approx(1.0)
    constant = torch.full((T, B), 0.3)
    assert explained_variance(constant, returns, mask).item() == pytest.approx(0.0, abs=1e-6)
    returns[0, 0], mask[0, 0] = torch.nan, 0  # an ignored step
    assert explained_variance(constant, returns, mask).item() == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("number", [0.0, 0.1, 0.3, -0.7, 25.3, 1e-6, 1e6])
def test_explained_variance_is_none_where_all_returns_are_equal(number):
    for steps in (7, 20, 77, 80):
        returns, mask = torch.full((steps, 1), number), torch.ones(steps, 1)
        assert explained_variance(torch.randn(steps, 1), returns, mask).isnan()
        returns[0] += 1e-3 * max(abs(number), 1e-6)
        assert explained_variance(returns, returns, mask).item() == 1.0
