"""Parts of `experiments.continual`: task sequences, and regularizers against forgetting."""
