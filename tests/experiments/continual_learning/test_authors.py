"""The authors' protocol: networks, losses, penalties, and the comparison with their numbers."""

import json

import pytest
import torch
import torch.nn.functional as F

from experiments import continual
from experiments.common.layers import parameter_count
from experiments.continual_learning import authors, fisher, readings
from experiments.continual_learning.fisher import squared_gradients
from experiments.continual_learning.run import METHODS, Scale, Variant
from experiments.continual_learning.task_split import Task
from neurocoder import NeurocoderLinear
from tests.experiments.common.test_data import write_mnist

SMALL = Scale(width=6, epochs=2, batch_size=8, fisher_images=100)


def tasks(count=2, images=20):
    generator = torch.Generator().manual_seed(0)

    def draw():
        x = torch.randn(images, 9, generator=generator)
        return x, (x[:, 0] > 0).long()

    return [Task((2 * n, 2 * n + 1), *draw(), *draw()) for n in range(count)]


def network(layer, heads=1):
    arguments = {"slots": 4, "heads": 2, "key_size": 2, "least_used": 1}
    return authors.make_network(layer, SMALL, 9, 2, heads, arguments).double()


def naive_squared_gradients(model, images, task, weight):
    """Image by image, with the loss of the class that is predicted."""
    parameters = list(model.parameters())
    total = [torch.zeros_like(p) for p in parameters]
    for image in images:
        logits = model(image.unsqueeze(0), task)
        loss = F.cross_entropy(logits, logits.argmax(1)) + weight * authors.orthogonality_loss(
            model
        )
        slopes = torch.autograd.grad(loss, parameters, allow_unused=True)
        for t, slope in zip(total, slopes, strict=True):
            if slope is not None:
                t += slope**2 / len(images)
    return total


@pytest.mark.parametrize("layer", authors.LAYERS)
@pytest.mark.parametrize("counted", [True, False])
def test_importance_is_the_squared_gradient_of_each_images_loss(layer, counted, monkeypatch):
    monkeypatch.setattr(fisher, "_IMAGES_OF_REST", 8)
    monkeypatch.setattr(fisher, "_IMAGES_OF_PRODUCTS", 8)
    model, images = network(layer, 2), torch.randn(21, 9, dtype=torch.float64)
    extra = authors.orthogonality_loss if counted else None
    expected = naive_squared_gradients(model, images, 1, float(counted))
    for got, wanted in zip(squared_gradients(model, images, 1, extra), expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("slots", [1, 2, 3])
def test_a_network_with_a_row_for_each_slot_is_not_taken_for_one_with_a_row_for_each_image(slots):
    arguments = {"slots": slots, "heads": 2, "key_size": 2, "least_used": 1, "keys": "network"}
    model = authors.make_network("neurocoder", SMALL, 9, 2, 1, arguments).double()
    images = torch.randn(slots, 9, dtype=torch.float64)
    expected = naive_squared_gradients(model, images, 0, 0.0)
    for got, wanted in zip(squared_gradients(model, images, 0), expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-14)


def test_no_images_are_refused():
    with pytest.raises(ValueError, match="at least one image"):
        squared_gradients(network("linear"), torch.empty(0, 9), 0)


@pytest.mark.parametrize("method", ["l2", "ewc", "online-ewc"])
def test_penalties_are_the_coefficient_times_importance_times_squared_distance(method):
    model = network("linear")
    regularizer = authors.make_regularizer(method, "domain", model, authors.Options())
    coefficient = authors.COEFFICIENTS["domain"][method]
    expected, terms, images = 0.0, [], torch.randn(2, 5, 9, dtype=torch.float64)
    for k in range(2):
        importance = naive_squared_gradients(model, images[k], 0, 0.0)
        if method == "l2":
            importance = [torch.ones_like(p) for p in model.parameters()]
        if method == "online-ewc" and terms:
            importance = [a + b for a, b in zip(importance, terms[-1][0], strict=True)]
        regularizer.task_learned(images[k], 0)
        if method != "ewc":
            terms = []
        terms.append((importance, [p.detach().clone() for p in model.parameters()]))
        with torch.no_grad():
            for p in model.parameters():
                p.add_(0.1 * torch.randn_like(p))
        expected = sum(
            (i * (p - a) ** 2).sum()
            for importance, anchor in terms
            for i, p, a in zip(importance, model.parameters(), anchor, strict=True)
        )
        torch.testing.assert_close(regularizer.penalty(), (coefficient * expected).detach())


def test_the_path_of_si_counts_as_it_is():
    model = network("linear")
    regularizer = authors.make_regularizer("si", "task", model, authors.Options())
    assert (regularizer.strength, regularizer.factor, regularizer.damping) == (300, 1.0, 0.1)
    optimizer = torch.optim.SGD(model.parameters(), lr=5.0)
    images, labels = torch.randn(8, 9, dtype=torch.float64), torch.tensor([0, 1] * 4)
    for _ in range(4):
        regularizer.step(F.cross_entropy(model(images, 0), labels), optimizer)
    # With such steps some parameters move against their gradient's next value.
    regularizer._path = [p - 1.0 for p in regularizer._path]
    regularizer.task_learned(images, 0)
    assert any((i < 0).any() for i in regularizer.anchors[0].importance)


@pytest.mark.parametrize(
    ("method", "weights"),
    [("adam", (1, 1)), ("adagrad", (1, 1)), ("l2", (1, 2)), ("ewc", (1, 2)), ("si", (0, 1))],
)
@pytest.mark.parametrize("twice", [True, False])
def test_the_orthogonality_loss_is_weighted_as_in_the_authors_code(
    method, weights, twice, monkeypatch
):
    seen = []

    def pretend(network, tasks, optimizer, regularizer, *, auxiliary_loss, **_):  # noqa: ARG001
        losses = [auxiliary_loss(network)]
        regularizer.task_learned(tasks[0].images, 0)
        losses.append(auxiliary_loss(network))
        seen.extend((x / authors.orthogonality_loss(network)).item() for x in losses)
        return torch.ones(2, 2)

    monkeypatch.setattr(authors, "learn_in_sequence", pretend)
    options = authors.Options(layer={"slots": 6, "least_used": 1}, added_twice=twice)
    authors.run(Variant("domain", method, "neurocoder"), tasks(), SMALL, options=options)
    assert seen == pytest.approx(weights if twice else (1, 1), rel=1e-5)


def test_the_perceptron_has_biases_in_its_last_layer_alone():
    names = dict(authors.make_network("linear", authors.SCALE, 1024, 2, 1).named_parameters())
    assert [name for name in names if "bias" in name] == ["heads.0.bias"]
    assert names["hidden.2.weight"].shape == (400, 400)


def test_sizes_are_the_authors():
    def size(layer):
        return parameter_count(authors.make_network(layer, authors.SCALE, 1024, 2, 1))

    # U and V of 50 slots with keys, S likewise, three maps to queries, two to keys; three layers.
    def layer(i, o):
        return 50 * (i + 5 + o + 5 + 1 + 5) + 3 * (i * 50 + 50) + (i + 1) * 5 + (o + 1) * 5

    assert size("neurocoder") == layer(1024, 400) + layer(400, 400) + layer(400, 2)
    assert size("linear") == 1024 * 400 + 400 * 400 + 802


@pytest.mark.parametrize("scenario", ["domain", "task"])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_learns_and_repeats_with_its_seed(method, scenario):
    def once():
        torch.manual_seed(1)
        options = authors.Options(layer={"slots": 6, "least_used": 1})
        return authors.run(Variant(scenario, method, "neurocoder"), tasks(), SMALL, options=options)

    first = once()
    assert torch.equal(first["accuracies"], once()["accuracies"])
    assert first["accuracies"].shape == (2, 2)


@pytest.fixture(scope="module")
def mnist(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "mnist"
    every_digit = {"_2": torch.zeros(10, 28, 28).numpy(), "_3": torch.arange(10).numpy()}
    write_mnist(folder, count=40, **every_digit)
    return str(folder)


@pytest.mark.usefixtures("no_pictures")
def test_the_command_compares_with_the_paper_and_resumes(tmp_path, mnist, capsys):
    words = ["--quick", "--protocol", "authors", "--mnist", mnist, "--out", str(tmp_path / "x")]
    words += ["--methods", "adam", "online-ewc", "--scenarios", "domain"]
    words += ["--variants", "linear", "neurocoder"]
    continual.main(words)
    said = capsys.readouterr().out
    assert "| online EWC | 57.8 ± 1.8 | 59.6 |" in said
    assert "| 74.0 ± 1.5 | 71.8 |" in said
    assert "| +16.2 | +12.2 |" in said
    lines = (tmp_path / "x" / "results.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert sorted(record["variant"] for record in records) == [
        f"domain/{method}/{layer}"
        for method in ("adam", "online-ewc")
        for layer in ("linear", "neurocoder")
    ]
    # What is chosen to be run may grow; folders of earlier versions had it among their settings.
    settings = tmp_path / "x" / "settings.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "methods": ["adam"]}))
    continual.main([*words, "--scenarios", "domain", "task", "--methods", "adam", "--seeds", "1"])
    assert "2 of 4 are there already" in capsys.readouterr().out
    continual.main([*words, "--scenarios", "domain", "task"])
    assert "6 of 8 are there already" in capsys.readouterr().out


def test_the_protocol_needs_mnist(capsys, tmp_path):
    with pytest.raises(SystemExit) as error:
        continual.main(["--protocol", "authors", "--out", str(tmp_path / "x")])
    assert error.value.code == 2
    assert "needs --mnist" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_the_comparison_pairs_runs_by_their_seeds():
    def record(layer, seed, accuracy):
        return {"variant": f"domain/adam/{layer}", "seed": seed, "accuracy": accuracy}

    text = authors.comparison(
        [
            *(record("linear", 1, 50.0), record("linear", 2, 54.0), record("linear", 3, 90.0)),
            *(record("neurocoder", 2, 58.0), record("neurocoder", 1, 56.0)),
        ]
    )
    assert (
        "| 58.5 ± 0.5 | 57.1 | 57.0 ± 1.0 (2) | +4.9 | +3.7 | +5.0 [+4.0, +6.0] (2) | 3 |" in text
    )
    assert "Incremental task" not in text


def test_the_comparison_says_of_how_many_runs_it_is_where_networks_have_diverged():
    def records(layer, *accuracies):
        name = f"domain/adam/{layer}"
        return [
            {"variant": name, "seed": seed, "accuracy": accuracy}
            for seed, accuracy in enumerate(accuracies, 1)
        ]

    some = [*records("linear", None, 52.0, 53.0), *records("neurocoder", 61.0, None, 63.0)]
    assert "| 52.5 ± 0.5 (2) |" in authors.comparison(some)
    assert "| 62.0 ± 1.0 (2) |" in authors.comparison(some)
    assert "| +10.0 (1) | 3 |" in authors.comparison(some)
    none = [*records("linear", None), *records("neurocoder", None)]
    (row,) = [line for line in authors.comparison(none).splitlines() if "Adam" in line]
    assert row.endswith("| - | 1 |")


def test_the_readings_change_one_thing_each_and_end_at_our_layer():
    found = readings.variants()
    authors_layer = found["authors"]
    assert authors_layer == authors.Options()
    for name, change in {**readings.READINGS, **readings.OTHERS}.items():
        options = found[name]
        assert options != authors_layer
        assert options.layer == change.get("layer", {})
    *_, last = found.values()
    assert (last.orthogonality, last.added_twice, last.in_importance) == (0.1, False, False)
    layer = NeurocoderLinear.authors_single_step(9, 6, **last.layer)
    ours = NeurocoderLinear(9, 6, hidden_size=16, residual=False)
    assert layer.extra_repr() == ours.extra_repr()
    assert [p.shape for p in layer.parameters()] == [p.shape for p in ours.parameters()]


@pytest.mark.parametrize("name", readings.names())
def test_every_reading_can_be_trained(name):
    runs = object.__new__(readings.Runs)
    runs.tasks, runs.scale = tasks(2, 12), Scale(4, 1, 8, 4)
    points = []
    values = runs(name, 1, lambda *point: points.append(point))
    assert values["accuracies"].shape == (2, 2)
    assert [step for _, _, step in points] == [1, 1, 2, 2]


def test_the_figure_of_readings_has_a_row_for_each():
    results = [
        {"variant": name, "seed": seed, "accuracy": 50.0 + seed}
        for name in readings.names()
        for seed in (1, 2)
    ]
    left, right = readings.figure(results).axes
    assert [t.get_text() for t in left.get_yticklabels()][:2] == [
        "authors",
        "importance-of-images-alone",
    ]
    assert len(left.get_yticklabels()) == 1 + len(readings.READINGS) + len(readings.OTHERS)
    assert len(right.get_yticklabels()) == 1 + len(readings.READINGS)
    alone = [result for result in results if not result["variant"].startswith("to-")]
    (only,) = readings.figure(alone).axes
    assert len(only.get_yticklabels()) == len(left.get_yticklabels())


@pytest.mark.usefixtures("no_pictures")
def test_the_command_runs_the_readings_that_are_named(tmp_path, mnist, capsys):
    words = ["--quick", "--mnist", mnist, "--out", str(tmp_path / "x"), "--readings", "authors"]
    continual.main([*words, "--protocol", "authors"])
    assert "| authors |" in capsys.readouterr().out
    continual.main([*words[:-1], "mlp", "--protocol", "authors"])  # one more in the same folder
    said = capsys.readouterr().out
    assert "| authors |" in said
    assert "| mlp |" in said
    with pytest.raises(SystemExit):  # Table 1's runs are another study
        continual.main([*words[:-2], "--protocol", "authors"])
    assert "was made with readings True, not False" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        continual.main(words)
    assert "--readings needs --protocol authors" in capsys.readouterr().err


@pytest.mark.parametrize("more", [["--scenarios", "task"], ["--methods", "si"]], ids=" ".join)
def test_readings_refuse_what_they_do_not_run(more, tmp_path, mnist, capsys):
    words = ["--protocol", "authors", "--mnist", mnist, "--out", str(tmp_path / "x"), *more]
    with pytest.raises(SystemExit):
        continual.main([*words, "--readings"])
    assert f"{more[0]} cannot be combined with --readings" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
