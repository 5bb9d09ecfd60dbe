"""Whole episodes: the seed decides them, and acting is as in training."""

import dataclasses
from typing import ClassVar

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, VectorEnv

from agents.a3c.collector import Collector
from agents.a3c.worker_group import GroupSpec, _randomness
from agents.config import TrainConfig
from agents.evaluation.runner import (
    MODES,
    EvaluationPolicy,
    StatefulNetwork,
    episode_seeds,
    evaluate_policy,
)
from agents.networks.actor_critic import ActorCritic
from envs import Spaces, UnusableEnvironmentError, make_evaluation_env
from tests.agents.episode_log import EpisodeLog

# The gain gives the policy preferences; a network starts with next to none.
CONFIG = TrainConfig(game="Frostbite", max_frames=120, core="lstm", actor_gain=30.0)
NUM_ACTIONS = 18


def make_network(config=CONFIG, seed=0):
    torch.manual_seed(seed)
    return ActorCritic(Spaces(NUM_ACTIONS), config)


@pytest.fixture(scope="module")
def network():
    return make_network()


def play(mode, seed, network=None):
    (result,) = evaluate_policy(network, CONFIG, mode, [seed])
    return result


def make_policy(mode, network, seed=0):
    policy = EvaluationPolicy(mode, NUM_ACTIONS, network)
    policy.reset(seed)
    return policy


def same(one, other):
    return (
        (one.score, one.length, one.screen_hash, one.truncated, one.seed)
        == (other.score, other.length, other.screen_hash, other.truncated, other.seed)
    ) and np.array_equal(one.actions, other.actions)


@pytest.mark.parametrize("mode", MODES)
def test_the_seed_decides_the_episode_and_another_seed_gives_another(mode, network):
    # What was played in between makes no difference.
    first, _, again, other = evaluate_policy(network, CONFIG, mode, [7, 9, 7, 8])
    assert same(first, play(mode, 7, network))
    assert same(first, again)
    assert first.screen_hash != other.screen_hash
    assert first.mode == mode
    assert first.length == len(first.actions) == 30
    assert first.truncated


def test_sampled_and_random_actions_follow_from_the_seed_not_from_torchs_own_generator(network):
    torch.manual_seed(1)
    first = play("sampled", 7, network)
    torch.manual_seed(2)
    assert same(first, play("sampled", 7, network))


def test_greedy_play_takes_the_most_probable_action_of_a_network_that_sees_the_whole_episode(
    network,
):
    env = make_evaluation_env(CONFIG.env)
    episode = play("greedy", 7, network)
    observations = [env.reset(seed=7)[0]]
    observations += [env.step(int(action))[0] for action in episode.actions[:-1]]
    starts = torch.zeros(episode.length, 1, dtype=torch.bool)
    starts[0] = True
    with torch.no_grad():
        logits = network(
            torch.from_numpy(np.stack(observations)).unsqueeze(1), network.initial_state(1), starts
        ).logits
    assert logits[:, 0].argmax(dim=-1).tolist() == episode.actions.tolist()


def test_the_first_of_equally_probable_actions_is_greedy():
    network = make_network()
    with torch.no_grad():
        for parameter in network.actor.parameters():
            parameter.zero_()
    assert make_policy("greedy", network).act(np.zeros((4, 84, 84), np.uint8)) == 0


def test_sampled_actions_have_the_policys_probabilities():
    network = make_network(dataclasses.replace(CONFIG, core="none"))  # sees the same every time
    observation = np.full((4, 84, 84), 90, np.uint8)
    with torch.no_grad():
        whole = network(
            torch.from_numpy(observation)[None, None],
            network.initial_state(1),
            torch.tensor([[True]]),
        )
    expected = torch.softmax(whole.logits[0, 0], dim=-1).numpy()
    policy = make_policy("sampled", network, seed=3)
    counts = np.bincount([policy.act(observation) for _ in range(1500)], minlength=18)
    assert expected.max() > 0.12
    np.testing.assert_allclose(counts / 1500, expected, atol=0.04)


def test_random_play_uses_every_action_about_equally_often_and_needs_no_network():
    policy = EvaluationPolicy("random", 6)
    policy.reset(3)
    observation = np.zeros((4, 84, 84), np.uint8)
    counts = np.bincount([policy.act(observation) for _ in range(3000)])
    assert policy.inspect() is None
    assert counts.min() > 400
    assert counts.max() < 600


class OneAtATime(VectorEnv):
    """An evaluation environment behind the interface that the collector asks for."""

    metadata: ClassVar = {"autoreset_mode": AutoresetMode.NEXT_STEP}
    num_envs = 1

    def __init__(self, seeds):
        self.env, self.seeds, self.ended = make_evaluation_env(CONFIG.env), iter(seeds), False
        self.single_observation_space = self.env.observation_space
        self.single_action_space = self.env.action_space

    def reset(self):
        return self.env.reset(seed=next(self.seeds))[0][None], {}

    def step(self, actions):
        reward, terminated, truncated = 0.0, False, False
        if self.ended:
            observation = self.reset()[0][0]
        else:
            observation, reward, terminated, truncated, _ = self.env.step(int(actions[0]))
        self.ended = terminated or truncated
        return (observation[None], *(np.array([x]) for x in (reward, terminated, truncated)), {})

    def close(self):
        self.env.close()


def test_two_episodes_in_a_row_are_played_as_trainings_collector_plays_them(network, monkeypatch):
    generator = torch.Generator().manual_seed(11)

    def draw_as_evaluation_does(logits, noise):  # noqa: ARG001
        policy = torch.softmax(torch.from_numpy(logits), dim=-1)
        return torch.multinomial(policy, 1, generator=generator)[:, 0].numpy()

    monkeypatch.setattr("agents.a3c.collector.sample_actions", draw_as_evaluation_does)
    first, second = evaluate_policy(network, CONFIG, "sampled", [11, 12])
    collector = Collector(
        OneAtATime([11, 12]),
        network,
        num_steps=61,
        gamma=0.99,
        gae_lambda=1.0,
        life_loss_ends_return=True,
        generators=[np.random.default_rng(0)],
    )
    [rollout] = collector.make_rollouts().unbind()
    collector.collect([rollout])
    assert rollout.actions[:30, 0].tolist() == first.actions.tolist()
    # The ignored step between the episodes drew an action too, so only the logits can be compared.
    assert rollout.episode_starts[:, 0].nonzero().flatten().tolist() == [0, 31]
    policy = make_policy("greedy", network, seed=12)
    greedy = [
        policy.act(np.ascontiguousarray(observation.numpy()))
        for observation in rollout.observations[31:-1, 0]
    ]
    with torch.no_grad():
        logits = network(rollout.observations, rollout.initial_state, rollout.episode_starts).logits
    assert greedy == logits[31:-1, 0].argmax(dim=-1).tolist()
    assert second.length == 30


def test_the_state_of_the_core_makes_a_difference_and_is_zeroed_at_an_episodes_start(network):
    observations = np.random.default_rng(0).integers(0, 255, (40, 4, 84, 84)).astype(np.uint8)
    stateful = StatefulNetwork(network)
    stateful.forward(observations[0])
    assert stateful._state.abs().max() > 0
    for observation in observations:
        stateful.forward(observation)
    gone_on = stateful._state
    stateful.reset()
    stateful.forward(observations[0])
    zeroed = stateful._state
    fresh = StatefulNetwork(network)
    fresh.forward(observations[0])
    assert torch.equal(zeroed, fresh._state)
    assert not torch.equal(gone_on, zeroed)


def _read_only(observation):
    observation.flags.writeable = False
    return observation


@pytest.mark.parametrize("shape", [(3,), (3, 21, 21)])
@pytest.mark.parametrize("change", [np.flip, _read_only, lambda o: o.astype(np.float64)])
def test_an_observation_may_be_of_any_memory_and_precision(shape, change):
    spaces = Spaces(2, shape)
    network = ActorCritic(spaces, TrainConfig(game="CartPole-v1", head="linear"))
    kind = np.uint8 if spaces.has_images else np.float32
    observation = np.arange(np.prod(shape)).astype(kind).reshape(shape)
    changed = change(observation.copy())
    usual = np.ascontiguousarray(changed, kind)
    logits = [StatefulNetwork(network).forward(each) for each in (changed, usual)]
    assert torch.equal(*logits)


@pytest.mark.parametrize("mode", ["sampled", "greedy"])
def test_an_observation_that_is_not_finite_is_named_as_the_cause(mode):
    config = TrainConfig(game="CartPole-v1", head="linear")
    policy = make_policy(mode, ActorCritic(Spaces(2, (3,)), config))
    policy.act(np.zeros(3, np.float32))
    with pytest.raises(UnusableEnvironmentError, match=f"{mode} play .* does the environment"):
        policy.act(np.array([0, np.nan, 0], np.float32))


def test_evaluation_plays_the_episodes_of_its_seeds_in_order(network):
    log = EpisodeLog()
    episodes = evaluate_policy(network, CONFIG, "sampled", episode_seeds(5, 3), [log])
    assert [episode.seed for episode in episodes] == episode_seeds(5, 3)
    assert log.results == episodes
    for episode in episodes:
        assert same(episode, play("sampled", episode.seed, network))


def test_scores_are_raw_and_a_lost_life_does_not_end_the_episode():
    config = TrainConfig(game="Frostbite", max_frames=8000)
    log = EpisodeLog()
    (episode,) = evaluate_policy(None, config, "random", episode_seeds(2, 1), [log])
    lives = [step.info["lives"] for step in log.steps]
    rewards = [step.reward for step in log.steps]
    assert not episode.truncated
    assert lives[0] == 4
    assert {3, 2, 1} <= set(lives)
    assert episode.score == sum(rewards) >= 10
    assert max(rewards) >= 10
    assert episode.length == len(rewards)


def test_what_cannot_be_played_is_refused():
    with pytest.raises(ValueError, match="careful"):
        play("careful", 1)
    with pytest.raises(ValueError, match="greedy play needs a network"):
        play("greedy", 1)


def test_seeds_are_distinct_in_range_and_a_longer_list_begins_with_the_shorter():
    seeds = episode_seeds(1, 300_000)  # so many that some draws are equal
    assert len(set(seeds)) == len(seeds) == 300_000
    assert min(seeds) >= 0
    assert max(seeds) < 2**31
    assert seeds[:10] == episode_seeds(1, 10)
    assert not set(episode_seeds(1, 100)) & set(episode_seeds(2, 100))


def test_no_worker_of_training_has_the_seeds_of_evaluation():
    config = dataclasses.replace(CONFIG, seed=1, envs_per_worker=16)
    seeds = set(episode_seeds(config.seed, 100))
    for incarnation in range(3):
        spec = GroupSpec(config, incarnation=incarnation)
        for worker in range(64):
            used, generator = _randomness(spec, worker)
            assert len(used) == 16
            assert not seeds & set(used.tolist())
            assert not seeds & set(generator.bit_generator.seed_seq.generate_state(1).tolist())
