"""Which points go from the subset to all images, when differences within noise mean nothing.

Axis letters: N points, C dimensions of cost, B budgets.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

PROMOTED = 48  # points at most, beside the dense ones
EACH_BUDGET = 3  # of them the most accurate ones within each budget
TIE = 1.0  # standard deviations of noise within which points are level


def promote(
    accuracy_N: Floats, noise: float, costs_NC: Floats, within_NB: Bools, dense_N: Bools
) -> list[int]:
    """Return the rows of the points that may be on the front or a budget's pick.

    In this order, until there are `PROMOTED`: dense points, the best within each budget, the front
    (evenly thinned if it is too long), and what is within `TIE` of the front, nearest first. Points
    with less than half of the best accuracy within the first budget are left out, if not dense.

    Args:
        accuracy_N: Higher is better.
        noise: Standard deviation of the accuracies' errors.
        costs_NC: Lower is better.
        within_NB: Whether a point keeps each budget, the tightest first.
        dense_N: Which points are uncompressed.
    """
    # How much less accurate than the best that costs no more, in units of noise.
    behind_N = np.array(
        [accuracy_N[(costs_NC <= cost).all(axis=1)].max() for cost in costs_NC] - accuracy_N
    )
    behind_N = behind_N / noise
    floor = 0.5 * accuracy_N[within_NB[:, 0]].max(initial=0.0)
    useful = np.flatnonzero((accuracy_N >= floor) & (behind_N <= TIE))
    order = useful[np.lexsort((-accuracy_N[useful], behind_N[useful]))]
    chosen = dict.fromkeys(np.flatnonzero(dense_N).tolist())
    room = PROMOTED + len(chosen)
    for within_N in within_NB.T:
        rows = np.flatnonzero(within_N & (accuracy_N >= floor))
        best = rows[np.argsort(-accuracy_N[rows], kind="stable")][:EACH_BUDGET]
        chosen |= dict.fromkeys(best.tolist())
    front = order[behind_N[order] <= 0]
    front = front[np.argsort(costs_NC[front, 0], kind="stable")]
    left = max(room - len(chosen), 0)
    if len(front) > left:
        front = front[np.linspace(0, len(front) - 1, left).round().astype(int)]
    chosen |= dict.fromkeys(front.tolist())
    for row in order.tolist():
        if len(chosen) >= room:
            break
        chosen[row] = None
    return list(chosen)
