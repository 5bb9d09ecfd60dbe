"""What is cleared away when the program is killed."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[3]

PROGRAM = """
import sys, time
from pathlib import Path
from agents.system.reaper import Reaper

reaper = Reaper()
reaper.kill_on_exit(int(sys.argv[1]))
reaper.remove_on_exit(Path(sys.argv[2]) / "sockets")
reaper.clean_temp_files_on_exit(Path(sys.argv[2]) / "run")
print("told", flush=True)
time.sleep(60)
"""


@pytest.fixture
def sleeper():
    """A process that is stopped, and so notices nothing."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    os.kill(process.pid, signal.SIGSTOP)
    yield process
    process.kill()
    process.wait()


def test_a_killed_program_leaves_no_process_no_folder_and_no_half_written_file(tmp_path, sleeper):
    (tmp_path / "sockets" / "deep").mkdir(parents=True)
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(sleeper.pid), str(tmp_path)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert program.stdout.readline() == b"told\n"
    whole = tmp_path / "run" / "checkpoints" / "step_1.safetensors"
    half = tmp_path / "run" / "checkpoints" / f".step_2.safetensors.{program.pid}.tmp"
    for file in (whole, half):
        file.write_bytes(b"x")
    (reaper,) = psutil.Process(program.pid).children()
    reaper.send_signal(signal.SIGTERM)  # which it has blocked
    assert sleeper.poll() is None
    os.killpg(program.pid, signal.SIGKILL)  # the reaper is not of this group
    program.communicate()
    assert sleeper.wait(timeout=60) == -signal.SIGKILL
    assert psutil.wait_procs([reaper], timeout=60)[1] == []
    assert not (tmp_path / "sockets").exists()
    assert whole.exists()
    assert not half.exists()
