"""The figures of `experiments.polynomials`, from its results."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.auto_regression.auto_regressor import SLOTS
from experiments.auto_regression.chunks import Sequences
from experiments.common.drawing import COLOURS, draw_band, new_figure, tidy

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_STYLES = {
    "linear-wide": {"color": COLOURS["linear"], "linestyle": "--"},
    "mlp": {"color": "#7f7f7f", "linestyle": "--"},
}
_DRAWN = ("neurocoder", "neurocoder-single-step")  # Fig. 2 d and e

Results = Sequence[Mapping[str, Any]]


def curves(results: Results, ideal: float) -> "Figure":
    """Plot test error above the ideal observer's against updates, with a band for each variant.

    Curves begin at the first evaluation after training has begun: before, all are alike and high.
    """
    figure = new_figure()
    axes = figure.subplots()
    for name, runs in _by_variant(results).items():
        errors = [[None if e is None else e - ideal for e in run["errors"][1:]] for run in runs]
        draw_band(axes, runs[0]["updates"][1:], errors, name, **_STYLES.get(name, {}))
    axes.set(yscale="log", xlabel="updates", ylabel="test error above the ideal observer's")
    tidy(axes)
    axes.legend(frameon=False)
    return figure


def around(
    results: Results, known: Mapping[str, Any], signals: Mapping[str, str], before: int
) -> "Figure":
    """Plot how much signals change at the steps around a boundary, relative to all steps.

    Args:
        results: results of all variants and seeds.
        known: the result of `references`.
        signals: key -> title.
        before: number of steps before a boundary at which the profiles begin.
    """
    figure = new_figure(12.0, 4.2)
    panels = figure.subplots(1, len(signals), sharey=True)
    for axes, (signal, title) in zip(panels, signals.items(), strict=True):
        for name, runs in _by_variant(results).items():
            profiles = [run[f"{signal}_around"] for run in runs if f"{signal}_around" in run]
            if profiles:
                offsets = range(-before, len(profiles[0]) - before)
                draw_band(axes, offsets, profiles, name, **_STYLES.get(name, {}))
        steps = np.asarray(known["step_around"])
        axes.plot(
            np.arange(len(steps)) - before, steps, color="black", lw=1, ls=":", label="y itself"
        )
        axes.axvline(0, color="#2ca02c", linestyle="--", linewidth=1)
        axes.set(title=title, xlabel="points since the chunk's first")
        tidy(axes)
    panels[0].set_ylabel("change, as a multiple of the mean")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False)
    return figure


def attention(results: Results, test: Sequences) -> "Figure":
    """Plot attention of the first component over time, above the predictions (Fig. 2 d and e).

    For each variant, the seed shown is the one whose attention is the median at finding boundaries.

    Args:
        results: results of all variants and seeds; at least one has finite attention.
        test: the test sequences.
    """
    runs = _by_variant([r for r in results if r["variant"] in SLOTS and has_attention(r)])
    names = [name for name in _DRAWN if name in runs] or [*runs][:1]
    shown = [sorted(runs[n], key=_area)[len(runs[n]) // 2] for n in names]
    figure = new_figure(5.6 * len(shown), 5.0)
    panels = figure.subplots(2, len(shown), squeeze=False, sharex=True, height_ratios=(3, 2))
    y = test.y[0].numpy()
    places = np.arange(len(y))
    chunk_starts = np.flatnonzero(test.starts[0].numpy())[1:]
    for (upper, lower), result in zip(panels.T, shown, strict=True):
        shares = np.asarray(result["example"]["attention"]).T
        image = upper.imshow(
            shares, aspect="auto", interpolation="nearest", cmap="viridis", vmin=0.0, vmax=1.0
        )
        figure.colorbar(image, ax=upper, label="share of attention")
        upper.set_yticks(range(0, len(shares), 5 if len(shares) > 10 else 2))
        upper.set(title=f"{result['variant']}, seed {result['seed']}", ylabel="slot of M_U")
        lower.plot(places, y, color=COLOURS["linear"], marker=".", label="sequence")
        lower.plot(
            places[1:],
            result["example"]["prediction"],
            color=COLOURS["neurocoder"],
            linewidth=1,
            label="prediction",
        )
        for axes in (upper, lower):
            for place in chunk_starts:
                colour = "white" if axes is upper else "#2ca02c"
                axes.axvline(place - 0.5, color=colour, linestyle="--", linewidth=1.2)
        lower.set(xlabel="point", ylabel="y")
        tidy(lower)
    panels[1][0].legend(frameon=False, ncols=2, fontsize="small")
    return figure


def _by_variant(results: Results) -> dict[str, list[Mapping[str, Any]]]:
    grouped: dict[str, list[Mapping[str, Any]]] = {}
    for result in results:
        grouped.setdefault(result["variant"], []).append(result)
    return grouped


def has_attention(result: Mapping[str, Any]) -> bool:
    """Whether there is attention to draw: the layer has attention, and has not diverged."""
    shares = result["example"]["attention"]
    return shares is not None and None not in (share for shares_t in shares for share in shares_t)


def _area(result: Mapping[str, Any]) -> float:
    area = result["first_auc"]  # None where the test has no boundary
    return 0.0 if area is None else float(area)
