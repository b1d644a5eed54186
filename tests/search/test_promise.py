"""Measure and repair, on formulas: what a device would say is known here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest

from evaluators.score import Score
from hw_models.cost import Cost
from hw_models.errors import InfeasibleError
from search.front import Point
from search.measure import Timed
from search.promise import Measured, check_reached, find_pick
from search.settings import Limits
from spaces.candidate import Candidate


def point(predicted_ms: float, map50_95: float, size_bytes: float = 1e6) -> Point:
    cost = Cost(predicted_ms, predicted_ms, predicted_ms, 1.0, size_bytes, 1e9, ())
    score = Score(map50_95, map50_95, 0.1, 0.9, images=8, rung="full")
    return Point("", "seed", Candidate(320, kept=(("g", int(predicted_ms * 1000)),)), cost, score)


def front(*predicted_ms: float) -> list[Point]:
    """Slower is more accurate: 10 ms have .10."""
    return [point(ms, ms / 100) for ms in predicted_ms]


def timed(latency_ms: float, speed: float = 1.0) -> Timed:
    return Timed(latency_ms, 0.01, speed, "a device", "0" * 64)


@dataclass
class Truth:
    """A device by a formula, and how often it was asked."""

    latency_ms: Callable[[float], float]
    speed: float = 1.0
    asked: list[float] = field(default_factory=list)

    def __call__(self, point: Point) -> Timed:
        self.asked.append(point.cost.latency_ms)
        return timed(self.latency_ms(point.cost.latency_ms) * self.speed, self.speed)


def nothing_more(limit: Limits, needed_ms: float, known: Sequence[Point]) -> list[Point]:
    return []


BUDGET = Limits("20ms", 20.0)


def test_a_right_prediction_needs_one_measurement() -> None:
    truth = Truth(lambda ms: ms)
    pick = find_pick(BUDGET, front(5, 10, 15, 19.9, 25), Measured(truth), nothing_more)
    assert pick is not None
    assert pick.cost.latency_ms == 19.9
    assert truth.asked == [19.9]


@pytest.mark.parametrize("factor", [0.8, 1.0, 1.1, 1.5])
def test_the_best_point_within_is_found_whatever_the_model_thinks(factor: float) -> None:
    truth = Truth(lambda ms: factor * ms)
    points = front(*range(2, 40))
    measured = Measured(truth)
    measured.add(points[-1])  # as the dense model is: what is expected is corrected by it
    pick = find_pick(BUDGET, points, measured, nothing_more)
    assert pick is not None
    assert factor * pick.cost.latency_ms <= 20
    assert factor * (pick.cost.latency_ms + 1) > 20
    assert len(truth.asked) <= 5


def test_a_prediction_that_is_wrong_only_near_the_budget_is_corrected_there() -> None:
    truth = Truth(lambda ms: 1.3 * ms if ms < 25 else ms)
    points = front(*range(2, 40))
    measured = Measured(truth)
    measured.add(points[-1])
    pick = find_pick(BUDGET, points, measured, nothing_more)
    assert pick is not None
    assert measured.times[pick.candidate.digest].latency_ms <= 20
    assert measured.meets(pick, BUDGET)


def test_a_pick_was_measured_within_at_the_speed_of_the_dense_model_too() -> None:
    """A device that has become faster by 4 % must not let a slow point pass."""
    truth = Truth(lambda ms: ms, speed=0.96)
    pick = find_pick(BUDGET, front(18, 20.5), Measured(truth), nothing_more)
    assert pick is not None
    assert pick.cost.latency_ms == 18
    slower = Truth(lambda ms: ms, speed=1.04)
    pick = find_pick(BUDGET, front(18, 19.8), Measured(slower), nothing_more)
    assert pick is not None
    assert pick.cost.latency_ms == 18


def test_other_limits_are_kept() -> None:
    limit = Limits("20ms", 20.0, size_bytes=2e6, map50_95=0.05)
    points = [point(10, 0.2, 3e6), point(10.5, 0.1), point(3, 0.04)]
    truth = Truth(lambda ms: ms)
    pick = find_pick(limit, points, Measured(truth), nothing_more)
    assert pick is points[1]
    assert truth.asked == [10.5]


def test_more_candidates_are_made_for_what_is_needed() -> None:
    asked: list[float] = []

    def more(limit: Limits, needed_ms: float, known: Sequence[Point]) -> list[Point]:
        asked.append(needed_ms)
        return front(needed_ms * 0.99)

    truth = Truth(lambda ms: 2 * ms)
    pick = find_pick(BUDGET, front(15, 30), Measured(truth), more)
    assert pick is not None
    assert asked == [pytest.approx(10.0)]  # 20 ms are 10 ms in the words of the model
    assert truth.asked[-1] == pytest.approx(9.9)


def test_out_of_reach_ends_and_names_the_lowest_measured() -> None:
    measured = Measured(Truth(lambda ms: 50 + ms))
    assert find_pick(BUDGET, front(5, 10), measured, nothing_more) is None
    rounds: list[float] = []

    def always_too_slow(limit: Limits, needed_ms: float, known: Sequence[Point]) -> list[Point]:
        rounds.append(needed_ms)
        return front(needed_ms * 0.9)

    assert find_pick(BUDGET, front(5, 10), measured, always_too_slow) is None
    assert len(rounds) < 10
    with pytest.raises(InfeasibleError, match="lowest measured latency is"):
        check_reached([BUDGET], measured.times)


def test_reached_where_one_budget_is() -> None:
    check_reached([Limits("5ms", 5.0), BUDGET], {"a": timed(18)})
    check_reached([BUDGET], None)  # nothing was to be measured


def test_nothing_is_measured_twice() -> None:
    truth = Truth(lambda ms: 1.2 * ms)
    measured = Measured(truth)
    points = front(*range(2, 30))
    for limit in (BUDGET, Limits("15ms", 15.0), BUDGET):
        find_pick(limit, points, measured, nothing_more)
    assert len(truth.asked) == len(set(truth.asked))
