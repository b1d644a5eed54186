"""Many relaxed additive problems at once: least loss + prices x cost, by coordinate descent.

With a price on each dimension of cost the budgets leave the problem, and each variable's best level
follows from its neighbours' levels alone. Going round a few times finds a local optimum in
milliseconds for a whole batch of problems, each with its own losses and prices: good enough for
local moves, where the exact program would take seconds each.

Source: Lagrangian relaxation as in Everett, "Generalized Lagrange multiplier method", Operations
Research 1963; iterated conditional modes, Besag 1986.

Axis letters: N problems, V variables, L levels, D dimensions of cost.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from search.solvers.terms import Floats, Genomes, Terms

ROUNDS = 3


def descend_from(
    terms: Terms,
    losses: Sequence[Floats],
    prices_ND: Floats,
    starts_SV: Genomes,
    scales_NV: Floats | None = None,
) -> Genomes:
    """Descend from several starts; return for each problem the best genome found [N, V].

    Args:
        terms: See `descend`.
        losses: See `descend`.
        prices_ND: See `descend`.
        starts_SV: Where to start, the same for all problems.
        scales_NV: See `descend`.
    """
    count = len(prices_ND)
    found_SNV = np.stack(
        [
            descend(terms, losses, prices_ND, np.repeat(start_V[None], count, 0), scales_NV)
            for start_V in starts_SV
        ]
    )
    if len(starts_SV) == 1:
        return found_SNV[0]
    worth_SN = np.stack(
        [
            (terms.costs(found_NV) * prices_ND).sum(axis=1)
            + sum(
                losses[v][found_NV[:, v]] * (1.0 if scales_NV is None else scales_NV[:, v])
                for v in range(found_NV.shape[1])
            )
            for found_NV in found_SNV
        ]
    )
    best: Genomes = found_SNV[worth_SN.argmin(axis=0), np.arange(count)]
    return best


def descend(
    terms: Terms,
    losses: Sequence[Floats],
    prices_ND: Floats,
    start_NV: Genomes,
    scales_NV: Floats | None = None,
) -> Genomes:
    """Return genomes [N, V] that no change of a single variable improves much.

    Args:
        terms: What genomes cost.
        losses: Of each variable, its levels' losses.
        prices_ND: Loss that one unit of cost is worth.
        start_NV: Where each descent starts.
        scales_NV: Factor on each variable's losses in each problem; None for 1.
    """
    genomes_NV = start_NV.copy()
    count, dimensions = prices_ND.shape
    touching: dict[int, list[tuple[Floats, tuple[int, ...]]]] = {}
    for factor in terms.factors:
        for axis, v in enumerate(factor.variables):
            # The variable's own axis last but one: indexing by the others leaves [N, L, D].
            table = np.moveaxis(factor.costs, axis, -2)
            others = tuple(u for u in factor.variables if u != v)
            touching.setdefault(v, []).append((table, others))
    for _ in range(ROUNDS):
        before_NV = genomes_NV.copy()
        for v, tables in touching.items():
            worth_NL = np.repeat(losses[v][None], count, axis=0)
            if scales_NV is not None:
                worth_NL = worth_NL * scales_NV[:, v, None]
            cost_NLD = np.zeros((count, len(losses[v]), dimensions))
            for table, others in tables:
                cost_NLD += table[tuple(genomes_NV[:, u] for u in others)]
            worth_NL = worth_NL + (cost_NLD @ prices_ND[:, :, None])[..., 0]
            genomes_NV[:, v] = worth_NL.argmin(axis=1)
        if (genomes_NV == before_NV).all():
            break
    return genomes_NV
