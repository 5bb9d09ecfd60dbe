"""Gather finished runs into a table: score over the last 100 games, speed, and the heads' state.

    python -m benchmarks.learning runs/*

Each argument is the folder of a run. Scores are those of training: sampled actions, raw scores,
whole games.
"""

import argparse
import csv
import json
from pathlib import Path
from typing import Any

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from agents.run_folder import resolve_run

HEAD_FIGURES = (
    "active_to_residual_norm",
    "attention_variation",
    "attention_entropy",
    "residual_gate",
)


def summary(run: Path) -> dict[str, Any]:
    """What a run's own files say of it.

    Raises:
        FileNotFoundError: if the folder is not that of a run.
        ValueError: if the run has not ended.
    """
    config = json.loads((run / "config.json").read_text())
    meta = json.loads((run / "meta.json").read_text())
    if "global_step" not in meta:
        raise ValueError(f"{run} has not ended: its status is {meta['status']!r}")
    with (run / "progress.csv").open() as file:
        halfway = [
            float(row["recent_return"])
            for row in csv.DictReader(file)
            if row["recent_return"] and int(row["global_step"]) >= meta["global_step"] / 2
        ]
    row = {
        "game": config["game"],
        "head": config["head"] + ("" if config["neurocoder_residual"] else ", no residual"),
        "seed": config["seed"],
        "decisions": meta["global_step"],
        "games": meta["episodes"],
        "return at half": halfway[0] if halfway else None,
        "return": meta["recent_return"],
        "minutes": meta["seconds"] / 60,
    }
    events = EventAccumulator(str(run)).Reload()
    for head in ("actor", "critic"):
        for figure in HEAD_FIGURES:
            tag = f"neurocoder/{head}/{figure}"
            if tag in events.Tags()["scalars"]:
                row[f"{head} {figure}"] = events.Scalars(tag)[-1].value
    return row


def show(value: Any) -> str:
    """A cell of the table."""
    if isinstance(value, float):
        return f"{value:.2f}" if abs(value) < 10 else f"{value:.0f}"
    return "-" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path)
    # A glob over the runs' folder also finds the link to the latest of them.
    runs = dict.fromkeys(resolve_run(run) for run in parser.parse_args().runs)
    rows = [summary(run) for run in runs]
    columns = list(dict.fromkeys(column for row in rows for column in row))
    print("| " + " | ".join(columns) + " |\n|" + "---|" * len(columns))
    for row in rows:
        print("| " + " | ".join(show(row.get(column)) for column in columns) + " |")


if __name__ == "__main__":
    main()
