"""The command that plays a recorded episode again."""

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from agents.cli import run_command
from agents.evaluation.replay_file import Replay
from agents.evaluation.replay_policy import verify_replay
from agents.evaluation.runner import evaluate_policy
from agents.evaluation.video import enlarge
from agents.replay import PROG, main
from tests.agents.episode_log import EpisodeLog
from tests.agents.runs import make_config, make_run, rewrite_json
from tests.process_harness import run_in_bash

ROOT = Path(__file__).parents[2]


def record(config):
    (episode,) = evaluate_policy(None, config, "random", [3])
    return Replay(config.env, episode)


def run(*argv):
    """Exit code of the command."""
    with pytest.raises(SystemExit) as stopped:
        run_command(lambda: main([str(arg) for arg in argv]), PROG)
    return stopped.value.code


@pytest.fixture(scope="module")
def replay():
    return record(make_config(max_frames=102))


@pytest.fixture
def path(replay, tmp_path):
    replay.save(tmp_path / "game.npz")
    return tmp_path / "game.npz"


def test_the_same_episode_is_said_to_be_identical(replay, path, capsys):
    assert main([str(path)]) == 0
    printed = capsys.readouterr()
    assert f"score {replay.episode.score:g}, 26 agent steps (1.7 s)" in printed.out
    assert "identical" in printed.out
    assert printed.err == ""
    assert [p.name for p in path.parent.iterdir()] == ["game.npz"]


def test_another_episode_fails_with_code_1_and_what_differs_and_leaves_no_video(
    replay, path, capsys
):
    dataclasses.replace(replay, episode=dataclasses.replace(replay.episode, score=123.0)).save(path)
    video = path.with_name("game.mp4")
    assert main([str(path), "--video", str(video)]) == 1
    printed = capsys.readouterr()
    assert "identical" not in printed.out
    assert "NOT the same episode: the score is" in printed.err
    assert "but 123 was recorded" in printed.err
    assert not video.exists()


def test_the_video_has_every_picture_and_lasts_as_long_as_the_episode(path, capsys):
    video = path.with_name("again.mp4")
    assert main([str(path), "--video", str(video)]) == 0
    assert str(video) in capsys.readouterr().out
    opened = cv2.VideoCapture(str(video))
    count, fps = opened.get(cv2.CAP_PROP_FRAME_COUNT), opened.get(cv2.CAP_PROP_FPS)
    assert (count, fps) == (52, 30)
    assert count / fps == pytest.approx(26 * 4 / 60)
    size = opened.get(cv2.CAP_PROP_FRAME_WIDTH), opened.get(cv2.CAP_PROP_FRAME_HEIGHT)
    assert size == (640, 480)


def test_bad_input_is_refused_in_one_line_with_code_2(path, tmp_path, capsys):
    (tmp_path / "bad.npz").write_bytes(b"no")
    no_such_action = tmp_path / "actions.npz"
    with np.load(path) as file:
        rest = json.loads(str(file["trace"]))
        rest["settings"]["game"] = "Pong"
        np.savez(no_such_action, actions=file["actions"], trace=np.array(json.dumps(rest)))
    for argv, words in (
        ([], "REPLAY.npz"),
        ([tmp_path / "no.npz"], "no.npz: there is no such file"),
        ([tmp_path / "bad.npz"], "bad.npz"),
        ([no_such_action], "Pong has 6 actions"),
        ([path, "--video", tmp_path / "out.webm"], "the name must end in .mp4"),
        ([path, "--video", tmp_path / "no" / "out.mp4"], "out.mp4: No such file"),
    ):
        assert run(*argv) == 2
        error = capsys.readouterr().err
        assert words in error
        assert error.count("\n") == 1


def test_it_is_a_command(path):
    command = [sys.executable, "-m", "agents.replay", str(path)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "identical" in result.stdout


@pytest.mark.parametrize("where", ["| true", "> /dev/full"])
def test_the_verdict_stands_though_it_cannot_be_printed(where, path):
    ended = run_in_bash(f"{sys.executable} -u -m agents.replay {path} {where}")
    assert (ended.returncode, ended.stderr) == (0, b"")


def test_an_overlay_changes_nothing_in_the_episode(tmp_path, capsys):
    path = tmp_path / "game.npz"
    record(make_config(max_frames=16)).save(path)
    folder = make_run(tmp_path / "run", make_config(head="linear"))
    assert main([str(path), "--video", str(tmp_path / "a.mp4"), "--overlay", str(folder)]) == 0
    assert "identical" in capsys.readouterr().out
    opened = cv2.VideoCapture(str(tmp_path / "a.mp4"))
    assert opened.get(cv2.CAP_PROP_FRAME_COUNT) == 8
    assert (opened.get(cv2.CAP_PROP_FRAME_WIDTH), opened.get(cv2.CAP_PROP_FRAME_HEIGHT)) == (
        1280,
        480,
    )


def test_the_overlay_is_of_the_network_that_played_if_the_run_has_it_else_it_is_said_which(
    tmp_path, capsys
):
    played = dataclasses.replace(record(make_config(max_frames=16)), global_step=500)
    played.save(tmp_path / "game.npz")
    dataclasses.replace(played, global_step=700).save(tmp_path / "other.npz")
    stills = []
    for name, steps in (("game", (500,)), ("game", (500, 900)), ("other", (500, 900))):
        folder = make_run(tmp_path / f"run{len(stills)}", make_config(), steps)
        picture = tmp_path / f"{len(stills)}.png"
        flags = ["--still", "4", str(picture), "--overlay", str(folder)]
        assert main([str(tmp_path / f"{name}.npz"), *flags]) == 0
        stills.append(cv2.imread(str(picture)))
        said = capsys.readouterr().err
        assert ("at agent step 900, which did not play" in said) == (name == "other")
    np.testing.assert_array_equal(stills[0], stills[1])
    assert (stills[0] != stills[2]).any()


def test_the_network_of_another_run_did_not_play_though_it_was_trained_as_long(tmp_path, capsys):
    played = dataclasses.replace(record(make_config(max_frames=16)), global_step=500)
    folder = make_run(tmp_path / "run", make_config(), (500,))
    for owner, did_play in (("", True), ("run/", True), ("other/", False)):
        checkpoint = f"{owner}step_000000000500.safetensors"
        dataclasses.replace(played, checkpoint=checkpoint).save(tmp_path / "game.npz")
        flags = ["--still", "4", str(tmp_path / "a.png"), "--overlay", str(folder)]
        assert main([str(tmp_path / "game.npz"), *flags]) == 0
        assert ("which did not play" in capsys.readouterr().err) != did_play


def test_the_network_that_played_is_found_as_the_best_if_its_own_file_is_damaged(tmp_path, capsys):
    path = tmp_path / "game.npz"
    dataclasses.replace(record(make_config(max_frames=16)), global_step=500).save(path)
    folder = make_run(tmp_path / "run", make_config(), (500, 900))
    file = folder / "checkpoints" / "step_000000000500.safetensors"
    shutil.copy(file, file.with_name("best.safetensors"))
    file.write_bytes(b"damaged")
    rewrite_json(folder / "config.json", lambda settings: settings.pop("gamma"))
    assert main([str(path), "--still", "4", str(tmp_path / "a.png"), "--overlay", str(folder)]) == 0
    said = capsys.readouterr().err
    assert "did not play" not in said
    assert "--gamma" in said  # it is assumed


@pytest.mark.parametrize("game", [None, "Pong"])
def test_an_overlay_of_an_unsuitable_run_is_refused_in_one_line(game, path, tmp_path, capsys):
    folder = tmp_path / "run"
    if game is not None:
        make_run(folder, make_config(game=game))
    assert run(path, "--video", tmp_path / "a.mp4", "--overlay", folder) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "a.mp4").exists()


def test_a_still_is_the_picture_after_that_agent_step(replay, path, tmp_path, capsys):
    log = EpisodeLog(needs_frames=True)
    verify_replay(replay, [log])
    screens = [step.info["screens"] for step in log.steps]
    assert main([str(path), "--still", "9", str(tmp_path / "a.png")]) == 0
    found = cv2.imread(str(tmp_path / "a.png"))[..., ::-1]
    np.testing.assert_array_equal(found, enlarge(screens[8][2:].max(axis=0)))
    folder = make_run(tmp_path / "run", make_config())
    assert main([str(path), "--still", "9", str(tmp_path / "b.png"), "--overlay", str(folder)]) == 0
    beside = cv2.imread(str(tmp_path / "b.png"))[..., ::-1]
    assert beside.shape == (720, 1280, 3)
    np.testing.assert_array_equal(beside[:480, :640], found)
    assert main([str(path), "--still", "900", str(tmp_path / "c.png")]) == 2
    assert "--still 900: the episode has 26 agent steps" in capsys.readouterr().err
    assert not (tmp_path / "c.png").exists()


@pytest.mark.parametrize(
    "flags", [["--overlay", "runs/latest"], ["--still", "x", "a.png"], ["--still", "1", "a.jpg"]]
)
def test_pictures_that_cannot_be_are_refused(flags, path, capsys):
    assert run(path, *flags) == 2
    assert flags[0] in capsys.readouterr().err
