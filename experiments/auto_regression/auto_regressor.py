"""A GRU that predicts the next point of a sequence, with various output layers."""

from bisect import bisect_right

import torch
from torch import Tensor, nn

from experiments.common.layers import make_layer, parameter_count
from neurocoder import FiLMLinear, HyperLinear, NeurocoderLinear

VARIANTS = (
    "linear",
    "linear-wide",
    "mlp",
    "hypernet",
    "film",
    "neurocoder-single-step",
    "neurocoder",
    "neurocoder-no-usage",
)
# Slots and steps of the paper's Fig. 2 d and e; the rest is the library's reference size.
SLOTS = {"neurocoder-single-step": 10, "neurocoder": 20, "neurocoder-no-usage": 20}


class AutoRegressor(nn.Module):
    """A GRU and an output layer.

    Args:
        hidden_size: H, the size of the GRU.
        output_layer: maps (..., H) to (..., 1).
    """

    def __init__(self, hidden_size: int, output_layer: nn.Module) -> None:
        super().__init__()
        self.gru = nn.GRU(1, hidden_size, batch_first=True)
        self.output_layer = output_layer

    def states(self, y: Tensor) -> Tensor:
        """The GRU's states after every point of y (N, T), shape (N, T, H)."""
        return self.gru(y.unsqueeze(-1))[0]

    def forward(self, y: Tensor) -> Tensor:
        """Predict the point after each point of y; both have shape (N, T)."""
        return self.output_layer(self.states(y)).squeeze(-1)

    def attention(self, y: Tensor) -> Tensor | None:
        """A Neurocoder's attention to M_U at every point of y (N, T), shape (N, T, r, P).

        Component 0 is the one with the greatest singular value. None for other output layers.
        """
        if not isinstance(self.output_layer, NeurocoderLinear):
            return None
        return self.output_layer.compose(self.states(y)).u_attention

    def condition(self, y: Tensor) -> Tensor | None:
        """The counterpart of attention in other layers at every point of y (N, T): (N, T, D).

        The hidden units of the MLP, HyperNet's embedding z, FiLM's gamma and beta. None for linear
        layers and Neurocoders.
        """
        layer, states = self.output_layer, self.states(y)
        if isinstance(layer, HyperLinear):
            return layer.embedding_network(states)
        if isinstance(layer, FiLMLinear):
            return torch.cat(layer.modulation(states), dim=-1)
        return layer[:-1](states) if isinstance(layer, nn.Sequential) else None


def make_model(variant: str, hidden_size: int) -> AutoRegressor:
    """A fresh model of one of VARIANTS.

    `linear-wide` (a wider GRU) and `mlp` (a hidden layer before the output) have as many parameters
    as the Neurocoder, or a few fewer.

    Args:
        variant: name of the variant.
        hidden_size: units of the GRU, except the wide one, and of a Neurocoder's controller.
    """
    if variant in SLOTS:
        slots = SLOTS[variant]
        layer = make_layer(variant, hidden_size, 1, slots=slots, hidden_size=hidden_size)
    elif variant in ("linear-wide", "mlp"):
        return _largest(
            variant, hidden_size, parameter_count(make_model("neurocoder", hidden_size))
        )
    else:
        layer = make_layer(variant, hidden_size, 1)
    return AutoRegressor(hidden_size, layer)


def _largest(variant: str, hidden_size: int, parameters: int) -> AutoRegressor:
    """The widest model of a variant that has at most this number of parameters."""

    def build(width: int) -> AutoRegressor:
        if variant == "linear-wide":
            return AutoRegressor(width, nn.Linear(width, 1))
        layers = nn.Linear(hidden_size, width), nn.ReLU(), nn.Linear(width, 1)
        return AutoRegressor(hidden_size, nn.Sequential(*layers))

    def size(width: int) -> int:
        return parameter_count(build(width))

    with torch.device("meta"):
        # A model of as many units as `parameters` has more of them, whatever its kind.
        width = bisect_right(range(parameters), parameters, lo=1, key=size) - 1
    return build(width)
