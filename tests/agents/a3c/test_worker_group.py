"""The actor-learners of a process: gradients, counters, seeds."""

import copy
import dataclasses
import math

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box

from agents.a3c.worker_group import GroupSpec, WorkerGroup
from agents.config import TrainConfig
from agents.networks.actor_critic import ActorCritic
from agents.networks.flat_parameters import flatten
from agents.training.parameter_stores import SharedMemoryStore
from agents.training.shared_state import Counter, SharedState
from agents.training.worker_process import WorkerRunner
from envs import Spaces, UnusableEnvironmentError
from tests.agents.tiny_env import ACTIONS, ROOMS, TinyEnv, make_tiny_env

SMALL = TrainConfig(envs_per_worker=2, num_steps=4, total_timesteps=1000, head="linear")


def make_shared(config, workers=1):
    torch.manual_seed(config.seed)
    network = ActorCritic(Spaces(ACTIONS), config)
    return SharedState.for_training(network, dataclasses.replace(config, workers=workers))


def make_runner(config=SMALL, workers=range(1), shared=None, **arguments):
    shared = shared or make_shared(config, workers.stop)
    return WorkerRunner(GroupSpec(config, make_tiny_env, workers, **arguments), shared)


def make_group(config=SMALL, **arguments):
    return make_runner(config, **arguments).group


def collect(group):
    """Play a rollout of each worker; return the first worker's."""
    group.collector.collect(group.rollouts, group._torso_cache)
    return group.rollouts[0]


def gradients_of(group):
    """Each worker's gradient for the rollouts that the group has played; none is applied."""
    group.collector.collect = lambda *_: None
    group.store.push = lambda _: None
    return [update.is_applied and group.flat.gradients.clone() for update in group.updates()]


def update(runner):
    """Make one update with a runner of one worker."""
    [record] = runner.updates()
    return record


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
            reward = rollout.rewards[t, b].item()
            if config.reward == "symlog":
                reward = math.copysign(math.log(1 + abs(reward)), reward)
            else:
                reward = max(-1.0, min(1.0, reward))
            reward += rollout.bonuses[t, b].item()
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
    group = make_group(dataclasses.replace(config, max_grad_norm=1e6))
    collect(group)
    rollout = collect(group)
    rollout.rewards.mul_(7.0)  # so that clipping matters
    loss = naive_loss(group.network, rollout, config)
    gradients = torch.autograd.grad(loss, list(group.network.parameters()))
    expected = torch.cat([g.flatten() for g in gradients])
    torch.testing.assert_close(gradients_of(group)[0], expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("bonus", ["pixel-counts", "simhash"])
def test_the_bonus_comes_on_top_of_the_reward_that_is_learned_from(bonus):
    scale = {"bonus": bonus, "bonus_scale": 0.3, "max_grad_norm": 1e6, "reward": "symlog"}
    group = make_group(dataclasses.replace(SMALL, **scale))
    collect(group)
    rollout = collect(group)
    rollout.rewards.mul_(7.0).sub_(2.0)
    assert (rollout.bonuses > 0).tolist() == rollout.mask.tolist()
    assert not bool(rollout.mask.all())
    loss = naive_loss(group.network, rollout, group.config)
    gradients = torch.autograd.grad(loss, list(group.network.parameters()))
    expected = torch.cat([g.flatten() for g in gradients])
    torch.testing.assert_close(gradients_of(group)[0], expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("optimizer", ["adam", "rmsprop"])
def test_a_finite_gradient_whose_squares_are_not_finite_is_skipped(optimizer, monkeypatch):
    config = dataclasses.replace(
        SMALL, head="neurocoder", orthogonality_coef=1.0, optimizer=optimizer
    )
    runner = make_runner(config)
    monkeypatch.setattr(
        runner.group.network,
        "orthogonality_loss",
        lambda: 1e25 * sum(p.sum() for p in runner.group.network.parameters()),
    )
    before = runner.shared.parameters.clone()
    record = update(runner)
    assert bool(runner.group.flat.gradients.isfinite().all())
    assert not record.is_applied
    assert record.metrics == {}
    assert runner.shared.skipped_updates == 1
    assert torch.equal(runner.shared.parameters, before)
    assert not bool(runner.shared.optimizer_state.any())


def test_the_task_gradient_is_clipped_before_the_orthogonality_gradient_joins():
    config = dataclasses.replace(SMALL, head="neurocoder", max_grad_norm=1e-3)
    group = make_group(dataclasses.replace(config, orthogonality_coef=0.0))
    collect(group)
    task = gradients_of(group)[0]
    assert task.norm().item() == pytest.approx(1e-3, rel=1e-3)

    group.config = dataclasses.replace(config, orthogonality_coef=0.7)
    both = gradients_of(group)[0]
    parameters = list(group.network.parameters())
    loss = 0.7 * group.network.orthogonality_loss()
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    orthogonality = torch.cat(
        [
            torch.zeros(p.numel()) if g is None else g.flatten()
            for p, g in zip(parameters, gradients, strict=True)
        ]
    )
    torch.testing.assert_close(both, task + orthogonality, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(("largest", "clipped"), [(1e-3, 1.0), (1e6, 0.0)])
def test_whether_an_update_was_clipped_is_in_its_metrics(largest, clipped):
    runner = make_runner(dataclasses.replace(SMALL, max_grad_norm=largest))
    record = update(runner)
    assert record.metrics["losses/clipped_updates"] == clipped
    norm = runner.group.flat.gradients.norm().item()
    before = record.metrics["losses/grad_norm"]
    assert norm == pytest.approx(largest if clipped else before, rel=1e-3)


def test_the_second_updates_gradients_arrive():
    runner = make_runner()
    update(runner)
    first_gradient = runner.group.flat.gradients.clone()
    first_parameters = runner.shared.parameters.clone()
    update(runner)
    assert not torch.equal(runner.group.flat.gradients, first_gradient)
    assert runner.group.flat.gradients.norm() > 0
    assert not torch.equal(runner.shared.parameters, first_parameters)


def test_two_workers_change_the_same_parameters_and_see_each_others_changes():
    shared = make_shared(SMALL, workers=2)
    workers = [make_runner(SMALL, range(i, i + 1), shared) for i in (0, 1)]
    update(workers[0])
    after_first = shared.parameters.clone()
    update(workers[1])
    torch.testing.assert_close(workers[1].group.flat.parameters, after_first)
    assert not torch.equal(shared.parameters, after_first)
    assert shared.updates == 2


def test_counters_count_agent_steps_and_leave_out_ignored_steps():
    runner = make_runner()
    agent_steps = 0
    for _ in range(3):
        update(runner)
        agent_steps += int(runner.group.rollouts[0].mask.sum())
    assert runner.shared.global_step == agent_steps
    assert agent_steps < 3 * 4 * 2  # the tiny game ends often enough


def learning_rates(store, shared, steps):
    """Those of pushes after so many agent steps."""
    rates = []
    store._optimizer.step = lambda _, rate, __: rates.append(rate)
    for step in steps:
        shared.counters[0, Counter.STEPS] = step
        store.push(shared.parameters)
    return rates


def test_the_learning_rate_falls_linearly_to_zero():
    runner, full = make_runner(), SMALL.learning_rate
    rates = learning_rates(runner.group.store, runner.shared, (0, 500, 1000, 1500))
    assert rates == pytest.approx([full, full / 2, 0.0, 0.0])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_is_skipped_and_counted(bad):
    runner = make_runner()
    before = runner.shared.parameters.clone()
    critic = runner.group.network.critic.forward
    runner.group.network.critic.forward = lambda x: critic(x) * bad
    record = update(runner)
    assert not record.is_applied
    assert record.metrics == {}
    assert runner.shared.skipped_updates == 1
    assert torch.equal(runner.shared.parameters, before)

    runner.group.network.critic.forward = critic
    assert update(runner).is_applied
    assert runner.shared.updates == 1


class SeededEnv(TinyEnv):
    """Tiny games that begin in different rooms, by their seeds."""

    def __init__(self, seeds):
        super().__init__(len(seeds))
        self._first_rooms = seeds % ROOMS

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed, options=options)
        self._rooms[:] = self._first_rooms
        return self._screens(), {}


def make_seeded_env(config, seeds):  # noqa: ARG001
    return SeededEnv(seeds)


@pytest.mark.parametrize("core", ["none", "lstm"])
@pytest.mark.parametrize("head", ["neurocoder", "hypernet", "linear"])
def test_a_worker_plays_and_learns_the_same_alone_and_among_others(head, core):
    config = dataclasses.replace(SMALL, head=head, core=core, num_steps=5)
    workers = range(2, 5)
    shared = make_shared(config, workers.stop)
    store = SharedMemoryStore(shared, config)
    together = WorkerGroup(GroupSpec(config, make_seeded_env, workers, incarnation=3), store)
    for _ in range(3):  # so that episodes, states and generators carry on
        collect(together)
    gradients = gradients_of(together)
    for i, worker in enumerate(workers):
        alone = range(worker, worker + 1)
        single = WorkerGroup(GroupSpec(config, make_seeded_env, alone, incarnation=3), store)
        for _ in range(3):
            collect(single)
        for name, field in vars(single.rollouts[0]).items():
            torch.testing.assert_close(getattr(together.rollouts[i], name), field)
        assert together.collector.episodes[i] == single.collector.episodes[0]
        [gradient] = gradients_of(single)
        torch.testing.assert_close(gradients[i], gradient, rtol=1e-3, atol=1e-6)
    assert len({tuple(rollout.actions.flatten().tolist()) for rollout in together.rollouts}) == 3


def test_a_group_pulls_once_and_pushes_each_workers_gradient_in_turn():
    runner = make_runner(SMALL, range(3))
    group, calls = runner.group, []
    pull, push = group.store.pull, group.store.push
    group.store.pull = lambda out: calls.append("pull") or pull(out)
    group.store.push = lambda gradients: calls.append(gradients.clone()) or push(gradients)
    before = runner.shared.parameters.clone()
    updates = runner.updates()
    for number in range(1, 4):
        next(updates)
        assert runner.shared.counters[:3, Counter.UPDATES].tolist() == [1] * number + [0] * (
            3 - number
        )
        assert torch.equal(group.flat.parameters, before)  # those that it acted with
        assert not torch.equal(runner.shared.parameters, before)
    assert next(updates, None) is None
    first, *pushed = calls
    assert first == "pull"
    assert len(pushed) == 3
    assert not torch.equal(pushed[0], pushed[1])


@pytest.mark.parametrize("core", ["none", "lstm"])
@pytest.mark.parametrize("head", ["neurocoder", "hypernet", "linear"])
@pytest.mark.parametrize("spoilt", ["rewards", "features"])
def test_one_workers_gradient_that_is_not_finite_leaves_the_others_alone(head, core, spoilt):
    runner = make_runner(dataclasses.replace(SMALL, head=head, core=core), range(3))
    group = runner.group
    collect(group)
    expected = gradients_of(group)
    if spoilt == "rewards":
        group.rollouts[1].rewards.fill_(math.nan)
    else:
        group.torso_caches[1].features[3] = math.nan
    first, second, third = gradients_of(group)
    assert second is False
    torch.testing.assert_close([first, third], expected[::2], rtol=0, atol=0)

    del group.store.push  # the runner's own again
    assert [record.is_applied for record in runner.updates()] == [True, False, True]
    assert runner.shared.counters[:3, Counter.SKIPPED].tolist() == [0, 1, 0]
    assert bool(runner.shared.parameters.isfinite().all())


@pytest.mark.parametrize("made", [1, 3, 8])
def test_another_number_of_environments_than_of_seeds_is_refused(made):
    spec = GroupSpec(SMALL, lambda config, seeds: TinyEnv(made), range(2))  # noqa: ARG005
    store = SharedMemoryStore(make_shared(SMALL, 2), SMALL)
    with pytest.raises(UnusableEnvironmentError, match=f"for each seed, got {made} for 4"):
        WorkerGroup(spec, store)


class VectorEnv(TinyEnv):
    """Tiny games whose observations are vectors, of one given number after an end."""

    single_observation_space = Box(-np.inf, np.inf, (ROOMS,), np.float32)

    def __init__(self, num_envs, after_end):
        self._after_end = after_end
        super().__init__(num_envs)

    def _screens(self):
        vectors = np.eye(ROOMS, dtype=np.float32)[self._rooms]
        vectors[self._ended] = self._after_end
        return vectors


@pytest.mark.parametrize("core", ["none", "lstm"])
def test_an_update_does_not_depend_on_what_is_seen_after_an_end(core):
    config = TrainConfig("CartPole-v1", num_steps=30, head="linear", core=core)
    gradients = []
    for number in (1.0, math.nan):
        torch.manual_seed(0)
        shared = SharedState.for_training(ActorCritic(Spaces(ACTIONS, (ROOMS,)), config), config)

        def make_env(config, seeds, number=number):  # noqa: ARG001
            return VectorEnv(len(seeds), number)

        group = WorkerGroup(GroupSpec(config, make_env), SharedMemoryStore(shared, config))
        assert not collect(group).mask.all()
        gradients += gradients_of(group)
    torch.testing.assert_close(*gradients, rtol=0, atol=0)


@pytest.mark.parametrize("bonus", ["none", "pixel-counts"])
def test_what_is_played_in_the_warm_up_is_not_learned_from(bonus):
    config = dataclasses.replace(SMALL, core="lstm", bonus=bonus)
    warm = make_runner(config, range(2), warmup_steps=9)
    cold = make_runner(config, range(2))
    before = copy.deepcopy(warm.shared)
    for turn in range(1, 4):
        assert list(warm.updates()) == []
        collect(cold.group)
        assert warm.shared.warmup_rollouts.tolist() == [turn, 0]
    for name in ("parameters", "optimizer_state", "counters", "bonus_counts"):
        assert torch.equal(getattr(warm.shared, name), getattr(before, name)), name
    updates = list(warm.updates())
    collect(cold.group)
    for ours, expected in zip(warm.group.rollouts, cold.group.rollouts, strict=True):
        for name, field in vars(expected).items():
            if name != "bonuses":
                torch.testing.assert_close(getattr(ours, name), field)
    assert [update.episodes for update in updates] == cold.group.collector.episodes
    assert warm.shared.global_step == sum(update.agent_steps for update in updates)
    seen = sum(int(rollout.mask.sum()) for rollout in warm.group.rollouts)
    pixels = 42 * 42
    assert warm.shared.bonus_counts.sum() == (seen * pixels if bonus != "none" else 0)


def test_the_warm_up_is_played_with_the_newest_parameters():
    runner = make_runner(SMALL, warmup_steps=1)
    runner.shared.parameters.mul_(1.5)
    assert list(runner.updates()) == []
    assert torch.equal(runner.group.flat.parameters, runner.shared.parameters)


def test_workers_are_named_by_their_indices():
    names = [GroupSpec(SMALL, workers=workers).name for workers in (range(3, 4), range(8))]
    assert names == ["worker 3", "workers 0 to 7"]


def seeds_of(config, worker, incarnation):
    seen = []

    def spy(config, seeds):  # noqa: ARG001
        seen.append(seeds)
        return TinyEnv(len(seeds))

    spec = GroupSpec(config, spy, range(worker, worker + 1), incarnation)
    WorkerRunner(spec, make_shared(config, worker + 1))
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
    record = update(make_runner(dataclasses.replace(SMALL, head="neurocoder")))
    for head in ("actor", "critic"):
        for name in ("attention_entropy", "slot_usage", "singular_values", "residual_gate"):
            assert math.isfinite(record.metrics[f"neurocoder/{head}/{name}"])
        assert 0 < record.metrics[f"neurocoder/{head}/attention_entropy"] <= 1
    assert not any(tag.startswith("neurocoder") for tag in update(make_runner()).metrics)


def test_the_worker_starts_from_the_shared_parameters():
    shared = make_shared(SMALL)
    group = make_group(SMALL, shared=shared)
    torch.testing.assert_close(flatten(group.network), shared.parameters)
