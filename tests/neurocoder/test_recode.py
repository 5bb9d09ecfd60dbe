"""`recode` replaces layers of a model, and the examples in the library's docstrings run."""

import doctest
import functools
import importlib

import pytest
import torch
from torch import nn

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
