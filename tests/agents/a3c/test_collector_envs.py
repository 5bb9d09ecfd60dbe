"""The collector plays any Gymnasium vector environment in NEXT_STEP mode."""

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers.vector import (
    RecordEpisodeStatistics,
    TransformObservation,
    TransformReward,
)

from agents.a3c.collector import Collector, spaces_of
from agents.config import TrainConfig
from agents.networks.actor_critic import ActorCritic
from envs import (
    AtariConfig,
    AtariTrainingEnv,
    Episode,
    Spaces,
    UnusableEnvironmentError,
    make_evaluation_env,
    spaces,
)
from tests.agents.tiny_env import ACTIONS, TinyEnv

GYM_SEEDS = [1, 4]  # whose emulator seeds are below 2**31


def collect(env, rollouts, num_steps=20):
    """Tensors of each rollout, and the episodes that ended."""
    torch.manual_seed(0)
    network = ActorCritic(spaces_of(env), TrainConfig(head="linear", core="lstm"))
    collector = Collector(
        env,
        network,
        num_steps=num_steps,
        gamma=0.9,
        gae_lambda=0.8,
        life_loss_ends_return=True,
        generators=[np.random.default_rng(1)],
    )
    tensors, episodes = [], []
    for _ in range(rollouts):
        [rollout] = collector.make_rollouts().unbind()
        collector.collect([rollout])
        tensors.append(vars(rollout))
        episodes += collector.episodes[0]
    env.close()
    return tensors, episodes


class SeededSyncVectorEnv(SyncVectorEnv):
    def reset(self, *, seed=None, options=None):  # noqa: ARG002
        return super().reset(seed=GYM_SEEDS)


def test_gymnasiums_own_vector_environment_gives_the_same_rollouts_as_ours():
    """Single environments in Gymnasium's `SyncVectorEnv`, against ale-py's C++ environment."""
    config = AtariConfig("Frostbite", noop_max=1, max_frames=400)
    ale_seeds = [int(np.random.SeedSequence(s).generate_state(2)[1]) for s in GYM_SEEDS]
    ours = AtariTrainingEnv(config, 2, seeds=np.array(ale_seeds))
    theirs = SeededSyncVectorEnv([lambda: make_evaluation_env(config)] * 2)
    (a, episodes), (b, others) = collect(ours, 12), collect(theirs, 12)
    for one, two in zip(a, b, strict=True):
        assert one.keys() == two.keys() >= {"actions", "rewards", "discounts"}
        for name, x in one.items():
            assert torch.equal(x, two[name]), name
    assert episodes == others
    assert len(episodes) >= 4
    assert sum(e.raw_return for e in episodes) > 0
    lost_lives = sum(int((rollout["discounts"] == 0).sum()) for rollout in a)
    assert lost_lives >= 2


def test_without_episode_statistics_the_rewards_are_summed_up():
    plain, recorded = TinyEnv(3), RecordEpisodeStatistics(TinyEnv(3))
    (_, summed), (_, given) = collect(plain, 10), collect(recorded, 10)
    assert len(summed) > 20
    assert {e.length for e in summed} >= {1, 2}
    assert summed == [Episode(pytest.approx(e.raw_return), e.length) for e in given]


def test_statistics_that_were_recorded_before_rewards_were_changed_are_kept():
    env = TransformReward(RecordEpisodeStatistics(TinyEnv(3)), lambda reward: 100 * reward)
    tensors, episodes = collect(env, 10)
    assert max(rollout["rewards"].max() for rollout in tensors) >= 20
    assert max(episode.raw_return for episode in episodes) <= 1


def test_observations_may_be_views_in_reverse_order():
    flipped = TransformObservation(TinyEnv(3), lambda o: o[..., ::-1])
    copied = TransformObservation(TinyEnv(3), lambda o: o[..., ::-1].copy())
    (one, episodes), (other, others) = collect(flipped, 2), collect(copied, 2)
    assert torch.equal(one[1]["observations"], other[1]["observations"])
    assert episodes == others


class RecordsTheFirst(TinyEnv):
    """Has statistics of its own of the first environment alone."""

    def step(self, actions):
        *step, terminated, truncated, info = super().step(actions)
        recorded = terminated & (np.arange(self.num_envs) == 0)
        if recorded.any():
            numbers = np.where(recorded, 7, 0)
            info = {"episode": {"r": numbers, "l": numbers}, "_episode": recorded}
        return *step, terminated, truncated, info


def test_an_episode_without_statistics_of_its_own_is_summed_up_beside_others_that_have_them():
    episodes, summed = collect(RecordsTheFirst(3), 10)[1], collect(TinyEnv(3), 10)[1]
    recorded = [episode == Episode(7.0, 7) for episode in episodes]
    assert 0 < sum(recorded) < len(episodes) == len(summed)
    for own, own_recorded, other in zip(episodes, recorded, summed, strict=True):
        assert own_recorded or own == other


@pytest.mark.parametrize("meant", [5, {"reward": 1.0}, np.arange(3)])
def test_an_info_of_another_meaning_is_not_taken_for_statistics(meant):
    class Counts(TinyEnv):
        def step(self, actions):
            *step, info = super().step(actions)
            return *step, {**info, "episode": meant}

    assert collect(Counts(3), 3)[1] == collect(TinyEnv(3), 3)[1]


class TellsLivesAtTimes(gymnasium.Env):
    """Episodes of 6 steps, whose fifth loses a life: of 5 in the first episode, of 3 in others."""

    observation_space, action_space = Box(0, 255, (1, 20, 20), np.uint8), Discrete(2)

    def __init__(self, when):
        self.when, self.lives = when, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed, options=options)
        self.steps, self.lives = 0, 3 if self.lives else 5
        return np.zeros((1, 20, 20), np.uint8), {}

    def step(self, action):  # noqa: ARG002
        self.steps += 1
        self.lives -= self.steps == 5
        info = {"lives": self.lives} if self.steps in self.when else {}
        return np.zeros((1, 20, 20), np.uint8), 0.0, False, self.steps == 6, info


@pytest.mark.parametrize("when", [[{1, 3, 5}], [{1, 3, 5}, {2, 4, 5}]])
def test_lives_that_a_step_does_not_tell_are_not_lost(when):
    env = SyncVectorEnv([lambda told=told: TellsLivesAtTimes(told) for told in when])
    [rollout], _ = collect(env, 1, num_steps=14)
    # The seventh step is ignored.
    of_each = [float(t in (4, 11)) for t in range(14)]
    assert (rollout["discounts"] == 0).float().T.tolist() == [of_each] * len(when)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"single_action_space": Box(-1, 1, (2,))}, "action space must be Discrete"),
        ({"single_action_space": Discrete(3, start=1)}, "start at 0"),
        ({"single_observation_space": Box(0, 255, (4, 84, 84))}, "observations must be .* uint8"),
        ({"single_observation_space": Box(0, 255, (4,), np.int64)}, "of floating-point numbers"),
        ({"single_observation_space": Box(0, 255, (84, 84), np.uint8)}, "observations must be"),
        ({"metadata": {"autoreset_mode": AutoresetMode.SAME_STEP}}, "NEXT_STEP mode, got .*SAME"),
        ({"metadata": {}}, "NEXT_STEP mode, got None"),
    ],
)
def test_environments_that_cannot_be_trained_on_are_refused(change, words):
    env = type("Wrong", (TinyEnv,), change)(1)
    with pytest.raises(UnusableEnvironmentError, match=words):
        spaces_of(env)


def test_actions_are_counted_by_the_action_space():
    assert spaces_of(TinyEnv(1)) == Spaces(ACTIONS)
    config = AtariConfig("Pong")
    assert spaces_of(AtariTrainingEnv(config, 1)) == spaces(config) == Spaces(6)
