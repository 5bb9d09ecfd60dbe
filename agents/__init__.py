"""The A3C agent: one process role, or one idea, per module."""
