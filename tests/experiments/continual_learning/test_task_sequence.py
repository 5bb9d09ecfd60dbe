"""Splitting into tasks, learning them in turn, and what the numbers say."""

import math

import pytest
import torch
from torch import nn

from experiments.continual_learning.regularizers import Regularizer
from experiments.continual_learning.task_sequence import (
    TaskNetwork,
    accuracy,
    average_accuracy,
    forgetting,
    learn_in_sequence,
    perceptron,
)
from experiments.continual_learning.task_split import hold_out, split_into_tasks


def images_that_say_their_class(num_classes, each):
    labels = torch.arange(num_classes).repeat(each)
    return labels.float().reshape(-1, 1, 1).expand(-1, 2, 3).clone(), labels


def no_loss(module):  # noqa: ARG001
    return torch.zeros(())


def test_tasks_are_neighbouring_classes_with_labels_counted_anew():
    tasks = split_into_tasks(*images_that_say_their_class(6, 3), *images_that_say_their_class(6, 2))
    assert [task.classes for task in tasks] == [(0, 1), (2, 3), (4, 5)]
    for task in tasks:
        for images, labels, num in (
            (task.images, task.labels, 6),
            (task.test_images, task.test_labels, 4),
        ):
            assert images.shape == (num, 6)
            torch.testing.assert_close(images[:, 0].long() - task.classes[0], labels)
            assert sorted(set(labels.tolist())) == [0, 1]


def test_all_images_are_in_exactly_one_task():
    tasks = split_into_tasks(
        *images_that_say_their_class(6, 4),
        *images_that_say_their_class(6, 2),
        classes_per_task=3,
    )
    assert [task.classes for task in tasks] == [(0, 1, 2), (3, 4, 5)]
    assert sum(len(task.images) for task in tasks) == 24
    assert sum(len(task.test_images) for task in tasks) == 12


def test_classes_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="5 classes cannot be split into tasks of 2"):
        split_into_tasks(*images_that_say_their_class(5, 3), *images_that_say_their_class(5, 2))


def test_an_absent_class_is_named():
    images, labels = images_that_say_their_class(4, 3)
    with pytest.raises(ValueError, match=r"no test images of the classes \[1, 3\]"):
        split_into_tasks(images, labels, images[labels % 2 == 0], labels[labels % 2 == 0])


def test_held_out_images_come_from_the_training_images_and_leave_them():
    images, labels = images_that_say_their_class(2, 10)
    images += torch.arange(20).reshape(-1, 1, 1) * 100.0
    task = split_into_tasks(images, labels, *images_that_say_their_class(2, 2))[0]
    chosen = hold_out(task, 0.25, torch.Generator().manual_seed(1))
    assert (len(chosen.images), len(chosen.test_images)) == (15, 5)
    together = torch.cat([chosen.images, chosen.test_images])[:, 0].sort().values
    torch.testing.assert_close(together, task.images[:, 0].sort().values)
    for x, y in ((chosen.images, chosen.labels), (chosen.test_images, chosen.test_labels)):
        torch.testing.assert_close(x[:, 0].long() % 100, y)


@pytest.mark.parametrize("fraction", [0.0, 1.0, 0.01])
def test_holding_out_all_or_nothing_is_refused(fraction):
    [task] = split_into_tasks(
        *images_that_say_their_class(2, 4), *images_that_say_their_class(2, 2)
    )
    with pytest.raises(ValueError, match="cannot hold out"):
        hold_out(task, fraction, torch.Generator())


def test_average_accuracy_is_of_the_last_row():
    assert average_accuracy(torch.tensor([[90.0, 40.0], [60.0, 100.0]])) == 80.0


def test_forgetting_is_the_mean_fall_from_the_best_since_a_task_was_learned():
    accuracies = torch.tensor(
        [
            [90.0, 99.0, 10.0],  # 99 on the second task, before it was learned, does not count
            [95.0, 80.0, 10.0],
            [50.0, 70.0, 100.0],
        ]
    )
    assert forgetting(accuracies) == pytest.approx(((95 - 50) + (80 - 70)) / 2)


def test_forgetting_is_negative_where_later_tasks_helped():
    assert forgetting(torch.tensor([[80.0, 0.0], [85.0, 90.0]])) == pytest.approx(-5)


def test_forgetting_a_single_task_is_refused():
    with pytest.raises(ValueError, match="at least two tasks"):
        forgetting(torch.ones(1, 1))


def test_a_network_that_has_diverged_has_no_accuracy():
    network = perceptron(nn.Linear, 6, 3, 2, 1)
    [task] = split_into_tasks(
        *images_that_say_their_class(2, 3), *images_that_say_their_class(2, 2)
    )
    assert 0 <= accuracy(network, task, 0) <= 100
    nn.init.constant_(network.hidden[0].bias, math.nan)
    assert math.isnan(accuracy(network, task, 0))
    accuracies = torch.tensor([[90.0, 50.0], [math.nan, math.nan]])
    assert math.isnan(average_accuracy(accuracies))
    assert math.isnan(forgetting(accuracies))


def test_heads_are_shared_or_one_for_each_task():
    shared, own = (perceptron(nn.Linear, 4, 5, 2, heads) for heads in (1, 3))
    x = torch.randn(6, 4)
    assert torch.equal(shared(x, 0), shared(x, 2))
    assert not torch.allclose(own(x, 0), own(x, 2))
    assert shared(x, 0).shape == own(x, 1).shape == (6, 2)


def contradicting_tasks():
    """Two tasks whose classes lie the other way round."""
    x = torch.randn(80, 2)
    images = torch.cat([x, x, x])
    labels = torch.cat([(x[:, 0] > 0).long(), 2 + (x[:, 0] < 0).long(), 4 + (x[:, 0] > 0).long()])
    return split_into_tasks(images, labels, images, labels)[:2]


@pytest.mark.parametrize(("num_heads", "on_the_first"), [(1, (0, 20)), (2, (90, 100))])
def test_a_contradicting_task_is_forgotten_with_one_head_and_kept_with_its_own(
    num_heads, on_the_first
):
    network = perceptron(nn.Linear, 2, 64, 2, num_heads)
    # the hidden layers are held still: what they tell of an image serves both tasks
    optimizer = torch.optim.Adam(network.heads.parameters(), lr=0.05)
    reports = []
    accuracies = learn_in_sequence(
        network,
        contradicting_tasks(),
        optimizer,
        Regularizer(network),
        epochs=30,
        batch_size=20,
        fisher_images=10,
        auxiliary_loss=no_loss,
        report=lambda place, row: reports.append((place, row)),
    )
    assert accuracies.shape == (2, 2)
    assert accuracies.diagonal().min() > 90
    low, high = on_the_first
    assert low <= accuracies[1, 0] <= high
    assert [place for place, _ in reports] == [0, 1]
    torch.testing.assert_close(torch.stack([row for _, row in reports]), accuracies)


def test_batch_statistics_are_learned_from_training_images_alone():
    modes = []

    class Spy(nn.Linear):
        def forward(self, x):
            modes.append((self.training, torch.is_grad_enabled()))
            return super().forward(x)

    images, labels = images_that_say_their_class(4, 5)
    tasks = split_into_tasks(images, labels, images, labels)
    network = TaskNetwork(nn.Identity(), [Spy(6, 2)])
    learn_in_sequence(
        network,
        tasks,
        torch.optim.SGD(network.parameters(), lr=1e-3),
        Regularizer(network),
        epochs=1,
        batch_size=10,
        fisher_images=10,
        auxiliary_loss=no_loss,
    )
    assert modes == [(True, True), *[(False, False)] * 2] * 2


def test_every_image_is_seen_once_an_epoch_and_the_layers_own_loss_is_added():
    seen, asked = [], []

    class Spy(TaskNetwork):
        def forward(self, images, task):
            if torch.is_grad_enabled():
                seen.extend((task, image.item()) for image in images[:, 0])
            return super().forward(images, task)

    def own_loss(module):
        asked.append(module)
        return module.heads[0].weight.sum()

    images, labels = images_that_say_their_class(4, 5)
    tasks = split_into_tasks(images, labels, images, labels)
    network = Spy(nn.Linear(6, 3), [nn.Linear(3, 2)])
    start = network.heads[0].weight.detach().clone()
    optimizer = torch.optim.SGD([network.heads[0].weight], lr=1e-3)
    learn_in_sequence(
        network,
        tasks,
        optimizer,
        Regularizer(network),
        epochs=2,
        batch_size=4,
        fisher_images=10,
        auxiliary_loss=own_loss,
    )
    expected = [(t, float(c)) for t in range(2) for c in (2 * t, 2 * t + 1) for _ in range(10)]
    assert sorted(seen) == sorted(expected)
    assert asked == [network] * 12
    # cross entropy's gradient sums to zero over the classes; the rest is the layer's own loss
    moved = (network.heads[0].weight.detach() - start).sum(0)
    torch.testing.assert_close(moved, torch.full((3,), -12 * 2e-3), rtol=1e-3, atol=1e-6)
