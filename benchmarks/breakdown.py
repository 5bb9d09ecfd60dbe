"""Where a worker's time goes: microseconds per agent step, part by part.

    python -m benchmarks.breakdown --workers 16 1 --heads linear neurocoder

This is a complete training run, as by `train_a3c.py`, except that a stopwatch measures the parts of
its workers. Each worker's clock starts when all of them play. The time of a part excludes that of
the parts inside it, so that the parts add up to the total.

- wall: a worker's time divided by its own agent steps. With more workers than cores this includes
  waiting for a core, wherever a worker happened to be stopped.
- CPU: CPU time of the process. With more workers than cores, this is what counts: the number of
  cores divided by the sum, with the supervisor's share, is the rate.
- emulator threads: the part of the CPU time that was spent outside the worker's own thread.

The stopwatch itself takes some 4 us of CPU per agent step of a batch of 4, spread over the parts.

Finally, the time of the emulator by itself, with random actions: as a worker uses it, without the
worker's wrapper, and with more games and a thread for every core.
"""

import functools
import json
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# As in `train_a3c.py`, set before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import torch
from ale_py.vector_env import AtariVectorEnv
from gymnasium.vector import AutoresetMode

from agents.a3c.parameter_store import ParameterStore
from agents.a3c.update import Update
from agents.a3c.worker_group import GroupSpec, WorkerGroup
from agents.cli import CommandParser, run_command
from agents.config import TrainConfig
from agents.networks.inference import InferenceHead
from agents.system.files import write_atomically
from agents.system.resources import available_cpus
from agents.training import supervisor
from agents.training.worker_process import spread_workers
from benchmarks.json_file import check_json_file, write_measurements
from benchmarks.markdown import markdown_table
from benchmarks.system_info import describe, system_info
from benchmarks.throughput import atari_rules, time_steps
from envs import AtariConfig, AtariTrainingEnv, num_actions, resolve_game
from envs.config import SCREEN_SIZE, STACK_SIZE

PROG = "python -m benchmarks.breakdown"
WARM_UP_UPDATES = 2
PATIENCE_S = 120.0
OUTSIDE = "between updates: counting, sending the record"
ENVIRONMENT = "environment: step"
# In display order.
PARTS = (
    ENVIRONMENT,
    "acting: torso",
    "acting: core",
    "acting: heads",
    "acting: rest of the network",
    "acting: sampling, writing down",
    "learning: core forward",
    "learning: heads forward",
    "learning: rest of the network",
    "learning: returns, losses, clipping",
    "learning: core and heads backward",
    "learning: torso backward",
    "pull",
    "push",
    OUTSIDE,
)


class Stopwatch:
    """Divides the time of a process among named parts; a nested part pauses the outer one.

    Attributes:
        seconds: part -> wall, CPU of the process, and CPU of this thread.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = {}
        self._parts = [OUTSIDE]
        self._last = _clocks()
        self._since = self._last[0]

    def restart(self) -> None:
        """Discard the measurements; the parts in progress go on."""
        self._charge()
        self.seconds.clear()
        self._since = self._last[0]

    def read(self) -> float:
        """Charge the parts in progress; return the wall seconds divided among parts so far."""
        self._charge()
        return self._last[0] - self._since

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Charge the time inside the block to a part."""
        self._charge()
        self._parts.append(name)
        try:
            yield
        finally:
            self._charge()
            self._parts.pop()

    def wrap(self, owner: Any, method: str, name: str | Callable[[], str]) -> None:
        """Charge an object's method to a part.

        Args:
            owner: the object.
            method: the method's name; nothing happens if the object has no such method.
            name: name of the part, or a function that returns it for each call.
        """
        call = getattr(owner, method, None)
        if call is None:
            return

        @functools.wraps(call)
        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.part(name if isinstance(name, str) else name()):
                return call(*args, **kwargs)

        setattr(owner, method, timed)

    def _charge(self) -> None:
        now = _clocks()
        seconds = self.seconds.setdefault(self._parts[-1], [0.0, 0.0, 0.0])
        for i, (new, old) in enumerate(zip(now, self._last, strict=True)):
            seconds[i] += new - old
        self._last = now


def _clocks() -> tuple[float, float, float]:
    return time.perf_counter(), time.process_time(), time.thread_time()


class TimedHead:
    """An inference head whose calls are charged to a part.

    Args:
        head: The head.
        watch: The stopwatch.
    """

    def __init__(self, head: InferenceHead, watch: Stopwatch) -> None:
        self.cached_weights = head.cached_weights
        self._head, self._watch = head, watch

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Return the head's output."""
        with self._watch.part("acting: heads"):
            return self._head(x)


class TimedGroup(WorkerGroup):
    """The workers of a process, which measure their parts once all processes play.

    Args:
        folder: Where the measurements go, as `process-{first worker}.json`.
        seconds: Duration of the measurement.
        spec: See `WorkerGroup`.
        store: See `WorkerGroup`.
    """

    def __init__(
        self, folder: Path, seconds: float, spec: GroupSpec, store: ParameterStore
    ) -> None:
        super().__init__(spec, store)
        self.folder, self.seconds = folder, seconds
        self._started: float | None = None
        self._reported = False
        self._rounds = self._steps = 0
        self.watch = watch = Stopwatch()

        watch.wrap(self.env, "step", ENVIRONMENT)
        watch.wrap(self.collector, "collect", "acting: sampling, writing down")
        watch.wrap(store, "pull", "pull")
        watch.wrap(store, "push", "push")
        network = self.network
        for method in ("act_logits", "act_values", "forward_heads_of_workers"):
            watch.wrap(network, method, self._phase("{}: rest of the network"))
        watch.wrap(network.core, "forward", self._phase("acting: core", "learning: core forward"))
        for name in ("inference_actor", "inference_critic"):
            setattr(network, name, TimedHead(getattr(network, name), watch))
        for layer in (network.actor, network.critic):
            watch.wrap(layer, "forward", self._phase("acting: heads", "learning: heads forward"))
            watch.wrap(layer, "forward_groups", "learning: heads forward")
        # Learning reuses what the torso computed while acting.
        for method in ("forward", "forward_cached"):
            watch.wrap(network.torso, method, "acting: torso")
        watch.wrap(network.torso, "backward", "learning: torso backward")
        watch.wrap(torch.autograd, "grad", "learning: core and heads backward")

    def _phase(self, acting: str, learning: str | None = None) -> Callable[[], str]:
        names = acting.format("acting"), (learning or acting).format("learning")
        return lambda: names[torch.is_grad_enabled()]

    def updates(self) -> Iterator[Update]:
        """Make updates as any group does; start and end the measurement when it is time."""
        first = self.workers[0]
        if self._started is None:
            if self._rounds == WARM_UP_UPDATES:
                (self.folder / f"ready-{first}").touch()
            if len(list(self.folder.glob("ready-*"))) == len(spread_workers(self.config)):
                self._steps = 0
                self.watch.restart()
                self._started = time.monotonic()
                (self.folder / f"started-{first}").touch()
        elif not self._reported and time.monotonic() - self._started >= self.seconds:
            self._reported = True
            report = {
                "wall": self.watch.read(),
                "seconds": self.watch.seconds,
                "agent_steps": self._steps,
            }
            path = self.folder / f"process-{first}.json"
            write_atomically(path, json.dumps(report).encode())
        updates = super().updates()
        self._rounds += 1
        while True:
            with self.watch.part("learning: returns, losses, clipping"):
                update = next(updates, None)
            if update is None:
                return
            self._steps += update.agent_steps
            yield update


def measure(config: TrainConfig, seconds: float, **train: Any) -> dict[str, Any]:
    """Train with timed workers.

    Args:
        config: the settings.
        seconds: duration of every worker's measurement.
        **train: further arguments of `agents.training.supervisor.train`.

    Returns:
        "reports", those of the workers, and "supervisor", the CPU seconds of this process in each
        second of the measurement.

    Raises:
        KeyboardInterrupt: if something other than this function interrupted the training.
        RuntimeError: if the training ended before the workers had finished measuring.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        result: dict[str, Any] = {}
        watcher = threading.Thread(
            target=_end_when_measured,
            args=(folder, len(spread_workers(config)), result, PATIENCE_S + 2 * seconds),
            daemon=True,
        )
        group_class = functools.partial(TimedGroup, folder, seconds)
        watcher.start()
        try:
            code = supervisor.train(config, group_class=group_class, **train)
        finally:
            result.setdefault("over", True)
            watcher.join()
    if "reports" not in result:
        if code == 128 + signal.SIGINT and "late" not in result:
            raise KeyboardInterrupt
        raise RuntimeError("training ended before the workers had measured")
    return result


def _end_when_measured(
    folder: Path, processes: int, result: dict[str, Any], patience: float
) -> None:
    """Wait for the workers' reports, then end the training as Ctrl-C does."""
    deadline = time.monotonic() + patience
    start: tuple[float, float] | None = None
    while "over" not in result:
        now = time.monotonic(), time.process_time()
        if start is None and next(folder.glob("started-*"), None):
            start = now
        paths = list(folder.glob("process-*.json"))
        if start and len(paths) == processes:
            result["reports"] = [json.loads(path.read_text()) for path in paths]
            result["supervisor"] = (now[1] - start[1]) / (now[0] - start[0])
        elif now[0] > deadline:
            result["late"] = True
        if "reports" in result or "late" in result:
            os.kill(os.getpid(), signal.SIGINT)
            return
        time.sleep(0.05)


def rows(reports: list[dict[str, Any]]) -> dict[str, list[float]]:
    """Part -> microseconds per agent step: wall, CPU, other threads' CPU; over all workers."""
    agent_steps = sum(report["agent_steps"] for report in reports)
    parts = {part for report in reports for part in report["seconds"]}
    sums = {
        part: np.sum([r["seconds"].get(part, [0.0] * 3) for r in reports], axis=0)
        for part in sorted(parts, key=PARTS.index)
    }
    return {
        part: [1e6 * x / agent_steps for x in (wall, cpu, max(cpu - own, 0.0))]
        for part, (wall, cpu, own) in sums.items()
    }


def rate(reports: list[dict[str, Any]]) -> float:
    """Agent steps per second of all workers together."""
    return float(sum(report["agent_steps"] / report["wall"] for report in reports))


def table(title: str, result: dict[str, Any]) -> str:
    """The table of one configuration."""
    parts, per_second = rows(result["reports"]), rate(result["reports"])
    wall, cpu, other = np.sum(list(parts.values()), axis=0)
    supervisor_cpu = 1e6 * result["supervisor"] / per_second
    busy = 1e-6 * per_second * (cpu + supervisor_cpu)
    lines = [
        f"### {title}",
        "",
        f"{per_second:,.0f} steps/s, {busy:.2f} cores busy. Microseconds per agent step:",
        "",
        "| part | CPU | share | emulator threads | wall |",
        "|---|---|---|---|---|",
    ]
    for part, (part_wall, part_cpu, part_other) in parts.items():
        threads = f"{part_other:.0f}" if part == ENVIRONMENT else ""
        share = f"{part_cpu / (cpu + supervisor_cpu):.1%}"
        lines.append(f"| {part} | {part_cpu:.1f} | {share} | {threads} | {part_wall:.1f} |")
    share = f"{supervisor_cpu / (cpu + supervisor_cpu):.1%}"
    lines.append(f"| supervisor, in its own process | {supervisor_cpu:.1f} | {share} | | |")
    lines.append(f"| all | {cpu + supervisor_cpu:.1f} | 100.0% | {other:.0f} | {wall:.1f} |")
    return "\n".join(lines)


def emulator_alone(rules: AtariConfig, games: int, seconds: float) -> dict[str, dict[str, float]]:
    """The emulator's own time: as a worker uses it, bare, and with a thread for every core."""
    seeds = np.arange(games)
    env = AtariTrainingEnv(rules, games, seeds=seeds)
    env.reset()
    results = {
        f"AtariTrainingEnv, {games} games, 1 thread": time_steps(
            env.step, games, num_actions(rules), seconds
        )
    }
    env.close()
    for count, threads in ((games, 1), (16, available_cpus())):
        bare = AtariVectorEnv(
            resolve_game(rules.game).rom,
            count,
            num_threads=threads,
            repeat_action_probability=0.25,
            autoreset_mode=AutoresetMode.NEXT_STEP,
            img_height=SCREEN_SIZE,
            img_width=SCREEN_SIZE,
            grayscale=True,
            stack_num=STACK_SIZE,
            frameskip=rules.frame_skip,
            maxpool=True,
            reward_clipping=False,
            use_fire_reset=False,
        )
        bare.reset(seed=np.arange(count))
        results[f"AtariVectorEnv, {count} games, {threads} thread{'s' * (threads > 1)}"] = (
            time_steps(bare.step, count, len(bare.ale.get_action_set()), seconds)
        )
        bare.close()
    return results


def emulator_table(results: dict[str, dict[str, float]]) -> str:
    """The table of `emulator_alone`."""
    rows = [
        (name, f"{1e6 / result['wall']:,.0f}", f"{result['cpu']:.1f}", f"{result['wall']:.1f}")
        for name, result in results.items()
    ]
    columns = ("what", "steps/s", "CPU us per step", "wall us per step")
    return f"### The emulator alone\n\n{markdown_table(columns, rows)}"


def main() -> int:
    """Measure every configuration, print a table of each, write JSON if asked; return 0."""
    parser = CommandParser(prog=PROG, description=__doc__)
    defaults = TrainConfig()
    parser.add_argument("--game", default="Frostbite", help="the Atari game")
    parser.add_argument(
        "--workers",
        type=int,
        nargs="+",
        default=[defaults.workers, 1],
        help="workers to measure with",
    )
    parser.add_argument(
        "--heads", nargs="+", default=["linear", "neurocoder"], help="heads to measure"
    )
    parser.add_argument("--cores", nargs="+", default=["none"], help="cores to measure")
    parser.add_argument("--torsos", nargs="+", default=["nips"], help="torsos to measure")
    parser.add_argument(
        "--envs-per-worker", type=int, default=defaults.envs_per_worker, help="as of train_a3c.py"
    )
    parser.add_argument(
        "--num-steps", type=int, default=defaults.num_steps, help="as of train_a3c.py"
    )
    parser.add_argument("--seconds", type=float, default=10.0, help="duration of each measurement")
    parser.add_argument("--json", type=Path, help="where to write the single measurements")
    args = parser.parse_args()
    check_json_file(args.json)
    rules = atari_rules(args.game)

    facts = system_info()
    print(f"{describe(facts)}; {args.game}\n", flush=True)
    configurations = [
        (workers, head, core, torso)
        for workers in args.workers
        for torso in args.torsos
        for core in args.cores
        for head in args.heads
    ]
    results: dict[str, Any] = {}
    for number, (workers, head, core, torso) in enumerate(configurations, 1):
        title = f"{head} / {core} / {torso}, {workers} workers x {args.envs_per_worker} games"
        print(f"{number} of {len(configurations)}: {title}", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory() as run_dir:
            config = TrainConfig(
                game=args.game,
                workers=workers,
                envs_per_worker=args.envs_per_worker,
                num_steps=args.num_steps,
                head=head,
                core=core,
                torso=torso,
                eval_interval=0,
                run_dir=run_dir,
                quiet=True,
            )
            results[title] = measure(config, args.seconds)
        write_measurements(args.json, machine=facts, results=results)
        print(table(title, results[title]) + "\n", flush=True)
    print("last: the emulator alone", file=sys.stderr, flush=True)
    emulator = emulator_alone(rules, args.envs_per_worker, min(args.seconds, 5.0))
    print(emulator_table(emulator))
    write_measurements(args.json, machine=facts, results=results, emulator=emulator)
    return 0


if __name__ == "__main__":
    run_command(main, PROG)
