"""The data of the report's charts, as the page's scripts read them from JSON."""

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from agents.analysis.learning_curves import NoDataError, read_curve
from agents.analysis.report.data import Selection, by_action, project, selections_of, strongest
from agents.analysis.report.episode import MAX_WEIGHT_BYTES, ShownEpisode
from agents.evaluation.results import TRAINING, read_evaluations
from agents.run_folder import RunFolderError
from agents.system.output import warn
from envs import PUBLISHED_SCORES, EnvConfig, rendering_problem

IMAGES_PER_SLOT = 3
MAX_SLOTS_WITH_IMAGES = 64
MAX_CURVE_POINTS = 1000

# Agent steps and raw scores of one curve.
Points = tuple[Sequence[float], Sequence[float]]


def read_points(folder: Path) -> dict[str, Points]:
    """Read the learning curve of a run and its evaluations during training, as far as they exist.

    Files that cannot be read cause a warning on stderr.

    Args:
        folder: The run directory.

    Returns:
        Metric ("training", "sampled" or "greedy") -> curve.
    """
    points: dict[str, Points] = {}
    try:
        curve = read_curve(folder)
        points["training"] = (curve.steps.tolist(), curve.values.tolist())
    except NoDataError:
        pass
    except RunFolderError as error:
        if (folder / "progress.csv").exists():
            warn(f"no learning curve: {error}")
    try:
        rows = read_evaluations(folder)
    except OSError as error:
        warn(f"no evaluations: {error}")
        rows = []
    for mode in ("sampled", "greedy"):
        # A resumed run may have two evaluations at a step: the later one counts.
        found = {
            float(row.global_step): row.summary.mean
            for row in rows
            if row.source == TRAINING and row.summary.mode == mode and row.global_step is not None
        }
        if found:
            points[mode] = (sorted(found), [found[step] for step in sorted(found)])
    return points


def chart_data(env: EnvConfig, curves: dict[str, Points], shown: ShownEpisode) -> dict[str, Any]:
    """Return the data of all charts.

    Args:
        env: The environment and its rules.
        curves: Metric -> learning curve.
        shown: The episode shown in the player.

    Returns:
        What JSON can hold; arrays are encoded by `encode_array`.
    """
    trajectory = shown.trajectory
    heads = [
        (name, selections)
        for name, program in (("actor", trajectory.actor), ("critic", trajectory.critic))
        if (selections := selections_of(program))
    ]
    has_gallery = bool(heads) and rendering_problem(env) is None
    size = sum(s.weights.size * (4 if s.signed else 1) for _, group in heads for s in group)
    keep = size <= MAX_WEIGHT_BYTES
    return {
        "rate": env.steps_per_second,
        "actionNames": trajectory.action_names,
        "actions": encode_array(trajectory.actions),
        "rewards": encode_array(trajectory.rewards),
        "values": encode_array(trajectory.values),
        "probabilities": encode_array(trajectory.probabilities),
        "heads": [_head(name, selections, shown, keep) for name, selections in heads],
        "gallery": _gallery(heads[0][1][0], shown.thumbnails, env) if has_gallery else None,
        "curve": _curve(env.game, curves) if curves else None,
    }


def encode_array(array: npt.NDArray[Any]) -> dict[str, Any]:
    """Encode an array for JSON: type, shape, and its bytes in base64, little-endian."""
    kind = array.dtype.newbyteorder("<")
    data = base64.b64encode(np.ascontiguousarray(array, kind).tobytes()).decode()
    return {"type": array.dtype.name, "shape": array.shape, "data": data}


def encode_weights(selection: Selection, keep_components: bool) -> dict[str, Any]:
    """Encode weights of shape (T, r, P), or (T, 1, P) for the mean over components.

    Attention is rounded to 1 / 255: finer shades would not be visible.
    """
    weights = selection.weights if keep_components else selection.mean[:, None]
    if selection.signed:
        return encode_array(weights)
    return encode_array(np.rint(weights.clip(0, 1) * 255).astype(np.uint8))


def _head(
    name: str, selections: Sequence[Selection], shown: ShownEpisode, keep_components: bool
) -> dict[str, Any]:
    trajectory = shown.trajectory
    length = len(trajectory.actions)
    features = np.concatenate([s.weights.reshape(length, -1) for s in selections], axis=1)
    plane, explained = project(features)
    return {
        "name": name,
        "selections": [
            {
                "name": s.name,
                "signed": s.signed,
                "weights": encode_weights(s, keep_components),
                "usage": _rounded(s.mean.mean(axis=0)),
                "byAction": [
                    None if np.isnan(row).any() else _rounded(row)
                    for row in by_action(s.mean, trajectory.actions, len(trajectory.action_names))
                ],
            }
            for s in selections
        ],
        "plane": encode_array(plane),
        "explained": explained,
        "dimensions": features.shape[1],
    }


def _gallery(
    selection: Selection, thumbnails: Sequence[bytes], env: EnvConfig
) -> list[list[dict[str, Any]]]:
    apart = round(env.steps_per_second)  # a second: the screens of neighbours are nearly equal
    slots = selection.mean[:, :MAX_SLOTS_WITH_IMAGES]
    return [
        [
            {
                "t": t,
                "weight": round(float(slots[t, slot]), 4),
                "picture": "data:image/jpeg;base64," + base64.b64encode(thumbnails[t]).decode(),
            }
            for t in steps
        ]
        for slot, steps in enumerate(strongest(slots, IMAGES_PER_SLOT, apart))
    ]


def _curve(game: str, curves: dict[str, Points]) -> dict[str, Any]:
    published = PUBLISHED_SCORES.get(game)
    lines = {}
    for metric, (steps, scores) in curves.items():
        every = -(-len(steps) // MAX_CURVE_POINTS)
        chosen = slice((len(steps) - 1) % every, None, every)  # the last point is always included
        lines[metric] = [list(steps[chosen]), _rounded(np.asarray(scores[chosen]))]
    return {
        "lines": lines,
        "random": None if published is None else published.random,
        "human": None if published is None else published.human,
    }


def _rounded(values: npt.NDArray[np.floating[Any]]) -> list[float]:
    return [round(float(value), 5) for value in values]
