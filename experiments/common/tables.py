"""Tables of results over seeds."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.markdown import markdown_table
from experiments.common.statistics import bootstrap_interval

Rows = Sequence[tuple[str, Sequence[Mapping[str, Any]]]]


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        key: The key in the results.
        title: The heading; by default the key.
        digits: Number of decimals.
        percent: Whether to show a fraction as a percentage.
    """

    key: str
    title: str = ""
    digits: int = 2
    percent: bool = False

    @property
    def heading(self) -> str:
        """The heading of the column."""
        return (self.title or self.key) + (" (%)" if self.percent else "")

    def cell(self, values: Sequence[float]) -> str:
        """The mean, with its interval in brackets if there are several values.

        An integer that is the same for all seeds, such as a parameter count, is shown alone.
        """
        if not values:
            return "-"
        if all(isinstance(v, int) for v in values) and len(set(values)) == 1:
            return f"{values[0]:,}"
        mean, low, high = (self._show(v) for v in _mean_and_interval(values))
        return mean if len(values) == 1 else f"{mean} [{low}, {high}]"

    def _show(self, value: float) -> str:
        return f"{100 * value if self.percent else value:.{self.digits}f}"


def as_markdown(rows: Rows, columns: Sequence[Column]) -> str:
    """A row for each variant: mean and 95 % bootstrap interval over its seeds.

    Non-finite values, such as the error of a diverged model, are left out of the mean.

    Args:
        rows: Variants and their results.
        columns: The columns.
    """
    heading = ["variant", *(column.heading for column in columns), "seeds"]
    cells = [
        (name, *(_cell(column, records) for column in columns), str(len(records)))
        for name, records in rows
    ]
    return markdown_table(heading, cells)


def as_csv(rows: Rows, columns: Sequence[Column]) -> str:
    """The same table in long format, with more digits: a line for each variant and column."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["variant", "column", "mean", "ci_low", "ci_high", "n"])
    for name, records in rows:
        for column in columns:
            values = _values(records, column.key)
            if values:
                shown = [f"{number:.10g}" for number in _mean_and_interval(values)]
                writer.writerow([name, column.key, *shown, len(values)])
    return text.getvalue()


def _cell(column: Column, records: Sequence[Mapping[str, Any]]) -> str:
    """A cell of a variant; it gives the number of seeds if some of them lack the value."""
    values = _values(records, column.key)
    known = f" ({len(values)} of {len(records)})" if 0 < len(values) < len(records) else ""
    return column.cell(values) + known


def _values(records: Sequence[Mapping[str, Any]], key: str) -> list[float]:
    """The values of a key over seeds, without missing ones."""
    return [record[key] for record in records if record.get(key) is not None]


def _mean_and_interval(values: Sequence[float]) -> tuple[float, float, float]:
    low, high = bootstrap_interval(values)
    return sum(values) / len(values), float(low), float(high)
