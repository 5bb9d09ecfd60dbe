"""Programs that measure; what they measured is under `results/`."""
