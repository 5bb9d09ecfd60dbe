"""Neural stored-program memory: attention over whole weight matrices."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neurocoder._checks import check_input, positive_integers
from neurocoder._precision import WideLinear, in_full_precision, like_output, widen


class NSMLinear(nn.Module):
    """A linear layer whose weights are a mixture of stored ones (Le, Tran and Venkatesh 2020).

    A memory holds N programs, each a weight matrix V(n) with a bias and a key k(n). The input gives
    a query q and a strength beta > 0, and

        a = softmax(beta * cos(q, k)),    W = sum over n of a(n) V(n),    y = x W + b.

    The paper queries with the state of a recurrent controller; here, as in all baselines, q and
    beta are linear in the layer's own input. The bias is stored and mixed like the weights. The
    forward pass never builds W: x is multiplied by the stored matrices first, and the results are
    then weighted by the attention. That takes as many multiplications, but per program and input it
    stores `out_features` numbers instead of `in_features * out_features`. Attention, which can be
    sharp, is computed in float32 or wider even under autocast or with 16-bit parameters.

    Args:
        in_features: Size of each input.
        out_features: Size of each output.
        programs: N, the number of programs. The Neurocoder's authors use five, with keys of size
            five, as the baseline in their code.
        key_size: Size of query and keys.
        bias: Whether the programs have biases.
        device: Device of the parameters.
        dtype: Data type of the parameters.

    Attributes:
        keys: k, shape (programs, key_size).
        programs: V, shape (programs, in_features, out_features).
        bias: shape (programs, out_features), or None.

    Raises:
        ValueError: if a size is not a positive integer.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        programs: int = 5,
        key_size: int = 5,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        in_features, out_features, programs, key_size = positive_integers(
            in_features=in_features,
            out_features=out_features,
            programs=programs,
            key_size=key_size,
        )
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        self.in_features, self.out_features = in_features, out_features
        self.query_network = WideLinear(in_features, key_size, **factory)
        self.strength_network = WideLinear(in_features, 1, **factory)
        self.keys = nn.Parameter(torch.empty(programs, key_size, **factory))
        self.programs = nn.Parameter(torch.empty(programs, in_features, out_features, **factory))
        if bias:
            self.bias = nn.Parameter(torch.empty(programs, out_features, **factory))
        else:
            self.register_parameter("bias", None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new parameters for which the mixture starts at the scale of `torch.nn.Linear`.

        Attention starts nearly uniform, and the mean of N independent matrices is sqrt(N) times
        smaller than one of them.
        """
        self.query_network.reset_parameters()
        self.strength_network.reset_parameters()
        nn.init.normal_(self.keys)
        bound = (len(self.programs) / self.in_features) ** 0.5
        nn.init.uniform_(self.programs, -bound, bound)
        if self.bias is not None:
            nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        """Return y, shape (..., out_features), for x of shape (..., in_features)."""
        attention = self.attention(x)
        rows = self.programs.transpose(0, 1)  # (in, N, out): all programs in one product
        results = (x @ rows.flatten(1)).unflatten(-1, rows.shape[1:])
        if self.bias is not None:
            results = results + self.bias
        y = (attention.unsqueeze(-2) @ widen(results)).squeeze(-2)
        return like_output(y, x)

    @in_full_precision
    def attention(self, x: Tensor) -> Tensor:
        """Return a, shape (..., programs), in float32 or wider, for x (..., in_features)."""
        check_input(x, self.in_features)
        strength = F.softplus(self.strength_network(x))
        query = F.normalize(self.query_network(x), dim=-1)
        return torch.softmax(strength * (query @ F.normalize(widen(self.keys), dim=-1).T), dim=-1)

    def working_program(self, x: Tensor) -> Tensor:
        """Return W, shape (..., in_features, out_features), for inspection and tests."""
        working = torch.einsum("...n,nio->...io", self.attention(x), widen(self.programs))
        return like_output(working, x)

    def auxiliary_loss(self) -> Tensor:
        """Return the mean cosine similarity of all pairs of keys, from -1 to 1.

        Similar keys are always attended to together, and their programs collapse into one. The
        paper sums over the pairs; we take the mean, as its authors' code does, so that the
        coefficient does not depend on the number of programs.
        """
        programs = len(self.keys)
        if programs == 1:
            return self.keys.new_zeros(())
        keys = F.normalize(self.keys, dim=-1)
        first, second = torch.triu_indices(programs, programs, offset=1, device=keys.device)
        return (keys[first] * keys[second]).sum(dim=-1).mean()

    def extra_repr(self) -> str:
        """Describe the layer's sizes."""
        programs, key_size = self.keys.shape
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"programs={programs}, key_size={key_size}, bias={self.bias is not None}"
        )
