"""Learning curves drawn with matplotlib. The only module that needs it."""

import importlib.util
import io
import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np

from agents.analysis.aggregation import CONFIDENCE, FRAMES, HOURS, RESAMPLES, STEPS, AggregatedCurve
from agents.analysis.learning_curves import TRAINING
from agents.config import RECENT_EPISODES
from envs import PUBLISHED_SCORES
from envs.config import FRAME_SKIP

FORMATS = ("png", "svg", "pdf")

# Okabe and Ito's palette, told apart with every common kind of colour blindness; its yellow is too
# pale for lines. The three heads keep their colours in every picture.
_COLOURS = {"linear": "#0072B2", "hypernet": "#009E73", "neurocoder": "#D55E00"}
_MORE_COLOURS = ("#CC79A7", "#56B4E9", "#E69F00", "#000000")
_STYLES = ("-", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)))
_GREY = "#595959"
_MINUS = "\N{MINUS SIGN}"
_AXIS_LABELS = {STEPS: "agent steps", FRAMES: "frames", HOURS: "hours of training"}
# A human may be that many times above everything else before the line is left to a remark.
_HEADROOM = 2.0


class NoMatplotlibError(Exception):
    """It is not installed; the message says how to get it."""

    def __init__(self) -> None:
        super().__init__('pictures need matplotlib: pip install -e ".[plot]"')


def require_matplotlib() -> None:
    """Raise NoMatplotlibError where it is missing; does not load it."""
    if importlib.util.find_spec("matplotlib") is None:
        raise NoMatplotlibError


def plot_curves(
    bands: Sequence[AggregatedCurve],
    axis: str,
    metric: str,
    *,
    title: str,
    remark: str = "",
    format: str = "png",  # noqa: A002
    dpi: int = 150,
) -> bytes:
    """Draw a panel for each game.

    Args:
        bands: of all games.
        axis: that the bands lie on.
        metric: what they show.
        title: above all panels.
        remark: what else to say in the small print.
        format: "png", "svg" or "pdf".
        dpi: dots per inch, of a png.

    Raises:
        NoMatplotlibError: if it is not installed.
    """
    require_matplotlib()
    # Not pyplot: no window system is touched, and no state is left in this process.
    from matplotlib.figure import Figure

    games = list(dict.fromkeys(band.game for band in bands))
    columns = min(len(games), 3)
    rows = -(-len(games) // columns)
    figure = Figure(figsize=(max(5.2 * columns, 7.2), 4.3 * rows + 1.0), layout="constrained")
    figure.suptitle(title, fontsize=13, fontweight="bold")
    panels = figure.subplots(rows, columns, squeeze=False).flat
    styles = _line_styles(bands)
    for game, panel in zip(games, panels, strict=False):
        _panel(panel, game, [b for b in bands if b.game == game], axis, metric, styles)
    for panel in list(panels)[len(games) :]:
        panel.set_visible(False)
    text = "\n".join(textwrap.wrap(_caption(bands, metric, remark), 40 + 60 * columns))
    figure.supxlabel(text, fontsize=7.5, color=_GREY, ha="center")
    image = io.BytesIO()
    figure.savefig(image, format=format, dpi=dpi)
    return image.getvalue()


def _line_styles(bands: Sequence[AggregatedCurve]) -> dict[str, tuple[str, Any]]:
    """Label -> colour and line style: the head's own colour for its first label."""
    styles: dict[str, tuple[str, Any]] = {}
    labels = list(dict.fromkeys(band.label for band in bands))
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
    bands: Sequence[AggregatedCurve],
    axis: str,
    metric: str,
    styles: dict[str, tuple[str, Any]],
) -> None:
    for band in bands:
        _draw_band(panel, band, *styles[band.label], points=metric != TRAINING)
    panel.set_title(game, fontsize=11, pad=8)
    panel.set_xlabel(_AXIS_LABELS[axis])
    panel.set_ylabel("return per game" if metric == TRAINING else f"score, {metric} play")
    panel.grid(color="#E4E4E4", linewidth=0.7)
    panel.set_axisbelow(True)
    for side in ("top", "right"):
        panel.spines[side].set_visible(False)
    panel.set_xlim(left=0)
    if axis != HOURS:
        from matplotlib.ticker import EngFormatter

        panel.xaxis.set_major_formatter(EngFormatter(sep=" "))
        factor = FRAME_SKIP if axis == STEPS else 1 / FRAME_SKIP
        other = panel.secondary_xaxis("top", functions=(lambda x: x * factor, lambda x: x / factor))
        other.set_xlabel(_AXIS_LABELS[FRAMES if axis == STEPS else STEPS], fontsize=8, color=_GREY)
        other.tick_params(labelsize=8, colors=_GREY)
        other.spines["top"].set_color("#BBBBBB")
        other.xaxis.set_major_formatter(EngFormatter(sep=" "))
    _reference_lines(panel, game)
    panel.legend(loc="best", fontsize=8.5, frameon=True, framealpha=0.85, edgecolor="none")


def _draw_band(panel: Any, band: AggregatedCurve, colour: str, style: Any, *, points: bool) -> None:
    """Mean, deviation and interval; thin where only some of the runs still reach."""
    name = f"{band.label} ({_how_many(band)})"
    marker = "o" if points or len(band.x) == 1 else None
    look = {"color": colour, "linestyle": style, "marker": marker, "markersize": 3.5}
    panel.plot(band.x, band.mean, linewidth=0.9, **look)
    whole = np.where(band.n == band.runs, band.mean, np.nan)
    panel.plot(band.x, whole, linewidth=1.9, label=name, **look)
    # With few seeds the interval is about as wide as the deviation: a second area would be mud.
    low, high = band.mean - band.std, band.mean + band.std
    panel.fill_between(band.x, low, high, where=band.n > 1, color=colour, alpha=0.16, linewidth=0)
    for end in (band.low, band.high):
        panel.plot(band.x, end, color=colour, linewidth=0.8, linestyle=":")


def _how_many(band: AggregatedCurve) -> str:
    last = int(band.n[-1])
    return f"n={band.runs}" + (f", {last} at the end" if last < band.runs else "")


def _reference_lines(panel: Any, game: str) -> None:
    """Random play and a human, dashed; the latter in words where the curves would be squashed."""
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
        panel.text(**place, y=height, va="bottom", color=_GREY, s=words.replace("-", _MINUS))
    low = min(bottom, *heights.values())
    high = max(top, *heights.values())
    panel.set_ylim(low - 0.02 * (high - low), high + 0.06 * (high - low))


def _caption(bands: Sequence[AggregatedCurve], metric: str, remark: str) -> str:
    words = []
    if metric == TRAINING:
        words.append(
            "Raw return of training games (sampled actions), "
            f"mean of the last {RECENT_EPISODES} games."
        )
    else:
        words.append(f"Raw score of whole games, {metric} play: mean of each evaluation.")
    if any(band.runs > 1 for band in bands):
        words.append(
            "Line: mean over the seeds (n). Band: one standard deviation over them. "
            f"Dotted: {CONFIDENCE:.0%} bootstrap interval of the mean "
            f"({RESAMPLES:,} resamples of whole seeds)."
        )
    if any((band.n < band.runs).any() for band in bands):
        words.append("Thin: the mean over those seeds only that reach so far.")
    if any(band.game in PUBLISHED_SCORES for band in bands):
        words.append("Dashed: published scores (Wang et al. 2016).")
    return " ".join(filter(None, [*words, remark]))
