"""Plots of learning curves. The only module of the agent that needs matplotlib."""

import importlib.util
import io
import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np

from agents.analysis.aggregation import CONFIDENCE, FRAMES, HOURS, RESAMPLES, STEPS, AggregatedCurve
from agents.analysis.learning_curves import TRAINING
from agents.config import RECENT_EPISODES
from agents.errors import MachineError
from envs import PUBLISHED_SCORES

FORMATS = ("png", "svg", "pdf")

# Okabe and Ito's palette, safe for common colour blindness, without its yellow, which is too pale
# for lines. The three heads have the same colours in every plot.
_COLOURS = {"linear": "#0072B2", "hypernet": "#009E73", "neurocoder": "#D55E00"}
_MORE_COLOURS = ("#CC79A7", "#56B4E9", "#E69F00", "#000000")
_STYLES = ("-", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)))
_GREY = "#595959"
_MINUS = "\N{MINUS SIGN}"
_AXIS_LABELS = {STEPS: "agent steps", FRAMES: "frames", HOURS: "hours of training"}
# The human line is drawn up to this multiple of the other values' span; beyond, it becomes text.
_HEADROOM = 2.0


def require_plotting() -> None:
    """Raise MachineError if matplotlib or scipy is missing; does not import them."""
    for library in ("matplotlib", "scipy"):
        if importlib.util.find_spec(library) is None:
            raise MachineError(f'plots need {library}: pip install -e ".[plot]"')


def plot_curves(
    curves: Sequence[AggregatedCurve],
    axis: str,
    metric: str,
    *,
    title: str,
    remark: str = "",
    format: str = "png",  # noqa: A002
    dpi: int = 150,
) -> bytes:
    """Plot the curves, with one panel for each game.

    Args:
        curves: Aggregated curves of all games.
        axis: Their x axis: "steps", "frames" or "hours".
        metric: Their metric.
        title: Title above all panels.
        remark: A sentence for the end of the caption.
        format: "png", "svg" or "pdf".
        dpi: Resolution of a png.

    Returns:
        The contents of the image file.

    Raises:
        MachineError: If matplotlib is not installed.
    """
    require_plotting()
    # Not pyplot, which opens window systems and keeps global state.
    from matplotlib.figure import Figure

    games = list(dict.fromkeys(curve.game for curve in curves))
    columns = min(len(games), 3)
    rows = -(-len(games) // columns)
    figure = Figure(figsize=(max(5.2 * columns, 7.2), 4.3 * rows + 1.0), layout="constrained")
    figure.suptitle(title, fontsize=13, fontweight="bold", parse_math=False)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    styles = _line_styles(curves)
    for game, panel in zip(games, panels, strict=False):
        _panel(panel, game, [c for c in curves if c.game == game], axis, metric, styles)
    for panel in panels[len(games) :]:
        panel.set_visible(False)
    text = "\n".join(textwrap.wrap(_caption(curves, metric, remark), 40 + 60 * columns))
    figure.supxlabel(text, fontsize=7.5, color=_GREY, ha="center")
    image = io.BytesIO()
    figure.savefig(image, format=format, dpi=dpi)
    return image.getvalue()


def _line_styles(curves: Sequence[AggregatedCurve]) -> dict[str, tuple[str, Any]]:
    """Return label -> colour and line style; a head's first label has the head's own colour."""
    styles: dict[str, tuple[str, Any]] = {}
    labels = list(dict.fromkeys(curve.label for curve in curves))
    own = dict.fromkeys(_COLOURS, True)
    more = 0
    for label in sorted(labels, key=lambda label: label not in _COLOURS):
        head = next((head for head in _COLOURS if label.startswith(head)), "")
        if own.pop(head, False):
            styles[label] = _COLOURS[head], "-"
            continue
        style = _STYLES[more // len(_MORE_COLOURS) % len(_STYLES)]
        styles[label] = _MORE_COLOURS[more % len(_MORE_COLOURS)], style
        more += 1
    return styles


def _panel(
    panel: Any,
    game: str,
    curves: Sequence[AggregatedCurve],
    axis: str,
    metric: str,
    styles: dict[str, tuple[str, Any]],
) -> None:
    for curve in curves:
        _plot_curve(panel, curve, *styles[curve.label], points=metric != TRAINING)
    panel.set_title(game, fontsize=11, pad=8)
    panel.set_xlabel(_AXIS_LABELS[axis])
    panel.set_ylabel("return per episode" if metric == TRAINING else f"score, {metric} play")
    panel.grid(color="#E4E4E4", linewidth=0.7)
    panel.set_axisbelow(True)
    for side in ("top", "right"):
        panel.spines[side].set_visible(False)
    panel.set_xlim(left=0)
    if axis != HOURS:
        from matplotlib.ticker import EngFormatter

        panel.xaxis.set_major_formatter(EngFormatter(sep=" "))
    skips = {curve.frame_skip for curve in curves}
    if axis != HOURS and len(skips) == 1 and (skip := skips.pop()) not in (None, 1):
        # Only where an agent step is equally long in all of them, and longer than a frame.
        factor = skip if axis == STEPS else 1 / skip
        other = panel.secondary_xaxis("top", functions=(lambda x: x * factor, lambda x: x / factor))
        other.set_xlabel(_AXIS_LABELS[FRAMES if axis == STEPS else STEPS], fontsize=8, color=_GREY)
        other.tick_params(labelsize=8, colors=_GREY)
        other.spines["top"].set_color("#BBBBBB")
        other.xaxis.set_major_formatter(EngFormatter(sep=" "))
    _reference_lines(panel, game)
    panel.legend(loc="best", fontsize=8.5, frameon=True, framealpha=0.85, edgecolor="none")


def _plot_curve(
    panel: Any, curve: AggregatedCurve, colour: str, style: Any, *, points: bool
) -> None:
    """Plot mean, deviation and interval; the mean is thin where some runs have ended."""
    name = f"{curve.label} ({_seeds_text(curve)})"
    marker = "o" if points or len(curve.x) == 1 else None
    look = {"color": colour, "linestyle": style, "marker": marker, "markersize": 3.5}
    panel.plot(curve.x, curve.mean, linewidth=0.9, **look)
    whole = np.where(curve.n == curve.runs, curve.mean, np.nan)
    panel.plot(curve.x, whole, linewidth=1.9, label=name, **look)
    # With few seeds the interval is about as wide as the deviation: two areas would blur.
    low, high = curve.mean - curve.std, curve.mean + curve.std
    panel.fill_between(curve.x, low, high, where=curve.n > 1, color=colour, alpha=0.16, linewidth=0)
    for end in (curve.low, curve.high):
        panel.plot(curve.x, end, color=colour, linewidth=0.8, linestyle=":")


def _seeds_text(curve: AggregatedCurve) -> str:
    last = int(curve.n[-1])
    return f"n={curve.runs}" + (f", {last} at the end" if last < curve.runs else "")


def _reference_lines(panel: Any, game: str) -> None:
    """Draw published random and human scores, dashed; a far higher human score becomes text."""
    published = PUBLISHED_SCORES.get(game)
    if published is None:
        return
    bottom, top = panel.get_ylim()
    span = max(top, published.random) - min(bottom, published.random)
    place = {"x": 1.0, "transform": panel.get_yaxis_transform(), "ha": "right", "fontsize": 7.5}
    heights = {"random": published.random}
    if published.human - min(bottom, published.random) <= _HEADROOM * span:
        heights["human"] = published.human
    else:
        panel.text(
            **{**place, "transform": panel.transAxes},
            y=0.985,
            va="top",
            color=_GREY,
            s=f"human {published.human:,.0f}, far above \N{UPWARDS ARROW}",
        )
    for name, height in heights.items():
        panel.axhline(height, color=_GREY, linestyle="--", linewidth=1)
        words = f"{name} {height:,.0f}" if abs(height) >= 100 else f"{name} {height:.1f}"
        # At the top there may be the text on the human score.
        is_high = height > top - 0.1 * (top - bottom)
        va = "top" if is_high and "human" not in heights else "bottom"
        panel.text(**place, y=height, va=va, color=_GREY, s=words.replace("-", _MINUS))
    low = min(bottom, *heights.values())
    high = max(top, *heights.values())
    panel.set_ylim(low - 0.02 * (high - low), high + 0.06 * (high - low))


def _caption(curves: Sequence[AggregatedCurve], metric: str, remark: str) -> str:
    words = []
    if metric == TRAINING:
        words.append(
            "Raw return of training episodes (sampled actions), "
            f"mean of the last {RECENT_EPISODES} episodes."
        )
    else:
        words.append(f"Raw score of whole episodes, {metric} play: mean of each evaluation.")
    if any(curve.runs > 1 for curve in curves):
        words.append(
            "Line: mean over the seeds (n). Band: one standard deviation over them. "
            f"Dotted: {CONFIDENCE:.0%} bootstrap interval of the mean "
            f"({RESAMPLES:,} resamples of whole seeds)."
        )
    if any((curve.n < curve.runs).any() for curve in curves):
        words.append("Thin: the mean over the seeds that reach so far.")
    if any(curve.game in PUBLISHED_SCORES for curve in curves):
        words.append("Dashed: published scores (Wang et al. 2016).")
    return " ".join(filter(None, [*words, remark]))
