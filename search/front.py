"""The Pareto front: who is on it, how much it covers, and which point serves which budget.

Axis letters: F_NM = N points x M objectives, all minimised.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt
from pymoo.indicators.hv import Hypervolume

from evaluators.score import Score
from hw_models.cost import Cost
from search.settings import Limits
from spaces.candidate import Candidate

Objectives = npt.NDArray[np.float64]
T = TypeVar("T")

RECOVERED = "recover"
"""The method of a point that was trained: its weights are not those of its candidate."""


@dataclass(frozen=True, slots=True)
class Point:
    """A candidate with its predicted cost and its score at one rung.

    Attributes:
        id: Short name in tables and of the folder `models/ID`.
        method: What proposed it (`seed`, `nsga2`, ...).
        candidate: What is compressed and how.
        cost: Predicted by the hardware model; never measured.
        score: Accuracy on validation images.
    """

    id: str
    method: str
    candidate: Candidate
    cost: Cost
    score: Score


def non_dominated(F_NM: Objectives) -> npt.NDArray[np.bool_]:
    """Tell which rows no other row dominates; of equal rows the first stays.

    A row dominates another if it is nowhere larger and somewhere smaller.

    Args:
        F_NM: Minimised objectives, finite.

    Returns:
        Mask [N].
    """
    F_NM = np.asarray(F_NM, dtype=np.float64)
    keep = np.ones(len(F_NM), dtype=np.bool_)
    # In lexicographic order (stable: the first of equal rows comes first) nobody is dominated by
    # a later row.
    order = np.lexsort(F_NM.T[::-1]) if len(F_NM) else np.empty(0, dtype=np.int64)
    kept: list[int] = []
    for index in order:
        if kept and (F_NM[kept] <= F_NM[index]).all(axis=1).any():
            keep[index] = False
        else:
            kept.append(int(index))
    return keep


class Front(Generic[T]):
    """The non-dominated of all items that were added, kept up to date.

    Args:
        objectives: Number of objectives M.

    Attributes:
        F_NM: Their objectives.
        items: The items, in the same order.
    """

    def __init__(self, objectives: int) -> None:
        self.F_NM: Objectives = np.empty((0, objectives))
        self.items: list[T] = []

    def add(self, row_M: Sequence[float], item: T) -> None:
        """Take in one more; forget those it dominates."""
        row = np.asarray(row_M, dtype=np.float64)
        if (row >= self.F_NM).all(axis=1).any():
            return
        stays = np.asarray((row > self.F_NM).any(axis=1))
        self.F_NM = np.concatenate([self.F_NM[stays], row[None]])
        self.items = [self.items[index] for index in np.flatnonzero(stays)] + [item]


def pareto(items: Sequence[T], objectives: Callable[[T], Sequence[float]]) -> list[T]:
    """Return the non-dominated items in the order of their first objective."""
    if not items:
        return []
    F_NM = np.array([objectives(item) for item in items])
    front = [item for item, keep in zip(items, non_dominated(F_NM), strict=True) if keep]
    return sorted(front, key=lambda item: tuple(objectives(item)))


def hypervolume(F_NM: Objectives, reference_M: Objectives) -> float:
    """Return the volume between the points and the reference, as a share of the reference box.

    The box spans from 0 to the reference; points beyond the reference add nothing.

    Source: Zitzler & Thiele, "Multiobjective evolutionary algorithms: a comparative case study
    and the strength Pareto approach", IEEE TEC 1999.
    """
    reference_M = np.asarray(reference_M, dtype=np.float64)
    if len(F_NM) == 0:
        return 0.0
    indicator = Hypervolume(ref_point=np.ones_like(reference_M))
    return float(indicator.do(np.asarray(F_NM) / reference_M))


def pick(points: Iterable[Point], limits: Limits) -> Point | None:
    """Return the most accurate point within all limits, the faster one of equals; None if none."""
    within = [p for p in points if limits.met_by(p.cost, p.score)]
    if not within:
        return None
    return max(within, key=lambda p: (p.score.map50_95 or 0.0, -p.cost.latency_ms))
