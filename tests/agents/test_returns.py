"""Returns against a reference that looks forward from every step, written from the definitions."""

import pytest
import torch

from agents.returns import lambda_returns

GAMMA, LAMBDA = 0.9, 0.8


def n_step_return(rewards, discounts, values, t, n):
    """R^(n)_t = r_t + d_t r_{t+1} + ... + d_t ... d_{t+n-1} V(s_{t+n}), for one environment."""
    total, weight = 0.0, 1.0
    for k in range(t, t + n):
        total += weight * rewards[k]
        weight *= discounts[k]
    return total + weight * values[t + n]


def forward_view(rewards, discounts, traces, values, t):
    """The lambda-return as a mixture of all n-step returns, for one environment.

    The n-step return gets the product of the traces before its last step, times one minus the trace
    of its last step; the longest takes what is left.
    """
    horizon = len(rewards) - t
    total, weight = 0.0, 1.0
    for n in range(1, horizon + 1):
        stop = 1.0 if n == horizon else 1.0 - traces[t + n - 1]
        total += weight * stop * n_step_return(rewards, discounts, values, t, n)
        weight *= traces[t + n - 1]
    return total


def random_rollout(seed, steps=9, envs=4):
    """A rollout with terminations, truncations, lost lives and the ignored steps behind ends."""
    generator = torch.Generator().manual_seed(seed)
    rewards = torch.randn(steps, envs, generator=generator, dtype=torch.float64)
    values = torch.randn(steps + 1, envs, generator=generator, dtype=torch.float64)
    kinds = torch.randint(0, 6, (steps, envs), generator=generator)  # 0 end, 1 cut off, 2 life lost
    valid = torch.ones(steps, envs, dtype=torch.bool)
    for t in range(1, steps):
        valid[t] = ~(valid[t - 1] & (kinds[t - 1] <= 1))
    kinds = torch.where(valid, kinds, 5)
    discounts = torch.where((kinds == 0) | (kinds == 2), 0.0, GAMMA).double()
    traces = torch.where(kinds == 1, 0.0, LAMBDA).double()
    return rewards, discounts, traces, values, valid


@pytest.mark.parametrize("seed", range(8))
def test_returns_equal_the_forward_view_at_every_step_that_counts(seed):
    rewards, discounts, traces, values, valid = random_rollout(seed)
    returns = lambda_returns(rewards, discounts, traces, values[:-1], values[-1])
    for t in range(rewards.shape[0]):
        for b in range(rewards.shape[1]):
            if valid[t, b]:
                expected = forward_view(
                    rewards[:, b], discounts[:, b], traces[:, b], values[:, b], t
                )
                assert returns[t, b].item() == pytest.approx(float(expected), abs=1e-12)


def test_lambda_one_gives_n_step_returns():
    rewards, values = torch.randn(5, 1).double(), torch.randn(6, 1).double()
    discounts, ones = torch.full((5, 1), GAMMA).double(), torch.ones(5, 1).double()
    returns = lambda_returns(rewards, discounts, ones, values[:-1], values[-1])
    for t in range(5):
        expected = n_step_return(rewards[:, 0], discounts[:, 0], values[:, 0], t, 5 - t)
        assert returns[t, 0].item() == pytest.approx(float(expected))


def test_advantage_is_the_sum_of_discounted_td_errors_of_gae():
    rewards, values = torch.randn(6, 1).double(), torch.randn(7, 1).double()
    discounts = torch.full((6, 1), GAMMA).double()
    traces = torch.full((6, 1), LAMBDA).double()
    returns = lambda_returns(rewards, discounts, traces, values[:-1], values[-1])
    td_errors = rewards + GAMMA * values[1:] - values[:-1]
    expected = sum((GAMMA * LAMBDA) ** k * td_errors[k, 0] for k in range(6))
    assert (returns - values[:-1])[0, 0].item() == pytest.approx(float(expected))


def one_env(*numbers):
    return torch.tensor(numbers, dtype=torch.float64).unsqueeze(1)


def test_nothing_after_a_termination_reaches_the_return():
    returns = lambda_returns(
        one_env(1.0, 2.0, 100.0),
        one_env(GAMMA, 0.0, GAMMA),
        one_env(LAMBDA, LAMBDA, LAMBDA),
        one_env(0.0, 0.0, 1000.0),
        torch.tensor([1000.0], dtype=torch.float64),
    )
    assert returns[1, 0] == 2.0


def test_a_truncated_game_bootstraps_from_its_last_observation_and_from_nothing_later():
    # Step 1 is truncated; step 2 is the ignored one, acted on the old game's last screen (value 7).
    returns = lambda_returns(
        one_env(1.0, 2.0, 100.0, 100.0),
        one_env(GAMMA, GAMMA, GAMMA, GAMMA),
        one_env(LAMBDA, 0.0, LAMBDA, LAMBDA),
        one_env(0.0, 5.0, 7.0, 1000.0),
        torch.tensor([1000.0], dtype=torch.float64),
    )
    assert returns[1, 0].item() == pytest.approx(2.0 + GAMMA * 7.0)


def test_a_truncation_at_the_rollouts_end_bootstraps_from_the_bootstrap_value():
    returns = lambda_returns(
        one_env(2.0), one_env(GAMMA), one_env(0.0), one_env(5.0), torch.tensor([7.0]).double()
    )
    assert returns.item() == pytest.approx(2.0 + GAMMA * 7.0)


def test_shapes_that_do_not_fit_are_refused_by_name():
    good = torch.zeros(3, 2)
    with pytest.raises(ValueError, match="lambda_t"):
        lambda_returns(good, good, torch.zeros(2, 2), good, torch.zeros(2))
    with pytest.raises(ValueError, match="bootstrap_value"):
        lambda_returns(good, good, good, good, torch.zeros(3))
