"""The command under fire: killed, interrupted, suspended, started twice."""

import contextlib
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest

from agents.checkpoint import list_checkpoints, load_checkpoint
from agents.run_folder import resolve_run
from tests.process_harness import (
    ENVS,
    NUM_STEPS,
    OPTIONS,
    ROOT,
    WORKERS,
    command,
    curves,
    family_of,
    last_row,
    meta,
    started,
    step_of_newest,
    wait_for,
    wait_for_handlers,
)

INTERVAL_S = 0.3
# The parent looks at the clock twice a second, and a checkpoint takes a moment.
SLACK_S = 1.0


@pytest.fixture
def temporary(monkeypatch):
    """The folder for temporary files, empty; its name is short enough for sockets."""
    folder = tempfile.mkdtemp(prefix="t-")
    monkeypatch.setenv("TMPDIR", folder)
    yield Path(folder)
    shutil.rmtree(folder)


@pytest.mark.parametrize("kills", [1, pytest.param(10, marks=pytest.mark.slow)])
def test_a_program_that_is_killed_again_and_again_loses_no_more_than_an_interval(
    kills, tmp_path, temporary
):
    generator = random.Random(kills)
    intervals = ("--checkpoint-interval", INTERVAL_S, "--eval-interval", 0)
    arguments = [*OPTIONS, *intervals, "--total-timesteps", 10**9]
    run = tmp_path / "runs" / "latest"
    for _ in range(kills):
        at_start = step_of_newest(run) if run.exists() else 0
        with started(tmp_path, *arguments) as process:
            wait_for(lambda at=at_start: run.exists() and step_of_newest(run) > at, process)
            first = list_checkpoints(run / "checkpoints")[-1].stat().st_mtime
            # Far beyond what may be lost: by then there is another checkpoint, or the test fails.
            wait_for(lambda at=first: seconds_since(at, run) > 2.0, process)
            time.sleep(generator.uniform(0, 2 * INTERVAL_S))
            family = family_of(process)
            process.kill()
            process.wait()
            killed_at = time.time()
            assert psutil.wait_procs(family, timeout=60)[1] == []
            assert things_left(temporary, family) == set()
        newest = list_checkpoints(run / "checkpoints")[-1].stat().st_mtime
        # By the clock of the program's own last row: on a busy machine both are late.
        assert seconds_since(newest, run) < INTERVAL_S + SLACK_S
        assert last_row(run)[0] <= killed_at
        arguments = ["--resume", run]
    at_last = step_of_newest(run)
    budget = at_last + 1000
    with started(tmp_path, "--resume", run, "--total-timesteps", budget) as process:
        assert process.wait(timeout=90) == 0
    assert "Traceback" not in (tmp_path / "stderr").read_text()

    facts = meta(run)
    assert [session["global_step"] for session in facts["resumed"]][-1] == at_last
    assert facts["status"] == "finished"
    assert budget <= facts["global_step"] <= budget + WORKERS * ENVS * NUM_STEPS
    rows, events = curves(run)
    assert rows == sorted(set(rows))
    assert rows == events
    assert rows[-1] == facts["global_step"]
    assert [p.name for p in resolve_run(run).rglob(".*.tmp*")] == []


def seconds_since(moment, run):
    """From then to the last row of progress.csv."""
    row = last_row(run)
    return row[0] - moment if row else 0.0


def test_a_program_killed_while_its_fork_server_is_busy_leaves_no_process(tmp_path, temporary):
    """It hears of nothing as long as it loads, or compiles; a stopped one never does."""

    def fork_servers(process):
        found = []
        for one in family_of(process):
            with contextlib.suppress(psutil.Error):  # it may have ended just now
                if "forkserver" in " ".join(one.cmdline()):
                    found.append(one)
        return found

    with started(tmp_path, *OPTIONS, "--total-timesteps", 10**9) as process:
        wait_for(lambda: fork_servers(process), process)
        time.sleep(1.0)
        family = family_of(process)
        for one in fork_servers(process):
            one.suspend()
        process.kill()
        process.wait()
        assert psutil.wait_procs(family, timeout=60)[1] == []
        assert things_left(temporary, family) == set()


def things_left(temporary, family):
    """What processes have left outside of their run's folder."""
    pids = {process.pid for process in family}
    shared = {
        p for p in Path("/dev/shm").glob("*") if {int(n) for n in re.findall(r"\d+", p.name)} & pids
    }
    return shared | set(temporary.iterdir())


def signalled_at(moment, number, folder):
    """Signal the command and all its processes at a moment; return the seconds it took to end."""
    intervals = ("--checkpoint-interval", 0.3, "--eval-interval", 200, "--eval-episodes", 1)
    with started(folder, *OPTIONS, *intervals, "--max-frames", 400) as process:
        wait_for_handlers(process)
        time.sleep(moment)
        os.killpg(process.pid, number)
        began = time.monotonic()
        code = process.wait(timeout=30)
        seconds = time.monotonic() - began
    errors = (folder / "stderr").read_text()
    assert code == 128 + number, errors
    assert "Traceback" not in errors
    run = folder / "runs" / "latest"
    if not run.exists():  # before there was anything
        return seconds
    facts = meta(run)
    assert facts["status"] == "interrupted"
    if facts["global_step"] > 0:
        newest = load_checkpoint(list_checkpoints(run / "checkpoints")[-1])
        assert newest.global_step == facts["global_step"]
        rows, events = curves(run)
        assert rows == events
        assert rows[-1] == facts["global_step"]
    return seconds


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(30))
def test_a_signal_at_any_moment_ends_the_run_in_order_and_soon(seed, tmp_path):
    generator = random.Random(seed)
    number = generator.choice([signal.SIGINT, signal.SIGTERM])
    # Half of the moments lie in the start-up.
    moment = generator.uniform(0, 3) if seed % 2 else generator.uniform(3, 10)
    assert signalled_at(moment, number, tmp_path) < 10


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_before_the_run_begins_ends_the_program_at_once(number, tmp_path):
    before = cpu_time_of_children()
    signalled_at(0.0, number, tmp_path)
    assert cpu_time_of_children() - before < 0.5  # its imports would take longer
    assert not (tmp_path / "runs").exists()


def cpu_time_of_children():
    """The CPU time of this process's children that have ended, and of theirs, in seconds."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


# The command, but after SIGUSR1 its workers may be silent for 3 seconds only.
LITTLE_PATIENCE = """
import signal, sys
import agents.training.worker_pool
from agents.cli import parse_args
from agents.system.watchdog import Watchdog
from agents.training.supervisor import train

made = []

class Remembered(Watchdog):
    def __init__(self, *args):
        super().__init__(*args)
        made.append(self)

if __name__ == "__main__":
    agents.training.worker_pool.Watchdog = Remembered
    signal.signal(signal.SIGUSR1, lambda *_: [setattr(m, "timeout", 3.0) for m in made])
    sys.exit(train(parse_args(sys.argv[1:])))
"""


@pytest.mark.slow
def test_a_program_that_is_suspended_as_a_whole_goes_on_with_the_same_workers(tmp_path):
    script = tmp_path / "program.py"
    script.write_text(LITTLE_PATIENCE)
    run = tmp_path / "runs" / "latest"
    process = subprocess.Popen(
        [sys.executable, str(script), *map(str, OPTIONS), "--total-timesteps", str(10**9)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        progress = run / "progress.csv"
        wait_for(lambda: progress.exists() and (last_row(run) or (0, 0))[1] > 0, process)
        process.send_signal(signal.SIGUSR1)
        time.sleep(0.5)
        os.killpg(process.pid, signal.SIGSTOP)
        time.sleep(5)
        step = last_row(run)[1]
        os.killpg(process.pid, signal.SIGCONT)
        wait_for(lambda: last_row(run)[1] > step + 200, process)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "killing it" not in errors
    assert "died" not in errors


@pytest.mark.slow
def test_a_second_program_on_the_same_run_is_refused_and_the_first_goes_on(tmp_path):
    run = tmp_path / "runs" / "latest"
    with started(tmp_path, *OPTIONS, "--checkpoint-interval", 0.5) as process:
        wait_for(lambda: run.exists() and step_of_newest(run) > 0, process)
        second = subprocess.run(
            command("--resume", run), cwd=tmp_path, capture_output=True, text=True, timeout=60
        )
        assert second.returncode == 2
        assert second.stderr.count("\n") == 1
        assert "another process is training this run" in second.stderr
        step = step_of_newest(run)
        wait_for(lambda: step_of_newest(run) > step, process)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 143
    assert meta(run)["status"] == "interrupted"
    assert "resumed" not in meta(run)
