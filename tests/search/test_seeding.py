from __future__ import annotations

import numpy as np
import pytest

from search.explorer import budgets_of
from search.seeding import exact_seeds, sparse_random, uniform_grid
from search.sensitivity import sweep
from tests.search.toys import additive, explore, toy_problem


@pytest.mark.parametrize(
    "budgets",
    [
        {"latency": ("80%", "90%")},
        {"latency": ("95%",), "size": "85%"},
        {"latency": ("95%",), "energy": "85%"},
        {"latency": ("90%",), "energy": "90%", "size": "90%"},
    ],
)
def test_every_budget_has_a_seed_within_it(budgets: dict[str, object]) -> None:
    problem = toy_problem(method="uniform", evals=1, **budgets)
    explorer = explore(problem, additive(problem))
    seeds_NV = exact_seeds(explorer, sweep(explorer))
    costs_ND = explorer.costs(seeds_NV)
    for limit in problem.limits:
        assert (costs_ND <= budgets_of(limit)).all(axis=1).any()
    assert len(np.unique(seeds_NV, axis=0)) == len(seeds_NV) <= 40


def test_sparse_random_moves_few_variables() -> None:
    upper = np.full(100, 7)
    genomes_NV = sparse_random(200, upper, np.random.default_rng(0))
    assert genomes_NV.min() >= 0
    assert genomes_NV.max() <= 7
    moved = (genomes_NV > 0).mean(1)
    assert np.median(moved) < 0.2
    assert moved.max() > 0.3


def test_uniform_grid_moves_families_together() -> None:
    upper = np.array([2, 4, 4, 1, 1])
    grid = uniform_grid(upper, [[0], [1, 2], [3, 4]], count=100)
    assert len(grid) == 3 * 5 * 2
    assert (grid[:, 1] == grid[:, 2]).all()
    assert (grid[:, 3] == grid[:, 4]).all()
    assert len(uniform_grid(upper, [[0], [1, 2], [3, 4]], count=7)) == 7


def test_a_space_without_variables_has_one_genome() -> None:
    assert uniform_grid(np.zeros(0, dtype=int), [], count=9).shape == (1, 0)
