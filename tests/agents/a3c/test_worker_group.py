"""One actor-learner: its gradients, its counters, its seeds."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from agents.a3c.optimizers import OPTIMIZERS
from agents.a3c.worker_group import GroupSpec
from agents.config import TrainConfig
from agents.networks.actor_critic import ActorCritic
from agents.networks.flat_parameters import flatten
from agents.training.shared_state import Counter, SharedState
from agents.training.worker_process import WorkerRunner
from tests.agents.tiny_env import ACTIONS, TinyEnv, make_tiny_env

SMALL = TrainConfig(envs_per_worker=2, num_steps=4, total_timesteps=1000, head="linear")


def make_shared(config, workers=1):
    torch.manual_seed(config.seed)
    network = ActorCritic(ACTIONS, config)
    return SharedState.create(network, OPTIMIZERS[config.optimizer].num_state_tensors, workers)


def make_runner(config=SMALL, index=0, shared=None, **arguments):
    shared = shared or make_shared(config, workers=index + 1)
    return WorkerRunner(GroupSpec(config, make_tiny_env, index, **arguments), shared)


def make_worker(config=SMALL):
    return make_runner(config).worker


def collect(worker):
    return worker.collector.collect(worker.rollout, worker.torso_cache)


def gradients_of(worker, rollout):
    """The gradient of an update that has played this rollout; it is not applied."""
    worker.collector.collect = lambda *_: rollout
    worker.store.push = lambda _: None
    return worker.update().is_applied and worker.flat.gradients.clone()


def naive_loss(network, rollout, config):
    """The A3C loss of a rollout, step by step and environment by environment."""
    output = network(rollout.observations, rollout.initial_state, rollout.episode_starts)
    steps, envs = rollout.actions.shape
    bootstrap_value = output.values[-1].detach()
    policy = value = bonus = 0.0
    count = 0
    for b in range(envs):
        values = [*output.values[:-1, b].tolist(), bootstrap_value[b].item()]
        advantage = 0.0
        for t in reversed(range(steps)):
            reward = max(-1.0, min(1.0, rollout.rewards[t, b].item()))
            discount, trace = rollout.discounts[t, b].item(), rollout.lambdas[t, b].item()
            error = reward + discount * values[t + 1] - values[t]
            advantage = error + discount * trace * advantage
            if not rollout.mask[t, b]:
                continue
            count += 1
            log_pi = torch.log_softmax(output.logits[t, b], dim=0)
            policy = policy - log_pi[rollout.actions[t, b]] * advantage
            value = value + 0.5 * (values[t] + advantage - output.values[t, b]) ** 2
            bonus = bonus - (log_pi.exp() * log_pi).sum()
    return (policy + config.vf_coef * value - config.ent_coef * bonus) / count


@pytest.mark.parametrize("core", ["none", "lstm"])
@pytest.mark.parametrize("head", ["neurocoder", "hypernet", "linear"])
def test_the_gradient_is_that_of_the_naive_loss(head, core):
    config = dataclasses.replace(SMALL, head=head, core=core, orthogonality_coef=0.0)
    worker = make_worker(dataclasses.replace(config, max_grad_norm=1e6))
    collect(worker)
    rollout = collect(worker)
    rollout.rewards.mul_(7.0)  # so that clipping matters
    loss = naive_loss(worker.network, rollout, config)
    gradients = torch.autograd.grad(loss, list(worker.network.parameters()))
    expected = torch.cat([g.flatten() for g in gradients])
    torch.testing.assert_close(gradients_of(worker, rollout), expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("optimizer", ["adam", "rmsprop"])
def test_a_finite_gradient_whose_squares_are_not_finite_is_skipped(optimizer, monkeypatch):
    config = dataclasses.replace(
        SMALL, head="neurocoder", orthogonality_coef=1.0, optimizer=optimizer
    )
    runner = make_runner(config)
    monkeypatch.setattr(
        runner.worker.network,
        "orthogonality_loss",
        lambda: 1e25 * sum(p.sum() for p in runner.worker.network.parameters()),
    )
    before = runner.shared.parameters.clone()
    record = runner.update()
    assert bool(runner.worker.flat.gradients.isfinite().all())
    assert not record.is_applied
    assert record.scalars == {}
    assert runner.shared.skipped_updates == 1
    assert torch.equal(runner.shared.parameters, before)
    assert not bool(runner.shared.optimizer_state.any())


def test_the_task_gradient_is_clipped_before_the_orthogonality_gradient_joins():
    config = dataclasses.replace(SMALL, head="neurocoder", max_grad_norm=1e-3)
    worker = make_worker(dataclasses.replace(config, orthogonality_coef=0.0))
    rollout = collect(worker)
    task = gradients_of(worker, rollout)
    assert task.norm().item() == pytest.approx(1e-3, rel=1e-3)

    worker.config = dataclasses.replace(config, orthogonality_coef=0.7)
    both = gradients_of(worker, rollout)
    parameters = list(worker.network.parameters())
    loss = 0.7 * worker.network.orthogonality_loss()
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    orthogonality = torch.cat(
        [
            torch.zeros(p.numel()) if g is None else g.flatten()
            for p, g in zip(parameters, gradients, strict=True)
        ]
    )
    torch.testing.assert_close(both, task + orthogonality, rtol=1e-4, atol=1e-7)


def test_the_second_updates_gradients_arrive():
    runner = make_runner()
    runner.update()
    first_gradient = runner.worker.flat.gradients.clone()
    first_parameters = runner.shared.parameters.clone()
    runner.update()
    assert not torch.equal(runner.worker.flat.gradients, first_gradient)
    assert runner.worker.flat.gradients.norm() > 0
    assert not torch.equal(runner.shared.parameters, first_parameters)


def test_two_workers_change_the_same_parameters_and_see_each_others_changes():
    shared = make_shared(SMALL, workers=2)
    workers = [make_runner(SMALL, index, shared) for index in (0, 1)]
    workers[0].update()
    after_first = shared.parameters.clone()
    workers[1].update()
    torch.testing.assert_close(workers[1].worker.flat.parameters, after_first)
    assert not torch.equal(shared.parameters, after_first)
    assert shared.updates == 2


def test_counters_count_agent_steps_and_leave_out_ignored_steps():
    runner = make_runner()
    agent_steps = 0
    for _ in range(3):
        runner.update()
        agent_steps += int(runner.worker.rollout.mask.sum())
    assert runner.shared.global_step == agent_steps
    assert agent_steps < 3 * 4 * 2  # the tiny game ends often enough


def test_the_learning_rate_falls_linearly_to_zero():
    runner = make_runner()
    rates = []
    store = runner.worker.store
    store._optimizer.step = lambda _, rate, __: rates.append(rate)
    for step in (0, 500, 1000, 1500):
        runner.shared.counters[0, Counter.STEPS] = step
        store.push(runner.worker.flat.gradients)
    full = SMALL.learning_rate
    assert rates == pytest.approx([full, full / 2, 0.0, 0.0])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_is_skipped_and_counted(bad):
    runner = make_runner()
    before = runner.shared.parameters.clone()
    critic = runner.worker.network.critic.forward
    runner.worker.network.critic.forward = lambda x: critic(x) * bad
    record = runner.update()
    assert not record.is_applied
    assert record.scalars == {}
    assert runner.shared.skipped_updates == 1
    assert torch.equal(runner.shared.parameters, before)

    runner.worker.network.critic.forward = critic
    assert runner.update().is_applied
    assert runner.shared.updates == 1


def seeds_of(config, index, incarnation):
    seen = []

    def spy(config, seeds):  # noqa: ARG001
        seen.append(seeds)
        return TinyEnv(len(seeds))

    WorkerRunner(GroupSpec(config, spy, index, incarnation), make_shared(config, index + 1))
    return seen[0]


def test_every_game_of_every_worker_and_incarnation_has_its_own_seed():
    seeds = [seeds_of(SMALL, index, life) for index in range(3) for life in range(2)]
    seeds += [seeds_of(dataclasses.replace(SMALL, seed=2), 0, 0)]
    flat = np.concatenate(seeds)
    assert len(set(flat.tolist())) == len(flat)
    assert flat.dtype == np.int64
    assert flat.min() >= 0
    assert flat.max() < 2**31


def test_the_same_seed_gives_the_same_games():
    assert seeds_of(SMALL, 1, 0).tolist() == seeds_of(SMALL, 1, 0).tolist()


def test_only_neurocoder_heads_are_diagnosed():
    record = make_runner(dataclasses.replace(SMALL, head="neurocoder")).update()
    for head in ("actor", "critic"):
        for name in ("attention_entropy", "slot_usage", "singular_values", "residual_gate"):
            assert math.isfinite(record.scalars[f"neurocoder/{head}/{name}"])
        assert 0 < record.scalars[f"neurocoder/{head}/attention_entropy"] <= 1
    assert not any(tag.startswith("neurocoder") for tag in make_runner().update().scalars)


def test_the_worker_starts_from_the_shared_parameters():
    shared = make_shared(SMALL)
    worker = make_runner(SMALL, 0, shared).worker
    torch.testing.assert_close(flatten(worker.network), shared.parameters)
