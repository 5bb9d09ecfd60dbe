"""The Fisher diagonal against loops over images and classes, and against logistic regression."""

import pytest
import torch
from torch import nn

from experiments.continual_learning.fisher import fisher_diagonal
from experiments.continual_learning.task_sequence import perceptron
from neurocoder import HyperLinear, NeurocoderLinear
from tests.experiments.continual_learning.naive_fisher import naive_fisher

FLOAT64 = {"dtype": torch.float64}
LAYERS = {
    "linear": lambda i, o: nn.Linear(i, o, **FLOAT64),
    "hypernet": lambda i, o: HyperLinear(i, o, hidden_size=3, embedding_size=2, **FLOAT64),
    "neurocoder": lambda i, o: NeurocoderLinear(
        i, o, slots=4, key_size=2, least_used=2, steps=2, hidden_size=3, **FLOAT64
    ),
}


@pytest.mark.parametrize("num_images", [1, 3, 21])
@pytest.mark.parametrize("layer", LAYERS)
def test_it_is_the_mean_of_the_squared_slopes_of_single_images_and_classes(layer, num_images):
    model = perceptron(LAYERS[layer], 4, 5, 3, 2)
    images = torch.randn(num_images, 4, **FLOAT64)
    got = fisher_diagonal(model, images, 1)
    for g, e in zip(got, naive_fisher(model, images, 1), strict=True):
        torch.testing.assert_close(g, e, rtol=1e-9, atol=1e-14)
        assert (g >= 0).all()


def test_the_logits_of_a_linear_model_have_the_information_of_logistic_regression():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 4, bias=False, **FLOAT64)

        def forward(self, images, task):  # noqa: ARG002
            return self.layer(images)

    model, images = Model(), torch.randn(9, 3, **FLOAT64)
    p = torch.softmax(images @ model.layer.weight.T, dim=1)
    expected = torch.zeros(4, 3, **FLOAT64)
    for n in range(9):
        for c in range(4):
            for i in range(3):
                expected[c, i] += p[n, c] * (1 - p[n, c]) * images[n, i] ** 2 / 9
    torch.testing.assert_close(fisher_diagonal(model, images, 0), [expected])


def test_another_tasks_head_has_none():
    model = perceptron(LAYERS["linear"], 4, 5, 2, 3)
    fisher = fisher_diagonal(model, torch.randn(6, 4, **FLOAT64), 2)
    named = dict(zip([name for name, _ in model.named_parameters()], fisher, strict=True))
    assert not named["heads.0.weight"].any()
    assert not named["heads.1.bias"].any()
    assert named["heads.2.weight"].any()


def test_the_model_keeps_its_parameters_and_gradients():
    model = perceptron(LAYERS["linear"], 4, 5, 2, 1)
    before = [p.detach().clone() for p in model.parameters()]
    fisher_diagonal(model, torch.randn(6, 4, **FLOAT64), 0)
    assert all(p.grad is None for p in model.parameters())
    torch.testing.assert_close([p.detach() for p in model.parameters()], before, rtol=0, atol=0)


def test_no_images_are_refused():
    model = perceptron(LAYERS["linear"], 4, 5, 2, 1)
    with pytest.raises(ValueError, match="at least one image"):
        fisher_diagonal(model, torch.zeros(0, 4, **FLOAT64), 0)
