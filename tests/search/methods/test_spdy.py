"""SPDY on its own timing tables (beside the repository) and on a problem solved by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hw_models.cost_table import CostTable, read_cost_table
from search.methods.spdy import coefficient_search, published_levels, quadratic_losses
from search.solvers.dp import in_buckets, solve_dp
from search.solvers.milp import solve_milp
from search.solvers.repair import repair
from search.solvers.terms import Factor, Terms


@pytest.fixture(scope="module")
def table(shared: Path) -> CostTable:
    return read_cost_table(shared / "spdy" / "yolov5s_timings.txt")


def as_terms(table: CostTable) -> tuple[Terms, list[list[float]]]:
    """The table as a problem in one dimension; the fixed part is what lies outside the layers."""
    levels = [sorted(column) for column in table.layers.values()]
    factors = []
    for v, (column, sparsities) in enumerate(zip(table.layers.values(), levels, strict=True)):
        costs = np.zeros((len(sparsities), 3))
        costs[:, 0] = [column[s] for s in sparsities]
        factors.append(Factor((v,), costs))
    fixed_D = np.array([table.base_s - table.prunable_s, 0.0, 0.0])
    upper_V = np.array([len(column) - 1 for column in levels])
    return Terms(np.zeros(len(levels), dtype=np.int64), upper_V, fixed_D, tuple(factors)), levels


def test_skipping_a_layer_misses_the_speedup_asked_for_as_published(table: CostTable) -> None:
    names = list(table.layers)
    coefficients = np.full(len(names) - 1, 0.5).tolist()
    levels = published_levels(table, 1.5, coefficients, skipped=names[:1])
    assert levels is not None
    assert table.speedup(levels) == pytest.approx(1.40, abs=0.005)


def test_nearest_buckets_overshoot_the_published_budget(table: CostTable) -> None:
    coefficients = np.full(len(table.layers), 0.5).tolist()
    speedups = np.arange(1.1, 1.95, 0.05)
    reached = []
    for speedup in speedups:
        levels = published_levels(table, speedup, coefficients, buckets=1000)
        assert levels is not None
        reached.append(table.speedup(levels) / speedup)
    assert 0.977 < min(reached) < 1.0


@pytest.mark.parametrize("speedup", [1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7, 1.8, 1.9])
@pytest.mark.parametrize("solver", ["dp", "milp"])
def test_exact_solvers_meet_every_target(table: CostTable, solver: str, speedup: float) -> None:
    terms, levels = as_terms(table)
    losses = quadratic_losses(np.full(len(levels), 0.5), terms.upper_V)
    budgets_D = np.array([table.base_s / speedup, np.inf, np.inf])
    if solver == "milp":
        solution = solve_milp(terms, losses, budgets_D)
    else:
        room = float(budgets_D[0] - terms.fixed_D[0])
        columns = in_buckets([factor.costs[:, 0] for factor in terms.factors], room)
        solution = solve_dp(losses, columns, 10_000)
    assert solution is not None
    repaired = repair(solution, losses, terms.costs, budgets_D)
    assert repaired is not None
    sparsity = {
        name: column[level]
        for name, column, level in zip(table.layers, levels, repaired, strict=True)
    }
    assert table.speedup(sparsity) >= speedup


def test_an_impossible_speedup_has_no_solution(table: CostTable) -> None:
    assert published_levels(table, 3.0, [0.5] * len(table.layers)) is None
    assert published_levels(table, 30.0, [0.5] * len(table.layers)) is None


def test_the_coefficient_search_finds_a_known_optimum() -> None:
    # Six variables, three may be at level 1; the first three lose least. Coefficients rank them.
    weight_V = np.array([1.0, 2.0, 3.0, 10.0, 11.0, 12.0])

    def solve(coefficients_V: np.ndarray) -> np.ndarray:
        genome_V = np.zeros(6, dtype=np.int64)
        genome_V[coefficients_V.argsort()[:3]] = 1
        return genome_V

    found = coefficient_search(
        solve, lambda x: float(weight_V @ x), 6, 60, np.random.default_rng(0)
    )
    assert found is not None
    assert found.tolist() == [1, 1, 1, 0, 0, 0]
