"""Folders of runs that are made at the same time, and the link to the newest."""

import dataclasses
import errno
import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from torch.utils.tensorboard import SummaryWriter

from agents import run_folder
from agents.cli import parse_args
from agents.config import SettingError, TrainConfig
from agents.run_folder import (
    RunFolderError,
    assumption,
    create_run_folder,
    lock_run_folder,
    open_run,
    resolve_run,
    resume_run_folder,
    update_meta,
)
from agents.system.files import remove_stale_temp_files
from tests.agents.runs import rewrite_json

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
    names = [ours.recv()]
    latest = str(tmp_path / "latest" / "config.json")
    while any(process.is_alive() for process in processes):
        for _ in range(1000):
            os.stat(latest)
    while len(names) < 3 * FOLDERS:
        names.append(ours.recv())
    for process in processes:
        process.join()
    ours.close()
    assert len(set(names)) == 3 * FOLDERS
    assert {p.name for p in tmp_path.iterdir()} == {*names, "latest"}


def test_a_program_killed_before_it_points_latest_to_its_run_leaves_latest_as_it_was(tmp_path):
    first = create_run_folder(TrainConfig(run_dir=str(tmp_path)), [])
    result = subprocess.run([sys.executable, "-c", KILLED_BETWEEN, str(tmp_path)], cwd=ROOT)
    assert result.returncode == -signal.SIGKILL
    assert resolve_run(tmp_path / "latest") == first.resolve()
    (second,) = [p for p in tmp_path.iterdir() if p not in (first, tmp_path / "latest")]
    assert [p.name for p in second.glob(".latest.*")]
    remove_stale_temp_files(second)  # as resuming it does
    assert not list(second.glob(".latest.*"))
    assert os.readlink(tmp_path / "latest") == f"{first.name}/.latest"


def test_tensorboard_shows_a_run_once_though_latest_shows_its_files(tmp_path):
    folder = create_run_folder(TrainConfig(run_dir=str(tmp_path)), [])
    with SummaryWriter(str(folder)) as writer:
        writer.add_scalar("charts/SPS", 1.0, 1)
    (folder / "replays").mkdir()
    (folder / "replays" / "episode.npz").write_bytes(b"recorded")
    runs = EventMultiplexer().AddRunsFromDirectory(str(tmp_path)).Runs()
    assert list(runs) == [folder.name]
    latest = tmp_path / "latest"
    assert (latest / "replays" / "episode.npz").read_bytes() == b"recorded"
    assert (latest / "checkpoints").is_dir()
    assert open_run(latest) == open_run(folder)


def test_a_link_to_the_run_itself_which_older_versions_made_is_replaced(tmp_path):
    config = TrainConfig(run_dir=str(tmp_path))
    old = create_run_folder(config, [])
    (tmp_path / "latest").unlink()
    shutil.rmtree(old / ".latest")
    (tmp_path / "latest").symlink_to(old.name)
    assert open_run(tmp_path / "latest")[0] == resolve_run(old) == old.resolve()
    resume_run_folder(TrainConfig(resume=str(old)), [], 7)
    assert os.readlink(tmp_path / "latest") == f"{old.name}/.latest"
    (tmp_path / "latest").unlink()
    (tmp_path / "latest").symlink_to(old.name)
    new = create_run_folder(config, [])
    assert open_run(tmp_path / "latest")[0] == new.resolve()


def test_files_in_place_of_the_links_that_latest_shows_are_replaced(tmp_path):
    folder = create_run_folder(TrainConfig(run_dir=str(tmp_path)), [])
    shown = folder / ".latest" / "config.json"
    shown.unlink()
    shown.write_text("{}")
    resume_run_folder(TrainConfig(resume=str(folder)), [], 7)
    assert os.readlink(shown) == "../config.json"
    assert open_run(tmp_path / "latest") == open_run(folder)


@pytest.fixture
def fails(monkeypatch):
    """Has a function fail as the operating system would."""

    def fail(function, number):
        def failing(*_, **__):
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(function, failing)

    return fail


def test_where_links_cannot_be_made_a_run_does_without_latest(tmp_path, fails, caplog):
    fails("pathlib.Path.symlink_to", errno.EPERM)
    folder = create_run_folder(TrainConfig(run_dir=str(tmp_path)), [])
    assert resume_run_folder(TrainConfig(resume=str(folder)), [], 7) == 1
    warning = f"{tmp_path / 'latest'} does not point to this run: Operation not permitted"
    assert caplog.messages == [warning, warning]
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]
    assert list((folder / ".latest").iterdir()) == []


@pytest.mark.parametrize(
    ("function", "number", "reason"),
    [
        ("fcntl.flock", errno.ENOSYS, "train.log cannot be locked: Function not implemented"),
        ("agents.system.files.os.fsync", errno.ENOSPC, "No space left on device"),
        ("pathlib.Path.mkdir", errno.EROFS, "Read-only file system"),
    ],
)
def test_a_folder_that_cannot_hold_a_run_is_refused_and_keeps_nothing_of_it(
    tmp_path, fails, function, number, reason
):
    fails(function, number)
    with pytest.raises(SettingError, match=re.escape(f"cannot be written to ({reason})")) as error:
        create_run_folder(TrainConfig(run_dir=str(tmp_path)), [])
    assert str(error.value).startswith(f"--run-dir {tmp_path}")
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_cannot_be_locked_is_refused_by_name(tmp_path, fails):
    folder = create_run_folder(TrainConfig(run_dir=str(tmp_path)), [])
    fails("fcntl.flock", errno.EROFS)
    with pytest.raises(SettingError, match=f"--resume {folder}: .* Read-only file system"):
        lock_run_folder(folder)


@pytest.mark.parametrize("make", [Path.mkdir, Path.touch])
def test_a_run_beside_something_else_called_latest_is_refused_as_it_is(tmp_path, make):
    folder = create_run_folder(TrainConfig(run_dir=str(tmp_path)), [])
    (tmp_path / "latest").unlink()
    make(tmp_path / "latest")
    files = {path: path.read_bytes() for path in folder.glob("*.json")}
    with pytest.raises(SettingError, match=r"--resume .* a 'latest' that is not a link"):
        resume_run_folder(TrainConfig(resume=str(folder), total_timesteps=9), [], 7)
    assert {path: path.read_bytes() for path in folder.glob("*.json")} == files
    assert not (tmp_path / "latest").is_symlink()


def test_latest_that_points_to_a_run_that_was_deleted_is_refused_and_replaced(tmp_path):
    config = TrainConfig(run_dir=str(tmp_path))
    shutil.rmtree(create_run_folder(config, []))
    with pytest.raises(RunFolderError, match="latest: does not exist"):
        open_run(tmp_path / "latest")
    assert open_run(create_run_folder(config, []))[0] == open_run(tmp_path / "latest")[0]


def test_for_a_folder_of_runs_the_newest_of_them_is_named(tmp_path):
    with pytest.raises(RunFolderError, match=r"it has no config.json$"):
        open_run(tmp_path)
    create_run_folder(TrainConfig(run_dir=str(tmp_path)), [])
    newest = re.escape(str(tmp_path / "latest"))
    with pytest.raises(RunFolderError, match=f"no config.json; the newest .* is {newest}$"):
        open_run(tmp_path)
    open_run(tmp_path / "latest")


def test_for_what_lies_in_a_run_that_run_is_named(tmp_path):
    run = create_run_folder(TrainConfig(run_dir=str(tmp_path)), [])
    (run / "checkpoints").mkdir(exist_ok=True)
    (run / "checkpoints" / "step_1.safetensors").touch()
    with pytest.raises(
        RunFolderError, match=f"it has no config.json; its run is {re.escape(str(run))}$"
    ):
        open_run(run / "checkpoints")
    for file in (run / "checkpoints" / "step_1.safetensors", run / "config.json"):
        with pytest.raises(RunFolderError) as caught:
            open_run(file)
        assert str(caught.value) == f"{file}: a file, not a run directory; its run is {run}"
    (tmp_path / "alone").touch()
    with pytest.raises(RunFolderError, match=r"alone: a file, not a run directory$"):
        open_run(tmp_path / "alone")


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


def test_settings_of_another_version_are_refused_by_name_with_both_versions(tmp_path, monkeypatch):
    folder = create_run_folder(TrainConfig(run_dir=str(tmp_path)), [])
    rewrite_json(folder / "meta.json", lambda meta: meta.update(git_revision="a" * 40))
    rewrite_json(folder / "config.json", lambda stored: stored.update(old_name=1, older_name=2))
    monkeypatch.setattr(run_folder, "_git_revision", lambda: "b" * 40)
    with pytest.raises(RunFolderError) as error:
        open_run(folder)
    for part in (
        "config.json",
        "version aaaaaaaaaaaa ",
        "version bbbbbbbbbbbb ",
        "old_name, older",
    ):
        assert part in str(error.value)
    resume_run_folder(TrainConfig(resume=str(folder)), [], 7)  # by the newer version
    rewrite_json(folder / "config.json", lambda stored: stored.update(old_name=1))
    with pytest.raises(RunFolderError, match="by version bbbbbbbbbbbb with settings"):
        open_run(folder)
    (folder / "meta.json").write_text("{")
    monkeypatch.setattr(run_folder, "_git_revision", lambda: None)
    with pytest.raises(RunFolderError, match=r"by an unknown version .* that version 0\.1\.0 does"):
        open_run(folder)


def test_settings_that_are_missing_are_named_with_what_is_assumed(tmp_path, monkeypatch, capsys):
    folder = create_run_folder(TrainConfig(run_dir=str(tmp_path), gamma=0.5), [])
    assert assumption(folder) is None
    parse_args(["--resume", str(folder)])
    assert capsys.readouterr().err == ""
    rewrite_json(folder / "meta.json", lambda meta: meta.update(git_revision="a" * 40))
    rewrite_json(
        folder / "config.json", lambda stored: (stored.pop("gamma"), stored.pop("noop_max"))
    )
    monkeypatch.setattr(run_folder, "_git_revision", lambda: "b" * 40)
    assert parse_args(["--resume", str(folder)]).gamma == TrainConfig().gamma
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    default = TrainConfig()
    assert line.endswith(
        f"their defaults: --gamma {default.gamma}, --noop-max {default.noop_max}\n"
    )
    assert "version aaaaaaaaaaaa, without" in line
    assert "settings of version bbbbbbbbbbbb;" in line
    # Written back they would look as if the run had always had them.
    resume_run_folder(TrainConfig(resume=str(folder)), [], 7)
    assert assumption(folder) is None
    (session,) = json.loads((folder / "meta.json").read_text())["resumed"]
    assert session["assumed"] == {"gamma": default.gamma, "noop_max": default.noop_max}


@pytest.mark.parametrize("room_for", [0, 1])
def test_what_is_assumed_is_recorded_even_if_the_disk_is_full_the_first_time(
    tmp_path, monkeypatch, room_for
):
    folder = create_run_folder(TrainConfig(run_dir=str(tmp_path)), [])
    rewrite_json(folder / "config.json", lambda stored: stored.pop("gamma"))
    settings, write, written = (folder / "config.json").read_bytes(), run_folder.write_json, []

    def fill_up(path, value):
        written.append(path)
        if len(written) > room_for:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, value)

    monkeypatch.setattr(run_folder, "write_json", fill_up)
    resumed = TrainConfig(resume=str(folder), total_timesteps=9)
    with pytest.raises(SettingError, match="No space left on device"):
        resume_run_folder(resumed, [], 7)
    assert (folder / "config.json").read_bytes() == settings
    monkeypatch.setattr(run_folder, "write_json", write)
    resume_run_folder(resumed, [], 7)
    assert json.loads((folder / "meta.json").read_text())["resumed"][-1]["assumed"] == {
        "gamma": TrainConfig().gamma
    }


@pytest.mark.parametrize("stored", ["[1]", '"text"', "3"])
def test_what_is_no_table_of_settings_is_refused(tmp_path, stored):
    (tmp_path / "config.json").write_text(stored)
    with pytest.raises(RunFolderError, match="no table of settings"):
        open_run(tmp_path)
