"""Results of single runs, and the table of them over seeds."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from benchmarks.variants import Parameters
from envs import PUBLISHED_SCORES, human_normalised

COLUMNS = (
    "game",
    "variant",
    "parameters",
    "of its heads",
    "agent steps/s",
    "seeds",
    "sampled",
    "greedy",
    "training",
    "human-normalised",
)


@dataclass(frozen=True)
class Result:
    """The result of a run; its fields are the keys of `results.json`. Scores are raw.

    Attributes:
        game: The game, as in `envs.Game.name`.
        variant: The variant's name.
        seed: The seed of the run.
        parameters: The network's parameter counts.
        run: Name of the run directory.
        agent_steps: Agent steps of training.
        agent_steps_per_second: Mean agent steps per second of training.
        sampled: Mean score of the last checkpoint with sampled actions.
        greedy: Mean score of the last checkpoint with greedy actions.
        training: Mean return of the last 100 training episodes.
    """

    game: str
    variant: str
    seed: int
    parameters: Parameters
    run: str
    agent_steps: int
    agent_steps_per_second: float
    sampled: float
    greedy: float
    training: float


def table(results: Sequence[Result], random: Mapping[str, float | None], episodes: int) -> str:
    """The results in Markdown, a row for each game and variant.

    Args:
        results: of runs; those of one game and variant are put together.
        random: game -> mean score of random play, measured by the same rules, or None.
        episodes: final games of each run and mode.
    """
    lines = [f"| {' | '.join(COLUMNS)} |", "|" + "---|" * len(COLUMNS)]
    groups: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        groups.setdefault((result.game, result.variant), []).append(result)
    games = list(dict.fromkeys(result.game for result in results))
    for game in games:
        for (of_game, variant), group in groups.items():
            if of_game != game:
                continue
            sampled = [result.sampled for result in group]
            cells = [
                *(game, variant),
                f"{group[0].parameters.total:,}",
                f"{group[0].parameters.heads:,}",
                f"{fmean(result.agent_steps_per_second for result in group):,.0f}",
                str(len(group)),
                mean_and_std(sampled),
                mean_and_std([result.greedy for result in group]),
                mean_and_std([result.training for result in group]),
                _normalised(game, fmean(sampled)),
            ]
            lines.append(f"| {' | '.join(cells)} |")
        score = random.get(game)
        if score is not None:
            cells = [game, "random", *("" for _ in range(4)), f"{score:.1f}", "", ""]
            lines.append(f"| {' | '.join([*cells, _normalised(game, score)])} |")
    published = [
        f"{game} {PUBLISHED_SCORES[game].random:g} and {PUBLISHED_SCORES[game].human:g}"
        for game in games
        if game in PUBLISHED_SCORES
    ]
    words = (
        "Mean ± standard deviation over seeds. Sampled, greedy: raw score of the newest "
        f"checkpoint, {episodes} whole episodes for each seed; training: return of the last 100 "
        "training episodes. Human-normalised: of the sampled score, 0 % is random play and 100 % a "
        "human"
    )
    if published:
        words += f", by the published scores ({'; '.join(published)})"
    return "\n".join([*lines, "", words + "."])


def mean_and_std(values: Sequence[float]) -> str:
    """Mean ± deviation as of a sample; the value itself where there is only one."""
    known = [value for value in values if not math.isnan(value)]
    if not known:
        return "-"
    return f"{fmean(known):.1f}" + (f" ± {stdev(known):.1f}" if len(known) > 1 else "")


def _normalised(game: str, score: float) -> str:
    value = human_normalised(game, score)
    return "" if value is None else f"{value:.1%}"
