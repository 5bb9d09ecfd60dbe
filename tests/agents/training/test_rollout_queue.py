"""The rollout queue: what comes out is what was put in, and never more than fits."""

import dataclasses

import pytest
import torch

from agents.a3c.rollout import Rollout, unroll
from agents.a3c.worker_group import GroupSpec
from agents.config import TrainConfig
from agents.networks.actor_critic import ActorCritic
from agents.training.batcher import RolloutBatcher
from agents.training.rollout_queue import RolloutLayout, RolloutQueue, entries_per_worker
from agents.training.rollout_worker import RolloutWorkerGroup
from agents.training.shared_state import SharedState
from agents.training.worker_process import WorkerRunner
from envs import Spaces
from tests.agents.tiny_env import ACTIONS, BrokenError, make_broken_env, make_tiny_env

CONFIG = TrainConfig(
    workers=2, envs_per_worker=2, num_steps=4, head="linear", learner="cpu", learner_batch=3
)
CPU = torch.device("cpu")


def make_state(config=CONFIG):
    torch.manual_seed(0)
    network = ActorCritic(Spaces(ACTIONS), config)
    return SharedState.create(network, 2, 1), RolloutQueue.create(config, network)


def make_worker(shared, queue, index=0, config=CONFIG, make_env=make_tiny_env, incarnation=0):
    spec = GroupSpec(config, make_env, range(index, index + 1), incarnation)
    return RolloutWorkerGroup(spec, shared, queue)


def make_workers(config=CONFIG):
    shared, queue = make_state(config)
    workers = [make_worker(shared, queue, i, config) for i in range(2)]
    return shared, queue, workers


@pytest.mark.parametrize("state_size", [0, 256])
def test_the_fields_of_an_entry_do_not_overlap(state_size):
    layout = RolloutLayout(num_steps=3, num_envs=2, spaces=Spaces(5), state_size=state_size)
    memory = torch.zeros(2, layout.nbytes, dtype=torch.uint8)
    views = layout.views(memory)
    for number, (name, view) in enumerate(views.items()):
        dtype, shape = layout.fields[name]
        assert (view.dtype, view.shape) == (dtype, (2, *shape))
        view.fill_(number % 2 if dtype is torch.bool else number + 1)
    for number, (name, view) in enumerate(views.items()):
        assert bool((view == (number % 2 if view.dtype is torch.bool else number + 1)).all()), name
    assert sum(v.numel() * v.element_size() for v in views.values()) <= memory.numel()


@pytest.mark.parametrize("core", ["none", "lstm"])
def test_what_comes_out_is_what_an_actor_learner_would_have_played(core):
    config = dataclasses.replace(CONFIG, core=core, learner_batch=4)
    _, queue, workers = make_workers(config)
    for _ in range(2):
        for worker in workers:
            worker.collect()
    batch = RolloutBatcher(queue, 4, CPU).next_batch().rollout
    unshared = SharedState.create(workers[0].network, 2, 2)
    own = WorkerRunner(GroupSpec(config, make_tiny_env, range(2)), unshared).group
    rollouts, bootstrap_values = [], []
    for _ in range(2):
        own.collector.collect(own.rollouts, own._torso_cache)
        for rollout in own.rollouts:
            rollouts.append({name: field.clone() for name, field in vars(rollout).items()})
            bootstrap_values.append(unroll(own.network, rollout).bootstrap_value)
    for name in rollouts[0].keys() - {"observations"}:
        expected = torch.cat([r[name] for r in rollouts], dim=1)
        torch.testing.assert_close(getattr(batch, name), expected)
    observations = torch.stack([r["observations"] for r in rollouts], dim=1)
    assert torch.equal(batch.observations, observations)
    # The observation after the last step has the value that the worker that played computes.
    output = unroll(workers[0].network, batch)
    torch.testing.assert_close(output.bootstrap_value, torch.cat(bootstrap_values))


def test_a_worker_whose_rollouts_all_wait_does_nothing_until_one_is_taken():
    _, queue, workers = make_workers()
    count = entries_per_worker(CONFIG)
    assert [bool(workers[0].collect()) for _ in range(count + 2)] == [True] * count + [False] * 2
    assert queue.waiting == count
    before, beats = queue.memory.clone(), int(queue.heartbeats[0])
    assert workers[0].collect() == []
    assert torch.equal(queue.memory, before)
    assert int(queue.heartbeats[0]) > beats  # it is alive, and waits
    assert RolloutBatcher(queue, 3, CPU).next_batch()
    assert workers[0].collect()


def test_the_rollouts_that_have_waited_longest_are_taken_first():
    _, queue, workers = make_workers()
    for index in (0, 1, 1, 0, 1, 0):
        workers[index].collect()
        queue.versions[index, (int(queue.write_count[index]) - 1) % 4] = int(
            queue.write_count.sum()
        )
    batcher = RolloutBatcher(queue, 3, CPU)
    assert [batcher.next_batch().versions for _ in range(2)] == [[1, 2, 3], [4, 5, 6]]
    assert batcher.next_batch() is None
    assert queue.waiting == 0


def test_a_rollout_that_was_not_finished_is_written_over_by_the_next_worker():
    shared, queue, workers = make_workers()
    workers[0].collect()
    torn = Rollout.from_memory(queue.layout.views(queue.memory[0, 1]))
    torn.rewards.fill_(99.0)  # as far as it came
    replacement = make_worker(shared, queue, incarnation=1)
    replacement.collect()
    workers[1].collect()
    batch = RolloutBatcher(queue, 3, CPU).next_batch()
    assert batch is not None
    assert float(batch.rollout.rewards.max()) <= 1.0


def test_what_a_learner_had_not_copied_is_there_for_the_next():
    _, queue, workers = make_workers()
    for _ in range(3):
        for index, worker in enumerate(workers):
            worker.collect()
            written = int(queue.write_count[index]) - 1
            queue.versions[index, written % 4] = int(queue.write_count.sum())
    first = RolloutBatcher(queue, 3, CPU).next_batch()
    assert queue.waiting == 3  # also those that were on their way to it when it died
    second = RolloutBatcher(queue, 3, CPU).next_batch()
    assert [first.versions, second.versions] == [[1, 2, 3], [4, 5, 6]]
    assert queue.waiting == 0


def test_there_is_always_room_for_a_batch_to_learn_from_and_one_to_wait():
    for workers in (0, 1, 2, 3, 16, 100):
        for batch in (1, 3, 8, 64):
            config = dataclasses.replace(CONFIG, workers=workers, learner_batch=batch)
            count = entries_per_worker(config)
            assert max(workers, 1) * (count - 1) >= 2 * batch
            assert count >= 2


def test_a_rollout_that_breaks_off_is_never_the_learners():
    shared, queue = make_state()
    worker = make_worker(shared, queue, make_env=make_broken_env)
    with pytest.raises(BrokenError):
        worker.collect()
    assert bool(queue.memory.any())  # it had begun
    assert queue.waiting == 0
    assert queue.acquire(0) == 0


def test_workers_of_one_process_write_what_they_would_alone_each_into_its_own_ring():
    config = dataclasses.replace(CONFIG, core="lstm")
    shared, queue = make_state(config)
    group = RolloutWorkerGroup(GroupSpec(config, make_tiny_env, range(2)), shared, queue)
    _, own_queue, workers = make_workers(config)
    for _ in range(2):
        assert len(group.collect()) == 2
        for worker in workers:
            worker.collect()
    assert queue.write_count.tolist() == [2, 2]
    for i in range(2):
        theirs, ours = (q.layout.views(q.memory[i, 1]) for q in (own_queue, queue))
        for name, field in theirs.items():
            torch.testing.assert_close(ours[name], field)


def test_what_is_played_in_the_warm_up_is_not_handed_over():
    shared, queue = make_state()
    spec = GroupSpec(CONFIG, make_tiny_env, range(2))
    warm = RolloutWorkerGroup(dataclasses.replace(spec, warmup_steps=8), shared, queue)
    cold = RolloutWorkerGroup(spec, *make_state())
    for _ in range(2):
        beats = queue.heartbeats.clone()
        assert warm.collect() == []
        assert bool((queue.heartbeats[:2] > beats[:2]).all())
    assert queue.waiting == 0
    assert [cold.collect() for _ in range(3)][-1] == warm.collect()
    assert queue.waiting == 2
    last = cold.queue.layout.views(cold.queue.memory[:, 2])
    for name, field in queue.layout.views(queue.memory[:, 0]).items():
        torch.testing.assert_close(field, last[name])


def test_workers_of_one_process_wait_while_one_of_them_has_no_free_entry():
    shared, queue = make_state()
    group = RolloutWorkerGroup(GroupSpec(CONFIG, make_tiny_env, range(2)), shared, queue)
    count = entries_per_worker(CONFIG)
    queue.write_count[0] = 1  # as if the process had died between two commits
    for _ in range(count - 1):
        assert len(group.collect()) == 2
    before, beats = queue.memory.clone(), queue.heartbeats.clone()
    assert group.collect() == []
    assert torch.equal(queue.memory, before)
    assert queue.write_count.tolist() == [count, count - 1]
    assert bool((queue.heartbeats[:2] > beats[:2]).all())
    assert RolloutBatcher(queue, 3, CPU).next_batch()
    assert len(group.collect()) == 2
