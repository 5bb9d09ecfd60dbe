"""What a policy does on Frostbite's shore, before and after its igloo is complete.

    python -m benchmarks.shore runs/latest --episodes 60

The door of a complete igloo is at the right end of the shore. The figure has to walk there and then
press UP, without a step down onto the floes. So the share of steps down says how far a policy is
from finding the door by chance. Only the first level is counted.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import closing
from statistics import fmean
from typing import Any, NamedTuple, SupportsFloat

import gymnasium
import numpy as np
import numpy.typing as npt
import torch
from ale_py.env import AtariEnv

from agents.cli import DEFAULT_SEED, CommandParser, positive_count, run_command, seed_number
from agents.errors import UserError
from agents.evaluation.episode import Observation, run_episodes
from agents.evaluation.load_agent import load_agent
from agents.evaluation.runner import SAMPLED, EvaluationPolicy, episode_seeds
from agents.run_folder import open_run
from benchmarks.markdown import markdown_table
from envs import AtariConfig, make_evaluation_env, num_actions, resolve_game
from envs.milestones import COMPLETE_IGLOO, IGLOO_BLOCKS, LEVEL

PROG = "python -m benchmarks.shore"
_Y, _SHORE = 100, 27
# From the shore: onto the floes, along it, up, or nowhere.
MOVES = ("down", "along", "up", "none")


class Step(NamedTuple):
    """An agent step: the console's memory before it, what was done, and the raw reward.

    Attributes:
        memory: uint8, (128,).
        action: Its name, such as "DOWNRIGHTFIRE".
        reward: The raw reward.
    """

    memory: npt.NDArray[np.uint8]
    action: str
    reward: float


def move(action: str) -> str:
    """Where an action goes from the shore: down, along it, up, or nowhere ("none")."""
    if "DOWN" in action:
        return "down"
    if "LEFT" in action or "RIGHT" in action:
        return "along"
    return "up" if "UP" in action else "none"


def shore_table(steps: Iterable[Step]) -> str:
    """Agent steps, their reward, and moves from the shore in the first level, in Markdown."""
    counts = {complete: Counter[str]() for complete in (False, True)}
    for memory, action, reward in steps:
        if memory[LEVEL] != 0:
            continue
        count = counts[bool(memory[IGLOO_BLOCKS] == COMPLETE_IGLOO)]
        count["steps"] += 1
        count["points"] += int(reward)
        if memory[_Y] == _SHORE:
            count["shore"] += 1
            count[move(action)] += 1
    columns = ["igloo", "agent steps", "points per step", "on the shore"]
    rows = [
        (
            "complete" if complete else "not complete",
            f"{count['steps']:,}",
            _ratio(count["points"], count["steps"], ".2f"),
            _ratio(count["shore"], count["steps"], ".0%"),
            *(_ratio(count[name], count["shore"], ".0%") for name in MOVES),
        )
        for complete, count in counts.items()
    ]
    return markdown_table([*columns, *(f"of these {name}" for name in MOVES)], rows)


def _ratio(part: int, whole: int, form: str) -> str:
    return format(part / whole, form).replace("%", " %") if whole else "-"


class Recorder(gymnasium.Wrapper[Observation, int, Observation, int]):
    """Keeps every agent step of a console's episodes in `steps`."""

    def __init__(self, env: gymnasium.Env[Observation, int]) -> None:
        super().__init__(env)
        self.steps: list[Step] = []
        if not isinstance(env.unwrapped, AtariEnv):
            raise TypeError(f"{env.unwrapped} is no console")
        self._ale = env.unwrapped.ale
        self._names = env.unwrapped.get_action_meanings()

    def step(self, action: int) -> tuple[Observation, SupportsFloat, bool, bool, dict[str, Any]]:
        """Take the step."""
        memory = self._ale.getRAM()
        result = self.env.step(action)
        self.steps.append(Step(memory, self._names[action], float(result[1])))
        return result


def main(argv: Sequence[str] | None = None) -> int:
    """Play, print, and return the exit code."""
    torch.set_num_threads(1)
    parser = CommandParser(prog=PROG, description=__doc__.partition("\n")[0])
    parser.add_argument("run", metavar="RUN", help="run directory of a training on Frostbite")
    parser.add_argument(
        "--episodes", type=positive_count, default=60, metavar="N", help="sampled episodes"
    )
    parser.add_argument(
        "--seed", type=seed_number, default=DEFAULT_SEED, metavar="S", help="seed of the episodes"
    )
    args = parser.parse_args(argv)
    folder, config = open_run(args.run)
    if not isinstance(config.env, AtariConfig) or resolve_game(config.game).name != "Frostbite":
        raise UserError(f"{args.run} is a run on {config.game}, not on Frostbite")
    network = load_agent(folder, config).network
    with closing(make_evaluation_env(config.env)) as env, network.cached_weights():
        recorder = Recorder(env)
        policy = EvaluationPolicy(SAMPLED, num_actions(config.env), network)
        seeds = episode_seeds(args.seed, args.episodes)
        scores = [episode.score for episode in run_episodes(recorder, policy, seeds)]
    print(f"{len(scores)} episodes, mean score {fmean(scores):.1f}; on the first level:\n")
    print(shore_table(recorder.steps))
    return 0


if __name__ == "__main__":
    run_command(main, PROG)
