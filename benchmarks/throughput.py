"""Decisions per second of training, for every head and core, beside the emulator's own rate.

    python -m benchmarks.throughput

Contestants take turns, several rounds of each, so that a machine whose speed drifts hits all alike;
medians are printed. Start-up does not count: the clock runs from the first update on.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np

from agents.config import TrainConfig
from envs import TrainingEnv, resolve_game

HEADS = ("linear", "hypernet", "neurocoder")
CORES = ("none", "lstm")
ROOT = Path(__file__).parent.parent
STEPS_PER_UPDATE = TrainConfig().num_steps * TrainConfig().envs_per_worker


def emulator_rate(game: str, seconds: float) -> float:
    """Decisions per second of 16 environments with random actions, on all cores."""
    threads = os.cpu_count() or 1
    env = TrainingEnv(resolve_game(game), 16, seeds=np.arange(16), num_threads=threads)
    env.reset()
    rng = np.random.default_rng(0)
    steps, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        env.step(rng.integers(env.num_actions, size=env.num_envs))
        steps += env.num_envs
    rate = steps / (time.perf_counter() - start)
    env.close()
    return rate


def training_rate(game: str, workers: int, head: str, core: str, seconds: float) -> float:
    """Decisions per second of `train_a3c.py` over `seconds`, counted from its first updates on."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(ROOT / "train_a3c.py"), "--game", game]
        command += ["--workers", str(workers), "--head", head, "--core", core]
        command += ["--run-dir", folder, "--log-interval", "0.5"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        assert process.stdout is not None
        first: tuple[float, int] | None = None
        last = (0.0, 0)
        try:
            for line in process.stdout:
                last = (time.perf_counter(), int(line.split(b"/")[0].replace(b",", b"")))
                # By then all workers play: each has had the time for two updates.
                if first is None and last[1] >= 2 * workers * STEPS_PER_UPDATE:
                    first = last
                if first is not None and last[0] - first[0] >= seconds:
                    break
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=60)
        finally:
            process.kill()
    if first is None:
        raise RuntimeError(f"training with {head} head and {core} core ended early")
    return (last[1] - first[1]) / (last[0] - first[0])


def main() -> None:
    """Measure, print a table, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--game", default="Frostbite")
    parser.add_argument("--workers", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=15.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="where to write the single measurements")
    args = parser.parse_args()

    rates: dict[str, list[float]] = {}
    for round_number in range(args.rounds):
        rates.setdefault("emulator", []).append(emulator_rate(args.game, args.seconds))
        for core in CORES:
            for head in HEADS:
                rate = training_rate(args.game, args.workers, head, core, args.seconds)
                rates.setdefault(f"{head} / {core}", []).append(rate)
                print(f"round {round_number + 1}: {head} / {core} {rate:,.0f}", file=sys.stderr)

    emulator = median(rates["emulator"])
    print("| head / core | decisions/s | of the emulator's |\n|---|---|---|")
    for name, values in rates.items():
        print(f"| {name} | {median(values):,.0f} | {median(values) / emulator:.2f} |")
    if args.json:
        args.json.write_text(json.dumps({"arguments": sys.argv[1:], "rates": rates}, indent=2))


if __name__ == "__main__":
    main()
