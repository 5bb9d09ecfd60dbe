"""What TensorBoard gets besides curves: settings, programs, and how a run ended."""

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from agents.config import TrainConfig
from agents.networks.program_statistics import HeadSummary

# Where and how a run is shown is no setting of what is learned.
NON_HPARAMS = (
    "run_dir",
    "resume",
    "checkpoint_interval",
    "keep_checkpoints",
    "eval_interval",
    "eval_episodes",
    "capture_video",
    "log_interval",
    "quiet",
)
# TensorBoard's own bins grow by tenths of their place: much too wide for what lies in (0, 1).
_BINS: dict[str, Any] = {
    "singular_values": 40,
    "attention_entropy": np.linspace(0, 1, 101),
    "residual_gate": np.linspace(0, 1, 101),
}


def write_config(writer: SummaryWriter, config: TrainConfig, global_step: int) -> None:
    """Write all settings as a table, under `config`."""
    rows = [f"| `{name}` | `{value}` |" for name, value in asdict(config).items() if value != ""]
    writer.add_text("config", "\n".join(["| setting | value |", "|---|---|", *rows]), global_step)


def write_programs(
    writer: SummaryWriter, programs: Mapping[str, HeadSummary], global_step: int
) -> None:
    """Write `programs/HEAD/...`: mean attention as a picture, the other figures as histograms."""
    if not programs:
        return
    # Other heads need no drawing, and OpenCV is not there on every machine that trains.
    from agents.evaluation.program_plots import attention_picture

    for head, summary in programs.items():
        title = f"{head}: mean attention of components to slots, step {global_step:,}"
        picture = attention_picture(summary.attention, title)
        writer.add_image(f"programs/{head}/attention", picture, global_step, dataformats="HWC")
        for name, bins in _BINS.items():
            values = getattr(summary, name)
            if values is not None and np.isfinite(values).all():
                writer.add_histogram(f"programs/{head}/{name}", values, global_step, bins=bins)


def write_hparams(
    writer: SummaryWriter,
    config: TrainConfig,
    results: Mapping[str, float],
    global_step: int,
    *,
    finished: bool,
) -> None:
    """Write the run's row of the HPARAMS page, into the run's own events.

    `SummaryWriter.add_hparams` would open a second run in a folder below.

    Args:
        writer: of the run.
        config: its settings; those that do not bear on learning are left out.
        results: name -> value; written as `results/NAME`, what is not finite left out.
        global_step: of the results.
        finished: whether the budget is spent. Without it the page shows no end of the run.
    """
    settings = {name: v for name, v in asdict(config).items() if name not in NON_HPARAMS}
    metrics = {f"results/{name}": v for name, v in results.items() if math.isfinite(v)}
    experiment, start, end = hparams(settings, metrics)
    events = writer._get_file_writer()
    for summary in (experiment, start, end) if finished else (experiment, start):
        events.add_summary(summary)
    for tag, value in metrics.items():
        writer.add_scalar(tag, value, global_step)
