"""`NeurocoderLinear` against the paper, and as a layer among layers."""

import copy
import multiprocessing
import random

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad
from torch.nn.utils import prune

from neurocoder import NeurocoderLinear, frozen_keys, fused
from tests.neurocoder import oracle

ATTENTIONS = ("u_attention", "v_attention", "s_attention")

EDGES = {
    "as drawn": {},
    "one output": {"out_features": 1},
    "one input": {"in_features": 1},
    "as many outputs as inputs": {"in_features": 4, "out_features": 4},
    "one slot": {"slots": 1, "least_used": 1},
    "one head": {"heads": 1},
    "three heads and two steps": {"heads": 3, "steps": 2},
    "one step": {"steps": 1},
    "one component": {"steps": 1, "heads": 1},
    "many steps": {"steps": 6, "slots": 4, "least_used": 2},
    "all slots least used": {"slots": 5, "least_used": 5},
    "one slot least used": {"slots": 5, "least_used": 1},
    "no usage attention": {"usage_attention": False},
    "no residual": {"residual": False},
    "no bias": {"bias": False},
    "none of the three": {"usage_attention": False, "residual": False, "bias": False},
    "the paper's sharpness": {"sharpness": 1.0},
    "great sharpness": {"sharpness": 20.0},
}


def random_layer(seed, **forced):
    """A small float64 layer of random sizes, with no parameter left at a special value."""
    draw = random.Random(seed)
    slots = forced.pop("slots", draw.randint(2, 6))
    sizes = {
        "in_features": draw.randint(2, 5),
        "out_features": draw.randint(2, 4),
        "slots": slots,
        "key_size": draw.randint(2, 4),
        "heads": draw.randint(1, 3),
        "steps": draw.randint(2, 4),
        "least_used": draw.randint(1, slots),
        "hidden_size": draw.randint(2, 4),
        "sharpness": draw.choice([1.0, 3.0, 10.0]),
    }
    torch.manual_seed(seed)
    layer = NeurocoderLinear(**sizes | forced, dtype=torch.float64)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return layer


def small_layer(**arguments):
    """A fresh layer of one small size."""
    sizes = {"slots": 6, "key_size": 3, "heads": 2, "steps": 3, "least_used": 2, "hidden_size": 8}
    return NeurocoderLinear(5, 4, **sizes | arguments)


def cases():
    for number, (name, forced) in enumerate(EDGES.items()):
        for seed in range(4) if not forced else range(1):
            yield pytest.param(100 * number + seed, forced, id=f"{name} {seed}")


def assert_like_the_oracle(layer, seed):
    """Every output, and its gradients by the input and all parameters."""
    x = torch.randn(3, layer.in_features, dtype=torch.float64, requires_grad=True)
    expected = oracle.code(layer, x)
    got, composition, program = layer(x), layer.compose(x), layer.working_program(x)

    close = {"rtol": 1e-9, "atol": 1e-9}
    torch.testing.assert_close(got, expected.output, **close)
    torch.testing.assert_close(program, expected.working_program, **close)
    for name in (*ATTENTIONS, "singular_values", "residual_gate"):
        field, wanted = getattr(composition, name), getattr(expected, name)
        if wanted is None:
            assert field is None
        else:
            torch.testing.assert_close(field, wanted, **close)

    # One number that depends on every one of these, through random weights: from the output alone,
    # what reaches the attention could be too small to see.
    def mixed(*parts):
        generator = torch.Generator().manual_seed(seed)
        return sum(
            (torch.randn(p.shape, generator=generator, dtype=p.dtype) * p).sum() for p in parts
        )

    parameters = dict(layer.named_parameters())
    inputs = [x, *parameters.values()]
    for wanted, found in (
        (mixed(expected.output), mixed(got)),
        (
            mixed(*(getattr(expected, name) for name in ATTENTIONS)),
            mixed(*(getattr(composition, name) for name in ATTENTIONS)),
        ),
    ):
        wanted_gradients = torch.autograd.grad(wanted, inputs, retain_graph=True, allow_unused=True)
        found_gradients = torch.autograd.grad(found, inputs, retain_graph=True, allow_unused=True)
        for name, a, b in zip(["x", *parameters], wanted_gradients, found_gradients, strict=True):
            a = torch.zeros(()) if a is None else a
            b = torch.zeros_like(a) if b is None else b
            torch.testing.assert_close(
                b, a.expand_as(b).to(b), **close, msg=lambda text, name=name: f"{name}: {text}"
            )


@pytest.mark.parametrize(("seed", "forced"), list(cases()))
def test_everything_the_layer_computes_and_its_gradients_are_the_papers(seed, forced):
    assert_like_the_oracle(random_layer(seed, **forced), seed)


@pytest.mark.parametrize(
    "ablation",
    [{}, {"steps": 1}, {"usage_attention": False}, {"residual": False}, {"bias": False}],
)
def test_the_output_is_x_times_the_working_program_plus_bias(ablation):
    layer = small_layer(dtype=torch.float64, **ablation)
    x = torch.randn(2, 7, 5, dtype=torch.float64)
    expected = torch.einsum("...i,...io->...o", x, layer.working_program(x))
    if layer.bias is not None:
        expected = expected + layer.bias
    torch.testing.assert_close(layer(x), expected, rtol=1e-12, atol=1e-12)


def test_without_a_residual_the_working_program_is_the_active_program():
    x = torch.randn(3, 5)
    layer = small_layer(residual=False)
    assert layer.residual is None
    assert layer.compose(x).residual_gate is None
    assert not any("integration" in name for name, _ in layer.named_parameters())
    torch.testing.assert_close(layer.working_program(x), layer.active_program(x))


def test_the_residual_adds_less_than_the_smallest_component():
    layer = small_layer(dtype=torch.float64)
    x = torch.randn(3, 5, dtype=torch.float64)
    added = layer.working_program(x) - layer.active_program(x)
    program = layer.compose(x)
    assert (program.residual_gate > 0).all()
    assert (program.residual_gate < 1).all()
    scale = (program.residual_gate * program.singular_values[:, -1:])[..., None]
    torch.testing.assert_close(added, scale * layer.residual)


def test_without_usage_attention_there_are_no_gates_and_attention_sums_to_one():
    layer = small_layer(usage_attention=False)
    assert not any("gate_projection" in name for name, _ in layer.named_parameters())
    program = layer.compose(torch.randn(3, 5))
    for name in ATTENTIONS:
        total = getattr(program, name).sum(-1)
        torch.testing.assert_close(total, torch.ones_like(total))


def test_a_single_step_has_one_component_for_each_head():
    program = small_layer(steps=1, heads=3).compose(torch.randn(4, 5))
    assert program.u_attention.shape == (4, 3, 6)
    assert program.singular_values.shape == (4, 3)


def test_the_active_program_has_rank_at_most_its_number_of_components():
    layer = NeurocoderLinear(12, 11, heads=1, steps=3, dtype=torch.float64)
    spectrum = torch.linalg.svdvals(layer.active_program(torch.randn(4, 12, dtype=torch.float64)))
    assert (spectrum[:, 2] > 1e-8).all()
    assert (spectrum[:, 3:] < 1e-12).all()


def test_a_layer_with_one_output_has_a_program_of_one_column():
    assert NeurocoderLinear(7, 1).working_program(torch.randn(3, 7)).shape == (3, 7, 1)


@pytest.mark.parametrize("lead", [(), (1,), (0,), (3,), (2, 3), (2, 0, 3), (2, 1, 3, 2)])
def test_any_number_of_leading_dimensions_is_kept(lead):
    layer = small_layer(dtype=torch.float64)
    x = torch.randn(*lead, 5, dtype=torch.float64)
    y, program = layer(x), layer.compose(x)
    assert y.shape == (*lead, 4)
    assert layer.working_program(x).shape == (*lead, 5, 4)
    assert program.u_attention.shape == (*lead, 6, 6)
    assert program.singular_values.shape == (*lead, 6)
    assert program.residual_gate.shape == (*lead, 1)
    one_by_one = [layer(row) for row in x.reshape(-1, 5)]
    if one_by_one:
        torch.testing.assert_close(y.reshape(-1, 4), torch.stack(one_by_one))


def test_an_empty_batch_gives_zero_gradients():
    layer = small_layer()
    layer(torch.randn(0, 5)).sum().backward()
    assert all(not p.grad.any() for p in layer.parameters() if p.grad is not None)


def test_inputs_that_are_not_contiguous_give_the_same_outputs():
    layer, x = small_layer(), torch.randn(5, 9)
    torch.testing.assert_close(layer(x.T), layer(x.T.contiguous()))


@pytest.mark.parametrize(
    ("dtype", "error"), [(torch.float64, 1e-12), (torch.float32, 1e-4), (torch.bfloat16, 0.1)]
)
def test_every_floating_dtype_gives_the_same_function(dtype, error):
    layer = NeurocoderLinear(16, 6, dtype=dtype)
    x = torch.randn(32, 16, dtype=dtype)
    y = layer(x)
    assert y.dtype == dtype
    assert layer.working_program(x).dtype == dtype
    exact = copy.deepcopy(layer).double()(x.double())
    assert (y.double() - exact).norm() < error * exact.norm()
    y.float().square().sum().backward()
    assert all(p.grad.isfinite().all() for p in layer.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [0.1, 1.0, 30.0])
def test_singular_values_are_positive_and_strictly_decreasing(dtype, scale):
    layer = NeurocoderLinear(16, 6, heads=2, steps=20, dtype=dtype)
    sigma = layer.compose(scale * torch.randn(64, 16, dtype=dtype)).singular_values
    assert sigma.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert sigma.shape == (64, 40)
    assert (sigma > 0).all()
    assert (sigma.diff(dim=-1) < 0).all()


@pytest.mark.parametrize("arguments", [{}, {"usage_attention": False, "residual": False}])
def test_gradients_of_the_readable_way_are_those_of_finite_differences(arguments):
    layer = small_layer(**arguments, dtype=torch.float64)
    layer.fused = False  # test_fused.py has the other way
    x = torch.randn(2, 5, dtype=torch.float64, requires_grad=True)
    names = [name for name, _ in layer.named_parameters()]

    def run(x, *parameters):
        return torch.func.functional_call(layer, dict(zip(names, parameters, strict=True)), x)

    parameters = tuple(p.detach().clone().requires_grad_() for p in layer.parameters())
    assert torch.autograd.gradcheck(run, (x, *parameters), fast_mode=True)


def test_every_parameter_of_a_fresh_layer_receives_a_gradient():
    layer = NeurocoderLinear(16, 6)
    layer(torch.randn(8, 16)).square().sum().backward()
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


@pytest.mark.parametrize("batch", [0, 3])
@pytest.mark.parametrize("way", ["fused", "readable"])
@pytest.mark.parametrize("steps", [1, 2])
def test_every_parameter_has_a_gradient_also_of_one_step_and_of_no_inputs(steps, way, batch):
    layer = small_layer(steps=steps)
    layer.fused = way == "fused"
    layer(torch.randn(batch, 5)).sum().backward()
    assert [name for name, p in layer.named_parameters() if p.grad is None] == []


def test_a_deep_copy_computes_the_same_and_shares_nothing():
    layer, x = small_layer(), torch.randn(3, 5)
    before, twin = layer(x), copy.deepcopy(layer)
    torch.testing.assert_close(twin(x), before, rtol=0, atol=0)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.zero_()
    torch.testing.assert_close(twin(x), before, rtol=0, atol=0)


def test_the_state_dict_holds_the_whole_layer():
    layer, other, x = small_layer(), small_layer(), torch.randn(3, 5)
    assert not torch.allclose(layer(x), other(x))
    state = layer.state_dict()
    assert set(state) == {name for name, _ in layer.named_parameters()}
    assert other.load_state_dict(state).missing_keys == []
    torch.testing.assert_close(other(x), layer(x), rtol=0, atol=0)


def _apply(layer, x):
    torch.set_num_threads(1)
    return layer(x).tolist()


def test_a_spawned_process_receives_the_same_layer():
    layer, x = small_layer(dtype=torch.float64), torch.randn(3, 5, dtype=torch.float64)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        received = pool.apply(_apply, (layer, x))
        pool.close()
        pool.join()
    torch.testing.assert_close(torch.tensor(received, dtype=torch.float64), layer(x))


@pytest.mark.parametrize("device", ["cpu", torch.device("cpu"), None])
def test_device_and_dtype_reach_every_parameter(device):
    layer = NeurocoderLinear(5, 4, device=device, dtype=torch.float64)
    for parameter in layer.parameters():
        assert parameter.device == torch.device("cpu")
        assert parameter.dtype == torch.float64


def test_the_same_seed_gives_the_same_layer_and_resetting_gives_another():
    torch.manual_seed(1)
    layer = small_layer()
    torch.manual_seed(1)
    twin = small_layer()
    for a, b in zip(layer.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    twin.reset_parameters()
    assert not torch.equal(layer.memory.u, twin.memory.u)


def test_more_least_used_slots_than_slots_are_refused():
    with pytest.raises(ValueError, match="least_used"):
        small_layer(slots=4, least_used=5)


def test_a_layer_that_uses_no_least_used_slots_may_have_fewer():
    small_layer(slots=4, least_used=5, usage_attention=False)(torch.zeros(2, 5))
    NeurocoderLinear.authors_single_step(5, 4, slots=3)(torch.zeros(2, 5))


@pytest.mark.parametrize("value", [0.0, -1.0, float("inf"), float("nan")])
def test_a_sharpness_that_is_not_positive_and_finite_is_refused(value):
    with pytest.raises(ValueError, match="sharpness"):
        small_layer(sharpness=value)


@pytest.mark.parametrize("method", ["forward", "compose", "active_program", "working_program"])
@pytest.mark.parametrize("shape", [(3, 4), (5, 3), ()])
def test_an_input_of_another_size_is_refused(method, shape):
    with pytest.raises(ValueError, match=r"\(\.\.\., 5\)"):
        getattr(small_layer(), method)(torch.zeros(shape))


def _turn_keys(layer):
    with torch.no_grad():
        for network in layer.key_networks:
            network.output.weight.neg_()
            network.output.bias.neg_()


def test_frozen_keys_change_no_output():
    layer, x = small_layer(), torch.randn(3, 5)
    with torch.no_grad():
        plain = layer(x)
        with frozen_keys(layer):
            torch.testing.assert_close(layer(x), plain)
        torch.testing.assert_close(layer(x), plain)


def test_frozen_keys_are_reused_until_the_end_and_made_anew_after_it():
    layer, x = small_layer(), torch.randn(3, 5)
    with torch.no_grad():
        old = layer.compose(x).u_attention
        with frozen_keys(layer):
            _turn_keys(layer)
            layer.memory.u.mul_(3.0)
            torch.testing.assert_close(layer.compose(x).u_attention, old, rtol=0, atol=0)
        assert not torch.allclose(layer.compose(x).u_attention, old)


def test_keys_are_computed_once_for_all_calls_inside_frozen_keys():
    layer, calls = small_layer(), []
    for network in layer.key_networks:
        network.register_forward_hook(lambda *_: calls.append(1))
    with frozen_keys(layer), torch.no_grad():
        for _ in range(4):
            layer(torch.randn(3, 5))
    assert len(calls) == 3


def test_weights_are_arranged_once_for_all_calls_inside_frozen_keys(monkeypatch):
    layer, calls, arrange = small_layer(), [], fused.arrange
    monkeypatch.setattr(fused, "arrange", lambda *args: calls.append(1) or arrange(*args))
    with frozen_keys(layer), torch.no_grad():
        for _ in range(4):
            layer(torch.randn(3, 5))
    assert len(calls) == 1


def test_frozen_keys_are_ignored_where_gradients_are_recorded():
    layer, x = small_layer(), torch.randn(3, 5)
    with frozen_keys(layer):
        _turn_keys(layer)
        inside = layer(x)
        inside.sum().backward()
    torch.testing.assert_close(inside, layer(x), rtol=0, atol=0)
    assert all(p.grad is not None and p.grad.any() for p in layer.key_networks.parameters())


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
@pytest.mark.parametrize("make", [NeurocoderLinear, NeurocoderLinear.authors_multi_step])
def test_frozen_keys_are_ignored_by_transforms(make):
    layers, x = [make(5, 4).double() for _ in range(3)], torch.randn(3, 5).double()
    layer, stacked = layers[0], torch.func.stack_module_state(layers)[0]
    own = dict(layer.named_parameters())
    tangents = {name: torch.randn_like(p) for name, p in own.items()}

    def run(parameters):
        return torch.func.functional_call(layer, parameters, (x,))

    def derivative():
        y, change = torch.func.jvp(run, (own,), (tangents,))
        with forward_ad.dual_level():
            dual = {n: forward_ad.make_dual(p.detach(), tangents[n]) for n, p in own.items()}
            other = forward_ad.unpack_dual(run(dual)).tangent
        return y, change, other

    with torch.no_grad():
        expected = derivative(), torch.stack([layer(x) for layer in layers])
        with frozen_keys(layer):
            found = derivative(), torch.func.vmap(run)(stacked)
    torch.testing.assert_close(found, expected)


def test_frozen_keys_end_with_an_exception_too():
    layer, x = small_layer(), torch.randn(3, 5)
    with torch.no_grad():
        before = layer(x)
        with pytest.raises(ValueError, match="expected an input"), frozen_keys(layer):
            layer(torch.zeros(3, 6))
        _turn_keys(layer)
        assert not torch.allclose(layer(x), before)


def test_blocks_of_frozen_keys_may_overlap():
    layer, x = small_layer(), torch.randn(3, 5)
    with torch.no_grad():
        first, second = frozen_keys(layer), frozen_keys(layer)
        first.__enter__()
        _turn_keys(layer)
        second.__enter__()
        in_second = layer.program_keys()
        first.__exit__(None, None, None)
        for network in layer.key_networks:
            network.output.weight.mul_(torch.rand_like(network.output.weight))
        assert torch.equal(layer.program_keys(), in_second)
        second.__exit__(None, None, None)
        torch.testing.assert_close(layer(x), copy.deepcopy(layer)(x), rtol=0, atol=0)


PARTS = ("memory", "key_networks.1.output", "composition_network.recurrent_projection")


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("part", PARTS)
def test_parameters_that_a_hook_computes_are_refused_until_they_are_stored(part, fused):
    layer, x = small_layer(), torch.randn(3, 5)
    layer.fused = fused
    module = layer.get_submodule(part)
    name = "u" if part == "memory" else "weight"
    prune.random_unstructured(module, name, 0.5)
    with pytest.raises(RuntimeError, match=f"parameters of '{part}' are pruned"):
        layer(x)
    with torch.no_grad(), pytest.raises(RuntimeError, match=part):
        layer(x)
    prune.remove(module, name)
    layer(x).sum().backward()
    assert (getattr(module, name) == 0).any()


def test_hooks_of_submodules_that_compute_nothing_are_not_refused():
    layer, x = small_layer(), torch.randn(3, 5)
    expected = layer(x)
    layer.memory.register_forward_pre_hook(lambda *_: None)
    torch.testing.assert_close(layer(x), expected)


def test_a_pruned_residual_is_used_as_it_is_after_a_checkpoint_is_loaded():
    layers, x = [small_layer(), small_layer()], torch.randn(3, 5)
    for layer in layers:
        prune.random_unstructured(layer, "residual", 0.5)
    layers[1].load_state_dict(layers[0].state_dict())
    torch.testing.assert_close(layers[1](x), layers[0](x))


def test_frozen_keys_reach_every_layer_of_a_model():
    model = nn.Sequential(small_layer(), nn.Tanh(), NeurocoderLinear(4, 2), nn.Linear(2, 2))
    x = torch.randn(3, 5)
    with torch.no_grad():
        plain = model(x)
        with frozen_keys(model):
            _turn_keys(model[0])
            _turn_keys(model[2])
            torch.testing.assert_close(model(x), plain)
        assert not torch.allclose(model(x), plain)
