"""The command that evaluates a run: what it plays with, prints, saves and refuses."""

import dataclasses
import errno
import fcntl
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

import cv2
import pytest

from agents.checkpoint import Checkpoint, CheckpointError, save_checkpoint
from agents.cli import run_command
from agents.evaluate import PROG, main
from agents.evaluation.load_agent import load_agent
from agents.evaluation.replay_file import load_replay
from agents.evaluation.replay_policy import verify_replay
from agents.evaluation.results import read_evaluations
from agents.evaluation.runner import episode_seeds, evaluate_policy
from agents.system.files import read_bounded
from agents.training_state import TrainingState
from tests.agents.fuzz import little_memory
from tests.agents.runs import make_config, make_network, make_run, save
from tests.process_harness import run_in_bash

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("template") / "run", steps=(500, 9000))


@pytest.fixture
def run(template, tmp_path):
    return shutil.copytree(template, tmp_path / "run")


def refused(capsys, *argv):
    with pytest.raises(SystemExit) as caught:
        run_command(lambda: main([str(arg) for arg in argv]), PROG)
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


def test_both_modes_are_played_printed_and_saved(run, capsys):
    assert main([str(run), "--episodes", "2", "--seed", "4"]) == 0
    printed = capsys.readouterr().out
    assert "step_000000009000.safetensors, 9,000 agent steps" in printed
    network = make_network(make_config(), seed=9000)
    rows = read_evaluations(run)
    assert [row.summary.mode for row in rows] == ["sampled", "greedy"]
    for row in rows:
        episodes = evaluate_policy(network, make_config(), row.summary.mode, episode_seeds(4, 2))
        assert row.summary.mean == pytest.approx(sum(episode.score for episode in episodes) / 2)
        assert row.summary.length == 20
        assert (row.source, row.checkpoint) == ("evaluate", "step_000000009000.safetensors")
        assert (row.global_step, row.seed, row.summary.episodes) == (9000, 4, 2)
        assert abs(row.wall_time - time.time()) < 60
        assert f"{row.summary.mode} 2/2: score {episodes[1].score:g}, 20 agent steps" in printed
    assert "human 4,334.7" in printed
    assert not (run / "videos").exists()


def test_the_tables_have_all_digits_though_the_terminal_is_narrow(run, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    assert main([str(run), "--episodes", "2", "--mode", "random"]) == 0
    printed = capsys.readouterr().out
    assert "\N{HORIZONTAL ELLIPSIS}" not in printed
    assert "igloo complete" in printed
    headings = next(line for line in printed.splitlines() if line.startswith(" mode "))
    assert headings.split()[-1] == "normalised"


def test_random_play_is_measured_beside_and_alone(run, capsys):
    assert main([str(run), "--episodes", "1", "--mode", "greedy", "--random"]) == 0
    greedy, random = read_evaluations(run)
    assert (greedy.summary.mode, random.summary.mode) == ("greedy", "random")
    assert (random.checkpoint, random.global_step) == ("", None)
    shutil.rmtree(run / "checkpoints")
    assert main([str(run), "--episodes", "1", "--mode", "random", "--random"]) == 0
    again = read_evaluations(run)[2:]
    assert [row.summary for row in again] == [random.summary]
    assert "random play" in capsys.readouterr().out


def test_recordings_are_named_and_play_back(run, capsys):
    assert main([str(run), "--episodes", "1", "--mode", "greedy", "--record"]) == 0
    printed = capsys.readouterr().out
    (replay,) = (run / "replays").iterdir()
    (video,) = (run / "videos").iterdir()
    assert f"recorded {replay.resolve()}\n" in printed
    assert f"recorded {video.resolve()}\n" in printed
    assert replay.stem == video.stem
    assert replay.stem.startswith(f"step_000000009000_greedy_seed_{episode_seeds(1, 1)[0]}_score_")
    assert verify_replay(load_replay(replay)).score == read_evaluations(run)[0].summary.mean


def test_the_checkpoint_can_be_chosen(run, capsys):
    config, network = make_config(), make_network(make_config(), seed=77)
    shutil.copy(save(run, network, 77), run / "checkpoints" / "best.safetensors")
    older = run / "checkpoints" / "step_000000000500.safetensors"
    given = (("latest", 9000), ("best", 77), (str(older), 500), (older.name, 500))
    for which, step in given:
        agent = load_agent(run, config, which)
        assert agent.global_step == step
        expected = make_network(config, seed=step).state_dict()
        assert all(p.equal(expected[name]) for name, p in agent.network.state_dict().items())
    assert main([str(run), "--episodes", "1", "--checkpoint", "best", "--mode", "greedy"]) == 0
    assert read_evaluations(run)[0].checkpoint == "best.safetensors"
    assert "best.safetensors, 77 agent steps" in capsys.readouterr().out


def test_a_named_checkpoint_is_read_once(run, monkeypatch):
    read = []

    def counted(path, max_bytes):
        read.append(path)
        return read_bounded(path, max_bytes)

    monkeypatch.setattr("agents.checkpoint.read_bounded", counted)
    path = run / "checkpoints" / "step_000000000500.safetensors"
    load_agent(run, make_config(), str(path))
    assert read == [path]


def test_a_damaged_newest_checkpoint_is_skipped_with_a_warning(run, caplog):
    (run / "checkpoints" / "step_000000009000.safetensors").write_bytes(b"cut")
    assert main([str(run), "--episodes", "1", "--mode", "greedy"]) == 0
    assert read_evaluations(run)[0].global_step == 500
    assert "step_000000009000.safetensors" in caplog.text


def test_a_link_to_a_run_and_a_bare_folder_of_config_and_checkpoints_work(run):
    (run.parent / "latest").symlink_to("run")
    assert main([str(run.parent / "latest"), "--episodes", "1", "--mode", "random"]) == 0
    assert {path.name for path in run.iterdir()} == {"checkpoints", "config.json", "eval"}


def test_a_result_that_cannot_be_saved_is_still_printed(run, capsys):
    (run / "eval").write_text("in the way")
    assert main([str(run), "--episodes", "1", "--mode", "greedy"]) == 1
    output = capsys.readouterr()
    assert "greedy" in output.out
    assert "warning: the result was not saved" in output.err


def test_bad_input_is_refused_in_one_line_that_names_it(run, capsys, tmp_path):
    assert "/nowhere: does not exist" in refused(capsys, "/nowhere")
    assert "has no config.json" in refused(capsys, tmp_path)
    for argument, value in (
        ("--episodes", "0"),
        ("--episodes", "many"),
        ("--seed", "-1"),
        ("--mode", "careful"),
        ("--nonsense", "1"),
    ):
        error = refused(capsys, run, argument, value)
        assert argument in error
        assert argument == "--nonsense" or value in error
    assert "best.safetensors" in refused(capsys, run, "--checkpoint", "best")
    assert "config.json" in refused(capsys, run, "--checkpoint", run / "config.json")
    other = save(tmp_path, make_network(make_config(head="linear")), 1)
    assert "actor" in refused(capsys, run, "--checkpoint", other)
    shutil.rmtree(run / "checkpoints")
    assert "no checkpoint" in refused(capsys, run)
    (run / "config.json").write_text('{"game": "Frostbite", "head": "round"}')
    assert "--head round" in refused(capsys, run)
    assert not (run / "eval").exists()


def test_parameters_that_are_not_finite_are_refused(run, capsys):
    network = make_network(make_config())
    next(network.parameters()).data[0] = float("nan")
    path = save(run, network, 3)
    assert f"{path}: some parameters are not finite" in refused(capsys, run, "--checkpoint", path)


def test_after_ctrl_c_the_finished_episodes_are_reported_and_saved(run):
    command = [sys.executable, "-u", "-m", "agents.evaluate", str(run), "--episodes", "100000"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [*command, "--record"], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("sampled 2/"):
                break
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    assert process.returncode == 130
    (row,) = read_evaluations(run)
    assert row.summary.mode == "sampled"
    played = row.summary.episodes
    assert played >= 2
    assert len(list((run / "replays").iterdir())) == played
    assert len(list((run / "videos").iterdir())) == played
    assert "stopped before all episodes were played" in rest
    assert "sampled" in rest


def test_settings_that_claim_a_huge_network_cost_nothing(run):
    huge = make_config(
        neurocoder_slots=4096,
        neurocoder_key_size=4096,
        neurocoder_heads=256,
        neurocoder_steps=256,
        neurocoder_hidden_size=8192,
    )
    load_agent(run, make_config())  # what torch imports for this, it imports once
    with little_memory(), pytest.raises(CheckpointError, match="no usable checkpoint"):
        load_agent(run, huge)
    sparse = run / "checkpoints" / "step_000000010000.safetensors"
    with sparse.open("wb") as file:
        file.truncate(400 * 2**30)
    with little_memory(), pytest.raises(CheckpointError, match="too large"):
        load_agent(run, huge, str(sparse))


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        (["--overlay"], "needs --record"),
        (["--mode", "random", "--checkpoint", "best"], "--checkpoint best: random play uses none"),
    ],
)
def test_flags_that_do_not_go_together_are_refused(flags, why, run, capsys):
    assert why in refused(capsys, run, *flags)


def test_with_an_overlay_the_command_records_the_wider_picture(tmp_path):
    run = make_run(tmp_path / "run", make_config(max_frames=16))
    flags = ["--episodes", "1", "--mode", "greedy", "--record", "--overlay"]
    assert main([str(run), *flags]) == 0
    (path,) = (run / "videos").iterdir()
    video = cv2.VideoCapture(str(path))
    assert video.get(cv2.CAP_PROP_FRAME_WIDTH) == 1280
    assert video.get(cv2.CAP_PROP_FRAME_HEIGHT) == 720


@pytest.mark.parametrize("head", ["neurocoder", "linear"])  # of equal and of other shapes
def test_a_checkpoint_of_another_game_or_head_is_refused_by_naming_both(
    head, run, tmp_path, capsys
):
    other = make_run(tmp_path / "other", make_config(game="Seaquest", head=head))
    (path,) = (other / "checkpoints").glob("step_*")
    error = refused(capsys, run, "--checkpoint", path)
    assert f"it is of a {head} head, trained on Seaquest" in error
    assert "the run is of a neurocoder head, trained on Frostbite" in error
    # Without the run's settings beside it, by what the file itself says.
    config = dataclasses.asdict(make_config(core="lstm"))
    parameters = {n: p.detach().clone() for n, p in make_network(make_config()).named_parameters()}
    state = TrainingState(3, config=config)
    moved = save_checkpoint(tmp_path, Checkpoint(parameters, {}, state), 1)
    assert "core lstm" in refused(capsys, run, "--checkpoint", moved)


@pytest.mark.parametrize(
    "changes",
    [
        {"neurocoder_steps": 1},
        {"neurocoder_sharpness": 1.0},
        {"actor_gain": 0.5},
        {"frame_skip": 8},
        {"sticky_actions": 0.0},
    ],
)
def test_a_checkpoint_of_an_agent_that_plays_otherwise_is_refused(changes, run, tmp_path, capsys):
    other = make_run(tmp_path / "other", make_config(**changes))
    (path,) = (other / "checkpoints").glob("step_*")
    ((name, value),) = changes.items()
    error = refused(capsys, run, "--checkpoint", path)
    assert f"--{name.replace('_', '-')} {value}," in error
    assert f"--{name.replace('_', '-')} {getattr(make_config(), name)}," in error


def test_the_score_of_another_runs_checkpoint_is_saved_with_the_name_of_that_run(run, tmp_path):
    learning = {"learning_rate": 1e-4, "orthogonality_coef": 0.0, "reward": "none"}
    other = make_run(tmp_path / "other", make_config(seed=5, **learning))
    (path,) = (other / "checkpoints").glob("step_*")
    for given in (path, run / "checkpoints" / "step_000000009000.safetensors"):
        assert main([str(run), "--checkpoint", str(given), "--episodes", "1"]) == 0
    names = [row.checkpoint for row in read_evaluations(run)]
    assert names == [f"other/{path.name}"] * 2 + ["step_000000009000.safetensors"] * 2


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("a[red]b :cat:", "a[red]b :cat:"),
        ("no-break\xa0space", "no-break\xa0space"),
        ("two\nlines, not UTF-8: \udcff", r"two\nlines, not UTF-8: \udcff"),
    ],
)
def test_any_name_of_another_run_is_printed_and_saved(name, shown, run, tmp_path, capsys):
    (path,) = (make_run(tmp_path / name) / "checkpoints").glob("step_*")
    flags = ["--checkpoint", str(path), "--mode", "greedy", "--episodes", "1", "--record"]
    assert main([str(run), *flags]) == 0
    saved = f"{shown}/{path.name}"
    assert saved in capsys.readouterr().out
    assert [row.checkpoint for row in read_evaluations(run)] == [saved]
    (replay,) = (run / "replays").iterdir()
    assert load_replay(replay).checkpoint == saved


def test_episodes_count_though_the_terminal_is_closed(run):
    """The closed terminal sends SIGHUP, and takes no more text."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "agents.evaluate", str(run), "--mode", "random"]
    child = subprocess.Popen(
        [*command, "--episodes", "10000"],
        **dict.fromkeys(("stdin", "stdout", "stderr"), theirs),
        cwd=ROOT,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(theirs)
    shown = b""
    # The bar is drawn ten times a second and may skip a number.
    while not re.search(rb" ([2-9]|[1-9]\d+)/10000", shown):
        shown += os.read(ours, 4096)
    os.close(ours)
    assert child.wait(timeout=60) == 128 + signal.SIGHUP
    (row,) = read_evaluations(run)
    assert 2 <= row.summary.episodes < 10000


@pytest.mark.parametrize("where", ["| head -1", "> /dev/full"])
def test_results_are_saved_though_what_is_printed_cannot_be_written(where, run):
    words = f"-m agents.evaluate {run} --mode random --episodes 2"
    ended = run_in_bash(f"{sys.executable} {words} {where}")
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert read_evaluations(run)[0].summary.episodes == 2


def test_after_a_signal_too_the_exit_code_says_that_a_result_is_lost(run):
    (run / "eval").mkdir()
    (run / "eval" / "played.csv").mkdir()
    command = [sys.executable, "-u", "-m", "agents.evaluate", str(run), "--episodes", "100000"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    next(line for line in process.stdout if line.startswith("sampled 2/"))
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 1


def test_what_a_killed_evaluation_left_is_removed(run):
    left = run / "videos" / ".random_seed_1.4194305.tmp.mp4"
    left.parent.mkdir()
    left.touch()
    assert main([str(run), "--mode", "random", "--episodes", "1"]) == 0
    assert not left.exists()


def test_a_checkpoint_that_another_machine_is_writing_stays(run):
    written = run / "checkpoints" / ".step_000000000600.safetensors.4194305.tmp"
    written.touch()
    assert main([str(run), "--mode", "random", "--episodes", "1"]) == 0
    assert written.exists()


def full_disk(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    "fails",
    [
        "agents.evaluation.session.append_evaluation",
        "agents.evaluation.replay_file.Replay.save",
        "agents.evaluation.video.VideoWriter.finish",
    ],
)
def test_what_could_not_be_written_shows_in_the_exit_code(fails, run, monkeypatch):
    arguments = [str(run), "--episodes", "1", "--mode", "random", "--record"]
    assert main(arguments) == 0
    monkeypatch.setattr(fails, full_disk)
    assert main(arguments) == 1


def test_recordings_without_room_are_refused_before_playing(run, monkeypatch, capsys):
    monkeypatch.setattr("agents.evaluation.session.free_disk_space", lambda _: 2**20)
    assert "--record needs 8 MiB, 1.0 are left" in refused(capsys, run, "--record")
    monkeypatch.undo()
    monkeypatch.setattr("tempfile.TemporaryFile", full_disk)
    assert "--record cannot write there (No space left" in refused(capsys, run, "--record")
    assert not (run / "eval").exists()
