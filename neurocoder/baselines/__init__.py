"""What the Neurocoder is compared with: other layers that compute differently for every input.

All are called like `torch.nn.Linear`, share its constructor's first arguments and start at its
output's scale, so that any of them can stand where it stood.
"""

from neurocoder.baselines.film import FiLMLinear as FiLMLinear
from neurocoder.baselines.hyper import HyperLinear as HyperLinear
from neurocoder.baselines.moe import MoELinear as MoELinear
from neurocoder.baselines.nsm import NSMLinear as NSMLinear

__all__ = ["FiLMLinear", "HyperLinear", "MoELinear", "NSMLinear"]
