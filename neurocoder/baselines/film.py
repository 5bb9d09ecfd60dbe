"""Feature-wise linear modulation: the input scales and shifts a shared layer's outputs."""

from typing import Any

import torch
from torch import Tensor, nn

from neurocoder._checks import check_input, positive_integers


class FiLMLinear(nn.Module):
    """A shared linear layer whose outputs are modulated by the input (Perez et al. 2018).

    y = gamma(x) * (x W + b) + beta(x), elementwise. In the paper the condition is a second input, a
    question about the image; here, as in all baselines, it is the layer's own input. gamma and beta
    come from one network with a tanh layer. As in the paper, it predicts gamma - 1, so that gamma
    starts near 1 and not near 0.

    Args:
        in_features: Size of each input.
        out_features: Size of each output.
        hidden_size: Width of the modulating network's tanh layer.
        bias: Whether to add b; beta(x) is always added.
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
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        in_features, out_features, hidden_size = positive_integers(
            in_features=in_features, out_features=out_features, hidden_size=hidden_size
        )
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        self.in_features, self.out_features = in_features, out_features
        self.shared = nn.Linear(in_features, out_features, bias=bias, **factory)
        self.modulation_network = nn.Sequential(
            nn.Linear(in_features, hidden_size, **factory),
            nn.Tanh(),
            nn.Linear(hidden_size, 2 * out_features, **factory),
        )

    def reset_parameters(self) -> None:
        """Draw new parameters with the initialisation of `torch.nn.Linear`."""
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
