"""Draw learning curves of runs: mean and spread over seeds, a panel for each game.

    python -m agents.plot runs --out curves.png

RUN is a run's folder, a folder of runs, or a pattern; runs may be finished or not, of any length,
and resumed. Beside the picture (.png, .svg, .pdf) its numbers are written as .csv; with
`--out NAME.csv` they are written alone. Exit code 0; 2 for what cannot be used.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from agents.analysis.aggregation import (
    AXES,
    STEPS,
    AggregatedCurve,
    aggregate_over_seeds,
    aggregated_csv,
)
from agents.analysis.learning_curves import (
    METRICS,
    TRAINING,
    LearningCurve,
    NoDataError,
    find_runs,
    read_curve,
)
from agents.analysis.plotting import FORMATS, NoMatplotlibError, plot_curves, require_matplotlib
from agents.cli import CommandParser
from agents.errors import escape_to_one_line
from agents.run_folder import RunFolderError
from agents.system.files import write_atomically

MOST_DPI = 1200


def main(argv: Sequence[str] | None = None) -> int:
    """Read the command line, plot_curves, and return the exit code."""
    parser = _parser()
    args = parser.parse_args(argv)
    out = Path(args.out)
    if out.suffix.lower() not in {".csv", *(f".{name}" for name in FORMATS)}:
        parser.error(f"--out {out}: must end in .csv, .{', .'.join(FORMATS)}")
    try:
        if out.suffix.lower() != ".csv":
            require_matplotlib()
        curves = gather(args.runs, args.metric)
        labels, common = name_curves([curve.parts for curve in curves])
        written = write_curves(
            out, curves, labels, args.x, args.metric, args.title, common, dpi=args.dpi
        )
    except (RunFolderError, NoMatplotlibError) as error:
        parser.error(str(error))
    except OSError as error:
        parser.error(f"--out {out}: cannot be written ({error.strerror or error})")
    print(f"{len(curves)} runs, written to {' and '.join(map(str, written))}")
    return 0


def gather(arguments: Sequence[str], metric: str) -> list[LearningCurve]:
    """The curves of all runs that the arguments stand for, by game, network and seed.

    What merely was found in a folder, and runs without a point yet, are left out with a warning
    where they cannot be drawn.

    Raises:
        RunFolderError: naming the run that cannot be drawn, or if none can.
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
            _warn(f"left out: {error}")
    if not curves:
        raise RunFolderError(f"none of the {len(named) + len(found)} runs has a point to draw")
    curves.sort(key=lambda curve: (curve.game, curve.parts, curve.seed, curve.folder))
    twins = Counter((curve.game, curve.parts, curve.seed) for curve in curves)
    for (game, parts, seed), count in twins.items():
        if count > 1:
            _warn(f"{game}, {', '.join(parts)}: {count} runs with seed {seed}, counted each")
    return curves


def name_curves(parts: Sequence[tuple[str, ...]]) -> tuple[list[str], str]:
    """A label for each run, from what is not the same in all of them; and what is, in words."""
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
    """Write the picture and, beside it, its numbers; or with a name in `.csv`, these alone.

    Args:
        out: the picture's file, or the numbers'.
        curves: of the runs.
        labels: of the curves; those of one game and label are put together.
        axis: as in `aggregate_over_seeds`.
        metric: what the curves show.
        title: of the picture; where empty, one is made.
        remark: for the picture's small print.
        dpi: dots per inch, of a png.

    Returns:
        The files that were written.

    Raises:
        NoMatplotlibError: if a picture is asked for and it is not installed.
        OSError: if a file cannot be written.
    """
    bands = aggregate_over_seeds(curves, labels, axis, metric)
    files = {out.with_suffix(".csv"): aggregated_csv(bands, axis).encode()}
    ending = out.suffix.lower()[1:]
    if ending != "csv":
        title = title or _title(bands)
        picture = plot_curves(
            bands, axis, metric, title=title, remark=remark, format=ending, dpi=dpi
        )
        files = {out: picture, **files}
    for path, data in files.items():
        write_atomically(path, data)
    return list(files)


def _title(bands: Sequence[AggregatedCurve]) -> str:
    games = list(dict.fromkeys(band.game for band in bands))
    return "Learning curves" + (f" on {len(games)} games" if len(games) > 1 else "")


def _warn(text: str) -> None:
    print(f"warning: {escape_to_one_line(text)}", file=sys.stderr)


def _parser() -> CommandParser:
    parser = CommandParser(
        prog="python -m agents.plot",
        description=__doc__.partition("\n")[0],
        allow_abbrev=False,
    )
    parser.add_argument(
        "runs", nargs="+", metavar="RUN", help="a run's folder, a folder of runs, or a pattern"
    )
    parser.add_argument(
        "--out", required=True, metavar="FILE", help="curves.png, .svg, .pdf, or .csv alone"
    )
    parser.add_argument("--x", choices=AXES, default=STEPS, help="the horizontal axis (steps)")
    parser.add_argument(
        "--metric",
        choices=METRICS,
        default=TRAINING,
        help="return of the training games (the default), or the evaluations made while training, "
        "with sampled or with greedy actions",
    )
    parser.add_argument("--title", default="", help="of the picture")
    parser.add_argument("--dpi", type=_dpi, default=150, help="dots per inch of a .png (150)")
    return parser


def _dpi(text: str) -> int:
    if not text.isdecimal() or not 10 <= int(text) <= MOST_DPI:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number from 10 to {MOST_DPI}")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
