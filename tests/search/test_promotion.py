from __future__ import annotations

import numpy as np
import pytest

from search import promotion
from search.promotion import promote


def test_front_ties_budgets_and_dense_points_are_promoted() -> None:
    accuracy_N = np.array([0.50, 0.40, 0.395, 0.30, 0.20, 0.45, 0.05])
    costs_NC = np.array([[10.0], [8.0], [8.5], [8.2], [5.0], [9.9], [4.0]])
    within_NB = costs_NC <= np.array([[5.0, 9.0]])
    dense_N = np.array([True, False, False, False, False, False, False])
    rows = promote(accuracy_N, 0.01, costs_NC, within_NB, dense_N)
    assert rows[0] == 0
    assert {1, 2, 4, 5} <= set(rows)  # the front, the tie with 1, the best within 5.0
    assert 6 not in rows  # less than half of the best within the tightest budget


def test_a_long_front_is_thinned_but_no_budget_loses_its_best(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(promotion, "PROMOTED", 10)
    accuracy_N = np.linspace(0.3, 0.5, 200)
    costs_NC = np.linspace(1.0, 2.0, 200)[:, None]
    within_NB = costs_NC <= np.array([[1.2, 1.5]])
    rows = promote(accuracy_N, 1e-4, costs_NC, within_NB, np.zeros(200, dtype=bool))
    assert len(rows) == 10
    for column in within_NB.T:
        assert int(np.flatnonzero(column)[-1]) in rows
    assert {0, 199} <= set(rows)
