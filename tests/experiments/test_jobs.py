"""What the experiments hand to the processes that `--jobs` starts."""

import pickle

import pytest
import torch

from experiments import (
    algorithms,
    cifar,
    continual,
    continual_choice,
    digits,
    polynomials,
    split_cifar,
)
from experiments.common.study import Study
from tests.experiments.common.test_cifar import write_cifar
from tests.experiments.common.test_data import write_mnist


class HandedOverError(Exception):
    """Raised with what a study was to run, instead of running it."""


@pytest.mark.parametrize(
    "experiment",
    [algorithms, cifar, continual, continual_choice, digits, polynomials, split_cifar],
)
def test_what_a_process_makes_can_be_sent_to_it_and_has_all_it_needs(
    experiment, tmp_path, monkeypatch
):
    words = ["--quick", "--jobs", "3", "--out", str(tmp_path / "x")]
    if experiment in (cifar, split_cifar):
        write_cifar(tmp_path / "data")
        words += ["--cifar", str(tmp_path / "data")]
    assert_can_be_handed_over(experiment, words, monkeypatch)


def test_so_can_what_a_process_makes_by_the_protocol_of_the_authors(tmp_path, monkeypatch):
    every_digit = {"_2": torch.zeros(10, 28, 28).numpy(), "_3": torch.arange(10).numpy()}
    write_mnist(tmp_path / "mnist", count=40, **every_digit)
    words = ["--quick", "--jobs", "3", "--out", str(tmp_path / "x")]
    words += ["--protocol", "authors", "--mnist", str(tmp_path / "mnist")]
    assert_can_be_handed_over(continual, words, monkeypatch)


def assert_can_be_handed_over(experiment, words, monkeypatch):
    def hand_over(study, make_function, variants=None):
        raise HandedOverError(make_function, study.processes, variants or study.variants)

    monkeypatch.setattr(Study, "run", hand_over)
    with pytest.raises(HandedOverError) as handed_over:
        experiment.main(words)
    make_function, processes, variants = handed_over.value.args
    assert processes == 3
    values = pickle.loads(pickle.dumps(make_function))()(variants[0], 1, lambda *_: None)
    assert values["parameters"] > 0
