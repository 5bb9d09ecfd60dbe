"""What this machine can hold, checked before anything is started."""

import resource

import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from agents.config import SettingError, TrainConfig, physical_memory
from agents.network import ActorCritic


def build_network(num_actions: int, config: TrainConfig) -> ActorCritic:
    """Build the network, or refuse what needs more memory or file descriptors than there are.

    Parameters are counted as they come, before they are filled: what would take too much is given
    up long before it does. (To build it on torch's meta device first would take a second, and 100
    MB, because torch draws random numbers there with its compiler.)

    Raises:
        SettingError: naming the flag to lower.
    """
    size = 0

    def count(_module: nn.Module, _name: str, parameter: torch.Tensor | None) -> None:
        nonlocal size
        size += 0 if parameter is None else parameter.numel()
        _check_memory(size, config)

    hook = register_module_parameter_registration_hook(count)
    try:
        network = ActorCritic(num_actions, config)
    except RuntimeError as error:
        if "allocate" not in str(error) and "overflow" not in str(error):
            raise
        allowed = "with these sizes a single tensor is too large for this machine"
        raise SettingError("head", config.head, allowed) from error
    finally:
        hook.remove()
    _check_descriptors(config)
    return network


def _check_memory(size: int, config: TrainConfig) -> None:
    """Refuse a network of so many parameters, or so many workers with it."""
    available = physical_memory()
    copy = 4 * size
    if 8 * copy > available:
        allowed = (
            f"with these sizes the network has {size:,} parameters or more, "
            "too many for this machine"
        )
        raise SettingError("head", config.head, allowed)
    # Parameters and gradients of every worker, its own part of Python, and the shared state.
    needed = config.workers * (2 * copy + 30 * 2**20) + 4 * copy
    if needed > available:
        allowed = (
            f"so many workers take {needed / 2**30:.0f} GiB or more, "
            f"this machine has {available / 2**30:.0f}"
        )
        raise SettingError("workers", config.workers, allowed)


def _check_descriptors(config: TrainConfig) -> None:
    """Refuse more workers than there are file descriptors for, or allow ourselves more of them."""
    descriptors = 4 * config.workers + 100
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < descriptors:
        if hard != resource.RLIM_INFINITY and hard < descriptors:
            allowed = f"so many workers need {descriptors} open files; raise `ulimit -n` ({hard})"
            raise SettingError("workers", config.workers, allowed)
        resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, hard))
