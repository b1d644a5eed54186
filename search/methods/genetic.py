"""NSGA-II from a sparse random start: the plain genetic search.

Source: Deb et al., IEEE TEC 2002; as used to prune YOLOv5 with channel ratios as genes.
"""

from __future__ import annotations

import numpy as np

from search.explorer import FAILED, Explorer, Floats, Genomes
from search.optimizer import Optimizer
from search.seeding import distinct, sparse_random
from search.steady import evolve

BATCH = 32


def nsga2(explorer: Explorer) -> None:
    """Evolve until the evaluations are spent or every genome of the space was scored."""
    start_NV = sparse_random(BATCH, explorer.upper_V, explorer.random)
    seeds_NV = distinct(explorer.dense_NV, start_NV)
    optimizer = Optimizer(
        seeds_NV,
        explorer.upper_V,
        explorer.problem.objective_count,
        BATCH,
        explorer.problem.settings.seed,
        canonical=explorer.problem.space.canonical,
    )

    def tell(genomes_NV: Genomes, F_NM: Floats) -> None:
        optimizer.tell(genomes_NV, without_worthless(explorer, F_NM))

    evolve(explorer, optimizer.ask, tell, "nsga2", "nsga2")


def without_worthless(explorer: Explorer, F_NM: Floats) -> Floats:
    """Return objectives in which what is not worth pursuing counts as failed."""
    worthless = F_NM[:, 0] > 1.0 - explorer.lowest_useful
    return np.where(worthless[:, None], FAILED, F_NM)
