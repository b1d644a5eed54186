"""The solvers against brute force, on random tables: non-monotone, skipped layers, fixed costs."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search.solvers.descent import descend, descend_from
from search.solvers.dp import in_buckets, solve_dp
from search.solvers.milp import solve_milp
from search.solvers.repair import repair
from search.solvers.terms import Factor, Terms


def random_terms(random: np.random.Generator, variables: int, coupled: bool) -> Terms:
    """Tables without order in them; some variables have one level; all costs above 0."""
    upper_V = random.integers(0, 4, variables)
    scopes = [(v,) for v in range(variables) if upper_V[v]]
    if coupled:
        scopes += [(v, v + 1) for v in range(variables - 1) if upper_V[v] and upper_V[v + 1]]
    factors = tuple(
        Factor(scope, random.uniform(0.1, 2.0, (*(upper_V[list(scope)] + 1), 3)))
        for scope in scopes
    )
    return Terms(np.zeros(variables, dtype=np.int64), upper_V, random.uniform(0, 3, 3), factors)


def random_losses(random: np.random.Generator, terms: Terms) -> list[np.ndarray]:
    return [random.exponential(1.0, upper + 1) * (upper > 0) for upper in terms.upper_V]


def everything(terms: Terms) -> np.ndarray:
    return np.array(list(itertools.product(*(range(upper + 1) for upper in terms.upper_V))))


def total(losses: list[np.ndarray], genome: np.ndarray) -> float:
    return float(sum(column[level] for column, level in zip(losses, genome, strict=True)))


cases = st.tuples(st.integers(0, 10**6), st.integers(1, 5), st.floats(0.0, 1.2))


@given(cases)
@settings(max_examples=40, deadline=None)
def test_milp_is_optimal_and_never_exceeds_a_budget(case: tuple[int, int, float]) -> None:
    seed, variables, share = case
    random = np.random.default_rng(seed)
    terms = random_terms(random, variables, coupled=True)
    losses = random_losses(random, terms)
    genomes_NV = everything(terms)
    costs_ND = terms.costs(genomes_NV)
    low_D, high_D = costs_ND.min(0), costs_ND.max(0)
    budgets_D = low_D + share * (high_D - low_D)
    budgets_D[random.random(3) < 0.3] = np.inf
    solution = solve_milp(terms, losses, budgets_D, gap=0.0)
    within = (costs_ND <= budgets_D * (1 - 2e-5)).all(1)
    if solution is None:
        assert not within.any()
        return
    assert (terms.costs(solution[None])[0] <= budgets_D).all()
    best = min((total(losses, x) for x in genomes_NV[within]), default=np.inf)
    assert total(losses, solution) <= best + 1e-5


@given(cases)
@settings(max_examples=60, deadline=None)
def test_dp_is_nearly_optimal_and_never_exceeds_the_budget(case: tuple[int, int, float]) -> None:
    seed, variables, share = case
    random = np.random.default_rng(seed)
    terms = random_terms(random, variables, coupled=False)
    losses = random_losses(random, terms)
    tables = {factor.variables[0]: factor.costs[:, 0] for factor in terms.factors}
    columns = [tables.get(v, np.zeros(1)) for v in range(variables)]
    genomes_NV = everything(terms)
    costs_N = terms.costs(genomes_NV)[:, 0]
    budget = costs_N.min() + share * np.ptp(costs_N)
    room = budget - terms.fixed_D[0]
    buckets = 2000
    if room <= 1e-6:  # nothing varies
        return
    solution = solve_dp(losses, in_buckets(columns, room, buckets), buckets)
    tighter = budget - room * (variables + 1) / buckets
    best = min((total(losses, x) for x in genomes_NV[costs_N <= tighter]), default=np.inf)
    if solution is None:
        assert best == np.inf
        return
    assert terms.costs(solution[None])[0, 0] <= budget
    assert total(losses, solution) <= best + 1e-9


@given(cases)
@settings(max_examples=40, deadline=None)
def test_repair_keeps_budgets_and_leaves_no_gain(case: tuple[int, int, float]) -> None:
    seed, variables, share = case
    random = np.random.default_rng(seed)
    terms = random_terms(random, variables, coupled=True)
    losses = random_losses(random, terms)
    genomes_NV = everything(terms)
    costs_ND = terms.costs(genomes_NV)
    budgets_D = costs_ND.min(0) + share * np.ptp(costs_ND, axis=0)
    repaired = repair(genomes_NV[random.integers(len(genomes_NV))], losses, terms.costs, budgets_D)
    if repaired is None:
        return
    assert (terms.costs(repaired[None])[0] <= budgets_D).all()
    single = (genomes_NV != repaired).sum(1) == 1
    within = single & (costs_ND <= budgets_D).all(1)
    assert all(total(losses, x) >= total(losses, repaired) - 1e-9 for x in genomes_NV[within])


def test_an_impossible_budget_has_no_solution() -> None:
    terms = Terms(np.zeros(1, dtype=np.int64), np.array([1]), np.array([5.0, 0, 0]), ())
    assert solve_milp(terms, [np.array([0.0, 1.0])], np.array([4.0, np.inf, np.inf])) is None
    assert solve_dp([np.array([0.0])], [np.array([3])], 2) is None


def test_dp_on_a_knapsack_by_hand() -> None:
    # Cheapest loss within 7: drop the second (saves 3 for 1) and keep the others.
    losses = [np.array([0, 2.0]), np.array([0, 1.0]), np.array([0, 5.0])]
    costs = [np.array([3, 1]), np.array([4, 1]), np.array([3, 0])]
    solution = solve_dp(losses, costs, 7)
    assert solution is not None
    assert solution.tolist() == [0, 1, 0]


@pytest.mark.parametrize("seed", range(10))
def test_descent_ends_where_no_single_step_helps(seed: int) -> None:
    random = np.random.default_rng(seed)
    terms = random_terms(random, 5, coupled=True)
    losses = random_losses(random, terms)
    prices_ND = np.geomspace(0.01, 10, 8)[:, None] * np.array([1.0, 0.0, 0.5])
    found_NV = descend(terms, losses, prices_ND, np.zeros((8, 5), dtype=np.int64))
    genomes_NV = everything(terms)
    for genome, price_D in zip(found_NV, prices_ND, strict=True):
        worth_N = [total(losses, x) for x in genomes_NV] + terms.costs(genomes_NV) @ price_D
        near = (genomes_NV != genome).sum(1) <= 1
        own = total(losses, genome) + float(terms.costs(genome[None])[0] @ price_D)
        assert own <= worth_N[near].min() + 0.15 * abs(worth_N.min())


def test_of_two_starts_the_better_end_counts() -> None:
    """Two neighbours: one alone in few bits costs a change of format, both together gain."""
    costs_ABD = np.zeros((2, 2, 3))
    costs_ABD[..., 0] = [[10.0, 11.0], [11.0, 6.0]]
    zeros_V, ones_V = np.zeros(2, dtype=np.int64), np.ones(2, dtype=np.int64)
    terms = Terms(zeros_V, ones_V, np.zeros(3), (Factor((0, 1), costs_ABD),))
    losses = [np.array([0.0, 1.0])] * 2
    prices_ND = np.array([[0.1, 0.0, 0.0], [1.0, 0.0, 0.0]])
    from_dense = descend(terms, losses, prices_ND, np.zeros((2, 2), dtype=np.int64))
    assert from_dense.tolist() == [[0, 0], [0, 0]]
    best = descend_from(terms, losses, prices_ND, np.stack([zeros_V, ones_V]))
    assert best.tolist() == [[0, 0], [1, 1]]  # 10 * 0.1 < 6 * 0.1 + 2; 10 > 6 + 2
    sensitive = np.full((2, 2), 3.0)
    kept = descend_from(terms, losses, prices_ND, np.stack([zeros_V, ones_V]), sensitive)
    assert kept.tolist() == [[0, 0], [0, 0]]
