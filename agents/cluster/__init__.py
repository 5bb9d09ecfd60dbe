"""Training on several machines with Ray: one parameter server, and a node on every machine."""

import importlib.util

NEEDS_RAY = "needs Ray, which is not installed: pip install -e '.[cluster]'"


def has_ray() -> bool:
    """Whether Ray is installed; does not import it."""
    return importlib.util.find_spec("ray") is not None
