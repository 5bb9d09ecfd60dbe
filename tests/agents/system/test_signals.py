"""What stops a run, and what does not."""

import os
import signal

import pytest

from agents.system.signals import SAME_REQUEST_S, SHOW_CURSOR, StopSignals


@pytest.fixture
def ignored_hangup():
    """As under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGHUP, before)


def test_a_closed_terminal_is_a_request_to_stop_however_often_it_is_reported():
    with StopSignals() as signals:
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGHUP)
    assert signals.received == signal.SIGHUP


def test_a_terminal_closed_after_ctrl_c_does_not_cut_the_saving_short():
    with StopSignals() as signals:
        for number in (signal.SIGINT, signal.SIGHUP):
            os.kill(os.getpid(), number)
    assert signals.received == signal.SIGINT


def test_a_second_ctrl_c_shows_the_cursor_again_and_exits_at_once(monkeypatch):
    done = []
    monkeypatch.setattr("os.isatty", lambda file: file == 1)
    monkeypatch.setattr("os.write", lambda *args: done.append(args))
    monkeypatch.setattr("os._exit", done.append)
    with StopSignals():
        os.kill(os.getpid(), signal.SIGINT)
        assert done == []
        os.kill(os.getpid(), signal.SIGINT)
    assert done == [(1, SHOW_CURSOR), 130]


@pytest.mark.usefixtures("ignored_hangup")
def test_under_nohup_a_closed_terminal_stops_nothing():
    with StopSignals() as signals:
        os.kill(os.getpid(), signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    assert signals.received is None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_sigterm_that_a_parent_passes_on_does_not_cut_the_saving_short(number, monkeypatch):
    now = [100.0]
    done = []
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    monkeypatch.setattr("os._exit", done.append)
    with StopSignals() as signals:
        os.kill(os.getpid(), signal.SIGTERM)
        now[0] += 0.9 * SAME_REQUEST_S
        os.kill(os.getpid(), number)
        assert done == []
        now[0] += 0.2 * SAME_REQUEST_S
        os.kill(os.getpid(), number)
    assert signals.received == signal.SIGTERM
    assert done == [128 + number]
