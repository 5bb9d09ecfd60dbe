"""Plots of learning curves tell the labels apart, and have a panel for each game."""

from agents.analysis.aggregation import aggregate_over_seeds
from agents.analysis.plotting import _line_styles, plot_curves
from tests.agents.analysis.test_aggregation import SEEDS, curve


def test_no_two_labels_look_alike_and_heads_keep_their_colours():
    labels = ["linear", "neurocoder", "hypernet", "linear, lstm"]
    labels += [f"neurocoder, variant {number}" for number in range(9)]
    styles = _line_styles(aggregate_over_seeds([curve(SEEDS[0])] * len(labels), labels))
    assert len(set(styles.values())) == len(labels)
    alone = _line_styles(aggregate_over_seeds([curve(SEEDS[0])], ["neurocoder"]))
    assert alone["neurocoder"] == styles["neurocoder"]


def test_many_games_and_unknown_ones_are_drawn():
    curves = [curve(SEEDS[0], game=game) for game in ("Pong", "Adventure", "Qbert", "Hero")]
    picture = plot_curves(
        aggregate_over_seeds(curves, ["linear"] * 4), "steps", "greedy", title="Four", dpi=40
    )
    assert picture.startswith(b"\x89PNG")
