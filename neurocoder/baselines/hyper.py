"""A hypernetwork: a small network generates the weights."""

from typing import Any

import torch
from torch import Tensor, nn

from neurocoder._checks import check_input, positive_integers
from neurocoder._precision import like_output


class HyperLinear(nn.Module):
    """A linear layer whose weights are generated from the input (Ha et al. 2017).

    z = f(x) with one tanh layer, W = reshape(G z), y = x W + b. The forward pass never builds W: x
    is multiplied by the slices of G first, and the results are then weighted by z.

    Args:
        in_features: Size of each input.
        out_features: Size of each output.
        hidden_size: Width of f's tanh layer.
        embedding_size: E, the size of z.
        bias: Whether to add b.
        device: Device of the parameters.
        dtype: Data type of the parameters.

    Raises:
        ValueError: if a size is not a positive integer.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        hidden_size: int = 64,
        embedding_size: int = 8,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        in_features, out_features, hidden_size, embedding_size = positive_integers(
            in_features=in_features,
            out_features=out_features,
            hidden_size=hidden_size,
            embedding_size=embedding_size,
        )
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        self.in_features, self.out_features = in_features, out_features
        self.embedding_size = embedding_size
        self.embedding_network = nn.Sequential(
            nn.Linear(in_features, hidden_size, **factory),
            nn.Tanh(),
            nn.Linear(hidden_size, embedding_size, **factory),
        )
        self.generator = nn.Parameter(
            torch.empty(in_features, embedding_size, out_features, **factory)
        )
        if bias:
            self.bias = nn.Parameter(torch.empty(out_features, **factory))
        else:
            self.register_parameter("bias", None)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw new parameters for which W starts at the scale of `torch.nn.Linear`'s weights."""
        first, _, last = self.embedding_network
        assert isinstance(first, nn.Linear)
        assert isinstance(last, nn.Linear)
        first.reset_parameters()
        last.reset_parameters()
        # z starts near a fixed vector of signs, whose norm does not depend on the input.
        last.bias.copy_(torch.randint_like(last.bias, 2) * 2 - 1)
        bound = self.in_features**-0.5
        nn.init.uniform_(self.generator, -bound, bound).mul_(self.embedding_size**-0.5)
        if self.bias is not None:
            nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        """Return y, shape (..., out_features), for x of shape (..., in_features)."""
        check_input(x, self.in_features)
        z = self.embedding_network(x)
        slices = (x @ self.generator.flatten(1)).unflatten(-1, self.generator.shape[1:])
        y = (z.unsqueeze(-2) @ slices).squeeze(-2)
        y = y if self.bias is None else y + self.bias
        return like_output(y, x)

    def working_program(self, x: Tensor) -> Tensor:
        """Return W, shape (..., in_features, out_features), for inspection and tests."""
        check_input(x, self.in_features)
        return torch.einsum("...e,ieo->...io", self.embedding_network(x), self.generator)

    def extra_repr(self) -> str:
        """Describe the layer's sizes."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"embedding_size={self.embedding_size}, bias={self.bias is not None}"
        )
