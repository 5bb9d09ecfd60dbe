"""The measuring programs measure what they say."""

import dataclasses
import importlib.util
import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from agents.cli import run_command
from agents.config import SettingError, TrainConfig
from agents.errors import UserError
from agents.run_folder import resolve_run
from agents.training.supervisor import train
from benchmarks import (
    breakdown,
    cluster,
    gpu,
    layers,
    learning,
    random_play,
    shore,
    soak,
    startup,
    throughput,
)
from benchmarks.json_file import check_json_file, write_measurements
from benchmarks.layers import peak_memory
from benchmarks.learning import show, summary
from benchmarks.markdown import markdown_table
from benchmarks.random_play import random_games
from envs import AtariConfig, Episode
from tests.agents.tiny_env import make_tiny_env


def test_random_play_plays_the_games_asked_for_and_the_seed_decides_them():
    games = random_games("Pong", episodes=1, seed=3)
    assert len(games) == 1
    assert -21 <= games[0].raw_return <= -10
    assert games[0].length > 500
    assert random_games("Pong", episodes=1, seed=3) == games


def test_of_every_environment_equally_many_games_count_lest_the_short_ones_prevail():
    """CartPole's last as long as they are good."""
    played = [random_games("CartPole-v1", episodes=n, seed=3) for n in (16, 32)]
    assert [len(games) for games in played] == [16, 32]
    assert played[1][::2] == played[0]


def test_random_play_of_a_single_game_has_no_deviation(monkeypatch, capsys):
    monkeypatch.setattr(random_play, "random_games", lambda *_: [Episode(-20.0, 900)])
    monkeypatch.setattr(sys, "argv", ["random_play", "--game", "Pong", "--episodes", "1"])
    random_play.main()
    assert "score: mean -20.0, std 0.0, median -20.0" in capsys.readouterr().out


@pytest.fixture
def run(tmp_path):
    config = TrainConfig(
        workers=0, envs_per_worker=2, num_steps=4, total_timesteps=300, run_dir=str(tmp_path)
    )
    train(dataclasses.replace(config, neurocoder_residual=False), (), make_tiny_env)
    return resolve_run(tmp_path / "latest")


def test_a_finished_run_becomes_a_row(run, monkeypatch, capsys):
    row = summary(run)
    assert (row["head"], row["seed"]) == ("neurocoder, no residual", 1)
    assert row["agent steps"] >= 300
    assert 0 <= row["return"] <= 1
    assert 0 < row["actor attention_entropy"] <= 1
    reached = summary(run, target=0.0)
    assert 0 < reached["steps to 0"] <= row["agent steps"]
    assert 0 < reached["seconds to it"] < 60 * row["minutes"] + 10
    assert summary(run, target=2.0)["seconds to it"] is None

    monkeypatch.setattr(sys, "argv", ["learning", str(run)])
    learning.main()
    header, rule, line = capsys.readouterr().out.splitlines()[-3:]
    assert header.count("|") == rule.count("|") == line.count("|")
    assert show(row["return"]) in line


def test_what_is_no_finished_run_is_skipped(tmp_path, monkeypatch, capsys):
    finished, file, other, unfinished = sorted(tmp_path / name for name in "abcd")
    file.touch()
    for folder in (finished, other, unfinished):
        folder.mkdir()
    (unfinished / "config.json").write_text("{}")
    (unfinished / "meta.json").write_text('{"status": "running"}')

    def found(run, target):
        return {"game": "Pong"} if run == finished else summary(run, target)

    monkeypatch.setattr(learning, "summary", found)
    monkeypatch.setattr(sys, "argv", ["learning", *map(str, sorted(tmp_path.iterdir()))])
    assert learning.main() == 0
    said = capsys.readouterr()
    assert said.out.splitlines() == ["| game |", "|---|", "| Pong |"]
    for path, line in zip((file, other, unfinished), said.err.splitlines(), strict=True):
        assert line.startswith(f"skipped: {path} ")
    monkeypatch.setattr(sys, "argv", ["learning", str(other), str(file)])
    with pytest.raises(UserError, match="no finished run"):
        learning.main()


def test_what_is_no_finished_run_is_refused_by_name(run, tmp_path):
    with pytest.raises(UserError, match="is not a run directory"):
        summary(tmp_path / "nowhere")
    (run / "meta.json").write_text('{"status": "running"}')
    with pytest.raises(UserError, match="has not ended: its status is 'running'"):
        summary(run)
    for damage in ("", "[]", "{"):
        (run / "meta.json").write_text(damage)
        with pytest.raises(UserError, match=r"meta\.json is damaged"):
            summary(run)


def test_a_finished_run_that_is_trained_further_is_no_row(run):
    meta = json.loads((run / "meta.json").read_text())
    (run / "meta.json").write_text(json.dumps({**meta, "status": "running", "resumed": [{}]}))
    with pytest.raises(UserError, match="has not ended"):
        summary(run)


def test_a_link_to_the_json_file_stays_and_what_is_no_file_is_refused(tmp_path):
    target, link = tmp_path / "old.json", tmp_path / "link.json"
    target.touch()
    link.symlink_to(target)
    check_json_file(link)
    write_measurements(link, rates=[1.0])
    assert link.is_symlink()
    assert json.loads(target.read_text())["rates"] == [1.0]
    os.mkfifo(tmp_path / "fifo")
    for stream in (tmp_path / "fifo", Path("/dev/null")):
        with pytest.raises(UserError, match="not an ordinary file"):
            check_json_file(stream)


@pytest.mark.slow
def test_throughput_measures_every_variant(tmp_path):
    command = [sys.executable, "-m", "benchmarks.throughput", "--seconds", "2", "--rounds", "1"]
    command += ["--workers", "2", "--json", str(tmp_path / "rates.json")]
    result = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    rows = result.stdout.splitlines()[2:]
    rates = json.loads((tmp_path / "rates.json").read_text())["rates"]
    assert len(rows) == 2 + len(rates)
    assert ("SB3 A2C" in rates) == (importlib.util.find_spec("stable_baselines3") is not None)
    assert len(rates) == 1 + ("SB3 A2C" in rates) + 6
    for row in rows[2:]:
        assert float(row.split("|")[2].replace(",", "")) > 50


@pytest.mark.slow
def test_throughput_sweeps_the_number_of_workers():
    command = [sys.executable, "-m", "benchmarks.throughput", "--seconds", "1", "--rounds", "1"]
    command += ["--sweep-workers", "1", "2", "--heads", "linear", "--cores", "none"]
    command += ["--game", "Pong"]
    result = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    header, _, *rows = result.stdout.splitlines()[2:]
    assert header == "| workers | emulator | linear / none / nips |"
    assert [row.split("|")[1].strip() for row in rows] == ["1", "2"]
    for row in rows:
        assert float(row.split("|")[3].split()[0].replace(",", "")) > 50


def parsed(*words):
    """The arguments of `benchmarks.throughput` for one small variant of Pong."""
    few = ["--game", "Pong", "--heads", "linear", "--cores", "none"]
    return throughput.make_parser().parse_args([*few, *words])


def test_without_the_extra_throughput_says_how_to_get_it(monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    args = parsed("--flags", "", "--processes 1")
    names = ["emulator", "linear / none / nips", "linear / none / nips, --processes 1"]
    assert list(throughput.variants(args)) == names
    assert ".[benchmarks]" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--server"], ["--", "--game", "CartPole-v1"]])
def test_without_ray_the_benchmark_of_a_cluster_says_how_to_get_it(words, monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(SystemExit) as ended:
        cluster.main(words)
    assert ended.value.code == 2
    assert ".[cluster]" in capsys.readouterr().err


def test_training_with_other_rules_is_compared_with_the_emulator_under_these(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    measures = throughput.variants(parsed("--flags", "", "--frame-skip 32"))
    assert list(measures) == [
        *("emulator", "emulator, --frame-skip 32"),
        *("linear / none / nips", "linear / none / nips, --frame-skip 32"),
    ]
    assert measures["emulator, --frame-skip 32"].args[0] == AtariConfig("Pong", frame_skip=32)
    assert measures["linear / none / nips, --frame-skip 32"].args[-2:] == ("--frame-skip", "32")
    rates = {
        "emulator": [4000.0],
        "emulator, --frame-skip 32": [800],
        "SB3 A2C": [500],
        "linear / none / nips": [900, 1000, 3000],
        "linear / none / nips, --frame-skip 32": [600],
        "linear / none / nips, --processes 1": [1600],
    }
    assert throughput.table(rates).splitlines()[-3:] == [
        "| linear / none / nips | 1,000 | 2.00 | 0.25 |",
        "| linear / none / nips, --frame-skip 32 | 600 | - | 0.75 |",
        "| linear / none / nips, --processes 1 | 1,600 | 3.20 | 0.40 |",
    ]


def test_flags_that_training_refuses_are_named(capsys):
    with pytest.raises(SystemExit) as error:
        throughput.variants(parsed("--flags", "--frame-skip 0"))
    assert error.value.code == 2
    assert "--frame-skip 0" in capsys.readouterr().err


def test_a_training_that_ends_early_says_why():
    with pytest.raises(UserError, match=r"linear head and none core ended early: .*--frame-skip 0"):
        throughput.training_rate("Pong", 1, "linear", "none", "nips", 1.0, "--frame-skip", "0")


# What `train_a3c.py` prints, and what it leaves of it; it ends at the last of these agent steps.
SHORT_TRAINING = """
import pathlib, sys, time
folder = pathlib.Path(sys.argv[sys.argv.index("--run-dir") + 1], "latest")
folder.mkdir()
rows = ["global_step,steps_per_s"]
for step in {steps}:
    print(f"{{step:,}} / 75,000,000", flush=True)
    rows.append(f"{{step}},100")
    time.sleep(0.1)
(folder / "progress.csv").write_text("\\n".join(rows))
print("it is over", file=sys.stderr)
"""


@pytest.mark.parametrize("steps", [[100_000], [100_000, 100_400, 100_800]])
def test_a_training_that_ends_amid_the_measurement_gives_no_rate(steps, tmp_path, monkeypatch):
    (tmp_path / "train_a3c.py").write_text(SHORT_TRAINING.format(steps=steps))
    monkeypatch.setattr(throughput, "ROOT", tmp_path)
    with pytest.raises(UserError, match="linear head and none core ended early: it is over"):
        throughput.training_rate("Pong", 1, "linear", "none", "nips", 60.0)


@pytest.mark.parametrize("command", [breakdown, gpu, throughput], ids=lambda m: m.__name__)
def test_only_atari_games_are_measured(command, monkeypatch):
    """Before anything is; the commands' `run_command` makes a line of the error."""
    words = ["--learner", "cpu"] if command is gpu else []
    monkeypatch.setattr(sys, "argv", [command.PROG, "--game", "CartPole-v1", *words])
    with pytest.raises(SettingError, match=r"--game CartPole-v1: is no Atari game"):
        command.main()


MEASURING = [breakdown, gpu, layers, soak, startup, throughput]


def soak_looks(*, parent=0.0, worker=0.0, minutes=30, sessions=4):
    """Looks at a program and two workers, as the soak test takes them; leaks in MiB a minute.

    Workers take their memory in their first half minute, and lose some of it to each other later.
    """
    noise = np.random.default_rng(0)
    looks = []

    def look(session, pid, role, age, mib):
        memory = int(2**20 * (mib + noise.normal(0, 1)))
        looks.append(soak.Look(session, pid, role, age, memory))

    for session in range(sessions):
        for at in np.arange(0.0, 60 * minutes / sessions, soak.LOOK_EVERY_S):
            trimmed = 15 * (at > 200)  # once, by the allocator
            look(session, 1, "parent", 40 + at, 190 + parent * at / 60 - trimmed)
            look(session, 2, "others", 40 + at, 80)
            for pid, born in enumerate(np.arange(-33.0, at, 33.0), 3):
                age = at - born
                if 0 < age <= 66:
                    shared = 84 + 146 * min(age / 30, 1) + 2 * (34 < age < 50)
                    look(session, pid, "workers", age, shared + worker * age / 60)
    return looks


@pytest.mark.parametrize(
    ("leak", "found"),
    [
        ({}, []),
        ({"minutes": 8}, []),
        ({"parent": 14}, ["memory of parent grew by 1"]),
        ({"worker": 100}, ["memory of workers grew by 9"]),
        ({"worker": 20}, ["memory of workers grew by 1"]),
        ({"parent": 14, "worker": 30}, ["memory of parent grew", "memory of workers grew by 2"]),
    ],
)
def test_the_soak_test_finds_leaks_in_processes_that_are_replaced(leak, found):
    said = soak.leaks(soak.growth_by_role(soak_looks(**leak)))
    assert len(said) == len(found)
    assert all(text.startswith(begin) for text, begin in zip(said, found, strict=True))


def test_a_leak_is_measured_over_the_life_of_a_process():
    exact = [
        soak.Look(session, 1, "parent", age, int(2**20 * (100 * session + 6 * age / 60)))
        for session in (1, 2)
        for age in (60.0, 90.0, 120.0)
    ]
    young = [soak.Look(1, 2, "workers", age, int(age * 2**30)) for age in (1.0, 30.0)]
    assert soak.growth_by_role([*exact, *young]) == {"parent": pytest.approx(6.0)}


def refused(command, words, monkeypatch, capsys):
    """What a command says to standard error before it ends with exit code 2."""
    monkeypatch.setattr(sys, "argv", [command.PROG, *words])
    with pytest.raises(SystemExit) as ended:
        command.main()
    assert ended.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--minutes", "7"], "--minutes 7: too short to tell whether memory leaks; it takes 8"),
        (["--minutes", "1", "--program-kills", "0"], "it takes 2 at least"),
        (["--minutes", "nan"], "too short"),
        (["--program-kills", "-1"], "--program-kills -1"),
    ],
)
def test_a_soak_test_that_is_too_short_is_refused(words, said, monkeypatch, capsys):
    error = refused(soak, words, monkeypatch, capsys)
    assert error.count("\n") == 1
    assert said in error


@pytest.mark.parametrize("command", MEASURING, ids=lambda m: m.__name__)
@pytest.mark.parametrize(("file", "why"), [("none/x.json", "no folder"), (".", "is a folder")])
def test_a_file_that_cannot_be_written_is_refused_before_anything_is_measured(
    command, file, why, tmp_path, monkeypatch, capsys
):
    words = ["--learner", "cpu"] if command is gpu else []
    monkeypatch.setattr(sys, "argv", [command.PROG, *words, "--json", str(tmp_path / file)])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(command.__file__, run_name="__main__")
    assert ended.value.code == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert said.err.startswith(f"{command.PROG}: error: --json {tmp_path}")
    assert why in said.err


def interrupted_after(*results):
    """A measurement that gives these, one after the other, and is then interrupted."""
    left = iter(results)

    def measure(*_, **__):
        try:
            return next(left)
        except StopIteration:
            raise KeyboardInterrupt from None

    return measure


CELL = {name: {"forward": [1.0], "both": [2.0], "bytes": 3} for name in ("neurocoder", "linear")}
START = {step: float(n) for n, step in enumerate(startup.STEPS)}
REPORT = {"wall": 1.0, "seconds": {"push": [1.0, 1.0, 1.0]}, "agent_steps": 8}
PARTS = {"reports": [REPORT], "supervisor": 0.1}


@pytest.mark.parametrize(
    ("command", "measuring", "result", "kept"),
    [
        (breakdown, "measure", PARTS, {"linear / none / nips, 16 workers x 4 games": PARTS}),
        (gpu, "training_figures", {"rate": 9.0}, {"1": {"linear / none": [{"rate": 9.0}]}}),
        (layers, "measure_cell", CELL, [{"in_features": 16, "out_features": 4, "batch": 1}]),
        (startup, "measure_start", START, [START]),
        (throughput, "training_rate", 9.0, {"linear / none / nips": [9.0]}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_was_measured_before_ctrl_c_is_kept(
    command, measuring, result, kept, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(command, measuring, interrupted_after(result))
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    words = {layers: ["--quick", "--threads", str(torch.get_num_threads())]}.get(command, [])
    if command in (gpu, throughput):
        monkeypatch.setattr(command, "emulator_rate", lambda *_: 99.0)
        words = ["--rounds", "1", "--heads", "linear", "--cores", "none", "lstm"]
        words += ["--learner", "cpu"] if command is gpu else []
    file = tmp_path / "x.json"
    monkeypatch.setattr(sys, "argv", [command.PROG, *words, "--json", str(file)])
    with pytest.raises(SystemExit) as ended:
        run_command(command.main, command.PROG)
    assert ended.value.code == 130
    written = json.loads(file.read_text())
    assert written.pop("arguments") == sys.argv[1:]
    [found] = [value for what, value in written.items() if value and what != "machine"]
    if command is layers:
        kept = [{**kept[0], "results": CELL}]
    elif command is throughput:
        kept |= {"emulator": [99.0], "linear / lstm / nips": []}
    elif command is gpu:
        kept["1"] |= {"emulator": [{"rate": 99.0}], "linear / lstm": []}
    assert found == kept
    if command in (breakdown, layers, startup):
        assert capsys.readouterr().out.count("\n|---") == 1


@pytest.mark.parametrize(("code", "error"), [(130, KeyboardInterrupt), (1, RuntimeError)])
def test_a_breakdown_that_is_interrupted_says_so(code, error, monkeypatch):
    monkeypatch.setattr(breakdown.supervisor, "train", lambda *_, **__: code)
    with pytest.raises(error):
        breakdown.measure(TrainConfig(), 0.1)


def test_the_refused_game_is_that_of_the_flags():
    with pytest.raises(SettingError, match=r"--game CartPole-v1"):
        throughput.atari_rules("Pong", "--game CartPole-v1")


def test_random_play_of_no_episodes_is_refused(monkeypatch, capsys):
    words = ["--game", "Pong", "--episodes", "0"]
    assert "--episodes" in refused(random_play, words, monkeypatch, capsys)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (random_play, ["--seed", "-1"]),
        (shore, ["RUN", "--seed", "-1"]),
        (throughput, ["--rounds", "0"]),
        (gpu, ["--rounds", "0"]),
        (layers, ["--rounds", "0"]),
        (layers, ["--size", "0", "4"]),
        (layers, ["--batch", "0"]),
        (startup, ["--workers", "0"]),
    ],
)
def test_numbers_that_nothing_can_be_measured_with_are_refused(command, words, monkeypatch, capsys):
    last = refused(command, words, monkeypatch, capsys).splitlines()[-1]
    assert last.startswith(f"{command.PROG}: error: ")
    assert next(word for word in words if word.startswith("--")) in last


def test_a_table_has_a_cell_for_each_column_in_every_row():
    rows = [("a", ""), ("b", "2")]
    expected = ["| name | number |", "|---|---|", "| a |  |", "| b | 2 |"]
    assert markdown_table(("name", "number"), iter(rows)).splitlines() == expected


@pytest.mark.skipif(sys.platform != "linux", reason="sizes come from /proc")
@pytest.mark.slow
def test_startup_measures_steps_in_their_order_and_the_memory_of_all(tmp_path):
    command = [sys.executable, "-m", "benchmarks.startup", "--workers", "2", "--starts", "1"]
    command += ["--json", str(tmp_path / "startup.json")]
    arguments = ["--", "--game", "Pong", "--envs-per-worker", "1", "--head", "linear"]
    subprocess.run([*command, *arguments], capture_output=True, check=True, timeout=180)
    written = json.loads((tmp_path / "startup.json").read_text())
    (steps,) = written["starts"]
    assert list(steps) == list(startup.STEPS)
    assert steps["settings; fork server begun"] < steps["imports"] < steps["first update"]
    assert steps["first worker begins"] < steps["first worker is built"] < steps["first update"]
    assert steps["first update"] <= steps["last worker's first update"]
    memory = written["memory"]
    assert all(memory[role] > 1 for role in memory)
    assert 50 < sum(memory.values()) < 2000


@pytest.mark.skipif(sys.platform != "linux", reason="sizes come from /proc")
def test_the_memory_of_descendants_is_found():
    code = "import subprocess, sys; print(1, flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        child.stdout.readline()
        assert startup.process_tree(os.getpid())[child.pid] == os.getpid()
        assert 2**20 < startup.proportional_set_size(child.pid) < 2**30
        child.stdin.close()


def test_layers_compares_every_variant_in_time_and_memory(tmp_path, monkeypatch, capsys):
    command = ["layers", "--quick", "--threads", str(torch.get_num_threads())]
    command += ["--most", "1e-5", "--json", str(tmp_path / "layers.json")]
    monkeypatch.setattr(sys, "argv", command)
    layers.main()
    printed = capsys.readouterr()
    rows = printed.out.splitlines()
    assert len(rows) == 2 + 4 * 3
    assert len({row.count("|") for row in rows}) == 1
    assert printed.err.count("done") == 4
    cells = json.loads((tmp_path / "layers.json").read_text())["cells"]
    # Of these, only W of 64 -> 64 takes more than a hundred-thousandth of a GiB.
    built = ["built" in cell["results"] for cell in cells]
    assert built == [True, True, False, False]


def test_peak_memory_counts_what_is_held_at_the_same_time():
    def call():
        for _ in range(3):
            a = torch.empty(1 << 18)
            torch.empty(1 << 17)
            del a

    assert peak_memory(call) == pytest.approx(4 * ((1 << 18) + (1 << 17)), rel=0.01)


def test_the_stopwatch_charges_a_part_without_the_parts_inside_it(monkeypatch):
    now = [100.0, 10.0, 1.0]  # wall, CPU of the process, CPU of this thread

    def passes(wall, process, thread):
        now[:] = now[0] + wall, now[1] + process, now[2] + thread

    monkeypatch.setattr(breakdown, "_clocks", lambda: tuple(now))
    watch = breakdown.Stopwatch()
    passes(1.0, 0.5, 0.25)
    with watch.part("push"):
        passes(2.0, 4.0, 1.0)
        with watch.part("pull"):
            passes(5.0, 3.0, 2.0)
        passes(8.0, 1.0, 0.5)
    passes(16.0, 2.0, 1.5)
    assert watch.read() == 32.0
    assert watch.seconds == {
        breakdown.OUTSIDE: [17.0, 2.5, 1.75],
        "push": [10.0, 5.0, 1.5],
        "pull": [5.0, 3.0, 2.0],
    }
    with watch.part("push"):
        passes(64.0, 1.0, 1.0)
        watch.restart()  # in the midst of a part, which goes on
        passes(4.0, 2.0, 1.0)
    assert watch.read() == 4.0
    assert {part: seconds for part, seconds in watch.seconds.items() if any(seconds)} == {
        "push": [4.0, 2.0, 1.0]
    }


def test_breakdown_divides_the_time_of_real_workers_among_all_parts(tmp_path):
    config = TrainConfig(
        workers=2, envs_per_worker=2, num_steps=4, run_dir=str(tmp_path), eval_interval=0
    )
    result = breakdown.measure(config, 0.5, make_env=make_tiny_env)
    assert len(result["reports"]) == 2
    for report in result["reports"]:
        assert sum(part[0] for part in report["seconds"].values()) == pytest.approx(report["wall"])
    parts = breakdown.rows(result["reports"])
    assert list(parts) == list(breakdown.PARTS)
    assert all(wall > 0 for wall, _, _ in parts.values())
    lines = breakdown.table("tiny", result).splitlines()
    assert len(lines) == 4 + 2 + len(parts) + 2
    shares = [float(line.split("|")[3].rstrip("% ")) for line in lines[6:-1]]
    assert sum(shares) == pytest.approx(100, abs=1)


def test_breakdown_measures_the_emulator_alone():
    results = breakdown.emulator_alone(AtariConfig("Pong"), games=2, seconds=0.1)
    assert len(results) == 3
    assert all(result["wall"] > 20 for result in results.values())
    assert len(breakdown.emulator_table(results).splitlines()) == 4 + 3


@pytest.mark.slow
def test_the_learner_is_measured_beside_the_emulator(tmp_path):
    command = [sys.executable, "-m", "benchmarks.gpu", "--learner", "cpu", "--seconds", "1"]
    command += ["--workers", "2", "--heads", "linear", "--cores", "none", "--rounds", "1"]
    command += ["--learner-batch", "2", "--game", "Pong", "--json", str(tmp_path / "figures.json")]
    result = subprocess.run(command, capture_output=True, text=True, check=True, timeout=170)
    header, _, *rows = result.stdout.splitlines()[2:]
    assert [row.split("|")[2].strip() for row in rows] == ["emulator", "linear / none"]
    assert header.count("|") == rows[0].count("|") == rows[1].count("|")
    (figures,) = json.loads((tmp_path / "figures.json").read_text())["figures"]["2"][
        "linear / none"
    ]
    assert figures["rate"] > 10
    assert figures["updates_per_s"] > 0
    assert figures["policy_lag"] >= 0
