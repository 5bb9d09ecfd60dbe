"""Returns of a rollout, as a pure function of tensors."""

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

    How a step ended is said by two numbers: discount_t = 0 where nothing follows (termination, or a
    lost life in training); lambda_t = 0 where the trace must be cut though the state goes on being
    worth something (truncation: the return bootstraps from the last observation's value).

    Args:
        r_t: rewards, shape (T, B).
        discount_t: shape (T, B).
        lambda_t: shape (T, B).
        v_tm1: values of the observations acted on, shape (T, B).
        bootstrap_value: value v_T of the observation after the last step, shape (B,).

    Returns:
        G, shape (T, B).

    Raises:
        ValueError: if the shapes do not fit together.
    """
    for name, tensor in (("discount_t", discount_t), ("lambda_t", lambda_t), ("v_tm1", v_tm1)):
        if tensor.shape != r_t.shape:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}, r_t {tuple(r_t.shape)}")
    if r_t.dim() != 2 or bootstrap_value.shape != r_t.shape[1:]:
        raise ValueError(
            f"expected r_t (T, B) and bootstrap_value (B,), got {tuple(r_t.shape)} and "
            f"{tuple(bootstrap_value.shape)}"
        )
    v_t = torch.cat([v_tm1[1:], bootstrap_value.unsqueeze(0)])
    returns = torch.empty_like(v_t)
    following = bootstrap_value
    for t in range(len(r_t) - 1, -1, -1):
        mixed = torch.lerp(v_t[t], following, lambda_t[t])
        following = r_t[t] + discount_t[t] * mixed
        returns[t] = following
    return returns
