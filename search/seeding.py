"""Where a search starts: genomes that are good before anything was evolved.

Uniformly random genomes of a detector are mostly dead nets, so nobody starts there. `exact_seeds`
solves the additive problem for every budget and for a ladder between dense and smallest, at every
input size.

Axis letters: X_NV = N genomes x V variables (0 = densest level), D = latency, energy, size.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from search.explorer import Explorer, budgets_of
from search.solvers.descent import descend_from
from search.solvers.milp import solve_milp
from search.solvers.repair import repair
from search.solvers.terms import DIMENSIONS, Terms

log = logging.getLogger(__name__)

Genomes = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

LADDER = 24  # rungs of the ladder over all sizes and dimensions
FINE = 96  # relaxed solutions a ladder's rungs are chosen from
DEAREST, CHEAPEST = 1e4, 1e-3  # price of the dense model's whole cost, in units of loss
CORRECTIONS = 3


def exact_seeds(explorer: Explorer, losses: Sequence[Floats]) -> Genomes:
    """Return genomes [N, V] that the additive model holds for best, least compressed first.

    For each input size: the solution for each budget the user asked for (all dimensions at once),
    and rungs evenly apart in each dimension that is asked for, alone and together.
    """
    seeds = []
    for terms in explorer.terms:
        for limit in explorer.problem.limits:
            solution = solve_within(explorer, terms, losses, budgets_of(limit))
            seeds += [] if solution is None else [solution]
        seeds += ladder(explorer, terms, losses, LADDER // len(explorer.terms))
    seeds.sort(key=lambda genome: float(sum(x[i] for x, i in zip(losses, genome, strict=True))))
    return distinct(np.array(seeds))


def solve_within(
    explorer: Explorer, terms: Terms, losses: Sequence[Floats], budgets_D: Floats
) -> Genomes | None:
    """Return the best genome [V] of the additive model within budgets that truly hold.

    Where the sum of tables is not exact, the program's budget is moved by its error at the
    solution and solved again; the last word has `repair`.
    """
    fixed = np.flatnonzero(terms.upper_V == 0).tolist()
    inner_D = budgets_D.copy()
    best, lowest = None, np.inf
    for _ in range(CORRECTIONS):
        solution = solve_milp(terms, losses, inner_D)
        if solution is None:
            break
        error_D = (terms.costs(solution[None]) - explorer.costs(solution[None]))[0]
        settled = repair(solution, losses, explorer.costs, budgets_D, fixed)
        if settled is not None:
            loss = float(sum(x[i] for x, i in zip(losses, settled, strict=True)))
            if loss < lowest:
                best, lowest = settled, loss
        moved_D = np.where(np.isfinite(budgets_D), budgets_D + error_D, np.inf)
        if np.allclose(moved_D, inner_D, rtol=1e-4):
            break
        inner_D = moved_D
    if best is None:  # the tables say it cannot be done; the true costs may still allow it
        return repair(terms.start_V + terms.upper_V, losses, explorer.costs, budgets_D, fixed)
    return best


def ladder(explorer: Explorer, terms: Terms, losses: Sequence[Floats], count: int) -> list[Genomes]:
    """Return about `count` solutions of rising price on cost, evenly apart in what they save."""
    directions = price_directions(explorer)
    dense_D = np.maximum(terms.costs(terms.start_V[None])[0], 1e-12)
    rungs: list[Genomes] = []
    for direction_D in directions:
        prices_ND = np.geomspace(CHEAPEST, DEAREST, FINE)[:, None] * direction_D / dense_D
        genomes_NV = descend_from(terms, losses, prices_ND, starts(explorer, terms))
        shares_N = (explorer.costs(genomes_NV) / dense_D) @ direction_D / direction_D.sum()
        wanted = np.linspace(shares_N.max(), shares_N.min(), max(2, count // len(directions)))
        rungs += [genomes_NV[int(np.abs(shares_N - share).argmin())] for share in wanted]
    return rungs


def starts(explorer: Explorer, terms: Terms) -> Genomes:
    """Return where to descend from [S, V]: dense and, where it matters, all layers of few bits.

    Where a change of format has a price, few bits of a single layer cost two changes, and gain
    nothing until its neighbours have them, too.
    """
    found = [terms.start_V]
    if explorer.problem.space.converts:
        columns = explorer.family("bits")
        for level in range(1, 1 + max((int(terms.upper_V[v]) for v in columns), default=0)):
            uniform_V = terms.start_V.copy()
            uniform_V[columns] = np.minimum(level, terms.upper_V[columns])
            found.append(uniform_V)
    return np.stack(found)


def price_directions(explorer: Explorer) -> list[Floats]:
    """Return the mixes of latency, energy and size to save: each one asked for, and all of them."""
    columns = explorer.cost_columns
    alone = np.eye(len(DIMENSIONS))[columns]
    return [*alone, alone.sum(axis=0)] if len(columns) > 1 else [*alone]


def sparse_random(count: int, upper_V: Genomes, random: np.random.Generator) -> Genomes:
    """Return random genomes with few moved variables: the fair random start.

    The share of moved variables is itself drawn, between one variable and half of them, so that
    light and heavy compression are both there.
    """
    upper_V = np.asarray(upper_V)
    share_N1 = np.exp(random.uniform(np.log(1 / max(len(upper_V), 2)), np.log(0.5), (count, 1)))
    moved_NV = random.random((count, len(upper_V))) < share_N1
    levels_NV = random.integers(0, upper_V + 1, (count, len(upper_V)))
    return np.where(moved_NV, levels_NV, 0).astype(np.int64)


def uniform_grid(upper_V: Genomes, families: Sequence[Sequence[int]], count: int) -> Genomes:
    """Return genomes in which each family of variables stands at one common share of its range.

    Args:
        upper_V: Largest level of each variable.
        families: Variables that move together (all channel groups, all layers' bits, the size).
        count: How many genomes at most; the grid over the families is thinned to it.
    """
    if not families:
        return np.zeros((1, len(upper_V)), dtype=np.int64)
    shares = [np.linspace(0, 1, max(int(upper_V[v]) for v in family) + 1) for family in families]
    grid = np.array(np.meshgrid(*shares, indexing="ij")).reshape(len(families), -1).T
    genomes_NV = np.zeros((len(grid), len(upper_V)), dtype=np.int64)
    for column, family in enumerate(families):
        for variable in family:
            genomes_NV[:, variable] = np.round(grid[:, column] * upper_V[variable])
    genomes_NV = np.unique(genomes_NV, axis=0)
    thinned = np.linspace(0, len(genomes_NV) - 1, min(count, len(genomes_NV)))
    return genomes_NV[np.unique(thinned.round().astype(int))]


def distinct(*parts: Genomes) -> Genomes:
    """Return the rows of all parts in order, each once."""
    rows = {genome.tobytes(): genome for part in parts for genome in part}
    return np.array(list(rows.values()))
