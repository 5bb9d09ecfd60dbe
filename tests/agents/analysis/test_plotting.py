"""Plots of learning curves tell the labels apart, and have a panel for each game."""

import re

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
    games = ("Pong", "Adventure", "Qbert", "Hero", "Tetris")
    curves = [curve(SEEDS[0], game=game) for game in games]
    aggregated = aggregate_over_seeds(curves, ["linear"] * 5)
    picture = plot_curves(aggregated, "steps", "greedy", title="Five", format="svg")
    # Each panel has a second axis above, of frames; the sixth place is empty.
    axes = re.findall(rb'<g id="axes_\d+">', picture)
    assert len(axes) == 2 * len(games)
    for game in games:
        assert f"<!-- {game} -->".encode() in picture
