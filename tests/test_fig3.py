"""The suite behind Fig. 3: what it trains, skips, resumes, plays and reports."""

import io
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from statistics import fmean, stdev

import numpy as np
import psutil
import pytest
from rich.console import Console

from agents import evaluate
from agents.checkpoint import save_checkpoint, write_checkpoint
from agents.cli import parse_args, run_command
from agents.config import TrainConfig
from agents.evaluation.episode import EpisodeResult
from agents.evaluation.results import EvaluationRow, append_evaluation, summarise
from agents.run_folder import create_run_folder, open_run, resolve_resumed
from agents.system.signals import StopSignals
from benchmarks import fig3, variants
from benchmarks.planned_runs import Planned, is_same, last_checkpoint
from benchmarks.suite import Suite, SuiteError
from benchmarks.tables import Result, milestones_table, table
from benchmarks.variants import (
    VARIANTS,
    Parameters,
    UnmatchableError,
    as_flags,
    count_parameters,
    match_neurocoder,
    settings_of,
)
from envs import Spaces
from tests.agents.checkpoints import make_checkpoint
from tests.agents.curve_runs import write_progress, write_run

ROOT = Path(__file__).parent.parent
STEPS = 1000
DRAW = fig3.draw_curves


class FakeChildren:
    """Stands in for the programs that the suite starts, and notes what it was asked."""

    def __init__(self):
        self.commands, self.played = [], []
        self.stop_in = self.fail_in = None

    def __call__(self, the_suite, command, log, watch=None):
        self.commands.append(list(command))
        log.write_text("loading\nsomething went wrong\n")
        watch and watch()
        if "agents.evaluate" in command:
            return self.evaluate(command)
        return self.train(the_suite, command[2:])

    def train(self, the_suite, argv):
        config = parse_args(argv)
        folder = Path(config.resume) if config.resume else create_run_folder(config, argv)
        title = (config.head, config.seed)
        step, code = config.total_timesteps, 0
        if title == self.fail_in:
            return 1
        if title == self.stop_in:
            step, code = step // 2, 130
            the_suite.signals.received = signal.SIGINT
            self.stop_in = None
        write_progress(folder, [(step // 4, 600.0), (step, 100.0 + config.seed)], 1.0)
        write_checkpoint(
            folder / "checkpoints" / f"step_{step:012d}.safetensors", make_checkpoint(step, 1)
        )
        return code

    def evaluate(self, command):
        args = evaluate._parser().parse_args(command[3:])
        modes = [*evaluate.MODES[args.mode], *["random"] * args.random]
        folder = Path(args.run)
        newest = sorted((folder / "checkpoints").glob("step_*"))[-1].name
        for mode in modes:
            score = {"sampled": 200.0, "greedy": 900.0, "random": 70.0}[mode]
            score += open_run(folder)[1].seed
            game = EpisodeResult(mode, 1, score, 9, np.zeros(9), "", False)
            name, step = (
                (newest, int(newest.partition(".")[0][5:])) if mode != "random" else ("", None)
            )
            summary = summarise("Frostbite", [game] * args.episodes)
            append_evaluation(
                folder, EvaluationRow(0.0, "evaluate", name, step, summary, args.seed)
            )
        self.played.append(modes)
        return 0

    @property
    def trained(self):
        return [c[2:] for c in self.commands if "agents.evaluate" not in c]


@pytest.fixture
def children(monkeypatch):
    fake = FakeChildren()
    # Bound by hand: an instance's call is not a method.
    monkeypatch.setattr(Suite, "run_child", lambda self, *args: fake(self, *args))
    monkeypatch.setattr(fig3, "draw_curves", lambda _: [])
    return fake


def arguments(out, *more):
    words = ["--games", "Frostbite", "--variants", "linear", "neurocoder-single-step"]
    return [*words, "--seeds", "2", "--steps", str(STEPS), "--out", str(out), *more]


def test_everything_is_trained_seed_by_seed_played_drawn_and_reported(
    tmp_path, children, capsys, monkeypatch
):
    monkeypatch.setattr(fig3, "draw_curves", DRAW)
    assert fig3.main(arguments(tmp_path)) == 0
    configs = [parse_args(argv) for argv in children.trained]
    assert [(c.head, c.seed) for c in configs] == [
        *(("linear", 1), ("neurocoder", 1), ("linear", 2), ("neurocoder", 2)),
    ]
    assert all(c.quiet and c.total_timesteps == STEPS and c.workers == 16 for c in configs)
    assert [c.neurocoder_steps for c in configs] == [5, 1, 5, 1]
    # Random play is measured once for a game.
    assert children.played == [["sampled", "greedy", "random"], *[["sampled", "greedy"]] * 3]
    written = (tmp_path / "table.md").read_text()
    printed = capsys.readouterr().out
    assert written in printed
    (linear,) = [line for line in written.splitlines() if line.startswith("| Frostbite | linear")]
    cells = [cell.strip() for cell in linear.split("|")[1:-1]]
    assert cells[2:4] == ["681,027", "4,883"]
    assert cells[4:] == ["500", "2", "201.5 ± 0.7", "901.5 ± 0.7", "101.5 ± 0.7", "3.2%"]
    assert "| Frostbite | random |  |  |  |  | 71.0 |" in written
    results = json.loads((tmp_path / "results.json").read_text())["results"]
    assert [result["sampled"] for result in results] == [201, 201, 202, 202]
    assert printed.endswith("/: table.md, results.json, curves.png, curves.csv\n")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    curves = (tmp_path / "curves.csv").read_text()
    assert "Frostbite,neurocoder-single-step," in curves
    assert printed.count("\n[") == 4
    assert (
        "[4/4] Frostbite neurocoder-single-step seed 2 ... finished: 1,000 agent steps" in printed
    )


def test_frame_skips_are_variants_of_one_table_each_with_its_own_random_play(
    tmp_path, children, capsys
):
    words = ["--variants", "linear", "linear-skip12", "linear-skip32-pixel-counts"]
    words = ["--games", "Frostbite", *words, "--seeds", "1", "--steps", "1000"]
    assert fig3.main([*words, "--out", str(tmp_path)]) == 0
    configs = [parse_args(argv) for argv in children.trained]
    assert [(c.frame_skip, c.bonus, c.bonus_scale, c.total_timesteps) for c in configs] == [
        (4, "none", 0.0, 1000),
        (12, "none", 0.0, 1000),
        (32, "pixel-counts", 0.05, 1000),
    ]
    assert children.played == [["sampled", "greedy", "random"]] * 3
    written = (tmp_path / "table.md").read_text()
    for name in ("random-skip4", "random-skip12", "random-skip32"):
        assert f"| Frostbite | {name} |  |  |  |  | 71.0 |" in written
    assert "1,000 agent steps (4,000 to 32,000 frames) each" in written
    assert "3 runs of 1,000 agent steps (4,000 to 32,000 frames), in" in capsys.readouterr().out


@pytest.mark.usefixtures("children")
def test_the_command_in_the_table_can_be_run_again(tmp_path):
    words = ["--games", "Montezuma's Revenge", "--variants", "linear", "--seeds", "1"]
    words += ["--steps", "1e3", "--out", str(tmp_path)]
    assert fig3.main(words) == 0
    written = (tmp_path / "table.md").read_text()
    (command,) = [line for line in written.splitlines() if line.startswith("Command: ")]
    assert shlex.split(command.split("`")[1]) == ["python", "-m", "benchmarks.fig3", *words]


def test_a_budget_of_frames_has_fewer_steps_at_a_longer_skip(tmp_path, children):
    words = ["--games", "Frostbite", "--variants", "linear-skip8", "linear-lstm-skip32"]
    fig3.main([*words, "--seeds", "1", "--frames", "32000", "--out", str(tmp_path)])
    configs = [parse_args(argv) for argv in children.trained]
    assert [(c.core, c.total_timesteps) for c in configs] == [("none", 4000), ("lstm", 1000)]


@pytest.mark.usefixtures("children")
def test_the_seeds_past_a_target_are_counted_with_their_steps(tmp_path):
    assert fig3.main(arguments(tmp_path, "--target", "102")) == 0
    written = (tmp_path / "table.md").read_text()
    # The fake trains to 100 + seed at the end, and plays 200 + seed. Neither its 600 before, which
    # is no mean of 100 episodes, nor greedy play of 900 counts.
    assert "past 102 in training" in written
    assert "| Frostbite | linear | 1 of 2 | 1,000 | 2 of 2 | 1,000, 1,000 |" in written
    results = json.loads((tmp_path / "results.json").read_text())["results"]
    assert [r["training_past"] for r in results] == [None, None, 1000, 1000]
    # Nor does what was played by hand: one lucky episode, or the best checkpoint.
    folder = next((tmp_path / "runs").glob("Frostbite__linear__1__*"))
    game = EpisodeResult("sampled", 1, 700.0, 9, np.zeros(9), "", False)
    by_hand = summarise("Frostbite", [game])
    for name, step in (("step_000000001000.safetensors", 1000), ("best.safetensors", 400)):
        append_evaluation(folder, EvaluationRow(0.0, "evaluate", name, step, by_hand, 1))
    fig3.main(arguments(tmp_path, "--target", "500"))
    assert "| Frostbite | linear | 0 of 2 |  | 0 of 2 |  |" in (tmp_path / "table.md").read_text()
    in_training = EvaluationRow(0.0, "training", "", 250, by_hand, 1)
    append_evaluation(folder, in_training)
    fig3.main(arguments(tmp_path, "--target", "500"))
    text = (tmp_path / "table.md").read_text()
    assert "| Frostbite | linear | 0 of 2 |  | 1 of 2 | 250 |" in text


def test_milestones_have_a_table_of_their_own():
    milestones = [
        {"igloo_complete": 1.0, "igloo_entered": x, "level": 1 + 2 * x} for x in (0.0, 0.5)
    ]
    size = Parameters(1, 1)
    results = [
        Result("Frostbite", "linear", n, size, "run", 1, 1.0, 1.0, 1.0, 1.0, milestones=each)
        for n, each in enumerate(milestones)
    ]
    lines = milestones_table(results).splitlines()
    assert lines[0] == "| Frostbite | igloo complete | igloo entered | level |"
    assert lines[2:] == ["| linear | 100% | 25% | 1.5 |"]
    assert milestones_table([Result("Pong", "linear", 1, size, "run", 1, 1.0, 1.0, 1.0, 1.0)]) == ""


@pytest.mark.parametrize("name", ["round", "linear-skip0", "linear-skip", "linear-skip100"])
def test_a_variant_that_is_none_is_refused_by_name(name, capsys):
    with pytest.raises(SystemExit):
        fig3.main(["--variants", name, "--steps", "5"])
    error = capsys.readouterr().err
    assert f"{name!r} is not one of linear, " in error
    assert "-skipN" in error


@pytest.mark.usefixtures("children")
def test_curves_that_were_not_drawn_are_not_announced(tmp_path, capsys):
    fig3.main(arguments(tmp_path))
    assert capsys.readouterr().out.endswith("/: table.md, results.json\n")


def test_what_is_finished_is_neither_trained_nor_played_again(tmp_path, children, capsys):
    fig3.main(arguments(tmp_path))
    before = (tmp_path / "table.md").read_text()
    children.commands.clear()
    capsys.readouterr()
    assert fig3.main(arguments(tmp_path)) == 0
    assert children.commands == []
    assert (tmp_path / "table.md").read_text() == before
    assert capsys.readouterr().out.count("was finished already") == 4
    # More may be asked for: a third seed is trained, a longer final play played.
    assert fig3.main(arguments(tmp_path, "--seeds", "3")) == 0
    assert [parse_args(argv).seed for argv in children.trained] == [3, 3]
    children.commands.clear()
    assert fig3.main(arguments(tmp_path, "--episodes", "3")) == 0
    assert children.trained == []
    assert children.played[-4:] == [["sampled", "greedy", "random"], *[["sampled", "greedy"]] * 3]
    folder = next((tmp_path / "runs").glob("Frostbite__linear__1__*"))
    file = folder / "eval" / "played.csv"
    rows = file.read_text().splitlines(keepends=True)
    file.write_text("".join(row for row in rows if ",greedy," not in row))
    fig3.main(arguments(tmp_path, "--episodes", "3"))
    assert children.played[-1] == ["greedy"]


def test_an_interrupted_suite_goes_on_where_it_stopped(tmp_path, children, capsys):
    children.stop_in = ("neurocoder", 1)
    assert fig3.main(arguments(tmp_path)) == 130
    printed = capsys.readouterr().out
    assert (
        "[2/4] Frostbite neurocoder-single-step seed 1 ... interrupted: 500 agent steps" in printed
    )
    assert "repeat the command to resume" in printed
    assert "3 of 4 runs are unfinished" in printed
    assert len(children.trained) == 2
    children.commands.clear()
    assert fig3.main(arguments(tmp_path)) == 0
    first, *others = children.trained
    assert first[0] == "--resume"
    assert Path(first[1]).name.startswith("Frostbite__neurocoder__1__")
    assert [parse_args(argv).seed for argv in others] == [2, 2]
    assert len(list((tmp_path / "runs").glob("Frostbite*"))) == 4


def test_a_run_that_fails_does_not_keep_the_others_waiting(tmp_path, children, capsys):
    children.fail_in = ("linear", 1)
    assert fig3.main(arguments(tmp_path)) == 1
    printed = capsys.readouterr().out
    assert "seed 1 ... failed (exit code 1): something went wrong [" in printed
    assert "1 of 4 runs are unfinished" in printed
    assert len(children.trained) == 4
    # It has no checkpoint to go on from, so that it begins anew.
    children.fail_in = None
    assert fig3.main(arguments(tmp_path)) == 0
    assert parse_args(children.trained[-1]).resume == ""


@pytest.mark.usefixtures("children")
def test_what_took_long_is_written_though_the_curves_cannot_be_drawn(tmp_path, monkeypatch):
    def fail(_):
        raise RuntimeError("no curves")

    monkeypatch.setattr(fig3, "draw_curves", fail)
    with pytest.raises(RuntimeError, match="no curves"):
        fig3.main(arguments(tmp_path))
    assert "linear" in (tmp_path / "table.md").read_text()
    assert len(json.loads((tmp_path / "results.json").read_text())["results"]) == 4


def test_a_suite_may_be_started_anywhere(tmp_path, children, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert fig3.main(arguments(Path("fig"))) == 0
    for command in children.commands:
        folders = [word for word in command if "fig" in Path(word).parts]
        assert folders
        assert all(Path(word).is_absolute() for word in folders)


def test_runs_are_the_same_by_what_matters_to_learning():
    config = TrainConfig()
    for same in ({"log_interval": 1.0}, {"eval_interval": 0}, {"run_dir": "x"}, {"quiet": True}):
        assert is_same(config, TrainConfig(**same))
    for other in (
        *({"seed": 2}, {"game": "Pong"}, {"head": "linear"}, {"learning_rate": 1e-4}),
        *({"total_timesteps": 5}, {"workers": 2}, {"envs_per_worker": 1}, {"gamma": 0.9}),
    ):
        assert not is_same(config, TrainConfig(**other))


def make_suite(folder, **settings):
    planned = Planned("linear", TrainConfig(head="linear", total_timesteps=STEPS, **settings), ())
    return Suite(folder, [planned], StopSignals()), planned


def test_of_runs_that_match_the_one_that_came_furthest_counts(tmp_path):
    the_suite, planned = make_suite(tmp_path)
    assert the_suite.find(planned) is None
    for name, step, settings in (
        ("a", 300, {}),
        ("b", 700, {}),
        ("c", None, {}),
        ("d", 1000, {"seed": 2}),
        ("e", 2000, {"learning_rate": 1e-5}),
    ):
        settings = {"head": "linear", "total_timesteps": STEPS} | settings
        run = write_run(tmp_path / "runs" / name, **settings)
        (run / "checkpoints").mkdir()
        if step:
            save_checkpoint(run / "checkpoints", make_checkpoint(step, 1), 9)
    (tmp_path / "runs" / "latest").symlink_to("e")
    (tmp_path / "runs" / "broken").mkdir()
    (tmp_path / "runs" / "broken" / "config.json").write_text("{")
    assert the_suite.find(planned) == tmp_path / "runs" / "b"
    assert not the_suite.is_finished(planned)
    newest = save_checkpoint(tmp_path / "runs/a/checkpoints", make_checkpoint(1004, 1), 9)
    assert the_suite.find(planned) == tmp_path / "runs" / "a"
    assert the_suite.is_finished(planned)
    newest.write_bytes(newest.read_bytes()[:-1])  # training goes on from the one before
    assert last_checkpoint(tmp_path / "runs" / "a") == 300
    assert not the_suite.is_finished(planned)
    the_suite.close()


def test_a_resumed_run_gets_the_flags_that_do_not_affect_learning_as_they_are_now(tmp_path):
    now = {"processes": 8, "eval_interval": 500, "capture_video": True, "workers": 4}
    the_suite, planned = make_suite(tmp_path, **now)
    settings = {"head": "linear", "total_timesteps": STEPS, "workers": 4, "keep_checkpoints": 9}
    run = write_run(tmp_path / "runs" / "a", **settings)
    (run / "checkpoints").mkdir()
    save_checkpoint(run / "checkpoints", make_checkpoint(300, 1), 9)
    arguments = the_suite.arguments(planned)
    assert arguments[:2] == ["--resume", str(run)]
    resumed = resolve_resumed(parse_args(arguments))
    assert (resumed.processes, resumed.eval_interval, resumed.keep_checkpoints) == (8, 500, 3)
    assert resumed.capture_video
    assert resumed.quiet
    the_suite.close()


def test_a_folder_has_one_suite_at_a_time(tmp_path):
    the_suite, _ = make_suite(tmp_path)
    with pytest.raises(SuiteError, match="another suite"):
        make_suite(tmp_path)
    the_suite.close()
    make_suite(tmp_path)[0].close()
    (tmp_path / "file").touch()
    with pytest.raises(SuiteError, match="cannot be written to"):
        make_suite(tmp_path / "file")


def test_only_the_newest_checkpoints_games_count(tmp_path):
    run = write_run(tmp_path / "run")
    (run / "checkpoints").mkdir()
    save_checkpoint(run / "checkpoints", make_checkpoint(900, 1), 9)
    newest = "step_000000000900.safetensors"

    def play(score, checkpoint=newest, step=900, source="evaluate", games=2, seed=1):
        game = EpisodeResult("sampled", 1, score, 9, np.zeros(9), "", False)
        summary = summarise("Pong", [game] * games)
        append_evaluation(run, EvaluationRow(0.0, source, checkpoint, step, summary, seed))

    play(1.0, "best.safetensors")
    play(2.0, "step_000000000400.safetensors", 400)
    play(3.0, "", source="training")
    play(4.0, games=1)
    play(5.0, seed=2)
    assert fig3.find_evaluation(run, "sampled", 2) is None
    play(6.0)
    assert fig3.find_evaluation(run, "sampled", 2).summary.mean == 6.0
    assert fig3.find_evaluation(run, "greedy", 2) is None


def test_the_time_left_follows_from_what_was_measured(tmp_path):
    planned = [
        Planned(head, TrainConfig(head=head, seed=seed, total_timesteps=STEPS), ())
        for head in ("linear", "neurocoder")
        for seed in (1, 2)
    ]
    the_suite = Suite(tmp_path, planned, StopSignals())
    assert the_suite.time_left() == "4 to train"
    settings = {"head": "linear", "total_timesteps": STEPS}
    # 100 agent steps a second, and half of the second seed is left: 5 seconds. What is not known of
    # the Neurocoder is taken from the others: 10 seconds for each seed.
    write_run(tmp_path / "runs" / "a", [(500, 1.0), (1000, 1.0)], 5.0, **settings)
    write_run(tmp_path / "runs" / "b", [(500, 1.0)], 5.0, seed=2, **settings)
    assert the_suite.time_left() == "3 to train, about 0:00:25"
    settings["head"] = "neurocoder"
    write_run(tmp_path / "runs" / "c", [(500, 1.0)], 10.0, **settings)
    assert the_suite.time_left() == "3 to train, about 0:00:35"
    the_suite.failed.append(planned[1])
    assert the_suite.time_left() == "2 to train, about 0:00:30"
    the_suite.close()


# --- the programs that it starts ------------------------------------------------------------------

OBEDIENT = """
import signal, sys, time
count = 0
def note(number, frame):
    global count
    count += 1
signal.signal(signal.SIGINT, note)
print("ready", flush=True)
while not count:
    time.sleep(0.01)
time.sleep(0.5)
print("signals:", count, flush=True)
sys.exit(130)
"""


def test_a_signal_is_passed_on_once_and_the_program_is_waited_for(tmp_path):
    the_suite, _ = make_suite(tmp_path)
    log = tmp_path / "log"

    class Received:
        @property
        def received(self):
            return signal.SIGINT if "\nready\n" in read(log) else None

    the_suite.signals = Received()
    assert the_suite.run_child([sys.executable, "-c", OBEDIENT], log) == 130
    assert log.read_text().endswith("ready\nsignals: 1\n")
    the_suite.close()


def test_programs_import_what_lies_in_the_users_working_directory(tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "corridor.py").write_text("")
    the_suite, _ = make_suite(tmp_path)
    monkeypatch.chdir(tmp_path / "mine")
    program = [sys.executable, "-c", "import corridor, train_a3c"]
    assert the_suite.run_child(program, tmp_path / "log") == 0
    the_suite.close()


@pytest.mark.skipif(sys.platform != "linux", reason="only there a process can ask for this")
def test_when_the_suite_is_killed_its_training_gets_a_signal(tmp_path):
    program = tmp_path / "obedient.py"
    program.write_text(OBEDIENT)
    code = f"""
import sys
from pathlib import Path
from agents.system.signals import StopSignals
from benchmarks.suite import Suite
Suite(Path({str(tmp_path)!r}), [], StopSignals()).run_child(
    [sys.executable, {str(program)!r}], Path({str(tmp_path / "log")!r}))
"""
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    try:
        wait_until(lambda: "ready" in read(tmp_path / "log"))
        (child,) = psutil.Process(process.pid).children()
    finally:
        process.kill()
        process.wait()
    assert psutil.wait_procs([child], timeout=10)[1] == []
    assert "signals: 1" in read(tmp_path / "log")


def read(path):
    return path.read_text() if path.exists() else ""


def wait_until(holds, timeout=60):
    deadline = time.monotonic() + timeout
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_on_a_terminal_alone_the_status_of_a_running_program_is_shown(tmp_path):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    the_suite, _ = make_suite(tmp_path)
    for stream in (io.StringIO(), Terminal()):
        the_suite.console = Console(file=stream, force_terminal=stream.isatty())
        command = [sys.executable, "-c", "pass"]
        assert the_suite.run_child(command, tmp_path / "log", lambda: "[1/2] a run") == 0
        assert ("[1/2] a run" in stream.getvalue()) == stream.isatty()
    the_suite.close()


# --- who takes part -------------------------------------------------------------------------------


def test_variants_differ_in_what_their_name_says():
    assert set(VARIANTS) >= {"linear", "hypernet", "neurocoder", "neurocoder-no-usage"}
    base = TrainConfig()
    for name in (*VARIANTS, *(name + "-lstm" for name in VARIANTS)):
        config = parse_args(as_flags(settings_of(name)))
        changed = {k for k, v in vars(config).items() if v != getattr(base, k)}
        assert changed <= {
            *("head", "core", "neurocoder_steps"),
            *("neurocoder_usage_attention", "neurocoder_residual", "neurocoder_readings"),
        }
        assert (config.core == "lstm") == name.endswith("-lstm")
        assert config.head == name.split("-")[0]
    assert parse_args(as_flags(settings_of("neurocoder-no-residual"))).neurocoder_residual is False
    authors = parse_args(as_flags(settings_of("neurocoder-authors-multi-step")))
    assert authors.neurocoder_readings == "authors-multi-step"


@pytest.mark.parametrize("num_actions", [3, 18])
@pytest.mark.parametrize("head", ["linear", "hypernet"])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"core": "lstm"},
        {"torso": "nature"},
        {"neurocoder_slots": 8, "neurocoder_hidden_size": 4, "neurocoder_residual": False},
    ],
)
def test_baselines_get_the_neurocoders_parameters_within_two_percent(head, settings, num_actions):
    config = TrainConfig(head=head, **settings)
    sizes = match_neurocoder(config, Spaces(num_actions))
    matched = count_parameters(TrainConfig(head=head, **(settings | sizes)), Spaces(num_actions))
    neurocoder = count_parameters(TrainConfig(**settings), Spaces(num_actions))
    assert matched.heads == pytest.approx(neurocoder.heads, rel=0.02)
    assert matched.total - matched.heads == neurocoder.total - neurocoder.heads
    assert match_neurocoder(TrainConfig(**settings), Spaces(num_actions)) == {}


def test_parameters_are_those_of_the_network():
    config = TrainConfig(head="linear")
    torso = 4 * 64 * 16 + 16 + 16 * 16 * 32 + 32 + 32 * 81 * 256 + 256
    assert count_parameters(config, Spaces(6)) == Parameters(torso + 257 * 7, 257 * 7)


def test_what_cannot_be_matched_is_said(monkeypatch):
    monkeypatch.setattr(variants, "TOLERANCE", 1e-9)
    with pytest.raises(UnmatchableError, match="no hypernet head comes within"):
        match_neurocoder(TrainConfig(head="hypernet"), Spaces(18))


def test_a_matched_suite_says_what_its_baselines_were_given(tmp_path, children):
    assert fig3.main(arguments(tmp_path, "--match", "parameters", "--seeds", "1")) == 0
    linear, neurocoder = (parse_args(argv) for argv in children.trained)
    assert linear.linear_hidden_size > 100
    assert neurocoder.linear_hidden_size == 0
    assert (
        f"linear, hidden size {linear.linear_hidden_size} |" in (tmp_path / "table.md").read_text()
    )


# --- the table ------------------------------------------------------------------------------------


def test_the_table_is_of_means_and_deviations_over_seeds():
    scores = {"linear": [10.0, 20.0, 60.0], "neurocoder": [5.0]}
    results = [
        Result(
            *("Frostbite", name, seed, Parameters(1234, 56), "run", 10, 100.0 * seed),
            *(score, score / 2, score * 3),
        )
        for name, values in scores.items()
        for seed, score in enumerate(values, 1)
    ]
    linear, neurocoder, random = table(results, {("Frostbite", "random"): 65.2}, 4).splitlines()[
        2:5
    ]
    mean, std = fmean(scores["linear"]), stdev(scores["linear"])
    assert linear == (
        f"| Frostbite | linear | 1,234 | 56 | 200 | 3 | {mean:.1f} ± {std:.1f} "
        f"| {mean / 2:.1f} ± {std / 2:.1f} | {3 * mean:.1f} ± {3 * std:.1f} "
        f"| {(mean - 65.2) / (4334.7 - 65.2):.1%} |"
    )
    assert neurocoder.startswith("| Frostbite | neurocoder | 1,234 | 56 | 100 | 1 | 5.0 | 2.5 |")
    assert random == "| Frostbite | random |  |  |  |  | 65.2 |  |  | 0.0% |"


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--games", "Frostbit", "--steps", "5"], "Frostbite"),
        (["--variants", "round", "--steps", "5"], "round"),
        (["--frames", "5", "--steps", "5"], "--frames"),
        (["--seeds", "2"], "--frames"),
        (["--steps", "many"], "many"),
        (["--steps", "5", "--seeds", "0"], "--seeds"),
        (["--steps", "5", "--workers", "-1"], "--workers -1"),
        (["--steps", "5", "--", "--learning-rate", "nan"], "--learning-rate nan"),
        (["--steps", "5", "--", "--seed=4"], "set by the suite"),
        (["--steps", "5", "--", "--core", "lstm"], "--core is set by the suite"),
        (["--steps", "5", "--out", "/proc/nowhere"], "/proc/nowhere"),
    ],
)
def test_bad_input_is_refused_in_one_line(words, named, children, capsys):
    with pytest.raises(SystemExit) as caught:
        run_command(lambda: fig3.main(words), fig3.PROG)
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert named in error
    assert children.commands == []


# --- the real programs ----------------------------------------------------------------------------

REAL = [sys.executable, "-m", "benchmarks.fig3", "--games", "Pong", "--workers", "0"]
REAL += ["--seeds", "1", "--episodes", "1"]
QUICK = ["--", "--max-frames", "80", "--num-steps", "5", "--eval-interval", "0"]


@pytest.mark.slow
def test_a_tiny_suite_really_trains_and_plays(tmp_path):
    command = [*REAL, "--heads", "linear", "--frames", "800", "--out", str(tmp_path), *QUICK]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "| Pong | linear | 677,943 | 1,799 |" in (tmp_path / "table.md").read_text()
    assert (tmp_path / "curves.png").exists()


@pytest.mark.slow
def test_ctrl_c_saves_the_run_and_the_same_command_goes_on(tmp_path):
    command = [*REAL, "--workers", "2", "--heads", "linear", "neurocoder", "--steps", "3000"]
    command += ["--out", str(tmp_path), *QUICK, "--log-interval", "0.2"]
    with (tmp_path / "said").open("w") as said:
        process = subprocess.Popen(command, cwd=ROOT, stdout=said, start_new_session=True)
    try:
        pattern = "Pong__linear__1__*/progress.csv"
        runs = tmp_path / "runs"
        wait_until(lambda: any(read(path).count("\n") > 3 for path in runs.glob(pattern)), 240)
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(timeout=150) == 130
    finally:
        process.kill()
    (run,) = runs.glob("Pong__linear__1__*")
    assert json.loads((run / "meta.json").read_text())["status"] == "interrupted"
    assert "interrupted: " in read(tmp_path / "said")
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stdout + result.stderr
    assert len(json.loads((run / "meta.json").read_text())["resumed"]) == 1
    assert len([path for path in runs.iterdir() if not path.is_symlink()]) == 2
    assert last_checkpoint(run) >= 3000
