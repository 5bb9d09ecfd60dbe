from itertools import pairwise

import numpy as np
import pytest

from envs import Episode, TrainingEnv, UnplayableGameError, list_games, resolve_game

FROSTBITE = resolve_game("Frostbite")
PONG = resolve_game("Pong")


def make(game=FROSTBITE, num_envs=1, seeds=None, **settings):
    seeds = np.arange(num_envs) if seeds is None else np.asarray(seeds)
    return TrainingEnv(game, num_envs, seeds=seeds, **settings)


def random_actions(env, num_steps, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(env.num_actions, size=(num_steps, env.num_envs))


def same_actions(env, num_steps, seed=0):
    """Random actions, the same in every environment."""
    actions = np.random.default_rng(seed).integers(env.num_actions, size=(num_steps, 1))
    return np.repeat(actions, env.num_envs, axis=1)


@pytest.fixture(scope="module")
def frostbite_run():
    """1,500 random decisions in two games of Frostbite: first observations, actions, steps."""
    env = make(num_envs=2, seeds=[3, 4])
    first = env.reset()
    steps = [env.step(actions) for actions in random_actions(env, 1500)]
    env.close()
    return first, steps


def column(steps, name, i):
    return np.array([getattr(step, name)[i] for step in steps])


def test_shapes_and_types_are_as_documented(frostbite_run):
    first, steps = frostbite_run
    assert first.shape == (2, 4, 84, 84)
    assert first.dtype == np.uint8
    for step in steps[:5]:
        assert step.observations.shape == (2, 4, 84, 84)
        assert step.observations.dtype == np.uint8
        assert step.rewards.shape == (2,)
        assert step.rewards.dtype == np.float32
        for name in ("terminated", "truncated", "life_lost", "ignored"):
            assert getattr(step, name).shape == (2,)
            assert getattr(step, name).dtype == np.bool_


def test_attributes_describe_the_game():
    env = make(num_envs=3)
    assert (env.num_envs, env.num_actions, env.observation_shape) == (3, 18, (4, 84, 84))
    assert make(PONG).num_actions == 6
    assert make(PONG, full_action_space=True).num_actions == 18


def test_rewards_are_raw_and_not_clipped(frostbite_run):
    _, steps = frostbite_run
    rewards = np.concatenate([step.rewards for step in steps])
    assert set(np.unique(rewards)) >= {0.0, 10.0}


def test_negative_rewards_arrive_too():
    env = make(PONG)
    env.reset()
    assert min(env.step(np.zeros(1, np.int64)).rewards[0] for _ in range(150)) == -1.0


def test_a_lost_life_neither_ends_nor_restarts_the_game(frostbite_run):
    _, steps = frostbite_run
    for i in range(2):
        lost = np.flatnonzero(column(steps, "life_lost", i))
        assert len(lost) >= 6
        for t in lost:
            assert not steps[t].terminated[i]
            assert not steps[t].truncated[i]
            if t + 1 < len(steps):
                assert not steps[t + 1].ignored[i]
                # The stack rolls on: a restart would have emptied it.
                np.testing.assert_array_equal(
                    steps[t + 1].observations[i, :3], steps[t].observations[i, 1:]
                )


def test_a_game_of_frostbite_loses_three_lives_before_the_one_that_ends_it(frostbite_run):
    _, steps = frostbite_run
    for i in range(2):
        lost, ends = column(steps, "life_lost", i), np.flatnonzero(column(steps, "terminated", i))
        assert len(ends) >= 2
        begin = 0
        for end in ends:
            assert lost[begin : end + 1].sum() == 3
            assert not lost[end]
            begin = end + 1


def test_a_lost_life_is_seen_at_every_fall_of_the_lives_and_only_there():
    """With the emulator replaced: lives rise by a bonus, and across games they fall unnoticed."""
    env = make(num_envs=2)
    env.reset()
    screens = np.zeros((2, 4, 84, 84), np.uint8)
    script = [  # lives, terminated, truncated -> life lost
        ([3, 0], [False, False], [False, False], [True, False]),
        ([4, 0], [False, False], [False, False], [False, False]),
        ([6, 0], [False, False], [False, True], [False, False]),
        ([3, 0], [False, False], [True, False], [True, False]),
        ([2, 0], [False, False], [False, False], [False, False]),  # a new game with fewer lives
        ([1, 0], [False, False], [False, False], [True, False]),
        ([0, 0], [True, False], [False, False], [False, False]),
        ([4, 0], [False, False], [False, False], [False, False]),
    ]
    ignored = np.array([False, False])

    class Scripted:
        def step(self, _actions):
            lives, terminated, truncated, _ = script[t]
            rewards = np.zeros(2, np.int32)
            info = {"lives": np.array(lives, np.int32)}
            return screens, rewards, np.array(terminated), np.array(truncated), info

    env._emulators = Scripted()
    env._lives = np.array([4, 0], np.int32)
    for t, (_, terminated, truncated, expected) in enumerate(script):
        step = env.step(np.zeros(2, np.int64))
        assert step.life_lost.tolist() == expected, t
        assert step.ignored.tolist() == ignored.tolist(), t
        ignored = np.array(terminated) | np.array(truncated)


def test_games_without_lives_never_lose_one():
    env = make(PONG)
    env.reset()
    assert not any(env.step(a).life_lost[0] for a in random_actions(env, 300))


def test_the_last_observation_of_a_game_still_shows_the_old_game(frostbite_run):
    _, steps = frostbite_run
    for i in range(2):
        for t in np.flatnonzero(column(steps, "terminated", i)):
            np.testing.assert_array_equal(
                steps[t].observations[i, :3], steps[t - 1].observations[i, 1:]
            )
            assert steps[t].observations[i, 0].any()


def test_the_step_after_an_end_is_ignored_and_shows_the_new_games_first_observation(frostbite_run):
    _, steps = frostbite_run
    for i in range(2):
        ended = column(steps, "terminated", i) | column(steps, "truncated", i)
        ignored = column(steps, "ignored", i)
        np.testing.assert_array_equal(ignored[1:], ended[:-1])
        assert not ignored[0]
        for t in np.flatnonzero(ignored):
            assert not steps[t].observations[i, :3].any()
            assert steps[t].observations[i, 3].any()
            assert steps[t].rewards[i] == 0
            assert not steps[t].life_lost[i]


def test_the_action_of_an_ignored_step_makes_no_difference():
    """Two equal games that differ in the ignored action only go on equally."""
    env = make(num_envs=2, seeds=[7, 7])
    env.reset()
    over, ignored_steps = False, 0
    for actions in same_actions(env, 1000):
        if over:
            actions = np.array([0, 1])
        step = env.step(actions)
        assert (step.observations[0] == step.observations[1]).all()
        ignored_steps += int(step.ignored[0])
        over = bool(step.terminated[0])
    assert ignored_steps >= 2


def test_a_new_games_stack_is_padded_with_zeros(frostbite_run):
    first, _ = frostbite_run
    assert not first[:, :3].any()
    assert first[:, 3].any()


def test_episodes_are_whole_games_with_the_raw_score_and_the_decisions_played(frostbite_run):
    _, steps = frostbite_run
    expected = []
    score, length = np.zeros(2), np.zeros(2, int)
    for t, step in enumerate(steps):
        for i in range(2):
            score[i] += step.rewards[i]
            length[i] += not step.ignored[i]
            if step.terminated[i]:
                expected.append((t, Episode(float(score[i]), int(length[i]))))
                score[i], length[i] = 0, 0
    assert len(expected) >= 4
    assert [(t, episode) for t, step in enumerate(steps) for episode in step.episodes] == expected


def test_observations_are_fresh_arrays_that_nothing_overwrites():
    env = make(num_envs=2)
    kept = [env.reset()]
    copies = [kept[0].copy()]
    for actions in random_actions(env, 60):
        kept.append(env.step(actions).observations)
        copies.append(kept[-1].copy())
    env.close()
    for array, copy in zip(kept, copies, strict=True):
        np.testing.assert_array_equal(array, copy)
    assert not any(np.shares_memory(a, b) for a, b in pairwise(kept))


def play(seeds, num_steps=250, **settings):
    """Observations (T+1, B, 4, 84, 84) of the same actions in games with these seeds."""
    env = make(num_envs=len(seeds), seeds=seeds, **settings)
    first = env.reset()
    return np.stack([first, *(env.step(a).observations for a in same_actions(env, num_steps))])


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
        [env.reset(), *(env.step(np.zeros(1, np.int64)).observations for _ in range(250))]
    )
    np.testing.assert_array_equal(held, still)


def test_the_same_seed_gives_the_same_games_bit_for_bit():
    one, two = play([11, 12, 11]), play([12, 11, 11])
    np.testing.assert_array_equal(one[:, 0], one[:, 2])
    np.testing.assert_array_equal(one[:, [1, 0, 2]], two)
    assert (one[:, 0] != one[:, 1]).any()


def test_neighbouring_seeds_do_not_share_games_between_environments():
    """ale-py's own reset(seed=s) would seed s, s+1, ...: here every seed counts by itself."""
    one, two = play([20, 500]), play([21, 900])
    assert (one[:, 1] != two[:, 0]).any()
    np.testing.assert_array_equal(play([20, 21])[:, 1], two[:, 0])


def test_seed_zero_is_a_seed_like_any_other():
    np.testing.assert_array_equal(play([0], 100), play([0], 100))


def test_threads_make_no_difference():
    np.testing.assert_array_equal(play([1, 2], 100), play([1, 2], 100, num_threads=2))


def test_a_later_reset_begins_new_games_but_goes_on_with_the_random_stream():
    env = make(num_envs=1, noop_max=1)
    actions = random_actions(env, 100)
    runs = []
    for _ in range(2):
        first = env.reset()
        assert not first[:, :3].any()
        steps = [env.step(a) for a in actions]
        assert not steps[0].ignored.any()
        runs.append(np.stack([first, *(step.observations for step in steps)]))
    np.testing.assert_array_equal(runs[0][0], runs[1][0])
    assert (runs[0] != runs[1]).any()


def test_a_reset_in_the_middle_of_a_game_or_after_its_end_forgets_the_old_game():
    env = make(max_frames=40)
    env.reset()
    for steps_before in (3, 10):
        for _ in range(steps_before):
            step = env.step(np.zeros(1, np.int64))
        assert step.truncated[0] == (steps_before == 10)
        env.reset()
        for _ in range(10):
            step = env.step(np.zeros(1, np.int64))
            assert not step.ignored[0]
        assert step.episodes == [Episode(0.0, 10)]
        env.reset()


def opening_lengths(env, resets):
    """Frames that went before the first observation, over many new games."""
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
    ms_pacman = resolve_game("MsPacman")
    assert opening_lengths(make(ms_pacman, num_envs=2, noop_max=1, fire_reset=True), 5) == {0}


@pytest.mark.parametrize(("max_frames", "decisions"), [(100, 25), (101, 26), (104, 26)])
def test_the_frame_limit_truncates_and_does_not_count_the_opening(max_frames, decisions):
    env = make(num_envs=2, max_frames=max_frames, noop_max=30)
    env.reset()
    for played in range(1, decisions + 1):
        step = env.step(np.zeros(2, np.int64))
        assert step.truncated.tolist() == [played == decisions] * 2
        assert not step.terminated.any()
    assert step.episodes == [Episode(0.0, decisions)] * 2
    assert step.observations[:, 0].any()
    after = env.step(np.zeros(2, np.int64))
    assert after.ignored.all()
    assert not after.truncated.any()
    assert not after.observations[:, :3].any()


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("num_envs", 0),
        ("num_threads", 0),
        ("sticky_actions", -0.1),
        ("sticky_actions", 1.5),
        ("sticky_actions", float("nan")),
        ("noop_max", -1),
        ("max_frames", 0),
    ],
)
def test_a_setting_out_of_range_is_named_with_its_value(setting, value):
    with pytest.raises(ValueError, match=f"{setting}.*{value}"):
        make(**{"num_envs": 1, setting: value})


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
        TrainingEnv(FROSTBITE, 2, seeds=seeds)


@pytest.mark.parametrize("dtype", [np.uint32, np.uint64])
def test_the_largest_seed_and_every_integer_type_are_accepted(dtype):
    make(seeds=np.array([2**31 - 1], dtype)).reset()


def test_bad_actions_are_refused_instead_of_hanging_the_emulator():
    env = make(num_envs=2)
    env.reset()
    for actions in (
        np.array([0, 18]),
        np.array([-1, 0]),
        np.array([0]),
        np.array([[0, 0]]),
        np.array([0, 0], np.int32),
        np.array([0.0, 0.0]),
    ):
        with pytest.raises(ValueError, match="actions must be"):
            env.step(actions)
        env.step(np.zeros(2, np.int64))


def test_a_step_before_the_first_reset_is_refused():
    with pytest.raises(RuntimeError, match="reset"):
        make().step(np.zeros(1, np.int64))


def test_unplayable_games_are_refused_before_the_emulator_is_asked():
    for game in list_games():
        if not game.playable:
            with pytest.raises(UnplayableGameError):
                make(game)


def test_closing_twice_does_nothing():
    env = make()
    env.reset()
    env.close()
    env.close()
