"""A run's folder as training leaves it, for tests that evaluate."""

import json
from dataclasses import asdict

import torch

from agents.checkpoint import Checkpoint, save_checkpoint
from agents.config import TrainConfig
from agents.networks.actor_critic import ActorCritic
from agents.run_folder import write_json
from agents.training_state import TrainingState
from envs import spaces

SMALL = {
    "neurocoder_slots": 4,
    "neurocoder_steps": 2,
    "neurocoder_least_used": 2,
    "neurocoder_hidden_size": 8,
    "actor_gain": 10.0,
}


def make_config(**settings):
    return TrainConfig(**{"game": "Frostbite", "max_frames": 80, **SMALL, **settings})


def make_network(config, seed=0):
    torch.manual_seed(seed)
    return ActorCritic(spaces(config.env), config)


def save(folder, network, step, keep=3):
    parameters = {name: p.detach().clone() for name, p in network.named_parameters()}
    return save_checkpoint(folder, Checkpoint(parameters, {}, TrainingState(step)), keep)


def make_run(folder, config=None, steps=(500,)):
    """A run with one checkpoint for each of `steps`, whose networks differ."""
    config = config or make_config()
    (folder / "checkpoints").mkdir(parents=True)
    write_json(folder / "config.json", asdict(config))
    for step in steps:
        save(folder / "checkpoints", make_network(config, seed=step), step)
    return folder


def rewrite_json(path, change):
    """Replace what a JSON file holds by what `change` makes of it, in place."""
    stored = json.loads(path.read_text())
    change(stored)
    path.write_text(json.dumps(stored))
