from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.wrappers.vector import RecordEpisodeStatistics

from envs import AtariConfig, AtariTrainingEnv

FROSTBITE, PONG = "Frostbite", "Pong"


class Step(NamedTuple):
    """What `step` returns."""

    observations: Any
    rewards: Any
    terminated: Any
    truncated: Any
    info: dict[str, Any]

    @property
    def ended(self):
        return self.terminated | self.truncated


def make(game=FROSTBITE, num_envs=1, seeds=None, num_threads=1, **settings):
    seeds = np.arange(num_envs) if seeds is None else np.asarray(seeds)
    config = AtariConfig(game, **settings)
    return AtariTrainingEnv(config, num_envs, seeds=seeds, num_threads=num_threads)


def reset(env):
    """The first observations."""
    return env.reset()[0]


def step_env(env, actions):
    return Step(*env.step(actions))


def random_actions(env, num_steps, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(env.single_action_space.n, size=(num_steps, env.num_envs))


def same_actions(env, num_steps, seed=0):
    """Random actions, the same in every environment."""
    actions = np.random.default_rng(seed).integers(env.single_action_space.n, size=(num_steps, 1))
    return np.repeat(actions, env.num_envs, axis=1)


@pytest.fixture(scope="module")
def frostbite_run():
    """1,500 random agent steps of two Frostbite environments: first observations and steps."""
    env = make(num_envs=2, seeds=[3, 4])
    first = reset(env)
    steps = [step_env(env, actions) for actions in random_actions(env, 1500)]
    env.close()
    return first, steps


def column(steps, name, i):
    if name == "lives":
        return np.array([step.info["lives"][i] for step in steps])
    return np.array([getattr(step, name)[i] for step in steps])


def find_resets(steps, i):
    """Which steps follow an end, and so start a new episode."""
    return np.array([False, *column(steps, "ended", i)[:-1]])


def find_lost_lives(steps, i):
    lives, fine = column(steps, "lives", i), ~(column(steps, "ended", i) | find_resets(steps, i))
    return np.array([False, *(np.diff(lives) < 0)]) & fine


def test_shapes_and_types_are_as_documented(frostbite_run):
    first, steps = frostbite_run
    assert first.shape == (2, 4, 84, 84)
    assert first.dtype == np.uint8
    for step in steps[:5]:
        assert step.observations.shape == (2, 4, 84, 84)
        assert step.observations.dtype == np.uint8
        assert step.rewards.shape == (2,)
        assert step.rewards.dtype == np.float32
        for flags in (step.terminated, step.truncated, step.info["_lives"]):
            assert flags.shape == (2,)
            assert flags.dtype == np.bool_
        assert step.info["lives"].shape == (2,)
        assert np.issubdtype(step.info["lives"].dtype, np.integer)


def test_it_is_a_gymnasium_vector_environment_in_next_step_mode():
    env = make(num_envs=3)
    assert isinstance(env, VectorEnv)
    assert env.metadata["autoreset_mode"] == AutoresetMode.NEXT_STEP
    assert env.num_envs == 3
    assert env.single_observation_space.shape == (4, 84, 84)
    assert env.single_observation_space.dtype == np.uint8
    assert env.observation_space.shape == (3, 4, 84, 84)
    assert env.single_action_space.n == 18
    assert env.action_space.shape == (3,)
    assert make(PONG).single_action_space.n == 6
    assert make(PONG, full_action_space=True).single_action_space.n == 18
    assert AtariTrainingEnv(AtariConfig(PONG), 1).metadata is not env.metadata


def test_observations_and_actions_lie_in_its_spaces():
    env = make(num_envs=2)
    env.action_space.seed(0)
    observations, _ = env.reset()
    for _ in range(20):
        assert observations in env.observation_space
        observations, *_ = env.step(env.action_space.sample())


def test_rewards_are_raw_and_not_clipped(frostbite_run):
    _, steps = frostbite_run
    rewards = np.concatenate([step.rewards for step in steps])
    assert set(np.unique(rewards)) >= {0.0, 10.0}


def test_negative_rewards_arrive_too():
    env = make(PONG)
    reset(env)
    assert min(step_env(env, np.zeros(1, np.int64)).rewards[0] for _ in range(150)) == -1.0


def test_a_lost_life_neither_ends_nor_restarts_the_episode(frostbite_run):
    _, steps = frostbite_run
    for i in range(2):
        lost = np.flatnonzero(find_lost_lives(steps, i))
        assert len(lost) >= 6
        for t in lost:
            assert not steps[t].terminated[i]
            assert not steps[t].truncated[i]
            if t + 1 < len(steps):
                # The stack rolls on: a restart would have emptied it.
                np.testing.assert_array_equal(
                    steps[t + 1].observations[i, :3], steps[t].observations[i, 1:]
                )


def test_an_episode_of_frostbite_loses_three_lives_before_the_one_that_ends_it(frostbite_run):
    _, steps = frostbite_run
    for i in range(2):
        lost, ends = find_lost_lives(steps, i), np.flatnonzero(column(steps, "terminated", i))
        assert len(ends) >= 2
        begin = 0
        for end in ends:
            assert lost[begin : end + 1].sum() == 3
            assert not lost[end]
            begin = end + 1


def test_games_without_lives_report_none():
    env = make(PONG)
    reset(env)
    assert not any(step_env(env, a).info["lives"][0] for a in random_actions(env, 300))


def test_the_last_observation_of_an_episode_still_shows_the_old_episode(frostbite_run):
    _, steps = frostbite_run
    for i in range(2):
        for t in np.flatnonzero(column(steps, "terminated", i)):
            np.testing.assert_array_equal(
                steps[t].observations[i, :3], steps[t - 1].observations[i, 1:]
            )
            assert steps[t].observations[i, 0].any()


def test_the_step_after_an_end_is_ignored_and_shows_the_new_episodes_first_observation(
    frostbite_run,
):
    _, steps = frostbite_run
    for i in range(2):
        resets = np.flatnonzero(find_resets(steps, i))
        assert len(resets) >= 2
        for t in resets:
            assert not steps[t].observations[i, :3].any()
            assert steps[t].observations[i, 3].any()
            assert steps[t].rewards[i] == 0
            assert not steps[t].ended[i]


def test_the_action_of_an_ignored_step_makes_no_difference():
    """Two equal episodes that differ in the ignored action only go on equally."""
    env = make(num_envs=2, seeds=[7, 7])
    reset(env)
    over, ignored_steps = False, 0
    for actions in same_actions(env, 1000):
        if over:
            actions = np.array([0, 1])
        step = step_env(env, actions)
        assert (step.observations[0] == step.observations[1]).all()
        ignored_steps += over
        over = bool(step.terminated[0])
    assert ignored_steps >= 2


def test_a_new_episodes_stack_is_padded_with_zeros(frostbite_run):
    first, _ = frostbite_run
    assert not first[:, :3].any()
    assert first[:, 3].any()


def test_episode_statistics_are_the_raw_score_and_the_steps_played(frostbite_run):
    _, steps = frostbite_run
    found = 0
    score, length = np.zeros(2), np.zeros(2, int)
    for t, step in enumerate(steps):
        resets = steps[t - 1].ended if t else np.zeros(2, bool)
        score += step.rewards
        length += ~resets
        assert ("episode" in step.info) == ("_episode" in step.info) == step.ended.any()
        if step.ended.any():
            ended = step.info["_episode"]
            np.testing.assert_array_equal(ended, step.ended)
            np.testing.assert_array_equal(step.info["episode"]["r"], np.where(ended, score, 0))
            np.testing.assert_array_equal(step.info["episode"]["l"], np.where(ended, length, 0))
            found += ended.sum()
            score[ended], length[ended] = 0, 0
    assert found >= 4


def test_gymnasiums_own_wrapper_finds_the_same_episode_statistics():
    ours = make(num_envs=2, seeds=[3, 4], max_frames=300)
    theirs = RecordEpisodeStatistics(
        make(num_envs=2, seeds=[3, 4], max_frames=300), stats_key="own"
    )
    ours.reset()
    theirs.reset()
    found = 0
    for actions in random_actions(ours, 400):
        info, other = ours.step(actions)[-1], theirs.step(actions)[-1]
        assert ("episode" in info) == ("own" in other)
        if "own" in other:
            np.testing.assert_array_equal(info["_episode"], other["_own"])
            for key in "rl":
                np.testing.assert_array_equal(info["episode"][key], other["own"][key])
            found += 1
    assert found >= 5


def test_observations_are_fresh_arrays_that_nothing_overwrites():
    env = make(num_envs=2)
    kept = [reset(env)]
    copies = [kept[0].copy()]
    for actions in random_actions(env, 60):
        kept.append(step_env(env, actions).observations)
        copies.append(kept[-1].copy())
    env.close()
    for array, copy in zip(kept, copies, strict=True):
        np.testing.assert_array_equal(array, copy)
    assert not any(np.shares_memory(a, b) for a, b in pairwise(kept))


def play(seeds, num_steps=100, **settings):
    """Observations (T+1, B, 4, 84, 84) of the same actions in environments with these seeds."""
    env = make(num_envs=len(seeds), seeds=seeds, **settings)
    first = reset(env)
    return np.stack([first, *(step_env(env, a).observations for a in same_actions(env, num_steps))])


def test_without_stickiness_and_noops_the_seed_makes_no_difference():
    seen = play([1, 2], sticky_actions=0.0, noop_max=1)
    np.testing.assert_array_equal(seen[:, 0], seen[:, 1])


def test_with_sticky_actions_the_seed_makes_a_difference():
    seen = play([1, 2], sticky_actions=0.25, noop_max=1)
    np.testing.assert_array_equal(seen[0, 0], seen[0, 1])
    assert (seen[:, 0] != seen[:, 1]).any()


def test_a_certain_repeat_keeps_the_consoles_first_action_for_ever():
    """With probability 1 the no-op that the console starts with is never left.

    Probabilities between are held by test_paths_agree, against the single environment.
    """
    held = play([5], game=PONG, sticky_actions=1.0, noop_max=1)
    env = make(PONG, seeds=[5], sticky_actions=0.0, noop_max=1)
    still = np.stack(
        [reset(env), *(step_env(env, np.zeros(1, np.int64)).observations for _ in range(100))]
    )
    np.testing.assert_array_equal(held, still)


def test_the_same_seed_gives_the_same_episodes_bit_for_bit():
    one, two = play([11, 12, 11]), play([12, 11, 11])
    np.testing.assert_array_equal(one[:, 0], one[:, 2])
    np.testing.assert_array_equal(one[:, [1, 0, 2]], two)
    assert (one[:, 0] != one[:, 1]).any()


def test_neighbouring_seeds_do_not_share_episodes_between_environments():
    """ale-py's own reset(seed=s) would seed s, s+1, ...: here every seed counts by itself."""
    one, two = play([20, 500]), play([21, 900])
    assert (one[:, 1] != two[:, 0]).any()
    np.testing.assert_array_equal(play([20, 21])[:, 1], two[:, 0])


def test_reset_takes_a_seed_for_every_copy_or_one_that_is_counted_up():
    expected = play([7, 8], 100)
    for seed in ([7, 8], np.array([7, 8]), 7):
        env = make(num_envs=2, seeds=[1, 2])
        first, _ = env.reset(seed=seed)
        steps = (step_env(env, a).observations for a in same_actions(env, 100))
        np.testing.assert_array_equal(np.stack([first, *steps]), expected)


def test_reset_takes_no_options():
    with pytest.raises(ValueError, match="options"):
        make().reset(options={"reset_mask": np.array([True])})


def test_seed_zero_is_a_seed_like_any_other():
    np.testing.assert_array_equal(play([0], 100), play([0], 100))


def test_threads_make_no_difference():
    np.testing.assert_array_equal(play([1, 2], 100), play([1, 2], 100, num_threads=2))


def test_a_later_reset_begins_new_episodes_but_goes_on_with_the_random_stream():
    env = make(num_envs=1, noop_max=1)
    actions = random_actions(env, 100)
    runs = []
    for _ in range(2):
        first = reset(env)
        assert not first[:, :3].any()
        steps = [step_env(env, a) for a in actions]
        runs.append(np.stack([first, *(step.observations for step in steps)]))
    np.testing.assert_array_equal(runs[0][0], runs[1][0])
    assert (runs[0] != runs[1]).any()


def test_a_reset_in_the_middle_of_an_episode_or_after_its_end_forgets_the_old_episode():
    env = make(max_frames=40)
    reset(env)
    for steps_before in (3, 10):
        for _ in range(steps_before):
            step = step_env(env, np.zeros(1, np.int64))
        assert step.truncated[0] == (steps_before == 10)
        reset(env)
        for _ in range(10):
            step = step_env(env, np.zeros(1, np.int64))
        assert step.truncated[0]
        assert step.info["episode"]["l"] == [10]
        reset(env)


def opening_lengths(env, resets):
    """Frames that went before the first observation, over many new episodes."""
    lengths = set()
    for _ in range(resets):
        _, info = env._emulators.reset()
        lengths |= set(info["episode_frame_number"].tolist())
    return lengths


def test_no_ops_range_from_none_to_one_less_than_the_maximum():
    assert opening_lengths(make(PONG, num_envs=2, noop_max=4), 30) == set(range(4))
    assert opening_lengths(make(PONG, num_envs=2, noop_max=1), 5) == {0}
    assert opening_lengths(make(PONG, num_envs=2, noop_max=0), 5) == {0}


def test_fire_takes_the_place_of_one_no_op_only_when_asked_for():
    assert opening_lengths(make(PONG, num_envs=2, noop_max=4, fire_reset=True), 30) == set(
        range(1, 4)
    )
    assert opening_lengths(make(PONG, num_envs=2, noop_max=1, fire_reset=True), 5) == {1}
    # Ms. Pac-Man has no FIRE.
    ms_pacman = "MsPacman"
    assert opening_lengths(make(ms_pacman, num_envs=2, noop_max=1, fire_reset=True), 5) == {0}


@pytest.mark.parametrize(("max_frames", "steps"), [(100, 25), (101, 26), (104, 26)])
def test_the_frame_limit_truncates_and_does_not_count_the_opening(max_frames, steps):
    env = make(num_envs=2, max_frames=max_frames, noop_max=30)
    reset(env)
    for played in range(1, steps + 1):
        step = step_env(env, np.zeros(2, np.int64))
        assert step.truncated.tolist() == [played == steps] * 2
        assert not step.terminated.any()
    assert step.info["episode"]["l"].tolist() == [steps] * 2
    assert step.observations[:, 0].any()
    after = step_env(env, np.zeros(2, np.int64))
    assert not after.ended.any()
    assert not after.observations[:, :3].any()


@pytest.mark.parametrize("setting", ["num_envs", "num_threads"])
def test_a_number_below_one_is_named_with_its_value(setting):
    with pytest.raises(ValueError, match=f"{setting}.*0"):
        AtariTrainingEnv(AtariConfig(PONG), **{"num_envs": 1, setting: 0})


@pytest.mark.parametrize(
    "seeds",
    [
        np.array([-1, 0]),
        np.array([0, 2**31]),
        np.array([1]),
        np.array([[1], [2]]),
        np.array([1.0, 2.0]),
    ],
)
def test_bad_seeds_are_refused(seeds):
    with pytest.raises(ValueError, match="seeds must be"):
        AtariTrainingEnv(AtariConfig(FROSTBITE), 2, seeds=seeds)
    with pytest.raises(ValueError, match="seeds must be"):
        make(num_envs=2).reset(seed=seeds)


@pytest.mark.parametrize("dtype", [np.uint32, np.uint64])
def test_the_largest_seed_and_every_integer_type_are_accepted(dtype):
    make(seeds=np.array([2**31 - 1], dtype)).reset()


def test_bad_actions_are_refused_instead_of_hanging_the_emulator():
    env = make(num_envs=2)
    reset(env)
    for actions in (
        np.array([0, 18]),
        np.array([-1, 0]),
        np.array([0]),
        np.array([[0, 0]]),
        np.array([0, 0], np.int32),
        np.array([0.0, 0.0]),
    ):
        with pytest.raises(ValueError, match="actions must be"):
            step_env(env, actions)
        step_env(env, np.zeros(2, np.int64))


def test_a_step_before_the_first_reset_is_refused():
    with pytest.raises(RuntimeError, match="reset"):
        make().step(np.zeros(1, np.int64))


def test_closing_twice_does_nothing():
    env = make()
    reset(env)
    env.close()
    env.close()
