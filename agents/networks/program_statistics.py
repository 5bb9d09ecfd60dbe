"""What the heads composed over an evaluation: mean attention, and how the figures spread."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from agents.networks.inspection import Floats, NeurocoderProgram


@dataclass(frozen=True, eq=False)
class HeadSummary:
    """Of one Neurocoder head over N states.

    Attributes:
        attention: mean of w (eq. 11) over the states, for U, V and S, shape (3, r, P).
        singular_values: shape (N, r).
        attention_entropy: of w scaled to sum to one, over its maximum log P; mean over U, V, S and
            the components, shape (N,).
        residual_gate: shape (N,), or None without a residual program.
    """

    attention: Floats
    singular_values: Floats
    attention_entropy: Floats
    residual_gate: Floats | None


def summarise_programs(program: NeurocoderProgram) -> HeadSummary:
    """Summarise the programs of N states, attentions of shape (N, r, P)."""
    attention = np.stack([program.u_attention, program.v_attention, program.s_attention])
    return HeadSummary(
        attention=attention.mean(axis=1),
        singular_values=program.singular_values,
        attention_entropy=_entropy(attention).mean(axis=(0, 2)),
        residual_gate=program.residual_gate,
    )


def _entropy(attention: npt.NDArray[np.float32]) -> Floats:
    """Of w scaled to sum to one, over its maximum log P: (..., P) -> (...); 0 for one slot."""
    slots = attention.shape[-1]
    share = attention / attention.sum(axis=-1, keepdims=True)
    logs = np.log(np.where(share > 0, share, 1))
    entropy = -(share * logs).sum(axis=-1) / max(math.log(slots), 1e-9)
    return np.asarray(entropy, np.float32)
