"""`NSMLinear` against a stored-program memory that mixes whole matrices for every input."""

import pytest
import torch

from neurocoder import NSMLinear


def dot(a, b):
    return (a * b).sum()


def cosine(a, b):
    return dot(a, b) / torch.sqrt(dot(a, a) * dot(b, b))


def naive(layer, x):
    """y, W and a for x (B, in)."""
    outputs, mixtures, attentions = [], [], []
    for row in x:
        query = layer.query_network.weight @ row + layer.query_network.bias
        raw = dot(layer.strength_network.weight[0], row) + layer.strength_network.bias[0]
        strength = torch.log(1 + torch.exp(raw))
        weights = [torch.exp(strength * cosine(query, key)) for key in layer.keys]
        attention = [w / sum(weights) for w in weights]
        mixture = sum(a * v for a, v in zip(attention, layer.programs, strict=True))
        y = torch.stack([dot(row, mixture[:, o]) for o in range(layer.out_features)])
        if layer.bias is not None:
            y = y + sum(a * b for a, b in zip(attention, layer.bias, strict=True))
        outputs.append(y)
        mixtures.append(mixture)
        attentions.append(torch.stack(attention))
    return torch.stack(outputs), torch.stack(mixtures), torch.stack(attentions)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("sizes", [(4, 3, 5, 2), (3, 1, 2, 3), (1, 2, 1, 1), (2, 4, 3, 4)])
def test_outputs_weights_and_gradients_are_those_of_a_naive_memory(sizes, bias):
    in_features, out_features, programs, key_size = sizes
    layer = NSMLinear(
        in_features,
        out_features,
        programs=programs,
        key_size=key_size,
        bias=bias,
        dtype=torch.float64,
    )
    x = torch.randn(3, in_features, dtype=torch.float64, requires_grad=True)
    got, (expected, mixture, attention) = layer(x), naive(layer, x)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(layer.working_program(x), mixture, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(layer.attention(x), attention, rtol=1e-12, atol=1e-12)
    inputs, weight = [x, *layer.parameters()], torch.randn_like(got)
    for a, b in zip(
        torch.autograd.grad((got * weight).sum(), inputs),
        torch.autograd.grad((expected * weight).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("lead", [(), (0,), (2, 3)])
def test_the_output_is_x_times_the_working_program_plus_the_mixed_bias(lead):
    layer = NSMLinear(6, 5, dtype=torch.float64)
    x = torch.randn(*lead, 6, dtype=torch.float64)
    program, attention = layer.working_program(x), layer.attention(x)
    expected = torch.einsum("...i,...io->...o", x, program) + attention @ layer.bias
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize("programs", [1, 2, 4])
def test_the_key_loss_is_the_mean_cosine_of_all_pairs(programs):
    layer = NSMLinear(3, 2, programs=programs, key_size=3, dtype=torch.float64)
    keys = layer.keys
    pairs = [cosine(keys[i], keys[j]) for i in range(programs) for j in range(i + 1, programs)]
    expected = sum(pairs) / len(pairs) if pairs else torch.zeros((), dtype=torch.float64)
    torch.testing.assert_close(layer.auxiliary_loss(), expected)


def test_the_key_loss_drives_keys_apart():
    layer = NSMLinear(3, 2, programs=3, key_size=4)
    with torch.no_grad():
        layer.keys.copy_(torch.ones(3, 4) + 0.01 * torch.randn(3, 4))
    optimizer = torch.optim.SGD([layer.keys], lr=1.0)
    for _ in range(200):
        optimizer.zero_grad()
        layer.auxiliary_loss().backward()
        optimizer.step()
    assert layer.auxiliary_loss() < -0.4  # three directions cannot do better than -0.5


def test_an_input_near_a_key_with_a_large_strength_uses_its_program_alone():
    layer = NSMLinear(3, 2, programs=3, key_size=3)
    with torch.no_grad():
        layer.query_network.weight.copy_(torch.eye(3))
        layer.query_network.bias.zero_()
        layer.keys.copy_(torch.eye(3))
        layer.strength_network.weight.zero_()
        layer.strength_network.bias.fill_(100.0)
    x = torch.eye(3)
    torch.testing.assert_close(layer.attention(x), torch.eye(3))
    torch.testing.assert_close(layer.working_program(x), layer.programs.data)
