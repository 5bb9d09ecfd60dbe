"""A study: run variants by seeds, store each result at once, and tabulate them.

    parser = make_parser("digits", __doc__, VARIANTS)
    args = parser.parse_args(argv)
    with Study("digits", args) as study:
        study.run(partial(Runs, args))
        study.table([Column("error", "test error", percent=True), "parameters"])
        study.figure(draw(study.results), "curves")

`Runs(args)` is made once in each process. Called with variant, seed and a function that takes tag,
value and step of a curve, it returns the values that are stored.

The folder holds `settings.json`, `results.jsonl` with a line for each finished variant and seed,
`commands.json` with the commands that made the results, `tensorboard/VARIANT/SEED/`, and at the end
`results.md`, `results.csv` and the figures.
"""

import argparse
import importlib.util
import json
import math
import os
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any

from agents.system.files import lock_file, write_atomically
from benchmarks.system_info import describe, system_info
from experiments.common.command_line import ExperimentError
from experiments.common.command_line import make_parser as make_parser
from experiments.common.processes import MakeFunction, Outcome, run_jobs
from experiments.common.progress import Progress
from experiments.common.tables import Column as Column
from experiments.common.tables import as_csv, as_markdown

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PACKAGES = ("torch", "numpy", "scikit-learn", "matplotlib")
# Arguments that may differ when an experiment resumes in an existing folder: what runs, and how.
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
        processes: How many jobs run at a time.
        results: The values of each job with "variant", "seed" and "seconds"; after `run` by seed,
            then in the order of its variants, those of others first.
        commands: The commands that made the results, without --out; those of earlier versions are
            not known.

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
        self.processes: int = args.jobs
        self.results: list[Record] = []
        self.commands: list[str] = []
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
        """Close all files; after Ctrl-C, print the command that resumes."""
        self._lock.close()
        if self._progress is not None:
            self._progress.close()
        if kind is KeyboardInterrupt:
            again = f"{self.command} --out {shlex.quote(str(self.folder))}"
            print(f"\nstopped; go on with: {again}", file=sys.stderr)

    def run(self, make_function: MakeFunction, variants: Sequence[str] | None = None) -> None:
        """Store the results of every variant and seed that is not done yet, each as its job ends.

        Seeds are the outer loop, so that an interrupted study is balanced. Results do not depend on
        how many jobs run at a time. A job's curves are written at its end.

        Args:
            make_function: Called once in each process; returns the function that does a job. It is
                pickled if there are several processes.
            variants: Replaces the variants of the command line.

        Raises:
            ExperimentError: If a process ends without a result.
        """
        names = list(dict.fromkeys(self.variants if variants is None else variants))
        pairs = [(name, seed) for seed in range(1, self.seeds + 1) for name in names]
        done = {(r["variant"], r["seed"]): r["seconds"] for r in self.results}
        progress = self._progress = Progress(pairs, done, at_once=self.processes)
        left = [pair for pair in pairs if pair not in done]
        with closing(run_jobs(make_function, left, self.processes, progress.start)) as outcomes:
            for outcome in outcomes:
                self._store(outcome)
                progress.finish(*outcome.pair, outcome.seconds, outcome.values)
        progress.close()
        # Jobs end in any order. Tables, intervals and figures depend on the order of their records.
        place = {name: number for number, name in enumerate(names)}
        self.results.sort(key=lambda r: (r["seed"], place.get(r["variant"], -1)))

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
        machine = describe(system_info(_PACKAGES), _PACKAGES, note=", one used by a run")
        commands = "".join(f"    {command}\n" for command in self.commands or [self.command])
        head = f"# {self.name}\n\n{commands}\n{machine}\n\n"
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

    @property
    def _commands_file(self) -> Path:
        # Beside the settings, whose file is locked and so must stay the same.
        return self.folder / "commands.json"

    def _open(self, settings: Record) -> None:
        """Create the folder, or read the results in it."""
        wanted = {"experiment": self.name, **settings}
        file = self.folder / "settings.json"
        if not file.exists():
            if self.folder.exists() and any(self.folder.iterdir()):
                raise StudyError(f"--out {self.folder} is not empty and holds no experiment")
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomically(file, (json.dumps(wanted, indent=1) + "\n").encode())
            self._lock = _locked(file)
            return
        self._lock = _locked(file)
        try:
            self._check(file, wanted)
            self.results = self._read_results()
            self.commands = self._read_commands()
        except BaseException:
            self._lock.close()
            raise

    def _check(self, file: Path, wanted: Record) -> None:
        """Compare the folder's settings with the requested ones."""
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
            write_atomically(self._results_file, sound.encode())
        return records

    def _read_commands(self) -> list[str]:
        try:
            commands = json.loads(self._commands_file.read_text(encoding="utf-8"))
        except FileNotFoundError:  # a folder of an earlier version
            return []
        except ValueError:
            commands = None
        if not isinstance(commands, list):
            raise StudyError(f"{self._commands_file} cannot be read; choose another --out")
        return [str(command) for command in commands]

    def _store(self, outcome: Outcome) -> None:
        """Append a result to the file, and write its curves for TensorBoard."""
        if self.command not in self.commands:
            self.commands.append(self.command)
            write_atomically(
                self._commands_file, (json.dumps(self.commands, indent=1) + "\n").encode()
            )
        variant, seed = outcome.pair
        record = {
            "variant": variant,
            "seed": seed,
            "seconds": round(outcome.seconds, 3),
            **{key: _plain(value) for key, value in outcome.values.items()},
        }
        if outcome.curves:
            from torch.utils.tensorboard import SummaryWriter

            folder = self.folder / "tensorboard" / variant / str(seed)
            with closing(SummaryWriter(str(folder))) as writer:
                for point in outcome.curves:
                    writer.add_scalar(*point)
        with self._results_file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record, allow_nan=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.results.append(record)


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
    """The record in a line of results.jsonl, or None if the line is incomplete."""
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
