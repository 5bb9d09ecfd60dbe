"""Soak test: train while workers, and sometimes the whole program, are killed.

    python -m benchmarks.soak --minutes 30

Every 20 seconds the worker process that has run longest is killed (SIGKILL); less often where there
are so few that the run would give up one which dies all the time. The whole program is killed and
resumed several times, and interrupted at the end. The exit code is 1 unless all of this holds:

- a killed process is replaced within 5 seconds;
- a killed program leaves no process, no socket folder and no half-written file, and its newest
  checkpoint is no older than the interval between checkpoints;
- progress.csv and TensorBoard show the same curve, without gaps or duplicates;
- the memory of all processes together does not grow by more than 5 %;
- the last checkpoint is of the last step, and all its parameters are finite.

Memory is the proportional set size, in which shared pages count once, without file-backed pages,
whose share depends on other programs. It is read before each kill. The evaluator is switched off,
as it would change the memory. Needs Linux.
"""

import argparse
import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import psutil
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from agents.checkpoint import list_checkpoints, load_checkpoint, step_of
from agents.cli import CommandParser, run_command
from agents.config import TrainConfig
from agents.run_folder import resolve_run
from agents.training.managed_process import MAX_RESTARTS, RESTART_WINDOW_S
from agents.training.worker_process import spread_workers
from benchmarks.json_file import check_json_file, write_measurements

PROG = "python -m benchmarks.soak"
ROOT = Path(__file__).parent.parent
KILL_EVERY_S = 20.0
CHECKPOINT_INTERVAL_S = 30.0
# Added to the interval for polling and for writing on a busy machine.
CHECKPOINT_SLACK_S = 5.0
REPLACED_WITHIN_S = 5.0
GONE_WITHIN_S = 5.0
START_UP_S = 120.0
MOST_GROWTH = 0.05


class Soak:
    """One soak test.

    Args:
        folder: The folder of the run and of its temporary files.
        game: The game to train on.
        workers: Number of workers.

    Attributes:
        broken: The violated conditions, as sentences.
        report: The measurements, for JSON.
    """

    def __init__(self, folder: Path, game: str, workers: int) -> None:
        self.folder, self.workers = folder, workers
        self.processes = len(spread_workers(TrainConfig(workers=workers)))
        self.broken: list[str] = []
        self.report: dict[str, Any] = {"replaced_after": [], "program_kills": [], "memory": []}
        least = 1.1 * RESTART_WINDOW_S / (MAX_RESTARTS * self.processes)
        self.kill_every = max(KILL_EVERY_S, least)
        self._began = time.monotonic()
        (folder / "tmp").mkdir()
        options = ["--game", game, "--workers", workers, "--run-dir", folder / "runs"]
        options += ["--checkpoint-interval", CHECKPOINT_INTERVAL_S, "--log-interval", 1]
        self._first = [str(option) for option in [*options, "--eval-interval", 0]]

    @property
    def run(self) -> Path:
        """The run directory."""
        return resolve_run(self.folder / "runs" / "latest")

    def session(self, seconds: float, *, last: bool) -> None:
        """Train and kill workers; then kill the program, or interrupt it if `last`."""
        resume = ["--resume", str(self.run)]
        command = [sys.executable, str(ROOT / "train_a3c.py")]
        command += resume if self.run.exists() else self._first
        with (self.folder / "stderr").open("a") as errors:
            program = subprocess.Popen(
                command,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                env={**os.environ, "TMPDIR": str(self.folder / "tmp")},
                start_new_session=True,
            )
        try:
            self._wait_until_all_play(program)
            end = time.monotonic() + seconds
            while time.monotonic() + self.kill_every < end and program.poll() is None:
                time.sleep(self.kill_every)
                self._measure_memory(program)
                self._kill_a_worker(program)
            time.sleep(max(0.0, end - time.monotonic()))
            if program.poll() is not None:
                self._break(f"the program ended by itself, with exit code {program.returncode}")
            elif last:
                self._interrupt(program)
            else:
                self._kill(program)
        finally:
            program.kill()
            program.wait()

    def check_what_is_left(self) -> None:
        """Check curves, memory and the last checkpoint after the last session."""
        with (self.run / "progress.csv").open() as file:
            steps = [int(row["global_step"]) for row in csv.DictReader(file)]
        events = EventAccumulator(str(self.run), size_guidance={"scalars": 0}).Reload()
        if steps != sorted(set(steps)) or steps != [
            event.step for event in events.Scalars("charts/frames")
        ]:
            self._break("progress.csv and TensorBoard do not show one and the same curve")
        meta = json.loads((self.run / "meta.json").read_text())
        checkpoint = load_checkpoint(list_checkpoints(self.run / "checkpoints")[-1])
        if not meta.get("global_step") == checkpoint.global_step == steps[-1]:
            self._break("the last checkpoint is not that of the last step")
        if not all(bool(tensor.isfinite().all()) for tensor in checkpoint.parameters.values()):
            self._break("some parameters are not finite")
        self.report["restarts_counted"] = checkpoint.training_state.restarts
        self.report["global_step"] = checkpoint.global_step
        memory = [sum(at["by_process"].values()) for at in self.report["memory"]]
        third = max(len(memory) // 3, 1)
        start, end = median(memory[:third]), median(memory[-third:])
        self.report |= {"memory_at_start": start, "memory_at_end": end}
        if end > start * (1 + MOST_GROWTH):
            self._break(f"memory grew by {end / start - 1:.1%}")

    def _wait_until_all_play(self, program: "subprocess.Popen[bytes]") -> None:
        """Wait until every worker has had time for its first updates."""
        deadline = time.monotonic() + START_UP_S
        resumed_at = self._last_step()
        enough = resumed_at + 10 * 80 * self.workers  # agent steps: some updates of each
        while self._last_step() < enough or len(_workers_of(program)) < self.processes:
            if time.monotonic() > deadline or program.poll() is not None:
                raise RuntimeError(f"training did not begin; see {self.folder / 'stderr'}")
            time.sleep(0.2)
        self._say(f"{self.workers} workers play")

    def _kill_a_worker(self, program: "subprocess.Popen[bytes]") -> None:
        before = _workers_of(program)
        if not before:
            raise RuntimeError(f"training has ended; see {self.folder / 'stderr'}")
        victim = min(before, key=lambda pid: psutil.Process(pid).create_time())
        os.kill(victim, signal.SIGKILL)
        killed = time.monotonic()
        while True:
            now = _workers_of(program)
            seconds = time.monotonic() - killed
            if victim not in now and len(now) >= len(before):
                break
            if seconds > 2 * REPLACED_WITHIN_S:
                break
            time.sleep(0.02)
        self.report["replaced_after"].append(seconds)
        self._say(f"killed worker process {victim}, replaced after {seconds:.1f} s")
        if seconds > REPLACED_WITHIN_S:
            self._break(f"a killed worker was not replaced within {REPLACED_WITHIN_S:.0f} s")

    def _kill(self, program: "subprocess.Popen[bytes]") -> None:
        family = _family_of(program)
        program.kill()
        program.wait()
        killed = time.time()
        reached = self._last_step()
        strays = psutil.wait_procs(family, timeout=GONE_WITHIN_S)[1]
        newest = list_checkpoints(self.run / "checkpoints")[-1]
        age = killed - newest.stat().st_mtime
        lost = max(reached - step_of(newest), 0)
        self.report["program_kills"].append({"at": reached, "lost": lost, "seconds": age})
        self._say(f"killed the program: lost {lost:,} agent steps, {age:.1f} s")
        if age > CHECKPOINT_INTERVAL_S + CHECKPOINT_SLACK_S:
            self._break(f"the newest checkpoint was {age:.0f} s old")
        # torch's compile cache is shared by all programs and stays.
        left = [p for p in (self.folder / "tmp").iterdir() if "torchinductor" not in p.name]
        left += self.run.rglob(".*.tmp*")
        if strays or left:
            self._break(f"left behind: {[*strays, *left]}")

    def _interrupt(self, program: "subprocess.Popen[bytes]") -> None:
        family = _family_of(program)
        program.send_signal(signal.SIGINT)
        code = program.wait(timeout=30)
        self._say("interrupted the program")
        strays = psutil.wait_procs(family, timeout=GONE_WITHIN_S)[1]
        if code != 130 or strays:
            self._break(f"the program ended with {code} and left {strays}")

    def _measure_memory(self, program: "subprocess.Popen[bytes]") -> None:
        by_process = {process.pid: _memory_of(process.pid) for process in _family_of(program)}
        self.report["memory"].append(
            {"step": self._last_step(), "parent": program.pid, "by_process": by_process}
        )

    def _last_step(self) -> int:
        try:
            lines = (self.run / "progress.csv").read_text().splitlines(keepends=True)[1:]
        except FileNotFoundError:
            return 0
        rows = [line.split(",") for line in lines if line.endswith("\n")]
        return int(rows[-1][1]) if rows else 0

    def _break(self, promise: str) -> None:
        self.broken.append(promise)
        self._say(f"VIOLATED: {promise}")

    def _say(self, what: str) -> None:
        seconds = time.monotonic() - self._began
        print(f"{seconds:6.0f} s  step {self._last_step():>11,}  {what}", flush=True)


def _family_of(program: "subprocess.Popen[bytes]") -> list[psutil.Process]:
    """The program and all processes that it started."""
    parent = psutil.Process(program.pid)
    return [parent, *parent.children(recursive=True)]


def _memory_of(pid: int) -> int:
    """Bytes of a process without file-backed pages, shared pages in part; 0 if it has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    kilobytes = {line.split(":")[0]: line.split()[1] for line in lines[1:]}
    return 1024 * (int(kilobytes["Pss_Anon"]) + int(kilobytes["Pss_Shmem"]))


def _workers_of(program: "subprocess.Popen[bytes]") -> set[int]:
    """Ids of the worker processes, the children of the fork server."""
    try:
        children = psutil.Process(program.pid).children(recursive=True)
        return {child.pid for child in children if child.ppid() != program.pid}
    except psutil.NoSuchProcess:  # one of them died just now
        return set()


def main() -> int:
    """Run the soak test, print a summary, and return the exit code."""
    parser = CommandParser(
        prog=PROG, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--minutes", type=float, default=30.0, help="training time without start-ups"
    )
    parser.add_argument("--game", default="Frostbite")
    parser.add_argument("--workers", type=int, default=16)
    parser.add_argument("--program-kills", type=int, default=3)
    parser.add_argument("--json", type=Path, help="file to write all measurements to")
    args = parser.parse_args()

    check_json_file(args.json)

    folder = Path(tempfile.mkdtemp(prefix="soak-"))  # short: socket paths are limited
    soak = Soak(folder, args.game, args.workers)
    sessions = args.program_kills + 1
    held = False
    try:
        for number in range(sessions):
            soak.session(60 * args.minutes / sessions, last=number == sessions - 1)
        soak.check_what_is_left()
        held = not soak.broken
    finally:
        write_measurements(args.json, **soak.report, broken=soak.broken)
        if held:
            shutil.rmtree(folder, ignore_errors=True)
        else:
            print(f"the run is kept in {folder}")

    report = soak.report
    kills = report["program_kills"]
    print(
        f"\n{len(report['replaced_after'])} workers killed, replaced after at most "
        f"{max(report['replaced_after'], default=0):.1f} s; "
        f"{report['restarts_counted']} restarts in the last checkpoint"
    )
    print(
        f"program killed {len(kills)} times; agent steps lost: {[kill['lost'] for kill in kills]}"
    )
    start, end = report["memory_at_start"], report["memory_at_end"]
    print(f"memory: {start / 2**20:,.0f} MiB at first, {end / 2**20:,.0f} in the end")
    print("violated: " + ("; ".join(soak.broken) or "none"))
    return 1 if soak.broken else 0


if __name__ == "__main__":
    run_command(main, PROG)
