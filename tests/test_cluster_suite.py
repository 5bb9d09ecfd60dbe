"""The runs of a suite as tasks of Ray; some of it without Ray."""

import importlib.util
import signal
import subprocess
import sys
from types import SimpleNamespace

import psutil
import pytest

from agents.checkpoint import list_checkpoints
from agents.config import TrainConfig
from agents.run_folder import create_run_folder, lock_run_folder
from benchmarks.cluster_suite import connect, run_training
from benchmarks.planned_runs import last_checkpoint
from benchmarks.suite import SuiteError
from tests.process_harness import ROOT, meta, wait_for


def test_without_ray_a_line_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)  # noqa: ARG005
    with pytest.raises(SuiteError, match=r"pip install -e '\.\[cluster\]'"):
        connect("auto")


def test_whatever_ray_raises_is_one_line(monkeypatch):
    ray = pytest.importorskip("ray")

    def fail(**settings):  # noqa: ARG001
        raise Exception("it took\ntoo long")

    monkeypatch.setattr(ray, "init", fail)
    with pytest.raises(SuiteError, match=r"^--cluster local: it took$"):
        connect("local")
    from agents.cluster import ray_client

    with pytest.raises(ray_client.ClusterFailedError, match=r"^Ray \(local\): it took$"):
        ray_client.connect(TrainConfig(cluster="local"))


def test_a_machine_that_does_not_see_the_folder_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"does not see .*/logs"):
        run_training(["--help"], tmp_path / "logs" / "log", None)
    (tmp_path / "logs").mkdir()
    assert run_training(["--workers", "-1"], tmp_path / "logs" / "log", None) == 2
    assert "--workers -1: must be" in (tmp_path / "logs" / "log").read_text()


def test_the_lock_of_a_lost_machine_is_waited_for_as_long_as_a_file_system_keeps_it(
    tmp_path, monkeypatch
):
    folder = create_run_folder(TrainConfig(run_dir=str(tmp_path / "runs")), [])
    lock, seconds = lock_run_folder(folder), [0.0]

    def sleep(passed):
        seconds[0] += passed
        if seconds[0] > 90:
            lock.close()

    clock = SimpleNamespace(monotonic=lambda: seconds[0], sleep=sleep)
    monkeypatch.setattr("benchmarks.suite.time", clock)
    ended = SimpleNamespace(poll=lambda: 0, returncode=0)
    monkeypatch.setattr("benchmarks.cluster_suite.start", lambda *_: ended)
    assert run_training([], tmp_path / "log", folder) == 0
    assert lock.closed


@pytest.mark.slow
def test_runs_train_side_by_side_are_saved_by_ctrl_c_and_resumed(tmp_path):
    pytest.importorskip("ray")
    arguments = ("--games", "CartPole-v1", "--heads", "linear", "--seeds", 2, "--steps", 400_000)
    arguments = (*arguments, "--workers", 2, "--episodes", 1, "--out", tmp_path)
    command = [sys.executable, "-m", "benchmarks.fig3", *map(str, arguments), "--cluster", "local"]
    command += ["--", "--log-interval", "0.2"]  # the second to start still finds the first at work
    runs = tmp_path / "runs"

    def folders():
        return [path for path in runs.glob("CartPole*") if (path / "progress.csv").exists()]

    def rows(run):
        return len((run / "progress.csv").read_text().splitlines()) - 1

    process = subprocess.Popen(command, cwd=ROOT, start_new_session=True)
    try:
        wait_for(lambda: len(folders()) == 2 and all(map(rows, folders())), process, 120)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    finally:
        process.kill()
    for run in folders():
        assert list_checkpoints(run / "checkpoints")
        assert meta(run)["status"] == "interrupted"
    mine = [p for p in psutil.process_iter(["cmdline"]) if str(tmp_path) in str(p.info["cmdline"])]
    assert mine == []

    result = subprocess.run(command, cwd=ROOT, check=False, timeout=180, capture_output=True)
    assert result.returncode == 0, result.stdout + result.stderr
    assert len(folders()) == 2
    for run in folders():
        assert last_checkpoint(run) >= 400_000
        assert len(meta(run)["resumed"]) == 1
    assert (tmp_path / "table.md").exists()

    machines = ["--cpus-per-run", "1000"]
    result = subprocess.run([*command[:-3], *machines], cwd=ROOT, check=False, capture_output=True)
    assert result.returncode == 2
    assert b"--cpus-per-run 1000: no machine" in result.stderr
