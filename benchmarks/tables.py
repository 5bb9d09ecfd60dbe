"""Results of single runs, and tables of them over seeds."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev

from agents.evaluation.results import format_share
from agents.evaluation.tables import milestone_cell
from benchmarks.markdown import markdown_table
from benchmarks.variants import Parameters
from envs import MILESTONES, PUBLISHED_SCORES, human_normalised

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
        training_past: Agent step at which the mean of the last 100 training episodes first reached
            the target; None if it did not, or there is none.
        evaluation_past: The same for the mean of an evaluation of sampled play.
        milestones: What the sampled episodes reached, by the names of `envs.MILESTONES`.
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
    training_past: int | None = None
    evaluation_past: int | None = None
    milestones: Mapping[str, float] = field(default_factory=dict)


def table(results: Sequence[Result], random: Mapping[tuple[str, str], float], episodes: int) -> str:
    """The results in Markdown, a row for each game and variant.

    Args:
        results: results of runs; each row combines those of one game and variant.
        random: (game, name) -> mean score of random play, measured under the same rules.
        episodes: number of final evaluation episodes for each run and mode.
    """
    rows = []
    groups = _groups(results)
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
            rows.append(cells)
        for (of_game, name), score in random.items():
            if of_game != game:
                continue
            cells = [game, name, *("" for _ in range(4)), f"{score:.1f}", "", ""]
            rows.append([*cells, _normalised(game, score)])
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
    return f"{markdown_table(COLUMNS, rows)}\n\n{words}."


def target_table(results: Sequence[Result], target: float) -> str:
    """How many seeds of each game and variant reached a score, and when, in Markdown."""
    columns = ["game", "variant"]
    for where in ("training", "evaluations"):
        columns += [f"past {target:g} in {where}", "at agent step"]
    rows = []
    for (game, variant), group in _groups(results).items():
        cells = [game, variant]
        for past in (
            [result.training_past for result in group],
            [result.evaluation_past for result in group],
        ):
            steps = sorted(step for step in past if step is not None)
            cells += [f"{len(steps)} of {len(group)}", ", ".join(f"{step:,}" for step in steps)]
        rows.append(cells)
    words = (
        "Seeds that reached the score within their budget, and when: by the mean of the last 100 "
        "training episodes, and by the mean of an evaluation of sampled play, during training or "
        "the one after it. Means over seeds hide that some break through and some do not."
    )
    return f"{markdown_table(columns, rows)}\n\n{words}"


def milestones_table(results: Sequence[Result]) -> str:
    """What the sampled episodes of the newest checkpoints reached, in Markdown; may be empty."""
    parts = []
    for game, milestones in MILESTONES.items():
        groups = {v: g for (of, v), g in _groups(results).items() if of == game}
        if not any(result.milestones for group in groups.values() for result in group):
            continue
        rows = []
        for variant, group in groups.items():
            known = [result.milestones for result in group if result.milestones]
            means = {m.name: fmean(each[m.name] for each in known) for m in milestones if known}
            cells = [milestone_cell(milestone, means) for milestone in milestones]
            rows.append([variant, *cells])
        columns = [game, *(milestone.title for milestone in milestones)]
        parts.append(markdown_table(columns, rows))
    return "\n\n".join(parts)


def _groups(results: Sequence[Result]) -> dict[tuple[str, str], list[Result]]:
    """The results by game and variant."""
    groups: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        groups.setdefault((result.game, result.variant), []).append(result)
    return groups


def mean_and_std(values: Sequence[float]) -> str:
    """Mean ± sample standard deviation; the value itself if there is only one."""
    known = [value for value in values if not math.isnan(value)]
    if not known:
        return "-"
    return f"{fmean(known):.1f}" + (f" ± {stdev(known):.1f}" if len(known) > 1 else "")


def _normalised(game: str, score: float) -> str:
    value = human_normalised(game, score)
    return "" if value is None else format_share(value)
