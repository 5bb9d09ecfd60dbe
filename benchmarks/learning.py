"""Tabulate finished runs: score over the last 100 episodes, time, and statistics of the heads.

    python -m benchmarks.learning runs/*
    python -m benchmarks.learning runs/CartPole* --target 475

Each argument is a run directory; arguments that are not, and unfinished runs, are skipped. Scores
are training scores: raw, of whole episodes with sampled actions. `--target` adds when the mean
return of the last 100 episodes first reached that value.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from agents.analysis.learning_curves import read_progress
from agents.cli import CommandParser, run_command
from agents.errors import UserError, escape_to_one_line
from agents.run_folder import resolve_run
from agents.system.output import print_to_stderr
from benchmarks.markdown import markdown_table
from benchmarks.planned_runs import first_past

PROG = "python -m benchmarks.learning"
HEAD_FIGURES = (
    "active_to_residual_norm",
    "attention_variation",
    "attention_entropy",
    "residual_gate",
)


def summary(run: Path, target: float | None = None) -> dict[str, Any]:
    """One row of the table, from the files of a run.

    Args:
        run: The run directory.
        target: A mean return.

    Raises:
        UserError: If the folder is not a run directory, or the run has not ended.
    """
    try:
        config = json.loads((run / "config.json").read_text())
        meta = json.loads((run / "meta.json").read_text())
        if not (isinstance(config, dict) and isinstance(meta, dict)):
            raise ValueError("holds no table")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"{run} is not a run directory: it has no {error.filename}") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{run}: its config.json or meta.json is damaged ({error})") from error
    missing = {"status", "global_step", "episodes", "recent_return", "seconds"} - set(meta)
    if meta.get("status") == "running" or missing:
        raise UserError(f"{run} has not ended: its status is {meta.get('status')!r}")
    progress = read_progress(run / "progress.csv")
    is_later = progress.steps >= meta["global_step"] / 2
    halfway = progress.returns[is_later & np.isfinite(progress.returns)]
    row = {
        "game": config["game"],
        "head": config["head"] + ("" if config["neurocoder_residual"] else ", no residual"),
        "seed": config["seed"],
        "agent steps": meta["global_step"],
        "episodes": meta["episodes"],
        "return at half": float(halfway[0]) if len(halfway) else None,
        "return": meta["recent_return"],
        "minutes": meta["seconds"] / 60,
    }
    if target is not None:
        first = first_past(progress, target)
        row[f"steps to {target:g}"] = None if first is None else int(progress.steps[first])
        row["seconds to it"] = None if first is None else 3600 * float(progress.hours[first])
    events = EventAccumulator(str(run)).Reload()
    for head in ("actor", "critic"):
        for figure in HEAD_FIGURES:
            tag = f"neurocoder/{head}/{figure}"
            if tag in events.Tags()["scalars"]:
                row[f"{head} {figure}"] = events.Scalars(tag)[-1].value
    return row


def show(value: Any) -> str:
    """Format one cell of the table."""
    if isinstance(value, float):
        return f"{value:.2f}" if abs(value) < 10 else f"{value:.0f}"
    return "-" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def main() -> int:
    """Print the table and return the exit code."""
    parser = CommandParser(prog=PROG, description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run directories")
    parser.add_argument("--target", type=float, help="mean return of the last 100 episodes")
    args = parser.parse_args()
    # `runs/*` also matches the link `runs/latest`.
    runs = dict.fromkeys(resolve_run(run) for run in args.runs)
    rows = []
    for run in runs:
        try:
            rows.append(summary(run, args.target))
        except UserError as error:  # noqa: PERF203 - others are shown
            print_to_stderr(f"skipped: {escape_to_one_line(str(error))}")
    if not rows:
        raise UserError("there is no finished run among these")
    columns = list(dict.fromkeys(column for row in rows for column in row))
    cells = [[show(row.get(column)) for column in columns] for row in rows]
    print(markdown_table(columns, cells))
    return 0


if __name__ == "__main__":
    run_command(main, PROG)
