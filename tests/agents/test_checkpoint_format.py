"""The file of a checkpoint: no change goes unnoticed, and nothing hostile costs memory or runs."""

import hashlib
import json
import pickle
import re
import subprocess
import sys

import numpy as np
import pytest
import safetensors.torch
import torch

import agents.checkpoint_format
from agents.checkpoint_format import MAX_HEADER, deserialize, serialize
from tests.agents.checkpoints import format_2

TENSORS = {"a.weight": torch.randn(20, 30), "b": torch.randn(4), "c": torch.tensor(3.0)}
METADATA = {"format": "3", "note": 'with "checksum": "quotes" and\nlines'}


def file_of(header, data=b""):
    text = json.dumps(header).encode() if not isinstance(header, bytes) else header
    return len(text).to_bytes(8, "little") + text + data


def refused():
    return pytest.raises(ValueError, match="damaged")


def test_what_is_written_comes_back():
    tensors, metadata = deserialize(serialize(TENSORS, METADATA))
    assert tensors.keys() == TENSORS.keys()
    assert all(torch.equal(tensors[name], TENSORS[name]) for name in TENSORS)
    assert {name: metadata[name] for name in METADATA} == METADATA


def test_plain_safetensors_reads_it_and_a_person_can_check_it(tmp_path):
    data = serialize(TENSORS, METADATA)
    assert torch.equal(safetensors.torch.load(data)["b"], TENSORS["b"])
    (tmp_path / "file").write_bytes(data)
    with safetensors.safe_open(tmp_path / "file", "pt") as file:
        metadata = file.metadata()
    checksum = metadata.pop("checksum")
    names = ["a.weight", "b", "c"]
    shapes = [["a.weight", "float32", [20, 30]], ["b", "float32", [4]], ["c", "float32", []]]
    covered = json.dumps([sorted(metadata.items()), shapes]).encode()
    covered += b"".join(TENSORS[name].numpy().tobytes() for name in names)
    assert hashlib.sha256(covered).hexdigest() == checksum


def test_the_checksum_does_not_depend_on_the_order_of_tensors_or_of_their_memory():
    order = dict(reversed(TENSORS.items()))
    order["a.weight"] = TENSORS["a.weight"].T.contiguous().T
    files = [serialize(TENSORS, METADATA), serialize(order, dict(reversed(METADATA.items())))]
    checksums = [re.findall(rb'"checksum":"([0-9a-f]{64})"', data) for data in files]
    assert checksums[0] == checksums[1] != []
    assert deserialize(files[1])[1] == METADATA


FORMATS = {
    "2": format_2(TENSORS, {"note": METADATA["note"]}),
    "3": serialize(TENSORS, METADATA),
}


@pytest.mark.parametrize("version", FORMATS)
def test_every_flipped_bit_is_noticed(version):
    data = FORMATS[version]
    deserialize(data)
    header = 8 + int.from_bytes(data[:8], "little")
    rng = np.random.default_rng(0)
    anywhere = rng.integers(8 * len(data), size=300)
    checksum = 8 * (data.index(b'"checksum":"') + 12) + np.arange(64 * 8)
    for bit in {*anywhere.tolist(), *range(8 * header), *checksum.tolist()}:
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ValueError, match=r"damaged|format"):
            deserialize(bytes(changed))


@pytest.mark.parametrize("version", FORMATS)
def test_every_truncation_and_extension_is_noticed(version):
    data = FORMATS[version]
    lengths = np.random.default_rng(0).integers(len(data), size=300).tolist()
    for length in {*lengths, 0, 7, 8, len(data) - 1}:
        with refused():
            deserialize(data[:length])
    with refused():
        deserialize(data + b"\0")


def test_tensors_that_changed_places_are_noticed():
    """Safetensors itself would take them: names and sizes are right."""
    data = serialize({"a": torch.zeros(4), "b": torch.ones(4)}, METADATA)
    other = data.replace(b'"a"', b'"?"').replace(b'"b"', b'"a"').replace(b'"?"', b'"b"')
    assert set(safetensors.torch.load(other)) == {"a", "b"}
    with pytest.raises(ValueError, match="checksum"):
        deserialize(other)


FORMAT_1 = {"__metadata__": {"format": "1"}}


class Poison:
    """Runs code when it is unpickled."""

    def __reduce__(self):
        return (exec, ("import agents.checkpoint_format as s; s.POISONED = True",))


def test_a_pickle_is_refused_without_being_run(tmp_path):
    torch.save({"parameters/a": Poison()}, tmp_path / "zip")
    torch.save({"a": Poison()}, tmp_path / "old", _use_new_zipfile_serialization=False)
    payload = pickle.dumps(Poison())
    sizes = {"shape": [len(payload)], "data_offsets": [0, len(payload)]}
    files = [
        (tmp_path / "zip").read_bytes(),
        (tmp_path / "old").read_bytes(),
        payload,
        file_of(payload),
        file_of({**FORMAT_1, "a": {"dtype": "PICKLE", **sizes}}, payload),
    ]
    for data in files:
        with refused():
            deserialize(data)
    tensors, _ = deserialize(file_of({**FORMAT_1, "a": {"dtype": "U8", **sizes}}, payload))
    assert bytes(tensors["a"].tolist()) == payload
    assert not hasattr(agents.checkpoint_format, "POISONED")


HUGE = 100 * 2**30
HOSTILE = {
    "a header of 100 GB": HUGE.to_bytes(8, "little") + b"{}",
    "a header beyond all": b"\xff" * 8 + b"{}",
    "a header over the limit": file_of(b'{"a":1}' + b" " * MAX_HEADER),
    "a tensor of 100 GB": file_of(
        {**FORMAT_1, "a": {"dtype": "U8", "shape": [HUGE], "data_offsets": [0, HUGE]}}, b"x"
    ),
    "a shape of 100 GB": file_of(
        {**FORMAT_1, "a": {"dtype": "U8", "shape": [HUGE], "data_offsets": [0, 1]}}, b"x"
    ),
    "a shape that overflows": file_of(
        {**FORMAT_1, "a": {"dtype": "F32", "shape": [2**62, 4], "data_offsets": [0, 0]}}
    ),
    "many tensors on the same bytes": file_of(
        FORMAT_1
        | {f"t{i}": {"dtype": "U8", "shape": [64], "data_offsets": [0, 64]} for i in range(9000)},
        bytes(64),
    ),
    "brackets without end": file_of(b"[" * 500_000),
    "metadata that are no texts": file_of({"__metadata__": {"format": "3", "checksum": 5}}),
    "metadata that are a list": file_of({"__metadata__": [1]}),
    "a list": file_of([1, 2]),
    "no UTF-8": file_of(b'{"\xff": 1}'),
    "a checksum of another kind": file_of(
        {"__metadata__": {"format": "3", "checksum": "crc32:12"}}
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_header_is_refused(name):
    with refused():
        deserialize(HOSTILE[name])


def test_hostile_files_cost_no_memory(tmp_path):
    """Measured from outside, with the peak of a process that has read them all."""
    for number, data in enumerate(HOSTILE.values()):
        (tmp_path / f"step_{number:012d}.safetensors").write_bytes(data)
    with (tmp_path / "step_000000000900.safetensors").open("wb") as file:  # sparse: takes no room
        file.write(
            file_of({**FORMAT_1, "a": {"dtype": "U8", "shape": [HUGE], "data_offsets": [0, HUGE]}})
        )
        file.truncate(file.tell() + HUGE)
    code = """
import resource, sys, torch
from pathlib import Path
from agents.checkpoint import CheckpointError, load_checkpoint
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
before, refused = peak(), 0
for path in sorted(Path(sys.argv[1]).iterdir()):
    for expected in (None, {"a": torch.empty(4)}):
        try:
            load_checkpoint(path, expected)
        except CheckpointError:
            refused += 1
print(refused, peak() - before)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True
    )
    refused, grown = done.stdout.split()
    assert int(refused) == 2 * (len(HOSTILE) + 1)
    assert float(grown) < 64  # MiB


def test_metadata_too_large_to_be_read_again_are_not_written():
    with pytest.raises(ValueError, match="bytes"):
        serialize({"a": torch.zeros(1)}, {"progress": "x" * MAX_HEADER})
