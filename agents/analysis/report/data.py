"""The numbers of a report: what a head selected over a game, and what goes with it.

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
    """What a head selected from one of its memories over the T decisions of a game.

    Attributes:
        name: "U", "V" or "S" of a Neurocoder; "z" of a HyperNet.
        weights: attention of r components to P slots, in [0, 1], shape (T, r, P); or the embedding,
            of any sign, shape (T, 1, E).
        signed: whether it is an embedding.
    """

    name: str
    weights: Floats
    signed: bool

    @property
    def mean(self) -> Floats:
        """Over the components, shape (T, P)."""
        mean: Floats = self.weights.mean(axis=1)
        return mean


def selections_of(program: Program | None) -> list[Selection]:
    """The selections of a head, from its program with a leading dimension T; none of a linear."""
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
    """Mean weight of a slot given the chosen action, minus its mean over all decisions.

    Args:
        weights: shape (T, P).
        actions: that were chosen, shape (T,).
        num_actions: A.

    Returns:
        Shape (A, P); NaN for actions that were never chosen.
    """
    overall = weights.mean(axis=0, dtype=np.float64)
    result = np.full((num_actions, weights.shape[1]), np.nan)
    for action in np.unique(actions):
        result[action] = weights[actions == action].mean(axis=0, dtype=np.float64) - overall
    return result


def strongest(weights: Floats, count: int, apart: int) -> list[list[int]]:
    """The decisions at which each slot had the most weight, strongest first.

    Args:
        weights: shape (T, P).
        count: decisions for each slot, at most.
        apart: decisions that must lie between two of one slot's, unless the game is too short.

    Returns:
        P lists of indices.
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
    """Principal components: the plane in which the rows differ most.

    Args:
        features: shape (T, D).

    Returns:
        The rows in that plane, shape (T, 2), and the parts of the variance along its two axes;
        zeros where nothing varies. The sign of an axis is such that its largest coordinate is
        positive.
    """
    centred = features.astype(np.float64) - features.mean(axis=0, dtype=np.float64)
    total = float((centred**2).sum())
    plane = np.zeros((len(features), 2))
    parts = [0.0, 0.0]
    if total > 1e-12 * features.size:
        wide = centred.shape[1] > centred.shape[0]
        # The smaller of the two products has the same eigenvalues, and is cheap to decompose.
        values, vectors = np.linalg.eigh(centred @ centred.T if wide else centred.T @ centred)
        for axis in range(min(2, len(values))):
            value, vector = max(float(values[-1 - axis]), 0.0), vectors[:, -1 - axis]
            along = vector * np.sqrt(value) if wide else centred @ vector
            if along[np.abs(along).argmax()] < 0:
                along = -along
            plane[:, axis], parts[axis] = along, value / total
    return plane.astype(np.float32), (parts[0], parts[1])


def median_episode(games: Sequence[EpisodeResult]) -> EpisodeResult:
    """The game of median score; of two in the middle the lower one.

    Raises:
        ValueError: if there are no games.
    """
    if not games:
        raise ValueError("there are no games to choose from")
    return sorted(games, key=lambda game: game.score)[(len(games) - 1) // 2]
