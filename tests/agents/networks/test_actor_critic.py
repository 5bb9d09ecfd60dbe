"""The network's parts and their shapes."""

from contextlib import nullcontext

import pytest
import torch
from torch import nn

from agents.config import TrainConfig
from agents.networks.actor_critic import ActorCritic
from agents.networks.flat_parameters import repeat_parameters
from envs import Spaces
from neurocoder import HyperLinear, NeurocoderLinear

LAYERS = {"neurocoder": NeurocoderLinear, "hypernet": HyperLinear, "linear": nn.Linear}


@pytest.mark.parametrize("head", LAYERS)
@pytest.mark.parametrize("core", ["none", "lstm"])
@pytest.mark.parametrize("torso", ["nips", "nature"])
def test_every_combination_gives_a_policy_and_a_value(head, core, torso):
    network = ActorCritic(Spaces(7), TrainConfig(head=head, core=core, torso=torso))
    screens = torch.randint(0, 255, (3, 2, 4, 84, 84), dtype=torch.uint8)
    output = network(screens, network.initial_state(2), torch.zeros(3, 2, dtype=torch.bool))
    assert output.logits.shape == (3, 2, 7)
    assert output.values.shape == (3, 2)
    assert output.state.shape == network.initial_state(2).shape
    (output.logits.sum() + output.values.sum()).backward()
    untouched = [n for n, p in network.named_parameters() if p.grad is None]
    assert untouched == []


def test_the_head_is_the_only_thing_that_varies():
    others = []
    for head, layer in LAYERS.items():
        network = ActorCritic(Spaces(7), TrainConfig(head=head))
        assert type(network.actor) is layer
        assert type(network.critic) is layer
        names = [(n, p.shape) for n, p in network.named_parameters()]
        others.append([x for x in names if not x[0].startswith(("actor", "critic"))])
    assert others[0] == others[1] == others[2]


def test_a_linear_head_may_have_a_hidden_layer():
    network = ActorCritic(Spaces(5), TrainConfig(head="linear", linear_hidden_size=30))
    assert sum(p.numel() for p in network.actor.parameters()) == 257 * 30 + 31 * 5
    assert sum(p.numel() for p in network.critic.parameters()) == 257 * 30 + 31
    features = torch.randn(4, 256)
    # Two linear layers alone would be one.
    assert not torch.allclose(
        network.actor(features) + network.actor(-features), 2 * network.actor(0 * features)
    )


def test_the_layers_settings_reach_the_layer():
    config = TrainConfig(
        neurocoder_slots=7,
        neurocoder_key_size=3,
        neurocoder_heads=1,
        neurocoder_steps=4,
        neurocoder_least_used=2,
        neurocoder_hidden_size=9,
        neurocoder_sharpness=2.5,
        neurocoder_usage_attention=False,
        neurocoder_residual=False,
    )
    actor = ActorCritic(Spaces(5), config).actor
    assert actor.memory.u.shape == (7, 256)
    assert actor.program_keys().shape == (3, 7, 3)
    assert actor.compose(torch.zeros(2, 256)).u_attention.shape == (2, 4, 7)
    assert actor.least_used == 2
    assert actor.composition_network.recurrent_projection.in_features == 9
    assert actor.sharpness == 2.5
    assert actor.composition_network.gate_projection is None
    assert actor.residual is None


def test_the_orthogonality_loss_sums_over_actor_and_critic():
    network = ActorCritic(Spaces(5), TrainConfig())
    expected = network.actor.orthogonality_loss() + network.critic.orthogonality_loss()
    assert network.orthogonality_loss().item() == pytest.approx(expected.item())
    assert ActorCritic(Spaces(5), TrainConfig(head="linear")).orthogonality_loss().item() == 0


def test_acting_and_learning_lay_out_memory_differently_and_agree():
    network = ActorCritic(Spaces(5), TrainConfig(torso="nature"))
    screens = torch.randint(0, 255, (2, 3, 4, 84, 84), dtype=torch.uint8)
    inputs = (screens, network.initial_state(3), torch.zeros(2, 3, dtype=torch.bool))
    learned = network(*inputs)
    with torch.no_grad():
        acted = network(*inputs)
    torch.testing.assert_close(acted.logits, learned.logits.detach(), rtol=1e-4, atol=1e-5)


def test_the_actor_gain_scales_the_logits_alone():
    torch.manual_seed(0)
    plain = ActorCritic(Spaces(5), TrainConfig(head="linear"))
    torch.manual_seed(0)
    scaled = ActorCritic(Spaces(5), TrainConfig(head="linear", actor_gain=0.1))
    screens = torch.randint(0, 255, (1, 2, 4, 84, 84), dtype=torch.uint8)
    inputs = (screens, plain.initial_state(2), torch.zeros(1, 2, dtype=torch.bool))
    torch.testing.assert_close(0.1 * plain(*inputs).logits, scaled(*inputs).logits)
    torch.testing.assert_close(plain(*inputs).values, scaled(*inputs).values)


@pytest.mark.parametrize("core", ["none", "lstm"])
@pytest.mark.parametrize("head", LAYERS)
def test_policy_and_value_are_what_the_whole_network_says(head, core):
    torch.manual_seed(0)
    network = ActorCritic(Spaces(5), TrainConfig(head=head, core=core, actor_gain=0.5))
    screens = torch.randint(0, 255, (3, 4, 84, 84), dtype=torch.uint8)
    state, starts = torch.randn(2, 3, network.core.state_size), torch.tensor([False, True, False])
    with torch.no_grad():
        whole = network(screens.unsqueeze(0), state, starts.unsqueeze(0))
    seen = network.torso(screens)
    for holding in (nullcontext, network.cached_weights):
        with holding():
            logits, after = network.act_logits(seen, state, starts)
            torch.testing.assert_close(logits, whole.logits[0], rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(after, whole.state)
            values = network.act_values(seen, state, starts)
            torch.testing.assert_close(values, whole.values[0], rtol=1e-4, atol=1e-5)
        assert not logits.requires_grad
        assert not values.requires_grad


HEADS = {
    "neurocoder": {},
    "one step": {"neurocoder_steps": 1},
    "no usage attention": {"neurocoder_usage_attention": False},
    "no residual": {"neurocoder_residual": False},
    "authors' single step": {"neurocoder_readings": "authors-single-step"},
    "authors' multi-step": {"neurocoder_readings": "authors-multi-step"},
    "hypernet": {"head": "hypernet"},
    "linear": {"head": "linear"},
    "two linear layers": {"head": "linear", "linear_hidden_size": 9},
}


@pytest.mark.parametrize("settings", HEADS.values(), ids=HEADS.keys())
@pytest.mark.parametrize("core", ["none", "lstm"])
def test_each_of_several_workers_has_the_outputs_and_gradients_it_has_alone(core, settings):
    torch.manual_seed(0)
    network = ActorCritic(Spaces(7), TrainConfig(core=core, **settings)).double()
    workers, steps, envs = 3, 4, 2
    scales = torch.tensor([1.0, 10.0, 100.0], dtype=torch.float64)[:, None, None, None]
    features = (torch.randn(workers, steps, envs, 256).double() * scales.sqrt()).requires_grad_()
    state = torch.randn(workers, 2, envs, network.core.state_size, dtype=torch.float64)
    starts = torch.rand(workers, steps, envs) < 0.3
    targets = scales * torch.randn(workers, steps, envs, 8, dtype=torch.float64)

    def loss_of(output, targets):
        outputs = torch.cat([output.logits, output.values.unsqueeze(-1)], dim=-1)
        return (outputs * targets).sum()

    parameters = repeat_parameters(network, workers)
    own = {name: p for name, p in parameters.items() if not name.startswith("torso.")}
    together = network.forward_heads_of_workers(features, state, starts, own)
    dfeatures, *found = torch.autograd.grad(
        loss_of(together, targets), [features, *own.values()], materialize_grads=True
    )
    for i in range(workers):
        rows = features[i].detach().requires_grad_()
        alone = network.forward_heads(rows, state[i], starts[i])
        torch.testing.assert_close(together.logits[i], alone.logits)
        torch.testing.assert_close(together.values[i], alone.values)
        torch.testing.assert_close(together.state[:, i * envs : (i + 1) * envs], alone.state)
        expected = torch.autograd.grad(
            loss_of(alone, targets[i]),
            [rows, *(network.get_parameter(name) for name in own)],
            materialize_grads=True,
        )
        for name, ours, theirs in zip(
            ["features", *own], [dfeatures[i], *(f[i] for f in found)], expected, strict=True
        ):
            torch.testing.assert_close(ours, theirs, msg=lambda text, n=name: f"{n}: {text}")
