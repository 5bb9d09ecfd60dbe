"""`Study`: variants by seeds, kept on the disk as they come, and their table."""

import json
import math
import re

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from experiments.common.command_line import command, positive_number
from experiments.common.drawing import draw_band, draw_seeds, new_figure, tidy
from experiments.common.study import Column, Study, StudyError, make_parser


def parse(*words, seeds=2):
    parser = make_parser("tests", "About it.", ["a", "b"], seeds=seeds)
    parser.add_argument("--size", type=int, default=3)
    parser.add_argument("--factor", type=positive_number, default=1.0, help="a number")
    return parser.parse_args([str(word) for word in words])


def run(args, value=lambda _, seed: float(seed)):
    """Run all jobs of a study and return which they were."""
    ran = []

    def job(variant, seed, scalar):
        ran.append((variant, seed))
        scalar("loss", 1.5, 7)
        return {"error": value(variant, seed), "parameters": 1234}

    with Study("tests", args) as study:
        study.run(lambda: job)
    return ran


def test_every_variant_meets_every_seed_and_seeds_are_the_outer_loop(tmp_path):
    assert run(parse("--out", tmp_path / "x")) == [("a", 1), ("b", 1), ("a", 2), ("b", 2)]
    lines = (tmp_path / "x" / "results.jsonl").read_text().splitlines()
    assert [json.loads(line)["seed"] for line in lines] == [1, 1, 2, 2]
    assert all(json.loads(line)["seconds"] >= 0 for line in lines)


def test_a_name_that_is_given_twice_runs_once(tmp_path):
    ran = []
    with Study("tests", parse("--out", tmp_path / "x", "--seeds", 1)) as study:
        study.run(lambda: lambda *job: ran.append(job[:2]) or {"error": 0.0}, ["c", "d", "c"])
    assert ran == [("c", 1), ("d", 1)]


def test_a_job_draws_the_same_random_numbers_whatever_ran_before_it(tmp_path):
    drawn = {}
    for words in (["--variants", "a", "b"], ["--variants", "b"]):
        args = parse("--out", tmp_path / words[1], *words)
        run(args, lambda *pair: drawn.setdefault(pair, []).append(torch.randn(3).tolist()))
    assert drawn["b", 1][0] == drawn["b", 1][1] == drawn["a", 1][0] != drawn["b", 2][0]
    assert torch.get_num_threads() == 1


def test_a_folder_is_gone_on_with_and_more_seeds_and_variants_may_be_asked_for(tmp_path, capsys):
    out = tmp_path / "x"
    assert run(parse("--out", out, "--variants", "a", "--seeds", 1)) == [("a", 1)]
    with (out / "results.jsonl").open("a") as file:
        file.write('{"variant": "b", "se')  # killed while it wrote
    capsys.readouterr()
    assert run(parse("--out", out)) == [("b", 1), ("a", 2), ("b", 2)]
    assert "1 of 4 are there already" in capsys.readouterr().out
    assert run(parse("--out", out)) == []
    assert len((out / "results.jsonl").read_text().splitlines()) == 4


def test_a_folder_of_an_earlier_version_is_read_with_its_variants(tmp_path):
    out = tmp_path / "x"
    run(parse("--out", out))
    file = out / "results.jsonl"
    now = file.read_text()
    file.write_text(now.replace('"variant"', '"contestant"'))
    assert run(parse("--out", out)) == []
    assert file.read_text() == now


def test_other_settings_than_the_folders_are_refused(tmp_path):
    out = tmp_path / "x"
    run(parse("--out", out))
    with pytest.raises(StudyError, match="size 3, not 4"):
        Study("tests", parse("--out", out, "--size", 4))
    with pytest.raises(StudyError, match="experiment 'tests', not 'another'"):
        Study("another", parse("--out", out))


def test_a_folder_that_another_study_is_writing_to_is_refused(tmp_path):
    out = tmp_path / "x"
    used = pytest.raises(StudyError, match="another process is using this folder")
    with Study("tests", parse("--out", out)), used:
        Study("tests", parse("--out", out))
    with Study("tests", parse("--out", out)):
        pass


@pytest.mark.parametrize("what", ["a file", "a strange folder", "broken settings"])
def test_what_is_not_an_experiments_folder_is_refused(tmp_path, what):
    out = tmp_path / "x"
    if what == "a file":
        out.write_text("precious")
    else:
        out.mkdir()
        (out / ("settings.json" if what == "broken settings" else "thesis.tex")).write_text("{")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(StudyError, match=re.escape(str(out))):
        Study("tests", parse("--out", out))
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (StudyError("no\nroom"), 2, "python -m experiments.tests: error: no room\n"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_a_command_ends_with_one_line_and_an_exit_code(error, code, said, capsys):
    @command("tests")
    def main(_):
        raise error

    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == code
    assert capsys.readouterr().err == said


@pytest.mark.parametrize(
    ("words", "about"),
    [
        (["--seeds", "0"], "--seeds"),
        (["--seeds", "x"], "--seeds"),
        (["--variants", "c"], "--variants"),
        (["--seed", "1"], "--seed"),
        (["--size", "1\n2"], "--size"),
        (["--factor", "0"], "--factor"),
        (["--factor", "nan"], "--factor"),
        (["--factor", "x"], "--factor"),
    ],
)
def test_a_bad_flag_is_refused_in_one_line(capsys, words, about):
    with pytest.raises(SystemExit) as refused:
        parse(*words)
    assert refused.value.code == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert about in message


def test_an_unknown_flag_is_answered_with_the_closest_and_help_shows_defaults(capsys):
    with pytest.raises(SystemExit):
        parse("--seed", "1")
    assert "did you mean --seeds?" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        parse("--help")
    shown = capsys.readouterr().out
    assert "variants to compare (default: a b)" in shown
    assert "(default: 1.0)" in shown.replace("\n", " ")


def test_quick_has_one_seed_unless_more_are_asked_for(tmp_path):
    assert len(run(parse("--out", tmp_path / "x", "--quick"))) == 2
    assert len(run(parse("--out", tmp_path / "y", "--quick", "--seeds", 3))) == 6


def test_curves_are_written_for_tensorboard_one_run_for_each_variant_and_seed(tmp_path):
    run(parse("--out", tmp_path / "x"))
    folders = {str(f.parent.relative_to(tmp_path / "x")) for f in tmp_path.rglob("events.*")}
    assert folders == {f"tensorboard/{c}/{s}" for c in "ab" for s in (1, 2)}
    events = EventAccumulator(str(tmp_path / "x" / "tensorboard" / "b" / "2")).Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(7, 1.5)]


def test_tensors_are_kept_as_lists_and_what_is_not_finite_as_nothing(tmp_path):
    with Study("tests", parse("--out", tmp_path / "x", "--seeds", 1)) as study:
        values = {"curve": torch.tensor([0.5, float("nan")]), "n": torch.tensor(3)}
        study.run(lambda: lambda *_: {**values, "error": float("inf")}, ["a"])
        study.table(["error", "n"])
    record = json.loads((tmp_path / "x" / "results.jsonl").read_text())
    assert record["curve"] == [0.5, None]
    assert record["n"] == 3
    assert record["error"] is None
    assert study.results == [record]


def test_the_table_has_mean_and_interval_over_seeds_and_names_its_command(tmp_path, capsys):
    args = parse("--out", tmp_path / "x", "--seeds", 3, "--size", 3)
    errors = {"a": [0.1, 0.2, 0.3], "b": [0.5, 0.5, 0.5]}
    run(args, lambda variant, seed: errors[variant][seed - 1])
    with Study("tests", args) as study:
        text = study.table([Column("error", "test error", percent=True), "parameters"])
    rows = text.splitlines()
    assert rows[0] == "| variant | test error (%) | parameters | seeds |"
    assert rows[2] == "| a | 20.00 [10.00, 30.00] | 1,234 | 3 |"
    assert rows[3] == "| b | 50.00 [50.00, 50.00] | 1,234 | 3 |"
    page = (tmp_path / "x" / "results.md").read_text()
    assert "    python -m experiments.tests --seeds 3 --size 3\n" in page
    assert str(tmp_path) not in page
    assert text in page
    assert "torch" in page
    assert text in capsys.readouterr().out
    long = (tmp_path / "x" / "results.csv").read_text().splitlines()
    assert long[0] == "variant,column,mean,ci_low,ci_high,n"
    assert long[1].startswith("a,error,0.2,0.1,0.3")
    assert long[2] == "a,parameters,1234,1234,1234,3"


def test_the_table_does_not_depend_on_the_order_in_which_jobs_ended(tmp_path):
    out = tmp_path / "x"
    args = parse("--out", out, "--seeds", 5)

    def results():
        run(args, lambda _, seed: [0.2, 0.5, 0.9, 1.4, 3.0][seed - 1])
        with Study("tests", args) as study:
            study.run(lambda: pytest.fail("all are there already"))
            return study.table(["error"]), study.results

    before = results()
    file = out / "results.jsonl"
    file.write_text("".join(reversed(file.read_text().splitlines(keepends=True))))
    assert results() == before
    assert [(r["variant"], r["seed"]) for r in before[1][:3]] == [("a", 1), ("b", 1), ("a", 2)]


def test_the_table_names_all_commands_that_made_its_rows(tmp_path):
    out = tmp_path / "x"
    for words in (["--variants", "a"], ["--variants", "b"], ["--variants", "a"], ["--seeds", 1]):
        args = parse("--out", out, *words)
        run(args)
        with Study("tests", args) as study:
            study.table(["error"])
    commands = [f"python -m experiments.tests --variants {name}" for name in "ab"]
    page = (out / "results.md").read_text()
    assert "\n\n" + "".join(f"    {command}\n" for command in commands) + "\n" in page
    assert "--seeds" not in page  # that made none
    (out / "commands.json").unlink()  # as in earlier versions
    with Study("tests", args) as study:
        study.table(["error"])
    assert "    python -m experiments.tests --seeds 1\n" in (out / "results.md").read_text()
    (out / "commands.json").write_text("{")
    with pytest.raises(StudyError, match=r"commands\.json cannot be read"):
        Study("tests", args)


def test_a_mean_of_some_seeds_says_of_how_many(tmp_path):
    args = parse("--out", tmp_path / "x", "--seeds", 3)
    errors = {"a": [0.1, math.nan, 0.3], "b": [math.nan] * 3}
    run(args, lambda variant, seed: errors[variant][seed - 1])
    with Study("tests", args) as study:
        rows = study.table(["error"]).splitlines()
    assert rows[2:] == ["| a | 0.20 [0.10, 0.30] (2 of 3) | 3 |", "| b | - | 3 |"]


def test_a_figure_is_written_as_a_picture(tmp_path):
    with Study("tests", parse("--out", tmp_path / "x")) as study:
        figure = new_figure()
        axes = figure.add_subplot()
        draw_band(axes, [1, 2], [[0.0, 1.0], [1.0, 3.0]], "neurocoder")
        draw_band(axes, [1, 2], [[0.0, 1.0]], "one seed")
        draw_seeds(axes, [1, 2], [[0.0, 1.0], [1.0, 3.0]], "film")
        tidy(axes)
        # A mean with a band, a mean alone, and a line for each of two seeds; one label each.
        assert [len(axes.lines), len(axes.collections)] == [4, 1]
        assert axes.get_legend_handles_labels()[1] == ["neurocoder", "one seed", "film"]
        study.figure(figure, "curves")
    assert (tmp_path / "x" / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_a_band_leaves_out_runs_that_are_not_finite():
    axes = new_figure().add_subplot()
    draw_band(axes, [1, 2], [[0.0, 1.0], [None, 3.0]], "one left")
    draw_band(axes, [1, 2], [[0.0, math.nan]], "none left")
    assert [list(line.get_ydata()) for line in axes.lines] == [[0.0, 1.0], []]
    assert axes.get_legend_handles_labels()[1] == ["one left", "none left"]


def test_ctrl_c_keeps_what_is_done_and_says_how_to_go_on(tmp_path, capsys):
    out = tmp_path / "my results"

    @command("tests")
    def main(argv):
        run(parse(*argv), interrupted)

    def interrupted(variant, _):
        if variant == "b":
            raise KeyboardInterrupt
        return 0.5

    with pytest.raises(SystemExit) as ended:
        main(["--out", str(out)])
    assert ended.value.code == 130
    said = capsys.readouterr().err
    assert said == f"\nstopped; go on with: python -m experiments.tests --out '{out}'\n"
    assert len((out / "results.jsonl").read_text().splitlines()) == 1
    assert run(parse("--out", out)) == [("b", 1), ("a", 2), ("b", 2)]
