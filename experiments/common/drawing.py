"""Shared by the experiments' figures: size, colours, and bands over seeds."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.common.statistics import bootstrap_interval

if TYPE_CHECKING:  # imported only where something is drawn, for a quick start
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette, distinguishable with every common kind of colour blindness. A layer has
# the same colour in all figures.
COLOURS = {
    "linear": "#0072B2",
    "hypernet": "#009E73",
    "film": "#CC79A7",
    "moe": "#56B4E9",
    "nsm": "#000000",
    "neurocoder": "#D55E00",
    "neurocoder-single-step": "#E69F00",
    "neurocoder-no-usage": "#8C564B",
}
DPI = 110


def new_figure(width: float = 8.0, height: float = 4.5) -> "Figure":
    """Create an empty figure; sizes are in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=DPI, layout="constrained")


def draw_band(
    axes: "Axes",
    x: Sequence[float],
    runs: Sequence[Sequence[float | None]],
    label: str,
    **style: Any,
) -> None:
    """Draw the mean of several seeds' curves, and the bootstrap interval of the mean as a band.

    A run with a non-finite value is left out: its model has diverged. If no run is left, only the
    legend entry is drawn.

    Args:
        axes: The axes to draw on.
        x: The x values, shape (G,).
        runs: One curve per seed, shape (R, G); None counts as not finite.
        label: Legend entry; a layer's name also selects the colour.
        style: Keyword arguments of `Axes.plot`.
    """
    values = np.asarray(runs, dtype=float)
    values = values[np.isfinite(values).all(axis=1)]
    style.setdefault("color", COLOURS.get(label))
    if not len(values):
        axes.plot([], [], label=label, **style)
        return
    (line,) = axes.plot(x, values.mean(axis=0), label=label, **style)
    if len(values) > 1:
        low, high = bootstrap_interval(values)
        axes.fill_between(x, low, high, color=line.get_color(), alpha=0.2, linewidth=0)


def draw_seeds(
    axes: "Axes", x: Sequence[float], runs: Sequence[Sequence[float]], label: str, **style: Any
) -> None:
    """Draw each seed's curve; for results whose mean is typical of none of them.

    Args:
        axes: The axes to draw on.
        x: The x values, shape (G,).
        runs: One curve per seed, shape (R, G).
        label: Legend entry; a layer's name also selects the colour.
        style: Keyword arguments of `Axes.plot`.
    """
    style.setdefault("color", COLOURS.get(label))
    for number, run in enumerate(runs):
        axes.plot(x, run, label=label if number == 0 else None, linewidth=1.4, **style)


def tidy(axes: "Axes") -> None:
    """Hide the upper and right spines, and draw a pale grid behind the data."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
