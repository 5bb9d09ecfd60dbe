"""Agent steps per second with a central learner, compared with the emulator alone.

    python -m benchmarks.gpu --learner cuda
    python -m benchmarks.gpu --learner cpu --workers 1 2 --heads linear --seconds 5

For each number of workers, the emulator (with as many threads, up to one per core) and each head
and core are measured in alternation over several rounds; medians are printed. All else is as in
`benchmarks.throughput`. `--learner worker` measures the same without a central learner.

The columns besides agent steps/s are explained in `docs/metrics.md`.
"""

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch

from agents.cli import CommandParser, positive_count, run_command
from agents.config import TrainConfig
from agents.system.resources import available_cpus
from agents.training.preflight import check_learner
from benchmarks.json_file import check_json_file, write_measurements
from benchmarks.markdown import markdown_table
from benchmarks.system_info import describe, system_info
from benchmarks.throughput import (
    CORES,
    EMULATOR,
    HEADS,
    atari_rules,
    emulator_rate,
    training_figures,
)
from envs import AtariConfig

PROG = "python -m benchmarks.gpu"
# Column of `progress.csv` -> heading in the table.
COLUMNS = {
    "updates_per_s": "updates/s",
    "update_ms": "ms an update",
    "batch_wait": "s waited",
    "slots_waiting": "rollouts waiting",
    "policy_lag": "policy lag",
}

Figures = dict[str, float]
Found = dict[int, dict[str, list[Figures]]]


def measure(
    args: argparse.Namespace, rules: AtariConfig, after_each: Callable[[Found], None]
) -> Found:
    """Measure the emulator and all variants.

    Args:
        args: The command line.
        rules: The rules of the game.
        after_each: Called after each measurement, with the figures so far.

    Returns:
        Number of workers -> variant -> the figures of each round.
    """
    flags = ("--learner", args.learner, "--learner-batch", str(args.learner_batch))
    found: Found = {}
    for workers in args.workers:
        variants = {
            f"{head} / {core}": partial(
                training_figures, args.game, workers, head, core, args.torso, args.seconds, *flags
            )
            for core in args.cores
            for head in args.heads
        }
        found[workers] = {name: [] for name in (EMULATOR, *variants)}
        for number in range(args.rounds):
            threads = min(workers, available_cpus())
            rate = emulator_rate(rules, threads, args.seconds)
            found[workers][EMULATOR].append({"rate": rate})
            after_each(found)
            for name, run in variants.items():
                print(f"{workers} workers, round {number + 1}: {name} ...", file=sys.stderr)
                found[workers][name].append(run())
                after_each(found)
    return found


def table(found: Found) -> str:
    """The medians over the rounds."""
    columns = ["workers", "head / core", "agent steps/s", "of the emulator's", *COLUMNS.values()]
    rows = []
    for workers, variants in found.items():
        emulator = median(figures["rate"] for figures in variants[EMULATOR])
        for name, rounds in variants.items():
            rate = median(figures["rate"] for figures in rounds)
            cells = [str(workers), name, f"{rate:,.0f}", f"{rate / emulator:.2f}"]
            for column in COLUMNS:
                values = [figures[column] for figures in rounds if column in figures]
                cells.append(f"{median(values):.3g}" if values else "-")
            rows.append(cells)
    return markdown_table(columns, rows)


def main() -> int:
    """Measure, write JSON after each measurement if asked, print a table; return the exit code."""
    parser = CommandParser(prog=PROG, description=__doc__)
    parser.add_argument("--learner", default="cuda", help="as of train_a3c.py")
    parser.add_argument(
        "--learner-batch", type=int, default=TrainConfig().learner_batch, help="as of train_a3c.py"
    )
    parser.add_argument("--game", default="Frostbite", help="the Atari game")
    parser.add_argument(
        "--workers",
        type=int,
        nargs="+",
        default=[1, 2, 4, 8, 16],
        metavar="N",
        help="workers to measure with",
    )
    parser.add_argument(
        "--heads", nargs="+", default=list(HEADS), choices=HEADS, help="heads to measure"
    )
    parser.add_argument(
        "--cores", nargs="+", default=list(CORES), choices=CORES, help="cores to measure"
    )
    parser.add_argument("--torso", default="nips", choices=("nips", "nature"), help="the torso")
    parser.add_argument("--seconds", type=float, default=10.0, help="duration of each measurement")
    parser.add_argument(
        "--rounds", type=positive_count, default=2, help="measurements of each, whose median counts"
    )
    parser.add_argument("--json", type=Path, help="file to write the single measurements to")
    args = parser.parse_args()
    check_json_file(args.json)
    check_learner(TrainConfig(learner=args.learner, learner_batch=args.learner_batch))
    rules = atari_rules(args.game)

    info: dict[str, Any] = system_info()
    device = "no device"
    if args.learner.startswith("cuda"):
        device = torch.cuda.get_device_name(torch.device(args.learner))
    info["device"] = device
    title = (
        "every worker learns"
        if args.learner == "worker"
        else f"learner on {args.learner} ({device}), {args.learner_batch} rollouts a batch"
    )
    print(f"{describe(info)}; {args.game}; {title}\n", flush=True)

    def keep(found: Found) -> None:
        write_measurements(args.json, machine=info, figures=found)

    print(table(measure(args, rules, keep)))
    return 0


if __name__ == "__main__":
    run_command(main, PROG)
