"""Every cell of the tables in `docs/layers.md` is what happens."""

import re
from pathlib import Path

import pytest
from torch import nn
from torch.fx.proxy import TraceError
from torch.jit.frontend import NotSupportedError

from tests.neurocoder.capabilities import (
    CAPABILITIES,
    NOTES,
    UNSUPPORTED,
    precision_rows,
    tables,
)
from tests.neurocoder.every_layer import LAYERS

PAGE = Path(__file__).parents[2] / "docs" / "layers.md"


def cells():
    for column in CAPABILITIES:
        for kind in (nn.Linear, *LAYERS):
            marks = [pytest.mark.slow] if column.slow else []
            yield pytest.param(column, kind, id=f"{column.name} {kind.__name__}", marks=marks)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*deprecated", "ignore:.*quantiz.*deprecated")
@pytest.mark.parametrize(("column", "kind"), list(cells()))
def test_a_layer_can_do_what_the_table_says(column, kind):
    if (kind, column.name) in UNSUPPORTED:
        with pytest.raises((RuntimeError, NotSupportedError, TraceError)):
            column.check(kind)
    else:
        column.check(kind)


def test_the_page_has_the_tables():
    assert tables() in PAGE.read_text()


def test_the_errors_on_the_page_are_those_that_are_found():
    rows = re.findall(r"^\| `([\w.]+)` \| (\d.*%) \|$", PAGE.read_text(), re.MULTILINE)
    assert [name for name, _ in rows] == ["nn.Linear", *(kind.__name__ for kind in LAYERS)]
    for (name, text), (_, found) in zip(rows, precision_rows(), strict=True):
        numbers = [float(number) for number in re.findall(r"([\d.]+) %", text)]
        for (mean, worst), (found_mean, found_worst) in zip(
            zip(numbers[::2], numbers[1::2], strict=True), found, strict=True
        ):
            assert found_mean == pytest.approx(mean, rel=0.2), name
            assert found_worst == pytest.approx(worst, rel=0.5), name


def test_every_note_belongs_to_a_cell():
    cells = {(kind, column.name) for column in CAPABILITIES for kind in LAYERS}
    assert set(NOTES) | set(UNSUPPORTED) <= cells
    assert not set(NOTES) & set(UNSUPPORTED)
    for column in CAPABILITIES:
        assert not re.search(r"[|\n]", column.name)
