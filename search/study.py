"""The loop: seed, ask, price, evaluate, tell, verify, write.

A run is a function of its settings and its results: every evaluation goes through
`Session.results`, which looks into the journal first. So resuming is nothing but running again, and
with the same seed it makes the same decisions.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
from rich.progress import Progress

from evaluators.score import Failed, Score
from hw_models.errors import InputError
from search.actors import Pool
from search.front import Point, hypervolume, pareto
from search.ledger import Ledger, Task
from search.optimizer import FAILED, Optimizer
from search.problem import Problem, accuracy
from search.seeding import (
    additive_loss,
    greedy_walk,
    loss_table,
    plan_probes,
    probe_genomes,
    sparse_random,
    spread_over_latency,
    uniform_grid,
)
from spaces.candidate import Candidate

log = logging.getLogger(__name__)

Genomes = npt.NDArray[np.int64]

BATCH = 32  # candidates a generation
SEEDS = 32  # at most, beside one a budget and input size
STRIDE = 32  # pixels of the input for one cell of the smallest map


class OutOfTime(Exception):
    """The time budget is spent; a stop, not an error."""


@dataclass(slots=True)
class Session:
    """Carries out evaluations for the study: journal first, pool for the rest.

    Attributes:
        ledger: What is known, and where results go.
        pool: Who evaluates.
        progress: Where it shows.
        clock: Seconds that never run backwards.
        stop_at: On that clock, when to stop exploring; None for never.
        failures: How many candidates failed, by kind.
    """

    ledger: Ledger
    pool: Pool
    progress: Progress
    clock: Callable[[], float] = time.monotonic
    stop_at: float | None = None
    failures: Counter[str] = field(default_factory=Counter)

    def results(
        self, candidates: Sequence[Candidate], rung: str, title: str
    ) -> list[Score | Failed]:
        """Return the results of candidates at a rung, in their order; nothing is evaluated twice.

        Raises:
            OutOfTime: Before starting, when the time budget is spent.
        """
        if self.stop_at is not None and rung != "full" and self.clock() >= self.stop_at:
            raise OutOfTime
        tasks = {task.key: task for task in (Task(candidate, rung) for candidate in candidates)}
        missing = [task for key, task in tasks.items() if key not in self.ledger.results]
        bar = self.progress.add_task(title, total=len(missing))
        for outcome in self.pool.run(missing):
            self.ledger.record(outcome)
            self.progress.advance(bar)
            if isinstance(outcome.result, Failed):
                self.failures[outcome.result.kind] += 1
                log.info("failed: %s", outcome.result.message)
        self.progress.remove_task(bar)
        return [self.ledger.results[candidate.digest, rung] for candidate in candidates]


def explore(problem: Problem, session: Session, points: dict[str, Point]) -> None:
    """Search until the evaluations or the time are spent.

    Args:
        problem: What is searched.
        session: Carries out the evaluations.
        points: Every point scored on the way is added here by digest, so that an interrupted search
            leaves what it has.
    """
    try:
        seeds_NV = make_seeds(problem, session)
        if problem.settings.method == "uniform":
            _score(problem, session, seeds_NV[: problem.settings.evals], "uniform", points)
        else:
            evolve(problem, session, seeds_NV, points)
    except OutOfTime:
        log.info("time budget spent after %d candidates", len(points))


def make_seeds(problem: Problem, session: Session) -> Genomes:
    """Return the first genomes [N, V] of the method, the dense model at each size before others."""
    space, settings = problem.space, problem.settings
    upper_V = np.asarray(space.upper)
    dense_NV = np.array([space.encode(problem.dense(imgsz)) for imgsz in problem.sizes])
    if settings.method == "uniform":
        return uniform_grid(upper_V, _families(problem), settings.evals)
    if settings.method == "nsga2":
        random = np.random.default_rng(settings.seed)
        return _distinct(dense_NV, sparse_random(BATCH, upper_V, random))
    return _distinct(dense_NV, greedy_seeds(problem, session, dense_NV))


def greedy_seeds(problem: Problem, session: Session, dense_NV: Genomes) -> Genomes:
    """Probe each variable alone, then walk greedily over the additive losses at each input size.

    The probes are made at the smallest size, where they are cheapest.
    """
    upper_V = np.asarray(problem.space.upper)
    budgets_ms = [limit.latency_ms for limit in problem.limits]
    probes = plan_probes(upper_V, fixed=_columns(problem, "imgsz"))
    candidates = [problem.space.decode(x) for x in probe_genomes(probes, dense_NV[-1])]
    log.info("probing %d moves of single variables", len(probes))
    results = session.results(candidates, "proxy", "probing single variables")
    table = loss_table(probes, [additive_loss(result) for result in results], upper_V)
    count = max(2, SEEDS // len(dense_NV))
    return np.concatenate(
        [
            spread_over_latency(
                np.array(list(greedy_walk(table, problem.latency_ms, start_V))),
                problem.latency_ms,
                count,
                budgets_ms,
            )
            for start_V in dense_NV
        ]
    )


def evolve(problem: Problem, session: Session, seeds_NV: Genomes, points: dict[str, Point]) -> None:
    """Evolve from the seeds until the evaluations are spent; add every scored point to `points`."""
    settings = problem.settings
    seeds_NV = seeds_NV[: settings.evals]
    upper_V = np.asarray(problem.space.upper)
    optimizer = Optimizer(seeds_NV, upper_V, problem.objective_count, BATCH, settings.seed)
    method = "seed"
    asked = 0
    while asked < settings.evals:
        genomes_NV = optimizer.ask()[: settings.evals - asked]
        if len(genomes_NV) == 0:
            log.info("every genome of the space was evaluated")
            return
        asked += len(genomes_NV)
        F_NM = _score(problem, session, genomes_NV, method, points)
        _report(problem, points, asked, session)
        if asked < settings.evals:
            worthless = F_NM[:, 0] > 1.0 - lowest_useful(problem, points.values())
            optimizer.tell(np.where(worthless[:, None], FAILED, F_NM))
        method = "nsga2"


def lowest_useful(problem: Problem, points: Iterable[Point]) -> float:
    """Return the accuracy below which a point is not worth pursuing.

    It is half of the best within the tightest budget: what is less accurate than that can only be
    faster than anybody asked for. Without it most evaluations go to models that see nothing.
    """
    affordable = (accuracy(p.score) for p in points if problem.limits[0].affordable(p.cost))
    return 0.5 * max(affordable, default=0.0)


def _score(
    problem: Problem,
    session: Session,
    genomes_NV: Genomes,
    method: str,
    points: dict[str, Point],
) -> npt.NDArray[np.float64]:
    """Score genomes on the subset rung; add them to `points`; return their objectives [N, M]."""
    candidates = [problem.space.decode(genome) for genome in genomes_NV]
    title = f"{len(points)} of {problem.settings.evals} candidates"
    results = session.results(candidates, "subset", title)
    rows = []
    for candidate, result in zip(candidates, results, strict=True):
        cost = problem.cost(candidate)
        if isinstance(result, Failed):
            rows.append((FAILED,) * problem.objective_count)
            continue
        rows.append(problem.objectives(cost, result))
        points[candidate.digest] = Point("", method, candidate, cost, result)
    return np.array(rows)


def verify(problem: Problem, session: Session, points: Sequence[Point]) -> list[Point]:
    """Score the front of `points` on all validation images and return what stays on it.

    Points that are not worth pursuing (`lowest_useful`) are left out. The others come back fastest
    first, named p01, p02, ...
    """
    floor = lowest_useful(problem, points)
    useful = [point for point in points if accuracy(point.score) >= floor]
    front = pareto(useful, lambda point: problem.objectives(point.cost, point.score))
    log.info("verifying %d points on all %d images", len(front), len(problem.validation.images))
    results = session.results([p.candidate for p in front], "full", "verifying the front")
    verified = [
        replace(point, score=result)
        for point, result in zip(front, results, strict=True)
        if isinstance(result, Score)
    ]
    return name_points(problem, verified)


def name_points(problem: Problem, points: Sequence[Point]) -> list[Point]:
    """Return the non-dominated points, fastest first, named p01, p02, ..."""
    front = pareto(points, lambda point: problem.objectives(point.cost, point.score))
    front.sort(key=lambda point: point.cost.latency_ms)
    return [replace(point, id=f"p{number:02d}") for number, point in enumerate(front, start=1)]


def score_dense(problem: Problem, session: Session) -> list[Point]:
    """Score the uncompressed model on all images, the largest input size first.

    Beside the sizes of the space, three quarters and half of the largest one are scored: scaling
    the input is the cheapest way to a faster model, so it is the curve that a compressed point must
    beat.
    """
    largest = problem.sizes[0]
    scaled = {max(STRIDE, round(largest * share / STRIDE) * STRIDE) for share in (0.5, 0.75)}
    sizes = sorted({*problem.sizes, *scaled}, reverse=True)
    candidates = [problem.dense(imgsz) for imgsz in sizes]
    results = session.results(candidates, "full", "scoring the dense model")
    points = []
    for candidate, result in zip(candidates, results, strict=True):
        if isinstance(result, Failed):
            raise InputError(
                f"{problem.settings.weights} does not work at {candidate.imgsz} px even "
                f"uncompressed: {result.message}.",
                "Check the weights, or give other --imgsz.",
            )
        points.append(Point("dense", "dense", candidate, problem.cost(candidate), result))
    return points


def _columns(problem: Problem, family: str) -> list[int]:
    """Return the genome's columns of a family of variables: `imgsz`, `keep` or `bits`."""
    names = [variable.name.split(":")[0] for variable in problem.space.variables]
    return [column for column, name in enumerate(names) if name == family]


def _families(problem: Problem) -> list[list[int]]:
    """Return the columns of each family that varies."""
    families = (_columns(problem, family) for family in ("imgsz", "keep", "bits"))
    return [columns for columns in families if columns]


def _distinct(*parts: Genomes) -> Genomes:
    """Return the rows of all parts in order, each once."""
    rows = {genome.tobytes(): genome for part in parts for genome in part}
    return np.array(list(rows.values()))


def _report(problem: Problem, points: dict[str, Point], asked: int, session: Session) -> None:
    """Log one line on how the search stands."""
    if not points:
        return
    dense = problem.cost(problem.dense())
    F_NM = np.array([problem.objectives(p.cost, p.score) for p in points.values()])
    reference = problem.objectives_of(0.0, dense.latency_ms, dense.energy_mj, dense.size_bytes)
    best = [
        max(
            (accuracy(p.score) for p in points.values() if limit.affordable(p.cost)),
            default=float("nan"),
        )
        for limit in problem.limits
    ]
    log.info(
        "%d of %d candidates; hypervolume %.4f; best mAP50-95 so far: %s%s",
        asked,
        problem.settings.evals,
        hypervolume(F_NM, np.array(reference)),
        ", ".join(
            f"{limit.text} {value:.3f}" for limit, value in zip(problem.limits, best, strict=True)
        ),
        f"; failed: {dict(session.failures)}" if session.failures else "",
    )
