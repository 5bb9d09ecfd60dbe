"""Baselines for the Neurocoder: other layers whose computation depends on the input.

All are drop-in replacements for `torch.nn.Linear`: the same call, the same first constructor
arguments, and outputs of the same scale at initialisation.
"""

from neurocoder.baselines.film import FiLMLinear as FiLMLinear
from neurocoder.baselines.hyper import HyperLinear as HyperLinear
from neurocoder.baselines.moe import MoELinear as MoELinear
from neurocoder.baselines.nsm import NSMLinear as NSMLinear

__all__ = ["FiLMLinear", "HyperLinear", "MoELinear", "NSMLinear"]
