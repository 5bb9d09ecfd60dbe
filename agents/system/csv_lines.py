"""CSV files that a machine may have died over: read line by line, whatever stands in a line."""

import csv


def cells(line: str) -> list[str]:
    """The cells of one line; none where it cannot be read.

    Line by line, for a quote that damage has opened would swallow all that follow.
    """
    try:
        return next(csv.reader([line]), [])
    except csv.Error:
        return []


def whole_number(text: str) -> int | None:
    """The number that is written in plain digits, or None."""
    return int(text) if text.isascii() and text.isdecimal() else None
