"""The penalties against formulas written out in float64, task after task."""

import copy
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from experiments.continual_learning.regularizers import EWC, L2, SI, OnlineEWC, Regularizer
from experiments.continual_learning.task_sequence import perceptron
from tests.experiments.continual_learning.naive_fisher import naive_fisher

ALL = [L2, EWC, OnlineEWC, SI]


def network(num_heads=1):
    return perceptron(lambda i, o: nn.Linear(i, o, dtype=torch.float64), 4, 5, 2, num_heads)


def data(num_images=12):
    images = torch.randn(num_images, 4, dtype=torch.float64)
    return images, (images @ torch.randn(4, dtype=torch.float64) > 0).long()


def loss_of(model, images, labels, task=0):
    return F.cross_entropy(model(images, task), labels)


def values(model):
    return [p.detach().clone() for p in model.parameters()]


def learn(model, regularizer, images, labels, task=0, steps=4, optimizer=None):
    """Some steps, and the gradients and positions that they went through."""
    optimizer = optimizer or torch.optim.Adam(model.parameters(), lr=0.05)
    positions, gradients = [values(model)], []
    for _ in range(steps):
        twin = copy.deepcopy(model)
        slopes = torch.autograd.grad(
            loss_of(twin, images, labels, task), list(twin.parameters()), allow_unused=True
        )
        gradients.append(
            [
                torch.zeros_like(p) if s is None else s
                for s, p in zip(slopes, positions[0], strict=True)
            ]
        )
        regularizer.step(loss_of(model, images, labels, task), optimizer)
        positions.append(values(model))
    regularizer.task_learned(images, task)
    return positions, gradients


def quadratic(model, anchor, importance):
    return sum(
        (i * (p - a) ** 2).sum()
        for p, a, i in zip(model.parameters(), anchor, importance, strict=True)
    )


def test_l2_pulls_to_the_end_of_the_last_task_alone():
    model = network()
    regularizer = L2(model, 3.0)
    learn(model, regularizer, *data())
    positions, _ = learn(model, regularizer, *data())
    expected = 3.0 / 2 * quadratic(model, positions[-1], [1.0] * 6)
    assert expected == 0
    learn(model, Regularizer(model), *data())
    expected = 3.0 / 2 * quadratic(model, positions[-1], [1.0] * 6)
    assert expected > 0
    torch.testing.assert_close(regularizer.penalty(), expected.detach())


def test_ewc_pulls_to_the_end_of_every_task_by_the_fisher_information_it_had_there():
    model = network()
    regularizer = EWC(model, 7.0)
    terms = []
    for _ in range(3):
        images, labels = data()
        positions, _ = learn(model, regularizer, images, labels)
        terms.append((positions[-1], naive_fisher(model, images, 0)))
    learn(model, Regularizer(model), *data())
    expected = sum(7.0 / 2 * quadratic(model, *term) for term in terms)
    torch.testing.assert_close(regularizer.penalty(), expected.detach())


def test_online_ewc_pulls_to_the_last_task_by_a_fading_sum_of_scaled_fisher_information():
    model, gamma = network(), 0.7
    regularizer = OnlineEWC(model, 7.0, decay=gamma)
    running = [torch.zeros_like(p) for p in values(model)]
    for _ in range(3):
        images, labels = data()
        positions, _ = learn(model, regularizer, images, labels)
        fisher = naive_fisher(model, images, 0)
        entries = torch.cat([f.flatten() for f in fisher])
        running = [gamma * r + f / entries.mean() for r, f in zip(running, fisher, strict=True)]
    learn(model, Regularizer(model), *data())
    weights = [gamma * r for r in running]
    expected = 7.0 / 2 * quadratic(model, positions[-1], weights)
    torch.testing.assert_close(regularizer.penalty(), expected.detach())


def test_si_pulls_by_the_path_integrals_of_the_tasks_over_the_squares_of_their_ways():
    model, xi = network(), 0.03
    regularizer = SI(model, 7.0, damping=xi)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.2)
    importance = [torch.zeros_like(p) for p in values(model)]
    some_were_negative = False
    for _ in range(3):
        positions, gradients = learn(model, regularizer, *data(), steps=12, optimizer=optimizer)
        for k in range(len(importance)):
            omega = torch.zeros_like(importance[k])
            for step, gradient in enumerate(gradients):
                omega -= gradient[k] * (positions[step + 1][k] - positions[step][k])
            some_were_negative |= bool((omega < 0).any())
            omega[omega < 0] = 0
            importance[k] += omega / ((positions[-1][k] - positions[0][k]) ** 2 + xi)
    assert some_were_negative
    learn(model, Regularizer(model), *data())
    expected = 7.0 * quadratic(model, positions[-1], importance)
    torch.testing.assert_close(regularizer.penalty(), expected.detach())


def test_a_loss_of_the_first_task_counts_in_its_path_and_moves_nothing():
    def squares(model):
        return sum(p.square().sum() for p in model.parameters())

    (images, labels), more = data(), data()
    paths, ways = [], []
    for first_task_loss in (None, squares):
        torch.manual_seed(1)
        model = network()
        regularizer = SI(model, 1.0, signed=True, first_task_loss=first_task_loss)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        way = [values(model)]
        for _ in range(3):
            regularizer.step(loss_of(model, images, labels), optimizer)
            way.append(values(model))
        paths.append([path.clone() for path in regularizer._path])
        ways.append(way)
        regularizer.task_learned(images, 0)
        regularizer.strength = 0.0  # or the steps would differ from here on
        regularizer.step(loss_of(model, *more), optimizer)
        paths.append(regularizer._path)
    for k in range(len(paths[0])):
        for one, other in zip(*ways, strict=True):
            assert torch.equal(one[k], other[k])
        steps = [(old[k], new[k] - old[k]) for old, new in pairwise(ways[0])]
        expected = paths[0][k] - sum(2 * position * step for position, step in steps)
        torch.testing.assert_close(paths[2][k], expected)
        torch.testing.assert_close(paths[3][k], paths[1][k])


def test_the_path_integral_of_small_steps_is_how_far_the_loss_fell():
    model = network()
    regularizer = SI(model, 1.0)
    (images, labels), optimizer = data(), torch.optim.SGD(model.parameters(), lr=5e-3)
    before = loss_of(model, images, labels).item()
    for _ in range(300):
        regularizer.step(loss_of(model, images, labels), optimizer)
    fell = before - loss_of(model, images, labels).item()
    assert fell > 0.01
    assert sum(path.sum().item() for path in regularizer._path) == pytest.approx(fell, rel=0.02)


@pytest.mark.parametrize("kind", ALL)
def test_a_step_goes_down_the_gradient_of_loss_plus_penalty(kind):
    model = network()
    regularizer = kind(model, 5.0)
    for _ in range(2):
        learn(model, regularizer, *data())
    learn(model, Regularizer(model), *data())
    images, labels = data()
    parameters = list(model.parameters())
    total = loss_of(model, images, labels) + 5.0 * kind.factor * sum(
        quadratic(model, anchor.values, anchor.importance) for anchor in regularizer.anchors
    )
    penalty = (total - loss_of(model, images, labels)).item()
    assert penalty == pytest.approx(regularizer.penalty().item())
    slopes = torch.autograd.grad(total, parameters)
    before = values(model)
    regularizer.step(loss_of(model, images, labels), torch.optim.SGD(parameters, lr=0.1))
    expected = [b - 0.1 * s for b, s in zip(before, slopes, strict=True)]
    torch.testing.assert_close(values(model), expected)


@pytest.mark.parametrize("kind", [Regularizer, *ALL])
def test_without_strength_and_before_the_second_task_it_is_the_optimizer_alone(kind):
    start, (images, labels) = network(), data()
    for strength, tasks in ((0.0, 3), (5.0 if kind is not Regularizer else 0.0, 1)):
        model, plain = copy.deepcopy(start), copy.deepcopy(start)
        regularizer = kind(model, strength)
        with_it = torch.optim.Adam(model.parameters(), lr=0.05)
        without = torch.optim.Adam(plain.parameters(), lr=0.05)
        for _ in range(tasks):
            learn(model, regularizer, images, labels, optimizer=with_it)
            learn(plain, Regularizer(plain), images, labels, optimizer=without)
        torch.testing.assert_close(values(model), values(plain), rtol=0, atol=0)


@pytest.mark.parametrize(("kind", "strength"), [(L2, 0.1), (EWC, 1), (OnlineEWC, 0.01), (SI, 0.5)])
def test_a_hundred_times_the_strength_keeps_the_parameters_nearer_to_the_last_task(kind, strength):
    start, first, second = network(), data(), data()
    strayed = []
    for times in (1, 100):
        model = copy.deepcopy(start)
        regularizer = kind(model, times * strength)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        learn(model, regularizer, *first, steps=40, optimizer=optimizer)
        [anchor] = regularizer.anchors
        learn(model, regularizer, *second, steps=40, optimizer=optimizer)
        strayed.append(quadratic(model, anchor.values, anchor.importance).item())
    assert strayed[1] < 0.9 * strayed[0]


@pytest.mark.parametrize("kind", [Regularizer, *ALL])
def test_another_tasks_head_stays_exactly_where_it_was(kind):
    model = network(num_heads=2)
    regularizer = kind(model, 1.0)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    learn(model, regularizer, *data(), task=0, optimizer=optimizer)
    before = [p.detach().clone() for p in model.heads[0].parameters()]
    learn(model, regularizer, *data(), task=1, optimizer=optimizer)
    after = [p.detach() for p in model.heads[0].parameters()]
    torch.testing.assert_close(after, before, rtol=0, atol=0)


@pytest.mark.parametrize("kind", [Regularizer, *ALL])
def test_a_negative_strength_is_refused(kind):
    with pytest.raises(ValueError, match="strength must not be negative"):
        kind(network(), -1.0)


@pytest.mark.parametrize("decay", [0.0, -0.5, 1.5, float("nan")])
def test_a_decay_out_of_range_is_refused(decay):
    with pytest.raises(ValueError, match="decay must be above 0 and at most 1"):
        OnlineEWC(network(), 1.0, decay=decay)


@pytest.mark.parametrize("damping", [0.0, -1.0, float("nan")])
def test_a_damping_that_is_not_positive_is_refused(damping):
    with pytest.raises(ValueError, match="damping must be positive"):
        SI(network(), 1.0, damping=damping)
