"""Split CIFAR: its tasks, its network, and a quick run that is resumed with more."""

import json

import pytest
import torch
from torch import nn

from experiments import split_cifar as split_cifar_command
from experiments.common.cifar import load_cifar
from experiments.continual_learning import split_cifar
from experiments.continual_learning.split_cifar import LAST_LAYERS, Scale
from experiments.continual_learning.task_split import Task
from tests.experiments.common.test_cifar import write_cifar


@pytest.mark.parametrize(("classes", "tasks", "each"), [(10, 5, 2), (100, 20, 5)])
def test_the_tasks_are_the_papers(tmp_path, classes, tasks, each):
    write_cifar(tmp_path, classes, count=classes)
    split = split_cifar.load_tasks(load_cifar(tmp_path))
    assert len(split) == tasks
    assert all(len(task.classes) == each for task in split)
    assert split[0].images.shape[1] == 3 * 32 * 32


@pytest.mark.parametrize("last", LAST_LAYERS)
def test_pictures_reach_the_convolutions_as_they_were(last):
    network = split_cifar.make_network(last, 2, 3, blocks=1).eval()
    pictures = torch.rand(4, 3, 32, 32)
    seen = []
    first = next(m for m in network.modules() if isinstance(m, nn.Conv2d))
    first.register_forward_hook(lambda _module, inputs, _output: seen.append(inputs[0]))
    logits = [network(pictures.flatten(1), task) for task in range(3)]
    assert torch.equal(seen[0], pictures)
    assert logits[0].shape == (4, 2)
    assert not torch.equal(logits[0], logits[1])  # each task has its own last layer


def coloured(mean, count=32):
    """A task whose two classes are dark and bright in one colour."""
    labels = torch.arange(count) % 2
    images = torch.randn(count, 3, 32, 32) * 0.1
    images[:, mean] += labels[:, None, None] * 2.0 - 1.0
    images = images.flatten(1)
    return Task((0, 1), images, labels, images, labels)


def test_si_holds_what_was_learned_and_its_strength_counts():
    # What is bright in the second task is dark in the first, so that one layer cannot have both.
    first, second = coloured(0), coloured(0)
    second = Task((0, 1), second.images, 1 - second.labels, second.test_images, 1 - second.labels)
    scale = Scale(epochs=8, batch_size=8)
    kept = {}
    for method in ("adam", "si-0.001", "si-1000000"):
        torch.manual_seed(0)
        found = split_cifar.run(f"domain/{method}/linear", [first, second], scale)
        kept[method] = found["accuracies"][1, 0].item()
        assert found["accuracies"][0, 0] == 100
    assert kept["adam"] < 20
    assert kept["si-0.001"] < 20
    assert kept["si-1000000"] > 80


@pytest.mark.usefixtures("no_pictures")
def test_a_quick_run_leaves_a_table_and_goes_on_with_more(tmp_path, capsys):
    write_cifar(tmp_path / "data", count=20)
    words = ["--quick", "--cifar", str(tmp_path / "data"), "--out", str(tmp_path / "x")]
    words += ["--variants", "linear", "authors-single-step"]
    split_cifar_command.main([*words, "--scenarios", "domain", "--strengths"])
    assert "| domain/adam/authors-single-step |" in capsys.readouterr().out
    words.remove("linear")
    split_cifar_command.main([*words, "--scenarios", "task", "--strengths", "10"])
    assert "| task/si-10/authors-single-step |" in capsys.readouterr().out
    lines = (tmp_path / "x" / "results.jsonl").read_text().splitlines()
    assert len({json.loads(line)["variant"] for line in lines}) == len(lines) == 4


@pytest.mark.parametrize(
    ("kept", "message"), [(9, "CIFAR-10: the pictures are of 9 classes"), ([*range(8), 9], "[8]")]
)
def test_pictures_without_a_class_are_refused_before_anything_is_written(
    tmp_path, capsys, kept, message
):
    labels = range(kept) if isinstance(kept, int) else kept
    record = b"".join(bytes([label]) + bytes(3 * 32 * 32) for label in labels)
    names = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
    write_cifar(tmp_path / "data", **dict.fromkeys(names, record))
    with pytest.raises(SystemExit) as error:
        split_cifar_command.main(["--cifar", str(tmp_path / "data"), "--out", str(tmp_path / "x")])
    assert error.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_a_strength_that_is_none_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        split_cifar_command.main(["--cifar", str(tmp_path), "--strengths", "0"])
    assert "'0' is not a number above 0" in capsys.readouterr().err
