"""The paper's experiments beyond games, on the same layer library; see docs/experiments.md."""
