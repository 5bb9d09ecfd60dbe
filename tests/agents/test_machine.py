"""A network is built unless the machine is too small for it."""

import subprocess
import sys

import pytest
import torch

from agents import machine
from agents.config import SettingError, TrainConfig
from agents.machine import build_network
from agents.network import ActorCritic


def test_the_network_is_the_one_that_the_seed_gives():
    config = TrainConfig()
    torch.manual_seed(5)
    built = build_network(18, config)
    torch.manual_seed(5)
    plain = ActorCritic(18, config)
    for ours, theirs in zip(built.parameters(), plain.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_network_too_large_is_given_up_before_it_is_filled(monkeypatch):
    monkeypatch.setattr(machine, "physical_memory", lambda: 8 * 4 * 500_000)
    with pytest.raises(SettingError, match=r"--head linear: .* parameters or more"):
        build_network(18, TrainConfig(head="linear", workers=0))


def test_nothing_is_counted_once_the_network_stands(monkeypatch):
    build_network(18, TrainConfig(head="linear", workers=0))
    monkeypatch.setattr(machine, "physical_memory", lambda: 1)
    ActorCritic(18, TrainConfig(head="linear"))


@pytest.mark.parametrize("head", ["linear", "hypernet", "neurocoder"])
def test_building_it_does_not_load_torchs_compiler(head):
    code = (
        "import sys; from agents.config import TrainConfig;"
        "from agents.machine import build_network;"
        f"build_network(18, TrainConfig(head={head!r})); sys.exit('torch._dynamo' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
