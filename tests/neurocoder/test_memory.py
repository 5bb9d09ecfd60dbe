"""The program memory: orthogonality, keys, singular values, and the scale all of it starts at."""

import math

import pytest
import torch
from torch import nn

from neurocoder import NeurocoderLinear
from neurocoder.memory import KeyNetwork, ProgramMemory, singular_values
from tests.neurocoder import oracle

SEEDS = range(4)


def float64_memory(in_features, out_features, slots):
    return ProgramMemory(in_features, out_features, slots, 10, dtype=torch.float64)


@pytest.mark.parametrize("sizes", [(5, 3), (3, 1), (1, 1), (4, 6)])
def test_the_orthogonality_loss_is_the_sum_of_two_frobenius_norms(sizes):
    layer = NeurocoderLinear(*sizes, slots=4, least_used=2, dtype=torch.float64)
    expected, got = oracle.orthogonality_loss(layer), layer.orthogonality_loss()
    assert got.shape == ()
    torch.testing.assert_close(got, expected)
    vectors = (layer.memory.u, layer.memory.v)
    for a, b in zip(
        torch.autograd.grad(got, vectors), torch.autograd.grad(expected, vectors), strict=True
    ):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(("out_features", "floor"), [(18, 1.414), (1, 4.359), (20, 0.0)])
def test_the_orthogonality_loss_approaches_its_floor_and_never_undercuts_it(out_features, floor):
    exact = math.sqrt(20 - out_features)
    assert exact == pytest.approx(floor, abs=1e-3)
    memory = float64_memory(24, out_features, slots=20)
    optimizer = torch.optim.Adam([memory.u, memory.v], lr=0.1)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.97)
    for _ in range(300):
        loss = memory.orthogonality_loss()
        assert loss.item() > exact - 1e-9
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    assert loss.item() < exact + 0.01


def test_more_slots_than_inputs_put_a_floor_under_the_left_vectors_too():
    memory = float64_memory(4, 4, slots=7)
    with torch.no_grad():
        for vectors in (memory.u, memory.v):
            vectors.copy_(torch.linalg.qr(torch.randn(7, 4, dtype=torch.float64)).Q)
    assert memory.orthogonality_loss().item() == pytest.approx(2 * math.sqrt(3))


def test_vectors_that_are_exactly_orthonormal_have_no_loss_and_a_gradient_of_zero():
    memory = float64_memory(6, 5, slots=5)
    with torch.no_grad():
        memory.u.copy_(torch.eye(5, 6))
        memory.v.copy_(torch.eye(5))
    loss = memory.orthogonality_loss()
    loss.backward()
    assert loss.item() == 0.0
    assert not memory.u.grad.any()
    assert not memory.v.grad.any()


@pytest.mark.parametrize("sizes", [(5, 3), (4, 4), (1, 1)])
def test_keys_are_the_key_networks_compressions_of_the_slots_at_unit_length(sizes):
    layer = NeurocoderLinear(*sizes, slots=4, least_used=2, dtype=torch.float64)
    keys = layer.program_keys()
    assert keys.shape == (3, 4, 8)
    for m, memory in enumerate((layer.memory.u, layer.memory.v, layer.memory.s)):
        for i in range(4):
            expected = oracle.key(layer.key_networks[m], memory[i])
            torch.testing.assert_close(keys[m, i], expected / torch.sqrt((expected**2).sum()))


def test_keys_depend_on_the_slots_and_the_key_networks_alone():
    layer = NeurocoderLinear(5, 3)
    before = layer.program_keys()
    layer.train(False)(torch.randn(7, 5))
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            if not name.startswith(("memory.", "key_networks.")):
                parameter.normal_()
    torch.testing.assert_close(layer.program_keys(), before, rtol=0, atol=0)
    for m, memory in enumerate((layer.memory.u, layer.memory.v, layer.memory.s)):
        with torch.no_grad():
            memory[2] += 1.0
        after = layer.program_keys()
        changed = (after != before).any(-1)
        assert changed[m].tolist() == [i == 2 for i in range(20)]
        assert not changed[m + 1 :].any()
        before = after


# Keys on one line would have cosines of 1 and -1 alone, and all their variance in one direction.
# Measured over 40 seeds: at most 0.86 and 0.89 for scalars, 0.42 and 0.44 for vectors.
@pytest.mark.parametrize(("slot_size", "most"), [(1, 0.92), (18, 0.6), (256, 0.6)])
@pytest.mark.parametrize("seed", SEEDS)
def test_a_fresh_key_network_spreads_the_keys_over_many_directions(slot_size, most, seed):
    torch.manual_seed(seed)
    memory = torch.randn(20, slot_size)
    network = KeyNetwork(slot_size, 8)
    network.reset_for(memory)
    with torch.no_grad():
        keys = nn.functional.normalize(network(memory), dim=-1)
    cosine = (keys @ keys.T)[~torch.eye(20, dtype=torch.bool)]
    assert cosine.abs().mean() < most
    assert torch.linalg.svdvals(keys)[0].square() / 20 < most


@pytest.mark.parametrize("value", [0.0, 3.0])
def test_a_key_network_is_reset_even_for_slots_that_are_all_alike(value):
    network = KeyNetwork(4, 8)
    network.reset_for(torch.full((20, 4), value))
    assert all(p.isfinite().all() for p in network.parameters())


@pytest.mark.parametrize("sizes", [(256, 18), (256, 1), (64, 10)])
@pytest.mark.parametrize("seed", SEEDS)
def test_attention_to_every_memory_of_a_fresh_layer_is_selective_and_varies_with_the_input(
    sizes, seed
):
    torch.manual_seed(seed)
    layer = NeurocoderLinear(*sizes, usage_attention=False)
    with torch.no_grad():
        program = layer.compose(torch.randn(256, sizes[0]))
    for content in (program.u_attention, program.v_attention, program.s_attention):
        entropy = -(content * content.clamp_min(1e-30).log()).sum(-1).mean() / math.log(20)
        variation = content.std(dim=0).mean() / content.mean()
        assert entropy < 0.8
        assert variation > 1.0


@pytest.mark.parametrize("sizes", [(256, 18), (256, 1)])
def test_usage_attention_leaves_the_variation_with_the_input(sizes):
    with torch.no_grad():
        program = NeurocoderLinear(*sizes).compose(torch.randn(256, sizes[0]))
    for attention in (program.u_attention, program.v_attention, program.s_attention):
        assert attention.std(dim=0).mean() / attention.mean() > 0.7


@pytest.mark.parametrize("sizes", [(256, 18), (256, 1), (64, 10), (512, 512)])
@pytest.mark.parametrize("ablation", [{}, {"usage_attention": False}, {"residual": False}])
def test_a_fresh_layer_has_outputs_and_input_gradients_near_the_scale_of_nn_linear(sizes, ablation):
    def scales(make):
        outputs, gradients = [], []
        for seed in range(9):
            torch.manual_seed(seed)
            x = torch.randn(64, sizes[0], requires_grad=True)
            y = make(*sizes)(x)
            y.backward(torch.randn_like(y))
            outputs.append(y.detach().square().mean().sqrt())
            gradients.append(x.grad.square().mean().sqrt())
        return torch.stack(outputs).median(), torch.stack(gradients).median()

    output, gradient = scales(lambda *s: NeurocoderLinear(*s, **ablation))
    reference_output, reference_gradient = scales(nn.Linear)
    # Measured with four sets of seeds: outputs 0.9 to 2.1 times nn.Linear's; gradients, which reach
    # x through the attention as well as through W, 3.1 to 6.7 times.
    assert 0.5 < output / reference_output < 3
    assert 0.5 < gradient / reference_gradient < 9


def test_singular_values_are_the_running_sum_of_softplus_from_the_last_component_up():
    attended = torch.randn(4, 7, dtype=torch.float64)
    got = singular_values(attended)
    for t in range(4):
        running = 0.0
        for n in reversed(range(7)):
            running += math.log(1 + math.exp(attended[t, n].item()))
            assert got[t, n].item() == pytest.approx(running)


def test_singular_values_of_bfloat16_memories_are_summed_in_float32():
    sigma = singular_values(torch.full((3, 60), -2.0, dtype=torch.bfloat16))
    assert sigma.dtype == torch.float32
    assert (sigma.diff(dim=-1) < 0).all()
    assert (sigma > 0).all()
