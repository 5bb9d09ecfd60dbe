"""The hand-written gradient against the readable way, and where each of the two is used."""

import copy
import time

import pytest
import torch
from torch.func import functional_call
from torch.nn.utils import parametrize

from neurocoder import NeurocoderLinear, fused
from neurocoder.attention import recurrent_attention
from tests.neurocoder import oracle

VARIANTS = {
    "reference": {},
    "one step": {"steps": 1},
    "two steps": {"steps": 2},
    "one head": {"heads": 1},
    "one component": {"steps": 1, "heads": 1},
    "one slot": {"slots": 1, "least_used": 1},
    "all slots least used": {"slots": 7, "least_used": 7},
    "one slot least used": {"slots": 7, "least_used": 1},
    "more slots than are compared": {"slots": 40, "least_used": 7},
    "one output": {"out_features": 1},
    "no usage attention": {"usage_attention": False},
    "no residual": {"residual": False},
    "no bias": {"bias": False},
    "none of the three": {"usage_attention": False, "residual": False, "bias": False},
}

every_variant = pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS.keys())


def make_layer(seed=0, **forced):
    """A float64 layer with no parameter left at a special value."""
    torch.manual_seed(seed)
    sizes = {"in_features": 6, "out_features": 4, "slots": 7, "key_size": 3, "hidden_size": 5}
    layer = NeurocoderLinear(**{**sizes, "steps": 4, "least_used": 3} | forced, dtype=torch.float64)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return layer


def make_input(layer, *lead):
    return torch.randn(*lead, layer.in_features, dtype=torch.float64, requires_grad=True)


def plainly(layer, x):
    """What the layer returns without the hand-written way."""
    layer.fused = False
    y = layer(x)
    layer.fused = True
    return y


def call(layer, x):
    return layer(x)


def gradients(y, dy, layer, x):
    return torch.autograd.grad(
        y, (x, *layer.parameters()), dy, retain_graph=True, materialize_grads=True
    )


def history(node):
    """The names of what made a tensor, back to the first of several inputs."""
    nodes = [node]
    while len(nodes[-1].next_functions) == 1:
        nodes.append(nodes[-1].next_functions[0][0])
    return str(nodes)


def assert_both_ways_agree(layer, x, **tolerance):
    got, expected = layer(x), plainly(layer, x)
    assert "Fused" in history(got.grad_fn)
    torch.testing.assert_close(got, expected, **tolerance)
    dy = torch.randn_like(got)
    names = ["x", *(name for name, _ in layer.named_parameters())]
    for name, a, b in zip(
        names, gradients(got, dy, layer, x), gradients(expected, dy, layer, x), strict=True
    ):
        torch.testing.assert_close(a, b, **tolerance, msg=lambda text, n=name: f"{n}: {text}")


@every_variant
@pytest.mark.parametrize("seed", range(3))
def test_outputs_and_gradients_are_those_of_the_readable_way(variant, seed):
    layer = make_layer(seed, **variant)
    assert_both_ways_agree(layer, make_input(layer, 9), rtol=1e-9, atol=1e-11)


def expand(layer, groups):
    """The layer's parameters, repeated for every group, by name."""
    return {
        name: parameter.detach().expand(groups, *parameter.shape).requires_grad_()
        for name, parameter in layer.named_parameters()
    }


def gradients_of_groups(layer, x, dy):
    """y, and the gradients of x and of the parameters of every group."""
    parameters = expand(layer, len(x))
    y = layer.forward_groups(x, parameters)
    return y, torch.autograd.grad(y, (x, *parameters.values()), dy, materialize_grads=True)


@every_variant
@pytest.mark.parametrize("fused", [True, False])
def test_groups_of_inputs_have_the_gradients_that_each_has_alone(variant, fused):
    layer = make_layer(**variant)
    x = make_input(layer, 3, 2, 5)
    dy = torch.randn(3, 2, 5, layer.out_features, dtype=torch.float64)
    dy[2] *= 100
    layer.fused = fused
    y, found = gradients_of_groups(layer, x, dy)
    assert ("Fused" in str(y.grad_fn.next_functions)) == fused
    for i in range(3):
        own = x[i].detach().requires_grad_()
        expected = plainly(layer, own)
        torch.testing.assert_close(y[i], expected)
        for a, b in zip(found, gradients(expected, dy[i], layer, own), strict=True):
            torch.testing.assert_close(a[i], b, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 5, 7), "has 3 groups, x has 2"),
        ((0, 5, 7), r"\(G, ..., 7\) with G at least 1, got \(0, 5, 7\)"),
        ((7,), r"got \(7,\)"),
    ],
)
def test_inputs_of_other_groups_than_the_parameters_are_refused(shape, message):
    layer = NeurocoderLinear(7, 4)
    with pytest.raises(ValueError, match=message):
        layer.forward_groups(torch.zeros(shape), expand(layer, 3))


def test_groups_of_parameters_that_are_not_the_layers_are_refused():
    layer = NeurocoderLinear(7, 4)
    parameters = expand(layer, 3)
    parameters["other"] = parameters.pop("residual")
    with pytest.raises(ValueError, match="missing or unknown: other, residual"):
        layer.forward_groups(torch.zeros(3, 5, 7), parameters)


def test_groups_of_a_parametrized_layer_are_refused():
    layer = NeurocoderLinear(7, 4)
    torch.nn.utils.parametrize.register_parametrization(layer, "residual", torch.nn.Identity())
    with pytest.raises(RuntimeError, match="a parametrized layer"):
        layer.forward_groups(torch.zeros(3, 5, 7), expand(layer, 3))


@every_variant
def test_the_gradient_of_an_input_is_computed_only_where_it_is_needed(variant, monkeypatch):
    layer = make_layer(**variant)
    x, parameters = make_input(layer, 9), tuple(layer.parameters())
    expected = torch.autograd.grad(layer(x).square().sum(), parameters, materialize_grads=True)
    of_inputs, run_backward = [], fused.run_backward

    def run_and_keep(*args, **kwargs):
        of_inputs.append((result := run_backward(*args, **kwargs))[0])
        return result

    monkeypatch.setattr(fused, "run_backward", run_and_keep)
    y = layer(x.detach())
    found = torch.autograd.grad(y.square().sum(), parameters, materialize_grads=True)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert of_inputs == [None]


def test_a_group_that_is_not_finite_leaves_the_others_alone():
    layer = make_layer()
    x = make_input(layer, 3, 5)
    dy = torch.randn(3, 5, layer.out_features, dtype=torch.float64)
    _, expected = gradients_of_groups(layer, x, dy)
    with torch.no_grad():
        x[1, 2, 0] = dy[1, 2, 0] = torch.nan
    _, found = gradients_of_groups(layer, x, dy)
    for a, b in zip(found, expected, strict=True):
        assert not a[1].isfinite().all()
        torch.testing.assert_close(a[::2], b[::2], rtol=0, atol=0)


def test_groups_have_the_precision_and_dtype_of_the_layers_own_call():
    layer = NeurocoderLinear(6, 4)
    x = torch.randn(3, 5, 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, expected = layer.forward_groups(x, expand(layer, 3)), layer(x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y, expected)
    layer, x = layer.bfloat16(), x.bfloat16()
    y, found = gradients_of_groups(layer, x.requires_grad_(), torch.ones_like(y))
    torch.testing.assert_close(y, layer(x))
    assert {gradient.dtype for gradient in found} == {torch.bfloat16}


def test_second_derivatives_of_groups_are_those_of_the_readable_way():
    layer = make_layer()
    x = make_input(layer, 3, 5)

    def penalty(fused):
        layer.fused = fused
        parameters = expand(layer, 3)
        y = layer.forward_groups(x, parameters)
        (dx,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        return torch.autograd.grad(dx.square().sum(), parameters.values(), allow_unused=True)

    for a, b in zip(penalty(True), penalty(False), strict=True):
        if b is not None:
            torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8)


@every_variant
def test_gradients_are_those_of_finite_differences(variant):
    layer = make_layer(1, **variant)
    names = [name for name, _ in layer.named_parameters()]

    def run(x, *parameters):
        return functional_call(layer, dict(zip(names, parameters, strict=True)), x)

    inputs = (make_input(layer, 2), *layer.parameters())
    assert torch.autograd.gradcheck(run, inputs, fast_mode=True)


def test_at_the_reference_size_in_float32_both_ways_agree_too():
    torch.manual_seed(0)
    layer = NeurocoderLinear(256, 18)
    x = torch.randn(80, 256, requires_grad=True)
    assert_both_ways_agree(layer, x, rtol=1e-3, atol=1e-3)


def test_small_inputs_lose_no_more_to_rounding_than_in_the_readable_way():
    torch.manual_seed(1)
    layer, x = NeurocoderLinear(64, 10, bias=False), 1e-2 * torch.randn(32, 64)
    exact = plainly(copy.deepcopy(layer).double(), x.double())
    lost, lost_plainly = (
        ((y - exact).norm() / exact.norm()) for y in (layer(x), plainly(layer, x))
    )
    assert lost < 3 * lost_plainly


@pytest.mark.parametrize(
    ("most_slots", "most_pairs"),
    [
        pytest.param(6, fused._MAX_PAIRS_ON_CPU, id="pairs"),
        pytest.param(6, 0, id="insertion"),
        pytest.param(5, 0, id="kthvalue"),
    ],
)
@pytest.mark.parametrize("least_used", [1, 3, 6])
def test_slots_that_tie_are_chosen_alike(most_slots, most_pairs, least_used, monkeypatch):
    # Few distinct values, so that there are many ties, also for the place of the largest.
    monkeypatch.setattr(fused, "_MAX_SLOTS_TO_COMPARE", most_slots)
    monkeypatch.setattr(fused, "_MAX_PAIRS_ON_CPU", most_pairs)
    torch.manual_seed(0)
    content = (torch.randint(1, 4, (4, 3, 6, 50)).double() / 4).requires_grad_()
    gate = torch.zeros_like(content).requires_grad_()
    got, saved = fused._blend(content.detach(), gate.detach(), least_used)
    dgot = torch.randn_like(got)
    dcontent, dgate = dgot.clone(), torch.empty_like(gate)
    fused._blend_backward(dcontent, content.detach(), saved, dgate)

    def by_head(t):  # (J, M * H, P, B) as lists over the heads, the steps and the slots
        return t.permute(1, 3, 0, 2)

    attention = [
        [oracle.head_attention(c, g, least_used) for c, g in zip(*rows, strict=True)]
        for rows in zip(by_head(content), by_head(gate), strict=True)
    ]
    expected = torch.stack(
        [torch.stack([torch.stack([torch.stack(w) for w in b]) for b in m]) for m in attention]
    )
    torch.testing.assert_close(by_head(got), expected)

    # Where the largest are tied, both ways share the gradient among them.
    lead = [t.permute(3, 0, 1, 2) for t in (content, gate, dgot)]
    plain = recurrent_attention(lead[0], lead[1], least_used)
    wanted = torch.autograd.grad(plain, (content, gate), lead[2])
    torch.testing.assert_close(dcontent, wanted[0])
    torch.testing.assert_close(dgate, wanted[1])


@pytest.mark.parametrize("batch", [7, 640])
def test_batches_of_every_size_choose_the_slots_of_the_readable_way(batch):
    layer = make_layer(slots=20, least_used=5, heads=2)
    assert_both_ways_agree(layer, make_input(layer, batch), rtol=1e-8, atol=1e-8)


def test_the_backward_pass_can_be_repeated_while_the_graph_is_kept():
    layer = make_layer()
    x = make_input(layer, 5)
    y = layer(x)
    first, second = (gradients(y, torch.ones_like(y), layer, x) for _ in range(2))
    torch.testing.assert_close(first, second, rtol=0, atol=0)


def test_inputs_and_parameters_that_need_no_gradient_get_none():
    layer = make_layer()
    layer.memory.requires_grad_(False)
    layer(make_input(layer, 5).detach()).sum().backward()
    assert layer.memory.u.grad is None
    assert layer.residual.grad is not None


@pytest.mark.parametrize("variant", [{}, {"usage_attention": False, "residual": False}])
def test_second_derivatives_are_those_of_the_readable_way(variant):
    layer = make_layer(**variant)
    x = make_input(layer, 3)

    def penalty(y):
        (dx,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        return torch.autograd.grad(dx.square().sum(), layer.parameters(), allow_unused=True)

    for a, b in zip(penalty(layer(x)), penalty(plainly(layer, x)), strict=True):
        if b is not None:
            torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8)


def test_second_derivatives_are_by_the_parameters_of_the_call():
    layer, other = make_layer(0), make_layer(1)
    x = make_input(layer, 3).detach()

    def adapted(fused):
        """The loss after one gradient step on parameters that are not the layer's own."""
        layer.fused = fused
        start = {n: p.detach().clone().requires_grad_() for n, p in other.named_parameters()}
        loss = functional_call(layer, start, x).square().sum()
        steps = torch.autograd.grad(loss, list(start.values()), create_graph=True)
        moved = {n: p - 0.01 * step for (n, p), step in zip(start.items(), steps, strict=True)}
        after = functional_call(layer, moved, x).square().sum()
        return torch.autograd.grad(after, list(start.values()))

    for a, b in zip(adapted(True), adapted(False), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)


def test_second_derivatives_of_a_layer_that_is_called_on_its_own_output():
    layer = make_layer(out_features=6)
    x = make_input(layer, 3)

    def second(run):
        y = run(layer, run(layer, x)).square().sum()
        given = (x, *layer.parameters())
        first = torch.autograd.grad(y, given, create_graph=True)
        return first, torch.autograd.grad(sum(d.square().sum() for d in first), given)

    for found, expected in zip(second(call), second(plainly), strict=True):
        torch.testing.assert_close(found, expected)


def test_gradients_of_groups_can_be_taken_many_at_once():
    layer = make_layer()
    x = torch.randn(2, 3, 6, dtype=torch.float64, requires_grad=True)
    repeated = {name: p.expand(2, *p.shape) for name, p in layer.named_parameters()}
    y, dy = layer.forward_groups(x, repeated), torch.randn(5, 2, 3, 4, dtype=torch.float64)
    found = torch.autograd.grad(y, x, dy, retain_graph=True, is_grads_batched=True)[0]
    expected = [torch.autograd.grad(y, x, one, retain_graph=True)[0] for one in dy]
    torch.testing.assert_close(found, torch.stack(expected))


def test_a_residual_that_is_taken_away_leaves_a_layer_without_one():
    layer = make_layer()
    layer.residual = None
    x = make_input(layer, 3)
    # Memory that is left over from something else must not show up in gradients.
    left = [torch.full((n, 3), torch.nan, dtype=torch.float64) for n in range(20, 40)]
    del left
    assert_both_ways_agree(layer, x)


def test_second_derivatives_through_a_parametrization_are_refused_or_taken_the_readable_way():
    layer = make_layer()
    parametrize.register_parametrization(layer, "residual", torch.nn.Tanh())
    x = make_input(layer, 3)

    def penalty():
        (dx,) = torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)
        return dx.square().sum()

    with pytest.raises(RuntimeError, match="fused = False"):
        penalty()
    layer.fused = False
    penalty().backward()
    assert layer.parametrizations.residual.original.grad.any()


def test_a_parameter_changed_before_the_backward_pass_is_noticed():
    layer = make_layer()
    y = layer(make_input(layer, 3))
    with torch.no_grad():
        layer.residual.add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_torch_func_transforms_see_through_the_layer():
    layer = make_layer()
    x = make_input(layer, 3).detach()
    torch.testing.assert_close(torch.vmap(layer)(x), layer(x))
    jacobian = torch.func.jacrev(layer)(x[0])
    torch.testing.assert_close(jacobian, torch.func.jacfwd(layer)(x[0]))
    (expected,) = torch.autograd.grad(layer(x.requires_grad_())[0].sum(), x)
    torch.testing.assert_close(jacobian.sum(0), expected[0])


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_forward_mode_differentiation_works():
    layer = make_layer()
    x = make_input(layer, 3).detach()
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, torch.ones_like(x))
        assert torch.autograd.forward_ad.unpack_dual(layer(dual)).tangent is not None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast_and_with_16_bit_parameters_both_ways_agree(dtype):
    # Under autocast, the backward pass of the readable way is rounded to 16 bits.
    layer = make_layer().float()
    for x in (make_input(layer, 9).detach().float(), make_input(layer, 9).detach().to(dtype)):
        with torch.autocast("cpu", dtype):
            assert_both_ways_agree(layer, x.requires_grad_(), rtol=0.05, atol=0.05)
    assert_both_ways_agree(layer.to(dtype), x, rtol=0.05, atol=0.05)


def test_the_residual_program_and_its_gradient_are_not_copied():
    """They are as large as a layer's weights: a copy takes as long as a product with them."""
    layer = make_layer(in_features=9, out_features=8)
    weights = fused.arrange(layer.program_keys(), *layer.fused_parameters())
    assert weights.on_input.shape == (4 * 5 + 7 + 1, 9)  # LSTM, slots and the residual's gate
    x = make_input(layer, 3)
    (gradient,) = torch.autograd.grad(layer(x).sum(), layer.residual)
    assert gradient.shape == (9, 8)
    assert gradient.is_contiguous()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sizes", "batch"), [((1024, 1024), 64), ((512, 512), 64), ((256, 18), 640)]
)
def test_the_hand_written_gradient_is_no_slower_than_the_reference(sizes, batch):
    layer, x = NeurocoderLinear(*sizes), torch.randn(batch, sizes[0])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)

    def seconds(is_fused):
        layer.fused = is_fused
        started = time.perf_counter()
        layer(x).sum().backward()
        return time.perf_counter() - started

    try:
        times = [(seconds(True), seconds(False)) for _ in range(20)]
    finally:
        torch.set_num_threads(threads)
    fused_best, reference_best = map(min, zip(*times, strict=True))
    assert fused_best < 1.1 * reference_best
