"""Every method on small spaces with real costs, where the truth can be enumerated."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest

from hw_models.errors import InputError
from search.explorer import Explorer, budgets_of
from search.front import hypervolume, non_dominated
from search.methods import METHODS
from search.methods.error_limit import allocate
from search.methods.halp import importance_losses
from search.methods.hawq import trace_losses
from search.methods.paretrim import Stagnant, stop_if_stagnant
from search.settings import Method
from tests.search.toys import additive, all_genomes, explore, toy_problem, true_objectives

BUDGETS = ("85%", "92%")


@pytest.fixture(autouse=True)
def few_images(monkeypatch: pytest.MonkeyPatch) -> None:
    # The package names its functions as the modules they come from.
    for name in ("error_limit", "halp", "hawq"):
        monkeypatch.setattr(sys.modules[f"search.methods.{name}"], "IMAGES", 4)


def best_within(explorer: Explorer, loss: object, genomes_NV: np.ndarray) -> list[float]:
    """Return the best true mAP within each budget."""
    F_NM = true_objectives(explorer.problem, loss, genomes_NV)  # type: ignore[arg-type]
    costs_ND = explorer.costs(genomes_NV)
    return [
        1.0 - F_NM[(costs_ND <= budgets_of(limit)).all(axis=1)][:, 0].min()
        for limit in explorer.problem.limits
    ]


def test_the_options_and_the_methods_agree() -> None:
    assert set(get_args(Method)) == set(METHODS)


@pytest.mark.parametrize("method", METHODS)
def test_each_keeps_its_number_of_evaluations_and_is_deterministic(method: str) -> None:
    problem = toy_problem(latency=BUDGETS, method=method, evals=25, seed=2)
    first, second = (explore(problem, additive(problem)) for _ in range(2))
    assert 1 <= len(first.scored) <= 25
    assert list(first.scored) == list(second.scored)
    assert [p.candidate for p in first.points.values()] == [
        p.candidate for p in second.points.values()
    ]


@pytest.mark.parametrize("method", ["milp", "dp"])
def test_exact_methods_find_the_best_of_an_additive_problem(method: str) -> None:
    problem = toy_problem(latency=BUDGETS, method=method, evals=50)
    loss = additive(problem)
    explorer = explore(problem, loss)
    best = best_within(explorer, loss, all_genomes(problem))
    assert list(explorer.best.values()) == pytest.approx(best, abs=2e-3)


@pytest.mark.parametrize("seed", range(2))
def test_paretrim_finds_the_front_of_an_additive_problem(seed: int) -> None:
    # A budget at the front's fast end: half of what is reached there is not pursued, nor missing.
    problem = toy_problem(latency=("81%", "92%"), method="paretrim", evals=700, seed=seed)
    loss = additive(problem, seed)
    explorer = explore(problem, loss)
    F_NM = true_objectives(problem, loss, all_genomes(problem))
    true = {tuple(row) for row in F_NM[non_dominated(F_NM)].round(9)}
    assert {tuple(row) for row in explorer.front.F_NM.round(9)} == true
    assert len(true) > 20


def test_paretrim_is_within_two_percent_where_losses_do_not_add_up() -> None:
    problem = toy_problem(groups=5, latency=BUDGETS, method="paretrim", evals=300)
    loss = additive(problem, seed=1, bend=2.0)
    explorer = explore(problem, loss)
    F_NM = true_objectives(problem, loss, all_genomes(problem))
    reference = np.array([1.0, problem.cost(problem.dense()).latency_ms])
    assert explorer.hypervolume() >= 0.98 * hypervolume(F_NM[non_dominated(F_NM)], reference)


def test_paretrim_needs_fewer_evaluations_than_a_random_start() -> None:
    problem = toy_problem(groups=5, latency=BUDGETS, method="paretrim", evals=60)
    loss = additive(problem, seed=1, bend=1.0)
    ours = explore(problem, loss)
    random = explore(
        replace(problem, settings=problem.settings.model_copy(update={"method": "nsga2"})), loss
    )
    assert ours.hypervolume() > random.hypervolume()


@pytest.mark.parametrize("method", ["spdy", "eagleeye", "netadapt"])
def test_published_searches_come_close_on_a_tiny_space(method: str) -> None:
    problem = toy_problem(groups=3, layers=2, levels=3, latency=("92%",), method=method, evals=200)
    loss = additive(problem)
    explorer = explore(problem, loss)
    best = best_within(explorer, loss, all_genomes(problem))
    assert list(explorer.best.values()) == pytest.approx(best, rel=0.03)


@pytest.mark.parametrize(("method", "family"), [("hawq", "bits"), ("halp", "keep")])
def test_single_family_methods_solve_their_own_program(method: str, family: str) -> None:
    problem = toy_problem(latency=("99.5%",), method=method, evals=20)
    explorer = explore(problem, additive(problem))
    losses = {"hawq": trace_losses, "halp": importance_losses}[method](explorer)
    moving = explorer.family(family)
    assert all((np.diff(losses[v]) >= 0).all() and losses[v][0] == 0 for v in moving)
    genomes_NV = all_genomes(problem)
    others = [v for v in range(genomes_NV.shape[1]) if v not in moving]
    genomes_NV = genomes_NV[(genomes_NV[:, others] == 0).all(axis=1)]
    limit = problem.limits[0]
    within_NV = genomes_NV[explorer.costs(genomes_NV)[:, 0] <= limit.latency_ms]
    lost = [sum(c[i] for c, i in zip(losses, x, strict=True)) for x in within_NV]
    scored = [np.frombuffer(key, dtype=np.int64) for key in explorer.scored]
    assert any((x == within_NV[int(np.argmin(lost))]).all() for x in scored)


def test_error_limit_gives_more_bits_where_the_step_is_coarse() -> None:
    steps = [np.array([0.0, 0.01, 0.2]), np.array([0.0, 0.1, 1.0]), np.zeros(4)]
    assert allocate(steps, 0.15).tolist() == [1, 1, 3]
    assert allocate(steps, 0.05).tolist() == [1, 0, 3]


@pytest.mark.parametrize("method", ["hawq", "error-limit"])
def test_methods_without_their_variables_say_so(method: str) -> None:
    problem = toy_problem(latency=("97%",), method=method, evals=20)
    pruned_only = replace(
        problem,
        space=type(problem.space)(problem.space.network, (320, 256)),
    )
    with pytest.raises(InputError, match="no layer's bits vary"):
        explore(pruned_only, lambda _: 0.0)


def test_stagnation_is_noticed() -> None:
    stop_if_stagnant([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7])
    with pytest.raises(Stagnant):
        stop_if_stagnant([0.1] + [0.5] * 7)
