"""Thoughts: what the network said when it acted, and acting is as if nobody listened."""

import numpy as np
import pytest
import torch

from agents.evaluation.runner import EvaluationPolicy, evaluate_policy
from agents.networks.inspection import HypernetProgram, NeurocoderProgram, stack_outputs
from tests.agents.runs import make_config, make_network

HEADS = ("neurocoder", "hypernet", "linear")


def observations(n=5):
    return np.random.default_rng(0).integers(0, 256, (n, 4, 84, 84)).astype(np.uint8)


def think_through(network, screens, mode="sampled"):
    thoughts = []
    player = EvaluationPolicy(mode, 18, 3, network, thoughts.append)
    actions = [player.act(screen, i == 0) for i, screen in enumerate(screens)]
    return stack_outputs(thoughts), actions


def reference(network, screens):
    """Output and features of the whole sequence at once."""
    starts = torch.tensor([[i == 0] for i in range(len(screens))])
    seen = torch.from_numpy(screens).unsqueeze(1)
    with torch.no_grad():
        output = network(seen, network.initial_state(1), starts)
        features, _ = network.core(network.forward_torso(seen), network.initial_state(1), starts)
    return output, features[:, 0]


@pytest.mark.parametrize("core", ["none", "lstm"])
@pytest.mark.parametrize("head", HEADS)
def test_a_thought_is_what_the_network_says(head, core):
    network = make_network(make_config(head=head, core=core))
    screens = observations()
    thought, _ = think_through(network, screens)
    output, features = reference(network, screens)
    torch.testing.assert_close(
        torch.from_numpy(thought.probabilities), output.logits[:, 0].softmax(dim=-1)
    )
    torch.testing.assert_close(torch.from_numpy(thought.value), output.values[:, 0])
    for layer, program in ((network.actor, thought.actor), (network.critic, thought.critic)):
        with torch.no_grad():
            if head == "neurocoder":
                assert isinstance(program, NeurocoderProgram)
                composed = layer.compose(features)
                for name in ("u_attention", "v_attention", "s_attention", "singular_values"):
                    array = torch.from_numpy(getattr(program, name))
                    torch.testing.assert_close(array, getattr(composed, name))
                assert program.u_attention.shape == (5, 4, 4)
                gate = torch.from_numpy(program.residual_gate)
                torch.testing.assert_close(gate, composed.residual_gate[:, 0])
            elif head == "hypernet":
                assert isinstance(program, HypernetProgram)
                z = torch.from_numpy(program.embedding)
                torch.testing.assert_close(z, layer.embedding_network(features))
            else:
                assert program is None


def test_without_a_residual_program_there_is_no_gate():
    network = make_network(make_config(neurocoder_residual=False))
    thought, _ = think_through(network, observations())
    assert thought.actor.residual_gate is None


@pytest.mark.parametrize("mode", ["sampled", "greedy"])
@pytest.mark.parametrize("head", HEADS)
def test_who_is_listened_to_takes_the_same_actions(head, mode):
    config = make_config(head=head, core="lstm")
    network, thoughts = make_network(config), []
    (alone,) = evaluate_policy(network, config, mode, 1, seed=2)
    (heard,) = evaluate_policy(network, config, mode, 1, seed=2, on_thought=thoughts.append)
    assert alone.actions.tolist() == heard.actions.tolist()
    assert alone.trajectory_hash == heard.trajectory_hash
    assert len(thoughts) == heard.length


def test_only_every_so_manieth_thought_is_told_from_the_first_of_each_game_on():
    config, thoughts, every = make_config(), [], []
    network = make_network(config)
    evaluate_policy(network, config, "sampled", 2, seed=2, on_thought=thoughts.append)
    evaluate_policy(network, config, "sampled", 2, seed=2, on_thought=every.append, think_every=8)
    assert len(thoughts) == 40
    expected = [thoughts[i].value for i in (0, 8, 16, 20, 28, 36)]
    assert [t.value for t in every] == expected
