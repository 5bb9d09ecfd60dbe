"""Parts of `experiments.continual`: tasks in a row, and what keeps a network from forgetting."""
