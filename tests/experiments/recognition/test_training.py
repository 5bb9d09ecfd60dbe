"""Training and testing of the classifiers of pictures."""

import math

import torch
from torch import nn

from experiments.common.data import Images
from experiments.recognition import training

LABELS = torch.arange(8) % 2
PICTURES = torch.randn(8, 1, 2, 2, generator=torch.Generator().manual_seed(0))


class Classifier(nn.Module):
    """Notes how it is called."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 2)
        self.calls = []

    def forward(self, x):
        self.calls.append((self.training, torch.is_grad_enabled()))
        return self.layer(x.flatten(1))


def train(model, epochs):
    images = Images("x", PICTURES, LABELS, PICTURES, LABELS)
    return training.train(model, images, epochs, 0.1, lambda *_: None, orthogonality=0.0)


def test_batch_statistics_are_learned_from_training_images_alone():
    model = Classifier()
    train(model, 2)
    assert model.calls == [(True, True), (False, False)] * 2


def test_the_learning_rate_is_annealed_to_zero(monkeypatch):
    rates = []

    class Adam(torch.optim.Adam):
        def step(self):
            rates.append(self.param_groups[0]["lr"])
            super().step()

    monkeypatch.setattr(torch.optim, "Adam", Adam)
    train(Classifier(), 4)
    torch.testing.assert_close(rates, [0.1, 0.075, 0.05, 0.025])


def test_a_model_that_has_diverged_has_no_error():
    model = Classifier()
    assert 0 <= training.error_of(model, PICTURES, LABELS) <= 1
    nn.init.constant_(model.layer.bias, math.nan)
    assert math.isnan(training.error_of(model, PICTURES, LABELS))
