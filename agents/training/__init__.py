"""The processes of a training run, what they share, and their supervisor."""
