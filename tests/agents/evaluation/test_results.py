"""Summaries, the file that collects them, and the tables."""

import dataclasses
import io
import logging
import math
import resource

import numpy as np
import pytest
from rich.console import Console

from agents.evaluation.episode import EpisodeResult
from agents.evaluation.results import (
    COLUMNS,
    EvaluationRow,
    append_evaluation,
    format_score,
    read_evaluations,
    summarise,
    truncate_after_step,
)
from agents.evaluation.tables import evaluation_table, milestone_cell, milestone_table
from envs import MILESTONES


def played(score, length=10, mode="sampled"):
    return EpisodeResult(mode, 1, score, length, np.zeros(length, np.uint8), "", False)


def evaluation(score=10.0, **changes):
    values = {
        "wall_time": 5.5,
        "source": "evaluate",
        "checkpoint": "step_000000000005.safetensors",
        "global_step": 5,
        "summary": summarise("Pong", [played(score), played(score + 1.25, 13)]),
        "seed": 3,
    }
    return EvaluationRow(**values | changes)


def test_a_summary_is_of_the_raw_scores_with_the_samples_deviation():
    summary = summarise("Frostbite", [played(10.0, 4), played(20.0, 6), played(60.0, 20)])
    assert (summary.mode, summary.episodes) == ("sampled", 3)
    assert (summary.mean, summary.median, summary.min, summary.max) == (30, 20, 10, 60)
    assert summary.std == pytest.approx(700**0.5)  # (400 + 100 + 900) / 2
    assert summary.length == 10
    assert summary.human_normalised == pytest.approx((30 - 65.2) / (4334.7 - 65.2))


def test_a_single_episode_has_no_deviation_and_an_unpublished_game_no_human_score():
    summary = summarise("Tetris", [played(5.0)])
    assert summary.std == 0
    assert summary.human_normalised is None


@pytest.mark.parametrize(
    ("scores", "mean"),
    [
        ([1.0, math.nan], math.nan),
        ([math.nan], math.nan),
        ([1.0, math.inf], math.inf),
        ([math.inf, -math.inf], math.nan),
        ([1.5e308, 1.5e308], math.inf),
    ],
)
def test_scores_that_are_not_finite_are_shown_and_kept_but_no_result_to_compare(
    tmp_path, caplog, scores, mean
):
    summary = summarise("Pong", [played(score) for score in scores])
    assert summary.mean == pytest.approx(mean, nan_ok=True)
    assert summary.human_normalised is None
    assert not summary.is_finite
    screen = io.StringIO()
    Console(file=screen, width=80).print(evaluation_table("Pong", [summary]))
    assert str(mean) in screen.getvalue()
    append_evaluation(tmp_path, evaluation(1.0), evaluation(summary=summary))
    assert (tmp_path / "eval" / "played.csv").read_text().count("\n") == 3
    assert [row.summary.min for row in read_evaluations(tmp_path)] == [1.0]
    assert caplog.text == ""


def test_episodes_of_no_or_of_several_modes_have_no_summary():
    with pytest.raises(ValueError, match="got 0 of modes"):
        summarise("Pong", [])
    with pytest.raises(ValueError, match="greedy"):
        summarise("Pong", [played(1.0), played(1.0, mode="greedy")])


def test_rows_come_back_as_they_were_below_one_header(tmp_path):
    rows = [
        evaluation(10.0),
        evaluation(-20.5),
        evaluation(
            checkpoint="",
            global_step=None,
            summary=summarise("Tetris", [played(0.0, mode="random")]),
        ),
        evaluation(checkpoint='best, "the" one.safetensors'),
    ]
    for row in rows:
        append_evaluation(tmp_path, row)
    lines = (tmp_path / "eval" / "played.csv").read_text().splitlines()
    assert lines[0] == ",".join(COLUMNS)
    assert len(lines) == 5
    for got, row in zip(read_evaluations(tmp_path), rows, strict=True):
        assert got.summary.human_normalised == pytest.approx(
            row.summary.human_normalised, abs=1e-5, nan_ok=False
        )
        assert got.summary.mean == pytest.approx(row.summary.mean, abs=1e-3)
        assert (got.summary.mode, got.seed, got.source, got.checkpoint, got.global_step) == (
            row.summary.mode,
            row.seed,
            row.source,
            row.checkpoint,
            row.global_step,
        )


def test_rows_of_training_have_a_file_of_their_own(tmp_path):
    append_evaluation(tmp_path, evaluation(1.0))
    assert [path.name for path in (tmp_path / "eval").iterdir()] == ["played.csv"]
    before = (tmp_path / "eval" / "played.csv").read_bytes()
    append_evaluation(tmp_path, evaluation(2.0, source="training"))
    assert (tmp_path / "eval" / "played.csv").read_bytes() == before
    assert (tmp_path / "eval" / "evaluations.csv").read_bytes().count(b"\n") == 2
    assert [row.summary.min for row in read_evaluations(tmp_path)] == [2.0, 1.0]


def test_older_runs_have_rows_of_both_kinds_in_one_file(tmp_path):
    append_evaluation(tmp_path, evaluation(1.0))
    (tmp_path / "eval" / "played.csv").rename(tmp_path / "eval" / "evaluations.csv")
    append_evaluation(tmp_path, evaluation(2.0, source="training"))
    append_evaluation(tmp_path, evaluation(3.0))
    rows = read_evaluations(tmp_path)
    assert [row.summary.min for row in rows] == [1.0, 2.0, 3.0]
    assert [row.source for row in rows] == ["evaluate", "training", "evaluate"]


def test_of_a_row_that_does_not_fit_on_the_disk_nothing_stays(tmp_path):
    append_evaluation(tmp_path, evaluation(1.0))
    path = tmp_path / "eval" / "played.csv"
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 20, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            append_evaluation(tmp_path, evaluation(2.0))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
    append_evaluation(tmp_path, evaluation(3.0))
    assert [row.summary.min for row in read_evaluations(tmp_path)] == [1.0, 3.0]


def reached(**milestones):
    return dataclasses.replace(played(1.0), milestones=milestones)


def test_milestones_are_averaged_written_read_and_shown(tmp_path):
    episodes = [
        reached(igloo_complete=1.0, igloo_entered=0.0, level=1.0),
        reached(igloo_complete=1.0, igloo_entered=1.0, level=4.0),
    ]
    summary = summarise("Frostbite", episodes)
    assert summary.milestones == {"igloo_complete": 1, "igloo_entered": 0.5, "level": 2.5}
    append_evaluation(tmp_path, evaluation(summary=summary))
    [row] = read_evaluations(tmp_path)
    assert row.summary.milestones == summary.milestones
    screen = io.StringIO()
    console = Console(file=screen, width=80)
    console.print(milestone_table("Frostbite", [summary]))
    assert [line.split() for line in screen.getvalue().splitlines() if "sampled" in line] == [
        ["sampled", "100%", "50%", "2.5"]
    ]
    assert milestone_table("Pong", [summarise("Pong", [played(1.0)])]) is None


@pytest.mark.parametrize(
    ("share", "text"),
    [(0, "0%"), (1 / 300, "<1%"), (0.005, "<1%"), (1 / 3, "33%"), (299 / 300, ">99%"), (1, "100%")],
)
def test_none_and_all_are_said_of_no_others(share, text):
    milestone = MILESTONES["Frostbite"][0]
    assert milestone.is_share
    assert milestone_cell(milestone, {milestone.name: share}) == text


def test_files_without_milestones_are_read_and_their_header_is_renewed(tmp_path):
    append_evaluation(tmp_path, evaluation(1.0))
    path = tmp_path / "eval" / "played.csv"
    lines = path.read_text().splitlines()
    old = [line.removesuffix(",milestones").removesuffix(",") for line in lines]
    path.write_text("\n".join(old) + "\n")
    [row] = read_evaluations(tmp_path)
    assert (row.summary.min, row.seed, row.summary.milestones) == (1.0, 3, {})
    append_evaluation(
        tmp_path, evaluation(summary=summarise("MontezumaRevenge", [reached(rooms=2.0, key=1.0)]))
    )
    lines = path.read_text().splitlines()
    assert lines[0] == ",".join(COLUMNS)
    assert lines[1] == old[1]
    assert [r.summary.milestones for r in read_evaluations(tmp_path)] == [
        {},
        {"rooms": 2, "key": 1},
    ]


def test_there_are_no_rows_where_there_is_no_file(tmp_path):
    assert read_evaluations(tmp_path) == []


@pytest.mark.parametrize("left", [3, 40, 60])
def test_a_row_after_a_line_that_was_cut_off_starts_on_a_new_one(tmp_path, left, caplog):
    append_evaluation(tmp_path, evaluation(1.0))
    file = tmp_path / "eval" / "played.csv"
    whole = file.read_bytes()
    header = whole.index(b"\n") + 1
    append_evaluation(tmp_path, evaluation(2.0))
    file.write_bytes(file.read_bytes()[: len(whole) + left])
    append_evaluation(tmp_path, evaluation(3.0))
    with caplog.at_level(logging.WARNING, "train"):
        found = read_evaluations(tmp_path)
    assert [row.summary.min for row in found] == [1.0, 3.0]
    assert "1 malformed" in caplog.text
    assert file.read_bytes()[:header].decode().strip() == ",".join(COLUMNS)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "nan" + "," * 13,
        "x," * 14,
        "\x00\xff",
        "1.0,evaluate,a,1,,2,3,4,5,6,7,8,,9",
        "1.0,evaluate,a,1,sampled,2,3,4,5,6,7,8,nan,9",
        "1.0,evaluate,a,1,sampled,2,3,4,5,6,7,8,,9,level",
        "1.0,evaluate,a,1,sampled,2,3,4,5,6,7,8,,9,level=nan",
        "1.0,evaluate,a,1,sampled,2,3,4,5,6,7\x00,8,,9",
        "1.0,evaluate,a\xff,1,sampled,2,3,4,5,6,7,8,,9",
        "\x00" * 5000,
        '1.0,evaluate,"a,1',
        '"' + "x" * 200_000,
    ],
)
def test_malformed_rows_are_left_out(tmp_path, line):
    append_evaluation(tmp_path, evaluation(1.0))
    with (tmp_path / "eval" / "played.csv").open("a", encoding="latin-1") as file:
        file.write(line + "\n")
    append_evaluation(tmp_path, evaluation(2.0))
    assert [row.summary.min for row in read_evaluations(tmp_path)] == [1.0, 2.0]


def test_a_header_that_was_cut_off_is_malformed_and_nothing_else_is_lost(tmp_path):
    (tmp_path / "eval").mkdir()
    (tmp_path / "eval" / "played.csv").write_text("wall_time,sour")
    append_evaluation(tmp_path, evaluation(1.0))
    assert [row.summary.min for row in read_evaluations(tmp_path)] == [1.0]


def test_the_table_fits_80_columns_and_names_the_published_scores():
    screen = io.StringIO()
    summaries = [
        summarise("Frostbite", [played(1234567.0, mode=mode), played(1.0, mode=mode)])
        for mode in ("sampled", "greedy", "random")
    ]
    Console(file=screen, width=80).print(evaluation_table("Frostbite", summaries))
    text = screen.getvalue()
    assert "…" not in text
    for expected in ("sampled", "greedy", "random", "617,284", "1,234,567", "65.2", "4,334.7"):
        assert expected in text
    assert "normalised" in text


@pytest.mark.parametrize(
    ("score", "text"),
    [
        *((0, "0"), (1.0, "1"), (-3, "-3"), (12345.6, "12,346"), (2570.25, "2,570.2")),
        *((0.694, "0.694"), (0.0954321, "0.0954"), (-0.95, "-0.95"), (76.6667, "76.7")),
        *((99.97, "100"), (2e15, "2e+15"), (math.nan, "nan"), (-math.inf, "-inf")),
    ],
)
def test_scores_are_shown_with_the_digits_that_they_need(score, text):
    assert format_score(score) == text


def test_a_mean_just_below_random_play_is_not_minus_zero_per_cent():
    screen = io.StringIO()
    summary = summarise("Frostbite", [played(65.0)])
    assert summary.human_normalised < 0
    Console(file=screen, width=80).print(evaluation_table("Frostbite", [summary]))
    assert " 0.0%" in screen.getvalue()


def test_the_table_of_a_game_without_published_scores_names_none():
    screen = io.StringIO()
    Console(file=screen, width=80).print(
        evaluation_table("Tetris", [summarise("Tetris", [played(1)])])
    )
    assert "published" not in screen.getvalue()
    assert "normalised" not in screen.getvalue()
    assert "sampled" in screen.getvalue()


def test_the_evaluators_rows_of_steps_that_were_lost_are_dropped_and_no_others(tmp_path):
    append_evaluation(tmp_path, evaluation(source="evaluate", global_step=300))
    path = tmp_path / "eval" / "evaluations.csv"
    (tmp_path / "eval" / "played.csv").rename(path)  # an older run has it in this file
    for step in (100, 200, 300):
        append_evaluation(tmp_path, evaluation(source="training", global_step=step))
        append_evaluation(tmp_path, evaluation(source="evaluate", global_step=step))
    with path.open("a") as file:
        file.write("5.5,training,,30")  # cut off
    lines = path.read_text().splitlines()
    truncate_after_step(tmp_path, 200)
    assert path.read_text().splitlines() == lines[:4] + lines[5:]
    assert [row.global_step for row in read_evaluations(tmp_path)[-3:]] == [100, 200, 300]
    truncate_after_step(tmp_path / "none", 200)


@pytest.mark.parametrize("step", ["²", "2\u0663", "-1", "", "1e3"])
def test_a_row_whose_step_is_no_number_stays_when_later_ones_are_dropped(tmp_path, step):
    append_evaluation(tmp_path, evaluation(source="training", global_step=300))
    path = tmp_path / "eval" / "evaluations.csv"
    header, row = path.read_text().splitlines(keepends=True)
    damaged = row.replace(",300,", f",{step},")
    path.write_text(header + damaged + row)
    truncate_after_step(tmp_path, 200)
    assert path.read_text() == header + damaged
