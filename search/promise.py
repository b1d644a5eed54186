"""Picks whose measured latency is within their budget: search, measure, repair.

For each budget the most accurate candidate that may be within it is measured, then the next, until
the best one is a measured one that is. What was measured corrects what is expected of the others:
a prediction is multiplied by the median of measured / predicted of the measured points nearest in
predicted latency. Where no candidate is left that may be within the budget, a few more are made and
scored. In the end the cheapest candidate has its turn, whatever is expected of it: a budget is out
of reach only when that one was measured to be too slow. If it is not, more are made and measured
between it and what is too slow.
"""

from __future__ import annotations

import logging
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from evaluators.score import Score
from hw_models.cost import CostModel
from hw_models.device import slowed
from hw_models.errors import InfeasibleError
from search.explorer import Session
from search.feasibility import cheapest
from search.front import Point
from search.measure import Bench, Timed
from search.outputs import Result
from search.problem import Problem, accuracy
from search.settings import Limits, resolve_limits

log = logging.getLogger(__name__)

NEAREST = 3
"""Measured points that correct a prediction."""
HOPE, LEAST_HOPE = 0.03, 0.1
"""A candidate expected up to this share above a budget is measured as well; after each one that
was too slow, a third less is hoped for, in the end only for those that far below."""
AIMS = (1.0, 0.97, 0.9, 0.8, 0.6)
"""More candidates are made for one budget so many times; they are of this share of the predicted
latency that should be within it, for what was corrected from above comes near it without end."""
HALVINGS = 3
"""Of what is not known between the cheapest candidate and those that are too slow."""
STRANGE = 1.5
"""Measured over predicted beyond which the profile is hardly that of the device."""
MORE = 3
"""Candidates that are made at a time."""

Genomes = npt.NDArray[np.int64]
More = Callable[[Limits, float], list[Point]]
"""(budget, largest predicted latency, what is known) -> new points, scored on all images."""


@dataclass(slots=True)
class Measured:
    """What was measured in a run, by candidate digest.

    Args:
        measure: Times a point's exported file.
        points: Those with a score.
        times: Of all.
    """

    measure: Callable[[Point], Timed]
    points: dict[str, Point] = field(default_factory=dict)
    times: dict[str, Timed] = field(default_factory=dict)

    def add(self, point: Point) -> Timed:
        """Measure a point, once."""
        digest = point.candidate.digest
        self.points[digest] = point
        if digest not in self.times:
            self.times[digest] = self.measure(point)
        return self.times[digest]

    def factor(self, predicted_ms: float) -> float:
        """Return by what a prediction is corrected."""

        def distance(digest: str) -> float:
            return abs(math.log(self.points[digest].cost.latency_ms / predicted_ms))

        nearest = sorted(self.points, key=distance)[:NEAREST]
        ratios = [
            self.times[digest].at_first_speed_ms / self.points[digest].cost.latency_ms
            for digest in nearest
        ]
        return statistics.median(ratios) if ratios else 1.0

    def expected_ms(self, point: Point) -> float:
        """Return what a point is expected to take: a corrected prediction, never a measurement."""
        return point.cost.latency_ms * self.factor(point.cost.latency_ms)

    def meets(self, point: Point, limit: Limits) -> bool:
        """Whether a point was measured within a budget, and keeps the run's other limits."""
        timed = self.times.get(point.candidate.digest)
        return timed is not None and timed.within(limit.latency_ms) and _others(point, limit)

    @property
    def lowest_ms(self) -> float:
        """The lowest latency measured."""
        return min(timed.latency_ms for timed in self.times.values())


def find_pick(
    limit: Limits, known: Iterable[Point], measured: Measured, more: More
) -> Point | None:
    """Return the most accurate point that was measured within a budget; None if none was.

    Args:
        limit: The budget.
        known: Points scored on all images.
        measured: What was measured so far; more is added.
        more: Makes further candidates.
    """
    points = list(known)
    for aim in AIMS:
        pick = _best_measured(limit, points, measured)
        if pick is not None:
            return pick
        needed_ms = aim * limit.latency_ms / measured.factor(limit.latency_ms)
        new = more(limit, needed_ms)
        if new:
            log.info(
                "%s: %d more candidates of at most %.2f ms predicted",
                limit.text, len(new), needed_ms,
            )  # fmt: skip
        points += new
    return _best_measured(limit, points, measured)


def narrow(limit: Limits, within_ms: float, measured: Measured, more: More) -> None:
    """Measure between the cheapest candidate, which is within a budget, and what is too slow.

    By what was predicted nothing should have been within: predictions only tell what is faster.

    Args:
        limit: The budget.
        within_ms: What is predicted for the cheapest candidate.
        measured: What was measured so far; more is added.
        more: Makes further candidates.
    """
    slow = [
        point.cost.latency_ms
        for digest, point in measured.points.items()
        if not measured.times[digest].within(limit.latency_ms)
    ]
    slow_ms = min(slow, default=within_ms)
    for _ in range(HALVINGS if slow_ms > within_ms else 0):
        middle_ms = math.sqrt(within_ms * slow_ms)
        times = [measured.add(point) for point in more(limit, middle_ms)]
        if any(timed.within(limit.latency_ms) for timed in times):
            within_ms = middle_ms
        else:
            slow_ms = middle_ms


def _best_measured(limit: Limits, points: Sequence[Point], measured: Measured) -> Point | None:
    """Measure in the order of accuracy until the best that may be within the budget is."""
    hope = HOPE
    while True:
        hopeful = [
            point
            for point in points
            if measured.meets(point, limit)
            or (
                point.candidate.digest not in measured.times
                and _others(point, limit)
                and measured.expected_ms(point) <= limit.latency_ms * (1 + hope)
            )
        ]
        if not hopeful:
            return None
        best = max(hopeful, key=lambda p: (accuracy(p.score), -p.cost.latency_ms))
        if best.candidate.digest in measured.times:
            return best
        timed = measured.add(best)
        met = timed.within(limit.latency_ms)
        hope = hope if met else max(-LEAST_HOPE, hope - HOPE / 3)
        log.info(
            "%s: measured %.3f ms ± %.3f (predicted %.3f ms), mAP50-95 %.3f: %s",
            limit.text, timed.latency_ms, timed.spread_ms, best.cost.latency_ms,
            accuracy(best.score), "within" if met else "too slow",
        )  # fmt: skip


def _others(point: Point, limit: Limits) -> bool:
    """Whether a point keeps all limits but that on latency."""
    return limit.besides_latency.met_by(point.cost, point.score)


def corrected(problem: Problem, dense_ms: float) -> Problem:
    """Let predictions and relative budgets start from a measured latency of the dense model."""
    factor = dense_ms / problem.cost(problem.dense()).latency_ms
    model = CostModel(slowed(problem.model.profile, factor), problem.settings.power_mode)
    problem = replace(problem, model=model)
    limits = resolve_limits(problem.settings, problem.cost(problem.dense()))
    return replace(problem, limits=limits)


def on_device(problem: Problem, bench: Bench) -> Problem:
    """Let a problem's predictions and relative budgets start from the measured dense model.

    Raises:
        InfeasibleError: A budget is below what the cheapest candidate was measured at.
    """
    predicted = problem.cost(problem.dense())
    problem = corrected(problem, bench.dense.latency_ms)
    factor = bench.dense.latency_ms / predicted.latency_ms
    log.info(
        "dense model on %s: measured %.3f ms ± %.3f, predicted %.3f ms; predictions are corrected "
        "by %.3f",
        bench.dense.device, bench.dense.latency_ms, bench.dense.spread_ms, predicted.latency_ms,
        factor,
    )  # fmt: skip
    if not 1 / STRANGE < factor < STRANGE:
        log.warning(
            "measured / predicted is %.2f: is %s a profile of this device?",
            factor, problem.settings.target,
        )  # fmt: skip
    tightest = problem.limits[0]
    smallest = problem.space.decode(cheapest(problem.model, problem.space, "latency_ms"))
    if problem.cost(smallest).latency_ms > tightest.latency_ms:
        lowest = bench.measure(smallest)
        if not lowest.within(tightest.latency_ms):
            raise _out_of_reach(tightest, lowest.latency_ms)
    return problem


def check_reached(limits: Sequence[Limits], times: Mapping[str, Timed] | None) -> None:
    """Make sure that something was measured within at least one budget.

    Raises:
        InfeasibleError: With the lowest measured latency.
    """
    if times is None or any(
        timed.within(limit.latency_ms) for limit in limits for timed in times.values()
    ):
        return
    raise _out_of_reach(limits[-1], min(timed.latency_ms for timed in times.values()))


def _out_of_reach(limit: Limits, lowest_ms: float) -> InfeasibleError:
    return InfeasibleError(
        f"No candidate was measured within the latency budget of {limit.latency_ms:.4g} ms "
        f"({limit.text}): the lowest measured latency is {lowest_ms:.4g} ms.",
        "Allow smaller inputs (--imgsz) or a larger budget.",
    )


def keep_promise(
    problem: Problem, session: Session, bench: Bench, result: Result, explored: Sequence[Point]
) -> tuple[list[Point], dict[str, Timed]]:
    """Find a measured pick for each budget.

    Args:
        problem: What is searched.
        session: Scores further candidates.
        bench: Measures.
        result: Points scored on all images, and the budgets.
        explored: All points scored on few images.

    Returns:
        All points scored on all images, and measured latencies by candidate digest.
    """
    measured = Measured(lambda point: bench.measure(point.candidate))
    measured.add(result.dense[0])
    known = {point.candidate.digest: point for point in result.front}
    lowest_V = cheapest(problem.model, problem.space, "latency_ms")

    def more(limit: Limits, needed_ms: float) -> list[Point]:
        proposed = _unverified(explored, known, needed_ms) or _smaller(
            problem, explored, known, needed_ms, lowest_V
        )
        new = _verified(session, proposed)
        known.update((point.candidate.digest, point) for point in new)
        return new

    def last_resort(limit: Limits) -> Timed:
        candidate = problem.space.decode(lowest_V)
        timed = measured.times[candidate.digest] = bench.measure(candidate)
        if timed.within(limit.latency_ms) and candidate.digest not in known:
            cost = problem.cost(candidate)
            unscored = replace(
                result.dense[0], id="", method="repair", candidate=candidate, cost=cost
            )
            for point in _verified(session, [unscored]):
                known[candidate.digest] = measured.points[candidate.digest] = point
        return timed

    for limit in result.limits:
        if find_pick(limit, list(known.values()), measured, more) is None:
            least = last_resort(limit)
            if least.within(limit.latency_ms):
                narrow(limit, float(problem.latency_ms(lowest_V[None])[0]), measured, more)
            if not any(measured.meets(point, limit) for point in known.values()):
                log.warning("%s", _missed(limit, least, measured.lowest_ms))
    return list(known.values()), measured.times


def _missed(limit: Limits, least: Timed, lowest_ms: float) -> str:
    """Say why a budget has no pick.

    Args:
        limit: The budget.
        least: What the cheapest candidate was measured at.
        lowest_ms: The lowest latency measured.
    """
    budget = f"{limit.text} ({limit.latency_ms:.3f} ms)"
    cheapest_ms = f"the cheapest candidate was measured at {least.latency_ms:.3f} ms"
    if least.within(limit.latency_ms):
        return f"{budget}: what was measured within it misses another limit; {cheapest_ms}"
    return (
        f"{budget} is out of reach: {cheapest_ms}, the lowest of all measured is {lowest_ms:.3f} ms"
    )


def _unverified(
    explored: Iterable[Point], known: dict[str, Point], needed_ms: float
) -> list[Point]:
    """Return the most accurate explored points that were not scored on all images."""
    fitting = [
        point
        for point in explored
        if point.candidate.digest not in known and point.cost.latency_ms <= needed_ms
    ]
    return sorted(fitting, key=lambda p: -accuracy(p.score))[:MORE]


def _smaller(
    problem: Problem,
    explored: Sequence[Point],
    known: dict[str, Point],
    needed_ms: float,
    lowest_V: Genomes,
) -> list[Point]:
    """Make points of the most accurate ones by compressing all variables a little further.

    Each is moved towards the cheapest candidate, `lowest_V`, as little as brings it to the needed
    latency; where nothing on the way does, there is none.
    """
    shares_K = np.linspace(0, 1, 101)[1:]
    made: dict[str, Point] = {}
    best = sorted(explored, key=lambda p: -accuracy(p.score))[: 4 * MORE]
    for point in best:
        start_V = problem.space.encode(point.candidate)
        genomes_KV = np.rint(start_V + shares_K[:, None] * (lowest_V - start_V)).astype(np.int64)
        low_enough = np.flatnonzero(problem.latency_ms(genomes_KV) <= needed_ms)
        if not len(low_enough):
            continue
        candidate = problem.space.decode(genomes_KV[low_enough[0]])
        if candidate.digest not in known:
            cost = problem.cost(candidate)
            made.setdefault(
                candidate.digest,
                replace(point, id="", method="repair", candidate=candidate, cost=cost),
            )
    return list(made.values())[:MORE]


def _verified(session: Session, points: Sequence[Point]) -> list[Point]:
    """Score points on all images; those without a score are dropped."""
    results = session.results([p.candidate for p in points], "full", "scoring more candidates")
    return [
        replace(point, score=result)
        for point, result in zip(points, results, strict=True)
        if isinstance(result, Score)
    ]
