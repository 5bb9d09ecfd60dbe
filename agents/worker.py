"""The actor-learner: Algorithm S3 of the A3C paper, with n-step returns or GAE."""

import contextlib
import math
import os
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection

import numpy as np
import torch

from agents.children import enter_child
from agents.config import TrainConfig
from agents.diagnostics import head_statistics
from agents.losses import entropy, explained_variance, policy_gradient_loss, value_loss
from agents.messages import send
from agents.network import ActorCritic
from agents.optimizers import OPTIMIZERS
from agents.records import CrashRecord, UpdateRecord
from agents.returns import lambda_returns
from agents.rollout import BatchedEnvironment, Collector, Rollout
from agents.shared import FlatModule, SharedState
from envs import TrainingEnv, resolve_game

# Opening the heads costs some twenty forward passes; once in so many updates it is not noticed.
UPDATES_BETWEEN_DIAGNOSTICS = 100

EnvironmentFactory = Callable[[TrainConfig, np.ndarray], BatchedEnvironment]


def make_training_env(config: TrainConfig, seeds: np.ndarray) -> TrainingEnv:
    """The worker's games, one for each seed."""
    return TrainingEnv(
        resolve_game(config.game),
        len(seeds),
        seeds=seeds,
        sticky_actions=config.sticky_actions,
        noop_max=config.noop_max,
        fire_reset=config.fire_reset,
        max_frames=config.max_frames,
        full_action_space=config.full_action_space,
    )


class Worker:
    """One actor-learner.

    Args:
        index: which of the workers.
        config: the settings.
        shared: parameters, statistics and counters.
        make_env: makes its environments from the settings and their seeds, shape (B,).
        incarnation: differs at every start of this worker, also in a resumed run; seeds its games.
    """

    def __init__(
        self,
        index: int,
        config: TrainConfig,
        shared: SharedState,
        make_env: EnvironmentFactory = make_training_env,
        incarnation: int = 0,
    ) -> None:
        self.index, self.config, self.shared = index, config, shared
        sequence = np.random.SeedSequence((config.seed, index, incarnation))
        env_seeds, action_seed = sequence.spawn(2)
        seeds = env_seeds.generate_state(config.envs_per_worker) % 2**31
        env = make_env(config, seeds.astype(np.int64))
        generator = torch.Generator().manual_seed(int(action_seed.generate_state(1)[0]))

        self.env = env
        self.network = ActorCritic(env.num_actions, config)
        self.flat = FlatModule(self.network)
        self.pull()
        optimizer = OPTIMIZERS[config.optimizer]
        self.optimizer = optimizer(shared.parameters, shared.statistics, eps=config.optimizer_eps)
        self.collector = Collector(
            env,
            self.network,
            num_steps=config.num_steps,
            gamma=config.gamma,
            gae_lambda=config.gae_lambda,
            generator=generator,
        )

    def update(self) -> UpdateRecord:
        """Play t_max steps, learn from them, and change the shared parameters."""
        self.pull()
        rollout = self.collector.collect()
        scalars = self.differentiate(rollout)
        counters = self.shared.counters[self.index]
        if scalars:
            self.push()
            if counters[1] % UPDATES_BETWEEN_DIAGNOSTICS == 0 and self.index == 0:
                scalars |= head_statistics(self.network, rollout)
            counters[1] += 1
        else:
            counters[2] += 1
        counters[0] += int(rollout.valid.sum())
        return UpdateRecord(self.index, rollout.episodes, scalars)

    def pull(self) -> None:
        """Take the newest shared parameters."""
        self.flat.parameters.copy_(self.shared.parameters)

    def push(self) -> None:
        """Apply the gradient to the shared parameters."""
        learning_rate = self.config.learning_rate_at(self.shared.global_step)
        self.optimizer.step(self.flat.gradients, learning_rate, self.shared.updates)

    def differentiate(self, rollout: Rollout) -> dict[str, float]:
        """Leave the gradient of the loss in `self.flat.gradients`; return what is to be logged.

        The result is empty, and the gradient of no use, where its norm is not finite.
        """
        config = self.config
        output = self.network.judge(
            rollout.recall(self.network), rollout.initial_state, rollout.starts
        )
        returns = lambda_returns(
            rollout.rewards.clamp(-1, 1),
            rollout.discounts,
            rollout.traces,
            output.values.detach(),
            rollout.bootstrap_value,
        )
        mask = rollout.valid
        policy = policy_gradient_loss(
            output.logits, rollout.actions, returns - output.values.detach(), mask
        )
        value = value_loss(output.values, returns, mask)
        bonus = entropy(output.logits, mask)
        task = policy + config.vf_coef * value - config.ent_coef * bonus

        self.flat.gradients.zero_()
        task.backward()
        norm = float(self.flat.gradients.norm())
        if norm > config.max_grad_norm:
            self.flat.gradients.mul_(config.max_grad_norm / norm)
        # Only now the orthogonality gradient: its norm is no business of the task's clipping.
        orthogonality = self.network.orthogonality_loss()
        if orthogonality.requires_grad and config.orthogonality_coef > 0:
            (config.orthogonality_coef * orthogonality).backward()
        # The norm, for it overflows where an optimizer's squares of the gradient would; and to ask
        # every number would take a twentieth of the update.
        if not math.isfinite(norm) or not math.isfinite(float(self.flat.gradients.norm())):
            return {}
        return {
            "losses/policy_loss": policy.item(),
            "losses/value_loss": value.item(),
            "losses/entropy": bonus.item(),
            "losses/explained_variance": explained_variance(output.values, returns, mask).item(),
            "losses/grad_norm": norm,
            "losses/orthogonality": orthogonality.item(),
        }


def run_worker(
    connection: Connection,
    index: int,
    config: TrainConfig,
    shared: SharedState,
    make_env: EnvironmentFactory,
    incarnation: int,
) -> None:
    """The worker process: update until the budget is spent or the parent says stop.

    Args:
        connection: to the parent. Records go through it; its end says that the parent is gone.
        index: of this worker.
        config: the settings.
        shared: what all workers share.
        make_env: makes its environments.
        incarnation: differs at every start of this worker.
    """
    enter_child(connection)
    try:
        worker = Worker(index, config, shared, make_env, incarnation)
        while not shared.stop and shared.global_step < config.total_timesteps:
            send(connection, worker.update())
    except Exception:
        with contextlib.suppress(OSError):  # the parent may be what is gone
            send(connection, CrashRecord(f"worker {index}", traceback.format_exc()))
        os._exit(1)
