"""EagleEye: random candidates just within the budget; whichever scores best is kept.

Source: Li et al., "EagleEye: Fast Sub-net Evaluation for Efficient Neural Network Pruning", arXiv
2007.02491. Its adaptive batch norm is what restores accuracy before ranking; here every method's
candidates are restored alike, by the evaluator's own, better way.
"""

from __future__ import annotations

import numpy as np

from search.explorer import Explorer, Floats, Genomes
from search.solvers.terms import Terms

SLACK = 0.1  # a candidate uses at least this much less than all of its budget
DRAWN = 256  # random genomes priced at once
DRAWS = 40  # times, before a budget is given up


def eagleeye(explorer: Explorer) -> None:
    """Score random genomes within each budget at each input size, sharing the evaluations."""
    explorer.score(explorer.dense_NV, "dense")
    targets = list(explorer.targets())
    for number, (budgets_D, terms) in enumerate(targets):
        share = explorer.left // (len(targets) - number)
        within_NV = random_within(explorer, terms, budgets_D, share)
        if len(within_NV):
            explorer.score(within_NV, "eagleeye")


def random_within(explorer: Explorer, terms: Terms, budgets_D: Floats, count: int) -> Genomes:
    """Return up to `count` random genomes [N, V] that use nearly all of a budget.

    Levels are uniform up to a share of the range that is itself drawn: uniform over the whole
    range, nearly all genomes would cost the same.
    """
    random, limited = explorer.random, np.isfinite(budgets_D)
    found: dict[bytes, Genomes] = {}
    for _ in range(DRAWS):
        share_N1 = random.random((DRAWN, 1))
        levels_NV = random.random((DRAWN, len(terms.upper_V))) * share_N1 * (terms.upper_V + 1)
        genomes_NV = terms.start_V + np.minimum(levels_NV.astype(np.int64), terms.upper_V)
        used_N = (explorer.costs(genomes_NV)[:, limited] / budgets_D[limited]).max(axis=1)
        near = genomes_NV[(used_N <= 1.0) & (used_N >= 1.0 - SLACK)]
        found |= {genome.tobytes(): genome for genome in near}
        if len(found) >= count:
            break
    genomes = list(found.values())[:count]
    return np.array(genomes, dtype=np.int64).reshape(-1, len(terms.upper_V))
