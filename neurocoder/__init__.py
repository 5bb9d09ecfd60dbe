"""Linear layers whose weights are computed for every input from a stored memory.

`NeurocoderLinear` is the layer of "Neurocoder: Learning General-Purpose Computation Using Stored
Neural Programs", section 2; `neurocoder.baselines` has the baselines. All have the interface of
`torch.nn.Linear`. `recode` replaces layers of an existing model by them.
"""

from neurocoder.baselines import FiLMLinear as FiLMLinear
from neurocoder.baselines import HyperLinear as HyperLinear
from neurocoder.baselines import MoELinear as MoELinear
from neurocoder.baselines import NSMLinear as NSMLinear
from neurocoder.linear import Composition as Composition
from neurocoder.linear import NeurocoderLinear as NeurocoderLinear
from neurocoder.linear import frozen_keys as frozen_keys
from neurocoder.recode import recode as recode

__all__ = [
    "Composition",
    "FiLMLinear",
    "HyperLinear",
    "MoELinear",
    "NSMLinear",
    "NeurocoderLinear",
    "frozen_keys",
    "recode",
]
