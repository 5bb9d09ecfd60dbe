"""All five layers, for tests of what each of them must do as `nn.Linear` does."""

import pytest
import torch
from torch import nn

from neurocoder import FiLMLinear, HyperLinear, MoELinear, NeurocoderLinear, NSMLinear

LAYERS = (NeurocoderLinear, HyperLinear, MoELinear, NSMLinear, FiLMLinear)

each_layer = pytest.mark.parametrize("kind", LAYERS)


def make(kind, *sizes, **arguments):
    """A layer that chooses as a trained one does: fresh ones of MoE and NSM mix all they have."""
    layer = kind(*sizes, **arguments)
    with torch.no_grad():
        if isinstance(layer, MoELinear):
            for gate in (layer.gate, layer.noise):
                nn.init.normal_(gate, std=layer.in_features**-0.5)
        if isinstance(layer, NSMLinear):
            layer.strength_network.bias.fill_(20.0)
    return layer
