"""`--mnist DIR` of the commands that read it: what runs, and how other folders are refused."""

import json

import numpy as np
import pytest

from experiments import continual, digits
from experiments.common.data import MNIST_FILES
from tests.experiments.common.test_data import idx, write_mnist

EXPERIMENTS = pytest.mark.parametrize("experiment", [digits, continual])


def refused(experiment, folder, out, capsys):
    """The one line with which a folder is refused, before anything is written."""
    with pytest.raises(SystemExit) as error:
        experiment.main(["--mnist", str(folder), "--out", str(out)])
    assert error.value.code == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert not out.exists()
    return message


@EXPERIMENTS
@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("compressed", [False, True])
def test_mnists_own_files_are_learned_from(experiment, compressed, tmp_path, capsys):
    every_digit = {"_2": np.zeros((10, 28, 28)), "_3": np.arange(10)}
    write_mnist(tmp_path / "mnist", count=40, compressed=compressed, **every_digit)
    out = tmp_path / "out"
    words = ["--quick", "--mnist", str(tmp_path / "mnist"), "--variants", "linear"]
    words += ["--methods", "ewc"] if experiment is continual else []
    experiment.main([*words, "--out", str(out)])
    results = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert results
    said = capsys.readouterr().out
    assert "linear" in said
    assert "selected on scikit-learn's digits" in said.splitlines()[0]
    assert "selected on scikit-learn's digits" in (out / "results.md").read_text()
    if experiment is digits:  # from 28 x 28 pixels to ten classes
        assert results[0]["parameters"] == 785 * 10


@EXPERIMENTS
def test_a_folder_that_is_not_there_or_empty_is_refused_with_the_files_that_belong_into_it(
    experiment, tmp_path, capsys
):
    said = refused(experiment, tmp_path / "nowhere", tmp_path / "out", capsys)
    assert "nowhere is not a folder" in said
    assert all(name in said for name in MNIST_FILES)
    (tmp_path / "empty").mkdir()
    said = refused(experiment, tmp_path / "empty", tmp_path / "out", capsys)
    assert all(f"no {name}" in said for name in MNIST_FILES)


@EXPERIMENTS
@pytest.mark.parametrize(
    ("other", "expected"),
    [
        ({"_0": b"<html>not found</html>"}, "is not an IDX file of bytes"),
        ({"_2": idx(np.zeros((3, 28, 28)))[:-5]}, "3 x 28 x 28 bytes should follow the header"),
        ({"_1": np.zeros(6)}, "has 7 pictures and train-labels-idx1-ubyte 6 labels"),
    ],
)
def test_a_damaged_file_is_named(experiment, other, expected, tmp_path, capsys):
    write_mnist(tmp_path / "mnist", **other)
    said = refused(experiment, tmp_path / "mnist", tmp_path / "out", capsys)
    assert expected in said
    (number,) = (int(key[1:]) for key in other)
    assert MNIST_FILES[number] in said


@EXPERIMENTS
def test_a_missing_file_is_named_among_those_that_are_expected(experiment, tmp_path, capsys):
    write_mnist(tmp_path / "mnist")
    (tmp_path / "mnist" / MNIST_FILES[3]).unlink()
    said = refused(experiment, tmp_path / "mnist", tmp_path / "out", capsys)
    assert f"has no {MNIST_FILES[3]}; MNIST's files are {MNIST_FILES[0]}" in said
