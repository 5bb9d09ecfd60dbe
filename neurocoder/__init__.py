"""Layers that program themselves: weights composed for every input from a stored memory.

`NeurocoderLinear` is the layer of "Neurocoder: Learning General-Purpose Computation Using Stored
Neural Programs", section 2; `HyperLinear` is the hypernetwork it is compared with. Both are called
like `torch.nn.Linear`. `recode` puts them into a model that already exists.
"""

from neurocoder.hyper import HyperLinear as HyperLinear
from neurocoder.linear import Composition as Composition
from neurocoder.linear import NeurocoderLinear as NeurocoderLinear
from neurocoder.linear import frozen_keys as frozen_keys
from neurocoder.recode import recode as recode

__all__ = ["Composition", "HyperLinear", "NeurocoderLinear", "frozen_keys", "recode"]
