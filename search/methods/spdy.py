"""SPDY: search the coefficients of a fixed loss shape, solve each by the dynamic program.

Source: Frantar & Alistarh, "SPDY: Accurate Pruning with Speedup Guarantees", arXiv 2201.13096,
algorithms 1 and 2, and the authors' program. A level i of S loses coef x (i / (S - 1))^2; what is
searched is coef in [0, 1]^V: first at random, then by redrawing k coordinates, k falling from a
tenth of them to one, each first improvement accepted and 100 failures in a row ending a k.

`published_levels` is the published program on its own timing tables, faults included; `spdy` is the
search with costs rounded up and repaired, so that no budget is exceeded.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import numpy as np

from hw_models.cost_table import CostTable
from search.explorer import Explorer, Floats, Genomes
from search.methods.additive import solve_separable
from search.solvers.dp import BUCKETS, solve_dp

RANDOM = 100  # random coefficients before the local search, of the 700 evaluations of the paper
PUBLISHED = 700
PATIENCE = 100
NEIGHBOURHOOD = 0.1


def spdy(explorer: Explorer) -> None:
    """Search the coefficients for each budget at each input size, sharing the evaluations."""
    explorer.score(explorer.dense_NV, "dense")
    targets = list(explorer.targets())
    for number, (budgets_D, terms) in enumerate(targets):
        share = explorer.left // (len(targets) - number)

        def solve(
            coefficients_V: Floats, budgets_D: Floats = budgets_D, start_V: Genomes = terms.start_V
        ) -> Genomes | None:
            losses = quadratic_losses(coefficients_V, explorer.upper_V)
            return solve_separable(explorer, losses, budgets_D, start_V)

        def evaluate(genome_V: Genomes) -> float:
            return float(explorer.score(genome_V[None], "spdy")[0, 0])

        coefficient_search(solve, evaluate, len(explorer.upper_V), share, explorer.random)


def quadratic_losses(coefficients_V: Floats, upper_V: Genomes) -> list[Floats]:
    """Return the loss of each level of each variable: coef x (level / largest level)^2."""
    return [
        coefficient * np.square(np.arange(upper + 1) / max(upper, 1))
        for coefficient, upper in zip(coefficients_V, upper_V, strict=True)
    ]


def coefficient_search(
    solve: Callable[[Floats], Genomes | None],
    evaluate: Callable[[Genomes], float],
    variables: int,
    evaluations: int,
    random: np.random.Generator,
) -> Genomes | None:
    """Return the best genome [V] that coefficients in [0, 1]^V lead to.

    Args:
        solve: Coefficients [V] -> genome, None if the budget cannot be met.
        evaluate: Genome -> loss; asked once for each different genome.
        variables: Number V.
        evaluations: Different genomes to evaluate at most.
        random: Source of all choices.
    """
    known: dict[bytes, float] = {}

    def loss_of(coefficients_V: Floats) -> tuple[float, Genomes | None]:
        genome_V = solve(coefficients_V)
        if genome_V is None:
            return np.inf, None
        key = genome_V.tobytes()
        if key not in known and len(known) < evaluations:
            known[key] = evaluate(genome_V)
        return known.get(key, np.inf), genome_V

    draws = max(1, round(RANDOM / PUBLISHED * evaluations))
    best_V = random.random(variables)
    lowest, genome = loss_of(best_V)
    for _ in range(draws - 1):
        trial_V = random.random(variables)
        loss, found = loss_of(trial_V)
        if loss < lowest:
            best_V, lowest, genome = trial_V, loss, found
    for count in range(max(1, round(NEIGHBOURHOOD * variables)), 0, -1):
        failures = 0
        while failures < PATIENCE and genome is not None and len(known) < evaluations:
            trial_V = best_V.copy()
            trial_V[random.choice(variables, count, replace=False)] = random.random(count)
            loss, found = loss_of(trial_V)
            if loss < lowest:
                best_V, lowest, genome, failures = trial_V, loss, found, 0
            else:
                failures += 1
    return genome


def published_levels(
    table: CostTable,
    speedup: float,
    coefficients: Sequence[float],
    skipped: Collection[str] = (),
    buckets: int = BUCKETS,
) -> dict[str, float] | None:
    """Return the sparsity of each layer as the authors' program chooses it, None if infeasible.

    Its faults are kept: a skipped layer leaves the program but its time stays in the budget, and
    times are rounded to the nearest bucket, which can overshoot.

    Args:
        table: Measured times by layer and sparsity.
        speedup: Asked for, over the whole network.
        coefficients: One for each layer of the table that is not skipped.
        skipped: Layers that stay dense.
        buckets: Number the budget is split into.
    """
    names = [name for name in table.layers if name not in skipped]
    levels = [sorted(table.layers[name]) for name in names]
    budget_s = table.base_s / speedup - (table.base_s - table.prunable_s)
    if budget_s <= 0:
        return None
    costs = [
        np.rint(
            np.array([table.layers[name][level] for level in column]) / (budget_s / buckets)
        ).astype(np.int64)
        for name, column in zip(names, levels, strict=True)
    ]
    upper_V = np.array([len(column) - 1 for column in levels])
    losses = quadratic_losses(np.asarray(coefficients, dtype=np.float64), upper_V)
    chosen = solve_dp(losses, costs, buckets)
    if chosen is None:
        return None
    return {name: levels[row][chosen[row]] for row, name in enumerate(names)}
