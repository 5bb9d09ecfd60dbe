"""Results over seeds as a table."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from experiments.common.statistics import bootstrap_interval

Rows = Sequence[tuple[str, Sequence[Mapping[str, Any]]]]


@dataclass(frozen=True)
class Column:
    """What to show of the results.

    Attributes:
        key: in the results.
        title: above the column; the key itself if empty.
        digits: after the point.
        percent: whether to show a part of one as percent.
    """

    key: str
    title: str = ""
    digits: int = 2
    percent: bool = False

    @property
    def heading(self) -> str:
        """What stands above the column."""
        return (self.title or self.key) + (" (%)" if self.percent else "")

    def cell(self, values: Sequence[float]) -> str:
        """The mean, and the interval of the mean in brackets if there are several values.

        A whole number that is the same for all seeds, such as a parameter count, stands alone.
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

    Args:
        rows: variants and their results.
        columns: what to show.
    """
    lines = [f"| variant | {' | '.join(c.heading for c in columns)} | seeds |"]
    lines.append("|---" * (len(columns) + 2) + "|")
    for name, records in rows:
        cells = [column.cell(_values(records, column.key)) for column in columns]
        lines.append(f"| {name} | {' | '.join(cells)} | {len(records)} |")
    return "\n".join(lines)


def as_csv(rows: Rows, columns: Sequence[Column]) -> str:
    """The same in long format and full precision: a line for each variant and column."""
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


def _values(records: Sequence[Mapping[str, Any]], key: str) -> list[float]:
    """What the seeds have under a key; those that have nothing are left out."""
    return [record[key] for record in records if record.get(key) is not None]


def _mean_and_interval(values: Sequence[float]) -> tuple[float, float, float]:
    low, high = bootstrap_interval(values)
    return sum(values) / len(values), float(low), float(high)
