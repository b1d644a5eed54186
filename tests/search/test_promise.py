"""Measure and repair, on formulas: what a device would say is known here."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import pytest
from rich.progress import Progress

from evaluators.score import Score
from hw_models.cost import Cost
from hw_models.errors import InfeasibleError
from search.explorer import Session
from search.feasibility import cheapest
from search.front import Point
from search.ledger import Task
from search.measure import Timed
from search.outputs import Result, best_of
from search.problem import Problem, accuracy
from search.promise import (
    MORE,
    Measured,
    _smaller,
    _unverified,
    check_reached,
    find_pick,
    keep_promise,
)
from search.settings import Limits
from spaces.candidate import Candidate
from tests.search.toys import FormulaPool, MemoryLedger, additive, toy_problem


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


def nothing_more(limit: Limits, needed_ms: float) -> list[Point]:
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

    def more(limit: Limits, needed_ms: float) -> list[Point]:
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

    def always_too_slow(limit: Limits, needed_ms: float) -> list[Point]:
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


def test_what_comes_near_a_budget_from_above_gets_within_it() -> None:
    """Each correction is too small by half; only what aims lower gets within."""
    truth = Truth(lambda ms: 10 + 0.5 * ms)
    measured = Measured(truth)
    pick = find_pick(BUDGET, front(30, 60), measured, lambda limit, needed_ms: front(needed_ms))
    assert pick is not None
    assert 15 < pick.cost.latency_ms <= 20


@dataclass
class FormulaBench:
    """Measures candidates of a problem by a formula of what is predicted."""

    problem: Problem
    latency_ms: Callable[[float], float]
    measured: list[str] = field(default_factory=list)

    def measure(self, candidate: Candidate) -> Timed:
        self.measured.append(candidate.digest)
        return timed(self.latency_ms(self.problem.cost(candidate).latency_ms))


@dataclass
class Promise:
    """A problem after a poor search: it knows the dense model and little else."""

    problem: Problem = field(default_factory=lambda: toy_problem(latency=("50%",)))
    explored_levels: Sequence[float] = (0.0, 0.3)

    def __post_init__(self) -> None:
        loss = additive(self.problem)
        self.pool = FormulaPool(self.problem, loss)
        self.session = Session(
            MemoryLedger(), FormulaPool(self.problem, loss), Progress(disable=True)
        )  # type: ignore[arg-type]
        upper_V = np.asarray(self.problem.space.upper)
        self.explored = [
            self.point(np.rint(level * upper_V).astype(int), "subset")
            for level in self.explored_levels
        ]
        self.dense = self.point(0 * upper_V, "full")
        self.dense_ms = self.dense.cost.latency_ms
        self.least = cheapest(self.problem.model, self.problem.space, "latency_ms")
        self.least_ms = float(self.problem.latency_ms(self.least[None])[0])

    def point(self, genome_V: np.ndarray, rung: str) -> Point:
        candidate = self.problem.space.decode(genome_V)
        score = self.pool.score(Task(candidate, rung))
        return Point("", "seed", candidate, self.problem.cost(candidate), score)

    def kept(
        self, truth: Callable[[float], float], *budgets_ms: float, **others: float
    ) -> tuple[list[Point | None], dict[str, Timed]]:
        """The pick for each budget, and what was measured."""
        limits = tuple(Limits(f"{ms:.3f}ms", ms, **others) for ms in sorted(budgets_ms))
        result = Result((self.dense,), (self.dense,), limits, {}, {})
        bench = FormulaBench(self.problem, truth)
        points, times = keep_promise(
            self.problem,
            self.session,
            bench,
            result,
            self.explored,  # type: ignore[arg-type]
        )
        result = replace(result, measured=times)
        return [best_of(points, partial(result.meets, limit=limit)) for limit in limits], times


@pytest.fixture(scope="module")
def promise() -> Promise:
    return Promise()


def slower(promise: Promise) -> dict[str, Callable[[float], float]]:
    """Devices that deviate from the prediction, each in its own way."""
    dense_ms, least_ms = promise.dense_ms, promise.least_ms
    return {
        "40 % slower": lambda ms: 1.4 * ms,
        "slower but for the dense model": lambda ms: ms if ms >= dense_ms else 1.15 * ms,
        "a large part that cannot be compressed": lambda ms: 0.6 * dense_ms + 0.4 * ms,
        "only the cheapest is fast": lambda ms: ms if ms <= 1.001 * least_ms else 1.4 * dense_ms,
        "faster": lambda ms: 0.7 * ms,
    }


@pytest.mark.parametrize("device", slower(Promise()))
@pytest.mark.parametrize("share", [1.001, 1.02, 1.2, 1.5])
def test_every_budget_that_can_be_reached_gets_a_pick_within_it(
    promise: Promise, device: str, share: float
) -> None:
    truth = slower(promise)[device]
    budget_ms = share * truth(promise.least_ms)
    (pick,), times = promise.kept(truth, budget_ms)
    assert pick is not None
    assert times[pick.candidate.digest].latency_ms <= budget_ms


@pytest.mark.parametrize("device", slower(Promise()))
def test_one_that_cannot_is_named_with_what_the_cheapest_was_measured_at(
    promise: Promise, device: str, caplog: pytest.LogCaptureFixture
) -> None:
    truth = slower(promise)[device]
    least_ms = truth(promise.least_ms)
    with caplog.at_level(logging.WARNING, "search.promise"):
        picks, times = promise.kept(truth, 0.99 * least_ms, 1.05 * least_ms)
    assert picks[0] is None
    assert picks[1] is not None
    assert min(times.values(), key=lambda t: t.latency_ms).latency_ms == pytest.approx(least_ms)
    (message,) = caplog.messages
    assert "out of reach" in message
    assert f"the cheapest candidate was measured at {least_ms:.3f} ms" in message


def test_the_cheapest_is_measured_though_it_is_expected_to_be_too_slow(promise: Promise) -> None:
    """Predicted far above the budget, also after correction by the dense model."""
    (pick,), _ = promise.kept(
        lambda ms: ms if ms > 1.001 * promise.least_ms else ms / 3, promise.least_ms / 2
    )
    assert pick is not None
    assert pick.candidate == promise.problem.space.decode(promise.least)


def test_a_better_one_than_the_cheapest_is_found_where_predictions_are_no_help(
    promise: Promise,
) -> None:
    """All that is predicted below the middle takes a third."""
    middle_ms = (promise.least_ms * promise.dense_ms) ** 0.5
    (pick,), times = promise.kept(
        lambda ms: ms / 3 if ms <= middle_ms else ms, 1.001 * middle_ms / 3
    )
    assert pick is not None
    cheapest_map = accuracy(promise.point(promise.least, "full").score)
    assert promise.least_ms < pick.cost.latency_ms <= middle_ms
    assert accuracy(pick.score) > cheapest_map
    assert len(times) < 20


def test_other_limits_that_nothing_keeps_are_said(
    promise: Promise, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "search.promise"):
        (pick,), _ = promise.kept(lambda ms: ms, 1.01 * promise.least_ms, map50_95=0.99)
    assert pick is None
    assert "misses another limit" in caplog.text


def test_unverified_points_are_the_most_accurate_that_are_fast_enough_and_new() -> None:
    points = front(*range(1, 12))
    known = {points[7].candidate.digest: points[7]}
    chosen = _unverified(points, known, needed_ms=9.5)
    assert [point.cost.latency_ms for point in chosen] == [9, 7, 6]


def test_smaller_points_are_new_and_hardly_faster_than_needed(promise: Promise) -> None:
    needed_ms = (promise.dense_ms + promise.least_ms) / 2
    made = _smaller(promise.problem, promise.explored, {}, needed_ms, promise.least)
    assert 0 < len(made) <= MORE
    for point in made:
        assert 0.8 * needed_ms < point.cost.latency_ms <= needed_ms
        assert point.cost == promise.problem.cost(point.candidate)
    known = {point.candidate.digest: point for point in made}
    assert not _smaller(promise.problem, promise.explored, known, needed_ms, promise.least)
    assert not _smaller(promise.problem, promise.explored, {}, promise.least_ms / 2, promise.least)
