"""A sparsely gated mixture of experts: every input is routed to its top-k experts."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import _C, Tensor, nn

from neurocoder._checks import check_input, is_eager, positive_integers
from neurocoder._precision import in_full_precision, like_output, widen

_MIN_SPREAD = 1e-2


class MoELinear(nn.Module):
    """A mixture of linear experts with noisy top-k gating (Shazeer et al. 2017).

        h(x) = x W_g + noise * spread(x),    noise ~ N(0, 1) per input and expert,
        spread(x) = softplus(x W_noise) + 0.01,
        g(x) = softmax(h(x) where it is among the k largest, -inf elsewhere),
        y = sum over the chosen e of g_e(x) (x W_e + b_e).

    The 0.01 is from the authors' code (tensor2tensor), not the paper: the balancing loss divides by
    the spread, and its gradient is NaN where softplus has vanished.

    Experts that are not chosen are not computed, except by `torch.compile`, `torch.export`, tracing
    and `torch.func`. h is computed in float32 or wider even under autocast or with 16-bit
    parameters, since rounding would select other experts. In evaluation mode there is no noise. Add
    `auxiliary_loss()` to the loss after each call, or the gate collapses to a few experts.

    Args:
        in_features: Size of each input.
        out_features: Size of each output.
        experts: E, the number of linear layers.
        chosen: k, the number of experts per input.
        importance_weight: Coefficient of the importance loss; 0.1 in the paper.
        load_weight: Coefficient of the load loss; 0.1 in the paper.
        bias: Whether the experts have biases.
        device: Device of the parameters.
        dtype: Data type of the parameters.

    Attributes:
        experts: Weights W_e, shape (experts, in_features, out_features).
        bias: Biases b_e, shape (experts, out_features), or None.

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
        in_features, out_features, experts, chosen = positive_integers(
            in_features=in_features, out_features=out_features, experts=experts, chosen=chosen
        )
        if chosen > experts:
            raise ValueError(f"chosen must be at most experts ({experts}), got {chosen}")
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        self.in_features, self.out_features = in_features, out_features
        self.expert_count, self.chosen = experts, chosen
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
        """Draw new experts for which y starts at the scale of `torch.nn.Linear`'s output.

        W_g and W_noise start at zero, as in the paper, so that the load starts balanced. The output
        of k independent experts with gates of 1 / k is sqrt(k) times smaller than that of one
        expert.
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
        y = self._run_chosen(flat, gates) if is_eager(flat) else self._run_all(flat, gates)
        return like_output(y, x).reshape(*x.shape[:-1], self.out_features)

    def gates(self, x: Tensor) -> Tensor:
        """Return g without noise, shape (..., experts), zero where an expert is not chosen."""
        check_input(x, self.in_features)
        return self._softmax_of_chosen(self._project(x, self.gate))

    def auxiliary_loss(self) -> Tensor:
        """Return the balancing loss of the last call in training mode, zero before the first.

        It is importance_weight * CV^2(importance) + load_weight * CV^2(load). CV is the standard
        deviation over the experts divided by their mean, an expert's importance is the sum of its
        gates over the inputs, and its load is the expected number of inputs that choose it if its
        own noise is redrawn and that of the other experts is kept. If all experts are chosen, the
        load is balanced and its loss is zero.

        Raises:
            RuntimeError: if the last call was inside a transformation of `torch.func` that has
                ended: the loss then depends on values that only exist inside it.
        """
        if self._balance is None:
            return self.gate.new_zeros(())
        if _C._functorch.is_dead_tensor_wrapper(self._balance):  # type: ignore[attr-defined]
            raise RuntimeError("the last call was inside torch.func: ask for its loss in there too")
        return self._balance

    def extra_repr(self) -> str:
        """Describe the layer's sizes."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"experts={self.expert_count}, chosen={self.chosen}, bias={self.bias is not None}"
        )

    def __getstate__(self) -> dict[str, Any]:
        # The loss belongs to an autograd graph, which can be neither copied nor saved.
        return {**self.__dict__, "_balance": None}

    def _run_chosen(self, x: Tensor, gates: Tensor) -> Tensor:
        """Return y, shape (B, out), with each expert computed for the inputs that chose it."""
        y = gates.new_zeros(len(x), self.out_features)
        for e, weight in enumerate(self.experts):
            rows = gates[:, e].nonzero().squeeze(1)
            result = x[rows] @ weight
            if self.bias is not None:
                result = result + self.bias[e]
            y = y.index_add(0, rows, gates[rows, e].unsqueeze(1) * result)
        return y

    def _run_all(self, x: Tensor, gates: Tensor) -> Tensor:
        """Equal to `_run_chosen`, with every expert computed for every input.

        The shapes do not depend on the gates, as graphs and `torch.func` require.
        """
        results = torch.einsum("bi,eio->beo", x, self.experts)
        if self.bias is not None:
            results = results + self.bias
        return (gates.unsqueeze(-1) * results).sum(dim=1)

    @in_full_precision
    def _project(self, x: Tensor, weight: Tensor) -> Tensor:
        return x @ widen(weight)

    def _gates(self, x: Tensor) -> Tensor:
        """Gates of x, shape (B, in_features), noisy in training mode; keeps the auxiliary loss."""
        clean = self._project(x, self.gate)
        if not self.training:
            return self._softmax_of_chosen(clean)
        spread = F.softplus(self._project(x, self.noise)) + _MIN_SPREAD
        noisy = clean + spread * torch.randn_like(clean)
        gates = self._softmax_of_chosen(noisy)
        balance = self.importance_weight * _squared_variation(gates.sum(dim=0))
        if self.chosen < self.expert_count:
            load = self._chance_of_choice(clean, noisy, spread).sum(dim=0)
            balance = balance + self.load_weight * _squared_variation(load)
        self._balance = balance
        return gates

    def _softmax_of_chosen(self, h: Tensor) -> Tensor:
        values, places = h.topk(self.chosen, dim=-1)
        return torch.zeros_like(h).scatter(-1, places, torch.softmax(values, dim=-1))

    def _chance_of_choice(self, clean: Tensor, noisy: Tensor, spread: Tensor) -> Tensor:
        """P(x, e), shape (B, E): the probability that e is chosen if only e's noise is redrawn.

        e is chosen if it exceeds the k-th largest of the other experts: the k-th largest of all,
        or the (k + 1)-th if e itself is among the top k.
        """
        largest = noisy.topk(self.chosen + 1, dim=-1).values
        last_in, first_out = largest[:, -2:-1], largest[:, -1:]
        rival = torch.where(noisy > first_out, first_out, last_in)
        return torch.special.ndtr((clean - rival) / spread)


def _squared_variation(values: Tensor) -> Tensor:
    """Variance over squared mean of values of one sign, a scalar; zero if all of them are zero."""
    square = values.mean().square()
    return values.var(correction=0) / torch.where(square > 0, square, 1.0)
