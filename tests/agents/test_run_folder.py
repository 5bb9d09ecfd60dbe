"""Folders of runs that are made at the same time, and the link to the newest."""

import dataclasses
import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

from agents.config import TrainConfig
from agents.files import remove_leftovers
from agents.run_folder import create_run_folder, lock_run_folder

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
    remove_leftovers(second)  # as resuming it does
    assert not list(second.glob(".latest.*"))
    assert os.readlink(tmp_path / "latest") == first.name
