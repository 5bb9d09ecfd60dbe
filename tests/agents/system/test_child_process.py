"""A child that raises tells its parent why, and how it ended can be said in a word."""

import multiprocessing
import os
import signal
import time

import pytest

from agents.system.child_process import init_child, poll, reap, report_crash, start_child
from agents.system.messages import CrashRecord, send
from agents.system.processes import process_context


def fail(connection, reason):
    init_child(connection)
    with report_crash(connection, "child 7"):
        send(connection, "begun")
        raise ValueError(reason)


def succeed(connection):
    with report_crash(connection, "child 7"):
        send(connection, "done")


def be_killed(connection):
    with report_crash(connection, "child 7"):
        os.kill(os.getpid(), signal.SIGKILL)


def be_interrupted(connection):
    init_child(connection)
    for number in (signal.SIGINT, signal.SIGHUP):
        os.kill(os.getpid(), number)
    send(connection, "done")


def start_another(connection):
    init_child(connection)
    with report_crash(connection, "child 7"):
        process = multiprocessing.get_context("fork").Process(target=os.getpid, daemon=True)
        process.start()
        process.join()
        send(connection, process.exitcode)


def run(target, *args):
    """All the messages of a child, and how it ended."""
    child = start_child(process_context(), "child", target, *args)
    messages, exited = [], []
    deadline = time.monotonic() + 60
    while not exited and time.monotonic() < deadline:
        received, exited = poll([child], timeout=1.0)
        messages += [message for _, message in received]
    return messages, reap(child)


def test_a_child_may_start_processes_as_vectorised_environments_do():
    assert run(start_another) == ([0], "exit code 0")


def test_a_child_that_raises_sends_its_traceback_and_exits_with_code_1():
    (begun, crash), ended = run(fail, "no such game")
    assert (begun, ended) == ("begun", "exit code 1")
    assert isinstance(crash, CrashRecord)
    assert crash.who == "child 7"
    assert "in fail" in crash.traceback
    assert "ValueError: no such game" in crash.traceback


@pytest.mark.parametrize(
    ("target", "messages", "ended"),
    [
        (succeed, ["done"], "exit code 0"),
        (be_interrupted, ["done"], "exit code 0"),
        (be_killed, [], "SIGKILL"),
    ],
)
def test_a_child_that_does_not_raise_sends_nothing_more(target, messages, ended):
    assert run(target) == (messages, ended)
