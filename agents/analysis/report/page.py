"""The report as one HTML file with style, script, data, images and video inside.

The page is a Jinja2 template. Its charts are drawn on canvas by `charts/*.js`, without a library:
the main part is one timeline tied to a video, which no library offers, the rest are lines and
cells. The scripts are about 30 kB, plotly's bundle is 4.5 MB, and they follow the browser's light
or dark theme, which images drawn beforehand by matplotlib could not.
"""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import jinja2

from agents.analysis.report.chart_data import Points, chart_data
from agents.analysis.report.episode import ShownEpisode
from agents.evaluation.results import Summary, format_score, format_share
from agents.evaluation.tables import milestone_cell
from envs import MILESTONES, PUBLISHED_SCORES, AtariConfig, EnvConfig

FOLDER = Path(__file__).parent
STYLE = FOLDER / "report.css"
# In the order in which they are joined into one script.
SCRIPTS = tuple(
    FOLDER / "charts" / f"{name}.js"
    for name in (
        "numbers",
        "data",
        "colours",
        "drawing",
        "curve",
        "selection",
        "timeline",
        "matrix",
        "plane",
        "gallery",
        "player",
        "pointer",
        "main",
    )
)
_MODE_NAMES = {"sampled": "Agent, sampled", "greedy": "Agent, greedy", "random": "Random play"}


@dataclass(frozen=True)
class ReportHeader:
    """The contents of the page's header.

    Attributes:
        run: Name of the run directory.
        env: The environment and its rules.
        head: Head of actor and critic.
        core: Core between torso and heads.
        torso: Torso.
        rewards: The rewards that values estimate.
        parameters: Number of parameters of the network, of the actor and of the critic.
        checkpoint: File name of the checkpoint.
        global_step: Agent steps the network was trained for.
        settings: Flags and values of the settings that are not the defaults.
        date: Date of the report.
    """

    run: str
    env: EnvConfig
    head: str
    core: str
    torso: str
    rewards: str
    parameters: tuple[int, int, int]
    checkpoint: str
    global_step: int
    settings: Sequence[tuple[str, str]]
    date: datetime


def make_page(
    header: ReportHeader,
    summaries: Sequence[Summary],
    curves: dict[str, Points],
    shown: ShownEpisode,
) -> str:
    """Render the page.

    Args:
        header: Contents of the page's header.
        summaries: Scores of the episodes played for the report, one summary for each mode.
        curves: Metric -> learning curve: "training" (mean return of the last 100 episodes), and
            evaluations during training, "sampled" and "greedy"; those that exist.
        shown: The episode shown in the player.

    Returns:
        The HTML.

    Raises:
        ValueError: If a number in the data is not finite, which JSON cannot hold.
    """
    data = chart_data(header.env, curves, shown)
    selection = None
    if data["heads"]:
        selection = "embedding" if data["heads"][0]["selections"][0]["signed"] else "attention"
    return (
        template_environment()
        .get_template("template.html")
        .render(
            header=header,
            header_rows=header_rows(header),
            score_rows=score_rows(header.env, summaries),
            milestones=[m.title for m in MILESTONES.get(header.env.game, ())],
            milestone_rows=milestone_rows(header.env, summaries),
            description=describe_episode(header.env, shown, summaries),
            published=header.env.game in PUBLISHED_SCORES,
            curve=bool(curves),
            selection=selection,
            gallery=bool(data["gallery"]),
            agent_step=_agent_step(header.env),
            rewards=header.rewards,
            video="data:video/mp4;base64," + base64.b64encode(shown.video).decode(),
            style=STYLE.read_text("utf-8"),
            script="".join(path.read_text("utf-8") for path in SCRIPTS),
            data=data,
        )
    )


def template_environment() -> jinja2.Environment:
    """Return the environment of the template: escaping is on, undefined names are errors.

    The filter `tojson` escapes "<", so that data cannot end the script element that holds them.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    return environment


def _agent_step(env: EnvConfig) -> str:
    if isinstance(env, AtariConfig):
        plural = "s" if env.frame_skip > 1 else ""
        return f"{env.frame_skip} frame{plural} of the console, which shows 60 a second"
    return f"one step of {env.game}; the video shows {env.steps_per_second:g} a second"


def header_rows(header: ReportHeader) -> list[tuple[str, str]]:
    """Return the terms and descriptions of the list in the header."""
    total, actor, critic = header.parameters
    core = "no recurrence" if header.core == "none" else header.core.upper()
    trained = f"{header.global_step:,} agent steps"
    if isinstance(header.env, AtariConfig):
        trained += f" ({header.global_step * header.env.frame_skip:,} frames)"
    settings = ", ".join(f"{flag} {value}" for flag, value in header.settings)
    return [
        ("Network", f"{header.head} head, {header.torso} torso, {core}"),
        ("Parameters", f"{total:,} (actor {actor:,}, critic {critic:,})"),
        ("Trained for", trained),
        ("Checkpoint", header.checkpoint),
        ("Settings", settings or "defaults"),
    ]


def score_rows(env: EnvConfig, summaries: Sequence[Summary]) -> list[tuple[str, list[str]]]:
    """Return the rows of the score table: name and six cells, measured and published."""
    rows: list[tuple[str, list[str]]] = []
    for s in summaries:
        mean = format_score(s.mean)
        normalised = "" if s.human_normalised is None else format_share(s.human_normalised)
        cells = [
            f"{mean} ± {format_score(s.std)}" if s.episodes > 1 else mean,
            normalised,
            format_score(s.median),
            f"{format_score(s.min)} to {format_score(s.max)}",
            f"{s.episodes:,}",
            _duration(env, s.length) or f"{s.length:,.0f} steps",
        ]
        rows.append((_MODE_NAMES[s.mode], cells))
    published = PUBLISHED_SCORES.get(env.game)
    if published is not None:
        rows.append(("Published, random", [format_score(published.random), "0%", *[""] * 4]))
        rows.append(("Published, human", [format_score(published.human), "100%", *[""] * 4]))
    return [(name, [_minus(cell) or "–" for cell in cells]) for name, cells in rows]


def milestone_rows(env: EnvConfig, summaries: Sequence[Summary]) -> list[tuple[str, list[str]]]:
    """Return the rows of the milestone table: name and a cell for each of the game's milestones."""
    milestones = MILESTONES.get(env.game, ())
    return [
        (_MODE_NAMES[s.mode], [milestone_cell(m, s.milestones) for m in milestones])
        for s in summaries
    ]


def describe_episode(env: EnvConfig, shown: ShownEpisode, summaries: Sequence[Summary]) -> str:
    """Describe the episode shown, in one or two sentences."""
    game, length = shown.trajectory.episode, len(shown.trajectory.actions)
    episodes = next((s.episodes for s in summaries if s.mode == game.mode), 1)
    median = "median" if episodes % 2 else "lower median"  # the table has the mean of the two
    which = f"The {median} of {episodes:,} {game.mode} episodes" if episodes > 1 else "The episode"
    duration = _duration(env, game.length)
    text = (
        f"{which}: score {_minus(format_score(game.score))}, {game.length:,} agent steps"
        f"{duration and f' ({duration} of play)'}, {game.mode} actions, seed {game.seed}."
    )
    if length < game.length:
        text += f" Only the first {length:,} steps are shown, to limit the size of this page."
    return text


def _duration(env: EnvConfig, num_steps: float) -> str:
    """How long agent steps last on the console; empty for environments without a clock."""
    return f"{env.seconds(num_steps):,.0f} s" if isinstance(env, AtariConfig) else ""


def _minus(text: str) -> str:
    return text.replace("-", "\N{MINUS SIGN}")
