"""A replay of a short Frostbite episode."""

import torch

from agents.config import TrainConfig
from agents.evaluation.replay_file import Replay
from agents.evaluation.runner import evaluate_policy, make_network

CONFIG = TrainConfig(game="Frostbite", max_frames=242, actor_gain=30.0)


def record(mode="random", config=CONFIG, seed=3):
    torch.manual_seed(0)
    network = make_network(config) if mode != "random" else None
    (episode,) = evaluate_policy(network, config, mode, [seed])
    return Replay(config.env, episode, checkpoint="step_000000000009.safetensors", global_step=9)
