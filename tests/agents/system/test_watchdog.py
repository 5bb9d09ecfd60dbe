"""Which processes make no progress for too long, and what does not count against them."""

import os
import shutil
import subprocess
import time

import psutil

from agents.system.watchdog import MAX_TICK_S, Watchdog, cpu_time


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def make(timeout=10.0):
    clock = Clock()
    return clock, Watchdog(timeout, clock)


def check_every_half_second(clock, heartbeats, seconds, beats):
    overdue = []
    for _ in range(int(seconds * 2)):
        clock.now += 0.5
        overdue += heartbeats.check(beats() if callable(beats) else beats)
    return overdue


def test_who_shows_no_progress_is_named_once_in_so_long():
    clock, heartbeats = make()
    moving = iter(range(1000))
    assert check_every_half_second(
        clock, heartbeats, 25, lambda: {"still": 1, "moving": next(moving)}
    ) == ["still", "still"]


def test_idling_for_less_than_the_timeout_is_allowed():
    clock, heartbeats = make()
    assert check_every_half_second(clock, heartbeats, 10, {"a": 1}) == []
    assert check_every_half_second(clock, heartbeats, 10, {"a": 2}) == []


def test_time_without_checks_does_not_count():
    clock, heartbeats = make()
    heartbeats.check({"a": 1})
    for _ in range(5):
        clock.now += 3600.0
        assert heartbeats.check({"a": 1}) == []
    assert heartbeats.timeout > 5 * MAX_TICK_S


def test_who_is_looked_at_again_starts_anew():
    clock, heartbeats = make()
    assert check_every_half_second(clock, heartbeats, 9, {"a": 1}) == []
    heartbeats.check({})
    assert check_every_half_second(clock, heartbeats, 9, {"a": 1}) == []


def test_a_process_that_computes_has_used_cpu_time():
    before = cpu_time(os.getpid())
    until = time.process_time() + 0.1
    while time.process_time() < until:
        pass
    assert 0.05 <= cpu_time(os.getpid()) - before < 10


def test_a_process_that_waits_uses_no_cpu_time_whatever_its_name(tmp_path):
    program = tmp_path / "a) R 7 (b"
    program.symlink_to(shutil.which("sleep"))
    with subprocess.Popen([program, "60"]) as process:
        while psutil.Process(process.pid).status() != psutil.STATUS_SLEEPING:
            assert process.poll() is None
            time.sleep(0.01)
        before = cpu_time(process.pid)
        time.sleep(0.3)
        assert cpu_time(process.pid) == before
        process.kill()


def test_nothing_is_known_of_a_process_that_does_not_exist():
    assert cpu_time(2**22 + 1) is None
