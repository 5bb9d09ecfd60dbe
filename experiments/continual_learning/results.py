"""The output of the continual learning experiment: the paper's table, and two figures."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from benchmarks.markdown import markdown_table
from experiments.common.drawing import COLOURS, draw_band, new_figure, tidy
from experiments.common.statistics import bootstrap_interval
from experiments.common.study import Column, Record
from experiments.continual_learning.run import LAYERS, METHODS, SCENARIOS, Variant

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = (
    Column("accuracy", "accuracy after the last task, %", digits=1),
    Column("forgetting", "forgetting, points", digits=1),
    Column("learned", "accuracy when just learned, %", digits=1),
    "parameters",
    Column("seconds", "seconds", digits=1),
)
TITLES = {
    "domain": "Incremental domain: one output layer",
    "task": "Incremental task: one for each task",
    "linear": "MLP",
    "nsm": "NSM",
    "neurocoder": "Neurocoder",
    "adam": "Adam",
    "adagrad": "Adagrad",
    "l2": "L2",
    "si": "SI",
    "ewc": "EWC",
    "online-ewc": "online EWC",
}


def paper_tables(results: Sequence[Record]) -> str:
    """Tables in the form of the paper's Table 1, one for each scenario, in Markdown.

    A cell is the mean over seeds of the average accuracy after the last task, in percent, with its
    95 % bootstrap interval, and with the number of seeds if networks have diverged. The last column
    is the Neurocoder's lead over the MLP, seed by seed.
    """
    layers = _present(results, tuple(LAYERS), "layer")
    both = {"linear", "neurocoder"} <= set(layers)
    heading = [TITLES[layer] for layer in layers] + ["Neurocoder - MLP"] * both
    parts = []
    for scenario in SCENARIOS:
        rows = []
        for method in METHODS:
            cells = [_values(results, scenario, method, layer) for layer in layers]
            if not any(cells):
                continue
            if both:
                mlp, ours = (
                    _values(results, scenario, method, n) for n in ("linear", "neurocoder")
                )
                both_seeds = ours.keys() & mlp.keys()
                cells.append({seed: _lead(ours[seed], mlp[seed]) for seed in both_seeds})
            rows.append([TITLES[method], *(_cell(list(cell.values())) for cell in cells)])
        if rows:
            title = f"{TITLES[scenario]}, accuracy after the last task (%)"
            parts.append(f"{title}\n\n{markdown_table(['method', *heading], rows)}")
    return "\n\n".join(parts)


def accuracy_figure(results: Sequence[Record]) -> "Figure":
    """Plot accuracy after the last task: a panel per scenario, with methods side by side."""
    scenarios = _present(results, SCENARIOS, "scenario")
    methods = _present(results, METHODS, "method")
    layers = _present(results, tuple(LAYERS), "layer")
    figure = new_figure(width=5.5 * len(scenarios), height=4.5)
    for axes, scenario in zip(_row(figure, len(scenarios)), scenarios, strict=True):
        for offset, layer in enumerate(layers):
            labelled = False
            for place, method in enumerate(methods):
                values = _known(_values(results, scenario, method, layer).values())
                if values:
                    x = place + 0.22 * (offset - (len(layers) - 1) / 2)
                    _draw_mean(axes, x, values, layer, labelled=not labelled)
                    labelled = True
        axes.set_xticks(range(len(methods)), [TITLES[m] for m in methods])
        axes.set_xlim(-0.7, len(methods) - 0.3)  # whole labels
        axes.set_title(TITLES[scenario], fontsize=11)
        axes.set_ylabel("average accuracy after the last task (%)")
        tidy(axes)
        axes.grid(visible=False, axis="x")
    if axes.get_legend_handles_labels()[0]:  # not all networks have diverged
        axes.legend(frameon=False)
    return figure


def first_task_figure(results: Sequence[Record]) -> "Figure":
    """Plot accuracy on the first task after each task: a row per scenario, a column per method."""
    return curves_figure(
        results,
        lambda accuracies: [after[0] for after in accuracies],
        "accuracy on task 1 (%)",
        methods={method: TITLES[method] for method in METHODS},
        layers={layer: (TITLES[layer], COLOURS[layer]) for layer in LAYERS},
    )


def curves_figure(
    results: Sequence[Record],
    curve: Callable[[Sequence[Sequence[float]]], list[float]],
    label: str,
    *,
    methods: Mapping[str, str],
    layers: Mapping[str, tuple[str, str]],
) -> "Figure":
    """Plot curves over tasks, means over seeds: a row per scenario, a column per method.

    Args:
        results: The results; their variants are scenario, method and layer.
        curve: Maps the accuracies of a run, as in `learn_in_sequence`, to a value for each task.
        label: Label of the y axes.
        methods: Name -> title, in the order of the columns.
        layers: Name -> title and colour, in the order of the legend.
    """
    scenarios = _present(results, SCENARIOS, "scenario")
    shown = _present(results, tuple(methods), "method")
    figure = new_figure(width=1 + 2.1 * len(shown), height=0.8 + 2.4 * len(scenarios))
    grid = figure.subplots(len(scenarios), len(shown), sharex=True, sharey=True, squeeze=False)
    for row, scenario in zip(grid, scenarios, strict=True):
        for axes, method in zip(row, shown, strict=True):
            for layer, (title, colour) in layers.items():
                records = _records(results, scenario, method, layer)
                runs = [curve(_numbers(record["accuracies"])) for record in records]
                if runs:
                    places = range(1, len(runs[0]) + 1)
                    draw_band(axes, places, runs, title, color=colour)
                    axes.set_xticks(places)
            axes.set_title(f"{scenario}: {methods[method]}", fontsize=10)
            tidy(axes)
        row[0].set_ylabel(label)
    for axes in grid[-1]:
        axes.set_xlabel("tasks learned")
    grid[0, 0].legend(frameon=False, fontsize=9)
    return figure


def _row(figure: "Figure", count: int) -> Sequence["Axes"]:
    grid: Any = figure.subplots(1, count, sharey=True, squeeze=False)
    return list(grid[0])


def _draw_mean(
    axes: "Axes", x: float, values: Sequence[float], layer: str, *, labelled: bool
) -> None:
    """Draw the mean of several seeds, its interval, and faintly the seeds themselves."""
    mean = sum(values) / len(values)
    low, high = bootstrap_interval(values)
    colour = COLOURS[layer]
    axes.plot([x] * len(values), values, ".", color=colour, alpha=0.25, markersize=5)
    axes.errorbar(
        x,
        mean,
        yerr=[[mean - float(low)], [float(high) - mean]],
        fmt="o",
        color=colour,
        markersize=6,
        capsize=3,
        label=TITLES[layer] if labelled else None,
    )


def _records(results: Sequence[Record], scenario: str, method: str, layer: str) -> list[Record]:
    name = str(Variant(scenario, method, layer))
    return [record for record in results if record["variant"] == name]


def _values(
    results: Sequence[Record], scenario: str, method: str, layer: str
) -> dict[int, float | None]:
    """The accuracy of each seed; None where the network has diverged."""
    records = _records(results, scenario, method, layer)
    return {record["seed"]: record["accuracy"] for record in records}


def _present(results: Sequence[Record], names: Sequence[str], part: str) -> list[str]:
    """The names that occur in the results as scenario, method or layer."""
    place = ("scenario", "method", "layer").index(part)
    there = {record["variant"].split("/")[place] for record in results}
    return [name for name in names if name in there]


def _lead(ours: float | None, theirs: float | None) -> float | None:
    return None if ours is None or theirs is None else ours - theirs


def _known(values: Iterable[float | None]) -> list[float]:
    """The values of networks that have not diverged."""
    return [value for value in values if value is not None]


def _numbers(accuracies: Sequence[Sequence[float | None]]) -> list[list[float]]:
    return [[math.nan if a is None else a for a in after] for after in accuracies]


def _cell(values: Sequence[float | None]) -> str:
    known = _known(values)
    if not known:
        return "-"
    mean = f"{sum(known) / len(known):.1f}"
    of = f" ({len(known)} of {len(values)})" if len(known) < len(values) else ""
    if len(known) == 1:
        return mean + of
    low, high = bootstrap_interval(known)
    return f"{mean} [{low:.1f}, {high:.1f}]{of}"
