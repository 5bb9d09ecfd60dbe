"""Returns against a reference that looks forward from every step, written from the definitions."""

import math

import pytest
import torch

from agents.a3c.returns import lambda_returns, transform_rewards, vtrace

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


def naive_vtrace(rewards, discounts, traces, values, ratios, clip_rho, clip_c):
    """V-trace as the paper writes it (eq. 1), for one environment: a sum from every step onwards.

    v_s = V(x_s) + sum_t gamma^(t-s) (prod_{i<t} c_i) rho_t (r_t + gamma V(x_{t+1}) - V(x_t)), with
    the powers of gamma as products of the discounts.
    """
    steps = len(rewards)
    returns = []
    for s in range(steps):
        total, weight = values[s], 1.0
        for t in range(s, steps):
            error = rewards[t] + discounts[t] * values[t + 1] - values[t]
            total += weight * min(clip_rho, ratios[t]) * error
            weight *= discounts[t] * traces[t] * min(clip_c, ratios[t])
        returns.append(total)
    following = [*returns[1:], values[steps]]
    advantages = [
        min(clip_rho, ratios[t])
        * (
            rewards[t]
            + discounts[t] * ((1 - traces[t]) * values[t + 1] + traces[t] * following[t])
            - values[t]
        )
        for t in range(steps)
    ]
    return returns, advantages


@pytest.mark.parametrize("clips", [(1.0, 1.0), (2.0, 0.5), (1e9, 1e9)])
@pytest.mark.parametrize("seed", range(4))
def test_vtrace_is_the_papers_sum(seed, clips):
    rewards, discounts, traces, values, _ = random_rollout(seed)
    generator = torch.Generator().manual_seed(100 + seed)
    ratios = torch.randn(rewards.shape, generator=generator, dtype=torch.float64).exp()
    found = vtrace(
        *(rewards, discounts, traces, values[:-1], values[-1], ratios.log()),
        clip_rho=clips[0],
        clip_c=clips[1],
    )
    for b in range(rewards.shape[1]):
        columns = [x[:, b].tolist() for x in (rewards, discounts, traces, values, ratios)]
        returns, advantages = naive_vtrace(*columns, *clips)
        assert found.returns[:, b].tolist() == pytest.approx(returns, abs=1e-12)
        assert found.advantages[:, b].tolist() == pytest.approx(advantages, abs=1e-12)


@pytest.mark.parametrize("seed", range(8))
def test_on_policy_vtrace_gives_the_workers_own_returns_and_advantages(seed):
    rewards, discounts, traces, values, _ = random_rollout(seed)
    arguments = (rewards, discounts, traces, values[:-1], values[-1])
    found = vtrace(*arguments, torch.zeros_like(rewards))
    expected = lambda_returns(*arguments)
    torch.testing.assert_close(found.returns, expected)
    torch.testing.assert_close(found.advantages, expected - values[:-1])


def test_vtrace_clips_ratios_at_one_and_lets_no_smaller_one_be():
    arguments = (one_env(2.0), one_env(0.5), one_env(LAMBDA), one_env(1.0))
    for ratio, weight in ((5.0, 1.0), (1e30, 1.0), (0.25, 0.25)):
        found = vtrace(*arguments, torch.tensor([4.0]).double(), one_env(ratio).log())
        assert found.advantages.item() == pytest.approx(weight * (2.0 + 0.5 * 4.0 - 1.0))
        assert found.returns.item() == pytest.approx(1.0 + weight * (2.0 + 0.5 * 4.0 - 1.0))


def test_no_vtrace_reaches_over_an_end():
    values = one_env(3.0, 5.0, 7.0, 1000.0)
    for discount, trace, expected in ((0.0, LAMBDA, 2.0), (GAMMA, 0.0, 2.0 + GAMMA * 7.0)):
        found = vtrace(
            one_env(1.0, 2.0, 1e6, 1e6),
            one_env(GAMMA, discount, GAMMA, GAMMA),
            one_env(LAMBDA, trace, LAMBDA, LAMBDA),
            values,
            torch.tensor([1e6]).double(),
            one_env(1.0, 1.0, 9.0, 9.0).log(),
        )
        assert found.returns[1, 0].item() == pytest.approx(expected)
        assert found.advantages[1, 0].item() == pytest.approx(expected - 5.0)


def test_vtrace_refuses_shapes_that_do_not_fit_by_name():
    good = torch.zeros(3, 2)
    with pytest.raises(ValueError, match="log_ratio_t"):
        vtrace(good, good, good, good, torch.zeros(2), torch.zeros(3))


def test_rewards_are_clipped_squashed_or_left_alone():
    raw = [-300.0, -0.5, 0.0, 0.25, 1.0, 40.0]
    expected = {
        "clip": [max(-1.0, min(1.0, r)) for r in raw],
        "symlog": [math.copysign(math.log(1 + abs(r)), r) for r in raw],
        "none": raw,
    }
    for how, rewards in expected.items():
        found = transform_rewards(torch.tensor(raw), how)
        torch.testing.assert_close(found, torch.tensor(rewards))
