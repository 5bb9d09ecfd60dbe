"""From the authors' Neurocoder to ours, one reading at a time: online EWC, incremental domain.

The first variants are the authors' protocol with one reading changed to ours. The others add these
changes up, one more in each variant, until the last has our layer and losses.
"""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from experiments.common.drawing import COLOURS, new_figure, tidy
from experiments.common.processes import Scalar
from experiments.common.statistics import bootstrap_interval
from experiments.common.study import Record
from experiments.continual_learning import authors
from experiments.continual_learning.authors import Options, run
from experiments.continual_learning.run import Variant, curves

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METHOD = "online-ewc"
AUTHORS, MLP = "authors", "mlp"
_LSTM = {"queries": "projection", "hidden_size": 16}
_USAGE = {"usage_attention": True, "least_used": 5}
# The arguments of `NeurocoderLinear.authors_single_step` and fields of `Options` that differ in our
# reading, in the order in which they are added up.
READINGS: Mapping[str, Mapping[str, Any]] = {
    "importance-of-images-alone": {"in_importance": False},
    "orthogonality-added-once": {"added_twice": False},
    "orthogonality-0.1": {"orthogonality": 0.1},
    "orthogonality-of-vectors": {"layer": {"orthogonality": "vectors"}},
    "scaled-initialisation": {"layer": {"initialisation": "scaled"}},
    "order-backward": {"layer": {"singular_value_order": "backward"}},
    "bias": {"layer": {"bias": True}},
    "sharpness-1": {"layer": {"sharpness": 1.0}},
    "sharpness-10": {"layer": {"sharpness": 10.0}},
    "key-networks": {"layer": {"keys": "network"}},
    "lstm": {"layer": _LSTM},
    "five-steps": {"layer": {**_LSTM, "steps": 5, "heads": 2}},
    "usage-attention": {"layer": {**_LSTM, **_USAGE, "steps": 5, "heads": 2}},
    "sizes": {"layer": {"slots": 20, "key_size": 8}},
}
# Not on the way to ours, which has no residual program here either, because of its size.
OTHERS: Mapping[str, Mapping[str, Any]] = {
    "residual": {"layer": {"residual": True}},
    "no-orthogonality": {"orthogonality": 0.0, "in_importance": False},
}
_CUMULATED = "to-"


def variants() -> dict[str, Options]:
    """The options of every variant except the MLP, by name."""
    found = {AUTHORS: Options()}
    found |= {name: _options([change]) for name, change in {**READINGS, **OTHERS}.items()}
    changes = list(READINGS.values())
    for count, name in enumerate(READINGS, 1):
        if count > 1:
            found[_CUMULATED + name] = _options(changes[:count])
    return found


def names() -> list[str]:
    """The variants' names, in the order of the table."""
    return [MLP, *variants()]


def _options(changes: Sequence[Mapping[str, Any]]) -> Options:
    layer: dict[str, Any] = {}
    others: dict[str, Any] = {}
    for change in changes:
        layer |= change.get("layer", {})
        others |= {name: value for name, value in change.items() if name != "layer"}
    return Options(layer, **others)


class Runs(authors.Runs):
    """Runs variants by name; for the arguments see `authors.Runs`."""

    def __call__(self, name: str, _seed: int, scalar: Scalar) -> dict[str, Any]:
        """Return the values of `authors.run`."""
        layer = "linear" if name == MLP else "neurocoder"
        options = None if name == MLP else variants()[name]
        return run(
            Variant("domain", METHOD, layer), self.tasks, self.scale, curves(scalar), options
        )


def figure(results: Sequence[Record]) -> "Figure":
    """Plot accuracy after the last task: left, one reading changed; right, one more in each row."""
    by_name: dict[str, list[float]] = {}
    for record in results:
        if record["accuracy"] is not None:  # it has not diverged
            by_name.setdefault(record["variant"], []).append(record["accuracy"])
    first = next(iter(READINGS))
    panels = {
        "one reading as ours": [AUTHORS, *READINGS, *OTHERS],
        "one more as ours in every row": [AUTHORS, first, *(_CUMULATED + n for n in READINGS)],
    }
    if not any(name.startswith(_CUMULATED) for name in by_name):
        del panels["one more as ours in every row"]
    drawn = new_figure(width=0.5 + 5.25 * len(panels), height=5.5)
    axes: Any = drawn.subplots(1, len(panels), sharex=True, squeeze=False)
    for panel, (title, wanted) in zip(axes[0], panels.items(), strict=True):
        rows = [name for name in wanted if name in by_name]
        for place, name in enumerate(rows):
            values = by_name[name]
            mean = fmean(values)
            low, high = bootstrap_interval(values)
            panel.plot(values, [place] * len(values), ".", color="#999999", markersize=5)
            panel.errorbar(
                mean,
                place,
                xerr=[[mean - float(low)], [float(high) - mean]],
                fmt="o",
                color=COLOURS["neurocoder"],
                capsize=3,
            )
        if MLP in by_name:
            panel.axvline(fmean(by_name[MLP]), color=COLOURS["linear"], label="MLP")
        panel.set_yticks(range(len(rows)), [name.removeprefix(_CUMULATED) for name in rows])
        panel.invert_yaxis()
        panel.set_title(title, fontsize=11)
        panel.set_xlabel("average accuracy after the last task (%)")
        tidy(panel)
        if MLP in by_name:
            panel.legend(frameon=False)
    return drawn
