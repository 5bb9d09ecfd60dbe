"""What the logger writes to TensorBoard, `progress.csv` and the console."""

import csv
from dataclasses import replace

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import agents.monitoring.logger
import agents.monitoring.tensorboard
from agents.config import TrainConfig
from agents.monitoring.console import QuietDisplay
from agents.monitoring.logger import TrainingLogger
from agents.training_state import TrainingState
from envs import Episode


class FakeDisplay(QuietDisplay):
    def __init__(self):
        super().__init__()
        self.shown = []

    def show(self, status, *, new_row):
        self.shown.append((status, new_row))


ALWAYS = 1e-9  # seconds, which have passed at every call
CONFIG = TrainConfig(game="Pong", total_timesteps=1000, log_interval=1e9, frame_skip=12)


def make_logger(folder, display=None, state=None, **settings):
    return TrainingLogger(folder, replace(CONFIG, **settings), display or FakeDisplay(), state)


def add(logger, episodes, scalars):
    logger.statistics.add_episodes(episodes)
    logger.statistics.add_scalars(scalars)


def test_points_hold_the_means_since_the_last_point(tmp_path):
    logger = make_logger(tmp_path, log_interval=ALWAYS)
    add(logger, [Episode(10.0, 5)], {"losses/entropy": 1.0})
    add(logger, [Episode(30.0, 7)], {"losses/entropy": 3.0})
    logger.log_if_due(100, {"charts/learning_rate": 0.5})
    add(logger, [], {"losses/entropy": 7.0})
    logger.log_if_due(200, {"charts/learning_rate": 0.4})
    logger.close()

    events = EventAccumulator(str(tmp_path)).Reload()
    entropy = [(e.step, e.value) for e in events.Scalars("losses/entropy")]
    assert entropy == [(100, 2.0), (200, 7.0)]
    assert [e.value for e in events.Scalars("charts/episodic_return")] == [20.0]
    assert [e.value for e in events.Scalars("charts/frames")] == [1200.0, 2400.0]

    with (tmp_path / "progress.csv").open() as file:
        assert next(csv.reader(file))[:2] == ["wall_time", "global_step"]
    with (tmp_path / "progress.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["global_step"] for row in rows] == ["100", "200"]
    assert [float(row["recent_return"]) for row in rows] == [20.0, 20.0]
    assert rows[0]["entropy"] == "2.0"


def test_a_resumed_run_writes_one_curve_without_gaps_or_duplicates(tmp_path):
    first = make_logger(tmp_path, log_interval=ALWAYS)
    add(first, [Episode(7.0, 5)], {})
    for step in (100, 200, 300):
        first.log_if_due(step, {"a3c/restarts": 1})
    state = replace(first.statistics.state(), global_step=200)
    first.close()
    with (tmp_path / "progress.csv").open("a") as file:
        file.write("1795426664.844,31")  # cut off in the middle
    second = make_logger(tmp_path, state=state, log_interval=ALWAYS)
    assert second.statistics.episodes == 1
    assert second.statistics.recent_return == second.statistics.best_return == 7.0
    assert second.statistics.elapsed >= state.seconds
    for step in (250, 350):
        second.log_if_due(step, {"a3c/restarts": 2})
    second.close()

    expected = [(100, 1.0), (200, 1.0), (250, 2.0), (350, 2.0)]
    with (tmp_path / "progress.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(int(r["global_step"]), float(r["restarts"])) for r in rows] == expected
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [(e.step, e.value) for e in events.Scalars("a3c/restarts")] == expected


def test_the_display_shows_the_progress_of_the_run(tmp_path, monkeypatch):
    display, now = FakeDisplay(), [100.0]
    monkeypatch.setattr(agents.monitoring.logger.time, "monotonic", lambda: now[0])
    logger = make_logger(tmp_path, display, log_interval=60.0)
    add(logger, [Episode(12.0, 5), Episode(-3.0, 5)], {})
    logger.add_evaluation(400, {"eval/sampled_return": 9.0}, "sampled 9.0")
    now[0] += 60.0
    logger.log_if_due(500, {"a3c/workers_alive": 2, "a3c/restarts": 1})
    logger.log_if_due(501, {})
    logger.close()
    (status, new_row), (_, no_row) = display.shown
    assert (new_row, no_row) == (True, False)
    assert (status.global_step, status.total_timesteps, status.episodes) == (500, 1000, 2)
    assert (status.best_return, status.recent_return) == (12.0, "4.5 (last 2)")
    assert (status.workers_alive, status.restarts, status.evaluation) == (2, 1, "sampled 9.0")
    assert (status.elapsed, status.seconds_left) == pytest.approx((60.0, 60.0))
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [(e.step, e.value) for e in events.Scalars("eval/sampled_return")] == [(400, 9.0)]


def test_a_warm_up_is_shown_and_counts_as_time_of_training_but_not_in_the_mean_rate(
    tmp_path, monkeypatch
):
    display, now = FakeDisplay(), [100.0]
    monkeypatch.setattr(agents.monitoring.logger.time, "monotonic", lambda: now[0])
    logger = make_logger(tmp_path, display, TrainingState(200), log_interval=60.0)
    for played in (20, 40):
        now[0] += 50.0
        logger.log_if_due(200, {}, f"{played} of 40 steps")
    now[0] += 20.0
    logger.log_if_due(240, {})
    logger.end_training(240, {})
    logger.close()
    shown = [status for status, _ in display.shown]
    assert [status.warmup for status in shown] == [
        "20 of 40 steps",
        "40 of 40 steps",
        "",
    ]
    assert (shown[-1].elapsed, shown[-1].seconds_left) == pytest.approx((120.0, 380.0))
    with (tmp_path / "progress.csv").open() as file:
        [row] = csv.DictReader(file)
    # Steps / SPS is the time since the previous row, from which plots take the hours of training.
    assert (row["global_step"], float(row["SPS"])) == ("240", pytest.approx(40 / 120))


def test_while_no_step_is_made_a_row_is_shown_once_an_interval(tmp_path, monkeypatch):
    display, now = FakeDisplay(), [100.0]
    monkeypatch.setattr(agents.monitoring.logger.time, "monotonic", lambda: now[0])
    logger = make_logger(tmp_path, display, log_interval=10.0)
    for _ in range(40):
        now[0] += 1.0
        logger.log_if_due(0, {})
    logger.close()
    assert [new_row for _, new_row in display.shown].count(True) == 4


def test_the_share_of_episodes_past_the_plateau_is_logged_where_there_is_one(tmp_path):
    for game, plateau in (("Frostbite", 320.0), ("Pong", None)):
        folder = tmp_path / game
        folder.mkdir()
        logger = make_logger(folder, game=game, log_interval=ALWAYS)
        add(logger, [Episode(score, 5) for score in (100.0, 320.0, 321.0, 5000.0)], {})
        logger.log_if_due(100, {})
        logger.close()
        with (folder / "progress.csv").open() as file:
            [row] = csv.DictReader(file)
        assert row["recent_past_plateau"] == ("0.5" if plateau else "")
        tags = EventAccumulator(str(folder)).Reload().Tags()["scalars"]
        assert ("charts/recent_past_plateau" in tags) == bool(plateau)
