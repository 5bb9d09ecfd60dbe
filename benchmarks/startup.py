"""Seconds from the command to the first update, step by step, and the memory of all processes.

    python -m benchmarks.startup --workers 16

Every start runs `train_a3c.py` in a new process, whose workers record when they reach each step.
Seconds count from the command; medians of several starts are printed. One more start goes on until
all workers play and an evaluation is in progress. Its memory is the sum of the proportional set
sizes (PSS, in which a page that n processes share counts 1/n in each) of the parent and all its
descendants, the highest of several readings. Linux only: the sizes come from /proc.
"""

import argparse
import contextlib
import functools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

# The traced command and its workers load this file first, so it must not import anything that
# `train_a3c.py` would not have imported by then.

PROG = "python -m benchmarks.startup"
ROOT = Path(__file__).parent.parent
PATIENCE_S = 120.0
LOOKS, SECONDS_BETWEEN_LOOKS = 10, 0.5
# In the order in which they happen.
STEPS = (
    "interpreter",
    "settings; fork server begun",
    "imports",
    "folder, network, log",
    "first worker begins",
    "first worker is built",
    "first update",
    "last worker begins",
    "last worker's first update",
)


# --- inside the traced command --------------------------------------------------------------------


def traced_command(folder: Path, arguments: Sequence[str]) -> int:
    """Do what `train_a3c.py` does, and record when each step is reached.

    Args:
        folder: where the marks go.
        arguments: arguments of the command.

    Returns:
        The exit code.
    """
    mark = functools.partial(_mark, folder / "parent")
    mark("interpreter")
    import train_a3c  # noqa: F401 - first: it sets the number of threads
    from agents.cli import parse_args
    from agents.system.processes import process_context
    from agents.training import FORKSERVER_PRELOAD

    config = parse_args(list(arguments))
    mark("settings; fork server begun")
    process_context(FORKSERVER_PRELOAD)
    from agents.training.supervisor import train

    mark("imports")
    return train(config, arguments, group_class=MarkedGroups(folder))


class MarkedGroups:
    """Makes the workers of a process, which leave marks; pickled for each process.

    Args:
        folder: The folder of the marks.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._is_sent = False

    def __getstate__(self) -> dict[str, Any]:
        if not self._is_sent:  # the supervisor starts the first process
            self._is_sent = True
            _mark(self.folder / "parent", "folder, network, log")
        return vars(self)

    def __call__(self, spec: Any, store: Any) -> Any:
        """Make the workers in their process."""
        marks = {worker: self.folder / f"worker-{worker}" for worker in spec.workers}

        def mark(what: str) -> None:
            for path in marks.values():
                _mark(path, what)

        mark("begins")
        from agents.a3c.update import Update
        from agents.a3c.worker_group import WorkerGroup

        class MarkedGroup(WorkerGroup):
            rounds = 0

            def updates(self) -> Iterator[Update]:
                self.rounds += 1
                for worker, update in zip(self.workers, super().updates(), strict=True):
                    if self.rounds <= 2:
                        _mark(marks[worker], f"update {self.rounds}")
                    yield update

        group = MarkedGroup(spec, store)
        mark("built")
        return group


def _mark(path: Path, what: str) -> None:
    with path.open("a") as file:
        file.write(json.dumps([what, time.monotonic(), os.getpid()]) + "\n")


# --- outside of it --------------------------------------------------------------------------------


class Start:
    """A start of the command, until `stop`.

    Args:
        folder: folder of the run and the marks.
        workers: number of workers.
        arguments: further arguments of the command.
    """

    def __init__(self, folder: Path, workers: int, arguments: Sequence[str]) -> None:
        self.folder, self.workers = folder, workers
        self.marks_folder = folder / "marks"
        self.marks_folder.mkdir()
        settings = ["--workers", str(workers), "--run-dir", str(folder / "runs"), *arguments]
        command = [sys.executable, "-m", "benchmarks.startup", "--traced", str(self.marks_folder)]
        self._log = (folder / "log").open("w+")
        self.began = time.monotonic()
        self.process = subprocess.Popen(
            [*command, "--", *settings],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=self._log,
        )

    def marks(self, name: str) -> dict[str, tuple[float, int]]:
        """The marks of a process: what -> seconds since the command, and the process id."""
        try:
            text = (self.marks_folder / name).read_text()
        except FileNotFoundError:
            return {}
        lines = [json.loads(line) for line in text.splitlines(keepends=True) if line[-1] == "\n"]
        return {what: (when - self.began, pid) for what, when, pid in lines}

    def worker_marks(self) -> list[dict[str, tuple[float, int]]]:
        """The marks of all workers."""
        return [self.marks(f"worker-{index}") for index in range(self.workers)]

    def wait_until_all_play(self, updates: int) -> None:
        """Return when every worker has made this many updates, 1 or 2.

        Raises:
            RuntimeError: if the command ends, or this takes too long.
        """
        deadline = time.monotonic() + PATIENCE_S
        while not all(f"update {updates}" in marks for marks in self.worker_marks()):
            self.check(deadline)
            time.sleep(0.1)

    def check(self, deadline: float) -> None:
        """Raise RuntimeError if the command has ended, or the deadline has passed."""
        if self.process.poll() is not None or time.monotonic() > deadline:
            self._log.seek(0)
            raise RuntimeError(f"the workers did not come to play:\n{self._log.read()}")

    def stop(self) -> None:
        """End the command, as Ctrl-C does."""
        try:
            if self.process.poll() is None:
                self.process.send_signal(signal.SIGINT)
                self.process.wait(timeout=60)
        finally:
            self.process.kill()
            self.process.wait()
            self._log.close()

    def steps(self) -> dict[str, float]:
        """When each of STEPS was reached, in seconds since the command."""
        steps = {what: when for what, (when, _) in self.marks("parent").items()}
        workers = self.worker_marks()
        for step, choose, what in (
            ("first worker begins", min, "begins"),
            ("first worker is built", min, "built"),
            ("first update", min, "update 1"),
            ("last worker begins", max, "begins"),
            ("last worker's first update", max, "update 1"),
        ):
            steps[step] = choose(marks[what][0] for marks in workers)
        return {step: steps[step] for step in STEPS}


def measure_start(workers: int, arguments: Sequence[str]) -> dict[str, float]:
    """Start once; return when each of STEPS was reached."""
    with tempfile.TemporaryDirectory() as folder:
        start = Start(Path(folder), workers, arguments)
        try:
            start.wait_until_all_play(updates=1)
        finally:
            start.stop()
        return start.steps()


def measure_memory(workers: int, arguments: Sequence[str]) -> dict[str, float]:
    """Start once, with an evaluation; return role -> MiB of all processes in that role."""
    with tempfile.TemporaryDirectory() as folder:
        interval = ["--eval-interval", "1", "--eval-episodes", "100"]
        start = Start(Path(folder), workers, [*arguments, *interval])
        try:
            start.wait_until_all_play(updates=2)
            pids = {marks["begins"][1] for marks in start.worker_marks()}
            looks = []
            for _ in range(LOOKS):
                time.sleep(SECONDS_BETWEEN_LOOKS)
                start.check(time.monotonic() + PATIENCE_S)
                looks.append(memory_by_role(start.process.pid, pids))
        finally:
            start.stop()
    return max(looks, key=lambda look: sum(look.values()))


def memory_by_role(parent: int, workers: set[int]) -> dict[str, float]:
    """PSS in MiB of the parent, the workers together, the evaluator, and all other processes."""
    parents = process_tree(parent)
    fork_servers = {parents[pid] for pid in workers if pid in parents} - {parent}
    memory = {"parent": 0.0, "fork server": 0.0, "workers": 0.0, "evaluator": 0.0, "others": 0.0}
    for pid in parents:
        if pid == parent:
            role = "parent"
        elif pid in workers:
            role = "workers"
        elif pid in fork_servers:
            role = "fork server"
        else:
            role = "evaluator" if parents[pid] in fork_servers else "others"
        memory[role] += proportional_set_size(pid) / 2**20
    return memory


def process_tree(pid: int) -> dict[int, int]:
    """Process id -> its parent's, of a process and all below it."""
    import psutil

    top, parents = psutil.Process(pid), {}
    for process in [top, *top.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            parents[process.pid] = process.ppid()
    return parents


def proportional_set_size(pid: int) -> int:
    """PSS of a process in bytes; 0 if it has ended."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    sizes = [line.split()[1] for line in text.splitlines() if line.startswith("Pss:")]
    return 1024 * int(sizes[0]) if sizes else 0


def table(starts: list[dict[str, float]], memory: dict[str, float], workers: int) -> str:
    """The tables of steps and memory."""
    from benchmarks.markdown import markdown_table

    seconds = {step: [start[step] for start in starts] for step in STEPS}
    rows = [
        (step, *(f"{choose(values):.2f}" for choose in (median, min, max)))
        for step, values in seconds.items()
    ]
    text = markdown_table(("reached", "after, s", "from", "to"), rows)
    if memory:
        sizes = {**memory, "all": sum(memory.values())}
        rows = [
            (f"{workers} workers" if role == "workers" else role, f"{size:,.0f}")
            for role, size in sizes.items()
        ]
        text += "\n\n" + markdown_table(("processes", "PSS, MiB"), rows)
    return text


def main() -> int:
    """Measure, write JSON after each start if asked, and print tables.

    After Ctrl-C, the tables show what was measured so far.
    """
    parser = argparse.ArgumentParser(
        prog=PROG, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workers", type=int, default=16, help="as of train_a3c.py (default: 16)")
    parser.add_argument("--starts", type=int, default=3, help="starts to measure (default: 3)")
    parser.add_argument("--no-memory", action="store_true", help="measure starts only")
    parser.add_argument("--json", type=Path, help="where to write the single measurements")
    parser.add_argument("--traced", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("arguments", nargs="*", help="of train_a3c.py, after `--`")
    args = parser.parse_args()
    for name in ("workers", "starts"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} {getattr(args, name)}: must be at least 1")
    if args.traced:
        return traced_command(args.traced, args.arguments)

    from benchmarks.json_file import check_json_file, write_measurements
    from benchmarks.system_info import describe, system_info

    check_json_file(args.json)
    facts = system_info()
    print(f"{describe(facts)}\n", flush=True)
    starts: list[dict[str, float]] = []
    memory: dict[str, float] = {}
    try:
        for number in range(args.starts):
            print(f"start {number + 1} of {args.starts}", file=sys.stderr, flush=True)
            starts.append(measure_start(args.workers, args.arguments))
            write_measurements(args.json, machine=facts, starts=starts, memory=memory)
        if not args.no_memory:
            print("last: memory", file=sys.stderr, flush=True)
            memory = measure_memory(args.workers, args.arguments)
            write_measurements(args.json, machine=facts, starts=starts, memory=memory)
    finally:
        if starts:
            print(table(starts, memory, args.workers))
    return 0


if __name__ == "__main__":
    if "--traced" in sys.argv:
        sys.exit(main())
    from agents.cli import run_command

    run_command(main, PROG)
