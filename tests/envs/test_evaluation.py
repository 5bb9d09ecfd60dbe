import cv2
import numpy as np
import pytest
from ale_py.env import AtariEnv

from envs import AtariConfig, UnplayableGameError, list_games, make_evaluation_env

FROSTBITE, PONG = "Frostbite", "Pong"


def make(game, *, keep_screens=False, **settings):
    return make_evaluation_env(AtariConfig(game, **settings), keep_screens=keep_screens)


def test_spaces_and_the_screen_are_as_documented():
    env = make(PONG)
    observation, _ = env.reset(seed=1)
    assert env.observation_space.shape == (4, 84, 84)
    assert env.observation_space.dtype == np.uint8
    assert observation in env.observation_space
    assert env.action_space.n == 6
    screen = env.render()
    assert screen.shape == (210, 160, 3)
    assert screen.dtype == np.uint8
    assert screen.any()
    assert make(PONG, full_action_space=True).action_space.n == 18


def test_a_new_episodes_stack_is_padded_with_zeros():
    observation, _ = make(FROSTBITE).reset(seed=1)
    assert not observation[:3].any()
    assert observation[3].any()


def test_rewards_are_raw_and_a_lost_life_does_not_end_the_episode():
    env = make(FROSTBITE)
    observation, info = env.reset(seed=2)
    lives, falls, rewards = info["lives"], 0, set()
    rng = np.random.default_rng(0)
    terminated = False
    while not terminated:
        before = observation
        observation, reward, terminated, truncated, info = env.step(int(rng.integers(18)))
        np.testing.assert_array_equal(observation[:3], before[1:])
        rewards.add(reward)
        assert not truncated
        if not terminated and info["lives"] < lives:
            falls += 1
        lives = info["lives"]
    assert falls == 3
    assert 10.0 in rewards


def opening_lengths(resets=150, **settings):
    env = make(settings.pop("game", PONG), **settings)
    env.reset(seed=3)
    return {env.reset()[1]["episode_frame_number"] for _ in range(resets)}


def test_no_ops_range_from_none_to_one_less_than_the_maximum():
    assert opening_lengths(noop_max=6) == set(range(6))
    assert opening_lengths(5, noop_max=1) == {0}
    assert opening_lengths(5, noop_max=0) == {0}


def test_fire_takes_the_place_of_one_no_op_only_when_asked_for():
    assert opening_lengths(noop_max=6, fire_reset=True) == set(range(1, 6))
    assert opening_lengths(5, noop_max=1, fire_reset=True) == {1}
    # Ms. Pac-Man has no FIRE.
    game = "MsPacman"
    assert opening_lengths(5, game=game, noop_max=1, fire_reset=True) == {0}


def test_a_game_without_a_no_op_among_its_actions_opens_with_no_ops_too():
    backgammon = "Backgammon"
    env = make(backgammon)
    assert "NOOP" not in env.unwrapped.get_action_meanings()
    assert max(opening_lengths(10, game=backgammon)) > 0


@pytest.mark.parametrize(("max_frames", "steps"), [(100, 25), (101, 26), (104, 26)])
def test_the_frame_limit_truncates_and_does_not_count_the_opening(max_frames, steps):
    env = make(FROSTBITE, max_frames=max_frames, noop_max=30)
    openings = set()
    for seed in range(3):
        _, info = env.reset(seed=seed)
        openings.add(info["episode_frame_number"])
        for played in range(1, steps + 1):
            _, _, terminated, truncated, last = env.step(0)
            assert truncated == (played == steps)
            assert not terminated
        assert last["episode_frame_number"] == info["episode_frame_number"] + max_frames
    assert len(openings) > 1


def play(seed, num_steps=200, **settings):
    env = make(FROSTBITE, **settings)
    rng = np.random.default_rng(0)
    first, _ = env.reset(seed=seed)
    return np.stack([first, *(env.step(int(rng.integers(18)))[0] for _ in range(num_steps))])


def test_the_seed_decides_the_episode():
    np.testing.assert_array_equal(play(5), play(5))
    assert (play(5) != play(6)).any()


def test_without_stickiness_and_noops_the_seed_makes_no_difference():
    settings = {"sticky_actions": 0.0, "noop_max": 1}
    np.testing.assert_array_equal(play(5, **settings), play(6, **settings))
    settings["sticky_actions"] = 0.25
    assert (play(5, **settings) != play(6, **settings)).any()


@pytest.mark.parametrize("sticky_actions", [0.0, 0.25, 0.5])
def test_the_emulator_is_given_the_probability_of_sticky_actions(sticky_actions):
    env = make(PONG, sticky_actions=sticky_actions)
    assert env.unwrapped.ale.getFloat("repeat_action_probability") == sticky_actions


def test_observations_are_fresh_arrays_that_nothing_overwrites():
    env = make(PONG)
    kept = [env.reset(seed=1)[0]]
    copies = [kept[0].copy()]
    for t in range(30):
        kept.append(env.step(t % 6)[0])
        copies.append(kept[-1].copy())
    for array, copy in zip(kept, copies, strict=True):
        np.testing.assert_array_equal(array, copy)


def test_nothing_is_printed_when_an_environment_is_made(capfd):
    make(PONG).reset(seed=1)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("setting", "value"), [("sticky_actions", 1.5), ("noop_max", -1), ("max_frames", 0)]
)
def test_a_setting_out_of_range_is_named_with_its_value(setting, value):
    with pytest.raises(ValueError, match=f"{setting}.*{value}"):
        make(PONG, **{setting: value})


def test_unplayable_games_are_refused_before_the_emulator_is_asked():
    for game in list_games():
        if not game.playable:
            with pytest.raises(UnplayableGameError):
                make(game.name)


def test_the_console_frames_of_a_step_are_handed_out_when_asked_for():
    kept = make(FROSTBITE, keep_screens=True, max_frames=10, noop_max=1)
    plain = make(FROSTBITE, max_frames=10, noop_max=1)
    kept.reset(seed=4)
    plain.reset(seed=4)
    for frames in (4, 4, 2):
        *ours, info = kept.step(2)
        *theirs, other = plain.step(2)
        np.testing.assert_array_equal(ours[0], theirs[0])
        assert ours[1:] == theirs[1:]
        assert "screens" not in other
        assert info["screens"].shape == (frames, 210, 160, 3)
        assert info["screens"].dtype == np.uint8
        np.testing.assert_array_equal(info["screens"][-1], kept.render())
    assert ours[3]


@pytest.mark.parametrize("frame_skip", [1, 2, 12])
def test_an_observation_is_the_maximum_of_a_steps_last_two_frames(frame_skip):
    env = make(PONG, sticky_actions=0.0, noop_max=0, frame_skip=frame_skip)
    env.reset(seed=4)
    console = AtariEnv("pong", obs_type="grayscale", frameskip=1, repeat_action_probability=0.0)
    console.reset(seed=4)
    for t in range(40):
        frames = [console.step(t % 6)[0] for _ in range(frame_skip)]
        newest = cv2.resize(np.max(frames[-2:], axis=0), (84, 84), interpolation=cv2.INTER_AREA)
        np.testing.assert_array_equal(env.step(t % 6)[0][-1], newest)


def test_the_frames_handed_out_are_those_that_a_console_without_frame_skip_shows():
    env = make(PONG, keep_screens=True, sticky_actions=0.0, noop_max=0)
    env.reset(seed=4)
    console = AtariEnv("pong", obs_type="rgb", frameskip=1, repeat_action_probability=0.0)
    console.reset(seed=4)
    for t in range(40):
        action = t % 6
        expected = [console.step(action)[0] for _ in range(4)]
        np.testing.assert_array_equal(env.step(action)[-1]["screens"], expected)
