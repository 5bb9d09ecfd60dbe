"""The actor-critic network: torso, core, actor head and critic head."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from agents.config import TrainConfig
from agents.networks.heads import head_factory
from agents.networks.inference import inference_head
from agents.networks.lstm import LSTMSequence
from agents.networks.torso import Torso
from neurocoder import NeurocoderLinear, frozen_keys


class ActorCriticOutput(NamedTuple):
    """What the network says of T steps of B environments.

    Attributes:
        logits: of the policy, shape (T, B, A).
        values: shape (T, B).
        state: of the core after the last step, shape (2, B, S).
    """

    logits: Tensor
    values: Tensor
    state: Tensor


class ActorCritic(nn.Module):
    """Policy and value of a stack of screens; the heads are the only thing that agents vary.

    Args:
        num_actions: A.
        config: the settings; its group "network" and that of the head count.
    """

    def __init__(self, num_actions: int, config: TrainConfig) -> None:
        super().__init__()
        self.torso = Torso(config.torso)
        self.core = CORES[config.core](self.torso.features)
        head = head_factory(config)
        self.actor = head(self.core.features, num_actions)
        self.critic = head(self.core.features, 1)
        self.actor_gain = config.actor_gain
        self.acting_actor, self.acting_critic = (
            inference_head(self.actor),
            inference_head(self.critic),
        )

    def forward(self, observations: Tensor, state: Tensor, starts: Tensor) -> ActorCriticOutput:
        """Run T steps of B environments.

        Args:
            observations: screens, uint8, shape (T, B, 4, 84, 84).
            state: of the core before the first step, shape (2, B, S).
            starts: bool, shape (T, B): true where an observation is a new game's first. The state
                is zeroed there.
        """
        return self.judge(self.see(observations), state, starts)

    def see(self, observations: Tensor) -> Tensor:
        """What the torso sees, shape (T, B, seen), in screens of shape (T, B, 4, 84, 84)."""
        return self.torso(observations.flatten(0, 1)).unflatten(0, observations.shape[:2])

    def judge(self, seen: Tensor, state: Tensor, starts: Tensor) -> ActorCriticOutput:
        """What `forward` returns, for what the torso has seen, shape (T, B, seen)."""
        features, state = self.core(seen, state, starts)
        logits = self.actor_gain * self.actor(features)
        return ActorCriticOutput(logits, self.critic(features).squeeze(-1), state)

    @contextmanager
    def acting(self) -> Iterator[None]:
        """Inside, parameters stay as they are; `policy` and `value` rely on it, and are quicker."""
        with frozen_keys(self), self.acting_actor.held(), self.acting_critic.held():
            yield

    @torch.no_grad()
    def policy(self, seen: Tensor, state: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
        """The logits alone, shape (B, A), of one step, and the core's new state; no gradient.

        Who acts needs no values, and the critic is as costly as the actor.

        Args:
            seen: by the torso, shape (B, seen).
            state: of the core before it, shape (2, B, S).
            starts: bool, shape (B,), as in `forward`.
        """
        features, state = self.core(seen.unsqueeze(0), state, starts.unsqueeze(0))
        return self.actor_gain * self.acting_actor.run(features[0]), state

    @torch.no_grad()
    def value(self, seen: Tensor, state: Tensor, starts: Tensor) -> Tensor:
        """The values alone, shape (B,), of one step, without a gradient; arguments of `policy`."""
        features, _ = self.core(seen.unsqueeze(0), state, starts.unsqueeze(0))
        return self.acting_critic.run(features[0]).squeeze(-1)

    def initial_state(self, batch: int) -> Tensor:
        """The core's state before a first step, zeros of shape (2, B, S); S is 0 without a core."""
        return torch.zeros(2, batch, self.core.state_size)

    def orthogonality_loss(self) -> Tensor:
        """L_o of the Neurocoder paper (eq. 2), summed over actor and critic; 0 for other heads."""
        losses = [
            layer.orthogonality_loss()
            for layer in self.modules()
            if isinstance(layer, NeurocoderLinear)
        ]
        return torch.stack(losses).sum() if losses else torch.zeros(())


class IdentityCore(nn.Module):
    """Passes the torso's features on; has the interface of a core, and a state of size zero."""

    state_size = 0

    def __init__(self, features: int) -> None:
        super().__init__()
        self.features = features

    def forward(self, seen: Tensor, state: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        """Return the features as they are."""
        return seen, state


class LSTMCore(nn.Module):
    """An LSTM of 256 units; its state lives through lost lives and is zeroed with a new game."""

    state_size = 256

    def __init__(self, features: int) -> None:
        super().__init__()
        self.features = self.state_size
        self.cell = nn.LSTMCell(features, self.state_size)

    def forward(self, seen: Tensor, state: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
        """Return hidden states (T, B, 256) and the last state (2, B, 256).

        Args:
            seen: shape (T, B, features).
            state: shape (2, B, 256).
            starts: bool, shape (T, B).
        """
        goes_on = (~starts).to(seen.dtype).unsqueeze(-1)
        if torch.is_grad_enabled():
            weights = (
                self.cell.weight_ih,
                self.cell.weight_hh,
                self.cell.bias_ih + self.cell.bias_hh,
            )
            outputs, cell = LSTMSequence.apply(seen, *state.unbind(), goes_on, *weights)
            return outputs, torch.stack([outputs[-1], cell])
        # Without a gradient, steps are few, and torch's own cell is quicker.
        hiddens = []
        hidden, cell = state.unbind()
        for x, goes_on_t in zip(seen.unbind(), goes_on.unbind(), strict=True):
            hidden, cell = self.cell(x, (hidden * goes_on_t, cell * goes_on_t))
            hiddens.append(hidden)
        return torch.stack(hiddens), torch.stack([hidden, cell])


CORES: dict[str, Any] = {"none": IdentityCore, "lstm": LSTMCore}
