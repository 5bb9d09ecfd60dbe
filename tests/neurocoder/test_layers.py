"""What all five layers must do as `nn.Linear` does."""

import copy
import inspect
import pickle

import numpy as np
import pytest
import torch
from torch import nn

import neurocoder
from neurocoder import recode
from tests.neurocoder.every_layer import LAYERS, each_layer


class Index:
    """An integer that is no `int`."""

    def __init__(self, value):
        self.value = value

    def __index__(self):
        return self.value


def sizes_of(kind):
    """The names of a layer's sizes: all arguments that are integers."""
    parameters = inspect.signature(kind).parameters.values()
    return [p.name for p in parameters if p.annotation is int]


def test_every_layer_is_tested_here():
    exported = {getattr(neurocoder, name) for name in neurocoder.__all__}
    assert {c for c in exported if isinstance(c, type) and issubclass(c, nn.Module)} == set(LAYERS)


@pytest.mark.parametrize("integer", [np.int64, np.uint8, np.array, torch.tensor, Index])
@each_layer
def test_sizes_are_whatever_python_takes_as_an_index(kind, integer):
    names = sizes_of(kind)
    assert {"in_features", "out_features"} < set(names)
    plain = dict.fromkeys(names, 4) | {"out_features": 3}
    torch.manual_seed(0)
    layer = kind(**plain)
    torch.manual_seed(0)
    other = kind(**{name: integer(value) for name, value in plain.items()})
    assert repr(other) == repr(layer)
    assert type(other.in_features) is type(other.out_features) is int
    x = torch.randn(2, 4)
    for run in (layer, other):
        run.eval()
    torch.testing.assert_close(other(x), layer(x), rtol=0, atol=0)
    torch.testing.assert_close(pickle.loads(pickle.dumps(other))(x), layer(x), rtol=0, atol=0)
    torch.testing.assert_close(copy.deepcopy(other)(x), layer(x), rtol=0, atol=0)


@pytest.mark.parametrize(
    "value",
    [0, -1, 2.0, True, None, "2", np.int64(0), np.float64(2.0), np.True_, torch.tensor(True)],
)
@each_layer
def test_what_is_no_positive_integer_is_refused_by_name(kind, value):
    for name in sizes_of(kind):
        with pytest.raises(ValueError, match=f"{name} must be a positive integer"):
            kind(**{"in_features": 5, "out_features": 4, name: value})


@each_layer
def test_recode_takes_the_sizes_of_a_linear_layer_made_with_numpy(kind):
    model = nn.Sequential(nn.Flatten(), nn.Linear(np.prod((8, 8)), np.int64(10)))
    assert recode(model, ["1"], kind)(torch.randn(2, 8, 8)).shape == (2, 10)
