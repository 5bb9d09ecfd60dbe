"""The CIFAR experiment: its networks, its training pictures, and a quick run."""

import json

import pytest
import torch

from experiments import cifar
from experiments.common.layers import parameter_count
from experiments.recognition.models import LAST_LAYERS
from experiments.recognition.training import augmented
from tests.experiments.common.test_cifar import write_cifar


@pytest.mark.parametrize("last", LAST_LAYERS)
@pytest.mark.parametrize("network", ["lenet", "resnet8"])
@pytest.mark.parametrize("classes", [10, 100])
def test_every_network_has_every_last_layer(network, last, classes):
    model = cifar.make_network(network, last, classes)
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, classes)


def test_a_residual_network_of_20_layers_has_the_papers_size():
    model = cifar.make_network("resnet20", "linear", 10)
    # He et al. print 0.27 million for 6 n + 2 = 20 layers.
    assert parameter_count(model) == 269_722
    convolutions = [m for m in model.modules() if isinstance(m, torch.nn.Conv2d)]
    assert len(convolutions) == 19


def test_a_block_passes_its_input_on():
    model = cifar.make_network("resnet8", "linear", 10).eval()
    block = model.features[2]
    with torch.no_grad():
        for p in block.convolutions.parameters():
            p.zero_()
    x = torch.rand(2, 16, 8, 8)
    torch.testing.assert_close(block(x), x)
    wider = model.features[3]
    with torch.no_grad():
        for p in wider.convolutions.parameters():
            p.zero_()
    y = wider(x)
    torch.testing.assert_close(y[:, :16], x[:, :, ::2, ::2])
    assert not y[:, 16:].any()


def test_augmented_pictures_are_mirrored_and_moved_each_in_its_own_way():
    picture = torch.zeros(1, 3, 32, 32)
    picture[0, :, 10, 20] = torch.tensor([1.0, 2.0, 3.0])
    seen = augmented(picture.expand(400, -1, -1, -1))
    assert seen.shape == (400, 3, 32, 32)
    _, row, column = seen[:, 0].nonzero().T
    assert set(row.tolist()) == set(range(6, 15))
    assert set(column.tolist()) == set(range(16, 25)) | set(range(7, 16))
    torch.testing.assert_close(seen.sum((2, 3)), torch.tensor([[1.0, 2.0, 3.0]] * 400))


@pytest.mark.usefixtures("no_pictures")
def test_a_quick_run_leaves_a_table(tmp_path, capsys):
    write_cifar(tmp_path / "data")
    words = ["--quick", "--cifar", str(tmp_path / "data"), "--out", str(tmp_path / "x")]
    cifar.main([*words, "--variants", "linear", "authors-single-step", "--networks", "lenet"])
    said = capsys.readouterr().out
    assert "| lenet/authors-single-step |" in said
    assert "Data: CIFAR-10." in said
    first, _ = (tmp_path / "x" / "results.jsonl").read_text().splitlines()
    assert json.loads(first)["last_layer"] == 850


def test_a_folder_that_holds_no_cifar_is_refused_in_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit) as error:
        cifar.main(["--cifar", str(tmp_path), "--out", str(tmp_path / "x")])
    assert error.value.code == 2
    assert "has no files of CIFAR; CIFAR-10's files are" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
