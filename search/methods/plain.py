"""What every method must beat: the same level everywhere, and luck."""

from __future__ import annotations

from search.explorer import Explorer
from search.seeding import distinct, sparse_random, uniform_grid

BATCH = 32


def uniform(explorer: Explorer) -> None:
    """Score a grid in which each family of variables stands at one common share of its range."""
    genomes_NV = uniform_grid(explorer.upper_V, explorer.families, explorer.problem.settings.evals)
    explorer.score(genomes_NV, "uniform")


def random(explorer: Explorer) -> None:
    """Score the dense model at each size, then sparse random genomes until all is spent."""
    explorer.score(explorer.dense_NV, "dense")
    while True:
        batch_NV = sparse_random(BATCH, explorer.upper_V, explorer.random)
        before = explorer.left
        explorer.score(distinct(batch_NV), "random")
        if explorer.left == before:  # a tiny space is exhausted
            return
