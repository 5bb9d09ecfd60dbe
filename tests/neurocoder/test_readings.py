"""The readings of the paper that are arguments: each against the oracle, and what does not fit."""

import copy
from dataclasses import fields

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.func import functional_call

from neurocoder import NeurocoderLinear, frozen_keys
from neurocoder.readings import Readings
from tests.agents.fuzz import fuzz
from tests.neurocoder import oracle
from tests.neurocoder.test_linear import assert_like_the_oracle, random_layer

KEYS = ("network", "linear", "slot")
# The values beside the default.
OTHERS = {
    "keys": ["linear", "slot", ("linear", "network", "slot")],
    "queries": ["state", "input"],
    "gates": ["input"],
    "initial_state": ["learned"],
    "divide_by_maximum": [True],
    "usage_over": ["all"],
    "least_used_weight": ["one"],
    "first_step": ["first_slots"],
    "singular_value_order": ["forward", "turned"],
    "orthogonality": ["slots"],
    "initialisation": ["authors"],
}
ONE_CHANGED = [(name, value) for name, values in OTHERS.items() for value in values]
PRESETS = {
    "single": NeurocoderLinear.authors_single_step,
    "multi": NeurocoderLinear.authors_multi_step,
}

each_changed = pytest.mark.parametrize(("name", "value"), ONE_CHANGED)
each_preset = pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS.keys())


def fitting(readings, heads=2, key_size=3):
    """The other arguments that these readings need."""
    sizes = {"heads": heads, "key_size": key_size}
    if readings.get("queries") == "state":
        sizes["hidden_size"] = 3 * heads * key_size + 1
    if readings.get("queries") == "input":
        sizes |= {"steps": 1, "gates": "input"}
    return sizes


def changed(name, value, seed=0, **forced):
    readings = {name: value}
    return random_layer(seed, **{**fitting(readings), **readings, **forced})


def small(preset, *sizes, **arguments):
    """One of the authors' layers at a small size, with no parameter left at a special value."""
    given = {"slots": 5, "key_size": 2, "heads": 2, **arguments}
    if preset == NeurocoderLinear.authors_multi_step:
        given = {"steps": 3, "least_used": 2, **given}
    layer = preset(*sizes, **given, dtype=torch.float64)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return layer


def test_every_reading_is_tried():
    assert list(OTHERS) == [field.name for field in fields(Readings)]


@each_changed
@pytest.mark.parametrize("residual", [True, False])
def test_a_layer_of_each_reading_computes_what_the_oracle_does(name, value, residual):
    assert_like_the_oracle(changed(name, value, residual=residual), 0)


@each_preset
@pytest.mark.parametrize("arguments", [{}, {"residual": True, "bias": True}])
def test_the_authors_layers_compute_what_the_oracle_does(preset, arguments):
    torch.manual_seed(3)
    assert_like_the_oracle(small(preset, 4, 3, **arguments), 3)


@st.composite
def combinations(draw):
    """Arguments of a layer of any readings that go together."""
    readings = {
        name: draw(st.sampled_from([getattr(Readings(), name), *values]))
        for name, values in OTHERS.items()
    }
    readings["keys"] = draw(st.tuples(*[st.sampled_from(KEYS)] * 3))
    if readings["queries"] == "input":
        readings["initial_state"] = "zero"
    sizes = fitting(readings, draw(st.integers(1, 2)), draw(st.integers(1, 3)))
    return {**readings, **sizes, "usage_attention": draw(st.booleans())}


@fuzz(15)
@given(combinations(), st.integers(0, 10**6))
def test_layers_of_any_readings_compute_what_the_oracle_does(arguments, seed):
    # A key of one number has the cosine 1 or -1: a gradient of zero, and a jump.
    if arguments["key_size"] == 1:
        arguments["sharpness"] = 1.0
    layer = random_layer(seed, **arguments)
    assert_like_the_oracle(layer, seed)
    torch.testing.assert_close(layer.orthogonality_loss(), oracle.orthogonality_loss(layer))


@pytest.mark.parametrize(
    ("name", "value"),
    [(n, value) for n, value in ONE_CHANGED if n not in ("orthogonality", "initialisation")],
)
def test_each_reading_changes_what_is_computed(name, value):
    """Of two layers with the same parameters as far as both have them, and the same input."""
    other = changed(name, value)
    sizes = {**fitting({name: value}), "hidden_size": other_hidden(other)}
    layer = random_layer(0, **sizes)
    state = {n: p for n, p in layer.state_dict().items() if n in other.state_dict()}
    same = {n: p for n, p in state.items() if p.shape == other.state_dict()[n].shape}
    other.load_state_dict(same, strict=False)
    x = torch.randn(4, layer.in_features, dtype=torch.float64)
    assert not torch.allclose(layer(x), other(x), rtol=1e-3)


def other_hidden(layer):
    network = layer.composition_network
    projection = getattr(network, "recurrent_projection", None)
    return 3 if projection is None else projection.in_features


@pytest.mark.parametrize("keys", [*KEYS, ("slot", "linear", "network")])
def test_orthogonality_of_whole_slots_includes_the_keys_that_are_in_them(keys):
    layer = random_layer(0, keys=keys, orthogonality="slots", heads=2, key_size=3)
    assert layer.memory.u_key.shape == (len(layer.memory.u), 3)
    expected, got = oracle.orthogonality_loss(layer), layer.orthogonality_loss()
    torch.testing.assert_close(got, expected)
    vectors = (layer.memory.u, layer.memory.u_key, layer.memory.v, layer.memory.v_key)
    for a, b in zip(
        torch.autograd.grad(got, vectors), torch.autograd.grad(expected, vectors), strict=True
    ):
        torch.testing.assert_close(a, b)


def test_orthogonality_of_vectors_leaves_stored_keys_alone():
    layer = random_layer(0, keys="slot")
    layer.orthogonality_loss().backward()
    assert layer.memory.u_key.grad is None


@each_changed
def test_unusual_readings_are_computed_the_readable_way_alone(name, value):
    layer = changed(name, value)
    x = torch.randn(3, layer.in_features, dtype=torch.float64)
    y = layer(x)
    seen, left = set(), [y.grad_fn]
    while left:
        node = left.pop()
        seen.add(node)
        left += [n for n, _ in node.next_functions if n is not None and n not in seen]
    assert not any("Fused" in str(node) for node in seen)
    with pytest.raises(RuntimeError, match="fused"):
        layer.fused_parameters()
    with torch.no_grad(), frozen_keys(layer):
        torch.testing.assert_close(layer(x), y.detach())
        torch.testing.assert_close(layer(x), y.detach())


def test_the_default_readings_are_the_papers_and_fused():
    assert NeurocoderLinear(4, 3).has_default_readings
    named = {f.name: getattr(Readings(), f.name) for f in fields(Readings)}
    assert NeurocoderLinear(4, 3, **named).has_default_readings


@each_preset
def test_groups_of_inputs_have_the_gradients_that_each_has_alone(preset):
    layer = small(preset, 4, 3)
    x = torch.randn(2, 5, 4, dtype=torch.float64)
    parameters = {
        n: p.detach().expand(2, *p.shape).requires_grad_() for n, p in layer.named_parameters()
    }
    layer.forward_groups(x, parameters).square().sum().backward()
    for i in range(2):
        layer.zero_grad()
        layer(x[i]).square().sum().backward()
        for name, p in layer.named_parameters():
            expected = torch.zeros_like(p) if p.grad is None else p.grad
            got = parameters[name].grad
            torch.testing.assert_close(torch.zeros_like(p) if got is None else got[i], expected)


@each_preset
def test_the_authors_layers_can_be_transformed_copied_and_stored(preset):
    layer, x = small(preset, 4, 3), torch.randn(6, 4, dtype=torch.float64)
    y = layer(x)
    torch.testing.assert_close(copy.deepcopy(layer)(x), y)
    torch.testing.assert_close(torch.vmap(lambda row: layer(row))(x), y)
    other = small(preset, 4, 3)
    other.load_state_dict(layer.state_dict())
    torch.testing.assert_close(other(x), y)
    parameters = dict(layer.named_parameters())
    torch.testing.assert_close(functional_call(layer, parameters, (x,)), y)
    assert layer(x.reshape(2, 3, 4)).shape == (2, 3, 3)


@each_preset
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_authors_layers_keep_the_dtype_of_16_bit_parameters(preset, dtype):
    layer = preset(8, 3, slots=10, heads=2, dtype=dtype)
    y = layer(torch.randn(4, 8, dtype=dtype))
    assert y.dtype == dtype
    (y.float().sum() + layer.orthogonality_loss()).backward()
    assert all(p.grad.isfinite().all() for p in layer.parameters() if p.grad is not None)


def test_the_single_step_layer_is_as_described():
    layer = NeurocoderLinear.authors_single_step(12, 7)
    assert (layer.memory.u.shape, layer.memory.u_key.shape) == ((50, 12), (50, 5))
    assert [type(n).__name__ for n in layer.key_networks] == ["LinearKeys"] * 2 + ["StoredKeys"]
    assert layer.composition_network.query_projection.weight.shape == (3 * 10 * 5, 12)
    assert (layer.residual, layer.bias) == (None, None)
    program = layer.compose(torch.randn(3, 12))
    assert program.u_attention.shape == (3, 10, 50)
    assert (program.singular_values.diff(dim=-1) > 0).all()
    # Cosines lie between -1 and 1, and are divided by the five entries of a key.
    assert program.u_attention.max() / program.u_attention.min() < 2.7 ** (2 / 5)


def test_the_multi_step_layer_is_as_described():
    layer = NeurocoderLinear.authors_multi_step(12, 7)
    assert (len(layer.memory.u), layer.least_used, layer.sharpness) == (20, 10, 2.0)
    assert layer.composition_network.recurrent_projection.in_features == 3 * 8 * 5 + 1
    assert layer.composition_network.gate_projection.weight.shape == (3 * 20, 12)
    program = layer.compose(torch.randn(3, 12))
    assert program.u_attention.shape == (3, 80, 20)
    assert (program.singular_values.diff(dim=-1) < 0).all()
    assert program.u_attention.max() <= 1


@each_preset
def test_the_authors_values_can_be_overruled(preset):
    layer = preset(
        4, 3, slots=6, least_used=2, sharpness=3.0, bias=True, singular_value_order="backward"
    )
    assert (layer.sharpness, layer.bias.shape) == (3.0, (3,))
    assert layer.readings.singular_value_order == "backward"


@pytest.mark.parametrize("name", [f.name for f in fields(Readings)])
def test_an_unknown_reading_is_refused_by_name(name):
    with pytest.raises(ValueError, match=name):
        NeurocoderLinear(4, 3, **{name: "as it pleases"})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"queries": "input"}, "steps must be 1, got 5"),
        ({"queries": "input", "steps": 1}, "gates='state' needs one"),
        (
            {"queries": "input", "steps": 1, "gates": "input", "initial_state": "learned"},
            "no initial_state",
        ),
        ({"queries": "state"}, "must be 3 .* = 49, got 64"),
        ({"keys": ("slot", "slot")}, "one word or three"),
    ],
)
def test_readings_that_do_not_go_together_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        NeurocoderLinear(4, 3, **arguments)
