"""The command as tests run it that interrupt and kill it: small, in a process group of its own."""

import contextlib
import csv
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from agents.checkpoint import list_checkpoints, load_checkpoint
from agents.run_folder import resolve_run

ROOT = Path(__file__).parent.parent
WORKERS, ENVS, NUM_STEPS = 2, 2, 10
OPTIONS = (
    *("--game", "Pong", "--head", "linear", "--workers", WORKERS, "--envs-per-worker", ENVS),
    *("--num-steps", NUM_STEPS, "--log-interval", 0.2),
)


def command(*arguments):
    return [sys.executable, str(ROOT / "train_a3c.py"), *map(str, arguments)]


def run_in_bash(text):
    """A command as typed, of which `| head -1` or the like may be part, with its own exit code."""
    words = ["bash", "-o", "pipefail", "-c", text]
    return subprocess.run(words, cwd=ROOT, capture_output=True, check=False)


@contextlib.contextmanager
def started(folder, *arguments, seconds=180):
    """The command, with its output in files of the folder; killed at the end with all its group."""
    with (folder / "stdout").open("a") as stdout, (folder / "stderr").open("a") as stderr:
        process = subprocess.Popen(
            command(*arguments), cwd=folder, stdout=stdout, stderr=stderr, start_new_session=True
        )
    watchdog = threading.Timer(seconds, process.kill)
    watchdog.start()
    try:
        yield process
    finally:
        watchdog.cancel()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_for(happened, process, seconds=90.0):
    """Wait until happened(); the process must not end before that."""
    deadline = time.monotonic() + seconds
    while not happened():
        assert process.poll() is None, "the program ended too early"
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def wait_for_handlers(process):
    """Wait until the program answers signals itself; before that, only Python's start-up runs."""
    status = Path(f"/proc/{process.pid}/status")

    def handles_sigterm():
        (line,) = [ln for ln in status.read_text().splitlines() if ln.startswith("SigCgt")]
        return int(line.split()[1], 16) >> (signal.SIGTERM - 1) & 1

    wait_for(handles_sigterm, process)


def family_of(process):
    return [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]


def step_of_newest(run):
    """The global step of the newest checkpoint; 0 if there is none."""
    files = list_checkpoints(run / "checkpoints")
    return load_checkpoint(files[-1]).global_step if files else 0


def last_row(run):
    """Wall time and global step of the last whole row of progress.csv; None without one."""
    lines = (run / "progress.csv").read_text().splitlines(keepends=True)
    rows = [line.split(",") for line in lines[1:] if line.endswith("\n")]
    return (float(rows[-1][0]), int(rows[-1][1])) if rows else None


def meta(run):
    return json.loads((run / "meta.json").read_text())


def curves(run):
    """The steps of progress.csv, and those of TensorBoard's curve of the same."""
    with (run / "progress.csv").open() as file:
        rows = [int(row["global_step"]) for row in csv.DictReader(file)]
    events = EventAccumulator(str(resolve_run(run)), size_guidance={"scalars": 0}).Reload()
    return rows, [event.step for event in events.Scalars("charts/frames")]
