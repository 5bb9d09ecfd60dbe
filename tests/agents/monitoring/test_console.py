"""What a person sees: live on a terminal, in lines elsewhere, or nothing."""

import dataclasses
import errno
import io
import logging
import math
import os

import pytest
from rich.console import Console

from agents.monitoring.console import (
    LineDisplay,
    LiveDisplay,
    QuietDisplay,
    Status,
    format_seconds,
    make_display,
    status_line,
)
from agents.system.output import LevelFormatter

STATUS = Status(
    title="Frostbite, neurocoder",
    global_step=500,
    total_timesteps=1000,
    steps_per_second=1234.0,
    seconds_left=61.0,
    elapsed=3600.0,
    episodes=7,
    recent_return="12.0 (last 7)",
    best_return=160.0,
    evaluation="sampled 9.0",
    workers_alive=16,
    restarts=3,
    skipped=0,
)
FIGURES = ("500", "1,000", "1,234", "12.0 (last 7)", "160", "sampled 9.0", "3 restarts", "0:01:01")


class ClosedTerminal(io.StringIO):
    def write(self, _):
        raise OSError(5, "Input/output error")


def test_lines_hold_every_figure_and_come_with_rows_only():
    stream = io.StringIO()
    display = LineDisplay(stream)
    display.show(STATUS, new_row=True)
    display.show(STATUS, new_row=False)
    (line,) = stream.getvalue().splitlines()
    for figure in FIGURES:
        assert figure in line


def test_a_live_panel_holds_every_figure_and_messages_stand_above_it():
    stream = io.StringIO()
    display = LiveDisplay(Console(file=stream, force_terminal=True, width=100))
    display.show(STATUS, new_row=True)
    record = logging.LogRecord("train", logging.INFO, "", 0, "worker [3] died", None, None)
    display.handler.emit(record)
    display.close()
    text = stream.getvalue()
    for figure in FIGURES:
        assert figure in text
    assert "worker [3] died" in text
    assert text.rindex("worker [3] died") < text.rindex("12.0 (last 7)")


def test_numbers_have_their_nouns_and_no_exponents():
    status = dataclasses.replace(STATUS, best_return=1_234_567.0, restarts=1, skipped=1)
    line = status_line(status)
    for text in ("best 1,234,567", " 1 restart ", " 1 update skipped"):
        assert text in line
    assert " 2 restarts " in status_line(dataclasses.replace(status, restarts=2))


@pytest.mark.parametrize("kind", ["lines", "live"])
def test_a_warm_up_stands_where_the_rate_does(kind):
    stream = io.StringIO()
    display = (
        LineDisplay(stream)
        if kind == "lines"
        else LiveDisplay(Console(file=stream, force_terminal=True, width=100))
    )
    display.show(dataclasses.replace(STATUS, warmup="40 of 615 steps"), new_row=True)
    display.close()
    assert "warm-up" in stream.getvalue()
    assert "40 of 615 steps" in stream.getvalue()
    assert "1,234" not in stream.getvalue()


def test_updates_left_out_are_shown_only_when_there_are_some():
    for skipped, shown in ((0, False), (5, True)):
        stream = io.StringIO()
        display = LiveDisplay(Console(file=stream, force_terminal=True, width=100))
        display.show(dataclasses.replace(STATUS, skipped=skipped), new_row=True)
        display.close()
        assert ("skipped" in stream.getvalue()) == shown


@pytest.mark.parametrize("kind", ["lines", "live"])
def test_a_terminal_that_is_gone_does_not_end_the_run(kind):
    closed = ClosedTerminal()
    display = (
        LineDisplay(closed)
        if kind == "lines"
        else LiveDisplay(Console(file=closed, force_terminal=True))
    )
    for _ in range(2):
        display.show(STATUS, new_row=True)
    display.close()


class UnreliableFile(io.StringIO):
    """Fails the first time it is written to."""

    def __init__(self, number):
        super().__init__()
        self.number = number

    def write(self, text):
        if self.number:
            number, self.number = self.number, 0
            raise OSError(number, os.strerror(number))
        return super().write(text)


@pytest.mark.parametrize(
    ("number", "printed"),
    [(errno.ENOSPC, "second\n"), (errno.EDQUOT, "second\n"), (errno.EPIPE, ""), (errno.EIO, "")],
)
def test_lines_go_on_after_a_full_disk_but_not_after_the_stream_is_closed(number, printed):
    stream = UnreliableFile(number)
    display = LineDisplay(stream)
    for text in ("first", "second"):
        display.print(text)
    assert stream.getvalue() == printed


def test_what_standard_output_cannot_encode_is_escaped(monkeypatch):
    written = io.BytesIO()
    stdout = io.TextIOWrapper(written, "ascii")
    monkeypatch.setattr("sys.stdout", stdout)
    record = logging.LogRecord("train", logging.INFO, "", 0, "into läufe", None, None)
    make_display(quiet=False).handler.emit(record)
    assert written.getvalue() == rb"into l\xe4ufe" + b"\n"


def test_quiet_says_nothing_but_warnings(capsys):
    display = make_display(quiet=True)
    assert isinstance(display, QuietDisplay)
    display.show(STATUS, new_row=True)
    assert display.handler.level == logging.WARNING
    assert capsys.readouterr().out == ""


def test_without_a_terminal_there_are_lines(capsys):
    make_display(quiet=False).show(STATUS, new_row=True)
    assert "500 / 1,000 agent steps" in capsys.readouterr().out


def test_with_standard_output_closed_from_the_start_only_warnings_are_printed(monkeypatch, capsys):
    monkeypatch.setattr("sys.stdout", None)
    display = make_display(quiet=False)
    display.show(STATUS, new_row=True)
    record = logging.LogRecord("train", logging.WARNING, "", 0, "a warning", None, None)
    display.handler.emit(record)
    assert capsys.readouterr().err == "a warning\n"


@pytest.mark.parametrize(
    ("level", "shown"),
    [
        (logging.INFO, "a message"),
        (logging.WARNING, "warning: a message"),
        (logging.ERROR, "error: a message"),
    ],
)
def test_warnings_and_errors_say_that_they_are(level, shown):
    record = logging.LogRecord("train", level, "", 0, "a %s", ("message",), None)
    assert LevelFormatter().format(record) == shown


@pytest.mark.parametrize("level", [logging.INFO, logging.WARNING, logging.ERROR])
def test_without_a_terminal_messages_stand_among_the_lines_and_warnings_go_to_stderr(level, capsys):
    display = make_display(quiet=False)
    display.show(STATUS, new_row=True)
    record = logging.LogRecord("train", level, "", 0, "a message", None, None)
    display.handler.emit(record)
    display.show(STATUS, new_row=True)
    out, err = capsys.readouterr()
    lines = [line.partition("agent steps")[0] for line in out.splitlines()]
    if level == logging.INFO:
        assert lines == ["500 / 1,000 ", "a message", "500 / 1,000 "]
        assert err == ""
    else:
        assert lines == ["500 / 1,000 ", "500 / 1,000 "]
        assert err == "a message\n"


def test_a_message_for_a_stderr_that_is_closed_does_not_end_the_run(monkeypatch):
    monkeypatch.setattr("sys.stderr", ClosedTerminal())
    record = logging.LogRecord("train", logging.ERROR, "", 0, "a message", None, None)
    make_display(quiet=False).handler.emit(record)


def test_seconds_are_shown_as_clock_time():
    assert format_seconds(3 * 86400 + 3723) == "3d 1:02:03"
    assert format_seconds(59.9) == "0:00:59"
    assert format_seconds(math.inf) == "-"
