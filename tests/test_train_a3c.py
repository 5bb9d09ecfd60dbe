"""The command itself, on a real game, as a user types it."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from agents.cli import parse_args, run_command
from agents.launch import train

ROOT = Path(__file__).parent.parent


def command(*arguments):
    words = (word if isinstance(word, bytes) else str(word) for word in arguments)
    return [sys.executable, str(ROOT / "train_a3c.py"), *words]


@pytest.mark.parametrize(
    "head",
    ["neurocoder", *(pytest.param(h, marks=pytest.mark.slow) for h in ("hypernet", "linear"))],
)
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
    # Header, progress and summary are one text; nothing is to be warned of.
    header, *progress = result.stdout.splitlines()
    assert header.startswith(f"Frostbite, {head} head, 2 workers")
    assert re.search(r"4\d\d / 400 agent steps .* steps/s .* return .* ETA", "\n".join(progress))
    assert any(f"tensorboard --logdir {tmp_path}" in line for line in progress)
    assert result.stderr == ""
    assert list(tmp_path.glob("latest/checkpoints/step_*.safetensors"))


def test_bad_input_gives_one_line_exit_code_2_and_no_run_folder(tmp_path):
    result = subprocess.run(
        command("--game", b"\xff"), capture_output=True, text=True, cwd=tmp_path, timeout=60
    )
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert "--game" in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--run-dir", "/proc/nowhere"], "--run-dir /proc/nowhere"),
        (["--num-steps", "100000", "--envs-per-worker", "1024"], "lower --num-steps"),
    ],
)
def test_what_only_the_machine_refuses_gives_the_same(
    arguments, named, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as exit_:
        run_command(lambda: train(parse_args(arguments), arguments), "train_a3c.py")
    message = capsys.readouterr().err
    assert exit_.value.code == 2
    assert message.count("\n") == 1
    assert named in message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--game", "Frostbit"], "Frostbite"),
        (["--workers", "100000"], "--workers 100000"),
        (["--run-dir", "two\nlines"], "--run-dir two\\nlines"),
        (["--resume", "x" * 5000], "--resume xxx"),
        (["--learning-rate", "nan"], "--learning-rate nan"),
    ],
)
def test_a_bad_flag_is_refused_in_one_line_that_names_it(arguments, named, capsys):
    with pytest.raises(SystemExit) as exit_:
        parse_args(arguments)
    message = capsys.readouterr().err
    assert exit_.value.code == 2
    assert message.count("\n") == 1
    assert named in message


@contextlib.contextmanager
def training(folder, *more):
    """The command in the given folder, in a process group of its own; killed at the end."""
    options = ("--workers", 2, "--envs-per-worker", 1, "--head", "linear", "--log-interval", 0.2)
    with (folder / "stderr").open("w") as stderr:
        process = subprocess.Popen(
            command(*options, *more),
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            start_new_session=True,
        )
    watchdog = threading.Timer(120, process.kill)
    watchdog.start()
    try:
        yield process
    finally:
        watchdog.cancel()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def wait_for_updates(process):
    for line in process.stdout:
        if re.match("[1-9][0-9,]* / ", line):
            return
    raise AssertionError("the run ended before it had trained")


def test_the_command_runs_from_any_folder_and_ctrl_c_saves_first(tmp_path):
    with training(tmp_path) as process:
        wait_for_updates(process)
        os.killpg(process.pid, signal.SIGINT)
        rest, _ = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "interrupted" in rest
    assert list(tmp_path.glob("runs/latest/checkpoints/step_*.safetensors"))


def test_ctrl_c_while_the_workers_are_starting_ends_the_run_in_order(tmp_path):
    with training(tmp_path) as process:
        process.stdout.readline()  # the header
        time.sleep(0.5)
        os.killpg(process.pid, signal.SIGINT)
        process.communicate(timeout=30)
    errors = (tmp_path / "stderr").read_text()
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    meta = json.loads((tmp_path / "runs" / "latest" / "meta.json").read_text())
    assert meta["status"] == "interrupted"


def wait_until_handled(number, process):
    """Wait until a program that loops has noticed the signal: two that wait for it are one."""

    def status(field):
        assert process.poll() is None
        lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
        (value,) = [line.split()[1] for line in lines if line.startswith(f"{field}:")]
        return value

    def pauses():
        return int(status("voluntary_ctxt_switches"))

    while any(int(status(field), 16) >> (number - 1) & 1 for field in ("SigPnd", "ShdPnd")):
        time.sleep(0.01)
    before = pauses()
    while pauses() < before + 2:  # Python's own handler runs before the main thread waits again
        time.sleep(0.01)


def test_a_second_ctrl_c_leaves_at_once(tmp_path):
    with training(tmp_path) as process:
        wait_for_updates(process)
        workers = psutil.Process(process.pid).children(recursive=True)
        for worker in workers:
            worker.suspend()  # now the run cannot end in order
        try:
            process.send_signal(signal.SIGINT)
            wait_until_handled(signal.SIGINT, process)
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=30) == 130
        finally:
            for worker in workers:
                with contextlib.suppress(psutil.NoSuchProcess):
                    worker.resume()
        # In order, it would have ended as "interrupted", after a few seconds for the workers.
        meta = json.loads((tmp_path / "runs" / "latest" / "meta.json").read_text())
        assert meta["status"] == "running"
        assert psutil.wait_procs(workers, timeout=60)[1] == []


def workers_of(process):
    """The worker processes of the command: its fork server's children."""
    workers = []
    for child in psutil.Process(process.pid).children():
        with contextlib.suppress(psutil.Error):  # it has ended
            if "forkserver" in " ".join(child.cmdline()):
                workers += child.children()
    return workers


def test_no_process_outlives_a_parent_that_is_killed(tmp_path):
    # With updates that take most of a minute, workers cannot notice by what they send.
    with training(tmp_path, "--num-steps", 20_000) as process:
        while len(workers_of(process)) < 2:
            assert process.poll() is None
            time.sleep(0.1)
        time.sleep(3)
        family, workers = psutil.Process(process.pid).children(recursive=True), workers_of(process)
        assert len(workers) == 2
        assert set(workers) < set(family)
        process.kill()
        process.wait()
        assert psutil.wait_procs(family, timeout=10)[1] == []
