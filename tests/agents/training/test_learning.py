"""The whole program learns: a tiny deterministic game, to its optimum, with every head."""

import dataclasses

import numpy as np
import pytest
import torch

from agents.checkpoint import list_checkpoints, load_checkpoint
from agents.config import TrainConfig
from agents.networks.actor_critic import ActorCritic
from agents.training.supervisor import train
from envs import Spaces
from tests.agents.tiny_env import ACTIONS, OPTIMUM, TinyEnv, make_tiny_env

# More entropy bonus than on Atari: the consolation is a trap for a policy that settles early.
CONFIG = TrainConfig(workers=0, envs_per_worker=8, num_steps=5, total_timesteps=5000, ent_coef=0.06)


def play_greedily(network):
    """The return of one whole game in which the likeliest action is always taken."""
    game = TinyEnv(1)
    observations, state = game.reset()[0], network.initial_state(1)
    start, total = torch.ones(1, dtype=torch.bool), 0.0
    for _ in range(10):
        with torch.no_grad():
            seen = network.torso(torch.from_numpy(observations))
            logits, state = network.act_logits(seen, state, start)
        observations, rewards, ended, *_ = game.step(np.array([int(logits.argmax())]))
        total += float(rewards[0])
        if ended[0]:
            return total
        start = torch.zeros(1, dtype=torch.bool)
    raise AssertionError("the game did not end")


def trained_network(config, folder):
    assert train(dataclasses.replace(config, run_dir=str(folder)), (), make_tiny_env) == 0
    checkpoint = load_checkpoint(list_checkpoints(folder / "latest" / "checkpoints")[-1])
    network = ActorCritic(Spaces(ACTIONS), config)
    network.load_state_dict(checkpoint.parameters)
    return network


def learns_with_one_of_three_seeds(config, folder):
    """For runs of several processes, in which no seed fixes whose update comes first."""
    for seed in (1, 2, 3):
        seeded = dataclasses.replace(config, seed=seed)
        if play_greedily(trained_network(seeded, folder / str(seed))) == OPTIMUM:
            return True
    return False


@pytest.mark.parametrize(
    "head", ["neurocoder", pytest.param("hypernet", marks=pytest.mark.slow), "linear"]
)
def test_every_head_learns_the_tiny_game_to_its_optimum(head, tmp_path):
    network = trained_network(dataclasses.replace(CONFIG, head=head), tmp_path)
    assert play_greedily(network) == OPTIMUM


def test_a_recurrent_core_learns_it_too(tmp_path):
    config = dataclasses.replace(CONFIG, head="linear", core="lstm")
    assert play_greedily(trained_network(config, tmp_path)) == OPTIMUM


def test_worker_processes_learn_it_too(tmp_path):
    config = dataclasses.replace(CONFIG, head="linear", workers=2, envs_per_worker=4)
    assert learns_with_one_of_three_seeds(config, tmp_path)
