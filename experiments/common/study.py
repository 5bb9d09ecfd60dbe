"""A study: run variants by seeds, store each result at once, and tabulate them.

    parser = make_parser("digits", __doc__, VARIANTS)
    args = parser.parse_args(argv)
    with Study("digits", args) as study:
        for variant, seed in study.jobs():
            ...
            study.scalar("loss", loss, step)
            study.result(variant, seed, {"error": error, "parameters": parameter_count(model)})
        study.table([Column("error", "test error", percent=True), "parameters"])
        study.figure(draw(study.results), "curves")

The folder holds `settings.json`, `results.jsonl` with a line for each finished variant and seed,
`tensorboard/VARIANT/SEED/`, and at the end `results.md`, `results.csv` and the figures.
"""

import argparse
import importlib.util
import json
import math
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any

import torch

from agents.system.files import lock_file
from benchmarks.system_info import describe, system_info
from experiments.common.command_line import ExperimentError
from experiments.common.command_line import make_parser as make_parser
from experiments.common.processes import MakeFunction, run_in_processes
from experiments.common.progress import Progress
from experiments.common.tables import Column as Column
from experiments.common.tables import as_csv, as_markdown

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch.utils.tensorboard import SummaryWriter

_PACKAGES = ("torch", "numpy", "scikit-learn", "matplotlib")
# What may differ when an experiment resumes in an existing folder: what is run, and how.
_NOT_SETTINGS = (
    *("variants", "scenarios", "methods", "networks", "strengths", "seeds"),
    *("out", "command", "default_seeds", "jobs"),
)

Record = dict[str, Any]


class StudyError(ExperimentError):
    """The study cannot be run; the message gives the reason."""


class Study:
    """Results of one experiment in one folder. Use it as a context manager.

    Attributes:
        folder: The output folder.
        seeds: Number of seeds; they are 1, 2, ...
        variants: The variants to compare.
        results: The values given to `result` with "variant", "seed" and "seconds"; those read from
            the folder come first.

    Args:
        name: Name of the experiment.
        args: The arguments parsed by `make_parser`'s parser.

    Raises:
        StudyError: If the folder cannot be used, or matplotlib is not installed.
    """

    def __init__(self, name: str, args: argparse.Namespace) -> None:
        self.name, self.command = name, args.command
        self.variants: list[str] = list(dict.fromkeys(args.variants))
        self.seeds: int = args.seeds or (1 if args.quick else args.default_seeds)
        self.results: list[Record] = []
        if importlib.util.find_spec("matplotlib") is None:
            raise StudyError('figures need matplotlib: pip install -e ".[experiments]"')
        stamp = time.strftime("%Y%m%d-%H%M%S")
        self.folder = Path(args.out or Path("runs", "experiments", f"{name}-{stamp}"))
        settings = {key: value for key, value in vars(args).items() if key not in _NOT_SETTINGS}
        try:
            self._open(settings)
        except OSError as error:
            message = f"--out {self.folder} cannot be used: {error.strerror or error}"
            raise StudyError(message) from error
        self._job: tuple[str, int] | None = None
        self._started = 0.0
        self._writer: SummaryWriter | None = None
        self._progress: Progress | None = None

    def __enter__(self) -> "Study":
        """Nothing more to do."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        """Close what is open; after Ctrl-C, print the command that resumes."""
        self._close_job()
        self._lock.close()
        if self._progress is not None:
            self._progress.close()
        if kind is KeyboardInterrupt:
            print(f"\nstopped; go on with: {self.command} --out {self.folder}", file=sys.stderr)

    def jobs(self, variants: Sequence[str] | None = None) -> Iterator[tuple[str, int]]:
        """Yield each variant and seed that is not done yet.

        Seeds are the outer loop, so that an interrupted study is balanced. torch is seeded before
        each job and uses one thread.

        Args:
            variants: Replaces the variants of the command line.

        Raises:
            RuntimeError: If a job ends without a `result`.
        """
        names = list(self.variants if variants is None else variants)
        torch.set_num_threads(1)
        pairs = [(name, seed) for seed in range(1, self.seeds + 1) for name in names]
        done = {(r["variant"], r["seed"]): r["seconds"] for r in self.results}
        self._progress = Progress(pairs, done)
        for pair in pairs:
            if pair in done:
                continue
            self._job, self._started = pair, time.monotonic()
            torch.manual_seed(pair[1])
            self._progress.start(*pair)
            yield pair
            if self._job is not None:
                raise RuntimeError(f"no result was given for {pair[0]}, seed {pair[1]}")
        self._progress.close()

    def scalar(self, tag: str, value: float, step: int) -> None:
        """Write a point of the current job's curve for TensorBoard."""
        if self._job is None:
            raise RuntimeError("a scalar belongs to a job, and there is none under way")
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            variant, seed = self._job
            self._writer = SummaryWriter(str(self.folder / "tensorboard" / variant / str(seed)))
        self._writer.add_scalar(tag, value, step)

    def result(self, variant: str, seed: int, values: Mapping[str, Any]) -> None:
        """Store the result of the current job on disk, and end the job.

        Args:
            variant: The variant of the job.
            seed: The seed of the job.
            values: Numbers, and lists of them for figures. Non-finite numbers are stored as None.
        """
        if self._job != (variant, seed):
            raise RuntimeError(f"a result of {variant}, seed {seed}; under way is {self._job}")
        seconds = round(time.monotonic() - self._started, 3)
        record = {
            "variant": variant,
            "seed": seed,
            "seconds": seconds,
            **{key: _plain(value) for key, value in values.items()},
        }
        with self._results_file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record, allow_nan=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.results.append(record)
        self._close_job()
        if self._progress is not None:
            self._progress.finish(variant, seed, seconds, record)

    def run(
        self, make_function: "MakeFunction", variants: Sequence[str], *, processes: int = 1
    ) -> None:
        """Store the results of every variant and seed that is not done yet.

        They do not depend on the number of processes. A job's curves are written at its end.

        Args:
            make_function: called once in each process, it returns a function of variant, seed and a
                function like `scalar`, which returns the values for `result`. It is pickled.
            variants: as for `jobs`.
            processes: how many jobs run at a time, each in a process of one thread.

        Raises:
            ExperimentError: if a process ends without a result.
        """
        pairs = [(name, seed) for seed in range(1, self.seeds + 1) for name in variants]
        done = {(r["variant"], r["seed"]): r["seconds"] for r in self.results}
        self._progress = Progress(pairs, done, at_once=processes)
        left = [pair for pair in pairs if pair not in done]
        with closing(run_in_processes(make_function, left, processes)) as outcomes:
            for pair, values, curves, seconds in outcomes:
                self._job, self._started = pair, time.monotonic() - seconds
                for curve in curves:
                    self.scalar(*curve)
                self.result(*pair, values)
        self._progress.close()

    def table(
        self,
        columns: Sequence[Column | str],
        *,
        name: str = "results",
        variants: Sequence[str] | None = None,
        remark: str = "",
    ) -> str:
        """Print a table of the results over seeds, and write it as `NAME.md` and `NAME.csv`.

        Args:
            columns: The columns, or their keys in the results.
            name: Name of the files.
            variants: The rows; None for all variants with results.
            remark: Text below the table.

        Returns:
            The table in Markdown.
        """
        wanted = [c if isinstance(c, Column) else Column(c) for c in columns]
        by_variant: dict[str, list[Record]] = {}
        for record in self.results:
            by_variant.setdefault(record["variant"], []).append(record)
        rows = [(c, by_variant[c]) for c in variants or by_variant if c in by_variant]
        text = as_markdown(rows, wanted)
        machine = describe(system_info(_PACKAGES), _PACKAGES, note=", one used")
        head = f"# {self.name}\n\n    {self.command}\n\n{machine}\n\n"
        tail = f"\n\n{remark}\n" if remark else "\n"
        (self.folder / f"{name}.md").write_text(head + text + tail, encoding="utf-8")
        (self.folder / f"{name}.csv").write_text(as_csv(rows, wanted), encoding="utf-8")
        print(f"\n{text}{tail}\n{self.folder}", flush=True)
        return text

    def figure(self, figure: "Figure", name: str) -> None:
        """Write a figure as `NAME.png`."""
        figure.savefig(self.folder / f"{name}.png")

    @property
    def _results_file(self) -> Path:
        return self.folder / "results.jsonl"

    def _open(self, settings: Record) -> None:
        """Create the folder, or read the results in it."""
        wanted = {"experiment": self.name, **settings}
        file = self.folder / "settings.json"
        if not file.exists():
            if self.folder.exists() and any(self.folder.iterdir()):
                raise StudyError(f"--out {self.folder} is not empty and holds no experiment")
            self.folder.mkdir(parents=True, exist_ok=True)
            temporary = file.with_suffix(".tmp")
            temporary.write_text(json.dumps(wanted, indent=1) + "\n", encoding="utf-8")
            temporary.replace(file)
            self._lock = _locked(file)
            return
        self._lock = _locked(file)
        try:
            self._check(file, wanted)
            self.results = self._read_results()
        except BaseException:
            self._lock.close()
            raise

    def _check(self, file: Path, wanted: Record) -> None:
        """Compare the folder's settings with those that are wanted."""
        try:
            there = json.loads(file.read_text(encoding="utf-8"))
        except ValueError:
            there = None
        if not isinstance(there, dict):
            raise StudyError(f"{file} cannot be read; choose another --out")
        for key in dict.fromkeys([*wanted, *there]):
            if key in _NOT_SETTINGS:  # as in folders of earlier versions
                continue
            if there.get(key) != wanted.get(key):
                raise StudyError(
                    f"--out {self.folder} was made with {key} {there.get(key)!r}, "
                    f"not {wanted.get(key)!r}; choose another folder"
                )

    def _read_results(self) -> list[Record]:
        """The complete lines of the results, without one truncated by a kill."""
        if not self._results_file.exists():
            return []
        text = self._results_file.read_text(encoding="utf-8", errors="replace")
        records = [r for line in text.splitlines() if (r := _record(line)) is not None]
        sound = "".join(json.dumps(record) + "\n" for record in records)
        if sound != text:
            temporary = self._results_file.with_suffix(".tmp")
            temporary.write_text(sound, encoding="utf-8")
            temporary.replace(self._results_file)
        return records

    def _close_job(self) -> None:
        self._job = None
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def _locked(file: Path) -> IO[bytes]:
    """Lock a study's settings; see `lock_file`.

    Raises:
        StudyError: if another process holds the lock.
    """
    try:
        return lock_file(file)
    except BlockingIOError:
        raise StudyError(f"--out {file.parent}: another process is using this folder") from None


def _record(line: str) -> Record | None:
    """A line of results.jsonl, or None if it is not whole."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    if isinstance(record, dict) and "contestant" in record:  # the key of earlier versions
        record = {"variant": record.pop("contestant"), **record}
    keys = {"variant", "seed", "seconds"}
    return record if isinstance(record, dict) and keys <= record.keys() else None


def _plain(value: Any) -> Any:
    """The value as JSON: tensors and arrays as lists, non-finite numbers as None."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
