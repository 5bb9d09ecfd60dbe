"""What is written to TensorBoard and `progress.csv`, and what people are shown."""

import csv
import io
import logging
import math
import threading

import cv2
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata, plugin_data_pb2

import agents.monitoring.metrics
from agents.config import TrainConfig
from agents.monitoring.console import QuietDisplay
from agents.monitoring.metrics import COLUMNS, Metrics, keep_rows_until
from agents.monitoring.records import UpdateRecord
from agents.networks.program_statistics import HeadSummary
from envs import Episode


class FakeDisplay(QuietDisplay):
    def __init__(self):
        super().__init__()
        self.shown = []

    def show(self, status, *, point):
        self.shown.append((status, point))


def make_metrics(folder, display=None):
    return Metrics(folder, 1000, 1e9, display or FakeDisplay())


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


def test_a_resumed_run_writes_one_curve_without_gap_or_double(tmp_path):
    first = make_metrics(tmp_path)
    first.add(UpdateRecord(0, [Episode(7.0, 5)], {}))
    for step in (100, 200, 300):
        first.tick(step, {"a3c/restarts": 1}, force=True)
    progress = first.progress()
    first.close()
    with (tmp_path / "progress.csv").open("a") as file:
        file.write("1795426664.844,31")  # cut off in the middle
    second = Metrics(tmp_path, 1000, 1e9, FakeDisplay(), progress=progress, resumed_at=200)
    assert (second.episodes, second.recent_return, second.best_return) == (1, 7.0, 7.0)
    assert second.elapsed >= progress["seconds"]
    for step in (250, 350):
        second.tick(step, {"a3c/restarts": 2}, force=True)
    second.close()

    expected = [(100, 1.0), (200, 1.0), (250, 2.0), (350, 2.0)]
    with (tmp_path / "progress.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(int(r["global_step"]), float(r["restarts"])) for r in rows] == expected
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [(e.step, e.value) for e in events.Scalars("a3c/restarts")] == expected


def test_rows_that_found_no_room_are_written_when_there_is_room_again(tmp_path, caplog):
    metrics = make_metrics(tmp_path)
    metrics.tick(100, {}, force=True)
    whole = (tmp_path / "progress.csv").read_text()

    class FullDisk(io.StringIO):
        def write(self, text):
            with (tmp_path / "progress.csv").open("a") as file:
                file.write(text[:5])  # some of it still fits
            raise OSError(28, "No space left on device")

    metrics._csv.close()
    metrics._csv = FullDisk()
    with caplog.at_level("ERROR", logger="train"):
        logging.getLogger("train").propagate = True
        metrics.tick(200, {}, force=True)
    assert "No space left" in caplog.text
    assert (tmp_path / "progress.csv").read_text() == whole
    metrics.tick(300, {}, force=True)
    metrics.close()
    with (tmp_path / "progress.csv").open() as file:
        assert [row["global_step"] for row in csv.DictReader(file)] == ["100", "200", "300"]


def test_events_that_find_no_room_are_reported_once_and_print_no_traceback(
    tmp_path, caplog, monkeypatch
):
    unexpected = []
    monkeypatch.setattr(threading, "excepthook", unexpected.append)
    agents.monitoring.metrics._keep_writer_threads_quiet.cache_clear()
    metrics = make_metrics(tmp_path)
    logging.getLogger("train").propagate = True

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as disk, caplog.at_level("ERROR", logger="train"):
        disk.setattr("tensorboard.summary.writer.record_writer.RecordWriter.write", full_disk)
        for interval in (1, 2):
            metrics.tick(100 * interval, {"a3c/restarts": 1}, force=True)
            assert caplog.text.count("No space left") == interval
    assert list(tmp_path.glob("events.*")) == []
    metrics.tick(300, {"a3c/restarts": 2}, force=True)
    metrics.close()
    assert unexpected == []
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [(e.step, e.value) for e in events.Scalars("a3c/restarts")] == [(300, 2.0)]


def test_the_display_is_told_how_the_run_stands(tmp_path):
    display = FakeDisplay()
    metrics = make_metrics(tmp_path, display)
    metrics.add(UpdateRecord(0, [Episode(12.0, 5), Episode(-3.0, 5)], {}))
    metrics.add_evaluation(400, {"eval/sampled_return": 9.0}, "sampled 9.0")
    metrics.tick(500, {"a3c/workers_alive": 2, "a3c/restarts": 1}, force=True)
    metrics.tick(501, {})
    metrics.close()
    (status, point), (_, no_point) = display.shown
    assert (point, no_point) == (True, False)
    assert (status.global_step, status.total_timesteps, status.episodes) == (500, 1000, 2)
    assert (status.best_return, status.recent_return) == (12.0, "4.5 (last 2)")
    assert (status.workers_alive, status.restarts, status.evaluation) == (2, 1, "sampled 9.0")
    assert status.seconds_left == pytest.approx(status.elapsed, rel=0.5)
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [(e.step, e.value) for e in events.Scalars("eval/sampled_return")] == [(400, 9.0)]


@pytest.mark.parametrize(
    ("damage", "kept"),
    [
        (lambda text: text, [10, 20, 30]),
        (lambda text: text.replace("\n1,20,", '\n"1,20,'), [10, 30]),
        (lambda text: text.replace(",20,", ",²,"), [10, 30]),
        (lambda text: text.replace(",20,", ","), [10, 30]),
        (lambda text: text.replace("wall_time,global_step", "\0" * 21), [10, 20, 30]),
        (lambda text: text[: text.index(",30,") + 5], [10, 20]),
        (lambda text: text + "\0" * 100, [10, 20, 30]),
    ],
)
def test_damage_in_the_progress_costs_the_damaged_rows_alone(tmp_path, damage, kept):
    path = tmp_path / "progress.csv"
    assert COLUMNS[:2] == ("wall_time", "global_step")
    rows = [["1", str(step)] + ["2.5"] * (len(COLUMNS) - 2) for step in (10, 20, 30, 40)]
    path.write_text(damage("".join(",".join(row) + "\n" for row in [COLUMNS, *rows])))
    keep_rows_until(path, 30)
    with path.open(newline="") as file:
        assert [int(row["global_step"]) for row in csv.DictReader(file)] == kept


def make_summary(attention):
    return HeadSummary(
        attention=np.asarray(attention, np.float32),
        singular_values=np.array([[2.0, 1.0], [4.0, 1.0]], np.float32),
        attention_entropy=np.array([0.5, 0.75], np.float32),
        residual_gate=None,
    )


def test_what_the_heads_composed_becomes_pictures_and_histograms(tmp_path):
    metrics = make_metrics(tmp_path)
    ones, nones = np.ones((3, 2, 4)), np.zeros((3, 2, 4))
    for step, attention in ((10, ones), (20, nones)):
        metrics.add_evaluation(step, {}, "", {"actor": make_summary(attention)})
    metrics.close()
    events = EventAccumulator(str(tmp_path)).Reload()
    assert set(events.Tags()["histograms"]) == {
        "programs/actor/singular_values",
        "programs/actor/attention_entropy",
    }
    values = events.Histograms("programs/actor/singular_values")[0].histogram_value
    assert (values.min, values.max, values.num, values.sum) == (1, 4, 4, 8)
    pictures = events.Images("programs/actor/attention")
    assert [p.step for p in pictures] == [10, 20]
    full, empty = (
        cv2.imdecode(np.frombuffer(p.encoded_image_string, np.uint8), cv2.IMREAD_COLOR)[100, 100]
        for p in pictures
    )
    # The two ends of viridis, blue first.
    np.testing.assert_allclose(full, [37, 231, 253], atol=2)
    np.testing.assert_allclose(empty, [84, 1, 68], atol=2)


@pytest.mark.parametrize("finished", [True, False])
def test_a_run_is_a_row_of_the_hparams_page_with_its_settings_and_results(tmp_path, finished):
    config = TrainConfig(learning_rate=0.25, head="linear")
    metrics = make_metrics(tmp_path)
    metrics.begin(config)
    metrics.add(UpdateRecord(0, [Episode(30.0, 7)], {}))
    metrics.add_evaluation(90, {"eval/sampled_return": 9.0}, "")
    metrics.conclude(config, 100, finished=finished)
    metrics.close()
    events = EventAccumulator(str(tmp_path)).Reload()
    assert {
        tag: [(e.step, e.value) for e in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
        if tag.startswith("results/") and tag != "results/seconds"
    } == {
        "results/recent_return": [(100, 30.0)],
        "results/best_return": [(100, 30.0)],
        "results/episodes": [(100, 1.0)],
        "results/sampled_return": [(100, 9.0)],
    }
    contents = events.PluginTagToContent(metadata.PLUGIN_NAME)
    assert (metadata.SESSION_END_INFO_TAG in contents) == finished
    start = plugin_data_pb2.HParamsPluginData.FromString(contents[metadata.SESSION_START_INFO_TAG])
    settings = start.session_start_info.hparams
    assert settings["learning_rate"].number_value == 0.25
    assert settings["head"].string_value == "linear"
    assert "run_dir" not in settings
    (text,) = events.Tensors("config/text_summary")
    assert b"| `learning_rate` | `0.25` |" in text.tensor_proto.string_val[0]
    # One run, one folder: none below it.
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def test_while_no_step_is_made_people_are_told_once_an_interval(tmp_path, monkeypatch):
    display, now = FakeDisplay(), [100.0]
    monkeypatch.setattr(agents.monitoring.metrics.time, "monotonic", lambda: now[0])
    metrics = Metrics(tmp_path, 1000, 10.0, display)
    for _ in range(40):
        now[0] += 1.0
        metrics.tick(0, {})
    metrics.close()
    assert [point for _, point in display.shown].count(True) == 4
