import subprocess
import sys

import cv2
import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from envs import (
    AtariConfig,
    GymnasiumConfig,
    Spaces,
    UnknownGameError,
    UnplayableGameError,
    UnusableEnvironmentError,
    action_names,
    make_evaluation_env,
    make_training_env,
    rendering_problem,
    resolve_environment,
    resolve_game,
    spaces,
)

MODULE = "tests.envs.gymnasium_envs"


def config(name, **settings):
    return GymnasiumConfig(f"{MODULE}:Test{name}-v0", **settings)


def raw_env(name):
    return gymnasium.make(f"{MODULE}:Test{name}-v0", disable_env_checker=True)


@pytest.mark.parametrize(
    ("name", "bounds", "expected"),
    [
        ("Vector", ((-1.0, 1.0),) * 3, lambda o: o),
        ("Matrix", ((-1.0, 1.0),) * 6, lambda o: o.reshape(6)),
        ("Integers", ((0.0, 9.0),) * 3, lambda o: o),
        ("Bytes", ((0.0, 255.0),) * 5, lambda o: o),
        ("Discrete", ((0.0, 1.0),) * 4, lambda o: np.eye(4)[o - 1]),
        (
            "MultiDiscrete",
            ((0.0, 1.0),) * 5,
            lambda o: np.concatenate([np.eye(2)[o[0]], np.eye(3)[o[1]]]),
        ),
        ("MultiBinary", ((0.0, 1.0),) * 4, lambda o: o),
    ],
)
def test_vectors_of_every_kind_become_float32_and_keep_their_bounds(name, bounds, expected):
    ours, theirs = make_evaluation_env(config(name)), raw_env(name)
    observation, _ = ours.reset(seed=4)
    raw, _ = theirs.reset(seed=4)
    assert observation.dtype == np.float32
    np.testing.assert_array_equal(observation, expected(raw).astype(np.float32))
    assert spaces(config(name)) == Spaces(3, (len(bounds),), bounds)
    assert not spaces(config(name)).has_images


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Picture", lambda o: np.moveaxis(o, -1, 0)),
        ("ChannelsFirst", lambda o: o),
        ("Stack", lambda o: o),
        ("Board", lambda o: o),
        ("Grey", lambda o: o[None]),
        ("Tiles", lambda o: np.moveaxis(o, -1, 0)),
        ("TallTiles", lambda o: np.moveaxis(o, -1, 0)),
        ("OneHotTiles", lambda o: np.moveaxis(o, -1, 0)),
        ("Dict", lambda o: np.moveaxis(o["image"], -1, 0)),
    ],
)
def test_images_as_they_are_have_their_channels_first(name, expected):
    ours, theirs = make_evaluation_env(config(name, images="raw")), raw_env(name)
    observation, _ = ours.reset(seed=4)
    raw, _ = theirs.reset(seed=4)
    assert observation.dtype == np.uint8
    np.testing.assert_array_equal(observation, expected(raw))
    assert spaces(config(name, images="raw")).observation_shape == observation.shape


@pytest.mark.parametrize(
    ("name", "grey"),
    [
        ("Picture", lambda o: cv2.cvtColor(o, cv2.COLOR_RGB2GRAY)),
        ("ChannelsFirst", lambda o: cv2.cvtColor(np.moveaxis(o, 0, -1).copy(), cv2.COLOR_RGB2GRAY)),
        ("Grey", lambda o: o),
        ("Dict", lambda o: cv2.cvtColor(o["image"], cv2.COLOR_RGB2GRAY)),
    ],
)
def test_pictures_are_shown_as_stacks_of_grey_screens_with_the_newest_last(name, grey):
    ours, theirs = make_evaluation_env(config(name)), raw_env(name)
    assert spaces(config(name)).observation_shape == (4, 84, 84)
    observation, _ = ours.reset(seed=4)
    screens = [theirs.reset(seed=4)[0]]
    assert not observation[:3].any()
    for _ in range(2):
        observation, *_ = ours.step(1)
        screens.append(theirs.step(1)[0])
    for shown, screen in zip(observation[1:], screens, strict=True):
        expected = cv2.resize(grey(screen), (84, 84), interpolation=cv2.INTER_AREA)
        np.testing.assert_array_equal(shown, expected)


def test_what_is_no_picture_is_shown_as_it_is_unless_asked_otherwise():
    assert spaces(config("Tiles")).observation_shape == (3, 7, 7)
    assert spaces(config("Tiles", images="grey")).observation_shape == (4, 84, 84)


@pytest.mark.parametrize("images", ["grey", "raw"])
@pytest.mark.parametrize("name", ["Matrix", "Bytes", "Discrete"])
def test_what_is_no_image_cannot_be_shown_as_one(name, images):
    words = f"only images .* can be shown as {images}, not (Box|Discrete)"
    with pytest.raises(UnusableEnvironmentError, match=words):
        make_evaluation_env(config(name, images=images))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("TwoImages", "observation space Dict.*not supported: supported are"),
        ("NoImage", "observation space Dict.*not supported"),
        ("Tuple", "observation space Tuple.*not supported"),
        ("Movie", "observation space Box.*not supported"),
        ("ManyActions", r"action space Discrete\(257\) is not supported"),
    ],
)
def test_spaces_that_are_not_supported_are_refused_by_one_line_that_names_them(name, words):
    for make in (make_evaluation_env, lambda c: make_training_env(c, np.array([1]))):
        with pytest.raises(UnusableEnvironmentError, match=words) as caught:
            make(config(name))
        assert "\n" not in str(caught.value)
    with pytest.raises(UnusableEnvironmentError, match=r"Box.* is not supported"):
        make_evaluation_env(GymnasiumConfig("Pendulum-v1"))


def test_actions_count_from_zero_whatever_the_environment_calls_them():
    env = make_evaluation_env(config("Shifted"))
    env.reset(seed=1)
    assert [env.step(action)[1] for action in (2, 0, 1)] == [2.0, 0.0, 1.0]


def test_actions_have_the_environments_names_or_their_numbers():
    assert action_names(config("Vector")) == ("0", "1", "2")
    assert action_names(AtariConfig("Pong"))[:2] == ("NOOP", "FIRE")


def test_an_endless_environment_is_truncated_and_a_shorter_limit_of_its_own_kept():
    env = make_evaluation_env(config("Endless", max_frames=9))
    env.reset(seed=1)
    ends = [env.step(0)[2:4] for _ in range(9)]
    assert ends == [(False, False)] * 8 + [(False, True)]
    env = make_evaluation_env(GymnasiumConfig("MountainCar-v0", max_frames=100_000))
    env.reset(seed=1)
    lengths = next(n for n in range(1, 10**6) if env.step(1)[3])
    assert lengths == 200


def test_training_plays_the_episodes_of_evaluation_seed_by_seed():
    seeds = np.array([3, 99])
    training = make_training_env(config("Vector"), seeds)
    assert training.metadata["autoreset_mode"] == AutoresetMode.NEXT_STEP
    first, _ = training.reset()  # the seeds were used before
    again, _ = make_training_env(config("Vector"), seeds).reset()
    np.testing.assert_array_equal(first, again)
    other, _ = make_training_env(config("Vector"), seeds + 1).reset()
    assert (first != other).any()
    for seed, observation in zip(seeds, training.reset(seed=seeds.tolist())[0], strict=True):
        single, _ = make_evaluation_env(config("Vector")).reset(seed=int(seed))
        np.testing.assert_array_equal(observation, single)


def test_of_an_environments_info_only_lives_reach_the_training():
    training = make_training_env(config("Talkative"), np.array([3, 99]))
    _, info = training.reset()
    lives = [info["lives"].tolist()]
    for _ in range(20):
        *_, info = training.step(np.zeros(2, np.int64))
        assert set(info) == {"lives", "_lives"}
        assert info["_lives"].all()
        lives.append(info["lives"].tolist())
    assert lives[:4] == [[3, 3], [3, 3], [2, 2], [2, 2]]
    assert [3, 2] in lives or [2, 3] in lives


def test_ends_are_pythons_truth_values():
    env = make_evaluation_env(config("Talkative"))
    env.reset(seed=1)
    assert all(type(flag) is bool for flag in env.step(0)[2:4])


def test_a_step_without_a_picture_shows_the_one_before():
    env = make_evaluation_env(config("Talkative"), keep_screens=True)
    env.reset(seed=1)
    brightest = [int(env.step(0)[4]["screens"].max()) for _ in range(4)]
    assert brightest == [10, 20, 20, 40]


def test_pictures_of_earlier_steps_stay_as_they_were():
    env = make_evaluation_env(config("Painter"), keep_screens=True)
    env.reset(seed=1)
    screens = [env.step(0)[4]["screens"] for _ in range(3)]
    assert [int(screen.max()) for screen in screens] == [10, 20, 30]


def test_pictures_of_steps_are_the_rendered_ones():
    env = make_evaluation_env(config("Vector"), keep_screens=True)
    env.reset(seed=1)
    _, _, _, _, info = env.step(0)
    np.testing.assert_array_equal(info["screens"], np.full((1, 30, 20, 3), 10))
    assert rendering_problem(config("Vector")) is None
    assert config("Vector").seconds(24) == 2


def test_why_there_is_no_picture_is_one_line():
    problem = rendering_problem(config("Unrendered"))
    assert problem is not None
    assert "TestUnrendered-v0 cannot be rendered: it has no render_mode 'rgb_array'" in problem
    assert config("Unrendered").steps_per_second == 30
    assert "its pictures are not (height, width, 3) of uint8" in rendering_problem(config("Faint"))


def test_names_are_those_of_atari_games_or_ids():
    assert resolve_environment(" montezuma's revenge") == resolve_game("MontezumaRevenge")
    assert resolve_environment("ALE/Pong-v5") == resolve_game("Pong")
    names = ("CartPole-v1", "MiniGrid-Empty-5x5-v0", "my_package:MyEnv-v0", "a.b:c/D-v12", "a.b:D")
    for name in names:
        assert resolve_environment(f" {name} ") == name


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("Pong,Breakout", UnknownGameError, "names several games; a run trains on one"),
        (
            "Cartpole",
            UnknownGameError,
            r"'Cartpole'; did you mean CartPole-v1\? .*named by their ids",
        ),
        ("Pang", UnknownGameError, r"did you mean Pong"),
        ("Plain", UnknownGameError, r"Gymnasium's environments are named by their ids"),
        ("ALE/Pnog-v5", UnknownGameError, "did you mean Pong"),
        ("Combat", UnplayableGameError, "no single-player"),
        ("FrostbiteNoFrameskip-v4", UnknownGameError, "name the game Frostbite, and set its rules"),
        ("MontezumaRevenge-ramDeterministic-v0", UnknownGameError, "the game MontezumaRevenge,"),
        ("Pong-v4", UnknownGameError, "name the game Pong,"),
        ("os.system('ls'):X-v0", UnknownGameError, "unknown game"),
    ],
)
def test_names_that_are_neither_are_refused(name, error, words):
    with pytest.raises(error, match=words):
        resolve_environment(name)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Cartpole-v1", "Did you mean: `CartPole`"),
        ("CartPole-v99", "CartPole"),
        ("no_such_package:Thing-v0", "no_such_package"),
    ],
)
def test_environments_that_cannot_be_made_are_named_in_one_line(name, words):
    with pytest.raises(UnusableEnvironmentError, match=words) as caught:
        spaces(GymnasiumConfig(name))
    assert "\n" not in str(caught.value)


def test_a_package_that_is_missing_is_named_with_the_command_that_installs_it():
    code = (
        "import sys; sys.modules['minigrid'] = None\n"
        "from envs import GymnasiumConfig, UnusableEnvironmentError, spaces\n"
        "try: spaces(GymnasiumConfig('MiniGrid-Empty-5x5-v0'))\n"
        "except UnusableEnvironmentError as error: print(error)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 'pip install -e ".[minigrid]"' in run.stdout


@pytest.mark.parametrize(
    "wrong",
    [{"game": "Pong"}, {"game": 3}, {"images": "colour"}, {"max_frames": 0}, {"max_frames": True}],
)
def test_settings_that_cannot_be_are_refused_by_name(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        GymnasiumConfig(**{"game": "CartPole-v1", **wrong})
