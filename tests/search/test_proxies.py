from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from evaluators.score import Score
from search.proxies import (
    Combination,
    describe,
    image_noise,
    proxies_of,
    rank_correlations,
    smoothed,
)


def made_up(count: int, seed: int = 0) -> tuple[list[Score], np.ndarray]:
    """Scores whose proxies are monotone in the loss, the second with much noise."""
    random = np.random.default_rng(seed)
    loss_N = random.random(count)
    scores = [
        Score(0.5 * (1 - x), 0.5, float(x**2), float(1 - min(1.0, x * random.uniform(0.2, 1))), 8,
              "subset")
        for x in loss_N
    ]  # fmt: skip
    return scores, 0.5 * (1 - loss_N)


def test_a_combination_leans_on_the_better_proxy_and_predicts_unseen_points() -> None:
    scores, accuracy_N = made_up(60)
    combination = Combination(proxies_of(scores), accuracy_N)
    assert combination.weights["distortion"] > 0.8
    unseen, truth_N = made_up(40, seed=1)
    predicted_N = combination.predict(proxies_of(unseen))
    assert np.abs(predicted_N - truth_N).mean() < 0.05


def test_more_loss_never_predicts_more_accuracy() -> None:
    scores, accuracy_N = made_up(40)
    combination = Combination(proxies_of(scores), accuracy_N)
    rising = {name: np.linspace(0, 1, 30) for name in ("distortion", "disagreement")}
    assert (np.diff(combination.predict(rising)) <= 1e-12).all()


def test_rank_correlations_by_hand() -> None:
    accuracy_N = np.array([0.5, 0.4, 0.3])
    proxies = {"good": np.array([0, 1, 2]), "bad": np.array([2, 1, 0]), "flat": np.ones(3)}
    found = rank_correlations(proxies, accuracy_N)
    assert found["good"] == pytest.approx(1)
    assert found["bad"] == pytest.approx(-1)
    assert np.isnan(found["flat"])


def test_smoothing_pulls_an_outlier_towards_what_its_proxies_say() -> None:
    scores, accuracy_N = made_up(40)
    lucky = Score(0.9, 0.9, scores[0].distortion, scores[0].agreement, 8, "subset")
    smooth_N, noise = smoothed([*scores, lucky], np.full(41, 0.5))
    assert smooth_N[-1] < 0.9
    assert noise > 0
    few, _ = smoothed(scores[:3], np.full(3, 0.5))
    np.testing.assert_allclose(few, accuracy_N[:3])


def with_luck(scores: list[Score], luck: float, common: float) -> list[Score]:
    """Give each score resamples: luck of its own, and luck that all models share."""
    random = np.random.default_rng(0)
    shared_B = random.normal(0, common, 400)
    return [
        replace(s, resampled=tuple((s.map50_95 or 0) + shared_B + random.normal(0, luck, 400)))
        for s in scores
    ]


def test_luck_that_all_models_share_is_no_noise() -> None:
    scores, _ = made_up(40)
    assert image_noise(scores) is None
    assert image_noise(with_luck(scores, 0.02, 0.3)) == pytest.approx(0.02, rel=0.1)


def test_the_less_luck_is_in_the_map_the_less_the_prediction_counts() -> None:
    scores, _ = made_up(40)
    lucky = replace(scores[0], map50_95=0.9)
    scores = [*scores, lucky]
    smooth = [smoothed(with_luck(scores, luck, 0.1), np.full(41, 0.5)) for luck in (0, 0.02, 0.2)]
    values = [float(accuracy_N[-1]) for accuracy_N, _ in smooth]
    assert values[0] == pytest.approx(0.9)
    assert values[0] > values[1] > values[2]
    assert smooth[1][1] >= 0.005


def test_the_log_line_names_every_proxy() -> None:
    scores, accuracy_N = made_up(20)
    line = describe(proxies_of(scores), accuracy_N)
    assert "distortion" in line
    assert "disagreement" in line
    assert "20 candidates" in line
