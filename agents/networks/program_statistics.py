"""Statistics of Neurocoder programs: whether heads use their memories, over a rollout or episodes.

`program_statistics` gives a training update's scalars, `summarise_programs` an evaluation's
distributions.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from agents.networks.actor_critic import ActorCritic
from agents.networks.inspection import Floats, NeurocoderProgram
from neurocoder import NeurocoderLinear

SAMPLES = 64


@dataclass(frozen=True, eq=False)
class HeadSummary:
    """The programs of one Neurocoder head over N states.

    Attributes:
        attention: Mean of w (eq. 11) over the states, for U, V and S, shape (3, r, P).
        singular_values: Shape (N, r).
        attention_entropy: See `normalised_entropy`; mean over U, V, S and the components, shape
            (N,).
        residual_gate: Shape (N,), or None without a residual program.
    """

    attention: Floats
    singular_values: Floats
    attention_entropy: Floats
    residual_gate: Floats | None


def summarise_programs(program: NeurocoderProgram) -> HeadSummary:
    """Summarise the programs of N states, attentions of shape (N, r, P)."""
    attention = np.stack([program.u_attention, program.v_attention, program.s_attention])
    entropy = normalised_entropy(torch.from_numpy(attention)).mean(dim=(0, 2))
    return HeadSummary(
        attention=attention.mean(axis=1),
        singular_values=program.singular_values,
        attention_entropy=entropy.numpy(),
        residual_gate=program.residual_gate,
    )


@torch.no_grad()
def program_statistics(
    network: ActorCritic,
    torso_features: Tensor,
    initial_state: Tensor,
    episode_starts: Tensor,
    mask: Tensor,
) -> dict[str, float]:
    """Statistics of the Neurocoder heads over states of a rollout; empty for other heads.

    Args:
        network: The network whose heads are inspected.
        torso_features: Output of its torso, shape (T, B, F).
        initial_state: State of its core before the first step, shape (2, B, S).
        episode_starts: Bool, shape (T, B): true where an observation is an episode's first.
        mask: Bool, shape (T, B): false for ignored steps.
    """
    heads = {"actor": network.actor, "critic": network.critic}
    if not any(isinstance(head, NeurocoderLinear) for head in heads.values()):
        return {}
    features, _ = network.core(torso_features, initial_state, episode_starts)
    states = features[mask]
    states = states[torch.linspace(0, len(states) - 1, SAMPLES).long()] if len(states) else states
    statistics: dict[str, float] = {}
    for name, head in heads.items():
        if isinstance(head, NeurocoderLinear) and len(states):
            for key, value in layer_statistics(head, states).items():
                statistics[f"neurocoder/{name}/{key}"] = value
    return statistics


@torch.no_grad()
def layer_statistics(layer: NeurocoderLinear, x: Tensor) -> dict[str, float]:
    """Statistics of a layer's programs for inputs x, shape (B, in_features), B > 1.

    Returns:
        attention_entropy: See `normalised_entropy`; mean over U, V and S.
        attention_variation: Standard deviation of w over the inputs relative to its mean; zero when
            every input gets the same program. `..._u`, `..._v`, `..._s` for each memory.
        slot_usage: Fraction of the slots of U that carry at least half of an even share of the
            attention to it, on average over the inputs.
        singular_values: The largest, mean over the inputs; `smallest_singular_value` the smallest.
        residual_gate: Mean over the inputs.
        active_to_residual_norm: Frobenius norm of the active program over that of the gated and
            scaled residual program, mean over the inputs; left out without a residual.
    """
    program = layer.compose(x)
    attentions = {
        "u": program.u_attention,
        "v": program.v_attention,
        "s": program.s_attention,
    }
    entropies, variations = [], {}
    for name, w in attentions.items():
        entropies.append(float(normalised_entropy(w).mean()))
        variations[f"attention_variation_{name}"] = float(w.std(dim=0).mean() / w.mean())
    used = attentions["u"].mean(dim=(0, 1))
    sigma = program.singular_values
    smallest = sigma.amin(1)  # the last or the first one, depending on the order of summation
    statistics = {
        "attention_entropy": sum(entropies) / 3,
        "attention_variation": sum(variations.values()) / 3,
        **variations,
        "slot_usage": float((used >= used.mean() / 2).float().mean()),
        "singular_values": float(sigma.amax(1).mean()),
        "smallest_singular_value": float(smallest.mean()),
    }
    if program.residual_gate is not None and layer.residual is not None:
        active = layer.active_program(x).flatten(1).norm(dim=1)
        gate = program.residual_gate.squeeze(-1)
        residual = gate * smallest * layer.residual.norm()
        statistics["residual_gate"] = float(gate.mean())
        statistics["active_to_residual_norm"] = float((active / residual).mean())
    return statistics


def normalised_entropy(w: Tensor) -> Tensor:
    """Entropy of attention over its maximum log P, (..., P) -> (...); 0 for one slot.

    The attention is scaled to sum to one first.
    """
    share = w / w.sum(dim=-1, keepdim=True)
    entropy = -torch.xlogy(share, share).sum(dim=-1)
    slots = w.shape[-1]
    return entropy / math.log(slots) if slots > 1 else torch.zeros_like(entropy)
