"""Whatever is in a file, loading it works or raises the documented error, and takes no memory."""

import dataclasses
import io
import json
import sys

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from agents.checkpoint import (
    Checkpoint,
    CheckpointError,
    load_checkpoint,
    write_checkpoint,
)
from agents.checkpoint_format import serialize
from agents.config import TrainConfig
from agents.evaluation.episode import EpisodeResult
from agents.evaluation.replay_file import Replay, ReplayError, load_replay
from agents.evaluation.results import COLUMNS, append_evaluation, read_evaluations
from agents.run_folder import RunFolderError, open_run
from agents.training_state import TrainingState
from tests.agents.checkpoints import format_2
from tests.agents.evaluation.test_results import evaluation
from tests.agents.fuzz import NUMBERS, SCALARS, VALUES, damaged, fuzz, little_memory

PROGRESS = {
    "global_step": 5,
    "updates": 2,
    "episodes": 1,
    "recent_games": [[1.5, 20]],
    "seconds": 3.5,
    "best_return": 2.0,
    "evaluation": "",
}
NETWORK = {"a.weight": torch.ones(2, 3), "b": torch.zeros(4)}
STATISTICS = {name: torch.zeros(1, *t.shape) for name, t in NETWORK.items()}
TENSORS = {f"parameters/{n}": t for n, t in NETWORK.items()}
TENSORS |= {f"statistics/{n}": t for n, t in STATISTICS.items()}
META = {"format": "3", "progress": json.dumps(PROGRESS)}
FORMAT_1 = safetensors.torch.save(TENSORS, META | {"format": "1"})
FORMAT_2 = format_2(TENSORS, {"progress": META["progress"]})
FORMAT_3 = serialize(TENSORS, META)

SETTINGS = TrainConfig(game="Pong", max_frames=80).env
GAME = EpisodeResult("greedy", 3, 1.0, 12, np.arange(12, dtype=np.uint8), "0" * 64, False, "1" * 64)
CONFIG = json.dumps(dataclasses.asdict(TrainConfig())).encode()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("hostile")


def attempt(load, error, *arguments):
    """What was loaded, or None and the message of the documented error."""
    try:
        with little_memory():
            return load(*arguments), ""
    except error as refusal:
        return None, str(refusal)


def load_or_refuse(path):
    checkpoint, refusal = attempt(load_checkpoint, CheckpointError, path, NETWORK, 1)
    if checkpoint is None:
        assert refusal.startswith(f"{path}: ")
        return None
    for name, tensor in NETWORK.items():
        assert checkpoint.parameters[name].shape == tensor.shape
        assert checkpoint.optimizer_state[name].shape == (1, *tensor.shape)
    assert 0 <= checkpoint.global_step <= 10**15
    return checkpoint


@pytest.mark.parametrize("whole", [FORMAT_2, FORMAT_3], ids=["format 2", "format 3"])
@fuzz(500)
@given(data=st.data())
def test_a_checkpoint_with_a_checksum_that_was_changed_is_refused(folder, whole, data):
    changed = data.draw(damaged(whole) | st.binary(max_size=200))
    path = folder / "step_000000000005.safetensors"
    path.write_bytes(changed)
    loaded = load_or_refuse(path)
    assert (loaded is not None) == (changed == whole)


@fuzz(400)
@given(data=damaged(FORMAT_1))
def test_a_changed_checkpoint_without_a_checksum_fits_the_network_or_is_refused(folder, data):
    path = folder / "step_000000000005.safetensors"
    path.write_bytes(data)
    load_or_refuse(path)


SHAPES = st.lists(st.integers(0, 4) | NUMBERS, max_size=3) | SCALARS
OFFSETS = st.tuples(st.integers(0, 40), st.integers(0, 40)) | st.lists(NUMBERS, max_size=3)
ENTRIES = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "F64", "I64", "U8", "BOOL", "F8_E4M3", "?"]) | SCALARS,
        "shape": SHAPES,
        "data_offsets": OFFSETS,
    }
)


@fuzz(300)
@given(
    header=st.dictionaries(
        st.sampled_from([*TENSORS, "__metadata__"]) | st.text(max_size=5),
        ENTRIES | VALUES,
        max_size=4,
    ),
    progress=st.dictionaries(st.sampled_from([*PROGRESS, "config"]), VALUES, max_size=2),
    size=st.none() | st.integers(0, 2**64 - 1),
)
def test_a_checkpoints_header_may_claim_anything(folder, header, progress, size):
    meta = {"format": "1", "progress": json.dumps(PROGRESS | progress)}
    text = json.dumps({"__metadata__": meta} | header).encode()
    length = len(text) if size is None else size
    path = folder / "step_000000000005.safetensors"
    path.write_bytes(length.to_bytes(8, "little") + text + bytes(40))
    load_or_refuse(path)
    path.write_bytes(safetensors.torch.save(TENSORS, meta))  # the tensors fit: the progress decides
    load_or_refuse(path)


def replay_bytes(save):
    data = io.BytesIO()
    fields = {n: v for n, v in vars(GAME).items() if n != "actions"}
    rest = {
        "format": 1,
        "settings": dataclasses.asdict(SETTINGS),
        "game": fields,
        "checkpoint": "step_000000000005.safetensors",
        "global_step": 5,
        "ale_version": "0.12.1",
    }
    save(data, actions=GAME.actions, trace=np.array(json.dumps(rest)))
    return data.getvalue(), rest


STORED, DESCRIPTION = replay_bytes(np.savez)
PACKED, _ = replay_bytes(np.savez_compressed)


def load_replay_or_refuse(path):
    replay, refusal = attempt(load_replay, ReplayError, path)
    if replay is None:
        assert refusal.startswith(f"{path}: ")
        return
    assert replay.episode.actions.dtype == np.uint8
    assert replay.episode.length == len(replay.episode.actions) <= replay.settings.max_frames
    assert replay.episode.actions.max() < 18
    assert 0 <= replay.episode.seed < 2**31
    assert TrainConfig(**dataclasses.asdict(replay.settings)).game


@fuzz(500)
@given(data=damaged(STORED) | damaged(PACKED) | st.binary(max_size=200))
def test_a_changed_replay_is_sound_or_refused(folder, data):
    path = folder / "game.npz"
    path.write_bytes(data)
    load_replay_or_refuse(path)


KEYS = [(None, k) for k in DESCRIPTION]
KEYS += [(o, k) for o in ("settings", "game") for k in DESCRIPTION[o]] + [("game", "actions")]


@fuzz(400)
@given(
    changes=st.lists(st.tuples(st.sampled_from(KEYS), VALUES), max_size=2),
    actions=st.just(GAME.actions)
    | st.lists(st.integers(0, 255), max_size=30).map(lambda a: np.array(a, np.uint8))
    | st.sampled_from([np.zeros(12), np.zeros((12, 1), np.uint8), np.array("x"), np.zeros(0)]),
)
@example(changes=[(("settings", "noop_max"), 10**9)], actions=GAME.actions)
def test_a_replays_description_may_say_anything(folder, changes, actions):
    rest = json.loads(json.dumps(DESCRIPTION))
    for (owner, key), value in changes:
        place = rest if owner is None else rest.get(owner)
        if isinstance(place, dict):
            place[key] = value
    path = folder / "game.npz"
    np.savez(path, actions=actions, trace=np.array(json.dumps(rest)))
    load_replay_or_refuse(path)


def open_or_refuse(run, data):
    run.mkdir(exist_ok=True)
    (run / "config.json").write_bytes(data)
    opened, refusal = attempt(open_run, RunFolderError, run)
    if opened is None:
        assert str(run) in refusal
        return
    config = opened[1]
    assert TrainConfig(**dataclasses.asdict(config)) == config


@fuzz(300)
@given(data=damaged(CONFIG) | st.binary(max_size=100))
def test_a_changed_config_is_valid_or_refused(folder, data):
    open_or_refuse(folder / "run", data)


SETTINGS_OF_ANY_VALUE = st.dictionaries(
    st.sampled_from([spec.name for spec in dataclasses.fields(TrainConfig)]) | st.text(),
    VALUES,
    max_size=3,
)


@fuzz(150)
@given(changes=SETTINGS_OF_ANY_VALUE)
@example(changes={"gamma": 10**400})
def test_a_config_may_hold_anything(folder, changes):
    open_or_refuse(folder / "run", json.dumps(changes).encode())


@pytest.mark.slow
@fuzz(400)
@given(changes=SETTINGS_OF_ANY_VALUE)
def test_a_config_may_hold_anything_more(folder, changes):
    open_or_refuse(folder / "run", json.dumps(changes).encode())


@fuzz(300)
@given(data=st.data())
def test_rows_of_evaluations_that_damage_has_left_alone_are_read(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("rows")
    for score in (1.0, 2.0, 3.0):
        append_evaluation(folder, evaluation(score))
    file = folder / "eval" / "played.csv"
    lines = file.read_bytes().splitlines(keepends=True)
    assert lines[0].decode().strip() == ",".join(COLUMNS)
    which = data.draw(st.integers(0, 3))
    lines[which] = data.draw(damaged(lines[which])).replace(b"\n", b"") + b"\n"
    file.write_bytes(b"".join(lines))
    found = [row.summary.min for row in read_evaluations(folder)]
    whole = [float(number) for number in (1, 2, 3) if number != which]
    without_one = [found[:row] + found[row + 1 :] for row in range(len(found))]
    assert whole in [found, *without_one]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells of memory that was freed")
def test_memory_is_noticed_that_is_less_than_what_was_in_use_before():
    np.ones(2**25)  # 256 MiB
    with pytest.raises(AssertionError, match="MiB"), little_memory():
        np.ones(2**23)


def test_what_the_fuzz_starts_from_is_sound(folder):
    for data in (FORMAT_1, FORMAT_2, FORMAT_3):
        (folder / "step_000000000005.safetensors").write_bytes(data)
        assert load_or_refuse(folder / "step_000000000005.safetensors") is not None
    write_checkpoint(
        folder / "step_000000000006.safetensors", Checkpoint(NETWORK, STATISTICS, TrainingState(5))
    )
    assert load_or_refuse(folder / "step_000000000006.safetensors") is not None
    for data in (STORED, PACKED):
        (folder / "game.npz").write_bytes(data)
        assert load_replay(folder / "game.npz").settings == SETTINGS
    Replay(SETTINGS, GAME).save(folder / "game.npz")
    assert load_replay(folder / "game.npz").episode.length == 12
