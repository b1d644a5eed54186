"""One exact solution for each budget on the sensitivity table, nothing else.

Sources: layer-wise table and integer program, AdaQuant, Hubara et al., arXiv 2006.10518; the
dynamic program of SPDY on measured losses, Frantar & Alistarh, arXiv 2201.13096.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from search.explorer import Explorer, Floats, Genomes
from search.seeding import solve_within
from search.sensitivity import sweep
from search.solvers.dp import BUCKETS, in_buckets, solve_dp
from search.solvers.repair import repair
from search.solvers.terms import ENERGY, LATENCY, SIZE


def milp(explorer: Explorer) -> None:
    """Score the solution of the integer program for each budget and input size."""
    explorer.score(explorer.dense_NV, "dense")
    losses = sweep(explorer)
    for budgets_D, terms in explorer.targets():
        solution = solve_within(explorer, terms, losses, budgets_D)
        if solution is not None:
            explorer.score(solution[None], "milp")


def dp(explorer: Explorer) -> None:
    """Score the solution of the dynamic program for each budget and input size."""
    explorer.score(explorer.dense_NV, "dense")
    losses = sweep(explorer)
    for budgets_D, terms in explorer.targets():
        solution = solve_separable(explorer, losses, budgets_D, terms.start_V)
        if solution is not None:
            explorer.score(solution[None], "dp")


def solve_separable(
    explorer: Explorer,
    losses: Sequence[Floats],
    budgets_D: Floats,
    start_V: Genomes,
    fixed: Collection[int] = (),
) -> Genomes | None:
    """Return the dynamic program's solution [V], repaired to the true costs.

    The program takes every variable's saving as that of moving it alone. Coupled variables save
    less together, so its budget is lowered by the excess and it is run again; what is left, and
    budgets on other dimensions than the first, `repair` settles.
    """
    dimension = next(d for d in (LATENCY, ENERGY, SIZE) if np.isfinite(budgets_D[d]))
    fixed = {*fixed, *explorer.family("imgsz")}
    savings, fixed_cost = single_costs(explorer, start_V, dimension, fixed)
    budget = inner = float(budgets_D[dimension])
    best = start_V
    for _ in range(8):
        room = inner - fixed_cost
        unit = max(inner, 1e-12)
        solution = solve_dp(losses, in_buckets(savings, unit), int(BUCKETS * room / unit))
        if solution is None:
            break
        best = start_V + solution
        excess = float(explorer.costs(best[None])[0, dimension]) - budget
        if excess <= 0:
            break
        inner -= excess
    return repair(best, losses, explorer.costs, budgets_D, fixed)


def single_costs(
    explorer: Explorer, start_V: Genomes, dimension: int, fixed: Collection[int]
) -> tuple[list[Floats], float]:
    """Return what each level of each variable adds to a cost when moved alone, and the start's.

    Variables in `fixed` do not move: they have one level.
    """
    moves = [
        (v, level)
        for v, upper in enumerate(explorer.upper_V)
        if v not in fixed
        for level in range(1, upper + 1)
    ]
    genomes_NV = np.repeat(start_V[None], len(moves) + 1, axis=0)
    for row, (v, level) in enumerate(moves, start=1):
        genomes_NV[row, v] = level
    costs_N = explorer.costs(genomes_NV)[:, dimension]
    columns = [np.zeros(1 if v in fixed else u + 1) for v, u in enumerate(explorer.upper_V)]
    for (v, level), cost in zip(moves, costs_N[1:], strict=True):
        columns[v][level] = cost - costs_N[0]
    return columns, float(costs_N[0])
