"""The numbers of a report: what a head selected during an episode, and what it correlates with.

Arrays in, arrays out. `episode.py` plays, `page.py` makes the page.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from agents.evaluation.episode import EpisodeResult
from agents.networks.inspection import Floats, HypernetProgram, NeurocoderProgram, Program


@dataclass(frozen=True, eq=False)
class Selection:
    """What a head selected from one of its memories over the T steps of an episode.

    Attributes:
        name: "U", "V" or "S" of a Neurocoder; "z" of a HyperNet.
        weights: Attention of r components to P slots, in [0, 1], shape (T, r, P); or the embedding,
            of any sign, shape (T, 1, E).
        signed: Whether it is an embedding.
    """

    name: str
    weights: Floats
    signed: bool

    @property
    def mean(self) -> Floats:
        """Mean over the components, shape (T, P)."""
        mean: Floats = self.weights.mean(axis=1)
        return mean


def selections_of(program: Program | None) -> list[Selection]:
    """Return the selections of a head, whose program has a leading dimension T; none if linear."""
    if isinstance(program, NeurocoderProgram):
        return [
            Selection("U", program.u_attention, signed=False),
            Selection("V", program.v_attention, signed=False),
            Selection("S", program.s_attention, signed=False),
        ]
    if isinstance(program, HypernetProgram):
        return [Selection("z", program.embedding[:, None, :], signed=True)]
    return []


def by_action(
    weights: Floats, actions: npt.NDArray[np.integer[Any]], num_actions: int
) -> npt.NDArray[np.float64]:
    """Return the mean weight of each slot given the action, minus its mean over all steps.

    Args:
        weights: Shape (T, P).
        actions: The chosen actions, shape (T,).
        num_actions: The number A of actions.

    Returns:
        Shape (A, P); NaN for actions that were never chosen.
    """
    overall = weights.mean(axis=0, dtype=np.float64)
    result = np.full((num_actions, weights.shape[1]), np.nan)
    for action in np.unique(actions):
        result[action] = weights[actions == action].mean(axis=0, dtype=np.float64) - overall
    return result


def strongest(weights: Floats, count: int, apart: int) -> list[list[int]]:
    """Return the steps at which each slot had the most weight, strongest first.

    Args:
        weights: Shape (T, P).
        count: Maximal number of steps for each slot.
        apart: Minimal distance of two steps of a slot; a short episode yields fewer steps.

    Returns:
        P lists of step indices.
    """
    chosen: list[list[int]] = []
    for column in weights.T:
        order, picked = np.argsort(-column, kind="stable"), list[int]()
        for t in order:
            if len(picked) == count:
                break
            if all(abs(int(t) - other) >= apart for other in picked):
                picked.append(int(t))
        chosen.append(picked)
    return chosen


def project(features: npt.NDArray[np.floating[Any]]) -> tuple[Floats, tuple[float, float]]:
    """Project the rows on their first two principal components.

    Args:
        features: Shape (T, D).

    Returns:
        The projected rows, shape (T, 2), and the fractions of the variance along the two axes;
        zeros where nothing varies. The sign of an axis is such that its coordinate of largest
        magnitude is positive.
    """
    centred = features.astype(np.float64) - features.mean(axis=0, dtype=np.float64)
    plane = np.zeros((len(features), 2))
    explained = np.zeros(2)
    u, s, _ = np.linalg.svd(centred, full_matrices=False)
    total = (s**2).sum()
    if total > 1e-12 * features.size:
        found = min(2, len(s))
        coordinates = u[:, :found] * s[:found]
        largest = coordinates[np.abs(coordinates).argmax(axis=0), range(found)]
        plane[:, :found] = np.where(largest < 0, -coordinates, coordinates)
        explained[:found] = s[:found] ** 2 / total
    return plane.astype(np.float32), (float(explained[0]), float(explained[1]))


def median_episode(episodes: Sequence[EpisodeResult]) -> EpisodeResult:
    """Return the episode of median score; of two in the middle, the lower one.

    Raises:
        ValueError: If there are no episodes.
    """
    if not episodes:
        raise ValueError("there are no episodes to choose from")
    return sorted(episodes, key=lambda episode: episode.score)[(len(episodes) - 1) // 2]
