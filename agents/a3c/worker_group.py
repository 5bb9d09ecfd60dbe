"""The actor-learners of one process: Algorithm S3 of the A3C paper, with n-step returns or GAE.

Every worker has its own environments, rollout, gradient and update. The workers of a process share
one copy of the parameters: it is pulled once, acts for all of them in one batch, and each worker's
gradient is then computed from that worker's rollout and pushed, one after the other.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv

from agents.a3c.collector import Collector, action_count
from agents.a3c.parameter_store import ParameterStore
from agents.a3c.returns import lambda_returns
from agents.a3c.rollout import Rollout, unroll
from agents.a3c.update import Update, push_gradient
from agents.config import TrainConfig
from agents.networks.actor_critic import ActorCritic
from agents.networks.flat_parameters import flatten_parameters_
from agents.networks.torso import TorsoCache
from envs import AtariTrainingEnv, Episode

EnvironmentFactory = Callable[[TrainConfig, np.ndarray], VectorEnv[Any, Any, Any]]


def make_training_env(config: TrainConfig, seeds: np.ndarray) -> AtariTrainingEnv:
    """Make the environments of a group of workers, one for each seed."""
    return AtariTrainingEnv(config.atari, len(seeds), seeds=seeds)


@dataclass(frozen=True)
class GroupSpec:
    """What distinguishes the workers of one process, and what all workers have in common.

    Attributes:
        config: The settings.
        make_env: Makes environments from the settings and their seeds, one each, shape (W * B,):
            the B of the first worker, then those of the next.
        workers: The indices of the W workers.
        incarnation: Differs at every start of these workers, in resumed runs too; with a worker's
            index, it seeds the worker's environments and actions.
    """

    config: TrainConfig
    make_env: EnvironmentFactory = make_training_env
    workers: range = range(1)
    incarnation: int = 0

    @property
    def name(self) -> str:
        """Name in messages, such as "worker 3" or "workers 0 to 7"."""
        first, *others = self.workers
        return f"workers {first} to {others[-1]}" if others else f"worker {first}"


class ActorGroup:
    """The environments of W workers, and a copy of the network that acts in all of them.

    Args:
        spec: The specification of the workers.
        store: The shared parameters.
    """

    def __init__(self, spec: GroupSpec, store: ParameterStore) -> None:
        self.workers, self.config, self.store = spec.workers, spec.config, store
        seeds, generators = zip(
            *(_randomness(spec, worker) for worker in spec.workers), strict=True
        )
        self.env = spec.make_env(self.config, np.concatenate(seeds))
        self.network = ActorCritic(action_count(self.env), self.config)
        self.flat = flatten_parameters_(self.network)
        store.pull(self.flat.parameters)
        self.collector = Collector(
            self.env,
            self.network,
            num_steps=self.config.num_steps,
            gamma=self.config.gamma,
            gae_lambda=self.config.gae_lambda,
            generators=generators,
        )


class WorkerGroup(ActorGroup):
    """The actor-learners of one process; see `ActorGroup` for the arguments.

    Attributes:
        rollouts: The newest rollout of each worker.
        torso_caches: What the torso computed for it, for each worker.
    """

    def __init__(self, spec: GroupSpec, store: ParameterStore) -> None:
        super().__init__(spec, store)
        rollouts = self.collector.make_rollouts()
        self.rollouts = rollouts.unbind()
        acted_on = rollouts.observations[:, :-1].flatten(1, 2)
        self._torso_cache = self.network.torso.make_cache(acted_on)
        self.torso_caches = [self._torso_cache.worker(i) for i in range(len(self.workers))]

    def updates(self) -> Iterator[Update]:
        """Make one iteration of Algorithm S3 for every worker, and yield each update once made."""
        # Synchronize the parameters: theta' <- theta.
        self.store.pull(self.flat.parameters)
        # Act for t_max steps.
        self.collector.collect(self.rollouts, self._torso_cache)
        each = zip(self.rollouts, self.torso_caches, self.collector.episodes, strict=True)
        for rollout, torso_cache, episodes in each:
            yield self._learn(rollout, torso_cache, episodes)

    def _learn(self, rollout: Rollout, torso_cache: TorsoCache, episodes: list[Episode]) -> Update:
        # R and the values V(s_i; theta').
        output = unroll(self.network, rollout, torso_cache)
        values = output.values.detach()
        returns = lambda_returns(
            rollout.clipped_rewards,
            rollout.discounts,
            rollout.lambdas,
            values,
            output.bootstrap_value,
        )
        # Accumulate the gradient of the loss, and update theta asynchronously.
        return push_gradient(
            self.network,
            self.flat,
            self.store,
            self.config,
            rollout,
            output,
            returns,
            returns - values,
            episodes,
        )


def _randomness(spec: GroupSpec, worker: int) -> tuple[np.ndarray, np.random.Generator]:
    """A worker's seeds of its environments, and its generator of actions.

    They depend on the worker alone, not on which others its process hosts.
    """
    sequence = np.random.SeedSequence((spec.config.seed, worker, spec.incarnation))
    env_seeds, action_seed = sequence.spawn(2)
    seeds = env_seeds.generate_state(spec.config.envs_per_worker) % 2**31
    return seeds.astype(np.int64), np.random.default_rng(action_seed)
