"""Agent steps per second of training, compared with the emulator and Stable-Baselines3's A2C.

    python -m benchmarks.throughput
    python -m benchmarks.throughput --heads linear --cores none --sweep-workers 1 2 4 8 16
    python -m benchmarks.throughput --heads linear --cores none --flags "" "--frame-skip 32"

All variants are measured in alternation over several rounds, so that a drift of the machine's speed
affects all alike; medians are printed. An agent step is 4 frames, unless a flag says otherwise.
Start-up is excluded: the clock starts after the first updates.

- `emulator`: one vector environment of 16 games with random actions and one thread per core.
- head / core / torso: `train_a3c.py` with these, and otherwise the defaults or `--flags`.
- `SB3 A2C`: Stable-Baselines3's A2C with its own defaults ("CnnPolicy", 5 steps per update) on 16
  of its own environments in subprocesses. Skipped unless `pip install -e ".[benchmarks]"` was run.

`--sweep-workers` tabulates the rate against the number of workers, compared with the emulator with
as many threads, up to one per core.
"""

import argparse
import csv
import importlib.util
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np

from agents.cli import CommandParser, parse_args, positive_count, run_command
from agents.config import SettingError, TrainConfig, choices
from agents.errors import UserError
from agents.system.resources import available_cpus
from benchmarks.json_file import check_json_file, write_measurements
from benchmarks.markdown import markdown_table
from benchmarks.system_info import describe, system_info
from envs import AtariConfig, AtariTrainingEnv, num_actions, resolve_game

PROG = "python -m benchmarks.throughput"
HEADS = choices("head")
CORES = choices("core")
TORSOS = ("nips",)
ROOT = Path(__file__).parent.parent
STEPS_PER_UPDATE = TrainConfig().num_steps * TrainConfig().envs_per_worker
EMULATOR, SB3 = "emulator", "SB3 A2C"
SB3_ENVIRONMENTS = 16


def emulator_rate(config: AtariConfig, threads: int, seconds: float) -> float:
    """Agent steps per second of 16 environments with random actions."""
    env = AtariTrainingEnv(config, 16, seeds=np.arange(16), num_threads=threads)
    env.reset()
    times = time_steps(env.step, env.num_envs, num_actions(config), seconds)
    env.close()
    return 1e6 / times["wall"]


def time_steps(
    step: Callable[[np.ndarray], Any], num_envs: int, num_actions: int, seconds: float
) -> dict[str, float]:
    """Play random actions; microseconds of wall and CPU time per agent step."""
    rng = np.random.default_rng(0)
    agent_steps, wall, cpu = 0, time.perf_counter(), time.process_time()
    while (elapsed := time.perf_counter() - wall) < seconds:
        step(rng.integers(num_actions, size=num_envs))
        agent_steps += num_envs
    cpu = time.process_time() - cpu
    return {"wall": 1e6 * elapsed / agent_steps, "cpu": 1e6 * cpu / agent_steps}


def training_rate(
    game: str, workers: int, head: str, core: str, torso: str, seconds: float, *flags: str
) -> float:
    """Agent steps per second of `train_a3c.py` over `seconds`, after its first updates."""
    return training_figures(game, workers, head, core, torso, seconds, *flags)["rate"]


def training_figures(
    game: str, workers: int, head: str, core: str, torso: str, seconds: float, *flags: str
) -> dict[str, float]:
    """Measure `train_a3c.py` over `seconds`, after its first updates.

    Args:
        game: The game to train on.
        workers: Number of workers.
        head: The head of the network.
        core: The core of the network.
        torso: The torso of the network.
        seconds: Duration of the measurement.
        *flags: Further flags of `train_a3c.py`.

    Returns:
        `rate`, the agent steps per second, and the means of the columns of `progress.csv` over the
        measurement, by name.

    Raises:
        UserError: The training ended before `seconds` were measured; the message says why.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(ROOT / "train_a3c.py"), "--game", game]
        command += ["--workers", str(workers), "--head", head, "--core", core, "--torso", torso]
        command += ["--run-dir", folder, "--log-interval", "0.5", *flags]
        errors = Path(folder, "errors")
        with errors.open("wb") as file:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=file)
        assert process.stdout is not None
        first: tuple[float, int] | None = None
        last = (0.0, 0)
        try:
            for line in process.stdout:
                step = line.partition(b" / ")[0].replace(b",", b"")
                if not step.isdigit():
                    continue  # a header, not progress
                last = (time.perf_counter(), int(step))
                # By this step all workers run: the fastest alone could not have reached it.
                if first is None and last[1] >= 10 * workers * STEPS_PER_UPDATE:
                    first = last
                if first is not None and last[0] - first[0] >= seconds:
                    break
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=60)
        finally:
            process.kill()
        if first is None or last[0] - first[0] < seconds:
            *_, reason = ["no message", *errors.read_text(errors="replace").splitlines()]
            raise UserError(f"training with {head} head and {core} core ended early: {reason}")
        means = column_means(Path(folder) / "latest" / "progress.csv", first[1], last[1])
    return {**means, "rate": (last[1] - first[1]) / (last[0] - first[0])}


def column_means(path: Path, after: int, until: int) -> dict[str, float]:
    """Means of a CSV file's columns over the rows with after < global_step <= until."""
    values: dict[str, list[float]] = {}
    with path.open() as file:
        for row in csv.DictReader(file):
            if after < int(row["global_step"]) <= until:
                for name, value in row.items():
                    values.setdefault(name, []).extend([float(value)] if value else [])
    return {name: fmean(column) for name, column in values.items() if column}


def sb3_rate(game: str, seconds: float) -> float:
    """Agent steps per second of Stable-Baselines3's A2C, in a subprocess."""
    command = [sys.executable, "-m", "benchmarks.throughput", "--sb3-only"]
    command += ["--game", game, "--seconds", str(seconds)]
    # Captured: each emulator prints a banner.
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if result.returncode:
        raise RuntimeError(f"{SB3} failed:\n{result.stderr}")
    return float(result.stdout.splitlines()[-1])


def train_sb3(game: str, seconds: float) -> float:
    """Train with Stable-Baselines3 in this process; return the agent steps per second."""
    from stable_baselines3 import A2C
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.env_util import make_atari_env
    from stable_baselines3.common.vec_env import SubprocVecEnv, VecFrameStack

    class Clock(BaseCallback):
        """Counts the steps of all environments after the first update."""

        start: tuple[float, int] | None = None
        rate = 0.0
        _updates = -1

        def _on_rollout_start(self) -> None:
            self._updates += 1
            if self._updates == 1:
                self.start = (time.perf_counter(), self.num_timesteps)

        def _on_step(self) -> bool:
            if self.start is None:
                return True
            elapsed = time.perf_counter() - self.start[0]
            self.rate = (self.num_timesteps - self.start[1]) / elapsed
            return elapsed < seconds

    # Its wrapper skips frames, so it needs an ALE environment that does not.
    env = VecFrameStack(
        make_atari_env(
            f"{resolve_game(game).name}NoFrameskip-v4",
            n_envs=SB3_ENVIRONMENTS,
            seed=0,
            vec_env_cls=SubprocVecEnv,
        ),
        n_stack=4,
    )
    clock = Clock()
    try:
        A2C("CnnPolicy", env, device="cpu", seed=0).learn(2**40, callback=clock)
    finally:
        env.close()
    return clock.rate


def variants(args: argparse.Namespace) -> dict[str, Callable[[], float]]:
    """Name -> function that measures it once."""
    usual = atari_rules(args.game)
    emulators = {EMULATOR: usual}
    for flags in args.flags:
        if (env := atari_rules(args.game, flags)) != usual:
            emulators[_with_flags(EMULATOR, flags)] = env
    measures: dict[str, Callable[[], float]] = {
        name: partial(emulator_rate, env, available_cpus(), args.seconds)
        for name, env in emulators.items()
    }
    if importlib.util.find_spec("stable_baselines3"):
        measures[SB3] = partial(sb3_rate, args.game, args.seconds)
    else:
        print(f'{SB3} is left out: pip install -e ".[benchmarks]"', file=sys.stderr)
    for flags, torso, core, head in product(args.flags, args.torsos, args.cores, args.heads):
        what = (args.game, args.workers, head, core, torso, args.seconds, *shlex.split(flags))
        measures[_with_flags(f"{head} / {core} / {torso}", flags)] = partial(training_rate, *what)
    return measures


def _with_flags(name: str, flags: str) -> str:
    return f"{name}, {flags}" if flags else name


def atari_rules(game: str, flags: str = "") -> AtariConfig:
    """The rules of the game in training with these flags.

    Raises:
        SettingError: If the flags are invalid, or the game is not an Atari game.
    """
    config = parse_args(["--game", game, *shlex.split(flags)])
    if not isinstance(config.env, AtariConfig):
        raise SettingError("game", config.game, "is no Atari game")
    return config.env


def sweep(args: argparse.Namespace) -> dict[str, Callable[[], float]]:
    """As `variants`, for each number of workers, and the emulator with as many threads."""
    measures: dict[str, Callable[[], float]] = {}
    for workers in args.sweep_workers:
        threads = min(workers, available_cpus())
        measures.setdefault(
            _emulator(workers),
            partial(emulator_rate, atari_rules(args.game), threads, args.seconds),
        )
        for torso in args.torsos:
            for core in args.cores:
                for head in args.heads:
                    measures[f"{head} / {core} / {torso}, {workers}"] = partial(
                        training_rate, args.game, workers, head, core, torso, args.seconds
                    )
    return measures


def _emulator(workers: int) -> str:
    """The emulator's name with one thread per worker, up to the number of cores."""
    return f"{EMULATOR}, {min(workers, available_cpus())}"


def measure(
    measures: dict[str, Callable[[], float]],
    rounds: int,
    after_each: Callable[[dict[str, list[float]]], None] = lambda _: None,
) -> dict[str, list[float]]:
    """Measure all in alternation.

    Args:
        measures: Name -> function that measures it once.
        rounds: How often each is measured.
        after_each: Called after each measurement, with the rates so far.

    Returns:
        The rates of all rounds by name.
    """
    rates: dict[str, list[float]] = {name: [] for name in measures}
    total = rounds * len(measures)
    for number in range(total):
        name = list(measures)[number % len(measures)]
        print(f"{number + 1} of {total}: {name} ...", file=sys.stderr, end=" ", flush=True)
        rates[name].append(measures[name]())
        print(f"{rates[name][-1]:,.0f} agent steps/s", file=sys.stderr, flush=True)
        after_each(rates)
    return rates


def table(rates: dict[str, list[float]]) -> str:
    """Median rates, and their ratios to SB3 and the emulator."""
    medians = {name: median(values) for name, values in rates.items()}
    rows = []
    for name, rate in medians.items():
        own = _with_flags(EMULATOR, name.partition(", ")[2])
        emulator = own if own in medians else EMULATOR
        # SB3 plays by the usual rules, whatever the flags.
        comparable = SB3 in medians and emulator == EMULATOR
        of_sb3 = f"{rate / medians[SB3]:.2f}" if comparable else "-"
        rows.append((name, f"{rate:,.0f}", of_sb3, f"{rate / medians[emulator]:.2f}"))
    columns = ("head / core / torso", "agent steps/s", "of SB3's", "of the emulator's")
    return markdown_table(columns, rows)


def sweep_table(rates: dict[str, list[float]], workers: list[int]) -> str:
    """Median rates by number of workers, each with its ratio to the emulator's."""
    medians = {name: median(values) for name, values in rates.items()}
    kinds = [n.rpartition(", ")[0] for n in medians if n.endswith(f", {workers[0]}")]
    kinds = [kind for kind in kinds if kind != EMULATOR]
    rows = []
    for count in workers:
        emulator = medians[_emulator(count)]
        cells = [
            f"{medians[f'{kind}, {count}']:,.0f} ({medians[f'{kind}, {count}'] / emulator:.2f})"
            for kind in kinds
        ]
        rows.append((str(count), f"{emulator:,.0f}", *cells))
    return markdown_table(("workers", "emulator", *kinds), rows)


def make_parser() -> CommandParser:
    """The command line."""
    parser = CommandParser(prog=PROG, description=__doc__)
    parser.add_argument("--game", default="Frostbite", help="the Atari game")
    parser.add_argument("--workers", type=int, default=16, help="as of train_a3c.py")
    parser.add_argument(
        "--heads", nargs="+", default=list(HEADS), choices=HEADS, help="heads to measure"
    )
    parser.add_argument(
        "--cores", nargs="+", default=list(CORES), choices=CORES, help="cores to measure"
    )
    parser.add_argument(
        "--torsos",
        nargs="+",
        default=list(TORSOS),
        choices=("nips", "nature"),
        help="torsos to measure",
    )
    parser.add_argument(
        "--flags",
        nargs="+",
        default=[""],
        metavar="FLAGS",
        help='measure all with each of these further flags of training, such as "" '
        '"--frame-skip 32"; each is quoted, and one without a value begins with a blank',
    )
    parser.add_argument(
        "--sweep-workers",
        type=int,
        nargs="+",
        metavar="N",
        help="measure with each of these numbers of workers instead",
    )
    parser.add_argument("--seconds", type=float, default=15.0, help="duration of each measurement")
    parser.add_argument(
        "--rounds", type=positive_count, default=3, help="measurements of each, whose median counts"
    )
    parser.add_argument("--json", type=Path, help="file to write the single measurements to")
    parser.add_argument("--sb3-only", action="store_true", help=argparse.SUPPRESS)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, write JSON after each measurement if asked, print a table; return the exit code."""
    parser = make_parser()
    args = parser.parse_args(argv)
    if args.sb3_only:
        print(train_sb3(args.game, args.seconds))
        return 0
    if args.sweep_workers and args.flags != [""]:
        parser.error("--flags cannot be combined with --sweep-workers")
    check_json_file(args.json)
    measures = sweep(args) if args.sweep_workers else variants(args)

    info: dict[str, Any] = system_info()
    print(f"{describe(info)}; {args.game}\n", flush=True)

    def keep(rates: dict[str, list[float]]) -> None:
        write_measurements(args.json, machine=info, rates=rates)

    rates = measure(measures, args.rounds, keep)
    print(sweep_table(rates, args.sweep_workers) if args.sweep_workers else table(rates))
    return 0


if __name__ == "__main__":
    run_command(main, PROG)
