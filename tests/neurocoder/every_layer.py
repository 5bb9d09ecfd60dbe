"""All five layers, for tests of what each of them must do as `nn.Linear` does."""

import pytest
import torch
from torch import nn

from neurocoder import FiLMLinear, HyperLinear, MoELinear, NeurocoderLinear, NSMLinear

LAYERS = (NeurocoderLinear, HyperLinear, MoELinear, NSMLinear, FiLMLinear)

each_layer = pytest.mark.parametrize("kind", LAYERS)


def make(kind, *sizes, **arguments):
    """A layer whose parameters are not special; MoE starts with gates that are all alike."""
    layer = kind(*sizes, **arguments)
    if isinstance(layer, MoELinear):
        with torch.no_grad():
            for gate in (layer.gate, layer.noise):
                nn.init.normal_(gate, std=layer.in_features**-0.5)
    return layer
