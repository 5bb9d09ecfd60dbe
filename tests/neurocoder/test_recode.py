"""`recode` replaces layers of a model, and the examples in the library's docstrings run."""

import doctest
import functools
import importlib

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

import neurocoder
from neurocoder import HyperLinear, NeurocoderLinear, recode


class Residual(nn.Module):
    """A block whose layers lie under other names than numbers."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(6, 7), nn.ReLU(), nn.Linear(7, 6, bias=False))
        self.outer = nn.Linear(6, 6)

    def forward(self, x):
        return x + self.outer(self.inner(x))


def model():
    return nn.Sequential(nn.Linear(4, 6), nn.ModuleDict({"block": Residual()})["block"])


def layers(module):
    return dict(module.named_modules())


def test_named_layers_are_replaced_wherever_they_are_and_no_others():
    net = model()
    old = layers(net)
    assert recode(net, ["0", "1.inner.2"], NeurocoderLinear) is net
    new = layers(net)
    assert isinstance(new["0"], NeurocoderLinear)
    assert isinstance(new["1.inner.2"], NeurocoderLinear)
    assert (new["1.inner.2"].in_features, new["1.inner.2"].out_features) == (7, 6)
    for name in ("1", "1.inner", "1.inner.0", "1.inner.1", "1.outer"):
        assert new[name] is old[name]
    assert net(torch.randn(3, 4)).shape == (3, 6)


def test_the_new_layers_learn_with_the_model():
    net = recode(model(), ["1.outer"], HyperLinear)
    net(torch.randn(3, 4)).square().sum().backward()
    names = {name for name, p in net.named_parameters() if p.grad is not None}
    assert {"1.outer.generator", "1.inner.0.weight"} <= names


def test_the_factory_decides_what_comes_instead():
    net = recode(model(), ["0"], functools.partial(NeurocoderLinear, slots=7, bias=False))
    assert net[0].memory.u.shape == (7, 4)
    assert net[0].bias is None


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_new_layer_takes_over_device_dtype_and_training_mode(dtype, training):
    net = model().to(dtype).train(training)
    recode(net, ["0", "1.outer"], NeurocoderLinear)
    assert all(p.dtype == dtype and p.device.type == "cpu" for p in net.parameters())
    assert all(layer.training is training for layer in net.modules())
    assert net(torch.randn(2, 4, dtype=dtype)).dtype == dtype


def test_a_layer_keeps_its_own_training_mode():
    net = model().train()
    net[0].eval()
    recode(net, ["0", "1.outer"], NeurocoderLinear)
    assert not net[0].training
    assert net[1].outer.training


def test_no_names_change_nothing_and_a_name_given_twice_counts_once():
    net = model()
    old = layers(net)
    recode(net, [], NeurocoderLinear)
    assert layers(net) == old
    calls = []
    recode(net, ["0", "0"], lambda *sizes: calls.append(sizes) or NeurocoderLinear(*sizes))
    assert calls == [(4, 6)]


@pytest.mark.parametrize(
    ("names", "error", "message"),
    [
        (["0", "1.inner.5"], ValueError, "'1.inner.5'"),
        (["0", ""], ValueError, "no layer"),
        (["0", "1.outer.weight"], ValueError, "1.outer.weight"),
        (["0", "1.inner.1"], TypeError, "ReLU"),
        (["0", "1"], TypeError, "Residual"),
        ("0", TypeError, "list of names"),
    ],
)
def test_one_wrong_name_is_refused_and_nothing_is_replaced(names, error, message):
    net = model()
    old = layers(net)
    with pytest.raises(error, match=message):
        recode(net, names, NeurocoderLinear)
    assert layers(net) == old


def test_a_wrong_name_is_answered_with_the_names_there_are():
    with pytest.raises(ValueError, match=r"0, 1\.inner\.0, 1\.inner\.2, 1\.outer"):
        recode(model(), ["first"], NeurocoderLinear)


@pytest.mark.parametrize("name", ["neurocoder.linear", "neurocoder.recode"])
def test_the_examples_in_the_docstrings_hold(name):
    # `neurocoder.recode` is the function once the package is imported; this is its module.
    module = importlib.import_module(name)
    exported = {public: getattr(neurocoder, public) for public in neurocoder.__all__}
    names = vars(module) | exported | {"torch": torch, "nn": nn}
    finder, runner, complaints = doctest.DocTestFinder(), doctest.DocTestRunner(), []
    for example in finder.find(module, name, globs=names):
        runner.run(example, out=complaints.append)
    assert runner.tries > 0
    assert not runner.failures, "".join(complaints)


def shared():
    """A model in which one layer stands in three places, under two parents of one object."""
    a = nn.Linear(6, 6)
    block = nn.Sequential(a, nn.ReLU())
    return nn.Sequential(a, block, nn.ModuleDict({"again": block, "own": nn.Linear(6, 6)})), a


@pytest.mark.parametrize(
    "names", [["0"], ["1.0"], ["2.again.0"], ["1.0", "0"], ["0", "1.0", "2.again.0"]]
)
def test_a_shared_layer_is_replaced_once_in_every_place_under_any_of_its_names(names):
    net, _ = shared()
    other, calls = net[2]["own"], []
    recode(net, names, lambda *sizes: calls.append(sizes) or NeurocoderLinear(*sizes))
    assert calls == [(6, 6)]
    assert isinstance(net[0], NeurocoderLinear)
    assert net[1][0] is net[2]["again"][0] is net[0]
    assert net[2]["own"] is other


def test_a_shared_layer_stays_shared_while_it_learns():
    a = nn.Linear(8, 8)
    net = recode(nn.Sequential(a, nn.ReLU(), a), ["0"], NeurocoderLinear)
    x = torch.randn(3, 8)
    torch.testing.assert_close(net(x), net[0](torch.relu(net[0](x))))
    assert len(list(net.parameters())) == len(list(net[0].parameters()))


def weight_norm(layer):
    return nn.utils.parametrizations.weight_norm(layer)


def computed_bias(layer):
    nn.utils.parametrize.register_parametrization(layer, "bias", nn.Tanh())
    return layer


def pruned(layer):
    return prune.l1_unstructured(layer, "weight", amount=0.5)


def frozen(layer):
    return layer.requires_grad_(False)


def frozen_bias(layer):
    layer.bias.requires_grad_(False)
    return layer


def hooked(register):
    def hook(layer):
        getattr(layer, register)(lambda *_: None)
        return layer

    return hook


UNFIT = {
    "weight_norm": (weight_norm, "computed.*remove"),
    "old weight_norm": (nn.utils.weight_norm, "computed.*remove"),
    "orthogonal": (nn.utils.parametrizations.orthogonal, "computed.*remove"),
    "parametrized bias": (computed_bias, "computed.*remove"),
    "pruned": (pruned, "computed.*remove"),
    "frozen": (frozen, "frozen.*requires_grad_"),
    "frozen bias": (frozen_bias, "frozen.*requires_grad_"),
    "lazy": (lambda _: nn.LazyLinear(6), "run a batch"),
    "forward hook": (hooked("register_forward_hook"), "hooks.*register"),
    "forward pre-hook": (hooked("register_forward_pre_hook"), "hooks.*register"),
    "backward hook": (hooked("register_full_backward_hook"), "hooks.*register"),
    "backward pre-hook": (hooked("register_full_backward_pre_hook"), "hooks.*register"),
}


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated")
@pytest.mark.parametrize(("change", "message"), UNFIT.values(), ids=UNFIT.keys())
def test_a_layer_with_more_than_a_new_one_would_have_is_refused_and_nothing_replaced(
    change, message
):
    net = nn.Sequential(nn.Linear(6, 6), nn.Sequential(change(nn.Linear(6, 6))))
    old, calls = layers(net), []
    with pytest.raises(ValueError, match=f"'1.0' is not replaced: .*{message}") as error:
        recode(net, ["0", "1.0"], lambda *sizes: calls.append(sizes))
    assert "\n" not in str(error.value)
    assert layers(net) == old
    assert calls == []


def test_a_lazy_layer_is_replaced_once_its_sizes_are_known():
    net = nn.Sequential(nn.LazyLinear(6))
    x = torch.randn(2, 3)
    net(x)
    assert recode(net, ["0"], NeurocoderLinear)(x).shape == (2, 6)


def test_a_layer_whose_weight_another_module_shares_is_refused():
    net = nn.ModuleDict({"words": nn.Embedding(9, 4), "out": nn.Linear(4, 9)})
    net["out"].weight = net["words"].weight
    with pytest.raises(ValueError, match=r"'out' is not replaced: .* 'words\.weight'"):
        recode(net, ["out"], NeurocoderLinear)
    assert isinstance(net["out"], nn.Linear)


class Wrapped(nn.parallel.DistributedDataParallel):
    """Holds a model as its base class does, without the processes."""

    def __init__(self, module):
        nn.Module.__init__(self)
        self.module = module


def test_a_model_that_is_wrapped_for_several_processes_is_refused():
    net = nn.Sequential(Wrapped(nn.Linear(4, 4)))
    with pytest.raises(ValueError, match="DistributedDataParallel would not see"):
        recode(net, ["0.module"], NeurocoderLinear)
    assert isinstance(net[0].module, nn.Linear)


class Reader(nn.Module):
    """Reads a weight while it runs, and another only before."""

    def __init__(self):
        super().__init__()
        self.read, self.called = nn.Linear(4, 4), nn.Linear(4, 4)
        nn.init.zeros_(self.called.weight)

    def forward(self, x):
        return self.called(x.to(self.read.weight.dtype)) + self.read(x)


@pytest.mark.parametrize(
    ("make", "name", "message"),
    [
        (lambda: nn.TransformerEncoderLayer(4, 2, 8), "linear1", "set_fastpath_enabled"),
        (lambda: nn.TransformerEncoderLayer(4, 2, 8), "linear2", "set_fastpath_enabled"),
        (lambda: nn.TransformerEncoderLayer(4, 2, 8), "self_attn.out_proj", "only called"),
        (lambda: nn.MultiheadAttention(4, 2), "out_proj", "only called"),
        (Reader, "read", "only called"),
    ],
)
def test_a_layer_whose_weight_is_read_by_the_module_around_it_is_refused(make, name, message):
    net = nn.ModuleList([nn.Linear(4, 4), make()])
    old = layers(net)
    with pytest.raises(ValueError, match=f"'1.{name}' .* reads its .*weight.*{message}"):
        recode(net, ["0", f"1.{name}"], NeurocoderLinear)
    assert layers(net) == old
    recode(net, ["0", f"1.{name}"], nn.Linear)  # which has a weight


def test_a_weight_that_is_read_elsewhere_than_in_the_forward_pass_is_no_hindrance():
    net = recode(Reader(), ["called"], NeurocoderLinear)
    assert net(torch.randn(2, 4)).shape == (2, 4)


def test_a_transformer_runs_in_evaluation_with_its_fast_path_off():
    layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        recode(layer, ["linear1", "linear2"], NeurocoderLinear).eval()
        assert layer(torch.randn(2, 3, 4)).shape == (2, 3, 4)
    finally:
        torch.backends.mha.set_fastpath_enabled(True)


def test_the_layers_inside_a_composed_layer_are_no_linear_layers_to_replace():
    net = nn.Sequential(NeurocoderLinear(4, 3), nn.Linear(3, 2))
    inner = [name for name, m in net.named_modules() if name and isinstance(m, nn.Linear)]
    assert len(inner) == 12
    for name in inner[:-1]:
        with pytest.raises(TypeError, match=r"not an nn\.Linear"):
            recode(net, [name], NeurocoderLinear)
    with pytest.raises(ValueError, match=r"linear layers: 1$"):
        recode(net, ["first"], NeurocoderLinear)


def test_a_layer_in_place_of_a_factory_is_refused():
    with pytest.raises(TypeError, match="a class or a function of two sizes, got a layer"):
        recode(nn.Sequential(nn.Linear(4, 3)), ["0"], NeurocoderLinear(4, 3))


def test_a_factory_that_fails_leaves_the_model_as_it_was():
    net = model()
    old = layers(net)

    def factory(in_features, out_features):
        if in_features == 7:
            raise MemoryError
        return NeurocoderLinear(in_features, out_features)

    with pytest.raises(MemoryError):
        recode(net, ["0", "1.inner.2"], factory)
    with pytest.raises(TypeError, match="the factory returned a NoneType for '0'"):
        recode(net, ["0"], lambda *_: None)
    assert layers(net) == old
