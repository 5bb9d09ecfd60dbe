"""Evaluating a network, or random play, on whole episodes.

The protocol: raw scores of whole episodes, by the rules the run trained with; a lost life does not
end an episode. Everything about an episode follows from its seed.
"""

from collections.abc import Callable, Sequence
from contextlib import closing, nullcontext

import numpy as np
import torch
from torch import Tensor

from agents.config import TrainConfig
from agents.evaluation.episode import (
    EpisodeCallback,
    EpisodeResult,
    Observation,
    needs_frames,
    run_episodes,
)
from agents.evaluation.standstill import StandstillHint
from agents.networks.actor_critic import ActorCritic
from agents.networks.inspection import PolicyOutput, inspect
from envs import (
    Spaces,
    UnusableEnvironmentError,
    make_evaluation_env,
    num_actions,
    spaces,
)

SAMPLED, GREEDY, RANDOM = "sampled", "greedy", "random"
MODES = (SAMPLED, GREEDY, RANDOM)

# Seeds of training are drawn from SeedSequence((seed, worker, incarnation)). A sequence shorter
# than four words is padded with zeros, so this is read as worker 0x706C6179 ("play"), which no run
# has.
_PURPOSE = 0x706C6179


class StatefulNetwork:
    """A network that sees an episode one agent step at a time, with the state of its core."""

    def __init__(self, network: ActorCritic) -> None:
        self.network = network
        self.reset()

    def reset(self) -> None:
        """Begin an episode: the state of the core is zeroed."""
        self._state = self.network.initial_state(1)
        self._starts = torch.tensor([True])

    @torch.no_grad()
    def forward(self, observation: Observation) -> Tensor:
        """Logits, shape (A,), for the episode's next observation."""
        # A copy, as in training: torch takes no views in reverse order, such as a flipped image.
        kind = np.uint8 if self.network.spaces.has_images else np.float32
        features = self.network.torso(torch.from_numpy(np.array(observation, kind))[None])
        self._before = (features, self._state, self._starts)
        self._logits, self._state = self.network.act_logits(*self._before)
        self._starts = torch.tensor([False])
        return self._logits[0]

    def inspect(self) -> PolicyOutput:
        """Policy, value and programs at the last observation."""
        return inspect(self.network, *self._before, self._logits)


class EvaluationPolicy:
    """Chooses the actions of whole episodes; call `reset` before each.

    Args:
        mode: "sampled" from the policy as in training, "greedy" for its most probable action
            (the first of equals), or "random" for uniformly random actions.
        num_actions: A.
        network: The network that acts; not needed for random play.

    Raises:
        ValueError: If there is no such mode, or no network where one is needed.
    """

    def __init__(self, mode: str, num_actions: int, network: ActorCritic | None = None) -> None:
        if mode not in MODES:
            raise ValueError(f"mode must be one of {', '.join(MODES)}, got {mode!r}")
        if network is None and mode != RANDOM:
            raise ValueError(f"{mode} play needs a network")
        self.mode, self.num_actions = mode, num_actions
        self._network = None if network is None or mode == RANDOM else StatefulNetwork(network)

    def reset(self, seed: int) -> None:
        """Prepare for the episode with this seed."""
        # Not the seed alone: the environment draws its opening from that seed's stream.
        self._random = np.random.default_rng((seed, _PURPOSE, 1))
        self._generator = torch.Generator().manual_seed(seed)
        if self._network is not None:
            self._network.reset()

    def act(self, observation: Observation) -> int:
        """Choose an action for the episode's next observation.

        Raises:
            UnusableEnvironmentError: If the policy is not finite, as after an observation that is
                not.
        """
        if self._network is None:
            return int(self._random.integers(self.num_actions))
        logits = self._network.forward(observation)
        if not bool(logits.isfinite().all()):
            raise UnusableEnvironmentError(
                f"{self.mode} play cannot go on: the policy is not finite; "
                "does the environment return nan or inf?"
            )
        if self.mode == GREEDY:
            return int(logits.argmax())
        policy = torch.softmax(logits, dim=-1)
        return int(torch.multinomial(policy, 1, generator=self._generator))

    def inspect(self) -> PolicyOutput | None:
        """What the network computed for the last action; None in random play."""
        return None if self._network is None else self._network.inspect()


def evaluate_policy(
    network: ActorCritic | None,
    config: TrainConfig,
    mode: str,
    seeds: Sequence[int],
    callbacks: Sequence[EpisodeCallback] = (),
    should_stop: Callable[[], bool] | None = None,
) -> list[EpisodeResult]:
    """Play whole episodes by the rules of a training run; warn where play stands still.

    Args:
        network: The network that acts; None for random play. Its parameters must not change
            meanwhile.
        config: The run's settings.
        mode: "sampled", "greedy" or "random".
        seeds: One for each episode, below 2**31; see `episode_seeds`.
        callbacks: Called during each episode.
        should_stop: Called before each agent step; once true, the evaluation ends, and the episode
            in progress is aborted.

    Returns:
        The finished episodes, in order; fewer than seeds only after `should_stop`.

    Raises:
        ValueError: As `EvaluationPolicy`.
    """
    callbacks = [*callbacks, StandstillHint(config.env)]
    env = make_evaluation_env(config.env, keep_screens=needs_frames(callbacks))
    cached = nullcontext() if network is None else network.cached_weights()
    with closing(env), cached:
        policy = EvaluationPolicy(mode, num_actions(config.env), network)
        return list(run_episodes(env, policy, seeds, callbacks, should_stop))


def episode_seeds(seed: int, episodes: int) -> list[int]:
    """Distinct seeds of a number of episodes, in [0, 2**31), that training never uses.

    Fewer episodes get the first of the seeds of more episodes; all modes play the same seeds.
    """
    # Among n draws some n**2 / 2**32 pairs are equal: the reserve is for those.
    drawn = np.random.default_rng((seed, _PURPOSE)).integers(
        2**31, size=episodes + episodes // 1000 + 64
    )
    return [int(s) for s in dict.fromkeys(drawn.tolist())][:episodes]


def make_network(config: TrainConfig, of: Spaces | None = None) -> ActorCritic:
    """A run's network in evaluation mode, with parameters yet to be filled in.

    Args:
        config: The run's settings.
        of: The spaces of its environment, if that is not the one the settings name.
    """
    return ActorCritic(of or spaces(config.env), config).eval()
