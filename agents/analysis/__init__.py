"""Learning curves over seeds, plots, and the HTML report."""
