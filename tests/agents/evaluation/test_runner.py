"""Whole games: the seed decides them, and acting is as in training."""

import hashlib
from typing import ClassVar

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, VectorEnv

from agents.a3c.collector import Collector
from agents.config import TrainConfig
from agents.evaluation.episode import hash_screen
from agents.evaluation.runner import (
    MODES,
    EvaluationPolicy,
    count_actions,
    episode_seeds,
    evaluate_policy,
    play_game,
)
from agents.networks.actor_critic import ActorCritic
from envs import AtariTrainingEnv, make_evaluation_env

# The gain gives the policy preferences; a network starts with next to none.
CONFIG = TrainConfig(game="Frostbite", max_frames=120, core="lstm", actor_gain=30.0)
NUM_ACTIONS = 18


def make_network(config=CONFIG, seed=0):
    torch.manual_seed(seed)
    return ActorCritic(NUM_ACTIONS, config)


@pytest.fixture(scope="module")
def network():
    return make_network()


def same(one, other):
    return (
        (one.score, one.length, one.screen_hash, one.truncated, one.seed)
        == (other.score, other.length, other.screen_hash, other.truncated, other.seed)
    ) and np.array_equal(one.actions, other.actions)


@pytest.mark.parametrize("mode", MODES)
def test_the_seed_decides_the_game_and_another_seed_gives_another(mode, network):
    env = make_evaluation_env(CONFIG.atari)
    first = play_game(env, mode, 7, network)
    play_game(env, mode, 9, network)  # what was played in between makes no difference
    again = play_game(make_evaluation_env(CONFIG.atari), mode, 7, network)
    other = play_game(env, mode, 8, network)
    assert same(first, again)
    assert first.screen_hash != other.screen_hash
    assert first.mode == mode
    assert first.length == len(first.actions) == 30
    assert first.truncated


def test_sampled_and_random_actions_follow_from_the_seed_not_from_torchs_own_generator(network):
    env = make_evaluation_env(CONFIG.atari)
    torch.manual_seed(1)
    first = play_game(env, "sampled", 7, network)
    torch.manual_seed(2)
    assert same(first, play_game(env, "sampled", 7, network))


def test_greedy_play_takes_the_most_probable_action_of_a_network_that_sees_the_whole_game(network):
    env = make_evaluation_env(CONFIG.atari)
    game = play_game(env, "greedy", 7, network)
    observations = [env.reset(seed=7)[0]]
    observations += [env.step(int(action))[0] for action in game.actions[:-1]]
    starts = torch.zeros(game.length, 1, dtype=torch.bool)
    starts[0] = True
    with torch.no_grad():
        logits = network(
            torch.from_numpy(np.stack(observations)).unsqueeze(1), network.initial_state(1), starts
        ).logits
    assert logits[:, 0].argmax(dim=-1).tolist() == game.actions.tolist()


def test_the_first_of_equally_probable_actions_is_greedy():
    network = make_network()
    with torch.no_grad():
        for parameter in network.actor.parameters():
            parameter.zero_()
    player = EvaluationPolicy("greedy", NUM_ACTIONS, 0, network)
    assert player.act(np.zeros((4, 84, 84), np.uint8), True) == 0


def test_sampled_actions_have_the_policys_probabilities(network):
    observation = np.full((4, 84, 84), 90, np.uint8)
    with torch.no_grad():
        whole = network(
            torch.from_numpy(observation)[None, None],
            network.initial_state(1),
            torch.tensor([[True]]),
        )
    expected = torch.softmax(whole.logits[0, 0], dim=-1).numpy()
    player = EvaluationPolicy("sampled", NUM_ACTIONS, 3, network)
    counts = np.bincount([player.act(observation, True) for _ in range(1500)], minlength=18)
    assert expected.max() > 0.12
    np.testing.assert_allclose(counts / 1500, expected, atol=0.04)


def test_random_play_uses_every_action_about_equally_often_and_needs_no_network():
    player = EvaluationPolicy("random", 6, 3)
    observation = np.zeros((4, 84, 84), np.uint8)
    counts = np.bincount([player.act(observation, False) for _ in range(3000)])
    assert counts.min() > 400
    assert counts.max() < 600


class OneAtATime(VectorEnv):
    """An evaluation environment behind the interface that the collector asks for."""

    metadata: ClassVar = {"autoreset_mode": AutoresetMode.NEXT_STEP}
    num_envs = 1

    def __init__(self, seeds):
        self.env, self.seeds, self.ended = make_evaluation_env(CONFIG.atari), iter(seeds), False
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


def test_two_games_in_a_row_are_played_as_trainings_collector_plays_them(network, monkeypatch):
    generator = torch.Generator().manual_seed(11)

    def draw_as_a_player_does(logits, random):  # noqa: ARG001
        policy = torch.softmax(torch.from_numpy(logits), dim=-1)
        return torch.multinomial(policy, 1, generator=generator)[:, 0].numpy()

    monkeypatch.setattr("agents.a3c.collector.sample_actions", draw_as_a_player_does)
    env = make_evaluation_env(CONFIG.atari)
    first, second = (play_game(env, "sampled", seed, network) for seed in (11, 12))
    collector = Collector(
        OneAtATime([11, 12]),
        network,
        num_steps=61,
        gamma=0.99,
        gae_lambda=1.0,
        random=np.random.default_rng(0),
    )
    rollout = collector.collect()
    assert rollout.actions[:30, 0].tolist() == first.actions.tolist()
    # The ignored step between the games drew an action too, so only the logits can be compared.
    assert rollout.episode_starts[:, 0].nonzero().flatten().tolist() == [0, 31]
    player = EvaluationPolicy("greedy", NUM_ACTIONS, 12, network)
    greedy = [
        player.act(observation.numpy(), bool(start))
        for observation, start in zip(
            rollout.observations[31:, 0], rollout.episode_starts[31:, 0], strict=True
        )
    ]
    with torch.no_grad():
        logits = network(rollout.observations, rollout.initial_state, rollout.episode_starts).logits
    assert greedy == logits[31:, 0].argmax(dim=-1).tolist()
    assert second.length == 30


def test_the_state_of_the_core_makes_a_difference_and_is_zeroed_at_a_games_start(network):
    observations = np.random.default_rng(0).integers(0, 255, (40, 4, 84, 84)).astype(np.uint8)
    player = EvaluationPolicy("greedy", NUM_ACTIONS, 0, network)
    player.act(observations[0], True)
    assert player._state.abs().max() > 0
    for observation in observations:
        player.act(observation, False)
    gone_on = player._state
    player.act(observations[0], True)
    zeroed = player._state
    fresh = EvaluationPolicy("greedy", NUM_ACTIONS, 0, network)
    fresh.act(observations[0], True)
    assert torch.equal(zeroed, fresh._state)
    assert not torch.equal(gone_on, zeroed)


def test_evaluation_plays_the_games_of_its_seeds_in_order(network):
    seen = []
    games = evaluate_policy(network, CONFIG, "sampled", 3, seed=5, progress=seen.append)
    assert [game.seed for game in games] == episode_seeds(5, 3)
    assert seen == games
    env = make_evaluation_env(CONFIG.atari)
    for game in games:
        assert same(game, play_game(env, "sampled", game.seed, network))


def test_scores_are_raw_and_a_lost_life_does_not_end_the_game():
    config = TrainConfig(game="Frostbite", max_frames=8000)
    lives, rewards = [], []

    def watch(step):
        lives.append(step.info["lives"])
        rewards.append(step.reward)

    (game,) = evaluate_policy(None, config, "random", 1, seed=2, on_step=watch)
    assert not game.truncated
    assert lives[0] == 4
    assert {3, 2, 1} <= set(lives)
    assert game.score == sum(rewards) >= 10
    assert max(rewards) >= 10
    assert game.length == len(rewards)


class Notes:
    """A recording that writes down what it is told."""

    wants_screens = False
    wants_thoughts = False

    def __init__(self):
        self.calls = []

    def begin(self, mode, seed):
        self.calls.append(("begin", mode, seed))

    def step(self, _):
        self.calls.append("step")

    def finish(self, game):
        self.calls.append(("finish", game.seed))

    def abandon(self):
        self.calls.append("abandon")


def test_when_told_to_stop_the_finished_games_are_returned_and_the_last_is_abandoned():
    notes, steps = Notes(), []
    games = evaluate_policy(
        None,
        CONFIG,
        "random",
        3,
        seed=1,
        recorder=notes,
        on_step=steps.append,
        should_stop=lambda: len(steps) == 40,
    )
    first, second, _ = episode_seeds(1, 3)
    assert [game.seed for game in games] == [first]
    assert notes.calls == [
        ("begin", "random", first),
        *["step"] * 30,
        ("finish", first),
        ("begin", "random", second),
        *["step"] * 10,
        "abandon",
    ]


def test_an_error_in_the_middle_closes_the_environment_and_abandons_the_recording(monkeypatch):
    notes, closed = Notes(), []

    def watched(config, **settings):
        env = make_evaluation_env(config, **settings)
        close = env.close
        monkeypatch.setattr(env, "close", lambda: (closed.append(True), close()))
        return env

    monkeypatch.setattr("agents.evaluation.runner.make_evaluation_env", watched)

    def fail(_):
        raise RuntimeError("stop here")

    with pytest.raises(RuntimeError, match="stop here"):
        evaluate_policy(None, CONFIG, "random", 2, seed=1, recorder=notes, on_step=fail)
    assert closed == [True]
    assert notes.calls[-1] == "abandon"
    assert ("finish", episode_seeds(1, 1)[0]) not in notes.calls


def test_what_cannot_be_played_is_refused():
    env = make_evaluation_env(CONFIG.atari)
    with pytest.raises(ValueError, match="careful"):
        play_game(env, "careful", 1)
    with pytest.raises(ValueError, match="greedy play needs a network"):
        play_game(env, "greedy", 1)
    assert count_actions(env) == NUM_ACTIONS


def test_seeds_are_distinct_in_range_and_a_longer_list_begins_with_the_shorter():
    seeds = episode_seeds(1, 300_000)  # so many that some draws are equal
    assert len(set(seeds)) == len(seeds) == 300_000
    assert min(seeds) >= 0
    assert max(seeds) < 2**31
    assert seeds[:10] == episode_seeds(1, 10)
    assert not set(episode_seeds(1, 100)) & set(episode_seeds(2, 100))


def test_no_worker_of_training_has_the_seeds_of_evaluation():
    seeds = set(episode_seeds(1, 100))
    for index in range(64):
        for incarnation in range(3):
            sequence = np.random.SeedSequence((1, index, incarnation))
            env_seeds, action_seed = sequence.spawn(2)
            used = {*(env_seeds.generate_state(16) % 2**31), int(action_seed.generate_state(1)[0])}
            assert not seeds & {int(s) for s in used}


def test_a_screens_hash_is_sha_256_of_its_size_and_pixels():
    screen = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    expected = hashlib.sha256(b"(2, 4, 3)" + bytes(range(24))).hexdigest()
    assert hash_screen(screen) == expected
    assert hash_screen(screen.reshape(4, 2, 3)) != expected


def test_training_and_evaluation_have_the_same_actions():
    for game, full in (("Pong", False), ("Pong", True), ("Frostbite", False)):
        config = TrainConfig(game=game, full_action_space=full)
        training = AtariTrainingEnv(config.atari, 1)
        evaluation = make_evaluation_env(config.atari)
        assert training.single_action_space.n == count_actions(evaluation)
        training.close()
