"""The actor-learners of one process: Algorithm S3 of the A3C paper, with n-step returns or GAE.

Every worker has its own environments, rollout, gradient and update. The workers of a process share
one copy of the parameters, which is pulled once; they act and learn in one batch. Their gradients
are separate, and pushed one after the other.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from torch import Tensor

import envs
from agents.a3c.bonus import make_bonus
from agents.a3c.collector import Collector, spaces_of
from agents.a3c.gradients import orthogonality_gradient
from agents.a3c.losses import A3CLoss, a3c_loss
from agents.a3c.parameter_store import ParameterStore
from agents.a3c.returns import lambda_returns, transform_rewards
from agents.a3c.rollout import Rollout, unroll_workers
from agents.a3c.update import Update, push_gradient, share_observations
from agents.config import TrainConfig
from agents.networks.actor_critic import ActorCritic
from agents.networks.flat_parameters import flatten_parameters_, repeat_parameters

EnvironmentFactory = Callable[[TrainConfig, np.ndarray], VectorEnv[Any, Any, Any]]
GroupClass = Callable[["GroupSpec", ParameterStore], "WorkerGroup"]


def make_training_env(config: TrainConfig, seeds: np.ndarray) -> VectorEnv[Any, Any, Any]:
    """Make the environments of a group of workers, one for each seed."""
    return envs.make_training_env(config.env, seeds)


def make_envs(
    make_env: EnvironmentFactory, config: TrainConfig, seeds: np.ndarray
) -> VectorEnv[Any, Any, Any]:
    """Make environments, one for each seed.

    Raises:
        UnusableEnvironmentError: `make_env` makes another number of them, or a single one that is
            not a `VectorEnv`.
    """
    env = make_env(config, seeds)
    found = getattr(env, "num_envs", None)
    if found != len(seeds):
        env.close()
        got = type(env).__name__ if found is None else f"{found} for {len(seeds)}"
        raise envs.UnusableEnvironmentError(
            f"make_env must make a VectorEnv with an environment for each seed, got {got}"
        )
    return env


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
        warmup_steps: Agent steps that every environment plays before its worker learns; rounded
            up to whole rollouts. See `ActorGroup.warm_up`.
        group_class: Makes the workers of a process, where they learn themselves; importable by
            name, because it is sent to other processes.
    """

    config: TrainConfig
    make_env: EnvironmentFactory = make_training_env
    workers: range = range(1)
    incarnation: int = 0
    warmup_steps: int = 0
    group_class: GroupClass = field(default_factory=lambda: WorkerGroup)

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
        self._warmup_left = spec.warmup_steps
        seeds, generators = zip(
            *(_randomness(spec, worker) for worker in spec.workers), strict=True
        )
        self.env = make_envs(spec.make_env, self.config, np.concatenate(seeds))
        self.network = ActorCritic(spaces_of(self.env), self.config)
        self.flat = flatten_parameters_(self.network)
        store.pull(self.flat.parameters)
        self.collector = Collector(
            self.env,
            self.network,
            num_steps=self.config.num_steps,
            gamma=self.config.gamma,
            gae_lambda=self.config.gae_lambda,
            life_loss_ends_return=self.config.life_loss_ends_return,
            generators=generators,
            bonus=make_bonus(self.config, self.network.spaces, store.bonus_counts),
        )

    def warm_up(self, rollouts: Sequence[Rollout]) -> bool:
        """Play a rollout of each worker that nobody learns from, unless the warm-up is over.

        New environments all begin an episode at the same moment. A trained policy that learns from
        one part of the episodes at a time loses what it knew of the others; episodes of different
        lengths soon drift apart. Nothing is counted, neither steps nor episodes nor for a bonus.

        Args:
            rollouts: One for each worker, overwritten.

        Returns:
            Whether anything was played: false once the warm-up is over.
        """
        if self._warmup_left <= 0:
            return False
        self._warmup_left -= self.config.num_steps
        self.store.pull(self.flat.parameters)
        self.collector.collect(rollouts, with_bonus=False)
        return True


class WorkerGroup(ActorGroup):
    """The actor-learners of one process; see `ActorGroup` for the arguments.

    Attributes:
        rollouts: The newest rollout of each worker.
        torso_caches: What the torso computed for each of these rollouts.
    """

    def __init__(self, spec: GroupSpec, store: ParameterStore) -> None:
        super().__init__(spec, store)
        self._all_rollouts = self.collector.make_rollouts()
        self.rollouts = self._all_rollouts.unbind()
        acted_on = self._all_rollouts.observations[:, :-1].flatten(1, 2)
        self._torso_cache = self.network.torso.make_cache(acted_on)
        self.torso_caches = [self._torso_cache.worker(i) for i in range(len(self.workers))]
        # Gradients are taken of these, per worker: features, and parameters of core and heads.
        self._features = self._torso_cache.features.detach().requires_grad_()
        self._parameters = {
            name: parameter
            for name, parameter in repeat_parameters(self.network, len(self.workers)).items()
            if not name.startswith("torso.")
        }

    def updates(self) -> Iterator[Update]:
        """Make one iteration of Algorithm S3 for every worker, and yield each update once made."""
        # Synchronize the parameters: theta' <- theta.
        self.store.pull(self.flat.parameters)
        # Act for t_max steps.
        self.collector.collect(self.rollouts, self._torso_cache)
        rollouts = self._all_rollouts
        share_observations(self.network, self.store, rollouts.observations[:, :-1])
        # R and the values V(s_i; theta'), of all workers at once.
        output = unroll_workers(self.network, rollouts, self._features, self._parameters)
        values = output.values.detach()
        rewards = transform_rewards(rollouts.rewards, self.config.reward) + rollouts.bonuses
        returns = lambda_returns(
            rewards.transpose(0, 1),
            rollouts.discounts.transpose(0, 1),
            rollouts.lambdas.transpose(0, 1),
            values.transpose(0, 1),
            output.bootstrap_value,
        ).transpose(0, 1)
        # Accumulate the gradient of the loss of each worker.
        loss = a3c_loss(
            output.logits,
            output.values,
            rollouts.actions,
            returns,
            returns - values,
            rollouts.mask,
            vf_coef=self.config.vf_coef,
            ent_coef=self.config.ent_coef,
        )
        orthogonality = orthogonality_gradient(self.network, self.config)
        each = zip(
            self.rollouts,
            self._gradients(loss.total),
            map(A3CLoss._make, zip(*loss, strict=True)),
            self.collector.episodes,
            strict=True,
        )
        # Update theta asynchronously.
        for rollout, gradients, own_loss, episodes in each:
            self.flat.write_gradients(gradients)
            yield push_gradient(
                self.flat, self.store, self.config, rollout, own_loss, orthogonality, episodes
            )

    def _gradients(self, losses: Tensor) -> Iterator[list[Tensor]]:
        """Each worker's gradient of its loss, for all parameters in the module's order."""
        by = [self._features, *self._parameters.values()]
        dfeatures, *gradients = torch.autograd.grad(losses.sum(), by, materialize_grads=True)
        for i, torso_cache in enumerate(self.torso_caches):
            of_torso = self.network.torso.backward(dfeatures[i], torso_cache)
            yield [*of_torso, *(gradient[i] for gradient in gradients)]


def _randomness(spec: GroupSpec, worker: int) -> tuple[np.ndarray, np.random.Generator]:
    """The seeds of a worker's environments, and its generator of actions.

    They depend on the worker alone, not on which others its process hosts.
    """
    sequence = np.random.SeedSequence((spec.config.seed, worker, spec.incarnation))
    env_seeds, action_seed = sequence.spawn(2)
    seeds = env_seeds.generate_state(spec.config.envs_per_worker) % 2**31
    return seeds.astype(np.int64), np.random.default_rng(action_seed)
