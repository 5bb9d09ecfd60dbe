"""The heads, in which agents differ: from the settings to the layer of actor and critic.

A head is made from in_features and out_features, and called like `nn.Linear`. Its output depends on
its input and its parameters alone: workers share parameters and checkpoints store them, but not
buffers.

To add one, give it a name among the choices of `TrainConfig.head`, its own settings if it needs
any, and a function here. Everything else finds it by that name.
"""

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import functional_call

from agents.config import TrainConfig
from neurocoder import HyperLinear, NeurocoderLinear

Head = Callable[[int, int], nn.Module]


def head_factory(config: TrainConfig) -> Head:
    """Return the constructor of the head that the settings name: (in_features, out_features)."""
    return HEADS[config.head](config)


def forward_groups(head: nn.Module, x: Tensor, parameters: Mapping[str, Tensor]) -> Tensor:
    """Call a head for G groups of inputs with separate gradients.

    Args:
        head: The head.
        x: Shape (G, ..., in_features).
        parameters: From `repeat_parameters`; their rows get the gradients of the groups.

    Returns:
        y, shape (G, ..., out_features).
    """
    if isinstance(head, NeurocoderLinear):
        return head.forward_groups(x, parameters)
    # One group after the other: few operations, which gain nothing from larger batches.
    values = zip(*(parameter.unbind() for parameter in parameters.values()), strict=True)
    each = (dict(zip(parameters, group, strict=True)) for group in values)
    return torch.stack(
        [functional_call(head, own, (rows,)) for own, rows in zip(each, x.unbind(), strict=True)]
    )


def _linear(config: TrainConfig) -> Head:
    if config.linear_hidden_size:
        return partial(_two_layers, config.linear_hidden_size)
    return nn.Linear


def _two_layers(hidden_size: int, in_features: int, out_features: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(in_features, hidden_size), nn.ReLU(), nn.Linear(hidden_size, out_features)
    )


def _hypernet(config: TrainConfig) -> Head:
    return partial(
        HyperLinear,
        hidden_size=config.hypernet_hidden_size,
        embedding_size=config.hypernet_embedding_size,
    )


def _neurocoder(config: TrainConfig) -> Head:
    if config.neurocoder_readings == "authors-single-step":
        return partial(
            NeurocoderLinear.authors_single_step,
            slots=config.neurocoder_slots,
            key_size=config.neurocoder_key_size,
            heads=config.neurocoder_steps * config.neurocoder_heads,
        )
    if config.neurocoder_readings == "authors-multi-step":
        return partial(
            NeurocoderLinear.authors_multi_step,
            slots=config.neurocoder_slots,
            key_size=config.neurocoder_key_size,
            heads=config.neurocoder_heads,
            steps=config.neurocoder_steps,
            least_used=config.neurocoder_least_used,
        )
    return partial(
        NeurocoderLinear,
        slots=config.neurocoder_slots,
        key_size=config.neurocoder_key_size,
        heads=config.neurocoder_heads,
        steps=config.neurocoder_steps,
        least_used=config.neurocoder_least_used,
        hidden_size=config.neurocoder_hidden_size,
        sharpness=config.neurocoder_sharpness,
        usage_attention=config.neurocoder_usage_attention,
        residual=config.neurocoder_residual,
    )


HEADS: dict[str, Callable[[TrainConfig], Head]] = {
    "linear": _linear,
    "hypernet": _hypernet,
    "neurocoder": _neurocoder,
}
