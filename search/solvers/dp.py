"""SPDY's dynamic program: least loss within a budget when every variable costs on its own.

Costs are integers (buckets of the budget); the caller chooses how to round. Rounding up never
exceeds the budget; rounding to nearest, as the published program does, can by half a bucket a
variable.

Source: Frantar & Alistarh, "SPDY: Accurate Pruning with Speedup Guarantees", arXiv 2201.13096,
section 3.1 and algorithm 1. Time O(V x levels x buckets).

Axis letters: V variables, B buckets.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from search.solvers.terms import Floats, Genomes

BUCKETS = 10_000


def solve_dp(
    losses: Sequence[Floats], costs: Sequence[npt.NDArray[np.int64]], buckets: int
) -> Genomes | None:
    """Return the levels [V] of least total loss whose costs sum to at most `buckets`.

    Args:
        losses: Of each variable, its levels' losses.
        costs: Of each variable, its levels' costs in buckets; may be negative.
        buckets: The budget.

    Returns:
        None if no choice of levels keeps the budget.
    """
    lowest = [int(column.min()) for column in costs]
    room = buckets - sum(lowest)
    if room < 0:
        return None
    best_B = np.zeros(room + 1)  # least loss of the variables so far that spend at most b
    chosen_VB = np.zeros((len(losses), room + 1), dtype=np.int16)
    for row, (loss, cost) in enumerate(zip(losses, costs, strict=True)):
        levels_LB = np.full((len(loss), room + 1), np.inf)
        for level, extra in enumerate(cost - lowest[row]):
            if extra <= room:
                levels_LB[level, extra:] = best_B[: room + 1 - extra] + loss[level]
        chosen_VB[row] = levels_LB.argmin(axis=0)
        best_B = levels_LB.min(axis=0)
    levels_V = np.zeros(len(losses), dtype=np.int64)
    for row in range(len(losses) - 1, -1, -1):
        levels_V[row] = chosen_VB[row, room]
        room -= int(costs[row][levels_V[row]]) - lowest[row]
    return levels_V


def in_buckets(
    costs: Sequence[Floats], budget: float, buckets: int = BUCKETS
) -> list[npt.NDArray[np.int64]]:
    """Return costs in units of budget / buckets, rounded up: what fits then fits in truth."""
    unit = budget / buckets
    return [np.ceil(np.asarray(column) / unit).astype(np.int64) for column in costs]
