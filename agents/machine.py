"""What this machine can hold, checked before anything is started."""

import resource

import torch

from agents.config import SettingError, TrainConfig, physical_memory
from agents.network import ActorCritic


def check_machine(num_actions: int, config: TrainConfig) -> None:
    """Refuse what needs more memory or file descriptors than there are.

    Raises:
        SettingError: naming the flag to lower.
    """
    available = physical_memory()
    with torch.device("meta"):
        size = sum(p.numel() for p in ActorCritic(num_actions, config).parameters())
    copy = 4 * size
    if 8 * copy > available:
        allowed = f"with these sizes the network has {size:,} parameters, too many for this machine"
        raise SettingError("head", config.head, allowed)
    # Parameters and gradients of every worker, its own part of Python, and the shared state.
    needed = config.workers * (2 * copy + 30 * 2**20) + 4 * copy
    if needed > available:
        allowed = (
            f"so many workers take {needed / 2**30:.0f} GiB, "
            f"this machine has {available / 2**30:.0f}"
        )
        raise SettingError("workers", config.workers, allowed)
    descriptors = 4 * config.workers + 100
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < descriptors:
        if hard != resource.RLIM_INFINITY and hard < descriptors:
            allowed = f"so many workers need {descriptors} open files; raise `ulimit -n` ({hard})"
            raise SettingError("workers", config.workers, allowed)
        resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, hard))
