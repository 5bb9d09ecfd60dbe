"""What is written to TensorBoard, `progress.csv` and the progress line."""

import csv
import io
import math

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from agents.metrics import Metrics, format_seconds
from agents.records import UpdateRecord
from envs import Episode


class Terminal(io.StringIO):
    def isatty(self):
        return True


def make_metrics(folder, stream=None):
    return Metrics(folder, total_timesteps=1000, log_interval=1e9, stream=stream or io.StringIO())


def test_points_hold_the_means_since_the_last_point(tmp_path):
    metrics = make_metrics(tmp_path)
    metrics.add(UpdateRecord(0, [Episode(10.0, 5)], {"losses/entropy": 1.0}))
    metrics.add(UpdateRecord(1, [Episode(30.0, 7)], {"losses/entropy": 3.0}))
    metrics.tick(100, {"charts/learning_rate": 0.5}, force=True)
    metrics.add(UpdateRecord(0, [], {"losses/entropy": 7.0}))
    metrics.tick(200, {"charts/learning_rate": 0.4}, force=True)
    metrics.close()

    events = EventAccumulator(str(tmp_path)).Reload()
    entropy = [(e.step, e.value) for e in events.Scalars("losses/entropy")]
    assert entropy == [(100, 2.0), (200, 7.0)]
    assert [e.value for e in events.Scalars("charts/episodic_return")] == [20.0]
    assert [e.value for e in events.Scalars("charts/frames")] == [400.0, 800.0]

    with (tmp_path / "progress.csv").open() as file:
        assert next(csv.reader(file))[:2] == ["wall_time", "global_step"]
    with (tmp_path / "progress.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["global_step"] for row in rows] == ["100", "200"]
    assert [float(row["recent_return"]) for row in rows] == [20.0, 20.0]
    assert rows[0]["entropy"] == "2.0"


def test_the_recent_return_is_the_mean_of_the_last_hundred_games(tmp_path):
    metrics = make_metrics(tmp_path)
    assert math.isnan(metrics.recent_return)
    for score in range(150):
        metrics.add(UpdateRecord(0, [Episode(float(score), 1)], {}))
    assert metrics.recent_return == pytest.approx(sum(range(50, 150)) / 100)
    assert metrics.episodes == 150
    metrics.close()


def test_numbers_that_are_not_finite_stay_out_of_the_means(tmp_path):
    metrics = make_metrics(tmp_path)
    metrics.add(UpdateRecord(0, [], {"losses/explained_variance": math.nan}))
    metrics.add(UpdateRecord(0, [], {"losses/explained_variance": 0.5}))
    metrics.tick(1, {}, force=True)
    metrics.close()
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [e.value for e in events.Scalars("losses/explained_variance")] == [0.5]


def test_the_progress_line_names_steps_rate_return_and_remaining_time(tmp_path):
    stream = io.StringIO()
    metrics = make_metrics(tmp_path, stream)
    metrics.add(UpdateRecord(0, [Episode(12.0, 5)], {}))
    metrics.tick(500, {}, force=True)
    metrics.close()
    (line,) = stream.getvalue().splitlines()
    for part in ("500 / 1,000 steps", "steps/s", "return 12.0", "ETA 0:00:00"):
        assert part in line


def test_on_a_terminal_the_line_is_written_over(tmp_path):
    stream = Terminal()
    metrics = make_metrics(tmp_path, stream)
    metrics.tick(1, {}, force=True)
    metrics.tick(2, {}, force=True)
    metrics.end_line()
    metrics.end_line()
    metrics.close()
    assert stream.getvalue().count("\r") == 2
    assert stream.getvalue().count("\n") == 1
    assert stream.getvalue().endswith("\n")


class ClosedTerminal(io.StringIO):
    def write(self, _):
        raise OSError(5, "Input/output error")


def test_a_terminal_that_is_gone_does_not_end_the_run(tmp_path):
    metrics = make_metrics(tmp_path, ClosedTerminal())
    for step in (1, 2):
        metrics.tick(step, {}, force=True)
    metrics.close()
    assert len((tmp_path / "progress.csv").read_text().splitlines()) == 3


def test_seconds_are_shown_as_clock_time():
    assert format_seconds(3 * 86400 + 3723) == "3d 1:02:03"
    assert format_seconds(59.9) == "0:00:59"
    assert format_seconds(math.inf) == "-"
