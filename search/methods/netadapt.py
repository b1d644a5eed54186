"""NetAdapt: step by step, the one reduction of a single layer that loses least.

Source: Yang et al., "NetAdapt: Platform-Aware Neural Network Adaptation for Mobile Applications",
arXiv 1804.03230, algorithm 1. Each step lowers the latency by a fixed amount; every variable offers
the least move of its own that saves so much; all offers are scored, the best is taken. Its
short-term fine-tuning between steps is left to the evaluator's restoration without training.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from search.explorer import Explorer, Floats, Genomes
from search.solvers.terms import Terms


def netadapt(explorer: Explorer) -> None:
    """Step down to the tightest budget at each input size; larger budgets lie on the way."""
    explorer.score(explorer.dense_NV, "dense")
    for number, terms in enumerate(explorer.terms):
        share = explorer.left // (len(explorer.terms) - number)
        offers = max(1, int((terms.upper_V > 0).sum()))
        step_down(explorer, terms, max(1, share // offers))


def step_down(explorer: Explorer, terms: Terms, steps: int) -> None:
    """Walk from the start at one input size to the tightest latency budget in `steps` steps."""
    genome_V = terms.start_V
    latency_ms = float(explorer.costs(genome_V[None])[0, 0])
    goal_ms = explorer.problem.limits[0].latency_ms
    for left in range(steps, 0, -1):
        if latency_ms <= goal_ms:
            return
        wanted_ms = latency_ms - (latency_ms - goal_ms) / left
        offers = list(_offers(explorer, terms, genome_V, wanted_ms))
        if not offers:
            return
        F_NM = explorer.score(np.array(offers), "netadapt")
        genome_V = offers[int(F_NM[:, 0].argmin())]
        latency_ms = float(explorer.costs(genome_V[None])[0, 0])


def _offers(
    explorer: Explorer, terms: Terms, genome_V: Genomes, wanted_ms: float
) -> Iterator[Genomes]:
    """Yield for each variable the least move that meets the latency, else its largest saving."""
    now_ms = float(explorer.costs(genome_V[None])[0, 0])
    for v in np.flatnonzero(terms.upper_V > genome_V - terms.start_V):
        moves_NV = np.repeat(genome_V[None], terms.upper_V[v] - genome_V[v], axis=0)
        moves_NV[:, v] += np.arange(1, len(moves_NV) + 1)
        latencies_N: Floats = explorer.costs(moves_NV)[:, 0]
        enough = np.flatnonzero(latencies_N <= wanted_ms)
        row = int(enough[0]) if len(enough) else int(latencies_N.argmin())
        if latencies_N[row] < now_ms:
            yield moves_NV[row]
