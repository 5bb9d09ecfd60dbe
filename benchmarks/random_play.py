"""The score of uniformly random play under the training protocol.

    python -m benchmarks.random_play --game Frostbite --episodes 200
    python -m benchmarks.random_play --game CartPole-v1

All environments play the same number of episodes, so that short episodes are not overrepresented.
"""

from statistics import fmean, median, stdev

import numpy as np
from gymnasium.wrappers.vector import RecordEpisodeStatistics

from agents.cli import (
    DEFAULT_SEED,
    CommandParser,
    parse_args,
    positive_count,
    run_command,
    seed_number,
)
from envs import AtariConfig, Episode, make_training_env, num_actions

PROG = "python -m benchmarks.random_play"


def random_games(game: str, episodes: int, seed: int, *flags: str) -> list[Episode]:
    """Play at least `episodes` whole episodes, the same number in each of up to 16 environments.

    Args:
        game: The game.
        episodes: The number of episodes.
        seed: Seed of the environments and actions.
        *flags: Further flags of `train_a3c.py`.
    """
    num_envs = min(16, episodes)
    per_env = -(-episodes // num_envs)
    rng = np.random.default_rng(seed)
    seeds = rng.integers(2**31, size=num_envs)
    config = parse_args(["--game", game, *flags]).env
    env = make_training_env(config, seeds)
    if not isinstance(config, AtariConfig):
        env = RecordEpisodeStatistics(env)
    env.reset()
    games: list[list[Episode]] = [[] for _ in range(num_envs)]
    while any(len(played) < per_env for played in games):
        *_, info = env.step(rng.integers(num_actions(config), size=num_envs))
        if "episode" in info:
            for i in np.flatnonzero(info["_episode"]):
                raw_return, length = (float(info["episode"][key][i]) for key in "rl")
                games[i].append(Episode(raw_return, int(length)))
    env.close()
    return [episode for played in games for episode in played[:per_env]]


def main() -> int:
    """Play, print the scores, and return the exit code."""
    parser = CommandParser(prog=PROG, description=__doc__)
    parser.add_argument("--game", default="Frostbite", help="an environment, as of train_a3c.py")
    parser.add_argument(
        "--episodes", type=positive_count, default=200, metavar="N", help="episodes to play"
    )
    parser.add_argument(
        "--seed",
        type=seed_number,
        default=DEFAULT_SEED,
        metavar="S",
        help="seed of environments and actions",
    )
    parser.add_argument("--frame-skip", type=int, help="frames of an agent step")
    args = parser.parse_args()
    flags = [] if args.frame_skip is None else ["--frame-skip", str(args.frame_skip)]
    games = random_games(args.game, args.episodes, args.seed, *flags)
    scores = [game.raw_return for game in games]
    print(f"{args.game}: {len(games)} random episodes")
    std = stdev(scores) if len(scores) > 1 else 0.0
    print(f"score: mean {fmean(scores):.1f}, std {std:.1f}, median {median(scores):.1f}")
    length = fmean(game.length for game in games)
    print(f"length: mean {length:.0f} agent steps")
    return 0


if __name__ == "__main__":
    run_command(main, PROG)
