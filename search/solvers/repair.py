"""The true cost has the last word: steps of single variables until all budgets hold and are used.

Axis letters: N genomes, V variables, D dimensions of cost.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import numpy as np
import numpy.typing as npt

from search.solvers.terms import Floats, Genomes

Costs = Callable[[Genomes], Floats]
"""[N, V] genomes -> [N, D] true costs."""


def repair(
    genome_V: Genomes,
    losses: Sequence[Floats],
    costs: Costs,
    budgets_D: Floats,
    fixed: Collection[int] = (),
) -> Genomes | None:
    """Step to a genome that keeps the budgets, then give back what the budgets leave room for.

    Args:
        genome_V: Where to start.
        losses: Of each variable, its levels' losses.
        costs: Prices genomes truly.
        budgets_D: Largest cost in each dimension; infinite for none.
        fixed: Columns that stay.

    Returns:
        None if greedy steps lead to no affordable genome.
    """
    genome_V = genome_V.copy()
    for _ in range(sum(map(len, losses))):  # more steps than there can be
        excess = _excess(costs(genome_V[None]), budgets_D)[0]
        if excess <= 0:
            return _filled(genome_V, losses, costs, budgets_D, fixed)
        moves_NV, lost_N = neighbours(genome_V, losses, fixed)
        if not len(moves_NV):
            return None
        saved_N = excess - np.maximum(_excess(costs(moves_NV), budgets_D), 0.0)
        helps = saved_N > 1e-12
        if not helps.any():
            return None
        price_N = np.where(helps, np.maximum(lost_N, 0.0) + 1e-9, np.inf)
        price_N = price_N / np.where(helps, saved_N, 1.0)
        genome_V = moves_NV[int(price_N.argmin())]
    return None


def _filled(
    genome_V: Genomes,
    losses: Sequence[Floats],
    costs: Costs,
    budgets_D: Floats,
    fixed: Collection[int],
) -> Genomes:
    """Take the affordable step that gains most until there is none."""
    while True:
        moves_NV, lost_N = neighbours(genome_V, losses, fixed)
        gains = np.flatnonzero(lost_N < -1e-12)
        moves_NV, lost_N = moves_NV[gains], lost_N[gains]
        if not len(moves_NV):
            return genome_V
        within = np.flatnonzero(_excess(costs(moves_NV), budgets_D) <= 0)
        if not len(within):
            return genome_V
        genome_V = moves_NV[within[lost_N[within].argmin()]]


def neighbours(
    genome_V: Genomes, losses: Sequence[Floats], fixed: Collection[int] = ()
) -> tuple[Genomes, npt.NDArray[np.float64]]:
    """Return all genomes with one variable at another level [N, V], and the losses they add [N]."""
    free = np.array([v for v in range(len(losses)) if v not in fixed], dtype=np.int64)
    sizes = [len(losses[v]) for v in free]
    first = np.cumsum([0, *sizes])[:-1]
    flat = np.concatenate([np.zeros(0), *(losses[v] for v in free)])
    columns_N = np.repeat(free, sizes)
    levels_N = np.arange(len(flat)) - np.repeat(first, sizes)
    lost_N = flat - np.repeat(flat[first + genome_V[free]], sizes)
    moves = np.flatnonzero(levels_N != genome_V[columns_N])
    moves_NV = np.repeat(genome_V[None], len(moves), axis=0)
    moves_NV[np.arange(len(moves)), columns_N[moves]] = levels_N[moves]
    return moves_NV, lost_N[moves]


def _excess(costs_ND: Floats, budgets_D: Floats) -> npt.NDArray[np.float64]:
    """Return by how much the budgets are exceeded together, each in units of itself; 0 if none."""
    limited = np.isfinite(budgets_D)
    over_ND = costs_ND[:, limited] - budgets_D[limited]
    scaled_ND = over_ND / np.maximum(np.abs(budgets_D[limited]), 1e-12)
    return np.asarray(np.maximum(scaled_ND, 0.0).sum(axis=1))
