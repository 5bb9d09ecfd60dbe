"""Tables of evaluations for the terminal."""

from collections.abc import Mapping, Sequence

from rich import box
from rich.table import Table

from agents.evaluation.results import Summary, format_score, format_share
from envs import MILESTONES, PUBLISHED_SCORES, Milestone


def evaluation_table(game_name: str, summaries: Sequence[Summary]) -> Table:
    """A rich table of summaries, with the published scores as its caption where there are any."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("mode", no_wrap=True)
    published = PUBLISHED_SCORES.get(game_name)
    normalised = ["normalised"] if published else []
    for column in ("games", "mean", "std", "median", "min", "max", "length", *normalised):
        table.add_column(column, justify="right", no_wrap=True)
    for s in summaries:
        scores = (format_score(x) for x in (s.mean, s.std, s.median, s.min, s.max))
        share = [] if s.human_normalised is None else [format_share(s.human_normalised)]
        table.add_row(s.mode, str(s.episodes), *scores, f"{s.length:,.0f}", *share)
    if published is not None:
        random, human = format_score(published.random), format_score(published.human)
        table.caption = f"published (Wang et al. 2016): random {random} (0%), human {human} (100%)"
        table.caption_justify = "left"
    return table


def milestone_table(game_name: str, summaries: Sequence[Summary]) -> Table | None:
    """A rich table of what episodes reached; None in a game without milestones."""
    milestones = MILESTONES.get(game_name, ())
    if not any(s.milestones for s in summaries):
        return None
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("mode", no_wrap=True)
    for milestone in milestones:
        table.add_column(milestone.title, justify="right", no_wrap=True)
    for s in summaries:
        table.add_row(s.mode, *(milestone_cell(m, s.milestones) for m in milestones))
    return table


def milestone_cell(milestone: Milestone, means: Mapping[str, float]) -> str:
    """What episodes reached, on average: a share in per cent, or a number; empty if unknown."""
    if milestone.name not in means:
        return ""
    value = means[milestone.name]
    if not milestone.is_share:
        return f"{value:.2f}".rstrip("0").rstrip(".")
    share = f"{value:.0%}"
    # One episode in 300 is not none.
    return share if value in (0, 1) else {"0%": "<1%", "100%": ">99%"}.get(share, share)
