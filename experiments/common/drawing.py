"""What the experiments' figures share: a size, colours, and bands over seeds."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.common.statistics import bootstrap_interval

if TYPE_CHECKING:  # loaded where something is drawn; a run that is refused need not wait for it
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette, told apart with every common kind of colour blindness. A layer has its
# colour in all figures.
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
    """An empty figure of that many inches, laid out such that nothing overlaps."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=DPI, layout="constrained")


def draw_band(
    axes: "Axes", x: Sequence[float], runs: Sequence[Sequence[float]], label: str, **style: Any
) -> None:
    """Draw the mean of several seeds' curves, and the bootstrap interval of the mean as a band.

    Args:
        axes: to draw on.
        x: places, shape (G,).
        runs: a curve for each seed, shape (R, G).
        label: for the legend; the name of a layer gives the line its colour.
        style: for `Axes.plot`.
    """
    values = np.asarray(runs, dtype=float)
    style.setdefault("color", COLOURS.get(label))
    (line,) = axes.plot(x, values.mean(axis=0), label=label, **style)
    if len(values) > 1:
        low, high = bootstrap_interval(values)
        axes.fill_between(x, low, high, color=line.get_color(), alpha=0.2, linewidth=0)


def draw_seeds(
    axes: "Axes", x: Sequence[float], runs: Sequence[Sequence[float]], label: str, **style: Any
) -> None:
    """Draw every seed's curve, where seeds end so far apart that their mean is like none of them.

    Args:
        axes: to draw on.
        x: places, shape (G,).
        runs: a curve for each seed, shape (R, G).
        label: for the legend; the name of a layer gives the lines their colour.
        style: for `Axes.plot`.
    """
    style.setdefault("color", COLOURS.get(label))
    for number, run in enumerate(runs):
        axes.plot(x, run, label=label if number == 0 else None, linewidth=1.4, **style)


def tidy(axes: "Axes") -> None:
    """Leave away the frame's upper and right sides, and put a pale grid behind the data."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
