"""Evaluations beside the training: when they come, what they leave, and that they never stop it."""

import dataclasses
import json
import math
import os
import signal
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from agents.checkpoint import list_checkpoints, load_checkpoint
from agents.config import TrainConfig
from agents.evaluation.episode import EpisodeCallback, EpisodeResult
from agents.evaluation.results import (
    TRAINING,
    EvaluationRow,
    append_evaluation,
    read_evaluations,
    summarise,
)
from agents.evaluation.runner import episode_seeds, make_network
from agents.monitoring.records import EvaluationRecord
from agents.networks.actor_critic import ActorCritic
from agents.system.signals import StopSignals
from agents.training.evaluator import MAX_FAILURES_IN_A_ROW, EvaluatorProcess, play_evaluation
from agents.training.shared_state import SharedState
from agents.training.supervisor import TrainingRun, train
from envs import Spaces

ANY_GAME = {
    "workers": 0,
    "envs_per_worker": 2,
    "num_steps": 5,
    "total_timesteps": 40,
    "head": "linear",
    "eval_interval": 20,
    "eval_episodes": 2,
}
CONFIG = TrainConfig(game="Pong", max_frames=80, **ANY_GAME)


def of_test_game(name, **settings):
    """The same settings of a game that tests register."""
    return TrainConfig(game=f"tests.envs.gymnasium_envs:{name}", **{**ANY_GAME, **settings})


def train_until_evaluated(config, rows):
    """Train until there are so many rows of evaluations; return the run directory."""
    with StopSignals() as signals:
        run = TrainingRun(config, (), signals=signals, make_env=_games())
        original = run._handle_evaluation

        def evaluated(record):
            original(record)
            if len(read_evaluations(run.folder)) >= rows and signals.received is None:
                os.kill(os.getpid(), signal.SIGINT)

        run._handle_evaluation = evaluated
        assert run.execute() == 130
        run.close()
    return run.folder


@pytest.mark.parametrize("workers", [0, 1])
def test_a_run_is_evaluated_at_every_interval_and_its_best_is_kept(workers, tmp_path):
    config = of_test_game("TestTiring-v0", workers=workers, max_frames=20)
    assert train(dataclasses.replace(config, run_dir=str(tmp_path), capture_video=True)) == 0
    folder = tmp_path / "latest"
    rows = read_evaluations(folder)
    assert {row.summary.mode for row in rows} >= {"sampled", "greedy"}
    assert all(row.source == "training" for row in rows)
    assert all(row.summary.episodes == 2 for row in rows)
    steps = [row.global_step for row in rows]
    if workers == 0:
        assert steps == [20, 20, 40, 40]
    # Beside a worker, one of them may take all the time that there is.
    assert steps[-1] == load_checkpoint(list_checkpoints(folder / "checkpoints")[-1]).global_step
    best = load_checkpoint(folder / "checkpoints" / "best.safetensors")
    scores = [row.summary.mean for row in rows if row.summary.mode == "sampled"]
    assert scores == sorted(set(scores), reverse=True)  # in this game, the first is the best
    assert (best.training_state.mean_return, best.global_step) == (scores[0], steps[0])
    assert len(list((folder / "replays").glob("*.npz"))) >= 2
    assert "evaluation at agent step" in (folder / "train.log").read_text()


def test_whoever_always_does_the_same_scores_the_same_sampled_and_greedily(tmp_path):
    config = of_test_game("TestVector-v0", eval_episodes=1)
    network = make_network(config)
    with torch.no_grad():
        network.actor.weight.zero_()
        network.actor.bias.copy_(torch.tensor([0.0, 0.0, 50.0]))
    record = play_evaluation(config, tmp_path, network, 7)
    assert record.global_step == 7
    # Five steps, each of which earns the number of its action.
    assert record.scalars["eval/sampled_return"] == record.scalars["eval/greedy_return"] == 10.0


class Evaluated:
    """Evaluations of parameters, which are 2, 3 and so on while they are under way."""

    def __init__(self, folder):
        torch.manual_seed(0)
        self.shared = SharedState.create(ActorCritic(Spaces(6), CONFIG), 1, 1)
        self.evaluations = EvaluatorProcess(CONFIG, self.shared, folder)
        self.shared.parameters.fill_(2.0)
        self.shared.counters[0, 0] = 20

    def train_on(self):
        self.shared.parameters.add_(1.0)
        self.shared.counters[0, 0] += 1


def test_what_is_evaluated_in_this_process_and_returned_is_the_snapshot(tmp_path, monkeypatch):
    case = Evaluated(tmp_path)

    def play(config, folder, network, step, **_):  # noqa: ARG001
        case.train_on()
        assert all(bool((p == 2.0).all()) for p in network.parameters())
        return EvaluationRecord(step, {"eval/sampled_return": 1.0}, "")

    monkeypatch.setattr("agents.training.evaluator.play_evaluation", play)
    record = case.evaluations.evaluate_in_process(lambda: False)
    assert record is not None
    assert record.global_step == 20
    assert bool((case.evaluations.finish(record) == 2.0).all())


def test_what_the_evaluator_process_is_given_and_what_is_returned_is_the_snapshot(
    tmp_path, monkeypatch
):
    case, given, asked = Evaluated(tmp_path), [], []

    def start_child(context, name, target, *arguments):  # noqa: ARG001
        given.extend(arguments)
        return SimpleNamespace(name=name, connection=SimpleNamespace(send=asked.append))

    monkeypatch.setattr("agents.training.evaluator.start_child", start_child)
    case.evaluations.poll()
    case.train_on()
    case.evaluations.poll()  # while it plays
    _, _, snapshot, _ = given
    assert bool((snapshot == 2.0).all())
    assert asked == [20]
    evaluated = case.evaluations.finish(EvaluationRecord(20, {"eval/sampled_return": 1.0}, ""))
    case.shared.counters[0, 0] = 40
    case.evaluations.poll()
    assert bool((snapshot == 3.0).all())
    assert bool((evaluated == 2.0).all())
    assert asked == [20, 40]


def test_a_broken_off_evaluation_leaves_no_score(tmp_path):
    network = ActorCritic(Spaces(6), CONFIG)
    record = play_evaluation(CONFIG, tmp_path, network, 7, should_stop=lambda: True)
    assert record.scalars == {}
    assert read_evaluations(tmp_path) == []


class NoteSeeds(EpisodeCallback):
    def __init__(self):
        self.seen = []

    def on_start(self, mode, seed):
        self.seen.append((mode, seed))


def test_every_episode_of_a_mode_is_another_and_both_modes_play_the_same(tmp_path):
    config, notes = dataclasses.replace(CONFIG, eval_episodes=3, max_frames=8), NoteSeeds()
    play_evaluation(config, tmp_path, ActorCritic(Spaces(6), CONFIG), 7, [notes])
    seeds = episode_seeds(CONFIG.seed, 3)
    assert notes.seen == [(mode, seed) for mode in ("sampled", "greedy") for seed in seeds]


class CountEpisodes(EpisodeCallback):
    ended = 0

    def on_end(self, result):  # noqa: ARG002
        self.ended += 1


def test_an_evaluation_broken_off_between_its_modes_leaves_no_row(tmp_path):
    network, count = ActorCritic(Spaces(6), CONFIG), CountEpisodes()
    record = play_evaluation(
        CONFIG, tmp_path, network, 7, [count], should_stop=lambda: count.ended == 3
    )
    assert count.ended == 3
    assert record.scalars == {}
    assert read_evaluations(tmp_path) == []


def test_a_signal_ends_the_wait_for_the_last_evaluation_which_is_given_up(tmp_path):
    config = dataclasses.replace(CONFIG, run_dir=str(tmp_path))
    with StopSignals() as signals:
        run = TrainingRun(config, (), signals=signals, make_env=_games())
        run.shared.counters[0, 0] = 40
        step = run.evaluations._take_snapshot()
        assert step == 40
        run.evaluations.poll = lambda: os.kill(os.getpid(), signal.SIGTERM)
        assert run.execute() == 143
        run.close()
    log = (run.folder / "train.log").read_text()
    assert "waiting for the last evaluation" in log
    assert "the evaluation at agent step 40 was abandoned" in log
    assert "resume it" not in log  # the budget is spent
    assert read_evaluations(run.folder) == []
    assert list_checkpoints(run.folder / "checkpoints")


def test_an_evaluator_that_is_told_to_stop_like_the_run_did_not_fail(tmp_path):
    config = dataclasses.replace(CONFIG, run_dir=str(tmp_path), max_frames=10_000)
    with StopSignals() as signals:
        run = TrainingRun(config, (), signals=signals, make_env=_games())
        run.shared.counters[0, 0] = 20
        run.evaluations.poll()
        (child,) = run.evaluations.children
        for pid in (child.process.pid, os.getpid()):
            os.kill(pid, signal.SIGTERM)
        while run.evaluations.children:
            run._receive(timeout=10.0)
        assert run.restarts == 0
        assert run.execute() == 143
        run.close()
    log = (run.folder / "train.log").read_text()
    assert "the evaluation at agent step 20 was abandoned" in log
    assert "died" not in log


def test_evaluations_that_fail_in_this_process_do_not_stop_training(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("the joystick is stuck")

    monkeypatch.setattr("agents.training.evaluator.play_evaluation", fail)
    config = dataclasses.replace(CONFIG, eval_interval=10, total_timesteps=60)
    assert train(dataclasses.replace(config, run_dir=str(tmp_path))) == 0
    log = (tmp_path / "latest" / "train.log").read_text()
    assert log.count("RuntimeError: the joystick is stuck") == MAX_FAILURES_IN_A_ROW
    assert "the evaluation failed; training goes on" in log
    assert "the evaluation failed 4 times in a row; evaluation disabled" in log


def test_scores_that_are_not_finite_are_named_in_the_log(tmp_path, monkeypatch, caplog):
    game = EpisodeResult("sampled", 1, math.nan, 5, np.zeros(5, np.uint8), "", False)
    monkeypatch.setattr(
        "agents.training.evaluator.evaluate_policy",
        lambda *args: [dataclasses.replace(game, mode=args[2])] * len(args[3]),
    )
    record = play_evaluation(CONFIG, tmp_path, ActorCritic(Spaces(6), CONFIG), 7)
    assert math.isnan(record.scalars["eval/sampled_return"])
    for mode in ("sampled", "greedy"):
        assert f"at agent step 7: some scores of {mode} play are not finite" in caplog.text
    assert read_evaluations(tmp_path) == []


def test_an_evaluator_that_is_killed_does_not_stop_training(tmp_path):
    config = dataclasses.replace(
        CONFIG, workers=1, run_dir=str(tmp_path), total_timesteps=10**9, max_frames=108_000
    )
    signals = StopSignals()
    with signals:
        run = TrainingRun(config, (), signals=signals, make_env=_games())
        kills = []

        original = run._log_and_checkpoint

        def tick():
            original()
            child = run.evaluations._child
            if child and child.process.pid not in kills and len(kills) < MAX_FAILURES_IN_A_ROW:
                kills.append(child.process.pid)
                os.kill(child.process.pid, signal.SIGKILL)
            elif (
                len(kills) == MAX_FAILURES_IN_A_ROW
                and not run.evaluations.children
                and signals.received is None
            ):
                os.kill(os.getpid(), signal.SIGINT)

        run._log_and_checkpoint = tick
        run.evaluations.config = dataclasses.replace(config, eval_interval=1)
        assert run.execute() == 130
        run.close()
    assert len(kills) == MAX_FAILURES_IN_A_ROW
    log = (run.folder / "train.log").read_text()
    assert "the evaluator died (SIGKILL); training goes on" in log
    assert "the evaluator died (SIGKILL) 4 times in a row; evaluation disabled" in log
    assert json.loads((run.folder / "meta.json").read_text())["status"] == "interrupted"


def test_an_evaluator_that_hangs_is_killed_and_another_one_evaluates(tmp_path):
    config = dataclasses.replace(
        CONFIG, workers=1, run_dir=str(tmp_path), total_timesteps=10**9, eval_episodes=1
    )
    signals = StopSignals()
    with signals:
        run = TrainingRun(config, (), signals=signals, make_env=_games())
        stopped = []
        original = run._log_and_checkpoint

        def tick():
            original()
            for child in run.evaluations.children:
                if not stopped:
                    stopped.append(child.process.pid)
                    os.kill(child.process.pid, signal.SIGSTOP)
                    run.evaluations._heartbeats.timeout = 2.0
            if run.evaluations.deaths:
                run.evaluations._heartbeats.timeout = 60.0
            if run.metrics.statistics.evaluation and signals.received is None:
                os.kill(os.getpid(), signal.SIGINT)

        run._log_and_checkpoint = tick
        assert run.execute() == 130
        run.close()
    assert run.restarts == 1
    log = (run.folder / "train.log").read_text()
    assert "the evaluator made no progress for 2 s; killing it" in log
    assert "the evaluator died (SIGKILL); training goes on" in log
    assert {row.summary.episodes for row in read_evaluations(run.folder)} == {1}


def test_what_the_evaluator_warns_of_is_said_once_in_the_log_of_the_run(tmp_path):
    config = TrainConfig(
        game="tests.envs.gymnasium_envs:TestStill-v0",
        workers=1,
        envs_per_worker=1,
        num_steps=5,
        head="linear",
        eval_interval=10,
        eval_episodes=1,
        run_dir=str(tmp_path),
    )
    folder = train_until_evaluated(config, rows=4)
    (line,) = [
        line
        for line in (folder / "train.log").read_text().splitlines()
        if "nothing new to see for 1,000 agent steps" in line
    ]
    assert "WARNING" in line
    assert "TestStill-v0, sampled play" in line


def _evaluation_at(step):
    game = EpisodeResult("sampled", 1, 3.0, 5, np.zeros(5, np.uint8), "", False)
    return EvaluationRow(1.0, TRAINING, "", step, summarise("Pong", [game]), 1)


def _games():
    from agents.a3c.worker_group import make_training_env

    return make_training_env


def test_evaluations_fall_due_at_multiples_of_the_interval_also_after_a_resume(tmp_path):
    network = ActorCritic(Spaces(6), CONFIG)
    shared = SharedState.create(network, 1, 1)
    shared.counters[0, 0] = 50
    # The one that was due at 40 was given up when the session before was stopped.
    assert EvaluatorProcess(CONFIG, shared, tmp_path).due
    append_evaluation(tmp_path, _evaluation_at(21))
    assert EvaluatorProcess(CONFIG, shared, tmp_path).due
    append_evaluation(tmp_path, _evaluation_at(41))
    evaluations = EvaluatorProcess(CONFIG, shared, tmp_path)
    due = []
    for step in (50, 59, 60):
        shared.counters[0, 0] = step
        due.append(evaluations.due)
    assert due == [False, False, True]
    never = EvaluatorProcess(dataclasses.replace(CONFIG, eval_interval=0), shared, tmp_path)
    shared.counters[0, 0] = 10**6
    assert not never.due


@pytest.mark.parametrize(("total_timesteps", "is_due"), [(10**9, False), (80, True)])
def test_of_the_intervals_that_end_during_an_evaluation_only_the_runs_last_is_evaluated(
    total_timesteps, is_due, tmp_path
):
    config = dataclasses.replace(CONFIG, total_timesteps=total_timesteps)
    shared = SharedState.create(ActorCritic(Spaces(6), config), 1, 1)
    evaluations = EvaluatorProcess(config, shared, tmp_path)
    shared.counters[0, 0] = 25
    step = evaluations._take_snapshot()
    shared.counters[0, 0] = 85
    evaluations.finish(EvaluationRecord(step, {"eval/sampled_return": 1.0}, ""))
    assert evaluations.is_pending == is_due
    if is_due:
        evaluations.finish(EvaluationRecord(evaluations._take_snapshot(), {"a": 1.0}, ""))
        assert not evaluations.is_pending
