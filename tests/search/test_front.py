from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from search.front import hypervolume, non_dominated, pareto

points = arrays(
    np.float64, st.tuples(st.integers(1, 25), st.integers(1, 3)), elements=st.integers(0, 6)
)


def dominates(a: np.ndarray, b: np.ndarray) -> bool:
    return bool((a <= b).all() and (a < b).any())


def test_hand_made_table() -> None:
    F_NM = np.array([[1, 5], [2, 2], [2, 3], [4, 1], [5, 5], [2, 2]])
    assert non_dominated(F_NM).tolist() == [True, True, False, True, False, False]


def test_of_equal_points_the_first_stays() -> None:
    assert non_dominated(np.array([[1.0, 1.0], [1.0, 1.0]])).tolist() == [True, False]


@given(points)
def test_the_front_is_mutually_non_dominated_and_covers_the_rest(F_NM: np.ndarray) -> None:
    keep = non_dominated(F_NM)
    front, rest = F_NM[keep], F_NM[~keep]
    assert not any(dominates(a, b) for a in front for b in front)
    assert all(any((a <= b).all() for a in front) for b in rest)


@given(points, st.randoms(use_true_random=False))
def test_order_and_duplicates_do_not_matter(F_NM: np.ndarray, random: object) -> None:
    order = np.arange(len(F_NM))
    random.shuffle(order)  # type: ignore[attr-defined]
    front = {tuple(row) for row in F_NM[non_dominated(F_NM)]}
    shuffled = F_NM[order]
    assert {tuple(row) for row in shuffled[non_dominated(shuffled)]} == front
    doubled = np.concatenate([F_NM, F_NM])
    assert {tuple(row) for row in doubled[non_dominated(doubled)]} == front


def test_pareto_sorts_by_the_first_objective() -> None:
    assert pareto([(3, 1), (1, 3), (3, 3)], lambda item: item) == [(1, 3), (3, 1)]
    assert pareto([], lambda item: item) == []


@pytest.mark.parametrize(
    ("F_NM", "share"),
    [
        ([[0.0, 0.0]], 1.0),
        ([[2.0, 4.0]], 0.0),
        ([[1.0, 2.0]], 0.25),
        ([[0.5, 3.0], [1.0, 1.0]], 0.375 + 0.0625),
        ([[3.0, 1.0]], 0.0),
    ],
)
def test_hypervolume_by_hand(F_NM: list[list[float]], share: float) -> None:
    # Reference box 2 x 4.
    assert hypervolume(np.array(F_NM), np.array([2.0, 4.0])) == pytest.approx(share)


def test_hypervolume_of_nothing() -> None:
    assert hypervolume(np.empty((0, 2)), np.array([1.0, 1.0])) == 0.0
