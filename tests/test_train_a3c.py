"""The command itself, on a real game, as a user types it."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parent.parent


def command(*arguments):
    return [sys.executable, str(ROOT / "train_a3c.py"), *map(str, arguments)]


@pytest.mark.parametrize("head", ["neurocoder", "hypernet", "linear"])
def test_the_command_trains_on_a_real_game_and_says_how_to_look_at_the_run(head, tmp_path):
    result = subprocess.run(
        command(
            *("--game", "Frostbite", "--workers", 2, "--envs-per-worker", 2, "--head", head),
            *("--total-timesteps", 400, "--num-steps", 10, "--run-dir", tmp_path),
        ),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    assert re.search(r"4\d\d / 400 steps .* steps/s .* return .* ETA", result.stdout)
    assert f"tensorboard --logdir {tmp_path}" in result.stderr
    assert list(tmp_path.glob("latest/checkpoints/step_*.pt"))


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--game", "Frostbit"], "Frostbite"),
        (["--workers", "100000"], "--workers 100000"),
        (["--run-dir", "/proc/nowhere"], "--run-dir /proc/nowhere"),
    ],
)
def test_bad_input_gives_one_line_exit_code_2_and_no_run_folder(arguments, named, tmp_path):
    result = subprocess.run(
        command(*arguments), capture_output=True, text=True, cwd=tmp_path, timeout=60
    )
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert named in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_command_runs_from_any_folder_and_ctrl_c_saves_first(tmp_path):
    process = subprocess.Popen(
        command(
            "--workers", 2, "--envs-per-worker", 1, "--log-interval", "0.2", "--head", "linear"
        ),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    for line in process.stdout:
        if not line.startswith("0 /"):
            break
    os.killpg(process.pid, signal.SIGINT)
    started = time.monotonic()
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130, errors
    assert time.monotonic() - started < 10
    assert "interrupted" in errors
    assert list(tmp_path.glob("runs/latest/checkpoints/step_*.pt"))


def test_no_process_outlives_a_parent_that_is_killed(tmp_path):
    process = subprocess.Popen(
        command(
            "--workers", 2, "--envs-per-worker", 1, "--log-interval", "0.2", "--head", "linear"
        ),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    for line in process.stdout:
        if not line.startswith("0 /"):
            break
    family = psutil.Process(process.pid).children(recursive=True)
    assert len(family) >= 3  # two workers and the fork server
    process.kill()
    process.wait()
    process.stdout.close()
    _, alive = psutil.wait_procs(family, timeout=5)
    assert alive == []
