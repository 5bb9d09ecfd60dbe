"""Loading a run's network from a checkpoint."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from agents.checkpoint import (
    CheckpointError,
    best_checkpoint,
    load_checkpoint,
    load_newest_checkpoint,
)
from agents.config import TrainConfig
from agents.evaluation.runner import make_network
from agents.networks.actor_critic import ActorCritic


@dataclass(frozen=True)
class LoadedAgent:
    """A network with the parameters of a checkpoint.

    Attributes:
        network: Ready to act.
        checkpoint: The file's name.
        global_step: Agent steps it was trained for.
    """

    network: ActorCritic
    checkpoint: str
    global_step: int


def load_agent(folder: Path, config: TrainConfig, which: str = "latest") -> LoadedAgent:
    """Build a run's network and fill it.

    Args:
        folder: The run directory.
        config: The run's settings.
        which: "latest" (the newest sound checkpoint), "best", or a file.

    Raises:
        CheckpointError: If there is none that can be used.
    """
    # Shapes without memory, until it is certain that a file really holds as much as settings claim.
    with torch.device("meta"):
        expected: dict[str, Tensor] = dict(make_network(config).named_parameters())
    if which == "latest":
        path, checkpoint = load_newest_checkpoint(folder / "checkpoints", expected)
    else:
        path = best_checkpoint(folder / "checkpoints") if which == "best" else Path(which)
        checkpoint = load_checkpoint(path, expected)
    if not all(bool(parameter.isfinite().all()) for parameter in checkpoint.parameters.values()):
        raise CheckpointError(f"{path}: some parameters are not finite")
    network = make_network(config)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.copy_(checkpoint.parameters[name])
    return LoadedAgent(network, path.name, checkpoint.global_step)
