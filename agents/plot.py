"""Plot learning curves of runs: mean and spread over seeds, with a panel for each game.

    python -m agents.plot runs --out curves.png

RUN is a run directory, a folder of runs, or a pattern; runs may be unfinished, resumed, and of any
length. The plot's numbers are written beside it (.png, .svg, .pdf) as .csv; `--out NAME.csv` writes
them alone. Exit code 0; 2 for invalid arguments or runs that cannot be read.
"""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from agents.analysis.aggregation import (
    AXES,
    CSV_START,
    STEPS,
    AggregatedCurve,
    aggregate_over_seeds,
    aggregated_csv,
)
from agents.analysis.learning_curves import (
    METRICS,
    SCALE,
    TRAINING,
    LearningCurve,
    NoDataError,
    find_runs,
    read_curve,
)
from agents.analysis.plotting import FORMATS, plot_curves, require_plotting
from agents.cli import CommandParser, run_command, whole_number
from agents.config import flag
from agents.run_folder import RunFolderError
from agents.system.files import write_atomically
from agents.system.output import print_to_stdout, quantity, warn


def main(argv: Sequence[str] | None = None) -> int:
    """Read the command line, plot, and return the exit code."""
    parser = _parser()
    args = parser.parse_args(argv)
    out = Path(args.out)
    if out.suffix.lower() not in {".csv", *(f".{name}" for name in FORMATS)}:
        parser.error(f"--out {out}: must end in .csv, .{', .'.join(FORMATS)}")
    if out.suffix.lower() != ".csv":
        require_plotting()
    if not _may_overwrite(out.with_suffix(".csv")):
        parser.error(f"--out {out}: {out.with_suffix('.csv')} is not of a plot, and would be lost")
    curves = gather(args.runs, args.metric)
    labels, common = name_curves([curve.parts for curve in curves])
    try:
        written = write_curves(
            out, curves, labels, args.x, args.metric, args.title, common, dpi=args.dpi
        )
    except OSError as error:
        parser.error(f"--out {out}: cannot be written ({error.strerror or error})")
    runs = quantity(len(curves), "run")
    print_to_stdout(f"{runs}, written to {' and '.join(map(str, written))}")
    return 0


def gather(arguments: Sequence[str], metric: str) -> list[LearningCurve]:
    """Read the curves of all runs that the arguments refer to.

    Runs that were found in folders and cannot be read, and runs without data, are skipped with a
    warning.

    Args:
        arguments: Run directories, folders of runs, or patterns.
        metric: The metric of the curves.

    Returns:
        The curves, sorted by game, network and seed.

    Raises:
        RunFolderError: If a run that was named cannot be read, or no run has data.
    """
    named, found = find_runs(arguments)
    curves = []
    for folder in [*named, *found]:
        try:
            curves.append(read_curve(folder, metric))
        except RunFolderError as error:  # noqa: PERF203
            alone = len(named) + len(found) == 1
            if alone or (folder in named and not isinstance(error, NoDataError)):
                raise
            warn(f"skipped: {error}")
    if not curves:
        raise RunFolderError(f"none of the {len(named) + len(found)} runs has data to plot")
    curves.sort(key=lambda c: (c.game, _by_numbers(c.parts), c.seed, c.folder))
    twins = Counter((curve.game, curve.parts, curve.seed) for curve in curves)
    for (game, parts, seed), count in twins.items():
        if count > 1:
            warn(f"{game}, {', '.join(parts)}: {count} runs with seed {seed}, each counted")
    _warn_of_different_scales(curves)
    return curves


def _warn_of_different_scales(curves: Sequence[LearningCurve]) -> None:
    """Warn where runs that become one curve differ in more than the seed."""
    scales: dict[tuple[str, tuple[str, ...]], list[tuple[object, ...]]] = {}
    for curve in curves:
        scales.setdefault((curve.game, curve.parts), []).append(curve.scale)
    for (game, parts), given in scales.items():
        for name, values in zip(SCALE, zip(*given, strict=True), strict=False):
            if len(set(values)) > 1:
                shown = " and ".join(map(str, dict.fromkeys(values)))
                warn(f"{game}, {', '.join(parts)}: one curve of runs with {flag(name)} {shown}")


def _by_numbers(parts: tuple[str, ...]) -> list[list[str | float]]:
    """A key that sorts the numbers in the parts by size: a frame skip of 8 comes before 12."""
    return [
        [float(piece) if i % 2 else piece for i, piece in enumerate(re.split(r"(\d+\.?\d*)", part))]
        for part in parts
    ]


def name_curves(parts: Sequence[tuple[str, ...]]) -> tuple[list[str], str]:
    """Return a label for each run, of what differs between them, and a sentence on the rest."""
    common = [part for part in parts[0][1:] if all(part in other[1:] for other in parts)]
    labels = [", ".join([p[0], *(part for part in p[1:] if part not in common)]) for p in parts]
    return labels, f"All runs: {', '.join(common)}." if common else ""


def write_curves(
    out: Path,
    curves: Sequence[LearningCurve],
    labels: Sequence[str],
    axis: str = STEPS,
    metric: str = TRAINING,
    title: str = "",
    remark: str = "",
    dpi: int = 150,
) -> list[Path]:
    """Write the plot and its numbers beside it, or the numbers alone if the name ends in `.csv`.

    Args:
        out: File of the plot, or of the numbers.
        curves: Curves of single runs.
        labels: A label for each curve; those of one game and label are aggregated.
        axis: The x axis: "steps", "frames" or "hours".
        metric: The metric of the curves.
        title: Title of the plot; a default if empty.
        remark: A sentence for the end of the caption.
        dpi: Resolution of a png.

    Returns:
        The files that were written.

    Raises:
        MachineError: If scipy, or for a plot matplotlib, is not installed.
        OSError: If a file cannot be written.
    """
    aggregated = aggregate_over_seeds(curves, labels, axis, metric)
    files = {out.with_suffix(".csv"): aggregated_csv(aggregated, axis).encode()}
    ending = out.suffix.lower()[1:]
    if ending != "csv":
        title = title or _title(aggregated)
        picture = plot_curves(
            aggregated, axis, metric, title=title, remark=remark, format=ending, dpi=dpi
        )
        files = {out: picture, **files}
    for path, data in files.items():
        write_atomically(path, data)
    return list(files)


def _may_overwrite(path: Path) -> bool:
    """Whether a file holds the numbers of a plot, or nothing: not a run's `progress.csv`."""
    try:
        with path.open("rb") as file:
            start = file.read(len(CSV_START))
    except OSError:  # missing, or writing it will say what is wrong
        return True
    return start in (b"", CSV_START)


def _title(curves: Sequence[AggregatedCurve]) -> str:
    games = {curve.game for curve in curves}
    return "Learning curves" + (f" on {len(games)} games" if len(games) > 1 else "")


def _parser() -> CommandParser:
    parser = CommandParser(
        prog="python -m agents.plot",
        description=__doc__.partition("\n")[0],
    )
    parser.add_argument(
        "runs", nargs="+", metavar="RUN", help="a run directory, a folder of runs, or a pattern"
    )
    parser.add_argument(
        "--out", required=True, metavar="FILE", help="curves.png, .svg, .pdf, or .csv alone"
    )
    parser.add_argument("--x", choices=AXES, default=STEPS, help="the x axis")
    parser.add_argument(
        "--metric",
        choices=METRICS,
        default=TRAINING,
        help="return of the training episodes, or the evaluations during training, with sampled or "
        "greedy actions",
    )
    parser.add_argument("--title", default="", help="title of the plot")
    parser.add_argument(
        "--dpi",
        type=whole_number(10, 1200),
        default=150,
        help="resolution of a .png",
    )
    return parser


if __name__ == "__main__":
    run_command(main, "python -m agents.plot")
