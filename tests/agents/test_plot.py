"""The command that draws learning curves, and the pictures that it draws."""

import builtins
import csv
import importlib.util
import re

import cv2
import matplotlib
import numpy as np
import pytest

from agents.cli import run_command
from agents.plot import gather, main, name_curves
from tests.agents.curve_runs import write_run


@pytest.fixture
def runs(tmp_path):
    for head, score in (("linear", 200.0), ("neurocoder", 300.0)):
        for seed in (1, 2, 3):
            rows = [(1000, 60.0), (2000 * seed, 60.0 + 10 * seed), (9000 * seed, score)]
            name = f"Frostbite__{head}__{seed}"
            write_run(tmp_path / "runs" / name, rows, head=head, seed=seed)
    write_run(tmp_path / "runs" / "Pong__linear__1", [(10, -20.0), (90, 3.0)], game="Pong")
    return tmp_path / "runs"


def refused(capsys, *argv):
    with pytest.raises(SystemExit) as caught:
        run_command(lambda: main([str(arg) for arg in argv]), "python -m agents.plot")
    assert caught.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("python -m agents.plot: error: ")
    assert all(line.startswith("warning: ") for line in lines[:-1])
    return lines[-1]


def test_a_folder_of_runs_becomes_a_picture_and_its_numbers(runs, tmp_path, capsys):
    out = tmp_path / "curves.png"
    assert main([str(runs), "--out", str(out), "--dpi", "100"]) == 0
    assert capsys.readouterr().out == f"7 runs, written to {out} and {tmp_path / 'curves.csv'}\n"
    picture = cv2.imread(str(out))
    assert picture.shape[1] > picture.shape[0] > 200
    # The heads' own colours are there, on white (OpenCV counts blue first).
    for colour in ((0xB2, 0x72, 0x00), (0x00, 0x5E, 0xD5)):
        assert (np.abs(picture.astype(int) - colour).sum(axis=2) < 30).sum() > 20
    assert (picture == 255).all(axis=2).mean() > 0.5
    rows = list(csv.DictReader((tmp_path / "curves.csv").read_text().splitlines()))
    groups = {(row["game"], row["label"]) for row in rows}
    assert groups == {("Frostbite", "linear"), ("Frostbite", "neurocoder"), ("Pong", "neurocoder")}
    last = [r for r in rows if r["label"] == "linear"][-1]
    assert (float(last["step"]), float(last["mean"]), last["n"]) == (27_000, 200.0, "1")


def words_of(svg):
    return " ".join(re.sub("<[^>]*>", " ", svg.read_text()).split())


def test_vector_graphics_say_in_words_what_is_drawn(runs, tmp_path, monkeypatch):
    monkeypatch.setitem(matplotlib.rcParams, "svg.fonttype", "none")  # letters, not their shapes
    out = tmp_path / "curves.svg"
    assert main([str(runs / "Frost*"), "--out", str(out), "--title", "As in Fig. 3"]) == 0
    words = words_of(out)
    for text in (
        *("As in Fig. 3", "Frostbite", "agent steps", "frames", "return per episode"),
        *("linear (n=3, 1 at the end)", "random 65.2", "human 4,335, far above"),
        *("mean of the last 100 episodes", "one standard deviation", "95% bootstrap interval"),
        *("2,000 resamples", "the seeds that reach so far"),
    ):
        assert text in words, text
    assert main([str(runs / "Pong__linear__1"), "--out", str(out), "--x", "hours"]) == 0
    words = words_of(out)
    assert "neurocoder (n=1)" in words
    assert "hours of training" in words
    assert "standard deviation" not in words
    assert "human 14.6" in words
    assert "frames" not in words


def test_a_title_is_shown_as_it_is(runs, tmp_path, monkeypatch):
    monkeypatch.setitem(matplotlib.rcParams, "svg.fonttype", "none")
    out = tmp_path / "curves.svg"
    assert main([str(runs / "Pong__linear__1"), "--out", str(out), "--title", "a $x_$ b"]) == 0
    assert "a $x_$ b" in words_of(out)


def test_every_format_is_drawn(runs, tmp_path):
    for name, start in (("a.pdf", b"%PDF"), ("b.PNG", b"\x89PNG")):
        assert main([str(runs / "Pong__linear__1"), "--out", str(tmp_path / name)]) == 0
        assert (tmp_path / name).read_bytes().startswith(start)


def test_the_numbers_alone_need_no_matplotlib(runs, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    real = builtins.__import__

    def without(name, *args):
        assert not name.startswith("matplotlib")
        return real(name, *args)

    monkeypatch.setattr(builtins, "__import__", without)
    assert main([str(runs), "--out", str(tmp_path / "curves.csv")]) == 0
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["curves.csv"]
    assert 'pip install -e ".[plot]"' in refused(capsys, runs, "--out", tmp_path / "curves.png")


def test_a_picture_needs_scipy_too_and_says_so_first(runs, tmp_path, monkeypatch, capsys):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n: found(n) if n != "scipy" else None)
    assert "plots need scipy" in refused(capsys, runs, "--out", tmp_path / "curves.png")


def test_labels_leave_out_what_all_runs_share():
    parts = [("linear", "lstm", "hidden size 30"), ("linear", "lstm"), ("neurocoder", "lstm")]
    assert name_curves(parts) == (
        ["linear, hidden size 30", "linear", "neurocoder"],
        "All runs: lstm.",
    )
    assert name_curves([("linear",), ("linear",)]) == (["linear", "linear"], "")


def test_curves_are_in_the_order_of_the_numbers_in_their_labels(tmp_path):
    for skip in (32, 8, 12):
        write_run(tmp_path / f"skip{skip}", [(100, 1.0), (200, 2.0)], frame_skip=skip)
    curves = gather([str(tmp_path)], "training")
    assert [curve.frame_skip for curve in curves] == [8, 12, 32]


def test_a_curve_of_runs_that_differ_in_more_than_the_seed_has_a_warning(tmp_path, capsys):
    for seed, settings in enumerate(({}, {"total_timesteps": 4000}, {"workers": 2})):
        write_run(tmp_path / f"{seed}", head="linear", seed=seed, **settings)
    write_run(tmp_path / "other", head="hypernet", total_timesteps=5000)
    gather([str(tmp_path)], "training")
    assert capsys.readouterr().err.splitlines() == [
        "warning: Frostbite, linear: one curve of runs with --total-timesteps 75000000 and 4000",
        "warning: Frostbite, linear: one curve of runs with --workers 16 and 2",
    ]


def test_what_cannot_be_drawn_is_named_in_one_line(runs, tmp_path, capsys):
    out = ("--out", tmp_path / "curves.png")
    first = runs / "Frostbite__linear__1"
    assert "none* " not in refused(capsys, tmp_path / "none*", *out)
    assert f"{tmp_path}/nowhere: does not exist" in refused(capsys, tmp_path / "nowhere", *out)
    assert f"{'x' * 300}: File name too long" in refused(capsys, "x" * 300, *out)
    assert "must end in .csv, .png, .svg, .pdf" in refused(capsys, runs, "--out", "curves.gif")
    assert "cannot be written" in refused(capsys, runs, "--out", "/nowhere/curves.csv")
    assert "--dpi" in refused(capsys, runs, *out, "--dpi", "0")
    assert "--x" in refused(capsys, runs, *out, "--x", "years")
    assert "was not evaluated (greedy)" in refused(capsys, first, *out, "--metric", "greedy")
    assert "none of the 7 runs" in refused(capsys, runs, *out, "--metric", "sampled")
    (first / "progress.csv").write_text("")
    assert f"{first}/progress.csv: is empty" in refused(
        capsys, first, runs / "Pong__linear__1", *out
    )
    (first / "progress.csv").unlink()
    assert f"{first}: has no progress.csv" in refused(capsys, first, *out)
    (first / "config.json").write_text("{")
    assert f"{first}/config.json" in refused(capsys, first, *out)
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


@pytest.mark.parametrize("ending", ["png", "csv"])
def test_a_csv_that_is_not_of_a_plot_is_never_overwritten(ending, runs, capsys):
    run = runs / "Pong__linear__1"
    before = (run / "progress.csv").read_bytes()
    said = refused(capsys, run, "--out", run / f"progress.{ending}")
    assert f"{run}/progress.csv is not of a plot, and would be lost" in said
    assert (run / "progress.csv").read_bytes() == before
    (run / "curves.csv").touch()
    for _ in range(2):
        assert main([str(run), "--out", str(run / "curves.csv")]) == 0


def test_of_a_folder_what_cannot_be_drawn_is_left_out_with_a_warning(runs, tmp_path, capsys):
    (runs / "Frostbite__linear__1" / "progress.csv").unlink()
    write_run(runs / "Frostbite__linear__2b", head="linear", seed=2)
    assert main([str(runs), "--out", str(tmp_path / "curves.csv")]) == 0
    said = capsys.readouterr()
    assert said.out.startswith("7 runs,")
    assert "warning: skipped: " in said.err
    assert "Frostbite__linear__1: has no progress.csv" in said.err
    assert "Frostbite, linear: 2 runs with seed 2, each counted" in said.err
