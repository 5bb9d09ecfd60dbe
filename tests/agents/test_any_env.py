"""Runs on environments that are no Atari games, from training to the report."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gymnasium
import numpy as np
import psutil
import pytest
import torch

import agents
from agents import evaluate, launch, plot, replay, report
from agents.a3c.collector import spaces_of
from agents.a3c.worker_group import make_training_env
from agents.checkpoint import list_checkpoints, load_checkpoint, load_newest_checkpoint
from agents.cli import parse_args
from agents.cluster import pool
from agents.config import SettingError, TrainConfig
from agents.evaluation.load_agent import load_agent
from agents.evaluation.replay_file import load_replay
from agents.evaluation.results import read_evaluations
from agents.networks.actor_critic import ActorCritic
from agents.networks.mlp_torso import MLPTorso
from agents.networks.torso import smallest_image
from agents.run_folder import open_run
from agents.training.supervisor import train
from envs import Spaces, UnusableEnvironmentError
from tests.agents.report_pages import read_data
from tests.agents.runs import SMALL, make_run
from tests.agents.tiny_env import make_tiny_env
from tests.envs.gymnasium_envs import Countdown

MODULE = "tests.envs.gymnasium_envs"
ROOT = Path(__file__).parents[2]


def make_config(folder, game="CartPole-v1", **settings):
    return TrainConfig(
        **{
            "game": game,
            "run_dir": str(folder),
            "workers": 0,
            "envs_per_worker": 2,
            "num_steps": 10,
            "total_timesteps": 400,
            "eval_interval": 200,
            "eval_episodes": 1,
            "quiet": True,
            **SMALL,
            **settings,
        }
    )


def train_run(folder, game="CartPole-v1", **settings):
    assert train(make_config(folder, game, **settings)) == 0
    return (folder / "latest").resolve().parent


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return train_run(tmp_path_factory.mktemp("cartpole"))


def test_defaults_suit_the_kind_of_environment():
    pong, cartpole = TrainConfig(game="Pong"), TrainConfig(game="CartPole-v1")
    assert (pong.reward, pong.life_loss_ends_return, pong.frame_skip) == ("clip", True, 4)
    assert (pong.torso, pong.sticky_actions, pong.noop_max) == ("nips", 0.25, 30)
    assert (cartpole.reward, cartpole.life_loss_ends_return) == ("none", False)
    assert (cartpole.frame_skip, cartpole.sticky_actions, cartpole.noop_max) == (1, 0, 0)
    assert cartpole.torso == "auto"
    assert TrainConfig(game="CartPole-v1", reward="clip").reward == "clip"
    assert parse_args(["--game", "CartPole-v1"]) == cartpole


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"frame_skip": 4}, "--frame-skip 4: is for Atari games only, and CartPole-v1 is not one"),
        ({"sticky_actions": 0.25}, "--sticky-actions 0.25: is for Atari games only"),
        ({"full_action_space": True}, "--full-action-space True: is for Atari games only"),
        ({"game": "Pong", "images": "raw"}, "--images raw: is for Gymnasium's environments only"),
        ({"game": "Pong,Breakout"}, "several games; a run trains on one"),
    ],
)
def test_settings_of_the_other_kind_are_refused_by_name(settings, words):
    with pytest.raises(SettingError, match=words):
        TrainConfig(**{"game": "CartPole-v1", **settings})


@pytest.mark.parametrize(
    ("shape", "torso", "words"),
    [
        ((4,), "nips", "--torso nips: the observations of CartPole-v1 are vectors, which need mlp"),
        ((3, 64, 64), "mlp", "are images, which need nips or nature or small"),
        ((3, 35, 64), "nature", "needs images of 36x36 or more, got 35x64"),
        ((3, 3, 3), "auto", "--torso small: needs images of 4x4 or more, got 3x3"),
    ],
)
def test_a_torso_for_other_observations_is_refused(shape, torso, words):
    with pytest.raises(SettingError, match=words):
        ActorCritic(Spaces(2, shape), TrainConfig(game="CartPole-v1", torso=torso))


def test_without_a_flag_the_torso_suits_the_observations():
    config = TrainConfig(game="CartPole-v1", head="linear")
    assert isinstance(ActorCritic(Spaces(2, (7,)), config).torso, MLPTorso)
    for size, filters in ((20, 16), (19, 16)):
        torso = ActorCritic(Spaces(2, (5, size, 90)), config).torso
        kernel = torso.convolutions[0].weight.shape
        assert kernel == (filters, 5, *((8, 8) if size == 20 else (2, 2)))
    assert [smallest_image(kind) for kind in ("nips", "nature", "small")] == [20, 36, 4]


def test_a_run_is_trained_evaluated_and_saved_as_any_other(run):
    progress = list(csv.DictReader((run / "progress.csv").read_text().splitlines()))
    assert int(progress[-1]["global_step"]) >= 400
    _, config = open_run(run)
    assert (config.game, config.reward) == ("CartPole-v1", "none")
    modes = {row.summary.mode for row in read_evaluations(run)}
    assert modes == {"sampled", "greedy"}
    assert run.name.startswith("CartPole-v1__neurocoder__1__")
    assert json.loads((run / "meta.json").read_text())["status"] == "finished"


def test_checkpoints_hold_the_statistics_of_all_observations(run):
    _, config = open_run(run)
    network = load_agent(run, config).network
    statistics = network.torso.normalization.statistics
    assert 400 <= float(statistics[0]) < 500
    assert (statistics[5:] != 1).all()
    _, checkpoint = load_newest_checkpoint(run / "checkpoints", dict(network.named_parameters()))
    assert torch.equal(checkpoint.parameters["torso.normalization.statistics"], statistics)


def test_it_resumes_where_it_stopped(run, tmp_path):
    folder = tmp_path / run.name
    shutil.copytree(run, folder, symlinks=True)
    flags = ["--resume", str(folder), "--total-timesteps", "600"]
    assert train(parse_args(flags)) == 0
    _, config = open_run(folder)
    resumed = load_agent(folder, config)
    assert resumed.global_step >= 600
    count = float(resumed.network.torso.normalization.statistics[0])
    assert 600 <= count < 720  # with the steps between two episodes


def test_it_is_evaluated_recorded_and_replayed(run, capsys):
    arguments = ["--episodes", "2", "--record", "--overlay", "--random"]
    assert evaluate.main([str(run), *arguments]) == 0
    printed = capsys.readouterr().out
    assert "random" in printed
    assert "published" not in printed
    paths = sorted((run / "replays").iterdir())
    assert len(paths) == len(list((run / "videos").iterdir())) == 6
    for path in paths:
        assert replay.main([str(path)]) == 0
    assert "CartPole-v1" in capsys.readouterr().out
    recorded = load_replay(paths[0])
    assert recorded.episode.score == recorded.episode.length == len(recorded.episode.actions)


@pytest.mark.parametrize("name", ["Talkative", "Console"])
def test_an_environment_with_unusual_infos_is_evaluated_and_recorded(name, tmp_path, capsys):
    folder = make_run(tmp_path, TrainConfig(game=f"{MODULE}:Test{name}-v0", max_frames=9, **SMALL))
    assert evaluate.main([str(folder), "--episodes", "1", "--mode", "random"]) == 0
    assert evaluate.main([str(folder), "--episodes", "1", "--mode", "random", "--record"]) == 0
    (recorded,) = (folder / "replays").iterdir()
    assert (load_replay(recorded).episode.milestones, len(read_evaluations(folder))) == ({}, 2)
    assert replay.main([str(recorded)]) == 0
    assert "identical" in capsys.readouterr().out


def test_a_changed_replay_is_noticed(run, tmp_path, capsys):
    evaluate.main([str(run), "--episodes", "1", "--mode", "sampled", "--record"])
    path = next((run / "replays").glob("*_sampled_*"))
    recorded = load_replay(path)
    actions = recorded.episode.actions
    actions = np.where(np.arange(len(actions)) == len(actions) // 2, 1 - actions, actions)
    object.__setattr__(recorded.episode, "actions", actions.astype(np.uint8))
    recorded.save(tmp_path / "changed.npz")
    assert replay.main([str(tmp_path / "changed.npz")]) == 1
    assert "NOT the same episode" in capsys.readouterr().err


def test_its_report_and_curves_are_drawn(run, tmp_path):
    page = tmp_path / "report.html"
    assert report.main([str(run), "--episodes", "1", "--out", str(page)]) == 0
    assert read_data(page.read_text())["rate"] == 50
    text = page.read_text()
    assert "one step of CartPole-v1; the video shows 50 a second" in text
    assert "s of play" not in text
    assert re.search(r"<td>[\d,]+ steps</td>", text)
    assert "Published" not in text
    assert plot.main([str(run), "--out", str(tmp_path / "curves.png")]) == 0


def test_without_pictures_a_sentence_says_so_and_all_else_works(tmp_path, capsys):
    run = train_run(tmp_path, f"{MODULE}:TestUnrendered-v0", capture_video=True)
    assert evaluate.main([str(run), "--episodes", "1", "--record"]) == 0
    log = (tmp_path / "latest" / "train.log").read_text()
    assert "no videos: " in log
    assert "has no render_mode 'rgb_array'" in log
    (path, *_) = (run / "replays").iterdir()
    assert not (run / "videos").exists()
    assert replay.main([str(path)]) == 0
    with pytest.raises(SystemExit, match="2"):
        replay.main([str(path), "--video", str(tmp_path / "out.mp4")])
    assert "cannot be rendered" in capsys.readouterr().err
    page = tmp_path / "report.html"
    assert report.main([str(run), "--episodes", "1", "--out", str(page)]) == 0
    assert "What each slot sees" not in page.read_text()
    assert read_data(page.read_text())["gallery"] is None


@pytest.mark.parametrize(
    ("game", "settings"),
    [
        ("TestPicture-v0", {}),
        ("TestTiles-v0", {"core": "lstm"}),
        ("TestPicture-v0", {"images": "raw", "learner": "cpu", "learner_batch": 2}),
        ("TestDiscrete-v0", {"core": "lstm", "learner": "cpu", "learner_batch": 2}),
    ],
)
def test_other_observations_are_learned_from_by_worker_and_learner(game, settings, tmp_path):
    run = train_run(tmp_path, f"{MODULE}:{game}", total_timesteps=200, head="linear", **settings)
    assert "episodes" in (run / "train.log").read_text()
    assert run.name.startswith(f"{MODULE}-{game}__linear")
    assert evaluate.main([str(run), "--episodes", "1", "--mode", "greedy"]) == 0


def test_the_central_learner_counts_what_was_acted_on_once(tmp_path):
    run = train_run(tmp_path, learner="cpu", learner_batch=2)
    checkpoint = load_checkpoint(list_checkpoints(run / "checkpoints")[-1])
    count = float(checkpoint.parameters["torso.normalization.statistics"][0])
    batch = 2 * 10 * 2  # rollouts, steps and environments
    assert count == batch * checkpoint.training_state.updates >= 400


def test_workers_in_processes_share_the_statistics(tmp_path):
    run = train_run(tmp_path, workers=2, processes=2, eval_interval=0, total_timesteps=600)
    _, config = open_run(run)
    statistics = load_agent(run, config).network.torso.normalization.statistics
    assert float(statistics[0]) > 300  # without a lock, some may be lost


def test_an_environment_that_raises_is_reported_with_its_worker_and_traceback(tmp_path):
    config = make_config(tmp_path, f"{MODULE}:TestFailing-v0", workers=1, eval_interval=0)
    assert train(config) == 1
    text = (tmp_path / "latest" / "train.log").read_text()
    assert "worker 0 raised" in text
    assert "the machine is out of order" in text
    assert "gymnasium_envs.py" in text


@pytest.mark.parametrize(
    ("game", "words"),
    [
        ("Cartpole-v1", "Did you mean: `CartPole`"),
        ("Pendulum-v1", "the action space Box(-2.0, 2.0, (1,), float32) is not supported"),
        ("no_such_package:Thing-v0", "no_such_package"),
        (f"{MODULE}:TestDemanding-v0", "TypeError: Demanding.__init__() missing 1 required"),
        (f"{MODULE}:TestOutdated-v0", "values to unpack (expected 2); gymnasium.utils.env_checker"),
        (f"{MODULE}:TestShapeless-v0", "ValueError: "),
    ],
)
def test_what_cannot_be_trained_on_is_refused_by_name_and_leaves_no_folder(game, words, tmp_path):
    with pytest.raises(SettingError, match=re.escape(words)) as caught:
        train(make_config(tmp_path, game))
    assert str(caught.value).startswith(f"--game {game}: ")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_an_agent_of_an_environment_that_is_gone_is_refused_by_one_line(run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(run, folder, symlinks=True)
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**settings, "game": "gone:Thing-v0"}))
    command = [sys.executable, "-m", "agents.evaluate", str(folder)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr.count("\n")) == (2, 1)
    assert "gone" in result.stderr


def test_training_starts_from_python_with_one_import():
    assert agents.train is launch.train
    assert agents.TrainConfig is TrainConfig
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = agents.no_such_name


def test_training_from_python_takes_the_cluster_that_the_settings_name(monkeypatch):
    asked = []
    monkeypatch.setattr(pool, "train_on_cluster", lambda *given: asked.append(given) or 5)
    config = TrainConfig(game="CartPole-v1", cluster="local")
    assert agents.train(config, ["argv"], make_tiny_env) == 5
    assert asked == [(config, ["argv"], make_tiny_env)]


SCRIPT = """
from agents import TrainConfig, train
from tests.agents.tiny_env import {make_env} as make_env

settings = dict(game="MyCorridor-v0", workers=1, envs_per_worker=2, num_steps=5, run_dir="runs")
{guard}raise SystemExit(
    train(TrainConfig(**settings, total_timesteps=100, head="linear"), make_env=make_env)
)
"""


def run_script(folder, make_env="make_tiny_env", guard=""):
    script = folder / "script.py"
    script.write_text(SCRIPT.format(make_env=make_env, guard=guard))
    return subprocess.run(
        [sys.executable, str(script)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_script_without_a_guard_makes_one_run_and_its_error_names_what_it_lacks(tmp_path):
    ended = run_script(tmp_path)
    assert ended.returncode == 1
    assert 'below `if __name__ == "__main__":`' in ended.stdout + ended.stderr
    assert len(list((tmp_path / "runs").glob("MyCorridor*"))) == 1


@pytest.mark.slow
def test_environments_may_start_processes_of_their_own(tmp_path):
    ended = run_script(tmp_path, "make_async_env", 'if __name__ == "__main__":\n    ')
    assert ended.returncode == 0, ended.stderr
    left = [p for p in psutil.process_iter(["cwd"]) if p.info["cwd"] == str(tmp_path)]
    assert not psutil.wait_procs(left, timeout=10)[1]


def test_training_in_a_thread_and_in_this_process_leaves_it_as_it_was(tmp_path):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with ThreadPoolExecutor(1) as threads:
            config = make_config(tmp_path, eval_interval=0, head="linear")
            assert threads.submit(train, config).result() == 0
            assert threads.submit(torch.get_num_threads).result() == 2
    finally:
        torch.set_num_threads(before)


def make_scaled_env(config, seeds):
    env = make_training_env(config, seeds)
    return gymnasium.wrappers.vector.TransformReward(env, lambda reward: -1000 * reward)


def test_evaluations_of_another_environment_than_make_env_makes_have_a_warning(tmp_path):
    config = make_config(tmp_path, head="linear", workers=0, eval_interval=40)
    assert train(config, make_env=make_scaled_env) == 0
    log = (tmp_path / "latest" / "train.log").read_text()
    named = f"evaluations play {config.game} itself, without {__name__}.make_scaled_env"
    assert log.count(named) == 1


def test_checkpoints_of_the_run_are_found(run):
    assert len(list_checkpoints(run / "checkpoints")) == 1


def test_the_documented_environment_and_its_use_from_python_run_as_they_stand(tmp_path):
    corridor, script = re.findall(
        r"```python\n(.*?)```", (ROOT / "docs" / "environments.md").read_text(), re.DOTALL
    )
    (tmp_path / "corridor.py").write_text(corridor)
    (tmp_path / "mine.py").write_text(script.replace("50_000", "400, workers=1, envs_per_worker=2"))
    # The environment is found in the working directory.
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    game = ["--game", "corridor:Corridor-v0", "--total-timesteps", "400", "--workers", "1"]
    for command in ([str(ROOT / "train_a3c.py"), *game], ["mine.py"]):
        run = subprocess.run(
            [sys.executable, *command],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert run.returncode == 0, run.stderr
    assert "no evaluations during training" in run.stderr + run.stdout
    runs = [path.name for path in (tmp_path / "runs").iterdir()]
    assert any(name.startswith("corridor-Corridor-v0__") for name in runs)
    assert any(name.startswith("MyCorridor-v0__") for name in runs)


@pytest.mark.parametrize("learner", ["worker", "cpu"])
def test_rewards_are_clipped_only_if_asked_to(learner, tmp_path):
    def parameters(game, reward):
        settings = {"head": "linear", "learner": learner, "learner_batch": 1}
        run = train_run(tmp_path / game / reward, game, reward=reward, eval_interval=0, **settings)
        return load_agent(run, open_run(run)[1]).network.critic.weight

    # A step of CartPole is worth 1.
    assert torch.equal(parameters("CartPole-v1", "clip"), parameters("CartPole-v1", "none"))
    game = f"{MODULE}:TestVector-v0"  # up to 2
    assert not torch.equal(parameters(game, "clip"), parameters(game, "none"))


def test_an_environment_that_changed_since_the_recording_is_noticed(tmp_path, monkeypatch, capsys):
    run = train_run(tmp_path, f"{MODULE}:TestVector-v0", eval_interval=0, total_timesteps=20)
    evaluate.main([str(run), "--episodes", "1", "--mode", "random", "--record"])
    (path,) = (run / "replays").iterdir()
    assert replay.main([str(path)]) == 0
    monkeypatch.setattr(Countdown, "_observe", lambda _: np.zeros(3))  # same score, same length
    assert replay.main([str(path)]) == 1
    assert "the trajectory's hash" in capsys.readouterr().err


def test_an_agent_of_an_environment_that_only_its_maker_knows_is_loaded_with_its_spaces(tmp_path):
    config = make_config(tmp_path, "Nowhere-v0", head="linear", total_timesteps=100)
    assert train(config, make_env=make_tiny_env) == 0
    folder, stored = open_run(tmp_path / "latest")
    words = r"Nowhere.*; tests.agents.tiny_env.make_tiny_env made .* load_agent\(..., spaces=...\)"
    with pytest.raises(UnusableEnvironmentError, match=words):
        load_agent(folder, stored)
    env = make_tiny_env(stored, np.arange(1))
    agent = load_agent(str(folder), stored, spaces=spaces_of(env))
    assert agent.global_step >= 100
    assert agent.network.spaces == spaces_of(env)
    assert not agent.network.training  # of heads with noise, or dropout


def test_where_the_name_is_another_environment_there_is_no_evaluation(tmp_path):
    config = make_config(tmp_path, "Frostbite", head="linear", total_timesteps=100)
    assert train(config, make_env=make_tiny_env) == 0
    log = (tmp_path / "latest" / "train.log").read_text()
    assert "Frostbite has other actions or observations than what is trained on" in log
    assert "watch it play" not in log
    assert not (tmp_path / "latest" / "eval" / "evaluations.csv").exists()
