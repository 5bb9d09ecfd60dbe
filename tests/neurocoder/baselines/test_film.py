"""`FiLMLinear` against feature-wise modulation written out."""

import pytest
import torch

from neurocoder import FiLMLinear


def naive(layer, x):
    """y for x (B, in), every output by itself."""
    first, _, last = layer.modulation_network
    outputs = []
    for row in x:
        hidden = torch.stack(
            [torch.tanh((w * row).sum() + b) for w, b in zip(first.weight, first.bias, strict=True)]
        )
        y = []
        for o in range(layer.out_features):
            feature = (layer.shared.weight[o] * row).sum()
            if layer.shared.bias is not None:
                feature = feature + layer.shared.bias[o]
            gamma = 1 + (last.weight[o] * hidden).sum() + last.bias[o]
            shift = layer.out_features + o
            beta = (last.weight[shift] * hidden).sum() + last.bias[shift]
            y.append(gamma * feature + beta)
        outputs.append(torch.stack(y))
    return torch.stack(outputs)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("sizes", [(4, 3, 5), (3, 1, 4), (1, 2, 3), (2, 2, 1)])
def test_outputs_and_gradients_are_those_of_a_naive_modulation(sizes, bias):
    in_features, out_features, hidden_size = sizes
    layer = FiLMLinear(
        in_features, out_features, hidden_size=hidden_size, bias=bias, dtype=torch.float64
    )
    x = torch.randn(3, in_features, dtype=torch.float64, requires_grad=True)
    got, expected = layer(x), naive(layer, x)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)
    inputs, weight = [x, *layer.parameters()], torch.randn_like(got)
    for a, b in zip(
        torch.autograd.grad((got * weight).sum(), inputs),
        torch.autograd.grad((expected * weight).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_without_modulation_it_is_the_shared_linear_layer():
    layer, x = FiLMLinear(6, 5), torch.randn(4, 6)
    with torch.no_grad():
        layer.modulation_network[2].weight.zero_()
        layer.modulation_network[2].bias.zero_()
    torch.testing.assert_close(layer(x), layer.shared(x))


def test_gamma_starts_around_one_and_beta_around_zero_and_both_depend_on_the_input():
    with torch.no_grad():
        gamma, beta = FiLMLinear(64, 10).modulation(torch.randn(200, 64))
    assert abs(gamma.mean() - 1) < 0.2
    assert abs(beta.mean()) < 0.2
    assert min(gamma.std(dim=0).min(), beta.std(dim=0).min()) > 0.1
