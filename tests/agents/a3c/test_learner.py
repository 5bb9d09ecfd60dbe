"""The one learner: its gradient, its bookkeeping, and that it learns."""

import dataclasses
import math
from types import SimpleNamespace

import pytest
import torch

from agents.a3c.update import Update
from agents.a3c.worker_group import GroupSpec
from agents.checkpoint import list_checkpoints, load_checkpoint
from agents.cli import parse_args
from agents.config import TrainConfig
from agents.monitoring.records import RolloutRecord
from agents.networks.actor_critic import ActorCritic
from agents.run_folder import resolve_run
from agents.training.learner_process import LearnerRunner, SerialLearner
from agents.training.rollout_queue import RolloutQueue
from agents.training.rollout_worker import RolloutWorkerGroup
from agents.training.shared_state import SharedState
from agents.training.supervisor import train
from agents.training.worker_process import WorkerRunner
from envs import Spaces
from tests.agents.a3c.test_worker_group import learning_rates
from tests.agents.tiny_env import ACTIONS, OPTIMUM, make_tiny_env
from tests.agents.training.test_learning import (
    CONFIG,
    learns_with_one_of_three_seeds,
    play_greedily,
    trained_network,
)

SMALL = TrainConfig(
    workers=0,
    envs_per_worker=2,
    num_steps=4,
    total_timesteps=200,
    head="linear",
    learner="cpu",
    learner_batch=2,
    log_interval=0.05,
)
LEARNING = dataclasses.replace(CONFIG, head="linear", learner="cpu", learner_batch=1)


def make_state(config):
    torch.manual_seed(config.seed)
    network = ActorCritic(Spaces(ACTIONS), config)
    shared = SharedState.for_training(network, config)
    return shared, RolloutQueue.create(config, network)


def make_learner(config, device="cpu"):
    """A learner for whom one batch waits that was played with its own parameters."""
    shared, queue = make_state(config)
    worker = RolloutWorkerGroup(GroupSpec(config, make_tiny_env), shared, queue)
    for _ in range(config.learner_batch):
        worker.collect()
    return LearnerRunner(dataclasses.replace(config, learner=device), shared, queue)


def learn(runner, rollout=None):
    """Compute a gradient and do not apply it."""
    runner.learner.store = SimpleNamespace(push=lambda _: None)
    return runner.learner.update(rollout or runner.batcher.next_batch().rollout)


HEADS_AND_CORES = [(h, c) for h in ("neurocoder", "hypernet", "linear") for c in ("none", "lstm")]


@pytest.mark.parametrize(
    ("head", "core", "bonus"),
    [(*each, "none") for each in HEADS_AND_CORES]
    + [("neurocoder", "lstm", "pixel-counts"), ("linear", "none", "simhash")],
)
def test_on_policy_its_gradient_is_the_workers(head, core, bonus):
    config = dataclasses.replace(SMALL, head=head, core=core, num_steps=7, learner_batch=1)
    if bonus != "none":
        config = dataclasses.replace(config, bonus=bonus, bonus_scale=0.3)
    learner = make_learner(config)
    worker = WorkerRunner(GroupSpec(config, make_tiny_env), make_state(config)[0])
    [expected] = worker.group.updates()
    update = learn(learner)
    theirs, ours = worker.group.flat.gradients, learner.learner.flat.gradients
    assert theirs.norm() > 0
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    assert update.metrics == pytest.approx(expected.metrics, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("core", ["none", "lstm"])
def test_a_batchs_gradient_is_the_mean_of_its_rollouts(core):
    config = dataclasses.replace(SMALL, core=core, max_grad_norm=1e6)
    learner = make_learner(dataclasses.replace(config, learner_batch=3))
    singles = make_learner(dataclasses.replace(config, learner_batch=3))
    singles.batcher.batch_size = 1
    singles.batcher._memories = [memory[:1] for memory in singles.batcher._memories]
    total, count = 0.0, 0
    for _ in range(3):
        agent_steps = learn(singles).agent_steps
        total = total + agent_steps * singles.learner.flat.gradients
        count += agent_steps
    learn(learner)
    torch.testing.assert_close(learner.learner.flat.gradients, total / count, rtol=1e-4, atol=1e-6)


def test_off_policy_it_weighs_actions_by_what_it_would_have_done_itself():
    learner = make_learner(dataclasses.replace(SMALL, learner_batch=1, ent_coef=0.0, vf_coef=0.0))
    rollout = learner.batcher.next_batch().rollout
    learn(learner, rollout)
    before = learner.learner.flat.gradients.clone()
    # The actions taken were far likelier than the learner would have them: weights near zero.
    rollout.behaviour_logits.scatter_(-1, rollout.actions.unsqueeze(-1), 50.0)
    learn(learner, rollout)
    ratio = (learner.learner.flat.gradients.norm() / before.norm()).item()
    assert 0 < ratio < 0.8
    # And far less likely: weights that are clipped at one.
    rollout.behaviour_logits.scatter_(-1, rollout.actions.unsqueeze(-1), -50.0)
    learn(learner, rollout)
    torch.testing.assert_close(learner.learner.flat.gradients, before, rtol=1e-3, atol=1e-6)


@pytest.mark.gpu
@pytest.mark.parametrize(("head", "core"), HEADS_AND_CORES)
def test_the_gradient_on_cuda_is_the_one_on_the_cpu(head, core):
    config = dataclasses.replace(SMALL, head=head, core=core, num_steps=7)
    there, here = make_learner(config, "cuda"), make_learner(config)
    for _ in range(2):
        updates = [
            runner.learner.update(runner.batcher.next_batch().rollout) for runner in (there, here)
        ]
        assert updates[0].metrics == pytest.approx(updates[1].metrics, rel=1e-3, abs=1e-5)
        torch.testing.assert_close(
            there.learner.flat.gradients.cpu(), here.learner.flat.gradients, rtol=1e-3, atol=1e-5
        )
        for learner in (there, here):
            learner.store.publish()
            spec = GroupSpec(config, make_tiny_env)
            worker = RolloutWorkerGroup(spec, learner.shared, learner.queue)
            for _ in range(config.learner_batch):
                worker.collect()
    torch.testing.assert_close(
        there.shared.parameters, here.shared.parameters, rtol=1e-3, atol=1e-4
    )


@pytest.mark.parametrize("optimizer", ["adam", "rmsprop"])
def test_its_step_is_the_workers_step(optimizer):
    config = dataclasses.replace(SMALL, optimizer=optimizer, learner_batch=1)
    learner = make_learner(config)
    worker = WorkerRunner(GroupSpec(config, make_tiny_env), make_state(config)[0])
    record = learner.update()
    learner.sync_optimizer_state()
    list(worker.updates())
    assert record.metrics["a3c/policy_lag"] == 0
    for name in ("parameters", "optimizer_state"):
        ours, theirs = getattr(learner.shared, name), getattr(worker.shared, name)
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-6)
    assert learner.shared.counters.tolist() == worker.shared.counters.tolist()


def test_policy_lag_counts_the_updates_since_the_parameters_that_played_were_pulled():
    config = dataclasses.replace(SMALL, learner_batch=1)
    shared, queue = make_state(config)
    worker = RolloutWorkerGroup(GroupSpec(config, make_tiny_env), shared, queue)
    for _ in range(3):
        worker.collect()
    learner = LearnerRunner(config, shared, queue)
    lags = [learner.update().metrics["a3c/policy_lag"] for _ in range(3)]
    assert lags == [0, 1, 2]
    worker.collect()
    assert learner.update().metrics["a3c/policy_lag"] == 0


def test_its_learning_rate_falls_linearly_to_zero():
    learner, full = make_learner(SMALL), SMALL.learning_rate
    rates = learning_rates(learner.learner.store, learner.shared, (0, 100, 200, 300))
    assert rates == pytest.approx([full, full / 2, 0.0, 0.0])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_is_skipped_and_counted(bad):
    learner = make_learner(SMALL)
    before = learner.shared.parameters.clone()
    critic = learner.learner.network.critic.forward
    learner.learner.network.critic.forward = lambda x: critic(x) * bad
    record = learner.update()
    assert not record.is_applied
    assert record.metrics == {}
    assert (learner.shared.updates, learner.shared.skipped_updates) == (0, 1)
    assert torch.equal(learner.shared.parameters, before)
    assert learner.shared.global_step > 0


def test_without_processes_it_takes_turns_with_the_worker():
    shared, queue = make_state(SMALL)
    both = SerialLearner(GroupSpec(SMALL, make_tiny_env), shared, queue)
    kinds = [type(record) for _ in range(6) for record in both.updates()]
    assert kinds == [RolloutRecord, RolloutRecord, Update] * 2
    assert bool(shared.optimizer_state.any())


def newest(folder):
    return load_checkpoint(list_checkpoints(folder / "checkpoints")[-1])


def test_without_processes_the_same_seed_gives_bit_identical_parameters(tmp_path):
    config = dataclasses.replace(SMALL, head="neurocoder", core="lstm")
    checkpoints = []
    for name in ("a", "b"):
        folder = tmp_path / name
        assert train(dataclasses.replace(config, run_dir=str(folder)), (), make_tiny_env) == 0
        checkpoints.append(newest(folder / "latest"))
    a, b = (checkpoint.parameters for checkpoint in checkpoints)
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.slow
@pytest.mark.parametrize("head", ["linear", "neurocoder"])
def test_it_learns_the_tiny_game_to_its_optimum(head, tmp_path):
    config = dataclasses.replace(LEARNING, head=head)
    assert play_greedily(trained_network(config, tmp_path)) == OPTIMUM


def test_it_learns_it_from_worker_processes_too(tmp_path):
    config = dataclasses.replace(LEARNING, workers=2, envs_per_worker=4, learner_batch=2)
    assert learns_with_one_of_three_seeds(config, tmp_path)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("worker", "cpu"),
        ("cpu", "worker"),
        pytest.param("worker", "cuda", marks=pytest.mark.gpu),
        pytest.param("cuda", "cpu", marks=pytest.mark.gpu),
    ],
)
def test_a_run_goes_on_with_the_other_kind_of_learner(first, second, tmp_path):
    config = dataclasses.replace(SMALL, learner=first, run_dir=str(tmp_path))
    assert train(config, (), make_tiny_env) == 0
    folder = resolve_run(tmp_path / "latest")
    before = newest(folder)
    assert all(bool(t.any()) for t in before.optimizer_state.values())
    flags = ["--resume", str(folder), "--learner", second, "--total-timesteps", "400"]
    resumed = parse_args(flags)
    assert train(resumed, (), make_tiny_env) == 0
    after = newest(folder)
    assert after.global_step >= 400
    assert after.training_state.updates > before.training_state.updates
    for group in ("parameters", "optimizer_state"):
        shapes = [{n: t.shape for n, t in getattr(c, group).items()} for c in (before, after)]
        assert shapes[0] == shapes[1]
    # They were gone on with, not begun anew: what came in between is a small change.
    old, new = (
        torch.cat([c.parameters[name].flatten() for name in before.parameters])
        for c in (before, after)
    )
    assert 0 < (new - old).norm() < 0.1 * old.norm()
