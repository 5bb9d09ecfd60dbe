"""What a network computed at an agent step: policy, value, and the programs of its heads.

Nothing here chooses actions. For a whole episode as arrays see `agents.evaluation.trajectory`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from agents.networks.actor_critic import ActorCritic
from neurocoder import HyperLinear, NeurocoderLinear

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class NeurocoderProgram:
    """What the controller of a `NeurocoderLinear` chose; `neurocoder.Composition` as arrays.

    The dots are no dimension for one agent step, and T for an episode; r components, P slots.

    Attributes:
        u_attention: w^u of eq. 11, shape (..., r, P); it does not sum to one.
        v_attention: w^v, shape (..., r, P).
        s_attention: w^sigma, shape (..., r, P).
        singular_values: sigma of eq. 5, shape (..., r).
        residual_gate: w^r of eq. 12, in (0, 1), shape (...), or None without a residual program.
    """

    u_attention: Floats
    v_attention: Floats
    s_attention: Floats
    singular_values: Floats
    residual_gate: Floats | None


@dataclass(frozen=True, eq=False)
class HypernetProgram:
    """What a `HyperLinear` chose.

    Attributes:
        embedding: z, the factors on the generator's slices, shape (..., E).
    """

    embedding: Floats


Program = NeurocoderProgram | HypernetProgram


@dataclass(frozen=True, eq=False)
class PolicyOutput:
    """What the network computed at one agent step, or at the T agent steps of an episode.

    Attributes:
        probabilities: The policy, shape (..., A).
        value: Estimate of the discounted rewards to come, as they are learned from, shape (...).
        actor: The program of the policy's head; None where the head is linear.
        critic: The program of the value's head; None where the head is linear.
    """

    probabilities: Floats
    value: Floats
    actor: Program | None
    critic: Program | None


@torch.no_grad()
def inspect(
    network: ActorCritic,
    torso_features: Tensor,
    state: Tensor,
    episode_starts: Tensor,
    logits: Tensor,
) -> PolicyOutput:
    """Collect what a network computed when it acted, and compute its value and programs.

    Args:
        network: The network that acted.
        torso_features: Output of its torso, shape (1, F).
        state: State of its core before the agent step, shape (2, 1, S).
        episode_starts: Bool, shape (1,).
        logits: The logits it acted by, shape (1, A).
    """
    features, _ = network.core(torso_features.unsqueeze(0), state, episode_starts.unsqueeze(0))
    x = features[0, 0]
    return PolicyOutput(
        probabilities=_array(torch.softmax(logits[0], dim=-1)),
        value=_array(network.critic(x)[0]),
        actor=extract_program(network.actor, x),
        critic=extract_program(network.critic, x),
    )


@torch.no_grad()
def extract_program(head: nn.Module, x: Tensor) -> Program | None:
    """The program a head composes for x, shape (..., in_features); None for a linear head."""
    if isinstance(head, NeurocoderLinear):
        c = head.compose(x)
        gate = None if c.residual_gate is None else _array(c.residual_gate[..., 0])
        return NeurocoderProgram(
            _array(c.u_attention),
            _array(c.v_attention),
            _array(c.s_attention),
            _array(c.singular_values),
            gate,
        )
    if isinstance(head, HyperLinear):
        return HypernetProgram(_array(head.embedding_network(x)))
    return None


def stack_outputs(outputs: Sequence[PolicyOutput]) -> PolicyOutput:
    """The outputs of T > 0 agent steps of one network, as one with a leading dimension T."""
    return PolicyOutput(
        np.stack([o.probabilities for o in outputs]),
        np.stack([o.value for o in outputs]),
        _stack_programs([o.actor for o in outputs]),
        _stack_programs([o.critic for o in outputs]),
    )


def _stack_programs(programs: Sequence[Program | None]) -> Program | None:
    first: Any = programs[0]
    if first is None:
        return None
    columns = {f.name: [getattr(p, f.name) for p in programs] for f in fields(first)}
    stacked = {name: None if v[0] is None else np.stack(v) for name, v in columns.items()}
    return type(first)(**stacked)


def _array(tensor: Tensor) -> Floats:
    # A copy: an inference head may reuse its memory at the next agent step.
    return np.array(tensor.detach().float().cpu().numpy())
