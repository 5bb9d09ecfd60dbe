"""A run that was put down and is picked up again."""

import csv
import dataclasses
import json
import math
import signal
import time

import numpy as np
import pytest
import torch

from agents.a3c.worker_group import make_training_env
from agents.checkpoint import list_checkpoints, load_checkpoint, write_checkpoint
from agents.cli import parse_args
from agents.config import SettingError, TrainConfig
from agents.evaluation.episode import EpisodeResult
from agents.evaluation.results import (
    TRAINING,
    EvaluationRow,
    append_evaluation,
    read_evaluations,
    summarise,
)
from agents.monitoring.console import LineDisplay
from agents.run_folder import create_run_folder, lock_run_folder, resolve_run
from agents.system.signals import StopSignals
from agents.training.supervisor import INCARNATIONS_PER_SESSION, TrainingRun, train
from envs import Episode
from tests.agents.tiny_env import TinyEnv, make_tiny_env

SMALL = TrainConfig(
    game="Pong",
    workers=0,
    envs_per_worker=2,
    num_steps=4,
    total_timesteps=200,
    head="linear",
    log_interval=0.05,
)


@pytest.fixture
def folder(tmp_path):
    """Of a finished run of 200 agent steps."""
    assert train(dataclasses.replace(SMALL, run_dir=str(tmp_path)), (), make_tiny_env) == 0
    return resolve_run(tmp_path / "latest")


class CountingEnv(TinyEnv):
    steps = 0

    def step(self, actions):
        self.steps += 1
        return super().step(actions)


def make_wrapped_env(config, seeds):
    """As with a wrapper of one's own: the spaces are the same."""
    return make_training_env(config, seeds)


def resumed(folder, *flags):
    return parse_args(["--resume", str(folder), *flags])


def newest(folder):
    return load_checkpoint(list_checkpoints(folder / "checkpoints")[-1])


def steps_of(folder):
    with (folder / "progress.csv").open() as file:
        return [int(row["global_step"]) for row in csv.DictReader(file)]


def test_what_the_checkpoint_holds_is_restored_exactly(folder):
    before = newest(folder)
    run = TrainingRun(resumed(folder, "--total-timesteps", "400"), (), make_tiny_env, StopSignals())
    state = run.metrics.statistics.state()
    assert run.shared.global_step == before.global_step
    assert run.shared.updates == before.training_state.updates
    for key in ("episodes", "recent_games", "best_return"):
        assert getattr(state, key) == getattr(before.training_state, key)
    path = run._save()
    run.close()
    after = load_checkpoint(path)
    for group in ("parameters", "optimizer_state"):
        for name, tensor in getattr(before, group).items():
            assert torch.equal(getattr(after, group)[name], tensor)
    assert any(bool(t.any()) for t in before.optimizer_state.values())


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_run_goes_on_in_its_folder_with_its_schedule_and_one_curve(folder, workers):
    flags = ("--total-timesteps", "400", "--workers", str(workers))
    config = resumed(folder, *flags)
    assert train(config, ["again"], make_tiny_env) == 0
    assert resolve_run(folder.parent / "latest") == folder
    assert [p.name for p in folder.parent.iterdir() if not p.is_symlink()] == [folder.name]
    meta = json.loads((folder / "meta.json").read_text())
    assert meta["status"] == "finished"
    assert [session["argv"] for session in meta["resumed"]] == [["again"]]
    assert 400 <= meta["global_step"] < 400 + 2 * 8 * max(workers, 1)
    steps = steps_of(folder)
    assert steps == sorted(set(steps))
    assert 200 <= min(s for s in steps if s >= 200) < 216
    saved = json.loads((folder / "config.json").read_text())
    assert (saved["total_timesteps"], saved["workers"], saved["resume"]) == (400, workers, "")
    with (folder / "progress.csv").open() as file:
        last = list(csv.DictReader(file))[-1]
    assert float(last["learning_rate"]) == config.learning_rate_at(int(last["global_step"]))
    assert newest(folder).training_state.episodes > 0


@pytest.mark.parametrize(("budget", "warns"), [(400, True), (210, False)])
def test_a_budget_that_lifts_the_learning_rate_steeply_is_warned_of(budget, warns, folder, capsys):
    # Its 200 agent steps ended at a rate of 0; of 400 they are half, at half the first rate.
    assert train(resumed(folder, "--total-timesteps", str(budget)), (), make_tiny_env) == 0
    said = (
        "the learning rate rises from 0 to 0.00015 because the budget was raised: scores may fall"
    )
    assert (said in capsys.readouterr().err) is warns


def test_a_resumed_run_forgets_the_evaluations_of_steps_that_it_lost(folder):
    game = EpisodeResult("sampled", 1, 3.0, 5, np.zeros(5, np.uint8), "", False)
    step = newest(folder).global_step
    for at in (step, step + 1):
        append_evaluation(
            folder, EvaluationRow(1.0, TRAINING, "", at, summarise("Pong", [game]), 1)
        )
    run = TrainingRun(resumed(folder, "--total-timesteps", "400"), (), make_tiny_env, StopSignals())
    run.close()
    assert [row.global_step for row in read_evaluations(folder)] == [step]


def test_without_optimizer_state_a_run_is_resumed_with_a_new_optimizer(folder, caplog):
    for path in list_checkpoints(folder / "checkpoints"):
        write_checkpoint(path, dataclasses.replace(load_checkpoint(path), optimizer_state={}))
    before = newest(folder)
    config = resumed(folder, "--total-timesteps", "400")
    run = TrainingRun(config, (), make_tiny_env, StopSignals())
    assert "has no optimizer state: the optimizer starts anew" in caplog.text
    assert (run.shared.global_step, run.shared.updates) == (before.global_step, 0)
    assert not run.shared.optimizer_state.any()
    run.close()
    assert train(config, (), make_tiny_env) == 0
    after = newest(folder)
    assert after.training_state.updates > 0
    assert after.optimizer_state.keys() == after.parameters.keys()


def test_environments_of_ones_own_are_not_taken_for_those_that_settings_name(tmp_path, capsys):
    own, named = tmp_path / "own", tmp_path / "named"
    for folder, maker in ((own, make_wrapped_env), (named, make_training_env)):
        one = dataclasses.replace(SMALL, run_dir=str(folder), eval_interval=0)
        with StopSignals() as signals:
            run = TrainingRun(one, (), maker, signals)
            run.shared.count(0, is_applied=True, agent_steps=8)
            signals.received = signal.SIGINT
            assert run.execute() == 130
            run.close()
    said = capsys.readouterr().out
    assert f'resume it: train(replace(config, resume="{resolve_run(own / "latest")}"), ' in said
    assert f"make_env={__name__}.make_wrapped_env)" in said
    assert f"resume it: python train_a3c.py --resume {resolve_run(named / 'latest')}" in said
    for folder, other, why in (
        (
            own,
            make_training_env,
            r"were those of tests.*make_wrapped_env, .*settings name; .*Python",
        ),
        (
            named,
            make_wrapped_env,
            r"settings name, .*those of tests.*; resume it without a make_env",
        ),
    ):
        before = (folder / "latest" / "meta.json").read_text()
        with pytest.raises(SettingError, match=why):
            train(resumed(folder / "latest", "--total-timesteps", "400"), (), other)
        assert (folder / "latest" / "meta.json").read_text() == before


def test_that_they_are_others_comes_before_what_else_is_wrong_with_them(tmp_path, caplog):
    for name in ("Pong", "Nowhere-v0"):  # of other spaces, and of none
        folder = tmp_path / name
        sizes = {"workers": 0, "envs_per_worker": 2, "num_steps": 4, "total_timesteps": 50}
        config = TrainConfig(game=name, head="linear", run_dir=str(folder), **sizes)
        assert train(config, (), make_tiny_env) == 0
        with pytest.raises(SettingError, match=r"were those of tests.*make_tiny_env"):
            train(resumed(folder / "latest", "--total-timesteps", "400"))
    assert "skipping" not in caplog.text


def test_what_comes_after_training_is_no_time_of_training(folder, monkeypatch):
    began, shown = [], []

    def evaluate(_):
        began.append(time.time())
        time.sleep(1.5)

    monkeypatch.setattr(TrainingRun, "_finish_evaluations", evaluate)
    show = LineDisplay.show
    monkeypatch.setattr(
        LineDisplay, "show", lambda *args, **new: [shown.append(time.time()), show(*args, **new)]
    )
    before = json.loads((folder / "meta.json").read_text())["seconds"]
    start = time.time()
    assert train(resumed(folder, "--total-timesteps", "400"), (), make_tiny_env) == 0
    seconds = json.loads((folder / "meta.json").read_text())["seconds"] - before
    assert seconds <= began[0] - start + 0.1
    with (folder / "progress.csv").open() as file:
        assert float(list(csv.DictReader(file))[-1]["wall_time"]) <= began[0]
    assert shown[-1] > began[0]  # with the evaluation that came then


@pytest.mark.parametrize("learner", ["worker", "cpu"])
def test_a_resumed_run_plays_some_episodes_before_it_learns(learner, tmp_path, capsys, monkeypatch):
    games = []

    def remember(config, seeds):  # noqa: ARG001
        games.append(CountingEnv(len(seeds)))
        return games[-1]

    shown, show = [], LineDisplay.show
    monkeypatch.setattr(
        LineDisplay, "show", lambda *args, **new: [shown.append(args[1]), show(*args, **new)]
    )
    config = dataclasses.replace(SMALL, run_dir=str(tmp_path), learner=learner, learner_batch=2)
    per_update, left_over = (4, 0) if learner == "worker" else (8, 12)  # in the queue
    assert train(config, (), remember) == 0
    assert "warm-up" not in capsys.readouterr().out
    folder = resolve_run(tmp_path / "latest")
    before = newest(folder).training_state
    assert 0 <= games[-1].steps - per_update * before.updates <= left_over
    steps = math.ceil(2.5 * np.mean([length for _, length in before.recent_games]))
    assert train(resumed(folder, "--total-timesteps", "400"), (), remember) == 0
    said = capsys.readouterr().out
    assert f"warm-up: {steps} agent steps in every environment" in said
    warming = [status for status in shown if status.warmup]
    assert f"{steps} of {steps} agent steps per environment" in [
        status.warmup for status in warming
    ]
    assert {status.global_step for status in warming} == {before.global_step}
    assert shown[-1].warmup == ""
    learned = per_update * (newest(folder).training_state.updates - before.updates)
    assert 0 <= games[-1].steps - 4 * math.ceil(steps / 4) - learned <= left_over


def test_the_warm_up_follows_the_episodes_up_to_a_thousand_steps_and_what_was_trained(folder):
    # As in most of models/, the lengths of the episodes are not known.
    for path in list_checkpoints(folder / "checkpoints"):
        old = load_checkpoint(path)
        state = dataclasses.replace(old.training_state, recent_games=())
        write_checkpoint(path, dataclasses.replace(old, training_state=state))
    run = TrainingRun(resumed(folder, "--total-timesteps", "400"), (), make_tiny_env, StopSignals())
    assert run.shared.warmup_steps.tolist() == [math.ceil(run.shared.global_step / 2)]
    run.shared.count(0, is_applied=True, agent_steps=10_000)
    run._log_and_checkpoint()
    assert run.shared.warmup_steps.tolist() == [1000]
    for length, steps in ((40, 100), (41, 103), (5000, 1000), (-7, 0)):
        run.metrics.statistics.add_episodes([Episode(0.0, length)] * 100)
        run._log_and_checkpoint()
        assert run.shared.warmup_steps.tolist() == [steps]
    run.close()


def test_a_run_that_lost_its_metadata_still_has_new_games_in_every_session(folder):
    incarnations = []
    for budget in ("300", "400"):
        (folder / "meta.json").write_text("")
        run = TrainingRun(
            resumed(folder, "--total-timesteps", budget), (), make_tiny_env, StopSignals()
        )
        incarnations.append(run._spec.incarnation)
        assert run.execute() == 0
        run.close()
    assert incarnations == [INCARNATIONS_PER_SESSION, 2 * INCARNATIONS_PER_SESSION]


def test_resumed_games_are_not_those_of_the_first_session(folder):
    seen = []

    def remember(config, seeds):
        seen.append(tuple(seeds))
        return make_tiny_env(config, seeds)

    config = resumed(folder, "--total-timesteps", "300")
    train(config, (), remember)
    train(resumed(folder, "--total-timesteps", "400"), (), remember)
    fresh = dataclasses.replace(SMALL, run_dir=str(folder.parent / "other"))
    train(fresh, (), remember)
    games = [seeds for seeds in seen if len(seeds) == 2]
    assert len(set(games)) == len(games) == 3


def test_a_damaged_newest_checkpoint_is_passed_over(folder):
    good = newest(folder)
    bad = folder / "checkpoints" / "step_000000000999.safetensors"
    bad.write_bytes(list_checkpoints(folder / "checkpoints")[-1].read_bytes()[:-100])
    run = TrainingRun(resumed(folder, "--total-timesteps", "400"), (), make_tiny_env, StopSignals())
    assert run.shared.global_step == good.global_step
    run.close()


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--head", "neurocoder"], "--head neurocoder: cannot change"),
        (["--game", "Frostbite"], "--game Frostbite: cannot change"),
        (["--learning-rate", "0.1"], "--learning-rate 0.1: cannot change"),
        (["--seed", "2"], "--seed 2: cannot change"),
        (["--run-dir", "elsewhere"], "--run-dir elsewhere: cannot change"),
    ],
)
def test_a_setting_that_cannot_change_is_refused_by_name(folder, flags, named, capsys):
    with pytest.raises(SystemExit) as stop:
        resumed(folder, *flags)
    assert stop.value.code == 2
    assert named in capsys.readouterr().err


def test_in_python_too_settings_that_cannot_change_are_refused_by_name(tmp_path):
    config = dataclasses.replace(SMALL, run_dir=str(tmp_path))
    folder = create_run_folder(config, [])
    files = {path: path.read_bytes() for path in folder.glob("*.json")}
    other = dataclasses.replace(config, resume=str(folder), gamma=0.5, seed=2, total_timesteps=400)
    with pytest.raises(SettingError, match=r"--seed 2: cannot change .* has 1, .* of --gamma$"):
        train(other, (), make_tiny_env)
    assert {path: path.read_bytes() for path in folder.glob("*.json")} == files


def test_a_run_resumed_by_its_link_in_python_can_be_resumed_again(folder):
    latest = folder.parent / "latest"
    config = dataclasses.replace(SMALL, resume=str(latest), total_timesteps=208)
    for _ in range(2):
        run = TrainingRun(config, (), make_tiny_env, StopSignals())
        run.close()
        assert run.folder == resolve_run(latest) == folder
    assert all(path.is_symlink() for path in (folder / ".latest").iterdir())


def test_settings_that_may_change_do_and_the_others_are_the_runs(folder):
    config = resumed(folder, "--workers", "3", "--eval-interval", "7", "--head", "linear")
    assert (config.workers, config.eval_interval, config.head) == (3, 7, "linear")
    assert (config.game, config.num_steps, config.total_timesteps) == ("Pong", 4, 200)


def test_a_run_that_has_spent_its_budget_asks_for_more(folder):
    with pytest.raises(SettingError, match="--total-timesteps 200"):
        train(resumed(folder), (), make_tiny_env)
    assert json.loads((folder / "meta.json").read_text())["status"] == "finished"


def test_what_is_no_run_is_refused_by_name(tmp_path, capsys):
    with pytest.raises(SystemExit):
        resumed(tmp_path / "nothing")
    assert "nothing: does not exist" in capsys.readouterr().err


def test_a_run_without_a_sound_checkpoint_is_refused_and_left_alone(folder):
    for path in list_checkpoints(folder / "checkpoints"):
        path.write_bytes(b"")
    before = (folder / "progress.csv").read_text()
    with pytest.raises(SettingError, match="no usable checkpoint"):
        train(resumed(folder, "--total-timesteps", "400"), (), make_tiny_env)
    assert (folder / "progress.csv").read_text() == before


def test_a_run_is_trained_by_one_process_at_a_time(folder):
    with (
        lock_run_folder(folder),
        pytest.raises(SettingError, match="another process"),
    ):
        train(resumed(folder, "--total-timesteps", "400"), (), make_tiny_env)
