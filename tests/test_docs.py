"""The glossary of metrics names what runs write, and nothing else."""

import dataclasses
import re
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from agents.config import TrainConfig
from agents.supervisor import train

GLOSSARY = (Path(__file__).parent.parent / "docs" / "metrics.md").read_text()
CONFIG = TrainConfig(
    game="Pong",
    workers=0,
    envs_per_worker=1,
    num_steps=20,
    total_timesteps=40,
    eval_interval=20,
    eval_episodes=1,
    max_frames=80,
)


def test_every_tag_that_a_run_writes_is_explained_and_every_explained_one_is_written(tmp_path):
    assert train(dataclasses.replace(CONFIG, run_dir=str(tmp_path))) == 0
    events = EventAccumulator(str(tmp_path / "latest")).Reload()
    written = {tag.split("/")[-1] for tag in events.Tags()["scalars"]}
    named = re.findall(r"^\| (`.*?) \|", GLOSSARY, re.MULTILINE)
    explained = {name.split("/")[-1] for cell in named for name in re.findall(r"`(.*?)`", cell)}
    explained |= {f"attention_variation_{memory}" for memory in "uvs"}
    assert written - {"episodic_return", "episodic_length"} == explained - {
        "episodic_return",
        "episodic_length",
    }
