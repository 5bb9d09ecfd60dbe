"""The polynomial experiment: its models, its numbers, and a whole run in seconds."""

import argparse
import json
import math

import pytest
import torch

from experiments import polynomials
from experiments.auto_regression.auto_regressor import SLOTS, VARIANTS, make_model
from experiments.auto_regression.chunks import draw_sequences
from experiments.common.layers import parameter_count
from neurocoder import NeurocoderLinear


def some_sequences(number=8, length=40):
    return draw_sequences(number, length, torch.Generator().manual_seed(0))


@pytest.mark.parametrize("variant", VARIANTS)
def test_predictions_depend_on_earlier_points_alone(variant):
    model = make_model(variant, 8)
    y = some_sequences(2, 12).y
    other = y.clone()
    other[:, 7] += 1
    same = torch.isclose(model(y), model(other)).all(dim=0)
    assert same.tolist() == [True] * 7 + [False] * 5


def test_neurocoders_have_the_papers_slots_and_steps():
    layers = {name: make_model(name, 8).output_layer for name in SLOTS}
    assert all(isinstance(layer, NeurocoderLinear) for layer in layers.values())
    sizes = {
        name: (len(layer.memory.u), layer.composition_network.steps, layer.usage_attention)
        for name, layer in layers.items()
    }
    assert sizes == {
        "neurocoder": (20, 5, True),
        "neurocoder-no-usage": (20, 5, False),
        "neurocoder-single-step": (10, 1, True),
    }


def test_the_matched_variants_have_the_neurocoders_number_of_parameters():
    wanted = parameter_count(make_model("neurocoder", 32))
    for name in ("linear-wide", "mlp"):
        assert 0.97 * wanted < parameter_count(make_model(name, 32)) <= wanted


def test_only_neurocoders_attend():
    y = some_sequences(2, 12).y
    assert make_model("film", 8).attention(y) is None
    model = make_model("neurocoder", 8)
    assert model.attention(y).shape == (2, 12, 10, 20)
    expected = model.output_layer.compose(model.states(y)).u_attention
    torch.testing.assert_close(model.attention(y), expected)


def test_the_condition_is_all_that_a_layer_needs_beside_the_state():
    y = some_sequences(2, 12).y
    hypernet, film, mlp = (make_model(name, 8) for name in ("hypernet", "film", "mlp"))
    layer = hypernet.output_layer
    program = torch.einsum("nte,ieo->ntio", hypernet.condition(y), layer.generator)
    output = torch.einsum("nti,ntio->nto", hypernet.states(y), program) + layer.bias
    torch.testing.assert_close(output.squeeze(-1), hypernet(y))

    gamma, beta = film.condition(y).unbind(-1)
    shared = film.output_layer.shared(film.states(y)).squeeze(-1)
    torch.testing.assert_close(gamma * shared + beta, film(y))

    torch.testing.assert_close(mlp.output_layer[-1](mlp.condition(y)).squeeze(-1), mlp(y))
    assert (mlp.condition(y) >= 0).all()
    assert make_model("linear", 8).condition(y) is None
    assert make_model("neurocoder", 8).condition(y) is None


def test_a_model_that_changes_its_state_where_chunks_begin_is_judged_to_find_them_all():
    test = some_sequences()

    class Knowing(torch.nn.Module):
        def states(self, _):
            return test.starts.cumsum(1).unsqueeze(-1).float()

        def attention(self, _):
            slot = test.starts.cumsum(1) % 3
            first = 0.5 * torch.nn.functional.one_hot(slot, 3)
            return torch.stack([first, torch.ones_like(first)], dim=2)  # the second stands still

        def condition(self, y):
            return 2 * self.states(y)

    results = polynomials.judge(Knowing(), test)
    for name, moved in (("state", 1.0), ("condition", 2.0), ("first", 1.0), ("all", 0.5)):
        for measure in ("auc", "precision", "quiet_auc", "explained"):
            assert results[f"{name}_{measure}"] == pytest.approx(1.0)
        assert results[f"{name}_at_boundaries"] == pytest.approx(moved)
        assert results[f"{name}_elsewhere"] == 0
        assert results[f"{name}_explained_by_others"] < 0.9
        around = results[f"{name}_around"].tolist()
        assert around.index(max(around)) == polynomials.BEFORE


def test_catching_up_is_timed_between_the_points_of_a_curve():
    updates, errors = [0.0, 10.0, 20.0, 30.0], [1.0, 0.6, 0.2, 0.4]
    assert polynomials.catches_up(updates, errors, 0.5) == pytest.approx(12.5)
    assert polynomials.catches_up(updates, errors, 1.0) == 0.0
    assert polynomials.catches_up(updates, errors, 0.2) == 20.0
    assert polynomials.catches_up(updates, errors, 0.1) == 30.0


def test_catching_up_is_with_the_plain_gru_of_the_same_seed():
    def curve(variant, seed, *errors):
        updates = [10.0 * i for i in range(len(errors))]
        return {
            "variant": variant,
            "seed": seed,
            "updates": updates,
            "errors": list(errors),
            "error": errors[-1],
        }

    results = [
        curve("linear", 1, 0.9, 0.8, 0.6),
        curve("film", 1, 0.9, 0.6, 0.3),
        curve("film", 2, 0.9, 0.6, 0.3),
        curve("linear", 2, 0.9, 0.8, 0.3),
        curve("film", 3, 0.9, 0.6, 0.3),
    ]
    polynomials.time_catching_up(results)
    assert [r.get("catches_up") for r in results] == [20.0, 10.0, 20.0, 20.0, None]
    results = [
        curve("linear", 1, 0.9, None),
        curve("linear", 2, 0.9, 0.5),
        curve("mlp", 2, 1, None),
    ]
    polynomials.time_catching_up(results)
    assert [r.get("catches_up") for r in results] == [None, 10.0, 10.0]


def test_a_quick_run_leaves_results_tables_and_figures_and_goes_on(tmp_path, capsys, monkeypatch):
    out = tmp_path / "x"
    polynomials.main(["--quick", "--out", str(out)])
    records = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert [r["variant"] for r in records] == list(VARIANTS)
    for record in records:
        assert math.isfinite(record["error"])
        assert record["updates"] == [0, 1, 2, 3, 4]
        assert record["errors"][-1] == record["error"]
        assert ("first_auc" in record) == (record["variant"] in SLOTS)
        assert 0 <= record["state_fresh_auc"] <= 1
    assert len({record["errors"][0] for record in records}) == len(records)
    for name in ("results", "state", "condition", "first", "all"):
        assert (out / f"{name}.md").stat().st_size > 0
        assert (out / f"{name}.csv").stat().st_size > 0
    for name in ("curves", "around", "attention"):
        assert 1000 < (out / f"{name}.png").stat().st_size < 150_000
    assert "ideal observer" in capsys.readouterr().out
    before = (out / "results.jsonl").read_text()
    monkeypatch.setattr(polynomials, "report", lambda *_: None)  # draws the same figures again
    polynomials.main(["--quick", "--out", str(out)])
    assert (out / "results.jsonl").read_text() == before


@pytest.mark.usefixtures("no_pictures")
def test_variants_without_attention_run_alone(tmp_path):
    out = tmp_path / "x"
    polynomials.main(["--quick", "--variants", "film", "--out", str(out)])
    assert (out / "condition.md").exists()
    for name in ("attention.png", "first.md", "all.md"):
        assert not (out / name).exists()
    assert "plain GRU's last error | parameters" in (out / "results.md").read_text()


@pytest.mark.usefixtures("no_pictures")
def test_a_model_that_has_diverged_has_no_error_and_is_not_drawn(tmp_path, capsys):
    words = ["--quick", "--learning-rate", "1e30", "--variants", "linear", "neurocoder"]
    polynomials.main([*words, "--out", str(tmp_path / "x")])
    assert "| linear | - | - | - | 3,393 |" in capsys.readouterr().out


@pytest.mark.parametrize("flags", [["--learning-rate", "nan"], ["--updates", "0"]])
def test_bad_flags_are_refused_in_one_line(flags, capsys):
    with pytest.raises(SystemExit) as refused:
        polynomials.main(flags)
    assert refused.value.code == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert flags[0] in message


def test_training_moves_every_parameter_and_predicts_better_than_repeating_the_last_point():
    args = argparse.Namespace(
        updates=80, batch=8, length=32, learning_rate=0.04, orthogonality=0.001
    )
    test = some_sequences(64, 32)
    torch.manual_seed(0)
    model = make_model("neurocoder", 16)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    points = []
    curve = polynomials.train(model, args, 1, test, lambda *point: points.append(point))
    assert not [name for name, p in model.named_parameters() if torch.equal(p, before[name])]
    repeating = (test.y[:, 1:] - test.y[:, :-1]).square().mean()
    assert curve["errors"][-1] < 0.95 * repeating < 0.4 * curve["errors"][0]
    assert ("loss/test", curve["errors"][-1], 80) in points
