"""Frame skip is a run's setting, and whatever counts frames or seconds takes it from there."""

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from agents import evaluate, plot, replay, report
from agents.cli import parse_args
from agents.config import SettingError, TrainConfig
from agents.evaluation.replay_file import ReplayError, load_replay
from agents.evaluation.results import read_evaluations
from agents.run_folder import open_run
from agents.training.supervisor import train
from tests.agents.curve_runs import write_run
from tests.agents.report_pages import read_data
from tests.agents.runs import make_config, make_run
from tests.agents.tiny_env import make_tiny_env

CONFIG = make_config(frame_skip=12, max_frames=101)
STEPS = 9  # of which the last is cut off after five of its twelve frames


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("skip") / "run", CONFIG, steps=(700,))


@pytest.fixture(scope="module")
def recorded(run):
    """The one recorded episode of the run: its replay and its video."""
    arguments = ["--episodes", "1", "--mode", "greedy", "--record", "--overlay"]
    assert evaluate.main([str(run), *arguments]) == 0
    (path,) = (run / "replays").iterdir()
    (video,) = (run / "videos").iterdir()
    return path, video


def test_it_reaches_the_environments():
    assert parse_args(["--frame-skip", "12"]).env.frame_skip == 12
    assert TrainConfig().env.frame_skip == 4
    with pytest.raises(SettingError, match="--frame-skip 101"):
        TrainConfig(frame_skip=101)


def test_every_setting_of_the_environment_reaches_the_atari_config():
    settings = {
        "game": "Pong",
        "frame_skip": 3,
        "sticky_actions": 0.1,
        "noop_max": 7,
        "fire_reset": True,
        "max_frames": 500,
        "full_action_space": True,
    }
    assert vars(TrainConfig(**settings).env) == settings


def test_an_evaluation_and_its_replay_have_the_runs_frame_skip(run, recorded, capsys):
    (row,) = read_evaluations(run)
    assert row.summary.length == STEPS
    path, _ = recorded
    recording = load_replay(path)
    assert (recording.settings.frame_skip, recording.episode.length) == (12, STEPS)
    assert replay.main([str(path)]) == 0
    assert f"{STEPS} agent steps (1.8 s)" in capsys.readouterr().out


def test_a_video_lasts_as_long_as_the_episode(recorded):
    video = cv2.VideoCapture(str(recorded[1]))
    count, fps = video.get(cv2.CAP_PROP_FRAME_COUNT), video.get(cv2.CAP_PROP_FPS)
    assert (count, fps) == (STEPS * 6, 30)


def test_a_replay_is_no_replay_with_another_frame_skip(recorded, tmp_path, capsys):
    with np.load(recorded[0]) as file:
        actions, rest = file["actions"], json.loads(str(file["trace"]))
    for change, code in (({"frame_skip": 12}, 0), ({"frame_skip": 4}, 1)):
        rest["settings"] |= change
        np.savez(tmp_path / "game.npz", actions=actions, trace=np.array(json.dumps(rest)))
        assert replay.main([str(tmp_path / "game.npz")]) == code
    assert "NOT the same episode" in capsys.readouterr().err
    rest["settings"] |= {"frame_skip": 13}
    np.savez(tmp_path / "game.npz", actions=actions, trace=np.array(json.dumps(rest)))
    with pytest.raises(ReplayError, match="9 agent steps of 13 frames are over the limit of 101"):
        replay.main([str(tmp_path / "game.npz")])


def test_a_replay_from_before_frame_skip_was_a_setting_has_four(tmp_path):
    run = make_run(tmp_path / "run", make_config())
    assert evaluate.main([str(run), "--episodes", "1", "--mode", "greedy", "--record"]) == 0
    (path,) = (run / "replays").iterdir()
    with np.load(path) as file:
        actions, rest = file["actions"], json.loads(str(file["trace"]))
    del rest["settings"]["frame_skip"]
    np.savez(path, actions=actions, trace=np.array(json.dumps(rest)))
    assert load_replay(path).settings.frame_skip == 4
    assert replay.main([str(path)]) == 0


def test_a_run_from_before_frame_skip_was_a_setting_has_four(tmp_path, capsys):
    run = make_run(tmp_path / "run", make_config())
    settings = json.loads((run / "config.json").read_text())
    del settings["frame_skip"]
    (run / "config.json").write_text(json.dumps(settings))
    assert open_run(run)[1].frame_skip == 4
    assert evaluate.main([str(run), "--episodes", "1", "--mode", "greedy"]) == 0
    assert capsys.readouterr().err.endswith("assuming their defaults: --frame-skip 4\n")
    assert read_evaluations(run)[0].summary.length == 20


def test_a_resumed_run_keeps_its_own(run, capsys):
    with pytest.raises(SystemExit):
        parse_args(["--resume", str(run), "--frame-skip", "4"])
    assert "--frame-skip" in capsys.readouterr().err
    assert parse_args(["--resume", str(run)]).frame_skip == 12


def test_a_report_counts_frames_and_seconds_with_the_runs_frame_skip(run):
    arguments = ["--episodes", "1", "--mode", "greedy"]
    assert report.main([str(run), *arguments]) == 0
    text = (run / "report.html").read_text()
    assert "(8,400 frames)" in text
    assert "One agent step is 12 frames of the console" in text
    assert read_data(text)["rate"] == 5
    assert "(2 s of play)" in text
    assert "--frame-skip 12" in text


def test_training_counts_frames_with_its_frame_skip(tmp_path, capfd):
    config = TrainConfig(
        head="linear",
        workers=0,
        envs_per_worker=2,
        total_timesteps=40,
        num_steps=5,
        frame_skip=12,
        eval_interval=0,
        run_dir=str(tmp_path),
    )
    assert train(config, (), make_tiny_env) == 0
    folder = Path(tmp_path / "latest")
    with (folder / "progress.csv").open() as file:
        steps = int(list(csv.DictReader(file))[-1]["global_step"])
    assert steps >= 40
    assert f"({12 * steps:,} frames)" in capfd.readouterr().out


def test_a_plots_frames_are_those_of_each_run(tmp_path):
    for skip in (4, 12):
        write_run(tmp_path / f"skip{skip}", [(1000, 1.0), (2000, 2.0)], frame_skip=skip)
    out = tmp_path / "curves.csv"
    folders = [str(tmp_path / f"skip{skip}") for skip in (4, 12)]
    assert plot.main([*folders, "--x", "frames", "--out", str(out)]) == 0
    with out.open() as file:
        rows = list(csv.DictReader(file))
    last = {row["label"]: float(row["frame"]) for row in rows}
    assert sorted(last.values()) == [8000, 24_000]
    # Two lengths of an agent step have no common second axis.
    assert plot.main([*folders, "--x", "steps", "--out", str(tmp_path / "curves.png")]) == 0
