"""Runs as files alone, for tests that draw and compare them."""

import csv
from dataclasses import asdict

from agents.config import TrainConfig
from agents.monitoring.progress_csv import COLUMNS
from agents.run_folder import write_json

DAY = 1_700_000_000.0


def write_run(folder, rows=((1000, 10.0), (2000, 20.0)), seconds_per_row=10.0, **settings):
    """A run whose `progress.csv` has the given (step, return) rows, at even intervals.

    A hundred episodes end in each interval.
    """
    folder.mkdir(parents=True)
    write_json(folder / "config.json", asdict(TrainConfig(**settings)))
    write_progress(folder, rows, seconds_per_row)
    return folder


def write_progress(folder, rows, seconds_per_row=10.0):
    last = 0
    with (folder / "progress.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="")
        writer.writeheader()
        for number, (step, score) in enumerate(rows):
            row = {
                "wall_time": DAY + number * seconds_per_row,
                "global_step": step,
                "episodes": 100 * number,
                "recent_return": "" if score is None else score,
                "SPS": (step - last) / seconds_per_row,
            }
            writer.writerow(row)
            last = step
