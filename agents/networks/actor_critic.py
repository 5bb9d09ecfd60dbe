"""The actor-critic network: torso, core, actor head and critic head."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from agents.config import SettingError, TrainConfig
from agents.networks.heads import forward_groups, head_factory
from agents.networks.inference import inference_head
from agents.networks.lstm import LSTMSequence
from agents.networks.mlp_torso import MLPTorso
from agents.networks.torso import CONVOLUTIONAL, Torso, smallest_image
from envs import Spaces
from neurocoder import NeurocoderLinear, frozen_keys


class ActorCriticOutput(NamedTuple):
    """The network's outputs for T steps of B environments.

    Attributes:
        logits: Policy logits, shape (T, B, A).
        values: State values, shape (T, B).
        state: The core's state after the last step, shape (2, B, S).
    """

    logits: Tensor
    values: Tensor
    state: Tensor


class ActorCritic(nn.Module):
    """Policy and value of observations; agents differ in their heads only.

    Args:
        spaces: A, the size of the action space, and the shape of an observation.
        config: The settings; its group "network" and that of the head matter here.

    Raises:
        SettingError: If the torso does not support such observations.
    """

    def __init__(self, spaces: Spaces, config: TrainConfig) -> None:
        super().__init__()
        self.spaces = spaces
        self.torso = _make_torso(spaces.observation_shape, config)
        self.core = CORES[config.core](self.torso.features)
        head = head_factory(config)
        self.actor = head(self.core.features, spaces.num_actions)
        self.critic = head(self.core.features, 1)
        self.actor_gain = config.actor_gain
        self.inference_actor = inference_head(self.actor)
        self.inference_critic = inference_head(self.critic)

    @property
    def where_statistics(self) -> slice | None:
        """Which of the flat parameters are running statistics of observations, if any."""
        if not isinstance(self.torso, MLPTorso):
            return None
        first = 0
        for parameter in self.parameters():
            if parameter is self.torso.normalization.statistics:
                break
            first += parameter.numel()
        return slice(first, first + parameter.numel())

    def forward(
        self, observations: Tensor, state: Tensor, episode_starts: Tensor
    ) -> ActorCriticOutput:
        """Run T steps of B environments.

        Args:
            observations: Images, uint8, shape (T, B, C, H, W), or vectors, float32, shape
                (T, B, D); see `forward_torso`.
            state: The core's state before the first step, shape (2, B, S).
            episode_starts: Bool, shape (T, B): true where an observation is the first of an
                episode. The state is reset to zero there.
        """
        return self.forward_heads(self.forward_torso(observations), state, episode_starts)

    def forward_torso(self, observations: Tensor) -> Tensor:
        """Return torso features, shape (T, B, F).

        Args:
            observations: Shape (T, B, ...), or (T, N, B / N, ...) for a batch of N rollouts that
                are each contiguous in memory, images with channels last.
        """
        if not self.spaces.has_images:
            vectors = observations.flatten(1, -2)
            return self.torso(vectors.flatten(0, 1)).unflatten(0, vectors.shape[:2])
        if observations.dim() == 5:
            return self.torso(observations.flatten(0, 1)).unflatten(0, observations.shape[:2])
        rollouts = observations.movedim(-3, -1).transpose(0, 1)
        features = self.torso(rollouts.flatten(0, 2).movedim(-1, -3))
        return features.unflatten(0, rollouts.shape[:3]).transpose(0, 1).flatten(1, 2)

    def forward_heads(
        self, torso_features: Tensor, state: Tensor, episode_starts: Tensor
    ) -> ActorCriticOutput:
        """Return the output of `forward`, given torso features of shape (T, B, F)."""
        features, state = self.core(torso_features, state, episode_starts)
        logits = self.actor_gain * self.actor(features)
        return ActorCriticOutput(logits, self.critic(features).squeeze(-1), state)

    def forward_heads_of_workers(
        self,
        torso_features: Tensor,
        state: Tensor,
        episode_starts: Tensor,
        parameters: Mapping[str, Tensor],
    ) -> ActorCriticOutput:
        """`forward_heads` for W workers at once, with separate gradients.

        Args:
            torso_features: Shape (W, T, B, F).
            state: The core's state before the first step, shape (W, 2, B, S).
            episode_starts: Bool, shape (W, T, B).
            parameters: Those of core and heads by name, from `repeat_parameters`. Each worker's
                gradients are those of its rows.

        Returns:
            The logits, shape (W, T, B, A), the values, shape (W, T, B), and the core's last state,
            shape (2, W * B, S).
        """
        workers = len(torso_features)
        own: dict[str, dict[str, Tensor]] = {"core": {}, "actor": {}, "critic": {}}
        for name, parameter in parameters.items():
            part, _, name_in_part = name.partition(".")
            own.setdefault(part, {})[name_in_part] = parameter
        # The core runs step by step, for all workers together.
        inputs = (x.transpose(0, 1).flatten(1, 2) for x in (torso_features, state, episode_starts))
        features, state = functional_call(self.core, own["core"], tuple(inputs))
        features = features.unflatten(1, (workers, -1)).transpose(0, 1)
        logits = self.actor_gain * forward_groups(self.actor, features, own["actor"])
        values = forward_groups(self.critic, features, own["critic"]).squeeze(-1)
        return ActorCriticOutput(logits, values, state)

    @contextmanager
    def cached_weights(self) -> Iterator[None]:
        """A context in which parameters must not change; calls without a gradient are faster."""
        with ExitStack() as stack:
            stack.enter_context(frozen_keys(self))
            for part in (self.torso, self.inference_actor, self.inference_critic):
                stack.enter_context(part.cached_weights())
            yield

    @torch.no_grad()
    def act_logits(
        self, torso_features: Tensor, state: Tensor, episode_starts: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the logits of one step, shape (B, A), and the core's new state; no gradient.

        Acting needs no values, and the critic costs as much as the actor.

        Args:
            torso_features: Output of the torso, shape (B, F).
            state: The core's state before the step, shape (2, B, S).
            episode_starts: Bool, shape (B,), as in `forward`.
        """
        features, state = self.core(torso_features.unsqueeze(0), state, episode_starts.unsqueeze(0))
        return self.actor_gain * self.inference_actor(features[0]), state

    @torch.no_grad()
    def act_values(self, torso_features: Tensor, state: Tensor, episode_starts: Tensor) -> Tensor:
        """Return the values of one step, shape (B,), without a gradient; see `act_logits`."""
        features, _ = self.core(torso_features.unsqueeze(0), state, episode_starts.unsqueeze(0))
        return self.inference_critic(features[0]).squeeze(-1)

    def initial_state(self, batch: int) -> Tensor:
        """Return the core's first state: zeros, shape (2, B, S), with S = 0 without a core."""
        return torch.zeros(2, batch, self.core.state_size)

    def orthogonality_loss(self) -> Tensor:
        """L_o of the Neurocoder paper (eq. 2), summed over actor and critic; 0 for other heads."""
        losses = [
            layer.orthogonality_loss()
            for layer in self.modules()
            if isinstance(layer, NeurocoderLinear)
        ]
        return torch.stack(losses).sum() if losses else torch.zeros(())


def _make_torso(observation_shape: Sequence[int], config: TrainConfig) -> Torso | MLPTorso:
    kind = config.torso
    is_vector = len(observation_shape) == 1
    if kind == "auto":
        kind = "nips"
        if is_vector or min(observation_shape[1:]) < smallest_image("nips"):
            kind = "mlp" if is_vector else "small"
    if is_vector != (kind == "mlp"):
        what = "vectors" if is_vector else "images"
        suitable = "mlp" if is_vector else " or ".join(CONVOLUTIONAL)
        allowed = f"the observations of {config.game} are {what}, which need {suitable}"
        raise SettingError("torso", kind, allowed)
    if is_vector:
        if config.precision != "float32":
            raise SettingError("precision", config.precision, "is for convolutional torsos only")
        return MLPTorso(*observation_shape)
    smallest, size = smallest_image(kind), observation_shape[1:]
    if min(size) < smallest:
        allowed = f"needs images of {smallest}x{smallest} or more, got {size[0]}x{size[1]}"
        raise SettingError("torso", kind, allowed)
    return Torso(kind, observation_shape, config.precision)


class IdentityCore(nn.Module):
    """Passes the torso's features on; it has a core's interface and a state of size zero."""

    state_size = 0

    def __init__(self, features: int) -> None:
        super().__init__()
        self.features = features

    def forward(
        self,
        torso_features: Tensor,
        state: Tensor,
        episode_starts: Tensor,  # noqa: ARG002
    ) -> tuple[Tensor, Tensor]:
        """Return the features unchanged."""
        return torso_features, state


class LSTMCore(nn.Module):
    """An LSTM with 256 units, reset at the start of an episode but not at the loss of a life."""

    state_size = 256

    def __init__(self, features: int) -> None:
        super().__init__()
        self.features = self.state_size
        self.cell = nn.LSTMCell(features, self.state_size)

    def forward(
        self, torso_features: Tensor, state: Tensor, episode_starts: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return hidden states (T, B, 256) and the last state (2, B, 256).

        Args:
            torso_features: Shape (T, B, F).
            state: Hidden and cell state before the first step, shape (2, B, 256).
            episode_starts: Bool, shape (T, B).
        """
        starts = episode_starts.unsqueeze(-1)
        if torch.is_grad_enabled():
            not_done = (~starts).to(torso_features.dtype)
            weights = (
                self.cell.weight_ih,
                self.cell.weight_hh,
                self.cell.bias_ih + self.cell.bias_hh,
            )
            outputs, cell = LSTMSequence.apply(torso_features, *state.unbind(), not_done, *weights)
            return outputs, torch.stack([outputs[-1], cell])
        # Without a gradient there are few steps, and torch's own cell is faster.
        hiddens = []
        hidden, cell = state.unbind()
        for x, starts_t in zip(torso_features.unbind(), starts.unbind(), strict=True):
            # Not a product with zero: after an observation that is not finite, it would stay NaN.
            before = hidden.masked_fill(starts_t, 0.0), cell.masked_fill(starts_t, 0.0)
            hidden, cell = self.cell(x, before)
            hiddens.append(hidden)
        return torch.stack(hiddens), torch.stack([hidden, cell])


CORES: dict[str, Any] = {"none": IdentityCore, "lstm": LSTMCore}
