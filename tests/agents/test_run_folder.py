"""Folders of runs that are made at the same time, and the link to the newest."""

import dataclasses
import json
import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from agents import run_folder
from agents.config import TrainConfig
from agents.run_folder import (
    RunFolderError,
    create_run_folder,
    lock_run_folder,
    open_run,
    resume_run_folder,
    update_meta,
)
from agents.system.files import remove_stale_temp_files

ROOT = Path(__file__).parent.parent.parent
FOLDERS = 20

KILLED_BETWEEN = """
import os, signal, sys
from pathlib import Path
from agents.config import TrainConfig
from agents.run_folder import create_run_folder

Path.replace = (lambda replace: lambda self, target: (
    os.kill(os.getpid(), signal.SIGKILL) if Path(target).name == "latest" else replace(self, target)
))(Path.replace)
create_run_folder(TrainConfig(run_dir=sys.argv[1]), [])
"""


def create_many(config, results):
    for _ in range(FOLDERS):
        folder = create_run_folder(config, [])
        with lock_run_folder(folder):
            pass
        results.send(folder.name)
    results.close()


def test_runs_that_start_at_once_get_folders_of_their_own_and_latest_never_dangles(tmp_path):
    config = dataclasses.replace(TrainConfig(), run_dir=str(tmp_path))
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    processes = [context.Process(target=create_many, args=(config, theirs)) for _ in range(3)]
    for process in processes:
        process.start()
    theirs.close()
    names = []
    while len(names) < 3 * FOLDERS:
        names.append(ours.recv())
        assert (tmp_path / "latest" / "config.json").exists()
    for process in processes:
        process.join()
    ours.close()
    assert len(set(names)) == 3 * FOLDERS
    assert {p.name for p in tmp_path.iterdir()} == {*names, "latest"}


def test_a_program_killed_before_it_points_latest_to_its_run_leaves_latest_as_it_was(tmp_path):
    first = create_run_folder(TrainConfig(run_dir=str(tmp_path)), [])
    result = subprocess.run([sys.executable, "-c", KILLED_BETWEEN, str(tmp_path)], cwd=ROOT)
    assert result.returncode == -signal.SIGKILL
    assert (tmp_path / "latest").resolve() == first.resolve()
    (second,) = [p for p in tmp_path.iterdir() if p not in (first, tmp_path / "latest")]
    assert [p.name for p in second.glob(".latest.*")]
    remove_stale_temp_files(second)  # as resuming it does
    assert not list(second.glob(".latest.*"))
    assert os.readlink(tmp_path / "latest") == first.name


@pytest.mark.parametrize("path", ["a\0b", "loop"])
def test_a_path_that_cannot_be_followed_is_no_runs_folder(tmp_path, path):
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(RunFolderError):
        open_run(tmp_path / path)


def test_settings_nested_too_deeply_are_refused(tmp_path):
    (tmp_path / "config.json").write_text("[" * 100_000)
    with pytest.raises(RunFolderError, match=r"config\.json"):
        open_run(tmp_path)


@pytest.mark.parametrize("meta", ["[1]", "{", '{"resumed": 3}', "\0\0"])
def test_damaged_notes_cost_no_run(tmp_path, meta):
    folder = create_run_folder(TrainConfig(run_dir=str(tmp_path)), [])
    (folder / "meta.json").write_text(meta)
    assert resume_run_folder(TrainConfig(resume=str(folder)), ["again"], 7) == 1
    (folder / "meta.json").write_text(meta)
    update_meta(folder, status="failed")
    assert json.loads((folder / "meta.json").read_text())["status"] == "failed"


def test_a_package_that_is_not_installed_is_noted_as_none(tmp_path, monkeypatch):
    monkeypatch.setattr(run_folder, "PACKAGES", ("torch", "no-such-package"))
    folder = create_run_folder(TrainConfig(run_dir=str(tmp_path)), [])
    versions = json.loads((folder / "meta.json").read_text())["versions"]
    assert versions["no-such-package"] is None
    assert versions["torch"]
