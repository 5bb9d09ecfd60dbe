"""Policy outputs: what the network computed when it acted, without changing how it acts."""

import numpy as np
import pytest
import torch

from agents.evaluation.runner import EvaluationPolicy, evaluate_policy
from agents.networks.inspection import HypernetProgram, NeurocoderProgram, stack_outputs
from tests.agents.episode_log import EpisodeLog
from tests.agents.runs import make_config, make_network

HEADS = ("neurocoder", "hypernet", "linear")


def observations(n=5):
    return np.random.default_rng(0).integers(0, 256, (n, 4, 84, 84)).astype(np.uint8)


def inspect_all(network, screens):
    outputs = []
    policy = EvaluationPolicy("sampled", 18, network)
    policy.reset(3)
    for screen in screens:
        policy.act(screen)
        outputs.append(policy.inspect())
    return stack_outputs(outputs)


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
def test_an_output_is_what_the_network_computes(head, core):
    network = make_network(make_config(head=head, core=core))
    screens = observations()
    output = inspect_all(network, screens)
    whole, features = reference(network, screens)
    torch.testing.assert_close(
        torch.from_numpy(output.probabilities), whole.logits[:, 0].softmax(dim=-1)
    )
    torch.testing.assert_close(torch.from_numpy(output.value), whole.values[:, 0])
    for layer, program in ((network.actor, output.actor), (network.critic, output.critic)):
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
    output = inspect_all(network, observations())
    assert output.actor.residual_gate is None


@pytest.mark.parametrize("mode", ["sampled", "greedy"])
@pytest.mark.parametrize("head", HEADS)
def test_a_network_that_is_inspected_takes_the_same_actions(head, mode):
    config = make_config(head=head, core="lstm")
    network, log = make_network(config), EpisodeLog(inspect_every=1)
    (alone,) = evaluate_policy(network, config, mode, [2])
    (inspected,) = evaluate_policy(network, config, mode, [2], [log])
    assert alone.actions.tolist() == inspected.actions.tolist()
    assert alone.trajectory_hash == inspected.trajectory_hash
    assert len(log.outputs) == inspected.length
