"""What a single Neurocoder layer learns: 8 x 8 digits, and a product of two inputs."""

import functools
import statistics

import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

from neurocoder import NeurocoderLinear

SEEDS = (0, 1, 2)
NUM_TRAINING = 1200
EPOCHS = 20


@functools.cache
def digits():
    """Training images and labels, and held-out images and labels; the same split every time."""
    data = load_digits()
    x = torch.tensor(data.data, dtype=torch.float32) / 16
    y = torch.tensor(data.target)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    train, test = order[:NUM_TRAINING], order[NUM_TRAINING:]
    return x[train], y[train], x[test], y[test]


@functools.cache
def trained(make, seed):
    """A classifier of one layer after 240 steps of Adam, and its accuracy on held-out digits."""
    x, y, x_test, y_test = digits()
    torch.manual_seed(seed)
    layer = make(64, 10)
    optimizer = torch.optim.Adam(layer.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, EPOCHS)
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(x)).split(100):
            loss = F.cross_entropy(layer(x[batch]), y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()
    with torch.no_grad():
        return layer, (layer(x_test).argmax(1) == y_test).float().mean().item()


without_residual = functools.partial(NeurocoderLinear, residual=False)


def median_accuracy(make):
    return statistics.median(trained(make, seed)[1] for seed in SEEDS)


# Measured over 5 seeds: nn.Linear 92.8 to 94.0 %, Neurocoder 95.3 to 97.7 %, without the residual
# 95.0 to 97.7 %, HyperLinear 95.0 to 96.0 %. The effort is what is equal: trained ten times as long
# with three times the learning rate, nn.Linear reaches 97 % too.
@pytest.mark.parametrize(
    "make", [NeurocoderLinear, pytest.param(without_residual, marks=pytest.mark.slow)]
)
def test_one_neurocoder_layer_classifies_digits_better_than_nn_linear_after_the_same_training(make):
    assert median_accuracy(make) > median_accuracy(nn.Linear) + 0.015


def class_separation(attention, label):
    """Mean distance between classes' mean attention, in units of that between halves of a class."""
    members = [attention[label == k].flatten(1) for k in range(10)]
    within = [(m[0::2].mean(0) - m[1::2].mean(0)).norm() for m in members]
    between = F.pdist(torch.stack([m.mean(0) for m in members]))
    return (between.mean() / torch.stack(within).mean()).item()


@pytest.mark.parametrize("memory", ["u_attention", "v_attention", "s_attention"])
def test_after_training_attention_differs_between_inputs_and_more_so_between_classes(memory):
    _, _, x, y = digits()

    def attentions(layers):
        with torch.no_grad():
            return [getattr(layer.compose(x), memory) for layer in layers]

    learned = attentions([trained(NeurocoderLinear, seed)[0] for seed in SEEDS])
    for attention in learned:
        assert attention.std(dim=0).mean() / attention.mean() > 0.5
    # Measured: 4.8 to 6.7 for layers that have learned, 2.4 to 3.9 for fresh ones.
    separation = statistics.median(class_separation(a, y) for a in learned)
    fresh = attentions([NeurocoderLinear(64, 10) for _ in SEEDS])
    assert separation > 3.5
    assert separation > 1.2 * statistics.median(class_separation(a, y) for a in fresh)


def test_one_layer_learns_the_sign_of_a_product_which_no_linear_layer_can():
    x = torch.randn(256, 2)
    y = (x[:, 0] * x[:, 1] > 0).long()

    def accuracy(layer):
        optimizer = torch.optim.Adam(layer.parameters(), lr=1e-2)
        for _ in range(100):
            loss = F.cross_entropy(layer(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        fresh = torch.randn(512, 2)
        with torch.no_grad():
            right = layer(fresh).argmax(1) == (fresh[:, 0] * fresh[:, 1] > 0).long()
        return right.float().mean().item()

    assert accuracy(nn.Linear(2, 2)) < 0.75
    assert accuracy(NeurocoderLinear(2, 2)) > 0.9
