"""Playing whole games with a network, or at random, to see what it is worth.

The protocol is that of design section 4: raw scores of whole games, by the rules the run trained
with, and no ending at a lost life. Everything about a game follows from its seed.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from agents.config import TrainConfig
from agents.evaluation.episode import EpisodeResult as EpisodeResult
from agents.evaluation.episode import GameEnv, OnStep, StepResult, run_episode
from agents.networks.actor_critic import ActorCritic
from agents.networks.inspection import PolicyOutput, inspect
from envs import make_evaluation_env, num_actions

SAMPLED, GREEDY, RANDOM = "sampled", "greedy", "random"
MODES = (SAMPLED, GREEDY, RANDOM)

# Seeds of training are drawn from SeedSequence((seed, worker, incarnation)). A sequence shorter
# than four words is padded with zeros, so this is read as worker 0x706C6179 ("play"), which no run
# has.
_PURPOSE = 0x706C6179


OnPolicyOutput = Callable[[PolicyOutput], None]


class Recording(Protocol):
    """What `evaluate_policy` tells of every game; `agents.evaluation.recorder.Recorder` is one.

    A game that is begun ends in exactly one of `finish` and `abandon`.
    """

    @property
    def wants_screens(self) -> bool:
        """Whether `StepResult.info` must hold the screens."""
        ...

    @property
    def wants_thoughts(self) -> bool:
        """Whether `think` is to be called."""
        ...

    def begin(self, mode: str, seed: int) -> None:
        """A game begins."""
        ...

    def think(self, thought: PolicyOutput) -> None:
        """A network chose an action, which is played next."""
        ...

    def step(self, step: StepResult) -> None:
        """A decision was played."""
        ...

    def finish(self, game: EpisodeResult) -> None:
        """The game came to its end."""
        ...

    def abandon(self) -> None:
        """The game was left before its end."""
        ...


class EvaluationPolicy:
    """Chooses the actions of one game.

    Args:
        mode: "sampled" from the policy as in training, "greedy" for its most probable action
            (the first of equals), or "random" for uniformly random actions.
        num_actions: A.
        seed: of the game.
        network: acts; not needed for random play.
        on_thought: is told what the network thought, before the action is played. Without it,
            neither values nor programs are computed.
        think_every: `on_thought` is told of the first decision and of every so manieth after it.

    Raises:
        ValueError: if there is no such mode, or no network where one is needed.
    """

    def __init__(
        self,
        mode: str,
        num_actions: int,
        seed: int,
        network: ActorCritic | None = None,
        on_thought: OnPolicyOutput | None = None,
        think_every: int = 1,
    ) -> None:
        if mode not in MODES:
            raise ValueError(f"mode must be one of {', '.join(MODES)}, got {mode!r}")
        if network is None and mode != RANDOM:
            raise ValueError(f"{mode} play needs a network")
        self.mode, self.num_actions, self.network = mode, num_actions, network
        self._on_thought, self._think_every, self._decisions = on_thought, think_every, 0
        # Not the seed alone: the environment draws its opening from that very stream.
        self._random = np.random.default_rng((seed, _PURPOSE, 1))
        self._generator = torch.Generator().manual_seed(seed)
        self._state = network.initial_state(1) if network is not None else torch.empty(0)

    @torch.no_grad()
    def act(self, observation: npt.NDArray[np.uint8], start: bool) -> int:
        """Choose an action.

        Args:
            observation: (4, 84, 84) uint8.
            start: whether it is the game's first; the state of the core is zeroed there.
        """
        if self.network is None or self.mode == RANDOM:
            return int(self._random.integers(self.num_actions))
        seen = self.network.torso(torch.from_numpy(observation)[None])
        before, starts = self._state, torch.tensor([start])
        logits, self._state = self.network.act_logits(seen, before, starts)
        if self._on_thought is not None and self._decisions % self._think_every == 0:
            self._on_thought(inspect(self.network, seen, before, starts, logits))
        self._decisions += 1
        if self.mode == GREEDY:
            return int(logits[0].argmax())
        policy = torch.softmax(logits, dim=-1)
        return int(torch.multinomial(policy, 1, generator=self._generator))


def play_game(
    env: GameEnv,
    mode: str,
    seed: int,
    network: ActorCritic | None = None,
    on_step: OnStep | None = None,
    on_thought: OnPolicyOutput | None = None,
) -> EpisodeResult:
    """Play one whole game.

    Args:
        env: made by `envs.make_evaluation_env`; it is reset here.
        mode: "sampled", "greedy" or "random".
        seed: below 2**31; decides the whole game, together with the network.
        network: acts; not needed for random play. Its parameters must not change meanwhile.
        on_step: is told of every decision. What it raises ends the game.
        on_thought: is told what the network thought, before each decision is played.

    Raises:
        ValueError: as `EvaluationPolicy`.
    """
    player = EvaluationPolicy(mode, count_actions(env), seed, network, on_thought)
    with _frozen(network):
        game, _ = run_episode(env, seed, player.act, mode, on_step)
    return game


def evaluate_policy(
    network: ActorCritic | None,
    config: TrainConfig,
    mode: str,
    episodes: int,
    seed: int,
    recorder: Recording | None = None,
    progress: Callable[[EpisodeResult], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    on_step: OnStep | None = None,
    on_thought: OnPolicyOutput | None = None,
    think_every: int = 1,
) -> list[EpisodeResult]:
    """Play whole games by the rules of a training run, one after the other.

    Args:
        network: acts; None for random play.
        config: of the run.
        mode: "sampled", "greedy" or "random".
        episodes: how many games.
        seed: gives every game its own, see `episode_seeds`; all modes play the same ones.
        recorder: is told of every game.
        progress: is told of every finished game.
        should_stop: asked before each decision; once true, the game in progress is dropped.
        on_step: is told of every decision.
        on_thought: is told what the network thought, before the decision is played.
        think_every: `on_thought` is told of each game's first decision and every so manieth after
            it; a recorder that wants thoughts needs 1.

    Returns:
        The finished games, in order; fewer than asked for only after `should_stop`.

    Raises:
        ValueError: as `EvaluationPolicy`.
    """
    wants_screens = recorder is not None and recorder.wants_screens
    env = make_evaluation_env(config.atari, keep_screens=wants_screens)
    games: list[EpisodeResult] = []

    listeners: list[OnPolicyOutput] = [] if on_thought is None else [on_thought]
    if recorder is not None and recorder.wants_thoughts:
        listeners.append(recorder.think)

    def listen(thought: PolicyOutput) -> None:
        for listener in listeners:
            listener(thought)

    def watch(step: StepResult) -> None:
        if recorder is not None:
            recorder.step(step)
        if on_step is not None:
            on_step(step)

    try:
        with _frozen(network):
            for game_seed in episode_seeds(seed, episodes):
                player = EvaluationPolicy(
                    mode,
                    count_actions(env),
                    game_seed,
                    network,
                    listen if listeners else None,
                    think_every,
                )

                def choose(
                    observation: npt.NDArray[np.uint8],
                    start: bool,
                    player: EvaluationPolicy = player,
                ) -> int | None:
                    if should_stop is not None and should_stop():
                        return None
                    return player.act(observation, start)

                if recorder is not None:
                    recorder.begin(mode, game_seed)
                ended = False
                try:
                    game, ended = run_episode(env, game_seed, choose, mode, watch)
                finally:
                    if recorder is not None and not ended:
                        recorder.abandon()
                if not ended:
                    break
                if recorder is not None:
                    recorder.finish(game)
                games.append(game)
                if progress is not None:
                    progress(game)
    finally:
        env.close()
    return games


def episode_seeds(seed: int, episodes: int) -> list[int]:
    """The seeds of so many games: distinct, in [0, 2**31), from a stream that training never uses.

    Fewer games have the first seeds of more games.
    """
    # Among n draws some n**2 / 2**32 pairs are equal: the reserve is for those.
    drawn = np.random.default_rng((seed, _PURPOSE)).integers(
        2**31, size=episodes + episodes // 1000 + 64
    )
    return [int(s) for s in dict.fromkeys(drawn.tolist())][:episodes]


def make_network(config: TrainConfig) -> ActorCritic:
    """A run's network, with parameters yet to be filled in."""
    return ActorCritic(num_actions(config.atari), config)


def count_actions(env: GameEnv) -> int:
    """A, the size of the environment's action space."""
    return int(env.action_space.n)  # type: ignore[attr-defined]


def _frozen(network: ActorCritic | None) -> AbstractContextManager[None]:
    """Inside, the network's parameters stay as they are, so that it acts quicker."""
    return nullcontext() if network is None else network.cached_weights()
