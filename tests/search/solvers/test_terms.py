from __future__ import annotations

import numpy as np
import pytest

from search.pricing import part_costs
from search.solvers import terms as module
from search.solvers.terms import decompose
from tests.search.toys import demo_problem


def test_products_and_sums_are_found_exactly() -> None:
    width_VL = np.array([[8.0, 6, 4, 2], [8, 4, 2, 1], [2, 1, 1, 1]])

    def parts(genomes_NV: np.ndarray) -> np.ndarray:
        a, b, bits = (width_VL[v, genomes_NV[:, v]] for v in range(3))
        cost_NP = np.stack([a * b * bits, a + b, np.full(len(a), 7.0)], axis=1)
        return np.repeat(cost_NP[:, :, None], 3, axis=2)

    upper_V = np.array([3, 3, 1])
    terms = decompose(parts, np.zeros(3, dtype=np.int64), upper_V)
    assert terms.fixed_D.tolist() == [7, 7, 7]
    assert [factor.variables for factor in terms.factors] == [(0, 1, 2)]
    genomes_NV = np.random.default_rng(0).integers(0, upper_V + 1, (50, 3))
    np.testing.assert_allclose(terms.costs(genomes_NV), parts(genomes_NV).sum(1))


def test_large_tables_are_taken_apart_where_variables_interact_least(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "LARGEST", 30)

    def parts(genomes_NV: np.ndarray) -> np.ndarray:
        a, b, c = (4.0 - genomes_NV[:, v] for v in range(3))
        return np.repeat(((a + b) * c)[:, None, None], 3, axis=2)  # a and b only add up

    upper_V = np.array([3, 3, 3])
    terms = decompose(parts, np.zeros(3, dtype=np.int64), upper_V)
    assert sorted(factor.variables for factor in terms.factors) == [(0, 2), (1, 2)]
    genomes_NV = np.random.default_rng(0).integers(0, 4, (50, 3))
    np.testing.assert_allclose(terms.costs(genomes_NV), parts(genomes_NV).sum(1))


def test_a_whole_network_on_a_device_to_two_percent() -> None:
    problem = demo_problem()
    upper_V = np.asarray(problem.space.upper).copy()
    upper_V[0] = 0
    start_V = np.zeros_like(upper_V)
    start_V[0] = 1
    terms = decompose(part_costs(problem.model, problem.space), start_V, upper_V)
    genomes_NV = start_V + np.random.default_rng(0).integers(0, upper_V + 1, (100, len(upper_V)))
    costs, sums_ND = problem.costs(genomes_NV), terms.costs(genomes_NV)
    np.testing.assert_allclose(sums_ND[:, 0], costs.latency_ms, rtol=0.02)
    np.testing.assert_allclose(sums_ND[:, 1], costs.energy_mj, rtol=0.02)
    np.testing.assert_allclose(sums_ND[:, 2], costs.size_bytes, rtol=1e-6)
