"""Feature-wise linear modulation: the input scales and shifts a shared layer's outputs."""

from typing import Any

import torch
from torch import Tensor, nn

from neurocoder._checks import check_input, check_positive


class FiLMLinear(nn.Module):
    """A shared linear layer whose outputs the input modulates (Perez et al. 2018).

    y = gamma(x) * (x W + b) + beta(x), output by output. In that paper the condition comes from
    elsewhere, a question about the picture; here, as for all layers that are compared, it is the
    layer's own input. gamma and beta come from one network with a tanh layer, which gives gamma - 1
    rather than gamma, as the paper's does: features then start modulated around 1 and not around 0.

    Args:
        in_features: size of each input.
        out_features: size of each output.
        hidden_size: width of the modulating network's tanh layer.
        bias: whether b is there; beta(x) is there in any case.
        device: where the parameters live.
        dtype: their type.

    Raises:
        ValueError: if a size is not a positive integer.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        hidden_size: int = 64,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_positive(in_features=in_features, out_features=out_features, hidden_size=hidden_size)
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        self.in_features, self.out_features = in_features, out_features
        self.shared = nn.Linear(in_features, out_features, bias=bias, **factory)
        self.modulation_network = nn.Sequential(
            nn.Linear(in_features, hidden_size, **factory),
            nn.Tanh(),
            nn.Linear(hidden_size, 2 * out_features, **factory),
        )

    def reset_parameters(self) -> None:
        """Draw new parameters, all as `torch.nn.Linear` does."""
        for layer in (self.shared, *self.modulation_network):
            if isinstance(layer, nn.Linear):
                layer.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        """Return y, shape (..., out_features), for x of shape (..., in_features)."""
        gamma, beta = self.modulation(x)
        return torch.addcmul(beta, gamma, self.shared(x))

    def modulation(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return gamma and beta, shape (..., out_features) each, for x (..., in_features)."""
        check_input(x, self.in_features)
        gamma, beta = self.modulation_network(x).chunk(2, dim=-1)
        return 1 + gamma, beta

    def extra_repr(self) -> str:
        """Describe the layer's sizes."""
        return f"in_features={self.in_features}, out_features={self.out_features}"
