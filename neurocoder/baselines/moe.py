"""A sparsely gated mixture of experts: every input is sent to the few layers that fit it best."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neurocoder._checks import check_input, check_positive


class MoELinear(nn.Module):
    """A mixture of linear layers, of which every input uses the best k (Shazeer et al. 2017).

        h(x) = x W_g + noise * softplus(x W_noise),    noise ~ N(0, 1) per input and expert,
        g(x) = softmax(h(x) where it is among the k largest, -inf elsewhere),
        y = sum over the chosen e of g_e(x) (x W_e + b_e).

    Experts that were not chosen are not computed. In evaluation mode there is no noise. Add
    `auxiliary_loss()` to the loss after each call, or a few experts take all the inputs.

    Args:
        in_features: size of each input.
        out_features: size of each output.
        experts: E, how many linear layers there are.
        chosen: k, how many of them an input uses.
        importance_weight: factor on the importance loss; the paper's is 0.1.
        load_weight: factor on the load loss; the paper's is 0.1.
        bias: whether the experts have biases.
        device: where the parameters live.
        dtype: their type.

    Attributes:
        experts: the W_e, shape (experts, in_features, out_features).
        bias: the b_e, shape (experts, out_features), or None.

    Raises:
        ValueError: if a size is not a positive integer, or more experts are chosen than exist.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        experts: int = 4,
        chosen: int = 2,
        importance_weight: float = 0.1,
        load_weight: float = 0.1,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_positive(
            in_features=in_features, out_features=out_features, experts=experts, chosen=chosen
        )
        if chosen > experts:
            raise ValueError(f"chosen must be at most experts ({experts}), got {chosen}")
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        self.in_features, self.out_features = in_features, out_features
        self.chosen = chosen
        self.importance_weight, self.load_weight = importance_weight, load_weight
        self.gate = nn.Parameter(torch.empty(in_features, experts, **factory))
        self.noise = nn.Parameter(torch.empty(in_features, experts, **factory))
        self.experts = nn.Parameter(torch.empty(experts, in_features, out_features, **factory))
        if bias:
            self.bias = nn.Parameter(torch.empty(experts, out_features, **factory))
        else:
            self.register_parameter("bias", None)
        self._balance: Tensor | None = None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new experts such that y starts at the scale of `torch.nn.Linear`'s output.

        W_g and W_noise start at zero, as the paper has it, so that all experts get their share of
        the inputs. k independent experts with gates of 1 / k give outputs sqrt(k) times smaller
        than one expert's.
        """
        nn.init.zeros_(self.gate)
        nn.init.zeros_(self.noise)
        bound = (self.chosen / self.in_features) ** 0.5
        nn.init.uniform_(self.experts, -bound, bound)
        if self.bias is not None:
            nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        """Return y, shape (..., out_features), for x of shape (..., in_features)."""
        check_input(x, self.in_features)
        flat = x.reshape(-1, self.in_features)
        gates = self._gates(flat)
        y = flat.new_zeros(len(flat), self.out_features)
        for e, weight in enumerate(self.experts):
            rows = gates[:, e].nonzero().squeeze(1)
            result = flat[rows] @ weight
            if self.bias is not None:
                result = result + self.bias[e]
            y = y.index_add(0, rows, gates[rows, e].unsqueeze(1) * result)
        return y.reshape(*x.shape[:-1], self.out_features)

    def gates(self, x: Tensor) -> Tensor:
        """Return g without noise, shape (..., experts), zero where an expert is not chosen."""
        check_input(x, self.in_features)
        return self._softmax_of_chosen(x @ self.gate)

    def auxiliary_loss(self) -> Tensor:
        """Return the balancing loss of the last call in training mode, zero before the first.

        It is importance_weight * CV^2(importance) + load_weight * CV^2(load), where CV is the
        standard deviation over the experts divided by their mean, an expert's importance is the sum
        of its gates over the inputs, and its load is how many inputs would be expected to choose it
        if its noise were drawn again and the other experts' kept. Where all experts are chosen the
        load is even and counts for nothing.
        """
        return self.gate.new_zeros(()) if self._balance is None else self._balance

    def extra_repr(self) -> str:
        """Describe the layer's sizes."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"experts={len(self.experts)}, chosen={self.chosen}, bias={self.bias is not None}"
        )

    def __getstate__(self) -> dict[str, Any]:
        # It belongs to a graph, which is neither copied nor saved.
        return {**self.__dict__, "_balance": None}

    def _gates(self, x: Tensor) -> Tensor:
        """Gates of x, shape (B, in_features), noisy in training mode; keeps their balance."""
        clean = x @ self.gate
        if not self.training:
            return self._softmax_of_chosen(clean)
        spread = F.softplus(x @ self.noise)
        noisy = clean + spread * torch.randn_like(clean)
        gates = self._softmax_of_chosen(noisy)
        balance = self.importance_weight * _squared_variation(gates.sum(dim=0))
        if self.chosen < len(self.experts):
            load = self._chance_of_choice(clean, noisy, spread).sum(dim=0)
            balance = balance + self.load_weight * _squared_variation(load)
        self._balance = balance
        return gates

    def _softmax_of_chosen(self, h: Tensor) -> Tensor:
        values, places = h.topk(self.chosen, dim=-1)
        return torch.zeros_like(h).scatter(-1, places, torch.softmax(values, dim=-1))

    def _chance_of_choice(self, clean: Tensor, noisy: Tensor, spread: Tensor) -> Tensor:
        """P(x, e), shape (B, E): that expert e is chosen, over new draws of its own noise alone.

        It must beat the k-th largest of the others: the k-th largest of all, unless e is among the
        first k itself, and the next one then.
        """
        largest = noisy.topk(self.chosen + 1, dim=-1).values
        last_in, first_out = largest[:, -2:-1], largest[:, -1:]
        rival = torch.where(noisy > first_out, first_out, last_in)
        return torch.special.ndtr((clean - rival) / spread)


def _squared_variation(values: Tensor) -> Tensor:
    """Variance over squared mean of the values, a scalar; zero where there is nothing to vary."""
    mean = values.mean()
    if len(values) == 1 or mean == 0:
        return values.sum() * 0
    return values.var(correction=0) / mean.square()
