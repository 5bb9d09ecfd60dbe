"""A process that does nothing but save, for tests that kill it or take its disk away.

    python -m tests.agents.checkpoints FOLDER KEEP

Prints the step of each checkpoint that was written, or what went wrong.
"""

import hashlib
import sys
from itertools import count
from pathlib import Path

import safetensors.torch
import torch

from agents.checkpoint import Checkpoint, save_checkpoint
from agents.training_state import TrainingState


def make_checkpoint(step, size=700_000):
    """About as large as an agent's; every value is the step."""
    value = torch.full((size,), float(step))
    return Checkpoint({"w": value}, {"w": value.expand(2, -1)}, TrainingState(step))


def format_2(tensors, metadata):
    """The bytes of a file as format 2 was: its checksum is that of the bytes."""
    blank = safetensors.torch.save(tensors, {"format": "2", **metadata, "checksum": "0" * 64})
    return blank.replace(b"0" * 64, hashlib.sha256(blank).hexdigest().encode())


if __name__ == "__main__":
    try:
        for step in count(1):
            save_checkpoint(Path(sys.argv[1]), make_checkpoint(step), int(sys.argv[2]))
            print(step, flush=True)
    except OSError as error:
        print(f"{type(error).__name__}: {error}")
