"""The figures of `experiments.digits`, after Fig. 2a to c of the paper."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.common.data import Images
from experiments.common.drawing import COLOURS, new_figure, tidy
from experiments.common.statistics import bootstrap_interval
from experiments.recognition.models import (
    CLASSES,
    STEPS,
    WITH_RESIDUAL,
    WITHOUT_RESIDUAL,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Record = Mapping[str, Any]
_LEVELS = {"linear": "-", "linear-deep": "--", "mlp": ":"}
# The variants that `draw_errors` shows.
IN_ERRORS = frozenset((*WITH_RESIDUAL, *WITHOUT_RESIDUAL, *_LEVELS))
_UP, _DOWN = "#0072B2", "#D55E00"


def draw_errors(results: Sequence[Record], data: str) -> "Figure":
    """Fig. 2a: test error against the number of steps, and of variants without steps."""
    figure = new_figure(8, 4.8)
    axes = figure.add_subplot()
    errors = _errors_by_variant(results)
    for names, label, colour in (
        (WITH_RESIDUAL, "Neurocoder", COLOURS["neurocoder"]),
        (WITHOUT_RESIDUAL, "Neurocoder without residual program", COLOURS["neurocoder-no-usage"]),
    ):
        there = [(x, errors[name]) for x, name in enumerate(names) if name in errors]
        if there:
            x = np.array([place for place, _ in there])
            means, spans = zip(*(_mean_and_span(values) for _, values in there), strict=True)
            axes.errorbar(
                x + (0.03 if "without" in label else -0.03),
                means,
                yerr=np.array(spans).T,
                color=colour,
                marker="o",
                capsize=3,
                label=label,
            )
    for name, style in _LEVELS.items():
        if name in errors:
            mean, (below, above) = _mean_and_span(errors[name])
            colour = COLOURS["linear"] if name != "mlp" else "#595959"
            label = {"linear": "linear", "linear-deep": "linear, same size", "mlp": "MLP"}[name]
            axes.axhline(mean, color=colour, linestyle=style, label=label)
            axes.axhspan(mean - below, mean + above, color=colour, alpha=0.08, linewidth=0)
    axes.set_xticks(range(len(STEPS)), [str(steps) for steps in STEPS])
    axes.set(
        xlabel="steps J",
        ylabel="test error (%), mean and 95 % interval",
        title=f"One-layer classifiers, {data}",
    )
    axes.set_ylim(bottom=0)
    tidy(axes)
    axes.legend(frameon=False, ncols=2)
    return figure


def draw_patterns(single: Record, multi: Record, images: Images) -> "Figure":
    """Fig. 2b: what each digit attends to in M_U, for the first three singular vectors."""
    figure = new_figure(9.5, 6.2)
    grid = figure.subplots(3, CLASSES, height_ratios=[1, 3, 1.4])
    for digit in range(CLASSES):
        axes = grid[0, digit]
        axes.imshow(_picture(images, digit), cmap="gray_r")
        axes.set_axis_off()
    for row, record in ((1, single), (2, multi)):
        attention = np.array(record["attention"])  # (classes, components, P)
        for digit in range(CLASSES):
            axes = grid[row, digit]
            shown = axes.imshow(
                attention[digit].T, cmap="viridis", vmin=0, vmax=attention.max(), aspect="auto"
            )
            axes.set_xticks(range(attention.shape[1]), ["1", "2", "3"][: attention.shape[1]])
            axes.set_yticks([])
        slots = attention.shape[2]
        grid[row, 0].set_yticks([0, slots - 1], ["1", str(slots)])
        name = "single-step" if row == 1 else "multi-step"
        grid[row, 0].set_ylabel(f"{name}\nslots of $M_U$")
        figure.colorbar(shown, ax=grid[row, :], pad=0.01, label="attention")
    figure.supxlabel("singular vector", fontsize="medium")
    return figure


def draw_tree(record: Record, images: Images) -> "Figure":
    """Fig. 2c: the classes' paths through the splits of the first components, and the patterns."""
    paths = [tuple(path) for path in record["paths"]]
    depth = len(paths[0])
    figure = new_figure(10, 5.5)
    tree, strips = figure.subplots(1, 2, width_ratios=[4.5, 1])
    order = sorted(range(CLASSES), key=lambda c: (paths[c], c))
    heights = _leaf_heights([paths[c] for c in order])
    place = dict(zip(order, heights, strict=True))

    def height(prefix: tuple[bool, ...]) -> float:
        under = [place[c] for c in order if paths[c][: len(prefix)] == prefix]
        return (max(under) + min(under)) / 2

    nodes = sorted({path[:n] for path in paths for n in range(depth + 1)}, key=len)
    for node in nodes:
        if node:
            ends = height(node[:-1]), height(node)
            colour = _DOWN if node[-1] else _UP
            tree.plot([len(node) - 1, len(node)], ends, color=colour, linewidth=2, zorder=1)
        tree.scatter(len(node), height(node), s=36, color="black", zorder=2)
    column: dict[tuple[bool, ...], int] = {}
    for c in order:
        column[paths[c]] = at = column.get(paths[c], -1) + 1
        inset = tree.inset_axes(
            (depth + 0.1 + 0.3 * at, height(paths[c]) - 0.45, 0.28, 0.9),
            transform=tree.transData,
        )
        inset.imshow(_picture(images, c), cmap="gray_r")
        inset.set_axis_off()
    widest = max(column.values()) + 1
    tree.set_xlim(-0.1, depth + 0.1 + 0.3 * widest)
    tree.set_ylim(max(heights) + 0.7, min(heights) - 0.7)
    tree.set_xticks(np.arange(depth) + 0.5, [f"singular vector {n + 1}" for n in range(depth)])
    tree.tick_params(length=0)
    tree.set_yticks([])
    tree.spines[:].set_visible(False)
    tree.set_title(
        f"{record['variant']}, seed {record['seed']}: "
        f"{record['kept']:.0%} of the test images keep to their digit's path"
    )
    _draw_strips(strips, record)
    return figure


def _draw_strips(axes: "Axes", record: Record) -> None:
    """The two attention patterns of every split, side by side."""
    patterns = np.array(record["split_patterns"])  # (components, 2, P)
    columns = patterns.reshape(-1, patterns.shape[-1]).T
    axes.imshow(columns, cmap="viridis", vmin=0, aspect="auto")
    places = range(columns.shape[1])
    labels = [f"{n + 1} {'↓' if side else '↑'}" for n in range(len(patterns)) for side in (0, 1)]
    axes.set_xticks(places, labels)
    for n in range(1, len(patterns)):
        axes.axvline(2 * n - 0.5, color="white", linewidth=3)
    for n, tick in enumerate(axes.get_xticklabels()):
        tick.set_color(_DOWN if n % 2 else _UP)
    axes.set_yticks([0, columns.shape[0] - 1], ["1", str(columns.shape[0])])
    axes.set_ylabel("slots of $M_U$")
    axes.set_title("attention patterns")


def _leaf_heights(paths: Sequence[tuple[bool, ...]]) -> list[float]:
    """A height for each path of a sorted list; equal paths share one."""
    heights: list[float] = []
    for n, path in enumerate(paths):
        heights.append(0.0 if n == 0 else heights[-1] + (path != paths[n - 1]))
    return heights


def _picture(images: Images, digit: int) -> np.ndarray:
    """The test picture of a digit that is nearest to the digit's mean picture."""
    of_class = images.test[images.test_labels == digit][:, 0].numpy()
    distances = ((of_class - of_class.mean(axis=0)) ** 2).sum(axis=(1, 2))
    picture: np.ndarray = of_class[distances.argmin()]
    return picture


def _errors_by_variant(results: Iterable[Record]) -> dict[str, list[float]]:
    """Test errors in percent, without diverged models."""
    errors: dict[str, list[float]] = {}
    for record in results:
        if record["error"] is not None:
            errors.setdefault(record["variant"], []).append(100 * record["error"])
    return errors


def _mean_and_span(values: Sequence[float]) -> tuple[float, tuple[float, float]]:
    """The mean, and how far the interval reaches below and above it."""
    mean = float(np.mean(values))
    low, high = bootstrap_interval(values)
    return mean, (mean - float(low), float(high) - mean)
