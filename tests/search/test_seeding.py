from __future__ import annotations

import itertools

import numpy as np
import pytest

from evaluators.score import Failed, Score
from search.seeding import (
    LOST,
    additive_loss,
    greedy_walk,
    loss_table,
    plan_probes,
    probe_genomes,
    sparse_random,
    spread_over_latency,
    uniform_grid,
)

UPPER = np.array([4, 1, 2])
TIME = np.array([1.0, 3.0, 2.0])  # ms saved by a level


def latency(genomes_NV: np.ndarray) -> np.ndarray:
    return 20.0 - genomes_NV @ TIME


def test_probes_are_the_first_and_the_middle_level() -> None:
    probes = [(p.variable, p.level) for p in plan_probes(UPPER, fixed=[1])]
    assert probes == [(0, 1), (0, 2), (2, 1)]


def test_probe_genomes_move_one_variable_each() -> None:
    start = np.array([0, 1, 0])
    genomes_NV = probe_genomes(plan_probes(UPPER, fixed=[1]), start)
    assert genomes_NV.tolist() == [[1, 1, 0], [2, 1, 0], [0, 1, 1]]


def test_additive_loss_is_the_squared_disagreement() -> None:
    score = Score(None, None, 0.1, agreement=0.8, images=4, rung="proxy")
    assert additive_loss(score) == pytest.approx(0.04)
    assert additive_loss(Failed("non-finite", "")) == LOST


def test_loss_table_interpolates_extends_and_never_falls() -> None:
    probes = plan_probes(UPPER, fixed=[1])
    table = loss_table(probes, [0.1, 0.3, 0.2], UPPER)
    np.testing.assert_allclose(table[0], [0, 0.1, 0.3, 0.5, 0.7])
    np.testing.assert_allclose(table[1], [0])  # not probed: stays
    np.testing.assert_allclose(table[2], [0, 0.2, 0.4])
    noisy = loss_table(probes, [0.3, 0.1, 0.0], UPPER)
    assert all((np.diff(column) >= 0).all() for column in noisy)


def test_greedy_walk_is_optimal_where_the_problem_is_convex() -> None:
    table = [np.array([0, 0.1, 0.3, 0.6, 1.0]), np.array([0, 0.9]), np.array([0, 0.1, 0.5])]
    walk = np.array(list(greedy_walk(table, latency, np.zeros(3, dtype=np.int64))))
    assert walk[0].tolist() == [0, 0, 0]
    assert walk[-1].tolist() == UPPER.tolist()
    costs = latency(walk)
    assert (np.diff(costs) < 0).all()

    def loss(genome: np.ndarray) -> float:
        return float(sum(column[level] for column, level in zip(table, genome, strict=True)))

    everything = np.array(list(itertools.product(*(range(u + 1) for u in UPPER))))
    for genome, cost in zip(walk, costs, strict=True):
        cheaper = everything[latency(everything) <= cost + 1e-9]
        assert loss(genome) <= min(map(loss, cheaper)) + 1e-9


def test_greedy_walk_passes_over_levels_that_save_nothing() -> None:
    def granular(genomes_NV: np.ndarray) -> np.ndarray:
        return 10.0 - (genomes_NV[:, 0] // 2)  # only every second level is faster

    walk = [int(g[0]) for g in greedy_walk([np.linspace(0, 1, 6)], granular, np.array([0]))]
    assert walk == [0, 2, 4]


def test_spread_has_a_genome_within_each_budget() -> None:
    table = [np.linspace(0, 1, u + 1) for u in UPPER]
    walk = np.array(list(greedy_walk(table, latency, np.zeros(3, dtype=np.int64))))
    chosen = spread_over_latency(walk, latency, 3, budgets_ms=[15.5, 0.1])
    costs = latency(chosen)
    assert costs.max() == 20.0
    assert (costs <= 15.5).any()
    within = latency(walk)[latency(walk) <= 15.5].max()
    assert within in costs  # the dearest that still meets it
    assert len(np.unique(chosen, axis=0)) == len(chosen) <= 3 + 1


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
