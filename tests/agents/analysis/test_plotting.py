"""Plots of learning curves tell the labels apart, and have a panel for each game."""

import re

import pytest
from matplotlib.figure import Figure

from agents.analysis.aggregation import aggregate_over_seeds
from agents.analysis.plotting import _line_styles, _reference_lines, plot_curves
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


@pytest.mark.parametrize("values", [(10, 20), (10, 64), (100, 300), (3000, 5000)])
def test_the_published_scores_are_written_beside_each_other(values):
    figure = Figure(figsize=(5, 4))
    panel = figure.subplots()
    panel.plot(values)
    _reference_lines(panel, "Frostbite")
    figure.canvas.draw()
    human, random = sorted((text.get_window_extent() for text in panel.texts), key=lambda b: -b.y0)
    assert human.y0 >= random.y1
