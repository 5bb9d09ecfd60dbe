"""The digits experiment: its models, its figures of attention, and a quick run of all of it."""

import json

import pytest
import torch
from torch import nn

from experiments import digits
from experiments.common.data import load_images
from experiments.common.layers import parameter_count
from experiments.recognition.models import (
    AUTHORS_MULTI_STEP,
    AUTHORS_SINGLE_STEP,
    LENETS,
    MULTI_STEP,
    SINGLE_STEP,
    VARIANTS,
    WITH_RESIDUAL,
    WITHOUT_RESIDUAL,
    LeNet,
    make_model,
    orthogonality_of,
)
from neurocoder import NeurocoderLinear


@pytest.mark.parametrize("side", [8, 28])
@pytest.mark.parametrize("variant", VARIANTS)
def test_all_variants_but_the_plain_linear_layer_are_about_as_large(variant, side):
    model = make_model(variant, side)
    assert model(torch.zeros(2, 1, side, side)).shape == (2, 10)
    prefix = "lenet-" if variant in LENETS else ""
    reference = parameter_count(make_model(prefix + MULTI_STEP, side))
    if "authors" in variant:
        return  # their sizes are not matched
    if variant in ("linear", "lenet-linear"):
        assert parameter_count(model) < 0.9 * reference
    else:
        assert abs(parameter_count(model) / reference - 1) < 0.06


def test_the_number_of_steps_does_not_change_the_size_and_only_the_residual_program_is_left_out():
    for names, residual in ((WITH_RESIDUAL, True), (WITHOUT_RESIDUAL, False)):
        models = [make_model(name, 8) for name in names]
        assert len({parameter_count(model) for model in models}) == 1
        layers = [model[1] for model in models]
        assert all(isinstance(layer, NeurocoderLinear) for layer in layers)
        assert [layer.composition_network.steps for layer in layers] == [1, 2, 3, 5, 10]
        assert all((layer.residual is not None) == residual for layer in layers)
        assert all(layer.composition_network.heads == 1 for layer in layers)


def test_the_deep_linear_classifier_is_linear_and_the_mlp_is_not():
    x, y = torch.randn(2, 5, 1, 8, 8).double()
    for name, linear in (("linear", True), ("linear-deep", True), ("mlp", False)):
        model = make_model(name, 8).double()
        curved = model(x) + model(y) - model(x + y) - model(torch.zeros_like(x))
        assert (curved.abs().max() < 1e-9) == linear


def test_single_and_multi_step_retrieve_as_many_components_from_thirty_and_ten_slots():
    x = torch.randn(2, 64)
    single, multi = (make_model(name, 8)[1].compose(x) for name in (SINGLE_STEP, MULTI_STEP))
    assert single.u_attention.shape == (2, 5, 30)
    assert multi.u_attention.shape == (2, 5, 10)


def test_the_authors_layers_have_the_slots_of_fig_2_and_their_own_readings_and_weight():
    x = torch.randn(2, 64)
    single, multi = (make_model(name, 8)[1] for name in (AUTHORS_SINGLE_STEP, AUTHORS_MULTI_STEP))
    assert single.compose(x).u_attention.shape == (2, 5, 30)
    assert multi.compose(x).u_attention.shape == (2, 5, 10)
    assert (single.sharpness, multi.sharpness) == (1 / 5, 10 / 5)
    assert make_model(f"lenet-{AUTHORS_SINGLE_STEP}", 8, 3.0).last.sharpness == 1 / 5
    assert (
        orthogonality_of(AUTHORS_SINGLE_STEP) == orthogonality_of("lenet-authors-multi-step") == 1
    )
    assert orthogonality_of(SINGLE_STEP) == orthogonality_of("lenet-mlp") == 0.1


@pytest.mark.parametrize("variant", [SINGLE_STEP, MULTI_STEP, f"lenet-{SINGLE_STEP}"])
def test_sharpness_reaches_the_neurocoder(variant):
    layers = [m for m in make_model(variant, 8, 3.0).modules() if isinstance(m, NeurocoderLinear)]
    assert [layer.sharpness for layer in layers] == [3.0]


def test_a_lenet_of_mnists_size_is_lecuns():
    net = LeNet(28, "linear")
    convolutions = [m for m in net.modules() if isinstance(m, nn.Conv2d)]
    linear = [m for m in net.modules() if isinstance(m, nn.Linear)]
    assert [tuple(c.weight.shape) for c in convolutions] == [(6, 1, 5, 5), (16, 6, 5, 5)]
    assert [(m.in_features, m.out_features) for m in linear] == [(400, 120), (120, 84), (84, 10)]
    assert parameter_count(net) == 61_706


def test_a_lenet_of_colour_pictures_of_32_pixels_needs_no_padding():
    net = LeNet(32, "linear", channels=3, classes=100)
    assert net(torch.zeros(2, 3, 32, 32)).shape == (2, 100)
    convolutions = [m for m in net.modules() if isinstance(m, nn.Conv2d)]
    assert [c.padding for c in convolutions] == [(0, 0), (0, 0)]
    assert [m.in_features for m in net.modules() if isinstance(m, nn.Linear)] == [400, 120, 84]


def test_the_error_is_the_part_of_pictures_taken_for_another_digit():
    pictures, labels = torch.eye(10)[[0, 1, 2, 3]], torch.tensor([0, 1, 2, 4])
    assert digits.error_of(nn.Identity(), pictures, labels) == 0.25


def test_attention_is_that_of_the_first_three_components():
    model, pictures = make_model(MULTI_STEP, 8), torch.randn(7, 1, 8, 8)
    got = digits.attention_of(model, pictures)
    expected = model[1].compose(pictures.flatten(1)).u_attention[:, :3]
    torch.testing.assert_close(torch.from_numpy(got), expected.detach())


@pytest.mark.usefixtures("no_pictures")
def test_a_model_that_has_diverged_has_no_error_and_no_attention_and_is_not_drawn(tmp_path, capsys):
    words = ["--quick", "--sharpness", "1e39", "--out", str(tmp_path / "x")]
    for names in (["neurocoder-J1"], ["linear", SINGLE_STEP]):
        digits.main([*words, "--variants", *names])
    lines = (tmp_path / "x" / "results.jsonl").read_text().splitlines()
    errors = {(r := json.loads(line))["variant"]: r["error"] for line in lines}
    assert [name for name, error in errors.items() if error is not None] == ["linear"]
    assert not any("attention" in line for line in lines)
    assert f"| {SINGLE_STEP} | - | - | - |" in capsys.readouterr().out


@pytest.mark.usefixtures("no_pictures")
def test_a_few_epochs_teach_a_classifier_most_digits(tmp_path):
    words = ["--variants", "linear", MULTI_STEP, "--epochs", "3", "--shift", "0", "--seeds", "1"]
    digits.main([*words, "--out", str(tmp_path / "x")])
    lines = (tmp_path / "x" / "results.jsonl").read_text().splitlines()
    errors = {r["variant"]: r["errors"] for r in map(json.loads, lines)}
    assert all(len(curve) == 3 and curve[-1] < 0.25 for curve in errors.values())
    assert all(curve[-1] < curve[0] for curve in errors.values())


def test_a_quick_run_leaves_tables_and_figures_and_can_be_gone_on_with(
    tmp_path, capsys, monkeypatch
):
    attentive = [SINGLE_STEP, MULTI_STEP, AUTHORS_SINGLE_STEP, AUTHORS_MULTI_STEP]
    several = ["linear", "mlp", "moe", *attentive, "neurocoder-J1-no-residual"]
    words = ["--quick", "--variants", *several, "lenet-nsm", "--out", str(tmp_path / "x")]
    digits.main(words)
    out = tmp_path / "x"
    table = (out / "results.md").read_text()
    assert all(f"| {variant} |" in table for variant in several)
    assert "told by the tree (%)" in (out / "attention.md").read_text()
    figures = {"errors", "patterns", "patterns-authors", *(f"tree-{name}" for name in attentive)}
    assert {path.stem for path in out.glob("*.png")} == figures
    assert all(path.stat().st_size < 150_000 for path in out.glob("*.png"))
    before = (out / "results.jsonl").read_bytes()
    capsys.readouterr()
    monkeypatch.setattr(digits, "report", lambda *_: None)  # draws the same figures again
    digits.main(words)
    assert "9 of 9 are there already" in capsys.readouterr().out
    assert (out / "results.jsonl").read_bytes() == before


def test_pixels_are_the_built_in_ones_unless_mnist_is_given():
    assert load_images(None).name == "scikit-learn digits"


def test_a_figure_without_any_of_its_variants_is_left_out(tmp_path):
    digits.main(["--quick", "--variants", "lenet-linear", "--out", str(tmp_path / "x")])
    assert (tmp_path / "x" / "results.md").exists()
    assert list(tmp_path.rglob("*.png")) == []
