"""Returns of a rollout, as pure functions of tensors.

Shapes: T steps, B environments; or (T, W, B), of W workers.
"""

from typing import NamedTuple

import torch
from torch import Tensor


def lambda_returns(
    r_t: Tensor, discount_t: Tensor, lambda_t: Tensor, v_tm1: Tensor, bootstrap_value: Tensor
) -> Tensor:
    """Mixtures of n-step returns with exact episode ends.

    With v_t the value of the observation that step t led to,

        G_t = r_t + discount_t * ((1 - lambda_t) * v_t + lambda_t * G_{t+1}),   G_T = v_T.

    `G - v_tm1` is generalised advantage estimation (Schulman et al. 2016, eq. 16); with lambda 1 it
    is the n-step advantage of A3C (Mnih et al. 2016, Algorithm S3).

    Two numbers say how a step ended: discount_t = 0 where nothing follows (termination, or a lost
    life in training); lambda_t = 0 where the trace must be cut although the state still has a value
    (truncation: the return bootstraps from the last observation's value).

    Args:
        r_t: Rewards, shape (T, B).
        discount_t: Shape (T, B).
        lambda_t: Shape (T, B).
        v_tm1: Values of the observations acted on, shape (T, B).
        bootstrap_value: Value v_T of the observation after the last step, shape (B,).

    Returns:
        G, shape (T, B).

    Raises:
        ValueError: If the shapes do not match.
    """
    _check_shapes(r_t, bootstrap_value, discount_t=discount_t, lambda_t=lambda_t, v_tm1=v_tm1)
    v_t = torch.cat([v_tm1[1:], bootstrap_value.unsqueeze(0)])
    returns = torch.empty_like(v_t)
    following = bootstrap_value
    for t in range(len(r_t) - 1, -1, -1):
        mixed = torch.lerp(v_t[t], following, lambda_t[t])
        following = r_t[t] + discount_t[t] * mixed
        returns[t] = following
    return returns


def transform_rewards(r_t: Tensor, how: str) -> Tensor:
    """The rewards that are learned from.

    Args:
        r_t: Raw rewards, shape (T, B).
        how: "clip" for [-1, 1] (Mnih et al. 2015), "symlog" for sign(r) ln(1 + |r|) (Hafner et al.
            2023), or "none".
    """
    if how == "symlog":
        return r_t.sign() * r_t.abs().log1p()
    return r_t.clamp(-1, 1) if how == "clip" else r_t


class VTrace(NamedTuple):
    """The targets of values and policy.

    Attributes:
        returns: Targets of the values, shape (T, B).
        advantages: Advantages of the actions taken, with importance weights, shape (T, B).
    """

    returns: Tensor
    advantages: Tensor


def vtrace(
    r_t: Tensor,
    discount_t: Tensor,
    lambda_t: Tensor,
    v_tm1: Tensor,
    bootstrap_value: Tensor,
    log_ratio_t: Tensor,
    *,
    clip_rho: float = 1.0,
    clip_c: float = 1.0,
) -> VTrace:
    """V-trace with lambda: returns for a policy other than the one that acted.

    Espeholt et al. 2018 (IMPALA), eq. 1 and remark 1 and 2. With pi the policy that learns, mu the
    one that acted, and v_t, G_T and the ends of episodes as in `lambda_returns`,

        rho_t = min(clip_rho, pi(a_t) / mu(a_t)),   c_t = lambda_t min(clip_c, pi(a_t) / mu(a_t))
        delta_t = rho_t (r_t + discount_t v_t - v_tm1)
        G_t - v_tm1 = delta_t + discount_t c_t (G_{t+1} - v_t),   G_T = v_T

    and the advantage, with the same mixed bootstrap as the return, is

        A_t = rho_t (r_t + discount_t ((1 - lambda_t) v_t + lambda_t G_{t+1}) - v_tm1).

    Where pi = mu, G is `lambda_returns` and A is G - v_tm1. With lambda 1 both are the paper's.

    Args:
        r_t: Rewards, shape (T, B).
        discount_t: Shape (T, B).
        lambda_t: Shape (T, B).
        v_tm1: Values of the observations acted on, shape (T, B).
        bootstrap_value: Value v_T of the observation after the last step, shape (B,).
        log_ratio_t: log pi(a_t) - log mu(a_t), shape (T, B).
        clip_rho: Bound of rho; it determines which policy's values are learned.
        clip_c: Bound of c; it determines how fast.

    Raises:
        ValueError: If the shapes do not match.
    """
    _check_shapes(
        r_t,
        bootstrap_value,
        discount_t=discount_t,
        lambda_t=lambda_t,
        v_tm1=v_tm1,
        log_ratio_t=log_ratio_t,
    )
    ratio_t = log_ratio_t.exp()
    rho_t, c_t = ratio_t.clamp_max(clip_rho), lambda_t * ratio_t.clamp_max(clip_c)
    v_t = torch.cat([v_tm1[1:], bootstrap_value.unsqueeze(0)])
    delta_t = rho_t * (r_t + discount_t * v_t - v_tm1)
    decay_t = discount_t * c_t
    corrections = torch.empty_like(v_t)
    following = torch.zeros_like(bootstrap_value)
    for t in range(len(r_t) - 1, -1, -1):
        following = delta_t[t] + decay_t[t] * following
        corrections[t] = following
    returns = v_tm1 + corrections
    following_returns = torch.cat([returns[1:], bootstrap_value.unsqueeze(0)])
    mixed = torch.lerp(v_t, following_returns, lambda_t)
    return VTrace(returns, rho_t * (r_t + discount_t * mixed - v_tm1))


def _check_shapes(r_t: Tensor, bootstrap_value: Tensor, **others: Tensor) -> None:
    """Raise ValueError unless all but the bootstrap value have the shape of the rewards."""
    for name, tensor in others.items():
        if tensor.shape != r_t.shape:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}, r_t {tuple(r_t.shape)}")
    if r_t.dim() < 2 or bootstrap_value.shape != r_t.shape[1:]:
        raise ValueError(
            f"expected r_t (T, B) and bootstrap_value (B,), got {tuple(r_t.shape)} and "
            f"{tuple(bootstrap_value.shape)}"
        )
