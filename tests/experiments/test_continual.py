"""The continual learning experiment as a command, its settings, and what it draws."""

import json

import numpy as np
import pytest
import torch

from experiments import continual, continual_choice
from experiments.common.layers import make_layer, parameter_count
from experiments.continual_learning import authors, readings
from experiments.continual_learning.choices import CHOICES
from experiments.continual_learning.results import accuracy_figure, first_task_figure, paper_tables
from experiments.continual_learning.run import (
    LAYERS,
    METHODS,
    QUICK,
    SCALE,
    SCENARIOS,
    Choice,
    Scale,
    Variant,
    load_tasks,
    run,
)
from experiments.continual_learning.task_sequence import perceptron
from tests.experiments.common.test_data import write_mnist


def everyone():
    return [Variant(s, m, layer) for s in SCENARIOS for m in METHODS for layer in LAYERS]


def made_up(variant, seed, accuracy):
    rows = [[90.0 - 5 * max(0, row - j) for j in range(5)] for row in range(5)]
    return {
        "variant": variant,
        "seed": seed,
        "seconds": 1.0,
        "accuracy": accuracy,
        "accuracies": rows,
    }


def test_quick_runs_every_variant_and_writes_table_and_figures(tmp_path, capsys, request):
    folder = tmp_path / "study"
    words = ["--quick", "--out", str(folder), "--methods", "adagrad", "online-ewc"]
    continual.main(words)
    assert "selected on" not in capsys.readouterr().out
    lines = (folder / "results.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    expected = [str(c) for c in everyone() if c.method in words]
    assert sorted(r["variant"] for r in records) == sorted(expected)
    for record in records:
        matrix = torch.tensor(record["accuracies"])
        assert matrix.shape == (5, 5)
        assert record["accuracy"] == pytest.approx(matrix[-1].mean().item(), abs=1e-4)
    assert "| online EWC |" in (folder / "results.md").read_text()
    assert (folder / "accuracy.png").stat().st_size > 5000
    assert (folder / "first_task.png").stat().st_size > 5000
    assert "Incremental task: one for each task" in (folder / "results.md").read_text()
    request.getfixturevalue("no_pictures")
    continual.main(words)
    assert "12 of 12 are there already" in capsys.readouterr().out
    assert (folder / "results.jsonl").read_text().splitlines() == lines


@pytest.mark.usefixtures("no_pictures")
def test_everyone_runs_with_the_choice_and_at_the_scale_that_are_its_own(tmp_path, monkeypatch):
    seen = []

    def pretend(variant, tasks, scale, choice, report):  # noqa: ARG001
        seen.append((variant, choice, scale))
        return {**made_up(str(variant), 1, 50.0), "forgetting": 0.0, "learned": 0.0}

    monkeypatch.setattr(continual, "run", pretend)
    continual.main(["--seeds", "1", "--epochs", "3", "--out", str(tmp_path / "x")])
    assert [who for who, *_ in seen] == everyone()
    for who, choice, scale in seen:
        assert choice == CHOICES[f"{who.method}/{who.layer}"]
        assert (scale.width, scale.epochs) == (SCALE.width, 3)


@pytest.mark.usefixtures("no_pictures")
def test_other_settings_than_those_of_the_folder_are_refused(tmp_path, capsys):
    words = ["--quick", "--out", str(tmp_path), "--variants", "linear", "--methods", "adam"]
    continual.main(words)
    with pytest.raises(SystemExit) as error:
        continual.main([*words, "--epochs", "2"])
    assert error.value.code == 2
    assert "epochs" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words", [["--methods", "sgd"], ["--scenarios", "class"], ["--width", "0"]]
)
def test_a_flag_that_cannot_be_used_is_refused_in_one_line(words, capsys):
    with pytest.raises(SystemExit) as error:
        continual.main(words)
    assert error.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_every_variant_has_a_choice_from_the_grids_and_adam_alone_has_no_strength():
    assert set(CHOICES) == {f"{c.method}/{c.layer}" for c in everyone()}
    for name, choice in CHOICES.items():
        method, layer = name.split("/")
        kind = "adagrad" if method == "adagrad" else "adam"
        assert choice.learning_rate in continual_choice.LEARNING_RATES[kind]
        assert choice.strength in continual_choice.STRENGTHS.get(method, (0.0,))
        if kind == "adam":  # the regularizers were tried with the learning rate of Adam alone
            assert choice.learning_rate == CHOICES[f"adam/{layer}"].learning_rate


def test_the_same_seed_gives_the_same_accuracies_and_another_does_not():
    tasks, choice = load_tasks(None), Choice(1e-2, 1.0)
    outcomes = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        outcomes.append(run(Variant("task", "ewc", "nsm"), tasks, QUICK, choice)["accuracies"])
    assert torch.equal(outcomes[0], outcomes[1])
    assert not torch.equal(outcomes[0], outcomes[2])


def test_a_perceptron_learns_each_pair_of_digits_and_forgets_less_with_heads_of_their_own():
    tasks, scale, values = load_tasks(None), Scale(64, 8, 64, 10), {}
    for scenario in SCENARIOS:
        torch.manual_seed(1)
        values[scenario] = run(Variant(scenario, "adam", "linear"), tasks, scale, Choice(3e-3))
        assert values[scenario]["learned"] > 90
    assert values["task"]["accuracy"] > values["domain"]["accuracy"] + 2
    assert values["task"]["forgetting"] < values["domain"]["forgetting"]


def test_the_tasks_are_pairs_of_neighbouring_digits():
    tasks = load_tasks(None)
    assert [task.classes for task in tasks] == [(0, 1), (2, 3), (4, 5), (6, 7), (8, 9)]
    assert sum(len(task.images) + len(task.test_images) for task in tasks) == 1797


def test_neurocoder_and_perceptron_are_of_about_one_size():
    def size(layer):
        def make(i, o):
            return make_layer(layer, i, o, **LAYERS[layer])

        return parameter_count(perceptron(make, 64, 256, 2, 1))

    assert size("neurocoder") < 1.5 * size("linear")


def test_the_paper_tables_give_means_intervals_and_the_lead_seed_by_seed():
    results = [
        made_up("domain/si/linear", 1, 50.0),
        made_up("domain/si/linear", 2, 60.0),
        made_up("domain/si/neurocoder", 2, 70.0),
        made_up("domain/si/neurocoder", 1, 62.0),
        made_up("task/adam/linear", 1, 90.0),
    ]
    text = paper_tables(results)
    assert "| method | MLP | Neurocoder | Neurocoder - MLP |" in text
    assert "| SI | 55.0 [50.0, 60.0] | 66.0 [62.0, 70.0] | 11.0 [10.0, 12.0] |" in text
    assert "| Adam | 90.0 | - | - |" in text


def test_the_figures_show_what_was_given():
    results = [
        made_up(f"domain/{method}/{layer}", seed, 50.0 + 10 * seed)
        for method in ("adam", "ewc")
        for layer in LAYERS
        for seed in (1, 2)
    ]
    [axes] = accuracy_figure(results).axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["Adam", "EWC"]
    assert [t.get_text() for t in axes.get_legend().get_texts()] == ["MLP", "NSM", "Neurocoder"]
    panels = first_task_figure(results).axes
    assert len(panels) == 2
    [line] = [x for x in panels[0].get_lines() if x.get_label() == "NSM"]
    assert list(line.get_ydata()) == [90.0, 85.0, 80.0, 75.0, 70.0]


def diverged(name, seed):
    return {**made_up(name, seed, None), "accuracies": [[90.0] * 5, *[[None] * 5] * 4]}


def test_networks_that_have_diverged_are_in_no_mean_and_not_drawn():
    linear, ours = "domain/adam/linear", "domain/adam/neurocoder"
    results = [made_up(linear, seed, 50.0 + seed) for seed in (1, 2, 3)]
    results += [diverged(ours, 1), made_up(ours, 2, 60.0), made_up(ours, 3, 64.0)]
    text = paper_tables(results)
    assert "| 62.0 [60.0, 64.0] (2 of 3) | 9.5 [8.0, 11.0] (2 of 3) |" in text
    assert "| 62.0 ± 2.0 (2) |" in authors.comparison(results)
    for draw in (accuracy_figure, first_task_figure):
        for shown in (results, [diverged(linear, 1)]):
            [axes] = draw(shown).axes
            drawn = [line.get_ydata(orig=False) for line in axes.get_lines()]
            assert all(np.isfinite(heights).all() for heights in drawn)
    by_reading = [made_up(readings.MLP, 1, 57.0), diverged("authors", 1)]
    [axes] = readings.figure([*by_reading, made_up("authors", 2, 70.0)]).axes
    assert axes.get_lines()[0].get_xdata().tolist() == [70.0]
    assert readings.figure([diverged("authors", 1)]).axes


def test_a_network_that_diverges_looks_like_no_other(tmp_path, monkeypatch, capsys):
    choices = dict.fromkeys(CHOICES, Choice(1e30, 1.0))
    monkeypatch.setattr(continual, "CHOICES", choices)
    words = ["--quick", "--variants", "linear", "--methods", "ewc", "--scenarios", "domain"]
    continual.main([*words, "--out", str(tmp_path / "x")])
    assert "| domain/ewc/linear | - | - | - |" in capsys.readouterr().out


def test_settings_that_diverge_with_any_seed_are_not_chosen():
    who = Variant("domain", "adam", "linear")
    tries = {"fast": (who, Choice(1.0)), "slow": (who, Choice(0.1))}
    results = [
        {"variant": "fast", "seed": 1, "accuracy": 90.0},
        {"variant": "fast", "seed": 2, "accuracy": None},
        {"variant": "slow", "seed": 1, "accuracy": 40.0},
    ]
    assert continual_choice.best(who, results, tries) == Choice(0.1)


def test_choosing_tries_all_settings_and_takes_the_best(tmp_path, capsys, monkeypatch):
    asked = []

    def pretend(variant, tasks, scale, choice):  # noqa: ARG001
        asked.append((str(variant), choice, len(tasks[0].test_images)))
        assert torch.initial_seed() > 1000  # the report's are 1, 2, ...
        best = {"adagrad": 1e-2}.get(variant.method, 3e-3)
        near = -abs(choice.learning_rate - best) - abs(choice.strength - 100) / 1000
        return {"accuracy": near, "forgetting": 0.0, "learned": 0.0}

    monkeypatch.setattr(continual_choice, "run", pretend)
    continual_choice.main(["--quick", "--variants", "linear", "--out", str(tmp_path / "c")])
    assert len(asked) == 5 + 5 + 4 * 6
    assert {choice.learning_rate for name, choice, _ in asked if "ewc" in name} == {3e-3}
    assert {size for *_, size in asked} == {round(0.2 * len(load_tasks(None)[0].images))}
    out = capsys.readouterr().out
    assert '"adagrad/linear": Choice(0.01, 0),' in out
    assert '"online-ewc/linear": Choice(0.003, 100),' in out


def test_data_that_lack_a_digit_are_refused_in_one_line(tmp_path, capsys):
    write_mnist(tmp_path / "mnist", count=40)
    with pytest.raises(SystemExit) as error:
        continual.main(["--mnist", str(tmp_path / "mnist"), "--out", str(tmp_path / "out")])
    assert error.value.code == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "no test images of the classes [1, 2, 4, 5, 6, 7, 8]" in message
