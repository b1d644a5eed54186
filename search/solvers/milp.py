"""The additive problem as a mixed integer linear program, solved by HiGHS.

One binary for each level of each variable; for each table of several variables, one continuous
column a joint level, tied to the binaries by its marginals, so that a convolution's cost is that of
its input *and* output channels. Given binaries, the continuous columns can only be 0 or 1.

Source: the local marginal polytope, Wainwright & Jordan, "Graphical models, exponential families,
and variational inference", 2008, section 4.1; HiGHS, Huangfu & Hall 2018.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.sparse as sp
from scipy.optimize import Bounds, LinearConstraint, milp

from search.solvers.terms import Floats, Genomes, Terms

GAP = 0.005  # relative optimality gap that is good enough: losses are not known better
NODES = 2000  # of branch and bound; a count, not a time, so that equal inputs give equal answers
TIGHTER = 1e-5  # budgets are made this much smaller: HiGHS keeps constraints to 1e-6
TIE = 1e-6  # of equal losses the cheapest: weight of cost beside loss


def solve_milp(
    terms: Terms, losses: Sequence[Floats], budgets_D: Floats, gap: float = GAP
) -> Genomes | None:
    """Return the genome [V] of least loss within all budgets, to a relative gap.

    Args:
        terms: What genomes cost.
        losses: Of each variable, its levels' losses.
        budgets_D: Largest cost in each dimension; infinite for none.
        gap: How far above the optimum the loss may be.

    Returns:
        None if no genome keeps the budgets.
    """
    if not (terms.upper_V > 0).any():
        return terms.start_V if (terms.fixed_D <= budgets_D).all() else None
    columns = _Columns(terms)
    limited = np.flatnonzero(np.isfinite(budgets_D))
    scale_D = np.maximum(np.abs(budgets_D[limited]), 1e-12)
    price = columns.costs[:, limited] / scale_D
    room = budgets_D[limited] * (1 - TIGHTER) - terms.fixed_D[limited]
    objective = columns.losses(losses)
    spread = max(float(objective.max()), 1e-12)
    constraints = [LinearConstraint(columns.ties, columns.targets, columns.targets)]
    if len(limited):
        constraints.append(LinearConstraint(sp.csr_array(price.T), ub=room / scale_D))
        objective = objective / spread + TIE * price.sum(axis=1)
    solution = milp(
        objective,
        integrality=columns.integral,
        bounds=Bounds(0, 1),
        constraints=constraints,
        options={"mip_rel_gap": gap, "node_limit": NODES},
    )
    return None if solution.x is None else columns.genome(solution.x)


class _Columns:
    """The program's columns and the rows that tie them together, whatever the losses and budgets.

    Attributes:
        costs: [columns, D].
        integral: 1 for a binary column.
        ties: Equality rows: each variable has one level; each table agrees with its variables.
        targets: Their right-hand sides.
    """

    def __init__(self, terms: Terms) -> None:
        self._start_V = terms.start_V
        self._varying = [int(v) for v in np.flatnonzero(terms.upper_V > 0)]
        self._levels = {v: int(terms.upper_V[v]) + 1 for v in self._varying}
        ends = np.cumsum([0, *self._levels.values()])
        self._first = dict(zip(self._varying, ends[:-1].tolist(), strict=True))
        binaries = int(ends[-1])
        blocks = [np.zeros((binaries, len(terms.fixed_D)))]
        rows, columns, values = list[int](), list[int](), list[float]()
        row = len(self._varying)
        for number, v in enumerate(self._varying):
            rows += [number] * self._levels[v]
            columns += range(self._first[v], self._first[v] + self._levels[v])
            values += [1.0] * self._levels[v]
        width = binaries
        for factor in terms.factors:
            shape = factor.costs.shape[:-1]
            table = factor.costs.reshape(-1, factor.costs.shape[-1])
            if len(shape) == 1:  # a variable on its own: its binaries bear the cost
                first = self._first[factor.variables[0]]
                blocks[0][first : first + len(table)] += table
                continue
            cells = width + np.arange(len(table))
            for axis, v in enumerate(factor.variables):
                level = np.indices(shape)[axis].ravel()
                rows += [*(row + level), *(row + np.arange(shape[axis]))]
                columns += [*cells, *(self._first[v] + np.arange(shape[axis]))]
                values += [1.0] * len(table) + [-1.0] * shape[axis]
                row += shape[axis]
            blocks.append(table)
            width += len(table)
        self.costs = np.concatenate(blocks)
        self.integral = np.r_[np.ones(binaries), np.zeros(width - binaries)]
        self.ties = sp.csr_array((values, (rows, columns)), shape=(row, width))
        self.targets = np.r_[np.ones(len(self._varying)), np.zeros(row - len(self._varying))]

    def losses(self, losses: Sequence[Floats]) -> Floats:
        """Return the loss of each column."""
        each = [np.asarray(losses[v], dtype=np.float64) for v in self._varying]
        return np.r_[np.concatenate([np.zeros(0), *each]), np.zeros(self._others)]

    @property
    def _others(self) -> int:
        return int((self.integral == 0).sum())

    def genome(self, solution: Floats) -> Genomes:
        """Return the genome [V] of a solution."""
        genome_V = self._start_V.copy()
        for v in self._varying:
            first = self._first[v]
            genome_V[v] = solution[first : first + self._levels[v]].argmax()
        return genome_V
