"""What a network thought at a decision: its policy, its value, and the programs of its heads.

`inspect` asks the network that plays; nothing here chooses actions. For a whole game as arrays see
`agents.evaluation.trajectory`.
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

    The dots are nothing for one decision and T for a game; r components, P slots.

    Attributes:
        u_attention: w^u of eq. 11, shape (..., r, P); it does not sum to one.
        v_attention: w^v, shape (..., r, P).
        s_attention: w^sigma, shape (..., r, P).
        singular_values: sigma of eq. 5, shape (..., r), strictly decreasing.
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
    """What the network said at one decision, or at the T decisions of a game.

    Attributes:
        probabilities: of the policy, shape (..., A).
        value: estimate of the discounted, clipped rewards to come, shape (...).
        actor: the program of the policy's head; None where the head is linear.
        critic: the program of the value's head; None where the head is linear.
    """

    probabilities: Floats
    value: Floats
    actor: Program | None
    critic: Program | None


@torch.no_grad()
def inspect(
    network: ActorCritic, seen: Tensor, state: Tensor, starts: Tensor, logits: Tensor
) -> PolicyOutput:
    """Gather what a network said when it acted; the value and the programs are computed for it.

    Args:
        network: that acted.
        seen: what its torso saw, shape (1, seen).
        state: of its core before the decision, shape (2, 1, S).
        starts: bool, shape (1,).
        logits: that it acted by, shape (1, A).
    """
    features, _ = network.core(seen.unsqueeze(0), state, starts.unsqueeze(0))
    x = features[0, 0]
    return PolicyOutput(
        probabilities=_array(torch.softmax(logits[0], dim=-1)),
        value=_array(network.critic(x)[0]),
        actor=extract_program(network.actor, x),
        critic=extract_program(network.critic, x),
    )


@torch.no_grad()
def extract_program(head: nn.Module, x: Tensor) -> Program | None:
    """What a head composes for x, shape (..., in_features); None where nothing is composed."""
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


def stack_outputs(thoughts: Sequence[PolicyOutput]) -> PolicyOutput:
    """The thoughts of T decisions of one network, T > 0, as one with a leading dimension T."""
    return PolicyOutput(
        np.stack([t.probabilities for t in thoughts]),
        np.stack([t.value for t in thoughts]),
        _stack_programs([t.actor for t in thoughts]),
        _stack_programs([t.critic for t in thoughts]),
    )


def _stack_programs(programs: Sequence[Program | None]) -> Program | None:
    first: Any = programs[0]
    if first is None:
        return None
    columns = {f.name: [getattr(p, f.name) for p in programs] for f in fields(first)}
    stacked = {name: None if v[0] is None else np.stack(v) for name, v in columns.items()}
    return type(first)(**stacked)


def _array(tensor: Tensor) -> Floats:
    # A copy: a layer that acts may use its memory again at the next decision.
    return np.array(tensor.detach().float().cpu().numpy())
