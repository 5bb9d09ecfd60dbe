"""Damaged CSV files are read as far as they go; temporary files of dead processes are removed."""

import errno
import os
import stat
import subprocess
import sys

import psutil
import pytest

from agents.system import files
from agents.system.files import parse_count, read_csv_rows, remove_stale_temp_files


def test_leftovers_of_dead_processes_are_removed_and_nothing_else(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    dead, alive = process.pid, os.getpid()
    (tmp_path / "videos").mkdir()
    gone = [f".step_1.safetensors.{dead}.tmp", f"videos/.step_1_sampled.{dead}.tmp.mp4"]
    stays = [
        f".step_2.safetensors.{alive}.tmp",
        f"videos/.step_2_sampled.{alive}.tmp.mp4",
        f"step_3.{dead}.tmp",
        ".hidden.tmp",
        "step_000000000001.safetensors",
    ]
    for name in [*gone, *stays]:
        (tmp_path / name).write_bytes(b"x")
    remove_stale_temp_files(tmp_path)
    assert sorted(p for p in gone + stays if (tmp_path / p).exists()) == sorted(stays)


def test_leftovers_of_an_earlier_process_with_the_number_of_a_running_one_are_removed(tmp_path):
    """As in a container, whose program is process 1 each time."""
    name = f".step_1.safetensors.{os.getpid()}.tmp"
    began = psutil.Process().create_time()
    for age, stays in ((-5.0, True), (0.0, True), (60.0, False)):
        (tmp_path / name).write_bytes(b"x")
        os.utime(tmp_path / name, (began - age, began - age))
        remove_stale_temp_files(tmp_path)
        assert (tmp_path / name).exists() == stays


def read(path, data):
    path.write_bytes(data)
    return [row.cells for row in read_csv_rows(path)]


def test_a_csv_file_comes_back_row_by_row_with_its_header(tmp_path):
    data = b'a,b\r\n1,"x, ""y"""\r\n,2\r\n'
    assert read(tmp_path / "file", data) == [["a", "b"], ["1", 'x, "y"'], ["", "2"]]
    assert read(tmp_path / "file", data.replace(b"\r", b"")) == read(tmp_path / "file", data)


@pytest.mark.parametrize("damage", [b"", b"\0\0\0", b"1,\0", b"1,\xff", b'1,"x', b'"'])
def test_a_damaged_line_of_a_csv_file_costs_no_other_line(tmp_path, damage):
    rows = read(tmp_path / "file", b"a,b\n1,2\n" + damage + b"\n3,4\n")
    assert [*rows[:2], rows[3]] == [["a", "b"], ["1", "2"], ["3", "4"]]
    assert len(rows) == 4
    if b"\0" in damage or b"\xff" in damage:
        assert rows[2] == []


def test_the_lines_of_a_csv_file_put_together_are_the_file_and_show_where_it_was_cut(tmp_path):
    text = 'a,b\r\n1,2\n\n"x\n3,'
    (tmp_path / "file").write_bytes(text.encode())
    rows = read_csv_rows(tmp_path / "file")
    assert "".join(row.line for row in rows) == text
    assert [row.line.endswith("\n") for row in rows] == [True] * 4 + [False]
    assert read(tmp_path / "file", b"") == []


def test_what_is_no_csv_file_of_a_run_is_an_os_error_and_not_waited_for(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "large").write_bytes(b"1,2\n")
    monkeypatch.setattr(files, "MAX_CSV_BYTES", 3)
    for name in ("fifo", "large", ".", "none"):
        with pytest.raises(OSError, match=name):
            read_csv_rows(tmp_path / name)


def test_only_plain_digits_are_a_count():
    assert [parse_count(text) for text in ("0", "12", "9" * 18)] == [0, 12, 10**18 - 1]
    others = ("", "-1", "1e3", "²", "2\u0663", "9" * 5000)
    assert [parse_count(text) for text in others] == [None] * 6


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EIO])
def test_a_file_system_that_cannot_sync_folders_is_written_to(number, tmp_path, monkeypatch):
    sync = os.fsync

    def files_only(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))
        sync(descriptor)

    monkeypatch.setattr("os.fsync", files_only)
    path = tmp_path / "config.json"
    if number == errno.EINVAL:
        files.write_atomically(path, b"{}")
    else:
        with pytest.raises(OSError, match="Input/output error"):
            files.write_atomically(path, b"{}")
    assert path.read_bytes() == b"{}"
