"""Replays: what was saved is loaded, and a file that is no replay is refused."""

import dataclasses
import io
import json
import math
import subprocess
import sys
import zipfile

import numpy as np
import pytest

import agents.evaluation.replay_file
from agents.evaluation.replay_file import Replay, ReplayError, load_replay
from envs import GymnasiumConfig
from tests.agents.recordings import record


@pytest.fixture(scope="module")
def replay():
    replay = record()
    assert replay.episode.score > 0
    return replay


def test_a_replay_comes_back_from_its_file_as_it_was(replay, tmp_path):
    replay.save(tmp_path / "game.npz")
    loaded = load_replay(tmp_path / "game.npz")
    assert loaded.settings == replay.settings
    assert np.array_equal(loaded.episode.actions, replay.episode.actions)
    assert loaded.episode.actions.dtype == np.uint8
    for name in ("mode", "seed", "score", "length", "screen_hash", "truncated", "trajectory_hash"):
        assert getattr(loaded.episode, name) == getattr(replay.episode, name)
    assert (loaded.checkpoint, loaded.global_step) == ("step_000000000009.safetensors", 9)
    assert loaded.env_version == replay.env_version
    assert [path.name for path in tmp_path.iterdir()] == ["game.npz"]


def test_a_score_that_is_no_number_comes_back_from_other_environments(replay, tmp_path):
    played = dataclasses.replace(replay.episode, score=float("nan"))
    Replay(GymnasiumConfig("CartPole-v1"), played).save(tmp_path / "game.npz")
    assert math.isnan(load_replay(tmp_path / "game.npz").episode.score)


def rewrite(path, **changes):
    """Change entries of a replay's description; a dotted name reaches into it."""
    with np.load(path) as file:
        actions, rest = file["actions"], json.loads(str(file["trace"]))
    actions = changes.pop("actions", actions)
    for name, value in changes.items():
        owner, _, key = name.rpartition("__")
        (rest[owner] if owner else rest)[key] = value
    np.savez(path, actions=actions, trace=np.array(json.dumps(rest)))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format": 2}, "format 2, not 1"),
        ({"settings__game": "Frostbit"}, "unknown game"),
        ({"settings__game": 7}, "game must be of type str, got 7"),
        ({"settings__game": "Combat"}, "cannot be played"),
        ({"settings__sticky_actions": 1.5}, r"sticky_actions .* 1\.5"),
        ({"settings__noop_max": -1}, "noop_max .* -1"),
        ({"settings__max_frames": 2.5}, r"max_frames must be of type int, got 2\.5"),
        ({"settings__max_frames": 8}, "over the limit of 8 frames"),
        ({"settings__fire_reset": 1}, "fire_reset must be of type bool, got 1"),
        ({"settings__colour": 1}, "this version has no settings colour"),
        ({"settings__noop_max": 10**9}, "noop_max must be .* got 1000000000"),
        ({"settings__max_frames": 10**9}, "max_frames must be .* got 1000000000"),
        ({"settings__max_frames": 0}, "max_frames must be .* got 0"),
        ({"settings__frame_skip": 101}, "frame_skip must be .* got 101"),
        ({"settings__frame_skip": 10**4000}, "frame_skip must be .* got 1000"),
        ({"settings__sticky_actions": float("nan")}, "sticky_actions"),
        ({"settings__game": "Pong" * 1000}, "game must have at most 100 characters, got 'PongPong"),
        ({"settings": None}, "settings are None"),
        ({"ale_version": "0.1\x1b[2J"}, "env_version is"),
        ({"checkpoint": "a\nb"}, "checkpoint is"),
        ({"global_step": -1}, "global_step is -1"),
        ({"global_step": 10**4000}, "global_step is 1000"),
        ({"game__seed": 10**4000}, "seed 1000"),
        ({"game__score": 10**4000}, "score|OverflowError"),
        ({"game__screen_hash": "0" * 63 + "g"}, "hash"),
        ({"game__length": 10**12}, "length is 1000000000000"),
        ({"game__seed": -1}, "seed -1"),
        ({"game__seed": 2**31}, "seed 2147483648"),
        ({"game__seed": True}, "seed is True"),
        ({"game__length": 5}, "length is 5"),
        ({"game__score": float("nan")}, "score is nan"),
        ({"game__score": "9"}, "score is '9'"),
        ({"game__mode": None}, "mode is None"),
        ({"global_step": "x"}, "global_step is 'x'"),
        ({"actions": np.full(61, 18, np.uint8)}, "action 18"),
        ({"actions": np.zeros(61, np.int64)}, "actions are int64"),
        ({"actions": np.zeros((1, 61), np.uint8)}, r"actions are uint8 of shape \(1, 61\)"),
        ({"actions": np.zeros(0, np.uint8)}, r"shape \(0,\)"),
    ],
)
def test_what_cannot_be_is_refused_by_the_files_name_and_what_is_wrong(
    replay, tmp_path, changes, words
):
    path = tmp_path / "game.npz"
    replay.save(path)
    rewrite(path, **changes)
    with pytest.raises(ReplayError, match=rf"game\.npz: .*({words})"):
        load_replay(path)


def without_description(path):
    np.savez(path, actions=np.zeros(3, np.uint8))


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.unlink(),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:-20]),
        lambda path: path.write_bytes(b"hello"),
        lambda path: path.write_bytes(path.read_bytes().replace(b"actions", b"reactio")),
        lambda path: path.write_bytes(path.read_bytes()[:70] + b"????" + path.read_bytes()[74:]),
        lambda path: (path.unlink(), path.mkdir()),
        without_description,
    ],
)
def test_a_missing_or_damaged_file_gives_an_error_that_names_it(replay, tmp_path, damage):
    path = tmp_path / "game.npz"
    replay.save(path)
    damage(path)
    with pytest.raises(ReplayError, match=r"game\.npz: \S"):
        load_replay(path)


class Poison:
    """Runs code when it is unpickled."""

    def __reduce__(self):
        return (
            exec,
            ("from agents.evaluation import replay_file; replay_file.POISONED = True",),
        )


def test_loading_never_runs_code(tmp_path):
    path = tmp_path / "game.npz"
    np.savez(path, actions=np.array([Poison()], dtype=object), trace=np.array("{}"))
    with pytest.raises(ReplayError, match=r"game\.npz"):
        load_replay(path)
    assert not hasattr(agents.evaluation.replay_file, "POISONED")


def header_of(shape, descr="|u1"):
    data = io.BytesIO()
    fields = {"descr": descr, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(data, fields)
    return data.getvalue()


def pack(path, actions, description=b"", packed=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", packed) as archive:
        archive.writestr("actions.npy", actions)
        archive.writestr("trace.npy", description)


def a_long_list(path):
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(200):
            archive.writestr(f"{number}", b"")
        archive.writestr("actions.npy", header_of((1,)) + b"x")


def one_that_says_it_is_short(path):
    """What zipfile goes by is the list at the end; half the actions are beyond it."""
    pack(path, header_of((2**20,)) + bytes(2**20))
    data = path.read_bytes()
    position = data.index(b"PK\x01\x02") + 24
    path.write_bytes(data[:position] + (2**19).to_bytes(4, "little") + data[position + 4 :])


HOSTILE = {
    "an archive that unpacks to too much": lambda p: pack(
        p, header_of((65 * 2**20,)) + bytes(65 * 2**20)
    ),
    "actions that claim 100 GB": lambda p: pack(p, header_of((100 * 2**30,)) + b"x"),
    "actions in 2**62 columns": lambda p: pack(p, header_of((2**62, 4)) + b"x"),
    "actions of negative length": lambda p: pack(p, header_of((-4,)) + b"x"),
    "a description that claims 1.6 GB": lambda p: pack(
        p, header_of((1,)) + b"x", header_of((), "<U400000000")
    ),
    "actions that are objects": lambda p: pack(p, header_of((1,), "|O") + b"x"),
    "a packing that asks for memory": lambda p: pack(
        p, header_of((1,)) + b"x", packed=zipfile.ZIP_LZMA
    ),
    "a long list": a_long_list,
    "one that says it is short": one_that_says_it_is_short,
    "an empty description": lambda p: pack(p, header_of((1,)) + b"x", header_of((), "<U0")),
    "brackets without end": lambda p: np.savez(
        p, actions=np.zeros(3, np.uint8), trace=np.array("[" * 60_000)
    ),
}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("an archive that unpacks to too much", "too large"),
        ("actions that claim 100 GB", "too large"),
        ("actions in 2**62 columns", "too large"),
        ("actions of negative length", "of shape"),
        ("a description that claims 1.6 GB", "too large"),
        ("actions that are objects", "actions are object"),
        ("a packing that asks for memory", "packed in a way"),
        ("a long list", "few arrays"),
        ("one that says it is short", r"\S"),
        ("an empty description", r"\S"),
        ("brackets without end", "RecursionError"),
    ],
)
def test_a_hostile_file_is_refused_by_what_is_wrong_with_it(name, words, tmp_path):
    HOSTILE[name](tmp_path / "game.npz")
    with pytest.raises(ReplayError, match=rf"game\.npz: .*({words})"):
        load_replay(tmp_path / "game.npz")


def test_hostile_files_cost_no_memory(tmp_path):
    """Measured from outside, with the peak of a process that has read them all."""
    for number, write in enumerate(HOSTILE.values()):
        write(tmp_path / f"{number}.npz")
    with (tmp_path / "sparse.npz").open("wb") as file:
        file.truncate(100 * 2**30)
    code = """
import resource, sys
from pathlib import Path
from agents.evaluation.replay_file import ReplayError, load_replay
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
before, refused = peak(), 0
for path in sorted(Path(sys.argv[1]).iterdir()):
    try:
        load_replay(path)
    except ReplayError:
        refused += 1
print(refused, peak() - before)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True
    )
    refused, grown = done.stdout.split()
    assert int(refused) == len(HOSTILE) + 1
    assert float(grown) < 64  # MiB


def test_a_byte_changed_anywhere_never_gives_another_kind_of_error(replay, tmp_path):
    path = tmp_path / "game.npz"
    replay.save(path)
    data = path.read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for position in rng.integers(len(data), size=150):
        path.write_bytes(data[:position] + bytes([data[position] ^ 0x55]) + data[position + 1 :])
        try:
            load_replay(path)
        except ReplayError:
            refused += 1
    assert refused > 100


def test_a_failed_write_leaves_nothing_behind(replay, tmp_path, monkeypatch):
    def full_disk(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(OSError, match="No space"):
        replay.save(tmp_path / "game.npz")
    assert list(tmp_path.iterdir()) == []
