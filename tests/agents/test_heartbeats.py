"""Who is silent for too long, and who is not to blame for it."""

from agents.heartbeats import LONGEST_TICK_S, Heartbeats


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def make(patience=10.0):
    clock = Clock()
    return clock, Heartbeats(patience, clock)


def look_every_half_second(clock, heartbeats, seconds, beats):
    silent = []
    for _ in range(int(seconds * 2)):
        clock.now += 0.5
        silent += heartbeats.look(beats() if callable(beats) else beats)
    return silent


def test_who_shows_no_progress_is_named_once_in_so_long():
    clock, heartbeats = make()
    moving = iter(range(1000))
    assert look_every_half_second(
        clock, heartbeats, 25, lambda: {"still": 1, "moving": next(moving)}
    ) == ["still", "still"]


def test_silence_of_less_than_the_patience_is_no_fault():
    clock, heartbeats = make()
    assert look_every_half_second(clock, heartbeats, 10, {"a": 1}) == []
    assert look_every_half_second(clock, heartbeats, 10, {"a": 2}) == []


def test_time_while_nobody_looked_does_not_count():
    clock, heartbeats = make()
    heartbeats.look({"a": 1})
    for _ in range(5):
        clock.now += 3600.0
        assert heartbeats.look({"a": 1}) == []
    assert heartbeats.patience > 5 * LONGEST_TICK_S


def test_who_is_looked_at_again_starts_anew():
    clock, heartbeats = make()
    assert look_every_half_second(clock, heartbeats, 9, {"a": 1}) == []
    heartbeats.look({})
    assert look_every_half_second(clock, heartbeats, 9, {"a": 1}) == []
