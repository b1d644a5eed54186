from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

from search.explorer import budgets_of
from search.methods.additive import solve_separable
from search.seeding import exact_seeds, solve_within, sparse_random, uniform_grid
from search.sensitivity import sweep
from search.solvers.terms import Terms
from tests.search.solvers.test_exact import cases, random_losses, random_terms
from tests.search.toys import additive, all_genomes, explore, toy_problem


@pytest.mark.parametrize(
    "budgets",
    [
        {"latency": ("82%", "90%")},
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


@pytest.mark.parametrize(
    "budgets",
    [
        {"latency": ("82%",)},
        {"latency": ("100%",), "size": "85%"},
        {"latency": ("100%",), "energy": "85%"},
    ],
)
def test_latency_size_and_energy_each_have_their_own_exact_seed(budgets: dict[str, object]) -> None:
    problem = toy_problem(method="uniform", evals=1, **budgets)
    explorer = explore(problem, additive(problem))
    losses = sweep(explorer)

    def least(genomes_NV: np.ndarray) -> float:
        within_N = (explorer.costs(genomes_NV) <= budgets_of(problem.limits[0])).all(axis=1)
        lost_VN = [column[levels] for column, levels in zip(losses, genomes_NV.T, strict=True)]
        return float(np.sum(lost_VN, axis=0)[within_N].min())

    assert least(exact_seeds(explorer, losses)) <= 1.005 * least(all_genomes(problem)) + 1e-9


def imprecise(terms: Terms, skipped: list[int]) -> Any:
    """What a solver sees of an explorer whose true costs are up to a fifth above the tables'."""

    def costs(genomes_NV: np.ndarray) -> np.ndarray:
        more_N = 1 + 0.2 * (genomes_NV @ np.arange(7, 7 + genomes_NV.shape[1]) % 13) / 13
        return terms.costs(genomes_NV) * more_N[:, None]

    return SimpleNamespace(costs=costs, upper_V=terms.upper_V, family=lambda *_: skipped)


@given(cases)
@settings(max_examples=40, deadline=None)
def test_no_solution_exceeds_a_budget_even_where_tables_are_wrong(
    case: tuple[int, int, float],
) -> None:
    # Tables without order in them, layers with nothing to choose or skipped, costs that are fixed.
    seed, variables, share = case
    random = np.random.default_rng(seed)
    terms = random_terms(random, variables, coupled=True)
    losses = random_losses(random, terms)
    skipped = np.flatnonzero(random.random(variables) < 0.2).tolist()
    explorer = imprecise(terms, skipped)
    dense_D = explorer.costs(terms.start_V[None])[0]
    budgets_D = dense_D * random.uniform(0.3, 1.1, 3) * (1 + share)
    budgets_D[random.random(3) < 0.3] = np.inf
    budgets_D[0] = min(budgets_D[0], 2 * dense_D[0])
    joint = solve_within(explorer, terms, losses, budgets_D)
    single = solve_separable(explorer, losses, budgets_D, terms.start_V)
    for solution in (joint, single):
        assert solution is None or (explorer.costs(solution[None])[0] <= budgets_D).all()
    assert single is None or (single[skipped] == 0).all()


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
