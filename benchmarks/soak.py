"""Soak test: train while workers, and sometimes the whole program, are killed.

    python -m benchmarks.soak --minutes 30

Every 20 seconds the worker process that has run longest is killed (SIGKILL); less often if there
are so few processes that one would live for less than 110 seconds, or die too often for the run to
go on. The whole program is
killed and resumed several times, and interrupted at the end. The exit code is 1 unless all of this
holds:

- a killed process is replaced within 5 seconds;
- a killed program leaves no process, no socket folder and no half-written file, and its newest
  checkpoint is no older than the interval between checkpoints;
- progress.csv and TensorBoard show the same curve, without gaps or duplicates;
- memory does not leak: it grows by at most 5 MiB a minute in the main process, by 10 in the worker
  processes, and by 5 in others;
- the last checkpoint is of the last step, and all its parameters are finite.

Memory is the proportional set size, in which shared pages count once, without file-backed pages,
whose share depends on other programs. It is read every 5 seconds.

As a replaced process allocates its memory again, some of it only after its warm-up, growth is
measured over the life of each process, from its 60th second on: the least-squares slope over all
processes in the same role, with an intercept for each process. A session, from one kill of the
program to the next, must last two minutes. The evaluator is off, as it would change the memory.
Needs Linux.
"""

import contextlib
import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any, NamedTuple

import psutil
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from agents.checkpoint import list_checkpoints, load_checkpoint, step_of
from agents.cli import CommandParser, run_command
from agents.config import TrainConfig
from agents.run_folder import resolve_run
from agents.training.managed_process import MAX_RESTARTS, RESTART_WINDOW_S
from agents.training.worker_process import spread_workers
from benchmarks.json_file import check_json_file, write_measurements
from benchmarks.throughput import STEPS_PER_UPDATE

PROG = "python -m benchmarks.soak"
ROOT = Path(__file__).parent.parent
KILL_EVERY_S = 20.0
CHECKPOINT_INTERVAL_S = 30.0
# Added to the interval for polling and for writing on a busy machine.
CHECKPOINT_SLACK_S = 5.0
REPLACED_WITHIN_S = 5.0
GONE_WITHIN_S = 5.0
START_UP_S = 120.0
LOOK_EVERY_S = 5.0
# By this age a worker has allocated its environments and, when its warm-up ends and it learns, its
# tensors, even if it hardly gets a core.
SETTLED_S = 60.0
# A worker lives for at least this long.
LEAST_LIFE_S = 110.0
LEAST_SESSION_S = 120.0
# Role -> MiB per minute.
MOST_GROWTH = {"parent": 5.0, "workers": 10.0, "others": 5.0}


class Look(NamedTuple):
    """A process's memory at one moment.

    Attributes:
        session: number of the session, in which process ids are unique.
        pid: process id.
        role: one of `MOST_GROWTH`.
        age: seconds since the process was started.
        memory: bytes.
    """

    session: int
    pid: int
    role: str
    age: float
    memory: int


def growth_by_role(looks: Iterable[Look]) -> dict[str, float]:
    """Role -> MiB per minute by which its processes grow once they have settled.

    The least-squares slope of memory over age, with an intercept for each process.
    """
    lives: dict[str, dict[tuple[int, int], list[Look]]] = {}
    for look in looks:
        if look.age >= SETTLED_S:
            of_role = lives.setdefault(look.role, {})
            of_role.setdefault((look.session, look.pid), []).append(look)
    return {role: _slope(list(of_role.values())) * 60 / 2**20 for role, of_role in lives.items()}


def _slope(lives: Sequence[Sequence[Look]]) -> float:
    """Bytes per second."""
    covariance = variance = 0.0
    for life in lives:
        mean_age = fmean(look.age for look in life)
        covariance += sum((look.age - mean_age) * look.memory for look in life)
        variance += sum((look.age - mean_age) ** 2 for look in life)
    return covariance / variance if variance else 0.0


def leaks(growth: dict[str, float]) -> list[str]:
    """What grows by more than `MOST_GROWTH`, as sentences."""
    return [
        f"memory of {role} grew by {growth[role]:.1f} MiB a minute of their life"
        for role, most in MOST_GROWTH.items()
        if growth.get(role, 0.0) > most
    ]


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
        self._sessions = 0
        least = 1.1 * RESTART_WINDOW_S / (MAX_RESTARTS * self.processes)
        self.kill_every = max(KILL_EVERY_S, least, LEAST_LIFE_S / self.processes)
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
        self._sessions += 1
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
            now = time.monotonic()
            end, kill_at = now + seconds, now + self.kill_every
            while now < end and program.poll() is None:
                time.sleep(max(0.0, min(LOOK_EVERY_S, kill_at - now, end - now)))
                self._measure_memory(program)
                if kill_at <= time.monotonic() < end:
                    self._kill_a_worker(program)
                    kill_at = time.monotonic() + self.kill_every
                now = time.monotonic()
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
        looks = [Look(**look) for at in self.report["memory"] for look in at["processes"]]
        self.report["growth"] = growth_by_role(looks)
        for leak in leaks(self.report["growth"]):
            self._break(leak)

    def _wait_until_all_play(self, program: "subprocess.Popen[bytes]") -> None:
        """Wait until every worker has had time for its first updates."""
        deadline = time.monotonic() + START_UP_S
        resumed_at = self._last_step()
        enough = resumed_at + 10 * STEPS_PER_UPDATE * self.workers  # some updates of each
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
        # torch's compile cache is shared by all programs, and may stay.
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
        workers = _workers_of(program)
        looks = []
        for process in _family_of(program):
            with contextlib.suppress(psutil.NoSuchProcess):  # it ended just now
                is_parent, is_worker = process.pid == program.pid, process.pid in workers
                role = "parent" if is_parent else "workers" if is_worker else "others"
                age = time.time() - process.create_time()
                if memory := _memory_of(process.pid):
                    looks.append(Look(self._sessions, process.pid, role, age, memory)._asdict())
        self.report["memory"].append({"step": self._last_step(), "processes": looks})

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
    """The program and all its descendant processes."""
    parent = psutil.Process(program.pid)
    return [parent, *parent.children(recursive=True)]


def _memory_of(pid: int) -> int:
    """Proportional set size in bytes, without file-backed pages; 0 if the process has ended."""
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
    parser = CommandParser(prog=PROG, description=__doc__)
    parser.add_argument(
        "--minutes", type=float, default=30.0, help="training time without start-ups"
    )
    parser.add_argument("--game", default="Frostbite", help="the Atari game")
    parser.add_argument("--workers", type=int, default=16, help="as of train_a3c.py")
    parser.add_argument(
        "--program-kills",
        type=int,
        default=3,
        help="how often the whole program is killed and resumed",
    )
    parser.add_argument("--json", type=Path, help="file to write all measurements to")
    args = parser.parse_args()
    sessions = args.program_kills + 1
    if args.program_kills < 0:
        parser.error(f"--program-kills {args.program_kills}: must not be negative")
    if not args.minutes * 60 >= sessions * LEAST_SESSION_S:
        least = sessions * LEAST_SESSION_S / 60
        parser.error(
            f"--minutes {args.minutes:g}: too short to tell whether memory leaks; it takes "
            f"{least:g} at least with --program-kills {args.program_kills}"
        )

    check_json_file(args.json)

    folder = Path(tempfile.mkdtemp(prefix="soak-"))  # short: socket paths are limited
    soak = Soak(folder, args.game, args.workers)
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
    memory = [sum(look["memory"] for look in at["processes"]) for at in report["memory"]]
    third = max(len(memory) // 3, 1)
    start, end = median(memory[:third]) / 2**20, median(memory[-third:]) / 2**20
    print(f"memory: {start:,.0f} MiB at first, {end:,.0f} in the end")
    for role, growth in report["growth"].items():
        print(f"growth of {role}: {growth:.2f} MiB a minute")
    print("violated: " + ("; ".join(soak.broken) or "none"))
    return 1 if soak.broken else 0


if __name__ == "__main__":
    run_command(main, PROG)
