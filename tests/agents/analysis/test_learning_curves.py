"""What is read from a run's files becomes its curve."""

import dataclasses
import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest

from agents.analysis.learning_curves import (
    NoDataError,
    find_runs,
    non_default_settings,
    read_curve,
    read_progress,
)
from agents.config import TrainConfig
from agents.evaluation.episode import EpisodeResult
from agents.evaluation.results import EvaluationRow, append_evaluation, summarise
from agents.run_folder import RunFolderError
from benchmarks.planned_runs import read_rate
from tests.agents.curve_runs import write_progress, write_run


def evaluate(run, step, score, mode="sampled", source="training"):
    game = EpisodeResult(mode, 1, score, 10, np.zeros(10, np.uint8), "", False)
    summary = summarise("Pong", [game])
    append_evaluation(run, EvaluationRow(0.0, source, "", step, summary, 1))


def test_training_returns_are_read_from_the_first_game_on(tmp_path):
    rows = [(0, None), (1000, None), (2000, -20.5), (3500, 3.25)]
    curve = read_curve(write_run(tmp_path / "run", rows, 60.0, game="pong", seed=7))
    assert (curve.game, curve.seed, curve.parts) == ("Pong", 7, ("neurocoder",))
    assert curve.steps.tolist() == [2000, 3500]
    assert curve.values.tolist() == [-20.5, 3.25]
    assert curve.hours == pytest.approx([2 / 60, 3 / 60])


def test_a_pause_between_two_sessions_is_no_training_time(tmp_path):
    folder = write_run(tmp_path / "run", [(1000, 1.0), (2000, 2.0), (3000, 3.0)], 10.0)
    text = (folder / "progress.csv").read_text().splitlines(keepends=True)
    date, _, rest = text[-1].partition(",")
    text[-1] = f"{float(date) + 36_000},{rest}"
    (folder / "progress.csv").write_text("".join(text))
    assert read_curve(folder).hours * 3600 == pytest.approx([10, 20, 30])


def test_rows_that_were_lost_before_a_session_take_no_time(tmp_path):
    # A copy of a trained agent without its progress.csv: 75 steps/s say nothing of its 2 M before.
    folder = write_run(tmp_path / "run", [(2_000_750, 1.0), (2_001_500, 2.0)], 10.0)
    text = (folder / "progress.csv").read_text().replace(str(2_000_750 / 10), "75.0")
    (folder / "progress.csv").write_text(text)
    meta = {"resumed": [{"global_step": 2_000_000}, {"global_step": 2_000_750}, "damaged"]}
    (folder / "meta.json").write_text(json.dumps(meta))
    assert read_curve(folder).hours * 3600 == pytest.approx([10, 20])
    assert read_rate(folder).per_second == pytest.approx(75.0)


def test_what_a_resumed_session_repeats_replaces_what_was_there(tmp_path):
    folder = write_run(tmp_path / "run", [(1, 1.0), (2, 2.0), (3, 3.0), (2, 20.0), (4, 40.0)])
    progress = read_progress(folder / "progress.csv")
    assert progress.steps.tolist() == [1, 2, 4]
    assert progress.returns.tolist() == [1.0, 20.0, 40.0]


@pytest.mark.parametrize(
    "damage", ["nonsense\n", "1,2,3\n", "\0\0\0\0\n", '"\n', "1,1e3,2,x,5" + ",1" * 11 + "\n"]
)
def test_damaged_lines_are_left_out_with_a_warning_that_names_the_file(damage, tmp_path, caplog):
    folder = write_run(tmp_path / "run", [(1000, 1.0), (2000, 2.0), (3000, 3.0)])
    lines = (folder / "progress.csv").read_text().splitlines(keepends=True)
    (folder / "progress.csv").write_text("".join([*lines[:2], damage, *lines[2:]]))
    assert read_curve(folder).values.tolist() == [1.0, 2.0, 3.0]
    assert f"{folder / 'progress.csv'}: 1 damaged line skipped" in caplog.text


def test_a_last_line_that_is_still_being_written_is_skipped_without_a_warning(tmp_path, caplog):
    folder = write_run(tmp_path / "run", [(1000, 1.0), (2000, 2.0)])
    text = (folder / "progress.csv").read_text()
    # Cut within its last number, it would look whole.
    (folder / "progress.csv").write_text(text.rstrip("\r\n"))
    assert read_curve(folder).values.tolist() == [1.0]
    assert caplog.text == ""


def test_evaluations_count_where_they_were_due(tmp_path):
    folder = write_run(tmp_path / "run", [(0, None), (4000, 1.0)], 3600.0, eval_interval=1000)
    write_progress(folder, [(2000, 1.0), (4000, 1.0)], 3600.0)
    for step, score in ((1003, 5.0), (2999, 6.0), (2010, 7.0), (3001, 8.0)):
        evaluate(folder, step, score)
    evaluate(folder, 1003, 50.0, mode="greedy")
    evaluate(folder, 4000, 60.0, source="evaluate")
    curve = read_curve(folder, "sampled")
    assert curve.steps.tolist() == [1000, 2000, 3000]
    assert curve.values.tolist() == [5.0, 7.0, 8.0]
    assert curve.hours == pytest.approx([1.0, 1.0, 1.5])
    assert read_curve(folder, "greedy").values.tolist() == [50.0]


def test_one_evaluation_that_was_made_up_for_leaves_the_others_where_they_were_due(tmp_path):
    folder = write_run(tmp_path / "run", [(0, None), (50_000, 1.0)], eval_interval=10_000)
    for step in (10_010, 24_842, 30_005, 40_011):
        evaluate(folder, step, 5.0)
    assert read_curve(folder, "sampled").steps.tolist() == [10_000, 24_842, 30_000, 40_000]


def test_evaluations_of_another_interval_count_where_they_were_played(tmp_path):
    folder = write_run(tmp_path / "run", [(0, None), (9000, 1.0)], eval_interval=4000)
    for step in (1006, 2016, 3032, 8044):
        evaluate(folder, step, 5.0)
    assert read_curve(folder, "sampled").steps.tolist() == [1006, 2016, 3032, 8000]
    early = write_run(tmp_path / "early", [(0, None), (9000, 1.0)], eval_interval=4000)
    for step in (1006, 8044):
        evaluate(early, step, 5.0)
    assert read_curve(early, "sampled").steps.tolist() == [1006, 8000]
    late = write_run(tmp_path / "late", [(0, None), (9000, 1.0)], eval_interval=3000)
    for step in (5001, 6002, 9001):
        evaluate(late, step, 5.0)
    assert read_curve(late, "sampled").steps.tolist() == [5001, 6000, 9000]


def test_the_network_is_described_by_what_is_not_the_default():
    assert non_default_settings(TrainConfig()) == ("neurocoder",)
    assert non_default_settings(
        TrainConfig(head="linear", neurocoder_steps=1, seed=3, workers=2)
    ) == ("linear",)
    config = TrainConfig(
        core="lstm", neurocoder_steps=1, neurocoder_residual=False, learning_rate=1e-4
    )
    assert non_default_settings(config) == (
        "neurocoder",
        "lstm",
        "single-step",
        "no residual",
        "learning rate 0.0001",
    )
    config = TrainConfig(head="linear", linear_hidden_size=30, fire_reset=True)
    assert non_default_settings(config) == ("linear", "hidden size 30", "fire reset")


def test_every_setting_of_network_learning_and_environment_can_be_described():
    others = {"learner": "cpu", "bonus": "simhash", "bonus_scale": None, "images": "raw"}
    for spec in dataclasses.fields(TrainConfig):
        group = spec.metadata["group"]
        if group not in {"network", "learning", "environment"} or spec.name in ("head", "core"):
            continue
        game = "Frostbite" if spec.name != "images" else "CartPole-v1"
        default = getattr(TrainConfig(game=game), spec.name)
        if spec.name in others:
            value = others[spec.name]
        elif "choices" in spec.metadata:
            value = next(c for c in spec.metadata["choices"] if c != default)
        elif isinstance(default, bool):
            value = not default
        else:
            value = type(default)(default / 2 if default > 8 else default + 1)
            value = min(value, 0.5) if spec.metadata.get("high") == 1 else value
        if value is not None:
            config = TrainConfig(game=game, head="linear", **{spec.name: value})
            head, *described = non_default_settings(config)
            assert head == "linear"
            assert len(described) == 1, spec.name
    for settings, text in (
        ({"learner": "cpu"}, "learner cpu"),
        ({"reward": "none"}, "reward none"),
        ({"game": "CartPole-v1", "images": "raw"}, "images raw"),
    ):
        assert non_default_settings(TrainConfig(head="linear", **settings)) == ("linear", text)


def test_runs_are_found_by_name_folder_and_pattern_each_once(tmp_path):
    runs = [write_run(tmp_path / "runs" / name) for name in ("Pong__1", "Pong__2", "Qbert__1")]
    (tmp_path / "runs" / "latest").symlink_to("Qbert__1")
    (tmp_path / "runs" / "other").mkdir()
    suite = write_run(tmp_path / "other" / "runs" / "fig3" / "runs" / "Breakout__1")
    assert find_runs([str(tmp_path / "runs")]) == ([], runs)
    assert find_runs([str(tmp_path)]) == ([], runs)
    assert find_runs([str(tmp_path / "other" / "runs")]) == ([], [suite])
    assert find_runs([str(suite.parents[1])]) == ([], [suite])
    assert find_runs([str(tmp_path / "runs" / "Pong*")]) == ([], runs[:2])
    named, found = find_runs([str(tmp_path / "runs" / "latest"), str(tmp_path / "runs")])
    assert (named, found) == ([runs[2]], runs[:2])
    for nothing in (str(tmp_path / "runs" / "other"), str(tmp_path / "none*")):
        with pytest.raises(RunFolderError, match="run"):
            find_runs([nothing])


def test_a_folder_that_cannot_be_read_costs_a_warning_not_the_other_runs(
    tmp_path, caplog, monkeypatch
):
    run = write_run(tmp_path / "run")
    (tmp_path / "lost+found").mkdir()
    exists = Path.exists

    def denied(path):
        if path.parent.name == "lost+found":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return exists(path)

    monkeypatch.setattr(Path, "exists", denied)  # root may read everything
    assert find_runs([str(tmp_path)]) == ([], [run])
    assert f"{tmp_path}/lost+found: skipped (Permission denied)" in caplog.text


def test_a_run_that_cannot_be_drawn_is_named(tmp_path):
    folder = write_run(tmp_path / "run", [(0, None)])
    with pytest.raises(NoDataError, match=r"run: no episode has ended yet"):
        read_curve(folder)
    with pytest.raises(NoDataError, match=r"run: was not evaluated \(greedy\)"):
        read_curve(folder, "greedy")
    progress = folder / "progress.csv"
    header = progress.read_text().splitlines()[0]
    for text, error in (
        ("", "is empty"),
        ("wall_time,global_step\n", "has no column SPS"),
        (header, "has no row yet"),
        (header + "\nnothing\n", "all 1 lines are damaged"),
    ):
        progress.write_text(text)
        with pytest.raises(RunFolderError, match=rf"run/progress\.csv: {error}"):
            read_curve(folder)
    progress.unlink()
    with pytest.raises(RunFolderError, match=r"run: has no progress\.csv"):
        read_curve(folder)
    progress.mkdir()
    with pytest.raises(RunFolderError, match=r"progress\.csv"):
        read_curve(folder)
    with pytest.raises(RunFolderError, match="nowhere: does not exist"):
        read_curve(tmp_path / "nowhere")
