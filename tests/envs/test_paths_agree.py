"""Training and evaluation play the same episodes, pixel for pixel and reward for reward.

Both emulators draw stickiness from ALE's own generator, so with the same ALE seed and the same
actions they must play the same episodes. `AtariTrainingEnv` passes its seeds to ALE as they are;
Gymnasium derives ALE's seed from its own and reports it in `info["seeds"]`. Neither reseeds between
episodes.
"""

import numpy as np
import pytest

from envs import AtariConfig, AtariTrainingEnv, list_games, make_evaluation_env, num_actions


def seed_pairs(first, count):
    """Gymnasium seeds from `first` on, with the ALE seeds they give that fit training's range."""
    pairs = []
    seed = first
    while len(pairs) < count:
        # What AtariEnv does; play_both checks it against info["seeds"].
        ale_seed = int(np.random.SeedSequence(seed).generate_state(2)[1])
        if ale_seed < 2**31:
            pairs.append((seed, ale_seed))
        seed += 1
    return pairs


def play_both(game, *, episodes, seed=0, max_steps=20_000, **settings):
    """Play `episodes` whole episodes in both paths and compare every step.

    Returns the numbers of lives lost, of terminated and of truncated episodes, and the scores.
    """
    ((gym_seed, ale_seed),) = seed_pairs(seed, 1)
    config = AtariConfig(game, **settings)
    training = AtariTrainingEnv(config, 1, seeds=np.array([ale_seed]))
    evaluation = make_evaluation_env(config)
    observation, info = evaluation.reset(seed=gym_seed)
    assert int(info["seeds"][1]) == ale_seed
    ours, our_info = training.reset()
    np.testing.assert_array_equal(ours[0], observation)
    assert our_info["lives"][0] == info["lives"]
    assert training.single_action_space.n == evaluation.action_space.n == num_actions(config)

    rng = np.random.default_rng(seed)
    lives, falls, terminations, truncations, score, scores = info["lives"], 0, 0, 0, 0.0, []
    over, length = False, 0
    for t in range(max_steps):
        action = int(rng.integers(num_actions(config)))
        ours, our_reward, our_terminated, our_truncated, our_info = training.step(
            np.array([action])
        )
        if over:
            observation, info = evaluation.reset()
            reward, terminated, truncated, length = 0.0, False, False, 0
        else:
            observation, reward, terminated, truncated, info = evaluation.step(action)
            falls += info["lives"] < lives and not terminated
            length += 1
        lives = info["lives"]
        assert (ours[0] == observation).all(), f"pixels differ at step {t}"
        assert our_reward[0] == reward, t
        assert our_terminated[0] == terminated, t
        assert our_truncated[0] == truncated, t
        assert our_info["lives"][0] == lives, t
        terminations += terminated
        truncations += truncated
        score += reward
        over = terminated or truncated
        assert ("episode" in our_info) == over
        if over:
            assert our_info["episode"]["r"][0] == score
            assert our_info["episode"]["l"][0] == length
            scores.append(score)
            score = 0.0
            if len(scores) == episodes:
                # The new episode's first observation has to agree as well.
                first = training.step(np.array([0]))[0][0]
                np.testing.assert_array_equal(first, evaluation.reset()[0])
                break
    return falls, terminations, truncations, scores


@pytest.mark.parametrize(
    ("name", "episodes", "lives_lost"),
    [("Frostbite", 2, 6), ("MontezumaRevenge", 1, 5), ("Breakout", 2, 8), ("MsPacman", 2, 4)],
)
def test_whole_episodes_agree_with_sticky_actions(name, episodes, lives_lost):
    falls, terminations, truncations, _ = play_both(name, episodes=episodes, noop_max=1)
    assert (terminations, truncations) == (episodes, 0)
    assert falls == lives_lost


@pytest.mark.parametrize("frame_skip", [1, 12])
@pytest.mark.parametrize(("name", "lives_lost"), [("Frostbite", 6), ("Breakout", 8)])
def test_whole_episodes_agree_at_other_frame_skips(name, lives_lost, frame_skip):
    falls, terminations, truncations, _ = play_both(
        name, episodes=2, noop_max=1, frame_skip=frame_skip
    )
    assert (terminations, truncations) == (2, 0)
    assert falls == lives_lost


def test_a_whole_episode_of_pong_agrees_and_is_lost():
    _, terminations, _, scores = play_both("Pong", episodes=1, noop_max=1)
    assert terminations == 1
    assert -21 <= scores[0] < -15


@pytest.mark.parametrize("sticky_actions", [0.0, 0.5, 1.0])
def test_every_stickiness_agrees(sticky_actions):
    play_both(
        "Frostbite",
        episodes=1,
        max_steps=400,
        noop_max=1,
        sticky_actions=sticky_actions,
    )


def test_the_full_action_space_agrees():
    play_both("Breakout", episodes=1, max_steps=200, noop_max=1, full_action_space=True)


def test_beginning_with_fire_agrees():
    play_both("Breakout", episodes=3, noop_max=1, fire_reset=True)


@pytest.mark.parametrize(
    ("frame_skip", "max_frames"),
    [
        *((4, limit) for limit in (201, 202, 203, 204)),
        *((1, limit) for limit in (50, 51)),
        *((12, limit) for limit in (241, 246, 251, 252)),
        *(
            pytest.param(12, limit, marks=pytest.mark.slow)
            for limit in (242, 243, 244, 245, 247, 248, 249, 250)
        ),
    ],
)
def test_episodes_that_are_truncated_agree_wherever_the_limit_falls_in_a_step(
    frame_skip, max_frames
):
    _, terminations, truncations, _ = play_both(
        "Frostbite", episodes=3, noop_max=1, max_frames=max_frames, frame_skip=frame_skip
    )
    assert (terminations, truncations) == (0, 3)


@pytest.mark.parametrize("frame_skip", [1, 4, 12])
def test_an_episode_that_ends_on_the_very_frame_of_the_limit_is_terminated_in_both(frame_skip):
    """The limit is set to the episode's own length in frames, and to one less."""
    game = "Frostbite"
    ((gym_seed, _),) = seed_pairs(0, 1)
    env = make_evaluation_env(AtariConfig(game, noop_max=1, frame_skip=frame_skip))
    env.reset(seed=gym_seed)
    rng = np.random.default_rng(0)
    terminated = False
    while not terminated:
        _, _, terminated, _, info = env.step(int(rng.integers(18)))
    frames = info["episode_frame_number"]
    settings = {"noop_max": 1, "frame_skip": frame_skip}
    assert play_both(game, episodes=1, max_frames=frames, **settings)[1:3] == (1, 0)
    assert play_both(game, episodes=1, max_frames=frames - 1, **settings)[1:3] == (0, 1)


@pytest.mark.parametrize("fire_reset", [False, True])
def test_openings_with_the_same_number_of_no_ops_agree(fire_reset):
    """The two paths draw no-ops from different generators: these seeds give the same numbers."""
    game, settings = "Breakout", {"noop_max": 3, "fire_reset": fire_reset}
    pairs = [pair for first in (4, 8, 11, 13, 17) for pair in seed_pairs(first, 1)]
    seeds = np.array([ale_seed for _, ale_seed in pairs])
    emulators = AtariTrainingEnv(AtariConfig(game, **settings), len(seeds))._emulators
    first, info = emulators.reset(seed=seeds)
    steps = [emulators.step(np.full(len(seeds), t % 4))[0] for t in range(20)]
    evaluation = make_evaluation_env(AtariConfig(game, **settings))
    lengths = []
    for i, (gym_seed, _) in enumerate(pairs):
        observation, evaluation_info = evaluation.reset(seed=gym_seed)
        lengths.append(evaluation_info["episode_frame_number"])
        np.testing.assert_array_equal(first[i], observation)
        for t, step in enumerate(steps):
            np.testing.assert_array_equal(step[i], evaluation.step(t % 4)[0])
    assert lengths == info["episode_frame_number"].tolist()
    assert max(lengths) >= 2


@pytest.mark.slow
@pytest.mark.parametrize(
    "game", [game for game in list_games() if game.playable], ids=lambda game: game.name
)
def test_every_playable_game_runs_and_agrees(game):
    play_both(game.name, episodes=3, max_steps=60, noop_max=1)
    play_both(game.name, episodes=3, max_steps=60, noop_max=1, fire_reset=True)
    for frame_skip in (1, 12):
        play_both(game.name, episodes=3, max_steps=60, noop_max=1, frame_skip=frame_skip)
