"""The heads by name: all are made and called alike, and a new one needs its name and a function."""

import dataclasses

import pytest
import torch
from torch import nn

from agents.analysis.learning_curves import non_default_settings
from agents.config import TrainConfig, choices
from agents.evaluation.load_agent import load_agent
from agents.evaluation.runner import episode_seeds, evaluate_policy
from agents.networks.heads import HEADS, head_factory
from agents.networks.inspection import extract_program
from agents.run_folder import open_run
from agents.training.supervisor import train
from benchmarks.variants import UnmatchableError, count_parameters, match_neurocoder
from envs import Spaces
from neurocoder import NeurocoderLinear


def test_every_name_that_the_flag_takes_has_a_head_and_the_other_way_round():
    assert tuple(HEADS) == choices("head")


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("out_features", [1, 18])
def test_every_head_is_called_like_nn_linear_and_keeps_its_state_in_parameters(name, out_features):
    head = head_factory(TrainConfig(head=name))(256, out_features)
    x = torch.randn(3, 2, 256)
    y = head(x)
    assert y.shape == (3, 2, out_features)
    with torch.no_grad():
        torch.testing.assert_close(head(x[:, :1]), y[:, :1].detach(), rtol=1e-4, atol=1e-5)
    y.sum().backward()
    assert [n for n, p in head.named_parameters() if p.grad is None] == []
    # Workers share parameters, and checkpoints hold them. Neither includes buffers.
    assert list(head.buffers()) == []


def test_the_authors_layers_have_their_readings_and_the_settings_sizes():
    sizes = {"neurocoder_slots": 6, "neurocoder_key_size": 3, "neurocoder_heads": 2}
    config = TrainConfig(**sizes, neurocoder_steps=4, neurocoder_least_used=2)
    readings = {}
    for name in choices("neurocoder_readings"):
        layer = head_factory(dataclasses.replace(config, neurocoder_readings=name))(5, 7)
        program = layer.compose(torch.randn(1, 5))
        assert program.u_attention.shape == (1, 8, 6)
        readings[name] = layer.readings
    assert readings == {
        "default": NeurocoderLinear(5, 7).readings,
        "authors-single-step": NeurocoderLinear.authors_single_step(5, 7).readings,
        "authors-multi-step": NeurocoderLinear.authors_multi_step(5, 7).readings,
    }


class Film(nn.Module):
    """A linear layer whose outputs another one scales, feature by feature."""

    def __init__(self, in_features, out_features):
        super().__init__()
        self.linear = nn.Linear(in_features, out_features)
        self.scale = nn.Linear(in_features, out_features)

    def forward(self, x):
        return self.linear(x) * (1 + self.scale(x))


def test_a_head_that_has_a_name_and_a_function_is_trained_and_played_and_counted(
    tmp_path, monkeypatch
):
    field = TrainConfig.__dataclass_fields__["head"]
    metadata = {**field.metadata, "choices": (*choices("head"), "film")}
    monkeypatch.setattr(field, "metadata", metadata)
    monkeypatch.setitem(HEADS, "film", lambda _: Film)

    config = TrainConfig(head="film", game="Pong", workers=0, envs_per_worker=1, num_steps=20)
    config = dataclasses.replace(config, total_timesteps=40, max_frames=80, run_dir=str(tmp_path))
    assert train(config) == 0
    folder, config = open_run(tmp_path / "latest")
    assert folder.name.startswith("Pong__film__1__")
    network = load_agent(folder, config).network
    assert type(network.actor) is Film
    assert len(evaluate_policy(network, config, "sampled", episode_seeds(1, 1))) == 1
    assert extract_program(network.actor, torch.zeros(256)) is None  # nothing of it is drawn
    assert non_default_settings(config)[0] == "film"
    assert count_parameters(config, Spaces(6)).heads == 2 * 257 * 7
    with pytest.raises(UnmatchableError, match="makes a film head wider"):
        match_neurocoder(config, Spaces(6))
