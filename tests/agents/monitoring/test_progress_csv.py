"""`progress.csv` survives full disks and damage."""

import csv
import io

import pytest

from agents.monitoring.progress_csv import COLUMNS, ProgressCsv, truncate_after_step


def test_rows_that_found_no_room_are_written_when_there_is_room_again(tmp_path, caplog):
    path = tmp_path / "progress.csv"
    progress = ProgressCsv(tmp_path)
    progress.append({"global_step": 100})
    complete = path.read_text()

    class FullDisk(io.StringIO):
        def write(self, text):
            with path.open("a") as file:
                file.write(text[:5])  # some of it still fits
            raise OSError(28, "No space left on device")

    progress._file.close()
    progress._file = FullDisk()
    with caplog.at_level("ERROR", logger="train"):
        progress.append({"global_step": 200})
    assert "No space left" in caplog.text
    assert path.read_text() == complete
    progress.append({"global_step": 300})
    progress.close()
    with path.open() as file:
        assert [row["global_step"] for row in csv.DictReader(file)] == ["100", "200", "300"]


@pytest.mark.parametrize(
    ("damage", "kept"),
    [
        (lambda text: text, [10, 20, 30]),
        (lambda text: text.replace("\n1,20,", '\n"1,20,'), [10, 30]),
        (lambda text: text.replace(",20,", ",²,"), [10, 30]),
        (lambda text: text.replace(",20,", ","), [10, 30]),
        (lambda text: text.replace("wall_time,global_step", "\0" * 21), [10, 20, 30]),
        (lambda text: text[: text.index(",30,") + 5], [10, 20]),
        (lambda text: text + "\0" * 100, [10, 20, 30]),
    ],
)
def test_damage_in_the_progress_costs_the_damaged_rows_alone(tmp_path, damage, kept):
    path = tmp_path / "progress.csv"
    assert COLUMNS[:2] == ("wall_time", "global_step")
    rows = [["1", str(step)] + ["2.5"] * (len(COLUMNS) - 2) for step in (10, 20, 30, 40)]
    path.write_text(damage("".join(",".join(row) + "\n" for row in [COLUMNS, *rows])))
    truncate_after_step(path, 30)
    with path.open(newline="") as file:
        assert [int(row["global_step"]) for row in csv.DictReader(file)] == kept


@pytest.mark.parametrize(
    ("damage", "is_kept"),
    [
        (lambda text: text, False),
        (lambda text: text[:-10], False),  # cut short by a kill
        (lambda text: text.replace(",20,", ",20.0,"), True),  # saved anew by another program
        (lambda text: text.replace(",", ";"), True),
    ],
)
def test_a_file_with_rows_that_cannot_be_read_is_kept_beside_the_new_one(
    damage, is_kept, tmp_path, caplog
):
    path = tmp_path / "progress.csv"
    rows = [["1", str(step)] + ["2.5"] * (len(COLUMNS) - 2) for step in (10, 20, 30)]
    path.write_text(damage("".join(",".join(row) + "\n" for row in [COLUMNS, *rows])))
    before = path.read_text()
    truncate_after_step(path, 30)
    kept = tmp_path / "progress.csv.damaged"
    assert kept.exists() is is_kept
    if is_kept:
        assert kept.read_text() == before
        assert "damaged row" in caplog.text


def test_a_second_damaged_file_does_not_replace_the_first(tmp_path):
    path = tmp_path / "progress.csv"
    for step in (10, 20):
        path.write_text(",".join(COLUMNS) + f"\nnonsense\n1,{step}\n")
        truncate_after_step(path, 30)
    assert "1,10" in (tmp_path / "progress.csv.damaged").read_text()
    assert "1,20" in (tmp_path / "progress.csv.damaged-2").read_text()


def test_the_mark_of_a_spreadsheet_is_no_damage_but_a_missing_column_is(tmp_path):
    path, kept = tmp_path / "progress.csv", tmp_path / "progress.csv.damaged"
    text = ",".join(COLUMNS) + "\n" + ",".join(["1", "10"] + ["2"] * (len(COLUMNS) - 2)) + "\n"
    path.write_bytes(text.encode("utf-8-sig"))
    truncate_after_step(path, 30)
    assert path.read_text() == text
    assert not kept.exists()
    path.write_text(text.replace("wall_time", "time"))
    truncate_after_step(path, 30)
    assert kept.read_text() == text.replace("wall_time", "time")


def test_a_file_that_is_too_large_to_truncate_stays_as_it_is(tmp_path, monkeypatch, caplog):
    path = tmp_path / "progress.csv"
    path.write_text(",".join(COLUMNS) + "\n")
    monkeypatch.setattr("agents.system.files.MAX_CSV_BYTES", 10)
    truncate_after_step(path, 30)
    assert "rows after the resumed checkpoint could not be removed" in caplog.text
    assert path.read_text() == ",".join(COLUMNS) + "\n"
