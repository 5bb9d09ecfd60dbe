"""Temporary files of the dead are removed, those of the living are not."""

import os
import subprocess
import sys

from agents.system.files import remove_stale_temp_files


def test_leftovers_of_dead_processes_are_removed_and_nothing_else(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    dead, alive = process.pid, os.getpid()
    (tmp_path / "videos").mkdir()
    gone = [f".step_1.pt.{dead}.tmp", f"videos/.step_1_sampled.{dead}.tmp.webm"]
    stays = [
        f".step_2.pt.{alive}.tmp",
        f"videos/.step_2_sampled.{alive}.tmp.webm",
        f"step_3.{dead}.tmp",
        ".hidden.tmp",
        "step_000000000001.pt",
    ]
    for name in [*gone, *stays]:
        (tmp_path / name).write_bytes(b"x")
    remove_stale_temp_files(tmp_path)
    assert sorted(p for p in gone + stays if (tmp_path / p).exists()) == sorted(stays)
