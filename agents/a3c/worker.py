"""The actor-learner: Algorithm S3 of the A3C paper, with n-step returns or GAE."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv

from agents.a3c.collector import Collector, action_count
from agents.a3c.gradients import compute_gradients
from agents.a3c.losses import a3c_loss
from agents.a3c.parameter_store import ParameterStore
from agents.a3c.returns import lambda_returns
from agents.a3c.rollout import unroll
from agents.config import TrainConfig
from agents.networks.actor_critic import ActorCritic
from agents.networks.flat_parameters import flatten_parameters_
from envs import AtariTrainingEnv, Episode

EnvironmentFactory = Callable[[TrainConfig, np.ndarray], VectorEnv[Any, Any, Any]]


def make_training_env(config: TrainConfig, seeds: np.ndarray) -> AtariTrainingEnv:
    """Make a worker's environments, one for each seed."""
    return AtariTrainingEnv(config.atari, len(seeds), seeds=seeds)


@dataclass(frozen=True)
class WorkerSpec:
    """What distinguishes one worker, and what all of them have in common.

    Attributes:
        config: The settings.
        make_env: Makes a worker's environments from the settings and their seeds, shape (B,).
        index: The worker's index.
        incarnation: Differs at every start of this worker, in resumed runs too; it seeds the
            environments and the actions.
    """

    config: TrainConfig
    make_env: EnvironmentFactory = make_training_env
    index: int = 0
    incarnation: int = 0


@dataclass(frozen=True)
class Update:
    """The result of one update.

    Attributes:
        is_applied: Whether the gradient was finite and was applied.
        metrics: TensorBoard tag -> value; empty if the gradient was skipped.
        agent_steps: The number of agent steps in the rollout.
        episodes: Episodes that ended in the rollout.
    """

    is_applied: bool
    metrics: dict[str, float]
    agent_steps: int
    episodes: list[Episode]


class Actor:
    """Environments, and a copy of the network that acts in them.

    Args:
        spec: The worker's specification.
        store: The shared parameters.
    """

    def __init__(self, spec: WorkerSpec, store: ParameterStore) -> None:
        self.index, self.config, self.store = spec.index, spec.config, store
        sequence = np.random.SeedSequence((self.config.seed, spec.index, spec.incarnation))
        env_seeds, action_seed = sequence.spawn(2)
        seeds = env_seeds.generate_state(self.config.envs_per_worker) % 2**31
        self.env = spec.make_env(self.config, seeds.astype(np.int64))
        self.network = ActorCritic(action_count(self.env), self.config)
        self.flat = flatten_parameters_(self.network)
        store.pull(self.flat.parameters)
        self.collector = Collector(
            self.env,
            self.network,
            num_steps=self.config.num_steps,
            gamma=self.config.gamma,
            gae_lambda=self.config.gae_lambda,
            random=np.random.default_rng(action_seed),
        )


class Worker(Actor):
    """One actor-learner; see `Actor` for its arguments."""

    def __init__(self, spec: WorkerSpec, store: ParameterStore) -> None:
        super().__init__(spec, store)
        self.rollout = self.collector.make_rollout()
        acted_on = self.rollout.observations[:-1].flatten(0, 1)
        self.torso_cache = self.network.torso.make_cache(acted_on)

    def update(self) -> Update:
        """Make one iteration of Algorithm S3."""
        # Synchronize the parameters: theta' <- theta.
        self.store.pull(self.flat.parameters)
        # Act for t_max steps.
        rollout = self.collector.collect(self.rollout, self.torso_cache)
        # Accumulate the gradient of the loss with respect to theta'.
        output = unroll(self.network, rollout, self.torso_cache)
        values = output.values.detach()
        returns = lambda_returns(
            rollout.clipped_rewards,
            rollout.discounts,
            rollout.lambdas,
            values,
            output.bootstrap_value,
        )
        loss = a3c_loss(
            output.logits,
            output.values,
            rollout.actions,
            returns,
            returns - values,
            rollout.mask,
            vf_coef=self.config.vf_coef,
            ent_coef=self.config.ent_coef,
        )
        step = compute_gradients(self.network, self.flat, loss, self.config)
        # Update theta asynchronously.
        if step.is_finite:
            self.store.push(step.gradients)
        return Update(step.is_finite, step.metrics, rollout.agent_steps, self.collector.episodes)
