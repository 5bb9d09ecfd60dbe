"""TensorBoard's events survive full disks, and hold programs, settings and results."""

import threading

import cv2
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata, plugin_data_pb2

import agents.monitoring.logger
import agents.monitoring.tensorboard
from agents.config import TrainConfig
from agents.monitoring.metrics import TrainingStatistics
from agents.monitoring.tensorboard import TensorBoardWriter
from agents.networks.program_statistics import HeadSummary
from envs import Episode


def test_events_that_find_no_room_are_reported_once_and_print_no_traceback(
    tmp_path, caplog, monkeypatch
):
    unexpected = []
    monkeypatch.setattr(threading, "excepthook", unexpected.append)
    agents.monitoring.tensorboard._silence_writer_threads.cache_clear()
    writer = TensorBoardWriter(tmp_path)

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as disk, caplog.at_level("ERROR", logger="train"):
        disk.setattr("tensorboard.summary.writer.record_writer.RecordWriter.write", full_disk)
        for interval in (1, 2):
            writer.add_scalars({"a3c/restarts": 1}, 100 * interval)
            assert caplog.text.count("No space left") == interval
    assert list(tmp_path.glob("events.*")) == []
    writer.add_scalars({"a3c/restarts": 2}, 300)
    writer.close()
    assert unexpected == []
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [(e.step, e.value) for e in events.Scalars("a3c/restarts")] == [(300, 2.0)]


@pytest.mark.parametrize("set_back", [0, 3600])
def test_a_resumed_run_has_one_curve_though_the_clock_was_set_back(tmp_path, monkeypatch, set_back):
    now = [1_800_000_000.0]
    monkeypatch.setattr("time.time", lambda: now[0])
    sessions = [(None, (10, 20, 30, 40)), (21, (25, 35, 45)), (36, (50,))]
    for purge_step, steps in sessions:
        writer = TensorBoardWriter(tmp_path, purge_step)
        for step in steps:
            writer.add_scalars({"a3c/restarts": 1}, step)
        writer.close()
        now[0] += 5 - set_back
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [event.step for event in events.Scalars("a3c/restarts")] == [10, 20, 25, 35, 50]
    names = sorted(path.name for path in tmp_path.iterdir())
    assert len(names) == 3
    if not set_back:
        stamps = [name.split(".")[3] for name in names]
        assert stamps == ["1800000000", "1800000005", "1800000010"]


def make_summary(attention):
    return HeadSummary(
        attention=np.asarray(attention, np.float32),
        singular_values=np.array([[2.0, 1.0], [4.0, 1.0]], np.float32),
        attention_entropy=np.array([0.5, 0.75], np.float32),
        residual_gate=None,
    )


def test_what_the_heads_composed_becomes_pictures_and_histograms(tmp_path):
    writer = TensorBoardWriter(tmp_path)
    ones, nones = np.ones((3, 2, 4)), np.zeros((3, 2, 4))
    for step, attention in ((10, ones), (20, nones)):
        writer.add_programs({"actor": make_summary(attention)}, step)
    writer.close()
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
    writer = TensorBoardWriter(tmp_path)
    statistics = TrainingStatistics()
    writer.log_config(config, 0)
    statistics.add_episodes([Episode(30.0, 7)])
    statistics.add_evaluation({"eval/sampled_return": 9.0}, "")
    writer.log_hparams(config, statistics.results(), 100, finished=finished)
    writer.close()
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
