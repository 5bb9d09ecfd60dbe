"""Loading a run's network from a checkpoint."""

from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
from torch import Tensor

import envs
from agents.checkpoint import (
    Checkpoint,
    CheckpointError,
    best_checkpoint,
    check_matches,
    load_checkpoint,
    load_newest_checkpoint,
    recorded_make_env,
)
from agents.config import TrainConfig, flag
from agents.errors import escape_to_one_line
from agents.evaluation.runner import make_network
from agents.networks.actor_critic import ActorCritic
from agents.run_folder import RunFolderError, open_run
from envs import Spaces, UnusableEnvironmentError

# Replays keep names of at most this length.
_LONGEST_NAME = 200


@dataclass(frozen=True)
class LoadedAgent:
    """A network with the parameters of a checkpoint.

    Attributes:
        network: Ready to act.
        checkpoint: The file's name, preceded by its run's if that is another run.
        global_step: Agent steps it was trained for.
    """

    network: ActorCritic
    checkpoint: str
    global_step: int


# How a message shows these settings; others are shown as flags.
_WORDS = {
    "head": "a {} head",
    "core": "core {}",
    "torso": "torso {}",
    "game": "trained on {}",
    "images": "images {}",
    "full_action_space": "full action space {}",
}


def _identity(config: TrainConfig) -> list[str]:
    """The settings that distinguish an agent: those of its network, and of what it plays."""
    names = {"game", *vars(config.env)}
    groups = {"network", f"{config.head} head"}
    return [
        spec.name
        for spec in fields(config)
        if not spec.metadata["mutable_on_resume"]
        and (spec.name in names or spec.metadata["group"] in groups)
    ]


def _check_same_agent(path: Path, checkpoint: Checkpoint, config: TrainConfig) -> None:
    """Raise CheckpointError if a checkpoint's agent differs from the run's agents.

    It differs if it has another network, even with parameters of the same shapes, or other rules.

    Its settings are in the file, or for an older file, in the `config.json` of its run.
    """
    settings = checkpoint.training_state.config
    if not settings:
        try:
            settings = asdict(open_run(path.parent.parent)[1])
        except RunFolderError:
            return  # only its parameters are known
    ours = asdict(config)
    names = _identity(config)
    differing = [name for name in names if settings.get(name, ours[name]) != ours[name]]
    if differing:
        shown = dict.fromkeys(["head", *differing, "game"])
        theirs, own = (
            ", ".join(
                _WORDS.get(name, f"{flag(name)} {{}}").format(given.get(name, ours[name]))
                for name in shown
            )
            for given in (settings, ours)
        )
        raise CheckpointError(f"{path}: it is of {theirs}; the run is of {own}")


def _named_spaces(folder: Path, config: TrainConfig) -> Spaces:
    """The spaces of the environment that a run's settings name."""
    try:
        return envs.spaces(config.env)
    except UnusableEnvironmentError as error:
        if maker := recorded_make_env(folder / "checkpoints"):
            raise UnusableEnvironmentError(
                f"{error}; {maker} made the run's environments: play them from Python, with "
                "load_agent(..., spaces=...)"
            ) from error
        raise


def _find_checkpoint(folder: Path, which: str) -> Path:
    """The file of the best checkpoint, or the one given, by its path or its name in a run."""
    if which == "best":
        path = best_checkpoint(folder)
        if not path.exists():
            raise CheckpointError(f"{path}: there is none before training's first evaluation")
        return path
    for path in (Path(which), folder / which):
        if path.exists():
            return path
    raise CheckpointError(f"{which}: neither latest, nor best, nor a file here or in {folder}")


def load_agent(
    folder: str | Path,
    config: TrainConfig,
    which: str = "latest",
    *,
    spaces: Spaces | None = None,
) -> LoadedAgent:
    """Build a run's network and load its parameters.

    Args:
        folder: The run directory, as `open_run` returns it with the settings.
        config: The run's settings.
        which: "latest" (the newest sound checkpoint), "best", or a file, which may be the name of
            one of the run's own.
        spaces: Those of the environment, `agents.a3c.collector.spaces_of(env)`, for a run that was
            trained with a custom `make_env`; by default, those of what `config.game` names.

    Raises:
        CheckpointError: If there is none that can be used.
        UnusableEnvironmentError: If no `spaces` are given, and Gymnasium cannot make the
            environment.
    """
    folder = Path(folder)
    if spaces is None:
        spaces = _named_spaces(folder, config)
    # Shapes without memory, until it is certain that a file really holds as much as settings claim.
    with torch.device("meta"):
        expected: dict[str, Tensor] = dict(make_network(config, spaces).named_parameters())
    if which == "latest":
        path, checkpoint = load_newest_checkpoint(folder / "checkpoints", expected)
    else:
        path = _find_checkpoint(folder / "checkpoints", which)
        # Settings come first: "a linear head" says more than the names of parameters that differ.
        checkpoint = load_checkpoint(path)
        _check_same_agent(path, checkpoint, config)
        try:
            check_matches(checkpoint, expected)
        except ValueError as error:
            raise CheckpointError(f"{path}: {error}") from error
    if not all(bool(parameter.isfinite().all()) for parameter in checkpoint.parameters.values()):
        raise CheckpointError(f"{path}: some parameters are not finite")
    network = make_network(config, spaces)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.copy_(checkpoint.parameters[name])
    is_own = path.resolve().parent == (folder / "checkpoints").resolve()
    name = path.name if is_own else f"{path.resolve().parent.parent.name}/{path.name}"
    name = escape_to_one_line(name)[-_LONGEST_NAME:]
    return LoadedAgent(network, name, checkpoint.global_step)
