"""The page of a report: one HTML file with style, script, data, pictures and video inside.

The charts are drawn on canvas by `drawing.js` and `report.js`, without a library. The heart
is one timeline tied to a video, which no library offers; the rest are lines and cells. That weighs
25 kB, where plotly's bundle weighs 4.5 MB, and its colours follow the reader's light or dark, which
pictures drawn by matplotlib beforehand could not.
"""

import base64
import html
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from agents.analysis.report.data import Selection, by_action, project, selections_of, strongest
from agents.analysis.report.episode import MOST_WEIGHT_BYTES, ShownEpisode
from agents.evaluation.results import Summary
from envs import PUBLISHED_SCORES, AtariConfig

TEMPLATE = Path(__file__).with_name("template.html")
STYLE = TEMPLATE.with_name("report.css")
SCRIPTS = (TEMPLATE.with_name("drawing.js"), TEMPLATE.with_name("report.js"))

PICTURES_PER_SLOT = 3
MOST_PICTURED_SLOTS = 64
MOST_CURVE_POINTS = 1000

# Decisions and raw scores, of one curve.
Points = tuple[Sequence[float], Sequence[float]]


@dataclass(frozen=True)
class ReportHeader:
    """What the head of the page says.

    Attributes:
        run: name of the run's folder.
        atari: The game and its rules.
        head: of actor and critic.
        core: between torso and heads.
        torso: the convolutions.
        parameters: of the network: its own number, and the actor's and the critic's part.
        checkpoint: the file's name.
        global_step: decisions it was trained for.
        settings: that are not the defaults, as flags and values.
        date: of the report.
    """

    run: str
    atari: AtariConfig
    head: str
    core: str
    torso: str
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
    """Put the page together.

    Args:
        header: for its head.
        summaries: of the games played for it, one for each mode.
        curves: "training" (the mean return of the last 100 games), and evaluations while training,
            "sampled" and "greedy"; those that there are.
        shown: the game of the player.
    """
    data = page_data(header, curves, shown)
    title = f"{header.atari.game}, {header.head} head: {header.run}"
    parts = {
        "title": html.escape(title),
        "run": html.escape(header.run),
        "game": html.escape(header.atari.game),
        "header": header_list(header),
        "scores": score_table(header.atari, summaries),
        "shown": html.escape(describe_game(header.atari, shown, summaries)),
        "video": "data:video/mp4;base64," + base64.b64encode(shown.video).decode(),
        "step": describe_step(header.atari),
        "date": html.escape(f"{header.date:%Y-%m-%d %H:%M}"),
        "style": STYLE.read_text(),
        "script": "".join(path.read_text() for path in SCRIPTS),
        "data": as_json(data),
    }
    text = TEMPLATE.read_text()
    composed = bool(data["heads"])
    attention = composed and not data["heads"][0]["selections"][0]["signed"]
    for name, there in {
        "curve": bool(curves),
        "programs": composed,
        "attention": attention,
        "embedding": composed and not attention,
    }.items():
        pattern = rf"<!-- if {name} -->(.*?)<!-- end {name} -->"
        text = re.sub(pattern, r"\1" if there else "", text, flags=re.DOTALL)
    # In one pass, so that nothing within what is put in is taken for a place to fill.
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], text)


def page_data(
    header: ReportHeader, curves: dict[str, Points], shown: ShownEpisode
) -> dict[str, Any]:
    """Everything that the charts are drawn from, ready for JSON; arrays by `encode_array`."""
    programs = shown.programs
    heads = [
        (name, selections)
        for name, program in (("actor", programs.actor), ("critic", programs.critic))
        if (selections := selections_of(program))
    ]
    size = sum(s.weights.size * (4 if s.signed else 1) for _, all_ in heads for s in all_)
    keep = size <= MOST_WEIGHT_BYTES
    return {
        "rate": header.atari.steps_per_second,
        "actionNames": programs.action_names,
        "actions": encode_array(programs.actions),
        "rewards": encode_array(programs.rewards),
        "values": encode_array(programs.values),
        "probabilities": encode_array(programs.probabilities),
        "heads": [_head(name, selections, shown, keep) for name, selections in heads],
        "gallery": _gallery(heads[0][1][0], shown.thumbnails, header.atari) if heads else None,
        "curve": _curve(header.atari.game, curves) if curves else None,
    }


def as_json(data: dict[str, Any]) -> str:
    """JSON that can stand in a script element: only "<" could end that, or open a comment in it.

    Raises:
        ValueError: if some number is not finite, which JSON does not know.
    """
    return json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def encode_array(array: npt.NDArray[Any]) -> dict[str, Any]:
    """An array for JSON: type, shape, and its bytes in base64, little-endian."""
    kind = array.dtype.newbyteorder("<")
    data = base64.b64encode(np.ascontiguousarray(array, kind).tobytes()).decode()
    return {"type": array.dtype.name, "shape": array.shape, "data": data}


def encode_weights(selection: Selection, keep_components: bool) -> dict[str, Any]:
    """Its weights (T, r, P), or (T, 1, P) for the mean over components.

    Attention comes in steps of 1 / 255: finer shades could not be seen.
    """
    weights = selection.weights if keep_components else selection.mean[:, None]
    if selection.signed:
        return encode_array(weights)
    return encode_array(np.rint(weights.clip(0, 1) * 255).astype(np.uint8))


def header_list(header: ReportHeader) -> str:
    """The definition list at the page's head."""
    whole, actor, critic = header.parameters
    core = "no recurrence" if header.core == "none" else header.core.upper()
    frames = header.global_step * header.atari.frame_skip
    rows = [
        ("Network", f"{header.head} head, {header.torso} torso, {core}"),
        ("Parameters", f"{whole:,} (actor {actor:,}, critic {critic:,})"),
        ("Trained for", f"{header.global_step:,} decisions ({frames:,} frames)"),
        ("Checkpoint", header.checkpoint),
        ("Settings", ", ".join(f"{flag} {value}" for flag, value in header.settings) or "defaults"),
    ]
    return "\n".join(f"<dt>{html.escape(a)}</dt><dd>{html.escape(b)}</dd>" for a, b in rows)


def score_table(atari: AtariConfig, summaries: Sequence[Summary]) -> str:
    """The rows of the score table, measured and published."""
    names = {"sampled": "Agent, sampled", "greedy": "Agent, greedy"}
    rows: list[tuple[str | None, ...]] = []
    for s in summaries:
        seconds = atari.seconds(s.length)
        normalised = (
            None if s.human_normalised is None else f"{round(s.human_normalised, 3) + 0.0:.1%}"
        )
        spread = f"{_number(s.mean)} ± {_number(s.std)}" if s.episodes > 1 else _number(s.mean)
        rows.append(
            (
                names.get(s.mode, "Random play"),
                spread,
                normalised,
                _number(s.median),
                f"{_number(s.min)} to {_number(s.max)}",
                f"{s.episodes:,}",
                f"{seconds:,.0f} s",
            )
        )
    published = PUBLISHED_SCORES.get(atari.game)
    if published is not None:
        for name, score, percent in (
            ("random", published.random, "0%"),
            ("human", published.human, "100%"),
        ):
            rows.append((f"Published, {name}", _number(score), percent, *[None] * 4))
    lines = []
    for who, *cells in rows:
        shown = "".join(f"<td>{_minus(cell) if cell else '–'}</td>" for cell in cells)
        lines.append(f'<tr><th scope="row">{html.escape(who or "")}</th>{shown}</tr>')
    return "\n".join(lines)


def describe_game(atari: AtariConfig, shown: ShownEpisode, summaries: Sequence[Summary]) -> str:
    """Which game is shown, in a sentence or two."""
    game, length = shown.programs.game, len(shown.programs.actions)
    episodes = next((s.episodes for s in summaries if s.mode == game.mode), 1)
    which = f"The median of {episodes:,} {game.mode} games" if episodes > 1 else "The game"
    text = (
        f"{which}: score {_minus(_number(game.score))}, {game.length:,} decisions "
        f"({atari.seconds(game.length):,.0f} s of play), {game.mode} actions, "
        f"seed {game.seed}."
    )
    if length < game.length:
        text += f" Shown are the first {length:,} decisions; more would make this page too large."
    return text


def describe_step(atari: AtariConfig) -> str:
    """How long an agent step is, in a sentence."""
    if atari.frame_skip == 1:
        return "One agent step is 1 frame of the console, of 60 a second."
    return f"One agent step is {atari.frame_skip} frames of the console, of 60 a second."


def _head(
    name: str, selections: Sequence[Selection], shown: ShownEpisode, keep: bool
) -> dict[str, Any]:
    programs = shown.programs
    length = len(programs.actions)
    features = np.concatenate([s.weights.reshape(length, -1) for s in selections], axis=1)
    plane, explained = project(features)
    return {
        "name": name,
        "selections": [
            {
                "name": s.name,
                "signed": s.signed,
                "weights": encode_weights(s, keep),
                "usage": _rounded(s.mean.mean(axis=0)),
                "byAction": [
                    None if np.isnan(row).any() else _rounded(row)
                    for row in by_action(s.mean, programs.actions, len(programs.action_names))
                ],
            }
            for s in selections
        ],
        "plane": encode_array(plane),
        "explained": explained,
        "dimensions": features.shape[1],
    }


def _gallery(
    selection: Selection, thumbnails: Sequence[bytes], atari: AtariConfig
) -> list[list[dict[str, Any]]]:
    apart = round(atari.steps_per_second)  # a second: neighbouring steps see nearly the same screen
    slots = selection.mean[:, :MOST_PICTURED_SLOTS]
    return [
        [
            {
                "t": t,
                "weight": round(float(slots[t, slot]), 4),
                "picture": "data:image/jpeg;base64," + base64.b64encode(thumbnails[t]).decode(),
            }
            for t in decisions
        ]
        for slot, decisions in enumerate(strongest(slots, PICTURES_PER_SLOT, apart))
    ]


def _curve(game: str, curves: dict[str, Points]) -> dict[str, Any]:
    published = PUBLISHED_SCORES.get(game)
    lines = {}
    for metric, (steps, scores) in curves.items():
        every = -(-len(steps) // MOST_CURVE_POINTS)
        # The last point is always among them.
        chosen = slice((len(steps) - 1) % every, None, every)
        lines[metric] = [list(steps[chosen]), _rounded(np.asarray(scores[chosen]))]
    return {
        "lines": lines,
        "random": None if published is None else published.random,
        "human": None if published is None else published.human,
    }


def _rounded(values: npt.NDArray[np.floating[Any]]) -> list[float]:
    return [round(float(value), 5) for value in values]


def _number(value: float) -> str:
    whole = value == round(value) or abs(value) >= 10_000
    return f"{value:,.0f}" if whole else f"{value:,.1f}"


def _minus(text: str) -> str:
    return text.replace("-", "\N{MINUS SIGN}")
